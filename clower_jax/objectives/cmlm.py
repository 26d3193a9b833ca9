"""CMLM: a sentence's masked tokens predicted given the vector of the sentence before it (Yang et al. 2020,
'Universal Sentence Representation Learning with Conditional Masked Language Model', arXiv 2012.14388).

What the masked sentence does not tell, the vector has to, so it learns to hold what its sentence says. How it
gets in is our reading: it is projected N times, and the N vectors stand before the embedded tokens of the
masked sentence, without positions of their own, so that both sentences have those that any BERT gives them.
"""

from typing import Self

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from clower_jax.models.bert import Dense
from clower_jax.models.clower import VIEWS, Clower, make_attention_mask
from clower_jax.models.finetuned import pool_tokens
from clower_jax.objectives.pretraining import Pretrain, encoder_settings
from clower_jax.utils import flops


class ConditionalBert(Clower):
    """The character encoder, given the vector of another text: its mean last hidden state, which the same
    encoder made.

    Batch: `context_ids` [B, L'], `[CLS] A [SEP]`; `char_ids`, `char_segments` [B, L], `[CLS] B [SEP]` with
    masks; `char_mlm_positions` [B, P]. It returns what `Clower` does, without `sop_logits`.
    """

    num_vectors: int = 15  # N, how often the vector of A is projected

    @property
    def inputs(self) -> tuple[str, ...]:
        """The parts of a batch that it reads."""
        return ('context_ids', *super().inputs)

    def setup(self) -> None:
        super().setup()
        size = self.num_vectors * self.config.hidden_size
        self.projection = Dense(size, self.dtype, self.config.initializer_range)

    def condition(self, ids: jax.Array, dropout_seeds: jax.Array | None = None) -> jax.Array:
        """[B, N, D]: the vectors of the texts in int ids [B, L']; dropout_seeds as `encode` has them."""
        if dropout_seeds is not None:  # the encoder runs twice; what is dropped differs
            dropout_seeds = dropout_seeds + np.uint32(len(VIEWS))
        hidden = self.encode('char', ids, jnp.zeros_like(ids), dropout_seeds=dropout_seeds)
        vectors = self.projection(pool_tokens(hidden, ids, 'mean'))
        return vectors.reshape(len(ids), self.num_vectors, -1)

    def __call__(
        self, batch: dict[str, jax.Array], dropout_seeds: jax.Array | None = None
    ) -> dict[str, dict]:
        vectors = self.condition(batch['context_ids'], dropout_seeds)
        ids = batch['char_ids']
        x = self.embeddings(ids, batch['char_segments'], None, dropout_seeds)
        attention_mask = jnp.pad(
            make_attention_mask(ids, None), ((0, 0), (0, 0), (self.num_vectors, 0)), constant_values=True
        )
        hidden = self.char_encoder(jnp.concatenate([vectors, x], axis=1), attention_mask, dropout_seeds)[
            :, self.num_vectors :
        ]
        mlm_vectors = self.mlm_vectors('char', hidden, batch['char_mlm_positions'])
        out = {'hidden': hidden, 'cls': hidden[:, :1], 'mlm_vectors': mlm_vectors}
        return {'char': out | {'decoder': self.decoder('char')}}


class Cmlm(Pretrain):
    """L_mlm of each text's second sentence, given the vector of the first; the gradient flows through both
    passes of the encoder. Batch: see `ConditionalBert`, and `char_mlm_labels`, `sop_labels` of `Pretrain`."""

    model: ConditionalBert

    @classmethod
    def from_config(cls, config: ConfigDict, mesh: Mesh | None = None) -> Self:
        """Raises ValueError where a config value is not one of its choices."""
        if config.loss.sop_on != 'none':
            raise ValueError(
                f'loss.sop_on={config.loss.sop_on}, but a model.kind=cmlm reads sentences one at a time, in '
                'order: take none'
            )
        return super().from_config(config, mesh)

    @staticmethod
    def network(config: ConfigDict, mesh: Mesh | None = None) -> ConditionalBert:
        """What is trained."""
        return ConditionalBert(
            **encoder_settings(config, mesh),
            base_vocab_size=config.model.base_vocab_size,
            mlm_candidates=config.loss.mlm_candidates,
            views=('char',),
            num_vectors=config.loss.cmlm_vectors,
        )

    def step_flops(self, config: ConfigDict) -> float:
        """See `flops.step_flops`: here the encoder runs twice, and once over N more vectors."""
        num_vectors = self.model.num_vectors
        extra_flops = flops.encoder_flops(config, config.data.char_length + num_vectors)
        extra_flops += 2 * num_vectors * config.model.hidden_size**2
        return super().step_flops(config) + 3.0 * extra_flops * config.batch_size
