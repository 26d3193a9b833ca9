"""Words by number, and what they become as columns: a text's tokens are found without a loop over its words.

Of a text only the words that are long or new go through Python; everything else is NumPy on arrays that the
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
_SHORT = 4  # UTF-16 units; so long a word is one integer of 64 bits, and most are
_MASKS = np.array([(1 << 16 * length) - 1 for length in range(_SHORT + 1)], np.uint64)


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
        self._short = _Numbers()
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

    def numbers_in(self, text: str, ends: np.ndarray) -> np.ndarray:
        """int [n]: the numbers of the words that a text consists of, given as where they end. No word is
        empty, and one that has a NUL has nothing else.

        Of those that are short and known no string is made.
        """
        starts = ends - np.diff(ends, prepend=0)
        units, stops = text.encode('utf-16-le', 'surrogatepass'), ends
        if len(units) > 2 * len(text):  # some characters take two
            codes = np.frombuffer(text.encode('utf-32-le', 'surrogatepass'), '<u4')
            stops = np.cumsum(1 + (codes > 0xFFFF))[ends - 1]
        lengths = np.diff(stops, prepend=0)
        # Four units from every place on, of which a word takes its own.
        fours = np.ndarray(len(units) // 2, '<u8', units + bytes(2 * _SHORT - 2), strides=2)
        keys = fours[stops - lengths] & _MASKS[np.minimum(lengths, _SHORT)]
        is_long = lengths > _SHORT
        numbers = np.where(is_long, -1, self._short.find(keys))
        new, long = np.flatnonzero(~is_long & (numbers < 0)), np.flatnonzero(is_long)
        distinct, first, which = np.unique(keys[new], return_index=True, return_inverse=True)
        named = np.append(new[first], long)
        spans = map(slice, starts[named].tolist(), ends[named].tolist())
        named_numbers = self.numbers(list(map(text.__getitem__, spans)))
        self._short.add(distinct, named_numbers[: len(distinct)])
        numbers[new], numbers[long] = named_numbers[which], named_numbers[len(distinct) :]
        return numbers

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


class _Numbers:
    """The numbers of integers, many of which are found at once: a hash table with open addressing."""

    def __init__(self) -> None:
        self._make(1 << 16)

    def _make(self, size: int) -> None:
        self._count = 0
        self._keys = np.zeros(size, np.uint64)  # a power of 2 of them
        self._numbers = np.full(size, -1, np.int32)  # -1: a place is free

    def _places(self, keys: np.ndarray) -> np.ndarray:
        """Where to look first: the high bits of a product (Knuth, The Art of Computer Programming, 6.4)."""
        bits = len(self._keys).bit_length() - 1
        return (keys * np.uint64(0x9E3779B97F4A7C15) >> np.uint64(64 - bits)).astype(np.intp)

    def _next(self, places: np.ndarray) -> np.ndarray:
        return places + 1 & len(self._keys) - 1

    def find(self, keys: np.ndarray) -> np.ndarray:
        """int [n]: the number of each key, uint64 [n]; -1: it has none."""
        places = self._places(keys)
        found, differs = self._numbers[places], self._keys[places] != keys
        left = np.flatnonzero(differs & (found >= 0))
        found[differs] = -1
        while len(left):
            places[left] = at = self._next(places[left])
            numbers, same = self._numbers[at], self._keys[at] == keys[left]
            found[left[same]] = numbers[same]
            left = left[~same & (numbers >= 0)]
        return found

    def add(self, keys: np.ndarray, numbers: np.ndarray) -> None:
        """Keeps the numbers, int [n], of distinct keys that have none, uint64 [n]."""
        if 2 * (self._count + len(keys)) > len(self._keys):
            used = self._numbers >= 0
            keys, numbers = np.append(self._keys[used], keys), np.append(self._numbers[used], numbers)
            self._make(1 << (4 * len(keys)).bit_length())
        self._count += len(keys)
        places, left = self._places(keys), np.arange(len(keys))
        while len(left):
            at = places[left]
            free = self._numbers[at] < 0
            self._keys[at[free]], self._numbers[at[free]] = keys[left[free]], numbers[left[free]]
            left = left[self._keys[at] != keys[left]]  # several may have found the same place free
            places[left] = self._next(places[left])


def _spans(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """start, start + 1, …, start + length - 1 of each, one after the other."""
    stops = np.cumsum(lengths)
    return np.repeat(starts - stops + lengths, lengths) + np.arange(stops[-1] if len(stops) else 0)
