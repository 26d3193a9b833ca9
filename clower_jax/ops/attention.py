"""Scaled dot-product attention (Vaswani et al. 2017) with a derivative of its own."""

import functools
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from clower_jax.ops.dropout import dropout
from clower_jax.ops.linear import swapped

# query, key, value, weights, output, seeds of dropout.
_Residuals = tuple[jax.Array, jax.Array, jax.Array, jax.Array, jax.Array, jax.Array | None]


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    attention_mask: jax.Array,
    dropout_rate: float = 0.0,
    dropout_seeds: jax.Array | None = None,
) -> jax.Array:
    """softmax(query·keyᵀ / √H)·value, scores and softmax in fp32.

    Args:
      query, key, value: [B, N, L, H].
      attention_mask: bool [B, 1 or L, L], which tokens (last axis) each token attends to.
      dropout_rate, dropout_seeds: dropout of the weights, as `dropout.dropout` has them.

    Returns:
      [B, N, L, H] in the dtype of the arguments. A token that attends to nothing gets a mean of all values.
    """
    return _forward(query, key, value, attention_mask, dropout_rate, dropout_seeds)[0]


def _forward(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    attention_mask: jax.Array,
    dropout_rate: float,
    dropout_seeds: jax.Array | None,
) -> tuple[jax.Array, _Residuals]:
    scores = _dot('BNTH,BNSH->BNTS', query, key) * _scale(query)
    scores = jnp.where(attention_mask[:, None], scores, jnp.finfo(jnp.float32).min)
    weights = jax.nn.softmax(scores, axis=-1).astype(query.dtype)
    out = _dot('BNTS,BNSH->BNTH', dropout(weights, dropout_rate, dropout_seeds), value).astype(query.dtype)
    return out, (query, key, value, weights, out, dropout_seeds)


def _backward(dropout_rate: float, residuals: _Residuals, g: jax.Array) -> tuple[jax.Array | None, ...]:
    query, key, value, weights, out, dropout_seeds = residuals
    # Σ_s weights·d_weights is g·out, dropout or not: no sum over the whole matrix is needed.
    shift = (g.astype(jnp.float32) * out.astype(jnp.float32)).sum(-1, keepdims=True)
    d_weights = dropout(_dot('BNTH,BNSH->BNTS', g, value), dropout_rate, dropout_seeds)
    d_scores = (weights.astype(jnp.float32) * (d_weights - shift) * _scale(query)).astype(query.dtype)
    d_query = _dot('BNTS,BNSH->BNTH', d_scores, key)
    d_key = _dot('BNST,BNTH->BNSH', swapped(d_scores, 2, 3), query)
    d_value = _dot('BNST,BNTH->BNSH', swapped(dropout(weights, dropout_rate, dropout_seeds), 2, 3), g)
    return *(d.astype(query.dtype) for d in (d_query, d_key, d_value)), None, None


attention.defvjp(_forward, _backward)


def library_attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    attention_mask: jax.Array,
    implementation: Literal['cudnn', 'xla'],
) -> jax.Array:
    """`attention` without dropout by `jax.nn.dot_product_attention`: 'cudnn' (bf16 and fp16 on NVIDIA GPUs,
    without an [L, L] array in memory) or 'xla'. Rows of one text go by their lengths; a token of no text
    gets zeros or a mean of values."""
    query, key, value = (x.swapaxes(1, 2) for x in (query, key, value))
    lengths = attention_mask[:, 0].sum(-1, dtype=jnp.int32) if attention_mask.shape[1] == 1 else None
    out = jax.nn.dot_product_attention(
        query,
        key,
        value,
        mask=attention_mask[:, None] if lengths is None else None,
        query_seq_lengths=lengths,
        key_value_seq_lengths=lengths,
        implementation=implementation,
    )
    return out.swapaxes(1, 2)


def fused_attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    attention_mask: jax.Array,
    dropout_rate: float = 0.0,
    dropout_seeds: jax.Array | None = None,
) -> jax.Array:
    """`attention` on NVIDIA GPUs, in 16 bits, without scores or weights in memory: cuDNN's, or a kernel of
    ours where weights are dropped (and for packed rows of odd length, which cuDNN does not take)."""
    drops = dropout_seeds is not None and dropout_rate > 0
    if drops or (attention_mask.shape[1] > 1 and query.shape[2] % 2):
        from clower_jax.ops.flash_attention import flash_attention  # Pallas, which takes a while to import

        return flash_attention(query, key, value, attention_mask, dropout_rate, dropout_seeds)
    return library_attention(query, key, value, attention_mask, 'cudnn')


def _dot(equation: str, a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.einsum(equation, a, b, preferred_element_type=jnp.float32)


def _scale(query: jax.Array) -> np.float32:
    return np.float32(1 / np.sqrt(query.shape[-1]))
