"""The Transformer encoder of BERT (Devlin et al. 2019), on vectors.

Every module is named as Hugging Face's `BertModel` names it, dots included, so converting weights is
flatten, rename and transpose. Parameters are fp32; `dtype` is what the products are computed in; LayerNorm,
softmax and every residual sum's statistics are fp32 whatever `dtype` is.
"""

import dataclasses
import functools
import zlib
from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name

from clower_jax.ops import dropout
from clower_jax.ops.attention import attention, fused_attention, library_attention
from clower_jax.ops.layer_norm import layer_norm
from clower_jax.ops.linear import linear, swapped

LAYER_NORM_EPSILON = 1e-12  # BERT's
SAVED = 'qkv'  # the name of what remat='qkv' keeps of each layer, beside its input

# What the backward pass finds in memory and what it computes again.
REMAT = {
    'none': None,
    'qkv': jax.checkpoint_policies.save_only_these_names(SAVED),
    'full': jax.checkpoint_policies.nothing_saveable,
}
ATTENTION = ('own', 'cudnn', 'fused', 'auto')


@dataclasses.dataclass(frozen=True)
class EncoderConfig:
    """The sizes of one encoder; dropout rates are probabilities of dropping: elements of hidden states, of
    attention weights, or (`drophead`) whole attention heads.

    `remat` trades time for memory: 'none' keeps all activations, 'full' only every layer's input (a third
    more FLOPs), 'qkv' also queries, keys and values (a tenth more). `attention` is 'own' (every device),
    'cudnn' (NVIDIA GPUs, 16 bits, without attention_dropout) or 'fused' (the same with it); who makes a
    network replaces 'auto' by what its devices take. `scan_layers`: the layers are one loop in the compiled
    program, which is compiled in the time of one of them.
    """

    hidden_size: int
    num_layers: int
    num_heads: int
    intermediate_size: int
    dropout: float = 0.1
    attention_dropout: float = 0.1
    drophead: float = 0.0
    initializer_range: float = 0.02
    remat: str = 'none'
    attention: str = 'own'
    scan_layers: bool = False

    @classmethod
    def from_config(cls, model: Mapping) -> 'EncoderConfig':
        """From `config.model`; what it does not say is as it is by default."""
        return cls(**{f.name: model[f.name] for f in dataclasses.fields(cls) if f.name in model})

    def __post_init__(self) -> None:
        if self.hidden_size % self.num_heads:
            raise ValueError(
                f'model.hidden_size={self.hidden_size} is not a multiple of model.num_heads={self.num_heads}'
            )
        if self.remat not in REMAT:
            raise ValueError(f'model.remat={self.remat!r} must be one of {", ".join(REMAT)}')
        if self.attention not in ATTENTION:
            raise ValueError(f'model.attention={self.attention!r} must be one of {", ".join(ATTENTION)}')
        if self.attention == 'cudnn' and self.attention_dropout:
            raise ValueError(
                f'model.attention=cudnn drops nothing, but model.attention_dropout={self.attention_dropout}: '
                'set that to 0, or take model.attention=auto'
            )


@jax.custom_vjp
def gelu(x: jax.Array) -> jax.Array:
    """x·Φ(x), exact (erf), any shape. The tanh form differs from BERT's by up to 8e-5 at the logits.

    The derivative is computed in the forward pass, where x and its erf are at hand, and is the only array
    kept: plain differentiation keeps x and computes the erf a second time.
    """
    return _gelu_and_derivative(x)[0]


def _gelu_and_derivative(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    x32 = x.astype(jnp.float32)
    cdf = 0.5 * (1.0 + jax.lax.erf(x32 * np.float32(np.sqrt(0.5))))
    density = jnp.exp(-0.5 * x32 * x32) * np.float32(1 / np.sqrt(2 * np.pi))
    return (x32 * cdf).astype(x.dtype), (cdf + x32 * density).astype(x.dtype)


gelu.defvjp(_gelu_and_derivative, lambda derivative, g: (g * derivative,))


def parameter(
    module: nn.Module, name: str, init: nn.initializers.Initializer, shape: tuple[int, ...]
) -> jax.Array:
    """`module.param`, but what has a value is taken as it is: Flax would trace `init` for its shape in every
    layer, which is a fifth of the time that tracing a network takes."""
    if module.has_variable('params', name):
        return module.get_variable('params', name)
    return module.param(name, init, shape)


@functools.cache
def normal(spread: float) -> nn.initializers.Initializer:
    """N(0, spread²) as BERT draws it. Outside of `jax.jit` each shape is compiled once, however many layers
    have it; as part of one program XLA compiles every draw anew."""
    return jax.jit(nn.initializers.normal(spread), static_argnums=(1, 2))


class Dense(nn.Module):
    """A linear layer as BERT initialises it: N(0, initializer_range²) kernel, zero bias. [..., D] →
    [..., features] of `dtype`."""

    features: int
    dtype: jnp.dtype
    initializer_range: float = 0.02

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = parameter(self, 'kernel', normal(self.initializer_range), (x.shape[-1], self.features))
        bias = parameter(self, 'bias', nn.initializers.zeros, (self.features,))
        return linear(x.astype(self.dtype), kernel, bias)


class Dropout(nn.Module):
    """`dropout.dropout` at a site of its own."""

    rate: float

    @nn.compact
    def __call__(self, x: jax.Array, dropout_seeds: jax.Array | None) -> jax.Array:
        dropout_seeds = (
            None if dropout_seeds is None else dropout.seeds_at(dropout_seeds, dropout_site(self.path))
        )
        return dropout.dropout(x, self.rate, dropout_seeds)


def dropout_site(path: tuple[str, ...]) -> int:
    """A number for every path in the network."""
    return zlib.crc32('/'.join(path).encode())


class LayerNorm(nn.Module):
    """LayerNorm over the last axis, computed in fp32: [..., D] → [..., D] of `dtype`."""

    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        scale = parameter(self, 'scale', nn.initializers.ones, x.shape[-1:])
        bias = parameter(self, 'bias', nn.initializers.zeros, x.shape[-1:])
        return layer_norm(x, scale, bias, LAYER_NORM_EPSILON, self.dtype)


# Where a layer drops: attention weights, whole heads, and before either residual sum.
DROPOUT_SITES = ('', 'attention.drophead', 'attention.output.dropout', 'output.dropout')


def layer_dropout_sites(path: tuple[str, ...]) -> np.ndarray:
    """uint32 [4]: the dropout sites of the layer at this path, in the order of DROPOUT_SITES."""
    return np.array([dropout_site((*path, name) if name else path) for name in DROPOUT_SITES], np.uint32)


class BertLayer(nn.Module):
    """One post-LayerNorm Transformer layer: [B, L, D] → [B, L, D].

    `attention_mask`: bool [B, 1 or L, L], which tokens (last axis) each token attends to. `dropout_seeds`:
    uint32 [B, 2] of `dropout.row_seeds`, None for no dropout. `dropout_sites`: uint32 [4], this layer's, of
    `layer_dropout_sites`.
    """

    config: EncoderConfig
    dtype: jnp.dtype

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        attention_mask: jax.Array,
        dropout_seeds: jax.Array | None,
        dropout_sites: jax.Array | np.ndarray,
    ) -> jax.Array:
        config, dtype = self.config, self.dtype
        weights_seeds, heads_seeds, context_seeds, output_seeds = (
            None if dropout_seeds is None else dropout.seeds_at(dropout_seeds, dropout_sites[i])
            for i in range(len(DROPOUT_SITES))
        )

        def linear(features: int, name: str) -> Dense:
            return Dense(features, dtype, config.initializer_range, name=name)

        def heads(name: str) -> jax.Array:
            h = linear(config.hidden_size, f'attention.self.{name}')(x)
            h = swapped(h.reshape(*h.shape[:-1], config.num_heads, -1), 1, 2)  # (B, N, L, H)
            return checkpoint_name(h, SAVED)

        query, key, value = (heads(part) for part in ('query', 'key', 'value'))
        if config.attention == 'cudnn':
            context = library_attention(query, key, value, attention_mask, 'cudnn')
        else:
            attend = fused_attention if config.attention == 'fused' else attention
            context = attend(query, key, value, attention_mask, config.attention_dropout, weights_seeds)
        context = dropout.drop_heads(context, config.drophead, heads_seeds)
        context = linear(config.hidden_size, 'attention.output.dense')(
            swapped(context, 1, 2).reshape(x.shape)
        )
        context = dropout.dropout(context, config.dropout, context_seeds)
        x = LayerNorm(dtype, name='attention.output.LayerNorm')(x + context)
        h = gelu(linear(config.intermediate_size, 'intermediate.dense')(x))
        h = dropout.dropout(linear(config.hidden_size, 'output.dense')(h), config.dropout, output_seeds)
        return LayerNorm(dtype, name='output.LayerNorm')(x + h)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _encode(
    config: EncoderConfig,
    dtype: jnp.dtype,
    x: jax.Array,
    attention_mask: jax.Array,
    dropout_seeds: jax.Array | None,
    dropout_sites: jax.Array | np.ndarray,
    params: dict,
) -> jax.Array:
    """A `BertLayer` of these parameters. It is traced once in a process for all layers and encoders of a
    config, and the compiler puts it in their places."""
    layer = BertLayer(config, dtype, parent=None)

    def encode(x: jax.Array, params: dict) -> jax.Array:
        return layer.apply({'params': params}, x, attention_mask, dropout_seeds, dropout_sites)

    policy = REMAT[config.remat]
    return (encode if policy is None else jax.checkpoint(encode, policy=policy))(x, params)


class BertEncoder(nn.Module):
    """`num_layers` layers and the pooler of one encoder.

    Called with vectors [B, L, D], `attention_mask` and `dropout_seeds` as `BertLayer`, it returns the last
    hidden states [B, L, D]. `pool` turns vectors of [CLS] into tanh(dense(·)), which BERT's sentence heads
    read.
    """

    config: EncoderConfig
    dtype: jnp.dtype

    def setup(self) -> None:
        self.layers = [
            BertLayer(self.config, self.dtype, name=f'encoder.layer.{i}')
            for i in range(self.config.num_layers)
        ]
        self.pooler = Dense(
            self.config.hidden_size, self.dtype, self.config.initializer_range, name='pooler.dense'
        )

    def __call__(self, x: jax.Array, attention_mask: jax.Array, dropout_seeds: jax.Array | None) -> jax.Array:
        dropout_sites = [layer_dropout_sites((*self.path, layer.name)) for layer in self.layers]
        if self.is_initializing():
            for layer, layer_sites in zip(self.layers, dropout_sites, strict=True):
                x = layer(x, attention_mask, dropout_seeds, layer_sites)
            return x
        encode = functools.partial(_encode, self.config, self.dtype)
        layer_params = [self.variables['params'][layer.name] for layer in self.layers]
        if self.config.scan_layers and self.layers:
            stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *layer_params)
            step = lambda x, of_layer: (encode(x, attention_mask, dropout_seeds, *of_layer), None)  # noqa: E731
            return jax.lax.scan(step, x, (np.stack(dropout_sites), stacked))[0]
        for layer_sites, params in zip(dropout_sites, layer_params, strict=True):
            x = encode(x, attention_mask, dropout_seeds, layer_sites, params)
        return x

    def pool(self, cls: jax.Array) -> jax.Array:
        """[..., D] → [..., D]."""
        return jnp.tanh(self.pooler(cls))
