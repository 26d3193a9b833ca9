"""How memory, traffic and FLOPs of a step grow, by formulas and in compiled programs, in one picture.

    python bench/cost_curves.py --compile    compiles the points (an environment as bench/compiled.py wants)
    python bench/cost_curves.py              draws

Everything is as in `:base` with cuDNN's attention on an H100, 32 rows of 512 + 384 tokens, but for two layers
an encoder, and but for what an axis changes. The formulas' bytes are counted kernel by kernel, in the program
of one size; the points are XLA's programs of all sizes.
"""

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from ml_collections import ConfigDict  # noqa: E402

from bench import harness  # noqa: E402
from bench.compiled import attention_flops, launch  # noqa: E402
from clower_jax.utils import figures, flops  # noqa: E402
from configs import pretrain  # noqa: E402

FOLDER = Path('docs/results/cost_curves')
LAYERS = 2
START = {'length': 512, 'rows': 32, 'anchors': 20, 'vocabulary': 61_128, 'devices': 1}
GRID = {
    'length': (128, 256, 512),
    'rows': (16, 32, 96),
    'anchors': (5, 20, 80),
    'vocabulary': (21_128, 61_128, 160_000),
    'devices': (1, 8),
}
AXES = {
    'length': 'L, characters a row (words: ¾ L)',
    'rows': 'B, rows of a device',
    'anchors': 'K, anchors a row',
    'vocabulary': 'V, rows of the table',
    'devices': 'G, devices',
}
BLOCK = 2**28  # logits that exist at a time, see ops/fused_cross_entropy.py
FORMULAS = {
    'GFLOP an example': (
        'T = tokens of an example, M = masked ones\nN layers, D units, P parameters\n\n'
        '3 · [ N · T · (24 D² + 4 L D)\n+ M · 2 (D² + D V)\n+ 2 K D · B G K ]'
    ),
    'GB moved an example': (
        'T · N · 2 D ·\n(57 products + 12 attention + 47 others)\n+ 18 · M V   (logits)\n'
        '+ 30 · T · 2 D   (embeddings)\n+ (46 P + 24 D V) / B   (parameters, table)\n'
        '+ 26 · K · B G K   (contrast)'
    ),
    'GiB of a device': (
        '16 P   (parameters, moments, gradient)\n+ B T N · 32 D   (kept for the way back)\n'
        '+ 6 · min(2²⁸, B M V)   (logits)\n+ 8 · B G K · D   (contrast)'
    ),
    'GFLOP an example, contrast of tokens': '6 K D · B G K',
}


def config_at(point: Mapping[str, int]) -> ConfigDict:
    """What bench/compiled.py compiles with `changes_at(point)`."""
    config = pretrain.get_config('base')
    config.update_from_flattened_dict(changes_at(point))
    config.model.base_vocab_size = 21_128
    config.batch_size = point['rows'] * point['devices']
    return config


def changes_at(point: Mapping[str, int]) -> dict[str, int]:
    """Keys of the config."""
    return {
        'model.num_layers': LAYERS,
        'model.vocab_size': point['vocabulary'],
        'data.char_length': point['length'],
        'data.word_length': point['length'] * 3 // 4,
        'data.max_anchors': point['anchors'],
    }


def cost(point: Mapping[str, int]) -> tuple[float, ...]:
    """By the formulas, in the order and the units of FORMULAS."""
    config = config_at(point)
    rows, anchors, vocabulary = point['rows'], point['anchors'], point['vocabulary']
    width, layers = config.model.hidden_size, config.model.num_layers
    lengths = config.data.char_length, config.data.word_length
    tokens = sum(lengths)
    masked = [round(config.data.mask_rate * length) for length in lengths]
    # Both encoders' layers and poolers, both MLM heads, the tables.
    parameters = 2 * layers * 12 * width**2 + 4 * width**2 + (vocabulary + 512) * width
    negatives = rows * point['devices'] * anchors
    kept = rows * tokens * layers * 32 * width
    blocks = 6 * min(BLOCK, rows * max(masked) * vocabulary)
    moved = tokens * 2 * width * (layers * (57 + 12 + 47) + 30) + 18 * sum(masked) * vocabulary
    once = 46 * parameters + 24 * width * vocabulary  # a step, not an example
    return (
        flops.step_flops(config) / config.batch_size / 1e9,
        (moved + once / rows + 26 * anchors * negatives) / 1e9,
        (16 * parameters + kept + blocks + 8 * negatives * width) / 2**30,
        6 * anchors * width * negatives / 1e9,
    )


def compiled(point: Mapping[str, int]) -> dict[str, Any]:
    """The figures of bench/compiled.py."""
    chip = 'h100' if point['devices'] == 1 else f'h100:{point["devices"]}'
    changes = [f'{key}={value}' for key, value in changes_at(point).items()]
    return launch('base,cudnn', chip, point['rows'], changes)


def values_of(figures: Mapping[str, Any], point: Mapping[str, int]) -> tuple[float, ...]:
    """As `cost`; cuDNN's products are no dots, and are added as the formula has them."""
    config, rows = config_at(point), figures['batch']
    attention = attention_flops(config)
    moved = sum(size for kind, size in figures['traffic'].items() if kind != 'collectives')
    return (
        (figures['product_flops'] / rows + attention) / 1e9,
        moved / rows / 1e9,
        sum(figures['memory'].values()) / 2**30,
        figures['contrast_flops'] / rows / 1e9,
    )


def draw(points: list[dict[str, Any]], path: Path) -> None:
    """The picture: a row for each of FORMULAS, a column for each axis."""
    line, other = figures.colors()[:2]
    figure, panels = figures.subplots(len(FORMULAS), len(AXES) + 1, figsize=(19, 12), layout='constrained')
    for row, (name, formula) in enumerate(FORMULAS.items()):
        panels[row][0].axis('off')
        panels[row][0].text(0, 0.95, f'{name}\n\n{formula}', va='top', fontsize=9.5)
        for panel, (axis, label) in zip(panels[row][1:], AXES.items()):
            low, high = min(GRID[axis]), max(GRID[axis])
            steps = sorted({round(low * (high / low) ** (i / 40)) for i in range(41)})
            steps = [step // 4 * 4 for step in steps] if axis == 'length' else steps
            costs = [cost(START | {axis: step}) for step in steps]
            panel.plot(steps, [one[row] for one in costs], color=line, label='formula')
            at = [one for one in points if one['axis'] == axis and 'figures' in one]
            values = [values_of(one['figures'], START | {axis: one['value']})[row] for one in at]
            panel.plot([one['value'] for one in at], values, 'o', color=other, label='compiled')
            panel.set_ylim(0, 1.15 * panel.get_ylim()[1])
            panel.set_xlabel(label)
            panel.grid(alpha=0.3)
    panels[0][1].legend(fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figures.save(figure, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split('\n\n')[0])
    parser.add_argument('--compile', action='store_true', help='compile the points that are not stored')
    parser.add_argument('--folder', type=Path, default=FOLDER)
    flags = parser.parse_args()
    file = flags.folder / 'points.json'
    points = json.loads(file.read_text('utf-8'))['points'] if file.exists() else []
    if flags.compile:
        flags.folder.mkdir(parents=True, exist_ok=True)
        for axis, values in GRID.items():
            for value in values:
                if any((one['axis'], one['value']) == (axis, value) for one in points):
                    continue
                same = [one for one in points if START | {one['axis']: one['value']} == START | {axis: value}]
                figures = same[0]['figures'] if same else compiled(START | {axis: value})
                points.append({'axis': axis, 'value': value, 'figures': figures})
                harness.save(file, points=points)
        return
    draw(points, flags.folder / 'curves.png')
    rows = []
    for one in points:
        point = START | {one['axis']: one['value']}
        pairs = zip(values_of(one['figures'], point), cost(point))
        rows.append([f'{one["axis"]} {one["value"]:,}', *(f'{a:.2f} ({a / b:.2f})' for a, b in pairs)])
    print(harness.table(['', *(f'{name} (of the formula)' for name in FORMULAS)], rows))


if __name__ == '__main__':
    main()
