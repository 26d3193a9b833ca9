"""Data of Mirror-BERT: every text is paired with itself, a span of the second one masked.

Liu et al. 2021, 'Fast, Effective, and Self-Supervised', arXiv 2104.08027, section 2.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from input_pipeline.features import buckets
from input_pipeline.sentence_vectors import sentence_eval, sentences
from input_pipeline.text.vocabulary import Vocabulary, is_chinese
from input_pipeline.utils.counts import NOT_COUNTED, Ledger

log = logging.getLogger(__name__)


class Masks(NamedTuple):
    """What is masked: `span` characters of a text that has `shortest` or more, 0: nothing; `latin_span` and
    `latin_shortest` of a text with more letters of an alphabet than Chinese characters. A span is at most
    half of its text. (The authors mask 5 characters of 30 or more; a Chinese character says more.)"""

    span: int
    shortest: int = 0
    latin_span: int = 5
    latin_shortest: int = 30

    def of(self, text: str) -> int:
        """How many characters of the text are masked; `span=0` masks nothing of any text."""
        chinese = sum(map(is_chinese, text))
        latin = sum(map(str.isalpha, text)) - chinese > chinese
        span, shortest = (self.latin_span, self.latin_shortest) if latin else self[:2]
        return min(span, len(text) // 2) if self.span and len(text) >= shortest else 0


class Mirrored:
    """Texts to be paired with themselves, as token rows [CLS] text [SEP].

    Args:
      texts: distinct ones. Of one that is too long the end is left out on both sides.
      max_length: tokens of a row, special ones included.
      masks: how long a span one [MASK] replaces on the second side.
      shuffle: whether the positions of the second side's tokens are shuffled, [CLS] and [SEP] included.
      metrics: what an evaluation measures.
    """

    def __init__(
        self,
        texts: Sequence[str],
        vocabulary: Vocabulary,
        max_length: int,
        masks: Masks,
        metrics: tuple[str, ...] = (),
        shuffle: bool = False,
    ):
        self.metrics, self._shuffle = metrics, shuffle
        self._vocabulary = vocabulary
        encodings = sentences.encodings(texts, vocabulary, max_length)
        # What the row holds of the text: a span behind its end would leave both sides the same.
        self._texts = [
            text[: encoding.offsets[-1][1]] if encoding.overflowing else text
            for text, encoding in zip(texts, encodings)
        ]
        self._lengths = np.fromiter(map(len, self._texts), np.int64, len(texts))
        self._masked = np.fromiter(map(masks.of, self._texts), np.int64, len(texts))
        if masks.span:
            log.info('A span is masked in %d of %d texts', np.count_nonzero(self._masked), len(texts))
        self.rows = sentences.one_segment([vocabulary.row_of(encoding.ids) for encoding in encodings])

    def targets(self, planned: buckets.Planned, batch_size: int) -> dict[str, np.ndarray]:
        """`other_ids`, `other_segments` int32 [batch_size, width]: the second side, a pure function of the
        run's seed, the epoch and the text; where they are shuffled also `other_positions`, 0, 1, … in
        another order.

        A word of Latin letters that the mask cuts in two may have more tokens than before: what does not fit
        the width is left out at the end.
        """
        ids = self._masked_ids(planned, batch_size)
        batch = {'other_ids': ids, 'other_segments': np.zeros_like(ids)}
        if self._shuffle:
            batch['other_positions'] = positions = np.tile(
                np.arange(ids.shape[1], dtype=np.int32), (len(ids), 1)
            )
            for place, row in enumerate(planned.rows):
                length = ids[place].nonzero()[0][-1] + 1  # up to [SEP]
                rng = np.random.default_rng((planned.seed, planned.epoch, int(row)))
                positions[place, :length] = rng.permutation(length)
            batch['other_positions'] = positions
        return batch

    def _masked_ids(self, planned: buckets.Planned, batch_size: int) -> np.ndarray:
        if not self._masked.any():
            return self.rows.batch(planned, batch_size)['char_ids']
        uniform = np.random.default_rng((planned.seed, planned.epoch)).random(len(self._texts))
        length = self._masked[planned.rows]
        start = places(self._lengths[planned.rows], length, uniform[planned.rows])
        texts = [self._texts[row] for row in planned.rows]
        before = self._tokens([text[:first] for text, first in zip(texts, start)])
        after = self._tokens([text[last:] for text, last in zip(texts, start + length)])
        mask, room = self._vocabulary.mask, planned.width - 2
        return sentences.padded(
            [
                self._vocabulary.row_of([*left, *([mask] if masked else []), *right][:room])
                for left, masked, right in zip(before, length, after)
            ],
            planned.width,
            batch_size,
        )

    def _tokens(self, texts: list[str]) -> list[list[int]]:
        encodings = self._vocabulary.wordpiece.encode_batch_fast(texts, add_special_tokens=False)
        return [encoding.ids for encoding in encodings]


def places(lengths: np.ndarray, masked: np.ndarray, uniform: np.ndarray) -> np.ndarray:
    """The first character of the span of each text, int64 [N], every place being equally likely.

    Args:
      lengths, masked: int [N], characters of each text and of its span.
      uniform: [N] in [0, 1), what the places are drawn by.
    """
    return (uniform * (lengths - masked + 1)).astype(np.int64)


def read(
    config: ConfigDict, vocabulary: Vocabulary, ledgers: Mapping[str, Ledger] = NOT_COUNTED
) -> dict[str, Mirrored | sentence_eval.Evaluation]:
    """The splits that `config.mode` needs, as far as there are any: the first `data.max_strings` distinct
    texts of `data.train`, and `sentence_eval.read_evaluations`. `ledgers` count by split.

    Raises ValueError or FileNotFoundError where a file is missing or wrong.
    """
    data = config.data

    def train(path: str, metrics: tuple[str, ...]) -> Mirrored:
        texts = sentences.texts(path, data, data.max_strings, ledgers['train'])
        masks = Masks(data.mask_span, data.mask_shortest, data.latin_mask_span, data.latin_mask_shortest)
        return Mirrored(texts, vocabulary, data.max_length, masks, metrics, data.shuffle_positions)

    return sentence_eval.splits(config, vocabulary, train, ledgers)
