"""Baselines that read a text as characters and as words at once: AMBERT and LICHEE, and both with a head.

AMBERT (Zhang et al. 2020, arXiv 2008.11869): one set of encoder weights reads both views, each through an
embedding layer of its own. LICHEE (Guo et al. 2021, arXiv 2108.00801): one encoder reads characters, each
merged with the word that it is in.
"""

import jax
import jax.numpy as jnp
import numpy as np

from clower_jax.bert import BertEncoder
from clower_jax.heads import MlmHead, SopHead
from clower_jax.model import VIEWS, Classifier, Clower, Embeddings, SpanFinder, attends, positions_in_texts


class Ambert(Clower):
    """AMBERT. `char_encoder` reads both views; `embeddings` is the layer of characters, whose table has the
    base rows alone, `coarse_embeddings` that of words. The heads are a view's own, their decoders its table.
    """

    def setup(self):
        def embeddings(rows):
            return Embeddings(self.shape, rows, self.max_positions, self.dtype)

        self.embeddings = embeddings(self.base_vocab_size)
        self.coarse_embeddings = embeddings(self.vocab_size)
        self.char_encoder = BertEncoder(self.shape, self.dtype)
        self.char_mlm = MlmHead(self.shape, self.base_vocab_size, self.dtype)
        self.word_mlm = MlmHead(self.shape, self.vocab_size, self.dtype)
        self.char_sop, self.word_sop = SopHead(self.shape, self.dtype), SopHead(self.shape, self.dtype)

    def embeddings_of(self, view: str) -> Embeddings:
        """The view's own."""
        return self.embeddings if view == 'char' else self.coarse_embeddings

    def _part(self, view, part):
        return self.char_encoder if part == 'encoder' and view in VIEWS else super()._part(view, part)


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


class AmbertClassifier(Classifier):
    """AMBERT with a dense layer over both views' vectors (`classify_from`), side by side.

    ids, segments: int [B, Lc] of characters, words: ids and segments, int [B, Lw], of words, 0 = [PAD]; keys
    as in `Classifier` → fp32 logits [B, num_labels]. `vocab_size` rows of characters, `word_vocab_size` of
    words. It is trained by one cross-entropy: no view has a classifier of its own.
    """

    word_vocab_size: int

    @property
    def inputs(self) -> tuple[str, ...]:
        """The parts of a batch that it reads."""
        return (*super().inputs, 'word_ids', 'word_segments')

    def setup(self):
        super().setup()
        self.coarse_embeddings = Embeddings(self.shape, self.word_vocab_size, self.max_positions, self.dtype)

    def __call__(
        self, ids: jax.Array, segments: jax.Array, *words: jax.Array, keys: jax.Array | None = None
    ) -> jax.Array:
        word_ids, word_segments = words
        word_keys = None if keys is None else keys + np.uint32(VIEWS.index('word'))
        x = self.coarse_embeddings(word_ids, word_segments, None, word_keys)
        hidden = self.char_encoder(x, attends(word_ids, None), word_keys)
        both = self.of_text(self.encode(ids, segments, keys), ids), self.of_text(hidden, word_ids)
        return self.label(jnp.concatenate(both, axis=-1), keys)


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
