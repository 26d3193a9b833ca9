"""Rows of many lengths in batches of few shapes: short texts do not pay for the longest one.

An epoch is a plan: every row is in one batch, once, and a batch is as wide as its bucket. The plan of epoch e
is a pure function of (lengths, seed, e), so a step is all the state that the data has. The width of a batch
is one of (lengths, e) alone: runs with other seeds may train side by side.
"""

import functools
from collections.abc import Iterator
from typing import NamedTuple, Protocol

import numpy as np

Outputs = list[dict[str, np.ndarray]]  # what a model put out for each batch of a pass

STEP = 8  # widths are multiples of it: of what the matrix units of every device like
MOST_WIDTHS = 16  # with which rows of up to 512 tokens are padded by a twentieth


class Planned(NamedTuple):
    """One batch: its width, and the rows in it (as many as the batch has, or fewer in an epoch's last).

    `seed` and `epoch` are the run's seed and the number of the epoch that the batch is of, for targets that
    are drawn: a pure function of (seed, epoch, row) is drawn anew for each epoch, and again after a restart.
    """

    width: int
    rows: np.ndarray
    epoch: int = 0
    seed: int = 0


def widths(lengths: np.ndarray, max_length: int, count: int) -> tuple[int, ...]:
    """The at most `count` bucket widths that waste the least padding on rows of these lengths [N].

    They are multiples of 8, but for `max_length` itself; the last one holds the longest row. Exact, by
    dynamic programming over the histogram of lengths.

    Raises ValueError where a row is longer than `max_length`, or there is none.
    """
    return _widths_by_count(lengths, max_length, count)[-1]


def num_widths(lengths: np.ndarray, max_length: int, batch_size: int, price: float) -> int:
    """How many widths cost least for rows of these lengths [N], where one more costs as much as `price`
    tokens of an epoch: from 1 to `MOST_WIDTHS`, and no more than there are batches.

    Raises as `widths`.
    """
    most = min(MOST_WIDTHS, -(-len(lengths) // batch_size))

    def cost(choice: tuple[int, tuple[int, ...]]) -> float:
        count, chosen = choice
        tokens = sum(planned.width * batch_size for planned in epoch(lengths, chosen, batch_size, None))
        return tokens + count * price

    return min(enumerate(_widths_by_count(lengths, max_length, most), 1), key=cost)[0]


def _widths_by_count(lengths: np.ndarray, max_length: int, most: int) -> list[tuple[int, ...]]:
    """`widths` for each count from 1 to `most`."""
    if not len(lengths):
        raise ValueError('there are no rows to choose widths for')
    if lengths.max() > max_length:
        raise ValueError(f'a row has {lengths.max()} tokens, more than data.max_length={max_length}')
    rounded = np.minimum(-(-np.asarray(lengths) // STEP) * STEP, max_length)
    candidates, rows = np.unique(rounded, return_counts=True)
    below = np.concatenate([[0], np.cumsum(rows)])  # rows under each candidate
    # cost[j]: computed tokens of all rows that fit candidate j − 1, the widest bucket so far being it.
    cost = candidates * below[1:]
    chosen: list[tuple[int, ...]] = [(int(width),) for width in candidates]
    by_count = [chosen[-1]]
    for _ in range(most - 1):
        better, better_chosen = cost.copy(), list(chosen)
        for j in range(1, len(candidates)):
            options = cost[:j] + candidates[j] * (below[j + 1] - below[1 : j + 1])
            i = int(np.argmin(options))
            if options[i] < better[j]:
                better[j], better_chosen[j] = options[i], (*chosen[i], int(candidates[j]))
        cost, chosen = better, better_chosen
        by_count.append(chosen[-1])
    return by_count


def epoch(
    lengths: np.ndarray, bucket_widths: tuple[int, ...], batch_size: int, seed: int | None, number: int = 0
) -> list[Planned]:
    """The batches of one epoch: ⌈N / batch_size⌉ of them, all full but the last of the widest bucket in use.

    What is left over in a bucket goes into the next wider one. With a seed, rows and batches are shuffled
    anew for each epoch `number`, the widths of the batches alike for every seed; without, both keep their
    order, narrow buckets first.
    """
    order = np.arange(len(lengths))
    if seed is not None:
        np.random.default_rng((seed, number)).shuffle(order)
    planned = functools.partial(Planned, epoch=number, seed=seed or 0)
    bucket = np.searchsorted(bucket_widths, np.asarray(lengths)[order])
    batches, left = [], order[:0]
    for index, width in enumerate(bucket_widths):
        rows = np.concatenate([left, order[bucket == index]])
        full = len(rows) // batch_size * batch_size
        batches += [planned(width, part) for part in rows[:full].reshape(-1, batch_size)]
        left = rows[full:]
    if len(left):
        batches.append(planned(int(bucket_widths[np.searchsorted(bucket_widths, lengths[left].max())]), left))
    if seed is not None:  # how many batches there are of each width is the same for every seed
        np.random.default_rng(number).shuffle(batches)
    return batches


def endless(
    lengths: np.ndarray, bucket_widths: tuple[int, ...], batch_size: int, seed: int, start_step: int
) -> Iterator[Planned]:
    """The batches of epoch after epoch, from step `start_step` on, without making those before it."""
    steps = -(-len(lengths) // batch_size)
    number, skip = divmod(start_step, steps)
    while True:
        yield from epoch(lengths, bucket_widths, batch_size, seed, number)[skip:]
        number, skip = number + 1, 0


class TokenRows(Protocol):
    """N rows of tokens, which batches are planned of by their lengths, int [N]."""

    lengths: np.ndarray

    def __len__(self) -> int: ...

    def batch(self, planned: Planned, batch_size: int) -> dict[str, np.ndarray]: ...


class Rows:
    """Token rows of any length, kept flat: [CLS] a [SEP], or [CLS] a [SEP] b [SEP].

    Args:
      ids: the tokens of each row, special ones included.
      first: int [N], tokens of each row that are in segment 0; the others are in segment 1.
      view: what the tokens are, 'char' or 'word'; a batch names them by it.
    """

    def __init__(self, ids: list[np.ndarray], first: np.ndarray, view: str = 'char'):
        self._view = view
        self.lengths = np.fromiter(map(len, ids), np.int64, len(ids))
        self._flat = np.concatenate([np.zeros(0, np.int32), *ids]).astype(np.int32)
        self._start = np.concatenate([[0], np.cumsum(self.lengths)])[:-1]
        self._first = np.asarray(first)

    def __len__(self) -> int:
        return len(self.lengths)

    def batch(self, planned: Planned, batch_size: int) -> dict[str, np.ndarray]:
        """`char_ids`, `char_segments` (or `word_`…) [batch_size, width], `example` [batch_size], int32.

        Rows that complete the batch are all 0, their example is −1.
        """
        rows = planned.rows
        position = np.arange(planned.width)
        real = position < self.lengths[rows][:, None]
        at = np.where(real, self._start[rows][:, None] + position, 0)
        segments = real & (position >= self._first[rows][:, None])
        return {
            f'{self._view}_ids': _complete(np.where(real, self._flat[at], 0), batch_size, 0),
            f'{self._view}_segments': _complete(segments, batch_size, 0),
            'example': _complete(rows, batch_size, -1),
        }


def completed(values: np.ndarray, planned: Planned, batch_size: int, fill: int) -> np.ndarray:
    """values[planned.rows] as int32, completed with `fill` to `batch_size` rows."""
    return _complete(values[planned.rows], batch_size, fill)


def _complete(values: np.ndarray, batch_size: int, fill: int) -> np.ndarray:
    missing = [(0, batch_size - len(values))] + [(0, 0)] * (values.ndim - 1)
    return np.pad(values.astype(np.int32), missing, constant_values=fill)
