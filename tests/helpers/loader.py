"""A data source in memory, and batches taken from it."""

import functools
import itertools

import numpy as np

from helpers.masking import random_records
from input_pipeline.utils.tensorflow import tf

LENGTHS = {'char_length': 64, 'word_length': 48}


class Memory(list):
    """Serialised records behind the interface of `record_source.open_split`."""

    def __getitems__(self, numbers):
        return [self[i] for i in numbers]


def serialize(record):
    features = {
        name: tf.train.Feature(int64_list=tf.train.Int64List(value=values)) for name, values in record.items()
    }
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()


@functools.cache
def source(count):
    return Memory(serialize(record) for record in random_records(0, count, **LENGTHS))


def numbers(records, examples):
    return {'record': records['char_ids'].to_tensor()[:, 0], 'example': examples}


def take(batches, count):
    return list(itertools.islice(batches, count))


def assert_same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)
