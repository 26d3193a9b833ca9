"""Texts for sentence encoders: their files, their token rows, and how vectors are judged.

Every sentence task (Mirror-BERT, ML-CTL, Auto-MLM) trains on texts or pairs of its own, and is judged in one
of two ways (`data.evaluation`): 'similarity', the rank correlation of cosines with the scores that people
gave to pairs, or 'retrieval', how often a text's partner is the nearest of all.
"""

import json
import logging
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from ml_collections import ConfigDict

from input_pipeline import buckets, labelled, locations, vector_scores
from input_pipeline.buckets import Outputs, Rows
from input_pipeline.labelled import Example
from input_pipeline.labelled_formats import KEYS, is_number
from input_pipeline.tokenizer import Vocabulary

log = logging.getLogger(__name__)

T = TypeVar('T')

SAME = '1'  # the label of a pair whose texts mean the same


class Pair(NamedTuple):
    """Two texts. `score`: how much alike people find them, None where it is not known; `where`: file:line."""

    text_a: str
    text_b: str
    score: float | None
    where: str


# ---- files: the formats of `labelled_formats`, and lines of text as a .txt ----


def texts(path: str, data: ConfigDict, limit: int | None = None) -> list[str]:
    """The first `limit` distinct texts of a file, in its order; of a file of pairs both texts are taken.

    data: `config.data`, with `text_columns` and `label_column`. Blank and repeated texts are left out and
    counted in the log. Raises as `labelled.read`, and ValueError where nothing is left.
    """
    examples, _ = labelled.read(path, labelled.spec_of('', data.text_columns, data.label_column))
    labels = {example.label for example in examples}
    # Two columns without names are taken for a text and its label; labels of nearly every row are texts.
    texts_too = not data.label_column and len(labels) > len(examples) / 2 and not _numbers(labels)
    rows = [(x.text_a, x.text_b, x.label if texts_too else None) for x in examples]
    found = [text for row in rows for text in row if text is not None]
    unique = dict.fromkeys(filter(None, found))
    kept = list(unique)[:limit]
    blank = found.count('')
    counts = len(kept), blank, len(found) - blank - len(unique), len(unique) - len(kept)
    log.info(
        '%s: %s texts are used; left out: %s blank, %s repeated, %s over data.max_strings', path,
        *(f'{n:,}' for n in counts),
    )  # fmt: skip
    if not kept:
        raise ValueError(f'{path}: every text is blank')
    return kept


def _numbers(labels: set[str | None]) -> bool:
    return all(label is None or is_number(label) for label in labels)


def scored_pairs(path: str, data: ConfigDict, scored: bool = True) -> list[Pair]:
    """Pairs of texts with human scores, of any scale; without, where they need not be `scored`.

    Pairs with a blank text are left out and counted in the log; repeated ones stay, as they are part of the
    published sets. Raises as `labelled.read`, and ValueError, with file and line, for a score that is no
    number.
    """
    return [
        Pair(x.text_a, x.text_b or '', _score(x) if scored else None, x.where)
        for x in _pairs(path, data, scored)
    ]


def related_pairs(path: str, data: ConfigDict) -> list[Pair]:
    """Pairs of texts that mean the same, translations or paraphrases: those labelled 1, or all where the file
    has no labels.

    Left out and counted in the log are pairs with another label, those with a blank text, and those of which
    a text has been in a pair before, on its side: no text has two partners. Raises as `labelled.read`, and
    ValueError where nothing is left.
    """
    examples = _pairs(path, data, False)
    same = [example for example in examples if example.label in (None, SAME)]
    kept = distinct(same)
    log.info(
        '%s: %s pairs are used; left out: %s with another label than %s, %s with a text that had a partner',
        path, *(f'{n:,}' for n in (len(kept), len(examples) - len(same))), SAME, f'{len(same) - len(kept):,}',
    )  # fmt: skip
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


def _pairs(path: str, data: ConfigDict, needs_label: bool) -> list[Example]:
    spec = labelled.spec_of('', data.text_columns, data.label_column)
    examples, _ = labelled.read(path, spec._replace(pair=True, labelled=needs_label))
    kept = [example for example in examples if example.text_a and example.text_b]
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


def token_rows(found: Sequence[str], vocabulary: Vocabulary, max_length: int) -> list[np.ndarray]:
    """Each text as int32 [CLS] … [SEP], cut at its end to `max_length` tokens; how many is logged."""
    encodings = vocabulary.wordpiece.encode_batch_fast(list(found), add_special_tokens=False)
    room = max_length - 2
    log_cut(sum(len(encoding.ids) > room for encoding in encodings), len(found), max_length)
    ends = [vocabulary.cls], [vocabulary.sep]
    return [np.array(ends[0] + encoding.ids[:room] + ends[1], np.int32) for encoding in encodings]


def log_cut(cut: int, count: int, max_length: int) -> None:
    """Says how many of `count` texts were cut, if any."""
    if cut:
        log.info('%d of %d texts are longer than %d tokens and were cut', cut, count, max_length)


def single_rows(found: Sequence[str], vocabulary: Vocabulary, max_length: int) -> Rows:
    """`token_rows`, all in segment 0."""
    ids = token_rows(found, vocabulary, max_length)
    return Rows(ids, np.fromiter(map(len, ids), np.int64, len(ids)))


def padded(rows: Sequence[np.ndarray], width: int, batch_size: int) -> np.ndarray:
    """int32 [batch_size, width]: token rows no longer than `width`, completed with 0."""
    out = np.zeros((batch_size, width), np.int32)
    for number, row in enumerate(rows):
        out[number, : len(row)] = row
    return out


# ---- how vectors are judged ----


class _Judged:
    """Pairs whose texts are to be given vectors, each distinct text once.

    Args:
      pairs: in file order.
      max_length: tokens of a row, special ones included.
    """

    def __init__(self, pairs: Sequence[Pair], vocabulary: Vocabulary, max_length: int):
        self._pairs = pairs
        number: dict[str, int] = {}
        index = [[number.setdefault(text, len(number)) for text in pair[:2]] for pair in pairs]
        self._first, self._second = np.array(index).T
        self.rows = single_rows(list(number), vocabulary, max_length)

    def targets(self, planned: buckets.Planned, batch_size: int) -> dict[str, np.ndarray]:
        """Nothing: a vector has no label."""
        return {}

    def vectors(self, outputs: Outputs) -> tuple[np.ndarray, np.ndarray]:
        """fp32 [N, D] of the first texts of the pairs and of the second, from a pass's `vectors` [B, D]."""
        found = np.full((len(self.rows), outputs[0]['vectors'].shape[1]), np.nan, np.float32)
        for out in outputs:
            real = out['example'] >= 0
            found[out['example'][real]] = out['vectors'][real]
        return found[self._first], found[self._second]

    def _write(self, folder: Path, lines: Iterable[dict]) -> None:
        with (folder / 'predictions.json').open('w', encoding='utf-8') as out:
            for number, (pair, line) in enumerate(zip(self._pairs, lines, strict=True)):
                line = {'id': number, 'text_a': pair.text_a, 'text_b': pair.text_b} | line
                line['where'] = Path(pair.where).name
                out.write(json.dumps(line, ensure_ascii=False) + '\n')


class Similarity(_Judged):
    """Judged by the rank correlation of the cosines of pairs with their human scores."""

    metrics = ('spearman',)

    def decode(self, outputs: Outputs) -> np.ndarray:
        """fp32 [N], the cosine of each pair."""
        return vector_scores.cosines(*self.vectors(outputs))

    def score(self, cosines: np.ndarray) -> dict[str, float]:
        """`spearman`, −1 to 1; {} where scores are not known."""
        gold = [pair.score for pair in self._pairs]
        return {} if None in gold else {'spearman': vector_scores.spearman(cosines, np.array(gold, float))}

    def confusion(self, cosines: np.ndarray) -> None:
        """None: there are no classes."""

    def write_predictions(self, folder: Path, cosines: np.ndarray) -> None:
        """predictions.json, an object a line: the pair, its `score` where it is known, and the `cosine`."""
        lines = ({} if pair.score is None else {'score': pair.score} for pair in self._pairs)
        found = (line | {'cosine': round(float(x), 6)} for line, x in zip(lines, cosines, strict=True))
        self._write(folder, found)


class Ranks(NamedTuple):
    """Where the partner of each text stands among the texts of the other side, and the nearest other one."""

    ab: np.ndarray
    ba: np.ndarray
    nearest: np.ndarray


class Retrieval(_Judged):
    """Judged by how near a text's partner is, among all texts of the other side (`related_pairs`)."""

    metrics = ('acc_ab', 'acc_ba', 'mrr', *(f'recall_{k}' for k in vector_scores.RECALLS))

    def decode(self, outputs: Outputs) -> Ranks:
        """The ranks in both directions."""
        a, b = self.vectors(outputs)
        ab, nearest = vector_scores.ranks(a, b)
        return Ranks(ab, vector_scores.ranks(b, a)[0], nearest)

    def score(self, ranks: Ranks) -> dict[str, float]:
        """See `vector_scores.retrieval`."""
        return vector_scores.retrieval(ranks.ab, ranks.ba)

    def confusion(self, ranks: Ranks) -> None:
        """None: there are no classes."""

    def write_predictions(self, folder: Path, ranks: Ranks) -> None:
        """predictions.json, an object a line: the pair, the `rank` of b for a, and the `nearest` other b."""
        second = [pair.text_b for pair in self._pairs]
        self._write(
            folder,
            (
                {'rank': int(rank)} | ({'nearest': second[other]} if other >= 0 else {})
                for rank, other in zip(ranks.ab, ranks.nearest)
            ),
        )


Judged = Similarity | Retrieval
EVALUATIONS: dict[str, type[Judged]] = {'similarity': Similarity, 'retrieval': Retrieval}


def judged(config: ConfigDict, vocabulary: Vocabulary) -> dict[str, Judged]:
    """The splits 'validation' and 'test' that `config.mode` needs, as far as there are any.

    Raises ValueError or FileNotFoundError where a file is missing or wrong.
    """
    data = config.data
    splits: dict[str, Judged] = {}
    for name, path in locations.paths(config).items():
        if name == 'train':
            continue
        if data.evaluation == 'similarity':
            pairs = scored_pairs(path, data, scored=config.mode != 'predict')
        else:
            pairs = related_pairs(path, data)
        splits[name] = EVALUATIONS[data.evaluation](pairs, vocabulary, data.max_length)
    return splits


def splits(
    config: ConfigDict, vocabulary: Vocabulary, train: Callable[[str, tuple[str, ...]], T]
) -> dict[str, T | Judged]:
    """`judged`, and to train first what `train` makes of the path of `data.train` and of the metrics that an
    evaluation measures. Raises as `judged` and `train` do."""
    found: dict[str, T | Judged] = dict(judged(config, vocabulary))
    if config.mode != 'train':
        return found
    metrics = EVALUATIONS[config.data.evaluation].metrics
    return {'train': train(locations.paths(config)['train'], metrics)} | found
