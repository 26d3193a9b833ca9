"""One vocabulary, two views of a sentence: characters as BERT reads them, and words.

The vocabulary is a *base block*, any BERT WordPiece vocabulary, followed by a *word block*. A word's row is
always larger than every character's row, and base ids never change, so the character encoder stays
id-compatible with the BERT it may have started from (arXiv 2208.10844, section 3.1, shared vocabulary).
"""

import codecs
import hashlib
import json
import operator
import re
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tokenizers
from tokenizers import models, normalizers, pre_tokenizers

# The ideographs that BERT's pre-tokenizer sets apart, as the `tokenizers` library has them.
_CHINESE = (
    (0x4E00, 0x9FFF),
    (0x3400, 0x4DBF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B81F),
    (0x2B920, 0x2CEAF),
    (0xF900, 0xFAFF),
    (0x2F800, 0x2FA1F),
)
_SPECIAL = re.compile(r'\[[^\[\]]+\]')  # [CLS], [unused7], but neither '[' nor ']'
_NORMALIZER = normalizers.BertNormalizer(lowercase=True)
_PRE_TOKENIZER = pre_tokenizers.BertPreTokenizer()
_MEMO_WORDS = 1 << 18  # distinct words remembered by a tokenizer: about 100 MB when full
_MEMO_LENGTH = 100  # characters; longer "words" are rarely met twice

Ids = tuple[int, ...]


def is_chinese(character: str) -> bool:
    """Whether BERT's pre-tokenizer makes this one character a token of its own as an ideograph."""
    code = ord(character)
    return any(first <= code <= last for first, last in _CHINESE)


def word_key(word: str) -> str:
    """The normalised form under which the word block knows a word: lower case, no accents, no spaces."""
    return ''.join(_NORMALIZER.normalize_str(word).split())


def basic_tokens(text: str) -> list[str]:
    """What BERT's pre-tokenizer makes of a text before any word is cut into pieces."""
    return [token for token, _ in _PRE_TOKENIZER.pre_tokenize_str(_NORMALIZER.normalize_str(text))]


class Vocabulary:
    """Tokens by id: `tokens[:base_size]` is the base block, `tokens[base_size:]` the word block.

    `details` is what else the sidecar file keeps, such as the segmenter that the words came from.

    Raises ValueError where [PAD] is not row 0, a special token is missing, the base block is larger than the
    vocabulary, or a word is empty or has a row already. Odd or repeated rows of the base block are kept,
    because its ids must not move; as in BERT, the last of two equal rows is the one in use.
    """

    def __init__(self, tokens: Sequence[str], base_size: int, details: dict[str, Any] | None = None):
        self.tokens = list(tokens)
        self.base_size = base_size
        self.details = dict(details or {})
        if not 0 < base_size <= len(self.tokens):
            raise ValueError(f'base_size {base_size} is not within the vocabulary of {len(self.tokens)} rows')
        self._base = {token: row for row, token in enumerate(self.tokens[:base_size])}
        self.pad, self.unk, self.cls, self.sep, self.mask = map(
            self._special, ('[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]')
        )
        if self.pad != 0:
            raise ValueError(
                f'[PAD] must be row 0 (line 1) of the vocabulary, because 0 marks padding in every '
                f'batch; it is on line {self.pad + 1}'
            )
        self._words: dict[str, int] = {}
        for row, word in enumerate(self.tokens[base_size:], base_size):
            if not word or word in self._base or word in self._words:
                raise ValueError(
                    f'line {row + 1} of the vocabulary: the word {word!r} is empty or has a row already; '
                    'words must be new and distinct. Make the vocabulary again with '
                    'python -m input_pipeline.build_vocab'
                )
            self._words[word] = row
        self._wordpiece: tokenizers.Tokenizer | None = None
        self._pieces: list[Ids] | None = None

    def _special(self, token: str) -> int:
        if token not in self._base:
            raise ValueError(f'the base vocabulary has no {token}: it is no BERT vocab.txt')
        return self._base[token]

    def __len__(self) -> int:
        return len(self.tokens)

    def row(self, word: str) -> int | None:
        """The word block's row of a normalised word, or None."""
        return self._words.get(word)

    @property
    def wordpiece(self) -> tokenizers.Tokenizer:
        """BERT's uncased tokenizer over the base block. It knows no special tokens: '[MASK]' in a text is
        text."""
        if self._wordpiece is None:
            wordpiece = tokenizers.Tokenizer(models.WordPiece(vocab=self._base, unk_token='[UNK]'))
            wordpiece.normalizer = _NORMALIZER
            wordpiece.pre_tokenizer = _PRE_TOKENIZER
            self._wordpiece = wordpiece
        return self._wordpiece

    def pieces(self) -> list[Ids]:
        """For each row of the word block in order, the base ids that spell it (its characters, most
        often)."""
        if self._pieces is None:
            words = self.tokens[self.base_size :]
            self._pieces = [
                tuple(encoding.ids)
                for encoding in self.wordpiece.encode_batch(words, add_special_tokens=False)
            ]
        return self._pieces

    def anchor_mask(self) -> np.ndarray:
        """bool [V]: the words that may be contrast anchors: word block, 2 to 4 characters, all Chinese
        (section 3.3)."""
        mask = np.zeros(len(self), bool)
        mask[self.base_size :] = [
            2 <= len(word) <= 4 and all(map(is_chinese, word)) for word in self.tokens[self.base_size :]
        ]
        return mask

    def random_ids(self, base_only: bool) -> np.ndarray:
        """int32 [n]: ids that may replace a token at random: no [CLS] or [unused1], only base rows if
        `base_only`."""
        size = self.base_size if base_only else len(self)
        return np.array(
            [
                row
                for row, token in enumerate(self.tokens[:size])
                if row >= self.base_size or not _SPECIAL.fullmatch(token)
            ],
            np.int32,
        )

    def _text(self) -> bytes:
        return ''.join(f'{token}\n' for token in self.tokens).encode()

    def sha256(self) -> str:
        """Of the bytes of vocab.txt."""
        return hashlib.sha256(self._text()).hexdigest()

    def save(self, path: str | Path) -> None:
        """Writes `path`, one token a line, and its sidecar (the same name with .json). Makes the folder."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        details = {
            **self.details,
            'base_size': self.base_size,
            'num_words': len(self) - self.base_size,
            'sha256': self.sha256(),
        }
        sidecar = f'{json.dumps(details, ensure_ascii=False, indent=1)}\n'.encode()
        contents = {path: self._text(), path.with_suffix('.json'): sidecar}
        for target, content in contents.items():  # an older pair stays whole until both are written
            target.with_name(f'{target.name}.partial').write_bytes(content)
        for target in contents:
            target.with_name(f'{target.name}.partial').replace(target)

    @classmethod
    def load(cls, path: str | Path) -> 'Vocabulary':
        """Reads what `save` wrote.

        Raises FileNotFoundError where `path` is missing, ValueError where the sidecar is missing or belongs
        to another file: without it nobody knows where the word block begins.
        """
        path = Path(path)
        sidecar = path.with_suffix('.json')
        remedy = (
            'make it with python -m input_pipeline.build_vocab (--base_vocab takes a plain BERT vocab.txt)'
        )
        if not path.is_file():
            raise FileNotFoundError(f'the vocabulary {path} is missing: {remedy}')
        tokens = read_tokens(path)
        if not sidecar.is_file():
            raise ValueError(
                f'{sidecar} is missing: it says where the words of {path} begin; keep the two files '
                f'together, or {remedy}'
            )
        try:
            details = json.loads(sidecar.read_text('utf-8'))
            base_size, sha256 = int(details.pop('base_size')), details.pop('sha256')
            details.pop('num_words', None)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f'{sidecar} is no vocabulary sidecar ({error!r}); {remedy}') from error
        try:
            vocabulary = cls(tokens, base_size, details)
        except ValueError as error:
            raise ValueError(f'{path}: {error}') from error
        if vocabulary.sha256() != sha256:
            raise ValueError(
                f'{sidecar} belongs to another vocabulary than {path} (their sha256 differ); restore the '
                f'pair, or {remedy}'
            )
        return vocabulary


def read_tokens(path: str | Path) -> list[str]:
    """The rows of a vocab.txt, without a byte order mark. Only a line feed ends a row: BERT's Chinese
    vocabulary has U+2028 as a token.

    Raises FileNotFoundError, and ValueError where a line is not UTF-8.
    """
    data = Path(path).read_bytes().removeprefix(codecs.BOM_UTF8)
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b'\n', 0, error.start) + 1
        raise ValueError(
            f'{path}:{line}: not UTF-8; a vocabulary is a UTF-8 text, one token a line'
        ) from error
    rows = text.replace('\r\n', '\n').split('\n')
    return rows[:-1] if rows[-1] == '' else rows


class Encoded(NamedTuple):
    """A sentence in both views.

    `char_ids`: base ids, [n_c]; `word_ids`: [n_w]; `word_char_len`: character tokens of each word token,
    [n_w], their sum is n_c; `whole_word_tokens`: word tokens of each segmented word (1, or more where the
    word is not in the vocabulary), their sum is n_w.
    """

    char_ids: list[int]
    word_ids: list[int]
    word_char_len: list[int]
    whole_word_tokens: list[int]


class _Word(NamedTuple):
    """What one segmented word becomes; `opens` and `closes`: BERT would not split it from a Latin letter
    there."""

    char_ids: Ids
    word_ids: Ids
    char_len: Ids
    tokens: int
    opens: bool
    closes: bool


class Tokenizer:
    """Segmented words to ids in both views.

    The character view is, id for id, what BERT's uncased tokenizer makes of the sentence, except that special
    tokens written in a text are ordinary text. A word of the word block is one word token; every other word
    is its base tokens, each of which is a word token too.
    """

    def __init__(self, vocabulary: Vocabulary):
        self.vocabulary = vocabulary
        self._wordpiece = vocabulary.wordpiece
        self._pieces = vocabulary.pieces()
        self._memo = _Memo(self._look_up)

    def encode(self, words: Sequence[str]) -> Encoded:
        """The two views of one sentence, given as the words that a segmenter made of it.

        Words without tokens (spaces, control characters) vanish. Words between which BERT sees no boundary
        ('caf' and 'é', the letters of a Cyrillic word) are joined first, or the character view would not be
        BERT's.
        """
        if not words:
            return Encoded([], [], [], [])
        columns, joints = self._columns(words)
        if any(joints):
            return self.encode(_join(words, joints))
        char_ids, word_ids, char_len, tokens = columns[:4]
        return Encoded(
            list(chain.from_iterable(char_ids)),
            list(chain.from_iterable(word_ids)),
            list(chain.from_iterable(char_len)),
            list(filter(None, tokens)),
        )

    def join(self, words: Sequence[str]) -> Sequence[str]:
        """The words that `encode` sees: those joined between which BERT sees no boundary."""
        joints = self._columns(words)[1] if words else []
        return _join(words, joints) if any(joints) else words

    def _columns(self, words: Sequence[str]) -> tuple[list[tuple], list[bool]]:
        """The fields of the words' `_Word`s, each as a column, and whether words i and i + 1 are one word to
        BERT. Without a Python loop: this runs over every word of the corpus."""
        columns = list(zip(*map(self._memo.__getitem__, words), strict=True))
        return columns, list(map(operator.and_, columns[5], columns[4][1:]))

    def _look_up(self, word: str) -> _Word:
        char_ids = tuple(self._wordpiece.encode(word, add_special_tokens=False).ids)
        row = self.vocabulary.row(word_key(word))
        # A row whose pieces differ is another text: 'ab c' has the key of 'abc'.
        if row is not None and self._pieces[row - self.vocabulary.base_size] == char_ids:
            views: tuple[Ids, Ids, Ids, int] = (char_ids, (row,), (len(char_ids),), 1)
        else:
            views = (char_ids, char_ids, (1,) * len(char_ids), len(char_ids))
        between_letters = basic_tokens(f'a{word}a')
        return _Word(*views, opens=between_letters[0] != 'a', closes=between_letters[-1] != 'a')


class _Memo(dict[str, _Word]):
    """Words met before. It forgets all of them when it is full, so that memory stays bounded."""

    def __init__(self, look_up):
        super().__init__()
        self._look_up = look_up

    def __missing__(self, word: str) -> _Word:
        found = self._look_up(word)
        if len(self) >= _MEMO_WORDS:
            self.clear()
        if len(word) <= _MEMO_LENGTH:
            self[word] = found
        return found


def _join(words: Sequence[str], joints: Sequence[bool]) -> list[str]:
    """Words with those joined that have a true joint between them; `joints[i]` lies between words i and i +
    1."""
    starts = [0, *(i for i, joint in enumerate(joints, 1) if not joint), len(words)]
    return [''.join(words[start:stop]) for start, stop in zip(starts, starts[1:], strict=False)]
