"""The character encoder with a head or a pooling: classification, spans, vectors of texts."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from clower_jax.models.bert import BertEncoder, BertShape, Dense, Dropout
from clower_jax.models.clower import Embeddings, attends, real_tokens

POOLINGS = ('mean', 'cls', 'embeddings')  # of `SentenceEncoder`


class _OneEncoder(nn.Module):
    """The embedding layer and the encoder of one view, parameters named as in `Clower`."""

    shape: BertShape
    vocab_size: int
    max_positions: int
    dtype: jnp.dtype
    view: str = dataclasses.field(default='char', kw_only=True)

    @property
    def inputs(self) -> tuple[str, ...]:
        """The parts of a batch that it reads."""
        return f'{self.view}_ids', f'{self.view}_segments'

    def setup(self) -> None:
        self.embeddings = Embeddings(self.shape, self.vocab_size, self.max_positions, self.dtype)
        setattr(self, f'{self.view}_encoder', BertEncoder(self.shape, self.dtype))

    @property
    def encoder(self) -> BertEncoder:
        """That of its view."""
        return getattr(self, f'{self.view}_encoder')

    def encode(self, ids: jax.Array, segments: jax.Array, keys: jax.Array | None) -> jax.Array:
        return self.encoder(self.embeddings(ids, segments, None, keys), attends(ids, None), keys)


class Classifier(_OneEncoder):
    """The encoder, a vector of the text, dropout and a dense layer: a classifier of texts and of pairs.

    `classify_from` is what it reads: 'pooler', tanh(W·h + b) of the last hidden state h of [CLS], as BERT's
    classifier; 'cls', h itself (the paper, section 3.3); or 'mean', over the text's tokens, special ones
    included.

    ids, segments: int [B, L], 0 = [PAD]; keys: uint32 [B, 2] of `dropout.row_keys`, None for no dropout →
    fp32 logits [B, num_labels]. The token table needs the base rows only (`vocab_size`): word rows are for
    pre-training, for the view 'word', and for the kinds of model that read `words` beside characters
    (clower_jax/models/ambert.py).
    """

    num_labels: int
    classify_from: str

    def setup(self) -> None:
        super().setup()
        self.dropout = Dropout(self.shape.dropout)
        self.classifier = Dense(self.num_labels, self.dtype, self.shape.initializer_range)

    def __call__(
        self, ids: jax.Array, segments: jax.Array, *words: jax.Array, keys: jax.Array | None = None
    ) -> jax.Array:
        return self.label(self.of_text(self.encode(ids, segments, keys), ids), keys)

    def of_text(self, hidden: jax.Array, ids: jax.Array) -> jax.Array:
        """[B, D]: what the class is told from; hidden: last hidden states [B, L, D] of int ids [B, L]."""
        if self.classify_from == 'pooler':
            return self.encoder.pool(hidden[:, 0])
        return pool_tokens(hidden, ids, self.classify_from).astype(self.dtype)

    def label(self, vectors: jax.Array, keys: jax.Array | None) -> jax.Array:
        """The head: vectors of texts [B, …] → fp32 logits [B, num_labels]."""
        return self.classifier(self.dropout(vectors, keys)).astype(jnp.float32)


class SpanFinder(_OneEncoder):
    """The encoder and a dense layer: BERT's extractive question answering.

    ids, segments: int [B, L], 0 = [PAD]; keys as in `Classifier` → fp32 logits [B, L, 2] of each token being
    the answer's first and its last.
    """

    def setup(self) -> None:
        super().setup()
        self.qa_outputs = Dense(2, self.dtype, self.shape.initializer_range)

    def __call__(
        self, ids: jax.Array, segments: jax.Array, *words: jax.Array, keys: jax.Array | None = None
    ) -> jax.Array:
        return self.find(self.encode(ids, segments, keys))

    def find(self, hidden: jax.Array) -> jax.Array:
        """The head: [B, L, D] → fp32 logits."""
        return self.qa_outputs(hidden).astype(jnp.float32)


class SentenceEncoder(_OneEncoder):
    """The encoder and a pooling: a vector for each text.

    ids, segments: int [B, L], 0 = [PAD]; keys as in `Classifier` → fp32 [B, D]. `pooling` is 'mean', over a
    text's tokens, special ones included and padding never, or 'cls', the last hidden state of [CLS]; or
    'embeddings', the mean of the tokens' rows of the table. Several, with commas, stand side by side in one
    vector. A row that is all padding gives a zero vector with a mean.

    For training only: positions int [B, L], others than 0, 1, …; features bool [B, D], the others are 0 in
    what the embedding layer gives; projected, whether the vector goes through BERT's pooler, tanh(dense(·)).
    """

    pooling: str = 'mean'

    def __call__(
        self,
        ids: jax.Array,
        segments: jax.Array,
        keys: jax.Array | None = None,
        positions: jax.Array | None = None,
        features: jax.Array | None = None,
        projected: bool = False,
    ) -> jax.Array:
        hidden = self.encode(ids, segments, keys, positions, features)
        pooled = [
            pool_tokens(self.embeddings.word_embeddings(ids), ids, 'mean')
            if pooling == 'embeddings'
            else pool_tokens(hidden, ids, pooling)
            for pooling in self.pooling.split(',')
        ]
        vectors = jnp.concatenate(pooled, axis=1)
        return self.encoder.pool(vectors).astype(jnp.float32) if projected else vectors

    def encode(
        self,
        ids: jax.Array,
        segments: jax.Array,
        keys: jax.Array | None,
        positions: jax.Array | None = None,
        features: jax.Array | None = None,
    ) -> jax.Array:
        x = self.embeddings(ids, segments, positions, keys)
        if features is not None:
            x = jnp.where(features[:, None], x, 0)
        return self.encoder(x, attends(ids, None), keys)


def pool_tokens(hidden: jax.Array, ids: jax.Array, pooling: str) -> jax.Array:
    """fp32 [B, D] of hidden states [B, L, D], as `SentenceEncoder`. Raises ValueError for another pooling."""
    if pooling == 'cls':
        return hidden[:, 0].astype(jnp.float32)
    if pooling != 'mean':
        raise ValueError(f'model.pooling={pooling!r} must be mean or cls')
    real = real_tokens(ids).astype(jnp.float32)
    weights = real / jnp.maximum(real.sum(1, keepdims=True), 1)
    return jnp.einsum('BL,BLD->BD', weights, hidden.astype(jnp.float32), precision='highest')
