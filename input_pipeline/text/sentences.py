"""Text cut into sentences, and many texts segmented at once."""

import operator
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import TypeVar

import numpy as np

from input_pipeline.text.dual_tokenizer import Tokenizer
from input_pipeline.text.segmenters import Segment, word_ends

END = '\0'  # between sentences and between paragraphs: no text has it, and to every segmenter it is a word
# A full-width end mark always ends a sentence; '!' and '?' do unless they stand in a URL or in code (a?b=c,
# !=). Straight quotes are left out of the closers: nothing tells a closing one from an opening one.
_SENTENCE_END = re.compile('([。！？；…!?](?<![!?](?=[0-9A-Za-z=]))[。！？；…!?]*[”’」』）】》〉〕]*)')
_INVISIBLE = re.compile('[\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufeff]')
PAUSES = '，、,;:：'
_LONGEST_SENTENCE = 4096  # characters; jieba needs memory in proportion to the text that it is given at once
_BATCH_CHARACTERS = 1 << 16
_LAST_PAUSE = re.compile(rf'.*[{PAUSES}\s]', re.DOTALL)
T = TypeVar('T')


def sentences(text: str) -> list[str]:
    """The sentences of a paragraph, or of several with END between them; joined they are the text without END
    and without its invisible format characters.

    BERT drops those characters anyway (zero-width spaces, soft hyphens, byte order marks); here they would
    only break words apart. A sentence is at most 4,096 characters: longer ones are cut, after a pause or a
    space where there is one.
    """
    parts = _SENTENCE_END.split(_INVISIBLE.sub('', text))  # every second one is an end mark
    marked = END.join((*map(operator.add, parts[:-1:2], parts[1::2]), parts[-1]))
    pieces = list(filter(None, marked.split(END)))
    if max(map(len, pieces), default=0) > _LONGEST_SENTENCE:
        pieces = list(chain.from_iterable(map(_short, pieces)))
    return pieces


def _short(sentence: str) -> Iterator[str]:
    while len(sentence) > _LONGEST_SENTENCE:
        part = sentence[:_LONGEST_SENTENCE]
        pause = _LAST_PAUSE.match(part)
        stop = pause.end() if pause else len(part)
        yield sentence[:stop]
        sentence = sentence[stop:]
    yield sentence


def in_batches(items: Iterable[T], paragraphs: Callable[[T], Sequence[str]]) -> Iterator[list[T]]:
    """Consecutive documents, together about 64k characters: enough for NumPy to be worth its calls, few
    enough for the processor's caches. `paragraphs`: those of an item."""
    batch: list[T] = []
    size = 0
    for item in items:
        batch.append(item)
        size += sum(map(len, paragraphs(item)))
        if size >= _BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def segmented(
    documents: Iterable[Sequence[str]], segment: Segment, tokenizer: Tokenizer
) -> tuple[np.ndarray, list[int]]:
    """The words of documents, each given as its paragraphs: int [n], by their number in
    `tokenizer.lexicon`, with that of END after each sentence; and the number of sentences of each document.

    All of them go to the segmenter as one text, for they may be short; END keeps sentences apart.
    """
    sentences_of = [sentences(END.join(paragraphs)) for paragraphs in documents]
    text = END.join((*chain.from_iterable(sentences_of), ''))
    return tokenizer.numbers_in(text, word_ends(segment, text), END), list(map(len, sentences_of))
