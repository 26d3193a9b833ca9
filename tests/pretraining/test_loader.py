"""Steps to records: order, epochs, rows and padding, on records held in memory."""

import functools
import itertools
import threading

import numpy as np
import pytest

from helpers.loader import LENGTHS, Memory, assert_same, numbers, serialize, source, take
from helpers.masking import FakeVocabulary
from input_pipeline.pretraining import loader, masking
from input_pipeline.text.constants import IGNORED_LABEL
from input_pipeline.utils.tensorflow import tf

FILL = {'sop_labels': -1, 'char_mlm_labels': IGNORED_LABEL, 'word_mlm_labels': IGNORED_LABEL}


def numbered(count):
    """Records whose first character is their number, so that a batch shows which records it is made of."""
    return Memory(
        serialize(
            {
                'char_ids': [i, 0],
                'word_ids': [0, 0],
                'word_char_len': [1, 1],
                'sentence_words': [1, 1],
                'whole_word_tokens': [1, 1],
            }
        )
        for i in range(count)
    )


def masks(seed):
    return functools.partial(masking.make_batch, vocabulary=FakeVocabulary(), seed=seed, **LENGTHS)


@pytest.mark.parametrize('size', [1, 2, 3, 7, 100, 4097])
def test_each_epoch_is_a_new_permutation(size):
    epochs = 5
    order = (
        loader.record_numbers(tf.range(epochs * size, dtype=tf.int64), size, seed=3)
        .numpy()
        .reshape(epochs, size)
    )
    np.testing.assert_array_equal(np.sort(order, axis=1), np.tile(np.arange(size), (epochs, 1)))
    if size >= 7:
        assert len({tuple(epoch) for epoch in order}) == epochs
        assert (order[0] != loader.record_numbers(tf.range(size, dtype=tf.int64), size, seed=4).numpy()).any()


def test_epochs_are_unrelated():
    """Two permutations of 1,000 agree in about one place, and have about one pair of neighbours in common."""
    order = loader.record_numbers(tf.range(20_000, dtype=tf.int64), 1000, seed=0).numpy().reshape(20, 1000)
    agreements = [(a == b).sum() for a, b in zip(order, order[1:])]
    assert np.mean(agreements) < 3
    pairs = [set(zip(epoch, epoch[1:])) for epoch in order.tolist()]
    assert np.mean([len(a & b) for a, b in zip(pairs, pairs[1:])]) < 5


def test_batches_cross_the_end_of_an_epoch():
    batches = take(loader.train_batches(numbered(10), numbers, 4, (0, 4), seed=1), 5)
    records = np.concatenate([batch['record'] for batch in batches])
    np.testing.assert_array_equal(np.concatenate([batch['example'] for batch in batches]), np.arange(20))
    for epoch in records.reshape(2, 10):
        assert sorted(epoch) == list(range(10))


@pytest.mark.slow
def test_batch_k_is_the_same_from_any_start():
    def batches(start):
        return take(
            loader.train_batches(source(50), masks(5), 8, (0, 8), seed=5, start_step=start), 9 - start
        )

    whole = batches(0)
    for start in (1, 5, 8):
        for a, b in zip(batches(start), whole[start:], strict=True):
            assert_same(a, b)


def test_a_distant_start():
    distant = loader.train_batches(numbered(10), numbers, 1024, (0, 2), seed=1, start_step=10**9)
    batch = take(distant, 1)[0]
    assert batch['example'].tolist() == [1024 * 10**9, 1024 * 10**9 + 1]


@pytest.mark.slow
@pytest.mark.parametrize('processes', [2, 4])
def test_rows_are_slices_of_the_global_batch(processes):
    whole = take(loader.train_batches(source(50), masks(5), 8, (0, 8), seed=5), 3)
    share = 8 // processes
    parts = [
        take(loader.train_batches(source(50), masks(5), 8, (lo, lo + share), seed=5), 3)
        for lo in range(0, 8, share)
    ]
    for k, batch in enumerate(whole):
        joined = {name: np.concatenate([part[k][name] for part in parts]) for name in batch}
        assert_same(joined, batch)


@pytest.mark.slow
def test_seeds_differ_and_equal_seeds_agree():
    first, again = (
        take(loader.train_batches(source(50), masks(5), 8, (0, 8), seed=5), 1)[0] for _ in range(2)
    )
    assert_same(first, again)
    other = take(loader.train_batches(source(50), masks(6), 8, (0, 8), seed=6), 1)[0]
    assert (first['char_ids'] != other['char_ids']).any()


@pytest.mark.slow
def test_validation_is_one_pass_completed_with_empty_rows():
    batches = take(loader.validation_batches(source(10), masks(0), 4, (0, 4), FILL), 100)
    assert len(batches) == 3
    assert all(batch['char_ids'].shape == (4, 64) for batch in batches)
    last = batches[-1]
    for name, value in last.items():
        assert (value[2:] == FILL.get(name, 0)).all(), name
    assert (last['char_ids'][:2, 0] == FakeVocabulary.cls).all()


def test_validation_sees_every_record_once_in_order_whatever_the_rows():
    def records(rows, limit=0):
        dataset = loader.validation_batches(numbered(10), numbers, 4, rows, {'record': -1}, limit=limit)
        return np.stack([batch['record'] for batch in take(dataset, 100)])

    whole = records((0, 4))
    assert whole.ravel().tolist() == [*range(10), -1, -1]
    np.testing.assert_array_equal(np.concatenate([records((0, 2)), records((2, 4))], axis=1), whole)
    assert records((0, 4), limit=5).ravel().tolist() == [*range(5), -1, -1, -1]
    assert records((0, 4), limit=99).ravel().tolist() == whole.ravel().tolist()


@pytest.mark.slow
def test_validation_can_start_later():
    whole, late = (
        take(loader.validation_batches(source(10), masks(0), 4, (0, 4), FILL, start_step=k), 100)
        for k in (0, 2)
    )
    assert len(late) == 1
    assert_same(late[0], whole[2])


def test_what_is_made_ahead_comes_in_order_and_ends_with_its_user():
    def make(step):
        if step == 40:
            raise ValueError('step 40')
        return step * step

    squares = loader.prefetch(make, itertools.count())
    assert take(squares, 30) == [step * step for step in range(30)]
    squares.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith('loader')]
    assert list(loader.prefetch(make, range(3))) == [0, 1, 4]
    with pytest.raises(ValueError, match='step 40'):
        list(loader.prefetch(make, range(100)))
