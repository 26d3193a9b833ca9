"""Vectors from pairs of texts that mean the same, with in-batch and hard negatives: supervised SimCSE, and
Sentence-BERT's multiple negatives ranking loss."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from clower_jax.models.clower import PAD_ID
from clower_jax.models.finetuned import SentenceEncoder
from clower_jax.objectives import microbatches
from clower_jax.objectives.base import MetricSums
from clower_jax.objectives.pretraining import encoder_settings, metric_sums, part_metrics
from clower_jax.objectives.sentence import PAIR, SentenceTask, batch_counts, encode_sides
from clower_jax.ops.nt_xent import HardNegatives, nt_xent


@dataclasses.dataclass(frozen=True)
class SupervisedVectors(SentenceTask):
    """A text looks for its positive among the positives and the hard negatives of the batch (Gao et al. 2021,
    arXiv 2104.08821, equation 5; without hard negatives Henderson et al. 2017, arXiv 1705.00652, section
    4.4); `symmetric`: and each positive for its text among the texts, with the mean of both losses.

    Texts that are equal, or whose pairs share a text, are no negatives of each other. With `projection` the
    vector goes through a dense layer and tanh in training.

    Batch: `char_…` the texts, `other_…` the positives, `negative_…` [B, L] the hard negatives, rows of 0
    where there is none (there need not be any), and `texts` [B, 3], the numbers of the three texts.
    """

    metrics = part_metrics('contrast')
    temperature: float
    symmetric: bool = False
    projection: bool = False

    @classmethod
    def from_config(cls, config: ConfigDict, mesh: Mesh | None = None) -> 'SupervisedVectors':
        """`model.{pooling, projection}` and `loss.{temperature, symmetric}` matter beside the encoder's
        settings."""
        encoder = SentenceEncoder(**encoder_settings(config, mesh), pooling=config.model.pooling)
        chosen = config.loss.temperature, config.loss.symmetric, config.model.projection
        return cls(encoder, *chosen, **microbatches.from_config(config, mesh))

    @classmethod
    def trained_by(cls, config: Mapping[str, Any]) -> str:
        """As `SentenceTask.trained_by`."""
        if config['model'].get('projection'):
            return 'supervised SimCSE, on pairs that mean the same (Gao et al. 2021, arXiv 2104.08821)'
        return (
            'contrast of texts with others that mean the same, against all others of a batch (multiple '
            'negatives ranking loss, Henderson et al. 2017, arXiv 1705.00652)'
        )

    def loss(self, params: dict, batch: dict, key: jax.Array | None) -> tuple[jax.Array, MetricSums]:
        """The loss of one batch, a mean over its pairs, and the sums behind it; key None: no dropout."""
        sides = (*PAIR, 'negative') if 'negative_ids' in batch else PAIR
        a, b, *hard = encode_sides(self, params, batch, key, sides, projected=self.projection)
        valid, texts = batch['char_ids'][:, 0] != PAD_ID, batch['texts']
        hard_negatives = None
        if hard:
            has_negative = batch['negative_ids'][:, 0] != PAD_ID
            hard_negatives = HardNegatives(hard[0], has_negative, jnp.tile(texts[:, 2:], 2))
        part = nt_xent(
            a, b, valid, self.temperature, texts[:, :2],
            hard_negatives=hard_negatives, symmetric=self.symmetric, mesh=self.data_parallel.mesh,
        )  # fmt: skip
        sums = metric_sums('contrast', part) | batch_counts(batch, sides)
        return part.loss / jnp.maximum(part.count, 1), sums

    def total_loss(self, means: dict) -> jax.Array:
        """The mean contrastive loss."""
        return means.get('loss_contrast', 0.0)
