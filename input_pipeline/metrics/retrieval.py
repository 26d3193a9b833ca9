"""How well vectors of texts tell which texts mean the same: rank correlation with people, and retrieval."""

import numpy as np

RECALLS = (1, 5, 10)
BLOCK = 1024  # queries whose scores are in memory at once
ROUNDING = 1e-6  # cosines nearer to each other are equal


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """fp32 [N]: the cosine of each row of a with the same row of b, [N, D] each; 0 for a zero vector."""
    return np.einsum('nd,nd->n', unit(a), unit(b))


def spearman(x: np.ndarray, y: np.ndarray) -> float:
    """Spearman's rank correlation of two rows of numbers [N], −1 to 1: Pearson's of their ranks, equal
    numbers having the mean of theirs. 0 where one of them is constant."""
    return pearson(average_ranks(x), average_ranks(y))


def average_ranks(values: np.ndarray) -> np.ndarray:
    """fp64 [N]: the place of each of N numbers in their order, from 1; of equal ones the mean."""
    from scipy import stats  # takes longer to import than JAX

    return stats.rankdata(values)


def pearson(x: np.ndarray, y: np.ndarray) -> float:
    """Pearson's correlation of two rows of numbers [N], −1 to 1; 0 where one of them is constant."""
    x, y = (values - values.mean() for values in (np.asarray(x, np.float64), np.asarray(y, np.float64)))
    norm = np.sqrt((x @ x) * (y @ y))
    return float(x @ y / norm) if norm else 0.0


def ranks(queries: np.ndarray, candidates: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each query, the rank of its own candidate, the one of the same row, and the nearest other one.

    Args:
      queries, candidates: [N, D], compared by cosine.

    Returns:
      int64 [N]: 1 where the own candidate is nearer than every other. A tie counts against it, or vectors
      that are all the same would be perfect. And int64 [N], the row of the nearest other candidate (−1 where
      there is none).
    """
    queries, candidates = unit(queries), unit(candidates)
    rank, nearest = np.empty(len(queries), np.int64), np.full(len(queries), -1)
    for start in range(0, len(queries), BLOCK):
        scores = queries[start : start + BLOCK] @ candidates.T
        row = np.arange(len(scores))
        own = scores[row, start + row]
        # Vectors that are no numbers find nothing.
        rank[start : start + BLOCK] = (~(scores <= own[:, None] - ROUNDING)).sum(axis=1)
        scores[row, start + row] = -np.inf
        if len(candidates) > 1:
            nearest[start : start + BLOCK] = scores.argmax(axis=1)
    return rank, nearest


def retrieval(rank_ab: np.ndarray, rank_ba: np.ndarray) -> dict[str, float]:
    """Of ranks [N] from a to b and back: `acc_ab`, `acc_ba`, how often the own partner is nearest; and of
    a's queries the mean reciprocal rank `mrr` and `recall_1`, `recall_5`, `recall_10`; all 0 to 1."""
    measures = {'acc_ab': rank_ab == 1, 'acc_ba': rank_ba == 1, 'mrr': 1 / rank_ab}
    measures |= {f'recall_{k}': rank_ab <= k for k in RECALLS}
    return {name: float(np.mean(values)) for name, values in measures.items()}


def unit(vectors: np.ndarray) -> np.ndarray:
    """fp32 [N, D]: each row divided by its length; a zero row stays one."""
    vectors = np.asarray(vectors, np.float32)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), np.finfo(np.float32).tiny)
