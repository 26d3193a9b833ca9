"""What is trained: a task is a pure loss over a batch. A new objective is a new task; the loop stays.

A task has
  `init(key) -> params`,
  `loss(params, batch, key) -> (loss, sums)`; key None means no dropout. `sums` maps each metric's name to
     (sum, count), so that its mean over any number of batches is exact,
  `evaluate(params, batch) -> (sums, outputs)`, without dropout; `outputs` are arrays [B, …] that a scorer on
     the host turns into metrics that are no means ({} where there is none),
  `total(means) -> loss`, the training loss out of the metrics' means,
  `step_flops(config) -> float`, FLOPs of a training step; 0 where steps differ.
"""

from typing import Any

from jax.sharding import Mesh
from ml_collections import ConfigDict

from clower_jax.objectives.auto_mlm import AutoMlm
from clower_jax.objectives.cmlm import Cmlm
from clower_jax.objectives.mirror_bert import Mirror
from clower_jax.objectives.mlctl import MlCtl
from clower_jax.objectives.pretraining import Pretrain, one_of
from clower_jax.objectives.supervised import Classify, FindSpan

TASKS = ('pretrain', 'classify', 'span', 'mirror', 'mlctl', 'auto_mlm')


def from_config(
    config: ConfigDict, mesh: Mesh | None = None
) -> 'Pretrain | Classify | FindSpan | Mirror | MlCtl | AutoMlm':
    """The task of `config.task`; `mesh` is where its batches lie, None for one device.

    Raises ValueError where a config value is not one of its choices.
    """
    one_of('task', config.task, TASKS)
    if config.task == 'pretrain':
        return (Cmlm if config.model.kind == 'cmlm' else Pretrain).from_config(config, mesh)
    others: dict[str, Any] = {
        'classify': Classify,
        'span': FindSpan,
        'mirror': Mirror,
        'mlctl': MlCtl,
        'auto_mlm': AutoMlm,
    }
    return others[config.task].from_config(config, mesh)
