"""The loss and every gradient of one training step on a given mesh; also a script, for several processes.

PYTHONPATH=tests python -m helpers.one_step OUT.npz PORT PROCESS_ID NUM_PROCESSES DATA FSDP TENSOR
"""

import sys

import jax
import numpy as np

from clower_jax.checkpoints.train_state import sharded_state
from clower_jax.objectives.pretraining import Pretrain
from clower_jax.parallel import sharding
from helpers import synthetic


def shrunk_config(**mesh):
    """A real config with a tiny model; dropout on, so that random bits are compared too."""
    small = {'model.num_layers': 1, 'model.dropout': 0.1, 'model.attention_dropout': 0.1}
    axes = {f'mesh.{axis}': size for axis, size in mesh.items()}
    return synthetic.tiny_config(batch_size=16, **small, **axes)


def loss_and_gradients(config, mesh) -> dict[str, np.ndarray]:
    """Every metric of one step under 'metric/…' and every gradient under 'gradient/…', whole, on the host."""
    task = Pretrain.from_config(config, mesh)
    params = sharded_state(mesh, lambda: task.init(jax.random.key(0)))
    rows = sharding.local_rows(mesh, config.batch_size)
    batch = sharding.shard_batch(mesh, next(synthetic.batches(config, rows=rows)), config.batch_size)

    def step(params, batch):
        (loss, sums), gradients = jax.value_and_grad(task.loss, has_aux=True)(
            params, batch, jax.random.key(1)
        )
        metrics = {name: total / count for name, (total, count) in sums.items()}
        return {'metric': {'loss': loss, **metrics}, 'gradient': gradients}

    whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    out = jax.jit(step, out_shardings=whole)(params, batch)
    leaves = jax.tree_util.tree_leaves_with_path(out)
    return {jax.tree_util.keystr(path, simple=True, separator='/'): np.asarray(leaf) for path, leaf in leaves}


if __name__ == '__main__':
    out, port = sys.argv[1:3]
    process, processes, data, fsdp, tensor = map(int, sys.argv[3:])
    jax.config.update('jax_platforms', 'cpu')
    jax.config.update('jax_num_cpu_devices', 4)
    jax.distributed.initialize(f'localhost:{port}', processes, process)
    config = shrunk_config(data=data, fsdp=fsdp, tensor=tensor)
    values = loss_and_gradients(config, sharding.make_mesh(config))
    if process == 0:
        np.savez(out, **values)
