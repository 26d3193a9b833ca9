"""On a real GPU, `pytest -m gpu`: low precision against fp32, fused attention, the loss scale."""

import functools
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clower_jax.checkpoints.train_state import TrainState, sharded_state
from clower_jax.objectives.pretraining import Pretrain
from clower_jax.ops import dropout
from clower_jax.ops.attention import attention, fused_attention
from clower_jax.parallel import precision, sharding
from clower_jax.training import optim
from clower_jax.training.train_step import make_train_step
from configs import pretrain
from helpers import synthetic

pytestmark = [
    pytest.mark.gpu,
    # Pallas's part for Triton is announced to leave JAX; `model.attention=auto` is `own` then.
    pytest.mark.filterwarnings('ignore:The Pallas Triton backend:DeprecationWarning'),
]

# Of a tensor's largest entry: a rounding error of the type, and what 2 layers make of it.
TOLERANCE = {'float32': 1e-4, 'float16': 2e-2, 'bfloat16': 1e-1}
LOSSES = {'float32': 1e-5, 'float16': 5e-3, 'bfloat16': 3e-2}


def loss_and_gradient(dtype: str, device):
    changes = {'model.dropout': 0.1, 'model.attention_dropout': 0.1, 'dtype': dtype}
    config = synthetic.tiny_config(**changes)
    task = Pretrain.from_config(config)
    with jax.default_device(device), jax.default_matmul_precision(precision.matmul_precision(dtype)):
        params = jax.tree.map(jnp.asarray, synthetic.random_params(task, spread=0.1))
        batch = jax.tree.map(jnp.asarray, next(synthetic.batches(config)))
        step = jax.jit(jax.value_and_grad(lambda p, b: task.loss(p, b, jax.random.key(1))[0]))
        return jax.device_get(step(params, batch))


@pytest.mark.parametrize('dtype', TOLERANCE)
def test_loss_and_gradient_are_those_of_a_cpu_in_fp32(dtype):
    expected_loss, expected = loss_and_gradient('float32', jax.devices('cpu')[0])
    loss, gradient = loss_and_gradient(dtype, jax.devices()[0])
    assert abs(loss - expected_loss) <= LOSSES[dtype] * expected_loss
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(expected))
    for path, leaf in jax.tree_util.tree_leaves_with_path(expected):
        other = dict(jax.tree_util.tree_leaves_with_path(gradient))[path]
        # A tensor whose gradient is small beside the others is a sum of large terms that cancel.
        scale = max(np.abs(leaf).max(), largest / 100)
        assert np.abs(other - leaf).max() <= TOLERANCE[dtype] * scale, jax.tree_util.keystr(path)


@pytest.mark.parametrize('rate', [0.0, 0.1])
@pytest.mark.parametrize('packed', [False, True])
@pytest.mark.parametrize('dtype', [jnp.bfloat16, jnp.float16])
def test_fused_attention_is_our_own(dtype, packed, rate):
    """cuDNN's, and our own kernels where weights are dropped."""
    batch, heads, length, width = 4, 12, 256, 64
    keys = jax.random.split(jax.random.key(0), 4)
    *inputs, cotangent = (jax.random.normal(key, (batch, heads, length, width), dtype) for key in keys)
    if packed:
        texts = jnp.arange(length)[None] // jnp.asarray([[256], [100], [64], [31]])
        attends, real = texts[:, :, None] == texts[:, None, :], jnp.ones((batch, length), bool)
    else:
        real = jnp.arange(length) < jnp.asarray([[256], [200], [131], [7]])
        attends = real[:, None]
    cotangent = cotangent * real[:, None, :, None]

    seeds = dropout.row_seeds(jax.random.key(1), batch)

    @functools.partial(jax.jit, static_argnums=0)
    def value_and_derivatives(function, *inputs):
        value, back = jax.vjp(lambda *x: function(*x, attends, rate, seeds), *inputs)
        return value * real[:, None, :, None], *back(cotangent)

    ours = value_and_derivatives(attention, *inputs)
    theirs = value_and_derivatives(fused_attention, *inputs)
    for one, other in zip(ours, theirs, strict=True):
        error = jnp.abs(one.astype(jnp.float32) - other.astype(jnp.float32)).max()
        assert error <= 3e-2 * jnp.abs(one.astype(jnp.float32)).max()


def test_the_first_state_of_a_base_model_takes_no_minutes():
    """The host draws it: the GPU's compiler had not finished after 220 s."""
    config = pretrain.get_config('base')
    config.model.vocab_size, config.model.base_vocab_size = 30_000, 21_128
    task, optimizer = Pretrain.from_config(config), optim.optimizer(config)
    start = time.monotonic()
    state = sharded_state(
        sharding.make_mesh(config),
        lambda: TrainState.create(task.init(jax.random.key(0)), optimizer, 'bfloat16'),
    )
    jax.block_until_ready(state)
    assert time.monotonic() - start < 60
    assert {device.platform for leaf in jax.tree.leaves(state) for device in leaf.devices()} == {'gpu'}


def test_fp16_finds_its_loss_scale():
    config = synthetic.tiny_config(dtype='float16', total_steps=100)
    task = Pretrain.from_config(config)
    optimizer = optim.optimizer(config)
    step = make_train_step(task, optimizer, optim.learning_rate(config))
    state = TrainState.create(task.init(jax.random.key(0)), optimizer, 'float16')
    state = state.replace(loss_scale=state.loss_scale.replace(scale=jnp.asarray(2.0**24)))
    batch = jax.tree.map(jnp.asarray, next(synthetic.batches(config)))
    for _ in range(30):
        state, measured = step(state, batch, jax.random.key(0))
    assert 1.0 <= float(state.loss_scale.scale) < 2.0**24
    assert int(state.bad_steps) == 0
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(jax.device_get(state.params)))
