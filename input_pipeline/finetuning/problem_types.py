"""What a classifier answers: one label, any of several (thresholds by the development set), or a score."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from input_pipeline.datasets import catalog, labelled
from input_pipeline.datasets.labelled import Example
from input_pipeline.features import buckets
from input_pipeline.finetuning.classification import Classification, read_examples
from input_pipeline.metrics import classification, retrieval
from input_pipeline.text.model_inputs import inputs_of
from input_pipeline.text.vocabulary import Vocabulary
from input_pipeline.utils import output_file
from input_pipeline.utils.counts import NOT_COUNTED, Ledger
from input_pipeline.utils.problem_types import MULTI_LABEL, REGRESSION, SINGLE_LABEL


class MultiLabel(Classification):
    """One split of texts, or pairs, that may have several labels, or none.

    Args: as for `Classification`, and
      thresholds: label → the probability from which on it is given. The splits of a data set share it.
      chooses: whether this is the development set of a run that trains: whenever logits are scored on it, the
        thresholds become those that are best for them.
    """

    metrics = ('micro_f1', 'macro_f1')
    thresholds: dict[str, float]

    def __init__(
        self, *args: Any, thresholds: dict[str, float], chooses: bool = False, **options: Any
    ) -> None:
        super().__init__(*args, **options)
        self.thresholds, self._chooses = thresholds, chooses

    def _gold_of(self, examples: Sequence[Example]) -> np.ndarray:
        return labelled.multi_hot(examples, self.labels)

    def targets(self, planned: buckets.Planned, batch_size: int) -> dict[str, np.ndarray]:
        """`labels` int32 [batch_size, C]: 1 where the row has the label; −1 in rows where nobody knows."""
        return super().targets(planned, batch_size)

    def score(self, logits: np.ndarray) -> dict[str, float]:
        """`micro_f1`, `macro_f1` of the logits [N, C], over the examples whose labels are known; {} where
        none are."""
        known = self._gold[:, 0] >= 0
        if not known.any():
            return {}
        gold, probabilities = self._gold[known] == 1, _sigmoid(logits[known])
        if self._chooses:
            best = classification.best_thresholds(gold, probabilities)
            self.thresholds.update(zip(self.labels, best.tolist()))
        return classification.multi_label_f1(gold, probabilities >= self._threshold_row())

    def confusion(self, logits: np.ndarray) -> None:
        """None: labels do not exclude each other."""

    def mistakes(self, logits: np.ndarray, count: int) -> list[dict[str, str]]:
        """The `count` examples with other labels than those given, the farthest probability first."""
        given = (probabilities := _sigmoid(logits)) >= self._threshold_row()
        gold = self._gold == 1
        wrong = np.flatnonzero((self._gold[:, 0] >= 0) & (given != gold).any(1))
        off = np.abs(probabilities - gold).max(1)[wrong]

        def named(row: np.ndarray) -> str:
            return ', '.join(self.labels[place] for place in np.flatnonzero(row))

        worst = wrong[np.argsort(-off, kind='stable')][:count]
        return [self._shown(number, named(gold[number]), named(given[number])) for number in worst.tolist()]

    def write_predictions(self, folder: Path, logits: np.ndarray) -> None:
        """predictions.json, an object a line in file order: `id`, `label`, a list, `probability`, of each of
        these, and `where` the text stands."""
        lines = []
        probabilities, thresholds = _sigmoid(logits), self._threshold_row()
        for number, (example, row) in enumerate(zip(self._examples, probabilities, strict=True)):
            given = np.flatnonzero(row >= thresholds)
            line = {
                'id': self._id(number),
                'label': [self.labels[place] for place in given],
                'probability': [round(float(row[place]), 6) for place in given],
                'where': Path(example.where).name,
            }
            lines.append(json.dumps(line, ensure_ascii=False) + '\n')
        output_file.write_text(folder / 'predictions.json', ''.join(lines))

    def _threshold_row(self) -> np.ndarray:
        return np.array([self.thresholds[label] for label in self.labels])


class Regression(Classification):
    """One split of texts, or pairs, that have a score."""

    metrics = ('spearman', 'pearson')

    def _gold_of(self, examples: Sequence[Example]) -> np.ndarray:
        return labelled.scores_of(examples)

    def targets(self, planned: buckets.Planned, batch_size: int) -> dict[str, np.ndarray]:
        """`labels` fp32 [batch_size]; NaN where there is none."""
        labels = np.full(batch_size, np.nan, np.float32)
        labels[: len(planned.rows)] = self._gold[planned.rows]
        return {'labels': labels}

    def score(self, logits: np.ndarray) -> dict[str, float]:
        """`spearman`, `pearson` of the predictions [N, 1] and the scores that are known, −1 to 1; {}
        where none are."""
        known = ~np.isnan(self._gold)
        if not known.any():
            return {}
        pair = logits[known, 0], self._gold[known]
        return {'spearman': retrieval.spearman(*pair), 'pearson': retrieval.pearson(*pair)}

    def confusion(self, logits: np.ndarray) -> None:
        """None: there are no classes."""

    def mistakes(self, logits: np.ndarray, count: int) -> list[dict[str, str]]:
        """The `count` examples whose score is farthest from the one that is known."""
        known = np.flatnonzero(~np.isnan(self._gold))
        off = np.abs(logits[known, 0] - self._gold[known])
        worst = known[np.argsort(-off, kind='stable')][:count]
        return [
            self._shown(number, f'{self._gold[number]:g}', f'{logits[number, 0]:.3f}')
            for number in worst.tolist()
        ]

    def write_predictions(self, folder: Path, logits: np.ndarray) -> None:
        """predictions.json, an object a line in file order: `id`, `label`, the score, `where` the text
        stands."""
        lines = []
        for number, (example, (score,)) in enumerate(zip(self._examples, logits, strict=True)):
            line = {
                'id': self._id(number),
                'label': round(float(score), 6),
                'where': Path(example.where).name,
            }
            lines.append(json.dumps(line, ensure_ascii=False) + '\n')
        output_file.write_text(folder / 'predictions.json', ''.join(lines))


def read(
    config: ConfigDict, vocabulary: Vocabulary, ledgers: Mapping[str, Ledger] = NOT_COUNTED
) -> dict[str, Classification]:
    """The splits that `config.mode` needs, as far as there are any; sets `config.data.problem_type` and
    `config.data.labels`, and `config.select` where it is that of one label. `ledgers` count by split.

    Raises ValueError or FileNotFoundError where a file is missing or wrong.
    """
    data = config.data
    examples = read_examples(config, ledgers)
    inputs = inputs_of(config).of_task(config.task)
    args = data.labels, vocabulary, data.max_length
    options: dict[str, Any] = {'inputs': inputs, 'data': data}
    if config.select == 'acc' and data.problem_type != SINGLE_LABEL:
        config.select = (MultiLabel if data.problem_type == MULTI_LABEL else Regression).metrics[0]
    if data.problem_type == REGRESSION:
        return {name: Regression(split, *args, **options) for name, split in examples.items()}
    if data.problem_type == MULTI_LABEL:
        options['thresholds'] = dict.fromkeys(data.labels, 0.5)
        return {
            name: MultiLabel(split, *args, chooses=config.mode == 'train' and name == 'validation', **options)
            for name, split in examples.items()
        }
    codes = catalog.DATASETS[data.dataset].codes if data.dataset in catalog.DATASETS else {}
    return {name: Classification(split, *args, codes, **options) for name, split in examples.items()}


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    return np.exp(-np.logaddexp(0, -logits.astype(np.float64)))
