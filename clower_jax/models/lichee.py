"""LICHEE (arXiv 2108.00801): one encoder over characters, each merged with the word that it is in."""

import jax
import jax.numpy as jnp

from clower_jax.models.clower import Clower, Embeddings, make_attention_mask, packed_positions
from clower_jax.models.finetuned import Classifier, SingleEncoder, SpanFinder


class Lichee(Clower):
    """LICHEE. A batch has also `char_words` int [B, Lc]: the row of the word that each character is in, its
    own where that word has none, [MASK] where the character is to be predicted. Words and characters are
    rows of one table; what is read of a token is the larger of its two rows, element by element."""

    @property
    def inputs(self) -> tuple[str, ...]:
        """The parts of a batch that it reads."""
        return (*super().inputs, 'char_words')

    def encode_batch(
        self, view: str, batch: dict[str, jax.Array], dropout_seeds: jax.Array | None
    ) -> jax.Array:
        """Last hidden states [B, Lc, D] of the one view, 'char'."""
        ids, segment_ids = batch['char_ids'], batch.get('char_texts')
        positions = packed_positions(segment_ids, batch.get('char_starts'))
        x = merged_embeddings(
            self.embeddings, ids, batch['char_segments'], batch['char_words'], positions, dropout_seeds
        )
        return self.char_encoder(x, make_attention_mask(ids, segment_ids), dropout_seeds)


def merged_embeddings(
    embeddings: Embeddings,
    ids: jax.Array,
    token_type_ids: jax.Array,
    word_ids: jax.Array,
    positions: jax.Array | None,
    dropout_seeds: jax.Array | None,
) -> jax.Array:
    """[B, L, D]: the embedding layer over max(row of ids, row of words), all int [B, L] (LICHEE's choice
    among the ways to merge them)."""
    table = embeddings.word_embeddings
    return embeddings.from_token_embeddings(
        jnp.maximum(table(ids), table(word_ids)), token_type_ids, positions, dropout_seeds
    )


class _LicheeEncoder(SingleEncoder):
    """The encoder over characters merged with words; word_inputs: one, int [B, L], as `char_words` in
    `Lichee`."""

    @property
    def inputs(self) -> tuple[str, ...]:
        """The parts of a batch that it reads."""
        return (*super().inputs, 'char_words')

    def encode_inputs(
        self,
        ids: jax.Array,
        token_type_ids: jax.Array,
        word_inputs: tuple[jax.Array, ...],
        dropout_seeds: jax.Array | None,
    ) -> jax.Array:
        """Last hidden states [B, L, D]."""
        x = merged_embeddings(self.embeddings, ids, token_type_ids, word_inputs[0], None, dropout_seeds)
        return self.char_encoder(x, make_attention_mask(ids, None), dropout_seeds)


class LicheeClassifier(_LicheeEncoder, Classifier):
    """LICHEE as a `Classifier`."""


class LicheeSpanFinder(_LicheeEncoder, SpanFinder):
    """LICHEE as a `SpanFinder`."""
