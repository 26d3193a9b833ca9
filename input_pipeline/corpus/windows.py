"""Text to records: documents become windows of consecutive sentences, in both views, and no token is lost.

Pure functions. A record is one window with two sentences or more, because sentence-order prediction has to
cut it in two.
"""

from collections.abc import Collection, Sequence
from itertools import accumulate, chain, pairwise
from typing import NamedTuple

import numpy as np

from input_pipeline.text.dual_tokenizer import Tokenizer
from input_pipeline.text.lexicon import Lexicon
from input_pipeline.text.segmenters import Segment
from input_pipeline.text.sentences import END, PAUSES, segmented

SPECIAL_TOKENS = 3  # [CLS] A [SEP] B [SEP]
SHORTEST = 16  # tokens; in less, three one-token sentences might need two windows


class Piece(NamedTuple):
    """A sentence or a part of one: the numbers of its words, int [n], and its tokens in each view."""

    words: np.ndarray
    chars: int
    tokens: int


class Window(NamedTuple):
    """The features of a record, int32 each: see `Encoded`; `sentence_words`: the word tokens of each
    sentence. No special tokens."""

    char_ids: np.ndarray
    word_ids: np.ndarray
    word_char_len: np.ndarray
    whole_word_tokens: np.ndarray
    sentence_words: np.ndarray


class Windows(NamedTuple):
    """A document as windows. `sentences` counts those with tokens, before any was cut; `characters` those
    read; `closed_by_words` the windows that the word view filled first."""

    windows: list[Window]
    sentences: int
    characters: int
    closed_by_words: int


def pause_ids(tokenizer: Tokenizer) -> frozenset[int]:
    """Ids of the punctuation after which an over-long sentence is cut by preference."""
    ids = chain.from_iterable(tokenizer.encode([mark]).char_ids for mark in PAUSES)
    return frozenset(ids) - {tokenizer.vocabulary.unk}


def encode_document(
    paragraphs: Sequence[str],
    segment: Segment,
    tokenizer: Tokenizer,
    pauses: Collection[int],
    char_length: int,
    word_length: int,
) -> Windows:
    """One document's windows, as `encode_documents` makes them."""
    return encode_documents([paragraphs], segment, tokenizer, pauses, char_length, word_length)[0]


def encode_documents(
    documents: Sequence[Sequence[str]],
    segment: Segment,
    tokenizer: Tokenizer,
    pauses: Collection[int],
    char_length: int,
    word_length: int,
) -> list[Windows]:
    """The windows of documents, each given as its paragraphs. Fewer than two sentences make no window, and
    `sentences` tells how many there were.

    `char_length`, `word_length`: tokens of a row, special tokens included, SHORTEST at least. `pauses`: from
    `pause_ids`. Many documents at once are faster than one by one; memory is in proportion to them.
    """
    tokenizer.trim()
    char_room, word_room = char_length - SPECIAL_TOKENS, word_length - SPECIAL_TOKENS
    char_limit, word_limit = char_room // 2, word_room // 2  # of a sentence
    numbers, counts = segmented(documents, segment, tokenizer)
    lexicon = tokenizer.lexicon
    all_sentences = _sentences(numbers, lexicon)
    packed: list[tuple[list[list[Piece]], int, int]] = []  # windows, closed by words, sentences
    for start, stop in pairwise(accumulate(counts, initial=0)):
        sentences = [sentence for sentence in all_sentences[start:stop] if sentence.chars]
        pieces: list[Piece] = []
        for sentence in sentences:
            if sentence.chars > char_limit or sentence.tokens > word_limit:
                pieces += cut(sentence, char_limit, word_limit, pauses, lexicon)
            else:
                pieces.append(sentence)
        windows, closed = pack(pieces, char_room, word_room, pauses, lexicon) if len(pieces) > 1 else ([], 0)
        packed.append((windows, closed, len(sentences)))
    made = iter(_windows([window for windows, _, _ in packed for window in windows], lexicon))
    return [
        Windows([next(made) for _ in windows], count, sum(map(len, paragraphs)), closed)
        for paragraphs, (windows, closed, count) in zip(documents, packed, strict=True)
    ]


def check_lengths(char_length: int, word_length: int) -> None:
    """Raises ValueError where a row of so many tokens, the special ones included, is too short to pack."""
    for name, length in (('char_length', char_length), ('word_length', word_length)):
        if length < SHORTEST:
            raise ValueError(f'{name} is {length}; it must be {SHORTEST} or more')


def cut(
    sentence: Piece, char_limit: int, word_limit: int, pauses: Collection[int], lexicon: Lexicon
) -> list[Piece]:
    """A sentence as pieces of at most `char_limit` and `word_limit` tokens: cut after the last pause that
    leaves the piece within both, else between two words, and inside a word only where the word alone is over
    a limit."""
    words = _divided(sentence.words, char_limit, word_limit, lexicon)
    sizes = list(zip(*(size.tolist() for size in lexicon.sizes(words))))
    stops = [0]
    pause = chars = tokens = 0  # where the last pause of the piece ends; its tokens so far
    for position, (more_chars, more_tokens) in enumerate(sizes):
        while chars + more_chars > char_limit or tokens + more_tokens > word_limit:
            stops.append(pause if pause > stops[-1] else position)
            chars, tokens = map(sum, zip((0, 0), *sizes[stops[-1] : position]))
        chars += more_chars
        tokens += more_tokens
        if lexicon.last_id(words[position]) in pauses:
            pause = position + 1
    return [piece(words[start:stop], lexicon) for start, stop in pairwise((*stops, len(words)))]


def pack(
    pieces: Sequence[Piece], char_room: int, word_room: int, pauses: Collection[int], lexicon: Lexicon
) -> tuple[list[list[Piece]], int]:
    """Two sentences or more, each within half of both rooms, as windows within both rooms; also how many
    windows the word view closed while the character view had room.

    Greedy and in order, so that every window but the last has two sentences at least: any two fit. A lone
    last sentence borrows from the window before it; where that leaves one alone in turn the next one lends,
    and where it is the first window that is left with one, a sentence is cut in two.
    """
    windows: list[list[Piece]] = []
    chars, words, closed_by_words = char_room + 1, 0, 0  # the first sentence opens a window
    for sentence in pieces:
        chars += sentence.chars
        words += sentence.tokens
        if chars > char_room or words > word_room:
            closed_by_words += chars <= char_room
            windows.append([])
            chars, words = sentence.chars, sentence.tokens
        windows[-1].append(sentence)
    for before, window in zip(windows[-2::-1], windows[:0:-1], strict=True):
        if len(window) > 1:
            break
        window.insert(0, before.pop())
    if len(windows[0]) == 1:
        # One of the two has two tokens: had both one, the third sentence would have fitted behind them.
        lone, following = windows[0][0], windows[1][0]
        if lone.chars > 1:
            windows[0] = _halve(lone, pauses, lexicon)
        else:
            head, tail = _halve(following, pauses, lexicon)
            windows[0].append(head)
            windows[1][0] = tail
    return windows, closed_by_words


def record(window: Window) -> dict[str, list[int]]:
    """A window's features as lists of ints."""
    return {name: values.tolist() for name, values in window._asdict().items()}


def piece(words: np.ndarray, lexicon: Lexicon) -> Piece:
    """The piece that consists of these words."""
    chars, tokens = lexicon.sizes(words)
    return Piece(words, int(chars.sum()), int(tokens.sum()))


def _sentences(numbers: np.ndarray, lexicon: Lexicon) -> list[Piece]:
    """What END divides, without the words that have no tokens."""
    chars, tokens = lexicon.sizes(numbers)
    kept = chars > 0
    ends = np.flatnonzero(numbers == lexicon[END])
    stops = np.cumsum(kept)[ends].tolist()
    words = map(numbers[kept].__getitem__, map(slice, [0, *stops], stops))
    sizes = (np.diff(np.cumsum(size)[ends], prepend=0).tolist() for size in (chars, tokens))
    return list(map(Piece, words, *sizes))


def _windows(windows: list[list[Piece]], lexicon: Lexicon) -> list[Window]:
    """Windows of pieces as the columns of their tokens."""
    if not windows:
        return []
    pieces = list(chain.from_iterable(windows))
    columns = lexicon.columns(np.concatenate([piece.words for piece in pieces]))
    # Where each window stops, counted in pieces, words, character tokens and word tokens.
    last = np.cumsum(list(map(len, windows)))
    tokens = np.array([piece.tokens for piece in pieces], np.int32)
    words, chars = (
        np.cumsum(x)[last - 1].tolist() for x in ([len(p.words) for p in pieces], [p.chars for p in pieces])
    )
    bounds = zip(chars, np.cumsum(tokens)[last - 1].tolist(), words, last.tolist())
    return [
        Window(
            columns.char_ids[char_start:char_stop],
            columns.word_ids[start:stop],
            columns.word_char_len[start:stop],
            columns.whole_word_tokens[word_start:word_stop],
            tokens[first:last],
        )
        for (char_start, start, word_start, first), (char_stop, stop, word_stop, last) in pairwise(
            chain([(0, 0, 0, 0)], bounds)
        )
    ]


def _divided(words: np.ndarray, char_limit: int, word_limit: int, lexicon: Lexicon) -> np.ndarray:
    """The words, of a word over a limit its base tokens, each as a word."""
    chars, tokens = lexicon.sizes(words)
    too_long = (chars > char_limit) | (tokens > word_limit)
    if not too_long.any():
        return words
    parts = (lexicon.divide(word) if long else [word] for word, long in zip(words.tolist(), too_long))
    return np.array(list(chain.from_iterable(parts)))


def _halve(sentence: Piece, pauses: Collection[int], lexicon: Lexicon) -> list[Piece]:
    """A sentence of two character tokens or more in two, after the pause, else the word, nearest to its
    middle."""
    limit = sentence.chars - (len(sentence.words) == 1)  # a lone word is over it
    words = _divided(sentence.words, limit, limit, lexicon)
    after_pause = [n for n in range(1, len(words)) if lexicon.last_id(words[n - 1]) in pauses]
    middle = min(after_pause or range(1, len(words)), key=lambda n: abs(2 * n - len(words)))
    return [piece(words[:middle], lexicon), piece(words[middle:], lexicon)]
