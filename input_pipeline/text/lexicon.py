"""Words by number, and what they become as columns: a text's tokens are found without a loop over its words.

Of a text only the numbers of its words go through Python; everything else is NumPy on arrays that the
processor's caches hold.
"""

from array import array
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

Ids = tuple[int, ...]
_CHAR_START, _CHARS, _WORD_START, _TOKENS, _OPENS, _CLOSES = range(6)  # the columns of a lexicon's table


class Encoded(NamedTuple):
    """A text in both views.

    `char_ids`: base ids, [n_c]; `word_ids`: [n_w]; `word_char_len`: character tokens of each word token,
    [n_w], their sum is n_c; `whole_word_tokens`: word tokens of each segmented word (1, or more where the
    word is not in the vocabulary), their sum is n_w. Lists of ints, or int32 arrays.
    """

    char_ids: Any
    word_ids: Any
    word_char_len: Any
    whole_word_tokens: Any


class Word(NamedTuple):
    """What a word becomes: base ids, and either its row of the vocabulary or the base ids again. `opens` and
    `closes`: BERT would not split it from a Latin letter there."""

    char_ids: Ids
    word_ids: Ids
    opens: bool
    closes: bool


class Lexicon(dict[str | int, int]):
    """The number of every word that was asked for; an int, a base token, is a word as well.

    `look_up` is asked once for each. `characters`: of all words, a measure of the memory they take.
    """

    def __init__(self, look_up: Callable[[str | int], Word]):
        super().__init__()
        self.characters = 0
        self._look_up = look_up
        self._words: list[str] = []
        # Of each word by number: where its base ids begin in the pool, how many they are, where its word
        # tokens begin and how many they are, opens, closes.
        self._table = array('i')
        self._pool = array('i')

    def __missing__(self, word: str | int) -> int:
        encoded = self._look_up(word)
        number = self[word] = len(self._words)
        spelling = str(word)
        self._words.append(spelling)
        self.characters += len(spelling)
        start = word_start = len(self._pool)
        self._pool.extend(encoded.char_ids)
        if encoded.word_ids is not encoded.char_ids:
            word_start = len(self._pool)
            self._pool.extend(encoded.word_ids)
        sizes = len(encoded.char_ids), len(encoded.word_ids)
        self._table.extend((start, sizes[0], word_start, sizes[1], encoded.opens, encoded.closes))
        return number

    def _column(self, which: int, numbers: np.ndarray) -> np.ndarray:
        return np.frombuffer(self._table, np.int32).reshape(-1, 6)[:, which][numbers]

    def numbers(self, words: Sequence[str | int]) -> np.ndarray:
        """int [n]: the words' numbers."""
        return np.fromiter(map(self.__getitem__, words), np.intp, len(words))

    def words_of(self, numbers: np.ndarray) -> list[str]:
        """The words that have these numbers."""
        return list(map(self._words.__getitem__, numbers.tolist()))

    def joints(self, numbers: np.ndarray) -> np.ndarray:
        """bool [n - 1]: whether BERT sees no boundary between a word and the next."""
        return (self._column(_CLOSES, numbers[:-1]) & self._column(_OPENS, numbers[1:])).astype(bool)

    def sizes(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Character tokens and word tokens of each word, int32 [n] both."""
        return self._column(_CHARS, numbers), self._column(_TOKENS, numbers)

    def last_id(self, number: int) -> int:
        """The last word token of a word that has any."""
        row = self._table[6 * number : 6 * number + 6]
        return self._pool[row[_WORD_START] + row[_TOKENS] - 1]

    def divide(self, number: int) -> list[int]:
        """The base tokens of a word, each as the number of a word of its own."""
        row = self._table[6 * number : 6 * number + 6]
        return [self[token] for token in self._pool[row[_CHAR_START] : row[_CHAR_START] + row[_CHARS]]]

    def columns(self, numbers: np.ndarray) -> Encoded:
        """Both views of the words one after the other, as int32 arrays."""
        chars, tokens = self.sizes(numbers)
        pool = np.frombuffer(self._pool, np.int32)
        char_ids = pool[_spans(self._column(_CHAR_START, numbers), chars)]
        word_ids = pool[_spans(self._column(_WORD_START, numbers), tokens)]
        chars, tokens = chars[tokens > 0], tokens[tokens > 0]
        # A word is one token of all its characters, or its base tokens, which are a character token each.
        return Encoded(char_ids, word_ids, np.repeat(chars // tokens, tokens), tokens)


def _spans(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """start, start + 1, …, start + length - 1 of each, one after the other."""
    stops = np.cumsum(lengths)
    return np.repeat(starts - stops + lengths, lengths) + np.arange(stops[-1] if len(stops) else 0)
