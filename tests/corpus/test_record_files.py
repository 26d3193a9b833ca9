"""Records as bytes: those that protobuf itself makes."""

import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordReader
from hypothesis import given
from hypothesis import strategies as st
from tensorflow_datasets.proto import tf_example_pb2

from input_pipeline.corpus import record_files

numbers = st.one_of(
    st.integers(0, 3), st.sampled_from([127, 128, 16_383, 16_384, 2_097_151]), st.integers(0, 70_000)
)
features = st.fixed_dictionaries({name: st.lists(numbers, max_size=200) for name in record_files.FEATURES})


def by_protobuf(record) -> bytes:
    example = tf_example_pb2.Example()
    for name in record_files.FEATURES:
        example.features.feature[name].int64_list.value.extend(record[name])
    return example.SerializeToString(deterministic=True)


@given(st.lists(features, min_size=1, max_size=5))
def test_the_bytes_are_protobufs(rows):
    arrays = [{name: np.array(values, np.int32) for name, values in row.items()} for row in rows]
    assert record_files.examples(arrays) == record_files.examples(rows) == list(map(by_protobuf, rows))


@pytest.mark.parametrize('count', [0, 1, record_files.WRITE_TOGETHER, record_files.WRITE_TOGETHER + 1])
def test_every_record_is_written(tmp_path, count):
    rows = [{name: [n, n + 1] for name in record_files.FEATURES} for n in range(count)]
    with record_files.ShardWriter(tmp_path / 'shard') as shard:
        for row in rows:
            shard.write(row)
    written = ArrayRecordReader(str(tmp_path / 'shard')).read_all() if count else []
    assert written == list(map(by_protobuf, rows))
    made = shard.shard
    assert made and made[1:3] == (count, sum(map(len, written)))
    assert made.file_bytes == (tmp_path / 'shard').stat().st_size
    assert [path.name for path in tmp_path.iterdir()] == ['shard']


def test_a_shard_that_fails_has_no_name(tmp_path):
    with (
        pytest.raises(ValueError, match='char_ids holds -1'),
        record_files.ShardWriter(tmp_path / 'shard') as shard,
    ):
        shard.write({name: [-1] for name in record_files.FEATURES})
    assert not (tmp_path / 'shard').exists()


@pytest.mark.parametrize('wrong', [-1, 1 << 28])
def test_numbers_out_of_range_are_refused(wrong):
    row = {name: [1, 2] for name in record_files.FEATURES} | {'word_ids': [3, wrong]}
    with pytest.raises(ValueError, match=f'word_ids holds {wrong}'):
        record_files.examples([row])


def test_no_record_is_no_proto():
    assert record_files.examples([]) == []
