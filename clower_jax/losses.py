"""The losses, as pure functions of arrays. Everything is computed in fp32.

Each returns sums and counts rather than means, so that means over several batches are exact.
"""

import flax.struct
import jax
import jax.numpy as jnp

IGNORED_LABEL = -100


@flax.struct.dataclass
class Sums:
    """A loss over `count` items: its sum and the number of them that were predicted right (fp32 scalars)."""

    loss: jax.Array
    correct: jax.Array
    count: jax.Array


def masked_cross_entropy(logits: jax.Array, labels: jax.Array) -> Sums:
    """Cross-entropy of logits [..., C] against int labels [...]; labels below 0 do not count."""
    logits = logits.astype(jnp.float32)
    real = labels >= 0
    target = jnp.take_along_axis(logits, jnp.maximum(labels, 0)[..., None], axis=-1)[..., 0]
    loss = jax.nn.logsumexp(logits, axis=-1) - target
    correct = real & (jnp.argmax(logits, axis=-1) == labels)
    return Sums(*(x.astype(jnp.float32) for x in (jnp.where(real, loss, 0).sum(), correct.sum(), real.sum())))


def span_means(hidden: jax.Array, start: jax.Array, length: jax.Array) -> jax.Array:
    """The mean of the vectors of each span (p_i of the paper).

    Args:
      hidden: [B, L, D].
      start, length: int [B, K]; a span of length 0 gives a zero vector.

    Returns:
      fp32 [B, K, D].
    """
    # A product with a [K, L] averaging matrix: the gradient needs no scatter, so it is deterministic on GPUs.
    offset = jnp.arange(hidden.shape[1]) - start[..., None]  # (B, K, L)
    inside = (offset >= 0) & (offset < length[..., None])
    weights = inside / jnp.maximum(length, 1)[..., None].astype(jnp.float32)
    return jnp.einsum('BKL,BLD->BKD', weights, hidden.astype(jnp.float32), precision='highest')
