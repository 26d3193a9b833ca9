"""Word segmenters: text to words that spell it again when joined."""

import functools
import hashlib
import importlib.metadata
import logging
import string
import warnings
from collections.abc import Callable, Iterator
from itertools import accumulate
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import jieba
    import rjieba

log = logging.getLogger(__name__)

SEGMENTERS = ('jieba', 'rjieba')
# Versions of jieba and rjieba: tests/text/test_segmenters.py has shown that `_cut_fast` makes jieba's words.
COMPARED = {('0.42.1', '0.2.2')}

# Kinds of characters in which jieba looks for words (jieba/__init__.py, re_han_default), by code point, the
# last for all that are higher; any other character, 0, is a word by itself.
_HAN, _LATIN, _MARK = 1, 2, 3
_FIRST_HAN, _LAST_HAN = 0x4E00, 0x9FD5
_KINDS = np.zeros(0x10001, np.uint8)
_KINDS[_FIRST_HAN : _LAST_HAN + 1] = _HAN
_KINDS[[*map(ord, string.ascii_letters + string.digits)]] = _LATIN
_KINDS[[*map(ord, '+#&._%-')]] = _MARK
_MANY = 2000  # words; fewer are not worth the calls of NumPy
_LONG = 24  # ideographs; longer runs are rare, and one alone would take as many calls as all others together

Segment = Callable[[str], list[str]]


def segmenter(name: str, hmm: bool = True) -> Segment:
    """A function from a text to its words; `''.join(words)` is the text.

    `name`: 'jieba', the segmentation of the paper, or 'rjieba', a port of it to Rust. With `hmm` they differ
    in runs of Latin letters, digits and punctuation ('Wi-Fi', '350-400'), which rjieba keeps whole. Where
    rjieba is installed, 'jieba' has it do most of the work: the words are jieba's own, ten times as fast in
    texts of some thousand characters (bench/corpus.py). `hmm`: guess words that the dictionary does not have.

    Raises ValueError for another name, ImportError where rjieba is not installed.
    """
    if name == 'jieba':
        if not _rjieba_is_jieba():
            return functools.partial(_jieba().lcut, HMM=hmm)
        return _cut_fast if hmm else functools.partial(_rjieba().cut, hmm=False)
    if name == 'rjieba':
        return functools.partial(_rjieba().cut, hmm=hmm)
    raise ValueError(f'no segmenter is called {name!r}; there are: {", ".join(SEGMENTERS)}')


def describe(name: str, hmm: bool = True) -> dict[str, Any]:
    """What a manifest must say to have the same words again: name, version, hmm, hash of the dictionary.

    rjieba's dictionary is compiled in, so its version says it all.
    """
    segmenter(name, hmm)  # the same errors for a name that does not exist
    description: dict[str, Any] = {'name': name, 'version': importlib.metadata.version(name), 'hmm': hmm}
    if name == 'jieba':
        description['dictionary_sha256'] = _jieba_dictionary_sha256()
    return description


def word_ends(segment: Segment, text: str) -> np.ndarray:
    """int [words]: where each word of a text ends, counted in characters; `segment`: what tells the words.
    None is empty."""
    if segment is not _cut_fast:
        return _ends(list(filter(None, segment(text))))
    words = _rjieba().cut(text, hmm=False)
    return _guess_together(text, _ends(words)) if len(words) > _MANY else _ends(list(_guess_in_turn(words)))


def _spelled(text: str, ends: np.ndarray) -> list[str]:
    return list(map(text.__getitem__, map(slice, [0, *ends[:-1].tolist()], ends.tolist())))


def _ends(words: list[str]) -> np.ndarray:
    return np.cumsum(np.fromiter(map(len, words), np.intp, len(words)))


def _cut_fast(text: str) -> list[str]:
    """jieba's words: the most probable words of the dictionary, in which rjieba agrees with it, and jieba's
    guesses where these are single characters (jieba/__init__.py, `__cut_DAG`).

    rjieba's own guesses are others: it keeps 'Wi-Fi' and '1.2.3' whole, and its probabilities are rounded.
    """
    words = _rjieba().cut(text, hmm=False)
    if len(words) <= _MANY:
        return list(_guess_in_turn(words))
    return _spelled(text, _guess_together(text, _ends(words)))


def _guess_in_turn(words: list[str]) -> Iterator[str]:
    """The words with what jieba makes of single characters that follow each other, run by run."""
    run = ''
    for word in words:
        # No word of the dictionary is all Latin: letters and digits outside of its words come joined already.
        if word.isascii() and word.isalnum() or len(word) == 1 and _KINDS[min(ord(word), 0x10000)]:
            run += word
            continue
        if run:
            yield from _guess(run)
            run = ''
        yield word
    yield from _guess(run)


@functools.lru_cache(1 << 14)
def _guess(run: str) -> tuple[str, ...]:
    if len(run) < 2 or _rjieba().has_word(run):
        return tuple(run)
    return tuple(_finalseg().cut(run))


def _guess_together(text: str, ends: np.ndarray) -> np.ndarray:
    """What `_guess_in_turn` makes of the words of a text, given and returned as where they end; ten times as
    fast where they are many."""
    codes = np.frombuffer(text.encode('utf-32-le'), '<u4')
    kinds = _KINDS[np.minimum(codes, 0x10000)]
    starts = np.append(0, ends[:-1])
    lengths = ends - starts
    kind = kinds[starts]
    latin = np.add.reduceat(kinds == _LATIN, starts, dtype=np.intp) == lengths
    single = (kind > 0) & (lengths == 1) | latin
    ideograph = single & (kind == _HAN)
    # What changes: ideographs become words, and '3', '.', '14', '%' become one. Words from a first to a last.
    firsts, lasts = _guess_ideographs(codes, starts, _runs(ideograph))
    others = _runs(single & ~ideograph)
    is_other = np.arange(len(firsts) + len(others)) >= len(firsts)
    firsts, lasts = np.append(firsts, others[:, 0]), np.append(lasts, others[:, 1])
    runs = _runs(single)
    run = np.searchsorted(runs[:, 0], firsts, 'right') - 1
    changed = np.unique(run)
    spelled = map(slice, starts[runs[changed, 0]].tolist(), ends[runs[changed, 1]].tolist())
    known = list(map(_rjieba().has_word, map(text.__getitem__, spelled)))
    changes = ~np.isin(run, changed[known])  # jieba guesses nothing in a word that it knows
    firsts, lasts, is_other = firsts[changes], lasts[changes], is_other[changes]
    inside = np.zeros(len(ends) + 1, np.intp)  # of a first to a last, without the last
    inside[firsts] = 1
    inside[lasts] -= 1
    kept = ends[np.cumsum(inside[:-1]) == 0]
    split: list[int] = []
    for start, stop in zip(starts[firsts[is_other]].tolist(), ends[lasts[is_other]].tolist()):
        parts = _finalseg().re_skip.split(text[start:stop])
        split += (place for place in accumulate(map(len, parts), initial=start) if start < place < stop)
    places = np.unique(np.array(split, np.intp))  # a part may be empty
    return np.insert(kept, np.searchsorted(kept, places), places)


def _runs(flags: np.ndarray) -> np.ndarray:
    """int [k, 2]: the first and the last of every two or more true flags in a row."""
    runs = np.flatnonzero(np.diff(flags, prepend=False, append=False)).reshape(-1, 2) - [0, 1]
    return runs[runs[:, 1] > runs[:, 0]]


def _guess_ideographs(
    codes: np.ndarray, starts: np.ndarray, runs: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The first and the last of single ideographs that jieba takes for one word, in runs of them; `starts`:
    where in the text, `codes`, the words begin."""
    lengths = runs[:, 1] - runs[:, 0] + 1
    order = np.argsort(-lengths, kind='stable')
    order = order[np.count_nonzero(lengths > _LONG) :]
    firsts, lasts = _viterbi(codes, starts, runs[order, 0], lengths[order])
    for first, last in runs[lengths > _LONG].tolist():
        run = codes[starts[first] : starts[last] + 1].tobytes().decode('utf-32-le')
        bounds = first + np.cumsum([0, *map(len, _finalseg().cut(run))])
        long = np.diff(bounds) > 1
        firsts, lasts = np.append(firsts, bounds[:-1][long]), np.append(lasts, bounds[1:][long] - 1)
    return firsts, lasts


def _viterbi(
    codes: np.ndarray, starts: np.ndarray, firsts: np.ndarray, lengths: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """What `_guess_ideographs` returns, for runs of falling `lengths` from `firsts` on, all at once.

    jieba/finalseg/__init__.py, `viterbi`, with the same sums in the same order. States by the letters of
    their names, B, E, M, S: begin, end and middle of a word, single. Each is reached from two, and of equal
    probabilities jieba takes the later letter.
    """
    start, from_early, from_late, emit = _probabilities()
    early, late = np.array([1, 0, 0, 1]), np.array([3, 2, 2, 3])  # before B, E, M, S
    places = starts[firsts]
    score = start[:, None] + emit[:, codes[places] - _FIRST_HAN]  # [4, runs]
    longest = lengths.max(initial=1)
    counts = np.searchsorted(-lengths, -np.arange(longest))  # of runs that have a character at each place
    took_late = [np.empty(0)]
    for place, count in enumerate(counts[1:], 1):
        emitted = emit[:, codes[places[:count] + place] - _FIRST_HAN]
        low = score[early, :count] + from_early[:, None] + emitted
        high = score[late, :count] + from_late[:, None] + emitted
        took_late.append(high >= low)
        score[:, :count] = np.where(took_late[-1], high, low)
    state = np.where(score[3] >= score[1], 3, 1)
    states = np.full((len(firsts), longest), 3)
    for place in range(longest - 1, 0, -1):
        count = counts[place]
        states[:count, place] = now = state[:count].copy()
        state[:count] = np.where(took_late[place][now, np.arange(count)], late[now], early[now])
    states[:, 0] = state
    run, begin = np.nonzero(states == 0)
    _, end = np.nonzero(states == 1)
    return firsts[run] + begin, firsts[run] + end


@functools.cache
def _probabilities() -> tuple[np.ndarray, ...]:
    """jieba's model, logarithms: of a state at the start [4], of a state after the earlier and the later of
    those before it [4], of an ideograph in a state [4, ideographs]."""
    model = _finalseg()
    emit = np.full((4, _LAST_HAN - _FIRST_HAN + 1), model.MIN_FLOAT)
    for row, state in zip(emit, 'BEMS'):
        for ideograph, probability in model.emit_P[state].items():
            if _FIRST_HAN <= ord(ideograph) <= _LAST_HAN:
                row[ord(ideograph) - _FIRST_HAN] = probability
    after = model.trans_P
    return (
        np.array([model.start_P[state] for state in 'BEMS']),
        np.array([after[before][state] for before, state in ('EB', 'BE', 'BM', 'ES')]),
        np.array([after[before][state] for before, state in ('SB', 'ME', 'MM', 'SS')]),
        emit,
    )


@functools.cache
def _rjieba_is_jieba() -> bool:
    """Whether rjieba is there and makes jieba's words."""
    try:
        _rjieba()
    except ImportError:
        log.info('pip install rjieba: jieba makes the same words with it, ten times as fast')
        return False
    versions = importlib.metadata.version('jieba'), importlib.metadata.version('rjieba')
    if versions not in COMPARED:
        log.warning(
            'jieba %s has not been compared with rjieba %s, so it works without its help, ten times slower; '
            'these go together: %s',
            *versions,
            ', '.join(f'jieba=={jieba} rjieba=={rjieba}' for jieba, rjieba in sorted(COMPARED)),
        )
        return False
    return True


@functools.cache
def _import_jieba() -> ModuleType:
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # invalid escapes in its source, pkg_resources
        import jieba
    return jieba


def _finalseg() -> ModuleType:
    """jieba's guesses, by a hidden Markov model."""
    return _import_jieba().finalseg


@functools.cache
def _jieba() -> 'jieba.Tokenizer':
    """A jieba of our own with its packaged dictionary, loaded once a process (about a second)."""
    tokenizer = _import_jieba().Tokenizer()
    # Not tokenizer.initialize(): it trusts any jieba.cache that it finds in the shared temporary folder,
    # whichever version or person wrote it.
    tokenizer.FREQ, tokenizer.total = tokenizer.gen_pfdict(tokenizer.get_dict_file())
    tokenizer.initialized = True
    return tokenizer


def _jieba_dictionary_sha256() -> str:
    with _import_jieba().Tokenizer().get_dict_file() as file:
        return hashlib.sha256(file.read()).hexdigest()


@functools.cache
def _rjieba() -> 'rjieba.Jieba':
    """An rjieba of our own: whoever adds words to the module's, adds them to no corpus."""
    try:
        import rjieba
    except ImportError as error:
        raise ImportError(
            'the segmenter rjieba is not installed: pip install rjieba, or take --segmenter=jieba'
        ) from error
    return rjieba.Jieba()
