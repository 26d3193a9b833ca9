"""Compute dtypes and the dynamic loss scale of fp16 (Micikevicius et al. 2018)."""

from collections.abc import Mapping
from typing import Any, TypeVar

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from clower_jax.utils.config_keys import DTYPES

Tree = TypeVar('Tree')

FP16_INITIAL_SCALE = 2.0**15
FP16_FLOOR = 1.0
FP16_CEILING = 2.0**24
GROWTH_INTERVAL = 2000  # finite steps before the scale doubles


def compute_dtype(name: str) -> jnp.dtype:
    """The dtype that a config's `dtype` names; ValueError for any other."""
    if name not in DTYPES:
        raise ValueError(f'dtype={name!r} must be one of {", ".join(DTYPES)}')
    return jnp.dtype(name)


def matmul_precision(dtype: str) -> str | None:
    """What JAX is to be asked for: without asking, fp32 products are TF32 on GPUs and bf16 on TPUs."""
    return 'highest' if dtype == 'float32' else None


class LossScale(flax.struct.PyTreeNode):
    """The factor that the loss is multiplied by before differentiation. 1 and constant unless fp16.

    `scale` halves (not below the floor) at a gradient that is not finite and doubles after
    `GROWTH_INTERVAL` finite ones in a row; `finite_steps` counts those.
    """

    scale: jax.Array  # fp32 []
    finite_steps: jax.Array  # int32 []
    dynamic: bool = flax.struct.field(pytree_node=False)

    @classmethod
    def create(cls, dtype: str, initial: float = FP16_INITIAL_SCALE) -> 'LossScale':
        """The first scale of a run: `initial` (a config's `optim.initial_loss_scale`) in float16."""
        dynamic = dtype == 'float16'
        scale = initial if dynamic else 1.0
        return cls(jnp.asarray(scale, jnp.float32), jnp.asarray(0, jnp.int32), dynamic)

    def update(self, finite: jax.Array) -> 'LossScale':
        """The scale after a step whose gradient was finite or not (bool [])."""
        if not self.dynamic:
            return self
        steps = jnp.where(finite, self.finite_steps + 1, 0)
        grow = steps >= GROWTH_INTERVAL
        grown = jnp.where(grow, jnp.minimum(self.scale * 2, FP16_CEILING), self.scale)
        scale = jnp.where(finite, grown, jnp.maximum(self.scale / 2, FP16_FLOOR))
        return self.replace(scale=scale, finite_steps=jnp.where(grow, 0, steps))


def check_finite(arrays: Mapping[str, Any], owner: str) -> None:
    """Raises ValueError naming each of these arrays, by name, that holds an infinity or a NaN in fp32, or no
    numbers at all.

    Args:
      arrays: NumPy's, or JAX's wherever they are.
      owner: what they are of, for the message.
    """
    finite = jax.device_get(_finite({name: x for name, x in arrays.items() if isinstance(x, jax.Array)}))
    finite |= {name: _finite_on_host(x) for name, x in arrays.items() if name not in finite}
    bad = [name for name in arrays if not finite[name]]
    if bad:
        raise ValueError(
            f'{owner} has NaN or infinity in {", ".join(bad[:5])}{", …" * (len(bad) > 5)} ({len(bad)} of '
            f'{len(arrays)} tensors): it was damaged, or its training diverged. Take an earlier state of it'
        )


def _finite_on_host(array: np.ndarray) -> bool:
    if not (jnp.issubdtype(array.dtype, jnp.number) or array.dtype == bool):
        return False
    with np.errstate(over='ignore', invalid='ignore'):  # what is too large for fp32 becomes infinity
        return bool(np.isfinite(np.asarray(array, np.float32)).all())


@jax.jit
def _finite(arrays: dict[str, jax.Array]) -> dict[str, jax.Array]:
    return {name: jnp.isfinite(x).all() for name, x in arrays.items()}


def select(condition: jax.Array, if_true: Tree, if_false: Tree) -> Tree:
    """One of two trees of the same structure, by a bool []."""
    return jax.tree.map(lambda x, y: jnp.where(condition, x, y), if_true, if_false)
