"""Several texts in one row, so that little of what is computed is padding.

A plan says which records share a row. It packs both views at once: a row has room for so many characters and
so many words, and texts of other genres have other words for each character, so they complete each other. As
in Krell et al. 2021, 'Efficient Sequence Packing without Cross-contamination' (arXiv 2107.02027), the work is
done on the histogram of shapes, here (characters, words): a *pattern* is a row's list of shapes, and it is
used as often as there are texts for it. So planning takes the same time for a million texts as for a hundred
million.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from input_pipeline.corpus.windows import SPECIAL_TOKENS
from input_pipeline.text.constants import IGNORED_LABEL, prediction_width

SAMPLES = 128  # ways to complete a row that are compared
REFRESH = 16  # patterns after which the table of what is left is made anew


class Widths(NamedTuple):
    """The shape of a row of a packed batch: its arrays' sizes, which no row of the plan exceeds."""

    chars: int
    words: int
    texts: int  # S
    char_predictions: int  # Pc
    word_predictions: int  # Pw
    anchors: int  # K


@dataclass(frozen=True)
class Plan:
    """Which records each row holds. R rows of at most S texts, made by Q patterns, for n texts.

    Attributes:
      rows: [R, S] int32, record numbers from the left; −1 = no text.
      patterns: [Q, S, 2] int32, characters and words of the texts of each pattern, special tokens included;
        0 = no text.
      copies: [Q] int64, the rows of each pattern. Sum: R.
      capacity: characters and words that a row has room for.
    """

    rows: np.ndarray
    patterns: np.ndarray
    copies: np.ndarray
    capacity: tuple[int, int]

    def __len__(self) -> int:
        return len(self.rows)

    def widths(self, mask_rate: float, max_anchors: int, more: int = 0) -> Widths:
        """What the fullest rows need, where each text has at most `max_anchors` anchors, none of them chosen
        for prediction, and may have so many `more` characters chosen than `mask_rate` of it. The anchors'
        width is a multiple of 8, which accelerators like."""
        tokens = np.maximum(self.patterns - SPECIAL_TOKENS, 0)  # [Q, S, 2]
        chosen = np.array([prediction_width(n, mask_rate) for n in range(tokens.max() + 1)])[tokens]
        anchors = np.minimum(tokens[..., 1] - chosen[..., 1], max_anchors)
        each = np.concatenate([chosen + [more, 0], anchors[..., None]], axis=-1)
        each[self.patterns[..., 0] == 0] = 0
        chars, words, most = each.sum(1).max(0).tolist()
        return Widths(*self.capacity, self.rows.shape[1], chars, words, -(-max(most, 1) // 8) * 8)

    def filled(self) -> np.ndarray:
        """[2] float64: the share of all character and of all word positions that a text fills."""
        return self.copies @ self.patterns.sum(1) / (self.copies.sum() * np.array(self.capacity))

    def describe(self) -> str:
        """What a person wants to know of it, in a line."""
        texts, (chars, words) = self.copies @ (self.patterns[..., 0] > 0).sum(1), self.filled()
        both = np.average([chars, words], weights=self.capacity)
        return (
            f'{texts:,} texts in {len(self):,} rows of {self.capacity[0]} characters and {self.capacity[1]} '
            f'words: {both:.1%} filled ({chars:.1%}, {words:.1%}), {texts / len(self):.1f} texts each'
        )

    def save(self, folder: Path) -> None:
        """Makes the folder and writes the plan's files."""
        folder.mkdir()
        np.save(folder / 'rows.npy', self.rows)
        np.savez(folder / 'patterns.npz', patterns=self.patterns, copies=self.copies, capacity=self.capacity)

    @classmethod
    def load(cls, folder: Path) -> 'Plan':
        """What `save` wrote, the rows memory-mapped. Raises OSError or ValueError where it cannot be read, or
        where a text is not in one row exactly."""
        rows = np.load(folder / 'rows.npy', mmap_mode='r')
        texts = rows[rows >= 0]
        if rows.min(initial=0) < -1 or texts.max(initial=0) >= max(rows.size, 1):
            raise ValueError('it has numbers that no text has')
        if (np.bincount(texts) != 1).any():
            raise ValueError('a text is in no row, or in two')
        with np.load(folder / 'patterns.npz') as arrays:
            chars, words = arrays['capacity'].tolist()
            return cls(
                rows,
                arrays['patterns'],
                arrays['copies'],
                (chars, words),
            )


def plan(lengths: np.ndarray, capacity: tuple[int, int], max_texts: int) -> Plan:
    """Rows for all texts, each text in one row, no row over its capacity. The same input gives the same plan.

    Args:
      lengths: [n, 2] integers, characters and words of each text, special tokens included.
      capacity: characters and words that a row has room for.
      max_texts: texts in a row at most.

    Raises ValueError where there is no text, a text is longer than a row, or `max_texts` is below 1.
    """
    lengths = np.asarray(lengths)
    if max_texts < 1:
        raise ValueError(f'data.max_texts is {max_texts}; it must be 1 or more')
    if not len(lengths):
        raise ValueError('there are no texts to pack')
    over = np.flatnonzero((lengths > capacity).any(1))
    if len(over):
        chars, words = lengths[over[0]]
        raise ValueError(
            f'record {over[0]} has {chars} characters and {words} words, special tokens included, and a row '
            f'has room for {capacity[0]} and {capacity[1]}: give data.char_length and data.word_length at '
            'least the lengths that the corpus was built with'
        )
    codes = lengths[:, 0].astype(np.int64) * (capacity[1] + 1) + lengths[:, 1]
    histogram = np.bincount(codes)
    present = np.flatnonzero(histogram)
    shapes = np.stack(np.divmod(present, capacity[1] + 1), axis=1)
    chosen = find_patterns(shapes, histogram[present], capacity, max_texts)

    copies = np.array([count for _, count in chosen])
    patterns = np.full((len(chosen), max(len(pattern) for pattern, _ in chosen)), -1)
    for line, (pattern, _) in zip(patterns, chosen, strict=True):
        line[: len(pattern)] = pattern
    # The places for texts of a shape, in the order of `patterns`, take its records in random order: otherwise
    # neighbours in the corpus, of one document, would share a row.
    q, slot = np.nonzero(patterns >= 0)
    by_shape = np.argsort(patterns[q, slot], kind='stable')
    q, slot = q[by_shape], slot[by_shape]
    times = copies[q]
    before = np.repeat(np.cumsum(times) - times, times)
    row = np.repeat((np.cumsum(copies) - copies)[q], times) + np.arange(len(codes)) - before
    rows = np.full((copies.sum(), patterns.shape[1]), -1, np.int32)
    shuffled = np.random.default_rng(0).permutation(len(codes))
    rows[row, np.repeat(slot, times)] = shuffled[np.argsort(codes[shuffled], kind='stable')]
    sizes = np.where(patterns[..., None] >= 0, shapes[patterns], 0).astype(np.int32)
    return Plan(rows, sizes, copies, capacity)


def find_patterns(
    shapes: np.ndarray, counts: np.ndarray, capacity: tuple[int, int], max_texts: int
) -> list[tuple[list[int], int]]:
    """Patterns that use every text of a histogram once: [(numbers of shapes, rows made like that), …].

    Each row begins with the largest text left (Krell et al. 2021: longest first) and is completed in many
    ways: some texts drawn from those left, then the largest one that still fits. The best of them, by the sum
    of s + s² over its texts, s being a text's share of the row, is made as often as there are texts for it.
    The sum of s prefers full rows; that of s² those of few large texts, and so saves the small ones, which
    can close gaps later.

    Args:
      shapes: [D, 2] distinct (characters, words), none over the capacity.
      counts: [D] texts of each shape, at least 1.
    """
    rng = np.random.default_rng(0)
    size = (shapes / capacity).mean(1)
    order = np.argsort(-size, kind='stable')
    none = len(order)  # the number of a shape of no size, of which there is enough
    shapes, size = (np.append(values[order], values[:1] * 0, axis=0) for values in (shapes, size))
    left = np.append(counts[order], max_texts)
    value = size + size**2
    largest = shapes.max(0)
    chosen: list[tuple[list[int], int]] = []
    seed = age = 0
    while True:
        while not left[seed]:
            seed += 1
        if seed == none:
            return chosen
        if age % REFRESH == 0:
            drawable = np.cumsum(left[:none])
            average = (capacity / (left[:none] @ shapes[:none]) * drawable[-1]).min()  # texts in a row
            draws = min(max(max_texts - 2, 0), int(1.5 * average) + 1)
            # table[c, w]: the largest shape left, beside the seed, that fits into c characters and w words.
            table = np.full(largest + 1, none)
            others = np.flatnonzero(left[:none] - (np.arange(none) == seed))
            if max_texts > 1:
                table[tuple(shapes[others].T)] = others
            for axis in (0, 1):
                np.minimum.accumulate(table, axis=axis, out=table)
        age += 1
        # [SAMPLES, draws + 1], after each number of drawn texts: what room is left, and what closes the row.
        drawn = np.searchsorted(drawable, rng.integers(drawable[-1], size=(SAMPLES, draws)), side='right')
        texts = np.concatenate([np.full((SAMPLES, 1), seed), drawn], axis=1)
        room = np.array(capacity) - np.cumsum(shapes[texts], axis=1)
        closing = table[tuple(np.moveaxis(np.clip(room, 0, largest), -1, 0))]
        score = np.cumsum(value[texts], axis=1) + value[closing]
        used_up = np.logical_or.accumulate(left[texts] == 0, axis=1) | (left[closing] == 0)
        score[(room < 0).any(-1) | used_up] = 0
        for best in np.argsort(-score, axis=None, kind='stable'):
            i, j = divmod(int(best), draws + 1)
            pattern = [k for k in (*texts[i, : j + 1].tolist(), int(closing[i, j])) if k < none]
            kinds, uses = np.unique(pattern, return_counts=True)
            times = int((left[kinds] // uses).min())
            if times or not score[i, j]:
                break
        if not (times and score[i, j]):
            age = 0
            continue
        left[kinds] -= uses * times
        chosen.append((order[pattern].tolist(), times))


def pack(
    texts: Mapping[str, np.ndarray], lengths: np.ndarray, counts: np.ndarray, widths: Widths
) -> dict[str, np.ndarray]:
    """Texts one after another in rows: a batch [B, …] of what `masking.make_batch` made of T texts.

    Args:
      texts: the batch of T texts, those of row 0 first; what it does not hold the rows do not either.
      lengths: [T, 2] their tokens in both views, special ones included.
      counts: [B] texts of each row; sum: T.

    Returns:
      The int32 batch of docs/architecture.md, positions being those in the row, and with
      `{char,word}_texts` [B, L], the text's number in its row from 1, 0 = padding;
      `{char,word}_starts` [B, S], the position of each text's [CLS], 0 where there is none;
      `sop_labels` [B, S], −1 where there is no text.

    Raises IndexError where a row has more than `widths` allow.
    """
    size = len(counts)
    row = np.repeat(np.arange(size), counts)
    number = np.arange(len(row)) - (np.cumsum(counts) - counts)[row]  # of the text in its row

    def put(width: int, real: np.ndarray, columns: Mapping[str, np.ndarray], fill: int = 0) -> None:
        """What is `real` [T, n] of each column [T, n], row by row, [B, width]."""
        at = row[np.nonzero(real)[0]]
        in_row = np.bincount(at, minlength=size)
        place = np.arange(len(at)) - (np.cumsum(in_row) - in_row)[at]
        for name, values in columns.items():
            batch[name] = np.full((size, width), fill, np.int32)
            batch[name][at, place] = values[real]

    batch: dict[str, np.ndarray] = {}
    every = np.ones((len(row), 1), bool)
    first = {}
    for view, tokens, width, predictions in (
        ('char', lengths[:, 0], widths.chars, widths.char_predictions),
        ('word', lengths[:, 1], widths.words, widths.word_predictions),
    ):
        if f'{view}_ids' not in texts:
            continue
        start = np.cumsum(tokens) - tokens
        first[view] = start = (start - start[np.arange(len(row)) - number])[:, None]
        real = np.arange(texts[f'{view}_ids'].shape[1]) < tokens[:, None]
        put(
            width,
            real,
            {
                f'{view}_ids': texts[f'{view}_ids'],
                f'{view}_segments': texts[f'{view}_segments'],
                f'{view}_texts': np.broadcast_to(number[:, None] + 1, real.shape),
            }
            | {name: texts[name] for name in (f'{view}_words',) if name in texts},
        )
        put(widths.texts, every, {f'{view}_starts': start})
        labels = texts[f'{view}_mlm_labels']
        chosen = labels != IGNORED_LABEL
        put(predictions, chosen, {f'{view}_mlm_positions': texts[f'{view}_mlm_positions'] + start})
        put(predictions, chosen, {f'{view}_mlm_labels': labels}, IGNORED_LABEL)
    if 'anchor_ids' in texts:
        anchored = texts['anchor_char_length'] > 0
        put(
            widths.anchors,
            anchored,
            {
                'anchor_word_position': texts['anchor_word_position'] + first['word'],
                'anchor_char_start': texts['anchor_char_start'] + first['char'],
                'anchor_char_length': texts['anchor_char_length'],
                'anchor_ids': texts['anchor_ids'],
            },
        )
    put(widths.texts, every, {'sop_labels': texts['sop_labels'][:, None]}, -1)
    return batch
