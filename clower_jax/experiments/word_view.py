"""The job of configs/words.py: what a frozen character encoder's vectors know of words and of paraphrases."""

import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from clower_jax.experiments import resampling, word_report
from clower_jax.inference.hidden_states import HiddenStates
from input_pipeline.metrics import retrieval
from input_pipeline.probing import word_materials
from input_pipeline.probing.word_contexts import Contexts
from input_pipeline.probing.word_materials import Materials
from input_pipeline.utils import output_file

log = logging.getLogger(__name__)

NO_SHARED_CHARACTER = ', no shared character'

Items = dict[str, np.ndarray]


def run(config: ConfigDict, workdir: Path) -> str:
    """Measures `config.models` and writes words.json, words.md, words.png; returns the table.

    What was measured of a model is kept in `workdir`/measured, and not measured again with the same settings.

    Raises ValueError or OSError where a setting, a model, the corpus or a file is missing or wrong.
    """
    models = word_materials.named(config.models, 'models')
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
    gathered: list[Materials] = []

    def materials() -> Materials:
        if not gathered:
            gathered.append(word_materials.gather(config))
        return gathered[0]

    settings = json.loads(config.to_json_best_effort())
    measured: dict[str, list[Items]] = {}
    for name, folder in models:
        number = len(measured.setdefault(name, []))
        about = {'folder': folder, 'dtype': config.dtype, 'seed': config.seed, 'data': dict(settings['data'])}
        del about['data']['vectors']
        path = workdir / 'measured' / f'{name}-{number}.npz'
        measured[name].append(_load_or_measure(path, about, materials))
    first = measured[systems[0]][0]
    counts = json.loads(str(first['counts']))
    known, vectors = word_materials.targets(config, first['words'].tolist(), workdir)
    counts['words'] = len(vectors)
    for name, seeds in measured.items():
        measured[name] = [regress(items, known, vectors, config.folds, config.seed) for items in seeds]
    folders = {name: [folder for other, folder in models if other == name] for name in systems}
    results = summarise(measured, references, config.samples, config.seed)
    return word_report.write(workdir, results, {'settings': settings, 'counts': counts, 'folders': folders})


def _load_or_measure(
    path: Path, about: Mapping[str, Any], gather_materials: Callable[[], Materials]
) -> Items:
    """What was measured, from its file if it is of the same settings, else anew."""
    if path.is_file():
        with np.load(path) as file:
            items = dict(file)
        if json.loads(str(items['about'])) == about:
            return items
    materials = gather_materials()
    started = time.monotonic()
    items = measure(HiddenStates.load(about['folder'], about['dtype']), materials)
    items['counts'] = np.array(json.dumps(materials.counts()))
    items |= {'words': np.array(materials.words), 'about': np.array(json.dumps(about))}
    path.parent.mkdir(exist_ok=True)
    with output_file.atomic_write(path) as partial:
        np.savez_compressed(partial, allow_pickle=False, **items)
    log.info('%s: %.0f s', about['folder'], time.monotonic() - started)
    return items


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
                cosines = retrieval.cosines(moved[pairs.first], moved[pairs.second])
                items[f'pairs/{name}/{where}{centring}'] = np.stack([cosines, pairs.score, pairs.apart])
    for name, texts in materials.paraphrases.items():
        rows = states.rows([*texts[0], *texts[1]])
        number = np.arange(len(rows))
        for pooling, length in (('mean', np.fromiter(map(len, rows), int)), ('cls', np.ones_like(number))):
            vectors = states.span_means(rows, number, np.zeros_like(number), length)
            for centring, moved in centrings(vectors):
                ranks, _ = retrieval.ranks(*np.split(moved, 2))
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
    token_ids = states.ids(tokens)
    rows = [states.add_special_tokens(token_ids[ids]) for ids in contexts.sentences]
    for row in rows:
        if len(row) > states.max_length:
            raise ValueError(
                f'the corpus has sentences of {len(row)} tokens, of which the model reads {states.max_length}'
            )
    means = states.span_means(rows, contexts.sentence, contexts.start + 1, contexts.length)
    return _means(means, contexts.word, count)


def token_means(states: HiddenStates, tokens: Sequence[str], contexts: Contexts, count: int) -> np.ndarray:
    """fp32 [count, D]: for each word the mean of its characters' token embeddings."""
    token_ids = states.ids(tokens)
    spans = zip(contexts.sentence, contexts.start, contexts.length)
    spelled = [contexts.sentences[number][start : start + size] for number, start, size in spans]
    means = np.array([states.token_vectors[token_ids[ids]].mean(axis=0) for ids in spelled])
    return _means(means, contexts.word, count)


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
    """The items, with errors of predicting `vectors` (`word_materials.targets`) for the vectors of words."""
    regressed = {}
    for key, values in items.items():
        kind, _, source = key.partition('/')
        if kind != 'vectors':
            regressed[key] = values
            continue
        errors = resampling.held_out_errors(values[known], vectors, folds, seed)
        for part, array in zip(('residual', 'total', 'penalty'), errors):
            regressed[f'r2/{source}/{part}'] = np.array(array)
    return regressed


# ---- all models ----


def statistics(items: Items) -> dict[str, tuple[Callable[..., float], tuple[np.ndarray, ...]]]:
    """By name, a figure as a function of arrays, and these, [N, …] each; N is what the bootstrap draws."""
    by_name: dict[str, tuple[Callable[..., float], tuple[np.ndarray, ...]]] = {}
    for key, values in items.items():
        kind, _, name = key.partition('/')
        if kind == 'r2' and name.endswith('/residual'):
            source = name.removesuffix('/residual')
            by_name[f'R²/{source}'] = (resampling.r_squared, (values, items[f'r2/{source}/total']))
        elif kind == 'pairs':
            pair_set, _, vectors = name.partition('/')
            values = values[:, ~np.isnan(values[0])]
            for subset, chosen in (('', values), (NO_SHARED_CHARACTER, values[:, values[2] > 0])):
                if chosen.shape[1] > 2:
                    by_name[f'ρ/{pair_set}{subset}/{vectors}'] = (retrieval.spearman, tuple(chosen[:2]))
        elif kind == 'paraphrases':
            by_name[f'MRR/{name}'] = (_mean, (1 / values,))
            for cutoff in (1, 10):
                by_name[f'recall@{cutoff}/{name}'] = (_mean, ((values <= cutoff).astype(float),))
    return by_name


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
        statistics_by_seed = [statistics(items) for items in seeds]
        figures[system] = {}
        for name, (_, arrays) in statistics_by_seed[0].items():
            values = [
                seed_statistics[name][0](*seed_statistics[name][1]) for seed_statistics in statistics_by_seed
            ]
            draws = [
                resampling.bootstrap(*seed_statistics[name], samples, seed)
                for seed_statistics in statistics_by_seed
            ]
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
