"""What of a config no data could make good, found without JAX."""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from clower_jax.utils import config_keys

# Fine-tuning takes 0 for 'as the data or init_from say'.
REQUIRED_SIZES = (
    'total_steps',
    *(f'model.{key}' for key in ('hidden_size', 'num_heads', 'intermediate_size')),
)


def training_configs(config: ConfigDict) -> list[ConfigDict]:
    """The configs of the trainings that a job consists of."""
    if config.task == 'tables':
        return [config.pretrain, *config.finetune.values()]
    return [] if config.task in ('similarity', 'vectors', 'probe', 'words') else [config]


def check_job(config: ConfigDict) -> None:
    """`check` of every training that a job consists of, and of the numbers of the job itself."""
    for part in training_configs(config):
        check(part)
    check_numbers(flatten(config.to_dict()))


def check_numbers(values: Mapping[str, Any]) -> None:
    """Raises ValueError naming the first of these dotted keys whose number is not in its range, or, where a
    key has none, not finite. Entries of tuples are numbers, too; what is no number passes."""
    for key, value in values.items():
        declared = config_keys.find(key)
        for number in value if isinstance(value, tuple) else (value,):
            # NaN is in no range.
            if isinstance(number, int | float) and not declared.low <= number <= declared.high:
                bounds = f'from {declared.low} to {declared.high}'
                allowed = 'a finite number' if declared.high == config_keys.LARGEST else bounds
                raise ValueError(f'{key}={number} must be {allowed}')


def check(config: ConfigDict) -> None:
    """Raises ValueError for a setting of a training that no data could make good."""
    values = flatten(config.to_dict())
    check_numbers(values)
    if config.task == 'pretrain':
        for key in REQUIRED_SIZES:
            if values[key] < 1:
                raise ValueError(f'{key}={values[key]} must be at least 1')
    for key, value in values.items():
        choices = config_keys.find(key).choices
        if choices and value not in choices:
            raise ValueError(f'{key}={value!r} must be one of {", ".join(choices)}')
    if values.get('model.new_pooler') and config.model.classify_from != 'pooler':
        raise ValueError(
            f'model.new_pooler=True, but model.classify_from={config.model.classify_from} reads no pooler'
        )
    if config.patience and not config.select:
        raise ValueError(f'patience={config.patience} needs select, the metric that it waits for')


def flatten(tree: dict, prefix: str = '') -> dict:
    """{'a': {'b': 1}} → {'a.b': 1}."""
    out: dict = {}
    for key, value in tree.items():
        out |= flatten(value, f'{prefix}{key}.') if isinstance(value, dict) else {prefix + key: value}
    return out
