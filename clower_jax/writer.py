"""The files that a run leaves: config.json, metrics.jsonl, TensorBoard events, curves.png."""

import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import matplotlib.pyplot as plt
import numpy as np
from ml_collections import ConfigDict
from tensorboardX import SummaryWriter

from clower_jax import figures
from clower_jax.output_file import naming, write_text

log = logging.getLogger(__name__)

# What is drawn together. A metric that is in none of these has a panel of its own.
PANELS = (
    ('Loss', ('loss',)),
    ('MLM loss', ('loss_mlm_char', 'loss_mlm_word')),
    ('Contrast and SOP loss', ('loss_tcl', 'loss_scl', 'loss_sop', 'loss_contrast')),
    ('MLM accuracy', ('acc_mlm_char', 'acc_mlm_word')),
    ('Retrieval and SOP accuracy', ('acc_tcl', 'acc_scl', 'acc_sop', 'acc_contrast')),
    ('Accuracy and macro F1', ('acc', 'macro_f1')),
    ('Exact match and F1, %', ('em', 'f1', 'f1_drcd', 'f1_cmrc')),
    ('Spearman', ('spearman',)),
    ('Retrieval', ('acc_ab', 'acc_ba', 'mrr', 'recall_1', 'recall_5', 'recall_10')),
    ('Learning rate', ('lr',)),
    ('Length of the gradient', ('grad_norm',)),
    ('Tokens per second', ('tokens_per_s',)),
)
EVENT = 'event'  # the split of rows that hold no metrics
# Other names of what is drawn already, and counts.
NOT_DRAWN = ('step', 'split', 'examples_per_s', 'mfu', 'anchors', 'skipped_steps')


class Writer:
    """Writes to `workdir` from the first process; elsewhere every call does nothing.

    `start_step`: the step that the run goes on from. Lines of later steps, left by a run that was killed
    after its last checkpoint, are dropped: those steps will be taken again; so are those of step 0 where it
    begins. `rows` are the lines that stay. `writes`: False where nothing is to be written at all.
    """

    def __init__(self, workdir: str | Path, start_step: int = 0, writes: bool = True):
        self._on = writes and jax.process_index() == 0
        self._folder = Path(workdir)
        self._path = self._folder / 'metrics.jsonl'
        self.rows = kept = rows_until(workdir, start_step)
        if not self._on:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        if unreadable := _lines(self._path)[1]:
            numbers = ', '.join(map(str, unreadable))
            log.warning('%s: no metrics on line %s; left out, the others stay', self._path, numbers)
        write_text(self._path, ''.join(json.dumps(row) + '\n' for row in kept))
        self._events = SummaryWriter(str(self._folder / 'tensorboard'))

    def run(self, config: ConfigDict, tokens: Sequence[str], history: Sequence[dict] = ()) -> None:
        """config.json, every value as the run uses it, with the `history` of those that were others before
        (see `start.history`), and vocab.txt, one token a line."""
        if self._on:
            settings = json.loads(config.to_json()) | ({'history': list(history)} if history else {})
            write_text(self._folder / 'config.json', json.dumps(settings, indent=2) + '\n')
            write_text(self._folder / 'vocab.txt', ''.join(f'{t}\n' for t in tokens))

    def scalars(self, step: int, split: str, values: dict[str, float]) -> None:
        """One line of metrics.jsonl and the same scalars for TensorBoard."""
        if not self._on or not values:
            return
        self._append({'step': step, 'split': split, **values})
        for name, value in values.items():
            self._events.add_scalar(f'{split}/{name}', value, step)
        self._events.flush()

    def sync(self) -> None:
        """Sees that every line so far is on the disk, before a checkpoint says that its steps are done."""
        if self._on:
            for path in (self._path, self._folder):
                descriptor = os.open(path, os.O_RDONLY)
                os.fsync(descriptor)
                os.close(descriptor)

    def event(self, step: int, values: dict[str, Any]) -> None:
        """One line of metrics.jsonl, of the split EVENT, about what happened to the run before the step that
        comes after `step`."""
        if self._on:
            self._append({'step': step, 'split': EVENT, **values})

    def _append(self, row: dict[str, Any]) -> None:
        with naming(self._path), self._path.open('a', encoding='utf-8') as out:
            out.write(json.dumps(row) + '\n')

    def curves(self) -> Path | None:
        """Draws curves.png from metrics.jsonl; returns its path (None where this process does not write)."""
        if not self._on:
            return None
        path = self._folder / 'curves.png'
        draw_curves(read_metrics(self._path), path)
        return path

    def close(self) -> None:
        """Flushes what is not yet on disk."""
        if self._on:
            self._events.close()


def read_metrics(path: str | Path) -> list[dict]:
    """The rows of a metrics.jsonl; [] where there is none. Lines that are none are left out, such as a last
    one cut short by a kill."""
    return _lines(Path(path))[0]


def _lines(path: Path) -> tuple[list[dict], list[int]]:
    """The rows, and the numbers of lines before the last that are none."""
    lines = path.read_bytes().removesuffix(b'\n').split(b'\n') if path.is_file() else []
    rows, unreadable = [], []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
        except ValueError:  # no JSON, or no UTF-8
            row = None
        if isinstance(row, dict) and isinstance(row.get('step'), int) and isinstance(row.get('split'), str):
            rows.append(row)
        elif number < len(lines):
            unreadable.append(number)
    return rows, unreadable


def rows_until(workdir: str | Path, step: int) -> list[dict]:
    """The rows of a workdir's metrics.jsonl up to a step; none where a run begins, at step 0."""
    found = read_metrics(Path(workdir, 'metrics.jsonl')) if step else []
    return [row for row in found if row['step'] <= step]


def draw_confusion(counts: np.ndarray, labels: Sequence[str], path: str | Path) -> None:
    """A confusion matrix [C, C], rows the true labels: coloured by the share of each row, with the counts.

    Labels that no installed font can draw are numbered, and `figures.key_of(path)` says what each is.
    """
    names = figures.drawable(labels, path)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    size = max(4.0, 0.55 * len(labels) + 2.0)
    figure, axis = plt.subplots(figsize=(size + 1, size))
    image = axis.imshow(share, cmap='Blues', vmin=0, vmax=1)
    ticks = np.arange(len(labels))
    axis.set_xticks(ticks, names, rotation=45, ha='right', fontsize=8)
    axis.set_yticks(ticks, names, fontsize=8)
    axis.set_xlabel('predicted')
    axis.set_ylabel('true')
    axis.set_title(f'{np.trace(counts) / max(counts.sum(), 1):.1%} of {counts.sum():,} right', fontsize=10)
    for row, column in np.ndindex(counts.shape):
        if counts[row, column]:
            color = 'white' if share[row, column] > 0.5 else 'black'
            axis.text(
                column, row, f'{counts[row, column]}', ha='center', va='center', fontsize=7, color=color
            )
    figure.colorbar(image, label='share of the true label', fraction=0.046)
    figure.tight_layout()
    figures.save(figure, path)


def panels_of(rows: list[dict]) -> list[tuple[str, tuple[str, ...]]]:
    """(title, names of metrics) of each panel that the rows have data for: `PANELS`, then one for every other
    metric, but those `NOT_DRAWN`."""
    rows = [row for row in rows if row['split'] != EVENT]
    found = dict.fromkeys(name for row in rows for name in row if name not in NOT_DRAWN)
    known = [name for _, names in PANELS for name in names]
    panels = [(title, tuple(name for name in names if name in found)) for title, names in PANELS]
    return [panel for panel in panels if panel[1]] + [(name, (name,)) for name in found if name not in known]


def draw_curves(rows: list[dict], path: str | Path) -> None:
    """Training (thin), held-out (dots) and test (squares) curves of every metric, in panels of like
    ones."""
    panels = panels_of(rows)
    columns = 3
    height = max(1, -(-len(panels) // columns))
    figure, axes = plt.subplots(height, columns, figsize=(4.2 * columns, 2.9 * height), squeeze=False)
    for axis, (title, names) in zip(axes.flat, panels):
        for color, name in zip(plt.rcParams['axes.prop_cycle'].by_key()['color'], names):
            for split, ending, style in (
                ('train', '', {'lw': 0.9, 'alpha': 0.75}),
                ('validation', ', held out', {'lw': 1.4, 'marker': 'o', 'ms': 3}),
                ('test', ', test', {'lw': 1.4, 'marker': 's', 'ms': 3, 'ls': ':'}),
            ):
                points = [(row['step'], row[name]) for row in rows if row['split'] == split and name in row]
                if points:
                    axis.plot(*zip(*points), color=color, label=f'{name}{ending}', **style)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel('step', fontsize=8)
        axis.tick_params(labelsize=8)
        axis.grid(alpha=0.25)
        axis.legend(fontsize=7, frameon=False)
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    figure.tight_layout()
    figures.save(figure, path)
