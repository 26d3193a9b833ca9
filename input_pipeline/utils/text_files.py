"""Text files, all of which are UTF-8."""

import codecs
from pathlib import Path


def read_utf8(path: str | Path, expected: str) -> str:
    """A file's text without a byte order mark. Raises FileNotFoundError, and ValueError, with the line and
    what is `expected`, where it is not UTF-8."""
    data = Path(path).read_bytes().removeprefix(codecs.BOM_UTF8)
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b'\n', 0, error.start) + 1
        raise ValueError(f'{path}:{line}: not UTF-8; {expected}') from error
