"""What a process of several says where another is lost, read as a terminal shows it."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
FATAL = (
    'F1126 client.h:80] Terminating process because the JAX distributed service detected fatal errors. More'
)


def ends(code: str) -> tuple[int, str]:
    """(exit status, standard error) of a process that listens and then runs `code`."""
    lines = f"import os, sys\nfrom clower_jax.utils import last_words\nlast_words.listen('LOST.')\n{code}"
    environment = {**os.environ, 'PYTHONPATH': str(ROOT)}
    done = subprocess.run(
        [sys.executable, '-c', lines], env=environment, capture_output=True, text=True, timeout=60
    )
    return done.returncode, done.stderr


def test_what_others_write_is_passed_on():
    assert ends("os.write(2, b'a warning\\nwithout an end'); sys.exit(3)") == (3, 'a warning\nwithout an end')


def test_python_writes_past_it():
    status, said = ends("print('mine', file=sys.stderr)")
    assert (status, said) == (0, 'mine\n')


def test_an_abort_of_the_coordination_service_is_one_line():
    told = 'E1126 coordination_service_agent.cc:289] Polled an error\n'
    status, said = ends(f'os.write(2, {(told + FATAL).encode()!r} + b"\\n  stack\\n"); os.abort()')
    assert (status, said) == (-6, 'LOST.\n')


def test_leaving_tells_why():
    assert ends("last_words.leave('Gloo failed:\\n closed')") == (1, 'LOST. (Gloo failed: closed)\n')


def test_what_was_held_back_for_nothing_comes_in_the_end():
    told = 'E1126 coordination_service.cc:1] a process came late\n'
    assert ends(f'os.write(2, {told.encode()!r})') == (0, told)
