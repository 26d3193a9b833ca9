"""One vocabulary, two views of a text: characters as BERT reads them, and words."""

from collections.abc import Sequence

import numpy as np

from input_pipeline.text.lexicon import Encoded, Lexicon, Word
from input_pipeline.text.vocabulary import PLAIN, Vocabulary, basic_tokens, is_latin, word_key

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

    def numbers(self, words: Sequence[str], end: str | None = None) -> np.ndarray:
        """int [n]: the number of each word that `join` makes of `words`; `end` is a word that ends a
        sentence: nothing is joined with it."""
        lexicon = self.lexicon
        numbers = lexicon.numbers(words)
        while len(numbers):
            joints = lexicon.joints(numbers)
            if end is not None:
                ends = numbers == lexicon[end]
                joints &= ~(ends[:-1] | ends[1:])
            if not joints.any():
                break
            for first, last in np.flatnonzero(np.diff(joints, prepend=False, append=False)).reshape(-1, 2):
                numbers[first] = lexicon[''.join(lexicon.words_of(numbers[first : last + 1]))]
            numbers = np.delete(numbers, np.flatnonzero(joints) + 1)
        return numbers

    def _look_up(self, word: str | int) -> Word:
        if isinstance(word, int):
            return Word((word,), (word,), opens=False, closes=False)
        latin = is_latin(word)
        if latin or PLAIN.fullmatch(word):
            row = self.vocabulary.row(word.lower())
            if row is None:
                char_ids = word_ids = self.vocabulary.spell(word)
            else:
                char_ids, word_ids = self._pieces[row - self.vocabulary.base_size], (row,)
            return Word(char_ids, word_ids, opens=latin, closes=latin)
        char_ids = word_ids = self.vocabulary.spell(word)
        row = self.vocabulary.row(word_key(word))
        # A row whose pieces differ is another text: 'ab c' has the key of 'abc'.
        if row is not None and self._pieces[row - self.vocabulary.base_size] == char_ids:
            word_ids = (row,)
        between_letters = basic_tokens(f'a{word}a')
        return Word(char_ids, word_ids, between_letters[0] != 'a', between_letters[-1] != 'a')
