"""A batch encoded a part at a time: the loss and the gradient of the whole, the memory of a part.

Only what the encoder gives that the loss is made of is kept, and in the backward pass the encoder runs again,
a part at a time (as in GradCache, Gao et al. 2021, arXiv 2101.06983). So the negatives of a contrast, all
means and dropout are those of the whole batch, and the gradient is, to rounding.
"""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from clower_jax.objectives.base import MetricSums
from clower_jax.parallel import sharding
from clower_jax.parallel.data_parallel import DataParallel

Rows = TypeVar('Rows')


def from_config(config: ConfigDict, mesh: Mesh | None) -> dict[str, Any]:
    """The fields of an objective that say how its batches are encoded: `data_parallel`, `microbatches`.

    Raises ValueError as `DataParallel.from_config` and `number` do.
    """
    return {'data_parallel': DataParallel.from_config(config, mesh), 'microbatches': number(config, mesh)}


def number(config: ConfigDict, mesh: Mesh | None = None) -> int:
    """`config.microbatches`; 1 where a run was begun before there was this key.

    Raises ValueError where the batch does not divide into so many on each device of the mesh.
    """
    microbatches = config.get('microbatches', 1)
    if microbatches == 1:
        return 1
    shards = sharding.data_shards(mesh) if mesh else 1
    if config.batch_size % (microbatches * shards):
        raise ValueError(
            f'batch_size={config.batch_size} does not divide into microbatches={microbatches} on '
            f'{shards} device(s) each'
        )
    return microbatches


def encode(
    function: Callable[[dict, Rows], tuple[MetricSums, dict]],
    params: dict,
    rows: Rows,
    microbatches: int,
    data_parallel: DataParallel,
) -> tuple[MetricSums, dict]:
    """function(params, rows), a tree of arrays [B, …]: `microbatches` equal parts of it one after another, on
    the devices as `data_parallel` has it.

    Args:
      function: gives sums over rows, and arrays with a line for each row, [b, …] of b rows; a row's must
        depend on nothing else.
    """

    def split(x: jax.Array) -> jax.Array:
        # Every device keeps its rows: a micro-batch has some of each device's.
        return x.reshape(-1, microbatches, *x.shape[1:]).swapaxes(0, 1)

    def merge(x: jax.Array) -> jax.Array:
        return x.swapaxes(0, 1).reshape(-1, *x.shape[2:])

    def in_parts(params: dict, rows: Rows) -> tuple[MetricSums, dict]:
        part = jax.checkpoint(functools.partial(function, params))
        sums, per_row = jax.lax.map(part, jax.tree.map(split, rows))
        return jax.tree.map(lambda x: x.sum(0), sums), jax.tree.map(merge, per_row)

    return data_parallel(in_parts if microbatches > 1 else function, params, rows)
