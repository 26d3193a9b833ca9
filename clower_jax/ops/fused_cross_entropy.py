"""The cross-entropy of a linear layer over a large vocabulary, without ever keeping its logits.

A block of rows at a time: logits, their softmax, and at once the derivatives by the vectors, the table and
the bias, which the backward pass only multiplies by a number. Three products, as with plain differentiation,
and memory for one block of logits (as in 'Liger Kernel', Hsu et al. 2024, arXiv 2410.10989).
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from clower_jax.ops.linear import dot, dot_first
from clower_jax.ops.losses import Sums
from clower_jax.parallel import sharding
from input_pipeline.text.constants import IGNORED_LABEL

# Logits of a block: 256 MiB in fp32 on CPUs, elsewhere 1 GiB, for every block reads and writes the derivative
# by the table.
CPU_BLOCK, BLOCK = 2**26, 2**28
ALIGNMENT = 128  # rows of the table that matrix units like a multiple of


def linear_cross_entropy(
    vectors: jax.Array,
    table: jax.Array,
    bias: jax.Array,
    labels: jax.Array,
    *,
    mesh: Mesh | None = None,
    block: int = 0,
) -> Sums:
    """Cross-entropy of the logits vectors·tableᵀ + bias; labels below 0 do not count.

    A prediction is right where no candidate has a larger logit than the label. Differentiable once, in
    reverse, in `vectors`, `table` and `bias`.

    Args:
      vectors: [..., D]; the products are computed in their dtype and add up in fp32.
      table: fp32 [V, D].
      bias: fp32 [V].
      labels: int [...].
      mesh: where the rows lie over `sharding.BATCH_AXES` of several devices: each then works through its own.
      block: logits that exist at a time, on one device; 0: as the device has memory.
    """
    rows = vectors.reshape(-1, vectors.shape[-1])
    on_cpu = sharding.mesh_platform(mesh) == 'cpu'
    alignment = 1 if on_cpu else ALIGNMENT  # a CPU has no preference, and copying costs time
    block = block or (CPU_BLOCK if on_cpu else BLOCK)
    plan = _Plan(mesh if mesh and mesh.size > 1 else None, block, alignment)
    return Sums(*_sums(plan, rows, table, bias, labels.reshape(-1)))


class _Plan(NamedTuple):
    mesh: Mesh | None
    block: int
    alignment: int


_SumTriple = tuple[jax.Array, jax.Array, jax.Array]  # loss, correct, count: fp32 scalars
_Gradients = tuple[jax.Array, jax.Array, jax.Array]  # of the loss, by vectors, by table, by bias
_Carry = tuple[jax.Array, tuple[jax.Array, jax.Array]]  # the sums [3]; by table, by bias


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _sums(
    plan: _Plan, vectors: jax.Array, table: jax.Array, bias: jax.Array, labels: jax.Array
) -> _SumTriple:
    return _on_devices(plan, vectors, table, bias, labels, gradients=False)[0]


def _forward(
    plan: _Plan, vectors: jax.Array, table: jax.Array, bias: jax.Array, labels: jax.Array
) -> tuple[_SumTriple, _Gradients]:
    sums, gradients = _on_devices(plan, vectors, table, bias, labels, gradients=True)
    return sums, gradients


def _backward(plan: _Plan, gradients: _Gradients, cotangents: _SumTriple) -> tuple[jax.Array | None, ...]:
    scaled = (d.astype(jnp.float32) * cotangents[0] for d in gradients)
    return *(new.astype(d.dtype) for new, d in zip(scaled, gradients)), None


_sums.defvjp(_forward, _backward)


def _on_devices(
    plan: _Plan,
    vectors: jax.Array,
    table: jax.Array,
    bias: jax.Array,
    labels: jax.Array,
    *,
    gradients: bool,
) -> tuple[_SumTriple, _Gradients]:
    """Sums and derivatives over all devices."""
    blockwise = functools.partial(_blockwise, plan.block, plan.alignment, gradients)
    if plan.mesh is None:
        return blockwise(vectors, table, bias, labels)
    if plan.mesh.shape['tensor'] > 1:  # the table is split over devices: one block, divided by the compiler
        return functools.partial(_blockwise, vectors.shape[0] * table.shape[0], plan.alignment, gradients)(
            vectors, table, bias, labels
        )

    def device_step(*arrays: jax.Array) -> tuple[_SumTriple, _Gradients]:
        sums, (d_vectors, *d_parameters) = blockwise(*arrays)
        d_table, d_bias = jax.lax.psum(d_parameters, sharding.BATCH_AXES)
        return jax.lax.psum(sums, sharding.BATCH_AXES), (d_vectors, d_table, d_bias)

    rows, replicated = P(sharding.BATCH_AXES), P()
    return jax.shard_map(
        device_step,
        mesh=plan.mesh,
        in_specs=(rows, replicated, replicated, rows),
        out_specs=(replicated, (rows, replicated, replicated)),
        check_vma=False,
    )(vectors, table, bias, labels)


def _blockwise(
    block: int,
    alignment: int,
    gradients: bool,
    vectors: jax.Array,
    table: jax.Array,
    bias: jax.Array,
    labels: jax.Array,
) -> tuple[_SumTriple, _Gradients]:
    """As `_on_devices`, on one; the derivatives are zeros of the right shape where they are not wanted."""
    num_rows, hidden_size = vectors.shape
    vocab_size = len(table)
    padding = -vocab_size % alignment
    padded = jnp.pad(table.astype(vectors.dtype), ((0, padding), (0, 0)))
    padded_bias = jnp.pad(bias, (0, padding), constant_values=-np.inf)
    blocks = max(1, -(-num_rows * vocab_size // block))
    per_block = -(-num_rows // blocks)
    vectors = jnp.pad(vectors, ((0, blocks * per_block - num_rows), (0, 0)))
    labels = jnp.pad(labels, (0, blocks * per_block - num_rows), constant_values=IGNORED_LABEL)

    def block_step(
        sums: jax.Array, d_parameters: tuple[jax.Array, jax.Array], rows: jax.Array, labels: jax.Array
    ) -> tuple[jax.Array, tuple[jax.Array, jax.Array], jax.Array]:
        logits = dot(rows, padded, transposed=True) + padded_bias
        valid = labels >= 0
        target = jnp.take_along_axis(logits, jnp.maximum(labels, 0)[:, None], axis=1)
        row_max, total = jax.lax.platform_dependent(
            logits, cuda=softmax_sums_in_one_pass, default=softmax_sums
        )
        loss = jnp.where(valid, (jnp.log(total) + row_max - target)[:, 0], 0).sum()
        correct = (valid & (target >= row_max)[:, 0]).sum()
        sums = sums + jnp.stack([loss, correct.astype(jnp.float32), valid.sum().astype(jnp.float32)])
        if not gradients:
            return sums, d_parameters, jnp.zeros_like(rows)
        is_target = jnp.arange(vocab_size + padding) == labels[:, None]
        d_logits = jnp.where(valid[:, None], jnp.exp(logits - row_max) / total - is_target, 0).astype(
            rows.dtype
        )
        d_table, d_bias = d_parameters
        d_table = d_table + dot_first(d_logits, rows)
        d_bias = d_bias + jax.lax.platform_dependent(d_logits, cpu=sum_by_product, default=sum_of_rows)
        return sums, (d_table, d_bias), dot(d_logits, padded).astype(rows.dtype)

    shapes = ((vocab_size + padding, hidden_size), (vocab_size + padding,)) if gradients else ((0, 0), (0,))
    zeros = jnp.zeros(shapes[0]), jnp.zeros(shapes[1])
    if blocks == 1:
        sums, d_parameters, d_vectors = block_step(jnp.zeros(3), zeros, vectors, labels)
    else:

        def step(carry: _Carry, of_block: tuple[jax.Array, jax.Array]) -> tuple[_Carry, jax.Array]:
            sums, d_parameters, d_rows = block_step(*carry, *of_block)
            return (sums, d_parameters), d_rows

        split = jax.tree.map(lambda x: x.reshape(blocks, per_block, *x.shape[1:]), (vectors, labels))
        (sums, d_parameters), d_vectors = jax.lax.scan(step, (jnp.zeros(3), zeros), split)
    d_vectors = d_vectors.reshape(-1, hidden_size)[:num_rows]
    d_table, d_bias = d_parameters
    return tuple(sums), (d_vectors, d_table[:vocab_size], d_bias[:vocab_size])


def softmax_sums(logits: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Of each row of fp32 [N, V] its largest value and Σ exp(logit − that value), both [N, 1]."""
    row_max = jnp.max(logits, axis=1, keepdims=True)
    return row_max, jnp.exp(logits - row_max).sum(1, keepdims=True)


def softmax_sums_in_one_pass(logits: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The same in one pass, which is what counts on GPUs: sums of parts are scaled to the larger maximum
    (Milakov and Gimelshein 2018, arXiv 1805.02867)."""

    def joined(a: tuple[jax.Array, ...], b: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        largest = jnp.maximum(a[0], b[0])
        of_a, of_b = (total * jnp.exp(part_max - largest) for part_max, total in (a, b))
        return largest, of_a + of_b

    lowest = np.finfo(np.float32).min  # not -inf, whose difference with itself is no number
    logits = jnp.maximum(logits, lowest)
    start = lowest, np.float32(0)
    row_max, total = jax.lax.reduce((logits, jnp.ones_like(logits)), start, joined, (1,))
    return row_max[:, None], total[:, None]


def sum_of_rows(x: jax.Array) -> jax.Array:
    """fp32 [V] of x [N, V]; on GPUs a by-product of the kernel that makes x."""
    return x.sum(0, dtype=jnp.float32)


def sum_by_product(x: jax.Array) -> jax.Array:
    """The same, faster on CPUs."""
    return dot(jnp.ones((1, len(x)), x.dtype), x)[0]
