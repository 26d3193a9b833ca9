"""Batches, losses and steps are what they were: a change that is not meant to change them does not."""

import json

import numpy as np
import pytest

from helpers import frozen

EXPECTED = json.loads(frozen.FILE.read_text('utf-8'))

pytestmark = pytest.mark.slow


@pytest.fixture(scope='module')
def values(tmp_path_factory):
    return frozen.values(tmp_path_factory.mktemp('frozen'))


def test_every_kind_is_frozen(values):
    assert values.keys() == EXPECTED.keys() and set(frozen.STEPPED) <= values.keys()


@pytest.mark.parametrize('name', sorted(set(EXPECTED) - {'workdir'}))
def test_batches_are_the_same(name, values):
    assert values[name]['batches'] == EXPECTED[name]['batches']


@pytest.mark.parametrize('name', frozen.STEPPED)
def test_losses_and_gradients_are_the_same(name, values):
    found, expected = values[name]['metrics'], EXPECTED[name]['metrics']
    assert found.keys() == expected.keys()
    for metric, numbers in expected.items():
        np.testing.assert_allclose(found[metric], numbers, rtol=1e-5, atol=1e-5, err_msg=metric)


def test_a_workdir_of_before_goes_on_encodes_and_is_exported(values):
    found, expected = values['workdir'], EXPECTED['workdir']
    assert found['step'] == 3 and found['export'] == expected['export']
    np.testing.assert_allclose(found['vectors'], expected['vectors'], rtol=1e-5, atol=1e-5)
    assert found['metrics'].keys() == expected['metrics'].keys()
    for metric, numbers in expected['metrics'].items():
        np.testing.assert_allclose(found['metrics'][metric], numbers, rtol=1e-5, err_msg=metric)
