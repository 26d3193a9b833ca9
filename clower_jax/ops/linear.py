"""Products with weights, laid out so that every backend has a fast kernel for them and their derivatives.

XLA's CPU backend has one for products whose contracted axis is the last of the left operand, and in bf16 or
fp16 for those that accumulate into fp32 and whose operands are no transposed views. The derivative by the
weights contracts the first axes, so the left operand is transposed first, and so are the heads of attention.
`preferred_element_type` is fp32 in every product: it is what accelerators accumulate in anyway, and the
derivative by the weights then is not rounded to 16 bits on its way to the fp32 parameter.
"""

import functools

import jax
import jax.numpy as jnp


@jax.custom_vjp
def linear(x: jax.Array, kernel: jax.Array, bias: jax.Array) -> jax.Array:
    """x·kernel + bias, computed and returned in x's dtype.

    Args:
      x: [..., D].
      kernel: fp32 [D, F].
      bias: fp32 [F].

    Returns:
      [..., F]. The derivatives by kernel and bias are fp32.
    """
    out = dot(x.reshape(-1, x.shape[-1]), kernel.astype(x.dtype)) + bias
    return out.astype(x.dtype).reshape(*x.shape[:-1], -1)


def _linear_forward(
    x: jax.Array, kernel: jax.Array, bias: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return linear(x, kernel, bias), (x, kernel)


def _linear_backward(
    residuals: tuple[jax.Array, jax.Array], g: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    x, kernel = residuals
    rows, g = x.reshape(-1, x.shape[-1]), g.reshape(-1, g.shape[-1])
    dx = dot(g, kernel.astype(g.dtype), transposed=True).astype(x.dtype).reshape(x.shape)
    return dx, dot_first(rows, g), g.sum(0, dtype=jnp.float32)


linear.defvjp(_linear_forward, _linear_backward)


def dot(a: jax.Array, b: jax.Array, transposed: bool = False) -> jax.Array:
    """fp32 [M, N] = a [M, K] · b [K, N], or · bᵀ where b is [N, K] and `transposed`."""
    contracted = ((1,), (1 if transposed else 0,))
    return jax.lax.dot_general(a, b, (contracted, ((), ())), preferred_element_type=jnp.float32)


def dot_first(a: jax.Array, b: jax.Array) -> jax.Array:
    """fp32 [M, N] = aᵀ · b of a [K, M] and b [K, N]."""
    return dot(swapped(a, 0, 1), b)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def swapped(x: jax.Array, first: int, second: int) -> jax.Array:
    """x with two axes swapped, and its derivative likewise: arrays of their own where a CPU is to multiply
    them in 16 bits, for it would multiply views in fp32, at less than half the speed.

    Args:
      x: [...].
      first, second: axes of x, counted from 0.
    """

    def swap(x: jax.Array) -> jax.Array:
        return x.swapaxes(first, second)

    def copied(x: jax.Array) -> jax.Array:
        # The compiler would fold a plain transpose into the product and leave the fast kernel, or multiply in
        # fp32 instead: a branch on a number that it cannot know, though it is always below 2, keeps it.
        below_two = (x[(0,) * x.ndim] == 0).astype(jnp.int32)
        return jax.lax.cond(below_two < 2, swap, lambda x: jnp.zeros_like(swap(x)), x)

    if x.dtype == jnp.float32 or not x.size:
        return swap(x)
    return jax.lax.platform_dependent(x, cpu=copied, default=swap)


def _swapped_forward(x: jax.Array, first: int, second: int) -> tuple[jax.Array, None]:
    return swapped(x, first, second), None


def _swapped_backward(first: int, second: int, _: None, g: jax.Array) -> tuple[jax.Array]:
    return (swapped(g, first, second),)


swapped.defvjp(_swapped_forward, _swapped_backward)


@jax.custom_vjp
def rows_at(x: jax.Array, positions: jax.Array) -> jax.Array:
    """The vectors [B, P, D] at int positions [B, P] of x [B, L, D], or of x [1, L, D] for every row.

    Its derivative is a product with a one-hot matrix: a scatter would be slower where positions repeat, and
    on GPUs add up in any order.
    """
    if x.shape[0] == 1:
        return x[0][positions]
    return jnp.take_along_axis(x, positions[..., None], axis=1)


def _rows_at_forward(x: jax.Array, positions: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return rows_at(x, positions), (positions, jnp.zeros((x.shape[0], x.shape[1], 0), x.dtype))


def _rows_at_backward(residuals: tuple[jax.Array, jax.Array], g: jax.Array) -> tuple[jax.Array, None]:
    positions, like = residuals
    one_hot = (positions[..., None] == jnp.arange(like.shape[1])).astype(g.dtype)  # (B, P, L)
    if like.shape[0] == 1 and len(positions) > 1:
        dx = dot_first(one_hot.reshape(-1, one_hot.shape[-1]), g.reshape(-1, g.shape[-1]))[None]
    else:
        dx = jnp.einsum('BPL,BPD->BLD', one_hot, g, preferred_element_type=jnp.float32)
    return dx.astype(like.dtype), None


rows_at.defvjp(_rows_at_forward, _rows_at_backward)
