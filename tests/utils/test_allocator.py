"""Commands that train on a CPU keep the memory that a step frees."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PLUGINS = ('jax_plugins', 'libtpu')
# MiB that the process still has of an array of 64 MiB when nobody does.
KEPT = """
import resource
import numpy as np
def resident():
    with open('/proc/self/statm') as file:
        return int(file.read().split()[1]) * resource.getpagesize() >> 20
before = resident()
array = np.ones(64 << 20, np.uint8)
del array
print(resident() - before)
"""
KEEP = 'from clower_jax.utils import allocator; allocator.keep_freed_memory()\n'
# run.py up to where it tells of its flags, and then the same.
RUN = """
import contextlib, io, runpy, sys
sys.argv = ['run', '--help']
with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):
    runpy.run_module('run', run_name='__main__', alter_sys=True)
"""


def kept(program: str, **settings: str) -> int:
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(('MALLOC_', 'GLIBC_', 'JAX_PLATFORMS'))
    }
    done = subprocess.run(
        [sys.executable, '-c', program + KEPT], cwd=ROOT, env=environment | settings,
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return int(done.stdout)


pytestmark = pytest.mark.skipif(
    sys.platform != 'linux' or 'glibc' not in os.confstr('CS_GNU_LIBC_VERSION'), reason='not glibc'
)


@pytest.mark.parametrize('program', [KEEP, RUN])
def test_what_is_freed_is_kept(program):
    assert kept(program, JAX_PLATFORMS='cpu') > 60


@pytest.mark.parametrize(
    ('first', 'settings'),
    [
        ('', {'JAX_PLATFORMS': 'cpu'}),
        (KEEP, {'JAX_PLATFORMS': 'cuda'}),
        (KEEP, {'JAX_PLATFORMS': 'cuda,cpu'}),
        (KEEP, {'JAX_PLATFORMS': 'cpu', 'MALLOC_ARENA_MAX': '2'}),
        (KEEP, {'JAX_PLATFORMS': 'cpu', 'GLIBC_TUNABLES': 'glibc.malloc.arena_max=2'}),
    ],
)
def test_or_given_back(first, settings):
    assert kept(first, **settings) < 4


@pytest.mark.skipif(
    any(map(importlib.util.find_spec, PLUGINS)), reason='an accelerator is installed for JAX here'
)
@pytest.mark.parametrize('plugin', PLUGINS)
def test_an_accelerator_is_told_by_its_plugin(plugin, tmp_path):
    assert kept(KEEP, PYTHONPATH=str(tmp_path)) > 60
    (tmp_path / plugin).mkdir()
    assert kept(KEEP, PYTHONPATH=str(tmp_path)) < 4
