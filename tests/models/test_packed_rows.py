"""Packed rows through the network and the losses: every text is what it would be in a row of its own."""

import jax
import numpy as np
import pytest

from clower_jax.models.clower import VIEWS
from clower_jax.objectives.pretraining import Pretrain
from helpers import synthetic
from helpers.gradients import assert_close
from input_pipeline.pretraining import batches

IGNORED = {'mlm_labels': -100}


@pytest.fixture(scope='module')
def packed_config(small_corpus, tmp_path_factory):
    changes = {'data.corpus': str(small_corpus), 'data.text': '', 'data.pack': True, 'data.max_texts': 5}
    changes |= {'data.char_length': 96, 'data.word_length': 0, 'data.max_anchors': 8}
    changes |= {'model.num_layers': 1}
    return batches.resolve(synthetic.tiny_config(**changes), tmp_path_factory.mktemp('packed'))


@pytest.fixture(scope='module')
def packed(packed_config):
    return next(batches.batches(packed_config))


def alone(batch: dict) -> tuple[dict, list[tuple[int, int]]]:
    """Each text of a packed batch in a row of its own; (row, number) of each."""
    where = [(b, s) for b, s in np.argwhere(batch['sop_labels'] >= 0)]
    rows: dict[str, np.ndarray] = {'sop_labels': np.array([batch['sop_labels'][b, s] for b, s in where])}
    starts = {}
    for view in VIEWS:
        inside = [np.flatnonzero(batch[f'{view}_texts'][b] == s + 1) for b, s in where]
        starts[view] = [int(places[0]) for places in inside]
        assert starts[view] == [batch[f'{view}_starts'][b, s] for b, s in where]
        length = max(map(len, inside))
        for name in ('ids', 'segments'):
            out = np.zeros((len(where), length), np.int32)
            for row, (places, (b, _)) in enumerate(zip(inside, where)):
                out[row, : len(places)] = batch[f'{view}_{name}'][b, places]
            rows[f'{view}_{name}'] = out
        positions, labels = batch[f'{view}_mlm_positions'], batch[f'{view}_mlm_labels']
        new = np.zeros((2, len(where), positions.shape[1]), np.int32)
        new[1] = -100
        for row, (places, (b, _)) in enumerate(zip(inside, where)):
            mine = np.isin(positions[b], places) & (labels[b] >= 0)
            new[0, row, : mine.sum()] = positions[b, mine] - places[0]
            new[1, row, : mine.sum()] = labels[b, mine]
        rows[f'{view}_mlm_positions'], rows[f'{view}_mlm_labels'] = new
    names = ('anchor_word_position', 'anchor_char_start', 'anchor_char_length', 'anchor_ids')
    for name in names:
        rows[name] = np.zeros((len(where), batch[name].shape[1]), np.int32)
    for row, (b, s) in enumerate(where):
        real = batch['anchor_char_length'][b] > 0
        mine = real & (batch['word_texts'][b, batch['anchor_word_position'][b]] == s + 1)
        for name in names:
            shift = {'anchor_word_position': starts['word'], 'anchor_char_start': starts['char']}.get(name)
            rows[name][row, : mine.sum()] = batch[name][b, mine] - (shift[row] if shift else 0)
    return rows, where


@pytest.fixture(scope='module')
def task_and_params(packed_config):
    task = Pretrain.from_config(packed_config)
    return task, synthetic.random_params(task)


@pytest.mark.slow
def test_rows_really_hold_several_texts(packed):
    assert (packed['sop_labels'] >= 0).sum(1).max() >= 3
    assert packed['char_ids'].shape[1] == 96


@pytest.mark.slow
@pytest.mark.parametrize('view', VIEWS)
def test_vectors_of_a_text_are_those_it_has_alone(packed, task_and_params, view):
    task, params = task_and_params
    rows, where = alone(packed)

    def hidden(batch):
        packing = {'segment_ids': batch.get(f'{view}_texts'), 'text_starts': batch.get(f'{view}_starts')}
        encode = jax.jit(
            lambda p, ids, segments: task.model.apply(
                {'params': p}, view, ids, segments, **packing, method='encode'
            )
        )
        return np.asarray(encode(params, batch[f'{view}_ids'], batch[f'{view}_segments']))

    together, apart = hidden(packed), hidden(rows)
    for row, (b, s) in enumerate(where):
        places = np.flatnonzero(packed[f'{view}_texts'][b] == s + 1)
        # [CLS] is the first of them.
        np.testing.assert_allclose(together[b, places], apart[row, : len(places)], atol=1e-5)


@pytest.mark.slow
def test_losses_and_gradients_are_those_of_texts_alone(packed, task_and_params):
    task, params = task_and_params
    rows, where = alone(packed)
    step = jax.jit(jax.value_and_grad(lambda p, b: task.loss(p, b, None), has_aux=True))
    (loss, sums), gradient = step(params, packed)
    (expected_loss, expected), expected_gradient = step(params, rows)
    assert int(sums['examples'][0]) == len(where)  # the contrast sees each text
    assert int(sums['acc_scl'][1]) == len(where)
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-5)
    for name, (total, count) in expected.items():
        np.testing.assert_allclose(sums[name], (total, count), rtol=1e-5, err_msg=name)
    assert_close(gradient, expected_gradient)


@pytest.mark.slow
def test_micro_batches_of_packed_rows(packed, packed_config, task_and_params):
    _, params = task_and_params
    found = []
    for parts in (1, 4):
        packed_config.microbatches = parts
        task = Pretrain.from_config(packed_config)
        gradient = jax.grad(lambda p, task=task: task.loss(p, packed, jax.random.key(0))[0])
        found.append(jax.jit(gradient)(params))
    packed_config.microbatches = 1
    for one, other in zip(*map(jax.tree.leaves, found), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
