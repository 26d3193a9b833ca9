"""The job of configs/words.py: what a frozen character encoder's vectors know of words and of paraphrases."""

import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from clower_jax import resampling, word_report
from clower_jax.hidden_states import HiddenStates
from input_pipeline import sentences, similar_words, vector_scores, word_contexts
from input_pipeline.tokenizer import Vocabulary
from input_pipeline.word_contexts import Contexts

log = logging.getLogger(__name__)

WORD2VEC = {'dimensions': 100, 'window': 5, 'min_count': 5, 'epochs': 5}
NO_SHARED = ', no shared character'

Items = dict[str, np.ndarray]


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
    found = [entry.partition('=') for entry in text.split(',') if entry]
    for name, _, value in found:
        if not name or not value:
            raise ValueError(f'{key}={text}: write NAME=PATH,NAME=PATH')
    return [(name, value) for name, _, value in found]


def run(config: ConfigDict, workdir: Path) -> str:
    """Measures `config.models` and writes words.json, words.md, words.png; returns the table.

    What was measured of a model is kept in `workdir`/measured, and not measured again with the same settings.

    Raises ValueError or OSError where a setting, a model, the corpus or a file is missing or wrong.
    """
    models = named(config.models, 'models')
    if not models or not config.data.corpus:
        raise ValueError('give --config.models=NAME=FOLDER,NAME=FOLDER and --config.data.corpus=DIR')
    systems = list(dict.fromkeys(name for name, _ in models))
    references = [name for name in config.reference.split(',') if name] or systems[:1]
    for name in references:
        if name not in systems:
            raise ValueError(f'reference={name} must be one of {", ".join(systems)}')
    if config.data.occurrences < config.data.min_occurrences or config.data.min_occurrences < 1:
        raise ValueError('data.occurrences must be at least data.min_occurrences, and that at least 1')
    if config.folds < 2 or config.samples < 1:
        raise ValueError(f'folds={config.folds} must be at least 2, samples={config.samples} at least 1')
    workdir.mkdir(parents=True, exist_ok=True)
    made: list[Materials] = []

    def materials() -> Materials:
        if not made:
            made.append(gather(config))
        return made[0]

    settings = json.loads(config.to_json_best_effort())
    measured: dict[str, list[Items]] = {}
    for name, folder in models:
        number = len(measured.setdefault(name, []))
        about = {'folder': folder, 'dtype': config.dtype, 'seed': config.seed, 'data': dict(settings['data'])}
        del about['data']['vectors']
        path = workdir / 'measured' / f'{name}-{number}.npz'
        measured[name].append(_kept(path, about, materials))
    first = measured[systems[0]][0]
    counts = json.loads(str(first['counts']))
    known, vectors = targets(config, first['words'].tolist(), workdir)
    counts['words'] = len(vectors)
    for name, seeds in measured.items():
        measured[name] = [regress(items, known, vectors, config.folds, config.seed) for items in seeds]
    folders = {name: [folder for other, folder in models if other == name] for name in systems}
    results = summarise(measured, references, config.samples, config.seed)
    return word_report.write(workdir, results, {'settings': settings, 'counts': counts, 'folders': folders})


def _kept(path: Path, about: Mapping[str, Any], gathered: Callable[[], Materials]) -> Items:
    """What was measured, from its file if it is of the same settings, else anew."""
    if path.is_file():
        with np.load(path) as file:
            items = dict(file)
        if json.loads(str(items['about'])) == about:
            return items
    materials = gathered()
    began = time.monotonic()
    items = measure(HiddenStates.load(about['folder'], about['dtype']), materials)
    items['counts'] = np.array(json.dumps(materials.counts()))
    items |= {'words': np.array(materials.words), 'about': np.array(json.dumps(about))}
    path.parent.mkdir(exist_ok=True)
    partial = path.with_name(f'partial-{path.name}')
    np.savez_compressed(partial, allow_pickle=False, **items)
    partial.replace(path)
    log.info('%s: %.0f s', about['folder'], time.monotonic() - began)
    return items


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
        found = sentences.related_pairs(file, data)
        if 0 < data.max_pairs < len(found):
            chosen = np.random.default_rng(config.seed).choice(len(found), data.max_pairs, replace=False)
            found = [found[number] for number in np.sort(chosen)]
        paraphrases[name] = ([pair.text_a for pair in found], [pair.text_b for pair in found])
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
            found = similar_words.trained(config.data.corpus, vocabulary.tokens, seed=config.seed, **WORD2VEC)
            similar_words.write_vectors(path, found, vocabulary.tokens[vocabulary.base_size :])
            made_of.write_text(json.dumps(wanted), encoding='utf-8')
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


# ---- one model ----


def measure(states: HiddenStates, materials: Materials) -> Items:
    """What is measured of every item: vectors of words, which `regress` goes on with; cosines of pairs of
    words (NaN where one does not occur), people's scores and whether they are apart; ranks of paraphrases."""
    held_out, count = materials.held_out, len(materials.words)
    items = {
        'vectors/context': in_context(states, materials.tokens, held_out, count),
        'vectors/token embeddings': token_means(states, materials.tokens, held_out, count),
    }
    count = len(materials.pair_words)
    for where, vectors in (
        ('alone', alone(states, materials.pair_words)),
        ('in context', in_context(states, materials.tokens, materials.in_context, count)),
    ):
        for centring, moved in centrings(vectors):
            for name, pairs in materials.pairs.items():
                cosines = vector_scores.cosines(moved[pairs.first], moved[pairs.second])
                items[f'pairs/{name}/{where}{centring}'] = np.stack([cosines, pairs.score, pairs.apart])
    for name, texts in materials.paraphrases.items():
        rows = states.rows([*texts[0], *texts[1]])
        number = np.arange(len(rows))
        for pooling, length in (('mean', np.fromiter(map(len, rows), int)), ('cls', np.ones_like(number))):
            vectors = states.span_means(rows, number, np.zeros_like(number), length)
            for centring, moved in centrings(vectors):
                ranks, _ = vector_scores.ranks(*np.split(moved, 2))
                items[f'paraphrases/{name}/{pooling}{centring}'] = ranks
    return items


def centrings(vectors: np.ndarray) -> list[tuple[str, np.ndarray]]:
    """The vectors [N, D] as they are, and without their mean; each with the end of its name."""
    known = ~np.isnan(vectors).any(axis=1)
    mean = vectors[known].mean(axis=0) if known.any() else 0
    return [('', vectors), (', centred', vectors - mean)]


def in_context(states: HiddenStates, tokens: Sequence[str], contexts: Contexts, count: int) -> np.ndarray:
    """fp32 [count, D]: for each word, the mean over its occurrences of the mean of its characters' last
    hidden states; NaN where it has none."""
    own = states.ids(tokens)
    rows = [states.framed(own[ids]) for ids in contexts.sentences]
    for row in rows:
        if len(row) > states.max_length:
            raise ValueError(
                f'the corpus has sentences of {len(row)} tokens, of which the model reads {states.max_length}'
            )
    found = states.span_means(rows, contexts.sentence, contexts.start + 1, contexts.length)
    return _means(found, contexts.word, count)


def token_means(states: HiddenStates, tokens: Sequence[str], contexts: Contexts, count: int) -> np.ndarray:
    """fp32 [count, D]: for each word the mean of its characters' token embeddings."""
    own = states.ids(tokens)
    places = zip(contexts.sentence, contexts.start, contexts.length)
    spelled = [contexts.sentences[number][start : start + size] for number, start, size in places]
    found = np.array([states.token_vectors[own[ids]].mean(axis=0) for ids in spelled])
    return _means(found, contexts.word, count)


def alone(states: HiddenStates, words: Sequence[str]) -> np.ndarray:
    """fp32 [N, D]: for each word the mean of its tokens' last hidden states in [CLS] word [SEP]."""
    rows = states.rows(words)
    number = np.arange(len(rows))
    length = np.fromiter(map(len, rows), int, len(rows)) - 2
    return states.span_means(rows, number, np.ones_like(number), length)


def _means(vectors: np.ndarray, groups: np.ndarray, count: int) -> np.ndarray:
    """fp32 [count, D]: of the rows of vectors [S, D] of each group [S]; NaN where there are none."""
    sums = np.zeros((count, *vectors.shape[1:]))
    np.add.at(sums, groups, vectors)
    with np.errstate(invalid='ignore'):
        return (sums / np.bincount(groups, minlength=count)[:, None]).astype(np.float32)


def regress(items: Items, known: np.ndarray, vectors: np.ndarray, folds: int, seed: int) -> Items:
    """The items with the errors of predicting `vectors` (`targets`) in place of the vectors of words."""
    found = {}
    for key, values in items.items():
        kind, _, source = key.partition('/')
        if kind != 'vectors':
            found[key] = values
            continue
        errors = resampling.held_out_errors(values[known], vectors, folds, seed)
        for part, array in zip(('residual', 'total', 'penalty'), errors):
            found[f'r2/{source}/{part}'] = np.array(array)
    return found


# ---- all models ----


def statistics(items: Items) -> dict[str, tuple[Callable[..., float], tuple[np.ndarray, ...]]]:
    """By name, a figure as a function of arrays, and these, [N, …] each; N is what the bootstrap draws."""
    found: dict[str, tuple[Callable[..., float], tuple[np.ndarray, ...]]] = {}
    for key, values in items.items():
        kind, _, name = key.partition('/')
        if kind == 'r2' and name.endswith('/residual'):
            source = name.removesuffix('/residual')
            found[f'R²/{source}'] = (resampling.r_squared, (values, items[f'r2/{source}/total']))
        elif kind == 'pairs':
            pair_set, _, vectors = name.partition('/')
            values = values[:, ~np.isnan(values[0])]
            for subset, chosen in (('', values), (NO_SHARED, values[:, values[2] > 0])):
                if chosen.shape[1] > 2:
                    found[f'ρ/{pair_set}{subset}/{vectors}'] = (vector_scores.spearman, tuple(chosen[:2]))
        elif kind == 'paraphrases':
            found[f'MRR/{name}'] = (_mean, (1 / values,))
            for most in (1, 10):
                found[f'recall@{most}/{name}'] = (_mean, ((values <= most).astype(float),))
    return found


def _mean(values: np.ndarray) -> float:
    return float(values.mean())


def summarise(
    measured: Mapping[str, Sequence[Items]], references: Sequence[str], samples: int, seed: int
) -> dict[str, Any]:
    """For each system and figure its value, a mean over seeds, with the interval of 95 % that the bootstrap
    over items gives, and the value of each seed; and the differences from each reference, drawn in pairs.

    Args:
      measured: for each system what was measured with each of its seeds, on the same items.
    """
    figures: dict[str, dict[str, Any]] = {}
    drawn: dict[tuple[str, str], np.ndarray] = {}
    for system, seeds in measured.items():
        found = [statistics(items) for items in seeds]
        figures[system] = {}
        for name, (_, arrays) in found[0].items():
            values = [one[name][0](*one[name][1]) for one in found]
            draws = [resampling.bootstrap(*one[name], samples, seed) for one in found]
            drawn[system, name] = np.mean(draws, axis=0)
            figures[system][name] = {
                'value': float(np.mean(values)),
                'interval': resampling.interval(drawn[system, name]),
                'seeds': values,
                'count': len(arrays[0]),
            }
    differences = {
        reference: {
            system: {
                name: {
                    'difference': figure['value'] - figures[reference][name]['value'],
                    'interval': resampling.interval(drawn[system, name] - drawn[reference, name]),
                }
                for name, figure in figures[system].items()
            }
            for system in figures
            if system != reference
        }
        for reference in references
    }
    penalties = {
        system: {
            key.split('/')[1]: [items[key].tolist() for items in seeds]
            for key in seeds[0]
            if key.endswith('/penalty')
        }
        for system, seeds in measured.items()
    }
    return {'systems': figures, 'differences': differences, 'penalties': penalties}
