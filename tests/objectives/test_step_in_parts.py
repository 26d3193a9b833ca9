"""Micro-batches and the loss over a large vocabulary: the same numbers as in one piece, in less memory."""

import os
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clower_jax.objectives.pretraining import Pretrain
from clower_jax.ops import losses
from clower_jax.ops.fused_cross_entropy import (
    linear_cross_entropy,
    softmax_sums,
    softmax_sums_in_one_pass,
    sum_by_product,
    sum_of_rows,
)
from clower_jax.parallel import sharding
from helpers import synthetic
from helpers.gradients import assert_close
from helpers.meshes import mesh_of

SMALL = {'model.num_layers': 1, 'model.dropout': 0.1, 'model.attention_dropout': 0.1}


@pytest.fixture(scope='module')
def batch():
    return next(synthetic.batches(synthetic.tiny_config(batch_size=16)))


@pytest.fixture(scope='module')
def params():
    return synthetic.random_params(Pretrain.from_config(synthetic.tiny_config(**SMALL)))


def step_of(mesh=None, **changes):
    task = Pretrain.from_config(synthetic.tiny_config(batch_size=16, **SMALL, **changes), mesh)
    return jax.jit(jax.value_and_grad(lambda p, b: task.loss(p, b, jax.random.key(3)), has_aux=True))


@pytest.fixture(scope='module')
def at_once(params, batch):
    return step_of()(params, batch)


@pytest.mark.slow
@pytest.mark.parametrize('microbatches', [2, 16])
def test_micro_batches_equal_the_whole_batch(params, batch, at_once, microbatches):
    assert_close(step_of(microbatches=microbatches)(params, batch), at_once)


@pytest.mark.devices
def test_programs_are_compiled_as_those_of_the_processes_that_tests_start():
    """Also where this folder, whose conftest.py imports JAX, is named on the command line."""
    for name in ('jax_compilation_cache_dir', 'jax_platforms'):
        assert jax.config.values[name] == os.environ.get(name.upper())
    in_a_hurry = os.environ['JAX_DISABLE_MOST_OPTIMIZATIONS'].lower() in ('true', '1')
    assert jax.config.values['jax_disable_most_optimizations'] == in_a_hurry


@pytest.mark.devices
@pytest.mark.slow
@pytest.mark.parametrize('shape', [(4, 1, 1), (2, 2, 2)])
def test_micro_batches_on_several_devices(params, batch, at_once, shape):
    mesh = mesh_of(*shape)
    placed = sharding.shard_batch(mesh, batch, 16)
    params = jax.device_put(params, sharding.tree_shardings(mesh, params))
    assert_close(step_of(mesh, microbatches=2)(params, placed), at_once)


@pytest.mark.slow
def test_micro_batches_take_the_memory_of_one(params):
    def bytes_of(microbatches):
        wide = {'data.char_length': 32, 'data.word_length': 32, 'model.intermediate_size': 1024}
        config = synthetic.tiny_config(batch_size=64, microbatches=microbatches, **wide)
        task = Pretrain.from_config(config)
        shapes = synthetic.initial_shapes(task)
        step = jax.jit(jax.grad(lambda p, b: task.loss(p, b, jax.random.key(0))[0]))
        return (
            step.lower(shapes, next(synthetic.batches(config))).compile().memory_analysis().temp_size_in_bytes
        )

    whole, parts = bytes_of(1), bytes_of(16)
    assert parts < whole / 5, (whole, parts)


def test_a_batch_that_does_not_divide_is_refused():
    with pytest.raises(ValueError, match='batch_size=8 does not divide into microbatches=3'):
        Pretrain.from_config(synthetic.tiny_config(microbatches=3))


def test_dropout_depends_on_the_row_and_the_place_only():
    from clower_jax.ops import dropout

    keys = dropout.row_seeds(jax.random.key(0), 64)
    mask = np.asarray(dropout.keep((64, 33, 47), 0.1, dropout.seeds_at(keys, 1)))
    np.testing.assert_array_equal(mask[5:9], dropout.keep((4, 33, 47), 0.1, dropout.seeds_at(keys[5:9], 1)))
    assert not np.array_equal(mask, dropout.keep((64, 33, 47), 0.1, dropout.seeds_at(keys, 2)))
    # The share, of all and of each row and column, within five standard deviations.
    for axis in (None, (1, 2), (0, 2), (0, 1)):
        share = 1 - mask.mean(axis)
        assert np.abs(share - 0.1).max() < 5 * np.sqrt(0.09 * np.size(share) / mask.size)
    # Neighbours in any direction, and the same element at another place, are independent.
    dropped = 1.0 - mask - 0.1
    others = [
        dropped[1:] * dropped[:-1],
        dropped[:, 1:] * dropped[:, :-1],
        dropped[..., 1:] * dropped[..., :-1],
    ]
    others.append(dropped * (0.9 - np.asarray(dropout.keep((64, 33, 47), 0.1, dropout.seeds_at(keys, 2)))))
    for product in others:
        assert abs(product.mean()) < 5 * 0.09 / np.sqrt(product.size)


@pytest.mark.slow
def test_dropout_keeps_the_mean_and_its_derivative_is_its_mask():
    from clower_jax.ops import dropout

    keys = dropout.row_seeds(jax.random.key(1), 8)
    x = jax.random.normal(jax.random.key(2), (8, 1000))
    out, back = jax.vjp(lambda x: dropout.dropout(x, 0.25, dropout.seeds_at(keys, 7)), x)
    kept = np.asarray(out) != 0
    np.testing.assert_allclose(np.asarray(out)[kept], np.asarray(x)[kept] / 0.75, rtol=1e-6)
    np.testing.assert_allclose(back(x)[0], out, rtol=1e-6)
    assert dropout.dropout(x, 0.25, None) is x


def table_case(rows=37, width=16, size=300, dtype=jnp.float32):
    draw = np.random.default_rng(0).normal
    labels = np.random.default_rng(1).integers(0, size, rows)
    labels[::5] = -100
    arrays = draw(size=(rows, width)), draw(size=(size, width)), draw(size=size)
    return jnp.asarray(arrays[0], dtype), *(jnp.asarray(x, jnp.float32) for x in arrays[1:]), labels


def plain(vectors, table, bias, labels):
    return losses.masked_cross_entropy(vectors @ table.T + bias, labels)


def value_and_gradients(function, vectors, table, bias, labels):
    def mean(*arrays):
        sums = function(*arrays, labels)
        return sums.loss / sums.count, sums

    return jax.jit(jax.value_and_grad(mean, argnums=(0, 1, 2), has_aux=True))(vectors, table, bias)


@pytest.mark.slow
@pytest.mark.parametrize('platform', ['cpu', 'tpu'])  # which would like the table to have 84 rows more
@pytest.mark.parametrize('block', [2**26, 5 * 384, 384])
def test_linear_cross_entropy_equals_the_plain_one(block, platform, monkeypatch):
    case = table_case()
    monkeypatch.setattr(sharding, 'mesh_platform', lambda mesh: platform)
    monkeypatch.setattr(sys.modules[linear_cross_entropy.__module__], 'ALIGNMENT', len(case[1]) + 84)
    blocked = lambda *arrays: linear_cross_entropy(*arrays, block=block)  # noqa: E731
    with jax.default_matmul_precision('highest'):
        assert_close(value_and_gradients(blocked, *case), value_and_gradients(plain, *case))
        assert_close(blocked(*case), plain(*case))  # where nothing is differentiated


@pytest.mark.devices
@pytest.mark.slow
@pytest.mark.parametrize('shape', [(8, 1, 1), (2, 2, 1), (2, 1, 2)])
def test_linear_cross_entropy_on_several_devices(shape):
    case = table_case(rows=40)
    mesh = mesh_of(*shape)
    spread = lambda *arrays: linear_cross_entropy(*arrays, mesh=mesh, block=2 * 384)  # noqa: E731
    assert_close(value_and_gradients(spread, *case), value_and_gradients(plain, *case))


def test_softmax_sums_in_one_pass_are_those_in_two():
    logits = np.float32(np.random.default_rng(0).normal(0, 30, (7, 50)))
    logits[2] += 1000
    logits[3, 20:] = -np.inf  # as the rows that are added to the table
    found, expected = softmax_sums_in_one_pass(logits), softmax_sums(logits)
    for part, other in zip(found, expected):
        np.testing.assert_allclose(part, other, rtol=1e-6)


def test_a_sum_by_a_product_is_the_sum():
    x = np.float32(np.random.default_rng(0).normal(0, 1, (7, 50)))
    np.testing.assert_allclose(sum_by_product(x), sum_of_rows(x), rtol=1e-5, atol=1e-6)


def test_linear_cross_entropy_keeps_one_block_of_logits():
    def bytes_of(block):
        vectors, table, bias, labels = table_case(rows=512, size=4096)
        mean = lambda *arrays: linear_cross_entropy(*arrays, labels, block=block).loss  # noqa: E731
        compiled = jax.jit(jax.grad(mean, argnums=(0, 1, 2))).lower(vectors, table, bias).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert bytes_of(32 * 4096) < bytes_of(2**26) / 4


@pytest.mark.slow
def test_a_prediction_is_right_where_no_other_is_better():
    vectors, table = jnp.ones((2, 1)), jnp.asarray([[1.0], [3.0], [2.0]])
    sums = linear_cross_entropy(vectors, table, jnp.zeros(3), jnp.asarray([1, 2]))
    assert (float(sums.correct), float(sums.count)) == (1, 2)
