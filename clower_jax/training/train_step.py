"""One optimisation step, jitted and donated."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from clower_jax.checkpoints.train_state import TrainState
from clower_jax.objectives.base import MetricSums, Objective
from clower_jax.parallel import precision
from clower_jax.training import optim

TOKEN_TABLE = 'word_embeddings/embedding'  # the end of its path


def make_train_step(
    objective: Objective,
    optimizer: optax.GradientTransformation,
    schedule: optax.Schedule,
    adversarial_radius: float = 0.0,
) -> jax.stages.Wrapped:
    """jit of (state, batch, key) → (state, sums); the state is donated.

    The dropout key is a function of the run's key and the step. A gradient or an update that is not
    finite changes no parameter and no optimiser state; it halves the loss scale (fp16) and counts in
    `bad_steps`. adversarial_radius: of FGM (`perturbed`), under the same dropout; 0: none.
    """

    def step(
        state: TrainState, batch: dict[str, jax.Array], key: jax.Array
    ) -> tuple[TrainState, dict[str, Any]]:
        scale = state.loss_scale.scale
        key = jax.random.fold_in(key, state.step)

        def scaled_loss(params: dict) -> tuple[jax.Array, MetricSums]:
            loss, sums = objective.loss(params, batch, key)
            return loss * scale, sums

        grads, sums = jax.grad(scaled_loss, has_aux=True)(state.params)
        if adversarial_radius:
            others, _ = jax.grad(scaled_loss, has_aux=True)(
                perturbed(state.params, grads, adversarial_radius)
            )
            grads = jax.tree.map(jnp.add, grads, others)
        grads = jax.tree.map(lambda g: g / scale, grads)
        grad_norm = optax.tree.norm(grads)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        # A sum of squares is finite only where every entry is, and with it every second moment.
        finite = jnp.isfinite(grad_norm) & jnp.isfinite(optax.tree.norm(_smallest_per_ndim(updates)))
        params = optax.apply_updates(state.params, updates)
        params, opt_state = precision.select(finite, (params, opt_state), (state.params, state.opt_state))
        bad_steps = jnp.where(finite, 0, state.bad_steps + 1)
        rate = schedule(optim.update_count(state.opt_state))
        finite_count = finite.astype(jnp.float32)
        # A skipped step has no say in the means of the interval.
        sums = {
            name: (jnp.where(finite, total, 0), count * finite_count) for name, (total, count) in sums.items()
        }
        sums['grad_norm'] = jnp.where(finite, grad_norm, 0), finite_count
        sums['lr'] = rate * finite_count, finite_count
        if state.loss_scale.dynamic:
            sums['loss_scale'] = scale, 1
        state = TrainState(state.step + 1, params, opt_state, state.loss_scale.update(finite), bad_steps)
        return state, {'sums': sums, 'bad_steps': bad_steps}

    return jax.jit(step, donate_argnums=0)


def adversarial_radius(config: ConfigDict) -> float:
    """The radius of FGM; 0 where nothing is perturbed."""
    return config.optim.adversarial_radius if config.optim.adversarial == 'fgm' else 0.0


def perturbed(params: dict, grads: dict, radius: float) -> dict:
    """Parameters with the token embeddings moved by `radius` along their gradient, to where the loss grows
    fastest: the fast gradient method (Miyato et al. 2017, arXiv 1605.07725, equation 5), each table by its
    own norm. A gradient of 0 moves nothing."""

    def move(path: jax.tree_util.KeyPath, value: jax.Array, grad: jax.Array) -> jax.Array:
        if not jax.tree_util.keystr(path, simple=True, separator='/').endswith(TOKEN_TABLE):
            return value
        norm = optax.tree.norm(grad)
        return value + jnp.where(norm > 0, radius / jnp.where(norm > 0, norm, 1.0), 0.0) * grad

    return jax.tree_util.tree_map_with_path(move, params, grads)


def _smallest_per_ndim(updates: dict) -> list[jax.Array]:
    """Of each number of dimensions the smallest array, which tells whether the updates are finite.

    Where the gradient is, so are Adam's moments, and its epsilon bounds their quotient: what can spoil an
    update is what multiplies all arrays alike, the rate and the decay. The norm of all updates would take
    half as long as the optimiser does.
    """
    by_size = sorted(jax.tree.leaves(updates), key=lambda array: array.size, reverse=True)
    return list({array.ndim: array for array in by_size}.values())
