"""The losses, as pure functions of arrays. Everything is computed in fp32.

Each returns sums and counts rather than means, so that means over several batches are exact.
"""

import flax.struct
import jax
import jax.numpy as jnp


class Sums(flax.struct.PyTreeNode):
    """A loss over `count` items: its sum and the number of them that were predicted right (fp32 scalars)."""

    loss: jax.Array
    correct: jax.Array
    count: jax.Array


def masked_cross_entropy(logits: jax.Array, labels: jax.Array) -> Sums:
    """Cross-entropy of logits [..., C] against int labels [...]; labels below 0 do not count."""
    logits = logits.astype(jnp.float32)
    valid = labels >= 0
    target = jnp.take_along_axis(logits, jnp.maximum(labels, 0)[..., None], axis=-1)[..., 0]
    loss = jax.nn.logsumexp(logits, axis=-1) - target
    correct = valid & (jnp.argmax(logits, axis=-1) == labels)
    return Sums(
        *(x.astype(jnp.float32) for x in (jnp.where(valid, loss, 0).sum(), correct.sum(), valid.sum()))
    )


def symmetric_divergence(a: jax.Array, b: jax.Array, valid: jax.Array) -> tuple[jax.Array, jax.Array]:
    """½ (KL(P‖Q) + KL(Q‖P)) of the distributions that logits `a` and `b` [..., C] give, added up where bool
    `valid` [...], and how many that are; fp32 scalars. R-Drop's term (Liang et al. 2021, arXiv 2106.14448,
    equation 2)."""
    log_p, log_q = (jax.nn.log_softmax(x.astype(jnp.float32)) for x in (a, b))
    both = 0.5 * ((jnp.exp(log_p) - jnp.exp(log_q)) * (log_p - log_q)).sum(-1)
    return jnp.where(valid, both, 0.0).sum(), valid.sum().astype(jnp.float32)


def symmetric_binary_divergence(a: jax.Array, b: jax.Array, valid: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The same of the Bernoulli distributions whose log odds `a` and `b` are; all [...]."""
    a, b = a.astype(jnp.float32), b.astype(jnp.float32)
    both = 0.5 * (jax.nn.sigmoid(a) - jax.nn.sigmoid(b)) * (a - b)
    return jnp.where(valid, both, 0.0).sum(), valid.sum().astype(jnp.float32)


def masked_binary_cross_entropy(logits: jax.Array, labels: jax.Array) -> Sums:
    """Binary cross-entropies of logits against int labels 0 and 1, both [..., C], counted each by itself;
    labels below 0 do not count. Right is a probability on the label's side of one half."""
    logits = logits.astype(jnp.float32)
    valid = labels >= 0
    loss = jax.nn.softplus(jnp.where(labels > 0, -logits, logits))
    correct = valid & ((logits > 0) == (labels > 0))
    return Sums(
        *(x.astype(jnp.float32) for x in (jnp.where(valid, loss, 0).sum(), correct.sum(), valid.sum()))
    )


def masked_squared_error(predictions: jax.Array, targets: jax.Array) -> Sums:
    """Squared errors of predictions against targets, both [...]; targets that are NaN do not count. Nothing
    is right or wrong."""
    valid = ~jnp.isnan(targets)
    error = predictions.astype(jnp.float32) - jnp.where(valid, targets, 0)
    loss = jnp.where(valid, error * error, 0).sum()
    return Sums(loss, jnp.zeros(()), valid.sum().astype(jnp.float32))


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


def info_nce(
    a: jax.Array,
    b: jax.Array,
    valid: jax.Array,
    temperature: float,
    *,
    within: bool = True,
    with_positive: bool = True,
) -> Sums:
    """Symmetric InfoNCE between two sides of N items, all scores kept: for thousands of items at most (for
    more, and for CLOWER's contrast between views, see `nt_xent.nt_xent`).

    With s(x, y) = cos(x, y) / temperature, the loss of a pair (a_i, b_i) is the mean over its two directions
    of −s(a_i, b_i) + log Σ_c exp s(a_i, c). The candidates c are the real b_j; with `within` also the real
    a_j, j ≠ i: with the 2N − 1 candidates this is the loss of SimCLR (Chen et al. 2020) and of Mirror-BERT
    (Liu et al. 2021, arXiv 2104.08027, equation 2). Without `with_positive` the positive b_i is no candidate:
    the gradient then does not vanish where the positive is far above all others, and the loss may be
    negative. A direction without any candidate does not count, nor does a pair that is not real.

    Args:
      a, b: [N, D], the two sides.
      valid: bool [N]; the others have no weight and are nobody's negative.

    Returns:
      Sums over pairs. A direction counts as right where the positive is above every other candidate.
    """
    count = len(a)
    vectors = jnp.concatenate([a, b]).astype(jnp.float32)
    # The square is floored under the root: a zero vector has a derivative of 0, not of NaN. The floor is so
    # high that its own derivative, floor^(−3/2), is finite.
    squares = jnp.maximum((vectors * vectors).sum(-1, keepdims=True), 1e-24)
    unit = vectors * jax.lax.rsqrt(squares)
    scores = jnp.matmul(unit, unit.T, precision='highest') / temperature
    item = jnp.arange(2 * count) % count
    is_first_side = jnp.arange(2 * count) < count
    both_valid = jnp.tile(valid, 2)
    other_side = is_first_side[:, None] != is_first_side[None, :]
    same_item = item[:, None] == item[None, :]
    is_negative = both_valid[None, :] & ~same_item & (other_side | within)
    is_candidate = is_negative | (same_item & other_side & with_positive)
    positive = jnp.where(same_item & other_side, scores, 0).sum(-1)
    min_score = jnp.finfo(jnp.float32).min
    has_candidate = is_candidate.any(-1)
    total = jax.nn.logsumexp(jnp.where(is_candidate | ~has_candidate[:, None], scores, min_score), axis=-1)
    counted = both_valid & has_candidate
    loss = jnp.where(counted, total - positive, 0).sum() / 2
    correct = counted & (positive > jnp.where(is_negative, scores, min_score).max(-1))
    return Sums(*(x.astype(jnp.float32) for x in (loss, correct.sum() / 2, counted.sum() / 2)))
