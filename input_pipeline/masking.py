"""Sentence order, masks and anchors of a batch: pure TensorFlow functions with stateless random numbers.

A record becomes two views of the same text, each laid out as `[CLS] X [SEP] Y [SEP]`: one of characters, one
of words. Every random choice about an example comes from one row of uniforms keyed by (seed, example number),
so it does not depend on the batch around it. Shapes: B examples, Lc and Lw the lengths of the two views, Pc
and Pw the numbers of predictions, K anchors.
"""

import tensorflow as tf

IGNORE = -100  # label of a prediction that is padding; no id is negative


def prediction_width(length: int, mask_rate: float) -> int:
    """Pc or Pw: the most tokens of a view of `length` positions that are ever chosen for prediction."""
    return max(1, round(mask_rate * length))


def make_batch(
    records,
    examples,
    *,
    vocabulary,
    seed: int,
    char_length: int,
    word_length: int,
    mask_rate: float = 0.15,
    max_anchors: int = 20,
) -> dict[str, tf.Tensor]:
    """Masks both views of every record and picks its anchors (the inputs of CLOWER, arXiv 2208.10844).

    Args:
      records: name → RaggedTensor [B, (n)] of int32 with `char_ids`, `word_ids`, `word_char_len`,
        `sentence_words`, `whole_word_tokens`; at most char_length − 3 characters and word_length − 3 words.
      examples: [B] int64, the running number of each example: with `seed` it decides every random choice.
      vocabulary: gives `cls`, `sep`, `mask`, `anchor_mask()` and `random_ids(base_only)`.
      mask_rate: share of each view's tokens chosen for prediction.
      max_anchors: K, at least 1 and at most word_length.

    Returns:
      The int32 batch of docs/architecture.md: `char_ids`, `char_segments` [B, Lc]; `word_ids`,
      `word_segments` [B, Lw]; `{char,word}_mlm_{positions,labels}` [B, Pc or Pw];
      `anchor_{word_position,char_start,char_length,ids}` [B, K]; `sop_labels` [B].
    """
    char_width, word_width = (prediction_width(n, mask_rate) for n in (char_length, word_length))
    u = uniforms(
        seed,
        examples,
        {
            'boundary': 1,
            'swap': 1,
            'char_order': word_length,
            'char_action': char_width,
            'char_random': char_width,
            'word_order': word_length,
            'word_action': word_width,
            'word_random': word_width,
            'anchor_order': word_length,
        },
    )
    views = sentence_pair(
        records,
        u['boundary'][:, 0],
        u['swap'][:, 0],
        vocabulary.cls,
        vocabulary.sep,
        char_length,
        word_length,
    )
    word_char_len, whole_word = views['word_char_len'], views['whole_word']
    is_word, is_char = views['is_word'], views['is_char']

    # Characters: whole words are chosen. A word's size is spread over its word tokens, so sum it per whole
    # word.
    size = sum_by_group(tf.where(is_word, word_char_len, 0), whole_word, word_length)
    chosen = fill_budget(size, u['char_order'], budget(is_char, mask_rate))
    chosen_chars_of = tf.gather(chosen, whole_word, batch_dims=1)  # [B, Lw] this word's characters are chosen
    char_end = tf.cumsum(word_char_len, axis=1)
    word_of_char = tf.searchsorted(
        char_end, tf.broadcast_to(tf.range(char_length), tf.shape(is_char)), side='right'
    )
    chosen_chars = is_char & tf.gather(
        chosen_chars_of, tf.minimum(word_of_char, word_length - 1), batch_dims=1
    )

    # Words: each word token for itself, independent of the characters.
    chosen_words = sample(u['word_order'], is_word, budget(is_word, mask_rate), word_width)

    char_positions, char_real = positions_of(chosen_chars, char_width)
    word_positions, word_real = positions_of(chosen_words, word_width)
    char_ids, char_labels = replace(
        views['char_ids'],
        char_positions,
        char_real,
        u['char_action'],
        u['char_random'],
        vocabulary.mask,
        vocabulary.random_ids(base_only=True),
    )
    word_ids, word_labels = replace(
        views['word_ids'],
        word_positions,
        word_real,
        u['word_action'],
        u['word_random'],
        vocabulary.mask,
        vocabulary.random_ids(base_only=False),
    )

    # Anchors: a word chosen for prediction in either view is out, even where its tokens were kept.
    may_anchor = tf.gather(tf.constant(vocabulary.anchor_mask(), tf.bool), views['word_ids'])
    anchors = sample(
        u['anchor_order'],
        may_anchor & is_word & ~chosen_words & ~chosen_chars_of,
        tf.fill(tf.shape(examples), max_anchors),
        max_anchors,
    )
    anchor_positions, anchor_real = positions_of(anchors, max_anchors)

    def at_anchors(values):
        return tf.where(anchor_real, tf.gather(values, anchor_positions, batch_dims=1), 0)

    return {
        'char_ids': char_ids,
        'char_segments': views['char_segments'],
        'char_mlm_positions': char_positions,
        'char_mlm_labels': char_labels,
        'word_ids': word_ids,
        'word_segments': views['word_segments'],
        'word_mlm_positions': word_positions,
        'word_mlm_labels': word_labels,
        'anchor_word_position': anchor_positions,
        'anchor_char_start': at_anchors(char_end - word_char_len),
        'anchor_char_length': at_anchors(word_char_len),
        'anchor_ids': at_anchors(views['word_ids']),
        'sop_labels': views['sop_labels'],
    }


def uniforms(seed: int, examples, sizes: dict[str, int]) -> dict[str, tf.Tensor]:
    """name → [B, sizes[name]] float64 in [0, 1): row b is a function of (seed, examples[b], sizes) alone.

    In float64 two draws of a row are never equal in practice, and `int(u * n)` is uniform for any n.
    """
    total = sum(sizes.values())

    def draw(example):
        key = tf.stack([tf.constant(seed, tf.int64), example])
        return tf.random.stateless_uniform([total], key, dtype=tf.float64)

    row = tf.TensorSpec([total], tf.float64)
    rows = tf.map_fn(draw, tf.cast(examples, tf.int64), fn_output_signature=row)
    return dict(zip(sizes, tf.split(rows, list(sizes.values()), axis=1), strict=True))


def sentence_pair(
    records, boundary_u, swap_u, cls: int, sep: int, char_length: int, word_length: int
) -> dict[str, tf.Tensor]:
    """Splits each record at a random sentence boundary into A and B, swaps half, and lays both views out.

    Sentence order prediction (ALBERT, arXiv 1909.11942; used by CLOWER, arXiv 2208.10844): both views get the
    same order. The special tokens count as words of one character, so that the two views stay aligned from
    [CLS] to the last [SEP]: the character spans of all words are the running sum of `word_char_len`.

    Args:
      records: as in `make_batch`.
      boundary_u, swap_u: [B] uniforms.

    Returns:
      `char_ids`, `char_segments` int32 and `is_char` bool [B, Lc]; `word_ids`, `word_segments`,
      `word_char_len` (characters of each word; 1 for a special token, 0 for padding), `whole_word` (running
      number of the segmented word that a token is a part of) int32 and `is_word` bool [B, Lw]; `sop_labels`
      [B], 1 = swapped. `is_char` and `is_word` are False for special tokens and padding.
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

    def lay_out(values, source):
        return tf.gather(values, source, batch_dims=1)

    return {
        'char_ids': lay_out(with_specials(records['char_ids'], char_length, cls, sep, 0), chars),
        'char_segments': char_segments,
        'is_char': chars < char_length - 3,
        'word_ids': lay_out(with_specials(records['word_ids'], word_length, cls, sep, 0), words),
        'word_segments': word_segments,
        'word_char_len': lay_out(char_len, words),
        'whole_word': tf.cumsum(lay_out(starts, words), axis=1) - 1,
        'is_word': words < word_length - 3,
        'sop_labels': tf.cast(swapped, tf.int32),
    }


def with_specials(values, length: int, cls: int, sep: int, pad: int) -> tf.Tensor:
    """[B, length]: values of a record's tokens, [B, (n)] or [B, length − 3], then of [CLS], [SEP], [PAD]."""
    if isinstance(values, tf.RaggedTensor):
        values = values.to_tensor(shape=[None, length - 3])
    specials = tf.tile([[cls, sep, pad]], [tf.shape(values)[0], 1])
    return tf.concat([tf.cast(values, tf.int32), specials], axis=1)


def layout(tokens, tokens_a, swapped, length: int) -> tuple[tf.Tensor, tf.Tensor]:
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


def first_tokens(group_sizes: tf.RaggedTensor, length: int) -> tf.Tensor:
    """[B, length] int32: 1 at the first token of each group, where the groups lie end to end from token 0."""
    starts = tf.cumsum(group_sizes.to_tensor(), axis=1, exclusive=True)
    real = tf.sequence_mask(group_sizes.row_lengths(), tf.shape(starts)[1])
    starts = tf.where(real, tf.cast(starts, tf.int32), length)  # padding is added past the end and cut off
    return sum_by_group(tf.ones_like(starts), starts, length + 1)[:, :length]


def sum_by_group(values, groups, num_groups: int) -> tf.Tensor:
    """[B, num_groups]: the sum over each row's `values` [B, L] that share a group number `groups` [B, L]."""
    rows = tf.shape(values)[0]
    flat = groups + num_groups * tf.range(rows)[:, None]
    return tf.reshape(tf.math.unsorted_segment_sum(values, flat, rows * num_groups), [rows, num_groups])


def budget(real, mask_rate: float) -> tf.Tensor:
    """[B] int32: how many of the tokens marked in `real` [B, L] may be chosen: the share, at least 1."""
    count = tf.reduce_sum(tf.cast(real, tf.float64), axis=1)
    return tf.maximum(1, tf.cast(tf.round(mask_rate * count), tf.int32))


def fill_budget(sizes, u, limit) -> tf.Tensor:
    """Chooses words in random order until the budget is full; a word larger than what is left is passed over.

    Args:
      sizes: [B, W] int32, characters of each word; 0 is no word and never chosen.
      u: [B, W] distinct uniforms: their order is the random order.
      limit: [B] int32, the budget in characters.

    Returns:
      [B, W] bool, exactly the words that a loop over the random order would take.
    """
    order = tf.argsort(u, axis=1)
    in_order = tf.gather(sizes, order, batch_dims=1)

    # Each round takes the longest run of open words that fits, then closes the words that no longer do: what
    # is left only ever shrinks, so the loop would have passed over these too. Every round closes some word.
    def take(chosen, left, open_):
        fits = open_ & (tf.cumsum(tf.where(open_, in_order, 0), axis=1) <= left)
        left -= tf.reduce_sum(tf.where(fits, in_order, 0), axis=1, keepdims=True)
        return chosen | fits, left, open_ & ~fits & (in_order <= left)

    left = limit[:, None]
    chosen, _, _ = tf.while_loop(
        lambda chosen, left, open_: tf.reduce_any(open_),
        take,
        (tf.zeros_like(in_order, tf.bool), left, (in_order > 0) & (in_order <= left)),
    )
    return sum_by_group(tf.cast(chosen, tf.int32), order, sizes.shape[1]) > 0  # back from the random order


def sample(u, eligible, count, width: int) -> tf.Tensor:
    """[B, L] bool: `count` [B] of the eligible [B, L], uniformly without replacement; all if there are fewer.

    `u` [B, L] are uniforms; 1 ≤ count ≤ width ≤ L.
    """
    key = tf.where(eligible, u, 2.0)
    smallest = -tf.math.top_k(-key, width).values
    return eligible & (key <= tf.gather(smallest, count - 1, batch_dims=1)[:, None])


def positions_of(mask, width: int) -> tuple[tf.Tensor, tf.Tensor]:
    """The marked positions of `mask` [B, L], ascending, 0-padded, [B, width] int32; which are real, bool."""
    length = mask.shape[1]
    from_end = tf.math.top_k(tf.where(mask, length - tf.range(length), 0), width).values
    real = from_end > 0
    return tf.where(real, length - from_end, 0), real


def replace(
    ids, positions, real, action_u, random_u, mask_id: int, random_ids
) -> tuple[tf.Tensor, tf.Tensor]:
    """Puts [MASK] (80 %), a random token (10 %) or the token itself (10 %) at each chosen position, as BERT
    does.

    Args:
      ids: [B, L] int32.
      positions, real: [B, P] as from `positions_of`.
      action_u, random_u: [B, P] uniforms.
      random_ids: [R] ids to draw a random token from.

    Returns:
      ids [B, L] with the replacements; labels [B, P], the original ids, `IGNORE` where not real.
    """
    labels = tf.gather(ids, positions, batch_dims=1)
    random_ids = tf.constant(random_ids, tf.int32)
    drawn = tf.gather(random_ids, tf.cast(random_u * tf.cast(tf.size(random_ids), tf.float64), tf.int32))
    new = tf.where(action_u < 0.8, mask_id, tf.where(action_u < 0.9, drawn, labels))
    new = tf.where(real, new, labels)  # padding points at position 0: write back what is there
    rows = tf.broadcast_to(tf.range(tf.shape(ids)[0])[:, None], tf.shape(positions))
    ids = tf.tensor_scatter_nd_update(ids, tf.stack([rows, positions], axis=-1), new)
    return ids, tf.where(real, labels, IGNORE)
