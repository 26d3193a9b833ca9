"""Texts with their entities: CoNLL's columns, CLUENER's and MSRA's files, spans in JSON."""

import itertools
import logging
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from input_pipeline.datasets import hub, tables
from input_pipeline.datasets.tag_schemes import Span, entities, is_tag, normalised
from input_pipeline.utils.counts import Ledger
from input_pipeline.utils.json_values import one_line

log = logging.getLogger(__name__)

MISPLACED = 'other text at its place'
MSRA_TYPES = {'nr': 'PER', 'ns': 'LOC', 'nt': 'ORG'}  # of the official files → as their copies in BIO have it
_JOINT = '\x02'  # between the characters of a line, and between their tags, in ERNIE's copy of MSRA
_SLASHED = re.compile(r'(.*)/([A-Za-z]+)')
# Keys of a JSON object, the first that it has. Those of tokens and tags come in lists.
_TOKENS, _TAGS = ('tokens', 'words'), ('ner_tags', 'tags', 'labels', 'label')
_SPANS = ('label', 'labels', 'entities', 'spans')
_START, _END = ('start', 'start_offset', 'start_idx'), ('end', 'end_offset', 'end_idx')
_TYPE, _SURFACE = ('label', 'type', 'entity_group'), ('entity', 'text', 'mention')


class TaggedText(NamedTuple):
    """A text and its entities in characters, in order; None where they are not known. where: 'file:line';
    id: what the file calls it, None where it does not."""

    text: str
    spans: tuple[Span, ...] | None
    where: str
    id: int | str | None = None


def read(path: str, labelled: bool = True, ledger: Ledger | None = None) -> list[TaggedText]:
    """The texts of a file, in its order, in one of these forms, which is found out; UTF-8:

    | a token and its tag on each line | CoNLL: the first and the last of columns that white space separates,
      a blank line after each text; tags of BIO, BIOES, BMES or BILOU. `-DOCSTART-` is passed over |
    | 中共中央/nt 致/o | MSRA's official files, a text a line |
    | 中^B共⇥B-ORG^BI-ORG | ERNIE's copy of MSRA (^B: U+0002) |
    | a text a line | without entities, to predict |
    | .json, .jsonl, 'hf:NAME' | `text`, and either CLUENER's `label`, {type: {entity: [[first, last]]}}, or a
      list of spans (`label`, `labels`, `entities`, `spans`): [start, end, type] with `end` exclusive, or
      objects with such keys; or `tokens` and `tags` |

    Tokens are joined without a space, unless both are in letters of an alphabet and one is longer than one:
    then they are words. An object that says what its entity's text is may count its last character or the
    next; where it is neither, the entity is dropped. `ledger` gets the 'texts' and 'entities' that were read,
    kept and dropped.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: with file and line: what is in none of these forms, a text without tags where they are
            asked for (`labelled`), a span that is not within its text; or a file is empty or not UTF-8.
    """
    dropped: Counter[str] = Counter()
    if hub.is_name(path) or path.lower().endswith(('.json', '.jsonl')):
        texts = [
            _from_row(row, where, dropped)._replace(id=tables.row_id(row))
            for where, row in tables.table(path).rows
        ]
    else:
        texts = list(_from_lines(path, tables.read_text(path).removesuffix('\n').split('\n')))
    unlabelled = next((text for text in texts if text.spans is None), None)
    if labelled and unlabelled:
        raise ValueError(
            f'{unlabelled.where}: the text has no tags: give a token and its tag on each line (北 B-LOC), or '
            '{"text": …, "label": {type: {entity: [[first, last]]}}}'
        )
    entities = sum(len(text.spans or ()) for text in texts)
    if ledger is not None:
        ledger.add('texts', len(texts), len(texts), {})
        ledger.add('entities', entities + dropped.total(), entities, dropped)
    listed = ''.join(f'; {reason}: {count:,}' for reason, count in (+dropped).items())
    log.info('%s: %s texts with %s entities%s', path, f'{len(texts):,}', f'{entities:,}', listed)
    return texts


def _from_lines(path: str, lines: Sequence[str]) -> Iterator[TaggedText]:
    numbered = [(f'{path}:{number}', line.removesuffix('\r')) for number, line in enumerate(lines, 1)]
    first = next(line for _, line in numbered if line.strip())
    items = first.split()
    if _JOINT in ''.join(lines[:2]):
        yield from (_from_joint(line, where) for where, line in numbered if _JOINT in line)
    elif all(map(_SLASHED.fullmatch, items)):
        yield from (_from_slashes(line, where) for where, line in numbered if line.strip())
    elif is_tag(items[-1]) and (len(items) > 1 or first[0].isspace()):
        for blank, group in itertools.groupby(numbered, lambda pair: not pair[1].strip()):
            rows = [(where, *_column(line, where)) for where, line in group if not blank]
            rows = [row for row in rows if row[1] != '-DOCSTART-']
            if rows:
                wheres, tokens, tags = zip(*rows)
                yield _from_tags(tokens, tags, wheres[0])
    else:
        yield from (TaggedText(line.strip(), None, where) for where, line in numbered if line.strip())


def _column(line: str, where: str) -> tuple[str, str]:
    """A token and its tag; a token that is white space is a space."""
    items = line.split('\t') if '\t' in line else line.split()
    if len(items) == 1 and line[0].isspace():
        items = ['', *items]
    tag = items[-1].strip()
    if len(items) < 2 or not is_tag(tag):
        raise ValueError(
            f'{where}: a token and its tag are expected, which is O, or B-, I-, E- or S- with a type, not '
            f'"{one_line(line[:40])}"'
        )
    return items[0].strip() or ' ', tag


def _from_slashes(line: str, where: str) -> TaggedText:
    parts = [_SLASHED.fullmatch(item) for item in line.split()]
    if not all(parts):
        raise ValueError(f'{where}: text/tag is expected of every part, not "{one_line(line[:40])}"')
    pieces = [(part[1], part[2]) for part in parts if part]
    text, starts = _joined([piece for piece, _ in pieces])
    spans = (
        Span(start, start + len(piece), MSRA_TYPES.get(tag, tag))
        for start, (piece, tag) in zip(starts, pieces, strict=True)
        if piece and tag not in ('o', 'O')
    )
    return TaggedText(text, tuple(spans), where)


def _from_joint(line: str, where: str) -> TaggedText:
    tokens, _, tags = line.partition('\t')
    return _from_tags(tokens.split(_JOINT), tags.strip().split(_JOINT), where)


def _from_tags(tokens: Sequence[str], tags: Sequence[str], where: str) -> TaggedText:
    if len(tokens) != len(tags):
        raise ValueError(f'{where}: {len(tokens)} tokens and {len(tags)} tags')
    odd = next((tag for tag in tags if not is_tag(tag)), None)
    if odd is not None:
        raise ValueError(f'{where}: a tag is O, or B-, I-, E- or S- with a type, not "{one_line(odd[:40])}"')
    text, starts = _joined(tokens)
    spans = tuple(
        Span(starts[first], starts[last - 1] + len(tokens[last - 1]), type_)
        for first, last, type_ in entities(map(normalised, tags))
    )
    if empty := next((span for span in spans if span.start == span.end), None):
        raise ValueError(
            f'{where}: an entity ({one_line(empty.type[:40])}) has no text, for its token is empty'
        )
    return TaggedText(text, spans, where)


def _joined(tokens: Sequence[str]) -> tuple[str, list[int]]:
    """The text, and where each token begins in it."""
    text, starts = [], []
    length, before = 0, ''
    for token in tokens:
        words = before[-1:].isalnum() and token[:1].isalnum() and f'{before[-1:]}{token[:1]}'.isascii()
        space = ' ' * (words and max(len(before), len(token)) > 1)
        starts.append(length + len(space))
        text += [space, token]
        length, before = starts[-1] + len(token), token
    return ''.join(text), starts


def _from_row(row: dict[str, Any], where: str, dropped: Counter[str]) -> TaggedText:
    tokens, tags = (_first(row, names, list) for names in (_TOKENS, _TAGS))
    if tokens is not None:
        if not all(isinstance(item, str) for item in [*tokens, *(tags or ())]):
            raise ValueError(f'{where}: tokens and tags should be texts')
        if tags is None:
            return TaggedText(_whole(_joined(tokens)[0], where), None, where)
        tagged = _from_tags(tokens, tags, where)
        return tagged._replace(text=_whole(tagged.text, where))
    text = _first(row, tables.TEXT_NAMES, str)
    if text is None:
        raise ValueError(f'{where}: there is no text; its keys are: {", ".join(row)[:80]!r}')
    labels = next((row[name] for name in _SPANS if row.get(name) not in (None, '')), None)
    spans = None
    if labels is not None:
        try:
            placed = [_placed(text, *item) for item in _listed(labels)]
        except (TypeError, KeyError, AttributeError, ValueError) as error:
            raise ValueError(
                f'{where}: entities within the text are expected, {{type: {{entity: [[first, last]]}}}} or '
                f'[[start, end, type]], not {str(labels)[:60]!r}'
            ) from error
        spans = tuple(sorted({span for span in placed if span}))
        dropped[MISPLACED] += placed.count(None)
    return TaggedText(_whole(text, where), spans, where)


def _first(row: dict[str, Any], names: Sequence[str], kind: type) -> Any:
    return next((row[name] for name in names if isinstance(row.get(name), kind)), None)


def _listed(labels: Any) -> Iterator[tuple[Any, Any, Any, Any]]:
    """Start, end, type and text, as far as it is told, of each entity."""
    if isinstance(labels, dict):
        for type_, named in labels.items():
            for surface, places in named.items():
                for first, last in places:
                    yield first, last + 1, type_, surface
        return
    for item in labels:
        if isinstance(item, dict):
            start, end = (item[next(filter(item.__contains__, names), names[0])] for names in (_START, _END))
            yield start, end, _first(item, _TYPE, str), _first(item, _SURFACE, str)
        else:
            start, end, type_ = item
            yield start, end, type_, None


def _placed(text: str, start: Any, end: Any, type_: Any, surface: Any) -> Span | None:
    """The span, whose text is `surface` where that is known; None where it is another.

    Raises ValueError where it is none, or not within the text.
    """
    if not (type(start) is type(end) is int and isinstance(type_, str) and type_.strip()):
        raise ValueError('no span')
    if surface is not None and text[start:end] != surface and text[start : end + 1] == surface:
        end += 1
    if not 0 <= start < end <= len(text):
        raise ValueError('not within the text')
    return Span(start, end, type_.strip()) if surface in (None, text[start:end]) else None


def _whole(text: str, where: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f'{where}: the text holds half a character, {text[error.start]!a}') from error
    return text
