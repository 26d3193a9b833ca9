"""The heads on top of an encoder: masked-language-model and sentence-order prediction."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from clower_jax.bert import BertShape, dense, gelu, layer_norm


class MlmHead(nn.Module):
    """BERT's MLM head; the decoder is the shared token table plus a bias of the head's own.

    Called with hidden states [B, P, D] at the positions to predict and the token table [V, D]; returns fp32
    logits [B, P, candidates], over the first `candidates` rows of the table (None: all of them).
    """

    shape: BertShape
    vocab_size: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, hidden: jax.Array, table: jax.Array, candidates: int | None = None) -> jax.Array:
        bias = self.param('bias', nn.initializers.zeros, (self.vocab_size,))
        h = gelu(
            dense(self.shape.hidden_size, self.dtype, 'transform.dense', self.shape.initializer_range)(hidden)
        )
        h = layer_norm('transform.LayerNorm')(h).astype(self.dtype)
        logits = jnp.einsum(
            'BPD,VD->BPV', h, table[:candidates].astype(self.dtype), preferred_element_type=jnp.float32
        )
        return logits + bias[:candidates]


class SopHead(nn.Module):
    """Sentence-order prediction (Lan et al. 2020): pooled [B, D] → fp32 logits [B, 2], 1 = swapped."""

    shape: BertShape
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, pooled: jax.Array) -> jax.Array:
        head = dense(2, self.dtype, 'seq_relationship', self.shape.initializer_range)
        return head(pooled).astype(jnp.float32)
