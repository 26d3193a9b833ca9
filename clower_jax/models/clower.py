"""CLOWER, for pre-training (the paper, section 3): embeddings that two encoders share, and their heads."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from clower_jax.models.bert import BertEncoder, Dropout, EncoderConfig, LayerNorm, normal
from clower_jax.models.heads import MlmHead, SopHead
from clower_jax.ops.linear import dot, rows_at

VIEWS = ('char', 'word')
PAD_ID = 0


class Embeddings(nn.Module):
    """Token, position and segment embeddings, LayerNorm, dropout; shared by both encoders.

    ids, token_type_ids: int [B, L]; positions: int [B, L], or None for 0, 1, … in every row; dropout_seeds as
    `BertLayer` has them → [B, L, D] of `dtype`.
    """

    config: EncoderConfig
    vocab_size: int
    max_positions: int
    dtype: jnp.dtype

    def setup(self) -> None:
        embedding_init = normal(self.config.initializer_range)

        def table(rows: int, name: str) -> nn.Embed:
            return nn.Embed(rows, self.config.hidden_size, embedding_init=embedding_init, name=name)

        self.word_embeddings = table(self.vocab_size, 'word_embeddings')
        self.position_embeddings = table(self.max_positions, 'position_embeddings')
        self.token_type_embeddings = table(2, 'token_type_embeddings')
        self.norm = LayerNorm(self.dtype, name='LayerNorm')
        self.dropout = Dropout(self.config.dropout)

    def __call__(
        self,
        ids: jax.Array,
        token_type_ids: jax.Array,
        positions: jax.Array | None,
        dropout_seeds: jax.Array | None,
    ) -> jax.Array:
        return self.from_token_embeddings(self.word_embeddings(ids), token_type_ids, positions, dropout_seeds)

    def from_token_embeddings(
        self,
        token_embeddings: jax.Array,
        token_type_ids: jax.Array,
        positions: jax.Array | None,
        dropout_seeds: jax.Array | None,
    ) -> jax.Array:
        """The rest of the layer: rows of the token table [B, L, D] → [B, L, D]."""
        table = self.position_embeddings.embedding
        first_type, second_type = self.token_type_embeddings.embedding
        # Neither table is gathered from: thousands of tokens share a row, which makes the derivative of a
        # gather, a scatter, slow.
        position_embeddings = (
            table[: token_type_ids.shape[1]] if positions is None else rows_at(table[None], positions)
        )
        x = (
            token_embeddings
            + jnp.where(token_type_ids[..., None] == 0, first_type, second_type)
            + position_embeddings
        )
        return self.dropout(self.norm(x), dropout_seeds)


class Clower(nn.Module):
    """An encoder for each of `views` over one table: both, or the character encoder alone. `view` is 'char'
    or 'word' everywhere. Kinds of model: clower_jax/models/kinds.py.

    Rows hold one text, or several one after another (docs/architecture.md, the batch): `segment_ids` says
    which token is of which, counted from 1, 0 on padding, and `text_starts` [B, S] where each text's [CLS]
    is. Without them a row is one text.

    Called with a batch it returns, for each view, `hidden` [B, L, D], `cls` [B, S, D], `mlm_vectors`
    [B, P, D] at the masked positions only, whose products with the rows of `decoder` are the logits, and
    fp32 `sop_logits` [B, S, 2].
    """

    config: EncoderConfig
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

    def setup(self) -> None:
        self.embeddings = Embeddings(self.config, self.vocab_size, self.max_positions, self.dtype)
        for view in self.views:
            setattr(self, f'{view}_encoder', BertEncoder(self.config, self.dtype))
            setattr(self, f'{view}_mlm', MlmHead(self.config, self.vocab_size, self.dtype))
            setattr(self, f'{view}_sop', SopHead(self.config, self.dtype))

    def encode(
        self,
        view: str,
        ids: jax.Array,
        token_type_ids: jax.Array,
        segment_ids: jax.Array | None = None,
        text_starts: jax.Array | None = None,
        dropout_seeds: jax.Array | None = None,
    ) -> jax.Array:
        """Last hidden states [B, L, D] of one view; ids, token_type_ids, segment_ids: int [B, L], 0 = [PAD];
        text_starts: int [B, S]; dropout_seeds: uint32 [B, 2] of `dropout.row_seeds`, None for no dropout."""
        if dropout_seeds is not None:  # what reads both views is shared; what it drops is not
            dropout_seeds = dropout_seeds + np.uint32(VIEWS.index(view))
        x = self.view_embeddings(view)(
            ids, token_type_ids, packed_positions(segment_ids, text_starts), dropout_seeds
        )
        return self._submodule(view, 'encoder')(x, make_attention_mask(ids, segment_ids), dropout_seeds)

    def view_embeddings(self, view: str) -> Embeddings:
        """The embedding layer that a view goes through."""
        return self.embeddings

    def encode_batch(
        self, view: str, batch: dict[str, jax.Array], dropout_seeds: jax.Array | None
    ) -> jax.Array:
        """`encode` of a view of a batch."""
        segment_ids, text_starts = batch.get(f'{view}_texts'), batch.get(f'{view}_starts')
        return self.encode(
            view, batch[f'{view}_ids'], batch[f'{view}_segments'], segment_ids, text_starts, dropout_seeds
        )

    def pool(self, view: str, cls: jax.Array) -> jax.Array:
        """tanh(dense([CLS])): [..., D] → [..., D]."""
        return self._submodule(view, 'encoder').pool(cls)

    def mlm_vectors(self, view: str, hidden: jax.Array, positions: jax.Array) -> jax.Array:
        """[B, P, D]: the MLM head, up to the decoder, at int positions [B, P] of hidden [B, L, D]."""
        return self._submodule(view, 'mlm')(rows_at(hidden, positions))

    def decoder(self, view: str) -> tuple[jax.Array, jax.Array]:
        """The rows that a view's tokens are predicted among, fp32 [candidates, D], and their biases.

        With `mlm_candidates='branch'` characters are predicted among the base rows only: the targets are
        the same, and the word rows, which no character can be, cost nothing.
        """
        candidates = self.base_vocab_size if view == 'char' and self.mlm_candidates == 'branch' else None
        table, bias = self.view_embeddings(view).word_embeddings.embedding, self._submodule(view, 'mlm').bias
        return table[:candidates], bias[:candidates]

    def mlm_logits(self, view: str, hidden: jax.Array, positions: jax.Array) -> jax.Array:
        """fp32 logits [B, P, candidates] at int positions [B, P] of hidden [B, L, D]."""
        vectors = self.mlm_vectors(view, hidden, positions)
        table, bias = self.decoder(view)
        logits = dot(vectors.reshape(-1, vectors.shape[-1]), table.astype(self.dtype), transposed=True)
        return logits.reshape(*positions.shape, -1) + bias

    def sop_logits(self, view: str, cls: jax.Array) -> jax.Array:
        """fp32 logits [..., 2] of [CLS]'s vectors, [..., D]; 1 = the two segments are swapped."""
        return self._submodule(view, 'sop')(self.pool(view, cls))

    def __call__(
        self, batch: dict[str, jax.Array], dropout_seeds: jax.Array | None = None
    ) -> dict[str, dict]:
        out = {}
        for view in self.views:
            hidden, text_starts = self.encode_batch(view, batch, dropout_seeds), batch.get(f'{view}_starts')
            cls = hidden[:, :1] if text_starts is None else rows_at(hidden, text_starts)
            out[view] = {
                'hidden': hidden,
                'cls': cls,
                'mlm_vectors': self.mlm_vectors(view, hidden, batch[f'{view}_mlm_positions']),
                'decoder': self.decoder(view),
                'sop_logits': self.sop_logits(view, cls),
            }
        return out

    def _submodule(self, view: str, part: str) -> nn.Module:
        if view not in self.views:
            raise ValueError(f'view must be one of {self.views}, not {view!r}')
        return getattr(self, f'{view}_{part}')


def token_mask(ids: jax.Array) -> jax.Array:
    """bool [B, L]: what of rows of int ids [B, L] is no padding. Padding stands on the right alone, and a row
    ends with [SEP]; a [PAD] before that is a token that the text itself holds, which BERT attends to."""
    positions = jnp.arange(1, ids.shape[1] + 1)
    lengths = jnp.where(ids != PAD_ID, positions, 0).max(axis=1, keepdims=True)
    return positions <= lengths


def make_attention_mask(ids: jax.Array, segment_ids: jax.Array | None) -> jax.Array:
    """bool [B, 1 or L, L]: which tokens (last axis) each token sees: those of its own text, no padding."""
    mask = token_mask(ids)[:, None, :]
    return mask if segment_ids is None else mask & (segment_ids[:, :, None] == segment_ids[:, None, :])


def packed_positions(segment_ids: jax.Array | None, text_starts: jax.Array | None) -> jax.Array | None:
    """int [B, L]: each token's position in its text; 0 on padding. segment_ids: int [B, L]; text_starts: int
    [B, S]. None where a row is one text."""
    if segment_ids is None or text_starts is None:
        return None
    row = jnp.arange(segment_ids.shape[1], dtype=jnp.int32)
    start = jnp.take_along_axis(text_starts, jnp.maximum(segment_ids - 1, 0), axis=1)
    return jnp.where(segment_ids > 0, row - start, 0)
