"""A file that is written whole or not at all, also where the power fails or the disk is full."""

import contextlib
import errno
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def write_text(path: Path, text: str) -> None:
    """Writes a file in UTF-8, in place of what was there.

    Raises OSError, naming `path`, where it cannot be written.
    """
    with atomic_write(path) as partial:
        partial.write_bytes(text.encode())


def write_json(path: Path, value: Any) -> None:
    """Writes a value as JSON, as `write_text` does it."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + '\n')


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to, with the same ending: what is there at the end becomes `path`. Until
    then, and where anything goes wrong, whoever reads `path` finds what was there before.

    Raises OSError, naming `path`, where it cannot be written.
    """
    partial = path.with_name(f'.{path.stem}.partial{path.suffix}')
    with naming_errors(path):
        try:
            yield partial
            with partial.open('rb') as file:
                os.fsync(file.fileno())  # a name must not be on disk before what it names
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_write_all(folder: Path) -> Iterator[Path]:
    """A folder to write files into, each of which is then moved to `folder` as `atomic_write` does it."""
    temporary = folder / '.partial'
    with naming_errors(folder):
        shutil.rmtree(temporary, ignore_errors=True)  # of a process that was killed
        temporary.mkdir()
        try:
            yield temporary
            for path in sorted(temporary.iterdir()):
                with atomic_write(folder / path.name) as partial:
                    path.replace(partial)
        finally:
            shutil.rmtree(temporary)


@contextlib.contextmanager
def naming_errors(path: Path) -> Iterator[None]:
    """Errors of the system that name no file, as those of a full disk do, name `path`."""
    try:
        yield
    except OSError as error:
        if error.filename is not None or error.errno is None:
            raise
        hint = ': make room there' if error.errno in (errno.ENOSPC, errno.EDQUOT) else ''
        raise OSError(error.errno, f'{error.strerror}{hint}', str(path)) from error
