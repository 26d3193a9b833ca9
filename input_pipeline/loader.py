"""From a step to its batch: example numbers → record numbers → records, by random access, as a tf.data
pipeline.

Nothing here has a state. The step is the iterator's whole position, so that starting at step one million
costs nothing, and a process reads only its own rows of the global batch.
"""

import itertools
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from google.protobuf.json_format import ParseError

from input_pipeline.records import FEATURES

# TensorFlow only reads: the accelerators are JAX's, and TensorFlow would take all of their memory.
tf.config.set_visible_devices([], 'GPU')

PREFETCH = 4  # batches made ahead of the one in use
MAX_THREADS = 16  # of the host's cores: what a batch costs is far below what a training step does

REMEDY = 'build the corpus again with python -m input_pipeline.build_corpus'

Records = dict[str, tf.RaggedTensor]
MakeBatch = Callable[[Records, tf.Tensor], dict[str, tf.Tensor]]


def open_split(folder: str | Path, split: str):
    """The raw records of a split: `len(source)` and `source.__getitems__(numbers) -> list[bytes]`.

    Raises ValueError where the folder holds no such data set, the split no records, or a file is missing or
    cut short; `__getitems__` raises it for a damaged record.
    """
    try:
        builder = tfds.builder_from_directory(str(folder))
        source = builder.as_data_source(split, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES)
        # The first record of each file: files are opened when they are first read.
        source.__getitems__([0, *itertools.accumulate(builder.info.splits[split].shard_lengths[:-1])])
    except (OSError, ValueError, KeyError, RuntimeError, ParseError) as error:
        raise _unreadable(folder, split, error) from error
    return _Split(folder, split, source)


def _unreadable(folder: str | Path, split: str, error: Exception) -> ValueError:
    reason = ' '.join(str(error).split())
    return ValueError(f'{folder} has no readable split {split!r} ({reason}); {REMEDY}')


class _Split:
    """TFDS's data source, whose errors do not say what to do."""

    def __init__(self, folder: str | Path, split: str, source):
        self._folder, self._split, self._source = folder, split, source

    def __len__(self) -> int:
        return len(self._source)

    def __getitems__(self, numbers: list[int]) -> list[bytes]:  # noqa: N807  # the name that TFDS has
        try:
            return self._source.__getitems__(numbers)
        except (OSError, ValueError, RuntimeError) as error:
            raise _unreadable(self._folder, self._split, error) from error


def as_numpy(dataset: tf.data.Dataset) -> Iterator[dict[str, np.ndarray]]:
    """The dataset's batches. Raises ValueError where a record cannot be read, as `open_split` does."""
    try:
        yield from dataset.as_numpy_iterator()
    except tf.errors.InvalidArgumentError as error:  # so TensorFlow passes on a ValueError: with a traceback
        if found := re.search(f'ValueError: (.*{re.escape(REMEDY)})', error.message):
            raise ValueError(found[1]) from None
        raise


def train_batches(
    source, make_batch: MakeBatch, batch_size: int, rows: tuple[int, int], seed: int, start_step: int = 0
) -> tf.data.Dataset:
    """Endless batches from `start_step` on: step k holds examples k·batch_size + rows, records reshuffled
    each epoch.

    Args:
      source: as from `open_split`, with at least one record.
      make_batch: (records: name → RaggedTensor [B, (n)] int32, examples [B] int64) → name → Tensor [B, …].
      rows: (lo, hi), the rows of the global batch that are wanted; B = hi − lo.
    """
    size, (lo, hi) = len(source), rows
    read = reader(source)

    def batch(step):
        examples = step * batch_size + tf.range(lo, hi, dtype=tf.int64)
        return make_batch(parse(read(record_numbers(examples, size, seed))), examples)

    return pipeline(tf.data.Dataset.range(start_step, np.iinfo(np.int64).max // batch_size), batch)


def validation_batches(
    source,
    make_batch: MakeBatch,
    batch_size: int,
    rows: tuple[int, int],
    fill: dict[str, int],
    start_step: int = 0,
    limit: int = 0,
) -> tf.data.Dataset:
    """One pass over the records in order (the first `limit`, 0 = all); example number = record number.

    The last batch is completed with empty rows: `fill[name]` everywhere, 0 for names that `fill` does not
    hold. Other arguments are those of `train_batches`.
    """
    size, (lo, hi) = min(limit or len(source), len(source)), rows
    read = reader(source)

    def batch(step):
        examples = step * batch_size + tf.range(lo, hi, dtype=tf.int64)
        made = make_batch(parse(read(tf.minimum(examples, size - 1))), examples)
        real = examples < size
        return {
            name: tf.where(tf.reshape(real, [-1] + [1] * (value.shape.rank - 1)), value, fill.get(name, 0))
            for name, value in made.items()
        }

    return pipeline(tf.data.Dataset.range(start_step, -(-size // batch_size)), batch)


def record_numbers(examples: tf.Tensor, size: int, seed: int) -> tf.Tensor:
    """[B] int64: which of `size` records each example [B] is; every `size` examples are a permutation."""
    epoch = examples // size
    low, high = (tf.fill(tf.shape(epoch), tf.constant(part, tf.int64)) for part in (seed, seed >> 32))
    # The op itself, not tf.random.experimental.index_shuffle: that takes one epoch at a time, and with its 4
    # rounds a quarter of the records can stay where they were from one epoch to the next
    # (tests/test_loader.py sees it). The op reads 32 bits of each number of its seed.
    return tf.raw_ops.RandomIndexShuffle(
        index=examples % size,
        seed=tf.stack([low, high, epoch], axis=1),
        max_index=tf.constant(size - 1, tf.int64),
        rounds=8,
    )


def reader(source) -> Callable[[tf.Tensor], tf.Tensor]:
    """A function from record numbers [B] int64 to serialised records [B], also inside a tf.data pipeline."""

    def read(numbers):
        return np.array(source.__getitems__(numbers.tolist()), object)

    def read_op(numbers):
        serialized = tf.numpy_function(read, [numbers], tf.string, stateful=False)
        return tf.ensure_shape(serialized, numbers.shape)

    return read_op


def parse(serialized: tf.Tensor) -> Records:
    """tf.train.Example [B] → the record's features, each a RaggedTensor [B, (n)] of int32."""
    parsed = tf.io.parse_example(serialized, {name: tf.io.RaggedFeature(tf.int64) for name in FEATURES})
    return {name: tf.cast(values, tf.int32) for name, values in parsed.items()}


def pipeline(steps: tf.data.Dataset, batch: Callable[[tf.Tensor], dict[str, tf.Tensor]]) -> tf.data.Dataset:
    """`batch(step)` for every step, in order, several at a time."""
    threads = min(os.cpu_count() or 1, MAX_THREADS)
    options = tf.data.Options()
    options.deterministic = True
    options.threading.private_threadpool_size = threads
    options.autotune.cpu_budget = threads
    batch = tf.autograph.experimental.do_not_convert(
        batch
    )  # nothing to convert; errors then show our own lines
    dataset = steps.map(batch, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    return dataset.prefetch(PREFETCH).with_options(options)
