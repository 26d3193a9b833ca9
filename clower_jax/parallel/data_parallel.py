"""Data parallelism: each device works alone on its own rows of a batch, and gradients are added up once.

Left to itself the compiler adds every gradient up over the devices where it arises: the token table's once
for each of its uses, and in a loop over micro-batches all of them in each turn. Here every device has a copy
of the parameters, as far as differentiation knows, and the gradients of all copies are added up at the end,
as one array.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Mapping
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from clower_jax.parallel import sharding
from clower_jax.parallel.precision import compute_dtype

_OVER_DEVICES = P(sharding.BATCH_AXES)


@dataclasses.dataclass(frozen=True)
class DataParallel:
    """Where functions of parameters and rows are computed: on each device of `mesh` with its own rows, where
    the mesh splits nothing but the batch; elsewhere, and on one device (None), as the compiler has it.
    Gradients travel in `reduce_dtype`."""

    mesh: Mesh | None = None
    reduce_dtype: str = 'float32'

    @classmethod
    def from_config(cls, config: Mapping[str, Any], mesh: Mesh | None) -> Self:
        """ValueError where `config.mesh.reduce_dtype` is no dtype."""
        dtype = config.get('mesh', {}).get('reduce_dtype', 'float32')
        if dtype not in ('float32', 'bfloat16'):
            raise ValueError(f'mesh.reduce_dtype={dtype!r} must be float32 or bfloat16')
        return cls(mesh, dtype)

    @property
    def apart(self) -> bool:
        """Whether every device works alone."""
        return self.mesh is not None and self.mesh.shape['data'] == self.mesh.size > 1

    @property
    def inner_mesh(self) -> Mesh | None:
        """The devices that the function itself has before it: one, where every device works alone."""
        if self.mesh is None or not self.apart:
            return self.mesh
        return Mesh(self.mesh.devices[:1, :1, :1], self.mesh.axis_names, axis_types=self.mesh.axis_types)

    def __call__(self, function: Callable[..., tuple[Any, Any]], params: dict, *rows: Any) -> tuple[Any, Any]:
        """function(params, *rows) → (sums over rows, results of rows), over the rows of all devices.

        Args:
          function: of a device's rows; no row may matter to the results of another.
          params: a nested dict of fp32 arrays.
          rows: trees of arrays [B, …], or None.
        """
        if not self.apart:
            return function(params, *rows)

        def on_device(copy: dict, *rows: Any) -> tuple[Any, Any]:
            sums, results = function(jax.tree.map(lambda x: x[0], copy), *rows)
            return jax.tree.map(lambda x: x[None], sums), results

        sums, results = jax.shard_map(
            on_device,
            mesh=self.mesh,
            in_specs=_OVER_DEVICES,
            out_specs=_OVER_DEVICES,
            check_vma=False,
        )(_copies(self, params), *rows)
        return jax.tree.map(lambda x: x.sum(0), sums), results


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _copies(data_parallel: DataParallel, params: dict) -> dict:
    """Of every array one for each device, along a new first axis."""
    devices = data_parallel.mesh.size if data_parallel.mesh else 1
    return jax.tree.map(lambda x: jnp.broadcast_to(x, (devices, *x.shape)), params)


def _copies_forward(data_parallel: DataParallel, params: dict) -> tuple[dict, None]:
    return _copies(data_parallel, params), None


def _copies_backward(data_parallel: DataParallel, _: None, gradients: dict) -> tuple[dict]:
    leaves, tree = jax.tree.flatten(gradients)  # each [devices, …]

    def reduce(*leaves: jax.Array) -> jax.Array:
        flat = jnp.concatenate([leaf.reshape(-1) for leaf in leaves])
        flat = flat.astype(compute_dtype(data_parallel.reduce_dtype))
        return jax.lax.psum(flat, sharding.BATCH_AXES).astype(jnp.float32)

    flat = jax.shard_map(
        reduce, mesh=data_parallel.mesh, in_specs=_OVER_DEVICES, out_specs=P(), check_vma=False
    )(*leaves)
    shapes = [leaf.shape[1:] for leaf in leaves]
    ends = itertools.accumulate(int(np.prod(shape)) for shape in shapes)
    parts = [part.reshape(shape) for part, shape in zip(jnp.split(flat, list(ends)[:-1]), shapes)]
    return (jax.tree.unflatten(tree, parts),)


_copies.defvjp(_copies_forward, _copies_backward)
