"""Every objective declares what it measures: what is better when higher, what the console shows."""

import itertools

import jax
import pytest

from clower_jax.objectives import registry
from helpers import frozen

pytestmark = pytest.mark.slow  # batches of every objective
WITH_EVERY_PART = ('clower', 'classify', 'span', 'mirror', 'mlctl', 'auto_mlm')
PRETRAINING = (
    'clower',
    'macbert',
    'ambert',
    'lichee',
    'cmlm',
)  # the others have the objective of one of these
RATES = {'examples', 'tokens'}  # what rates are computed from


@pytest.fixture(scope='module')
def cases(tmp_path_factory):
    folder = tmp_path_factory.mktemp('cases')
    frozen.corpus(folder)
    return list(itertools.chain(frozen.pretraining(folder, PRETRAINING), frozen.finetuned(folder)))


@pytest.mark.slow
def test_the_sums_of_every_objective_are_declared(cases):
    for name, config, batches in cases:
        objective = registry.from_config(config)
        params = jax.eval_shape(objective.init, jax.random.key(0))
        _, sums = jax.eval_shape(objective.loss, params, batches[0], jax.random.key(1))
        measured, declared = {'loss', *sums} - RATES, set(objective.metrics)
        assert measured <= declared, name
        assert measured == declared or name not in WITH_EVERY_PART, name


def test_losses_are_better_when_lower(cases):
    for name, config, _ in cases:
        for metric, how in registry.from_config(config).metrics.items():
            assert how.higher_is_better != metric.startswith('loss'), (name, metric)
            assert how.shown == (metric == 'loss' or metric.startswith('acc')), (name, metric)
