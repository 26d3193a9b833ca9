"""Which words of a text are predicted, and which are anchors: pure functions of sizes and uniforms.

Shapes: B examples, W words (or L tokens) of each.
"""

from input_pipeline.pretraining.sentence_pairs import sum_by_group
from input_pipeline.utils.tensorflow import tf

NGRAMS = (0.4, 0.3, 0.2, 0.1)  # MacBERT's shares of n-grams of 1, 2, 3 and 4 words


def budget(real: tf.Tensor, mask_rate: float) -> tf.Tensor:
    """[B] int32: how many of the tokens marked in `real` [B, L] may be chosen: the share, at least 1."""
    count = tf.reduce_sum(tf.cast(real, tf.float64), axis=1)
    return tf.maximum(1, tf.cast(tf.round(mask_rate * count), tf.int32))


def fill_budget(sizes: tf.Tensor, u: tf.Tensor, limit: tf.Tensor) -> tf.Tensor:
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
    def take(chosen: tf.Tensor, left: tf.Tensor, open_: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
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


def sample(u: tf.Tensor, eligible: tf.Tensor, count: tf.Tensor, width: int) -> tf.Tensor:
    """[B, L] bool: `count` [B] of the eligible [B, L], uniformly without replacement; all if there are fewer.

    `u` [B, L] are uniforms; 1 ≤ count ≤ width ≤ L.
    """
    key = tf.where(eligible, u, 2.0)
    smallest = -tf.math.top_k(-key, width).values
    return eligible & (key <= tf.gather(smallest, count - 1, batch_dims=1)[:, None])


def nth_set(
    sizes: tf.Tensor, u: tf.Tensor, limit: tf.Tensor, number: tf.Tensor, count: int, whole: bool = False
) -> tf.Tensor:
    """[B, W] bool: of the `count` sets of words that `fill_budget` takes one after another, none of them
    twice, the set `number` [B] of each row. Each takes `limit` [B] characters at most; with `whole` it takes
    its share of what the sets before left, so that every word is in one set, except for words that the last
    set has no room for under `limit`.

    Fully-explored masking (Zheng et al. 2020, arXiv 2010.06040): a text's masks are disjoint, so the
    gradients of its copies are less alike than those of masks drawn independently, and their mean varies
    less.
    """

    def taken(sizes: tf.Tensor, place: tf.Tensor) -> tf.Tensor:
        if not whole:
            return fill_budget(sizes, u, limit)
        share = count - place  # sets that are still to come, this one included
        left = tf.reduce_sum(sizes, axis=1)
        return fill_budget(sizes, u, tf.minimum((left + share - 1) // share, limit))

    chosen = taken(sizes, tf.zeros_like(number))
    for before in range(count - 1):
        # Where the set is found already nothing is taken away, and so it is found again.
        sizes = tf.where(chosen & (number > before)[:, None], 0, sizes)
        chosen = taken(sizes, tf.minimum(before + 1, number))
    return chosen


def ngram_order(sizes: tf.Tensor, u: tf.Tensor, length_u: tf.Tensor) -> tf.Tensor:
    """[B, W] distinct int32 numbers: the order in which words are taken where n-grams are, as in MacBERT (Cui
    et al. 2020, arXiv 2004.13922): an n-gram of 1 to 4 words, with the probabilities `NGRAMS`, begins at each
    word; n-grams come in random order, the words of one from left to right, each word once.

    An n-gram ends before what is no word (size 0). Together with `fill_budget`: a word of an n-gram that is
    larger than what is left of the budget is passed over, not the others.

    Args:
      sizes: [B, W] int32.
      u: [B, W] distinct uniforms, the random order of the n-grams.
      length_u: [B, W] uniforms, which decide on their lengths.
    """
    longest = len(NGRAMS)
    limits = tf.cumsum(tf.constant(NGRAMS, tf.float64))[:-1]
    length = 1 + tf.reduce_sum(tf.cast(length_u[..., None] >= limits, tf.int32), axis=-1)
    rank = longest * tf.argsort(tf.argsort(u, axis=1), axis=1)
    first, reached = rank, sizes > 0
    for place in range(1, longest):  # the word in this place of the n-gram that began so many words before

        def before(values: tf.Tensor, words: int = place) -> tf.Tensor:
            return tf.pad(values, [[0, 0], [words, 0]])[:, : sizes.shape[1]]

        reached = (sizes > 0) & before(reached, 1)
        named = reached & (before(length) > place)
        first = tf.where(named, tf.minimum(first, before(rank) + place), first)
    return first
