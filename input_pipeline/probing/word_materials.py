"""What configs/words.py measures encoders on: words in context and a word2vec of them, pairs of words,
paraphrases."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from input_pipeline.pretraining import similar_words
from input_pipeline.probing import word_contexts
from input_pipeline.probing.word_contexts import Contexts
from input_pipeline.sentence_vectors import sentences
from input_pipeline.text.vocabulary import Vocabulary
from input_pipeline.utils import output_file

WORD2VEC = {'dimensions': 100, 'window': 5, 'min_count': 5, 'epochs': 5}


class WordPairs(NamedTuple):
    """Pairs of words, int [N] each by their numbers, with people's scores [N]; `apart`, bool [N]: they share
    no character."""

    first: np.ndarray
    second: np.ndarray
    score: np.ndarray
    apart: np.ndarray


class Materials(NamedTuple):
    """What every model is measured on.

    `tokens`: the corpus's base block. `words`: those of `held_out`; `pair_words`: those of `pairs` and of
    `in_context`; `paraphrases`: as many first texts as second ones.
    """

    tokens: list[str]
    words: list[str]
    held_out: Contexts
    pair_words: list[str]
    in_context: Contexts
    pairs: dict[str, WordPairs]
    paraphrases: dict[str, tuple[list[str], list[str]]]

    def counts(self) -> dict[str, Any]:
        """How much there is of everything."""
        occurs = np.isin(np.arange(len(self.pair_words)), self.in_context.word)
        return {
            'words': len(self.words),
            'occurrences': len(self.held_out.word),
            'sentences': len(self.held_out.sentences),
            'pairs': {
                name: {
                    'all': len(pairs.score),
                    'no shared character': int(pairs.apart.sum()),
                    'in context': int((occurs[pairs.first] & occurs[pairs.second]).sum()),
                    'in context, no shared character': int(
                        (occurs[pairs.first] & occurs[pairs.second] & pairs.apart).sum()
                    ),
                }
                for name, pairs in self.pairs.items()
            },
            'paraphrases': {name: len(first) for name, (first, _) in self.paraphrases.items()},
        }


def named(text: str, key: str) -> list[tuple[str, str]]:
    """'a=x,b=y' → [('a', 'x'), ('b', 'y')]. Raises ValueError, with the config's `key`, for anything else."""
    entries = [entry.partition('=') for entry in text.split(',') if entry]
    for name, _, value in entries:
        if not name or not value:
            raise ValueError(f'{key}={text}: write NAME=PATH,NAME=PATH')
    return [(name, value) for name, _, value in entries]


def gather(config: ConfigDict) -> Materials:
    """What the models are measured on.

    Raises ValueError or OSError where the corpus or a file is missing or wrong.
    """
    data = config.data
    vocabulary = Vocabulary.load(Path(data.corpus, 'vocab.txt'))
    length = similar_words.lengths(vocabulary)
    length[: vocabulary.base_size] = 0
    spelled = vocabulary.pieces()
    wanted = {spelled[row - vocabulary.base_size]: row for row in np.flatnonzero(length).tolist()}
    held_out = word_contexts.find(data.corpus, 'validation', wanted, data.occurrences, config.seed)
    words, times = np.unique(held_out.word, return_counts=True)
    words = words[times >= data.min_occurrences].tolist()
    pairs, pair_words = _word_pairs(data)
    by_spelling = {vocabulary.spell(word): number for number, word in enumerate(pair_words)}
    if pair_words:
        in_context = word_contexts.find(data.corpus, 'train', by_spelling, data.occurrences, config.seed)
    else:
        in_context = held_out.of([])
    paraphrases = {}
    for name, file in named(data.paraphrases, 'data.paraphrases'):
        related = sentences.related_pairs(file, data)
        if 0 < data.max_pairs < len(related):
            chosen = np.random.default_rng(config.seed).choice(len(related), data.max_pairs, replace=False)
            related = [related[number] for number in np.sort(chosen)]
        paraphrases[name] = ([pair.text_a for pair in related], [pair.text_b for pair in related])
    tokens = vocabulary.tokens[: vocabulary.base_size]
    names = [vocabulary.tokens[word] for word in words]
    return Materials(tokens, names, held_out.of(words), pair_words, in_context, pairs, paraphrases)


def targets(config: ConfigDict, words: Sequence[str], workdir: Path) -> tuple[np.ndarray, np.ndarray]:
    """Which of the words have a vector in word2vec, bool [W], and these, fp32 [N, T]: from `data.vectors` or,
    kept in `workdir`, trained on the corpus.

    Raises ValueError where the file or the corpus cannot be read, ImportError where gensim is missing.
    """
    path = Path(config.data.vectors or workdir / 'word_vectors.txt')
    if not config.data.vectors:
        vocabulary = Vocabulary.load(Path(config.data.corpus, 'vocab.txt'))
        wanted = {
            'corpus': config.data.corpus,
            'vocabulary': vocabulary.sha256(),
            'seed': config.seed,
            **WORD2VEC,
        }
        made_of = path.with_suffix('.json')
        if not (path.is_file() and made_of.is_file() and json.loads(made_of.read_text('utf-8')) == wanted):
            made_of.unlink(missing_ok=True)
            word_vectors = similar_words.trained(
                config.data.corpus, vocabulary.tokens, seed=config.seed, **WORD2VEC
            )
            similar_words.write_vectors(path, word_vectors, vocabulary.tokens[vocabulary.base_size :])
            output_file.write_json(made_of, wanted)
    vectors = similar_words.read_vectors(path, {word: number for number, word in enumerate(words)})
    if not vectors:
        raise ValueError(f'no word of the held-out text has a vector in {path}')
    known = np.isin(np.arange(len(words)), list(vectors))
    return known, np.array([vectors[number] for number in sorted(vectors)], np.float32)


def _word_pairs(data: ConfigDict) -> tuple[dict[str, WordPairs], list[str]]:
    """By name, the files of `data.pairs`; and their distinct words."""
    number: dict[str, int] = {}
    pairs = {}
    for name, file in named(data.pairs, 'data.pairs'):
        read = sentences.scored_pairs(file, data)
        first, second = (
            np.array([number.setdefault(text, len(number)) for text in texts])
            for texts in zip(*((pair.text_a, pair.text_b) for pair in read))
        )
        apart = np.array([not set(pair.text_a) & set(pair.text_b) for pair in read])
        pairs[name] = WordPairs(first, second, np.array([pair.score for pair in read]), apart)
    return pairs, list(number)
