"""Tasks that make a text's vector mean what the text means: contrastive learning on pairs of texts.

Batch of all of them: `char_ids`, `char_segments` [B, L] (the first side), `example` [B] (−1: padding), and to
train `other_ids`, `other_segments` [B, L] (the second side); a task may have more sides. Outputs of an
evaluation: fp32 `vectors` [B, D] of the first side, and `example`; what they are worth is found by comparing
them.
"""

import dataclasses
import zlib
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from clower_jax.models.clower import PAD_ID, token_mask
from clower_jax.models.finetuned import SentenceEncoder
from clower_jax.objectives import microbatches
from clower_jax.objectives.base import INIT_IDS, Metric, MetricSums, Objective, initial_params
from clower_jax.ops import dropout
from clower_jax.parallel.data_parallel import DataParallel

CUTOFF_SITE = zlib.crc32(
    b'feature_cutoff'
)  # the place in the network that features are cut off at (`dropout`)


PAIR = 'char', 'other'  # the sides of a pair, as a batch names them


@dataclasses.dataclass(frozen=True)
class SentenceTask:
    """What they share: how vectors are made and evaluated. A task adds `metrics`, `loss`, `total_loss`,
    `from_config` and `trained_by`. `data_parallel` says where batches lie, `microbatches` in how many parts
    they are encoded."""

    metrics: ClassVar[Mapping[str, Metric]]
    projection = False  # whether vectors go through BERT's pooler in training
    model: SentenceEncoder
    data_parallel: DataParallel = dataclasses.field(default=DataParallel(), kw_only=True)
    microbatches: int = dataclasses.field(default=1, kw_only=True)

    @classmethod
    def from_config(cls, config: ConfigDict, mesh: Mesh | None = None) -> Objective:
        """The task of a config; `mesh` is where its batches lie, None for one device."""
        raise NotImplementedError

    @classmethod
    def trained_by(cls, config: Mapping[str, Any]) -> str:
        """What a model card says of it, after 'trained by'; config: a run's config.json."""
        raise NotImplementedError

    def init(self, key: jax.Array) -> dict:
        """Random parameters (fp32), as BERT draws them."""
        return initial_params(self.model, key, INIT_IDS, INIT_IDS, projected=self.projection)

    def evaluate(self, params: dict, batch: dict) -> tuple[MetricSums, dict]:
        """The vectors of one batch, without dropout. There is no loss: an evaluation is of single texts."""
        vectors = self.model.apply({'params': params}, batch['char_ids'], batch['char_segments'])
        return {}, {'vectors': vectors, 'example': batch['example']}

    def step_flops(self, config: ConfigDict) -> float:
        """0: steps differ in length."""
        return 0.0


def has_dropout(model: ConfigDict) -> bool:
    """Whether anything is left out of two passes over the same text."""
    return bool(model.dropout or model.attention_dropout or model.drophead)


def encode_sides(
    task: SentenceTask,
    params: dict,
    batch: dict,
    key: jax.Array | None,
    sides: tuple[str, ...] = PAIR,
    *,
    projected: bool = False,
    feature_cutoff: float = 0.0,
) -> tuple[jax.Array, ...]:
    """The vectors of each side, fp32 [B, D], all sides of a row in one pass; every text has a dropout of its
    own."""

    def encode(params: dict, rows: tuple[dict, jax.Array | None]) -> tuple[MetricSums, dict]:
        batch, seeds = rows
        ids, token_type_ids = interleave(batch, 'ids', sides), interleave(batch, 'segments', sides)
        positions = feature_mask = None
        if 'other_positions' in batch:
            shuffled = batch['other_positions']
            in_order = jnp.broadcast_to(jnp.arange(shuffled.shape[1], dtype=jnp.int32), shuffled.shape)
            positions = _interleave_rows(in_order, shuffled)
        if feature_cutoff and seeds is not None:
            shape = (len(seeds), task.model.config.hidden_size)
            kept = dropout.keep(shape, feature_cutoff, dropout.seeds_at(seeds[:, 0], CUTOFF_SITE))
            feature_mask = _interleave_rows(kept, jnp.ones_like(kept))
        vectors = task.model.apply(
            {'params': params}, ids, token_type_ids, flat(seeds), positions, feature_mask, projected
        )
        return {}, dict(zip(sides, deinterleave(vectors, len(sides)), strict=True))

    rows = batch, seeds_of_texts(key, len(batch['char_ids']), len(sides))
    vectors = microbatches.encode(encode, params, rows, task.microbatches, task.data_parallel)[1]
    return tuple(vectors[side] for side in sides)


def seeds_of_texts(key: jax.Array | None, rows: int, sides: int) -> jax.Array | None:
    """uint32 [B, sides, 2]: `dropout.row_seeds` of each text of a row; None without a key."""
    return None if key is None else dropout.row_seeds(key, rows * sides).reshape(rows, sides, -1)


def flat(seeds: jax.Array | None) -> jax.Array | None:
    """[B, sides, 2] → [B · sides, 2], in the order of `interleave`."""
    return None if seeds is None else seeds.reshape(-1, seeds.shape[-1])


def interleave(batch: dict, name: str, sides: tuple[str, ...] = PAIR) -> jax.Array:
    """[sides · B, L]: the texts of all sides, a row's next to each other: on a mesh those are on one
    device."""
    return _interleave_rows(*(batch[f'{side}_{name}'] for side in sides))


def _interleave_rows(*sides: jax.Array) -> jax.Array:
    rows = jnp.stack(sides, axis=1)
    return rows.reshape(-1, rows.shape[-1])


def deinterleave(texts: jax.Array, sides: int = len(PAIR)) -> tuple[jax.Array, ...]:
    """[sides · B, …] as `interleave` has it → [B, …] of each side, without a slice that would cross
    devices."""
    rows = texts.reshape(-1, sides, *texts.shape[1:])
    return tuple(rows[:, side] for side in range(sides))


def batch_counts(batch: dict, sides: tuple[str, ...] = PAIR) -> MetricSums:
    """`examples`, real pairs, and `tokens` of all sides: what rates are computed from."""
    ids = batch['char_ids']
    tokens = sum(token_mask(batch[f'{side}_ids']).sum() for side in sides)
    values = {'examples': (ids[:, 0] != PAD_ID).sum(), 'tokens': tokens}
    return {name: (value.astype(jnp.float32), jnp.ones(())) for name, value in values.items()}
