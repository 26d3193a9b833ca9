"""Symmetric NT-Xent (the paper, equations 2–4), its memory linear in the number of items, on any mesh.

The dense way keeps all scores, arrays of [N, N]. Here they exist a tile at a time: the forward pass keeps two
log-sum-exps for each item, and the derivative makes every tile again from them, as Dao et al. 2022 do for
attention. Value and gradient are those of the dense formula.

That is four products of N·N·D in all, of which the dense way needs three. Where all scores are one tile, the
compiler makes them once, and this is the dense way. Each of d devices makes N/d rows of scores, and in the
backward pass as many columns too, so that no gradients have to be sent.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from clower_jax.ops.losses import Sums
from clower_jax.parallel import sharding

# Up to here the scores of a tile are a few arrays of 64 MiB, and a product is large enough to fill a GPU.
TILE = 4096
LOWEST, TINIEST = float(jnp.finfo(jnp.float32).min), float(jnp.finfo(jnp.float32).tiny)


def nt_xent(
    a: jax.Array,
    b: jax.Array,
    real: jax.Array,
    temperature: float,
    ids: jax.Array | None = None,
    *,
    groups: int = 1,
    mesh: Mesh | None = None,
    tile: int = TILE,
    operands: str = 'float32',
) -> Sums:
    """Symmetric NT-Xent between two views (the paper, equations 2–4).

    With s_ij = cos(a_i, b_j) / temperature, the loss of pair i is the mean of −log softmax_j(s_ij)[i] and
    −log softmax_j(s_ji)[i], over the real j. A pair counts as right to the share of the two directions in
    which its own partner is the most similar one (of equal ones the first is).

    It can be differentiated once, in reverse mode, by `a` and `b`. Temporary memory is O(N·D + tile²).

    Args:
      a, b: [N, D], the two views of N items.
      real: bool [N]; the others have no weight and are nobody's negative.
      ids: int [N]; where given, items of equal id are not negatives of each other (they are the same word).
      groups: items are contrasted within each of this many equal runs of the batch only.
      mesh: on several devices, the mesh over whose `sharding.BATCH_AXES` the items lie. It changes no value.
        A single group is contrasted across all devices: each view is gathered once. More groups than one lie
        whole on a device each.
      tile: the longest side of a tile of scores. For fewer items than that all scores are one tile.
      operands: the dtype of the factors of all products; sums are fp32. 'float32' is exact; 'bfloat16' rounds
        the unit vectors and the derivatives of the scores, for devices with bf16 matrix units.

    Raises:
      ValueError: the items do not divide into groups, or items or groups not over the devices; an unknown
        `operands`.
    """
    mesh = mesh if mesh is not None and mesh.size > 1 else None
    shards = sharding.data_shards(mesh) if mesh else 1
    if operands not in ('float32', 'bfloat16'):
        raise ValueError(f'operands={operands!r} must be float32 or bfloat16')
    if len(a) % groups:
        raise ValueError(f'{len(a)} items do not divide into {groups} groups of negatives')
    if len(a) % shards or (groups > 1 and groups % shards):
        raise ValueError(
            f'{len(a)} items in {groups} groups of negatives do not divide over {shards} shards of data: '
            f'take a multiple of {shards} items, in one group or in a multiple of {shards}'
        )
    plan = _Plan(float(temperature), groups, mesh, tile, jnp.dtype(operands))
    return Sums(*_sums(plan, a, b, real, jnp.arange(len(a)) if ids is None else ids))


class _Plan(NamedTuple):
    """What is known before any array is."""

    temperature: float
    groups: int
    mesh: Mesh | None
    tile: int
    operands: jnp.dtype

    @property
    def shards(self) -> int:
        """The number of parts that the items lie in."""
        return sharding.data_shards(self.mesh) if self.mesh else 1

    @property
    def axes(self) -> tuple[str, ...]:
        """The mesh axes that a group of items lies across; none where it is whole on a device."""
        return sharding.BATCH_AXES if self.groups == 1 and self.shards > 1 else ()


class _Items(NamedTuple):
    """Items in K tiles of T, the last ones padding; or one of these tiles."""

    units: jax.Array  # [K, T, D], unit vectors in the dtype of the products
    real: jax.Array  # bool [K, T]
    ids: jax.Array  # int [K, T]
    place: jax.Array  # int [K, T], which item of the group it is


class _Softmaxes(NamedTuple):
    """What the derivative needs to know about a device's own items, fp32 [K, T]."""

    lse_a: jax.Array  # log Σ_j exp(s_ij), the partner included
    lse_b: jax.Array  # log Σ_j exp(s_ji)
    pull: jax.Array  # Σ over both directions of softmax_i − 1: the loss's derivative by s_ii


T = TypeVar('T')
F = TypeVar('F', bound=Callable)
_Scalars = tuple[jax.Array, jax.Array, jax.Array]  # loss, correct, count, in fp32
_Kept = tuple[jax.Array, jax.Array, jax.Array, jax.Array, _Softmaxes, _Items | None]
_Seen = tuple[jax.Array, jax.Array]  # fp32 [T] each; see `_meet`
_Sides = tuple[jax.Array, jax.Array | None]  # the sums of a row of tiles and, if wanted, of all columns


# ---- value and derivative, device by device ----


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _sums(plan: _Plan, a: jax.Array, b: jax.Array, real: jax.Array, ids: jax.Array) -> _Scalars:
    return _forward(plan, a, b, real, ids)[0]


@functools.partial(jax.jit, static_argnums=0)
def _forward(
    plan: _Plan, a: jax.Array, b: jax.Array, real: jax.Array, ids: jax.Array
) -> tuple[_Scalars, _Kept]:
    """The sums, and all that the derivative starts from."""

    def on_device(*arrays: jax.Array) -> tuple[jax.Array, _Softmaxes, _Items | None]:
        sums, softmaxes, columns = _each_group(functools.partial(_forward_group, plan), *_split(plan, arrays))
        sums = sums.sum(0)
        return jax.lax.psum(sums, sharding.BATCH_AXES) if plan.mesh else sums, softmaxes, columns

    sums, softmaxes, columns = _on_devices(plan, on_device, 'rrrr', 'wrw')(a, b, real, ids)
    return tuple(sums), (a, b, real, ids, softmaxes, columns)


def _backward(plan: _Plan, kept: _Kept, cotangents: _Scalars) -> tuple[jax.Array | None, ...]:
    return *_gradients(plan, cotangents[0], *kept), None, None


_sums.defvjp(_forward, _backward)


@functools.partial(jax.jit, static_argnums=0)
def _gradients(
    plan: _Plan,
    cotangent: jax.Array,
    a: jax.Array,
    b: jax.Array,
    real: jax.Array,
    ids: jax.Array,
    softmaxes: _Softmaxes,
    columns: _Items | None,
) -> tuple[jax.Array, ...]:
    """The gradients of a and b, from what `_forward` kept and the cotangent of the loss (fp32 scalar)."""

    def on_device(
        cotangent: jax.Array,
        a: jax.Array,
        b: jax.Array,
        real: jax.Array,
        ids: jax.Array,
        softmaxes: _Softmaxes,
        columns: _Items | None,
    ) -> tuple[jax.Array, ...]:
        function = functools.partial(_backward_group, plan)
        by_units = _each_group(function, *_split(plan, (a, b, real, ids)), softmaxes, columns)
        scale = cotangent * (0.5 / plan.temperature)
        return tuple(jax.vjp(_unit, x)[1](scale * g.reshape(x.shape))[0] for x, g in zip((a, b), by_units))

    return _on_devices(plan, on_device, 'wrrrrrw', 'rr')(cotangent, a, b, real, ids, softmaxes, columns)


def _on_devices(plan: _Plan, function: F, inputs: str, outputs: str) -> F:
    """`function` on each device: r is its rows of an array, w the whole of it."""
    if plan.mesh is None:
        return function
    specs = {'r': PartitionSpec(sharding.BATCH_AXES), 'w': PartitionSpec()}
    in_specs, out_specs = (tuple(specs[x] for x in letters) for letters in (inputs, outputs))
    # What is whole comes out of collectives: that it is the same everywhere need not be proved.
    return jax.shard_map(function, mesh=plan.mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False)


def _split(plan: _Plan, arrays: Sequence[jax.Array]) -> list[jax.Array]:
    """[n, …] → [groups, n / groups, …], of a device's items."""
    groups = max(1, plan.groups // plan.shards)
    return [x.reshape(groups, -1, *x.shape[1:]) for x in arrays]


def _each_group(function: Callable[..., T], *arrays: Any) -> T:
    """`function` mapped over the first axis of its arguments, trees of arrays, the first of them an array."""
    if len(arrays[0]) > 1:
        return jax.vmap(function)(*arrays)
    # To map over one group would cost copies.
    return jax.tree.map(lambda x: x[None], function(*jax.tree.map(lambda x: x[0], arrays)))


# ---- one group of items ----


def _forward_group(
    plan: _Plan, a: jax.Array, b: jax.Array, real: jax.Array, ids: jax.Array
) -> tuple[jax.Array, _Softmaxes, _Items | None]:
    """Sums [3], what is to be kept of the own items, and the b of all devices where they were gathered."""
    rows, columns = _items(plan, a, real, ids), _items(plan, b, real, ids, everyone=True)
    k, size = rows.real.shape

    def block(by_column: _Seen, row: _Items) -> tuple[_Seen, tuple[_Seen, jax.Array]]:
        by_row, more, diagonals = jax.lax.map(functools.partial(_meet, plan, row), columns)
        own = diagonals[row.place[0] // size]
        return _join(by_column, more), (_join(by_row), own)

    nothing = jnp.full(columns.real.shape, LOWEST), jnp.zeros(columns.real.shape)
    by_column, (by_row, own) = jax.lax.scan(block, nothing, rows)
    if plan.axes:  # each device has seen some of the rows
        best = jax.lax.pmax(by_column[0], plan.axes)
        by_column = best, jax.lax.psum(by_column[1] * jnp.exp(by_column[0] - best), plan.axes)
    first = rows.place[0, 0] // size
    by_own_column = tuple(jax.lax.dynamic_slice_in_dim(x, first, k) for x in by_column)

    directions = by_row, by_own_column
    losses = [jax.nn.softplus(best + jnp.log(total) - own) for best, total in directions]
    correct = [best <= own for best, _ in directions]
    sums = [jnp.where(rows.real, 0.5 * sum(x), 0.0).sum() for x in (losses, correct, (1.0, 1.0))]
    pull = jnp.where(rows.real, sum(jnp.expm1(-loss) for loss in losses), 0.0)
    kept = _Softmaxes(own + losses[0], own + losses[1], pull)
    return jnp.stack(sums), kept, columns if plan.axes else None


def _backward_group(
    plan: _Plan,
    a: jax.Array,
    b: jax.Array,
    real: jax.Array,
    ids: jax.Array,
    softmaxes: _Softmaxes,
    columns_b: _Items | None,
) -> tuple[jax.Array, ...]:
    """The gradients of 2 · temperature · loss by the unit vectors of the own a and b, fp32 [n, D]."""
    rows_a, rows_b = _items(plan, a, real, ids), _items(plan, b, real, ids)
    lse_a, lse_b, pull = softmaxes
    if columns_b is None:
        d_a, d_b = _weigh(plan, rows_a, rows_b, lse_a, lse_b, both=True)
    else:
        # Its own rows, and its own columns, of all scores: no device has to hand gradients to another.
        columns_a = _items(plan, a, real, ids, everyone=True)
        all_a, all_b = jnp.moveaxis(_gather(plan, jnp.stack([lse_a, lse_b], axis=1)), 1, 0)
        (d_a,) = _weigh(plan, rows_a, columns_b, lse_a, all_b, both=False)
        (d_b,) = _weigh(plan, rows_b, columns_a, lse_b, all_a, both=False)
    d_a += pull[..., None] * rows_b.units
    d_b += pull[..., None] * rows_a.units
    return tuple(d.reshape(-1, d.shape[-1])[: len(real)] for d in (d_a, d_b))


def _items(plan: _Plan, x: jax.Array, real: jax.Array, ids: jax.Array, everyone: bool = False) -> _Items:
    """The items [n, …] of this device, or of all devices that the group lies across, in tiles."""
    size = _tile_size(len(real), plan.tile)
    padding = -len(real) % size
    x, real, ids = (jnp.pad(y, [(0, padding)] + [(0, 0)] * (y.ndim - 1)) for y in (x, real, ids))
    labels = jnp.stack([ids, real.astype(ids.dtype)], axis=1)
    place = jnp.arange(len(real))
    if not everyone or not plan.axes:
        units = _unit(x).astype(plan.operands)
        if plan.axes:
            place += jax.lax.axis_index(plan.axes) * len(real)
    else:
        # Vectors travel as they came or as they are used, whichever is shorter; the values are the same.
        short = x.dtype.itemsize < plan.operands.itemsize
        units = _unit(_gather(plan, x)) if short else _gather(plan, _unit(x).astype(plan.operands))
        labels = _gather(plan, labels)
        place = jnp.arange(len(labels))
    return _Items(
        *(y.reshape(-1, size, *y.shape[1:]) for y in (units, labels[:, 1] > 0, labels[:, 0], place))
    )


def _tile_size(number: int, longest: int) -> int:
    """The side of the fewest tiles that hold so many items."""
    size = -(-number // -(-number // longest))
    # Round sides suit matrix units.
    return size if size == number else min(longest, -(-size // 64) * 64)


def _gather(plan: _Plan, x: jax.Array) -> jax.Array:
    """[n, …] of each device → [d · n, …] on all of them."""
    return jax.lax.all_gather(x, plan.axes, tiled=True)


def _unit(x: jax.Array) -> jax.Array:
    """x / |x| along the last axis in fp32; a zero vector stays zero, with a zero gradient."""
    x = x.astype(jnp.float32)
    square = jnp.sum(x * x, axis=-1, keepdims=True)
    return jnp.where(square > 0, x * jax.lax.rsqrt(jnp.where(square > 0, square, 1.0)), 0.0)


# ---- tiles of scores ----


def _product(plan: _Plan, x: jax.Array, y: jax.Array, contract: tuple[int, int]) -> jax.Array:
    """The fp32 product of two matrices over an axis of each."""
    exact = 'highest' if plan.operands == jnp.float32 else 'default'
    x, y = x.astype(plan.operands), y.astype(plan.operands)
    dimensions = (((contract[0],), (contract[1],)), ((), ()))
    return jax.lax.dot_general(x, y, dimensions, precision=exact, preferred_element_type=jnp.float32)


def _scores(plan: _Plan, row: _Items, column: _Items) -> tuple[jax.Array, jax.Array]:
    """A tile of scores, fp32 [T, T], and which of them are negatives."""
    scores = _product(plan, row.units, column.units, (1, 1)) * (1 / plan.temperature)
    return scores, row.real[:, None] & column.real & (row.ids[:, None] != column.ids)


def _meet(plan: _Plan, row: _Items, column: _Items) -> tuple[_Seen, _Seen, jax.Array]:
    """What each row of a tile, then each column, sees of its negatives in it; and the tile's diagonal.

    It sees (best, Σ_j exp(s_j − best)), where `best` is the score that the partner must reach to count as the
    most similar one: the highest, or the next number above it if that stands before the partner.
    """
    scores, negative = _scores(plan, row, column)
    own = jnp.diagonal(scores)
    scores = jnp.where(negative, scores, LOWEST)
    before = column.place < row.place[:, None]
    # Off the diagonal all columns stand before all rows, or none do.
    off = row.place[0] != column.place[0]
    seen = []
    for axis, first, partner in ((1, before, own[:, None]), (0, ~before, own)):
        best = scores.max(axis)
        wins_ties = (first & (off | (scores == partner))).any(axis)
        best = jnp.where(wins_ties, _above(best), best)
        seen.append((best, jnp.exp(scores - jnp.expand_dims(best, axis)).sum(axis)))
    by_row, by_column = seen
    return by_row, by_column, own


def _above(x: jax.Array) -> jax.Array:
    """The next number above x. A subnormal one would not do: processors take it for 0."""
    return jnp.where(x == 0, TINIEST, jnp.nextafter(x, jnp.inf))


def _join(*pairs: _Seen) -> _Seen:
    """What was seen in several tiles, pairs of [T] or one pair of [K, T], as one pair."""
    bests, totals = pairs[0] if len(pairs) == 1 else (jnp.stack(x) for x in zip(*pairs))
    best = bests.max(0)
    return best, (totals * jnp.exp(bests - best)).sum(0)


def _weigh(
    plan: _Plan, rows: _Items, columns: _Items, lse_rows: jax.Array, lse_columns: jax.Array, both: bool
) -> tuple[jax.Array, ...]:
    """Σ_j g_ij · column_j for each row, and if `both` also Σ_i g_ij · row_i for each column, fp32 [K, T, D].

    g_ij is the probability that i takes j for its partner, plus that j takes i; 0 where they are partners.
    """

    def block(
        d_columns: jax.Array | None, xs: tuple[_Items, jax.Array | None, jax.Array]
    ) -> tuple[jax.Array | None, jax.Array]:
        row, turned, lse_row = xs

        def one(carry: _Sides, xs: tuple[jax.Array, _Items, jax.Array]) -> tuple[_Sides, None]:
            d_row, d_columns = carry
            c, column, lse_column = xs
            scores, negative = _scores(plan, row, column)
            g = jnp.exp(scores - lse_row[:, None]) + jnp.exp(scores - lse_column)
            g = jnp.where(negative, g, 0.0).astype(plan.operands)
            d_row += _product(plan, g, column.units, (1, 0))
            if d_columns is not None and turned is not None:
                d_column = d_columns[c] + _product(plan, turned, g, (1, 0))
                d_columns = jax.lax.dynamic_update_index_in_dim(d_columns, d_column, c, 0)
            return (d_row, d_columns), None

        start = jnp.zeros(row.units.shape), d_columns
        (d_row, d_columns), _ = jax.lax.scan(one, start, (jnp.arange(len(lse_columns)), columns, lse_columns))
        return d_columns, d_row

    # Turned once, here: a CPU is two to three times as slow at a bf16 product that turns its left factor.
    turned = jnp.swapaxes(rows.units, 1, 2) if both else None
    start = jnp.zeros(jnp.swapaxes(columns.units, 1, 2).shape) if both else None
    d_columns, d_rows = jax.lax.scan(block, start, (rows, turned, lse_rows))
    return (d_rows,) if d_columns is None else (d_rows, jnp.swapaxes(d_columns, 1, 2))
