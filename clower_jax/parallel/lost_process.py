"""What a process prints when another one of the run is lost: one line, in place of what libraries print.

JAX's coordination service aborts a process whose coordinator is gone, with pages of C++ on standard error. So
that goes through a small process of its own, which passes everything on but what such an end is told with.
Imports the standard library alone: it is in place before anything that takes seconds to import.
"""

import faulthandler
import os
import signal
import subprocess
import sys
from typing import NoReturn

# What a line about a lost process holds; from the first such line on, nothing is passed on.
MARKERS = (b'coordination_service', b'preemption_sync_manager', b'grpc_status', b'client.h:')
FATAL_ERROR = b'Terminating process because the JAX distributed service detected fatal errors'
LEAVING = b'left because: '  # what this process itself tells the relay, before the reason


def report_as(message: str) -> None:
    """From now on, this process ends with `message` as its last line where another one is lost.

    What Python writes to standard error is not touched; what its libraries write to file descriptor 2 comes a
    line at a time.
    """
    sys.stderr.flush()
    terminal = os.dup(2)
    relay_process = subprocess.Popen(
        [sys.executable, '-I', __file__, message],
        stdin=subprocess.PIPE,
        stdout=terminal,
        start_new_session=True,  # a Ctrl-C is not for it
    )
    assert relay_process.stdin
    os.dup2(relay_process.stdin.fileno(), 2)
    relay_process.stdin.close()
    relay_process.returncode = 0  # nobody waits for it: it ends when this process does
    sys.stderr = os.fdopen(terminal, 'w', buffering=1, encoding='utf-8', errors='backslashreplace')
    faulthandler.enable(2)  # a list of threads is a part of what is not passed on


def leave(reason: str) -> NoReturn:
    """Ends this process at once, because another is lost: neither it nor the others wait for each other.
    `reason` comes after the message, in brackets."""
    sys.stdout.flush()
    os.write(2, LEAVING + ' '.join(reason.split()).encode() + b'\n')
    os._exit(1)


def relay(message: str) -> None:
    """Standard input → standard output, a line at a time, until a line tells of a lost process. In the end
    comes `message` where this was why it ended; else what was held back."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    withheld: list[bytes] = []
    for line in sys.stdin.buffer:
        if withheld or any(marker in line for marker in (FATAL_ERROR, LEAVING, *MARKERS)):
            withheld.append(line)
        else:
            sys.stdout.buffer.write(line)
            sys.stdout.buffer.flush()
    reasons = [line.partition(LEAVING)[2].strip().decode() for line in withheld if LEAVING in line]
    if reasons or any(FATAL_ERROR in line for line in withheld):
        sys.stdout.buffer.write(' '.join([message, *(f'({reason})' for reason in reasons)]).encode() + b'\n')
    else:
        sys.stdout.buffer.write(b''.join(withheld))


if __name__ == '__main__':
    relay(sys.argv[1])
