"""Swapped axes and the products of a layer in 16 bits."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clower_jax.models import bert
from clower_jax.ops import dropout
from clower_jax.ops.linear import swapped


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16, jnp.float16])
def test_swapped_axes_and_their_derivative(dtype):
    draw = np.random.default_rng(0).normal
    x, g = jnp.asarray(draw(size=(2, 3, 4, 5)), dtype), jnp.asarray(draw(size=(2, 4, 3, 5)), dtype)
    y, back = jax.vjp(jax.jit(lambda x: swapped(x, 1, 2)), x)
    np.testing.assert_array_equal(y, x.swapaxes(1, 2))
    np.testing.assert_array_equal(back(g)[0], g.swapaxes(1, 2))
    assert swapped(x[:0], 1, 2).shape == (0, 4, 3, 5)


@pytest.mark.skipif(jax.default_backend() != 'cpu', reason='what XLA makes of products on CPUs')
def test_a_cpu_multiplies_a_layer_in_16_bits_forwards_and_backwards():
    encoder = bert.BertEncoder(
        bert.EncoderConfig(32, 1, 2, 64, dropout=0.1, attention_dropout=0.1), jnp.bfloat16
    )
    x, mask = jnp.ones((4, 24, 32), jnp.bfloat16), jnp.ones((4, 1, 24), bool)
    seeds = dropout.row_seeds(jax.random.key(0), 4)
    variables = encoder.init(jax.random.key(0), x, mask, seeds)

    def loss(variables, x):
        return encoder.apply(variables, x, mask, seeds).astype(jnp.float32).sum()

    program = jax.jit(jax.grad(loss, argnums=(0, 1))).lower(variables, x).compile().as_text()
    types = dict(re.findall(r'(%[\w.-]+) = (\w+)\[', program))
    products = [(types[a], types[b]) for a, b in re.findall(r' dot\((%[\w.-]+), (%[\w.-]+)\)', program)]
    assert len(products) >= 6 + 6 * 3  # attention's, and three of each of six linear layers
    assert set(products) == {('bf16', 'bf16')}
