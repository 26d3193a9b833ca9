"""Numbers of words: those of a text's words by where they end are those of its words as strings."""

import random
from collections.abc import Sequence
from itertools import accumulate

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from input_pipeline.text.lexicon import Lexicon, Words, _Numbers

characters = st.one_of(
    st.sampled_from('中国人ab1 é\uffff\U00020000\U0010ffff'), st.characters(exclude_characters='\0')
)
words = st.lists(st.one_of(st.text(characters, min_size=1, max_size=7), st.just('\0')), max_size=30)


def look_up(words: Sequence[str | int]) -> Words:
    nothing = np.zeros(len(words), bool)
    return Words(np.arange(len(words)), np.ones(len(words), int), nothing - 1, nothing, nothing)


def numbers_in(lexicon: Lexicon, words: list[str]) -> list[int]:
    ends = np.array([*accumulate(map(len, words))], np.intp)
    return lexicon.numbers_in(''.join(words), ends).tolist()


@given(st.lists(words, max_size=4))
def test_any_words(texts):
    lexicon = Lexicon(look_up)
    for text in texts:
        numbers = numbers_in(lexicon, text)
        assert numbers == lexicon.numbers(text).tolist()
        assert lexicon.words_of(np.array(numbers, np.intp)) == text


def test_more_words_than_the_first_table_holds():
    rng = random.Random(0)
    pool = [
        ''.join(map(chr, rng.choices(range(0x4E00, 0x9FD6), k=rng.randint(1, 5)))) for _ in range(150_000)
    ]
    lexicon = Lexicon(look_up)
    for start in range(0, len(pool), 10_000):
        text = rng.choices(pool[: start + 10_000], k=30_000)
        assert lexicon.words_of(np.array(numbers_in(lexicon, text))) == text
    assert len(lexicon._short._keys) > 1 << 16


def test_keys_that_begin_at_one_place_are_told_apart():
    """More keys than places, among the first the key 0, which free places hold too."""
    table = _Numbers()
    table._places = lambda keys: np.full(len(keys), (1 << 16) - 2)  # the last but one: the next is the first
    keys = np.arange(50, dtype=np.uint64)
    for part in (keys[:1], keys[1:20], keys[20:]):
        assert (table.find(part) == -1).all()
        table.add(part, part.astype(int) + 7)
        assert (table.find(part) == part + 7).all()
    assert (table.find(keys) == keys + 7).all()
    assert (table.find(keys + np.uint64(50)) == -1).all()
