"""What devices say to each other in a compiled program: its collectives and their bytes."""

import math
import re
from collections.abc import Iterable
from typing import NamedTuple

OPERATIONS = (
    *('all-gather', 'all-reduce', 'reduce-scatter', 'all-to-all'),
    *('collective-permute', 'collective-broadcast'),
)
BYTES = {
    **dict.fromkeys(('pred', 's8', 'u8', 's4', 'u4', 'f8e4m3fn', 'f8e5m2'), 1),
    **dict.fromkeys(('bf16', 'f16', 's16', 'u16'), 2),
    **dict.fromkeys(('f32', 's32', 'u32'), 4),
    **dict.fromkeys(('f64', 's64', 'u64', 'c64'), 8),
}
_ARRAY = re.compile(rf'\b({"|".join(BYTES)})\[([\d,]*)\](\{{[^}}]*\}})?')
_ALONE = re.compile(r'replica_groups=\{\{\d+\}')  # a group of one device
Array = tuple[str, tuple[int, ...]]  # dtype, shape


def arrays_of(text: str, fast: bool = True) -> list[Array]:
    """The arrays of a type in HLO text; `fast`: those too that a TPU keeps in its fast memory (`S(1)`)."""
    return [
        (dtype, tuple(int(n) for n in shape.split(',') if n))
        for dtype, shape, layout in _ARRAY.findall(re.sub(r'/\*.*?\*/', '', text))
        if fast or 'S(1)' not in layout
    ]


def bytes_of(arrays: Iterable[Array]) -> int:
    """Bytes of all of them."""
    return sum(BYTES[dtype] * math.prod(shape) for dtype, shape in arrays)


class Collective(NamedTuple):
    """One operation: its results' types and shapes, and where in the model it comes from."""

    operation: str
    arrays: list[Array]
    name: str

    @property
    def bytes(self) -> int:
        """Of the result on one device: what it receives in a gather, what it adds up in a reduction."""
        return bytes_of(self.arrays)


def collectives(hlo: str) -> list[Collective]:
    """Those of a compiled program, given as HLO text, in its order; without those of a device with itself."""
    listed = []
    for line in hlo.splitlines():
        match = re.search(rf'= (.*?) ({"|".join(OPERATIONS)})(-start)?\(', line)
        if match and not _ALONE.search(line):
            name = re.search(r'op_name="([^"]*)"', line)
            listed.append(Collective(match[2], arrays_of(match[1]), name[1] if name else ''))
    return listed
