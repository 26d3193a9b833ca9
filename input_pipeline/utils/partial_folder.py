"""A folder to work in beside what is being made: held by its process, removed at the end, also by the next.

A process that is killed leaves such a folder behind. Its lock goes with the process, wherever that ran, so
the next one tells what is abandoned from what another is still working in.
"""

import contextlib
import fcntl
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from input_pipeline.utils.output_file import NO_ROOM

log = logging.getLogger(__name__)

LOCK = '.lock'  # in the folder, held by who works there


class DiskFullError(ValueError):
    """What could not be written, where, and what to do; `reason` is the system's."""

    def __init__(self, output: Path, reason: str):
        super().__init__(
            f'{output} could not be written: the disk of {output.parent} is full or over its quota '
            f'({reason}). Nothing is left of it: make room, or name another place'
        )
        self.reason = reason


@contextlib.contextmanager
def partial_folder(output: Path) -> Iterator[Path]:
    """A folder `<output>.partial-…` beside `output`, which makes the folders above; gone after the block.

    First those are removed that killed processes left of the same output; the log names them. A folder
    without a lock that can be asked (of an older version, or a file system without locks) is only named.

    Raises DiskFullError where the block failed because the disk is full.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    prefix = f'{output.name}.partial-'
    for left in sorted(output.parent.iterdir()):
        if left.name.startswith(prefix):
            _remove_abandoned(left)
    with tempfile.TemporaryDirectory(prefix=prefix, dir=output.parent, ignore_cleanup_errors=True) as folder:
        with _locked(Path(folder)), writing(output):
            yield Path(folder)


@contextlib.contextmanager
def writing(output: Path) -> Iterator[None]:
    """Raises DiskFullError where the block, which writes `output`, failed because the disk is full."""
    try:
        yield
    except Exception as error:
        full = isinstance(error, OSError) and error.errno in NO_ROOM
        # A library, or another process, says it in words, in some line of many.
        lines = reversed([line.strip() for line in str(error).splitlines()])
        reasons = (line for line in lines if any(os.strerror(number) in line for number in NO_ROOM))
        reason = (
            error.reason if isinstance(error, DiskFullError) else next(reasons, 'no room' if full else '')
        )
        if not reason:
            raise
        raise DiskFullError(output, reason) from error


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Holds the folder's lock. It gets its name when it is held: nobody sees one that is not."""
    with open(folder / f'{LOCK}.new', 'w') as file:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.rename(file.name, folder / LOCK)
        yield


def _remove_abandoned(folder: Path) -> None:
    try:
        with open(folder / LOCK, 'r+') as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder)
        log.warning('Removed %s, which a process left that was killed', folder)
    except BlockingIOError:
        log.debug('%s is being worked in by another process', folder)
    except OSError as error:
        if folder.is_dir():  # else its process has just ended
            log.warning(
                '%s may be of a process that was killed, or of one that runs (%s): remove it if none does',
                folder, error.strerror,
            )  # fmt: skip
