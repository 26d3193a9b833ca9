"""Ridge regression on held-out rows, and the bootstrap (Efron 1979) over what was measured."""

from collections.abc import Callable, Sequence

import numpy as np

PENALTIES = 10.0 ** np.arange(-4, 2.5, 0.5)  # times the number of rows; features have variance 1


def ridge(x: np.ndarray, y: np.ndarray, penalties: Sequence[float]) -> list[tuple[np.ndarray, np.ndarray]]:
    """For each penalty p the (weights [D, T], intercept [T]) that minimise |y − x·w − b|² + p·N·|s·w|², where
    s [D] are the standard deviations of the columns of x [N, D], and y is [N, T]."""
    mean, deviation = x.mean(axis=0), x.std(axis=0)
    scale = np.where(deviation > 0, deviation, 1)
    z, target = (x - mean) / scale, y.mean(axis=0)
    values, vectors = np.linalg.eigh(z.T @ z)
    projected = vectors.T @ (z.T @ (y - target))
    solutions = []
    for penalty in penalties:
        weights = vectors @ (projected / (values + penalty * len(x))[:, None]) / scale[:, None]
        solutions.append((weights, target - mean @ weights))
    return solutions


def held_out_errors(
    x: np.ndarray, y: np.ndarray, folds: int, seed: int, penalties: Sequence[float] = tuple(PENALTIES)
) -> tuple[np.ndarray, np.ndarray, list[float]]:
    """How well ridge regression tells y [N, T] of x [N, D], every row held out once.

    Rows are dealt to `folds` at random. For each fold the penalty is chosen on a fifth of the other rows,
    then all of these are fitted with it.

    Returns:
      fp64 [N]: |y − prediction|² of each row, and |y − mean of the rows fitted|²; the penalty of each fold.
      `r_squared` makes a figure of them.

    Raises ValueError where there are fewer than 10 rows a fold.
    """
    count = len(x)
    if count < 10 * folds:
        raise ValueError(f'{count} words are too few for {folds} folds of at least 10')
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    order = np.random.default_rng(seed).permutation(count)
    residual, total, chosen = np.empty(count), np.empty(count), []
    for fold in range(folds):
        test = order[fold::folds]
        others = np.delete(order, np.s_[fold::folds])
        validation, train = np.split(others, [len(others) // 5])
        errors = [
            ((x[validation] @ weights + intercept - y[validation]) ** 2).sum()
            for weights, intercept in ridge(x[train], y[train], penalties)
        ]
        chosen.append(float(penalties[int(np.argmin(errors))]))
        ((weights, intercept),) = ridge(x[others], y[others], chosen[-1:])
        residual[test] = ((y[test] - x[test] @ weights - intercept) ** 2).sum(axis=1)
        total[test] = ((y[test] - y[others].mean(axis=0)) ** 2).sum(axis=1)
    return residual, total, chosen


def r_squared(residual: np.ndarray, total: np.ndarray) -> float:
    """1 − Σ residual / Σ total of squared errors [N]: 1 is perfect, 0 no better than the mean."""
    return float(1 - residual.sum() / total.sum())


def bootstrap(
    statistic: Callable[..., float], items: Sequence[np.ndarray], samples: int, seed: int
) -> np.ndarray:
    """fp64 [samples]: the statistic of items drawn with replacement.

    Args:
      items: arrays [N, …]; `statistic` is given the same N rows of each, drawn anew every time. What is drawn
        depends on N, `samples` and `seed` alone: of two models measured on the same items, the differences
        are paired.
    """
    count = len(items[0])
    random = np.random.default_rng(seed)
    values_drawn = np.empty(samples)
    for number in range(samples):
        drawn = random.integers(count, size=count)
        values_drawn[number] = statistic(*(values[drawn] for values in items))
    return values_drawn


def interval(values: np.ndarray) -> tuple[float, float]:
    """The 2.5 and the 97.5 percentile of bootstrapped values [R]."""
    low, high = np.percentile(values, (2.5, 97.5))
    return float(low), float(high)
