"""Sentence order, masks and anchors on generated records, against loops that read like the method."""

import functools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.masking import BASE, MASK, SEP, SIZE, VOCABULARY, check_batch, ragged, random_records, run
from input_pipeline.pretraining import masking, word_selection
from input_pipeline.text.constants import IGNORED_LABEL
from input_pipeline.utils.tensorflow import tf


@pytest.mark.parametrize('lengths', [(64, 48), (40, 40), (128, 96)])
def test_batch_keeps_every_promise(lengths):
    records = random_records(0, 60, *lengths)
    batch = run(records, char_length=lengths[0], word_length=lengths[1])
    check_batch(records, batch, *lengths)
    assert set(batch['sop_labels'].tolist()) == {0, 1}


def test_batch_shapes_and_types():
    batch = run(random_records(1, 3), mask_rate=0.15, max_anchors=5)
    shapes = {name: value.shape for name, value in batch.items()}
    assert shapes == {
        'char_ids': (3, 64),
        'char_segments': (3, 64),
        'char_mlm_positions': (3, 10),
        'char_mlm_labels': (3, 10),
        'word_ids': (3, 48),
        'word_segments': (3, 48),
        'word_mlm_positions': (3, 7),
        'word_mlm_labels': (3, 7),
        'anchor_word_position': (3, 5),
        'anchor_char_start': (3, 5),
        'anchor_char_length': (3, 5),
        'anchor_ids': (3, 5),
        'sop_labels': (3,),
    }
    assert all(value.dtype == np.int32 for value in batch.values())


@pytest.mark.parametrize('mask_rate,max_anchors', [(0.02, 1), (0.5, 3), (1.0, 20)])
def test_other_rates(mask_rate, max_anchors):
    records = random_records(2, 20)
    check_batch(
        records,
        run(records, mask_rate=mask_rate, max_anchors=max_anchors),
        mask_rate=mask_rate,
        max_anchors=max_anchors,
    )


def test_record_that_fills_both_views():
    words = 45
    record = {
        'char_ids': [10] * 61,
        'word_ids': [400] * 16 + [10] * 29,
        'word_char_len': [2] * 16 + [1] * 29,
        'sentence_words': [1, words - 1],
        'whole_word_tokens': [1] * words,
    }
    batch = run([record] * 20)
    check_batch([record] * 20, batch)
    assert (batch['char_ids'][:, -1] == SEP).all() and (batch['word_ids'][:, -1] == SEP).all()


def test_nothing_is_masked_where_every_word_is_larger_than_the_budget():
    record = {
        'char_ids': [10] * 8,
        'word_ids': [400, 402],
        'word_char_len': [4, 4],
        'sentence_words': [1, 1],
        'whole_word_tokens': [1, 1],
    }
    batch = run([record])
    assert (batch['char_mlm_labels'] == IGNORED_LABEL).all() and not batch['char_mlm_positions'].any()
    check_batch([record], batch)


@pytest.mark.slow
def test_an_example_does_not_depend_on_the_batch_around_it_or_on_graph_mode():
    records = random_records(3, 12)
    together = run(records)
    for b in (0, 5, 11):
        alone = run(records[b : b + 1], examples=[b])
        for name in together:
            np.testing.assert_array_equal(alone[name][0], together[name][b])
    graph = tf.function(
        functools.partial(masking.make_batch, vocabulary=VOCABULARY, seed=7, char_length=64, word_length=48)
    )
    for name, value in graph(ragged(records), tf.range(12, dtype=tf.int64)).items():
        np.testing.assert_array_equal(value, together[name])


def test_seed_and_example_number_change_the_masks():
    records = random_records(4, 8)
    first = run(records)
    for other in (run(records, seed=8), run(records, examples=np.arange(8) + 10**12)):
        assert (first['char_ids'] != other['char_ids']).any(axis=1).sum() >= 7


def greedy(sizes, u, limit):
    """The sentence of the docstring, one word at a time."""
    chosen, left = np.zeros(len(sizes), bool), limit
    for w in np.argsort(u):
        if 0 < sizes[w] <= left:
            chosen[w] = True
            left -= sizes[w]
    return chosen


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 12), min_size=1, max_size=40), st.integers(1, 30), st.integers(0, 2**32 - 1))
def test_fill_budget_is_the_greedy_loop(sizes, limit, seed):
    rows = 4
    u = np.random.default_rng(seed).random((rows, len(sizes)))
    limits = np.array([limit, 1, limit + 5, 1000])
    got = word_selection.fill_budget(
        tf.constant([sizes] * rows), tf.constant(u), tf.constant(limits, tf.int32)
    ).numpy()
    for b in range(rows):
        np.testing.assert_array_equal(got[b], greedy(sizes, u[b], limits[b]))


def test_sample_is_uniform_and_never_takes_what_is_not_eligible():
    eligible = np.array([1, 0, 1, 1, 1, 0, 1, 1], bool)
    rows = 6000
    u = np.random.default_rng(6).random((rows, 8))
    got = word_selection.sample(tf.constant(u), tf.constant([eligible] * rows), tf.fill([rows], 2), 3).numpy()
    assert (got.sum(1) == 2).all() and not got[:, ~eligible].any()
    share = got.mean(0)[eligible]  # 2 of 6: one third, standard error 0.006
    np.testing.assert_allclose(share, 1 / 3, atol=0.025)


def test_sample_takes_all_where_there_are_fewer():
    eligible = tf.constant([[True, False, True, False], [False] * 4])
    got = word_selection.sample(
        tf.constant([[0.3, 0.1, 0.9, 0.2]] * 2, tf.float64), eligible, tf.constant([3, 3]), 3
    )
    np.testing.assert_array_equal(got, eligible)


@pytest.mark.slow
def test_shares_of_mask_random_keep_and_swap():
    """80/10/10 in both views, half the pairs swapped, boundaries even; bounds of four standard errors."""
    rng = np.random.default_rng(5)
    record = {
        'char_ids': rng.integers(5, BASE, 120).tolist(),
        'word_ids': (rng.integers(150, 500, 60) * 2).tolist(),
        'word_char_len': [2] * 60,
        'sentence_words': [15] * 4,
        'whole_word_tokens': [1] * 60,
    }
    count = 1200
    batch = run([record] * count, char_length=128, word_length=96)
    for view, random_share in (('char', 1 / (BASE - 5)), ('word', 1 / (SIZE - 5))):
        real = batch[f'{view}_mlm_labels'] != IGNORED_LABEL
        now = np.take_along_axis(batch[f'{view}_ids'], batch[f'{view}_mlm_positions'], 1)[real]
        label = batch[f'{view}_mlm_labels'][real]
        total = len(label)
        assert total >= 10_000
        error = 4 * np.sqrt(0.16 / total)
        assert abs((now == MASK).mean() - 0.8) < error
        assert abs((now == label).mean() - 0.1 * (1 + random_share)) < error
        drawn = now[(now != MASK) & (now != label)]
        low, high = (5, BASE) if view == 'char' else (5, SIZE)
        assert drawn.min() >= low and drawn.max() < high
        assert abs(drawn.mean() - (low + high - 1) / 2) < 4 * (high - low) / np.sqrt(12 * len(drawn))
    swapped = batch['sop_labels']
    words_of_x = (batch['word_ids'] == SEP).argmax(1) - 1
    boundary = np.where(swapped == 1, 60 - words_of_x, words_of_x) // 15  # sentences in A: 1, 2 or 3
    shares = np.bincount(2 * (boundary - 1) + swapped, minlength=6) / count
    np.testing.assert_allclose(shares, 1 / 6, atol=4 * 0.38 / np.sqrt(count))  # each with each, evenly
    assert (batch['anchor_char_length'] == 2).all()  # K = 20 anchors in every example, all of two characters
