"""Sentence order, masks and anchors of a batch: pure TensorFlow functions with stateless random numbers.

A record becomes two views of the same text, each laid out as `[CLS] X [SEP] Y [SEP]`: one of characters, one
of words. Every random choice about an example comes from one row of uniforms keyed by (seed, example number),
so it does not depend on the batch around it. Shapes: B examples, Lc and Lw the lengths of the two views, Pc
and Pw the numbers of predictions, K anchors.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from input_pipeline.corpus.windows import SPECIAL_TOKENS
from input_pipeline.pretraining.sentence_pairs import second_alone, sentence_pair, sum_by_group
from input_pipeline.pretraining.word_selection import budget, ngram_order, nth_set, sample
from input_pipeline.text.constants import IGNORE, prediction_width
from input_pipeline.text.vocabulary import Vocabulary

# Where masks share a text: characters over its share that a mask may have, for words that none had room for.
LAST_MASK = 4


class Recipe(NamedTuple):
    """What of a batch is wanted; the default is CLOWER's.

    views: ('char', 'word') or ('char',). anchors: whether words are picked for the token contrast. swap:
    whether half of the sentence pairs are swapped; else all are in order. A batch without words or anchors is
    the same otherwise, and so are the rows in order of one without swapping.

    masks: how often a text is in the batch, each time with other words masked (`word_selection.nth_set`);
    its words are then not read. whole: these masks share the whole text, and `mask_rate` is of no account.
    ngrams: characters are chosen and replaced as MacBERT does. context: the first sentence stands by itself,
    as `context_ids`, and the second is masked; both are of characters alone. char_words: each character comes
    with the word that it is in (LICHEE).
    """

    views: tuple[str, ...] = ('char', 'word')
    anchors: bool = True
    swap: bool = True
    masks: int = 1
    whole: bool = False
    ngrams: bool = False
    context: bool = False
    char_words: bool = False


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
    similar: np.ndarray | None = None,
) -> dict[str, tf.Tensor]:
    """Masks both views of every record and picks its anchors (the inputs of CLOWER, arXiv 2208.10844).

    Args:
      records: name → RaggedTensor [B, (n)] of int32 with `char_ids`, `word_ids`, `word_char_len`,
        `sentence_words`, `whole_word_tokens`; at most char_length − 3 characters and word_length − 3 words.
      examples: [B] int64, the running number of each example: with `seed` it decides every random choice.
        Example n is text n // masks with its mask n % masks.
      vocabulary: gives `cls`, `sep`, `mask`, `anchor_mask(longest)` and `random_ids(base_only)`.
      mask_rate: share of each view's tokens chosen for prediction.
      max_anchors: K, at least 1 and at most word_length.
      max_anchor_length: characters of an anchor, at most; 0: any number.
      recipe: which parts of the batch are wanted.
      similar: for MacBERT, int32 [V, 4], the base ids that spell the word most like each row's; −1 behind
        them, and where there is none.

    Returns:
      The int32 batch of docs/architecture.md: `char_ids`, `char_segments` [B, Lc]; `word_ids`,
      `word_segments` [B, Lw]; `{char,word}_mlm_{positions,labels}` [B, Pc or Pw];
      `anchor_{word_position,char_start,char_length,ids}` [B, K]; `sop_labels` [B]; `context_ids`,
      `char_words` [B, Lc]; as far as the recipe has them.
    """
    limits = char_length - SPECIAL_TOKENS, word_length - SPECIAL_TOKENS
    fits = [records[f'{view}_ids'].row_lengths() <= n for view, n in zip(('char', 'word'), limits)]
    room = f'a row has room for {limits[0]} characters and {limits[1]} words'
    tf.debugging.Assert(tf.reduce_all(fits), [room])
    anchor_mask = vocabulary.anchor_mask(max_anchor_length)
    known = tf.reduce_max(records['word_ids'].flat_values) < len(anchor_mask)
    tf.debugging.Assert(known, [f'the vocabulary has {len(anchor_mask)} rows'])
    char_width, word_width = (prediction_width(n, mask_rate) for n in (char_length, word_length))
    if recipe.whole:
        char_width = prediction_width(char_length, 1 / recipe.masks) + LAST_MASK
    sizes = {
        'boundary': 1,
        'swap': 1,
        'char_order': word_length,
        'char_action': recipe.masks * char_width,
        'char_random': recipe.masks * char_width,
    }
    if 'word' in recipe.views:
        sizes |= {'word_order': word_length, 'word_action': word_width, 'word_random': word_width}
        sizes |= {'anchor_order': word_length} if recipe.anchors else {}
    if recipe.ngrams:
        sizes |= {'ngram_length': word_length, 'ngram_action': word_length}
    texts, number = examples // recipe.masks, tf.cast(examples % recipe.masks, tf.int32)
    u = uniforms(seed, texts, sizes)
    for name in ('char_action', 'char_random'):  # each mask of a text has its own
        u[name] = tf.gather(tf.reshape(u[name], [-1, recipe.masks, char_width]), number, batch_dims=1)
    swap_u = u['swap'][:, 0] if recipe.swap else tf.ones_like(u['swap'][:, 0])
    views = sentence_pair(
        records, u['boundary'][:, 0], swap_u, vocabulary.cls, vocabulary.sep, char_length, word_length
    )
    word_char_len, whole_word = views['word_char_len'], views['whole_word']
    is_word, is_char = views['is_word'], views['is_char']
    batch = {'sop_labels': views['sop_labels'], 'char_segments': views['char_segments']}
    if recipe.context:
        is_word &= views['word_segments'] == 1
        is_char &= views['char_segments'] == 1

    # Characters: whole words are chosen. A word's size is spread over its word tokens, so sum it per whole
    # word.
    size = sum_by_group(tf.where(is_word, word_char_len, 0), whole_word, word_length)
    order = ngram_order(size, u['char_order'], u['ngram_length']) if recipe.ngrams else u['char_order']
    limit = budget(is_char, 1 / recipe.masks) + LAST_MASK if recipe.whole else budget(is_char, mask_rate)
    chosen = nth_set(size, order, limit, number, recipe.masks, recipe.whole)
    chosen_chars_of = tf.gather(chosen, whole_word, batch_dims=1)  # [B, Lw] this word's characters are chosen
    char_end = tf.cumsum(word_char_len, axis=1)
    word_of_char = tf.searchsorted(
        char_end, tf.broadcast_to(tf.range(char_length), tf.shape(is_char)), side='right'
    )
    chosen_chars = is_char & tf.gather(
        chosen_chars_of, tf.minimum(word_of_char, word_length - 1), batch_dims=1
    )
    ids, replacing = views['char_ids'], None
    if recipe.ngrams:
        assert similar is not None, 'n-grams are replaced by similar words'
        words = tf.minimum(word_of_char, word_length - 1)
        action = tf.gather(u['ngram_action'], tf.gather(whole_word, words, batch_dims=1), batch_dims=1)
        replacing = action, similar_tokens(similar, views, words, char_end)
    if recipe.char_words:  # of a chosen character none, whatever is put in its own place
        words = tf.gather(views['word_ids'], tf.minimum(word_of_char, word_length - 1), batch_dims=1)
        batch['char_words'] = tf.where(chosen_chars, vocabulary.mask, tf.where(ids > 0, words, 0))
    if recipe.context:
        batch['context_ids'] = tf.where(views['char_segments'] == 0, ids, 0)
        batch['char_segments'] = tf.zeros_like(ids)
        ids, chosen_chars = (second_alone(x, views['char_segments']) for x in (ids, chosen_chars))
    batch |= masked('char', ids, chosen_chars, u, vocabulary, char_width, replacing)
    if 'word' not in recipe.views:
        return batch

    # Words: each word token for itself, independent of the characters.
    chosen_words = sample(u['word_order'], is_word, budget(is_word, mask_rate), word_width)
    batch['word_segments'] = views['word_segments']
    batch |= masked('word', views['word_ids'], chosen_words, u, vocabulary, word_width)
    if not recipe.anchors:
        return batch

    # Anchors: a word chosen for prediction in either view is out, even where its tokens were kept.
    may_anchor = tf.gather(tf.constant(anchor_mask, tf.bool), views['word_ids'])
    anchors = sample(
        u['anchor_order'],
        may_anchor & is_word & ~chosen_words & ~chosen_chars_of,
        tf.fill(tf.shape(examples), max_anchors),
        max_anchors,
    )
    anchor_positions, anchor_real = positions_of(anchors, max_anchors)

    def at_anchors(values: tf.Tensor) -> tf.Tensor:
        return tf.where(anchor_real, tf.gather(values, anchor_positions, batch_dims=1), 0)

    return batch | {
        'anchor_word_position': anchor_positions,
        'anchor_char_start': at_anchors(char_end - word_char_len),
        'anchor_char_length': at_anchors(word_char_len),
        'anchor_ids': at_anchors(views['word_ids']),
    }


def masked(
    view: str,
    ids: tf.Tensor,
    chosen: tf.Tensor,
    u: Mapping[str, tf.Tensor],
    vocabulary: Vocabulary,
    width: int,
    replacing: tuple[tf.Tensor, tf.Tensor] | None = None,
) -> dict[str, tf.Tensor]:
    """`{view}_ids`, `{view}_mlm_positions` and `{view}_mlm_labels` of a batch: BERT's replacements at the
    chosen tokens.

    Args:
      ids: [B, L] int32.
      chosen: [B, L] bool, at most `width` of a row.
      u: the uniforms [B, width] `{view}_action` and `{view}_random`.
      replacing: instead of `{view}_action` and of [MASK] their likes for each position [B, L]; −1 = a random
        token.
    """
    positions, real = positions_of(chosen, width)
    random_ids = vocabulary.random_ids(base_only=view == 'char')
    action, instead = u[f'{view}_action'], vocabulary.mask
    if replacing is not None:
        action, instead = (tf.gather(values, positions, batch_dims=1) for values in replacing)
    ids, labels = replace(ids, positions, real, action, u[f'{view}_random'], instead, random_ids)
    return {f'{view}_ids': ids, f'{view}_mlm_positions': positions, f'{view}_mlm_labels': labels}


def similar_tokens(
    table: np.ndarray, views: Mapping[str, tf.Tensor], words: tf.Tensor, char_end: tf.Tensor
) -> tf.Tensor:
    """[B, Lc] int32: at each character that of the word most like its own; −1 where there is none, as for a
    word that is not in the vocabulary.

    Args:
      table: [V, 4] as `make_batch` has it; a word of another number of tokens than its own is none.
      views: of `sentence_pair`.
      words: [B, Lc], the word token that each character is of. char_end: [B, Lw], where each ends.
    """
    table = tf.constant(table, tf.int32)
    word_ids, lengths, whole_word = (views[name] for name in ('word_ids', 'word_char_len', 'whole_word'))
    tokens = sum_by_group(tf.cast(views['is_word'], tf.int32), whole_word, whole_word.shape[1])
    spelled = tf.gather(table, word_ids)  # [B, Lw, 4]
    fits = (tf.gather(tokens, whole_word, batch_dims=1) == 1) & (
        tf.reduce_sum(tf.cast(spelled >= 0, tf.int32), axis=-1) == lengths
    )
    spelled = tf.where(fits[..., None], spelled, -1)
    place = tf.range(words.shape[1]) - tf.gather(char_end - lengths, words, batch_dims=1)
    place = tf.clip_by_value(place, 0, table.shape[1] - 1)
    return tf.gather_nd(spelled, tf.stack([words, place], axis=-1), batch_dims=1)


def uniforms(seed: int, examples: tf.Tensor, sizes: dict[str, int]) -> dict[str, tf.Tensor]:
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
      ids [B, L] with the replacements; labels [B, P], the original ids, `IGNORE` where not real.
    """
    labels = tf.gather(ids, positions, batch_dims=1)
    random_ids = tf.constant(random_ids, tf.int32)
    drawn = tf.gather(random_ids, tf.cast(random_u * tf.cast(tf.size(random_ids), tf.float64), tf.int32))
    instead = tf.where(instead >= 0, instead, drawn)
    new = tf.where(action_u < 0.8, instead, tf.where(action_u < 0.9, drawn, labels))
    new = tf.where(real, new, labels)  # padding points at position 0: write back what is there
    rows = tf.broadcast_to(tf.range(tf.shape(ids)[0])[:, None], tf.shape(positions))
    ids = tf.tensor_scatter_nd_update(ids, tf.stack([rows, positions], axis=-1), new)
    return ids, tf.where(real, labels, IGNORE)
