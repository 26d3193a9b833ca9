"""The losses against NumPy loops that read like the formulas. The loops also serve other tests."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from clower_jax.ops import losses
from helpers.losses import TOLERANCE, D, cross_entropy, span_mean
from input_pipeline.text.constants import IGNORED_LABEL

# ---- the oracles: float64, one formula a line ----


# ---- masked cross-entropy: both MLM losses and SOP ----


@pytest.mark.slow
@pytest.mark.parametrize('shape', [(3, 4, 40), (3, 2, 60), (8, 2)], ids=['mlm_char', 'mlm_word', 'sop'])
def test_masked_cross_entropy(shape):
    rng = np.random.default_rng(len(shape))
    logits = rng.normal(0, 3, shape).astype(np.float32)
    labels = rng.integers(0, shape[-1], shape[:-1])
    labels[rng.random(labels.shape) < 0.3] = IGNORED_LABEL
    labels.flat[0] = logits.reshape(-1, shape[-1])[0].argmax()  # one is right for sure
    got = losses.masked_cross_entropy(logits, labels)
    loss, correct, count = cross_entropy(logits, labels)
    np.testing.assert_allclose(got.loss / got.count, loss / count, **TOLERANCE)
    assert (got.correct, got.count) == (correct, count) and 0 < correct < count


@pytest.mark.slow
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


# ---- how much two passes differ ----


def test_divergences_are_torchs():
    a, b = np.random.default_rng(0).normal(0, 2, (2, 5, 4)).astype(np.float32)
    valid = np.arange(20).reshape(5, 4) % 3 > 0

    def both_ways(kind):
        p, q = (kind(logits=torch.tensor(x, dtype=torch.float64)) for x in (a, b))
        kl = torch.distributions.kl_divergence
        return 0.5 * (kl(p, q) + kl(q, p)).numpy()

    for ours, kind, counted in (
        (losses.symmetric_divergence, torch.distributions.Categorical, valid[:, 0]),
        (losses.symmetric_binary_divergence, torch.distributions.Bernoulli, valid),
    ):
        total, count = ours(a, b, counted)
        np.testing.assert_allclose(total, both_ways(kind)[counted].sum(), rtol=1e-5)
        assert count == counted.sum() and ours(a, a, counted)[0] == 0


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
