"""What the long run of `make soak` calls constant, and what growth."""

import long_run


def lines(memory, descriptors, seconds=0.1, count=100):
    return [
        {
            'anonymous_mb': memory(n), 'descriptors': descriptors(n), 'threads': 30,
            'cpu_seconds_per_step': seconds,
        }
        for n in range(count)
    ]  # fmt: skip


def test_what_stays_as_it_was():
    assert long_run.what_grew(lines(lambda n: 500 + n % 7, lambda n: 40 + (n < 5))) == []


def test_saves_on_their_way_are_no_growth_and_what_they_leave_is():
    """The share of looks that meet a save differs from tenth to tenth."""
    meets_a_save = [n % 3 == 0 if n < 50 else n % 3 > 0 for n in range(100)]
    assert long_run.what_grew(lines(lambda n: 500, lambda n: 14 + 30 * meets_a_save[n])) == []
    left = long_run.what_grew(lines(lambda n: 500, lambda n: 14 + 30 * meets_a_save[n] + n // 20))
    assert [line.split(':')[0] for line in left] == ['descriptors']


def test_three_descriptors_a_save_are_seen_and_so_is_memory():
    grew = long_run.what_grew(lines(lambda n: 500 + n, lambda n: 40 + 3 * n))
    assert [line.split(':')[0] for line in grew] == ['anonymous_mb', 'descriptors']
