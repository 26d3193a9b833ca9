"""Sentence order, masks and anchors of a batch: pure TensorFlow functions with stateless random numbers.

A record becomes two views of the same text, each laid out as `[CLS] X [SEP] Y [SEP]`: one of characters, one
of words. Every random choice about an example comes from one row of uniforms keyed by (seed, example number),
so it does not depend on the batch around it. Shapes: B examples, Lc and Lw the lengths of the two views, Pc
and Pw the numbers of predictions, K anchors.

What is here is CLOWER's way. Where a baseline has another one, a `Recipe` holds a class of
`baseline_masks.py` in the place of one of the three here.
"""

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from input_pipeline.corpus.windows import SPECIAL_TOKENS
from input_pipeline.pretraining.sentence_pairs import SentencePair, sentence_pair, sum_by_group
from input_pipeline.pretraining.word_selection import budget, fill_budget, sample
from input_pipeline.text.constants import IGNORED_LABEL, prediction_width
from input_pipeline.text.vocabulary import Vocabulary
from input_pipeline.utils.tensorflow import tf

Uniforms = Mapping[str, tf.Tensor]  # name → [B, n] float64 in [0, 1)
Batch = dict[str, tf.Tensor]


@dataclasses.dataclass(frozen=True)
class WordSelection:
    """Which whole words of the characters are masked: in random order, until a share of them is chosen.

    masks: rows of a batch that are one text, each with a mask of its own.
    """

    masks: int = 1

    @property
    def extra(self) -> int:
        """Characters that may be chosen beyond the share."""
        return 0

    def share(self, mask_rate: float) -> float:
        """Of a text's characters, what a row may have chosen."""
        return mask_rate

    def uniforms(self, seed: int, examples: tf.Tensor, sizes: Mapping[str, int]) -> dict[str, tf.Tensor]:
        """The random numbers of these examples, see `uniforms`."""
        return uniforms(seed, examples, sizes)

    def choose(self, sizes: tf.Tensor, order: tf.Tensor, limit: tf.Tensor, u: Uniforms) -> tf.Tensor:
        """[B, W] bool: the words of sizes [B, W] that are chosen, by `order` [B, W], at most `limit` [B]
        characters."""
        return fill_budget(sizes, order, limit)


class Replacement:
    """In which order words are chosen and what takes their characters' place: [MASK], as in BERT."""

    def sizes(self, word_length: int) -> dict[str, int]:
        """The random numbers of an example that this needs beside those of `make_batch`: name → how many."""
        return {}

    def order(self, sizes: tf.Tensor, u: Uniforms) -> tf.Tensor:
        """[B, W] distinct numbers, the order in which words of sizes [B, W] are chosen."""
        return u['char_order']

    def tokens(self, pair: SentencePair, u: Uniforms) -> tuple[tf.Tensor, tf.Tensor] | None:
        """Where it is not [MASK], each token for itself: uniforms [B, Lc] that decide on a replacement, and
        int32 [B, Lc] what it is; −1 = a random token."""
        return None


class CharacterInputs:
    """What of a sentence pair is masked and read: both sentences, each character by itself."""

    def maskable(self, pair: SentencePair) -> SentencePair:
        """The pair whose `is_char` and `is_word` say what may be masked."""
        return pair

    def complete(self, batch: Batch, pair: SentencePair, chosen: tf.Tensor, mask: int) -> Batch:
        """The batch's characters as the model reads them; `chosen` [B, Lc] bool is what was masked."""
        return batch


class Recipe(NamedTuple):
    """What of a batch is wanted; the default is CLOWER's.

    views: ('char', 'word') or ('char',). anchors: whether words are picked for the token contrast. swap:
    whether half of the sentence pairs are swapped; else all are in order. A batch without words or anchors is
    the same otherwise, and so are the rows in order of one without swapping.
    """

    views: tuple[str, ...] = ('char', 'word')
    anchors: bool = True
    swap: bool = True
    selection: WordSelection = WordSelection()
    replacement: Replacement = Replacement()
    inputs: CharacterInputs = CharacterInputs()

    def prediction_width(self, char_length: int, mask_rate: float) -> int:
        """Pc."""
        return prediction_width(char_length, self.selection.share(mask_rate)) + self.selection.extra


CLOWER = Recipe()


def make_batch(
    records: Mapping[str, tf.RaggedTensor],
    examples: tf.Tensor,
    *,
    vocabulary: Vocabulary,
    seed: int,
    char_length: int,
    word_length: int,
    mask_rate: float = 0.15,
    max_anchors: int = 20,
    max_anchor_length: int = 4,
    recipe: Recipe = CLOWER,
) -> Batch:
    """Masks both views of every record and picks its anchors (the inputs of CLOWER, arXiv 2208.10844).

    Args:
      records: name → RaggedTensor [B, (n)] of int32 with `char_ids`, `word_ids`, `word_char_len`,
        `sentence_words`, `whole_word_tokens`; at most char_length − 3 characters and word_length − 3 words.
      examples: [B] int64, the running number of each example: with `seed` it decides every random choice.
      vocabulary: gives `cls`, `sep`, `mask`, `anchor_mask(longest)` and `random_ids(base_only)`.
      mask_rate: share of each view's tokens chosen for prediction.
      max_anchors: K, at least 1 and at most word_length.
      max_anchor_length: characters of an anchor, at most; 0: any number.
      recipe: which parts of the batch are wanted.

    Returns:
      The int32 batch of docs/architecture.md: `char_ids`, `char_segments` [B, Lc]; `word_ids`,
      `word_segments` [B, Lw]; `{char,word}_mlm_{positions,labels}` [B, Pc or Pw];
      `anchor_{word_position,char_start,char_length,ids}` [B, K]; `sop_labels` [B]; as far as the recipe has
      them, and what its `inputs` add.
    """
    may_anchor = vocabulary.anchor_mask(max_anchor_length)
    check_records(records, char_length, word_length, len(may_anchor))
    char_width = recipe.prediction_width(char_length, mask_rate)
    word_width = prediction_width(word_length, mask_rate)
    sizes = {'boundary': 1, 'swap': 1}
    sizes |= {'char_order': word_length, 'char_action': char_width, 'char_random': char_width}
    if 'word' in recipe.views:
        sizes |= {'word_order': word_length, 'word_action': word_width, 'word_random': word_width}
        sizes |= {'anchor_order': word_length} if recipe.anchors else {}
    u = recipe.selection.uniforms(seed, examples, sizes | recipe.replacement.sizes(word_length))

    swap_u = u['swap'][:, 0] if recipe.swap else tf.ones_like(u['swap'][:, 0])
    pair = sentence_pair(
        records, u['boundary'][:, 0], swap_u, vocabulary.cls, vocabulary.sep, char_length, word_length
    )
    chars, words_of_chosen_chars = mask_characters(pair, u, vocabulary, mask_rate, recipe)
    batch = {'sop_labels': pair.sop_labels} | chars
    if 'word' in recipe.views:
        words, chosen_words = mask_words(pair, u, vocabulary, mask_rate)
        batch |= words
        if recipe.anchors:
            # A word chosen for prediction in either view is out, even where its tokens were kept.
            free = pair.is_word & ~chosen_words & ~words_of_chosen_chars
            batch |= pick_anchors(pair, free, u, may_anchor, max_anchors)
    return batch


def check_records(
    records: Mapping[str, tf.RaggedTensor], char_length: int, word_length: int, rows: int
) -> None:
    """Asserts that records fit into the views, and their words into a vocabulary of so many rows."""
    limits = char_length - SPECIAL_TOKENS, word_length - SPECIAL_TOKENS
    fits = [records[f'{view}_ids'].row_lengths() <= n for view, n in zip(('char', 'word'), limits)]
    room = f'a row has room for {limits[0]} characters and {limits[1]} words'
    tf.debugging.Assert(tf.reduce_all(fits), [room])
    known = tf.reduce_max(records['word_ids'].flat_values) < rows
    tf.debugging.Assert(known, [f'the vocabulary has {rows} rows'])


def mask_characters(
    pair: SentencePair, u: Uniforms, vocabulary: Vocabulary, mask_rate: float, recipe: Recipe = CLOWER
) -> tuple[Batch, tf.Tensor]:
    """`char_ids`, `char_segments`, `char_mlm_positions`, `char_mlm_labels` of a batch, whole words masked;
    and bool [B, Lw], the word tokens whose characters were chosen.

    Args:
      u: the uniforms `char_order` [B, Lw], `char_action` and `char_random` [B, Pc].
    """
    selection, replacement = recipe.selection, recipe.replacement
    pair = recipe.inputs.maskable(pair)
    char_length, word_length = pair.char_ids.shape[1], pair.word_ids.shape[1]
    # A word's size is spread over its word tokens, so sum it per whole word.
    sizes = sum_by_group(tf.where(pair.is_word, pair.word_char_len, 0), pair.whole_word, word_length)
    limit = budget(pair.is_char, selection.share(mask_rate)) + selection.extra
    chosen = selection.choose(sizes, replacement.order(sizes, u), limit, u)
    chosen_words = tf.gather(chosen, pair.whole_word, batch_dims=1)
    chosen_chars = pair.is_char & tf.gather(chosen_words, pair.word_of_char, batch_dims=1)
    width = recipe.prediction_width(char_length, mask_rate)
    batch = mask_tokens(
        'char', pair.char_ids, chosen_chars, u, vocabulary, width, replacement.tokens(pair, u)
    )
    batch['char_segments'] = pair.char_segments
    return recipe.inputs.complete(batch, pair, chosen_chars, vocabulary.mask), chosen_words


def mask_words(
    pair: SentencePair, u: Uniforms, vocabulary: Vocabulary, mask_rate: float
) -> tuple[Batch, tf.Tensor]:
    """`word_ids`, `word_segments`, `word_mlm_positions`, `word_mlm_labels` of a batch, each word token masked
    for itself, independent of the characters; and bool [B, Lw], those that were chosen.

    Args:
      u: the uniforms `word_order` [B, Lw], `word_action` and `word_random` [B, Pw].
    """
    width = prediction_width(pair.word_ids.shape[1], mask_rate)
    chosen = sample(u['word_order'], pair.is_word, budget(pair.is_word, mask_rate), width)
    batch = mask_tokens('word', pair.word_ids, chosen, u, vocabulary, width)
    return batch | {'word_segments': pair.word_segments}, chosen


def pick_anchors(
    pair: SentencePair, free: tf.Tensor, u: Uniforms, may_anchor: np.ndarray, max_anchors: int
) -> Batch:
    """`anchor_{word_position,char_start,char_length,ids}` [B, K] of a batch, padded with 0: a uniform sample
    of the words that may be anchors.

    Args:
      free: bool [B, Lw], the words that are masked in neither view.
      u: the uniforms `anchor_order` [B, Lw].
      may_anchor: bool [V], the rows of the vocabulary that may.
      max_anchors: K.
    """
    eligible = free & tf.gather(tf.constant(may_anchor, tf.bool), pair.word_ids)
    count = tf.fill(tf.shape(free)[:1], max_anchors)
    positions, real = positions_of(sample(u['anchor_order'], eligible, count, max_anchors), max_anchors)

    def at_anchors(values: tf.Tensor) -> tf.Tensor:
        return tf.where(real, tf.gather(values, positions, batch_dims=1), 0)

    return {
        'anchor_word_position': positions,
        'anchor_char_start': at_anchors(pair.char_end - pair.word_char_len),
        'anchor_char_length': at_anchors(pair.word_char_len),
        'anchor_ids': at_anchors(pair.word_ids),
    }


def mask_tokens(
    view: str,
    ids: tf.Tensor,
    chosen: tf.Tensor,
    u: Uniforms,
    vocabulary: Vocabulary,
    width: int,
    replacing: tuple[tf.Tensor, tf.Tensor] | None = None,
) -> Batch:
    """`{view}_ids`, `{view}_mlm_positions` and `{view}_mlm_labels` of a batch: BERT's replacements at the
    chosen tokens.

    Args:
      ids: [B, L] int32.
      chosen: [B, L] bool, at most `width` of a row.
      u: the uniforms [B, width] `{view}_action` and `{view}_random`.
      replacing: instead of `{view}_action` and of [MASK], see `Replacement.tokens`.
    """
    positions, real = positions_of(chosen, width)
    random_ids = vocabulary.random_ids(base_only=view == 'char')
    action, instead = u[f'{view}_action'], vocabulary.mask
    if replacing is not None:
        action, instead = (tf.gather(values, positions, batch_dims=1) for values in replacing)
    ids, labels = replace(ids, positions, real, action, u[f'{view}_random'], instead, random_ids)
    return {f'{view}_ids': ids, f'{view}_mlm_positions': positions, f'{view}_mlm_labels': labels}


def uniforms(seed: int, examples: tf.Tensor, sizes: Mapping[str, int]) -> dict[str, tf.Tensor]:
    """name → [B, sizes[name]] float64 in [0, 1): row b is a function of (seed, examples[b], sizes) alone.

    In float64 two draws of a row are never equal in practice, and `int(u * n)` is uniform for any n.
    """
    total = sum(sizes.values())

    def draw(example: tf.Tensor) -> tf.Tensor:
        key = tf.stack([tf.constant(seed, tf.int64), example])
        return tf.random.stateless_uniform([total], key, dtype=tf.float64)

    row = tf.TensorSpec([total], tf.float64)
    rows = tf.map_fn(draw, tf.cast(examples, tf.int64), fn_output_signature=row)
    return dict(zip(sizes, tf.split(rows, list(sizes.values()), axis=1), strict=True))


def positions_of(mask: tf.Tensor, width: int) -> tuple[tf.Tensor, tf.Tensor]:
    """The marked positions of `mask` [B, L], ascending, 0-padded, [B, width] int32; which are real, bool."""
    length = mask.shape[1]
    from_end = tf.math.top_k(tf.where(mask, length - tf.range(length), 0), width).values
    real = from_end > 0
    return tf.where(real, length - from_end, 0), real


def replace(
    ids: tf.Tensor,
    positions: tf.Tensor,
    real: tf.Tensor,
    action_u: tf.Tensor,
    random_u: tf.Tensor,
    instead: int | tf.Tensor,
    random_ids: np.ndarray,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Puts what stands in for it (80 %), a random token (10 %) or the token itself (10 %) at each chosen
    position, as BERT and MacBERT do.

    Args:
      ids: [B, L] int32.
      positions, real: [B, P] as from `positions_of`.
      action_u, random_u: [B, P] uniforms.
      instead: an id, BERT's [MASK]; or [B, P] ids, −1 = a random token.
      random_ids: [R] ids to draw a random token from.

    Returns:
      ids [B, L] with the replacements; labels [B, P], the original ids, `IGNORED_LABEL` where not real.
    """
    labels = tf.gather(ids, positions, batch_dims=1)
    random_ids = tf.constant(random_ids, tf.int32)
    drawn = tf.gather(random_ids, tf.cast(random_u * tf.cast(tf.size(random_ids), tf.float64), tf.int32))
    instead = tf.where(instead >= 0, instead, drawn)
    new = tf.where(action_u < 0.8, instead, tf.where(action_u < 0.9, drawn, labels))
    new = tf.where(real, new, labels)  # padding points at position 0: write back what is there
    rows = tf.broadcast_to(tf.range(tf.shape(ids)[0])[:, None], tf.shape(positions))
    ids = tf.tensor_scatter_nd_update(ids, tf.stack([rows, positions], axis=-1), new)
    return ids, tf.where(real, labels, IGNORED_LABEL)
