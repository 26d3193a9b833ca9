"""Dropout whose mask is a hash of where an element is.

A mask is a function of two random numbers of the row, the site in the network, and the element's index in
the row. So it depends neither on the batch that the row is in nor on the devices that hold it: micro-batches
drop what the whole batch would. It is computed inside the operation that uses it, and again in the backward
pass, so that no mask is ever kept. The hash is a 32-bit integer mixer (multiplications and shifts with
constants found by search, Wellons 2018, 'Prospecting for Hash Functions': lowbias32) with a key before each
multiplication and without the last shift, which mixes low bits alone: a comparison goes by the high ones. In
attention its ten operations an element count: with twenty it was a third of a GPU's kernels.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from clower_jax.ops.compute_once import compute_once

SEEDS_PER_ROW = 2


def row_seeds(key: jax.Array, rows: int) -> jax.Array:
    """uint32 [rows, 2]: the random numbers of each row of a batch."""
    return jax.random.bits(key, (rows, SEEDS_PER_ROW), jnp.uint32)


def seeds_at(seeds: jax.Array, site: int | jax.Array) -> jax.Array:
    """uint32 [B, 2]: the seeds of one application of dropout in the network, out of those of the rows.

    Args:
      seeds: uint32 [B, 2] from `row_seeds`.
      site: the application's number, uint32.
    """
    return seeds + jnp.stack([jnp.asarray(site, jnp.uint32) * np.uint32(0x9E3779B9), jnp.uint32(0)])


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def dropout(x: jax.Array, rate: float, seeds: jax.Array | None) -> jax.Array:
    """x with each element 0 with probability `rate`, else divided by 1 − rate.

    Args:
      x: [B, ...].
      seeds: uint32 [B, 2] from `seeds_at`; None: no dropout.
    """
    if seeds is None or rate == 0:
        return x
    return jnp.where(keep(x.shape, rate, seeds), x * factor(rate, x.dtype), 0)


def _forward(x: jax.Array, rate: float, seeds: jax.Array | None) -> tuple[jax.Array, jax.Array | None]:
    return dropout(x, rate, seeds), seeds


def _backward(rate: float, seeds: jax.Array | None, g: jax.Array) -> tuple[jax.Array, None]:
    # To the compiler other seeds than those of the forward pass: it would keep that mask.
    return dropout(g, rate, None if seeds is None else compute_once(seeds)), None


dropout.defvjp(_forward, _backward)


def drop_heads(x: jax.Array, rate: float, seeds: jax.Array | None) -> jax.Array:
    """x with each attention head of each row 0 with probability `rate`, else divided by 1 − rate (Zhou et al.
    2020, 'Scheduled DropHead').

    Args:
      x: [B, N, L, H], what N heads put out.
      seeds: as `dropout` has them.
    """
    if seeds is None or rate == 0:
        return x
    return jnp.where(keep((*x.shape[:2], 1, 1), rate, seeds), x * factor(rate, x.dtype), 0)


def keep(shape: tuple[int, ...], rate: float, seeds: jax.Array) -> jax.Array:
    """bool of `shape`, [B, ...]: False with probability `rate`; see `dropout`."""
    check_row_size(math.prod(shape[1:]))
    element = jnp.zeros(shape, jnp.uint32)
    stride = 1
    for axis in reversed(range(1, len(shape))):
        element = element + jax.lax.broadcasted_iota(jnp.uint32, shape, axis) * np.uint32(stride)
        stride *= shape[axis]
    per_row = (-1,) + (1,) * (len(shape) - 1)
    first, second = (seeds[:, i].reshape(per_row) for i in range(SEEDS_PER_ROW))
    return keep_elements(element, rate, first, second)


def factor(rate: float, dtype: jnp.dtype) -> np.ndarray:
    """1 / (1 − rate) in `dtype`: what is kept of an array of this dtype is multiplied by it."""
    return np.asarray(1 / (1 - rate), dtype)


def keep_elements(element: jax.Array, rate: float, first: jax.Array, second: jax.Array) -> jax.Array:
    """bool: `keep` of elements by their uint32 index in the row, whose two seeds these are."""
    mixed = element ^ first
    mixed = (mixed ^ (mixed >> 16)) * np.uint32(0x7FEB352D) + second
    mixed = (mixed ^ (mixed >> 15)) * np.uint32(0x846CA68B)
    return mixed >= np.uint32(round(rate * 2**32))


def check_row_size(elements: int) -> None:
    """Raises ValueError where a row has too many elements."""
    if elements >= 2**32:
        raise ValueError(f'a row of {elements:,} elements has more than the hash has numbers: shorten rows')
