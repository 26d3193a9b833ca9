"""One pass of an objective over a finite set."""

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from ml_collections import ConfigDict

from clower_jax.objectives import registry
from clower_jax.objectives.base import Objective
from clower_jax.parallel import precision, sharding

Outputs = list[dict[str, np.ndarray]]
Score = Callable[[Outputs], dict[str, float]]


class Evaluator(NamedTuple):
    """An objective on a mesh; the program compiles when it is first called, once for each shape of batch."""

    mesh: Mesh
    objective: Objective
    batch_size: int  # of the global batch
    step: Callable  # jit of (params, batch) → (sums, outputs), without dropout
    matmul_precision: str | None = None  # see `precision.matmul_precision`

    @classmethod
    def from_config(cls, config: ConfigDict) -> 'Evaluator':
        """The evaluation of a resolved config."""
        mesh = sharding.make_mesh(config)
        objective = registry.from_config(config, mesh)
        return cls.create(mesh, objective, config.batch_size, precision.matmul_precision(config.dtype))

    @classmethod
    def create(
        cls, mesh: Mesh, objective: Objective, batch_size: int, matmul_precision: str | None = None
    ) -> 'Evaluator':
        """The evaluation of any objective; every process gets all of its outputs."""
        step = jax.jit(objective.evaluate, out_shardings=NamedSharding(mesh, P()))
        return cls(mesh, objective, batch_size, step, matmul_precision)

    def __call__(self, params: dict, batches: Iterable[dict], score: Score | None = None) -> dict[str, float]:
        """Exact means over every row of `batches` (padded rows do not count), and their `loss` where the
        objective has any; {} where there is no batch.

        `score` adds metrics that are no means over rows, from the objective's outputs for each batch (NumPy).
        Contrastive losses and accuracies are over the negatives of each batch, so they depend on its size.
        """
        sums, outputs = [], []
        with jax.default_matmul_precision(self.matmul_precision):
            for batch in batches:
                batch_sums, batch_outputs = self.step(
                    params, sharding.shard_batch(self.mesh, batch, self.batch_size)
                )
                sums.append(batch_sums)
                outputs.append(batch_outputs)
        if not sums:
            return {}
        averages = means(jax.device_get(sums))
        # Rates of a training step, not properties of the set.
        for name in ('examples', 'tokens'):
            averages.pop(name, None)
        loss = {'loss': float(self.objective.total_loss(averages))} if averages else {}
        return loss | averages | (score(jax.device_get(outputs)) if score else {})


def means(sums: Iterable[Mapping[str, tuple]]) -> dict[str, float]:
    """Several batches' {name: (sum, count)} → {name: Σ sum / Σ count}; a name never counted is absent."""
    totals: dict[str, np.ndarray] = {}
    for batch in sums:
        for name, pair in batch.items():
            totals[name] = totals.get(name, 0) + np.asarray(pair, np.float64)
    return {name: float(total / count) for name, (total, count) in totals.items() if count > 0}
