"""LayerNorm: values and derivatives against Flax's, and the forms that GPUs take."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clower_jax.ops.layer_norm import layer_norm, moments, moments_in_one_pass, sums, sums_in_one_pass

EPSILON = 1e-12


@pytest.fixture
def rows():
    """fp32 [3, 5, 24], one row far from 0, one with an outlier, one constant."""
    x = np.random.default_rng(0).normal(size=(3, 5, 24)).astype(np.float32)
    x[0, 0] += 100
    x[1, 1, 3] = 50
    x[2, 2] = 0.25
    return x


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
def test_values_and_derivatives_are_those_of_flax(rows, dtype):
    rng = np.random.default_rng(1)
    scale, bias = rng.normal(1, 0.5, (2, 24)).astype(np.float32)
    weights = rng.normal(size=rows.shape).astype(np.float32)
    flax_norm = nn.LayerNorm(epsilon=EPSILON, dtype=jnp.float32, use_fast_variance=False)
    varied = np.delete(rows.reshape(-1, 24), 12, 0).astype(dtype)  # of a constant row no derivative is finite

    def loss(norm):
        def weighted(x, scale, bias):
            y = norm(x, scale, bias)
            return (y.astype(jnp.float32) * weights.reshape(-1, 24)[: len(x)]).sum(), y

        return jax.jit(jax.value_and_grad(weighted, (0, 1, 2), has_aux=True))(varied, scale, bias)

    (_, y), gradients = loss(lambda x, scale, bias: layer_norm(x, scale, bias, EPSILON, dtype))
    (_, expected_y), expected = loss(
        lambda x, scale, bias: flax_norm.apply({'params': {'scale': scale, 'bias': bias}}, x).astype(dtype)
    )
    assert y.dtype == dtype and [g.dtype for g in gradients] == [dtype, jnp.float32, jnp.float32]
    # Results and derivatives are rounded to the dtype once, in either form.
    tolerance = 1e-5 if dtype == jnp.float32 else 2**-7
    for found, wanted in zip((y, *gradients), (expected_y, *expected)):
        found, wanted = np.float32(found), np.float32(wanted)
        np.testing.assert_allclose(found, wanted, rtol=tolerance, atol=tolerance * np.abs(wanted).max())


def test_a_constant_row_becomes_the_bias(rows):
    bias = np.arange(24, dtype=np.float32)
    y = layer_norm(rows, np.ones(24, np.float32), bias, EPSILON, jnp.float32)
    np.testing.assert_array_equal(y[2, 2], bias)


def test_moments_in_one_pass_are_those_in_two(rows):
    mean, variance = moments_in_one_pass(rows)
    for found, expected in zip((mean, variance), moments(rows)):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(variance[..., 0], np.float64(rows).var(-1), rtol=1e-5)


def test_sums_in_one_pass_are_those_in_two(rows):
    for found, expected in zip(sums_in_one_pass(rows, rows**2), sums(rows, rows**2)):
        np.testing.assert_allclose(found, expected, rtol=1e-5)
