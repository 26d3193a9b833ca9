"""How fast a run goes, and its bar or lines on the console."""

import datetime
import math
import sys
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager

from tqdm import tqdm

from clower_jax.utils import flops


class Clock:
    """Examples, tokens and FLOPs per second of training; compiling, evaluation and saving are left out."""

    def __init__(self, step_flops: float):
        self._flops = step_flops  # of one step, all devices together; 0: not known
        self._peak = flops.peak_flops()
        self._interval_start = time.perf_counter()
        self._excluded_steps = 0  # steps of this interval
        self._steps, self._seconds = 0, 0.0  # of all intervals before it

    def restart(self) -> None:
        """Nothing of this interval counts so far."""
        self._interval_start = time.perf_counter()

    def exclude_step(self) -> None:
        """The step just taken, which was spent compiling, does not count, and was taken in a pause."""
        self._excluded_steps += 1

    def paused(self) -> AbstractContextManager[None]:
        """A context whose duration does not count."""
        return _Paused(self)

    def lap(self, steps: int) -> tuple[int, float]:
        """(steps, seconds) of the interval that ends here, after `steps` of them; starts the next one."""
        now = time.perf_counter()
        steps -= self._excluded_steps
        elapsed = now - self._interval_start
        self._interval_start, self._excluded_steps = now, 0
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

    def __enter__(self) -> None:
        self._started = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self._clock._interval_start += time.perf_counter() - self._started


class Progress:
    """How far a run is: a bar in a terminal; elsewhere, as in a file, a line whenever something is logged.

    Args:
      total, first_step: of the steps; the run goes on from `first_step`.
      enabled: whether this process says anything.
    """

    def __init__(self, total: int, first_step: int, enabled: bool = True):
        self._total, self._enabled = total, enabled
        # None: the bar is there where standard error is a terminal.
        self._bar = tqdm(total=total, initial=first_step, unit='step', disable=None if enabled else True)

    def __enter__(self) -> 'Progress':
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def advance(self, timed: bool = True) -> None:
        """One step was taken; the time that it took says something about the next ones where it is
        `timed`."""
        if not timed:
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
            remaining = (
                '' if seconds_left is None else f'{datetime.timedelta(seconds=round(seconds_left))} left'
            )
            parts = (f'step {step} of {self._total}:', loss, rate, speed, remaining)
            self.write_line('  '.join(filter(None, parts)))

    def write_line(self, text: str) -> None:
        """A line of its own, above the bar; at once, though standard output may be a file."""
        if self._enabled:
            self._bar.write(text)
            sys.stdout.flush()
