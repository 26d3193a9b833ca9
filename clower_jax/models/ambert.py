"""AMBERT (Zhang et al. 2020, arXiv 2008.11869): one set of encoder weights reads characters and words, each
through an embedding layer of its own."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from clower_jax.models.bert import BertEncoder
from clower_jax.models.clower import VIEWS, Clower, Embeddings, make_attention_mask
from clower_jax.models.finetuned import Classifier
from clower_jax.models.heads import MlmHead, SopHead


class Ambert(Clower):
    """AMBERT. `char_encoder` reads both views; `embeddings` is the layer of characters, whose table has the
    base rows alone, `coarse_embeddings` that of words. The heads are a view's own, their decoders its table.
    """

    def setup(self) -> None:
        def embeddings(rows: int) -> Embeddings:
            return Embeddings(self.config, rows, self.max_positions, self.dtype)

        self.embeddings = embeddings(self.base_vocab_size)
        self.coarse_embeddings = embeddings(self.vocab_size)
        self.char_encoder = BertEncoder(self.config, self.dtype)
        self.char_mlm = MlmHead(self.config, self.base_vocab_size, self.dtype)
        self.word_mlm = MlmHead(self.config, self.vocab_size, self.dtype)
        self.char_sop, self.word_sop = SopHead(self.config, self.dtype), SopHead(self.config, self.dtype)

    def view_embeddings(self, view: str) -> Embeddings:
        """The view's own."""
        return self.embeddings if view == 'char' else self.coarse_embeddings

    def _submodule(self, view: str, part: str) -> nn.Module:
        return self.char_encoder if part == 'encoder' and view in VIEWS else super()._submodule(view, part)


class AmbertClassifier(Classifier):
    """AMBERT with a dense layer over both views' vectors (`classify_from`), side by side.

    ids, token_type_ids: int [B, Lc] of characters; word_inputs: the same of words, int [B, Lw], 0 = [PAD];
    dropout_seeds as in `Classifier` → fp32 logits [B, num_labels]. `vocab_size` rows of characters,
    `word_vocab_size` of words. It is trained by one cross-entropy: no view has a classifier of its own.
    """

    word_vocab_size: int

    @property
    def inputs(self) -> tuple[str, ...]:
        """The parts of a batch that it reads."""
        return (*super().inputs, 'word_ids', 'word_segments')

    def setup(self) -> None:
        super().setup()
        self.coarse_embeddings = Embeddings(self.config, self.word_vocab_size, self.max_positions, self.dtype)

    def __call__(
        self,
        ids: jax.Array,
        token_type_ids: jax.Array,
        *word_inputs: jax.Array,
        dropout_seeds: jax.Array | None = None,
    ) -> jax.Array:
        word_ids, word_token_type_ids = word_inputs
        word_seeds = None if dropout_seeds is None else dropout_seeds + np.uint32(VIEWS.index('word'))
        x = self.coarse_embeddings(word_ids, word_token_type_ids, None, word_seeds)
        hidden = self.char_encoder(x, make_attention_mask(word_ids, None), word_seeds)
        both = (
            self.text_vectors(self.encode(ids, token_type_ids, dropout_seeds), ids),
            self.text_vectors(hidden, word_ids),
        )
        return self.class_logits(jnp.concatenate(both, axis=-1), dropout_seeds)
