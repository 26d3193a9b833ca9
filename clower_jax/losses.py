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


def nt_xent(
    a: jax.Array,
    b: jax.Array,
    real: jax.Array,
    temperature: float,
    ids: jax.Array | None = None,
    groups: int = 1,
) -> Sums:
    """Symmetric NT-Xent between two views (the paper, equations 2–4).

    With s_ij = cos(a_i, b_j) / temperature, the loss of pair i is the mean of −log softmax_j(s_ij)[i] and
    −log softmax_j(s_ji)[i], over the real j. A pair counts as right to the share of the two directions in
    which its own partner is the most similar one.

    Args:
      a, b: [N, D], the two views of N items.
      real: bool [N]; the others have no weight and are nobody's negative.
      ids: int [N]; where given, items of equal id are not negatives of each other (they are the same word).
      groups: items are contrasted within each of this many equal runs of the batch only.
    """
    if a.shape[0] % groups:
        raise ValueError(f'{a.shape[0]} items do not divide into {groups} groups of negatives')

    def one_group(a, b, real, ids):
        a, b = _unit(a), _unit(b)
        scores = jnp.einsum('ND,MD->NM', a, b, precision='highest') / temperature
        negative = real[:, None] & real[None, :]
        if ids is not None:
            negative &= ids[:, None] != ids[None, :]
        keep = negative | jnp.eye(len(a), dtype=bool)
        scores = jnp.where(keep, scores, jnp.finfo(jnp.float32).min)
        own = jnp.diagonal(scores)
        item = jnp.arange(len(a))
        directions = (0, 1)
        loss = sum(0.5 * (jax.nn.logsumexp(scores, axis=axis) - own) for axis in directions)
        correct = sum(0.5 * (jnp.argmax(scores, axis=axis) == item) for axis in directions)
        return tuple(jnp.where(real, x, 0.0).sum() for x in (loss, correct, 1.0))

    split = jax.tree.map(lambda x: x.reshape(groups, -1, *x.shape[1:]), (a, b, real, ids))
    return Sums(*(x.sum() for x in jax.vmap(one_group)(*split)))


def _unit(x: jax.Array) -> jax.Array:
    """x / |x| along the last axis in fp32; a zero vector stays zero, with a zero gradient."""
    x = x.astype(jnp.float32)
    square = jnp.sum(x * x, axis=-1, keepdims=True)
    return jnp.where(square > 0, x * jax.lax.rsqrt(jnp.where(square > 0, square, 1.0)), 0.0)
