"""Drawing the first parameters of a network."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import Primitive

from clower_jax.models import bert
from clower_jax.objectives import base

elsewhere = Primitive('elsewhere')  # no device of this machine has it
elsewhere.def_abstract_eval(lambda x: x)


class Network(nn.Module):
    """A projection between two operations of another machine, of the ids and of a constant."""

    @nn.compact
    def __call__(self, ids: jax.Array) -> jax.Array:
        x = elsewhere.bind(jnp.ones((1, 4))) + elsewhere.bind(ids.astype(jnp.float32)).sum()
        return elsewhere.bind(nn.Dense(3, kernel_init=bert.normal(0.02), name='projection')(x))


def test_what_draws_nothing_does_not_run():
    """A GPU's attention is no operation of the host that draws its parameters."""
    with pytest.raises(NotImplementedError):
        jax.jit(elsewhere.bind)(1.0)
    params = base.initial_params(Network(), jax.random.key(0), base.INIT_IDS)
    assert jax.tree.map(jnp.shape, params) == {'projection': {'kernel': (4, 3), 'bias': (3,)}}
    assert np.ptp(params['projection']['kernel']) > 0
