"""Starts of run.py as processes of their own, forked from one that has everything imported already."""

import atexit
import contextlib
import functools
import multiprocessing
import os
import signal
import sys
import time
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from pathlib import Path

from moments import Moment, Watch

ROOT = Path(__file__).parent.parent.parent


def server():
    """The context that starts come from."""
    before = dict(os.environ)
    os.environ['JAX_PLATFORMS'] = 'cpu'
    paths = [os.fspath(ROOT), os.fspath(ROOT / 'tests'), os.fspath(ROOT / 'tests' / 'faults')]
    os.environ['PYTHONPATH'] = os.pathsep.join(paths)
    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload(['run', 'starts'])
    forkserver.ensure_running()  # in this environment, which is that of all starts
    os.environ.clear()
    os.environ.update(before)
    return context


def start(
    context,
    arguments: list[str],
    log: Path,
    moment: Moment | None = None,
    disk: Path | None = None,
    devices: int = 1,
    number: int = signal.SIGKILL,
) -> BaseProcess:
    """run.py with these arguments on so many simulated devices, its output added to `log`, the phases that it
    comes to, to `notes_of(log)`; see `Watch` for the rest."""
    process = context.Process(target=_run, args=(arguments, log, moment, disk, devices, number))
    process.daemon = True
    process.start()
    return process


def text_of(log: Path) -> str:
    """What is in a log once nobody writes to it: what passes on a process's standard error outlives it."""
    deadline = time.monotonic() + 60
    while any(map(functools.partial(_is_open, log), Path('/proc').glob('[0-9]*'))):
        assert time.monotonic() < deadline, f'{log} is still written to'
        time.sleep(0.05)
    return log.read_text()


def _is_open(log: Path, process: Path) -> bool:
    with contextlib.suppress(OSError):  # it has ended meanwhile
        return any(os.readlink(link) == str(log) for link in (process / 'fd').iterdir())
    return False


def notes_of(log: Path) -> Path:
    """Where a process with this log notes its phases."""
    return log.with_suffix('.notes')


def _run(
    arguments: list[str], log: Path, moment: Moment | None, disk: Path | None, devices: int, number: int
) -> None:
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for descriptor in (1, 2):
        os.dup2(out, descriptor)
    sys.stdout = open(1, 'w', closefd=False, encoding='utf-8')
    sys.stderr = open(2, 'w', closefd=False, encoding='utf-8', buffering=1)
    watch = Watch(moment, notes_of(log), disk, number)
    os.chdir(ROOT)
    flags = os.environ.get('XLA_FLAGS', '')
    os.environ['XLA_FLAGS'] = f'{flags} --xla_force_host_platform_device_count={devices}'
    sys.argv = ['run.py', *arguments]
    import run
    from clower_jax.utils import allocator, command_line
    from input_pipeline.utils import garbage

    garbage.collect_seldom()
    allocator.keep_freed_memory()
    command_line.parse(sys.argv, run.__doc__ or '')
    watch.install()
    try:
        run.main(sys.argv)
    finally:
        atexit._run_exitfuncs()  # which multiprocessing leaves out: several processes wait for each other
