"""Data of Mirror-BERT: every text is paired with itself, a span of the second one masked.

Liu et al. 2021, 'Fast, Effective, and Self-Supervised', arXiv 2104.08027, section 2.
"""

from collections.abc import Sequence

import numpy as np
from ml_collections import ConfigDict

from input_pipeline import buckets, sentences
from input_pipeline.buckets import Rows
from input_pipeline.tokenizer import Vocabulary


class Mirrored:
    """Texts to be paired with themselves, as token rows [CLS] text [SEP].

    Args:
      texts: distinct ones. Of one that is too long the end is left out on both sides.
      max_length: tokens of a row, special ones included.
      mask_span: characters that one [MASK] replaces on the second side; 0: none.
      metrics: what an evaluation measures.
    """

    def __init__(
        self,
        texts: Sequence[str],
        vocabulary: Vocabulary,
        max_length: int,
        mask_span: int,
        metrics: tuple[str, ...] = (),
    ):
        self.metrics = metrics
        self._vocabulary, self._mask_span = vocabulary, mask_span
        room = max_length - 2
        encodings = vocabulary.wordpiece.encode_batch(list(texts), add_special_tokens=False)
        long = [len(encoding.ids) > room for encoding in encodings]
        sentences.log_cut(sum(long), len(texts), max_length)
        # What the row holds of the text: a span behind its end would leave both sides the same.
        self._texts = [
            text[: encoding.offsets[room - 1][1]] if cut else text
            for text, encoding, cut in zip(texts, encodings, long)
        ]
        self._lengths = np.fromiter(map(len, self._texts), np.int64, len(texts))
        ids = [self._row(encoding.ids[:room]) for encoding in encodings]
        self.rows = Rows(ids, np.fromiter(map(len, ids), np.int64, len(ids)))

    def targets(self, planned: buckets.Planned, batch_size: int) -> dict[str, np.ndarray]:
        """`other_ids`, `other_segments` int32 [batch_size, width]: the second side, a pure function of the
        run's seed, the epoch and the text.

        A word of Latin letters that the mask cuts in two may have more tokens than before: what does not fit
        the width is left out at the end.
        """
        if not self._mask_span:
            rows = self.rows.batch(planned, batch_size)
            return {'other_ids': rows['char_ids'], 'other_segments': rows['char_segments']}
        uniform = np.random.default_rng((planned.seed, planned.epoch)).random(len(self._texts))
        start, length = spans(self._lengths[planned.rows], self._mask_span, uniform[planned.rows])
        texts = [self._texts[row] for row in planned.rows]
        before = self._tokens([text[:first] for text, first in zip(texts, start)])
        after = self._tokens([text[last:] for text, last in zip(texts, start + length)])
        mask, room = self._vocabulary.mask, planned.width - 2
        ids = sentences.padded(
            [
                self._row([*left, *([mask] if masked else []), *right][:room])
                for left, masked, right in zip(before, length, after)
            ],
            planned.width,
            batch_size,
        )
        return {'other_ids': ids, 'other_segments': np.zeros_like(ids)}

    def _tokens(self, texts: list[str]) -> list[list[int]]:
        encodings = self._vocabulary.wordpiece.encode_batch_fast(texts, add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def _row(self, ids: list[int]) -> np.ndarray:
        return np.array([self._vocabulary.cls, *ids, self._vocabulary.sep], np.int32)


def spans(lengths: np.ndarray, span: int, uniform: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(first character, number of characters) of what is masked in each text, int64 [N].

    It is `span` characters long, but at most half of the text: a text of fewer than 2·span characters loses
    a shorter one. (The authors' code masks nothing in a short text, whose two sides are then the same.) Every
    place is equally likely. A text of one character loses none.

    Args:
      lengths: int [N], characters of each text.
      uniform: [N] in [0, 1), what the places are drawn by.
    """
    length = np.minimum(span, lengths // 2)
    return (uniform * (lengths - length + 1)).astype(np.int64), length


def read(config: ConfigDict, vocabulary: Vocabulary) -> dict[str, Mirrored | sentences.Judged]:
    """The splits that `config.mode` needs, as far as there are any: the first `data.max_strings` distinct
    texts of `data.train`, and `sentences.judged`.

    Raises ValueError or FileNotFoundError where a file is missing or wrong.
    """
    data = config.data

    def train(path: str, metrics: tuple[str, ...]) -> Mirrored:
        texts = sentences.texts(path, data, data.max_strings)
        return Mirrored(texts, vocabulary, data.max_length, data.mask_span, metrics)

    return sentences.splits(config, vocabulary, train)
