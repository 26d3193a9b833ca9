"""Labelled texts and pairs of texts: the public files of the paper's tasks, and a user's own."""

import hashlib
import logging
import math
import operator
import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np

from input_pipeline.datasets import tables
from input_pipeline.datasets.catalog import DATASETS
from input_pipeline.datasets.tables import KEYS, Spec, clean, is_number
from input_pipeline.utils.counts import Ledger
from input_pipeline.utils.problem_types import MULTI_LABEL, REGRESSION, SINGLE_LABEL

log = logging.getLogger(__name__)

Item = TypeVar('Item')
EMPTY = 'empty text'
_SEVERAL = re.compile('[,，、;；|]')  # what stands between labels
_NUMBER = re.compile(r'[+-]?\d{1,15}(\.\d{1,15})?')


class Example(NamedTuple):
    """A text, or a pair. `label` is None where the file has none; `where` is 'file:line'; `language` is ''
    where nothing says it. Where a text may have several labels, `label` is None and `labels` are those that
    it has; None where the file has none. `negative`, of a triplet: a text that means another thing, None
    where there is none. `id`: what the file calls it, None where it has no such column."""

    text_a: str
    text_b: str | None
    label: str | None
    where: str
    language: str = ''
    labels: tuple[str, ...] | None = None
    negative: str | None = None
    id: int | str | None = None


def read(
    path: str, spec: Spec | None = None, ledger: Ledger | None = None
) -> tuple[list[Example], dict[str, int]]:
    """The examples of a file (`tables.table` lists the formats), in its order; what was found goes
    to the log as one line. Without a spec everything is found out.

    Texts and labels lose white space at their ends. Where several labels are asked for, or found, every
    example has its `labels`. The counts are, by reason, of rows that were dropped
    ("label '-'", 'language en', 'blank line') and of 'empty text', which stay: a prediction for them is
    expected. `ledger` gets the 'rows' that were read, kept and dropped.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: what `labelled_formats` refuses; with file and line, a text or label that is no string, or
            a row without the label that `spec.labelled` asks for.
    """
    spec = spec or Spec()
    table = tables.table(path, spec.header_names())
    texts, label_column = tables.roles(table, spec)
    counts = Counter({'blank line': table.blank_lines})
    # A file without such a column is in one language, that of its name.
    assumed = spec.languages[0] if len(spec.languages) == 1 and 'language' not in table.columns else ''
    examples = []
    for where, row in table.rows:
        language = row.get('language') or assumed
        if spec.languages and language not in spec.languages:
            counts[f'language {language or "not given"}'] += 1
            continue
        label, labels = _labels(row.get(label_column), spec, where, label_column)
        if label is not None and label in spec.drop_labels:
            counts[f'label {label!r}'] += 1
            continue
        if spec.labelled and label is None and labels is None:
            raise ValueError(
                f'{where}: the row has no label (column {label_column}); add it, or leave it out'
            )
        cells = [row.get(column) for column in texts]
        if spec.lists:
            cells = [' '.join(map(str, cell)) if isinstance(cell, list) else cell for cell in cells]
        parts = [_string(cell, where, column) for cell, column in zip(cells, texts, strict=True)]
        if spec.marked:
            parts = [_marked(str(row[texts[0]]), row.get('target'), where)]
        if spec.joined:
            parts = [' '.join(filter(None, parts))]
        negative = parts.pop() or None if len(parts) > 2 else None
        counts[EMPTY] += '' in parts
        name = None if label is None else spec.label_names.get(label, label)
        language = language if spec.languages else ''
        second = parts[1] if len(parts) > 1 else None
        number = None if 'id' in (*texts, label_column) else tables.row_id(row)
        examples.append(Example(parts[0], second, name, where, language, labels, negative, number))
    counts = +counts
    if ledger is not None:
        dropped = {reason: count for reason, count in counts.items() if reason != EMPTY}
        ledger.add('rows', len(table.rows) + table.blank_lines, len(examples), dropped)
    if not examples:
        raise ValueError(f'{path}: every row was dropped: {_listed(counts)}')
    if spec.problem_type == MULTI_LABEL or any(example.labels is not None for example in examples):
        examples = [
            example if example.label is None else example._replace(label=None, labels=(example.label,))
            for example in examples
        ]
    columns = f'text: {", ".join(texts)}; label: {label_column or "none"}'
    if spec.problem_type is not None and label_column:
        columns += f'; problem_type: {spec.problem_type or problem_type_of(examples)}'
    log.info('%s: %s examples (%s)%s', path, f'{len(examples):,}', columns, _listed(counts, '; '))
    return examples, dict(counts)


def _listed(counts: Mapping[str, int], before: str = '') -> str:
    return before * bool(counts) + ', '.join(f'{reason}: {count:,}' for reason, count in counts.items())


def _labels(cell: Any, spec: Spec, where: str, column: str) -> tuple[str | None, tuple[str, ...] | None]:
    """The label of a row, or the labels where it may have several."""
    if spec.problem_type is not None:
        if isinstance(cell, str) and spec.separator:
            cell = cell.split(spec.separator)
        if isinstance(cell, list):
            names = filter(None, (_string(item, where, column) for item in cell))
            return None, tuple(dict.fromkeys(spec.label_names.get(name, name) for name in names))
        if isinstance(cell, float) and math.isfinite(cell) and not cell.is_integer():
            return repr(cell), None
    return _string(cell, where, column) or None, None


def problem_type_of(examples: Sequence[Example]) -> str:
    """What labels are, by themselves: several of a text where they come in lists, scores where all are
    numbers and one is no whole number, which may stand for a class; else each is a class."""
    if any(example.labels is not None for example in examples):
        return MULTI_LABEL
    labels = {example.label for example in examples if example.label is not None}
    scores = all(map(_NUMBER.fullmatch, labels)) and not all(float(label).is_integer() for label in labels)
    return REGRESSION if scores else SINGLE_LABEL


def _marked(text: str, target: Any, where: str) -> str:
    """CLUEWSC2020's text with _span1_ and [span2].

    Raises ValueError where `target` says no such spans.
    """
    try:
        spans = [
            (target[f'{name}_index'], str(target[f'{name}_text']), marks)
            for name, marks in (('span1', '__'), ('span2', '[]'))
        ]
        if not all(text.startswith(span, start) and start >= 0 for start, span, _ in spans):
            raise ValueError('other text')
        for start, span, marks in sorted(spans, reverse=True):
            end = start + len(span)
            text = f'{text[:start]}{marks[0]}{text[start:end]}{marks[1]}{text[end:]}'
    except (TypeError, KeyError, ValueError) as error:
        raise ValueError(
            f'{where}: "target" should say where in the text span1_text and span2_text are (span1_index, '
            'span2_index)'
        ) from error
    return _string(text, where, 'text')


def _string(value: Any, where: str, column: str) -> str:
    """A cell without outer white space; '' for none."""
    if value is None:
        return ''
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # pandas writes a column of integers with a gap in it as 1.0
    if not isinstance(value, str | int):
        raise ValueError(f'{where}: {column} is no text but {str(value)[:40]!r}')
    text = clean(str(value))
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f'{where}: {column} holds half a character, {text[error.start]!a}') from error
    return text


def labels_of(dataset: str, train: Sequence[Example]) -> tuple[str, ...]:
    """The classes of a data set; of THUCNews, whose copies lack some, and of a user's own (''), those that
    occur. Raises ValueError: see `discover_labels`."""
    if dataset in DATASETS and dataset != 'thucnews':
        return DATASETS[dataset].labels
    return discover_labels(train)


def label_index(examples: Sequence[Example], labels: Sequence[str]) -> np.ndarray:
    """int32[N]: each label's place in `labels`.

    Raises:
        ValueError: with file and line: an example has no label, or one that is not in `labels`.
    """
    places = {label: place for place, label in enumerate(labels)}
    index = []
    for example in examples:
        if example.label is None or example.label not in places:
            problem = 'no label' if example.label is None else f'the label {example.label!r}'
            raise ValueError(
                f'{example.where}: this row has {problem}, and the labels are {", ".join(labels)} '
                f'(--config.data.labels); which columns are read is set by {KEYS}'
            )
        index.append(places[example.label])
    return np.array(index, np.int32)


def multi_hot(examples: Sequence[Example], labels: Sequence[str]) -> np.ndarray:
    """int32 [N, C]: 1 where an example has a label; −1 in all of a row whose labels are not known.

    Raises:
        ValueError: with file and line: an example has a label that is not in `labels`.
    """
    places = {label: place for place, label in enumerate(labels)}
    out = np.zeros((len(examples), len(labels)), np.int32)
    for row, example in zip(out, examples):
        if example.labels is None:
            row[:] = -1
            continue
        for label in example.labels:
            if label not in places:
                raise ValueError(
                    f'{example.where}: this row has the label {label!r}, and the labels are '
                    f'{", ".join(labels)} (--config.data.labels)'
                )
            row[places[label]] = 1
    return out


def scores_of(examples: Sequence[Example]) -> np.ndarray:
    """fp32 [N]: each label as a number; NaN where there is none. Raises ValueError, with file and line, where
    it is none."""
    out = np.full(len(examples), np.nan, np.float32)
    for row, example in enumerate(examples):
        if example.label is not None or example.labels:
            if example.label is None or not _NUMBER.fullmatch(example.label):
                label = example.labels if example.label is None else example.label
                raise ValueError(f'{example.where}: a score is a number, not {label!r}; set {KEYS}')
            out[row] = float(example.label)
    return out


def discover_labels(examples: Sequence[Example]) -> tuple[str, ...]:
    """The labels that occur, sorted, as numbers if all are. The log warns of any that look like several.

    Raises:
        ValueError: fewer than two labels occur, or more than 20 that most often occur once.
    """
    several_each = Counter(label for example in examples for label in example.labels or ())
    if several_each:
        if len(several_each) < 2:
            raise ValueError(f'{examples[0].where}: all rows together have one label; there should be two')
        return _in_order(several_each)
    counts = Counter(example.label for example in examples if example.label is not None)
    labels = set(counts)
    first = examples[0].label
    if first and counts[first] == 1 and not is_number(first) and _alike(labels - {first}, counts):
        raise ValueError(
            f'{examples[0].where}: the label {first!r} is here alone: is this row a header? Then rename its '
            f'columns text and label, or set {KEYS}'
        )
    if len(labels) < 2 or len(labels) > max(20, len(examples) // 2):
        observed = f'{len(labels):,} different labels in {len(examples):,} examples'
        raise ValueError(f'{examples[0].where}: {observed}: is this the label column? Set {KEYS}')
    several = [label for label in labels if _SEVERAL.search(label)]
    if several:
        log.warning(
            '%d of %d labels look like several in one cell, such as %r: each of them is a class of its own '
            'here. Where that is not meant, name what is between them, --config.data.label_separator=…',
            len(several), len(labels), min(several),
        )  # fmt: skip
    return _in_order(labels)


def _in_order(labels: Collection[str]) -> tuple[str, ...]:
    return tuple(sorted(labels, key=int if all(map(is_number, labels)) else str))


def _alike(others: set[str], counts: Mapping[str, int]) -> bool:
    """Whether all labels but the first are plainly labels: numbers, or words that recur."""
    return len(others) > 1 and (all(map(is_number, others)) or all(counts[label] > 1 for label in others))


def split_off(
    examples: Sequence[Item],
    fraction: float,
    seed: int = 0,
    text: Callable[[Item], str] = operator.attrgetter('text_a'),
) -> tuple[list[Item], list[Item]]:
    """Divides examples into (train, dev), about `fraction` of them dev, by the hash of their `text`: those
    that share it are on the same side, and an example's side depends on nothing else.

    Raises:
        ValueError: a side would be empty.
    """
    sides: tuple[list[Item], list[Item]] = ([], [])
    for example in examples:
        digest = hashlib.blake2b(f'{seed}\0{text(example)}'.encode(), digest_size=8).digest()
        sides[int.from_bytes(digest) < fraction * 2**64].append(example)
    if not all(sides):
        raise ValueError(
            f'{len(examples)} examples, {fraction:g} of them for evaluation: one side would be empty; give '
            'development examples as a file (--config.data.dev=FILE), or another --config.data.dev_fraction'
        )
    return sides


def overlap(train: Sequence[Example], dev: Sequence[Example]) -> int:
    """The number of examples in `dev` whose texts are an example's in `train`, whatever the labels."""
    seen = {(example.text_a, example.text_b) for example in train}
    return sum((example.text_a, example.text_b) in seen for example in dev)
