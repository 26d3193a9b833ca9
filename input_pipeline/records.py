"""Records on disk: array_record files of tf.train.Example protos, together the TFDS data set `clower`.

The protos come from TFDS, which has its own copy of them: nothing here imports TensorFlow.
"""

import os
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter
from tensorflow_datasets.proto import tf_example_pb2

SPLITS = ('train', 'validation')
FEATURES = ('char_ids', 'word_ids', 'word_char_len', 'sentence_words', 'whole_word_tokens')
VERSION = '1.0.0'


class ShardWriter:
    """A context that writes one array_record file, which gets its name only when it is complete.

    `records` and `num_bytes` say how much it holds.
    """

    def __init__(self, path: Path):
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        # Its own name, because a cluster may try a chunk twice at once.
        self._unfinished = path.with_name(f'{path.name}.{uuid.uuid4().hex}')
        # One record a group: records are read one by one in random order.
        self._writer = ArrayRecordWriter(os.fspath(self._unfinished), 'group_size:1')
        self.records = self.num_bytes = 0

    def write(self, features: Mapping[str, Sequence[int]]) -> None:
        """Adds a record: a list of ints for each of FEATURES."""
        example = tf_example_pb2.Example()
        for name in FEATURES:
            example.features.feature[name].int64_list.value.extend(features[name])
        serialized = example.SerializeToString(deterministic=True)
        self._writer.write(serialized)
        self.records += 1
        self.num_bytes += len(serialized)

    def __enter__(self) -> 'ShardWriter':
        return self

    def __exit__(self, error_type: type[BaseException] | None, *_: object) -> None:
        self._writer.close()
        if error_type is None:
            self._unfinished.replace(self._path)


def assemble(folder: Path, shards: Mapping[str, Sequence[tuple[Path, int, int]]]) -> None:
    """Moves shards into a folder and makes a TFDS data set of it.

    `shards`: for each split its files in order, as (path, records, bytes). A split without files is left out:
    TFDS knows no empty split.
    """
    template = tfds.core.ShardedFileTemplate(
        data_dir=folder,
        dataset_name='clower',
        filetype_suffix='array_record',
        template='{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}',
    )
    split_infos = []
    for split, files in shards.items():
        for index, (path, _, _) in enumerate(files):
            path.rename(folder / f'clower-{split}.array_record-{index:05d}-of-{len(files):05d}')
        if files:
            split_infos.append(
                tfds.core.SplitInfo(
                    name=split,
                    shard_lengths=[records for _, records, _ in files],
                    num_bytes=sum(num_bytes for _, _, num_bytes in files),
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
