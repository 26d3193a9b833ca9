"""What a run runs in: its command, its versions, its machine."""

import functools
import importlib.metadata
import os
import platform
import shlex
import subprocess
import sys
from pathlib import Path

import jax

# What has a say in a run's numbers.
PACKAGES = (
    *(
        'clower-jax',
        'jax',
        'jaxlib',
        'flax',
        'optax',
        'orbax-checkpoint',
        'numpy',
        'tensorflow-cpu',
        'tensorflow',
    ),
    *('tensorflow-datasets', 'array-record', 'tokenizers', 'jieba', 'rjieba'),
)


def command() -> str:
    """The command line of this process, as a shell takes it; '' where it is none of run.py's."""
    name = Path(sys.argv[0]).name
    return shlex.join(['python', name, *sys.argv[1:]]) if name == 'run.py' else ''


@functools.cache
def rows() -> list[tuple[str, str]]:
    """(what, which) of this process; of packages those that are installed."""
    devices = jax.devices()
    table = [
        ('devices', f'{len(devices)} × {devices[0].device_kind} ({devices[0].platform})'),
        ('processes', str(jax.process_count())),
        ('CPU cores', str(os.cpu_count())),
        ('system', f'{platform.system()} {platform.machine()}'),
        ('Python', platform.python_version()),
    ]
    for package in PACKAGES:
        try:
            table.append((package, importlib.metadata.version(package)))
        except importlib.metadata.PackageNotFoundError:
            continue
    table += [('commit', commit)] if (commit := _commit()) else []
    table += [(name, os.environ[name]) for name in ('XLA_FLAGS', 'JAX_PLATFORMS') if name in os.environ]
    return table


def _commit() -> str:
    """Of the clone that the package is run from; '' where it is none, or there is no git."""
    root = Path(__file__).parents[2]
    if not (root / '.git').exists():
        return ''
    describe = ['git', '-C', str(root), 'describe', '--always', '--dirty', '--abbrev=12']
    try:
        done = subprocess.run(describe, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return ''
    return done.stdout.strip() if done.returncode == 0 else ''
