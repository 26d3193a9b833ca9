"""A signal becomes a save and a clean exit."""

import signal
from types import FrameType

import jax
import numpy as np
from jax.experimental import multihost_utils


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
