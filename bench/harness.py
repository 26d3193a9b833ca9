"""Timing contenders against each other: separate processes, a new random order each round, ratios of medians.

A contender is a command whose last line on stdout is a JSON object with `seconds`, a list of timings of the
same unit of work (its own warm-up left out), and whatever else is to be reported. One at a time: processes
that wait beside each other, or a fixed order, favour one of them.
"""

import ast
import json
import platform
import random
import statistics
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from ml_collections import ConfigDict
from tqdm import tqdm

Launches = dict[str, list[dict]]


def names(text: str) -> tuple[str, ...]:
    """The value of a flag, 'a,b' → ('a', 'b')."""
    return tuple(text.split(','))


def integers(text: str) -> tuple[int, ...]:
    """The value of a flag, '1,2' → (1, 2); ValueError for anything else, which argparse tells of."""
    return tuple(map(int, text.split(',')))


def set_keys(config: ConfigDict, changes: Iterable[str]) -> None:
    """Sets keys of a config as a flag names them: each change is key=value, the value Python's, or else a
    string. Raises ValueError for a key that the config lacks."""
    for change in changes:
        key, _, text = change.partition('=')
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            value = text
        section, _, name = key.rpartition('.')
        part = config.get(section, {}) if section else config
        if name not in part:
            raise ValueError(f'{change}: there is no config key {key!r}')
        part[name] = value


def alternate(contenders: Mapping[str, Sequence[str]], rounds: int, seed: int = 0, env=None) -> Launches:
    """Runs every contender once a round; returns what each launch printed, which stderr has at once.

    Args:
      contenders: name → command line.
      rounds: launches of each.
      env: the environment of the processes; None: this one's.

    Raises:
      RuntimeError: a contender failed; its last lines are in the message.
    """
    order = random.Random(seed)
    launches: Launches = {name: [] for name in contenders}
    with tqdm(total=rounds * len(contenders), unit='launch', file=sys.stderr) as bar:
        for _ in range(rounds):
            for name in order.sample(list(contenders), len(contenders)):
                bar.set_postfix_str(name)
                launches[name].append(launch(name, contenders[name], env))
                bar.write(f'{name}: {json.dumps(launches[name][-1])}', file=sys.stderr)
                bar.update()
    return launches


def launch(name: str, command: Sequence[str], env=None) -> dict:
    """One process's last line. Raises RuntimeError where it failed or printed none."""
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        told = '\n'.join((done.stderr or done.stdout).strip().splitlines()[-15:])
        raise RuntimeError(f'{name} ended with {done.returncode}: {" ".join(command)}\n{told}')
    return json.loads(lines[-1])


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """(first quartile, median, third quartile); of one value, that value three times."""
    if len(values) < 2:
        return (values[0],) * 3
    return tuple(statistics.quantiles(values, n=4, method='inclusive'))  # type: ignore[return-value]


def speedups(launches: Launches, reference: str) -> dict[str, tuple[float, float, float]]:
    """How many times as fast as `reference` each contender is: quartiles over the rounds, each round's ratio
    being that of the two medians in it."""
    medians = {name: [statistics.median(one['seconds']) for one in runs] for name, runs in launches.items()}
    return {
        name: quartiles([slow / fast for slow, fast in zip(medians[reference], own, strict=True)])
        for name, own in medians.items()
    }


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A markdown table."""
    lines = [header, ['---'] * len(header), *rows]
    return '\n'.join('| ' + ' | '.join(line) + ' |' for line in lines)


def span(values: tuple[float, float, float]) -> str:
    """Quartiles as 'median (first–third)'."""
    low, middle, high = values
    return f'{middle:.2f} ({low:.2f}–{high:.2f})'


def save(path: str | Path | None, **figures) -> None:
    """Writes the figures and the machine they are of as JSON; nothing where there is no path."""
    if path:
        about = {'machine': platform.machine(), 'python': platform.python_version(), 'command': sys.argv}
        Path(path).write_text(json.dumps(about | figures, indent=1) + '\n', encoding='utf-8')
