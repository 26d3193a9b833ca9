"""The best evaluation so far, and whether to go on."""

import math
from collections.abc import Iterable, Mapping
from typing import Any


class Best:
    """The best evaluation so far by one metric, and how many came after it.

    Args:
      metric: the name of a held-out metric of which more is better; '' follows nothing.
      patience: this many evaluations in a row that are no better end a run; 0: none does.
      rows: what earlier evaluations of the run measured (lines of metrics.jsonl), in order.
    """

    def __init__(self, metric: str, patience: int, rows: Iterable[Mapping[str, Any]] = ()):
        self._metric, self._patience = metric, patience
        self.step: int | None = None  # at which the best one was
        self.forget()
        for row in rows:
            if row['split'] == 'validation':
                self.improves(row['step'], row)
            elif 'best_lost' in row:
                self.forget()

    def forget(self) -> None:
        """The best so far is at hand no more: it is looked for among those to come."""
        self._value, self._since, self.step = -math.inf, 0, None

    def improves(self, step: int, held_out: Mapping[str, Any]) -> bool:
        """Takes note of one evaluation: is it better than all before it? The first of equals stays."""
        if not self._metric or not held_out:
            return False
        if self._metric not in held_out:
            raise ValueError(
                f'select={self._metric!r} is none of the held-out metrics: {", ".join(sorted(held_out))}'
            )
        better = held_out[self._metric] > self._value
        if better:
            self._value, self.step = held_out[self._metric], step
        self._since = 0 if better else self._since + 1
        return better

    @property
    def exhausted(self) -> bool:
        """Whether the last `patience` evaluations were all no better."""
        return 0 < self._patience <= self._since
