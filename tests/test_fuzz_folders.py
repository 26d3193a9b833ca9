"""A slice of the fuzzing of folders, always the same inputs; `tests/fuzz/coverage.py` does it for long."""

import random
import time

import pytest
from fuzz import folders

INPUTS = 15  # of each target


@pytest.mark.slow
@pytest.mark.parametrize('name', folders.TARGETS)
def test_every_input_is_read_or_refused_in_one_line(name):
    whole = folders.SEEDS[name]()
    folders.TARGETS[name](whole)
    for number in range(INPUTS):
        began = time.perf_counter()
        folders.TARGETS[name](folders.mutate(whole, random.Random(number)))
        assert time.perf_counter() - began < 30, number  # a hang, not a slow machine


@pytest.mark.parametrize('name', [name for name in folders.TARGETS if name != 'run_config'])
def test_what_is_not_changed_is_read(name):
    """Otherwise the targets would refuse everything before it is looked at."""
    folders.SEEDS[name]()
    folders.read(folders.folder_of(name))


def test_what_is_not_refused_in_one_line_is_found(monkeypatch):
    for error in (KeyError('hidden_size'), ValueError('two\nlines')):

        def read(folder, error=error):
            raise error

        monkeypatch.setattr(folders, 'read', read)
        with pytest.raises((KeyError, AssertionError)):
            folders.TARGETS['config'](b'{}')
