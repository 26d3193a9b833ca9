"""What a report shows of the metrics of a run, in memory that does not grow with the run."""

import collections
from collections.abc import Iterable, Mapping
from typing import Any

from clower_jax.utils.metrics_file import EVENT

LONGEST = 2000  # rows of a split that are kept: more than curves can show
LAST = 14  # rows of a split that are kept in any case, the newest


class Series:
    """Of rows that come one after another the first and every n-th, n doubling as they become many, and the
    newest. `count`: how many came. `names`: of what is in any of them, in order."""

    def __init__(self) -> None:
        self.count = 0
        self.names: dict[str, None] = {}
        self.newest: collections.deque[Mapping[str, Any]] = collections.deque(maxlen=LAST)
        self._kept: list[Mapping[str, Any]] = []
        self._every = 1

    def add(self, row: Mapping[str, Any]) -> None:
        """One more row."""
        if self.count % self._every == 0:
            self._kept.append(row)
        self.count += 1
        self.names |= dict.fromkeys(row)
        self.newest.append(row)
        if len(self._kept) == LONGEST:
            self._kept, self._every = self._kept[::2], 2 * self._every

    @property
    def rows(self) -> list[Mapping[str, Any]]:
        """Those that are kept, in order; all where they are fewer than LONGEST."""
        after = self.count - 1 - (len(self._kept) - 1) * self._every  # that came after the last of these
        newest = list(self.newest)
        return [*self._kept, *newest[max(0, len(newest) - after) :]]


class History:
    """The rows of a run's metrics.jsonl as they come: what happened, and series of each split's metrics.

    step: the last that has a row. skipped_steps: of training, altogether. events: rows of the split EVENT.
    """

    def __init__(self, rows: Iterable[Mapping[str, Any]] = ()):
        self.step = self.skipped_steps = 0
        self.events: list[Mapping[str, Any]] = []
        self._by_split: dict[str, Series] = {}
        for row in rows:
            self.add(row)

    def __bool__(self) -> bool:
        return bool(self.events or self._by_split)

    def add(self, row: Mapping[str, Any]) -> None:
        """One more row, {'step': …, 'split': …, metrics}."""
        self.step = max(self.step, row['step'])
        if row['split'] == EVENT:
            self.events.append(row)
            return
        if row['split'] == 'train':
            self.skipped_steps += int(row.get('skipped_steps', 0))
        self._by_split.setdefault(row['split'], Series()).add(row)

    def series(self, split: str) -> Series:
        """What came of a split; an empty one where nothing did."""
        return self._by_split.get(split, Series())

    @property
    def rows(self) -> list[Mapping[str, Any]]:
        """Of every split those that are kept, without events."""
        return [row for series in self._by_split.values() for row in series.rows]
