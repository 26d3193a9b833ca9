"""A run that saves every ten steps for as long as one likes: what it holds must not grow."""

import json
import os
import signal
import statistics
import time
from pathlib import Path

import starts

EVERY = 10  # steps from save to save
# What the last tenth may be of the second: memory and time vary a little. Memory is what the process itself
# holds, for how much of the files that it maps is resident is the system's to decide; time is the
# processors'. Other work on the machine hardly changes either.
LIMITS = {'anonymous_mb': 1.05, 'descriptors': 1.0, 'threads': 1.0, 'cpu_seconds_per_step': 1.2}
# Of a tenth's looks. A save on its way holds 30 descriptors and some threads, and what is left of one after
# another is what is held between them.
SUMMARY = {'descriptors': min, 'threads': min}


def measure(
    context, arguments: list[str], workdir: Path, log: Path, seconds: float, every: float
) -> list[dict]:
    """Runs run.py for so long and looks at it every so many seconds; then asks it to leave. What it sees is
    also in looks.jsonl beside the workdir, for runs that end by themselves.

    Returns a line for each look: seconds since the start, step, MB of resident memory and, of these, of what
    is no file's, open descriptors, threads, processor seconds, and these and seconds per step since the look
    before. Raises AssertionError where it ends by itself.
    """
    process = starts.start(context, arguments, log)
    pid, began = process.pid, time.monotonic()
    lines: list[dict] = []
    while time.monotonic() - began < seconds:
        process.join(every)
        assert process.exitcode is None, f'{log}: ended with {process.exitcode}'
        step, now = _step(workdir / 'metrics.jsonl'), time.monotonic() - began
        if step:
            lines.append({'seconds': round(now, 1), 'step': step} | _held(pid))
            if len(lines) > 1 and step > lines[-2]['step']:
                for name in ('seconds', 'cpu_seconds'):
                    passed = lines[-1][name] - lines[-2][name]
                    lines[-1][f'{name}_per_step'] = round(passed / (step - lines[-2]['step']), 5)
            with (workdir.parent / 'looks.jsonl').open('a') as file:
                file.write(json.dumps(lines[-1]) + '\n')
    os.kill(pid, signal.SIGTERM)
    process.join(120)
    assert process.exitcode == 143, f'{log}: ended with {process.exitcode}'
    return lines


def growth(lines: list[dict]) -> dict[str, float]:
    """For each of what is looked at, the median (descriptors and threads: the lowest) of the last tenth over
    that of the second tenth; the first, in which programs compile and buffers fill, does not count."""
    tenth = max(1, len(lines) // 10)
    found = {}
    for name in LIMITS:
        then, now = ([line[name] for line in part if name in line] for part in (
            lines[tenth : 2 * tenth], lines[-tenth:]
        ))  # fmt: skip
        if then and now:
            summary = SUMMARY.get(name, statistics.median)
            found[name] = round(summary(now) / summary(then), 3)
    return found


def what_grew(lines: list[dict]) -> list[str]:
    """What is above its limit, in words; [] where all stayed as it was."""
    return [
        f'{name}: {ratio} times what it was' for name, ratio in growth(lines).items() if ratio > LIMITS[name]
    ]


def _held(pid: int | None) -> dict:
    status = Path(f'/proc/{pid}/status').read_text()
    values = dict(line.split(':', 1) for line in status.splitlines())
    user, system = Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[11:13]
    return {
        'cpu_seconds': (int(user) + int(system)) / os.sysconf('SC_CLK_TCK'),
        'rss_mb': int(values['VmRSS'].split()[0]) >> 10,
        'anonymous_mb': int(values['RssAnon'].split()[0]) >> 10,
        'descriptors': len(os.listdir(f'/proc/{pid}/fd')),
        'threads': int(values['Threads']),
    }


def _step(path: Path) -> int:
    """Of the last whole line of metrics.jsonl; 0 where there is none."""
    if not path.exists():
        return 0
    with path.open('rb') as file:
        file.seek(max(0, path.stat().st_size - 4096))
        lines = file.read().split(b'\n')
    return json.loads(lines[-2])['step'] if len(lines) > 1 else 0
