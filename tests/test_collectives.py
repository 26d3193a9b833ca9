"""What devices say to each other in a training step, read from the compiled program of eight."""

import re

import jax
import numpy as np
import pytest
import synthetic

from clower_jax import optim, sharding
from clower_jax.pretraining import Pretrain
from clower_jax.train_state import TrainState, abstract_state
from clower_jax.train_step import make_train_step

OPERATIONS = 'all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute|collective-broadcast'
BYTES = {'f32': 4, 's32': 4, 'u32': 4, 'pred': 1}
WIDTH = 32
ROWS, ANCHORS = 16, 16 * 4


def compiled_step(**changes):
    """(HLO of the step as text, elements of the parameters, of the token table)."""
    dropout = {'model.dropout': 0.1, 'model.attention_dropout': 0.1}
    config = synthetic.tiny_config(batch_size=ROWS, **dropout, **changes)
    mesh = sharding.make_mesh(config)
    task, optimizer = Pretrain.from_config(config, mesh), optim.optimizer(config)
    state = abstract_state(
        mesh, lambda: TrainState.create(task.init(jax.random.key(0)), optimizer, config.dtype)
    )
    batch = sharding.place(mesh, next(synthetic.batches(config)), ROWS)
    step = make_train_step(task, optimizer, optim.learning_rate(config))
    text = step.lower(state, batch, jax.random.key(0)).compile().as_text()
    sizes = jax.tree.map(lambda x: x.size, state.params)
    return text, sum(jax.tree.leaves(sizes)), sizes['embeddings']['word_embeddings']['embedding']


def collectives(text: str) -> list[tuple[str, list[tuple[str, tuple[int, ...]]], str]]:
    """(operation, its results' types and shapes, where in the model it comes from)."""
    found = []
    for line in text.splitlines():
        match = re.search(rf'= (.*?) ({OPERATIONS})(-start)?\(', line)
        if match:
            arrays = [
                (kind, tuple(int(n) for n in shape.split(',') if n))
                for kind, shape in re.findall(r'(\w+)\[([\d,]*)\]', re.sub(r'/\*.*?\*/', '', match[1]))
            ]
            name = re.search(r'op_name="([^"]*)"', line)
            found.append((match[2], arrays, name[1] if name else ''))
    return found


@pytest.fixture(scope='module')
def data_parallel():
    text, *sizes = compiled_step(**{'mesh.data': 8})
    return collectives(text), *sizes


def test_only_gathers_and_reductions(data_parallel):
    assert {operation for operation, *_ in data_parallel[0]} == {'all-gather', 'all-reduce'}


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


def test_nothing_per_layer_but_its_gradient(data_parallel):
    for operation, _, name in data_parallel[0]:
        if 'encoder.layer' in name:
            assert operation == 'all-reduce' and 'transpose(jvp' in name, name


def test_bytes_reduced_are_those_of_the_gradient(data_parallel):
    found, parameters, table = data_parallel
    arrays = [array for operation, arrays, _ in found if operation == 'all-reduce' for array in arrays]
    total = sum(BYTES[kind] * int(np.prod(shape)) for kind, shape in arrays)
    # The table's gradient comes in four parts, both views' embeddings and decoders, each reduced on its own.
    gradient = 4 * (parameters + 3 * table)
    # The position and segment tables' come in two, of 24 and 16 positions out of 32, and of 2 segments.
    # Beside it, sums of losses and counts, and a maximum and a few sums for each contrasted item.
    gradient += 4 * WIDTH * (24 + 16 - 32 + 2)
    assert gradient <= total <= gradient + 4 * (4 * (ROWS + ANCHORS) + 200)


def test_the_contrast_is_not_gathered_where_it_is_local():
    text, *_ = compiled_step(**{'mesh.data': 8, 'loss.contrast_scope': 'local'})
    assert not [operation for operation, *_ in collectives(text) if operation == 'all-gather']
