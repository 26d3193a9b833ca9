"""What devices say to each other in a compiled program: its collectives and their bytes."""

import re
from typing import NamedTuple

import numpy as np

_OPERATIONS = 'all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute|collective-broadcast'
_BYTES = {'f32': 4, 's32': 4, 'u32': 4, 'bf16': 2, 'f16': 2, 'pred': 1}


class Collective(NamedTuple):
    """One operation: its results' types and shapes, and where in the model it comes from."""

    operation: str
    arrays: list[tuple[str, tuple[int, ...]]]
    name: str

    @property
    def bytes(self) -> int:
        """Of the result on one device: what it receives in a gather, what it adds up in a reduction."""
        return sum(_BYTES[kind] * int(np.prod(shape)) for kind, shape in self.arrays)


def collectives(hlo: str) -> list[Collective]:
    """Those of a compiled program, given as HLO text, in its order."""
    found = []
    for line in hlo.splitlines():
        match = re.search(rf'= (.*?) ({_OPERATIONS})(-start)?\(', line)
        if match:
            arrays = [
                (kind, tuple(int(n) for n in shape.split(',') if n))
                for kind, shape in re.findall(r'(\w+)\[([\d,]*)\]', re.sub(r'/\*.*?\*/', '', match[1]))
            ]
            name = re.search(r'op_name="([^"]*)"', line)
            found.append(Collective(match[2], arrays, name[1] if name else ''))
    return found
