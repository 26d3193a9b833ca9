"""What an objective is, and what of data it needs: the seams that the training loop is written against.

An objective is any object with the methods of `Objective`; nothing is inherited. It has a place in
objectives/registry.py, a config in configs/, and readers of its data in input_pipeline; the loop stays.
"""

import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import flax.linen as nn
import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun
from jax.interpreters import partial_eval
from ml_collections import ConfigDict

MetricSums = dict[str, tuple[jax.Array, jax.Array]]  # metric → (sum, count), fp32 scalars
INIT_IDS = jax.ShapeDtypeStruct((1, 2), np.int32)  # of a model to draw parameters for; no value matters


class Metric(NamedTuple):
    """How a metric is read. shown: on the console where it is held out; every one is in the files."""

    higher_is_better: bool = True
    shown: bool = True


SCORE = Metric()
LOSS = Metric(higher_is_better=False)
LOSS_PART = Metric(higher_is_better=False, shown=False)
COUNT = Metric(shown=False)


class Objective(Protocol):
    """A pure loss over a batch. Parameters are a nested dict of fp32 arrays, a batch is a dict of arrays
    [B, …]."""

    @property
    def metrics(self) -> Mapping[str, Metric]:
        """What it measures, by name: `loss`, the total, and what else its sums have beside `examples` and
        `tokens`. Any other metric is a score of the data's: `SCORE`."""

    def init(self, key: jax.Array) -> dict:
        """Random parameters."""

    def loss(self, params: dict, batch: dict, key: jax.Array | None) -> tuple[jax.Array, MetricSums]:
        """The loss that is minimised, and the sums behind it, whose means over any number of batches are
        exact. key: of dropout; None: none."""

    def evaluate(self, params: dict, batch: dict) -> tuple[MetricSums, dict]:
        """The sums of one batch, without dropout, and outputs, arrays [B, …] that a scorer on the host turns
        into metrics that are no means, or what is to be shown of the first rows; {} where there are none."""

    def total_loss(self, means: dict) -> Any:
        """The loss, a scalar, out of the metrics' means."""

    def step_flops(self, config: ConfigDict) -> float:
        """FLOPs of a training step, forward and backward; 0 where steps differ."""


class Vocabulary(Protocol):
    """The tokens that a model reads: base rows first, then words, each with the base rows of its pieces."""

    @property
    def tokens(self) -> Sequence[str]: ...

    @property
    def base_size(self) -> int: ...

    def pieces(self) -> Sequence[tuple[int, ...]]:
        """Of each word, in order."""


class Data(Protocol):
    """Labelled data of one task, in splits 'train', 'validation' and 'test', as far as there are any: see
    `input_pipeline.finetuning.data.Data`."""

    splits: Mapping[str, Any]
    counts: Mapping[str, Mapping[str, Any]]

    def batches(
        self,
        config: ConfigDict,
        start_step: int = 0,
        split: str = 'train',
        rows: tuple[int, int] | None = None,
    ) -> Iterator[dict[str, np.ndarray]]:
        """Batches from `start_step` on: of 'train' without end, of the others one pass."""


class Split(Protocol):
    """One split of `Data` that a model is evaluated on. `decode` reads the outputs of a pass, once; the
    others take what it found. thresholds: where several labels are given, from which probability on each is;
    those of all splits are one dict, which `score` of the development set changes while a run trains. Else
    None."""

    @property
    def thresholds(self) -> dict[str, float] | None: ...

    def decode(self, outputs: list[dict[str, np.ndarray]]) -> Any: ...

    def score(self, decoded: Any) -> dict[str, float]: ...

    def confusion(self, decoded: Any) -> np.ndarray | None: ...

    def write_predictions(self, folder: Path, decoded: Any) -> None: ...


@runtime_checkable
class ShowsMistakes(Protocol):
    """A split that can show where a model is wrong."""

    def mistakes(self, decoded: Any, count: int) -> list[dict[str, str]]:
        """The `count` worst, the worst first, each by the names of what it says; [] where nothing is known to
        be wrong."""


def initial_params(network: nn.Module, key: jax.Array, *inputs: Any, **settings: Any) -> dict:
    """Random parameters (fp32) of a network that is called with these inputs, `INIT_IDS` for each array of
    ids, and settings. It is traced once in a process, for their shapes and for every draw; what draws
    nothing is left out, for the host that draws may not have it (cuDNN's attention)."""
    leaves, structure = jax.tree.flatten((inputs, settings))
    drawing, params = _traced_init(network, tuple(leaves), structure)
    return jax.tree.unflatten(params, jaxpr_as_fun(drawing)(key))


@functools.cache
def _traced_init(
    network: nn.Module, leaves: tuple, structure: jax.tree_util.PyTreeDef
) -> tuple[ClosedJaxpr, jax.tree_util.PyTreeDef]:
    inputs, settings = jax.tree.unflatten(structure, leaves)

    def init(key: jax.Array) -> dict:
        return network.lazy_init(key, *inputs, **settings)['params']

    traced, shapes = jax.make_jaxpr(init, return_shape=True)(jax.random.key(0))
    params = jax.tree.structure(shapes)
    used = [True] * len(traced.jaxpr.outvars)
    drawing, _ = partial_eval.dce_jaxpr(traced.jaxpr, used, instantiate=True)
    return ClosedJaxpr(drawing, traced.consts), params
