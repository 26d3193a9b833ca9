"""Records on disk: array_record files of tf.train.Example protos, together the TFDS data set `clower`.

Nothing here imports TensorFlow.
"""

import contextlib
import functools
import os
import uuid
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter

from input_pipeline.corpus.corpus_files import sha256

SPLITS = ('train', 'validation')
FEATURES = ('char_ids', 'word_ids', 'word_char_len', 'sentence_words', 'whole_word_tokens')
VERSION = '1.0.0'
WRITE_TOGETHER = 256  # records


class Shard(NamedTuple):
    """A file of records: how many, the bytes of these, and the file's own size and digest."""

    path: Path
    records: int
    num_bytes: int
    file_bytes: int
    sha256: str


class ShardWriter:
    """A context that writes one array_record file, which gets its name only when it is complete.

    `shard` is what it holds, once it is closed. Writing raises OSError where the disk is full.
    """

    def __init__(self, path: Path):
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        # Its own name, because a cluster may try a chunk twice at once.
        self._unfinished = path.with_name(f'{path.name}.{uuid.uuid4().hex}')
        # One record a group: records are read one by one in random order.
        self._writer = ArrayRecordWriter(os.fspath(self._unfinished), 'group_size:1')
        self._waiting: list[Mapping[str, Any]] = []
        self._records = self._num_bytes = 0
        self.shard: Shard | None = None

    def write(self, features: Mapping[str, Any]) -> None:
        """Adds a record: a list or array of ints, 0 or more, for each of FEATURES."""
        self._waiting.append(features)
        if len(self._waiting) == WRITE_TOGETHER:
            self._flush()

    def _flush(self) -> None:
        for example in examples(self._waiting):
            with _as_os_error():
                self._writer.write(example)
            self._records += 1
            self._num_bytes += len(example)
        self._waiting = []

    def __enter__(self) -> 'ShardWriter':
        return self

    def __exit__(self, error_type: type[BaseException] | None, *_: object) -> None:
        if error_type is not None:
            with contextlib.suppress(OSError), _as_os_error():
                self._writer.close()
        else:
            self._flush()
            with _as_os_error():
                self._writer.close()
            size, digest = self._unfinished.stat().st_size, sha256(self._unfinished)
            self._unfinished.replace(self._path)
            self.shard = Shard(self._path, self._records, self._num_bytes, size, digest)


@contextlib.contextmanager
def _as_os_error() -> Iterator[None]:
    """array_record makes a RuntimeError of a full disk."""
    try:
        yield
    except RuntimeError as error:
        raise OSError(str(error)) from error


def examples(records: Sequence[Mapping[str, Any]]) -> list[bytes]:
    """Records as tf.train.Example protos: the bytes of protobuf's deterministic serialisation.

    Made here, many at once, because protobuf takes a fifth of the whole building of a corpus for it. Raises
    ValueError for a number below 0 or of more than 28 bits.
    """
    if not records:
        return []
    features = [_features(records, name) for name in sorted(FEATURES)]  # a map's order
    contents = list(map(b''.join, zip(*features, strict=True)))
    return [_opening(0x0A, len(content)) + content for content in contents]


def _features(records: Sequence[Mapping[str, Any]], name: str) -> Iterator[bytes]:
    """One feature of each record: an entry of a proto's map from a name to a Feature with an Int64List."""
    columns = [record[name] for record in records]
    values = np.concatenate(columns, dtype=np.int64, casting='unsafe')
    stops = np.cumsum(list(map(len, columns)))
    smallest, largest = int(values.min(initial=0)), int(values.max(initial=0))
    if smallest < 0 or largest >> 28:
        raise ValueError(f'{name} holds {smallest if smallest < 0 else largest}, which is no id or length')
    if largest < 128:
        packed = values.astype(np.uint8).tobytes()
    else:
        digits, used, sizes = _varints(largest.bit_length())
        packed = digits[values].view(np.uint8)[used[values].view(bool)].tobytes()
        stops = np.append(0, np.cumsum(sizes[values], dtype=np.int32))[stops]
    for start, stop in pairwise((0, *stops.tolist())):
        yield _entry_opening(name, stop - start) + packed[start:stop]


@functools.cache
def _entry_opening(name: str, size: int) -> bytes:
    """What stands before the `size` bytes of the packed numbers of a feature."""
    key = _opening(0x0A, len(name)) + name.encode()
    opening = _opening(0x0A, size) if size else b''
    for tag, before in ((0x1A, b''), (0x12, key), (0x0A, b'')):
        opening = before + _opening(tag, len(opening) + size) + opening
    return opening


@functools.cache
def _opening(tag: int, size: int) -> bytes:
    """A field's tag and size, the latter as a varint."""
    opening = [tag]
    while size >= 128:
        opening.append(size & 127 | 128)
        size >>= 7
    return bytes((*opening, size))


@functools.cache
def _varints(bits: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The varints of all numbers of so many bits, four bytes each in a uint32 [2^bits], which of these
    bytes are used, likewise, and how many."""
    digits = np.arange(1 << bits, dtype=np.uint32)[:, None] >> np.array([0, 7, 14, 21], np.uint32)
    more = digits >= 128
    used = np.concatenate([np.ones_like(more[:, :1]), more[:, :3]], axis=1)
    varints = (digits & 127 | np.where(more, 128, 0)).astype(np.uint8)
    return varints.view(np.uint32)[:, 0], used.view(np.uint32)[:, 0], used.sum(axis=1, dtype=np.uint8)


def assemble(folder: Path, shards: Mapping[str, Sequence[Shard]]) -> dict[str, dict[str, Any]]:
    """Moves shards into a folder and makes a TFDS data set of it.

    `shards`: for each split its files in order. A split without files is left out: TFDS knows no empty split.

    Returns:
      Of each shard's new name its size, digest and records, as a manifest lists them.
    """
    template = tfds.core.ShardedFileTemplate(
        data_dir=folder,
        dataset_name='clower',
        filetype_suffix='array_record',
        template='{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}',
    )
    split_infos, listed = [], {}
    for split, files in shards.items():
        for index, shard in enumerate(files):
            name = f'clower-{split}.array_record-{index:05d}-of-{len(files):05d}'
            shard.path.rename(folder / name)
            listed[name] = {
                'bytes': shard.file_bytes, 'sha256': shard.sha256, 'records': shard.records,
            }  # fmt: skip
        if files:
            split_infos.append(
                tfds.core.SplitInfo(
                    name=split,
                    shard_lengths=[shard.records for shard in files],
                    num_bytes=sum(shard.num_bytes for shard in files),
                    filename_template=template.replace(split=split),
                )
            )
    tfds.folder_dataset.write_metadata(
        data_dir=folder,
        features={name: tfds.features.Tensor(shape=(None,), dtype=np.int32) for name in FEATURES},
        split_infos=split_infos,
        version=VERSION,
        description='Windows of consecutive sentences, as characters and as words; see manifest.json.',
        check_data=False,  # it would import TensorFlow
    )
    return listed
