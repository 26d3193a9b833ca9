"""Auto-MLM: masked tokens predicted with the help of their sentence's vector (arXiv 2203.16187).

A text gives a vector of fixed size. The same text, masked, goes through the encoder again; at each masked
position a new representation is formed out of the token's vector and the sentence's, and predicts the token.
What the masked text does not tell, the sentence's vector has to, so it learns to hold the text's content.
How the two are joined is our reading: GELU of a dense layer over both, then LayerNorm.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from clower_jax.models.bert import Dense, EncoderConfig, LayerNorm, gelu
from clower_jax.models.clower import PAD_ID
from clower_jax.models.finetuned import SentenceEncoder, pool_tokens
from clower_jax.models.heads import MlmHead
from clower_jax.objectives import microbatches
from clower_jax.objectives.base import INIT_IDS, MetricSums, initial_params
from clower_jax.objectives.pretraining import encoder_settings, metric_sums, part_metrics
from clower_jax.objectives.sentence import SentenceTask, batch_counts, flat, has_dropout, seeds_of_texts
from clower_jax.ops import losses
from clower_jax.ops.fused_cross_entropy import linear_cross_entropy
from clower_jax.ops.linear import rows_at


class Fusion(nn.Module):
    """LayerNorm(GELU(dense([token; sentence]))): tokens [B, P, D] and sentences [B, D] → [B, P, D]."""

    config: EncoderConfig
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, tokens: jax.Array, sentences: jax.Array) -> jax.Array:
        sentences = jnp.broadcast_to(sentences.astype(tokens.dtype)[:, None], tokens.shape)
        dense = Dense(self.config.hidden_size, self.dtype, self.config.initializer_range, name='dense')
        h = gelu(dense(jnp.concatenate([tokens, sentences], axis=-1)))
        return LayerNorm(self.dtype, name='LayerNorm')(h)


class AutoMlmEncoder(SentenceEncoder):
    """`SentenceEncoder` with the joint of token and sentence, and BERT's MLM head on top of it."""

    def setup(self) -> None:
        super().setup()
        self.fusion = Fusion(self.config, self.dtype)
        self.char_mlm = MlmHead(self.config, self.vocab_size, self.dtype)

    def views(
        self, batch: dict[str, jax.Array], dropout_seeds: jax.Array | None = None
    ) -> dict[str, jax.Array | tuple]:
        """`first`, `second`: fp32 [B, D], the text's vector under two draws of dropout; `mlm_vectors`
        [B, P, D], whose products with the rows of `decoder` (table [V, D], bias [V]) are the logits.

        Batch: see `AutoMlm`; dropout_seeds: uint32 [3·B, 2] of `dropout.row_seeds`, None for no dropout.
        """
        ids, other, token_type_ids = batch['char_ids'], batch['other_ids'], batch['char_segments']
        flat = (-1, ids.shape[1])
        # One pass over the text twice and the masked text, next to each other: each stays on its device.
        stacked_ids = jnp.stack([ids, ids, other], 1).reshape(flat)
        hidden = self.encode(stacked_ids, jnp.stack([token_type_ids] * 3, 1).reshape(flat), dropout_seeds)
        first, second = (pool_tokens(hidden[view::3], ids, self.pooling) for view in range(2))
        masked = rows_at(hidden[2::3], batch['mlm_positions'])
        table = self.embeddings.word_embeddings.embedding
        return {
            'first': first,
            'second': second,
            'mlm_vectors': self.char_mlm(self.fusion(masked, first)),
            'decoder': (table, self.char_mlm.bias),
        }


@dataclasses.dataclass(frozen=True)
class AutoMlm(SentenceTask):
    """L = L_contrast + mlm_weight·L_mlm: InfoNCE between a text's vectors under two draws of dropout, among
    the 2N − 1 others of the batch, and the mean cross-entropy of the masked tokens.

    Batch: `char_ids`, `char_segments` [B, L]; `other_ids` [B, L], the same texts masked; `mlm_positions`,
    `mlm_labels` [B, P], −100 where padded.
    """

    metrics = part_metrics('contrast', 'mlm')
    model: AutoMlmEncoder
    temperature: float
    mlm_weight: float

    @classmethod
    def from_config(cls, config: ConfigDict, mesh: Mesh | None = None) -> 'AutoMlm':
        """Raises ValueError where nothing is dropped: both vectors of a text would be the same one."""
        if not has_dropout(config.model):
            raise ValueError(
                'model.dropout=0, model.attention_dropout=0 and model.drophead=0: dropout makes the two '
                'vectors of a text that Auto-MLM contrasts. Set one of them, 0.1 as a rule'
            )
        model = AutoMlmEncoder(**encoder_settings(config, mesh), pooling=config.model.pooling)
        weights = config.loss.temperature, config.loss.mlm_weight
        return cls(model, *weights, **microbatches.from_config(config, mesh))

    @classmethod
    def trained_by(cls, config: Mapping[str, Any]) -> str:
        """As `SentenceTask.trained_by`."""
        return 'contrastive learning together with Auto-MLM (arXiv 2203.16187)'

    def init(self, key: jax.Array) -> dict:
        """Random parameters (fp32), as BERT draws them."""
        names = ('char_ids', 'char_segments', 'other_ids', 'mlm_positions')
        batch = dict.fromkeys(names, INIT_IDS)
        return initial_params(self.model, key, batch, method='views')

    def loss(self, params: dict, batch: dict, key: jax.Array | None) -> tuple[jax.Array, MetricSums]:
        """The loss of one batch and the sums behind it. Rows that are all padding do not count."""
        rows = batch, seeds_of_texts(key, len(batch['char_ids']), 3)
        sums, vectors = microbatches.encode(self._encode, params, rows, self.microbatches, self.data_parallel)
        valid = batch['char_ids'][:, 0] != PAD_ID
        contrast = losses.info_nce(vectors['first'], vectors['second'], valid, self.temperature)
        sums |= batch_counts(batch) | metric_sums('contrast', contrast)
        means = {name: total / jnp.maximum(count, 1) for name, (total, count) in sums.items()}
        return self.total_loss(means), sums

    def _encode(self, params: dict, rows: tuple[dict, jax.Array | None]) -> tuple[MetricSums, dict]:
        """The sums of the MLM, and the vectors of each text, `first` and `second`. rows: a batch and the
        `seeds_of_texts`."""
        batch, seeds = rows
        out = self.model.apply({'params': params}, batch, flat(seeds), method=self.model.views)
        table, bias = out['decoder']
        mlm = linear_cross_entropy(
            out['mlm_vectors'], table, bias, batch['mlm_labels'], mesh=self.data_parallel.inner_mesh
        )
        return metric_sums('mlm', mlm), {side: out[side] for side in ('first', 'second')}

    def total_loss(self, means: dict) -> jax.Array:
        """The loss that is minimised; a part that nothing counts in is 0."""
        return means.get('loss_contrast', 0.0) + self.mlm_weight * means.get('loss_mlm', 0.0)
