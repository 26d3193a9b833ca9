"""The losses against NumPy loops that read like the formulas. The loops also serve other tests."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clower_jax.ops import losses

N, D = 8, 5
TOLERANCE = {'rtol': 1e-5, 'atol': 1e-5}


# ---- the oracles: float64, one formula a line ----


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


# ---- masked cross-entropy: both MLM losses and SOP ----


@pytest.mark.parametrize('shape', [(3, 4, 40), (3, 2, 60), (8, 2)], ids=['mlm_char', 'mlm_word', 'sop'])
def test_masked_cross_entropy(shape):
    rng = np.random.default_rng(len(shape))
    logits = rng.normal(0, 3, shape).astype(np.float32)
    labels = rng.integers(0, shape[-1], shape[:-1])
    labels[rng.random(labels.shape) < 0.3] = losses.IGNORED_LABEL
    labels.flat[0] = logits.reshape(-1, shape[-1])[0].argmax()  # one is right for sure
    got = losses.masked_cross_entropy(logits, labels)
    loss, correct, count = cross_entropy(logits, labels)
    np.testing.assert_allclose(got.loss / got.count, loss / count, **TOLERANCE)
    assert (got.correct, got.count) == (correct, count) and 0 < correct < count


def test_masked_cross_entropy_sees_real_labels_only():
    logits = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    labels = np.array([2, -100, 0, -1])
    gradient = jax.grad(lambda x: losses.masked_cross_entropy(x, labels).loss)(logits)
    assert np.all(gradient[np.array([1, 3])] == 0) and np.all(gradient[np.array([0, 2])] != 0)
    logits[1] = [-1e30, 1e30, np.inf]
    assert np.isfinite(losses.masked_cross_entropy(logits, labels).loss)


def test_masked_cross_entropy_of_no_label():
    value, gradient = jax.value_and_grad(lambda x: losses.masked_cross_entropy(x, np.full(4, -100)).loss)(
        np.ones((4, 3), np.float32)
    )
    assert value == 0 and np.all(gradient == 0)


def test_masked_cross_entropy_survives_large_logits():
    # A naive softmax overflows from about 88 on.
    got = losses.masked_cross_entropy(np.array([[1e4, 0, -1e4]], np.float32), np.array([1]))
    assert got.loss == 1e4


# ---- span means ----


@functools.cache
def jitted_span_means():
    return jax.jit(losses.span_means)


@given(st.integers(0, 2**32 - 1))
def test_span_means(seed):
    rng = np.random.default_rng(seed)
    hidden = rng.normal(size=(2, 7, D)).astype(np.float32)
    length = rng.integers(0, 5, (2, 3))
    start = rng.integers(0, 7 - length + 1)
    got = jitted_span_means()(hidden, start, length)
    for b, k in np.ndindex(2, 3):
        np.testing.assert_allclose(got[b, k], span_mean(hidden[b], start[b, k], length[b, k]), **TOLERANCE)


def test_span_means_of_half_precision_are_computed_in_fp32():
    # In bf16 the sum 256 + 1 is 256.
    hidden = jnp.array([256, 1, 1, 1], jnp.bfloat16)[None, :, None]
    got = losses.span_means(hidden, np.array([[0]]), np.array([[4]]))
    assert got.dtype == jnp.float32 and got[0, 0, 0] == 259 / 4
