"""Which of a record's fields hold its text."""

import logging
from collections.abc import Iterable, Mapping
from typing import Any

from input_pipeline.utils.json_values import one_line

log = logging.getLogger(__name__)

# Of the public corpora: the first listed here that a file has is read. A title is no text by itself.
KNOWN = (
    *('text', 'content', 'body', 'article', 'document', 'raw_content', 'maintext', 'passage'),
    *('正文', '内容', '文本', '文章'),
)


def choose(path: str, names: Iterable[str], wanted: str = '') -> tuple[str, ...]:
    """The fields of a file whose texts make up a document, one after the other.

    Args:
      path: the file, for messages.
      names: the fields that it has; none: that is not known.
      wanted: one of them, or several separated by commas; empty: the first of `KNOWN`, in either case.

    Raises:
      ValueError: none of them is there; the message lists those that are, and says how to name one.
    """
    names = list(names)
    lower = {name.lower(): name for name in reversed(names)}
    asked = [name.strip() for name in wanted.split(',') if name.strip()]
    chosen = [name for name in asked if name in names]
    if not asked:
        chosen = [lower[name] for name in KNOWN if name in lower][:1]
    if not names:
        return tuple(asked) or KNOWN[:1]
    if not chosen:
        listed = one_line(', '.join(names))
        problem = f'no field {" or ".join(asked)}' if asked else 'no field with a usual name'
        raise ValueError(
            f'{path} has {problem}; its fields are: {listed}. Name the one that holds the text, or '
            'several to be joined, separated by commas: --text_field (of a run: --config.data.text_field)'
        )
    if missing := set(asked) - set(chosen):
        log.warning('%s: no field %s; it has %s', path, ', '.join(sorted(missing)), ', '.join(names))
    return tuple(chosen)


def values(row: Mapping[str, Any], fields: tuple[str, ...]) -> list[Any]:
    """What a record has in these fields, without what is missing or null."""
    return [row[name] for name in fields if row.get(name) is not None]
