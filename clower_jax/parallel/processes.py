"""The processes of a run: how they join, stop together, and end so that none waits for another."""

import os
import signal
import sys
from types import FrameType
from typing import NoReturn

import jax
import numpy as np
from jax.experimental import multihost_utils

from clower_jax.parallel import lost_process

LOST = (
    'run.py: another process of this run is gone (killed, out of memory, cut off, ended by an error that its '
    'own output tells) or never came, so this one has ended, too. Start all of them again with the same '
    'commands: the run goes on from its newest checkpoint.'
)


def join(
    coordinator: str | None, num_processes: int | None, process_id: int | None, brief: bool = True
) -> None:
    """Joins the other processes of a run.

    Args:
      coordinator: host:port of the first process; None: found out from Slurm, MPI or a TPU pod, as are the
        next two.
      brief: where another process is lost later, this one ends with one line, in place of the libraries'.

    Raises ConnectionError where the others do not come.
    """
    if brief:
        lost_process.report_as(LOST)
    try:
        jax.distributed.initialize(coordinator, num_processes, process_id)
    except (RuntimeError, ValueError) as error:
        reason = ' '.join(str(error).split())
        raise ConnectionError(f'the processes did not find each other: {reason}') from error


def end(status: str | int) -> NoReturn:
    """Ends this process as sys.exit does; one of several at once, so that the others, too, end at once."""
    if jax.process_count() == 1:
        sys.exit(status)
    if isinstance(status, str):
        print(status, file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status if isinstance(status, int) else 1)


class StopSignal:
    """SIGTERM or Ctrl-C asks the loop to save and leave; a second Ctrl-C interrupts at once.

    It listens while it is entered, once or several times one within the other. `signal` is the number of the
    signal that came, 0 where none has.
    """

    def __init__(self) -> None:
        self.signal = 0
        self._depth = 0

    @property
    def requested(self) -> bool:
        """Whether the process was asked to leave."""
        return self.signal != 0

    @property
    def status(self) -> int:
        """What the process ends with, as shells have it: 130 after SIGINT, 143 after SIGTERM, else 0."""
        return 128 + self.signal if self.signal else 0

    def __enter__(self) -> 'StopSignal':
        if not self._depth:
            self._previous_handlers = {
                s: signal.signal(s, self._handle_signal) for s in (signal.SIGTERM, signal.SIGINT)
            }
        self._depth += 1
        return self

    def __exit__(self, *_: object) -> None:
        self._depth -= 1
        if not self._depth:
            for number, handler in self._previous_handlers.items():
                signal.signal(number, handler)

    def should_stop(self, synchronize: bool) -> bool:
        """Whether all processes stop here. Several ask each other, and only where `synchronize`."""
        if jax.process_count() == 1:
            return self.requested
        if not synchronize:
            return False
        self.signal = int(multihost_utils.process_allgather(np.asarray(self.signal)).max())
        return self.requested

    def _handle_signal(self, number: int, _: FrameType | None) -> None:
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = int(number)
