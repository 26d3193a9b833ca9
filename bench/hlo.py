"""What a compiled program does, read from its text: kernels, the bytes that they move, collectives.

`Program(compiled.as_text())` walks the entry computation and what it calls. A loop's body counts as often as
XLA says that it is run (`known_trip_count`), once where it does not know. Bytes are those of a kernel's
operands and results in the device's main memory; of an operand of which a kernel reads a slice or gathers
rows, and of a result that is a slice written into a larger array, that part counts. Arrays that a TPU keeps
in its fast memory (`S(1)` in their layout) count nothing.
"""

import collections
import dataclasses
import functools
import itertools
import math
import re
from collections.abc import Iterator

from clower_jax.parallel import collectives

# What moves nothing.
FREE = frozenset(
    'parameter tuple get-tuple-element constant bitcast after-all partition-id replica-id opt-barrier'.split()
)
SLICES = ('slice', 'dynamic-slice', 'gather')
SEEN_THROUGH = ('bitcast', 'convert', 'copy')
PRODUCTS = ('dot', 'convolution', 'ragged-dot')
_INSTRUCTION = re.compile(r'\s+(ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) ([a-z][\w\-]*)\((.*)')


def bytes_of(text: str) -> int:
    """Bytes of a type's arrays in main memory."""
    return collectives.bytes_of(collectives.arrays_of(text, fast=False))


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a computation; `rest` is what follows the bracket after its operation."""

    name: str
    type: str
    operation: str
    rest: str
    is_root: bool

    @functools.cached_property
    def operands(self) -> list[str]:
        """Names of the instructions that it reads."""
        depth = itertools.accumulate((letter in '({') - (letter in ')}') for letter in self.rest)
        end = next((place for place, open_ in enumerate(depth) if open_ < 0), len(self.rest))
        return re.findall(r'%([\w.\-]+)', self.rest[:end])

    def called(self, attribute: str) -> list[str]:
        """Names of the computations of an attribute such as `body`."""
        match = re.search(rf'\b{attribute}=(\{{[^}}]*\}}|%?[\w.\-]+)', self.rest)
        return re.findall(r'%?([\w.\-]+)', match[1]) if match else []

    @functools.cached_property
    def op_name(self) -> str:
        """Where in the Python program it comes from."""
        match = re.search(r'op_name="([^"]*)"', self.rest)
        return match[1] if match else ''


@dataclasses.dataclass(frozen=True)
class Kernel:
    """An instruction that the device runs `times` in one run of the program; `bytes` that it moves each time,
    `read` those of its operands, wherever they are."""

    instruction: Instruction
    times: int
    bytes: int
    read: int
    is_product: bool

    @property
    def is_attention(self) -> bool:
        """Whether it is cuDNN's fused attention, or our own, the only kernels that are written for Triton."""
        return 'fmha' in self.instruction.rest or self.library == '__gpu$xla.gpu.triton'

    @property
    def collective(self) -> str:
        """Which collective it is, or ''."""
        operation = self.instruction.operation.removesuffix('-start')
        return operation if operation in collectives.OPERATIONS else ''

    @property
    def library(self) -> str:
        """The library routine that it calls, or ''."""
        match = re.search(r'custom_call_target="([^"]*)"', self.instruction.rest)
        return match[1] if match else ''


class Program:
    """Raises ValueError where the text is no HLO module with an entry."""

    def __init__(self, text: str):
        self.computations: dict[str, list[Instruction]] = {}
        self.entry = ''
        current: list[Instruction] = []
        for line in text.splitlines():
            if header := re.match(r'(ENTRY )?%?([\w.\-]+) (?:\(.*\) -> .*)?\{', line):
                current = self.computations.setdefault(header[2], [])
                self.entry = header[2] if header[1] else self.entry
            elif match := _INSTRUCTION.match(line):
                root, name, type_, operation, rest = match.groups()
                current.append(Instruction(name, type_, operation, rest, bool(root)))
        if not self.entry:
            raise ValueError('there is no ENTRY computation in this text: give compiled.as_text()')

    @functools.cached_property
    def kernels(self) -> list[Kernel]:
        """All kernels, in the order of the text."""
        return list(self._kernels(self.entry, 1))

    def _kernels(self, computation: str, times: int) -> Iterator[Kernel]:
        types = {one.name: one.type for one in self.computations[computation]}
        for one in self.computations[computation]:
            if one.operation == 'while':
                trips = re.search(r'"known_trip_count":\{"n":"(\d+)"\}', one.rest)
                for part in one.called('body'):
                    yield from self._kernels(part, times * int(trips[1] if trips else 1))
            elif one.operation in ('call', 'async-start') and not self._wraps_kernel(one):
                for part in (*one.called('to_apply'), *one.called('calls')):
                    yield from self._kernels(part, times)
            elif one.operation == 'conditional':
                # One branch is taken; the largest is what a step may cost.
                branches = one.called('branch_computations') or [
                    *one.called('true_computation'),
                    *one.called('false_computation'),
                ]
                parts = [list(self._kernels(branch, times)) for branch in branches]
                yield from max(parts, key=lambda part: sum(k.bytes * k.times for k in part), default=[])
            elif one.operation not in FREE and not one.operation.endswith('-done'):
                arrays = (collectives.arrays_of(types.get(name, '')) for name in one.operands)
                read = sum(map(collectives.bytes_of, arrays))
                yield Kernel(one, times, self._moved(one, types), read, self._is_product(one))

    def _wraps_kernel(self, one: Instruction) -> bool:
        return any(name not in self.computations for name in one.called('to_apply') + one.called('calls'))

    def _is_product(self, one: Instruction) -> bool:
        if one.operation in PRODUCTS or re.search(r'custom_call_target="[^"]*(gemm|cublas|matmul)', one.rest):
            return True
        inside = [inner for name in one.called('calls') for inner in self.computations.get(name, ())]
        return one.operation in ('fusion', 'fusion-start') and any(map(self._is_product, inside))

    def _moved(self, one: Instruction, types: dict[str, str]) -> int:
        if one.operation in ('slice', 'dynamic-slice'):
            return 2 * bytes_of(one.type)
        if one.operation == 'dynamic-update-slice':
            return 2 * bytes_of(types.get(one.operands[1], ''))
        reads = [bytes_of(types.get(name, '')) for name in one.operands]
        if one.operation in ('fusion', 'fusion-start'):
            return self._moved_by_fusion(self.computations.get(one.called('calls')[0], []), reads)
        if one.operation.endswith('-start'):  # its result holds its operands once more
            return 2 * sum(reads)
        return sum(reads) + bytes_of(one.type)

    def _moved_by_fusion(self, inside: list[Instruction], reads: list[int]) -> int:
        by_name = {one.name: one for one in inside}
        users = collections.defaultdict(list)
        for one in inside:
            for operand in one.operands:
                users[operand].append(one)

        def used_by(one: Instruction) -> Iterator[Instruction]:
            for user in users[one.name]:
                if user.operation in SEEN_THROUGH:
                    yield from used_by(user)
                else:
                    yield user

        root = next(one for one in inside if one.is_root)
        results = [by_name[name] for name in root.operands] if root.operation == 'tuple' else [root]
        writes = 0
        for result in results:
            update = _through(result, by_name)
            # A slice is written into an array which is otherwise left alone.
            is_update = update.operation == 'dynamic-update-slice'
            writes += bytes_of(by_name[update.operands[1]].type if is_update else result.type)
        for one in inside:
            if one.operation == 'parameter':
                index = int(one.rest.split(')')[0])
                by = list(used_by(one))
                if by and all(_reads_slice(user, one, by_name) for user in by):
                    slices = (user for user in by if user.operation in SLICES)
                    reads[index] = min(reads[index], sum(bytes_of(user.type) for user in slices))
        return sum(reads) + writes

    @functools.cached_property
    def traffic(self) -> dict[str, int]:
        """Bytes by kind: 'products', 'attention' (fused), 'collectives', 'other'."""
        total: collections.Counter[str] = collections.Counter()
        for kernel in self.kernels:
            total[_kind(kernel)] += kernel.bytes * kernel.times
        return dict(total)

    def product_flops(self, pattern: str = '') -> int:
        """FLOPs of the dots in kernels whose name in the Python program matches; what a library computes, as
        cuDNN's attention, is not seen."""
        matching = (kernel for kernel in self.kernels if re.search(pattern, kernel.instruction.op_name))
        return sum(kernel.times * self._dot_flops([kernel.instruction], {}) for kernel in matching)

    def _dot_flops(self, instructions: list[Instruction], types: dict[str, str]) -> int:
        total = 0
        for one in instructions:
            if one.operation == 'dot':
                contracted = re.search(r'lhs_contracting_dims=\{([\d,]*)\}', one.rest)
                (_, factor), (_, result) = _shape(types[one.operands[0]]), _shape(one.type)
                sizes = [factor[int(axis)] for axis in contracted[1].split(',')] if contracted else []
                total += 2 * math.prod(result) * math.prod(sizes)
            for name in one.called('calls'):
                inside = self.computations.get(name, [])
                total += self._dot_flops(inside, {inner.name: inner.type for inner in inside})
        return total

    @functools.cached_property
    def collectives(self) -> dict[str, tuple[int, int]]:
        """{collective: (how many in a run, bytes of what one device puts in)}."""
        total: dict[str, tuple[int, int]] = {}
        for kernel in self.kernels:
            if kernel.collective:
                number, size = total.get(kernel.collective, (0, 0))
                size += kernel.times * kernel.read
                total[kernel.collective] = number + kernel.times, size
        return total

    def other(self, groups: dict[str, str]) -> dict[str, int]:
        """Bytes of kernels of the kind 'other', by the first of {group: pattern} that their name in the
        Python program matches; 'rest': none."""
        total: collections.Counter[str] = collections.Counter()
        for kernel in self.kernels:
            if _kind(kernel) == 'other':
                total[group_of(kernel, groups)] += kernel.bytes * kernel.times
        return dict(total)


def group_of(kernel: Kernel, groups: dict[str, str]) -> str:
    """The kind of a kernel, as `Program.traffic` has it; of 'other' the group, as `Program.other` has it."""
    if (kind := _kind(kernel)) != 'other':
        return kind
    name = kernel.instruction.op_name
    return next((group for group, pattern in groups.items() if re.search(pattern, name)), 'rest')


def _shape(text: str) -> collectives.Array:
    return collectives.arrays_of(text)[0]


def _kind(kernel: Kernel) -> str:
    if kernel.collective:
        return 'collectives'
    if kernel.is_attention:
        return 'attention'
    return 'products' if kernel.is_product else 'other'


def _reads_slice(user: Instruction, parameter: Instruction, by_name: dict[str, Instruction]) -> bool:
    """Whether of a fusion's parameter only a part is read, or nothing because a slice of it is replaced."""
    if user.operation in ('dynamic-update-slice', 'gather'):
        return _through(by_name[user.operands[0]], by_name) == parameter
    return user.operation in SLICES


def _through(one: Instruction, by_name: dict[str, Instruction]) -> Instruction:
    """What stands behind bitcasts and conversions."""
    while one.operation in SEEN_THROUGH and one.operands and one.operands[0] in by_name:
        one = by_name[one.operands[0]]
    return one
