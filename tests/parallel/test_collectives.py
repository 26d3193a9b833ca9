"""What devices say to each other in a training step, read from the compiled program of eight."""

import jax
import numpy as np
import pytest

from clower_jax.checkpoints.train_state import TrainState, abstract_state
from clower_jax.objectives.pretraining import Pretrain
from clower_jax.parallel import sharding
from clower_jax.parallel.collectives import collectives
from clower_jax.training import optim
from clower_jax.training.train_step import make_train_step
from helpers import synthetic
from helpers.meshes import mesh_of

pytestmark = pytest.mark.devices

WIDTH = 32
ROWS, ANCHORS = 16, 16 * 4


def program(**changes):
    """(collectives of the step, elements of the parameters) on eight devices."""
    small = {'model.num_layers': 1, 'model.dropout': 0.1, 'model.attention_dropout': 0.1}
    config = synthetic.tiny_config(batch_size=ROWS, **small, **changes)
    mesh = mesh_of(8, 1, 1)
    task, optimizer = Pretrain.from_config(config, mesh), optim.optimizer(config)
    create = lambda: TrainState.create(task.init(jax.random.key(0)), optimizer, 'float32')  # noqa: E731
    state = abstract_state(mesh, create)
    batch = sharding.shard_batch(mesh, next(synthetic.batches(config)), ROWS)
    step = make_train_step(task, optimizer, optim.learning_rate(config))
    found = collectives(step.lower(state, batch, jax.random.key(0)).compile().as_text())
    return found, sum(leaf.size for leaf in jax.tree.leaves(state.params))


@pytest.fixture(scope='module')
def data_parallel():
    return program()


def assert_gradient_is_reduced_once(found, parameters):
    assert not [one.name for one in found if 'while' in one.name]
    reduced = [one for one in found if one.operation == 'all-reduce']
    assert [one.bytes // (4 * parameters) for one in reduced if one.bytes >= 4 * parameters] == [1]
    # Beside it, sums of losses and counts, and a maximum and a few sums for each contrasted item.
    rest = sum(one.bytes for one in reduced) - 4 * parameters
    assert rest <= 4 * (4 * (ROWS + ANCHORS) + 200)


@pytest.mark.slow
def test_only_gathers_and_reductions(data_parallel):
    assert {operation for operation, *_ in data_parallel[0]} == {'all-gather', 'all-reduce'}


@pytest.mark.slow
def test_each_side_of_each_contrast_is_gathered_once(data_parallel):
    arrays = [
        array for operation, arrays, _ in data_parallel[0] if operation == 'all-gather' for array in arrays
    ]
    gathered = [shape for _, shape in arrays]
    wide = [shape for shape in gathered if shape[-1] == WIDTH]
    assert sorted(wide) == sorted([(ROWS, WIDTH), (ANCHORS, WIDTH)] * 2)
    # The rest are numbers of items: which are real and their ids, and the log-sum-exps for the derivative.
    rest = [int(np.prod(shape)) for shape in gathered if shape[-1] != WIDTH]
    assert sorted(rest) == sorted([2 * ROWS, 2 * ANCHORS] * 2)


@pytest.mark.slow
def test_the_gradient_is_reduced_once(data_parallel):
    assert_gradient_is_reduced_once(*data_parallel)


@pytest.mark.slow
def test_the_gradient_of_all_micro_batches_is_reduced_once():
    assert_gradient_is_reduced_once(*program(microbatches=2))


@pytest.mark.slow
def test_the_contrast_is_not_gathered_where_it_is_local():
    found, *_ = program(**{'loss.contrast_scope': 'local'})
    assert 'all-gather' not in {one.operation for one in found}
