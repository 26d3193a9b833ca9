"""The losses against NumPy loops that read like the formulas. The loops also serve `test_tasks`."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clower_jax import losses

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


def slopes(function, x, h=1e-6) -> np.ndarray:
    """The gradient of a scalar function of an array, by central differences in float64."""
    x = np.array(x, np.float64)
    out = np.zeros_like(x)
    for index in np.ndindex(x.shape):
        ends = []
        for step in (h, -h):
            moved = x.copy()
            moved[index] += step
            ends.append(function(moved))
        out[index] = (ends[0] - ends[1]) / (2 * h)
    return out


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


# ---- NT-Xent: the token and the sentence contrast ----


@functools.cache
def jitted_contrast(groups=1):
    """(p, w, real, temperature, ids) → [loss, correct, count] and the gradient of the loss by (p, w)."""

    def loss(p_and_w, real, temperature, ids):
        sums = losses.nt_xent(*p_and_w, real, temperature, ids, groups)
        return sums.loss, sums

    both = jax.jit(jax.value_and_grad(loss, has_aux=True))

    def run(p, w, real, temperature, ids=None):
        (_, sums), gradient = both((p, w), real, temperature, ids)
        return np.array([sums.loss, sums.correct, sums.count]), np.array(gradient)

    return run


def pairs(seed, spread=1.0):
    rng = np.random.default_rng(seed)
    p = rng.normal(size=(N, D))
    return p.astype(np.float32), (p + rng.normal(0, spread, (N, D))).astype(np.float32)


def assert_same_sums(got, expected):
    """The mean loss within the tolerance; what is counted exactly."""
    (loss, *counts), (expected_loss, *expected_counts) = got, expected
    assert counts == expected_counts
    number = max(1, expected_counts[1])
    np.testing.assert_allclose(loss / number, expected_loss / number, **TOLERANCE)


def check(p, w, real, temperature, ids=None, groups=1):
    """Value, accuracy and gradient against the loops; returns the gradient."""
    sums, gradient = jitted_contrast(groups)(p, w, np.array(real), temperature, ids)
    assert_same_sums(sums, contrast(p, w, real, temperature, ids, groups))

    def oracle(x):
        return contrast(*x, real, temperature, ids, groups)[0]

    expected = slopes(oracle, np.stack([p, w]))
    np.testing.assert_allclose(gradient, expected, rtol=0, atol=1e-5 * max(1, np.abs(expected).max()))
    return gradient


@pytest.mark.parametrize('temperature', [0.05, 0.5])
def test_contrast_of_all_items(temperature):
    check(*pairs(0), [True] * N, temperature)


@given(
    seed=st.integers(0, 2**32 - 1),
    real=st.lists(st.booleans(), min_size=N, max_size=N),
    temperature=st.sampled_from([0.05, 0.1, 1.0]),
    groups=st.sampled_from([1, 2, 4]),
    ids=st.none() | st.lists(st.integers(0, 3), min_size=N, max_size=N).map(np.array),
)
def test_contrast(seed, real, temperature, groups, ids):
    gradient = check(*pairs(seed), real, temperature, ids, groups)
    assert np.all(gradient[:, ~np.array(real)] == 0)


def test_padded_items_have_no_weight_and_are_nobodys_negative():
    p, w = pairs(1)
    real = np.array([True, False, True, True, False, True, True, False])
    sums, gradient = jitted_contrast()(p, w, real, 0.05)
    rng = np.random.default_rng(2)
    for other in (rng.normal(size=(2, 3, D)), np.zeros((2, 3, D)), np.full((2, 3, D), 1e6)):
        p[~real], w[~real] = other
        changed, changed_gradient = jitted_contrast()(p, w, real, 0.05)
        np.testing.assert_array_equal(changed, sums)
        np.testing.assert_array_equal(changed_gradient, gradient)
    # Nor do they count if they are not there at all.
    alone, _ = jitted_contrast()(p[real], w[real], np.ones(5, bool), 0.05)
    np.testing.assert_allclose(alone, sums, rtol=1e-6)


def test_same_word_is_no_negative_and_the_positive_stays():
    p, w = pairs(3)
    ids = np.array([7, 7, 7, 7, 7, 7, 7, 8])
    check(p, w, [True] * N, 0.05, ids)
    # Were they all one word, each would have its own partner only: nothing to learn.
    sums, gradient = jitted_contrast()(p, w, np.ones(N, bool), 0.05, np.zeros(N, int))
    assert sums.tolist() == [0, N, N] and np.all(gradient == 0)


def test_groups_are_separate_batches():
    p, w = pairs(4)
    real = np.arange(N) != 5
    got, _ = jitted_contrast(2)(p, w, real, 0.05)
    parts = [jitted_contrast()(p[i : i + 4], w[i : i + 4], real[i : i + 4], 0.05)[0] for i in (0, 4)]
    np.testing.assert_allclose(got, np.sum(parts, axis=0), rtol=1e-6)
    with pytest.raises(ValueError, match='8 items do not divide into 3 groups'):
        losses.nt_xent(p, w, real, 0.05, groups=3)


def test_contrast_is_symmetric_and_blind_to_length():
    p, w = pairs(5)
    real = np.ones(N, bool)
    sums, (by_p, by_w) = jitted_contrast()(p, w, real, 0.05)
    exchanged, (by_first, by_second) = jitted_contrast()(w, p, real, 0.05)
    np.testing.assert_allclose(exchanged, sums, rtol=1e-6)
    np.testing.assert_allclose([by_second, by_first], [by_p, by_w], rtol=1e-5, atol=1e-5)
    scaled, _ = jitted_contrast()(p * 4, w / 2, real, 0.05)
    np.testing.assert_allclose(scaled, sums, rtol=1e-6)


def test_contrast_of_padding_only():
    sums, gradient = jitted_contrast()(*pairs(6), np.zeros(N, bool), 0.05)
    assert sums.tolist() == [0, 0, 0] and np.all(gradient == 0)


def test_contrast_of_zero_vectors():
    p, w = pairs(7)
    p[2] = w[2] = w[3] = 0
    sums, gradient = jitted_contrast()(p, w, np.ones(N, bool), 0.05)
    assert_same_sums(sums, contrast(p, w, [True] * N, 0.05))
    assert np.isfinite(gradient).all()
    assert np.all(gradient[:, 2] == 0) and np.all(gradient[1, 3] == 0) and np.any(gradient[0, 3] != 0)


def test_contrast_of_half_precision_is_computed_in_fp32():
    p, w = (x.astype(jnp.bfloat16) for x in pairs(8))
    half, gradient = jitted_contrast()(p, w, np.ones(N, bool), 0.05)
    full, _ = jitted_contrast()(p.astype(np.float32), w.astype(np.float32), np.ones(N, bool), 0.05)
    np.testing.assert_array_equal(half, full)
    assert half.dtype == np.float32 and gradient.dtype == jnp.bfloat16


# ---- the contrasts of the paper, composed of the two functions ----


def test_token_contrast():
    """p_i is the mean of the characters' vectors, w_i the word's, i runs over the anchors of the batch."""
    rng = np.random.default_rng(9)
    B, K, L = 2, 4, 9
    hidden, words = rng.normal(size=(B, L, D)), rng.normal(size=(B, K, D))
    length = np.array([[2, 3, 4, 0], [4, 2, 0, 0]])
    start = np.array([[0, 2, 5, 0], [5, 1, 0, 0]])
    means = losses.span_means(hidden, start, length)
    got, _ = jitted_contrast()(means.reshape(-1, D), words.reshape(-1, D), length.reshape(-1) > 0, 0.05)
    p = [span_mean(hidden[b], start[b, k], length[b, k]) for b, k in np.ndindex(B, K)]
    assert_same_sums(got, contrast(p, words.reshape(-1, D), length.reshape(-1) > 0, 0.05))
    assert got[2] == 5


def test_sentence_contrast():
    """One item a row of the batch; rows of padding do not count."""
    char_cls, word_cls = pairs(10)
    real = np.arange(N) < 6
    got, _ = jitted_contrast()(char_cls, word_cls, real, 0.05)
    assert_same_sums(got, contrast(char_cls, word_cls, real, 0.05))
    assert got[2] == 6
