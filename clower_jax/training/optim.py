"""AdamW, the learning rate over the steps and the layers, and the average of the weights."""

import re
from typing import NamedTuple

import flax.traverse_util
import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from clower_jax.checkpoints.train_state import TrainState

DECAY_FRACTION = 0.2  # of the steps, the last ones: where 'wsd' decays


def learning_rate(config: ConfigDict) -> optax.Schedule:
    """Linear from 0 to the peak over `optim.warmup_steps`, then as `optim.schedule` has it. Steps → rate.

    'linear' and 'cosine' fall from there to `optim.final_fraction` of the peak at `total_steps`. 'wsd', for
    warm-up, stable, decay (Hu et al. 2024, arXiv 2404.06395), stays at the peak and falls linearly over the
    last fifth of all steps, so that a longer run has the same first four fifths. 'constant' stays there.

    Raises ValueError for another schedule, or a warm-up that does not fit.
    """
    peak, warmup, total = config.optim.learning_rate, config.optim.warmup_steps, config.total_steps
    if not 0 <= warmup < total:
        raise ValueError(f'optim.warmup_steps={warmup} must be at least 0 and less than total_steps={total}')
    end = config.optim.final_fraction
    decay = min(total - warmup, max(1, round(DECAY_FRACTION * total)))
    shapes = {
        'linear': lambda: optax.linear_schedule(peak, end * peak, total - warmup),
        'cosine': lambda: optax.cosine_decay_schedule(peak, total - warmup, end),
        'wsd': lambda: optax.linear_schedule(peak, end * peak, decay, total - warmup - decay),
        'constant': lambda: optax.linear_schedule(peak, peak, total - warmup),
    }
    if config.optim.schedule not in shapes:
        raise ValueError(f'optim.schedule={config.optim.schedule!r} must be one of {", ".join(shapes)}')
    decay_schedule = shapes[config.optim.schedule]()
    warmup_schedule = optax.linear_schedule(0.0, peak, warmup)
    return optax.join_schedules([warmup_schedule, decay_schedule], [warmup]) if warmup else decay_schedule


def weight_decay_mask(params: dict) -> dict:
    """True where weight decay applies: everywhere but biases and LayerNorm, as BERT was trained."""
    flat = flax.traverse_util.flatten_dict(params)
    return flax.traverse_util.unflatten_dict({path: path[-1] not in ('bias', 'scale') for path in flat})


def layer_rates(params: dict, decay: float, num_layers: int) -> dict:
    """What the rate of each parameter is multiplied by: decay^(L + 1 − depth), L = `num_layers`; embeddings
    have depth 0, the n-th layer n, poolers and heads L + 1 (Clark et al. 2020, arXiv 2003.10555)."""

    def rate(path: tuple[str, ...]) -> float:
        layer = next(filter(None, (re.fullmatch(r'encoder\.layer\.(\d+)', part) for part in path)), None)
        depth = int(layer[1]) + 1 if layer else 0 if path[0].endswith('embeddings') else num_layers + 1
        return decay ** (num_layers + 1 - depth)

    flat = flax.traverse_util.flatten_dict(params)
    return flax.traverse_util.unflatten_dict({path: rate(path) for path in flat})


def optimizer(config: ConfigDict) -> optax.GradientTransformation:
    """Clip by global norm, then AdamW (b1 0.9, b2 0.999, epsilon 1e-6 as in BERT's own optimiser), by layer
    (`optim.layer_decay`), with an average of the weights beside (`optim.ema_decay`)."""
    transformation = _adamw(config)
    if config.optim.layer_decay < 1:
        transformation = _by_layer(transformation, config.optim.layer_decay, config.model.num_layers)
    return _averaging(transformation, config.optim.ema_decay) if config.optim.ema_decay else transformation


def _adamw(config: ConfigDict) -> optax.GradientTransformation:
    norm = config.optim.clip_norm
    return optax.chain(
        # Either has an empty state, so that a run may change its mind when it goes on.
        optax.clip_by_global_norm(norm) if norm > 0 else optax.identity(),
        optax.adamw(
            learning_rate(config), eps=1e-6, weight_decay=config.optim.weight_decay, mask=weight_decay_mask
        ),
    )


def update_count(opt_state: optax.OptState) -> jax.Array:
    """int32 []: the updates made so far, which the schedule counts; skipped steps are not among them."""
    is_adam = lambda path, _: getattr(path[-1], 'tuple_name', '') == 'ScaleByAdamState'  # noqa: E731
    return optax.tree_utils.tree_get(opt_state, 'count', filtering=is_adam)


def _by_layer(
    inner: optax.GradientTransformation, decay: float, num_layers: int
) -> optax.GradientTransformation:
    """The updates of `inner`, weight decay too, times `layer_rates`. Its state is that of `inner`, so that a
    run may change its mind when it goes on."""

    def update(
        grads: optax.Updates, state: optax.OptState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, optax.OptState]:
        updates, state = inner.update(grads, state, params)
        return jax.tree.map(jnp.multiply, updates, layer_rates(updates, decay, num_layers)), state

    return optax.GradientTransformation(inner.init, update)


class AveragedState(NamedTuple):
    """The state of an optimiser, and the exponential moving average of the weights that it made."""

    inner: optax.OptState
    average: dict


def _averaging(inner: optax.GradientTransformation, decay: float) -> optax.GradientTransformation:
    """average ← d·average + (1 − d)·weights after every update that is made, d = min(decay,
    (1 + n)/(10 + n)) after n of them, so that a short run does not average what it began with."""

    def init(params: optax.Params) -> AveragedState:
        return AveragedState(inner.init(params), jax.tree.map(jnp.copy, params))

    def update(
        grads: optax.Updates, state: AveragedState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, AveragedState]:
        updates, inner_state = inner.update(grads, state.inner, params)
        count = update_count(inner_state)
        keep = jnp.minimum(decay, (1 + count) / (10 + count))
        weights = optax.apply_updates(params, updates)
        average = jax.tree.map(lambda old, new: keep * old + (1 - keep) * new, state.average, weights)
        return updates, AveragedState(inner_state, average)

    return optax.GradientTransformation(init, update)


def evaluated_params(state: TrainState) -> dict:
    """The weights that a run is judged by, and that it leaves: their average where there is one."""
    averaged = isinstance(state.opt_state, AveragedState)
    return state.opt_state.average if averaged else state.params


def start_from(state: TrainState, params: dict) -> TrainState:
    """A state before the first step with other weights, which the average begins with, too."""
    state = state.replace(params=params)
    if isinstance(state.opt_state, AveragedState):
        copy = jax.tree.map(jnp.copy, params)  # a donated state must not hold one buffer twice
        state = state.replace(opt_state=state.opt_state._replace(average=copy))
    return state


def exchanged(state: TrainState) -> TrainState:
    """The state with weights and average in each other's place, as checkpoints have them: whoever reads the
    parameters of one reads what was evaluated. The same state where there is no average."""
    if not isinstance(state.opt_state, AveragedState):
        return state
    opt_state = state.opt_state._replace(average=state.params)
    return state.replace(params=state.opt_state.average, opt_state=opt_state)
