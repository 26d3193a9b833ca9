"""Labelled texts as words, for the word encoder, or as characters and words at once (AMBERT, LICHEE).

Everybody else reads the characters that BERT's tokenizer makes of a text, and no segmenter runs.
"""

import logging
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from ml_collections import ConfigDict

from input_pipeline.features import buckets
from input_pipeline.text import segmenters
from input_pipeline.text.dual_tokenizer import Tokenizer
from input_pipeline.text.lexicon import Encoded
from input_pipeline.text.sentences import END, in_batches, segmented
from input_pipeline.text.vocabulary import Vocabulary

log = logging.getLogger(__name__)


class WordRows(buckets.Rows):
    """Token rows of characters, each with a row of words, no longer than it.

    Args:
      ids, first: of the characters, as `buckets.Rows` takes them.
      words, words_first: the same of the words. words_first None: there is a word for each character, and a
        batch has them as `char_words` [batch_size, width]; else it has `word_ids`, `word_segments`.
    """

    def __init__(
        self,
        ids: list[np.ndarray],
        first: np.ndarray,
        words: list[np.ndarray],
        words_first: np.ndarray | None,
    ):
        super().__init__(ids, first)
        self._per_character = words_first is None
        self._words = buckets.Rows(words, first if words_first is None else words_first)

    def batch(self, planned: buckets.Planned, batch_size: int) -> dict[str, np.ndarray]:
        """That of `buckets.Rows`, and the words."""
        words = self._words.batch(planned, batch_size)
        names = {'char_words': 'char_ids'}
        if not self._per_character:
            names = {'word_ids': 'char_ids', 'word_segments': 'char_segments'}
        return super().batch(planned, batch_size) | {name: words[source] for name, source in names.items()}


def encode(texts: Sequence[str], vocabulary: Vocabulary, data: ConfigDict) -> list[Encoded]:
    """Each text in both views, as the corpus has texts; `data.segmenter` and `data.hmm` say what cuts words.

    `char_ids` are those of BERT's tokenizer, by way of the words.
    """
    cut, tokenizer = segmenters.segmenter(data.segmenter, data.hmm), Tokenizer(vocabulary)
    encoded = []
    for batch in in_batches(texts, lambda text: [text]):
        tokenizer.trim()
        numbers, counts = segmented(([text] for text in batch), cut, tokenizer)
        lexicon = tokenizer.lexicon
        after = np.append(0, np.flatnonzero(numbers == lexicon[END]) + 1)  # each sentence
        stops = after[np.cumsum([0, *counts])].tolist()
        encoded += [lexicon.columns(numbers[start:stop]) for start, stop in pairwise(stops)]
    return encoded


def whole_words(text: Encoded, chars: int) -> np.ndarray:
    """int32 [n_w]: the word tokens that lie within a text's first so many characters."""
    return text.word_ids[np.cumsum(text.word_char_len) <= chars]


def word_of_each(text: Encoded, chars: int) -> np.ndarray:
    """int32 [chars]: for each of its first so many characters the row of the word that it is in; its own,
    where that word has none."""
    return np.repeat(text.word_ids, text.word_char_len)[:chars]


def words_beside(
    texts: Sequence[str], ids: Sequence[Sequence[int] | np.ndarray], vocabulary: Vocabulary, data: ConfigDict
) -> list[np.ndarray]:
    """`word_of_each` of all the tokens `ids` that BERT's tokenizer made of each text.

    A text of which the words spell other tokens has none: its tokens come with their own rows. That is
    logged.
    """
    views = encode(texts, vocabulary, data)
    same = [np.array_equal(view.char_ids, tokens) for view, tokens in zip(views, ids, strict=True)]
    if not all(same):
        log.info('%d of %d texts are read without their words', same.count(False), len(same))
    return [
        word_of_each(view, len(tokens)) if fits else np.array(tokens, np.int32)
        for view, tokens, fits in zip(views, ids, same)
    ]
