"""One vocabulary, two views of a sentence: characters as BERT reads them, and words.

The vocabulary is a *base block*, any BERT WordPiece vocabulary, followed by a *word block*. A word's row is
always larger than every character's row, and base ids never change, so the character encoder stays
id-compatible with the BERT it may have started from (arXiv 2208.10844, section 3.1, shared vocabulary).
"""

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers

from input_pipeline.text.lexicon import Ids
from input_pipeline.text.wordpiece import NORMALIZER, PRE_TOKENIZER, SPECIAL, wordpiece
from input_pipeline.utils.output_file import atomic_write
from input_pipeline.utils.text_files import read_utf8

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
FIRST_PLAIN, LAST_PLAIN = 0x4E00, 0x9FFF  # ideographs that are their own normalised form
PLAIN = re.compile(f'[{chr(FIRST_PLAIN)}-{chr(LAST_PLAIN)}]+')


def is_chinese(character: str) -> bool:
    """Whether BERT's pre-tokenizer makes this one character a token of its own as an ideograph."""
    code = ord(character)
    return any(first <= code <= last for first, last in _CHINESE)


def word_key(word: str) -> str:
    """The normalised form under which the word block knows a word: lower case, no accents, no spaces."""
    return ''.join(NORMALIZER.normalize_str(word).split())


def basic_tokens(text: str) -> list[str]:
    """What BERT's pre-tokenizer makes of a text before any word is cut into pieces."""
    return [token for token, _ in PRE_TOKENIZER.pre_tokenize_str(NORMALIZER.normalize_str(text))]


def is_latin(word: str) -> bool:
    """Whether a word is all ASCII letters and digits: one word to BERT too."""
    return word.isascii() and word.isalnum()


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
        self.pad, self.unk, self.cls, self.sep, self.mask = map(self._special, SPECIAL.values())
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

    def rows(self, words: Iterable[str]) -> list[int]:
        """The word block's row of each normalised word, -1 where it has none."""
        return list(map(self._words.get, words, repeat(-1)))

    @property
    def wordpiece(self) -> tokenizers.Tokenizer:
        """BERT's uncased tokenizer over the base block. It knows no special tokens: '[MASK]' in a text is
        text."""
        if self._wordpiece is None:
            self._wordpiece = wordpiece(self._base)
        return self._wordpiece

    def row_of(self, ids: Iterable[int], pair: Iterable[int] | None = None) -> np.ndarray:
        """int32 [CLS] ids [SEP], or [CLS] ids [SEP] pair [SEP]."""
        second = [] if pair is None else [*pair, self.sep]
        return np.array([self.cls, *ids, self.sep, *second], np.int32)

    def spell(self, word: str) -> Ids:
        """The base ids that BERT's tokenizer makes of a word: of most words, those of its characters."""
        if PLAIN.fullmatch(word):
            return tuple(map(self._base.get, word, repeat(self.unk)))
        if is_latin(word):
            return tuple(piece.id for piece in self.wordpiece.model.tokenize(word.lower()))
        return tuple(self.wordpiece.encode(word, add_special_tokens=False).ids)

    def plain_ids(self) -> np.ndarray:
        """int32 [n + 1]: the base ids of the n ideographs from FIRST_PLAIN to LAST_PLAIN; -1 as the last."""
        ideographs = map(chr, range(FIRST_PLAIN, LAST_PLAIN + 1))
        return np.array([*map(self._base.get, ideographs, repeat(self.unk)), -1], np.int32)

    def pieces(self) -> list[Ids]:
        """For each row of the word block in order, the base ids that spell it."""
        if self._pieces is None:
            self._pieces = list(map(self.spell, self.tokens[self.base_size :]))
        return self._pieces

    def anchor_mask(self, longest: int = 4) -> np.ndarray:
        """bool [V]: the words that may be contrast anchors: word block, 2 to `longest` characters (0: or
        more), all Chinese. The default is the paper's (section 3.3)."""
        mask = np.zeros(len(self), bool)
        mask[self.base_size :] = [
            2 <= len(word) <= (longest or len(word)) and all(map(is_chinese, word))
            for word in self.tokens[self.base_size :]
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
        # An older pair stays whole until both are written.
        with atomic_write(path) as tokens, atomic_write(path.with_suffix('.json')) as beside:
            tokens.write_bytes(self._text())
            beside.write_bytes(sidecar)

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
            base_size, sha256 = details.pop('base_size'), details.pop('sha256')
            if not isinstance(base_size, int):
                raise TypeError(f'base_size is {base_size!r:.40}')
            details.pop('num_words', None)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
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
    rows = read_utf8(path, 'a vocabulary is a UTF-8 text, one token a line').replace('\r\n', '\n').split('\n')
    return rows[:-1] if rows[-1] == '' else rows
