"""From a step to its batch: example numbers → record numbers → records, by random access, in threads.

Nothing here has a state. The step is the iterator's whole position, so that starting at step one million
costs nothing, and a process reads only its own rows of the global batch.
"""

import functools
import itertools
import logging
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, TypeVar
from zipfile import BadZipFile

import numpy as np
from tqdm import tqdm

from input_pipeline.corpus import corpus_files
from input_pipeline.corpus.record_source import NOT_PARSED, Records, RecordSource, open_split, parse
from input_pipeline.corpus.windows import SPECIAL_TOKENS
from input_pipeline.pretraining import packing
from input_pipeline.utils.partial_folder import DiskFullError, partial_folder
from input_pipeline.utils.tensorflow import tf

log = logging.getLogger(__name__)

PREFETCH = 4  # batches that wait, made, for their use
MAX_THREADS = 16  # of the host's cores: what a batch costs is far below what a training step does
LENGTH_OF = {'char': 'char_ids', 'word': 'word_char_len'}  # a feature as long as the view's tokens
MEASURED_TOGETHER = 4096  # records

T = TypeVar('T')
MakeBatch = Callable[[Records, tf.Tensor], dict[str, tf.Tensor]]
Batch = dict[str, np.ndarray]
Batches = Iterator[Batch]
Made = tuple[Batch, np.ndarray]
Make = Callable[[list[bytes], np.ndarray], Made]  # as from `compiled`


class Packed(NamedTuple):
    """How texts share rows: which of them do, and how wide the arrays of a batch are."""

    plan: packing.Plan
    widths: packing.Widths


def train_batches(
    source: RecordSource,
    make_batch: MakeBatch,
    batch_size: int,
    rows: tuple[int, int],
    seed: int,
    start_step: int = 0,
    packed: Packed | None = None,
    masks: int = 1,
) -> Batches:
    """Endless batches from `start_step` on: step k holds examples k·batch_size + rows, records reshuffled
    each epoch.

    Args:
      source: as from `open_split`, with at least one record.
      make_batch: (records: name → RaggedTensor [B, (n)] int32, examples [B] int64) → name → Tensor [B, …].
      rows: (lo, hi), the rows of the global batch that are wanted; B = hi − lo.
      packed: how texts share a row. An example is then a row of the plan, rows are reshuffled each epoch, and
        `make_batch` is given the texts of all rows, numbered epoch · records + record: as many as there are.
      masks: examples in a row that are one text (or packed row) with other masks (`DisjointMasks`): example
        n is n // masks with its mask n % masks, and `make_batch` is given text · masks + mask.
    """
    lo, hi = rows
    size = len(packed.plan if packed else source)
    make = compiled(make_batch, None if packed else hi - lo)

    def batch(step: int) -> Batch:
        examples = step * batch_size + np.arange(lo, hi)
        once, mask = np.divmod(examples, masks)
        numbers = record_numbers(once, size, seed).numpy()
        if packed is None:
            return made_of(source, make, numbers, examples)[0]
        first = once // size * len(source)
        return packed_batch(source, make, packed, packed.plan.rows[numbers], first, masks, mask)

    return prefetch(batch, itertools.count(start_step))


def validation_batches(
    source: RecordSource,
    make_batch: MakeBatch,
    batch_size: int,
    rows: tuple[int, int],
    fill: dict[str, int],
    start_step: int = 0,
    limit: int = 0,
    packed: Packed | None = None,
) -> Batches:
    """One pass over the records in order (the first `limit`, 0 = all); example number = record number.

    The last batch is completed with empty rows: `fill[name]` everywhere, 0 for names that `fill` does not
    hold. With `packed`, whose plan is of the records that are wanted, the pass is over its rows, in order;
    a text's number is again its record's. Other arguments are those of `train_batches`.
    """
    lo, hi = rows
    size = len(packed.plan) if packed else min(limit or len(source), len(source))
    make = compiled(make_batch, None if packed else hi - lo)

    def batch(step: int) -> Batch:
        examples = step * batch_size + np.arange(lo, hi)
        real = examples < size
        numbers = np.minimum(examples, size - 1)
        if packed:
            texts = np.where(real[:, None], packed.plan.rows[numbers], -1)
            return packed_batch(source, make, packed, texts, np.zeros_like(numbers))
        made, _ = made_of(source, make, numbers, examples)
        for name, value in made.items():
            value[~real] = fill.get(name, 0)
        return made

    return prefetch(batch, range(start_step, -(-size // batch_size)))


def packed_batch(
    source: RecordSource,
    make: Make,
    packed: Packed,
    texts: np.ndarray,
    first: np.ndarray,
    masks: int = 1,
    mask: int | np.ndarray = 0,
) -> Batch:
    """The batch of rows that hold these texts [B, S] (−1 = none), numbered from `first` [B] on, with the mask
    number `mask` [B] of `masks`."""
    real = texts >= 0
    examples = (texts + first[:, None]) * masks + np.reshape(mask, (-1, 1))
    made, lengths = made_of(source, make, texts[real], examples[real])
    return packing.pack(made, lengths, real.sum(1), packed.widths)


def made_of(source: RecordSource, make: Make, numbers: np.ndarray, examples: np.ndarray) -> Made:
    """What `compiled` makes of the records of these numbers [B]. Raises ValueError where one is damaged."""
    serialized = source.__getitems__(numbers.tolist())
    try:
        return make(serialized, examples)
    except NOT_PARSED as error:
        raise source.refusal(numbers.tolist(), serialized, error) from error


def record_numbers(examples: np.ndarray, size: int, seed: int) -> tf.Tensor:
    """[B] int64: which of `size` records each example [B] is; every `size` examples are a permutation."""
    epoch = examples // size
    low, high = (tf.fill(tf.shape(epoch), tf.constant(part, tf.int64)) for part in (seed, seed >> 32))
    # The op itself, not tf.random.experimental.index_shuffle: that takes one epoch at a time, and with its 4
    # rounds a quarter of the records can stay where they were from one epoch to the next
    # (tests/pretraining/test_loader.py sees it). The op reads 32 bits of each number of its seed.
    return tf.raw_ops.RandomIndexShuffle(
        index=examples % size,
        seed=tf.stack([low, high, epoch], axis=1),
        max_index=tf.constant(size - 1, tf.int64),
        rounds=8,
    )


@functools.lru_cache(maxsize=2)
def compiled(make_batch: MakeBatch, size: int | None) -> Make:
    """From serialised records and their example numbers, `size` of each (None: any number), to what
    `make_batch` makes of them, and [B, 2] the tokens of each text in both views, special ones included. Those
    of the last two `make_batch` are kept."""

    def make(serialized: tf.Tensor, examples: tf.Tensor) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
        records = parse(serialized)
        tokens = [records[name].row_lengths() for name in LENGTH_OF.values()]
        return make_batch(records, examples), tf.stack(tokens, axis=1) + SPECIAL_TOKENS

    signature = [tf.TensorSpec([size], tf.string), tf.TensorSpec([size], tf.int64)]
    # Without autograph there is nothing to convert, and errors show our own lines.
    graph = tf.function(make, signature, autograph=False).get_concrete_function()

    def call(serialized: list[bytes], examples: np.ndarray) -> Made:
        made, tokens = graph(tf.constant(serialized, tf.string), tf.constant(examples, tf.int64))
        return {name: value.numpy() for name, value in made.items()}, tokens.numpy()

    return call


def text_lengths(
    source: RecordSource,
    limit: int = 0,
    label: str = 'measuring texts',
    views: tuple[str, ...] = ('char', 'word'),
) -> np.ndarray:
    """[n, 2] int32: tokens of the first `limit` records (0 = all) in both views, special tokens
    included; of a single view, twice those.

    Reads them all once, and shows how far it is.
    """
    size = min(limit or len(source), len(source))
    names = [LENGTH_OF[view] for view in (*views, views[0])][:2]
    features = {name: tf.io.RaggedFeature(tf.int64) for name in names}

    def measure(first: int) -> np.ndarray:
        numbers = list(range(first, min(first + MEASURED_TOGETHER, size)))
        records = source.__getitems__(numbers)
        try:
            parsed = tf.io.parse_example(records, features)
        except NOT_PARSED as error:
            raise source.refusal(numbers, records, error) from error
        return np.stack([parsed[name].row_lengths() for name in names], axis=1) + SPECIAL_TOKENS

    lengths = np.empty((size, 2), np.int32)
    firsts = range(0, size, MEASURED_TOGETHER)
    with tqdm(total=size, desc=label, unit='text', unit_scale=True) as bar:
        for first, measured in zip(firsts, prefetch(measure, firsts), strict=True):
            lengths[first : first + len(measured)] = measured
            bar.update(len(measured))
    return lengths


def plan_rows(
    corpus: str | Path,
    split: str,
    capacity: tuple[int, int],
    max_texts: int,
    limit: int = 0,
    views: tuple[str, ...] = ('char', 'word'),
) -> packing.Plan:
    """Which records of a split (of its first `limit`; 0 = all) share a row, as `packing.plan` finds it.

    With a single view both capacities are its own. The plan is made once and kept in the corpus's folder,
    under a name that says what it is for and holds a hash of the manifest: a corpus made anew gets new plans.
    Where the folder cannot be written the process keeps it.

    Raises ValueError as `open_split` and `packing.plan` do, or where a plan in the folder is damaged.
    """
    identity = corpus_files.sha256(Path(corpus, corpus_files.MANIFEST))[:16]
    what = f'{split}-first{limit}' if limit else split
    what = what if len(views) > 1 else f'{views[0]}-{what}'
    return _plan_rows(str(corpus), split, capacity, max_texts, limit, views, f'{what}-{identity}')


@functools.lru_cache(maxsize=4)
def _plan_rows(
    corpus: str,
    split: str,
    capacity: tuple[int, int],
    max_texts: int,
    limit: int,
    views: tuple[str, ...],
    what: str,
) -> packing.Plan:
    folder = Path(corpus, f'rows-{capacity[0]}x{capacity[1]}-{max_texts}-{what}')
    if not folder.exists():
        source = open_split(corpus, split)
        plan = packing.plan(text_lengths(source, limit, f'measuring {split}', views), capacity, max_texts)
        log.info('Packing, %s: %s', split, plan.describe())
        try:
            with partial_folder(folder) as partial:
                plan.save(partial / 'plan')
                if not folder.exists():  # else another process was faster, with the same plan
                    (partial / 'plan').rename(folder)
        except (OSError, DiskFullError) as error:
            log.warning('%s cannot be written (%s): the next run plans its rows again', folder, error)
            return plan
    try:
        return packing.Plan.load(folder)
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        raise ValueError(f'{folder} is damaged ({error}); remove it, and it is made again') from error


def prefetch(make: Callable[[int], T], steps: Iterable[int]) -> Iterator[T]:
    """`make(step)` for every step, in order, several at a time in threads.

    Not tf.data: where Python code takes part, as the reading does, dropping its iterator can hang for ever,
    the one thread waiting with Python's lock for another that waits for the lock.
    """
    threads = min(os.cpu_count() or 1, MAX_THREADS)
    pool = ThreadPoolExecutor(threads, thread_name_prefix='loader')
    made: deque[Future[T]] = deque()
    try:
        for step in steps:
            made.append(pool.submit(make, step))
            if len(made) >= threads + PREFETCH:
                yield made.popleft().result()
        while made:
            yield made.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
