"""Fine-tuning: the training loop for each seed, what came of it, and a fine-tuned model put to use."""

import copy
import functools
import json
import logging
import shutil
import statistics
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import flax.traverse_util
import jax
from ml_collections import ConfigDict

from clower_jax.checkpoints.digests import FOLDER, newest_intact
from clower_jax.checkpoints.train_state import abstract_params
from clower_jax.export.bert_folder import THRESHOLDS
from clower_jax.interop import init_weights, model_hub
from clower_jax.objectives.base import SCORE, Data, Metric, ShowsMistakes, Split, Vocabulary
from clower_jax.parallel import precision, sharding
from clower_jax.parallel.processes import StopSignal
from clower_jax.reports import examples, run_report
from clower_jax.reports.history import History
from clower_jax.reports.page import Section
from clower_jax.training import evaluate, loop
from clower_jax.training.early_stopping import EarlyStopping
from clower_jax.utils import folder_files, metrics_file
from input_pipeline.utils import output_file

SHOWN_MISTAKES = 30  # wrong answers in a report
MAX_CONFUSION_LABELS = 100  # classes of a confusion matrix; more are unreadable

log = logging.getLogger(__name__)


def run(
    config: ConfigDict,
    workdir: str | Path,
    data: Data,
    vocabulary: Vocabulary,
    stop: StopSignal | None = None,
) -> dict[str, Any]:
    """Trains `config.seeds` models, from `config.seed` on, and writes what they are worth.

    One seed lives in `workdir`; several live in `workdir/seed-<n>`. Each leaves, beside a run's files, best/
    (the parameters that were best on the development set), predictions.json and confusion.png (of the best,
    on the test set if there is one, else on the development set). `workdir/results.json` has the metrics of
    the best and of the last parameters for every seed, with mean and standard deviation (n − 1).

    Args:
      config: resolved (`input_pipeline.finetuning.data.prepare`).
      data: an `input_pipeline.finetuning.data.Data`.
      vocabulary: of the model.
      stop: where several runs follow each other, so that a signal stops them all.

    Returns:
      The contents of results.json; {} where the run was stopped before its end. Where every seed was at its
      end before and results.json is of these seeds, nothing is measured again and nothing written.
    """
    workdir = Path(workdir)
    finished = _finished_results(config, workdir)
    programs = loop.make_programs(config)
    evaluator = programs.evaluator
    validation = data.splits.get('validation')
    score = validation and (lambda outputs: validation.score(validation.decode(outputs)))

    def evaluate_test(params: dict) -> dict[str, float]:
        return _evaluate_split(config, data, evaluator, params, 'test') if 'test' in data.splits else {}

    per_seed, mistakes = [], {}
    with stop or StopSignal() as stop:
        for seed in range(config.seed, config.seed + config.seeds):
            seed_config = copy.deepcopy(config)
            seed_config.seed = seed
            folder = seed_folder(workdir, seed, config.seeds)
            if config.seeds > 1:
                log.info('Seed %d, in %s', seed, folder)
            batches = functools.partial(data.batches, seed_config)
            loop.train(seed_config, folder, batches, vocabulary, score, programs, stop, evaluate_test)
            lines = metrics_file.read_metrics(folder / 'metrics.jsonl')
            if stop.requested or not _is_finished(seed_config, folder, lines):
                return {}
            if not finished:
                measured, mistakes[seed] = _evaluate_seed(seed_config, folder, data, evaluator, lines)
                per_seed.append({'seed': seed} | measured)
    if finished:
        return finished
    skipped = {
        str(seed): skipped_steps(seed_folder(workdir, seed, config.seeds))
        for seed in range(config.seed, config.seed + config.seeds)
    }
    results = summary(config, per_seed) | {'skipped_steps': skipped, 'data': dict(data.counts)}
    if jax.process_index() == 0:
        output_file.write_json(workdir / 'results.json', results)
        if config.seeds > 1:
            _copy_best_seed(config, workdir, per_seed)
            for one in per_seed:
                folder = seed_folder(workdir, one['seed'], config.seeds)
                _report(folder, summary(config, [one]), mistakes[one['seed']])
        best = best_seed(config, per_seed)
        _report(workdir, results, mistakes[best], seed_folder(workdir, best, config.seeds))
    return results


def _report(folder: Path, results: dict, mistakes: Section, run_folder: Path | None = None) -> None:
    """The report of a run that came to its end; `run_folder`: where the run is, if not in `folder`."""
    run_folder = run_folder or folder
    settings = folder_files.read_json(run_folder / 'config.json')
    rows = metrics_file.read_metrics(run_folder / 'metrics.jsonl') if run_folder == folder else []
    run_report.write(folder, settings, History(rows), results, examples=mistakes)


def skipped_steps(folder: Path) -> int:
    """Steps of a run that changed nothing, as their gradient was not finite; by its metrics.jsonl."""
    rows = metrics_file.read_metrics(folder / 'metrics.jsonl')
    return round(sum(row.get('skipped_steps', 0) for row in rows if row['split'] == 'train'))


def find_regressions(results: dict[str, Any], metrics: Mapping[str, Metric]) -> list[str]:
    """What of results.json, the mean over seeds, was worse with the last parameters than before training, as
    'split metric before → after'; `metrics` are the objective's. [] where nothing was measured before."""
    regressions = []
    for split, by_time in results['mean'].items():
        for name, before in by_time.get('before', {}).items():
            after = by_time['last'][name]
            higher_is_better = metrics.get(name, SCORE).higher_is_better
            if (after < before) if higher_is_better else (after > before):
                regressions.append(f'{split} {name} {before:.4f} → {after:.4f}')
    return regressions


def seed_folder(workdir: Path, seed: int, seeds: int) -> Path:
    """Where one seed's run lives."""
    return workdir if seeds == 1 else workdir / f'seed-{seed}'


def best_seed(config: ConfigDict, per_seed: list[dict]) -> int:
    """The seed that was best on the development set; the first where nothing tells."""
    if not config.select or 'validation' not in per_seed[0]:
        return per_seed[0]['seed']
    return max(per_seed, key=lambda result: result['validation']['best'][config.select])['seed']


def apply(config: ConfigDict, workdir: str | Path, data: Data) -> dict[str, dict[str, float]]:
    """A fine-tuned model on other data: its metrics by split, where labels are known, and its predictions.

    Thresholds are those that its run chose. Writes predictions.json, and results.json and confusion.png where
    labels are known, to `workdir/<config.mode>/`; of several splits the last one's predictions.
    """
    workdir = Path(workdir)
    evaluator = evaluate.Evaluator.from_config(config)
    params = restore(workdir, evaluator)
    folder = workdir / config.mode
    folder.mkdir(parents=True, exist_ok=True)
    results, mistakes = {}, None
    for name, split in data.splits.items():
        if split.thresholds is not None:
            read_thresholds(workdir, split.thresholds)
        results[name], mistakes = _evaluate_and_write(config, data, evaluator, params, name, folder)
    if jax.process_index() == 0:
        output_file.write_json(folder / 'results.json', results)
        scores = {split: {'best': metrics} for split, metrics in results.items() if metrics}
        shown = {'mean': scores, 'data': dict(data.counts)}
        run_report.write(folder, json.loads(config.to_json()), results=shown, examples=mistakes)
    return results


def restore(workdir: Path, evaluator: evaluate.Evaluator, which: str = '') -> dict:
    """The parameters of a workdir on their devices: 'best', 'last', or the best if there are any.

    Raises ValueError where there are none, they are of another model, or one holds NaN or infinity.
    """
    with init_weights.open_checkpoints(workdir, which) as checkpoints:
        params = checkpoints.restore_params(abstract_params(evaluator.mesh, evaluator.objective.init))
    precision.check_finite(flax.traverse_util.flatten_dict(params, sep='/'), str(workdir))
    return params


def summary(config: ConfigDict, per_seed: list[dict]) -> dict[str, Any]:
    """results.json: the settings that matter, every seed, and over the seeds `mean` and `std` of each metric.

    `std` divides by n − 1; it is null for one seed.
    """

    def aggregate(function: Callable[[list[float]], float | None], values: list) -> Any:
        if not isinstance(values[0], Mapping):
            return function(values)
        names = [name for name in values[0] if name not in ('seed', 'step')]
        return {name: aggregate(function, [result[name] for result in values]) for name in names}

    def deviation(values: list[float]) -> float | None:
        return statistics.stdev(values) if len(values) > 1 else None

    return {
        'task': config.task,
        'select': config.select,
        'init_from': model_hub.base_name(config.init_from),
        'per_seed': per_seed,
        'mean': aggregate(statistics.fmean, per_seed),
        'std': aggregate(deviation, per_seed),
    }


def latest_step(folder: Path) -> int:
    """Of the newest intact checkpoint of a run; 0 where there is none at all.

    Raises ValueError where none of several is intact.
    """
    return newest_intact(folder / FOLDER).step or 0


def _is_finished(config: ConfigDict, folder: Path, rows: list[dict]) -> bool:
    """Whether a run has come to its end: all steps, or `patience` evaluations that were no better."""
    early_stopping = EarlyStopping(config.select, config.patience, rows)
    return latest_step(folder) >= config.total_steps or early_stopping.should_stop


def _finished_results(config: ConfigDict, workdir: Path) -> dict[str, Any]:
    """results.json where it is of the config's seeds and none of them has a step left to take; else {}."""
    path = workdir / 'results.json'
    results = folder_files.read_json(path) if path.is_file() else {}
    seeds = list(range(config.seed, config.seed + config.seeds))
    if [result['seed'] for result in results.get('per_seed', [])] != seeds:
        return {}
    for seed in seeds:
        folder = seed_folder(workdir, seed, config.seeds)
        step = latest_step(folder)
        if not _is_finished(config, folder, metrics_file.rows_until(folder, step)):
            return {}
    return results


def _evaluate_seed(
    config: ConfigDict, folder: Path, data: Data, evaluator: evaluate.Evaluator, lines: list[dict]
) -> tuple[dict, Section]:
    """{'validation': {'before': …, 'best': …, 'last': …}, 'test': …}, and the files of the best parameters,
    with what these got wrong; 'before' where there was an evaluation before the first step. `lines`: of
    metrics.jsonl."""
    results: dict[str, Any] = {}
    mistakes = Section('', ())
    rows = [row for row in lines if row['split'] == 'validation']
    if rows:
        with init_weights.open_checkpoints(folder) as checkpoints:
            best_step = checkpoints.latest_step  # of what the files and the test metrics are of
        chosen = next((row for row in rows if row['step'] == best_step), rows[-1])
        before = [('before', rows[0])] if rows[0]['step'] == 0 else []
        results['validation'] = {
            which: _metric_values(row) for which, row in (*before, ('best', chosen), ('last', rows[-1]))
        }
    prediction_split = next((name for name in ('test', 'validation') if name in data.splits), None)
    if prediction_split:
        params = restore(folder, evaluator)
        _choose_thresholds(config, data, evaluator, params, folder)
        best_metrics, mistakes = _evaluate_and_write(
            config, data, evaluator, params, prediction_split, folder
        )
        if prediction_split == 'test' and best_metrics:
            params = restore(folder, evaluator, 'last')
            _choose_thresholds(config, data, evaluator, params, None)
            last_metrics = _evaluate_split(config, data, evaluator, params, 'test')
            first_metrics = next((_metric_values(row) for row in lines if row['split'] == 'test'), None)
            results['test'] = ({'before': first_metrics} if first_metrics else {}) | {
                'best': best_metrics,
                'last': last_metrics,
            }
    return results, mistakes


def _choose_thresholds(
    config: ConfigDict, data: Data, evaluator: evaluate.Evaluator, params: dict, folder: Path | None
) -> None:
    """Where there are any, those that suit these parameters on the development set; written to `folder`."""
    split: Split | None = data.splits.get('validation')
    if split and split.thresholds is not None:
        _evaluate_split(config, data, evaluator, params, 'validation')
        if folder and jax.process_index() == 0:
            output_file.write_json(folder / THRESHOLDS, split.thresholds)


def read_thresholds(workdir: Path, thresholds: dict[str, float]) -> None:
    """Sets those that a run chose, where it had a development set to choose on.

    Raises ValueError where the file is damaged.
    """
    path = workdir / THRESHOLDS
    if path.is_file():
        entries = dict.fromkeys(thresholds, folder_files.Entry((float,), 0, 1))
        saved = folder_files.read_json(path)
        if missing := [label for label in thresholds if label not in saved]:
            raise ValueError(f'{path} has no threshold for {missing[0]!r}: it is of other labels, or damaged')
        folder_files.check_entries(path, saved, entries)
        thresholds.update({label: float(saved[label]) for label in thresholds})


def _metric_values(row: dict) -> dict:
    return {name: value for name, value in row.items() if name != 'split'}


def _evaluate_split(
    config: ConfigDict,
    data: Data,
    evaluator: evaluate.Evaluator,
    params: dict,
    name: str,
    use: Callable[[Split, Any], None] | None = None,
) -> dict[str, float]:
    """The metrics of one pass over a split ({} where nothing has a label); `use` gets the split and what it
    decoded."""
    split: Split = data.splits[name]
    rows = sharding.local_rows(evaluator.mesh, config.batch_size)

    def score(outputs: evaluate.Outputs) -> dict[str, float]:
        decoded = split.decode(outputs)
        if use:
            use(split, decoded)
        return split.score(decoded)

    return evaluator(params, data.batches(config, split=name, rows=rows), score)


def _evaluate_and_write(
    config: ConfigDict, data: Data, evaluator: evaluate.Evaluator, params: dict, name: str, folder: Path
) -> tuple[dict[str, float], Section]:
    """The metrics of one pass over a split, whose files go to `folder`, and what was wrong."""
    mistakes: list[dict[str, str]] = []

    def write(split: Split, decoded: Any) -> None:
        if jax.process_index() == 0:
            split.write_predictions(folder, decoded)
            confusion = split.confusion(decoded)
            if confusion is not None and len(confusion) <= MAX_CONFUSION_LABELS:
                # With matplotlib, which no step waits for.
                from clower_jax.reports import plots

                plots.draw_confusion(confusion, list(config.data.labels), folder / 'confusion.png')
            if isinstance(split, ShowsMistakes):
                mistakes.extend(split.mistakes(decoded, SHOWN_MISTAKES))

    metrics = _evaluate_split(config, data, evaluator, params, name, write)
    return metrics, examples.of_mistakes(mistakes, name)


def _copy_best_seed(config: ConfigDict, workdir: Path, per_seed: list[dict]) -> None:
    """The predictions and the picture of `best_seed`, also one level up."""
    for path in seed_folder(workdir, best_seed(config, per_seed), config.seeds).iterdir():
        if path.name in ('predictions.json', 'nbest.json', 'confusion.png', 'confusion-key.txt', THRESHOLDS):
            with output_file.atomic_write(workdir / path.name) as partial:
                shutil.copyfile(path, partial)
