"""A run's checkpoints as files: a digest of each, what is damaged, what was set aside. Knows no Orbax."""

import functools
import hashlib
import json
import logging
import os
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from input_pipeline.utils import output_file

FOLDER = 'checkpoints'
BEST = 'best'  # where a fine-tuning run keeps the best on the development set
DIGESTS = 'digests.json'  # in the folder of a step: {file: {'size': bytes, 'sha256': …}}
DAMAGED_PREFIX = 'damaged-'  # before the step, in the name of a checkpoint that was found damaged
# What Orbax writes last, after the digests of all else. No value is in it.
METADATA = '_CHECKPOINT_METADATA'
WRITTEN_LAST = (METADATA, 'commit_success.txt')
NUM_READERS = 4  # files that are read at a time

log = logging.getLogger(__name__)


class NewestIntact(NamedTuple):
    """step: of the newest intact checkpoint, None where there is no checkpoint at all. damaged: what is wrong
    with each that is newer, newest first."""

    step: int | None
    damaged: dict[int, str]


def steps(folder: Path) -> list[int]:
    """The steps with a checkpoint in `folder`, intact or not, ascending; [] where there is no such folder."""
    names = [path.name for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []
    return sorted(int(name) for name in names if name.isascii() and name.isdigit())


def newest_intact(folder: Path) -> NewestIntact:
    """The newest checkpoint in `folder` that is as it was saved; says so where that cannot be told.

    Every file of it is read, once a process as long as none changes.

    Raises ValueError where there are checkpoints and none of them is intact.
    """
    listed = steps(folder)
    damaged: dict[int, str] = {}
    for step in reversed(listed):
        reason = find_damage(folder / str(step))
        if not reason:
            if not is_verifiable(folder / str(step)):
                _warn_unverifiable(folder / str(step))
            return NewestIntact(step, damaged)
        damaged[step] = reason
    if steps(folder) != listed:  # the run that it is of has saved another just now, and removed one
        return newest_intact(folder)
    if damaged:
        raise ValueError(
            f'no checkpoint in {folder} is intact: {describe_damage(damaged)}. Put one back from a copy, '
            'or begin anew with another --workdir'
        )
    return NewestIntact(None, {})


def describe_damage(damaged: dict[int, str]) -> str:
    """What is wrong with each step, on one line."""
    return '; '.join(f'that of step {step} is damaged: {reason}' for step, reason in damaged.items())


def find_damage(folder: Path) -> str:
    """What is wrong with the checkpoint of one step, which is `folder`; '' where every file is as it was when
    it was saved, or, saved without digests, where nothing is seen to be missing."""
    names = _files(folder)
    if not names:
        return 'its folder is empty'
    if not any(name.startswith('params/') for name in names):
        return 'params/ is missing'
    names += [DIGESTS] * is_verifiable(folder)
    file_states = [(folder / name).stat() for name in names]
    return _compare_digests(
        folder, tuple((x, y.st_ino, y.st_size, y.st_mtime_ns) for x, y in zip(names, file_states))
    )


def has_all_files(folder: Path) -> bool:
    """Whether all files of a step are there in their sizes. Cheap: none is read."""
    if not (folder / 'params').is_dir():
        return False
    try:
        return all((folder / name).stat().st_size == file['size'] for name, file in _digests(folder).items())
    except (OSError, ValueError):
        return False


def is_verifiable(folder: Path) -> bool:
    """Whether the checkpoint of one step can be verified; those of earlier versions cannot."""
    return (folder / DIGESTS).is_file()


def write_digests(folder: Path, exclude: Collection[str] = ()) -> None:
    """Writes the digest of every file of a step that has none yet, and sees that they are on the disk.

    exclude: files that will still change.
    """
    digests = _digests(folder)
    for name in _files(folder):
        if name not in digests and name not in exclude:
            with (folder / name).open('rb') as file:
                digest = hashlib.file_digest(file, 'sha256').hexdigest()
                os.fsync(file.fileno())
                digests[name] = {'size': file.tell(), 'sha256': digest}
    output_file.write_text(folder / DIGESTS, json.dumps(digests, indent=1) + '\n')
    for path in (folder, *(path for path in folder.rglob('*') if path.is_dir())):
        directory = os.open(path, os.O_RDONLY)
        os.fsync(directory)
        os.close(directory)


def quarantine(folder: Path, step: int) -> Path:
    """Renames the checkpoint of a step so that it is none any more; returns what it is called then."""
    number = 1
    while (target := folder / f'{DAMAGED_PREFIX}{step}{f"-{number}" * (number > 1)}').exists():
        number += 1
    return (folder / str(step)).rename(target)


def verify(workdir: Path) -> tuple[list[str], bool]:
    """A line for every checkpoint of a run, or of its seeds, and whether all are intact, as far as can be
    told. Those set aside are listed and do not count.

    Raises ValueError where there is none.
    """
    lines, intact = [], True
    for run in (workdir, *sorted(workdir.glob('seed-*'))):
        for folder in (run / FOLDER, run / BEST):
            for step in steps(folder):
                path = folder / str(step)
                reason = find_damage(path)
                intact = intact and not reason
                status = 'intact' if is_verifiable(path) else 'saved without digests, cannot be verified'
                lines.append(f'{path}: {f"damaged: {reason}" if reason else status}')
            lines += [f'{path}: set aside' for path in sorted(folder.glob(f'{DAMAGED_PREFIX}*'))]
    if not lines:
        raise ValueError(f'{workdir} has no checkpoint')
    return lines, intact


def _files(folder: Path) -> list[str]:
    names = (path.relative_to(folder).as_posix() for path in folder.rglob('*') if path.is_file())
    return sorted(name for name in names if name != DIGESTS and not name.startswith('.'))


def _digests(folder: Path) -> dict[str, dict]:
    """What digests.json has, {} where there is none. Raises ValueError where it has something else."""
    path = folder / DIGESTS
    if not path.is_file():
        return {}
    digests = json.loads(path.read_bytes())
    if not isinstance(digests, dict) or not all(
        isinstance(file, dict) and isinstance(file.get('size'), int) and 'sha256' in file
        for file in digests.values()
    ):
        raise ValueError(f'{path} holds something else')
    return digests


@functools.lru_cache(maxsize=64)
def _compare_digests(folder: Path, file_states: tuple) -> str:
    """`find_damage` of files in these states: the same states, the same answer."""
    try:
        digests = _digests(folder)
    except ValueError:
        return f'{DIGESTS}, by which it would be verified, is damaged itself'
    with ThreadPoolExecutor(NUM_READERS) as pool:
        differences = pool.map(lambda name: _difference(folder / name, digests[name]), digests)
    problems = [f'{name} {difference}' for name, difference in zip(digests, differences) if difference]
    if digests and METADATA not in digests and not _is_json(folder / METADATA):
        problems.append(f'{METADATA} was not written to its end, as where the power is cut')
    suffix = f' (and {len(problems) - 1} more of its {len(digests)} files)' if len(problems) > 1 else ''
    return f'{problems[0]}{suffix}' if problems else ''


def _difference(path: Path, saved: dict) -> str:
    try:
        with path.open('rb') as file:
            size = os.fstat(file.fileno()).st_size
            if size < saved['size']:
                return f'is cut short: {size:,} of {saved["size"]:,} bytes'
            if size > saved['size']:
                return f'is too long: {size:,} bytes, not {saved["size"]:,}'
            if hashlib.file_digest(file, 'sha256').hexdigest() == saved['sha256']:
                return ''
            file.seek(0)
            zeros = not any(any(block) for block in iter(functools.partial(file.read, 1 << 20), b''))
            return 'is all zeros' if zeros else 'has changed since it was saved'
    except FileNotFoundError:
        return 'is missing'
    except OSError as error:
        return f'cannot be read ({error.strerror})'


def _is_json(path: Path) -> bool:
    try:
        json.loads(path.read_bytes())
    except (OSError, ValueError):
        return False
    return True


@functools.cache
def _warn_unverifiable(folder: Path) -> None:
    log.warning('%s was saved without digests: whether it is intact cannot be verified', folder)
