"""Where arrays lie: the device mesh, the rules that place parameters, and the placing of batches.

The model knows nothing of this. Axes: `data` splits the batch; `fsdp` splits the batch and the parameters;
`tensor` splits the matrices of each layer as Megatron does (Shoeybi et al. 2019), columns then rows.
"""

import math
import re
from typing import TypeVar

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from ml_collections import ConfigDict

Tree = TypeVar('Tree')

AXES = ('data', 'fsdp', 'tensor')
BATCH_AXES = ('data', 'fsdp')

# (pattern of the end of a parameter's path, its spec). The first that matches decides; none: replicated.
# Optimiser moments end in their parameter's path and so lie with it.
PARAMETER_RULES = (
    (r'word_embeddings/embedding$', P('tensor', 'fsdp')),
    (r'(position|token_type)_embeddings/embedding$', P(None, 'fsdp')),
    (r'(query|key|value|intermediate\.dense)/kernel$', P('fsdp', 'tensor')),
    (r'(query|key|value|intermediate\.dense)/bias$', P('tensor')),
    (r'output\.dense/kernel$', P('tensor', 'fsdp')),
    (r'(pooler\.dense|transform\.dense)/kernel$', P('fsdp', None)),
    (r'_mlm/bias$', P('tensor')),
)


def make_mesh(config: ConfigDict) -> Mesh:
    """The mesh of `config.mesh.{data,fsdp,tensor}`; one of them may be −1, 'the rest of the devices'.

    Raises ValueError where the sizes do not multiply to the number of devices, and on CPUs where `tensor`
    spans processes.
    """
    sizes = [int(config.mesh[axis]) for axis in AXES]
    devices = jax.device_count()
    requested = ', '.join(f'mesh.{axis}={size}' for axis, size in zip(AXES, sizes))
    if sizes.count(-1) > 1 or any(size < 1 and size != -1 for size in sizes):
        raise ValueError(f'{requested}: sizes are positive, and at most one is −1 (the rest of the devices)')
    fixed = math.prod(size for size in sizes if size != -1)
    sizes = [devices // fixed if size == -1 else size for size in sizes]
    if math.prod(sizes) != devices:
        raise ValueError(f'{requested} does not fit {devices} devices: their product must be {devices}')
    mesh = jax.make_mesh(tuple(sizes), AXES, axis_types=(AxisType.Auto,) * len(AXES))
    processes = np.vectorize(lambda device: device.process_index)(mesh.devices)
    if jax.default_backend() == 'cpu' and tensor_spans_processes(processes):
        raise ValueError(
            f'{requested} splits matrices over processes, which on CPUs (Gloo) stalls or, seldom, gives '
            f'wrong gradients: give at most mesh.tensor={jax.local_device_count()}, the devices of one '
            'process'
        )
    return mesh


def tensor_spans_processes(processes: np.ndarray) -> bool:
    """Whether matrices lie on several processes, by the process of each device, [data, fsdp, tensor]."""
    return bool((processes != processes[..., :1]).any())


def mesh_platform(mesh: Mesh | None) -> str:
    """'cpu', 'gpu' or 'tpu': what the devices of a mesh are; None: JAX's default ones."""
    platform = jax.default_backend() if mesh is None else mesh.devices.flat[0].platform
    return 'gpu' if platform in ('cuda', 'rocm') else platform  # of devices that are not there


def data_shards(mesh: Mesh) -> int:
    """The number of parts that a batch is split in."""
    return math.prod(mesh.shape[axis] for axis in BATCH_AXES)


def tree_shardings(mesh: Mesh, tree: Tree) -> Tree:
    """A NamedSharding for each leaf (anything with a shape) of a tree of parameters or of a TrainState."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: NamedSharding(mesh, _spec(mesh, _path_name(path), leaf.shape)), tree
    )


def _path_name(path: jax.tree_util.KeyPath) -> str:
    return '/'.join(str(getattr(key, 'key', getattr(key, 'name', getattr(key, 'idx', key)))) for key in path)


def _spec(mesh: Mesh, name: str, shape: tuple[int, ...]) -> P:
    for pattern, axes in PARAMETER_RULES:
        if re.search(pattern, name) and len(axes) == len(shape):
            # A dimension that the axis does not divide stays whole: a vocabulary may have any size.
            return P(
                *(axis if axis and size % mesh.shape[axis] == 0 else None for axis, size in zip(axes, shape))
            )
    return P()


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows over `data` × `fsdp`."""
    return NamedSharding(mesh, P(BATCH_AXES))


def local_rows(mesh: Mesh, batch_size: int) -> tuple[int, int]:
    """(first, last + 1) of the rows of a global batch that this process's devices hold.

    Raises ValueError where the batch does not divide, or where a process's rows are not one run.
    """
    shards = data_shards(mesh)
    if batch_size % shards:
        raise ValueError(
            f'batch_size={batch_size} is not a multiple of mesh.data × mesh.fsdp = {shards}: '
            f'the nearest that is: {max(shards, round(batch_size / shards) * shards)}'
        )
    indices = batch_sharding(mesh).addressable_devices_indices_map((batch_size,))
    rows = sorted({(index[0].start or 0, index[0].stop or batch_size) for index in indices.values() if index})
    if any(before[1] != after[0] for before, after in zip(rows, rows[1:])):
        raise ValueError(f'this process holds the rows {rows}, which are not one run: reorder the mesh axes')
    return rows[0][0], rows[-1][1]


def shard_batch(mesh: Mesh, batch: dict[str, np.ndarray], batch_size: int) -> dict[str, jax.Array]:
    """This process's rows of a batch → global arrays of `batch_size` rows on the mesh."""
    sharding = batch_sharding(mesh)
    return {
        key: jax.make_array_from_process_local_data(sharding, value, (batch_size, *value.shape[1:]))
        for key, value in batch.items()
    }
