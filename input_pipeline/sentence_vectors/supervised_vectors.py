"""Data of supervised vectors: pairs of texts that mean the same, with a hard negative where there is one.

Gao et al. 2021, 'SimCSE', arXiv 2104.08821, section 4: of a file of natural language inference what a premise
entails is its positive, and what contradicts it the hard negative.
"""

import logging
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from input_pipeline.datasets import catalog, labelled
from input_pipeline.datasets.labelled import Example
from input_pipeline.datasets.tables import KEYS, NLI_LABELS
from input_pipeline.features import buckets
from input_pipeline.features.buckets import Rows
from input_pipeline.sentence_vectors import sentence_eval, sentences
from input_pipeline.text.vocabulary import Vocabulary
from input_pipeline.utils.counts import NOT_COUNTED, Ledger

log = logging.getLogger(__name__)

ENTAILMENT, _, CONTRADICTION = NLI_LABELS
# Rows with '-' have no gold label; a translated XNLI has a spelling of its own.
NO_GOLD_LABEL, LABEL_NAMES = '-', {'contradictory': CONTRADICTION}
NOT_TAKEN = 'contradiction that no entailment takes'


class Triplet(NamedTuple):
    """`anchor` and `positive` mean the same, `negative` does not; None where there is none."""

    anchor: str
    positive: str
    negative: str | None = None


def triplets(path: str, data: ConfigDict, ledger: Ledger | None = None) -> list[Triplet]:
    """What a file has to train on: two texts a row, or three, the third a hard negative (it may be blank).

    With labels, of 0 to 1, the rows of label 1 are positives. With those of natural language inference what
    is entailed is: the n-th entailment of a premise gets its n-th contradiction, and again the first where
    there are fewer.

    data: `config.data`, with `text_columns` (two or three) and `label_column`. What is left out (other
    labels, blank texts, repeated rows, a hard negative that is one of the two texts) is counted by reason in
    the log and in `ledger`; contradictions that are used are kept rows.

    Raises as `labelled.read`, and ValueError, with file and line, for any other label, and where no pair is
    left.
    """
    spec = catalog.spec_of('', data.text_columns, data.label_column)
    spec = spec._replace(pair=True, triplet=True, drop_labels=(NO_GOLD_LABEL,), label_names=LABEL_NAMES)
    ledger = ledger or Ledger()
    examples, _ = labelled.read(path, spec, ledger)
    dropped = Counter({'blank text': sum(not (x.text_a and x.text_b) for x in examples)})
    examples = [example for example in examples if example.text_a and example.text_b]
    labels = {example.label for example in examples} - {None}
    if labels and labels <= set(NLI_LABELS):
        rows, contradictions = _from_inference(examples, dropped)
    else:
        rows, contradictions = _positives(examples, bool(labels), dropped), 0
    distinct = list(dict.fromkeys(rows))
    kept = [row for row in distinct if row.negative not in row[:2]]
    dropped['repeated'] += len(rows) - len(distinct)
    dropped['hard negative is one of the two texts'] += len(distinct) - len(kept)
    for reason, count in dropped.items():
        ledger.drop('rows', reason, count)
    log.info(
        '%s: %s pairs, %s of them with a hard negative%s',
        *(path, f'{len(kept):,}', f'{sum(row.negative is not None for row in kept):,}'),
        ''.join(f'; {reason}: {count:,}' for reason, count in (+dropped).items()),
    )
    if contradictions:
        log.info('%s: %s contradictions are hard negatives', path, f'{contradictions:,}')
    if not kept:
        raise ValueError(
            f'{path}: no pair is left; pairs that mean the same have the label 1, {ENTAILMENT}, or none'
        )
    return kept


def _positives(examples: Sequence[Example], has_labels: bool, dropped: Counter[str]) -> list[Triplet]:
    """Those labelled 1, or all."""
    rows = []
    for example in examples:
        if has_labels and (label := _number(example)) != 1:
            dropped['no label' if label is None else 'label other than 1'] += 1
        else:
            rows.append(Triplet(example.text_a, example.text_b or '', example.negative))
    return rows


def _number(example: Example) -> float | None:
    """The label as a number of 0 to 1. Raises ValueError for any other."""
    try:
        number = None if example.label is None else float(example.label)
    except ValueError:
        number = -1.0
    if number is None or 0 <= number <= 1:
        return number
    raise ValueError(
        f'{example.where}: the label {example.label!r} does not say whether the texts mean the same; 1 says '
        f'so and less does not, or it is {", ".join(NLI_LABELS)}: write such, or set {KEYS}'
    )


def _from_inference(examples: Sequence[Example], dropped: Counter[str]) -> tuple[list[Triplet], int]:
    """The entailments with their contradictions, and how many of these are used."""
    contradictions: dict[str, dict[str, None]] = defaultdict(dict)
    for example in examples:
        if example.label == CONTRADICTION:
            contradictions[example.text_a].setdefault(example.text_b or '')
    rows, entailments = [], Counter[str]()
    for example in examples:
        if example.label == ENTAILMENT:
            hard = list(contradictions[example.text_a])
            negative = hard[entailments[example.text_a] % len(hard)] if hard else None
            entailments[example.text_a] += 1
            rows.append(Triplet(example.text_a, example.text_b or '', negative))
        elif example.label != CONTRADICTION:
            dropped[f'label {example.label}' if example.label else 'no label'] += 1
    used = sum(min(entailments[premise], len(hard)) for premise, hard in contradictions.items())
    dropped[NOT_TAKEN] += sum(example.label == CONTRADICTION for example in examples) - used
    return rows, used


class Triplets:
    """Pairs to train on, each text as a token row [CLS] text [SEP], cut at its end if too long.

    Args:
      rows: at least one; some or all with a hard negative.
      max_length: tokens of a row, special ones included.
      metrics: what an evaluation measures.
    """

    def __init__(
        self,
        rows: Sequence[Triplet],
        vocabulary: Vocabulary,
        max_length: int,
        metrics: tuple[str, ...] = (),
    ):
        self.metrics = metrics
        number: dict[str, int] = {}
        # −1 where there is no text.
        self._texts = np.array(
            [[-1 if text is None else number.setdefault(text, len(number)) for text in row] for row in rows]
        )
        ids = [*sentences.token_rows(list(number), vocabulary, max_length), np.zeros(0, np.int32)]
        anchors, *others = ([ids[text] for text in column] for column in self._texts.T)
        # A batch is as wide as the longest side wants it: the first has that length, in padding.
        sides = [anchors, *others]
        lengths = np.max([[len(row) for row in side] for side in sides], axis=0)
        padded = [np.pad(row, (0, length - len(row))) for row, length in zip(anchors, lengths)]
        self.rows = Rows(padded, lengths)
        has_negatives = (self._texts[:, 2] >= 0).any()
        self._others = dict(zip(('other', 'negative') if has_negatives else ('other',), others))

    def targets(self, planned: buckets.Planned, batch_size: int) -> dict[str, np.ndarray]:
        """int32: `other_ids`, `other_segments` [batch_size, width], the positives; where any row has one also
        `negative_ids`, `negative_segments`, the hard negatives, rows of 0 where there is none; and `texts`
        [batch_size, 3], the number of each of the texts, −1 for none: two that are equal have the same."""
        out = {'texts': buckets.completed(self._texts, planned, batch_size, -1)}
        for side, rows in self._others.items():
            ids = sentences.padded([rows[row] for row in planned.rows], planned.width, batch_size)
            out |= {f'{side}_ids': ids, f'{side}_segments': np.zeros_like(ids)}
        return out


def read(
    config: ConfigDict, vocabulary: Vocabulary, ledgers: Mapping[str, Ledger] = NOT_COUNTED
) -> dict[str, Triplets | sentence_eval.Evaluation]:
    """The splits that `config.mode` needs, as far as there are any: the `triplets` of `data.train`, and
    `sentence_eval.read_evaluations`. `ledgers` count by split.

    Raises ValueError or FileNotFoundError where a file is missing or wrong.
    """

    def train(path: str, metrics: tuple[str, ...]) -> Triplets:
        rows = triplets(path, config.data, ledgers['train'])
        return Triplets(rows, vocabulary, config.data.max_length, metrics)

    return sentence_eval.splits(config, vocabulary, train, ledgers)
