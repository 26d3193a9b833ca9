"""Token tables: how the rows of a source's vocabulary become the rows of a run's."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from clower_jax import hugging_face


class VocabularyLike(Protocol):
    """What is needed of a vocabulary here: its tokens, base rows first, and each new word's base pieces."""

    tokens: Sequence[str]
    base_size: int

    def pieces(self) -> Sequence[tuple[int, ...]]: ...


@dataclasses.dataclass
class OwnVocabulary:
    """A source's own tokens: nothing is new to them, so nothing has pieces."""

    tokens: Sequence[str]
    base_size: int

    def pieces(self) -> list[tuple[int, ...]]:
        return []


def fit(
    theirs: list[str], their_base: int, vocabulary: VocabularyLike, path: Path, owner: str
) -> Callable[[np.ndarray], np.ndarray]:
    """How an array with a row per token of a source becomes one with a row per token of a run.

    Args:
      theirs: the source's tokens, by id; the first `their_base` are its base block.
      vocabulary: of the run.
      path: the file with the source's tokens, for the message.
      owner: whose tokens they are, for the message.

    Raises ValueError where neither vocabulary begins with the other's base block.
    """
    ours, base_size = list(vocabulary.tokens), vocabulary.base_size
    if theirs == ours:
        return lambda rows: rows
    if base_size == len(ours) and theirs[:their_base] == ours:
        return lambda rows: rows[:base_size]  # word rows are for pre-training
    _check_same(path, theirs, ours if len(theirs) > base_size else ours[:base_size], owner)
    return lambda rows: with_word_rows(rows, vocabulary)


def with_word_rows(base: np.ndarray, vocabulary: VocabularyLike) -> np.ndarray:
    """[base_size, …] → [V, …]: each new word's row is the mean of its pieces' rows (the paper)."""
    if len(base) != vocabulary.base_size:
        raise ValueError(
            f'the source has {len(base)} token rows, the base block of the vocabulary has '
            f'{vocabulary.base_size}: '
            "build the vocabulary with --base_vocab set to the source's vocab.txt"
        )
    words = [base[list(pieces)].mean(axis=0) for pieces in vocabulary.pieces()]
    return np.concatenate([base, np.stack(words)]) if words else base


def check_vocabulary(path: Path, tokens: Sequence[str], owner: str) -> None:
    """Raises ValueError at the first row where the file's tokens and these differ."""
    _check_same(path, hugging_face.read_tokens(path), list(tokens), owner)


def _check_same(path: Path, saved: list[str], tokens: list[str], owner: str) -> None:
    if saved == tokens:
        return
    row = next((i for i, (x, y) in enumerate(zip(saved, tokens)) if x != y), min(len(saved), len(tokens)))
    theirs, ours = (repr(x[row]) if row < len(x) else 'nothing' for x in (saved, tokens))
    where = f'{path}, id {row},' if path.suffix == '.json' else f'{path}:{row + 1}'
    raise ValueError(
        f'{owner} has another vocabulary than the corpus: {where} is {theirs}, the corpus has {ours} '
        'there. To start from a Hugging Face folder, build the vocabulary with its vocab.txt as '
        '--base_vocab; to start from a run, build the corpus with the vocabulary of that run; to go on with '
        'a run, give it the text or corpus it had.'
    )
