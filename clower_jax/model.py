"""The networks: CLOWER, for pre-training (the paper, section 3), and its character encoder with a head."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from clower_jax.bert import BertEncoder, BertShape, dense, layer_norm
from clower_jax.heads import MlmHead, SopHead

VIEWS = ('char', 'word')
PAD_ID = 0


class Embeddings(nn.Module):
    """Token, position and segment embeddings, LayerNorm, dropout; shared by both encoders.

    ids, segments: int [B, L] → [B, L, D] of `dtype`.
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
        self.dropout = nn.Dropout(self.shape.dropout)

    def __call__(self, ids: jax.Array, segments: jax.Array, deterministic: bool) -> jax.Array:
        x = self.word_embeddings(ids) + self.token_type_embeddings(segments)
        x = x + self.position_embeddings.embedding[: ids.shape[1]]
        return self.dropout(self.norm(x).astype(self.dtype), deterministic=deterministic)


class Clower(nn.Module):
    """Both encoders over one table. `view` is 'char' or 'word' everywhere.

    Called with a batch (see `docs/architecture.md`, the batch) it returns, for each view, `hidden`
    [B, L, D], fp32 `mlm_logits` [B, P, V] at the masked positions only, and fp32 `sop_logits` [B, 2].
    """

    shape: BertShape
    vocab_size: int
    base_vocab_size: int
    max_positions: int = 512
    dtype: jnp.dtype = jnp.float32
    mlm_candidates: str = 'shared'

    def setup(self):
        self.embeddings = Embeddings(self.shape, self.vocab_size, self.max_positions, self.dtype)
        self.char_encoder = BertEncoder(self.shape, self.dtype)
        self.word_encoder = BertEncoder(self.shape, self.dtype)
        self.char_mlm = MlmHead(self.shape, self.vocab_size, self.dtype)
        self.word_mlm = MlmHead(self.shape, self.vocab_size, self.dtype)
        self.char_sop = SopHead(self.shape, self.dtype)
        self.word_sop = SopHead(self.shape, self.dtype)

    def encode(self, view: str, ids: jax.Array, segments: jax.Array, deterministic: bool = True) -> jax.Array:
        """Last hidden states [B, L, D] of one view; ids, segments: int [B, L], 0 = [PAD]."""
        x = self.embeddings(ids, segments, deterministic)
        return self._part(view, 'encoder')(x, ids != PAD_ID, deterministic)

    def pool(self, view: str, hidden: jax.Array) -> jax.Array:
        """tanh(dense([CLS])): [B, L, D] → [B, D]."""
        return self._part(view, 'encoder').pool(hidden)

    def mlm_logits(self, view: str, hidden: jax.Array, positions: jax.Array) -> jax.Array:
        """fp32 logits [B, P, candidates] at int positions [B, P] of hidden [B, L, D].

        With `mlm_candidates='branch'` characters are predicted among the base rows only: the targets are
        the same, and the word rows, which no character can be, cost nothing.
        """
        at_positions = jnp.take_along_axis(hidden, positions[..., None], axis=1)
        candidates = self.base_vocab_size if view == 'char' and self.mlm_candidates == 'branch' else None
        table = self.embeddings.word_embeddings.embedding
        return self._part(view, 'mlm')(at_positions, table, candidates)

    def sop_logits(self, view: str, hidden: jax.Array) -> jax.Array:
        """fp32 logits [B, 2] of hidden [B, L, D]; 1 = the two segments are swapped."""
        return self._part(view, 'sop')(self.pool(view, hidden))

    def __call__(self, batch: dict[str, jax.Array], deterministic: bool = True) -> dict[str, dict]:
        out = {}
        for view in VIEWS:
            hidden = self.encode(view, batch[f'{view}_ids'], batch[f'{view}_segments'], deterministic)
            out[view] = {
                'hidden': hidden,
                'mlm_logits': self.mlm_logits(view, hidden, batch[f'{view}_mlm_positions']),
                'sop_logits': self.sop_logits(view, hidden),
            }
        return out

    def _part(self, view: str, part: str) -> nn.Module:
        if view not in VIEWS:
            raise ValueError(f'view must be one of {VIEWS}, not {view!r}')
        return getattr(self, f'{view}_{part}')


class _CharEncoder(nn.Module):
    """The embedding layer and the character encoder, parameters named as in `Clower`."""

    shape: BertShape
    vocab_size: int
    max_positions: int
    dtype: jnp.dtype

    def setup(self):
        self.embeddings = Embeddings(self.shape, self.vocab_size, self.max_positions, self.dtype)
        self.char_encoder = BertEncoder(self.shape, self.dtype)

    def encode(self, ids: jax.Array, segments: jax.Array, deterministic: bool) -> jax.Array:
        x = self.embeddings(ids, segments, deterministic)
        return self.char_encoder(x, ids != PAD_ID, deterministic)


class Classifier(_CharEncoder):
    """The encoder, its pooler, dropout and a dense layer: BERT's sentence and sentence-pair classifier.

    ids, segments: int [B, L], 0 = [PAD] → fp32 logits [B, num_labels]. The token table needs the base rows
    only (`vocab_size`): word rows are for pre-training.
    """

    num_labels: int

    def setup(self):
        super().setup()
        self.dropout = nn.Dropout(self.shape.dropout)
        self.classifier = dense(self.num_labels, self.dtype, None, self.shape.initializer_range)

    def __call__(self, ids: jax.Array, segments: jax.Array, deterministic: bool = True) -> jax.Array:
        pooled = self.char_encoder.pool(self.encode(ids, segments, deterministic))
        return self.classifier(self.dropout(pooled, deterministic=deterministic)).astype(jnp.float32)


class SpanFinder(_CharEncoder):
    """The encoder and a dense layer: BERT's extractive question answering.

    ids, segments: int [B, L], 0 = [PAD] → fp32 logits [B, L, 2] of each token being the answer's first and
    its last.
    """

    def setup(self):
        super().setup()
        self.qa_outputs = dense(2, self.dtype, None, self.shape.initializer_range)

    def __call__(self, ids: jax.Array, segments: jax.Array, deterministic: bool = True) -> jax.Array:
        return self.qa_outputs(self.encode(ids, segments, deterministic)).astype(jnp.float32)
