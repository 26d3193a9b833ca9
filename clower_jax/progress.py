"""What the loop needs beside arithmetic: a clock, a bar or lines, the best evaluation so far, a polite way to
be stopped."""

import datetime
import math
import signal
import sys
import time
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from tqdm import tqdm

from clower_jax import metrics


class Clock:
    """Examples, tokens and FLOPs per second of training; compiling, evaluation and saving are left out."""

    def __init__(self, step_flops: float):
        self._flops = step_flops  # of one step, all devices together; 0: not known
        self._peak = metrics.peak_flops()
        self._since = time.perf_counter()
        self._left_out = 0  # steps of this interval
        self._steps, self._seconds = 0, 0.0  # of all intervals before it

    def restart(self) -> None:
        """Nothing of this interval counts so far."""
        self._since = time.perf_counter()

    def leave_out(self) -> None:
        """The step just taken, which was spent compiling, does not count, and was taken in a pause."""
        self._left_out += 1

    def paused(self):
        """A context whose duration does not count."""
        return _Paused(self)

    def lap(self, steps: int) -> tuple[int, float]:
        """(steps, seconds) of the interval that ends here, after `steps` of them; starts the next one."""
        now = time.perf_counter()
        steps -= self._left_out
        elapsed = now - self._since
        self._since, self._left_out = now, 0
        self._steps, self._seconds = self._steps + steps, self._seconds + elapsed
        return steps, elapsed

    def seconds_for(self, steps: int) -> float | None:
        """What so many more steps will take, without what is left out; None where no step counts yet."""
        return self._seconds / self._steps * steps if self._steps else None

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


class Progress:
    """How far a run is: a bar in a terminal; elsewhere, as in a file, a line whenever something is logged.

    Args:
      total, first_step: of the steps; the run goes on from `first_step`.
      on: whether this process says anything.
    """

    def __init__(self, total: int, first_step: int, on: bool = True):
        self._total, self._on = total, on
        # None: the bar is there where standard error is a terminal.
        self._bar = tqdm(total=total, initial=first_step, unit='step', disable=None if on else True)

    def __enter__(self) -> 'Progress':
        return self

    def __exit__(self, *_) -> None:
        self._bar.close()

    def advance(self, counts: bool = True) -> None:
        """One step was taken; the time that it took says nothing about the next ones unless it `counts`."""
        if not counts:
            self._bar.unpause()
        self._bar.update()

    def resume(self) -> None:
        """What was done since the last step does not count in the time that is left."""
        self._bar.unpause()

    def log(self, step: int, values: Mapping[str, float], seconds_left: float | None) -> None:
        """What was measured up to a step: `loss`, `lr` and `tokens_per_s`, as far as they are known."""
        loss = f'loss {values.get("loss", math.nan):.3f}'
        speed = f'{values["tokens_per_s"]:,.0f} tokens/s' if 'tokens_per_s' in values else ''
        if not self._bar.disable:
            self._bar.set_postfix_str(', '.join(filter(None, (loss, speed))), refresh=False)
        else:
            rate = f'lr {values["lr"]:.3g}' if 'lr' in values else ''
            left = '' if seconds_left is None else f'{datetime.timedelta(seconds=round(seconds_left))} left'
            parts = (f'step {step} of {self._total}:', loss, rate, speed, left)
            self.say('  '.join(filter(None, parts)))

    def say(self, text: str) -> None:
        """A line of its own, above the bar; at once, though standard output may be a file."""
        if self._on:
            self._bar.write(text)
            sys.stdout.flush()


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


class Stop:
    """SIGTERM or Ctrl-C asks the loop to save and leave; a second Ctrl-C interrupts at once.

    It listens while it is entered, once or several times one within the other. `signal` is the number of the
    signal that came, 0 where none has.
    """

    def __init__(self):
        self.signal = 0
        self._entered = 0

    @property
    def requested(self) -> bool:
        """Whether the process was asked to leave."""
        return self.signal != 0

    @property
    def status(self) -> int:
        """What the process ends with, as shells have it: 130 after SIGINT, 143 after SIGTERM, else 0."""
        return 128 + self.signal if self.signal else 0

    def __enter__(self) -> 'Stop':
        if not self._entered:
            self._before = {s: signal.signal(s, self._ask) for s in (signal.SIGTERM, signal.SIGINT)}
        self._entered += 1
        return self

    def __exit__(self, *_):
        self._entered -= 1
        if not self._entered:
            for number, handler in self._before.items():
                signal.signal(number, handler)

    def agreed(self, may_ask: bool) -> bool:
        """Whether all processes stop here. Several ask each other, and only where `may_ask`."""
        if jax.process_count() == 1:
            return self.requested
        if not may_ask:
            return False
        self.signal = int(multihost_utils.process_allgather(np.asarray(self.signal)).max())
        return self.requested

    def _ask(self, number, _):
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = int(number)
