"""The Transformer encoder of BERT (Devlin et al. 2019), on vectors.

Every module is named as Hugging Face's `BertModel` names it, dots included, so converting weights is
flatten, rename and transpose. Parameters are fp32; `dtype` is what the products are computed in; LayerNorm,
softmax and every residual sum's statistics are fp32 whatever `dtype` is.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

LAYER_NORM_EPSILON = 1e-12  # BERT's


@dataclasses.dataclass(frozen=True)
class BertShape:
    """The sizes of one encoder; dropout rates are probabilities of dropping."""

    hidden_size: int
    num_layers: int
    num_heads: int
    intermediate_size: int
    dropout: float = 0.1
    attention_dropout: float = 0.1
    initializer_range: float = 0.02

    def __post_init__(self):
        if self.hidden_size % self.num_heads:
            raise ValueError(
                f'model.hidden_size={self.hidden_size} is not a multiple of model.num_heads={self.num_heads}'
            )


@jax.custom_vjp
def gelu(x: jax.Array) -> jax.Array:
    """x·Φ(x), exact (erf), any shape. The tanh form differs from BERT's by up to 8e-5 at the logits.

    The derivative is computed in the forward pass, where x and its erf are at hand, and is the only array
    kept: plain differentiation keeps x and computes the erf a second time.
    """
    return _gelu_and_derivative(x)[0]


def _gelu_and_derivative(x):
    x32 = x.astype(jnp.float32)
    cdf = 0.5 * (1.0 + jax.lax.erf(x32 * np.float32(np.sqrt(0.5))))
    density = jnp.exp(-0.5 * x32 * x32) * np.float32(1 / np.sqrt(2 * np.pi))
    return (x32 * cdf).astype(x.dtype), (cdf + x32 * density).astype(x.dtype)


gelu.defvjp(_gelu_and_derivative, lambda derivative, g: (g * derivative,))


def dense(features: int, dtype, name: str | None, initializer_range: float = 0.02) -> nn.Dense:
    """A linear layer as BERT initialises it: N(0, initializer_range²) kernel, zero bias."""
    return nn.Dense(features, dtype=dtype, kernel_init=nn.initializers.normal(initializer_range), name=name)


def layer_norm(name: str) -> nn.LayerNorm:
    """LayerNorm over the last axis, computed in fp32."""
    return nn.LayerNorm(epsilon=LAYER_NORM_EPSILON, dtype=jnp.float32, use_fast_variance=False, name=name)


class BertLayer(nn.Module):
    """One post-LayerNorm Transformer layer: [B, L, D] → [B, L, D]."""

    shape: BertShape
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, attends: jax.Array, deterministic: bool) -> jax.Array:
        shape, dtype = self.shape, self.dtype

        def dropout(h):
            return nn.Dropout(shape.dropout)(h, deterministic=deterministic)

        def linear(features, name):
            return dense(features, dtype, name, shape.initializer_range)

        def heads(name):
            h = linear(shape.hidden_size, name)(x)
            return h.reshape(*h.shape[:-1], shape.num_heads, -1)  # (B, L, N, H)

        query, key, value = (heads(f'attention.self.{part}') for part in ('query', 'key', 'value'))
        scores = jnp.einsum('BTNH,BSNH->BNTS', query, key, preferred_element_type=jnp.float32)
        scores = scores / np.float32(np.sqrt(query.shape[-1]))
        scores = jnp.where(attends[:, None, None, :], scores, jnp.finfo(jnp.float32).min)
        weights = jax.nn.softmax(scores, axis=-1).astype(dtype)
        weights = nn.Dropout(shape.attention_dropout)(weights, deterministic=deterministic)
        context = jnp.einsum('BNTS,BSNH->BTNH', weights, value).reshape(x.shape)

        context = dropout(linear(shape.hidden_size, 'attention.output.dense')(context))
        x = layer_norm('attention.output.LayerNorm')(x + context).astype(dtype)
        h = gelu(linear(shape.intermediate_size, 'intermediate.dense')(x))
        h = dropout(linear(shape.hidden_size, 'output.dense')(h))
        return layer_norm('output.LayerNorm')(x + h).astype(dtype)


class BertEncoder(nn.Module):
    """`num_layers` layers and the pooler of one encoder.

    Called with vectors [B, L, D] and `attends` bool [B, L] (False on padding), it returns the last hidden
    states [B, L, D]. `pool` turns them into tanh(dense([CLS])) [B, D], which BERT's sentence heads read.
    """

    shape: BertShape
    dtype: jnp.dtype

    def setup(self):
        self.layers = [
            BertLayer(self.shape, self.dtype, name=f'encoder.layer.{i}') for i in range(self.shape.num_layers)
        ]
        self.pooler = dense(self.shape.hidden_size, self.dtype, 'pooler.dense', self.shape.initializer_range)

    def __call__(self, x: jax.Array, attends: jax.Array, deterministic: bool) -> jax.Array:
        for layer in self.layers:
            x = layer(x, attends, deterministic)
        return x

    def pool(self, hidden: jax.Array) -> jax.Array:
        """[B, L, D] → [B, D]."""
        return jnp.tanh(self.pooler(hidden[:, 0]))
