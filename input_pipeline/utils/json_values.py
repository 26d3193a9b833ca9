"""JSON as corpora have it: a value of a line, the values of an array that is larger than memory."""

import json
import re
from collections.abc import Iterator
from typing import Any

# Control characters in strings are common, and harmless; Python's int refuses numbers of many digits.
_JSON = json.JSONDecoder(strict=False, parse_int=float)
_SPACE, _SEPARATOR = re.compile(r'\s*'), re.compile(r'\s*([,\]])')


_BREAKS = re.compile('[\x00-\x1f\x7f-\x9f\u2028\u2029]')


def one_line(text: str) -> str:
    """What a file calls something, for a message: line breaks and control characters as escapes."""
    return _BREAKS.sub(lambda match: repr(match[0])[1:-1], text)


class BrokenArrayError(Exception):
    """What is wrong, for a person."""


def decode(line: str) -> Any:
    """The value of a line; None where it is none."""
    try:
        return _JSON.decode(line)
    except (ValueError, RecursionError):
        return None


def items(blocks: Iterator[str], path: str, longest: int) -> Iterator[Any]:
    """The values of an array; what is in memory is a block, or else the longest value.

    Args:
      blocks: the text of the file `path`.
      longest: a value that has not ended after so many characters is broken.

    Raises:
      ValueError: there is something else than an array.
      BrokenArrayError: something in it, or after it, is not JSON.
    """
    text = next(filter(None, map(str.lstrip, blocks)), '')
    if text and text[0] != '[':
        raise ValueError(f'{path} holds neither one array, [{{…}}, {{…}}], nor an object on each line')
    at, is_open, is_empty = 1, bool(text), True
    while is_open:
        start = _SPACE.match(text, at).end()  # type: ignore[union-attr]
        problem, separator = 'a comma or ] is missing', None
        try:
            value, end = _JSON.raw_decode(text, start)
            separator = _SEPARATOR.match(text, end)
        except json.JSONDecodeError as error:
            problem = f'{error.msg}, at {text[error.pos : error.pos + 30]!r}'
        except RecursionError:
            problem = 'nested too deeply'
        if separator:
            yield value
            at, is_open, is_empty = separator.end(), separator[1] == ',', False
        elif is_empty and text.startswith(']', start):
            at, is_open = start + 1, False
        elif len(text) - at <= longest and (block := next(blocks, None)) is not None:
            text, at = text[at:] + block, 0  # the value goes on
        else:
            raise BrokenArrayError(problem)
    if text[at:].strip() or any(map(str.strip, blocks)):
        raise BrokenArrayError('something follows the array')
