"""Commands look for garbage seldom, from before their imports to their end."""

import subprocess
import sys
from pathlib import Path

import pytest

from input_pipeline.utils import garbage

ROOT = Path(__file__).parents[2]
CYCLE = """
import sys
class Thing:
    def __del__(self): sys.stdout.write('searched')
thing = Thing()
thing.itself = thing
"""


EVERY = """
import contextlib, gc, io, runpy, sys
by_default = gc.get_threshold()
for module in sys.argv[1:]:
    gc.set_threshold(*by_default)
    sys.argv = [module, '--help']
    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()) as shown:
        runpy.run_module(module, run_name='__main__', alter_sys=True)
    assert shown.getvalue()
    print(module, gc.get_threshold())
"""


def test_every_command_does():
    modules = [
        *('run', 'clower_jax.encode', 'clower_jax.convert', 'clower_jax.replay', 'clower_jax.checkpoints'),
        *('input_pipeline.build_vocab', 'input_pipeline.build_corpus'),
        *('input_pipeline.similar_words', 'input_pipeline.word_groups'),
    ]
    done = subprocess.run(
        [sys.executable, '-c', EVERY, *modules], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == [f'{module} {garbage.THRESHOLDS}' for module in modules]


@pytest.mark.parametrize(
    ('first', 'expected'),
    [('', 'searched'), ('from input_pipeline.utils import garbage; garbage.collect_seldom()', '')],
)
def test_the_end_of_a_command_looks_for_none(first, expected):
    done = subprocess.run(
        [sys.executable, '-c', first + CYCLE], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == expected
