"""Linear classifiers of fixed vectors, the choice of their penalty, and the bootstrap of what they get right.

Both minimise a mean over the N rows of training plus penalty · ‖W‖² / 2, with an intercept b that has no
penalty: ridge regression |xW + b − y|² / 2 to one-hot labels y, multinomial logistic regression the
cross-entropy.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize
from scipy.special import logsumexp

PENALTIES = tuple(10.0**power for power in range(1, -5, -1))  # the strongest first

# (features [N, D], labels [N] below C, C, penalties) → (weights [D, C], intercept [C]) for each penalty.
Fit = Callable[[np.ndarray, np.ndarray, int, Sequence[float]], Iterator[tuple[np.ndarray, np.ndarray]]]


class Chosen(NamedTuple):
    """The penalty that was chosen and what the probe with it predicts: int [rows]."""

    penalty: float
    predicted: np.ndarray


def ridge(
    features: np.ndarray, labels: np.ndarray, num_classes: int, penalties: Sequence[float]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Ridge regression, in closed form: a `Fit`, in fp64."""
    x, y = features.astype(np.float64), np.eye(num_classes)[labels]
    x_mean, y_mean = x.mean(axis=0), y.mean(axis=0)
    x -= x_mean
    values, vectors = np.linalg.eigh(x.T @ x / len(x))
    projected = vectors.T @ (x.T @ (y - y_mean)) / len(x)
    for penalty in penalties:
        weights = vectors @ (projected / (np.maximum(values, 0) + penalty)[:, None])
        yield weights, y_mean - x_mean @ weights


def logistic(
    features: np.ndarray, labels: np.ndarray, num_classes: int, penalties: Sequence[float]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Multinomial logistic regression by L-BFGS: a `Fit`, in fp64.

    Each penalty starts from the weights of the one before. The variables are weights along the principal axes
    of the features, each scaled by what bounds the curvature along it, so that some tens of steps are enough.
    It stops where no part of the gradient by these is above 1e-4: with a penalty of 1e-3 or less and few rows
    that is a little before the optimum, as a somewhat stronger penalty would have it.
    """
    size = len(features)
    x = features.astype(np.float64)
    x_mean = x.mean(axis=0)
    x -= x_mean
    values, vectors = np.linalg.eigh(x.T @ x / size)
    nonzero = values > 1e-12 * values[-1]  # elsewhere the weights are 0
    values, vectors = values[nonzero], vectors[:, nonzero]
    x = x @ vectors
    rows = np.arange(size)
    weights, intercept = np.zeros((x.shape[1], num_classes)), np.zeros(num_classes)
    for penalty in penalties:
        scale = 1 / np.sqrt(values / 4 + penalty)[:, None]

        def loss(
            flat: np.ndarray, penalty: float = penalty, scale: np.ndarray = scale
        ) -> tuple[float, np.ndarray]:
            scaled, intercept = np.split(flat.reshape(-1, num_classes), [-1])
            weights = scaled * scale
            logits = x @ weights + intercept
            normaliser = logsumexp(logits, axis=1)
            value = (normaliser - logits[rows, labels]).mean() + penalty / 2 * (weights**2).sum()
            excess = np.exp(logits - normaliser[:, None])
            excess[rows, labels] -= 1
            by_weights = (x.T @ excess / size + penalty * weights) * scale
            return value, np.concatenate([by_weights, excess.mean(axis=0, keepdims=True)]).ravel()

        start = np.concatenate([weights / scale, intercept[None]]).ravel()
        solution = minimize(loss, start, jac=True, method='L-BFGS-B', options={'maxiter': 500, 'gtol': 1e-4})
        scaled, (intercept,) = np.split(solution.x.reshape(-1, num_classes), [-1])
        weights = scaled * scale
        full_weights = vectors @ weights
        yield full_weights, intercept - x_mean @ full_weights


PROBES: Mapping[str, Fit] = MappingProxyType({'ridge': ridge, 'logistic': logistic})


def choose(
    fit: Fit,
    train: tuple[np.ndarray, np.ndarray],
    selection: tuple[np.ndarray, np.ndarray],
    reported: np.ndarray,
    penalties: Sequence[float] = PENALTIES,
) -> Chosen:
    """Fits a probe to `train` with each penalty and predicts `reported` with the one that gets most of
    `selection` right (of several the first), so that no label of the reported rows can take part.

    Args:
      train, selection: features [n, D] and labels int [n]. Features are standardised with the mean and the
        deviation of `train`. A class that does not occur in train is never predicted.
      reported: features [rows, D].

    Raises ValueError where train or selection is empty.
    """
    if not len(train[0]) or not len(selection[0]):
        raise ValueError('a probe needs rows to train on, and rows to choose its penalty by')
    classes, labels = np.unique(train[1], return_inverse=True)
    mean, deviation = train[0].mean(axis=0), train[0].std(axis=0)
    deviation = np.where(deviation > 0, deviation, 1)
    x, to_select, to_report = ((rows - mean) / deviation for rows in (train[0], selection[0], reported))
    best = -1.0
    for penalty, (weights, intercept) in zip(penalties, fit(x, labels, len(classes), penalties)):
        accuracy = (classes[(to_select @ weights + intercept).argmax(axis=1)] == selection[1]).mean()
        if accuracy > best:
            best, chosen = accuracy, (penalty, weights, intercept)
    penalty, weights, intercept = chosen
    return Chosen(penalty, classes[(to_report @ weights + intercept).argmax(axis=1)])


def interval(
    values: np.ndarray, seed: int = 0, resamples: int = 10_000, confidence: float = 0.95
) -> tuple[float, float]:
    """The percentile bootstrap interval of the mean of values [N]: rows are drawn with replacement.

    Where values are the differences of two models on the same rows, the interval is a paired one. A resample
    of N rows is how often each distinct value is drawn: a multinomial variable, so few distinct values make
    this fast.
    """
    distinct, counts = np.unique(np.round(values, 9), return_counts=True)
    drawn = np.random.default_rng(seed).multinomial(len(values), counts / len(values), size=resamples)
    tail = (1 - confidence) / 2
    low, high = np.quantile(drawn @ distinct / len(values), [tail, 1 - tail])
    return float(low), float(high)
