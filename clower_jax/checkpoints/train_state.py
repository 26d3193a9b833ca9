"""The state of a training run: what a checkpoint holds."""

from collections.abc import Callable
from typing import TypeVar

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from clower_jax.parallel import precision, sharding
from clower_jax.parallel.precision import LossScale

Tree = TypeVar('Tree')


class TrainState(flax.struct.PyTreeNode):
    """Everything that one step turns into the next. `step` counts batches used, so it is also the position
    in the data; `bad_steps` counts the steps in a row, up to now, that were skipped: their gradient or update
    was not finite."""

    step: jax.Array  # int32 []
    params: dict
    opt_state: optax.OptState
    loss_scale: LossScale
    bad_steps: jax.Array  # int32 []

    @classmethod
    def create(
        cls,
        params: dict,
        optimizer: optax.GradientTransformation,
        dtype: str,
        initial_loss_scale: float = precision.FP16_INITIAL_SCALE,
    ) -> 'TrainState':
        """The state before the first step."""

        def zero() -> jax.Array:  # two buffers: a donated state must not hold one buffer twice
            return jnp.zeros((), jnp.int32)

        return cls(
            zero(), params, optimizer.init(params), LossScale.create(dtype, initial_loss_scale), zero()
        )


def abstract_params(mesh: Mesh, init: Callable[[jax.Array], dict]) -> dict:
    """The shapes, dtypes and shardings of the parameters that `init(key)` would make, without making them."""
    return _abstract(mesh, jax.eval_shape(init, jax.random.key(0)))


def abstract_state(mesh: Mesh, create: Callable[[], TrainState]) -> TrainState:
    """The shapes, dtypes and shardings of the state that `create` would make, without making it."""
    return _abstract(mesh, jax.eval_shape(create))


def _abstract(mesh: Mesh, shapes: Tree) -> Tree:
    return jax.tree.map(
        lambda leaf, leaf_sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf_sharding),
        shapes,
        sharding.tree_shardings(mesh, shapes),
    )


def sharded_state(mesh: Mesh, create: Callable[[], Tree]) -> Tree:
    """Runs `create`, operation by operation, on the host and puts every array where it belongs.

    Of one program for some hundred random arrays a CPU's compiler makes as many kernels; a GPU's makes a few
    huge ones, which for `:base` had not compiled after 220 s on an H200 (docs/performance.md).
    """
    with jax.default_device(_host()):
        state = create()

    def place(leaf: jax.Array, leaf_sharding: jax.sharding.Sharding) -> jax.Array:
        if leaf_sharding.is_fully_addressable:
            return jax.device_put(leaf, leaf_sharding)
        return jax.make_array_from_callback(leaf.shape, leaf_sharding, np.asarray(leaf).__getitem__)

    return jax.tree.map(place, state, sharding.tree_shardings(mesh, state))


def _host() -> jax.Device | None:
    """A CPU of this process; None, JAX's own choice, where JAX_PLATFORMS leaves it out."""
    try:
        return jax.local_devices(backend='cpu')[0]
    except RuntimeError:
        return None
