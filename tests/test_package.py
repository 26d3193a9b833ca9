"""What is installed: both packages whole, typed, with a command for each of their commands."""

import importlib
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / 'pyproject.toml').read_text('utf-8'))
PACKAGES = ('clower_jax', 'input_pipeline')
SCRIPTS = PROJECT['project']['scripts']


@pytest.mark.parametrize('package', PACKAGES)
def test_every_folder_of_modules_is_a_package(package):
    """A folder without __init__.py would be left out of the wheel."""
    folders = {path.parent for path in (ROOT / package).rglob('*.py')}
    assert folders and all((folder / '__init__.py').is_file() for folder in folders)
    assert (ROOT / package / 'py.typed').is_file()


@pytest.mark.parametrize('package', PACKAGES)
def test_every_file_that_is_no_module_is_installed(package):
    data = PROJECT['tool']['setuptools']['package-data']
    installed = {
        path
        for name, patterns in data.items()
        for pattern in patterns
        for path in (ROOT / name.replace('.', '/')).glob(pattern)
    }
    others = {path for path in (ROOT / package).rglob('*') if path.is_file() and path.suffix[:3] != '.py'}
    assert others <= installed


@pytest.mark.parametrize('script', SCRIPTS)
def test_a_script_leads_to_its_command(script):
    module, _, function = SCRIPTS[script].partition(':')
    assert callable(getattr(importlib.import_module(module), function))
    command = script.removeprefix('clower-').replace('-', '_')
    assert any((ROOT / package / f'{command}.py').is_file() for package in PACKAGES)
