"""Texts for sentence encoders: their files and their token rows."""

import logging
import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import tokenizers
from ml_collections import ConfigDict

from input_pipeline.datasets import catalog, labelled
from input_pipeline.datasets.labelled import Example
from input_pipeline.datasets.tables import KEYS, is_number
from input_pipeline.features.buckets import Rows
from input_pipeline.text.vocabulary import Vocabulary
from input_pipeline.utils.counts import Ledger

log = logging.getLogger(__name__)

SAME = '1'  # the label of a pair whose texts mean the same


class Pair(NamedTuple):
    """Two texts. `score`: how much alike people find them, None where it is not known; `where`: file:line."""

    text_a: str
    text_b: str
    score: float | None
    where: str


# ---- files: the formats of `labelled_formats`, and lines of text as a .txt ----


def texts(path: str, data: ConfigDict, limit: int | None = None, ledger: Ledger | None = None) -> list[str]:
    """The first `limit` distinct texts of a file, in its order; of a file of pairs both texts are taken.

    data: `config.data`, with `text_columns` and `label_column`. Blank and repeated texts are left out and
    counted in the log and in `ledger`, beside the file's rows.

    Raises as `labelled.read`, and ValueError where nothing is left.
    """
    examples, _ = labelled.read(path, catalog.spec_of('', data.text_columns, data.label_column), ledger)
    labels = {example.label for example in examples}
    # Two columns without names are taken for a text and its label; labels of nearly every row are texts.
    texts_too = not data.label_column and len(labels) > len(examples) / 2 and not _numbers(labels)
    rows = [(x.text_a, x.text_b, x.label if texts_too else None) for x in examples]
    strings = [text for row in rows for text in row if text is not None]
    unique = dict.fromkeys(filter(None, strings))
    kept = list(unique)[:limit]
    blank = strings.count('')
    counts = len(kept), blank, len(strings) - blank - len(unique), len(unique) - len(kept)
    log.info(
        '%s: %s texts are used; left out: %s blank, %s repeated, %s over data.max_strings', path,
        *(f'{n:,}' for n in counts),
    )  # fmt: skip
    if ledger is not None:
        reasons = ('blank', 'repeated', 'over data.max_strings')
        ledger.add('texts', len(strings), len(kept), dict(zip(reasons, counts[1:], strict=True)))
    if not kept:
        raise ValueError(f'{path}: every text is blank')
    return kept


def _numbers(labels: set[str | None]) -> bool:
    return all(label is None or is_number(label) for label in labels)


def scored_pairs(
    path: str, data: ConfigDict, scored: bool = True, ledger: Ledger | None = None
) -> list[Pair]:
    """Pairs of texts with human scores, of any scale; without, where they need not be `scored`.

    Pairs with a blank text are left out and counted in the log and in `ledger`;
    repeated ones stay, as they are part of the
    published sets. Raises as `labelled.read`, and ValueError, with file and line, for a score that is no
    number.
    """
    return [
        Pair(x.text_a, x.text_b or '', _score(x) if scored else None, x.where)
        for x in _pairs(path, data, scored, ledger)
    ]


def related_pairs(path: str, data: ConfigDict, ledger: Ledger | None = None) -> list[Pair]:
    """Pairs of texts that mean the same, translations or paraphrases: those labelled 1, or all where the file
    has no labels.

    Left out and counted in the log and in `ledger`
    are pairs with another label, those with a blank text, and those of which
    a text has been in a pair before, on its side: no text has two partners. Raises as `labelled.read`, and
    ValueError where nothing is left.
    """
    examples = _pairs(path, data, False, ledger)
    same = [example for example in examples if example.label in (None, SAME)]
    kept = distinct(same)
    log.info(
        '%s: %s pairs are used; left out: %s with another label than %s, %s with a text that had a partner',
        path, *(f'{n:,}' for n in (len(kept), len(examples) - len(same))), SAME, f'{len(same) - len(kept):,}',
    )  # fmt: skip
    if ledger is not None:
        ledger.drop('rows', f'label other than {SAME}', len(examples) - len(same))
        ledger.drop('rows', 'a text had a partner', len(same) - len(kept))
    if not kept:
        raise ValueError(f'{path}: no pair is left; those that mean the same have the label {SAME}, or none')
    return [Pair(x.text_a, x.text_b or '', None, x.where) for x in kept]


def distinct(pairs: Iterable[Example]) -> list[Example]:
    """The pairs neither of whose texts was on its side of an earlier pair."""
    seen: tuple[set, set] = (set(), set())
    kept = []
    for pair in pairs:
        if pair.text_a not in seen[0] and pair.text_b not in seen[1]:
            kept.append(pair)
            seen[0].add(pair.text_a)
            seen[1].add(pair.text_b)
    return kept


def split_off(pairs: Sequence[Pair], fraction: float) -> tuple[list[Pair], list[Pair]]:
    """Divides pairs into (train, dev), about `fraction` of them dev: those that share a text, on whichever
    side or by way of other pairs, are on the same side, and no text is on both.

    Raises ValueError where a side would be empty.
    """
    root: dict[str, str] = {}

    def find(text: str) -> str:
        while root.setdefault(text, text) != text:
            root[text] = text = root[root[text]]
        return text

    for a, b in (pair[:2] for pair in pairs):
        first, second = sorted((find(a), find(b)))
        root[second] = first
    return labelled.split_off(pairs, fraction, text=lambda pair: find(pair.text_a))


def _pairs(path: str, data: ConfigDict, needs_label: bool, ledger: Ledger | None) -> list[Example]:
    # A third is a hard negative, for training.
    spec = catalog.spec_of('', data.text_columns[:2], data.label_column)
    examples, _ = labelled.read(path, spec._replace(pair=True, labelled=needs_label), ledger)
    kept = [example for example in examples if example.text_a and example.text_b]
    if ledger is not None:
        ledger.drop('rows', 'blank text', len(examples) - len(kept))
    if len(kept) < len(examples):
        log.info('%s: %d pairs with a blank text are left out', path, len(examples) - len(kept))
    if not kept:
        raise ValueError(f'{path}: every pair has a blank text')
    return kept


def _score(example: Example) -> float:
    try:
        score = float(example.label or '')
    except ValueError:
        score = math.nan
    if not math.isfinite(score):
        raise ValueError(
            f'{example.where}: the score of a pair must be a number, not {example.label!r}; which '
            f'columns are read is set by {KEYS}'
        )
    return score


# ---- token rows ----


def token_rows(strings: Sequence[str], vocabulary: Vocabulary, max_length: int) -> list[np.ndarray]:
    """Each text as int32 [CLS] … [SEP], cut at its end to `max_length` tokens; how many is logged."""
    return [vocabulary.row_of(encoding.ids) for encoding in encodings(strings, vocabulary, max_length)]


def encodings(strings: Sequence[str], vocabulary: Vocabulary, max_length: int) -> list[tokenizers.Encoding]:
    """Each text as tokens that with [CLS] and [SEP] are at most `max_length`; how many were cut is logged.
    `overflowing` of one holds what was cut off."""
    encoded = vocabulary.wordpiece.encode_batch(list(strings), add_special_tokens=False)
    for encoding in encoded:
        encoding.truncate(max_length - 2)
    if cut := sum(bool(encoding.overflowing) for encoding in encoded):
        log.info('%d of %d texts are longer than %d tokens and were cut', cut, len(strings), max_length)
    return encoded


def single_rows(strings: Sequence[str], vocabulary: Vocabulary, max_length: int) -> Rows:
    """`token_rows` as `one_segment`."""
    return one_segment(token_rows(strings, vocabulary, max_length))


def one_segment(ids: list[np.ndarray]) -> Rows:
    """Token rows, all in segment 0."""
    return Rows(ids, np.fromiter(map(len, ids), np.int64, len(ids)))


def padded(rows: Sequence[np.ndarray], width: int, batch_size: int) -> np.ndarray:
    """int32 [batch_size, width]: token rows no longer than `width`, completed with 0."""
    out = np.zeros((batch_size, width), np.int32)
    for number, row in enumerate(rows):
        out[number, : len(row)] = row
    return out
