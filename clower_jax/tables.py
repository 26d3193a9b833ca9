"""A grid of models × tasks × seeds, cell by cell, and the paper's tables and figure that it makes:
tables.md, tables.json, figure2.png."""

import copy
import json
import logging
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from ml_collections import ConfigDict
from scipy import stats

from clower_jax import figures, start

log = logging.getLogger(__name__)

# Table: title, tasks or, of the ablations, models. The paper's numbering.
TASK_TABLES = {
    'Table 2': ('Classification of texts', ('chnsenticorp', 'thucnews', 'tnews')),
    'Table 3': ('Classification of pairs of texts', ('bq', 'lcqmc', 'afqmc', 'ocnli', 'xnli')),
    'Table 4': ('Reading comprehension', ('cmrc', 'drcd')),
}
ABLATIONS = ('clower', 'no_tcl', 'no_scl', 'no_contrast', 'mm_bert_sop')
# A task's columns: what results.json calls them, and what to multiply by for percent. The first is the one
# that averages are of; it is named as the task is.
CLASSIFICATION = {'': ('acc', 100.0)}
COLUMNS = {
    'cmrc': {'': ('f1', 1.0), ' EM': ('em', 1.0)},
    'drcd': {'': ('f1_drcd', 1.0), ' EM': ('em', 1.0)},
}
NOTES = {
    'Table 3': (
        'The text of the paper says that CLOWER is 0.33 points above MM-BERT-sop on pairs of texts; its own '
        'table says 0.50.'
    )
}
MISSING = '—'
SETTINGS = 'cell.json'  # what a cell was made with, beside its results.json


class Cell(NamedTuple):
    """A model in a column: percent, one figure a seed, on the test set if there is one, else the development
    set."""

    seeds: tuple[int, ...]
    values: tuple[float, ...]


Grid = dict[tuple[str, str], Cell]  # (model, column)


def run(
    config: ConfigDict,
    workdir: Path,
    prepare: Callable[[str, Path], Mapping[str, Any] | None],
    finetune: Callable[[ConfigDict, Path], Mapping[str, Any]],
) -> str:
    """Fills the grid of a config (configs/tables.py) and writes its tables, anew after every cell.

    What is there already is not done again: a model is asked for once, and a cell that is finished is read.

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
    paper = _read_paper(config.paper)
    names = [model.partition('=')[0] for model in models]
    if config.reference not in names or len(set(names)) < len(names):
        raise ValueError(
            f'models={config.models!r} must name reference={config.reference!r}, and each model once'
        )
    workdir.mkdir(parents=True, exist_ok=True)
    grid: Grid = {}
    text = ''
    for number, (model, name) in enumerate(zip(models, names)):
        changes = None
        for place, task in enumerate(tasks):
            folder = workdir / 'cells' / name / task
            settings = _settings(config, model, task)
            results = _done(folder, settings)
            if results is None:
                cell = number * len(tasks) + place + 1
                log.info('Cell %d of %d: %s, %s', cell, len(models) * len(tasks), name, task)
                changes = prepare(model, workdir / 'models' / name) if changes is None else changes
                if changes is None:
                    return text
                folder.mkdir(parents=True, exist_ok=True)
                (folder / SETTINGS).write_text(json.dumps(settings, indent=1) + '\n', encoding='utf-8')
                one = copy.deepcopy(config.finetune[task])
                one.update_from_flattened_dict({'seeds': config.seeds, **changes})
                results = finetune(one, folder)
                if not results:
                    return text
            grid |= {(name, column): cell for column, cell in read_cells(task, results).items()}
            text = write(workdir, grid, names, tasks, config.reference, paper)
    return text


def listed(names: str) -> list[str]:
    """'a, b' → ['a', 'b']."""
    return [name.strip() for name in names.split(',')]


def _settings(config: ConfigDict, model: str, task: str) -> dict[str, Any]:
    """What decides a cell, as JSON has it."""
    named = '=' in model  # a model that is there already, however it was trained
    parts = {'finetune': config.finetune[task]} | ({} if named else {'pretrain': config.get('pretrain', {})})
    found = {name: json.loads(ConfigDict(part).to_json()) for name, part in parts.items()}
    return found | {'model': model, 'seeds': config.seeds}


def _done(folder: Path, settings: dict[str, Any]) -> Mapping[str, Any] | None:
    """The results of a cell that was finished with these settings; None where it has yet to be.

    Raises ValueError where it was made, or begun, with others: a table would compare what is not alike.
    """
    path = folder / SETTINGS
    if not path.is_file():
        return None
    before = json.loads(path.read_text(encoding='utf-8'))
    if before != settings:
        then, now = start.flatten(before), start.flatten(settings)
        keys = [key for key in sorted(then.keys() | now.keys()) if then.get(key) != now.get(key)]
        changed = ', '.join(f'{key}: {then.get(key)} → {now.get(key)}' for key in keys)
        raise ValueError(
            f'{folder} was made with other settings ({changed}): give another '
            '--workdir, or the settings that it was made with; or remove it, and it is made anew'
        )
    results = folder / 'results.json'
    return json.loads(results.read_text(encoding='utf-8')) if results.is_file() else None


def _read_paper(path: str) -> dict[str, dict[str, float]]:
    if not path:
        return {}
    try:
        found = json.loads(Path(path).read_text(encoding='utf-8'))
        return {name: {column: float(x) for column, x in row.items()} for name, row in found.items()}
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise ValueError(
            f'paper={path} is no file of numbers, {{model: {{column: number}}}}: {error}'
        ) from error


def columns_of(task: str) -> dict[str, tuple[str, float]]:
    """Column → (name in results.json, factor) of a task, its main one first."""
    return {f'{task}{suffix}': measure for suffix, measure in COLUMNS.get(task, CLASSIFICATION).items()}


def read_cells(task: str, results: Mapping[str, Any]) -> dict[str, Cell]:
    """By column, what a fine-tuning run's results.json has of its best parameters."""
    per_seed = results['per_seed']
    split = 'test' if 'test' in per_seed[0] else 'validation'
    seeds = tuple(one['seed'] for one in per_seed)
    return {
        column: Cell(seeds, tuple(factor * one[split]['best'][metric] for one in per_seed))
        for column, (metric, factor) in columns_of(task).items()
    }


def paired_p(a: Sequence[float], b: Sequence[float]) -> float:
    """Two-sided p of the paired t-test over seeds; NaN with fewer than two, 1 where all are equal."""
    if len(a) < 2:
        return math.nan
    differences = np.subtract(a, b)
    if np.ptp(differences) == 0:
        return 1.0 if differences[0] == 0 else 0.0
    return float(stats.ttest_rel(a, b).pvalue)


def averages(grid: Grid, models: Sequence[str], tasks: Sequence[str]) -> dict[str, Cell]:
    """Each model's mean over the tasks, seed by seed; only models that have them all, with the same seeds."""
    found = {}
    for model in models:
        cells = [grid[model, task] for task in tasks if (model, task) in grid]
        if len(cells) == len(tasks) and len({cell.seeds for cell in cells}) == 1:
            means = np.mean([cell.values for cell in cells], axis=0)
            found[model] = Cell(cells[0].seeds, tuple(means.tolist()))
    return found


def write(
    folder: Path,
    grid: Grid,
    models: Sequence[str],
    tasks: Sequence[str],
    reference: str,
    paper: Mapping[str, Mapping[str, float]],
) -> str:
    """tables.md, tables.json and figure2.png of a grid, which need not be complete; returns the markdown.

    `paper`: {model: {column: number}}. p is of the paired t-test over seeds against `reference`.
    """
    parts = [
        'Percent: accuracy; for reading comprehension F1, which averages are of, and exact match (EM), of '
        'DRCD as its own script has them. Mean ± standard deviation (n − 1) over seeds; p is of a paired '
        f't-test over seeds against {reference}. "paper": its number, where known. Bold: the best mean.'
    ]
    for name, (title, of_table) in TASK_TABLES.items():
        chosen = [task for task in of_table if task in tasks]
        if chosen:
            parts.append(f'## {name}. {title}\n\n{_table(grid, models, chosen, reference, paper)}')
            if name in NOTES:
                parts.append(NOTES[name])
    ablations = [model for model in ABLATIONS if model in models]
    if len(ablations) > 1:
        parts.append(f'## Table 5. Ablations\n\n{_table(grid, ablations, list(tasks), reference, paper)}')
    table = _table(grid, models, list(tasks), reference, paper)
    parts.append(f'## Table 6. Everything\n\n{table}')
    text = '\n\n'.join(parts) + '\n'
    (folder / 'tables.md').write_text(text, encoding='utf-8')
    cells = [
        {'model': model, 'task': column, 'seeds': cell.seeds, 'values': cell.values}
        for (model, column), cell in grid.items()
    ]
    (folder / 'tables.json').write_text(json.dumps(cells, indent=1) + '\n', encoding='utf-8')
    draw(grid, models, tasks, folder / 'figure2.png')
    return text


def _table(
    grid: Grid,
    models: Sequence[str],
    tasks: Sequence[str],
    reference: str,
    paper: Mapping[str, Mapping[str, float]],
) -> str:
    """Markdown: a row a model; of each task the result, p, and the paper's number."""
    columns = {
        column: {model: grid[model, column] for model in models if (model, column) in grid}
        for task in tasks
        for column in columns_of(task)
    }
    if len(tasks) > 1:
        columns['average'] = averages(grid, models, tasks)
    head = ['model']
    for column in columns:
        head += [column, 'p', 'paper']
    rows = []
    for model in models:
        row = [model]
        for column, cells in columns.items():
            row += _shown(cells, model, reference)
            row.append(_number(paper.get(model, {}).get(column)))
        rows.append(row)
    lines = [head, ['---'] * len(head), *rows]
    return '\n'.join(f'| {" | ".join(line)} |' for line in lines)


def _shown(cells: Mapping[str, Cell], model: str, reference: str) -> list[str]:
    """[mean ± deviation, p] of one cell."""
    if model not in cells:
        return [MISSING, MISSING]
    values = cells[model].values
    mean = statistics.fmean(values)
    text = f'{mean:.2f}' + (f' ± {statistics.stdev(values):.2f}' if len(values) > 1 else '')
    if mean == max(statistics.fmean(cell.values) for cell in cells.values()):
        text = f'**{text}**'
    comparable = reference in cells and model != reference and cells[reference].seeds == cells[model].seeds
    p = paired_p(values, cells[reference].values) if comparable else math.nan
    return [text, MISSING if math.isnan(p) else f'{p:.3f}']


def _number(value: float | None) -> str:
    return MISSING if value is None else f'{value:g}'


def draw(grid: Grid, models: Sequence[str], tasks: Sequence[str], path: Path) -> None:
    """Figure 2: for each task every model's mean, its deviation, and its seeds as dots."""
    tasks = [task for task in tasks if any((model, task) in grid for model in models)]
    figure, axes = plt.subplots(1, max(1, len(tasks)), figsize=(3.2 * max(1, len(tasks)), 3.6), squeeze=False)
    colors = plt.rcParams['axes.prop_cycle'].by_key()['color']
    names = figures.drawable(models, path)
    for axis, task in zip(axes.flat, tasks):
        for place, model in enumerate(models):
            if (model, task) not in grid:
                continue
            values = grid[model, task].values
            deviation = statistics.stdev(values) if len(values) > 1 else 0.0
            color = colors[place % len(colors)]
            axis.errorbar(place, statistics.fmean(values), deviation, fmt='s', ms=7, capsize=4, color=color)
            axis.plot([place] * len(values), values, '.', color='black', alpha=0.5)
        axis.set_xticks(range(len(models)), names, rotation=45, ha='right', fontsize=8)
        axis.set_title(task, fontsize=10)
        axis.grid(axis='y', alpha=0.25)
    axes.flat[0].set_ylabel('percent')
    figure.tight_layout()
    figures.save(figure, path)
