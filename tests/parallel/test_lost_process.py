"""What a process of several says where another is lost, read as a terminal shows it."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
FATAL = (
    'F1126 client.h:80] Terminating process because the JAX distributed service detected fatal errors. More'
)


def run_code(code: str) -> tuple[int, str]:
    """(exit status, standard error) of a process that listens and then runs `code`."""
    setup = "import os, sys\nfrom clower_jax.parallel import lost_process\nlost_process.report_as('LOST.')\n"
    environment = {**os.environ, 'PYTHONPATH': str(ROOT)}
    finished = subprocess.run(
        [sys.executable, '-c', setup + code], env=environment, capture_output=True, text=True, timeout=60
    )
    return finished.returncode, finished.stderr


def test_what_others_write_is_passed_on():
    assert run_code("os.write(2, b'a warning\\nwithout an end'); sys.exit(3)") == (
        3,
        'a warning\nwithout an end',
    )


def test_python_writes_past_it():
    status, stderr = run_code("print('mine', file=sys.stderr)")
    assert (status, stderr) == (0, 'mine\n')


def test_an_abort_of_the_coordination_service_is_one_line():
    line = 'E1126 coordination_service_agent.cc:289] Polled an error\n'
    status, stderr = run_code(f'os.write(2, {(line + FATAL).encode()!r} + b"\\n  stack\\n"); os.abort()')
    assert (status, stderr) == (-6, 'LOST.\n')


def test_leaving_tells_why():
    assert run_code("lost_process.leave('Gloo failed:\\n closed')") == (1, 'LOST. (Gloo failed: closed)\n')


def test_what_was_held_back_for_nothing_comes_in_the_end():
    line = 'E1126 coordination_service.cc:1] a process came late\n'
    assert run_code(f'os.write(2, {line.encode()!r})') == (0, line)
