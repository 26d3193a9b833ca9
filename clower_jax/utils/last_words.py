"""What one process of several says when another is lost: one line, in the place of what libraries say of it.

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

# What a line holds that tells of a lost process; from the first of them on, nothing is passed on.
TOLD_BY = (b'coordination_service', b'preemption_sync_manager', b'grpc_status', b'client.h:')
LOST = b'Terminating process because the JAX distributed service detected fatal errors'
LEFT = b'left because: '  # what this process itself tells the other one, and why


def listen(message: str) -> None:
    """From now on, this process ends with `message` as its last line where another one is lost.

    What Python writes to standard error is not touched; what its libraries write to file descriptor 2 comes a
    line at a time.
    """
    sys.stderr.flush()
    own = os.dup(2)
    relay = subprocess.Popen(
        [sys.executable, '-I', __file__, message],
        stdin=subprocess.PIPE,
        stdout=own,
        start_new_session=True,  # a Ctrl-C is not for it
    )
    assert relay.stdin
    os.dup2(relay.stdin.fileno(), 2)
    relay.stdin.close()
    relay.returncode = 0  # nobody waits for it: it ends when this process does
    sys.stderr = os.fdopen(own, 'w', buffering=1, encoding='utf-8', errors='backslashreplace')
    faulthandler.enable(2)  # a list of threads is a part of what is not passed on


def leave(why: str) -> NoReturn:
    """Ends this process at once, because another is lost: neither it nor the others wait for each other.
    `why` comes after the message, in brackets."""
    sys.stdout.flush()
    os.write(2, LEFT + ' '.join(why.split()).encode() + b'\n')
    os._exit(1)


def relay(message: str) -> None:
    """Standard input → standard output, a line at a time, until a line tells of a lost process. In the end
    comes `message` where this was why it ended; else what was held back."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    held: list[bytes] = []
    for line in sys.stdin.buffer:
        if held or any(word in line for word in (LOST, LEFT, *TOLD_BY)):
            held.append(line)
        else:
            sys.stdout.buffer.write(line)
            sys.stdout.buffer.flush()
    reasons = [line.partition(LEFT)[2].strip().decode() for line in held if LEFT in line]
    if reasons or any(LOST in line for line in held):
        sys.stdout.buffer.write(' '.join([message, *(f'({why})' for why in reasons)]).encode() + b'\n')
    else:
        sys.stdout.buffer.write(b''.join(held))


if __name__ == '__main__':
    relay(sys.argv[1])
