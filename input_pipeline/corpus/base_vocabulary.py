"""The base block of a vocabulary: made from a text's characters, or the part of a BERT's that it needs."""

import heapq
import re
import string
from collections import Counter
from collections.abc import Iterable
from itertools import chain

from input_pipeline.text.vocabulary import Vocabulary, basic_tokens, is_chinese
from input_pipeline.text.wordpiece import SPECIAL

NUM_CHARS = 5_466  # arXiv 2208.10844, section 4.1
ASCII = string.ascii_lowercase + string.digits  # in every base block, also as ## pieces
NUM_LATIN_WORDS, MIN_LATIN_COUNT = 1_000, 5  # the paper's "basic English"
_LATIN = re.compile('[a-z]{2,}')


def part_of(base: list[str], chars: Counter[str], words: Counter[str], num_chars: int) -> list[str]:
    """The rows of a base vocabulary that a text needs, in their order.

    Its special tokens; the most frequent of its Chinese characters, and every other character of the text;
    ASCII letters and digits; the most frequent pieces that it spells the text's Latin words with.
    """
    given = set(base)
    known = {char: n for char, n in chars.items() if char in given}
    chinese = most_frequent(((char, n) for char, n in known.items() if is_chinese(char)), num_chars)
    others = [char for char in {*known, *ASCII} if not is_chinese(char)]
    whole = Vocabulary(base, len(base))
    pieces: Counter[str] = Counter()
    for word, n in words.items():
        if _LATIN.fullmatch(word):
            for row in whole.spell(word):
                pieces[base[row]] += n
    latin = most_frequent(
        ((piece, n) for piece, n in pieces.items() if n >= MIN_LATIN_COUNT), NUM_LATIN_WORDS
    )
    wanted = {*SPECIAL.values(), *chinese, *others, *(f'##{char}' for char in _inner(others)), *latin}
    return [token for token in base if token in wanted]


def _inner(chars: Iterable[str]) -> list[str]:
    """The characters that BERT does not set apart: with a ## row any word made of them can be spelled."""
    return [char for char in chars if len(basic_tokens(f'a{char}')) == 1]


def make(chars: Counter[str], words: Counter[str], num_chars: int) -> list[str]:
    """The base block. Characters that BERT does not set apart also get a ## row, so that any word made of
    them can be spelled; ASCII letters and digits always have both."""
    common = most_frequent(((char, n) for char, n in chars.items() if char not in ASCII), num_chars)
    latin = most_frequent(
        ((word, n) for word, n in words.items() if n >= MIN_LATIN_COUNT and _LATIN.fullmatch(word)),
        NUM_LATIN_WORDS,
    )
    return [
        *SPECIAL.values(),
        *common,
        *ASCII,
        *(f'##{char}' for char in chain(ASCII, _inner(common))),
        *latin,
    ]


def most_frequent(counts: Iterable[tuple[str, int]], limit: int) -> list[str]:
    """At most `limit` tokens by falling count, equal counts in code point order."""
    return [token for token, _ in heapq.nsmallest(limit, counts, key=lambda item: (-item[1], item[0]))]
