"""Where a run is, told from within, and its end at a moment that was drawn before.

A moment is the n-th time that a run comes to a phase, and a delay after that. So it is drawn from a seed, and
the same moment comes again however fast the machine is.
"""

import fcntl
import functools
import os
import random
import signal
import struct
import threading
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

# From when to when a phase lasts that no other one ends, in seconds: a save goes on beside the steps.
SAVING = 0.3
SHUTDOWN, NO_FLUSH = 0x8004587D, 2  # ext4's ioctl, and what makes it as if the power were cut


class Moment(NamedTuple):
    """`delay` seconds after the `occurrence`-th beginning of `phase`, counted from 1."""

    phase: str
    occurrence: int
    delay: float


def draw(rng: random.Random, phases: tuple[str, ...], seconds: dict[str, float]) -> Moment:
    """Every phase as often as the others; within it, any moment. `seconds`: how long each lasts."""
    phase = rng.choice(phases)
    occurrence = 1 if phase in ('start', 'results', 'tables') else rng.randint(1, 4)
    return Moment(phase, occurrence, rng.random() * seconds.get(phase, SAVING))


class Watch:
    """Notes each beginning of a phase in this process, and sends it a signal at `moment` (None: never).

    `notes`: a file that gets a line for each, `<seconds> <phase>`. `disk`: where the power is cut at that
    moment, as a mounted folder; None: nowhere. `number`: of the signal that it gets.
    """

    def __init__(
        self, moment: Moment | None, notes: Path, disk: Path | None = None, number: int = signal.SIGKILL
    ):
        self._moment, self._disk, self._number = moment, disk, number
        self._seen: Counter[str] = Counter()
        self._notes = os.open(notes, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self.begins('start')

    def begins(self, phase: str) -> None:
        """A phase begins."""
        os.write(self._notes, f'{time.monotonic():.4f} {phase}\n'.encode())
        self._seen[phase] += 1
        if self._moment and (phase, self._seen[phase]) == self._moment[:2]:
            threading.Timer(self._moment.delay, self._end).start()

    def install(self) -> None:
        """Has the trainer tell of its phases. Pictures, which nothing is read from again, are left out: they
        take longer than all else of so small a run."""
        from clower_jax.checkpoints.orbax_store import Checkpoints
        from clower_jax.experiments import tables
        from clower_jax.reports import plots
        from clower_jax.training import evaluate, finetune, loop

        for name in ('draw_curves', 'draw_confusion'):
            setattr(plots, name, lambda *args: None)

        make_train_step = loop.make_train_step

        def making(*args):
            return self._telling('step', make_train_step(*args))

        loop.make_train_step = making  # type: ignore[assignment]
        for owner, name, phase in (
            (Checkpoints, 'save', 'save'),
            (Checkpoints, 'save_params', 'save'),
            (evaluate.Evaluator, '__call__', 'evaluation'),
            (finetune, '_evaluate_seed', 'results'),
            (tables, 'write', 'tables'),
        ):
            setattr(owner, name, self._telling(phase, getattr(owner, name)))

    def _telling(self, phase: str, function):
        @functools.wraps(function)
        def telling(*args, **kwargs):
            self.begins(phase)
            return function(*args, **kwargs)

        return telling

    def _end(self) -> None:
        if self._disk:
            folder = os.open(self._disk, os.O_RDONLY)
            fcntl.ioctl(folder, SHUTDOWN, struct.pack('I', NO_FLUSH))
        os.kill(os.getpid(), self._number)


def durations(notes: Path) -> dict[str, float]:
    """The mean length of each phase of a run, in seconds, from its notes."""
    lines = [line.split() for line in notes.read_text().splitlines()]
    found: dict[str, list[float]] = {}
    for (begin, phase), (end, _) in zip(lines, lines[1:]):
        found.setdefault(phase, []).append(float(end) - float(begin))
    return {phase: max(sum(each) / len(each), SAVING * (phase == 'save')) for phase, each in found.items()}


def last_phase(notes: Path, since: int = 0) -> str:
    """The phase that the last line of notes tells of, of those after the first `since` bytes."""
    lines = notes.read_text()[since:].split('\n')
    return lines[-2].split()[1] if len(lines) > 1 else 'start'
