"""LICHEE (arXiv 2108.00801): one encoder over characters, each merged with the word that it is in."""

import jax
import jax.numpy as jnp

from clower_jax.models.clower import Clower, Embeddings, attends, positions_in_texts
from clower_jax.models.finetuned import Classifier, SpanFinder


class Lichee(Clower):
    """LICHEE. A batch has also `char_words` int [B, Lc]: the row of the word that each character is in, its
    own where that word has none, [MASK] where the character is to be predicted. Words and characters are
    rows of one table; what is read of a token is the larger of its two rows, element by element."""

    @property
    def inputs(self) -> tuple[str, ...]:
        """The parts of a batch that it reads."""
        return (*super().inputs, 'char_words')

    def encode_batch(self, view: str, batch: dict[str, jax.Array], keys: jax.Array | None) -> jax.Array:
        """Last hidden states [B, Lc, D] of the one view, 'char'."""
        ids, texts = batch['char_ids'], batch.get('char_texts')
        positions = positions_in_texts(texts, batch.get('char_starts'))
        x = merged(self.embeddings, ids, batch['char_segments'], batch['char_words'], positions, keys)
        return self.char_encoder(x, attends(ids, texts), keys)


def merged(
    embeddings: Embeddings,
    ids: jax.Array,
    segments: jax.Array,
    words: jax.Array,
    positions: jax.Array | None,
    keys: jax.Array | None,
) -> jax.Array:
    """[B, L, D]: the embedding layer over max(row of ids, row of words), all int [B, L] (LICHEE's choice
    among the ways to merge them)."""
    table = embeddings.word_embeddings
    return embeddings.placed(jnp.maximum(table(ids), table(words)), segments, positions, keys)


class LicheeClassifier(Classifier):
    """LICHEE as a `Classifier`; words: one, int [B, L], as `char_words` in `Lichee`."""

    @property
    def inputs(self) -> tuple[str, ...]:
        """The parts of a batch that it reads."""
        return (*super().inputs, 'char_words')

    def __call__(
        self, ids: jax.Array, segments: jax.Array, *words: jax.Array, keys: jax.Array | None = None
    ) -> jax.Array:
        x = merged(self.embeddings, ids, segments, words[0], None, keys)
        return self.label(self.of_text(self.char_encoder(x, attends(ids, None), keys), ids), keys)


class LicheeSpanFinder(SpanFinder):
    """LICHEE as a `SpanFinder`; words: one, int [B, L], as `char_words` in `Lichee`."""

    @property
    def inputs(self) -> tuple[str, ...]:
        """The parts of a batch that it reads."""
        return (*super().inputs, 'char_words')

    def __call__(
        self, ids: jax.Array, segments: jax.Array, *words: jax.Array, keys: jax.Array | None = None
    ) -> jax.Array:
        x = merged(self.embeddings, ids, segments, words[0], None, keys)
        return self.find(self.char_encoder(x, attends(ids, None), keys))
