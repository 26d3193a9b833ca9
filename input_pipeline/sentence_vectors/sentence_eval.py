"""How vectors of texts are judged: sets of pairs, and what comparing vectors says of them.

Every sentence task (Mirror-BERT, ML-CTL, Auto-MLM) trains on texts or pairs of its own, and is judged in one
of two ways (`data.evaluation`): 'similarity', the rank correlation of cosines with the scores that people
gave to pairs, or 'retrieval', how often a text's partner is the nearest of all.
"""

import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from ml_collections import ConfigDict

from input_pipeline.datasets import files as datasets_files
from input_pipeline.features import buckets
from input_pipeline.features.buckets import Outputs, Rows
from input_pipeline.metrics import retrieval
from input_pipeline.sentence_vectors import sentences
from input_pipeline.sentence_vectors.sentences import Pair
from input_pipeline.text.vocabulary import Vocabulary
from input_pipeline.utils import counts, output_file
from input_pipeline.utils.counts import NOT_COUNTED, Ledger

log = logging.getLogger(__name__)

T = TypeVar('T')


class _Vectors:
    """Texts that are to be given vectors, and what is made of these. `rows`: a row for each text."""

    texts: list[str]
    rows: Rows
    thresholds = None

    def targets(self, planned: buckets.Planned, batch_size: int) -> dict[str, np.ndarray]:
        """Nothing: a vector has no label."""
        return {}

    def decode(self, outputs: Outputs) -> Any:
        """What `compare` makes of a pass's `vectors` [B, D]."""
        vectors = np.full((len(self.rows), outputs[0]['vectors'].shape[1]), np.nan, np.float32)
        for out in outputs:
            real = out['example'] >= 0
            vectors[out['example'][real]] = out['vectors'][real]
        return self.compare(vectors)

    def compare(self, vectors: np.ndarray) -> Any:
        """What comparing the vectors of all `texts`, fp32 [N, D], says."""
        raise NotImplementedError

    def lines(self, decoded: Any) -> Iterator[dict]:
        """The predictions, an object for each pair."""
        raise NotImplementedError

    def confusion(self, decoded: Any) -> None:
        """None: there are no classes."""

    def badness(self, decoded: Any) -> np.ndarray:
        """fp32 for each of `lines`: how wrong it is; 0: not at all."""
        raise NotImplementedError

    def mistakes(self, decoded: Any, count: int) -> list[dict[str, str]]:
        """The `count` worst of `lines`."""
        badness, lines = self.badness(decoded), list(self.lines(decoded))
        worst = [lines[i] for i in np.argsort(-badness, kind='stable')[:count] if badness[i] > 0]
        return [{name: str(value) for name, value in line.items() if name != 'id'} for line in worst]

    def write_predictions(self, folder: Path, decoded: Any) -> None:
        """predictions.json, an object a line."""
        lines = (json.dumps(line, ensure_ascii=False) + '\n' for line in self.lines(decoded))
        output_file.write_text(folder / 'predictions.json', ''.join(lines))


class _PairSet(_Vectors):
    """Pairs whose texts are to be given vectors, each distinct text once.

    Args:
      pairs: in file order.
      vocabulary: of whoever makes the vectors from `rows`; None: they are made from `texts`.
      max_length: tokens of a row, special ones included.
    """

    def __init__(self, pairs: Sequence[Pair], vocabulary: Vocabulary | None = None, max_length: int = 0):
        self._pairs = pairs
        number: dict[str, int] = {}
        index = [[number.setdefault(text, len(number)) for text in pair[:2]] for pair in pairs]
        self._first, self._second = np.array(index).T
        self.texts = list(number)
        if vocabulary:
            self.ids = sentences.token_rows(self.texts, vocabulary, max_length)
            self.rows = sentences.one_segment(self.ids)

    def sides(self, vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """fp32 [N, D] of the first texts of the pairs and of the second."""
        return vectors[self._first], vectors[self._second]

    def _lines(self, lines: Iterable[dict]) -> Iterator[dict]:
        for number, (pair, line) in enumerate(zip(self._pairs, lines, strict=True)):
            texts = {'id': number, 'text_a': pair.text_a, 'text_b': pair.text_b}
            yield texts | line | {'where': Path(pair.where).name}


class Similarity(_PairSet):
    """Judged by the rank correlation of the cosines of pairs with their human scores."""

    metrics = ('spearman',)

    def compare(self, vectors: np.ndarray) -> np.ndarray:
        """fp32 [N], the cosine of each pair."""
        return retrieval.cosines(*self.sides(vectors))

    def score(self, cosines: np.ndarray) -> dict[str, float]:
        """`spearman`, −1 to 1; {} where scores are not known."""
        gold = [pair.score for pair in self._pairs]
        return {} if None in gold else {'spearman': retrieval.spearman(cosines, np.array(gold, float))}

    def badness(self, cosines: np.ndarray) -> np.ndarray:
        """How far apart a pair's places by score and by cosine are, as a share of all; 0 without scores."""
        gold = [pair.score for pair in self._pairs]
        if None in gold:
            return np.zeros(len(cosines), np.float32)
        ranks = retrieval.average_ranks(cosines) - retrieval.average_ranks(np.array(gold, float))
        return np.abs(ranks).astype(np.float32) / len(cosines)

    def lines(self, cosines: np.ndarray) -> Iterator[dict]:
        """The pair, its `score` where it is known, and the `cosine`."""
        lines = ({} if pair.score is None else {'score': pair.score} for pair in self._pairs)
        return self._lines(
            line | {'cosine': round(float(x), 6)} for line, x in zip(lines, cosines, strict=True)
        )


class Ranks(NamedTuple):
    """Where the partner of each text stands among the texts of the other side, and the nearest other one."""

    ab: np.ndarray
    ba: np.ndarray
    nearest: np.ndarray


class Retrieval(_PairSet):
    """Judged by how near a text's partner is, among all of the other side (`sentences.related_pairs`)."""

    metrics = ('acc_ab', 'acc_ba', 'mrr', *(f'recall_{k}' for k in retrieval.RECALLS))

    def compare(self, vectors: np.ndarray) -> Ranks:
        """The ranks in both directions."""
        a, b = self.sides(vectors)
        ab, nearest = retrieval.ranks(a, b)
        return Ranks(ab, retrieval.ranks(b, a)[0], nearest)

    def score(self, ranks: Ranks) -> dict[str, float]:
        """See `retrieval.retrieval`."""
        return retrieval.retrieval(ranks.ab, ranks.ba)

    def badness(self, ranks: Ranks) -> np.ndarray:
        """How many texts are nearer than the partner of a."""
        return (ranks.ab - 1).astype(np.float32)

    def lines(self, ranks: Ranks) -> Iterator[dict]:
        """The pair, the `rank` of b for a, and the `nearest` other b."""
        second = [pair.text_b for pair in self._pairs]
        return self._lines(
            {'rank': int(rank)} | ({'nearest': second[other]} if other >= 0 else {})
            for rank, other in zip(ranks.ab, ranks.nearest)
        )


class EvaluationSets(_Vectors):
    """Several sets at once, judged each by itself: a metric is the mean over the sets, which count alike
    whatever their sizes, and there is one for each, `<metric>_<name of the set>`."""

    def __init__(self, sets: Mapping[str, Similarity | Retrieval]):
        self._sets = sets
        one = next(iter(sets.values()))
        self.metrics = (*one.metrics, *(f'{metric}_{name}' for name in sets for metric in one.metrics))
        self.texts = [text for one in sets.values() for text in one.texts]
        if all(hasattr(one, 'ids') for one in sets.values()):
            self.rows = sentences.one_segment([ids for one in sets.values() for ids in one.ids])

    def compare(self, vectors: np.ndarray) -> list:
        """What each of the sets finds."""
        ends = np.cumsum([len(one.texts) for one in self._sets.values()])
        parts = np.split(vectors, ends[:-1])
        return [one.compare(part) for one, part in zip(self._sets.values(), parts, strict=True)]

    def score(self, decoded: list) -> dict[str, float]:
        """The means, and the metrics of each set; of sets whose scores are known."""
        scores = {
            name: one.score(part) for (name, one), part in zip(self._sets.items(), decoded, strict=True)
        }
        known = {name: score for name, score in scores.items() if score}
        each = {f'{metric}_{name}': x for name, score in known.items() for metric, x in score.items()}
        names = next(iter(known.values()), {})
        return {
            metric: float(np.mean([score[metric] for score in known.values()])) for metric in names
        } | each

    def badness(self, decoded: list) -> np.ndarray:
        """Of each set what it says, as a share of its worst."""
        parts = [one.badness(part) for one, part in zip(self._sets.values(), decoded, strict=True)]
        return np.concatenate([part / max(part.max(initial=0), 1e-9) for part in parts])

    def lines(self, decoded: list) -> Iterator[dict]:
        """Those of one set after another, with its name as `set`."""
        for (name, one), part in zip(self._sets.items(), decoded, strict=True):
            yield from ({'set': name} | line for line in one.lines(part))


Evaluation = Similarity | Retrieval | EvaluationSets
EVALUATIONS: dict[str, type[Similarity | Retrieval]] = {'similarity': Similarity, 'retrieval': Retrieval}


def read_evaluations(
    config: ConfigDict, vocabulary: Vocabulary | None = None, ledgers: Mapping[str, Ledger] = NOT_COUNTED
) -> dict[str, Evaluation]:
    """The splits 'validation' and 'test' that `config.mode` needs, as far as there are any. In training,
    where there is no test file, `data.test_fraction` of dev's pairs is the test set: what is chosen by the
    others, such as a learning rate, is reported on these. No text is on both sides. `ledgers` count by split.

    Raises ValueError or FileNotFoundError where a file is missing or wrong.
    """
    data = config.data

    def read(path: str, ledger: Ledger) -> list[Pair]:
        if data.evaluation == 'similarity':
            return sentences.scored_pairs(path, data, config.mode != 'predict', ledger)
        return sentences.related_pairs(path, data, ledger)

    by_split: dict[str, dict[str, list[Pair]]] = {}
    for name, paths in datasets_files.paths(config).items():
        if name != 'train':
            files = datasets_files.files_of(paths)
            by_split[name] = {stem: read(file, ledgers[name]) for stem, file in zip(_names(files), files)}
    if config.mode == 'train' and 'validation' in by_split and 'test' not in by_split and data.test_fraction:
        both = {
            name: sentences.split_off(pairs, data.test_fraction)
            for name, pairs in by_split['validation'].items()
        }
        moved = sum(len(test) for _, test in both.values())
        counts.move(ledgers, 'rows', moved, 'validation', 'test')
        for split, side in (('validation', 0), ('test', 1)):
            by_split[split] = {name: sides[side] for name, sides in both.items()}
            log.info(
                'No test file: %s has %s pairs of dev', split, f'{sum(map(len, by_split[split].values())):,}'
            )
    splits: dict[str, Evaluation] = {}
    for split, sets in by_split.items():
        made = {
            name: EVALUATIONS[data.evaluation](pairs, vocabulary, data.max_length)
            for name, pairs in sets.items()
        }
        splits[split] = EvaluationSets(made) if len(made) > 1 else next(iter(made.values()))
    return splits


def _names(files: Sequence[str]) -> list[str]:
    """What files are called beside each other: their names without ending; those that share one, by number,
    too."""
    stems = [Path(file).stem for file in files]
    return [f'{stem}_{n}' if stems.count(stem) > 1 else stem for n, stem in enumerate(stems, 1)]


def splits(
    config: ConfigDict,
    vocabulary: Vocabulary,
    train: Callable[[str, tuple[str, ...]], T],
    ledgers: Mapping[str, Ledger] = NOT_COUNTED,
) -> dict[str, T | Evaluation]:
    """`read_evaluations`, and to train first what `train` makes of the path of `data.train` and of the
    metrics that an evaluation measures. Raises as `read_evaluations` and `train` do."""
    evaluations: dict[str, T | Evaluation] = dict(read_evaluations(config, vocabulary, ledgers))
    if config.mode != 'train':
        return evaluations
    metrics = metrics_of(config, evaluations.get('validation'))
    return {'train': train(datasets_files.paths(config)['train'], metrics)} | evaluations


def metrics_of(config: ConfigDict, validation: Any) -> tuple[str, ...]:
    """What an evaluation on `validation` measures, None where nothing is held out."""
    return validation.metrics if validation else EVALUATIONS[config.data.evaluation].metrics
