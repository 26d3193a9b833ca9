"""Confusion matrix and macro F1; of several labels each, micro and macro F1, and thresholds."""

import numpy as np
from numpy.typing import ArrayLike


def confusion_matrix(labels: ArrayLike, predictions: ArrayLike, num_classes: int) -> np.ndarray:
    """int64 [C, C]: how many examples of gold class i (row) were predicted as class j (column).

    `labels`, `predictions`: integers [N], 0 ≤ class < C. Raises ValueError for anything else, for none, or
    for unequal lengths.
    """
    gold, predicted = _classes(labels, predictions)
    for name, classes in (('labels', gold), ('predictions', predicted)):
        wrong = classes[(classes < 0) | (classes >= num_classes)]
        if wrong.size:
            raise ValueError(f'{name} contain class {wrong[0]}; there are {num_classes} classes, from 0')
    pairs = np.bincount(gold * num_classes + predicted, minlength=num_classes**2)
    return pairs.reshape(num_classes, num_classes).astype(np.int64)


def macro_f1(labels: ArrayLike, predictions: ArrayLike, num_classes: int) -> float:
    """The mean over all C classes of F1 = 2·TP / (2·TP + FP + FN), 0 to 1.

    A class that is neither in `labels` nor in `predictions` counts as 0, as in scikit-learn's
    `f1_score(labels, predictions, labels=range(C), average='macro', zero_division=0)`. Raises as
    `confusion_matrix`.
    """
    matrix = confusion_matrix(labels, predictions, num_classes)
    denominator = matrix.sum(0) + matrix.sum(1)  # 2·TP + FP + FN
    return float(np.mean(2 * np.diag(matrix) / np.maximum(denominator, 1)))


def multi_label_f1(gold: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """`micro_f1`, over all decisions, and `macro_f1`, the mean of the labels' F1 = 2·TP / (2·TP + FP + FN).

    gold, predicted: bool [N, C]. A label that is nowhere counts as 0, as in scikit-learn's `f1_score` with
    `zero_division=0`.
    """
    right = (gold & predicted).sum(axis=0)
    denominator = gold.sum(axis=0) + predicted.sum(axis=0)
    return {
        'micro_f1': float(2 * right.sum() / max(denominator.sum(), 1)),
        'macro_f1': float(np.mean(2 * right / np.maximum(denominator, 1))),
    }


def best_thresholds(gold: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """fp64 [C]: of each label the threshold at which its F1 is highest, half way between two probabilities;
    of several as good the nearest to 0.5, which it is where no example has the label.

    gold: bool [N, C]; probabilities: [N, C], 0 to 1.
    """
    thresholds = np.full(gold.shape[1], 0.5)
    for label in np.flatnonzero(gold.any(axis=0)):
        order = np.argsort(-probabilities[:, label], kind='stable')
        values = probabilities[order, label].astype(np.float64)
        count = np.arange(1, len(order) + 1)  # are predicted, those of the highest probabilities
        f1 = 2 * np.cumsum(gold[order, label]) / (count + gold[:, label].sum())
        between = (values + np.append(values[1:], 0)) / 2
        possible = np.append(values[1:] < values[:-1], True)
        best = np.flatnonzero(possible & (f1 >= f1[possible].max() - 1e-12))
        thresholds[label] = between[best[np.abs(between[best] - 0.5).argmin()]]
    return thresholds


def _classes(labels: ArrayLike, predictions: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    gold, predicted = np.asarray(labels), np.asarray(predictions)
    if gold.shape != predicted.shape or gold.ndim != 1:
        raise ValueError(f'{gold.shape} labels and {predicted.shape} predictions: they must be [N] and [N]')
    if not gold.size:
        raise ValueError('there is nothing to score: no labels and no predictions')
    for name, classes in (('labels', gold), ('predictions', predicted)):
        if not np.issubdtype(classes.dtype, np.integer):
            raise ValueError(f'{name} are {classes.dtype}; they must be integers, the numbers of classes')
    return gold.astype(np.int64), predicted.astype(np.int64)
