"""Token tables: how the rows of a source's vocabulary become the rows of a run's."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from clower_jax.interop import hf_bert
from clower_jax.objectives.base import Vocabulary


@dataclasses.dataclass
class OwnVocabulary:
    """A source's own tokens: nothing is new to them, so nothing has pieces."""

    tokens: Sequence[str]
    base_size: int

    def pieces(self) -> list[tuple[int, ...]]:
        return []


@dataclasses.dataclass(frozen=True)
class Rows:
    """Which row of a source's token table each token of a run has.

    of: int [V], −1 where the source has no such token, which is then a word. pieces: of the run's words, base
    rows first, the ids in the run that spell each. sizes: rows that a table of the source may have: all, or
    its base block alone.
    """

    of: np.ndarray
    base_size: int
    pieces: Sequence[tuple[int, ...]]
    sizes: tuple[int, int]

    def __call__(self, rows: np.ndarray, count: int) -> np.ndarray:
        """The first `count` rows of the run's table [V, …] out of the source's [rows, …]. A word without a
        row in it is the mean of its pieces' (the paper, section 4.3.1).

        Raises ValueError where the source's table has not a row for each of its tokens.
        """
        if not rows.ndim or len(rows) not in self.sizes:
            count_of = len(rows) if rows.ndim else 'no'
            raise ValueError(
                f'the source has {count_of} token rows and {self.sizes[0]} tokens: they are not of one model'
            )
        of = self.of[:count]
        known = (of >= 0) & (of < len(rows))
        taken = rows[np.where(known, of, 0)]
        for row in np.flatnonzero(~known).tolist():
            taken[row] = rows[of[list(self.pieces[row - self.base_size])]].mean(axis=0)
        return taken

    @property
    def new(self) -> int:
        """Words of the run that the source has not."""
        return int(np.sum(self.of < 0))


def fit(theirs: Sequence[str], their_base: int, vocabulary: Vocabulary, path: Path, owner: str) -> Rows:
    """How an array with a row per token of a source becomes one with a row per token of a run: by the token.

    Args:
      theirs: the source's tokens, by id; the first `their_base` are its base block.
      vocabulary: of the run. Its base block is part of the source's; its words may be new.
      path: the file with the source's tokens, for the message.
      owner: whose tokens they are, for the message.

    Raises ValueError where the run's base block has tokens that the source's has not; it lists them.
    """
    row_of = {token: row for row, token in enumerate(theirs)}  # of equal rows BERT uses the last
    same = [row < len(theirs) and theirs[row] == token for row, token in enumerate(vocabulary.tokens)]
    of = np.array(
        [row if same[row] else row_of.get(token, -1) for row, token in enumerate(vocabulary.tokens)], np.int64
    )
    in_base = of[: vocabulary.base_size]
    absent = np.flatnonzero((in_base < 0) | (in_base >= their_base))
    if len(absent):
        shown = ', '.join(repr(vocabulary.tokens[row]) for row in absent[:5])
        raise ValueError(
            f'{owner} has another vocabulary: {path} lacks {len(absent)} of its '
            f'{vocabulary.base_size} base tokens: {shown}{", …" * (len(absent) > 5)}. Build the vocabulary '
            "with --base_vocab, the Hugging Face folder's vocab.txt or the run's"
        )
    return Rows(of, vocabulary.base_size, vocabulary.pieces(), (len(theirs), their_base))


def check_vocabulary(path: Path, tokens: Sequence[str], owner: str) -> None:
    """Raises ValueError at the first row where the file's tokens and these differ: `owner`, whose file it is,
    can then not go on."""
    saved = hf_bert.read_tokens(path)
    if saved == list(tokens):
        return
    row = next((i for i, (x, y) in enumerate(zip(saved, tokens)) if x != y), min(len(saved), len(tokens)))
    theirs, ours = (repr(x[row]) if row < len(x) else 'nothing' for x in (saved, tokens))
    raise ValueError(
        f'{owner} has another vocabulary than the corpus: {path}:{row + 1} is {theirs}, the corpus has '
        f'{ours} there. To go on with the run, give it the text or corpus it had; to start another from its '
        'weights, give another --workdir and --config.init_from'
    )
