"""The curves of a run and the confusion of its classes, as pictures."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from clower_jax.utils import figures
from clower_jax.utils.metrics_file import EVENT

ENTITY_METRICS = ('entity_precision', 'entity_recall', 'entity_f1', 'entity_macro_f1')
# What is drawn together. A metric that is in none of these has a panel of its own.
PANELS = (
    ('Loss', ('loss',)),
    ('MLM loss', ('loss_mlm_char', 'loss_mlm_word')),
    ('Contrast and SOP loss', ('loss_tcl', 'loss_scl', 'loss_sop', 'loss_contrast')),
    ('MLM accuracy', ('acc_mlm_char', 'acc_mlm_word')),
    ('Retrieval and SOP accuracy', ('acc_tcl', 'acc_scl', 'acc_sop', 'acc_contrast')),
    ('Accuracy, micro and macro F1', ('acc', 'micro_f1', 'macro_f1')),
    ('Exact match and F1, %', ('em', 'f1', 'f1_drcd', 'f1_cmrc')),
    ('Entities: precision, recall and F1', ENTITY_METRICS),
    ('Correlation', ('spearman', 'pearson')),
    ('Retrieval', ('acc_ab', 'acc_ba', 'mrr', 'recall_1', 'recall_5', 'recall_10')),
    ('Learning rate', ('lr',)),
    ('Length of the gradient', ('grad_norm',)),
    ('Tokens per second', ('tokens_per_s',)),
)
# Other names of what is drawn already, and counts.
EXCLUDED = ('step', 'split', 'examples_per_s', 'mfu', 'anchors', 'skipped_steps')


def draw_confusion(counts: np.ndarray, labels: Sequence[str], path: str | Path) -> None:
    """A confusion matrix [C, C], rows the true labels: coloured by the share of each row, with the counts.

    Labels that no installed font can draw are numbered, and `figures.key_of(path)` says what each is.
    """
    names = figures.drawable(labels, path)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    size = max(4.0, 0.55 * len(labels) + 2.0)
    figure, axis = figures.subplots(figsize=(size + 1, size))
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


def select_panels(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, tuple[str, ...]]]:
    """(title, names of metrics) of each panel that the rows have data for: `PANELS`, then one for every other
    metric, but those `EXCLUDED`."""
    rows = [row for row in rows if row['split'] != EVENT]
    present = dict.fromkeys(name for row in rows for name in row if name not in EXCLUDED)
    panelled = [name for _, names in PANELS for name in names]
    panels = [(title, tuple(name for name in names if name in present)) for title, names in PANELS]
    return [panel for panel in panels if panel[1]] + [
        (name, (name,)) for name in present if name not in panelled
    ]


def draw_curves(rows: Sequence[Mapping[str, Any]], path: str | Path) -> None:
    """Training (thin), held-out (dots) and test (squares) curves of every metric, in panels of like
    ones."""
    panels = select_panels(rows)
    columns = 3
    height = max(1, -(-len(panels) // columns))
    size = 4.2 * columns, 2.9 * height
    figure, axes = figures.subplots(height, columns, figsize=size, squeeze=False)
    for axis, (title, names) in zip(axes.flat, panels):
        for color, name in zip(figures.colors(), names):
            for split, suffix, style in (
                ('train', '', {'lw': 0.9, 'alpha': 0.75}),
                ('validation', ', held out', {'lw': 1.4, 'marker': 'o', 'ms': 3}),
                ('test', ', test', {'lw': 1.4, 'marker': 's', 'ms': 3, 'ls': ':'}),
            ):
                points = [(row['step'], row[name]) for row in rows if row['split'] == split and name in row]
                if points:
                    axis.plot(*zip(*points), color=color, label=f'{name}{suffix}', **style)
        axis.set_title(title, fontsize=10, y=1)  # y: nothing else is up there, and need not be looked for
        axis.set_xlabel('step', fontsize=8)
        axis.tick_params(labelsize=8)
        axis.grid(alpha=0.25)
        axis.legend(fontsize=7, frameon=False)
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    # Margins that fit every panel: to measure what is there takes three times as long as to draw it.
    figure.subplots_adjust(
        left=0.6 / size[0], right=1 - 0.1 / size[0], bottom=0.5 / size[1], top=1 - 0.3 / size[1],
        wspace=0.17, hspace=0.4,
    )  # fmt: skip
    figures.save(figure, path, crop=False)
