"""Every objective in micro-batches: the loss, the sums and the gradient are those of the whole batch."""

import copy

import jax
import numpy as np
import pytest

from clower_jax.objectives import registry
from clower_jax.parallel import sharding
from configs import choose, supervised_vectors
from helpers import finetuned, frozen, synthetic
from helpers.meshes import mesh_of
from input_pipeline.finetuning import data as finetuning_data
from input_pipeline.text.vocabulary import Vocabulary

# Those of fine-tuning; pre-training's are in test_step_in_parts.py, test_cmlm.py and test_systems.py.
NAMES = ('classify', 'classify_ambert', 'span', 'mirror', 'consert', 'mlctl', 'auto_mlm')


@pytest.fixture(scope='module')
def cases(tmp_path_factory):
    """Name → (config, batch), of 8 rows."""
    folder = tmp_path_factory.mktemp('cases')
    frozen.corpus(folder)
    out = {name: (config, batches[0]) for name, config, batches in frozen.finetuned(folder)}
    config = supervised_vectors.get_config()
    texts = (folder / 'strings.txt').read_text('utf-8').split('\n')
    rows = [f'{a}\t{b}\t{c}\n' for a, b, c in zip(texts, texts[8:], texts[16:24])]
    (folder / 'triplets.tsv').write_text(''.join(rows), encoding='utf-8')
    config.update_from_flattened_dict(
        frozen.MODEL | frozen.RUN | {'data.train': str(folder / 'triplets.tsv'), 'data.max_length': 32}
    )
    tokens = list(dict.fromkeys([*finetuned.SPECIAL, *''.join(texts)]))
    vocabulary = Vocabulary(tokens, len(tokens))
    config, data = finetuning_data.prepare(config, vocabulary)
    return out | {'supervised_vectors': (config, next(data.batches(config))), 'choose': choice()}


def choice():
    """(config, batch) of multiple choice with R-Drop: some questions have two choices, one has no answer."""
    config = choose.get_config()
    changes = {'model.kind': 'bert', 'model.vocab_size': 40, 'model.base_vocab_size': 40, 'loss.r_drop': 1.0}
    config.update_from_flattened_dict(frozen.MODEL | frozen.RUN | changes)
    ids = np.random.default_rng(0).integers(5, 40, (8, 3, 12)).astype(np.int32)
    ids[::2, 2], ids[1:, :, 9:] = 0, 0
    segments = ((np.arange(12) > 5) & (ids > 0)).astype(np.int32)
    labels = np.array([0, 2, 1, -1, 0, 1, 1, 2], np.int32)
    return config, {'char_ids': ids, 'char_segments': segments, 'labels': labels}


def step(config, batch, microbatches, mesh=None, spread=0.3):
    """(loss, sums), gradient by random parameters, with dropout. With smaller ones all texts have nearly the
    same vector, and the gradient of a contrast is a difference that is mostly rounding."""
    config = copy.deepcopy(config)
    config.microbatches = microbatches
    task = registry.from_config(config, mesh)
    params = synthetic.random_params(task, spread)
    if mesh:
        batch = sharding.shard_batch(mesh, batch, 8)
        params = jax.device_put(params, sharding.tree_shardings(mesh, params))
    return jax.jit(jax.value_and_grad(task.loss, has_aux=True))(params, batch, jax.random.key(3))


def assert_equal_steps(one, other):
    """To rounding: of the gradient's length, and of each array's largest entry, where it is no mere noise."""
    (loss, sums), gradient = one
    (other_loss, other_sums), other_gradient = other
    np.testing.assert_allclose(loss, other_loss, rtol=1e-5)
    assert sums.keys() == other_sums.keys()
    for name in sums:
        np.testing.assert_allclose(sums[name], other_sums[name], rtol=1e-5, err_msg=name)
    pairs = [
        (np.float64(x), np.float64(y))
        for x, y in zip(jax.tree.leaves(gradient), jax.tree.leaves(other_gradient), strict=True)
    ]
    length, difference = (np.sqrt(sum((x**2).sum() for x in side)) for side in (
        [x for x, _ in pairs], [x - y for x, y in pairs]
    ))  # fmt: skip
    assert 0 < length and difference < 1e-5 * length
    for x, y in pairs:
        np.testing.assert_allclose(x, y, rtol=0, atol=1e-4 * max(np.abs(x).max(), 1e-3 * length))


@pytest.mark.slow
@pytest.mark.parametrize('name', [*NAMES, 'supervised_vectors', 'choose'])
def test_the_gradient_is_that_of_the_whole_batch(cases, name):
    config, batch = cases[name]
    one, other = step(config, batch, 1), step(config, batch, 4)
    if name == 'choose':  # to add the same to all choices changes nothing
        for _, gradient in (one, other):
            assert np.abs(gradient['chooser'].pop('bias')) < 1e-6
    assert_equal_steps(one, other)


@pytest.mark.devices
@pytest.mark.slow
def test_the_gradient_is_that_of_the_whole_batch_where_data_and_tensors_are_split(cases):
    """With weights and a temperature for which texts differ: where all are alike, what is left of the
    contrast's gradient depends on the order of sums, on one device as well."""
    config, batch = cases['supervised_vectors']
    config = copy.deepcopy(config)
    config.loss.temperature = 1.0
    whole = step(config, batch, 1, spread=0.6)
    assert_equal_steps(whole, step(config, batch, 2, mesh_of(2, 1, 2), spread=0.6))


@pytest.mark.slow
def test_a_batch_that_does_not_divide_is_refused(cases):
    for name in (*NAMES, 'supervised_vectors'):
        with pytest.raises(ValueError, match='batch_size=8 does not divide into microbatches=3 on 1 device'):
            step(*cases[name], 3)
