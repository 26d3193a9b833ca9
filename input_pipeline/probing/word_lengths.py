"""How long the Chinese words of a corpus are."""

from pathlib import Path

import numpy as np

from input_pipeline.corpus import record_source
from input_pipeline.pretraining import loader
from input_pipeline.text.vocabulary import Vocabulary, is_chinese
from input_pipeline.utils.tensorflow import tf

SAMPLE = 20_000  # records, evenly spaced, that stand for a corpus


def two_character_share(corpus: str | Path, vocabulary: Vocabulary) -> dict[str, float | None]:
    """How many of the words of two Chinese characters or more have just two, between 0 and 1: `corpus`, of
    the running words of its training records; `vocabulary`, of the words in its vocabulary's word block.

    (The paper, section 5.2, has one figure for its corpus, and does not say which of the two it is.)
    """
    source = record_source.open_split(corpus, 'train')
    numbers = np.unique(np.linspace(0, len(source) - 1, SAMPLE).astype(np.int64)).tolist()
    chinese = np.array([len(token) == 1 and is_chinese(token) for token in vocabulary.tokens])
    lengths = []
    for start in range(0, len(numbers), loader.MEASURED_TOGETHER):
        raw = source.__getitems__(numbers[start : start + loader.MEASURED_TOGETHER])
        lengths.append(_lengths(record_source.parse(tf.constant(raw)), chinese))
    words = vocabulary.tokens[vocabulary.base_size :]
    of_words = np.array([len(word) for word in words if all(map(is_chinese, word))])
    return {'corpus': _share(np.concatenate(lengths)), 'vocabulary': _share(of_words)}


def _share(lengths: np.ndarray) -> float | None:
    """Of the lengths over 1, how many are 2; None where there are none."""
    return float((lengths == 2).sum() / (lengths > 1).sum()) if (lengths > 1).any() else None


def _lengths(records: loader.Records, chinese: np.ndarray) -> np.ndarray:
    """The characters of each segmented word of the records that is made of `chinese` [V] tokens alone."""
    ids, of_token, of_word = (
        records[name].flat_values.numpy() for name in ('char_ids', 'word_char_len', 'whole_word_tokens')
    )
    characters = np.add.reduceat(of_token, _starts(of_word))
    return characters[np.add.reduceat(chinese[ids], _starts(characters)) == characters]


def _starts(lengths: np.ndarray) -> np.ndarray:
    """Where each of several pieces, none of them empty, begins when they stand one after another."""
    return np.cumsum(lengths) - lengths
