"""Damage of every file of a folder, one at a time, and what becomes of it: nothing is used in silence.

A damage is one of those that disks, copies and people do. Each is done to a copy of the folder; `use` then
does with it what is to notice, and says what it noticed, or raises the error that people see.
"""

import random
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple


class Damage(NamedTuple):
    """What was done to which file, as a path in its folder."""

    kind: str
    file: str


KINDS = ('flip', 'cut', 'zero', 'delete', 'swap')


def damages(folder: Path) -> Iterator[Damage]:
    """Each kind for each file that it makes a difference to."""
    files = {path: path.read_bytes() for path in sorted(folder.rglob('*')) if path.is_file()}
    for path, content in files.items():
        name = str(path.relative_to(folder))
        other = _other(path, files)
        yield Damage('delete', name)
        if content:
            yield Damage('flip', name)
            yield Damage('cut', name)
        if content.strip(b'\0'):
            yield Damage('zero', name)
        if other is not None and files[other] != content:
            yield Damage('swap', name)


def do(damage: Damage, folder: Path, rng: random.Random) -> None:
    """Does it: a bit is flipped, the file is cut at any place, all its bytes become 0, it is deleted, or
    another file of its kind (else any other) is copied over it."""
    path = folder / damage.file
    content = bytearray(path.read_bytes())
    if damage.kind == 'delete':
        path.unlink()
        return
    if damage.kind == 'flip':
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    elif damage.kind == 'cut':
        del content[rng.randrange(len(content)) :]
    elif damage.kind == 'zero':
        content = bytearray(len(content))
    else:
        files = {found: found.read_bytes() for found in sorted(folder.rglob('*')) if found.is_file()}
        other = _other(path, files)
        assert other
        content = bytearray(files[other])
    path.write_bytes(content)


def _other(path: Path, files: dict[Path, bytes]) -> Path | None:
    """The file that is copied over this one: the next of those like it by name, else the next at all."""
    names = [name for name in files if name != path and name.suffix == path.suffix] or [
        name for name in files if name != path
    ]
    after = [name for name in names if name > path]
    return (after or names or [None])[0]


def of_every_file(
    folder: Path, part: str, scratch: Path, use: Callable[[Path], str], seed: int = 0, every: int = 1
) -> dict[str, int]:
    """Counts of what became of the damages of `<folder>/<part>`; of every n-th of them alone.

    `use(copy)` returns 'noticed' where the damage was told and dealt with, 'refused' where an error of one
    line ended it, and 'harmless' where it came to what it comes to undamaged. Raises AssertionError, with the
    damage, for whatever else it raises or returns.
    """
    rng = random.Random(f'{part} {seed}')
    counts: Counter[str] = Counter()
    for number, damage in enumerate(damages(folder / part)):
        at = random.Random(rng.random())
        if number % every:
            continue
        copy = scratch / 'damaged'
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(folder, copy)
        do(damage, copy / part, at)
        try:
            counts[use(copy)] += 1
        except Exception as error:
            raise AssertionError(f'{damage}, seed {seed}: {type(error).__name__}: {error}') from error
    return dict(sorted(counts.items()))
