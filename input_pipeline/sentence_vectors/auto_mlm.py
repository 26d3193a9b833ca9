"""Data of Auto-MLM: every text is paired with itself, masked as BERT masks."""

from collections.abc import Mapping, Sequence

import numpy as np
from ml_collections import ConfigDict

from input_pipeline.features import buckets
from input_pipeline.sentence_vectors import sentence_eval, sentences
from input_pipeline.text.constants import IGNORED_LABEL, prediction_width
from input_pipeline.text.vocabulary import Vocabulary
from input_pipeline.utils.counts import NOT_COUNTED, Ledger


class MaskedTexts:
    """Texts to train on, as token rows [CLS] text [SEP], cut at their end if too long.

    Args:
      texts: distinct ones.
      max_length: tokens of a row, special ones included.
      mask_rate: share of a text's tokens that are predicted, at least one of them.
      metrics: what an evaluation measures.
    """

    def __init__(
        self,
        texts: Sequence[str],
        vocabulary: Vocabulary,
        max_length: int,
        mask_rate: float,
        metrics: tuple[str, ...] = (),
    ):
        self.metrics = metrics
        self.rows = sentences.single_rows(texts, vocabulary, max_length)
        self._mask_rate, self._mask, self._random_ids = (
            mask_rate, vocabulary.mask, vocabulary.random_ids(base_only=True)
        )  # fmt: skip

    def targets(self, planned: buckets.Planned, batch_size: int) -> dict[str, np.ndarray]:
        """`other_ids`, `other_segments` int32 [batch_size, width], the texts masked; `mlm_positions`,
        `mlm_labels` [batch_size, P], padded with 0 and −100. A pure function of (seed, epoch, row)."""
        ids = self.rows.batch(planned, batch_size)['char_ids']
        width = prediction_width(planned.width - 2, self._mask_rate)
        positions = np.zeros((batch_size, width), np.int32)
        labels = np.full((batch_size, width), IGNORED_LABEL, np.int32)
        for place, row in enumerate(planned.rows):
            rng = np.random.default_rng((planned.seed, planned.epoch, int(row)))
            length = int(self.rows.lengths[row])
            chosen, new = mask(ids[place, :length], self._mask_rate, self._mask, self._random_ids, rng)
            positions[place, : len(chosen)] = chosen
            labels[place, : len(chosen)] = ids[place, chosen]
            ids[place, chosen] = new
        other = {'other_ids': ids, 'other_segments': np.zeros_like(ids)}
        return other | {'mlm_positions': positions, 'mlm_labels': labels}


def mask(
    ids: np.ndarray, rate: float, mask_id: int, random_ids: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """BERT's masks of one text: a share `rate` of its tokens, at least one, is to be predicted; of these 80 %
    become [MASK], 10 % a random token, and 10 % stay what they are.

    Args:
      ids: int [n], [CLS] and [SEP] at its ends, which are not chosen.
      random_ids: what a random token may be.

    Returns:
      int [k], the chosen positions, ascending, and int [k], the tokens that stand there now. k = 0 where the
      text has no tokens.
    """
    inner = len(ids) - 2
    count = min(inner, prediction_width(inner, rate))
    chosen = 1 + np.sort(rng.choice(inner, count, replace=False)) if inner else np.zeros(0, np.int64)
    action, random = rng.random(count), rng.choice(random_ids, count)
    return chosen, np.where(action < 0.8, mask_id, np.where(action < 0.9, random, ids[chosen]))


def read(
    config: ConfigDict, vocabulary: Vocabulary, ledgers: Mapping[str, Ledger] = NOT_COUNTED
) -> dict[str, MaskedTexts | sentence_eval.Evaluation]:
    """The splits that `config.mode` needs, as far as there are any: the distinct texts of `data.train`, and
    `sentence_eval.read_evaluations`. `ledgers` count by split.

    Raises ValueError or FileNotFoundError where a file is missing or wrong.
    """
    data = config.data

    def train(path: str, metrics: tuple[str, ...]) -> MaskedTexts:
        return MaskedTexts(
            sentences.texts(path, data, ledger=ledgers['train']),
            vocabulary,
            data.max_length,
            data.mask_rate,
            metrics,
        )

    return sentence_eval.splits(config, vocabulary, train, ledgers)
