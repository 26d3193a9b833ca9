"""How baselines mask and read characters, where it is not CLOWER's way: what a `masking.Recipe` may hold."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from input_pipeline.pretraining.masking import (
    Batch,
    CharacterInputs,
    Replacement,
    Uniforms,
    WordSelection,
    uniforms,
)
from input_pipeline.pretraining.sentence_pairs import (
    SentencePair,
    second_alone,
    sum_by_group,
    tokens_before,
)
from input_pipeline.pretraining.word_selection import ngram_order, nth_set
from input_pipeline.text.constants import IGNORED_LABEL
from input_pipeline.utils.tensorflow import tf


@dataclasses.dataclass(frozen=True)
class DisjointMasks(WordSelection):
    """Fully-explored masks (arXiv 2010.06040): a text is in the batch several times, each time with other
    words masked (`word_selection.nth_set`). Example n is text n // masks with its mask n % masks.

    whole: the masks share the whole text, and `mask_rate` is of no account.
    """

    whole: bool = False

    @property
    def extra(self) -> int:
        """Where the masks share the text, some for words that none had room for."""
        return 4 if self.whole else 0

    def share(self, mask_rate: float) -> float:
        """A mask's part of the text."""
        return 1 / self.masks if self.whole else mask_rate

    def uniforms(self, seed: int, examples: tf.Tensor, sizes: Mapping[str, int]) -> dict[str, tf.Tensor]:
        """Those of the texts, but for what takes the words' place, which each mask draws for itself; and
        `mask` [B], which of its text's masks an example is."""
        own = {name: sizes[name] for name in ('char_action', 'char_random')}
        of_all = dict(sizes) | {name: self.masks * n for name, n in own.items()}
        u = uniforms(seed, examples // self.masks, of_all)
        mask = tf.cast(examples % self.masks, tf.int32)
        for name in own:
            u[name] = tf.gather(tf.reshape(u[name], [-1, self.masks, sizes[name]]), mask, batch_dims=1)
        return u | {'mask': mask}

    def choose(self, sizes: tf.Tensor, order: tf.Tensor, limit: tf.Tensor, u: Uniforms) -> tf.Tensor:
        """The words of the example's mask."""
        return nth_set(sizes, order, limit, u['mask'], self.masks, self.whole)


@dataclasses.dataclass(frozen=True, eq=False)
class SimilarWords(Replacement):
    """MacBERT (arXiv 2004.13922): n-grams of words are chosen, and each word as a whole becomes a similar
    one, random tokens, or stays.

    similar: int32 [V, 4], the base ids that spell the word most like each row's; −1 behind them, and where
    there is none.
    """

    similar: np.ndarray

    def sizes(self, word_length: int) -> dict[str, int]:
        """For the lengths of n-grams, and for what becomes of a word."""
        return {'ngram_length': word_length, 'ngram_action': word_length}

    def order(self, sizes: tf.Tensor, u: Uniforms) -> tf.Tensor:
        """The words of an n-gram one after another."""
        return ngram_order(sizes, u['char_order'], u['ngram_length'])

    def tokens(self, pair: SentencePair, u: Uniforms) -> tuple[tf.Tensor, tf.Tensor]:
        """All characters of a whole word share its uniform; at each that of the word most like its own."""
        whole_word = tf.gather(pair.whole_word, pair.word_of_char, batch_dims=1)
        return tf.gather(u['ngram_action'], whole_word, batch_dims=1), similar_tokens(self.similar, pair)


class SecondSentence(CharacterInputs):
    """CMLM (arXiv 2012.14388): the first sentence stands by itself, as `context_ids` [B, Lc], the second,
    which is masked, is `char_ids`; both as [CLS] sentence [SEP]."""

    def maskable(self, pair: SentencePair) -> SentencePair:
        """The second sentence."""
        return pair._replace(
            is_word=pair.is_word & (pair.word_segments == 1), is_char=pair.is_char & (pair.char_segments == 1)
        )

    def complete(self, batch: Batch, pair: SentencePair, chosen: tf.Tensor, mask: int) -> Batch:
        """The batch cut in two."""
        first = pair.char_segments == 0
        before = tokens_before(pair.char_segments)
        real = batch['char_mlm_labels'] != IGNORED_LABEL
        return batch | {
            'context_ids': tf.where(first, pair.char_ids, 0),
            'char_ids': second_alone(batch['char_ids'], pair.char_segments),
            'char_segments': tf.zeros_like(pair.char_segments),
            'char_mlm_positions': tf.where(real, batch['char_mlm_positions'] - before, 0),
        }


class CharactersWithWords(CharacterInputs):
    """LICHEE (arXiv 2108.00801): each character comes with the word that it is in, `char_words` [B, Lc]; a
    masked one with [MASK], whatever is put in its own place."""

    def complete(self, batch: Batch, pair: SentencePair, chosen: tf.Tensor, mask: int) -> Batch:
        """The batch with `char_words`."""
        words = tf.gather(pair.word_ids, pair.word_of_char, batch_dims=1)
        return batch | {'char_words': tf.where(chosen, mask, tf.where(pair.char_ids > 0, words, 0))}


def similar_tokens(table: np.ndarray, pair: SentencePair) -> tf.Tensor:
    """[B, Lc] int32: at each character that of the word most like its own; −1 where there is none, as for a
    word that is not in the vocabulary.

    Args:
      table: [V, 4] as `SimilarWords` has it; a word of another number of tokens than its own is none.
    """
    table = tf.constant(table, tf.int32)
    lengths, whole_word, words = pair.word_char_len, pair.whole_word, pair.word_of_char
    tokens = sum_by_group(tf.cast(pair.is_word, tf.int32), whole_word, whole_word.shape[1])
    spelled = tf.gather(table, pair.word_ids)  # [B, Lw, 4]
    fits = (tf.gather(tokens, whole_word, batch_dims=1) == 1) & (
        tf.reduce_sum(tf.cast(spelled >= 0, tf.int32), axis=-1) == lengths
    )
    spelled = tf.where(fits[..., None], spelled, -1)
    place = tf.range(words.shape[1]) - tf.gather(pair.char_end - lengths, words, batch_dims=1)
    place = tf.clip_by_value(place, 0, table.shape[1] - 1)
    return tf.gather_nd(spelled, tf.stack([words, place], axis=-1), batch_dims=1)
