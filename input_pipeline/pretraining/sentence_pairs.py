"""How a record lies in a row of either view: `[CLS] X [SEP] Y [SEP]`, X Y being A B, or B A where swapped.

Pure TensorFlow functions. Shapes: B examples, Lc and Lw the lengths of the two views.
"""

from collections.abc import Mapping
from typing import NamedTuple

from input_pipeline.utils.tensorflow import tf


class SentencePair(NamedTuple):
    """Both views of B texts, laid out. int32 [B, Lc] or [B, Lw] where no other type is said.

    Attributes:
      char_ids, char_segments: [B, Lc]. is_char: bool [B, Lc], neither a special token nor padding.
      word_ids, word_segments: [B, Lw]. is_word: bool [B, Lw].
      word_char_len: [B, Lw], characters of each word; 1 for a special token, 0 for padding.
      whole_word: [B, Lw], running number of the segmented word that a token is a part of.
      char_end: [B, Lw], where in the other view the characters of each word end.
      word_of_char: [B, Lc], the position of the word token that each character is of; behind the text Lw − 1.
      sop_labels: [B], 1 = swapped.
    """

    char_ids: tf.Tensor
    char_segments: tf.Tensor
    is_char: tf.Tensor
    word_ids: tf.Tensor
    word_segments: tf.Tensor
    is_word: tf.Tensor
    word_char_len: tf.Tensor
    whole_word: tf.Tensor
    char_end: tf.Tensor
    word_of_char: tf.Tensor
    sop_labels: tf.Tensor


def sentence_pair(
    records: Mapping[str, tf.RaggedTensor],
    boundary_u: tf.Tensor,
    swap_u: tf.Tensor,
    cls: int,
    sep: int,
    char_length: int,
    word_length: int,
) -> SentencePair:
    """Splits each record at a random sentence boundary into A and B, swaps half, and lays both views out.

    Sentence order prediction (ALBERT, arXiv 1909.11942; used by CLOWER, arXiv 2208.10844): both views get the
    same order. The special tokens count as words of one character, so that the two views stay aligned from
    [CLS] to the last [SEP]: the character spans of all words are the running sum of `word_char_len`.

    Args:
      records: as in `make_batch`.
      boundary_u, swap_u: [B] uniforms.
    """
    sentences = records['sentence_words'].row_lengths()
    boundary = tf.cast(boundary_u * tf.cast(sentences - 1, tf.float64), tf.int64)
    swapped = swap_u < 0.5
    # Words, then characters, of A.
    words_a = tf.gather(tf.cumsum(records['sentence_words'].to_tensor(), axis=1), boundary, batch_dims=1)
    char_len = with_specials(records['word_char_len'], word_length, 1, 1, 0)
    chars_a = tf.gather(tf.cumsum(char_len, axis=1, exclusive=True), words_a, batch_dims=1)

    words, word_segments = layout(records['word_ids'].row_lengths(), words_a, swapped, word_length)
    chars, char_segments = layout(records['char_ids'].row_lengths(), chars_a, swapped, char_length)
    starts = with_specials(first_tokens(records['whole_word_tokens'], word_length - 3), word_length, 1, 1, 0)

    def lay_out(values: tf.Tensor, source: tf.Tensor) -> tf.Tensor:
        return tf.gather(values, source, batch_dims=1)

    word_char_len = lay_out(char_len, words)
    char_end = tf.cumsum(word_char_len, axis=1)
    position = tf.broadcast_to(tf.range(char_length), tf.shape(chars))
    word_of_char = tf.minimum(tf.searchsorted(char_end, position, side='right'), word_length - 1)
    return SentencePair(
        char_ids=lay_out(with_specials(records['char_ids'], char_length, cls, sep, 0), chars),
        char_segments=char_segments,
        is_char=chars < char_length - 3,
        word_ids=lay_out(with_specials(records['word_ids'], word_length, cls, sep, 0), words),
        word_segments=word_segments,
        is_word=words < word_length - 3,
        word_char_len=word_char_len,
        whole_word=tf.cumsum(lay_out(starts, words), axis=1) - 1,
        char_end=char_end,
        word_of_char=word_of_char,
        sop_labels=tf.cast(swapped, tf.int32),
    )


def with_specials(
    values: tf.Tensor | tf.RaggedTensor, length: int, cls: int, sep: int, pad: int
) -> tf.Tensor:
    """[B, length]: values of a record's tokens, [B, (n)] or [B, length − 3], then of [CLS], [SEP], [PAD]."""
    if isinstance(values, tf.RaggedTensor):
        values = values.to_tensor(shape=[None, length - 3])
    specials = tf.tile([[cls, sep, pad]], [tf.shape(values)[0], 1])
    return tf.concat([tf.cast(values, tf.int32), specials], axis=1)


def layout(
    tokens: tf.Tensor, tokens_a: tf.Tensor, swapped: tf.Tensor, length: int
) -> tuple[tf.Tensor, tf.Tensor]:
    """Lays `[CLS] X [SEP] Y [SEP]` out, where X Y is A B, or B A where swapped.

    Args:
      tokens, tokens_a: [B] tokens in the whole record and in A.
      swapped: [B] bool.

    Returns:
      source [B, length] int32: which column of `with_specials` each position takes; segments, likewise.
    """
    tokens, tokens_a = (tf.cast(x, tf.int32)[:, None] for x in (tokens, tokens_a))
    start = tf.where(swapped[:, None], tokens_a, 0)  # the record, read round from here, is X Y
    middle = tf.where(swapped[:, None], tokens - tokens_a, tokens_a) + 1  # position of the first [SEP]
    position = tf.range(length)[None]
    token = position - tf.where(position < middle, 1, 2)
    source = tf.math.floormod(token + start, tf.maximum(tokens, 1))
    cls, sep, pad = length - 3, length - 2, length - 1
    source = tf.where(position == 0, cls, source)
    source = tf.where((position == middle) | (position == tokens + 2), sep, source)
    source = tf.where(position > tokens + 2, pad, source)
    return source, tf.cast((position > middle) & (position <= tokens + 2), tf.int32)


def second_alone(values: tf.Tensor, segments: tf.Tensor) -> tf.Tensor:
    """[B, L]: `[CLS] Y [SEP]` of rows `[CLS] X [SEP] Y [SEP]`, whose second segment is Y [SEP]; 0 or False
    behind it."""
    length = segments.shape[1]
    position = tf.range(length)[None]
    source = tf.where(position == 0, 0, position + tokens_before(segments))
    moved = tf.gather(values, tf.minimum(source, length - 1), batch_dims=1)
    return tf.where(source < length, moved, tf.zeros_like(moved))


def tokens_before(segments: tf.Tensor) -> tf.Tensor:
    """[B, 1] int32: tokens of X and its [SEP] in rows `[CLS] X [SEP] Y [SEP]` of these segments [B, L]."""
    return tf.argmax(segments, axis=1, output_type=tf.int32)[:, None] - 1


def first_tokens(group_sizes: tf.RaggedTensor, length: int) -> tf.Tensor:
    """[B, length] int32: 1 at the first token of each group, where the groups lie end to end from token 0."""
    starts = tf.cumsum(group_sizes.to_tensor(), axis=1, exclusive=True)
    real = tf.sequence_mask(group_sizes.row_lengths(), tf.shape(starts)[1])
    starts = tf.where(real, tf.cast(starts, tf.int32), length)  # padding is added past the end and cut off
    return sum_by_group(tf.ones_like(starts), starts, length + 1)[:, :length]


def sum_by_group(values: tf.Tensor, groups: tf.Tensor, num_groups: int) -> tf.Tensor:
    """[B, num_groups]: the sum over each row's `values` [B, L] that share a group number `groups` [B, L]."""
    rows = tf.shape(values)[0]
    flat = groups + num_groups * tf.range(rows)[:, None]
    return tf.reshape(tf.math.unsorted_segment_sum(values, flat, rows * num_groups), [rows, num_groups])
