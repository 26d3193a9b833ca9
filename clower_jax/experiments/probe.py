"""What frozen encoders know of a task: linear probes of their vectors, several models side by side."""

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from clower_jax.experiments import linear_probes
from clower_jax.experiments.linear_probes import PROBES
from clower_jax.inference.encoder import Encoder
from clower_jax.interop import weight_sources
from clower_jax.utils import figures
from input_pipeline.utils import output_file

log = logging.getLogger(__name__)

VECTORS = {  # as `Encoder.load` calls them
    'cls': '[CLS]',
    'mean': 'mean of hidden states',
    'embeddings': 'mean of token embeddings',
}

Texts = tuple[Sequence[str], np.ndarray]  # N texts, and the numbers of their labels, int [N]
Folders = dict[str, list[str]]  # a model's name → a folder for each of its pre-training seeds


class Rows(NamedTuple):
    """The rows of a task that take part. `draws`: by number of labels, places in `train`, int [draws, n]."""

    train: Texts
    selection: Texts
    reported: Texts
    draws: dict[int, np.ndarray]


class Cell(NamedTuple):
    """A probe of one vector with so many labels. `right`: bool [draws, rows]; `penalties`: fp64 [draws]."""

    right: np.ndarray
    penalties: np.ndarray


Cells = dict[tuple[str, str, int], Cell]  # (vector, probe, number of labels)


def models(config: ConfigDict) -> Folders:
    """The folders of every model, by name, as `config.models` has them.

    Raises ValueError where there is none, one lacks its name or is no encoder, or the reference is unknown.
    """
    folders: Folders = {}
    for entry in config.models.split(','):
        name, _, folder = entry.strip().partition('=')
        if not name or not folder:
            raise ValueError(
                f'models={config.models!r} must be NAME=FOLDER,NAME=FOLDER, with a Hugging Face BERT or a '
                'workdir each'
            )
        weight_sources.source_info(folder)
        folders.setdefault(name, []).append(folder)
    if config.reference and config.reference not in folders:
        raise ValueError(f'reference={config.reference!r} must be one of {", ".join(folders)}')
    return folders


def choose_rows(config: ConfigDict, train: Texts, reported: Texts) -> Rows:
    """Which rows take part: of the development file at most `config.eval_rows`; of the training file
    `config.selection_rows` for the penalty and, of the others, `config.draws` random choices of each number
    of `config.train_sizes`. Where there are fewer than a number, it is all that there are; all are one draw.

    Raises ValueError where a number is below 1, or training rows are too few to be divided.
    """
    for key in ('selection_rows', 'draws', 'resamples'):
        if config[key] < 1:
            raise ValueError(f'{key}={config[key]} must be at least 1')
    if not config.train_sizes or min(config.train_sizes) < 1:
        raise ValueError(f'train_sizes={config.train_sizes} must be numbers of labels, at least 1 each')
    random = np.random.default_rng(config.seed)
    order = random.permutation(len(train[0]))
    selection, rest = np.split(order, [config.selection_rows])
    pool = rest[: max(config.train_sizes)]
    if not len(pool):
        raise ValueError(
            f'{len(order)} training rows, {config.selection_rows} of them to choose the penalty by: none is '
            'left to train on; lower --config.selection_rows'
        )
    shuffled = np.stack([random.permutation(len(pool)) for _ in range(config.draws)])
    sizes = sorted({min(size, len(pool)) for size in config.train_sizes})
    draws = {size: shuffled[:, :size] if size < len(pool) else shuffled[:1] for size in sizes}
    kept = np.sort(random.permutation(len(reported[0]))[: config.eval_rows or None])
    return Rows(_take(train, pool), _take(train, selection), _take(reported, kept), draws)


def _take(texts: Texts, indices: np.ndarray) -> Texts:
    return [texts[0][place] for place in indices], texts[1][indices]


def measure(encoder: Encoder, rows: Rows) -> Cells:
    """Every probe of an encoder that gives `VECTORS`, side by side in one vector."""
    parts = (rows.train, rows.selection, rows.reported)
    ends = np.cumsum([len(texts) for texts, _ in parts])[:-1]
    encoded = encoder.encode([text for texts, _ in parts for text in texts])
    cells: Cells = {}
    for vector, vectors in zip(VECTORS, np.split(encoded, len(VECTORS), axis=1)):
        train, selection, reported = np.split(vectors, ends)
        for size, draws in rows.draws.items():
            for probe, fit in PROBES.items():
                chosen = [
                    linear_probes.choose(
                        fit, (train[draw], rows.train[1][draw]), (selection, rows.selection[1]), reported
                    )
                    for draw in draws
                ]
                right = np.stack([choice.predicted for choice in chosen]) == rows.reported[1]
                cells[vector, probe, size] = Cell(right, np.array([choice.penalty for choice in chosen]))
    return cells


def run(config: ConfigDict, workdir: Path, tasks: Mapping[str, tuple[Texts, Texts]]) -> str:
    """Probes every model on every task and writes probe.md, probe.json and probe.png after each; returns the
    first. What an earlier call with the same settings has measured is read (cells/ in the workdir).

    Args:
      config: of configs/probe.py.
      tasks: by name, training texts and those that are reported.

    Raises ValueError where the config makes no sense, or what is there was measured with other settings.
    """
    folders = models(config)
    rows = {name: choose_rows(config, *texts) for name, texts in tasks.items()}
    done: dict[str, dict[str, list[Cells]]] = {}
    text = ''
    for task in rows:
        # A model's later seeds come after the first seed of all.
        for seed in range(max(map(len, folders.values()))):
            for name, seeds in folders.items():
                if seed < len(seeds):
                    path = workdir / 'cells' / f'{task}-{name}-{seed}.npz'
                    cells = _cells(config, path, task, seeds[seed], rows[task])
                    done.setdefault(task, {}).setdefault(name, []).append(cells)
                    text = write(config, workdir, rows, done)
    return text


def _cells(config: ConfigDict, path: Path, task: str, folder: str, rows: Rows) -> Cells:
    """What is in `path`, else measured and written to it."""
    settings = {key: config[key] for key in ('draws', 'selection_rows', 'eval_rows', 'seed', 'dtype')}
    settings |= {'train_sizes': list(rows.draws), 'folder': folder, 'data': config.data[task].to_dict()}
    settings_json = json.dumps(settings, sort_keys=True, ensure_ascii=False)
    if path.is_file():
        with np.load(path) as saved:
            if str(saved['settings']) != settings_json:
                raise ValueError(
                    f'{path} was measured with other settings: {saved["settings"]}; give another --workdir'
                )
            return {
                (vector, probe, size): Cell(
                    *(saved[f'{vector} {probe} {size} {field}'] for field in Cell._fields)
                )
                for vector in VECTORS
                for probe in PROBES
                for size in rows.draws
            }
    log.info('%s: %s', task, folder)
    encoder = Encoder.load(folder, ','.join(VECTORS), config.dtype, config.data[task].max_length)
    cells = measure(encoder, rows)
    arrays = {
        ' '.join((*map(str, key), field)): value
        for key, cell in cells.items()
        for field, value in cell._asdict().items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with output_file.atomic_write(path) as partial:
        np.savez_compressed(partial, settings=np.array(settings_json), **arrays)
    return cells


def compare(config: ConfigDict, cells_by_model: Mapping[str, Sequence[Cells]]) -> list[dict[str, Any]]:
    """A task's results, one for each vector, probe, number of labels and model: `accuracy`, the mean over
    draws and seeds, with its bootstrap `interval`; `seeds`, the accuracy of each; `penalties`, those chosen,
    by seed and draw; and, but for the reference, `difference` from it with a paired interval. Intervals are
    of the reported rows alone, drawn anew: neither the draws of labels nor the pre-training seeds are."""
    reference = config.reference or next(iter(cells_by_model))
    results = []
    for vector, probe, size in next(iter(cells_by_model.values()))[0]:
        cells = {
            name: [cells[vector, probe, size] for cells in seeds] for name, seeds in cells_by_model.items()
        }
        rows = {
            name: np.mean([cell.right.mean(axis=0) for cell in seeds], axis=0)
            for name, seeds in cells.items()
        }
        for name, seeds in cells.items():
            result = {
                **{'model': name, 'vector': vector, 'probe': probe, 'labels': size},
                'accuracy': float(rows[name].mean()),
                'interval': linear_probes.interval(rows[name], config.seed, config.resamples),
                'seeds': [float(cell.right.mean()) for cell in seeds],
                'penalties': [cell.penalties.tolist() for cell in seeds],
            }
            if name != reference and reference in rows:
                change = rows[name] - rows[reference]
                result['difference'] = float(change.mean())
                result['difference_interval'] = linear_probes.interval(change, config.seed, config.resamples)
            results.append(result)
    return results


def write(
    config: ConfigDict,
    workdir: Path,
    rows: Mapping[str, Rows],
    done: Mapping[str, Mapping[str, Sequence[Cells]]],
) -> str:
    """Writes probe.md, probe.json and probe.png of what is done; returns the first."""
    keys = ('models', 'reference', 'draws', 'seed', 'resamples', 'dtype')
    results: dict[str, Any] = {'settings': {key: config[key] for key in keys}, 'tasks': {}}
    for task, cells_by_model in done.items():
        reported = rows[task].reported[1]
        results['tasks'][task] = {
            'rows': {part: len(getattr(rows[task], part)[1]) for part in ('train', 'selection', 'reported')},
            'draws': {size: len(draws) for size, draws in rows[task].draws.items()},
            'max_length': config.data[task].max_length,
            'largest_class': float(np.bincount(reported).max() / len(reported)),
            'results': compare(config, cells_by_model),
        }
    workdir.mkdir(parents=True, exist_ok=True)
    output_file.write_json(workdir / 'probe.json', results)
    text = table(results)
    output_file.write_text(workdir / 'probe.md', text)
    draw(results, workdir / 'probe.png')
    return text


def table(results: Mapping[str, Any]) -> str:
    """What `write` puts into probe.json as markdown: a row for each task, number of labels and model, a
    column for each vector and probe, in percent."""
    reference = results['settings']['reference'] or results['settings']['models'].partition('=')[0]
    columns = [(vector, probe) for vector in VECTORS for probe in PROBES]
    lines = [
        'Accuracy in percent, the mean over the random choices of labels and the pre-training seeds; in '
        f'brackets the difference from {reference} with its 95 % paired bootstrap interval, of the reported '
        'rows alone.',
        '',
        f'| task | labels | model | seeds | {" | ".join(f"{VECTORS[v]}, {probe}" for v, probe in columns)} |',
        f'|{"---|" * (4 + len(columns))}',
    ]
    for task, about in results['tasks'].items():
        cells = {(x['labels'], x['model'], x['vector'], x['probe']): x for x in about['results']}
        for labels, model in dict.fromkeys(key[:2] for key in cells):
            shown = [cells[labels, model, *column] for column in columns]
            row = [task, f'{labels:,}', model, str(len(shown[0]['seeds'])), *map(_shown, shown)]
            lines.append(f'| {" | ".join(row)} |')
    return '\n'.join(lines) + '\n'


def _shown(result: Mapping[str, Any]) -> str:
    text = f'{100 * result["accuracy"]:.1f}'
    if 'difference' in result:
        low, high = (100 * bound for bound in result['difference_interval'])
        text += f' ({100 * result["difference"]:+.1f} [{low:+.1f}, {high:+.1f}])'
    return text


def draw(results: Mapping[str, Any], path: Path) -> None:
    """Learning curves: a row for each task, a panel for each vector, a colour for each model; dots are the
    pre-training seeds, bars the interval of the reported rows. Logistic regression is solid, ridge dashed."""
    tasks = results['tasks']
    names = list(dict.fromkeys(x['model'] for about in tasks.values() for x in about['results']))
    shown = dict(zip(names, figures.drawable(names, path)))
    colors = dict(zip(names, figures.colors() * len(names)))
    figure, axes = figures.subplots(
        len(tasks),
        len(VECTORS),
        figsize=(4.2 * len(VECTORS), 3.4 * len(tasks) + 0.8),
        squeeze=False,
        sharey='row',
    )
    for axes_row, (task, about) in zip(axes, tasks.items()):
        for axis, (vector, title) in zip(axes_row, VECTORS.items()):
            for position, (name, color) in enumerate(colors.items()):
                for probe, style in zip(PROBES, ('--', '-')):
                    key = (name, vector, probe)
                    points = [x for x in about['results'] if (x['model'], x['vector'], x['probe']) == key]
                    if not points:  # not measured yet
                        continue
                    # Models stand a little beside each other, so that their bars can be told apart.
                    labels = [x['labels'] * 1.05 ** (position - len(colors) / 2) for x in points]
                    means = np.array([100 * x['accuracy'] for x in points])
                    if style == '--':
                        axis.plot(labels, means, style, color=color, lw=0.9, alpha=0.7)
                        continue
                    bars = np.abs(100 * np.array([x['interval'] for x in points]).T - means)
                    axis.errorbar(labels, means, bars, color=color, lw=1.4, label=shown[name])
                    for label, x in zip(labels, points):
                        seeds = [100 * seed for seed in x['seeds']]
                        axis.plot([label] * len(seeds), seeds, 'o', color=color, ms=3)
            axis.set_xscale('log')
            axis.set_title(f'{task}, {title}', fontsize=10)
            axis.grid(alpha=0.25)
        axes_row[0].set_ylabel('accuracy, %')
    for axis in axes[-1]:
        axis.set_xlabel('labels (solid: logistic regression, dashed: ridge)', fontsize=9)
    handles, titles = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, titles, loc='lower center', ncols=min(len(names), 7), fontsize=9, frameon=False)
    figure.tight_layout(rect=(0, 0.35 / figure.get_figheight(), 1, 1))
    figures.save(figure, path)
