"""Token tables: how the rows of a source's vocabulary become the rows of a run's."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from clower_jax.interop import hf_bert
from clower_jax.objectives.base import Vocabulary


@dataclasses.dataclass
class SourceVocabulary:
    """A source's own tokens: nothing is new to them, so nothing has pieces."""

    tokens: Sequence[str]
    base_size: int

    def pieces(self) -> list[tuple[int, ...]]:
        return []


@dataclasses.dataclass(frozen=True)
class RowAlignment:
    """Which row of a source's token table each token of a run has.

    source_rows: int [V], −1 where the source has no such token, which is then a word. pieces: of the run's
    words, base rows first, the ids in the run that spell each. sizes: rows that a table of the source may
    have: all, or its base block alone.
    """

    source_rows: np.ndarray
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
        source_rows = self.source_rows[:count]
        known = (source_rows >= 0) & (source_rows < len(rows))
        aligned = rows[np.where(known, source_rows, 0)]
        for row in np.flatnonzero(~known).tolist():
            aligned[row] = rows[source_rows[list(self.pieces[row - self.base_size])]].mean(axis=0)
        return aligned

    @property
    def num_new(self) -> int:
        """Words of the run that the source has not."""
        return int(np.sum(self.source_rows < 0))


def align_rows(
    source_tokens: Sequence[str], source_base_size: int, vocabulary: Vocabulary, path: Path, owner: str
) -> RowAlignment:
    """How an array with a row per token of a source becomes one with a row per token of a run: by the token.

    Args:
      source_tokens: the source's tokens, by id; the first `source_base_size` are its base block.
      vocabulary: of the run. Its base block is part of the source's; its words may be new.
      path: the file with the source's tokens, for the message.
      owner: whose tokens they are, for the message.

    Raises ValueError where the run's base block has tokens that the source's has not; it lists them.
    """
    row_of = {token: row for row, token in enumerate(source_tokens)}  # of equal rows BERT uses the last
    unchanged = [
        row < len(source_tokens) and source_tokens[row] == token
        for row, token in enumerate(vocabulary.tokens)
    ]
    source_rows = np.array(
        [row if unchanged[row] else row_of.get(token, -1) for row, token in enumerate(vocabulary.tokens)],
        np.int64,
    )
    in_base = source_rows[: vocabulary.base_size]
    missing = np.flatnonzero((in_base < 0) | (in_base >= source_base_size))
    if len(missing):
        shown = ', '.join(repr(vocabulary.tokens[row]) for row in missing[:5])
        raise ValueError(
            f'{owner} has another vocabulary: {path} lacks {len(missing)} of its '
            f'{vocabulary.base_size} base tokens: {shown}{", …" * (len(missing) > 5)}. Build the vocabulary '
            "with --base_vocab, the Hugging Face folder's vocab.txt or the run's"
        )
    return RowAlignment(
        source_rows, vocabulary.base_size, vocabulary.pieces(), (len(source_tokens), source_base_size)
    )


def check_vocabulary(path: Path, tokens: Sequence[str], owner: str) -> None:
    """Raises ValueError at the first row where the file's tokens and these differ: `owner`, whose file it is,
    can then not go on."""
    saved = hf_bert.read_tokens(path)
    if saved == list(tokens):
        return
    row = next((i for i, (x, y) in enumerate(zip(saved, tokens)) if x != y), min(len(saved), len(tokens)))
    saved_token, corpus_token = (repr(x[row]) if row < len(x) else 'nothing' for x in (saved, tokens))
    raise ValueError(
        f'{owner} has another vocabulary than the corpus: {path}:{row + 1} is {saved_token}, the corpus has '
        f'{corpus_token} there. To go on with the run, give it the text or corpus it had; to start another '
        'from its weights, give another --workdir and --config.init_from'
    )
