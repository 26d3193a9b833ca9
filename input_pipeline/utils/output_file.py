"""A file that is written whole or not at all, also where the power fails or the disk is full."""

import contextlib
import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


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
    with naming_errors(path, partial):
        try:
            yield partial
            with partial.open('rb') as file:
                os.fsync(file.fileno())  # a name must not be on disk before what it names
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)


@contextlib.contextmanager
def naming_errors(path: Path, partial: Path | None = None) -> Iterator[None]:
    """Errors of the system that name no file, as those of a full disk do, or `partial`, name `path`."""
    try:
        yield
    except OSError as error:
        if error.errno is None or (error.filename is not None and str(error.filename) != str(partial)):
            raise
        hint = ': make room there' if error.errno in NO_ROOM else ''
        raise OSError(error.errno, f'{error.strerror}{hint}', str(path)) from error
