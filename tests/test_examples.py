"""The scripts in examples/ run, and the notebooks beside them are the same, cell by cell."""

import os
import subprocess
import sys
from pathlib import Path

import jupytext
import pytest

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted((ROOT / 'examples').glob('*.py'))


@pytest.mark.parametrize('script', SCRIPTS, ids=lambda path: path.stem)
def test_a_notebook_is_its_script(script):
    """To write them anew: jupytext --to ipynb examples/*.py."""
    of_script, notebook = jupytext.read(script), jupytext.read(script.with_suffix('.ipynb'))
    assert [(cell.cell_type, cell.source) for cell in notebook.cells] == [
        (cell.cell_type, cell.source) for cell in of_script.cells
    ]


@pytest.mark.slow
@pytest.mark.parametrize('script', SCRIPTS, ids=lambda path: path.stem)
def test_an_example_runs(script, tmp_path):
    environment = os.environ | {
        'STEPS': '8', 'SEEDS': '2', 'WORKDIR': str(tmp_path / 'work'), 'PYTHONPATH': str(ROOT),
        'HF_HUB_OFFLINE': '1',
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, str(script)], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout + done.stderr
