"""The exact batch of a past step, as text.

    python -m clower_jax.replay --workdir W --step N [--rows 3]

A batch is a pure function of (seed, data set, step), so any step can be looked at again. Like run.py this is
a command: it joins the training package and the input pipeline, which otherwise do not know each other.
"""

import argparse
import sys
from pathlib import Path

from input_pipeline.utils import garbage

if __name__ == '__main__':  # before the imports, which are most of a short command's time
    garbage.collect_seldom()

import numpy as np
from ml_collections import ConfigDict

from clower_jax.utils.run_config import read_run_config


def load(workdir: str | Path, step: int) -> tuple[dict[str, np.ndarray], list[str]]:
    """The batch that step `step` (counted from 1) of a run was taken on, and its vocabulary's tokens.

    Raises ValueError where there is no run in `workdir` or the step is none of its steps.
    """
    if not Path(workdir, 'config.json').is_file():
        raise ValueError(f'{workdir} is not a workdir: it has no config.json')
    config = ConfigDict(read_run_config(workdir))
    if config.task != 'pretrain':
        raise ValueError(f'{workdir} is of fine-tuning; only the batches of pre-training are shown as text')
    if not 1 <= step <= config.total_steps:
        raise ValueError(f'--step {step}: the run in {workdir} has the steps 1 to {config.total_steps}')
    from input_pipeline.pretraining import batches  # takes seconds

    batch = next(batches.batches(config, start_step=step - 1))
    return batch, batches.vocabulary(config).tokens


def describe(batch: dict[str, np.ndarray], tokens: list[str], row: int) -> str:
    """One row as text: both views as the model read them, what was to be predicted, and the anchors. Packed,
    a row is several texts, each from its [CLS] on."""
    predicted = '\033[1m{}\033[0m' if sys.stdout.isatty() else '«{}»'
    orders = [('in order', 'swapped')[label] for label in np.ravel(batch['sop_labels'][row]) if label >= 0]
    lines = [f'example {row}, sentences {"; ".join(orders)}']
    if 'context_ids' in batch:
        ids = np.trim_zeros(batch['context_ids'][row], 'b')  # padding stands on the right
        lines.append('  context: ' + ' '.join(tokens[i] for i in ids))
    for view in [name for name in ('char', 'word') if f'{name}_ids' in batch]:
        shown = [tokens[i] for i in np.trim_zeros(batch[f'{view}_ids'][row], 'b')]
        labels = batch[f'{view}_mlm_labels'][row]
        for position, label in zip(batch[f'{view}_mlm_positions'][row], labels):
            if label >= 0:
                shown[position] = predicted.format(f'{shown[position]}←{tokens[label]}')
        lines.append(f'  {view}: ' + ' '.join(shown))
    if 'anchor_ids' not in batch:
        return '\n'.join(lines)
    anchors = zip(
        *(batch[f'anchor_{name}'][row] for name in ('ids', 'word_position', 'char_start', 'char_length'))
    )
    words = [f'{tokens[i]} (word {w}, characters {c}–{c + n - 1})' for i, w, c, n in anchors if n]
    return '\n'.join([*lines, '  anchors: ' + (', '.join(words) or 'none')])


def main() -> None:
    """Prints `--rows` examples of the batch (0: all)."""
    parser = argparse.ArgumentParser(prog='python -m clower_jax.replay', description=__doc__.split('\n')[0])
    parser.add_argument('--workdir', required=True, help='of a pre-training run')
    parser.add_argument('--step', type=int, required=True, help='counted from 1, as in metrics.jsonl')
    parser.add_argument('--rows', type=int, default=0, help='how many examples to show; 0: all')
    args = parser.parse_args()
    try:
        batch, tokens = load(args.workdir, args.step)
    except ValueError as error:
        sys.exit(f'replay: {error}')
    size = len(batch['sop_labels'])
    for row in range(min(args.rows or size, size)):
        print(describe(batch, tokens, row))


if __name__ == '__main__':
    main()
