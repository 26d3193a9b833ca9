"""Attention against the textbook's formula and the library's; packed rows against their texts one by one."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clower_jax.models import bert
from clower_jax.models.clower import make_attention_mask, token_mask
from clower_jax.models.finetuned import pool_tokens
from clower_jax.objectives import pretraining
from clower_jax.ops import attention as attention_module
from clower_jax.ops import dropout, flash_attention
from clower_jax.ops.attention import attention, library_attention
from clower_jax.parallel import sharding
from configs import pretrain
from helpers import synthetic

B, N, L, H = 3, 2, 10, 4
LENGTHS = (10, 7, 4)


def arrays(dtype=jnp.float32):
    draw = np.random.default_rng(0).normal
    return [jnp.asarray(draw(size=(B, N, L, H)), dtype) for _ in range(4)]


def padding():
    return (jnp.arange(L) < jnp.asarray(LENGTHS)[:, None])[:, None]


def two_texts():
    texts = (jnp.arange(L) >= 4) + 1
    return jnp.broadcast_to(texts[:, None] == texts, (B, L, L))


def textbook(query, key, value, attention_mask, kept=1.0):
    scores = query @ jnp.swapaxes(key, -1, -2) / H**0.5
    scores = jnp.where(attention_mask[:, None], scores, -1e30)
    exponentials = jnp.exp(scores - scores.max(-1, keepdims=True))
    return (exponentials / exponentials.sum(-1, keepdims=True) * kept) @ value


@pytest.mark.slow
@pytest.mark.parametrize('attention_mask', [padding, two_texts])
@pytest.mark.parametrize('rate', [0.0, 0.3])
def test_value_and_derivative_are_the_textbooks(attention_mask, rate):
    *inputs, cotangent = arrays()
    keys = dropout.row_seeds(jax.random.key(0), B)
    kept = jnp.where(dropout.keep((B, N, L, L), rate, dropout.seeds_at(keys, 5)), 1 / (1 - rate), 0.0)
    own = jax.vjp(lambda *x: attention(*x, attention_mask(), rate, dropout.seeds_at(keys, 5)), *inputs)
    expected = jax.vjp(lambda *x: textbook(*x, attention_mask(), kept), *inputs)
    np.testing.assert_allclose(own[0], expected[0], atol=1e-5)
    for ours, theirs in zip(own[1](cotangent), expected[1](cotangent), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize('attention_mask', [padding, two_texts])
def test_the_library_is_given_the_same(attention_mask):
    *inputs, _ = arrays()
    seen = (
        (jnp.arange(L) < jnp.asarray(LENGTHS)[:, None])[:, None, :, None]
        if attention_mask is padding
        else True
    )
    difference = library_attention(*inputs, attention_mask(), 'xla') - attention(*inputs, attention_mask())
    np.testing.assert_allclose(jnp.where(seen, difference, 0), 0, atol=1e-5)


def test_what_cudnn_cannot_do_is_refused():
    with pytest.raises(ValueError, match='attention_dropout=0.1'):
        bert.EncoderConfig(8, 1, 2, 16, attention='cudnn')
    with pytest.raises(ValueError, match="model.remat='all' must be one of none, qkv, full"):
        bert.EncoderConfig(8, 1, 2, 16, remat='all')


def gradients_of(**changes):
    """The loss of one encoder of three layers and its derivatives, with everything dropped that can be."""
    rates = {f'model.{name}': 0.3 for name in ('dropout', 'attention_dropout')}
    system = pretrain.SYSTEMS['bert_wwm'] | {'model.num_layers': 3}
    config = synthetic.tiny_config(**system | rates | changes)
    batch = next(synthetic.batches(config))
    task = pretraining.Pretrain.from_config(config)
    assert task.model.config.scan_layers == (sharding.mesh_platform(None) == 'tpu')
    loss = lambda p: task.loss(p, batch, jax.random.key(1))[0]  # noqa: E731
    return jax.jit(jax.value_and_grad(loss))(synthetic.random_params(task))


@functools.cache
def one_by_one(drophead):
    return gradients_of(**{'model.drophead': drophead})


def assert_same(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for one, other in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.mark.slow
def test_kernels_in_layers_change_nothing(monkeypatch):
    """Neither what each layer drops nor any derivative."""
    kernels = flash_attention.flash_attention
    monkeypatch.setattr(flash_attention, 'flash_attention', lambda *inputs: kernels(*inputs, True))
    # Parameters are drawn without dropout, where it would be cuDNN's.
    monkeypatch.setattr(attention_module, 'library_attention', lambda *inputs: attention(*inputs[:4]))
    assert_same(gradients_of(**{'model.attention': 'fused'}), one_by_one(0.0))


@pytest.mark.slow
@pytest.mark.parametrize('remat', ['qkv', 'full'])
def test_recomputing_changes_nothing(remat):
    assert_same(gradients_of(**{'model.remat': remat}), one_by_one(0.0))


@pytest.mark.slow
@pytest.mark.parametrize('remat', ['none', 'qkv', 'full'])
@pytest.mark.parametrize('drophead', [0.0, 0.5])
def test_layers_in_a_loop_are_the_layers_one_by_one(remat, drophead, monkeypatch):
    """Also what is dropped, and the derivatives, which belong to the same parameters."""
    expected = one_by_one(drophead)
    monkeypatch.setattr(pretraining, 'SCAN_MIN_LAYERS', 3)
    monkeypatch.setattr(sharding, 'mesh_platform', lambda mesh: 'tpu')
    assert_same(gradients_of(**{'model.remat': remat, 'model.drophead': drophead}), expected)


def test_a_layer_is_traced_once_and_each_is_its_own():
    """Parameters and what is dropped are each layer's; also a second encoder finds what is traced."""
    config = bert.EncoderConfig(16, 3, 2, 32, dropout=0.3, attention_dropout=0.3, drophead=0.5)
    encoder = bert.BertEncoder(config, jnp.float32)
    mask, seeds = padding(), dropout.row_seeds(jax.random.key(0), B)
    x = jax.random.normal(jax.random.key(1), (B, L, 16))
    variables = encoder.init(jax.random.key(2), x, mask, seeds)

    def twice(variables):
        once = encoder.apply(variables, x, mask, seeds)
        return once, bert.BertEncoder(config, jnp.float32).apply(variables, once, mask, seeds)

    calls = [eqn.params['jaxpr'] for eqn in jax.make_jaxpr(twice)(variables).eqns if 'jaxpr' in eqn.params]
    assert len(calls) == 6 and len({id(jaxpr) for jaxpr in calls}) == 1
    expected = x
    for name in ('encoder.layer.0', 'encoder.layer.1', 'encoder.layer.2'):
        params, sites = {'params': variables['params'][name]}, bert.layer_dropout_sites((name,))
        expected = bert.BertLayer(config, jnp.float32).apply(params, expected, mask, seeds, sites)
    np.testing.assert_allclose(twice(variables)[0], expected, atol=1e-5)


def test_padding_is_what_follows_the_last_token():
    """A [PAD] that the text itself holds is one of its tokens; a row of padding has none."""
    ids = jnp.asarray([[2, 0, 7, 3, 0, 0], [2, 7, 8, 0, 0, 3], [2, 3, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0]])
    expected = np.arange(6) < np.array([[4], [6], [2], [0]])
    np.testing.assert_array_equal(token_mask(ids), expected)
    np.testing.assert_array_equal(make_attention_mask(ids, None)[:, 0], expected)
    hidden = np.random.default_rng(0).normal(size=(4, 6, 3)).astype(np.float32)
    means = [row[real].mean(0) if real.any() else np.zeros(3) for row, real in zip(hidden, expected)]
    np.testing.assert_allclose(pool_tokens(hidden, ids, 'mean'), means, atol=1e-6)
