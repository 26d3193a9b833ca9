"""The character encoder with a head or a pooling: classification, spans, tags, vectors of texts."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from clower_jax.models.bert import BertEncoder, Dense, Dropout, EncoderConfig
from clower_jax.models.clower import Embeddings, make_attention_mask, packed_positions, token_mask
from clower_jax.ops.linear import rows_at

POOLINGS = ('mean', 'cls', 'embeddings')  # of `SentenceEncoder`


class SingleEncoder(nn.Module):
    """The embedding layer and the encoder of one view, parameters named as in `Clower`."""

    config: EncoderConfig
    vocab_size: int
    max_positions: int
    dtype: jnp.dtype
    view: str = dataclasses.field(default='char', kw_only=True)

    @property
    def inputs(self) -> tuple[str, ...]:
        """The parts of a batch that it reads."""
        return f'{self.view}_ids', f'{self.view}_segments'

    def setup(self) -> None:
        self.embeddings = Embeddings(self.config, self.vocab_size, self.max_positions, self.dtype)
        setattr(self, f'{self.view}_encoder', BertEncoder(self.config, self.dtype))

    @property
    def encoder(self) -> BertEncoder:
        """That of its view."""
        return getattr(self, f'{self.view}_encoder')

    def encode(self, ids: jax.Array, token_type_ids: jax.Array, dropout_seeds: jax.Array | None) -> jax.Array:
        return self.encoder(
            self.embeddings(ids, token_type_ids, None, dropout_seeds),
            make_attention_mask(ids, None),
            dropout_seeds,
        )

    def encode_inputs(
        self,
        ids: jax.Array,
        token_type_ids: jax.Array,
        word_inputs: tuple[jax.Array, ...],
        dropout_seeds: jax.Array | None,
    ) -> jax.Array:
        """Last hidden states [B, L, D] of a batch's `inputs`; this encoder has no `word_inputs`, which are
        those beside ids and token_type_ids."""
        return self.encode(ids, token_type_ids, dropout_seeds)


class Classifier(SingleEncoder):
    """The encoder, a vector of the text, dropout and a dense layer: a classifier of texts and of pairs.

    `classify_from` is what it reads: 'pooler', tanh(W·h + b) of the last hidden state h of [CLS], as BERT's
    classifier; 'cls', h itself (the paper, section 3.3); or 'mean', over the text's tokens, special ones
    included.

    ids, token_type_ids: int [B, L], 0 = [PAD]; dropout_seeds: uint32 [B, 2] of `dropout.row_seeds`, None for
    no dropout → fp32 logits [B, num_labels]. The token table needs the base rows only (`vocab_size`): word
    rows are for pre-training, for the view 'word', and for the kinds of model that read `word_inputs` beside
    characters (clower_jax/models/ambert.py).
    """

    num_labels: int
    classify_from: str

    def setup(self) -> None:
        super().setup()
        self.dropout = Dropout(self.config.dropout)
        self.classifier = Dense(self.num_labels, self.dtype, self.config.initializer_range)

    def __call__(
        self,
        ids: jax.Array,
        token_type_ids: jax.Array,
        *word_inputs: jax.Array,
        dropout_seeds: jax.Array | None = None,
    ) -> jax.Array:
        hidden = self.encode_inputs(ids, token_type_ids, word_inputs, dropout_seeds)
        return self.class_logits(self.text_vectors(hidden, ids), dropout_seeds)

    def text_vectors(self, hidden: jax.Array, ids: jax.Array) -> jax.Array:
        """[B, D]: what the class is told from; hidden: last hidden states [B, L, D] of int ids [B, L]."""
        if self.classify_from == 'pooler':
            return self.encoder.pool(hidden[:, 0])
        return pool_tokens(hidden, ids, self.classify_from).astype(self.dtype)

    def class_logits(self, vectors: jax.Array, dropout_seeds: jax.Array | None) -> jax.Array:
        """The head: vectors of texts [B, …] → fp32 logits [B, num_labels]."""
        return self.classifier(self.dropout(vectors, dropout_seeds)).astype(jnp.float32)


class SpanFinder(SingleEncoder):
    """The encoder and a dense layer: BERT's extractive question answering.

    ids, token_type_ids: int [B, L], 0 = [PAD]; dropout_seeds as in `Classifier` → fp32 logits [B, L, 2] of
    each token being the answer's first and its last.
    """

    def setup(self) -> None:
        super().setup()
        self.qa_outputs = Dense(2, self.dtype, self.config.initializer_range)

    def __call__(
        self,
        ids: jax.Array,
        token_type_ids: jax.Array,
        *word_inputs: jax.Array,
        dropout_seeds: jax.Array | None = None,
    ) -> jax.Array:
        return self.span_logits(self.encode_inputs(ids, token_type_ids, word_inputs, dropout_seeds))

    def span_logits(self, hidden: jax.Array) -> jax.Array:
        """The head: [B, L, D] → fp32 logits."""
        return self.qa_outputs(hidden).astype(jnp.float32)


class Tagger(SingleEncoder):
    """The encoder, dropout and a dense layer over every token: token classification.

    Arguments as for `Classifier` → fp32 logits [B, L, num_labels], of padding too.
    """

    num_labels: int

    def setup(self) -> None:
        super().setup()
        self.dropout = Dropout(self.config.dropout)
        self.tagger = Dense(self.num_labels, self.dtype, self.config.initializer_range)

    def __call__(
        self, ids: jax.Array, token_type_ids: jax.Array, dropout_seeds: jax.Array | None = None
    ) -> jax.Array:
        hidden = self.encode(ids, token_type_ids, dropout_seeds)
        return self.tagger(self.dropout(hidden, dropout_seeds)).astype(jnp.float32)


class Chooser(SingleEncoder):
    """The encoder, its pooler, dropout and a dense layer to one number: how well a choice fits.

    Arguments as for `Classifier` → fp32 [B].
    """

    def setup(self) -> None:
        super().setup()
        self.dropout = Dropout(self.config.dropout)
        self.chooser = Dense(1, self.dtype, self.config.initializer_range)

    def __call__(
        self, ids: jax.Array, token_type_ids: jax.Array, dropout_seeds: jax.Array | None = None
    ) -> jax.Array:
        vectors = self.encoder.pool(self.encode(ids, token_type_ids, dropout_seeds)[:, 0])
        return self.chooser(self.dropout(vectors, dropout_seeds))[:, 0].astype(jnp.float32)


class SentenceEncoder(SingleEncoder):
    """The encoder and a pooling: a vector for each text.

    ids, token_type_ids: int [B, L], 0 = [PAD]; dropout_seeds as in `Classifier` → fp32 [B, D]. `pooling` is
    'mean', over a text's tokens, special ones included and padding never, or 'cls', the last hidden state of
    [CLS]; or 'embeddings', the mean of the tokens' rows of the table. Several, with commas, stand side by
    side in one vector. A row that is all padding gives a zero vector with a mean.

    For training only: positions int [B, L], others than 0, 1, …; features bool [B, D], the others are 0 in
    what the embedding layer gives; projected, whether the vector goes through BERT's pooler, tanh(dense(·)).
    """

    pooling: str = 'mean'

    def __call__(
        self,
        ids: jax.Array,
        token_type_ids: jax.Array,
        dropout_seeds: jax.Array | None = None,
        positions: jax.Array | None = None,
        feature_mask: jax.Array | None = None,
        projected: bool = False,
    ) -> jax.Array:
        hidden = self.encode(ids, token_type_ids, dropout_seeds, positions, feature_mask)
        pooled = [
            pool_tokens(self.embeddings.word_embeddings(ids), ids, 'mean')
            if pooling == 'embeddings'
            else pool_tokens(hidden, ids, pooling)
            for pooling in self.pooling.split(',')
        ]
        vectors = jnp.concatenate(pooled, axis=1)
        return self.encoder.pool(vectors).astype(jnp.float32) if projected else vectors

    def packed_vectors(self, ids: jax.Array, segment_ids: jax.Array, text_starts: jax.Array) -> jax.Array:
        """The vectors of rows that hold several texts one after another: fp32 [B, S, D], of what is no text
        anything. ids: int [B, L]; segment_ids: int [B, L], which token is of which text, counted from 1, 0 on
        padding; text_starts: int [B, S], where each text's [CLS] is."""
        embedded = self.embeddings(
            ids, jnp.zeros_like(ids), packed_positions(segment_ids, text_starts), dropout_seeds=None
        )
        hidden = self.encoder(embedded, make_attention_mask(ids, segment_ids), None)
        numbers = jnp.arange(1, text_starts.shape[1] + 1)
        mask = (segment_ids[:, None] == numbers[:, None]).astype(jnp.float32)  # (B, S, L)
        weights = mask / jnp.maximum(mask.sum(-1, keepdims=True), 1)

        def mean(x: jax.Array) -> jax.Array:
            return jnp.einsum('BSL,BLD->BSD', weights, x.astype(jnp.float32), precision='highest')

        pooled = {
            'mean': lambda: mean(hidden),
            'cls': lambda: rows_at(hidden, text_starts).astype(jnp.float32),
            'embeddings': lambda: mean(self.embeddings.word_embeddings(ids)),
        }
        return jnp.concatenate([pooled[pooling]() for pooling in self.pooling.split(',')], axis=-1)

    def encode(
        self,
        ids: jax.Array,
        token_type_ids: jax.Array,
        dropout_seeds: jax.Array | None,
        positions: jax.Array | None = None,
        feature_mask: jax.Array | None = None,
    ) -> jax.Array:
        x = self.embeddings(ids, token_type_ids, positions, dropout_seeds)
        if feature_mask is not None:
            x = jnp.where(feature_mask[:, None], x, 0)
        return self.encoder(x, make_attention_mask(ids, None), dropout_seeds)


def pool_tokens(hidden: jax.Array, ids: jax.Array, pooling: str) -> jax.Array:
    """fp32 [B, D] of hidden states [B, L, D], as `SentenceEncoder`. Raises ValueError for another pooling."""
    if pooling == 'cls':
        return hidden[:, 0].astype(jnp.float32)
    if pooling != 'mean':
        raise ValueError(f'model.pooling={pooling!r} must be mean or cls')
    mask = token_mask(ids).astype(jnp.float32)
    weights = mask / jnp.maximum(mask.sum(1, keepdims=True), 1)
    return jnp.einsum('BL,BLD->BD', weights, hidden.astype(jnp.float32), precision='highest')
