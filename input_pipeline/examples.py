"""Text to records: documents become windows of consecutive sentences, in both views, and no token is lost.

Pure functions. A record is one window with two sentences or more, because sentence-order prediction has to
cut it in two.
"""

import re
from collections.abc import Collection, Iterator, Sequence
from itertools import chain
from typing import NamedTuple

from input_pipeline.segment import Segment
from input_pipeline.tokenizer import Encoded, Tokenizer

SPECIAL_TOKENS = 3  # [CLS] A [SEP] B [SEP]
SHORTEST = 16  # tokens; in less, three one-token sentences might need two windows

# A full-width end mark always ends a sentence; '!' and '?' do unless they stand in a URL or in code (a?b=c,
# !=). Straight quotes are left out of the closers: nothing tells a closing one from an opening one.
_END = re.compile('(?:[。！？；…]|[!?](?![0-9A-Za-z=]))[。！？；…!?]*[”’」』）】》〉〕]*')
_INVISIBLE = re.compile('[\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufeff]')
_PAUSES = '，、,;:：'
_LONGEST_SENTENCE = 4096  # characters; jieba needs memory in proportion to the text that it is given at once
_LAST_PAUSE = re.compile(rf'.*[{_PAUSES}\s]', re.DOTALL)


class Windows(NamedTuple):
    """A document as windows. `sentences` counts those with tokens, before any was cut; `characters` those
    read; `closed_by_words` the windows that the word view filled first."""

    windows: list[list[Encoded]]
    sentences: int
    characters: int
    closed_by_words: int


def sentences(paragraph: str) -> Iterator[str]:
    """The sentences of a paragraph; joined they are the paragraph without its invisible format characters.

    BERT drops those characters anyway (zero-width spaces, soft hyphens, byte order marks); here they would
    only break words apart. A sentence is at most 4,096 characters: longer ones are cut, after a pause or a
    space where there is one.
    """
    paragraph = _INVISIBLE.sub('', paragraph)
    start = 0
    for stop in chain((end.end() for end in _END.finditer(paragraph)), (len(paragraph),)):
        while stop - start > _LONGEST_SENTENCE:
            part = paragraph[start : start + _LONGEST_SENTENCE]
            pause = _LAST_PAUSE.match(part)
            yield pause.group() if pause else part
            start += pause.end() if pause else len(part)
        if start < stop:
            yield paragraph[start:stop]
        start = stop


def pause_ids(tokenizer: Tokenizer) -> frozenset[int]:
    """Ids of the punctuation after which an over-long sentence is cut by preference."""
    ids = chain.from_iterable(tokenizer.encode([mark]).char_ids for mark in _PAUSES)
    return frozenset(ids) - {tokenizer.vocabulary.unk}


def encode_document(
    paragraphs: Sequence[str],
    segment: Segment,
    tokenizer: Tokenizer,
    pauses: Collection[int],
    char_length: int,
    word_length: int,
) -> Windows:
    """A document's windows; fewer than two sentences make none, and `sentences` tells how many there were.

    `char_length`, `word_length`: tokens of a row, special tokens included, SHORTEST at least. `pauses`: from
    `pause_ids`.
    """
    char_room, word_room = char_length - SPECIAL_TOKENS, word_length - SPECIAL_TOKENS
    pieces: list[Encoded] = []
    count = 0
    for sentence in chain.from_iterable(map(sentences, paragraphs)):
        encoded = tokenizer.encode(segment(sentence))
        if encoded.char_ids:
            count += 1
            pieces += cut(encoded, char_room // 2, word_room // 2, pauses)
    windows, closed_by_words = pack(pieces, char_room, word_room, pauses) if len(pieces) > 1 else ([], 0)
    return Windows(windows, count, sum(map(len, paragraphs)), closed_by_words)


def check_lengths(char_length: int, word_length: int) -> None:
    """Raises ValueError where a row of so many tokens, the special ones included, is too short to pack."""
    for name, length in (('char_length', char_length), ('word_length', word_length)):
        if length < SHORTEST:
            raise ValueError(f'{name} is {length}; it must be {SHORTEST} or more')


def cut(sentence: Encoded, char_limit: int, word_limit: int, pauses: Collection[int]) -> list[Encoded]:
    """A sentence as pieces of at most `char_limit` and `word_limit` tokens: cut after the last pause that
    leaves the piece within both, else between two words, and inside a word only where the word alone is over
    a limit."""
    if len(sentence.char_ids) <= char_limit and len(sentence.word_ids) <= word_limit:
        return [sentence]
    pieces: list[Encoded] = []
    piece: list[Encoded] = []  # of words
    pause = 0  # words of the piece up to its last pause
    chars = tokens = 0  # of the piece
    for word in _words(sentence, char_limit, word_limit):
        while chars + len(word.char_ids) > char_limit or tokens + len(word.word_ids) > word_limit:
            pieces.append(_joined(piece[: pause or None]))
            piece, pause = piece[pause:] if pause else [], 0
            chars, tokens = sum(len(w.char_ids) for w in piece), sum(len(w.word_ids) for w in piece)
        piece.append(word)
        chars += len(word.char_ids)
        tokens += len(word.word_ids)
        if word.word_ids[-1] in pauses:
            pause = len(piece)
    return [*pieces, _joined(piece)]


def pack(
    sentences: Sequence[Encoded], char_room: int, word_room: int, pauses: Collection[int]
) -> tuple[list[list[Encoded]], int]:
    """Two sentences or more, each within half of both rooms, as windows within both rooms; also how many
    windows the word view closed while the character view had room.

    Greedy and in order, so that every window but the last has two sentences at least: any two fit. A lone
    last sentence borrows from the window before it; where that leaves one alone in turn the next one lends,
    and where it is the first window that is left with one, a sentence is cut in two.
    """
    windows: list[list[Encoded]] = []
    chars, words, closed_by_words = char_room + 1, 0, 0  # the first sentence opens a window
    for sentence in sentences:
        chars += len(sentence.char_ids)
        words += len(sentence.word_ids)
        if chars > char_room or words > word_room:
            closed_by_words += chars <= char_room
            windows.append([])
            chars, words = len(sentence.char_ids), len(sentence.word_ids)
        windows[-1].append(sentence)
    for before, window in zip(windows[-2::-1], windows[:0:-1], strict=True):
        if len(window) > 1:
            break
        window.insert(0, before.pop())
    if len(windows[0]) == 1:
        # One of the two has two tokens: had both one, the third sentence would have fitted behind them.
        lone, following = windows[0][0], windows[1][0]
        if len(lone.char_ids) > 1:
            windows[0] = _halve(lone, pauses)
        else:
            head, tail = _halve(following, pauses)
            windows[0].append(head)
            windows[1][0] = tail
    return windows, closed_by_words


def record(window: Sequence[Encoded]) -> dict[str, list[int]]:
    """A window's features, each a list of ints: `char_ids`, `word_ids`, `word_char_len`, `whole_word_tokens`
    are its sentences' joined (see Encoded), `sentence_words` the word tokens of each sentence. No special
    tokens."""
    return {**_joined(window)._asdict(), 'sentence_words': [len(sentence.word_ids) for sentence in window]}


def _joined(parts: Sequence[Encoded]) -> Encoded:
    return Encoded(*(list(chain.from_iterable(view)) for view in zip(*parts, strict=True)))


def _words(sentence: Encoded, char_limit: int, word_limit: int) -> Iterator[Encoded]:
    """A sentence's words one by one; of a word over a limit its base tokens, each as a word."""
    word_start = char_start = 0
    for tokens in sentence.whole_word_tokens:
        word_stop = word_start + tokens
        char_len = sentence.word_char_len[word_start:word_stop]
        char_stop = char_start + sum(char_len)
        char_ids = sentence.char_ids[char_start:char_stop]
        if len(char_ids) > char_limit or tokens > word_limit:
            yield from (Encoded([token], [token], [1], [1]) for token in char_ids)
        else:
            yield Encoded(char_ids, sentence.word_ids[word_start:word_stop], char_len, [tokens])
        word_start, char_start = word_stop, char_stop


def _halve(sentence: Encoded, pauses: Collection[int]) -> list[Encoded]:
    """A sentence of two character tokens or more in two, after the pause, else the word, nearest to its
    middle."""
    limit = len(sentence.char_ids) - (len(sentence.whole_word_tokens) == 1)  # a lone word is over it
    words = list(_words(sentence, limit, limit))
    after_pause = [n for n in range(1, len(words)) if words[n - 1].word_ids[-1] in pauses]
    middle = min(after_pause or range(1, len(words)), key=lambda n: abs(2 * n - len(words)))
    return [_joined(words[:middle]), _joined(words[middle:])]
