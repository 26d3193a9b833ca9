"""ML-CTL: translations pulled together, as sentences and word by word (arXiv 2202.13083).

Only the paper's abstract was at hand. Our reading of it: word-level positives are aligned words of the two
sentences, and CZ-NCE, the 'cross-zero' contrastive loss, is NT-Xent whose denominator leaves the positive
out. InfoNCE is the logarithm of 1 + Σ exp(negative − positive): where few negatives lie far below the
positive, the sum is lost beside the 1 in floating point, and the gradient with it. Without the 1 the loss
goes on through zero, and its gradient does not depend on how far the positive is ahead.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from clower_jax.models.clower import PAD_ID
from clower_jax.models.finetuned import SentenceEncoder, pool_tokens
from clower_jax.objectives import microbatches
from clower_jax.objectives.base import COUNT, MetricSums
from clower_jax.objectives.pretraining import check_choice, encoder_settings, metric_sums, part_metrics
from clower_jax.objectives.sentence import (
    PAIR,
    SentenceTask,
    batch_counts,
    deinterleave,
    flat,
    interleave,
    seeds_of_texts,
)
from clower_jax.ops import losses
from clower_jax.ops.linear import rows_at

CONTRASTS = ('cz_nce', 'info_nce')


@dataclasses.dataclass(frozen=True)
class MlCtl(SentenceTask):
    """L = L_sentence + word_weight·L_word, either of them CZ-NCE or InfoNCE (`contrast`).

    Sentences are contrasted by their pooled vectors, among the 2N − 1 others of the batch; words by the means
    of their tokens' last hidden states, among the words of the other language, and with `within_words` those
    of their own, too.

    Batch: `char_ids`, `char_segments`, `char_words` [B, L] and `other_ids`, `other_segments`, `other_words`
    [B, L], the translation; `…_words` is the number of the word that a token is of, from 1, and 0 of none.
    `alignment` [B, K, 2], numbers of words that translate each other, 0 where there are fewer than K. Where
    it is missing, the model's own vectors align the words (`mutual_alignment`), at most `max_aligned` a pair
    of sentences, with a cosine of `align_threshold` or more; no gradient goes through that choice.
    """

    metrics = {**part_metrics('sentence', 'word'), 'aligned_words': COUNT}
    model: SentenceEncoder
    contrast: str
    temperature: float
    word_weight: float
    within_words: bool
    align_threshold: float
    max_aligned: int

    @classmethod
    def from_config(cls, config: ConfigDict, mesh: Mesh | None = None) -> 'MlCtl':
        """Raises ValueError where a config value is not one of its choices."""
        check_choice('loss.contrast', config.loss.contrast, CONTRASTS)
        chosen = ('contrast', 'temperature', 'word_weight', 'within_words', 'align_threshold')
        return cls(
            SentenceEncoder(**encoder_settings(config, mesh), pooling=config.model.pooling),
            max_aligned=config.data.max_aligned,
            **microbatches.from_config(config, mesh),
            **{name: config.loss[name] for name in chosen},
        )

    @classmethod
    def trained_by(cls, config: Mapping[str, Any]) -> str:
        """As `SentenceTask.trained_by`."""
        return 'contrastive learning on translations, of sentences and of words (ML-CTL, arXiv 2202.13083)'

    def loss(self, params: dict, batch: dict, key: jax.Array | None) -> tuple[jax.Array, MetricSums]:
        """The loss of one batch and the sums behind it. Rows that are all padding do not count."""
        rows = batch, seeds_of_texts(key, len(batch['char_ids']), len(PAIR))
        _, vectors = microbatches.encode(self._encode, params, rows, self.microbatches, self.data_parallel)
        valid = batch['char_ids'][:, 0] != PAD_ID
        a, b = vectors['sentences']
        sentences = self._contrast(a, b, valid, within=True)
        (a, b), aligned = vectors['words'], vectors['aligned'].reshape(-1)
        flat_words = (-1, a.shape[-1])
        word_pairs = self._contrast(
            a.reshape(flat_words), b.reshape(flat_words), aligned, within=self.within_words
        )

        sums = {
            **batch_counts(batch),
            **metric_sums('sentence', sentences),
            **metric_sums('word', word_pairs),
            'aligned_words': (aligned.sum().astype(jnp.float32), valid.sum().astype(jnp.float32)),
        }
        means = {name: total / jnp.maximum(count, 1) for name, (total, count) in sums.items()}
        return self.total_loss(means), sums

    def _encode(self, params: dict, rows: tuple[dict, jax.Array | None]) -> tuple[MetricSums, dict]:
        """What is contrasted: `sentences`, two of [B, D], `words`, two of [B, K, D], of which the `aligned`
        are real, bool [B, K]. rows: a batch and the `seeds_of_texts`."""
        batch, seeds = rows
        ids, token_type_ids = interleave(batch, 'ids'), interleave(batch, 'segments')
        width = ids.shape[1]
        encode = self.model.encode
        hidden = self.model.apply({'params': params}, ids, token_type_ids, flat(seeds), method=encode)
        pooled = pool_tokens(hidden, ids, self.model.pooling)
        word_numbers = interleave(batch, 'words')
        words_a, words_b = deinterleave(word_vectors(hidden, word_numbers, width))
        alignment = batch.get('alignment')
        if alignment is None:
            has_word = jnp.arange(1, width + 1) <= word_numbers.max(1, keepdims=True)
            has_a, has_b = deinterleave(has_word)
            alignment = mutual_alignment(
                words_a, words_b, has_a, has_b, self.max_aligned, self.align_threshold
            )
        positions = jnp.maximum(alignment - 1, 0)
        aligned_words = rows_at(words_a, positions[..., 0]), rows_at(words_b, positions[..., 1])
        aligned = (alignment > 0).all(-1)
        return {}, {'sentences': deinterleave(pooled), 'words': aligned_words, 'aligned': aligned}

    def total_loss(self, means: dict) -> jax.Array:
        """The loss that is minimised; a part that nothing counts in is 0."""
        return means.get('loss_sentence', 0.0) + self.word_weight * means.get('loss_word', 0.0)

    def _contrast(self, a: jax.Array, b: jax.Array, valid: jax.Array, within: bool) -> losses.Sums:
        with_positive = self.contrast == 'info_nce'
        return losses.info_nce(a, b, valid, self.temperature, within=within, with_positive=with_positive)


def word_vectors(hidden: jax.Array, words: jax.Array, count: int) -> jax.Array:
    """The mean of the vectors of each word's tokens.

    Args:
      hidden: [B, L, D].
      words: int [B, L], the number of the word that a token is of, from 1; 0: of none.
      count: the largest number that gets a vector.

    Returns:
      fp32 [B, count, D]: word n of a row at n − 1, zero where the row has no such word.
    """
    # A product with an averaging matrix, as in `losses.span_means`.
    inside = words[:, None, :] == jnp.arange(1, count + 1)[:, None]  # (B, W, L)
    weights = inside / jnp.maximum(inside.sum(-1, keepdims=True), 1).astype(jnp.float32)
    return jnp.einsum('BWL,BLD->BWD', weights, hidden.astype(jnp.float32), precision='highest')


def mutual_alignment(
    a: jax.Array, b: jax.Array, valid_a: jax.Array, valid_b: jax.Array, count: int, threshold: float = -1.0
) -> jax.Array:
    """Pairs of words each of which is the other's nearest by cosine, the most alike first (the 'mutual
    arg-max' of SimAlign, Jalili Sabet et al. 2020, arXiv 2004.08728).

    Args:
      a, b: [B, V, D] and [B, W, D], the vectors of the words of two sentences.
      valid_a, valid_b: bool [B, V] and [B, W]; the others are nobody's nearest.
      count: K, the most pairs of a row.
      threshold: the least cosine of a pair.

    Returns:
      int32 [B, min(K, V), 2]: numbers of words, from 1; 0 where there are no more pairs. Not differentiable.
    """
    a, b = (jax.lax.stop_gradient(x).astype(jnp.float32) for x in (a, b))
    a, b = (x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-30) for x in (a, b))
    cosine = jnp.einsum('BVD,BWD->BVW', a, b, precision='highest')
    cosine = jnp.where(valid_a[:, :, None] & valid_b[:, None, :], cosine, -jnp.inf)
    nearest_b, nearest_a = cosine.argmax(2), cosine.argmax(1)
    mutual = jnp.take_along_axis(nearest_a, nearest_b, axis=1) == jnp.arange(a.shape[1])
    best = cosine.max(2)
    # A word that is not real has −inf to all: it is below any threshold.
    score = jnp.where(mutual & (best >= threshold), best, -jnp.inf)
    score, chosen = jax.lax.top_k(score, min(count, a.shape[1]))
    pairs = jnp.stack([chosen, jnp.take_along_axis(nearest_b, chosen, axis=1)], axis=-1)
    return jnp.where(jnp.isfinite(score)[..., None], pairs + 1, 0).astype(jnp.int32)
