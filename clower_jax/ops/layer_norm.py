"""LayerNorm (Ba et al. 2016) with a derivative of its own, in as few passes over memory as XLA can be led to.

XLA computes again, wherever it is needed, what it thinks cheap. `compute_once` says what is not: a row's mean
and deviation, which passes down the columns would otherwise want spelled out for every element, and the
derivative, which a residual sum, dropout and two products read. Sums that go together are one reduction on
GPUs; CPUs take half as long again for those.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from clower_jax.ops.compute_once import compute_once

_Pair = tuple[jax.Array, jax.Array]


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def layer_norm(
    x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float, dtype: jnp.dtype
) -> jax.Array:
    """(x − mean) / √(variance + epsilon) · scale + bias over the last axis, computed in fp32.

    Args:
      x: [..., D].
      scale, bias: fp32 [D].
      epsilon: added to the variance.
      dtype: of the result.

    Returns:
      [..., D].
    """
    return _forward(x, scale, bias, epsilon, dtype)[0]


def _forward(
    x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float, dtype: jnp.dtype
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    x32 = x.astype(jnp.float32)
    mean, variance = jax.lax.platform_dependent(x32, cuda=moments_in_one_pass, default=moments)
    mean, factor = compute_once((mean, jax.lax.rsqrt(variance + epsilon)))
    return ((x32 - mean) * (factor * scale) + bias).astype(dtype), (x, mean, factor, scale)


def _backward(
    epsilon: float, dtype: jnp.dtype, residuals: tuple[jax.Array, ...], g: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    x, mean, factor, scale = residuals
    g = g.astype(jnp.float32)
    normalised = (x.astype(jnp.float32) - mean) * factor
    scaled = g * scale
    along = (scaled * normalised).mean(-1, keepdims=True)
    dx = factor * (scaled - scaled.mean(-1, keepdims=True) - normalised * along)
    dx = compute_once(dx.astype(x.dtype))
    d_scale_bias = jax.lax.platform_dependent(g * normalised, g, cuda=sums_in_one_pass, default=sums)
    return dx, *d_scale_bias


layer_norm.defvjp(_forward, _backward)


def moments(x: jax.Array) -> _Pair:
    """Mean and variance [..., 1] of fp32 [..., D] over the last axis, one after the other."""
    mean = x.mean(-1, keepdims=True)
    return mean, jnp.square(x - mean).mean(-1, keepdims=True)


def moments_in_one_pass(x: jax.Array) -> _Pair:
    """The same in one pass: parts' means and squared distances from them are joined (Chan et al. 1983)."""

    def joined(a: tuple[jax.Array, ...], b: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        (mean, squares, count), (other_mean, other_squares, other_count) = a, b
        total = count + other_count
        share = other_count / jnp.maximum(total, 1)
        difference = other_mean - mean
        squares = squares + other_squares + difference * difference * count * share
        return mean + difference * share, squares, total

    of_elements = x, jnp.zeros_like(x), jnp.ones_like(x)
    mean, squares, _ = jax.lax.reduce(of_elements, (np.float32(0),) * 3, joined, (x.ndim - 1,))
    return mean[..., None], squares[..., None] / x.shape[-1]


def sums(a: jax.Array, b: jax.Array) -> _Pair:
    """Of both fp32 [..., D] the sums [D], one after the other."""
    rows = tuple(range(a.ndim - 1))
    return a.sum(rows), b.sum(rows)


def sums_in_one_pass(a: jax.Array, b: jax.Array) -> _Pair:
    """The same in one pass."""

    def added(a: _Pair, b: _Pair) -> _Pair:
        return a[0] + b[0], a[1] + b[1]

    return jax.lax.reduce((a, b), (np.float32(0),) * 2, added, tuple(range(a.ndim - 1)))
