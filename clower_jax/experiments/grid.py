"""A grid of models × tasks × seeds, cell by cell; what comes of it is in clower_jax/experiments/tables.py."""

import copy
import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from clower_jax.experiments import tables
from clower_jax.experiments.tables import SPLITS, Cell, Grid, columns_of
from clower_jax.utils import folder_files
from clower_jax.utils.config_checks import flatten
from clower_jax.utils.run_config import upgrade_config
from input_pipeline.utils import output_file

log = logging.getLogger(__name__)

SETTINGS = 'cell.json'  # what a cell was made with, beside its results.json
# A model that is there already and has the name of a system that can be trained here: both may be in a grid.
RELEASED = {'macbert': 'macbert_released'}


def run(
    config: ConfigDict,
    workdir: Path,
    prepare: Callable[[str, Path], Mapping[str, Any] | None],
    finetune: Callable[[ConfigDict, Path], Mapping[str, Any]],
) -> str:
    """Fills the grid of a config (configs/tables.py) and writes its tables, anew after every cell.

    What is there already is not done again: a model is asked for once, and a cell that is finished is read.
    Where classes are told from the pooler, it is drawn anew for all models alike: some of them have one that
    pre-training trained, others cannot (docs/architecture.md, fine-tuning).

    Args:
      prepare: (model, folder) → what a fine-tuning config takes of it, by dotted key; it may train it, in
        that folder. None: it was stopped.
      finetune: (config, folder) → the contents of results.json; {} where it was stopped.

    Returns:
      The tables as markdown, of what there is when it ends.

    Raises ValueError where a task or the reference is unknown, the file of the paper's numbers is none, or a
    cell that is there was made with other settings.
    """
    models, tasks = listed(config.models), listed(config.tasks)
    unknown = [task for task in tasks if task not in config.finetune]
    if unknown:
        raise ValueError(f'tasks: {unknown[0]!r} must be one of {", ".join(config.finetune)}')
    numbers = tables.read_numbers(config.paper, tasks)
    names = [name_of(model) for model in models]
    if config.reference not in names or len(set(names)) < len(names):
        raise ValueError(
            f'models={config.models!r} must name reference={config.reference!r}, and each model once'
        )
    config = _with_new_poolers(config)
    workdir.mkdir(parents=True, exist_ok=True)
    grid: Grid = {}
    text = ''
    for model_number, (model, name) in enumerate(zip(models, names)):
        changes = None
        for task_number, task in enumerate(tasks):
            folder = workdir / 'cells' / name / task
            settings = _settings(config, model, task)
            results = _finished_cell(folder, settings)
            if results is None:
                cell = model_number * len(tasks) + task_number + 1
                log.info('Cell %d of %d: %s, %s', cell, len(models) * len(tasks), name, task)
                changes = prepare(model, workdir / 'models' / name) if changes is None else changes
                if changes is None:
                    return text
                folder.mkdir(parents=True, exist_ok=True)
                output_file.write_json(folder / SETTINGS, settings)
                cell_config = copy.deepcopy(config.finetune[task])
                cell_config.update_from_flattened_dict({'seeds': config.seeds, **changes})
                results = finetune(cell_config, folder)
                if not results:
                    return text
            grid |= {(name, column): cell for column, cell in read_cells(task, results).items()}
            text = tables.write(workdir, grid, names, tasks, config.reference, numbers)
    return text


def listed(names: str) -> list[str]:
    """'a, b' → ['a', 'b']."""
    return [name.strip() for name in names.split(',')]


def name_of(model: str) -> str:
    """Of an entry of `models`: 'clower' → 'clower', 'mine=runs/mine' → 'mine', 'macbert=FOLDER' →
    'macbert_released'."""
    name, given, _ = model.partition('=')
    return RELEASED.get(name, name) if given else name


def _with_new_poolers(config: ConfigDict) -> ConfigDict:
    """A copy in which no classifier starts from a pooler that its system happens to have."""
    config = copy.deepcopy(config)
    classifiers = [job.model for job in config.finetune.values() if 'classify_from' in job.get('model', {})]
    for model in classifiers:
        model.new_pooler = model.classify_from == 'pooler'
    if any(model.new_pooler for model in classifiers):
        log.info('Classes are told from the pooler, which is drawn anew for every model')
    return config


def _settings(config: ConfigDict, model: str, task: str) -> dict[str, Any]:
    """What decides a cell, as JSON has it."""
    is_pretrained = '=' in model  # a model that is there already, however it was trained
    parts = {'finetune': config.finetune[task]} | (
        {} if is_pretrained else {'pretrain': config.get('pretrain', {})}
    )
    sections = {name: json.loads(ConfigDict(part).to_json()) for name, part in parts.items()}
    return sections | {'model': model, 'seeds': config.seeds}


def _finished_cell(folder: Path, settings: dict[str, Any]) -> Mapping[str, Any] | None:
    """The results of a cell that was finished with these settings; None where it has yet to be.

    Raises ValueError where it was made, or begun, with others: a table would compare what is not alike.
    """
    path = folder / SETTINGS
    if not path.is_file():
        return None
    current_settings = flatten(settings)
    saved = folder_files.read_json(path)
    saved |= {name: upgrade_config(saved[name]) for name in ('pretrain', 'finetune') if saved.get(name)}
    saved_settings = current_settings | flatten(saved)  # a key that there was not yet is of no account
    keys = [key for key in sorted(saved_settings) if saved_settings[key] != current_settings.get(key)]
    if keys:
        changed = ', '.join(f'{key}: {saved_settings[key]} → {current_settings.get(key)}' for key in keys)
        raise ValueError(
            f'{folder} was made with other settings ({changed}): give another '
            '--workdir, or the settings that it was made with; or remove it, and it is made anew'
        )
    results = folder / 'results.json'
    return folder_files.read_json(results) if results.is_file() else None


def read_cells(task: str, results: Mapping[str, Any]) -> dict[str, Cell]:
    """By column, what a fine-tuning run's results.json has of its best parameters, on every split."""
    per_seed = results['per_seed']
    seeds = tuple(result['seed'] for result in per_seed)
    return {
        column: Cell(seeds, tuple(factor * result[split]['best'][metric] for result in per_seed))
        for split in SPLITS
        if split in per_seed[0]
        for column, (metric, factor) in columns_of(task, split).items()
    }
