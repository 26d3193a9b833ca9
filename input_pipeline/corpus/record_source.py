"""Records of a corpus folder by their numbers, and what they say: random access, with errors for people."""

import bisect
import itertools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from input_pipeline.corpus import corpus_files
from input_pipeline.corpus.corpus_files import REMEDY
from input_pipeline.corpus.record_files import FEATURES
from input_pipeline.utils.tensorflow import tf

# TensorFlow only reads: the accelerators are JAX's, and TensorFlow would take all of their memory.
tf.config.set_visible_devices([], 'GPU')

# What TensorFlow makes of a record that it cannot use; it quotes it, which may be no text.
NOT_PARSED = (tf.errors.InvalidArgumentError, UnicodeDecodeError)
UNSOUND = 'its views do not go together'

Records = dict[str, tf.RaggedTensor]


def open_split(folder: str | Path, split: str) -> 'RecordSource':
    """The raw records of a split: `len(source)` and `source.__getitems__(numbers) -> list[bytes]`.

    Raises ValueError where the folder holds no such data set, the split no records, or a file is missing or
    not what the manifest says (`corpus_files.check`); `__getitems__` raises it for a damaged record.
    """
    folder = Path(folder)
    checked = (folder / corpus_files.MANIFEST).exists() and corpus_files.check(folder)
    try:
        builder = tfds.builder_from_directory(str(folder))
        source = builder.as_data_source(split, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES)
        info = builder.info.splits[split]
        shards = dict(zip(map(Path, info.filepaths), info.shard_lengths, strict=True))
    except Exception as error:  # TFDS raises what its parsers raise
        reason = ' '.join(str(error).split())
        raise ValueError(f'{folder} has no readable split {split!r} ({reason}); {REMEDY}') from error
    # Without a list of the files, how many records a shard should have is all that is known of it.
    checks = () if checked else itertools.starmap(corpus_files.count_problem, shards.items())
    if problems := list(filter(None, checks)):
        raise ValueError(corpus_files.refusal(problems))
    return RecordSource(shards, source)


class RecordSource:
    """TFDS's data source, whose errors do not say where and what to do.

    `shards`: the files in order, with their numbers of records.
    """

    def __init__(self, shards: dict[Path, int], source: Any):  # its class is not public
        self._shards, self._source = shards, source

    def __len__(self) -> int:
        return len(self._source)

    def __getitems__(self, numbers: list[int]) -> list[bytes]:  # noqa: N807  # the name that TFDS has
        try:
            return self._source.__getitems__(numbers)
        except (OSError, ValueError, RuntimeError) as error:
            for number in numbers if len(numbers) > 1 else ():
                self.__getitems__([number])  # which of them it is
            raise self.damaged(numbers[0], str(error)) from error

    def damaged(self, number: int, reason: str) -> ValueError:
        """What to say of a record that cannot be read or makes no sense."""
        stops = list(itertools.accumulate(self._shards.values()))
        file = bisect.bisect_right(stops, number)
        inside = number - (stops[file] - list(self._shards.values())[file])
        reason = ' '.join(reason.split())
        return ValueError(f'{list(self._shards)[file]}: record {inside} is damaged ({reason}); {REMEDY}')

    def refusal(self, numbers: Sequence[int], serialized: Sequence[bytes], error: Exception) -> ValueError:
        """Why no batch comes of these records: which of them is wrong."""
        for number, record in zip(numbers, serialized):
            try:
                parse(tf.constant([record]))
            except NOT_PARSED as damage:
                return self.damaged(number, _reason(damage))
        longest = max(zip(map(len, serialized), numbers))[1]
        return self.damaged(longest, f'it is the longest of its batch, of which none comes: {_reason(error)}')


def _reason(error: Exception) -> str:
    """TensorFlow's message without the names of its nodes."""
    if isinstance(error, UnicodeDecodeError):
        return 'it is no tf.train.Example'
    match = re.search(r"assertion failed: \[(.*?)\]|Summarized data: b'(.*?)'", str(error))
    return (match[1] or match[2]) if match else str(error).partition('\n')[0]


def parse(serialized: tf.Tensor) -> Records:
    """tf.train.Example [B] → the record's features, each a RaggedTensor [B, (n)] of int32.

    Raises tf.errors.InvalidArgumentError for what is no such proto, or a record whose two views do not go
    together.
    """
    parsed = tf.io.parse_example(serialized, {name: tf.io.RaggedFeature(tf.int64) for name in FEATURES})
    words, chars = parsed['word_ids'].row_lengths(), parsed['char_ids'].row_lengths()
    smallest = {name: tf.reduce_min(values.flat_values) for name, values in parsed.items()}
    largest = {name: tf.reduce_max(values.flat_values) for name, values in parsed.items()}
    sound = [
        tf.reduce_all(parsed['sentence_words'].row_lengths() >= 2),
        *(smallest[name] >= (0 if name.endswith('_ids') else 1) for name in FEATURES),
        *(largest[name] < 1 << 28 for name in FEATURES),
        tf.reduce_all(parsed['word_char_len'].row_lengths() == words),
        *(
            tf.reduce_all(_row_sums(parsed[name]) == tf.cast(total, tf.int64))
            for name, total in zip(
                ('word_char_len', 'sentence_words', 'whole_word_tokens'), (chars, words, words)
            )
        ),
    ]
    with tf.control_dependencies([tf.debugging.Assert(tf.reduce_all(tf.stack(sound)), [UNSOUND])]):
        return {name: tf.cast(values, tf.int32) for name, values in parsed.items()}


def _row_sums(values: tf.RaggedTensor) -> tf.Tensor:
    """[B, (n)] → [B]. tf.reduce_sum does it in ten times as many operations, which take longer to build."""
    sums = tf.gather(tf.cumsum(tf.pad(values.flat_values, [[1, 0]])), values.row_splits)
    return sums[1:] - sums[:-1]
