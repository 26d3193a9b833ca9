"""Mirror-BERT and its relatives: two views of the same text pulled together."""

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
from clower_jax.objectives.sentence import SentenceTask, batch_counts, encode_sides, has_dropout
from clower_jax.ops import losses


@dataclasses.dataclass(frozen=True)
class Mirror(SentenceTask):
    """Mirror-BERT (Liu et al. 2021, arXiv 2104.08027): a text and its copy are a positive pair; they differ
    in what is masked in the copy and in what dropout leaves out. All other texts of the batch, of either
    side, are negatives (equation 2, `losses.info_nce`).

    Its relatives differ in how the sides differ and in who is a negative. Unsupervised SimCSE (Gao et al.
    2021, arXiv 2104.08821): dropout alone; negatives of the other side alone (not `within`); in training the
    vector goes through a dense layer and tanh (`projection`). ConSERT (Yan et al. 2021, arXiv 2105.11741):
    features are cut off the embeddings of the first side, each with the probability `feature_cutoff` for all
    tokens of a text; the positions of the second side are shuffled (`other_positions` [B, L] in the batch).
    """

    metrics = part_metrics('contrast')
    temperature: float
    within: bool = True
    projection: bool = False
    feature_cutoff: float = 0.0

    @classmethod
    def from_config(cls, config: ConfigDict, mesh: Mesh | None = None) -> 'Mirror':
        """`model.{pooling, projection, feature_cutoff}` and `loss.{temperature, within}` matter beside the
        encoder's settings.

        Raises ValueError where nothing is masked, dropped or shuffled: both sides of a pair would be the
        same.
        """
        model = config.model
        if not (
            config.data.mask_span
            or config.data.shuffle_positions
            or model.feature_cutoff
            or has_dropout(model)
        ):
            raise ValueError(
                'data.mask_span=0, model.dropout=0, model.attention_dropout=0 and model.drophead=0: both '
                'sides of every pair are the same. Set one of them'
            )
        encoder = SentenceEncoder(**encoder_settings(config, mesh), pooling=model.pooling)
        chosen = config.loss.temperature, config.loss.within, model.projection, model.feature_cutoff
        return cls(encoder, *chosen, **microbatches.from_config(config, mesh))

    @classmethod
    def trained_by(cls, config: Mapping[str, Any]) -> str:
        """As `SentenceTask.trained_by`."""
        if config['data'].get('shuffle_positions'):
            return 'ConSERT, with cut features and shuffled positions (Yan et al. 2021, arXiv 2105.11741)'
        if config['model'].get('projection'):
            return 'unsupervised SimCSE (Gao et al. 2021, arXiv 2104.08821)'
        return 'Mirror-BERT (Liu et al. 2021, arXiv 2104.08027)'

    def loss(self, params: dict, batch: dict, key: jax.Array | None) -> tuple[jax.Array, MetricSums]:
        """The loss of one batch, a mean over its pairs, and the sums behind it; key None: no dropout."""
        a, b = encode_sides(
            self, params, batch, key, projected=self.projection, feature_cutoff=self.feature_cutoff
        )
        valid = batch['char_ids'][:, 0] != PAD_ID
        part = losses.info_nce(a, b, valid, self.temperature, within=self.within)
        return part.loss / jnp.maximum(part.count, 1), metric_sums('contrast', part) | batch_counts(batch)

    def total_loss(self, means: dict) -> jax.Array:
        """The mean contrastive loss."""
        return means.get('loss_contrast', 0.0)
