"""Data for fine-tuning: the one door between labelled data and everything else.

    config, data = prepare(config, vocabulary)
    for batch in data.batches(config, start_step=step): ...

As in pre-training the batch of step k is a pure function of (seed, data set, k).
"""

import copy
import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Protocol

import numpy as np
from ml_collections import ConfigDict

from input_pipeline import buckets, classification, reading
from input_pipeline.tokenizer import Vocabulary

log = logging.getLogger(__name__)

Outputs = list[dict[str, np.ndarray]]


class Split(Protocol):
    """One set of examples: token rows, what each is to be, and what the model's outputs for them mean."""

    rows: buckets.Rows

    def targets(self, planned: buckets.Planned, batch_size: int) -> dict[str, np.ndarray]: ...

    def score(self, outputs: Outputs) -> dict[str, float]: ...

    def confusion(self, outputs: Outputs) -> np.ndarray | None: ...

    def write_predictions(self, folder: Path, outputs: Outputs) -> None: ...


class Data:
    """The splits of one task, 'train', 'validation' and 'test', as far as there are any."""

    def __init__(self, splits: Mapping[str, Split], max_length: int, num_widths: int):
        self.splits = splits
        lengths = np.concatenate([split.rows.lengths for split in splits.values()])
        self._widths = buckets.widths(lengths, max_length, num_widths)
        filled = lengths.sum() / sum(self._widths[i] for i in np.searchsorted(self._widths, lengths))
        sizes = ', '.join(f'{len(split.rows)} {name}' for name, split in splits.items())
        log.info('Rows: %s; widths %s, %.0f %% filled', sizes, self._widths, 100 * filled)

    def batches(
        self,
        config: ConfigDict,
        start_step: int = 0,
        split: str = 'train',
        rows: tuple[int, int] | None = None,
    ) -> Iterator[dict[str, np.ndarray]]:
        """Batches of a resolved config, from `start_step` on: `char_ids`, `char_segments` [B, width],
        `example` [B], and what the task predicts; int32, one width of a few per batch.

        'train' never ends and shuffles anew each epoch; the last batch of an epoch may have rows of padding.
        Every other split is one pass, narrow rows first. `rows`: (lo, hi), a process's share of the batch.
        """
        chosen, size = self.splits[split], config.batch_size
        lengths = chosen.rows.lengths
        if split == 'train':
            plan = buckets.endless(lengths, self._widths, size, config.seed, start_step)
        else:
            plan = iter(buckets.epoch(lengths, self._widths, size, None)[start_step:])
        lo, hi = rows or (0, size)
        for planned in plan:
            batch = chosen.rows.batch(planned, size) | chosen.targets(planned, size)
            yield {name: value[lo:hi] for name, value in batch.items()}

    def bound(self, config: ConfigDict) -> Callable[..., Iterator[dict[str, np.ndarray]]]:
        """`batches` of one config; without a validation split its pass has no batch."""

        def batches(start_step: int = 0, split: str = 'train', rows: tuple[int, int] | None = None):
            if split not in self.splits:
                return iter(())
            return self.batches(config, start_step, split, rows)

        return batches


def prepare(config: ConfigDict, vocabulary: Vocabulary) -> tuple[ConfigDict, Data]:
    """Reads what `config.mode` needs, and a copy of the config with every number known.

    Filled in: `data.labels`, `model.vocab_size` and `model.base_vocab_size`, and for training `total_steps`
    (where 0, from `num_epochs`), `eval_every` (where 0, once an epoch) and `optim.warmup_steps` (where 0,
    from `optim.warmup_fraction`).

    Raises ValueError or FileNotFoundError where a file is missing or wrong.
    """
    config = copy.deepcopy(config)
    config.model.vocab_size = config.model.base_vocab_size = len(vocabulary)
    if config.data.max_length > config.model.max_positions:
        raise ValueError(
            f'data.max_length={config.data.max_length}, but the model has {config.model.max_positions} '
            'positions'
        )
    splits: Mapping[str, Split] = (
        classification.read(config, vocabulary)
        if config.task == 'classify'
        else reading.read(config, vocabulary)
    )
    data = Data(splits, config.data.max_length, config.data.buckets)
    if config.mode == 'train':
        steps = -(-len(data.splits['train'].rows) // config.batch_size)
        config.total_steps = config.total_steps or round(config.num_epochs * steps)
        config.eval_every = config.eval_every or steps
        if not config.optim.warmup_steps:
            config.optim.warmup_steps = int(config.optim.warmup_fraction * config.total_steps)
    return config, data
