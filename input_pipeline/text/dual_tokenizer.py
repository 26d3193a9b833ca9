"""One vocabulary, two views of a text: characters as BERT reads them, and words."""

from collections.abc import Sequence

import numpy as np

from input_pipeline.text.lexicon import Encoded, Ids, Lexicon, Words
from input_pipeline.text.vocabulary import FIRST_PLAIN, Vocabulary, basic_tokens, is_latin, word_key

_MEMO_CHARACTERS = 1 << 20  # of the distinct words that a tokenizer remembers: about 100 MB when full


class Tokenizer:
    """Segmented words to ids in both views.

    The character view is, id for id, what BERT's uncased tokenizer makes of the sentence, except that special
    tokens written in a text are ordinary text. A word of the word block is one word token; every other word
    is its base tokens, each of which is a word token too.

    Every word that it meets gets a number (see `lexicon`), until `trim` forgets them.
    """

    def __init__(self, vocabulary: Vocabulary):
        self.vocabulary = vocabulary
        self._pieces = vocabulary.pieces()
        self._plain_ids = vocabulary.plain_ids()
        self.lexicon = Lexicon(self._look_up)

    def encode(self, words: Sequence[str]) -> Encoded:
        """The two views of one sentence, given as the words that a segmenter made of it, as lists.

        Words without tokens (spaces, control characters) vanish. Words between which BERT sees no boundary
        ('caf' and 'é', the letters of a Cyrillic word) are joined first, or the character view would not be
        BERT's.
        """
        self.trim()
        return Encoded(*(column.tolist() for column in self.lexicon.columns(self.numbers(words))))

    def join(self, words: Sequence[str]) -> list[str]:
        """The words that `encode` sees: those joined between which BERT sees no boundary."""
        self.trim()
        return self.lexicon.words_of(self.numbers(words))

    def trim(self) -> None:
        """Forgets all words where there are too many, so that memory stays bounded. The numbers given before
        are void."""
        if self.lexicon.characters > _MEMO_CHARACTERS:
            self.lexicon = Lexicon(self._look_up)

    def numbers(self, words: Sequence[str]) -> np.ndarray:
        """int [n]: the number of each word that `join` makes of `words`."""
        return self._joined(self.lexicon.numbers(words))

    def numbers_in(self, text: str, ends: np.ndarray, end: str) -> np.ndarray:
        """int [n]: the same of the words that a text consists of, given as where they end; `end` is a word
        that ends a sentence: nothing is joined with it."""
        return self._joined(self.lexicon.numbers_in(text, ends), self.lexicon[end])

    def _joined(self, numbers: np.ndarray, end: int = -1) -> np.ndarray:
        lexicon = self.lexicon
        while len(numbers):
            ends = numbers == end
            joints = lexicon.joints(numbers) & ~(ends[:-1] | ends[1:])
            if not joints.any():
                break
            for first, last in np.flatnonzero(np.diff(joints, prepend=False, append=False)).reshape(-1, 2):
                numbers[first] = lexicon[''.join(lexicon.words_of(numbers[first : last + 1]))]
            numbers = np.delete(numbers, np.flatnonzero(joints) + 1)
        return numbers

    def _look_up(self, words: Sequence[str | int]) -> Words:
        """Most words are plain ideographs, which are looked up together."""
        spellings = list(map(str, words))
        lengths = np.fromiter(map(len, spellings), np.intp, len(words))
        stops = np.cumsum(lengths)
        text = ''.join(spellings).encode('utf-32-le', 'surrogatepass')
        ids = self._plain_ids[np.minimum(np.frombuffer(text, '<u4') - FIRST_PLAIN, len(self._plain_ids) - 1)]
        strange = np.append(0, np.cumsum(ids < 0))
        plain = (lengths > 0) & (strange[stops] == strange[stops - lengths])
        rows = np.array(self.vocabulary.rows(spellings))
        chars = lengths.copy()
        opens, closes = np.zeros((2, len(words)), bool)
        others: list[int] = []
        for number in np.flatnonzero(~plain).tolist():
            spelled, rows[number], opens[number], closes[number] = self._look_up_one(words[number])
            chars[number] = len(spelled)
            others += spelled
        char_ids = np.empty(chars.sum(), np.int32)
        in_plain = np.repeat(plain, chars)
        char_ids[in_plain], char_ids[~in_plain] = ids[np.repeat(plain, lengths)], others
        return Words(char_ids, chars, rows, opens, closes)

    def _look_up_one(self, word: str | int) -> tuple[Ids, int, bool, bool]:
        """Its base ids, its row or -1, and whether it opens and closes as `Words` has it."""
        if isinstance(word, int):
            return (word,), -1, False, False
        latin = is_latin(word)
        [row] = self.vocabulary.rows([word.lower() if latin else word_key(word)])
        char_ids = self.vocabulary.spell(word)
        # A row whose pieces differ is another text: 'ab c' has the key of 'abc'.
        if row >= 0 and self._pieces[row - self.vocabulary.base_size] != char_ids:
            row = -1
        if latin:
            return char_ids, row, True, True
        between_letters = basic_tokens(f'a{word}a')
        return char_ids, row, between_letters[0] != 'a', between_letters[-1] != 'a'
