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
from jax.sharding import Mesh, PartitionSpec

from clower_jax.ops.linear import dot, dot_first
from clower_jax.ops.losses import Sums
from clower_jax.parallel import sharding
from input_pipeline.text.constants import IGNORED_LABEL

BLOCK = 2**26  # logits of a block: 256 MiB in fp32
ALIGNMENT = 128  # rows of the table that matrix units like a multiple of


def linear_cross_entropy(
    vectors: jax.Array,
    table: jax.Array,
    bias: jax.Array,
    labels: jax.Array,
    *,
    mesh: Mesh | None = None,
    block: int = BLOCK,
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
      block: logits that exist at a time, on one device.
    """
    rows = vectors.reshape(-1, vectors.shape[-1])
    aligned = sharding.platform_of(mesh) != 'cpu'  # which has no preference, and copying costs time
    plan = _Plan(mesh if mesh and mesh.size > 1 else None, block, ALIGNMENT if aligned else 1)
    return Sums(*_sums(plan, rows, table, bias, labels.reshape(-1)))


class _Plan(NamedTuple):
    mesh: Mesh | None
    block: int
    alignment: int


_Sums = tuple[jax.Array, jax.Array, jax.Array]  # loss, correct, count: fp32 scalars
_Derivatives = tuple[jax.Array, jax.Array, jax.Array]  # of the loss, by vectors, by table, by bias
_Carry = tuple[jax.Array, tuple[jax.Array, jax.Array]]  # the sums [3]; by table, by bias


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _sums(plan: _Plan, vectors: jax.Array, table: jax.Array, bias: jax.Array, labels: jax.Array) -> _Sums:
    return _on_devices(plan, vectors, table, bias, labels, derivatives=False)[0]


def _forward(
    plan: _Plan, vectors: jax.Array, table: jax.Array, bias: jax.Array, labels: jax.Array
) -> tuple[_Sums, _Derivatives]:
    sums, derivatives = _on_devices(plan, vectors, table, bias, labels, derivatives=True)
    return sums, derivatives


def _backward(plan: _Plan, derivatives: _Derivatives, cotangents: _Sums) -> tuple[jax.Array | None, ...]:
    scaled = (d.astype(jnp.float32) * cotangents[0] for d in derivatives)
    return *(new.astype(d.dtype) for new, d in zip(scaled, derivatives)), None


_sums.defvjp(_forward, _backward)


def _on_devices(
    plan: _Plan,
    vectors: jax.Array,
    table: jax.Array,
    bias: jax.Array,
    labels: jax.Array,
    *,
    derivatives: bool,
) -> tuple[_Sums, _Derivatives]:
    """Sums and derivatives over all devices."""
    work = functools.partial(_work, plan.block, plan.alignment, derivatives)
    if plan.mesh is None:
        return work(vectors, table, bias, labels)
    if plan.mesh.shape['tensor'] > 1:  # the table is split over devices: one block, divided by the compiler
        return functools.partial(_work, vectors.shape[0] * table.shape[0], plan.alignment, derivatives)(
            vectors, table, bias, labels
        )

    def of_device(*arrays: jax.Array) -> tuple[_Sums, _Derivatives]:
        sums, (by_vectors, *by_parameters) = work(*arrays)
        by_table, by_bias = jax.lax.psum(by_parameters, sharding.BATCH_AXES)
        return jax.lax.psum(sums, sharding.BATCH_AXES), (by_vectors, by_table, by_bias)

    rows, whole = PartitionSpec(sharding.BATCH_AXES), PartitionSpec()
    return jax.shard_map(
        of_device,
        mesh=plan.mesh,
        in_specs=(rows, whole, whole, rows),
        out_specs=(whole, (rows, whole, whole)),
        check_vma=False,
    )(vectors, table, bias, labels)


def _work(
    block: int,
    alignment: int,
    derivatives: bool,
    vectors: jax.Array,
    table: jax.Array,
    bias: jax.Array,
    labels: jax.Array,
) -> tuple[_Sums, _Derivatives]:
    """As `_on_devices`, on one; the derivatives are zeros of the right shape where they are not wanted."""
    number, width = vectors.shape
    size = len(table)
    missing = -size % alignment
    padded = jnp.pad(table.astype(vectors.dtype), ((0, missing), (0, 0)))
    padded_bias = jnp.pad(bias, (0, missing), constant_values=-np.inf)
    blocks = max(1, -(-number * size // block))
    per_block = -(-number // blocks)
    vectors = jnp.pad(vectors, ((0, blocks * per_block - number), (0, 0)))
    labels = jnp.pad(labels, (0, blocks * per_block - number), constant_values=IGNORED_LABEL)

    def one(
        sums: jax.Array, by_parameters: tuple[jax.Array, jax.Array], rows: jax.Array, labels: jax.Array
    ) -> tuple[jax.Array, tuple[jax.Array, jax.Array], jax.Array]:
        logits = dot(rows, padded, transposed=True) + padded_bias
        real = labels >= 0
        target = jnp.take_along_axis(logits, jnp.maximum(labels, 0)[:, None], axis=1)
        shifted = jnp.max(logits, axis=1, keepdims=True)
        exponentials = jnp.exp(logits - shifted)
        total = exponentials.sum(1, keepdims=True)
        loss = jnp.where(real, (jnp.log(total) + shifted - target)[:, 0], 0).sum()
        correct = (real & (target >= shifted)[:, 0]).sum()
        sums = sums + jnp.stack([loss, correct.astype(jnp.float32), real.sum().astype(jnp.float32)])
        if not derivatives:
            return sums, by_parameters, jnp.zeros_like(rows)
        chosen = jnp.arange(size + missing) == labels[:, None]
        by_logits = jnp.where(real[:, None], exponentials / total - chosen, 0).astype(rows.dtype)
        by_table, by_bias = by_parameters
        by_table = by_table + dot_first(by_logits, rows)
        ones = jnp.ones((1, len(rows)), rows.dtype)  # on a CPU the product is faster than a sum of rows
        by_bias = by_bias + dot(ones, by_logits)[0]
        return sums, (by_table, by_bias), dot(by_logits, padded).astype(rows.dtype)

    shapes = ((size + missing, width), (size + missing,)) if derivatives else ((0, 0), (0,))
    zeros = jnp.zeros(shapes[0]), jnp.zeros(shapes[1])
    if blocks == 1:
        sums, by_parameters, by_vectors = one(jnp.zeros(3), zeros, vectors, labels)
    else:

        def step(carry: _Carry, of_block: tuple[jax.Array, jax.Array]) -> tuple[_Carry, jax.Array]:
            sums, by_parameters, by_rows = one(*carry, *of_block)
            return (sums, by_parameters), by_rows

        split = jax.tree.map(lambda x: x.reshape(blocks, per_block, *x.shape[1:]), (vectors, labels))
        (sums, by_parameters), by_vectors = jax.lax.scan(step, (jnp.zeros(3), zeros), split)
    by_vectors = by_vectors.reshape(-1, width)[:number]
    by_table, by_bias = by_parameters
    return tuple(sums), (by_vectors, by_table[:size], by_bias[:size])
