"""The networks: CLOWER, for pre-training (the paper, section 3), and its character encoder with a head."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from clower_jax.bert import BertEncoder, BertShape, Dense, Dropout, layer_norm
from clower_jax.heads import MlmHead, SopHead
from clower_jax.products import dot, rows_at

VIEWS = ('char', 'word')
PAD_ID = 0
POOLINGS = ('mean', 'cls', 'embeddings')  # of `SentenceEncoder`


class Embeddings(nn.Module):
    """Token, position and segment embeddings, LayerNorm, dropout; shared by both encoders.

    ids, segments: int [B, L]; positions: int [B, L], or None for 0, 1, … in every row; keys as `BertLayer`
    has them → [B, L, D] of `dtype`.
    """

    shape: BertShape
    vocab_size: int
    max_positions: int
    dtype: jnp.dtype

    def setup(self):
        normal = nn.initializers.normal(self.shape.initializer_range)

        def table(rows, name):
            return nn.Embed(rows, self.shape.hidden_size, embedding_init=normal, name=name)

        self.word_embeddings = table(self.vocab_size, 'word_embeddings')
        self.position_embeddings = table(self.max_positions, 'position_embeddings')
        self.token_type_embeddings = table(2, 'token_type_embeddings')
        self.norm = layer_norm('LayerNorm')
        self.dropout = Dropout(self.shape.dropout)

    def __call__(
        self, ids: jax.Array, segments: jax.Array, positions: jax.Array | None, keys: jax.Array | None
    ) -> jax.Array:
        return self.placed(self.word_embeddings(ids), segments, positions, keys)

    def placed(
        self, tokens: jax.Array, segments: jax.Array, positions: jax.Array | None, keys: jax.Array | None
    ) -> jax.Array:
        """The rest of the layer: rows of the token table [B, L, D] → [B, L, D]."""
        table = self.position_embeddings.embedding
        first, second = self.token_type_embeddings.embedding
        # Neither table is gathered from: thousands of tokens share a row, which makes the derivative of a
        # gather, a scatter, slow.
        at_position = table[: segments.shape[1]] if positions is None else rows_at(table[None], positions)
        x = tokens + jnp.where(segments[..., None] == 0, first, second) + at_position
        return self.dropout(self.norm(x).astype(self.dtype), keys)


class Clower(nn.Module):
    """An encoder for each of `views` over one table: both, or the character encoder alone. `view` is 'char'
    or 'word' everywhere. Kinds of model: clower_jax/kinds.py.

    Rows hold one text, or several one after another (docs/architecture.md, the batch): `texts` says which
    token is of which, counted from 1, 0 on padding, and `starts` [B, S] where each text's [CLS] is. Without
    them a row is one text.

    Called with a batch it returns, for each view, `hidden` [B, L, D], `cls` [B, S, D], `mlm_vectors`
    [B, P, D] at the masked positions only, whose products with the rows of `decoder` are the logits, and
    fp32 `sop_logits` [B, S, 2].
    """

    shape: BertShape
    vocab_size: int
    base_vocab_size: int
    max_positions: int = 512
    dtype: jnp.dtype = jnp.float32
    mlm_candidates: str = 'shared'
    views: tuple[str, ...] = VIEWS

    @property
    def inputs(self) -> tuple[str, ...]:
        """The parts of a batch that it reads, as far as rows of one text have them."""
        names = ('ids', 'segments', 'mlm_positions')
        return tuple(f'{view}_{name}' for view in self.views for name in names)

    def setup(self):
        self.embeddings = Embeddings(self.shape, self.vocab_size, self.max_positions, self.dtype)
        for view in self.views:
            setattr(self, f'{view}_encoder', BertEncoder(self.shape, self.dtype))
            setattr(self, f'{view}_mlm', MlmHead(self.shape, self.vocab_size, self.dtype))
            setattr(self, f'{view}_sop', SopHead(self.shape, self.dtype))

    def encode(
        self,
        view: str,
        ids: jax.Array,
        segments: jax.Array,
        texts: jax.Array | None = None,
        starts: jax.Array | None = None,
        keys: jax.Array | None = None,
    ) -> jax.Array:
        """Last hidden states [B, L, D] of one view; ids, segments, texts: int [B, L], 0 = [PAD]; starts: int
        [B, S]; keys: uint32 [B, 2] of `dropout.row_keys`, None for no dropout."""
        if keys is not None:  # what reads both views is shared; what it drops is not
            keys = keys + np.uint32(VIEWS.index(view))
        x = self.embeddings_of(view)(ids, segments, positions_in_texts(texts, starts), keys)
        return self._part(view, 'encoder')(x, attends(ids, texts), keys)

    def embeddings_of(self, view: str) -> Embeddings:
        """The embedding layer that a view goes through."""
        return self.embeddings

    def encode_batch(self, view: str, batch: dict[str, jax.Array], keys: jax.Array | None) -> jax.Array:
        """`encode` of a view of a batch."""
        texts, starts = batch.get(f'{view}_texts'), batch.get(f'{view}_starts')
        return self.encode(view, batch[f'{view}_ids'], batch[f'{view}_segments'], texts, starts, keys)

    def pool(self, view: str, cls: jax.Array) -> jax.Array:
        """tanh(dense([CLS])): [..., D] → [..., D]."""
        return self._part(view, 'encoder').pool(cls)

    def mlm_vectors(self, view: str, hidden: jax.Array, positions: jax.Array) -> jax.Array:
        """[B, P, D]: the MLM head, up to the decoder, at int positions [B, P] of hidden [B, L, D]."""
        return self._part(view, 'mlm')(rows_at(hidden, positions))

    def decoder(self, view: str) -> tuple[jax.Array, jax.Array]:
        """The rows that a view's tokens are predicted among, fp32 [candidates, D], and their biases.

        With `mlm_candidates='branch'` characters are predicted among the base rows only: the targets are
        the same, and the word rows, which no character can be, cost nothing.
        """
        candidates = self.base_vocab_size if view == 'char' and self.mlm_candidates == 'branch' else None
        table, bias = self.embeddings_of(view).word_embeddings.embedding, self._part(view, 'mlm').bias
        return table[:candidates], bias[:candidates]

    def mlm_logits(self, view: str, hidden: jax.Array, positions: jax.Array) -> jax.Array:
        """fp32 logits [B, P, candidates] at int positions [B, P] of hidden [B, L, D]."""
        vectors = self.mlm_vectors(view, hidden, positions)
        table, bias = self.decoder(view)
        logits = dot(vectors.reshape(-1, vectors.shape[-1]), table.astype(self.dtype), transposed=True)
        return logits.reshape(*positions.shape, -1) + bias

    def sop_logits(self, view: str, cls: jax.Array) -> jax.Array:
        """fp32 logits [..., 2] of vectors of [CLS] [..., D]; 1 = the two segments are swapped."""
        return self._part(view, 'sop')(self.pool(view, cls))

    def __call__(self, batch: dict[str, jax.Array], keys: jax.Array | None = None) -> dict[str, dict]:
        out = {}
        for view in self.views:
            hidden, starts = self.encode_batch(view, batch, keys), batch.get(f'{view}_starts')
            cls = hidden[:, :1] if starts is None else rows_at(hidden, starts)
            out[view] = {
                'hidden': hidden,
                'cls': cls,
                'mlm_vectors': self.mlm_vectors(view, hidden, batch[f'{view}_mlm_positions']),
                'decoder': self.decoder(view),
                'sop_logits': self.sop_logits(view, cls),
            }
        return out

    def _part(self, view: str, part: str) -> nn.Module:
        if view not in self.views:
            raise ValueError(f'view must be one of {self.views}, not {view!r}')
        return getattr(self, f'{view}_{part}')


def real_tokens(ids: jax.Array) -> jax.Array:
    """bool [B, L]: what of rows of int ids [B, L] is no padding. Padding stands on the right alone, and a row
    ends with [SEP]; a [PAD] before that is a token that the text itself holds, which BERT attends to."""
    places = jnp.arange(1, ids.shape[1] + 1)
    lengths = jnp.where(ids != PAD_ID, places, 0).max(axis=1, keepdims=True)
    return places <= lengths


def attends(ids: jax.Array, texts: jax.Array | None) -> jax.Array:
    """bool [B, 1 or L, L]: which tokens (last axis) each token sees: those of its own text, no padding."""
    real = real_tokens(ids)[:, None, :]
    return real if texts is None else real & (texts[:, :, None] == texts[:, None, :])


def positions_in_texts(texts: jax.Array | None, starts: jax.Array | None) -> jax.Array | None:
    """int [B, L]: each token's position in its text; 0 on padding. texts: int [B, L]; starts: int [B, S].
    None where a row is one text."""
    if texts is None or starts is None:
        return None
    row = jnp.arange(texts.shape[1], dtype=jnp.int32)
    start = jnp.take_along_axis(starts, jnp.maximum(texts - 1, 0), axis=1)
    return jnp.where(texts > 0, row - start, 0)


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

    def setup(self):
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
    (clower_jax/multigrained.py).
    """

    num_labels: int
    classify_from: str

    def setup(self):
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

    def setup(self):
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
