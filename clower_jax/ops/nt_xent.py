"""NT-Xent (the paper, equations 2–4), also with hard negatives, its memory linear in the number of items, on
any mesh.

The dense way keeps all scores, arrays of [N, N]. Here they exist a tile at a time: the forward pass keeps two
log-sum-exps for each item, and the derivative makes every tile again from them, as Dao et al. 2022 do for
attention. Value and gradient are those of the dense formula.

That is four products of N·N·D in all, of which the dense way needs three. Where all scores are one tile, the
compiler makes them once, and this is the dense way. Each of d devices makes N/d rows of scores, and in the
backward pass as many columns too, so that no gradients have to be sent.
"""

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from clower_jax.ops.losses import Sums
from clower_jax.parallel import sharding

# Up to here the scores of a tile are a few arrays of 64 MiB, and a product is large enough to fill a GPU.
TILE = 4096
# Over several devices an array's items are split, or the whole of it is on each device.
SPLIT, REPLICATED = P(sharding.BATCH_AXES), P()
MIN_FLOAT, SMALLEST_NORMAL = float(jnp.finfo(jnp.float32).min), float(jnp.finfo(jnp.float32).tiny)


class HardNegatives(NamedTuple):
    """A third vector of each item, a negative of all of them and no partner of any.

    vectors: [N, D]. valid: bool [N], which items have one. ids: int, of the shape of the items' own.
    """

    vectors: jax.Array
    valid: jax.Array
    ids: jax.Array


def nt_xent(
    a: jax.Array,
    b: jax.Array,
    valid: jax.Array,
    temperature: float,
    ids: jax.Array | None = None,
    *,
    hard_negatives: HardNegatives | None = None,
    symmetric: bool = True,
    groups: int = 1,
    mesh: Mesh | None = None,
    tile: int = TILE,
    operands: str = 'float32',
) -> Sums:
    """Symmetric NT-Xent between two views (the paper, equations 2–4).

    With s_ij = cos(a_i, b_j) / temperature, the loss of pair i is the mean of −log softmax_j(s_ij)[i] and
    −log softmax_j(s_ji)[i], over the real j. A pair counts as right to the share of the two directions in
    which its own partner is the most similar one (of equal ones the first is).

    Not `symmetric`, the first direction alone is the loss: each a_i looks for its b_i. With hard negatives
    c_j it looks among these, too: Gao et al. 2021, arXiv 2104.08821, equation 5.

    It can be differentiated once, in reverse mode, by `a`, `b` and `hard_negatives.vectors`. Temporary memory
    is O(N·D + tile²).

    Args:
      a, b: [N, D], the two views of N items.
      valid: bool [N]; the others have no weight and are nobody's negative.
      ids: int [N], where given: items of equal id are not negatives of each other (they are the same word);
        or [N, G], of several ids each: items that share one.
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
    plan = _Plan(float(temperature), groups, mesh, tile, jnp.dtype(operands), symmetric)
    ids = (jnp.arange(len(a)) if ids is None else ids).reshape(len(a), -1)
    hard: _Hard = ()
    if hard_negatives is not None:
        hard = *hard_negatives[:2], hard_negatives.ids.reshape(ids.shape)
    return Sums(*_sums(plan, a, b, valid, ids, hard))


class _Plan(NamedTuple):
    """What is known before any array is."""

    temperature: float
    groups: int
    mesh: Mesh | None
    tile: int
    operands: jnp.dtype
    symmetric: bool

    @property
    def direction_weight(self) -> float:
        """What each direction counts in the loss of a pair."""
        return 0.5 if self.symmetric else 1.0

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

    unit_vectors: jax.Array  # [K, T, D], unit vectors in the dtype of the products
    valid: jax.Array  # bool [K, T]
    ids: jax.Array  # int [K, T, G]
    item: jax.Array  # int [K, T], which item of the group it is


class _SoftmaxStats(NamedTuple):
    """What the derivative needs to know about a device's items, fp32 [K, T]."""

    lse_a: jax.Array  # log Σ_j exp(s_ij), the partner included
    lse_b: jax.Array  # log Σ_j exp(s_ji); ∞ where that direction is not in the loss
    diagonal_gradient: jax.Array  # Σ over the directions of softmax_i − 1: the loss's derivative by s_ii


T = TypeVar('T')
F = TypeVar('F', bound=Callable)
_Scalars = tuple[jax.Array, jax.Array, jax.Array]  # loss, correct, count, in fp32
_Hard = tuple[()] | tuple[jax.Array, jax.Array, jax.Array]  # as `HardNegatives`, or none
_Residuals = tuple[jax.Array, jax.Array, jax.Array, jax.Array, _Hard, _SoftmaxStats, _Items | None]
_LogSumExp = tuple[jax.Array, jax.Array]  # fp32 [T] each; see `_tile_forward`
_GradientCarry = tuple[
    jax.Array, jax.Array | None
]  # the sums of a row of tiles and, if wanted, of all columns


# ---- value and derivative, device by device ----


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _sums(plan: _Plan, a: jax.Array, b: jax.Array, valid: jax.Array, ids: jax.Array, hard: _Hard) -> _Scalars:
    return _forward(plan, a, b, valid, ids, hard)[0]


@functools.partial(jax.jit, static_argnums=0)
def _forward(
    plan: _Plan, a: jax.Array, b: jax.Array, valid: jax.Array, ids: jax.Array, hard: _Hard
) -> tuple[_Scalars, _Residuals]:
    """The sums, and all that the derivative starts from."""

    def on_device(*arrays: Any) -> tuple[jax.Array, _SoftmaxStats, _Items | None]:
        sums, softmaxes, columns = _map_groups(
            functools.partial(_forward_group, plan), *_split_groups(plan, arrays)
        )
        sums = sums.sum(0)
        return jax.lax.psum(sums, sharding.BATCH_AXES) if plan.mesh else sums, softmaxes, columns

    sums, softmaxes, columns = _on_devices(plan, on_device, (SPLIT,) * 5, (REPLICATED, SPLIT, REPLICATED))(
        a, b, valid, ids, hard
    )
    return tuple(sums), (a, b, valid, ids, hard, softmaxes, columns)


def _backward(plan: _Plan, residuals: _Residuals, cotangents: _Scalars) -> tuple[Any, ...]:
    d_a, d_b, *d_hard = _gradient_step(plan, cotangents[0], *residuals)
    return d_a, d_b, None, None, (*d_hard, None, None) if d_hard else ()


_sums.defvjp(_forward, _backward)


@functools.partial(jax.jit, static_argnums=0)
def _gradient_step(plan: _Plan, cotangent: jax.Array, *residuals: Any) -> tuple[jax.Array, ...]:
    """The gradients of a, b and the hard negatives, if there are any, from the `_Residuals` and the cotangent
    of the loss (fp32 scalar)."""

    def on_device(cotangent: jax.Array, *residuals: Any) -> tuple[jax.Array, ...]:
        *arrays, softmaxes, columns = residuals
        function = functools.partial(_backward_group, plan)
        unit_gradients = _map_groups(function, *_split_groups(plan, arrays), softmaxes, columns)
        scale = cotangent * (plan.direction_weight / plan.temperature)
        a, b, _, _, hard = arrays
        return tuple(
            jax.vjp(normalize, x)[1](scale * g.reshape(x.shape))[0]
            for x, g in zip((a, b, *hard[:1]), unit_gradients, strict=True)
        )

    in_specs = (REPLICATED, *(SPLIT,) * 6, REPLICATED)
    return _on_devices(plan, on_device, in_specs, SPLIT)(cotangent, *residuals)


def _on_devices(plan: _Plan, function: F, in_specs: tuple[P, ...], out_specs: P | tuple[P, ...]) -> F:
    """`function` on each device."""
    if plan.mesh is None:
        return function
    # What is whole comes out of collectives: that it is the same everywhere need not be proved.
    return jax.shard_map(function, mesh=plan.mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False)


def _split_groups(plan: _Plan, arrays: Sequence[Any]) -> Sequence[Any]:
    """[n, …] → [groups, n / groups, …], of a device's items, in trees of arrays."""
    groups = max(1, plan.groups // plan.shards)
    return jax.tree.map(lambda x: x.reshape(groups, -1, *x.shape[1:]), arrays)


def _map_groups(function: Callable[..., T], *arrays: Any) -> T:
    """`function` mapped over the first axis of its arguments, trees of arrays, the first of them an array."""
    if len(arrays[0]) > 1:
        return jax.vmap(function)(*arrays)
    # To map over one group would cost copies.
    return jax.tree.map(lambda x: x[None], function(*jax.tree.map(lambda x: x[0], arrays)))


# ---- one group of items ----


def _forward_group(
    plan: _Plan, a: jax.Array, b: jax.Array, valid: jax.Array, ids: jax.Array, hard: _Hard
) -> tuple[jax.Array, _SoftmaxStats, _Items | None]:
    """Sums [3], the statistics of this device's items, and the columns of all devices where they were
    gathered."""
    rows, columns = _make_tiles(plan, a, valid, ids), _columns(plan, b, valid, ids, hard, all_devices=True)
    k, size = rows.valid.shape

    def row_step(by_column: _LogSumExp, row: _Items) -> tuple[_LogSumExp, tuple[_LogSumExp, jax.Array]]:
        by_row, tile_by_column, diagonals = jax.lax.map(functools.partial(_tile_forward, plan, row), columns)
        positive = diagonals[row.item[0] // size]
        return _merge_logsumexp(by_column, tile_by_column), (_merge_logsumexp(by_row), positive)

    empty = jnp.full(columns.valid.shape, MIN_FLOAT), jnp.zeros(columns.valid.shape)
    by_column, (by_row, positive) = jax.lax.scan(row_step, empty, rows)
    if plan.axes:  # each device has some of the rows
        row_max = jax.lax.pmax(by_column[0], plan.axes)
        by_column = row_max, jax.lax.psum(by_column[1] * jnp.exp(by_column[0] - row_max), plan.axes)
    first_tile = rows.item[0, 0] // size
    by_own_column = tuple(jax.lax.dynamic_slice_in_dim(x, first_tile, k) for x in by_column)

    directions = (by_row, by_own_column) if plan.symmetric else (by_row,)
    losses = [jax.nn.softplus(row_max + jnp.log(total) - positive) for row_max, total in directions]
    correct = [row_max <= positive for row_max, _ in directions]
    weight, ones = plan.direction_weight, [1.0] * len(directions)
    sums = [jnp.where(rows.valid, weight * sum(x), 0.0).sum() for x in (losses, correct, ones)]
    diagonal_gradient = jnp.where(rows.valid, sum(jnp.expm1(-loss) for loss in losses), 0.0)
    lse_b = positive + losses[1] if plan.symmetric else jnp.full_like(positive, jnp.inf)
    residuals = _SoftmaxStats(positive + losses[0], lse_b, diagonal_gradient)
    return jnp.stack(sums), residuals, columns if plan.axes else None


def _backward_group(
    plan: _Plan,
    a: jax.Array,
    b: jax.Array,
    valid: jax.Array,
    ids: jax.Array,
    hard: _Hard,
    softmaxes: _SoftmaxStats,
    all_columns: _Items | None,
) -> tuple[jax.Array, ...]:
    """The gradients of temperature · loss / direction_weight by the unit vectors of this device's a and b,
    and of its hard negatives if there are any, fp32 [n, D]."""
    rows, columns = _make_tiles(plan, a, valid, ids), _columns(plan, b, valid, ids, hard)
    lse_a, lse_b, diagonal_gradient = softmaxes
    k = len(lse_a)
    if all_columns is None:
        d_a, d_columns = _tile_gradients(plan, rows, columns, lse_a, _lse_columns(lse_b, columns), both=True)
    else:
        # Its own rows, and its own columns, of all scores: no device has to hand gradients to another.
        all_rows = _make_tiles(plan, a, valid, ids, all_devices=True)
        all_a, all_b = jnp.moveaxis(_all_gather(plan, jnp.stack([lse_a, lse_b], axis=1)), 1, 0)
        (d_a,) = _tile_gradients(plan, rows, all_columns, lse_a, _lse_columns(all_b, all_columns), both=False)
        (d_columns,) = _tile_gradients(
            plan, columns, all_rows, _lse_columns(lse_b, columns), all_a, both=False
        )
    d_b, *d_hard = (d_columns[:k], d_columns[k:]) if hard else (d_columns,)
    d_a += diagonal_gradient[..., None] * columns.unit_vectors[:k]
    d_b += diagonal_gradient[..., None] * rows.unit_vectors
    return tuple(d.reshape(-1, d.shape[-1])[: len(valid)] for d in (d_a, d_b, *d_hard))


def _columns(
    plan: _Plan,
    b: jax.Array,
    valid: jax.Array,
    ids: jax.Array,
    hard: _Hard,
    all_devices: bool = False,
) -> _Items:
    """What an item of the other side may be the partner of: the tiles of b, then those of the hard negatives,
    which are numbered behind them."""
    partners = _make_tiles(plan, b, valid, ids, all_devices)
    if not hard:
        return partners
    others = _make_tiles(plan, *hard, all_devices)
    others = others._replace(item=others.item + plan.shards * partners.item.size)
    return jax.tree.map(lambda *x: jnp.concatenate(x), partners, others)


def _lse_columns(lse_b: jax.Array, columns: _Items) -> jax.Array:
    """The log-sum-exps of `_columns`: a hard negative, which looks for no partner, has ∞."""
    return jnp.pad(lse_b, ((0, len(columns.valid) - len(lse_b)), (0, 0)), constant_values=jnp.inf)


def _make_tiles(
    plan: _Plan, x: jax.Array, valid: jax.Array, ids: jax.Array, all_devices: bool = False
) -> _Items:
    """The items [n, …] of this device, or of all devices that the group lies across, in tiles."""
    size = _tile_size(len(valid), plan.tile)
    padding = -len(valid) % size
    x, valid, ids = (jnp.pad(y, [(0, padding)] + [(0, 0)] * (y.ndim - 1)) for y in (x, valid, ids))
    labels = jnp.concatenate([ids, valid[:, None].astype(ids.dtype)], axis=1)
    item = jnp.arange(len(valid))
    if not all_devices or not plan.axes:
        unit_vectors = normalize(x).astype(plan.operands)
        if plan.axes:
            item += jax.lax.axis_index(plan.axes) * len(valid)
    else:
        # Vectors travel as they came or as they are used, whichever is shorter; the values are the same.
        gather_raw = x.dtype.itemsize < plan.operands.itemsize
        unit_vectors = (
            normalize(_all_gather(plan, x))
            if gather_raw
            else _all_gather(plan, normalize(x).astype(plan.operands))
        )
        labels = _all_gather(plan, labels)
        item = jnp.arange(len(labels))
    return _Items(
        *(y.reshape(-1, size, *y.shape[1:]) for y in (unit_vectors, labels[:, -1] > 0, labels[:, :-1], item))
    )


def _tile_size(number: int, longest: int) -> int:
    """The side of the fewest tiles that hold so many items."""
    size = -(-number // -(-number // longest))
    # Round sides suit matrix units.
    return size if size == number else min(longest, -(-size // 64) * 64)


def _all_gather(plan: _Plan, x: jax.Array) -> jax.Array:
    """[n, …] of each device → [d · n, …] on all of them."""
    return jax.lax.all_gather(x, plan.axes, tiled=True)


def normalize(x: jax.Array) -> jax.Array:
    """x / |x| along the last axis in fp32; a zero vector stays zero, with a zero gradient."""
    x = x.astype(jnp.float32)
    square = jnp.sum(x * x, axis=-1, keepdims=True)
    return jnp.where(square > 0, x * jax.lax.rsqrt(jnp.where(square > 0, square, 1.0)), 0.0)


# ---- tiles of scores ----


def _product(plan: _Plan, x: jax.Array, y: jax.Array, contract: tuple[int, int]) -> jax.Array:
    """The fp32 product of two matrices over an axis of each."""
    precision = 'highest' if plan.operands == jnp.float32 else 'default'
    x, y = x.astype(plan.operands), y.astype(plan.operands)
    dimensions = (((contract[0],), (contract[1],)), ((), ()))
    return jax.lax.dot_general(x, y, dimensions, precision=precision, preferred_element_type=jnp.float32)


def _scores(plan: _Plan, row: _Items, column: _Items) -> tuple[jax.Array, jax.Array]:
    """A tile of scores, fp32 [T, T], and which of them are negatives."""
    scores = _product(plan, row.unit_vectors, column.unit_vectors, (1, 1)) * (1 / plan.temperature)
    negative = row.valid[:, None] & column.valid
    for own, other in itertools.product(row.ids.T, column.ids.T):
        negative &= own[:, None] != other
    return scores, negative


def _tile_forward(plan: _Plan, row: _Items, column: _Items) -> tuple[_LogSumExp, _LogSumExp, jax.Array]:
    """The log-sum-exp over a tile's negatives, of each row, then of each column; and the tile's diagonal.

    A log-sum-exp is (maximum, Σ_j exp(s_j − maximum)), where `maximum` is the score that the partner must
    reach to count as the most similar one: the highest, or the next number above it if that stands before
    the partner.
    """
    scores, negative = _scores(plan, row, column)
    positive = jnp.diagonal(scores)
    scores = jnp.where(negative, scores, MIN_FLOAT)
    precedes = column.item < row.item[:, None]
    # Off the diagonal all columns stand before all rows, or none do.
    off_diagonal = row.item[0] != column.item[0]
    statistics = []
    for axis, wins_if_tied, positive_scores in ((1, precedes, positive[:, None]), (0, ~precedes, positive)):
        maximum = scores.max(axis)
        wins_ties = (wins_if_tied & (off_diagonal | (scores == positive_scores))).any(axis)
        maximum = jnp.where(wins_ties, _next_above(maximum), maximum)
        statistics.append((maximum, jnp.exp(scores - jnp.expand_dims(maximum, axis)).sum(axis)))
    by_row, by_column = statistics
    return by_row, by_column, positive


def _next_above(x: jax.Array) -> jax.Array:
    """The next number above x. A subnormal one would not do: processors take it for 0."""
    return jnp.where(x == 0, SMALLEST_NORMAL, jnp.nextafter(x, jnp.inf))


def _merge_logsumexp(*pairs: _LogSumExp) -> _LogSumExp:
    """Those of several tiles, pairs of [T] or one pair of [K, T], as one pair."""
    maxima, totals = pairs[0] if len(pairs) == 1 else (jnp.stack(x) for x in zip(*pairs))
    maximum = maxima.max(0)
    return maximum, (totals * jnp.exp(maxima - maximum)).sum(0)


def _tile_gradients(
    plan: _Plan, rows: _Items, columns: _Items, lse_rows: jax.Array, lse_columns: jax.Array, both: bool
) -> tuple[jax.Array, ...]:
    """Σ_j g_ij · column_j for each row, and if `both` also Σ_i g_ij · row_i for each column, fp32 [K, T, D].

    g_ij is the probability that i takes j for its partner, plus that j takes i; 0 where they are partners.
    """

    def row_step(
        d_columns: jax.Array | None, inputs: tuple[_Items, jax.Array | None, jax.Array]
    ) -> tuple[jax.Array | None, jax.Array]:
        row, transposed, lse_row = inputs

        def tile_step(
            carry: _GradientCarry, inputs: tuple[jax.Array, _Items, jax.Array]
        ) -> tuple[_GradientCarry, None]:
            d_row, d_columns = carry
            tile_index, column, lse_column = inputs
            scores, negative = _scores(plan, row, column)
            g = jnp.exp(scores - lse_row[:, None]) + jnp.exp(scores - lse_column)
            g = jnp.where(negative, g, 0.0).astype(plan.operands)
            d_row += _product(plan, g, column.unit_vectors, (1, 0))
            if d_columns is not None and transposed is not None:
                d_column = d_columns[tile_index] + _product(plan, transposed, g, (1, 0))
                d_columns = jax.lax.dynamic_update_index_in_dim(d_columns, d_column, tile_index, 0)
            return (d_row, d_columns), None

        initial = jnp.zeros(row.unit_vectors.shape), d_columns
        (d_row, d_columns), _ = jax.lax.scan(
            tile_step, initial, (jnp.arange(len(lse_columns)), columns, lse_columns)
        )
        return d_columns, d_row

    # Transposed once, here: a CPU is two to three times as slow at a bf16 product that transposes its left
    # factor.
    transposed = jnp.swapaxes(rows.unit_vectors, 1, 2) if both else None
    initial = jnp.zeros(jnp.swapaxes(columns.unit_vectors, 1, 2).shape) if both else None
    d_columns, d_rows = jax.lax.scan(row_step, initial, (rows, transposed, lse_rows))
    return (d_rows,) if d_columns is None else (d_rows, jnp.swapaxes(d_columns, 1, 2))
