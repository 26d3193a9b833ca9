"""One pass of a task over a finite set."""

from collections.abc import Iterable

import jax
from jax.sharding import Mesh

from clower_jax import metrics, sharding


def make_eval_step(task):
    """jit of (params, batch) → {name: (sum, count)}, without dropout."""
    return jax.jit(lambda params, batch: task.loss(params, batch, None)[1])


def evaluate(eval_step, task, params: dict, batches: Iterable[dict], mesh: Mesh, batch_size: int) -> dict:
    """Exact means over every row of `batches` (padded rows do not count); {} where there is no batch.

    Contrastive losses and accuracies are over the negatives of each batch, so they depend on its size.
    """
    sums = [eval_step(params, sharding.place(mesh, batch, batch_size)) for batch in batches]
    if not sums:
        return {}
    means = metrics.means(jax.device_get(sums))
    # Rates of a training step, not properties of the set.
    for name in ('examples', 'tokens'):
        means.pop(name, None)
    return {'loss': float(task.total(means)), **means}
