"""What is pasted to run on a cluster has the form that its own tools want, and names what there is."""

import importlib.metadata
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from clower_jax.utils import config_keys

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / 'docs' / 'scaling'
FILES = [*(path for path in sorted(FOLDER.iterdir()) if path.suffix != '.md'), ROOT / 'Dockerfile']
CHECKERS = {
    'slurm.sbatch': 'shellcheck',
    'tpu_vm.sh': 'shellcheck',
    'kubernetes.yaml': 'kubernetes-validate',
    'Dockerfile': 'hadolint',
}


def tool(name: str) -> str:
    return shutil.which(name, path=str(Path(sys.executable).parent)) or name


@pytest.mark.parametrize('path', FILES, ids=lambda path: path.name)
def test_its_own_tool_has_nothing_to_say(path):
    done = subprocess.run([tool(CHECKERS[path.name]), str(path)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize('path', FILES, ids=lambda path: path.name)
def test_it_names_flags_keys_and_files_that_there_are(path):
    text = path.read_text('utf-8')
    run = (ROOT / 'run.py').read_text('utf-8')
    for key in re.findall(r'--config\.([\w.]+)=', text):
        assert key in config_keys.KEYS, key
    for command in re.findall(r'run\.py((?:.|\\\n)*?)(?:\n\n|"\n|$)', text):
        for flag in re.findall(r'--(\w+)', command):
            assert flag == 'config' or f"'{flag}'" in run, flag
    for file in re.findall(r'(?:configs|docs)/[\w/]+\.\w+', text):
        assert (ROOT / file).is_file(), file


def test_the_image_holds_what_runs():
    """COPY takes only what .dockerignore lets through, and the extras exist."""
    text = (ROOT / 'Dockerfile').read_text('utf-8')
    copied = {
        name.removeprefix('./')
        for line in re.findall(r'^COPY (.*) \S+$', text, re.M)
        for name in line.split()
    }
    ignore = (ROOT / '.dockerignore').read_text('utf-8').splitlines()
    assert copied == {line[1:] for line in ignore if line.startswith('!')}
    assert all((ROOT / name).exists() for name in copied)
    extras = set(importlib.metadata.metadata('clower-jax').get_all('Provides-Extra'))
    for listed in re.findall(r'EXTRAS=([\w,]+)', text):
        assert set(listed.split(',')) <= extras
