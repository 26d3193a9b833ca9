"""AMBERT (Zhang et al. 2020, arXiv 2008.11869): one set of encoder weights reads characters and words, each
through an embedding layer of its own."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from clower_jax.models.bert import BertEncoder
from clower_jax.models.clower import VIEWS, Clower, Embeddings, attends
from clower_jax.models.finetuned import Classifier
from clower_jax.models.heads import MlmHead, SopHead


class Ambert(Clower):
    """AMBERT. `char_encoder` reads both views; `embeddings` is the layer of characters, whose table has the
    base rows alone, `coarse_embeddings` that of words. The heads are a view's own, their decoders its table.
    """

    def setup(self) -> None:
        def embeddings(rows: int) -> Embeddings:
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

    def _part(self, view: str, part: str) -> nn.Module:
        return self.char_encoder if part == 'encoder' and view in VIEWS else super()._part(view, part)


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

    def setup(self) -> None:
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
