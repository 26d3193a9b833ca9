"""AdamW with a linear warm-up, and a linear decay or none."""

import flax.traverse_util
import jax
import optax
from ml_collections import ConfigDict

SCHEDULES = ('linear', 'constant')


def learning_rate(config: ConfigDict) -> optax.Schedule:
    """Linear from 0 over `optim.warmup_steps`; then, by `optim.schedule`, linear to 0 at `total_steps`, or
    constant. Steps → learning rate."""
    peak, warmup = config.optim.learning_rate, config.optim.warmup_steps
    if not 0 <= warmup < config.total_steps:
        raise ValueError(
            f'optim.warmup_steps={warmup} must be at least 0 and less than total_steps={config.total_steps}'
        )
    up = optax.linear_schedule(0.0, peak, warmup)
    constant = config.optim.schedule == 'constant'
    after = optax.linear_schedule(peak, peak if constant else 0.0, config.total_steps - warmup)
    return optax.join_schedules([up, after], [warmup]) if warmup else after


def decays(params: dict) -> dict:
    """True where weight decay applies: everywhere but biases and LayerNorm, as BERT was trained."""
    flat = flax.traverse_util.flatten_dict(params)
    return flax.traverse_util.unflatten_dict({path: path[-1] not in ('bias', 'scale') for path in flat})


def optimizer(config: ConfigDict) -> optax.GradientTransformation:
    """Clip by global norm, then AdamW (b1 0.9, b2 0.999, epsilon 1e-6 as in BERT's own optimiser)."""
    norm = config.optim.clip_norm
    return optax.chain(
        # Either has an empty state, so that a run may change its mind when it goes on.
        optax.clip_by_global_norm(norm) if norm > 0 else optax.identity(),
        optax.adamw(learning_rate(config), eps=1e-6, weight_decay=config.optim.weight_decay, mask=decays),
    )


def updates_taken(opt_state: optax.OptState) -> jax.Array:
    """int32 []: the updates made so far, which the schedule counts; skipped steps are not among them."""
    is_adam = lambda path, _: getattr(path[-1], 'tuple_name', '') == 'ScaleByAdamState'  # noqa: E731
    return optax.tree_utils.tree_get(opt_state, 'count', filtering=is_adam)
