"""The kernels for GPUs, interpreted, against attention that has its weights in memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clower_jax.models.clower import make_attention_mask
from clower_jax.objectives import pretraining
from clower_jax.ops import dropout
from clower_jax.ops.attention import attention
from clower_jax.ops.flash_attention import flash_attention
from clower_jax.parallel import sharding
from configs import pretrain

B, N = 3, 2
SEEDS = dropout.seeds_at(dropout.row_seeds(jax.random.key(0), B), 5)


def padded_rows(length):
    """A full row, a shorter one, and one of nothing but padding."""
    ids = (np.arange(length) < np.array([[length], [length // 2 + 1], [0]])).astype(np.int32)
    return make_attention_mask(jnp.asarray(ids), None)


def packed_rows(length):
    """Rows of one text, of two, and of three and padding."""
    segment_ids = np.ones((B, length), np.int32)
    segment_ids[1, length // 3 :] = 2
    segment_ids[2] = np.minimum(np.arange(length) // (length // 4 + 1), 3) + 1
    segment_ids[2, -length // 8 :] = 0
    return make_attention_mask(jnp.asarray(segment_ids), jnp.asarray(segment_ids))


def value_and_derivatives(attend, inputs, cotangent):
    value, derivatives = jax.vjp(attend, *inputs)
    return value, *derivatives(cotangent)


@pytest.mark.slow
@pytest.mark.parametrize(
    ('length', 'width', 'mask', 'rate', 'seeds', 'dtype', 'tolerance'),
    [
        (130, 64, padded_rows, 0.3, SEEDS, jnp.float32, 2e-6),
        (130, 16, packed_rows, 0.1, SEEDS, jnp.float32, 2e-6),
        (7, 26, packed_rows, 0.3, None, jnp.float32, 2e-6),
        (96, 64, padded_rows, 0.1, SEEDS, jnp.bfloat16, 1e-2),
    ],
)
def test_value_and_derivatives(length, width, mask, rate, seeds, dtype, tolerance):
    """Whole tiles of 64 and not, heads of any width; also where a row attends to nothing."""
    draw = np.random.default_rng(0).normal
    *inputs, cotangent = (jnp.asarray(draw(size=(B, N, length, width)), dtype) for _ in range(4))

    def both(*inputs):
        own = lambda *x: attention(*x, mask(length), rate, seeds)  # noqa: E731
        kernels = lambda *x: flash_attention(*x, mask(length), rate, seeds, True)  # noqa: E731
        return [value_and_derivatives(attend, inputs, cotangent) for attend in (own, kernels)]

    for expected, found in zip(*jax.jit(both)(*inputs), strict=True):
        assert found.dtype == dtype
        expected, found = (np.asarray(x, np.float32) for x in (expected, found))
        np.testing.assert_allclose(found, expected, atol=tolerance * np.abs(expected).max(), rtol=0)


@pytest.mark.slow
def test_the_mask_is_the_hash_of_places():
    """Of equal weights, whose values are unit vectors, the output is the mask."""
    length, rate = 70, 0.4
    nothing = jnp.zeros((B, N, length, length))
    values = jnp.broadcast_to(jnp.eye(length), nothing.shape)
    everywhere = jnp.ones((B, 1, length), bool)
    out = jax.jit(lambda x: flash_attention(x, x, values, everywhere, rate, SEEDS, True))(nothing)
    expected = dropout.keep((B, N, length, length), rate, SEEDS) / (length * (1 - rate))
    np.testing.assert_allclose(out, expected, rtol=1e-6)


def test_rows_longer_than_the_hash_are_refused():
    shape = jax.ShapeDtypeStruct((1, 16, 2**14, 64), jnp.bfloat16)
    mask = jax.ShapeDtypeStruct((1, 1, 2**14), bool)
    with pytest.raises(ValueError, match='a row of 4,294,967,296 elements'):
        jax.eval_shape(lambda *x: flash_attention(*x, 0.1, None, True), shape, shape, shape, mask)


@pytest.mark.parametrize(
    ('platform', 'changes', 'expected'),
    [
        ('cpu', {}, 'own'),
        ('tpu', {}, 'own'),
        ('gpu', {}, 'fused'),
        ('gpu', {'dtype': 'float16'}, 'fused'),
        ('gpu', {'dtype': 'float32'}, 'own'),
        ('gpu', {'model.hidden_size': 36, 'model.num_heads': 3}, 'own'),  # heads of 12
        ('gpu', {'model.attention': 'own'}, 'own'),
        ('gpu', {'model.attention': 'cudnn', 'model.attention_dropout': 0.0}, 'cudnn'),
    ],
)
def test_auto_is_what_suits_the_devices(platform, changes, expected, monkeypatch):
    monkeypatch.setattr(sharding, 'mesh_platform', lambda mesh: platform)
    config = pretrain.get_config()
    config.model.attention, config.dtype = 'auto', 'bfloat16'
    config.update_from_flattened_dict(changes)
    assert pretraining.encoder_settings(config, None)['config'].attention == expected


@pytest.mark.skipif(jax.__version_info__ >= (0, 11), reason='JAX asks for a GPU to lower for, since 0.11')
@pytest.mark.parametrize('mask', [padded_rows, packed_rows])
def test_triton_has_all_that_the_kernels_do(mask):
    """The interpreter takes what Triton does not."""
    x = jax.ShapeDtypeStruct((B, N, 70, 64), jnp.bfloat16)
    loss = lambda *x: flash_attention(*x, mask(70), 0.1, SEEDS).sum()  # noqa: E731
    lowered = jax.jit(jax.grad(loss, (0, 1, 2))).trace(x, x, x).lower(lowering_platforms=('cuda',))
    assert lowered.as_text().count('custom_call @__gpu$xla.gpu.triton') == 2
