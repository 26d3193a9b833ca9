"""Bucketed batches: every row once an epoch, few shapes, the least padding."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from input_pipeline.features import buckets

lengths_of = st.lists(st.integers(2, 100), min_size=1, max_size=60).map(np.array)


def computed(lengths, widths):
    return sum(min(width for width in widths if width >= length) for length in lengths)


@given(lengths_of, st.integers(1, 4))
def test_widths_waste_the_least(lengths, count):
    """Against every choice of at most `count` of the possible widths."""
    widths = buckets.widths(lengths, 100, count)
    possible = sorted({min(-(-length // 8) * 8, 100) for length in lengths.tolist()})
    assert len(widths) <= count and set(widths) <= set(possible) and widths[-1] == possible[-1]
    choices = (
        (*choice, possible[-1])
        for n in range(min(count, len(possible)))
        for choice in itertools.combinations(possible[:-1], n)
    )
    assert computed(lengths, widths) == min(computed(lengths, choice) for choice in choices)


@given(lengths_of, st.integers(1, 9), st.integers(0, 300))
def test_as_many_widths_as_cost_least(lengths, batch_size, price):
    """Of all numbers, no more than there are batches: what the batches of an epoch compute, and the price."""

    def cost(count):
        plan = buckets.epoch(lengths, buckets.widths(lengths, 100, count), batch_size, 0)
        return sum(planned.width for planned in plan) * batch_size + count * price

    counts = range(1, min(buckets.MOST_WIDTHS, -(-len(lengths) // batch_size)) + 1)
    chosen = buckets.num_widths(lengths, 100, batch_size, price)
    assert chosen in counts and cost(chosen) == min(map(cost, counts))


def test_where_compiling_costs_more_than_any_padding_there_is_one_width():
    lengths = np.arange(3, 99)
    assert buckets.num_widths(lengths, 100, 4, math.inf) == 1
    assert buckets.num_widths(lengths, 100, 4, 0) > 6


def test_no_rows_are_refused():
    none = np.zeros(0, np.int64)
    with pytest.raises(ValueError, match='no rows to choose widths for'):
        buckets.widths(none, 100, 2)
    with pytest.raises(ValueError, match='no rows to choose widths for'):
        buckets.num_widths(none, 100, 4, 1)


def test_a_row_too_long_is_refused():
    with pytest.raises(ValueError, match='101 tokens.*max_length=100'):
        buckets.widths(np.array([3, 101]), 100, 2)


@given(lengths_of, st.integers(1, 9), st.sampled_from([None, 0, 3]), st.integers(0, 2))
def test_every_row_is_in_an_epoch_once(lengths, batch_size, seed, number):
    widths = buckets.widths(lengths, 100, 3)
    plan = buckets.epoch(lengths, widths, batch_size, seed, number)
    assert len(plan) == -(-len(lengths) // batch_size)
    assert sorted(np.concatenate([planned.rows for planned in plan])) == list(range(len(lengths)))
    for planned in plan:
        assert planned.width in widths and lengths[planned.rows].max() <= planned.width
    assert sum(len(planned.rows) < batch_size for planned in plan) <= 1


def test_epochs_differ_and_repeat():
    lengths = np.arange(2, 42)
    widths = buckets.widths(lengths, 64, 3)

    def order(seed, number):
        return [row for planned in buckets.epoch(lengths, widths, 4, seed, number) for row in planned.rows]

    assert order(0, 0) == order(0, 0)
    assert order(0, 0) != order(0, 1) != order(1, 1)


@given(lengths_of, st.integers(1, 9), st.integers(1, 4), st.integers(0, 2))
def test_seeds_have_other_rows_of_the_same_width_at_every_step(lengths, batch_size, count, number):
    widths = buckets.widths(lengths, 100, count)
    one, other = (buckets.epoch(lengths, widths, batch_size, seed, number) for seed in (0, 7))
    shapes = [[(planned.width, len(planned.rows)) for planned in plan] for plan in (one, other)]
    assert shapes[0] == shapes[1]


@given(lengths_of, st.integers(1, 9), st.integers(0, 70))
def test_a_run_starts_at_any_step(lengths, batch_size, start):
    widths = buckets.widths(lengths, 100, 3)

    def steps(start, count):
        return list(itertools.islice(buckets.endless(lengths, widths, batch_size, 5, start), count))

    for one, other in zip(steps(0, start + 3)[start:], steps(start, 3), strict=True):
        assert one.width == other.width and list(one.rows) == list(other.rows)


def test_a_batch_of_rows():
    """[CLS] 7 8 [SEP] and [CLS] 7 [SEP] 9 [SEP], completed by a row of padding."""
    rows = buckets.Rows([np.array([1, 7, 8, 2]), np.array([1, 7, 2, 9, 2])], np.array([4, 3]))
    batch = rows.batch(buckets.Planned(6, np.array([1, 0])), 3)
    assert batch['char_ids'].tolist() == [[1, 7, 2, 9, 2, 0], [1, 7, 8, 2, 0, 0], [0] * 6]
    assert batch['char_segments'].tolist() == [[0, 0, 0, 1, 1, 0], [0] * 6, [0] * 6]
    assert batch['example'].tolist() == [1, 0, -1]
    assert all(value.dtype == np.int32 for value in batch.values())
    targets = buckets.completed(np.array([4, 5]), buckets.Planned(6, np.array([1])), 2, -1)
    assert targets.tolist() == [5, -1]
