"""The objectives by the name that `config.task` has."""

from collections.abc import Callable

from jax.sharding import Mesh
from ml_collections import ConfigDict

from clower_jax.objectives.auto_mlm import AutoMlm
from clower_jax.objectives.base import Objective
from clower_jax.objectives.cmlm import Cmlm
from clower_jax.objectives.mirror_bert import Mirror
from clower_jax.objectives.mlctl import MlCtl
from clower_jax.objectives.pretraining import Pretrain, check_choice
from clower_jax.objectives.sentence import SentenceTask
from clower_jax.objectives.supervised import Choose, FindSpan, Tag, classifier_from_config
from clower_jax.objectives.supervised_vectors import SupervisedVectors

# Those that train vectors of texts.
SENTENCE_TASKS: dict[str, type[SentenceTask]] = {
    'mirror': Mirror,
    'mlctl': MlCtl,
    'auto_mlm': AutoMlm,
    'supervised_vectors': SupervisedVectors,
}
OBJECTIVES: dict[str, Callable[[ConfigDict, Mesh | None], Objective]] = {
    'classify': classifier_from_config,
    'span': FindSpan.from_config,
    'tag': Tag.from_config,
    'choose': Choose.from_config,
    **{name: task.from_config for name, task in SENTENCE_TASKS.items()},
}
# Of pre-training, by `config.model.kind`; the others are `Pretrain`.
PRETRAINING = {'cmlm': Cmlm.from_config}


def from_config(config: ConfigDict, mesh: Mesh | None = None) -> Objective:
    """The objective of a config; `mesh` is where its batches lie, None for one device.

    Raises ValueError where a config value is not one of its choices.
    """
    check_choice('task', config.task, ('pretrain', *OBJECTIVES))
    if config.task == 'pretrain':
        return PRETRAINING.get(config.model.kind, Pretrain.from_config)(config, mesh)
    return OBJECTIVES[config.task](config, mesh)
