"""What the loop needs beside arithmetic: a clock, the best evaluation so far, a polite way to be stopped."""

import math
import signal
import time
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from clower_jax import metrics


class Clock:
    """Examples, tokens and FLOPs per second of training, evaluation and saving left out."""

    def __init__(self, step_flops: float):
        self._flops = step_flops  # of one step, all devices together; 0: not known
        self._peak = metrics.peak_flops()
        self._fresh = False
        self.reset()

    def reset(self) -> None:
        """Starts an interval that does not hold the step just taken."""
        self._since, self._fresh = time.perf_counter(), True

    def paused(self):
        """A context whose duration does not count."""
        return _Paused(self)

    def lap(self, steps: int) -> tuple[int, float]:
        """(steps, seconds) of the interval that ends here, after `steps` of them; starts the next one."""
        now = time.perf_counter()
        steps -= self._fresh  # the first step was spent compiling
        elapsed = now - self._since
        self._since, self._fresh = now, False
        return steps, elapsed

    def rates(self, values: dict[str, float], lap: tuple[int, float]) -> dict[str, float]:
        """Rates over such an interval, from its means `examples` and `tokens`, which leave `values`."""
        steps, elapsed = lap
        per_step = {name: values.pop(name, 0.0) for name in ('examples', 'tokens')}
        if steps <= 0 or elapsed <= 0:
            return {}
        rates = {f'{name}_per_s': value * steps / elapsed for name, value in per_step.items()}
        if self._peak and self._flops:
            rates['mfu'] = self._flops * steps / elapsed / self._peak
        return rates


class _Paused:
    def __init__(self, clock: Clock):
        self._clock = clock

    def __enter__(self):
        self._began = time.perf_counter()

    def __exit__(self, *_):
        self._clock._since += time.perf_counter() - self._began


class Best:
    """The best evaluation so far by one metric, and how many came after it.

    Args:
      metric: the name of a held-out metric of which more is better; '' follows nothing.
      patience: this many evaluations in a row that are no better end a run; 0: none does.
      rows: what earlier evaluations of the run measured (lines of metrics.jsonl), in order.
    """

    def __init__(self, metric: str, patience: int, rows: Iterable[Mapping[str, Any]] = ()):
        self._metric, self._patience = metric, patience
        self._value, self._since = -math.inf, 0
        self.step: int | None = None  # at which the best one was
        for row in rows:
            if row['split'] == 'validation':
                self.improves(row['step'], row)

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


class Stop:
    """SIGTERM or Ctrl-C asks the loop to save and leave; a second Ctrl-C interrupts at once."""

    def __enter__(self) -> 'Stop':
        self.requested = False
        self._before = {s: signal.signal(s, self._ask) for s in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *_):
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def agreed(self, may_ask: bool) -> bool:
        """Whether all processes stop here. Several ask each other, and only where `may_ask`."""
        if jax.process_count() == 1:
            return self.requested
        if not may_ask:
            return False
        self.requested = bool(multihost_utils.process_allgather(np.asarray(self.requested)).any())
        return self.requested

    def _ask(self, number, _):
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.requested = True
