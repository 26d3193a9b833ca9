"""AdamW, and the learning rate over the steps."""

import flax.traverse_util
import jax
import optax
from ml_collections import ConfigDict

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


def optimizer(config: ConfigDict) -> optax.GradientTransformation:
    """Clip by global norm, then AdamW (b1 0.9, b2 0.999, epsilon 1e-6 as in BERT's own optimiser)."""
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
