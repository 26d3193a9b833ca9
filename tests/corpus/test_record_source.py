"""Records by their numbers, and what is said of files that are missing or damaged."""

import pytest

from helpers.loader import LENGTHS
from helpers.masking import random_records
from input_pipeline.corpus import record_source
from input_pipeline.corpus.record_files import ShardWriter, assemble
from input_pipeline.utils.tensorflow import tf


def test_tensorflow_sees_no_accelerator():
    assert not tf.config.get_visible_devices('GPU')


def test_a_folder_without_a_data_set_says_what_to_do(tmp_path):
    with pytest.raises(ValueError, match='build_corpus'):
        record_source.open_split(tmp_path, 'train')


def test_damaged_files_say_what_to_do(tmp_path):
    records = random_records(0, 300, **LENGTHS)
    with ShardWriter(tmp_path / 'shard') as shard:
        for record in records:
            shard.write(record)
    assemble(tmp_path, {'train': [shard.shard]})
    [file] = tmp_path.glob('clower-train*')
    whole = file.read_bytes()
    assert len(record_source.open_split(tmp_path, 'train')) == 300
    middle = len(whole) // 2
    file.write_bytes(whole[:middle] + b'\xff' * 200 + whole[middle + 200 :])
    broken = rf'^{file}\b.* is damaged \(.*\).* build the corpus again with .*build_corpus$'
    source = record_source.open_split(tmp_path, 'train')
    with pytest.raises(ValueError, match=broken):
        for number in range(300):
            source.__getitems__([number])
    file.write_bytes(whole[:-1000])
    with pytest.raises(ValueError, match=broken):
        record_source.open_split(tmp_path, 'train')
    file.unlink()
    with pytest.raises(ValueError, match=f'{file}.* build the corpus again'):
        record_source.open_split(tmp_path, 'train')
