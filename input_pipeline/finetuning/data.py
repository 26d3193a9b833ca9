"""Data for fine-tuning: the one door between labelled data and everything else.

    config, data = prepare(config, vocabulary)
    for batch in data.batches(config, start_step=step): ...

As in pre-training the batch of step k is a pure function of (seed, data set, k), and of `data.buckets`.
"""

import copy
import logging
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np
from ml_collections import ConfigDict

from input_pipeline.features import buckets
from input_pipeline.finetuning import choosing, problem_types, reading_comprehension, tagging
from input_pipeline.sentence_vectors import auto_mlm, mirror_bert, mlctl, supervised_vectors
from input_pipeline.text.vocabulary import Vocabulary
from input_pipeline.utils.counts import Ledger

log = logging.getLogger(__name__)


class Examples(Protocol):
    """One set of examples to train on: token rows, and what each is to be (arrays [batch_size, …], a pure
    function of the planned batch). `metrics` are what an evaluation measures, beside the loss."""

    @property
    def rows(self) -> buckets.TokenRows: ...

    @property
    def metrics(self) -> tuple[str, ...]: ...

    def targets(self, planned: buckets.Planned, batch_size: int) -> dict[str, np.ndarray]: ...


# The splits of each task. 'train' takes part in training alone; the others are evaluated on, and so have the
# methods of `clower_jax.objectives.base.Split`, too.
READERS: Mapping[str, Callable[[ConfigDict, Vocabulary, Mapping[str, Ledger]], Mapping[str, Examples]]] = {
    'classify': problem_types.read,
    'span': reading_comprehension.read,
    'tag': tagging.read,
    'choose': choosing.read,
    'mirror': mirror_bert.read,
    'mlctl': mlctl.read,
    'auto_mlm': auto_mlm.read,
    'supervised_vectors': supervised_vectors.read,
}


class Data:
    """The splits of one task, 'train', 'validation' and 'test', as far as there are any.

    `counts`: of each split, by unit, what was read, what is kept and why the rest is not (`Ledger.to_json`).
    """

    def __init__(
        self,
        splits: Mapping[str, Examples],
        max_length: int,
        num_widths: int,
        counts: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
    ):
        self.splits, self.counts = splits, counts
        name, *others = splits
        chosen = buckets.widths(splits[name].rows.lengths, max_length, num_widths)
        # What training sees does not depend on what is evaluated; the others take the same widths.
        self.widths = {name: chosen}
        for other in others:
            longest = buckets.widths(splits[other].rows.lengths, max_length, 1)
            self.widths[other] = chosen + tuple(width for width in longest if width > chosen[-1])
        for name, split in splits.items():
            widths, lengths = self.widths[name], split.rows.lengths
            filled = lengths.sum() / sum(widths[i] for i in np.searchsorted(widths, lengths))
            log.info('%s: %d rows, widths %s, %.0f %% filled', name, len(lengths), widths, 100 * filled)

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
        Every other split is one pass, narrow rows first; one that is not there has no batch. `rows`: (lo,
        hi), a process's share of the batch.
        """
        if split not in self.splits:
            return
        chosen, size = self.splits[split], config.batch_size
        lengths, widths = chosen.rows.lengths, self.widths[split]
        if split == 'train':
            plan = buckets.endless(lengths, widths, size, config.seed, start_step)
        else:
            plan = iter(buckets.epoch(lengths, widths, size, None)[start_step:])
        lo, hi = rows or (0, size)
        for planned in plan:
            batch = chosen.rows.batch(planned, size) | chosen.targets(planned, size)
            yield {name: value[lo:hi] for name, value in batch.items()}


def prepare(
    config: ConfigDict, vocabulary: Vocabulary, width_price: float = math.inf
) -> tuple[ConfigDict, Data]:
    """Reads what `config.mode` needs, and a copy of the config with every number known.

    Filled in: `data.labels`, `model.vocab_size` and `model.base_vocab_size`, `data.buckets` (where 0, as many
    as cost least), and for training `total_steps` (where 0, from `num_epochs`), `eval_every` and
    `checkpoint_every` (where 0, once an epoch) and `optim.warmup_steps` (where 0, from
    `optim.warmup_fraction`).

    Args:
      width_price: what one width more costs, in tokens of a training, or of the pass that an evaluation is.

    Raises ValueError or FileNotFoundError where a file is missing or wrong.
    """
    config = copy.deepcopy(config)
    for name in ('labels', 'text_columns'):  # --config.data.labels=a,b arrives as one string
        if len(config.data.get(name, ())) == 1:
            config.data[name] = tuple(config.data[name][0].split(','))
    config.model.vocab_size, config.model.base_vocab_size = len(vocabulary), vocabulary.base_size
    if config.data.max_length > config.model.max_positions:
        raise ValueError(
            f'data.max_length={config.data.max_length}, but the model has {config.model.max_positions} '
            'positions'
        )
    ledgers: defaultdict[str, Ledger] = defaultdict(Ledger)
    splits = READERS[config.task](config, vocabulary, ledgers)
    counts = {name: ledgers[name].to_json() for name in splits}
    lengths = next(iter(splits.values())).rows.lengths
    steps = -(-len(lengths) // config.batch_size)
    if config.mode == 'train':
        config.total_steps = config.total_steps or max(1, round(config.num_epochs * steps))
        config.eval_every = config.eval_every or steps
        config.checkpoint_every = config.checkpoint_every or config.eval_every
        if not config.optim.warmup_steps:
            config.optim.warmup_steps = int(config.optim.warmup_fraction * config.total_steps)
        metrics = splits['train'].metrics
        if config.select and config.select not in metrics:
            raise ValueError(f'select={config.select!r} must be empty or one of {", ".join(metrics)}')
        width_price *= steps / config.total_steps
    config.data.buckets = config.data.buckets or buckets.num_widths(
        lengths, config.data.max_length, config.batch_size, width_price
    )
    return config, Data(splits, config.data.max_length, config.data.buckets, counts)
