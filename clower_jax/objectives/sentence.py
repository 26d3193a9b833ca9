"""Tasks that make a text's vector mean what the text means: contrastive learning on pairs of texts.

Batch of all of them: `char_ids`, `char_segments` [B, L] (the first side), `example` [B] (−1: padding), and to
train `other_ids`, `other_segments` [B, L] (the second side). Outputs of an evaluation: fp32 `vectors` [B, D]
of the first side, and `example`; what they are worth is found by comparing them.
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
from clower_jax.objectives.base import Metric, MetricSums, Objective
from clower_jax.ops import dropout
from clower_jax.parallel.own_rows import OwnRows

CUTOFF_SITE = zlib.crc32(
    b'feature_cutoff'
)  # the place in the network that features are cut off at (`dropout`)


@dataclasses.dataclass(frozen=True)
class SentenceTask:
    """What they share: how vectors are made and evaluated. A task adds `metrics`, `loss`, `total_loss`,
    `from_config` and `trained_by`. `own_rows` says where batches lie."""

    metrics: ClassVar[Mapping[str, Metric]]
    model: SentenceEncoder
    own_rows: OwnRows = dataclasses.field(default=OwnRows(), kw_only=True)

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
        ids = jnp.zeros((1, 2), jnp.int32)
        return self.model.init(key, ids, ids)['params']

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


def encode_pairs(
    task: SentenceTask,
    params: dict,
    batch: dict,
    key: jax.Array | None,
    projected: bool = False,
    feature_cutoff: float = 0.0,
) -> tuple[jax.Array, jax.Array]:
    """The vectors of both sides, fp32 [B, D] each, out of one pass; every row has a dropout of its own."""
    ids, token_type_ids = interleave(batch, 'ids'), interleave(batch, 'segments')
    dropout_seeds = None if key is None else dropout.row_seeds(key, len(ids))
    positions = feature_mask = None
    if 'other_positions' in batch:
        shuffled = batch['other_positions']
        in_order = jnp.broadcast_to(jnp.arange(shuffled.shape[1], dtype=jnp.int32), shuffled.shape)
        positions = _interleave_rows(in_order, shuffled)
    if feature_cutoff and dropout_seeds is not None:
        shape = (len(ids) // 2, task.model.config.hidden_size)
        kept = dropout.keep(
            shape, feature_cutoff, dropout.seeds_at(deinterleave(dropout_seeds)[0], CUTOFF_SITE)
        )
        feature_mask = _interleave_rows(kept, jnp.ones_like(kept))

    def encode(params: dict, *rows: jax.Array | None) -> tuple[dict, jax.Array]:
        return {}, task.model.apply({'params': params}, *rows, projected)

    rows = ids, token_type_ids, dropout_seeds, positions, feature_mask
    return deinterleave(task.own_rows(encode, params, *rows)[1])


def interleave(batch: dict, name: str) -> jax.Array:
    """[2·B, L]: the rows of both sides, a pair's next to each other: on a mesh they are on one device."""
    return _interleave_rows(batch[f'char_{name}'], batch[f'other_{name}'])


def _interleave_rows(first: jax.Array, second: jax.Array) -> jax.Array:
    pairs = jnp.stack([first, second], axis=1)
    return pairs.reshape(-1, pairs.shape[-1])


def deinterleave(rows: jax.Array) -> tuple[jax.Array, jax.Array]:
    """[2·B, …] as `interleave` has it → [B, …] of either side, without a slice that would cross devices."""
    pairs = rows.reshape(-1, 2, *rows.shape[1:])
    return pairs[:, 0], pairs[:, 1]


def batch_counts(batch: dict) -> MetricSums:
    """`examples`, real pairs, and `tokens` of both sides: what rates are computed from."""
    ids = batch['char_ids']
    tokens = token_mask(ids).sum() + token_mask(batch['other_ids']).sum()
    values = {'examples': (ids[:, 0] != PAD_ID).sum(), 'tokens': tokens}
    return {name: (value.astype(jnp.float32), jnp.ones(())) for name, value in values.items()}
