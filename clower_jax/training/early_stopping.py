"""The best evaluation so far, and whether to go on."""

import math
from collections.abc import Iterable, Mapping
from typing import Any


class EarlyStopping:
    """The best evaluation so far by one metric, and how many came after it.

    Args:
      metric: the name of a held-out metric of which more is better; '' follows nothing.
      patience: this many evaluations in a row that are no better end a run; 0: none does.
      rows: what earlier evaluations of the run measured (lines of metrics.jsonl), in order.
    """

    def __init__(self, metric: str, patience: int, rows: Iterable[Mapping[str, Any]] = ()):
        self._metric, self._patience = metric, patience
        self.best_step: int | None = None  # at which the best one was
        self.reset()
        for row in rows:
            if row['split'] == 'validation':
                self.update(row['step'], row)
            elif 'best_lost' in row:
                self.reset()

    def reset(self) -> None:
        """The best so far is at hand no more: it is looked for among those to come."""
        self._value, self._num_not_improved, self.best_step = -math.inf, 0, None

    def update(self, step: int, held_out: Mapping[str, Any]) -> bool:
        """Takes note of one evaluation: is it better than all before it? The first of equals stays."""
        if not self._metric or not held_out:
            return False
        if self._metric not in held_out:
            raise ValueError(
                f'select={self._metric!r} is none of the held-out metrics: {", ".join(sorted(held_out))}'
            )
        improved = held_out[self._metric] > self._value
        if improved:
            self._value, self.best_step = held_out[self._metric], step
        self._num_not_improved = 0 if improved else self._num_not_improved + 1
        return improved

    @property
    def should_stop(self) -> bool:
        """Whether the last `patience` evaluations were all no better."""
        return 0 < self._patience <= self._num_not_improved
