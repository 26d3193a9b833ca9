"""Words by number, and what they become as columns: a text's tokens are found without a loop over its words.

Of a text only the numbers of its words go through Python; everything else is NumPy on arrays that the
processor's caches hold.
"""

from array import array
from collections import defaultdict
from collections.abc import Callable, Sequence
from itertools import count, islice
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


class Words(NamedTuple):
    """What n words become, NumPy arrays all.

    `char_ids`: base ids of all of them, [sum of `chars`]; `chars`: how many each has, [n]; `rows`: the row of
    the vocabulary that is a word's one token, [n]; -1: its tokens are its base ids. `opens`, `closes`: BERT
    would not split it from a Latin letter there, bool [n].
    """

    char_ids: np.ndarray
    chars: np.ndarray
    rows: np.ndarray
    opens: np.ndarray
    closes: np.ndarray


class Lexicon(defaultdict[str | int, int]):
    """The number of every word that was asked for; an int, a base token, is a word as well.

    `look_up` is asked once for each, about all new ones together when something is to be known of them.
    `characters`: of the words looked up, a measure of the memory they take.
    """

    def __init__(self, look_up: Callable[[Sequence[str | int]], Words]):
        super().__init__(count().__next__)
        self.characters = 0
        self._look_up = look_up
        self._words: list[str] = []
        # Of each word by number: where its base ids begin in the pool, how many they are, where its word
        # tokens begin and how many they are, opens, closes.
        self._table = array('i')
        self._pool = array('i')

    def _learn(self) -> None:
        """Looks up the words that have a number and nothing else yet."""
        if len(self) == len(self._words):
            return
        words = [*islice(reversed(self), len(self) - len(self._words))][::-1]
        new = self._look_up(words)
        spellings = list(map(str, words))
        self._words += spellings
        self.characters += sum(map(len, spellings))
        table = np.empty((len(words), 6), np.int32)
        ends = len(self._pool) + np.cumsum(new.chars)
        is_row = new.rows >= 0
        table[:, _CHAR_START] = ends - new.chars
        table[:, _CHARS] = new.chars
        table[:, _WORD_START] = np.where(is_row, ends[-1] + np.cumsum(is_row) - 1, table[:, _CHAR_START])
        table[:, _TOKENS] = np.where(is_row, 1, new.chars)
        table[:, _OPENS], table[:, _CLOSES] = new.opens, new.closes
        self._pool.frombytes(np.append(new.char_ids, new.rows[is_row]).astype(np.int32).tobytes())
        self._table.frombytes(table.tobytes())

    def _column(self, which: int, numbers: np.ndarray) -> np.ndarray:
        self._learn()
        return np.frombuffer(self._table, np.int32).reshape(-1, 6)[:, which][numbers]

    def numbers(self, words: Sequence[str | int]) -> np.ndarray:
        """int [n]: the words' numbers."""
        return np.fromiter(map(self.__getitem__, words), np.intp, len(words))

    def words_of(self, numbers: np.ndarray) -> list[str]:
        """The words that have these numbers."""
        self._learn()
        return list(map(self._words.__getitem__, numbers.tolist()))

    def joints(self, numbers: np.ndarray) -> np.ndarray:
        """bool [n - 1]: whether BERT sees no boundary between a word and the next."""
        return (self._column(_CLOSES, numbers[:-1]) & self._column(_OPENS, numbers[1:])).astype(bool)

    def sizes(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Character tokens and word tokens of each word, int32 [n] both."""
        return self._column(_CHARS, numbers), self._column(_TOKENS, numbers)

    def last_id(self, number: int) -> int:
        """The last word token of a word that has any."""
        self._learn()
        row = self._table[6 * number : 6 * number + 6]
        return self._pool[row[_WORD_START] + row[_TOKENS] - 1]

    def divide(self, number: int) -> list[int]:
        """The base tokens of a word, each as the number of a word of its own."""
        self._learn()
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
