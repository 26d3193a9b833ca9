"""Kills of the builder of corpora, with two workers: all its processes, the launching one, or a worker."""

import contextlib
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import jobs
import starts

WORKERS = '--runner=DirectRunner,--direct_running_mode=multi_processing,--direct_num_workers=2'
LONGEST = 300  # seconds of a build
VICTIMS = ('all', 'launcher', 'worker')


def build(materials: Path, output: Path, log: Path) -> subprocess.Popen:
    """A build as people start it, in a process group of its own."""
    lengths = [f'--{name}={value}' for name, value in jobs.CORPUS.items()]
    command = [sys.executable, '-m', 'input_pipeline.build_corpus', f'--beam={WORKERS}', *lengths]
    files = ['--input', materials / 'text', '--vocab', materials / 'vocab.txt', '--output', output]
    environment = {**os.environ, 'PYTHONPATH': os.fspath(starts.ROOT)}
    with log.open('ab') as out:
        return subprocess.Popen(
            [*command, *files], cwd=starts.ROOT, stdout=out, stderr=out, start_new_session=True,
            env=environment,
        )  # fmt: skip


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a corpus."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


class Builds:
    """Builds of one corpus in `folder`, and the bytes of an undisturbed one, which is built first where it is
    not given. Moments of kills are within the time that the last build took which came to its end, `seconds`
    before there was one."""

    def __init__(
        self, materials: Path, folder: Path, expected: dict[str, bytes] | None = None, seconds: float = 0
    ):
        self._materials, self._folder, self._log = materials, folder, folder / 'log'
        folder.mkdir(parents=True)
        self.kills: Counter[str] = Counter()
        self._seconds = seconds
        if expected is None:
            self._finish(folder / 'undisturbed')
            expected = contents(folder / 'undisturbed')
        self.expected = expected

    def round(self, seed: int, kills: int) -> None:
        """Kills builds of one folder at moments of a seed, then builds it. Raises AssertionError where a
        killed one has left an output, or the last one is not, byte for byte, the undisturbed one."""
        rng = random.Random(f'corpus {seed}')
        output, drawn = self._folder / f'seed-{seed}', []
        for _ in range(kills):
            victim, delay = rng.choice(VICTIMS), rng.random() * self._seconds
            drawn.append((victim, round(delay, 3)))
            process = build(self._materials, output, self._log)
            _wait(process, time.monotonic() + delay)
            if self._kill(process, victim, rng):
                self.kills[victim] += 1
            if process.returncode == 0:
                break
            assert not output.exists() or not any(output.iterdir()), f'seed {seed}, {drawn}: half a corpus'
        if not output.exists():
            self._finish(output)
        assert contents(output) == self.expected, f'seed {seed}, after {drawn}: another corpus'
        shutil.rmtree(output)

    def _kill(self, process: subprocess.Popen, victim: str, rng: random.Random) -> bool:
        """Kills the victim; whether the build ended of it, of which nothing runs in the end."""
        if victim == 'worker':
            _wait(process, time.monotonic() + LONGEST, lambda: _children(process.pid))
        workers = _children(process.pid)
        ended = process.poll() is not None
        if victim == 'worker' and workers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(rng.choice(workers), signal.SIGKILL)
        elif victim == 'all' and not ended:
            os.killpg(process.pid, signal.SIGKILL)
        elif victim == 'launcher':
            process.kill()
        code = process.wait(LONGEST)
        if victim == 'worker' and code:
            told = self._log.read_text('utf-8').splitlines()[-1]
            assert code == 1 and re.match(r'error: a worker .* ended by signal 9', told), (code, told)
            left = [path for path in self._folder.iterdir() if '.partial-' in path.name]
            assert not left and not _group(process.pid), (left, _group(process.pid))
        elif code:
            _end_group(process.pid)
        return not ended and code != 0

    def _finish(self, output: Path) -> None:
        began = time.monotonic()
        process = build(self._materials, output, self._log)
        assert process.wait(LONGEST) == 0, f'{self._log}: ended with {process.returncode}'
        self._seconds = time.monotonic() - began


def _children(pid: int) -> list[int]:
    """The processes that a process has started, oldest first."""
    found = []
    for task in Path(f'/proc/{pid}/task').glob('*/children'):
        with contextlib.suppress(OSError):  # a thread that has just ended
            found += [int(number) for number in task.read_text().split()]
    return sorted(found)


def _group(group: int) -> list[int]:
    """The processes of a group that still run."""
    found = []
    for stat in Path('/proc').glob('[0-9]*/stat'):
        with contextlib.suppress(OSError):  # it has just ended
            state, _, its_group = stat.read_text().rpartition(')')[2].split()[:3]
            if int(its_group) == group and state != 'Z':
                found.append(int(stat.parent.name))
    return found


def _wait(process: subprocess.Popen, deadline: float, until: Callable[[], object] = lambda: False) -> None:
    while process.poll() is None and time.monotonic() < deadline and not until():
        time.sleep(0.01)


def _end_group(group: int) -> None:
    """What is left of a build whose launcher is gone would end by itself, but not now."""
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        pass
