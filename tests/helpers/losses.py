"""The losses as the papers' formulas read, in NumPy."""

import math

import numpy as np

N, D = 8, 5
TOLERANCE = {'rtol': 1e-5, 'atol': 1e-5}


def cross_entropy(logits, labels) -> tuple[float, float, int]:
    """Σ −log softmax(logits)[label], how many were right, how many there are; labels −100 are left out."""
    loss, correct, count = 0.0, 0, 0
    classes = logits.shape[-1]
    for row, label in zip(np.float64(logits).reshape(-1, classes), np.ravel(labels)):
        if label == -100:
            continue
        loss -= math.log(math.exp(row[label]) / sum(math.exp(x) for x in row))
        correct += int(row.argmax() == label)
        count += 1
    return loss, correct, count


def span_mean(hidden, start: int, length: int) -> np.ndarray:
    """p_i: the mean of hidden[start], …, hidden[start + length − 1]."""
    total = np.zeros(hidden.shape[-1])
    for position in range(start, start + length):
        total += hidden[position] / length
    return total


def cosine(x, y) -> float:
    norms = math.sqrt(x @ x) * math.sqrt(y @ y)
    return x @ y / norms if norms else 0.0


def contrast(p, w, real, temperature, ids=None, groups=1) -> tuple[float, float, int]:
    """Σ over real i of −log e^{cos(p_i, w_i)/τ} / Σ_j e^{cos(p_i, w_j)/τ}, ½, and the same for (w, p)."""
    loss, correct = 0.0, 0.0
    p, w = np.float64(p), np.float64(w)
    size = len(p) // groups
    for i in range(len(p)):
        if not real[i]:
            continue
        others = [
            j
            for j in range(len(p))
            if j == i or (real[j] and j // size == i // size and (ids is None or ids[j] != ids[i]))
        ]
        for x, y in ((p, w), (w, p)):
            scores = {j: cosine(x[i], y[j]) / temperature for j in others}
            loss -= 0.5 * math.log(math.exp(scores[i]) / sum(math.exp(s) for s in scores.values()))
            correct += 0.5 * (max(scores, key=scores.get) == i)
    return loss, correct, int(np.sum(real))
