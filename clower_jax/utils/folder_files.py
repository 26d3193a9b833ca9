"""Small files of folders from elsewhere, read within bounds: JSON whose entries have the types and sizes that
they should have, names that lead to no other folder."""

import json
import math
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

LARGEST_FILE = 2**28  # bytes of a vocabulary or a JSON file; those of the largest vocabularies are a tenth

LONGEST_REASON = 300  # characters


class Entry(NamedTuple):
    """What an entry of a JSON file may be: of one of these types, and a number from `low` to `high`."""

    types: tuple[type, ...]
    low: float = -math.inf
    high: float = math.inf

    def allows(self, value: Any) -> bool:
        """Whether a value is so. True and False are no numbers here, and a whole number is a float, too."""
        if isinstance(value, bool):
            return bool in self.types
        if not isinstance(value, (*self.types, int) if float in self.types else self.types):
            return False
        return not isinstance(value, int | float) or self.low <= value <= self.high  # NaN is in no range

    def __str__(self) -> str:
        names = {int: 'a whole number', float: 'a number', dict: 'an object', list: 'a list'}
        types = ' or '.join(names.get(kind, f'of the type {kind.__name__}') for kind in self.types)
        return types if self.low == -math.inf else f'{types} from {self.low} to {self.high}'


def short(text: str) -> str:
    """A text from a file as a message may quote it: on one line, of bounded length."""
    return reprlib.repr(text)[1:-1]


def reason(error: BaseException) -> str:
    """What an error says that quotes a file, on one line of bounded length."""
    text = ' '.join(str(error).split()) or type(error).__name__
    return text if len(text) <= LONGEST_REASON else f'{text[:LONGEST_REASON]} …'


def read_bytes(path: Path) -> bytes:
    """A file's contents. Raises ValueError where it is missing or larger than `LARGEST_FILE`."""
    try:
        size = path.stat().st_size
        if size > LARGEST_FILE:
            raise ValueError(f'{path} has {size:,} bytes, and such a file {LARGEST_FILE:,} at most')
        return path.read_bytes()
    except FileNotFoundError as error:
        raise ValueError(f'{path} is missing: copy the whole folder, its subfolders too') from error


def read_json(path: Path, kind: type = dict) -> Any:
    """The value of a JSON file, which is a `kind`. Raises ValueError where it is none, saying why."""
    data = read_bytes(path)
    try:
        value = json.loads(data.decode())
    except (ValueError, RecursionError) as error:
        raise ValueError(f'{path} is no JSON ({reason(error)}): it may have been cut short') from error
    if not isinstance(value, kind):
        named = 'object' if kind is dict else kind.__name__
        raise ValueError(f'{path} is no JSON {named}: it may belong to something else')
    return value


def read_optional_json(path: Path) -> dict[str, Any] | None:
    """The object of a JSON file that may be missing or of any kind; None where it is none."""
    try:
        return read_json(path)
    except (OSError, ValueError):
        return None


def check_entries(
    path: Path, values: Mapping[str, Any], entries: Mapping[str, Entry], within: str = ''
) -> None:
    """Raises ValueError naming the first of these entries of a file that is not as it should be; one that is
    not there passes. `within`: 'section.' where the values are those of a section of it."""
    for key, entry in entries.items():
        if key in values and not entry.allows(values[key]):
            shown = reprlib.repr(values[key])
            raise ValueError(f'{path}: {within}{key} is {shown}, and should be {entry}')


def check_texts(path: Path, name: str, values: Any) -> None:
    """Raises ValueError where one of these values, those of `name` in a file, is no text that can be written
    in UTF-8."""
    for value in values:
        try:
            value.encode()
        except (AttributeError, UnicodeEncodeError) as error:
            raise ValueError(f'{path}: {name} has {reprlib.repr(value)}, which is no text') from error


def check_plain(path: Path, key: str, name: Any) -> None:
    """Raises ValueError where a name, at `key` in a file, is not that of a file or folder right beside it.
    Links are followed, wherever they lead: Hugging Face's cache consists of them."""
    plain = isinstance(name, str) and name not in ('', '.', '..') and not set(name) & set('/\\:')
    if not (plain and name.isprintable() and len(name.encode()) < 256):
        raise ValueError(
            f'{path}: {key} has {reprlib.repr(name)}, which is no plain name of a file in the same folder'
        )
