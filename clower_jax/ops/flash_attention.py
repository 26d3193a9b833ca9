"""Attention with dropout as two kernels for NVIDIA GPUs, without scores or weights [L, L] in memory (Dao
2023, 'FlashAttention-2').

These exist in tiles, in registers. The backward pass computes them again, from the maximum and the sum of
each row, and the mask of dropout from where its elements are. Written in Pallas, compiled by Triton.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl

from clower_jax.ops import dropout

TILE = 64  # queries, and keys, of a tile; fewer where rows are shorter
MIN_SIDE = 16  # of a product on tensor cores, whose sides are powers of two
WARPS, STAGES = 4, 3  # of 32 threads, for a tile; of what is loaded while products run
LOG2_E = 1.4426950408889634  # exp(x) is 2^(x · LOG2_E), and a GPU has powers of 2 only

# query, key, value, mask, seeds or None; output, the maximum and 1 / the sum of each row.
_Residuals = tuple[Any, ...]
_Ref = Any  # an array in the GPU's memory


class _Weights(NamedTuple):
    """How weights are made of queries and keys: rows without what fills their last tile, what products are
    multiplied by, the rate of dropout."""

    length: int
    scale: float
    rate: float


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 6))
def flash_attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    attention_mask: jax.Array,
    dropout_rate: float = 0.0,
    dropout_seeds: jax.Array | None = None,
    interpret: bool = False,
) -> jax.Array:
    """`attention.attention`, with the same mask of dropout and, to rounding, the same value and derivative.

    Args:
      query, key, value: [B, N, L, H].
      attention_mask: bool [B, 1 or L, L], which tokens (last axis) each token attends to.
      dropout_rate, dropout_seeds: dropout of the weights, as `dropout.dropout` has them.
      interpret: as operations of JAX, on any device.

    Returns:
      [B, N, L, H] in the dtype of the arguments. A token that attends to nothing gets a mean of all values.
    """
    return _forward(query, key, value, attention_mask, dropout_rate, dropout_seeds, interpret)[0]


def _forward(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    attention_mask: jax.Array,
    dropout_rate: float,
    dropout_seeds: jax.Array | None,
    interpret: bool,
) -> tuple[jax.Array, _Residuals]:
    inputs = query, key, value, attention_mask, dropout_seeds
    out, row_max, row_factor = _call(_forward_kernel, inputs, (), (4, 3, 3), dropout_rate, interpret)
    return out, (*inputs, out, row_max, row_factor)


def _backward(
    dropout_rate: float, interpret: bool, residuals: _Residuals, g: jax.Array
) -> tuple[jax.Array | None, ...]:
    *inputs, out, row_max, row_factor = residuals
    # Σ_s weights·d_weights, as in `attention.attention`.
    shift = (g.astype(jnp.float32) * out.astype(jnp.float32)).sum(-1)
    more = g, row_max, row_factor, shift
    return *_call(_backward_kernel, inputs, more, (4, 4, 4), dropout_rate, interpret), None, None


flash_attention.defvjp(_forward, _backward)


def _call(
    kernel: Callable[..., None],
    inputs: Sequence[Any],
    more: Sequence[jax.Array],
    outputs: Sequence[int],
    dropout_rate: float,
    interpret: bool,
) -> list[jax.Array]:
    """Runs a kernel for each tile of the rows of each head.

    Args:
      kernel: of refs to the head's query, key, value [L, H], what is added to scores [1 or L, L], seeds [2]
        and `more`, and to the tile's rows of the outputs.
      inputs: as `flash_attention` has them.
      more, outputs: arrays, and the axes of arrays: 4, [B, N, L, H], or 3, fp32 [B, N, L].
    """
    query, key, value, attention_mask, seeds = inputs
    batch, heads, length, width = query.shape
    dropout.check_row_size(heads * length * length)
    weights = _Weights(length, float(1 / np.sqrt(width)), 0.0 if seeds is None else dropout_rate)
    if seeds is None:
        seeds = jnp.zeros((batch, dropout.SEEDS_PER_ROW), jnp.uint32)
    tile = min(TILE, _power_of_two(length))
    rows, columns = pl.cdiv(length, tile) * tile, _power_of_two(width)

    def filled(x: jax.Array) -> jax.Array:
        """As kernels have it: [B, L, N, H], as the layers do, or [B, N, L]; with whole tiles of rows."""
        if x.ndim == 3:
            return jnp.pad(x, ((0, 0), (0, 0), (0, rows - x.shape[2])))
        return jnp.pad(x.swapaxes(1, 2), ((0, 0), (0, rows - length), (0, 0), (0, columns - width)))

    def cut(x: jax.Array) -> jax.Array:
        """As callers have it; what the next kernel reads keeps whole tiles."""
        return x if x.ndim == 3 else x[:, :length, :, :width].swapaxes(1, 2)

    # What fills the last tile is not attended to, not even by a token that attends to nothing.
    added = jnp.where(attention_mask, 0, jnp.finfo(jnp.bfloat16).min).astype(jnp.bfloat16)
    added = jnp.pad(added, ((0, 0), (0, 0), (0, rows - length)), constant_values=-np.inf)
    added = jnp.pad(added, ((0, 0), (0, rows - length if added.shape[1] > 1 else 0), (0, 0)))
    of_head = {
        4: pl.BlockSpec((None, rows, None, columns), lambda i, n, b: (b, 0, n, 0)),
        3: pl.BlockSpec((None, None, rows), lambda i, n, b: (b, n, 0)),
    }
    of_tile = {
        4: pl.BlockSpec((None, tile, None, columns), lambda i, n, b: (b, i, n, 0)),
        3: pl.BlockSpec((None, None, tile), lambda i, n, b: (b, n, i)),
    }
    shapes = {
        4: jax.ShapeDtypeStruct((batch, rows, heads, columns), query.dtype),
        3: jax.ShapeDtypeStruct((batch, heads, rows), jnp.float32),
    }
    results = pl.pallas_call(
        functools.partial(kernel, weights=weights),
        grid=(rows // tile, heads, batch),
        in_specs=[
            *(of_head[4],) * 3,
            pl.BlockSpec((None, *added.shape[1:]), lambda i, n, b: (b, 0, 0)),
            pl.BlockSpec((None, dropout.SEEDS_PER_ROW), lambda i, n, b: (b, 0)),
            *(of_head[x.ndim] for x in more),
        ],
        out_specs=[of_tile[axes] for axes in outputs],
        out_shape=[shapes[axes] for axes in outputs],
        interpret=interpret,
        compiler_params=None if interpret else _compiler_params(),
        name=f'flash_attention{kernel.__name__.removesuffix("_kernel")}',
    )(*map(filled, (query, key, value)), added, seeds, *map(filled, more))
    return [cut(x) for x in results]


def _compiler_params() -> Any:
    # Imported late: a future JAX is announced to be without it.
    from jax.experimental.pallas import triton

    return triton.CompilerParams(num_warps=WARPS, num_stages=STAGES)


def _power_of_two(size: int) -> int:
    """The smallest that is no smaller, nor than MIN_SIDE."""
    return max(MIN_SIDE, 1 << (size - 1).bit_length())


def _forward_kernel(
    query_ref: _Ref,
    key_ref: _Ref,
    value_ref: _Ref,
    added_ref: _Ref,
    seeds_ref: _Ref,
    out_ref: _Ref,
    max_ref: _Ref,
    factor_ref: _Ref,
    *,
    weights: _Weights,
) -> None:
    """A tile of queries against all keys."""
    i, head, (tile, width) = pl.program_id(0), pl.program_id(1), out_ref.shape
    query = query_ref[_rows(i, tile), :]

    def step(j: jax.Array, sums: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        out, row_max, row_sum = sums
        key, value = key_ref[_rows(j, tile), :], value_ref[_rows(j, tile), :]
        scores, keep = _scores(query, key, i, j, head, added_ref, seeds_ref, weights)
        new_max = jnp.maximum(row_max, scores.max(1))
        exponentials = jnp.exp2(scores - new_max[:, None])
        shrink = jnp.exp2(row_max - new_max)
        row_sum = shrink * row_sum + exponentials.sum(1)
        dropped = _kept(keep, exponentials).astype(value.dtype)
        return shrink[:, None] * out + _dot(dropped, value), new_max, row_sum

    nothing = jnp.zeros((tile, width), jnp.float32)
    start = nothing, jnp.full(tile, -jnp.inf, jnp.float32), jnp.zeros(tile, jnp.float32)
    out, row_max, row_sum = jax.lax.fori_loop(0, key_ref.shape[0] // tile, step, start)
    row_factor = 1 / row_sum
    out_ref[...] = (out * (_factor(weights, query.dtype) * row_factor)[:, None]).astype(out_ref.dtype)
    max_ref[...], factor_ref[...] = row_max, row_factor


def _backward_kernel(
    query_ref: _Ref,
    key_ref: _Ref,
    value_ref: _Ref,
    added_ref: _Ref,
    seeds_ref: _Ref,
    g_ref: _Ref,
    max_ref: _Ref,
    factor_ref: _Ref,
    shift_ref: _Ref,
    d_query_ref: _Ref,
    d_key_ref: _Ref,
    d_value_ref: _Ref,
    *,
    weights: _Weights,
) -> None:
    """A tile of keys against all queries, then the tile of queries in the same place against all keys: so
    every sum is made by one block of threads, in one order."""
    here, head, (tile, width) = pl.program_id(0), pl.program_id(1), d_query_ref.shape
    dtype, tiles = query_ref.dtype, key_ref.shape[0] // tile
    nothing = jnp.zeros((tile, width), jnp.float32)

    def tile_of(ref: _Ref, i: jax.Array) -> jax.Array:
        return ref[_rows(i, tile), :]

    def weights_and_derivative(
        query: jax.Array,
        key: jax.Array,
        value: jax.Array,
        g: jax.Array,
        i: jax.Array,
        j: jax.Array,
        keys_first: bool,
    ) -> tuple[jax.Array, jax.Array]:
        """The dropped weights of queries i and keys j, and the derivative by their scores."""
        row_max, row_factor, shift = (
            ref[_rows(i, tile)][None] if keys_first else ref[_rows(i, tile)][:, None]
            for ref in (max_ref, factor_ref, shift_ref)
        )
        scores, keep = _scores(query, key, i, j, head, added_ref, seeds_ref, weights, keys_first)
        soft = jnp.exp2(scores - row_max) * row_factor
        d_weights = _products(g, value, keys_first) * _factor(weights, jnp.float32)
        d_scores = soft * (_kept(keep, d_weights) - shift) * np.float32(weights.scale)
        dropped = _kept(keep, soft * _factor(weights, dtype))
        return dropped.astype(dtype), d_scores.astype(dtype)

    key, value = tile_of(key_ref, here), tile_of(value_ref, here)

    def by_keys(i: jax.Array, sums: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        query, g = tile_of(query_ref, i), tile_of(g_ref, i)
        dropped, d_scores = weights_and_derivative(query, key, value, g, i, here, keys_first=True)
        return sums[0] + _dot(d_scores, query), sums[1] + _dot(dropped, g)

    d_key, d_value = jax.lax.fori_loop(0, tiles, by_keys, (nothing, nothing))
    d_key_ref[...], d_value_ref[...] = d_key.astype(dtype), d_value.astype(dtype)

    query, g = tile_of(query_ref, here), tile_of(g_ref, here)

    def by_queries(j: jax.Array, d_query: jax.Array) -> jax.Array:
        key, value = tile_of(key_ref, j), tile_of(value_ref, j)
        _, d_scores = weights_and_derivative(query, key, value, g, here, j, keys_first=False)
        return d_query + _dot(d_scores, key)

    d_query_ref[...] = jax.lax.fori_loop(0, tiles, by_queries, nothing).astype(dtype)


def _scores(
    query: jax.Array,
    key: jax.Array,
    i: jax.Array,
    j: jax.Array,
    head: jax.Array,
    added_ref: _Ref,
    seeds_ref: _Ref,
    weights: _Weights,
    keys_first: bool = False,
) -> tuple[jax.Array, jax.Array | None]:
    """fp32 scores · LOG2_E of the tiles of queries i and keys j, [queries, keys] or, with `keys_first`,
    [keys, queries]; and which of their weights dropout keeps, None: all."""
    tile = query.shape[0]
    query_places, key_places = (
        place * tile + jax.lax.broadcasted_iota(jnp.int32, (tile, tile), axis)
        for place, axis in zip((i, j), (1, 0) if keys_first else (0, 1))
    )
    added = added_ref[_rows(i, tile) if added_ref.shape[0] > 1 else pl.ds(0, 1), _rows(j, tile)]
    scores = _products(query, key, keys_first) * np.float32(weights.scale * LOG2_E)
    scores += (added.T if keys_first else added).astype(jnp.float32)
    if weights.rate == 0:
        return scores, None
    length = np.uint32(weights.length)
    row = head.astype(jnp.uint32) * length + query_places.astype(jnp.uint32)
    element = row * length + key_places.astype(jnp.uint32)
    return scores, dropout.keep_elements(element, weights.rate, seeds_ref[0], seeds_ref[1])


def _kept(keep: jax.Array | None, x: jax.Array) -> jax.Array:
    return x if keep is None else jnp.where(keep, x, 0)


def _products(queries: jax.Array, keys: jax.Array, keys_first: bool) -> jax.Array:
    """fp32 of all pairs of rows."""
    return _dot(keys, queries, 1) if keys_first else _dot(queries, keys, 1)


def _dot(a: jax.Array, b: jax.Array, axis: int = 0) -> jax.Array:
    """fp32 product over the last axis of a and `axis` of b."""
    return jax.lax.dot_general(a, b, (((1,), (axis,)), ((), ())), preferred_element_type=jnp.float32)


def _factor(weights: _Weights, dtype: jnp.dtype) -> np.float32:
    """`dropout.factor`, rounded to the dtype, for fp32 arithmetic."""
    return np.float32(dropout.factor(weights.rate, dtype))


def _rows(index: jax.Array, tile: int) -> Any:
    return pl.ds(index * tile, tile)
