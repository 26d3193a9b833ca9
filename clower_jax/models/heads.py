"""The heads on top of an encoder: masked-language-model and sentence-order prediction."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from clower_jax.models.bert import Dense, EncoderConfig, LayerNorm, gelu


class MlmHead(nn.Module):
    """BERT's MLM head up to its decoder, which is the shared token table plus this head's `bias` [V].

    Called with hidden states [..., D] at the positions to predict, it returns the vectors [..., D] whose
    products with the rows of the table are the logits.
    """

    config: EncoderConfig
    vocab_size: int
    dtype: jnp.dtype

    def setup(self) -> None:
        self.bias = self.param('bias', nn.initializers.zeros, (self.vocab_size,))
        self.transform = Dense(
            self.config.hidden_size, self.dtype, self.config.initializer_range, name='transform.dense'
        )
        self.norm = LayerNorm(self.dtype, name='transform.LayerNorm')

    def __call__(self, hidden: jax.Array) -> jax.Array:
        return self.norm(gelu(self.transform(hidden)))


class SopHead(nn.Module):
    """Sentence-order prediction (Lan et al. 2020): pooled [..., D] → fp32 logits [..., 2], 1 = swapped."""

    config: EncoderConfig
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, pooled: jax.Array) -> jax.Array:
        head = Dense(2, self.dtype, self.config.initializer_range, name='seq_relationship')
        return head(pooled).astype(jnp.float32)
