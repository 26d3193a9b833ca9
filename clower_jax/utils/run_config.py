"""A run's config.json, also of earlier versions."""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clower_jax.utils import config_keys, folder_files


def read_run_config(workdir: str | Path) -> dict[str, Any]:
    """The config.json of a workdir, upgraded. Raises ValueError where it is missing or no JSON object."""
    return upgrade_config(folder_files.read_json(Path(workdir, 'config.json')))


def upgrade_config(saved: Mapping[str, Any]) -> dict[str, Any]:
    """A run's config as a run of today would have it: what there was no key for yet has the value that runs
    then had. Nothing else changes; a copy."""
    config = copy.deepcopy(dict(saved))
    task = config.setdefault('task', 'pretrain')  # version 0.1 knew nothing else
    for key, declared in config_keys.KEYS.items():
        name, _, leaf = key.rpartition('.')
        if isinstance(task, str) and task in declared.before and isinstance(config.get(name), dict):
            config[name].setdefault(leaf, declared.before[task])
    return config
