"""Word segmenters: text to words that spell it again when joined."""

import functools
import hashlib
import importlib.metadata
import warnings
from collections.abc import Callable
from typing import Any

SEGMENTERS = ('jieba', 'rjieba')

Segment = Callable[[str], list[str]]


def segmenter(name: str, hmm: bool = True) -> Segment:
    """A function from a text to its words; `''.join(words)` is the text.

    `name`: 'jieba', the segmentation of the paper, or 'rjieba', a port of it to Rust, ten times as fast or
    more. With `hmm` they differ in runs of Latin letters, digits and punctuation ('Wi-Fi', '350-400'), which
    rjieba keeps whole (bench/segmentation.py). `hmm`: guess words that the dictionary does not have.

    Raises ValueError for another name, ImportError where rjieba is not installed.
    """
    if name == 'jieba':
        return functools.partial(_jieba().lcut, HMM=hmm)
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


@functools.cache
def _jieba():
    """A jieba of our own with its packaged dictionary, loaded once a process (about a second)."""
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # invalid escapes in its source, pkg_resources
        import jieba
    tokenizer = jieba.Tokenizer()
    # Not tokenizer.initialize(): it trusts any jieba.cache that it finds in the shared temporary folder,
    # whichever version or person wrote it.
    tokenizer.FREQ, tokenizer.total = tokenizer.gen_pfdict(tokenizer.get_dict_file())
    tokenizer.initialized = True
    return tokenizer


def _jieba_dictionary_sha256() -> str:
    with _jieba().get_dict_file() as file:
        return hashlib.sha256(file.read()).hexdigest()


def _rjieba():
    try:
        import rjieba
    except ImportError as error:
        raise ImportError(
            'the segmenter rjieba is not installed: pip install rjieba, or take --segmenter=jieba'
        ) from error
    return rjieba
