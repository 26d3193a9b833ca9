"""The jobs of run.py: each joins data, a model and the loop, and returns what came of it.

A command, which like replay.py and encode.py may import both packages. What one job alone needs is imported
by it: TensorFlow, which reads pre-training's records, takes longer to import than all else.
"""

import copy
import dataclasses
import functools
import json
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import jax
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from clower_jax.export import bert_folder
from clower_jax.inference.encoder import Encoder
from clower_jax.interop import model_hub, vocab_alignment, weight_sources
from clower_jax.objectives import registry
from clower_jax.parallel import sharding
from clower_jax.parallel.processes import StopSignal
from clower_jax.reports import examples, run_report
from clower_jax.training import finetune, init_state, loop
from clower_jax.training.inherited_settings import begun_buckets, resolve_source, with_trained_settings
from clower_jax.utils import flops, metrics_file
from clower_jax.utils.config_checks import training_configs
from clower_jax.utils.run_config import read_run_config
from input_pipeline.datasets import files
from input_pipeline.finetuning import classification
from input_pipeline.finetuning.data import Data, prepare
from input_pipeline.sentence_vectors import sentence_eval
from input_pipeline.text.vocabulary import Vocabulary
from input_pipeline.utils import output_file
from input_pipeline.utils.counts import describe

NOT_FINISHED = 'Not finished; the same command goes on.'


@dataclasses.dataclass(frozen=True)
class Job:
    """What is to be done.

    config: of configs/. name: the config's file and variant, such as 'configs/pretrain.py:cpu', for the next
    command that is suggested. stop: a signal that ends it. given: keys of the config that were set by hand.
    systems: of pre-training, by name: what each changes in a config (configs/pretrain.py).
    """

    config: ConfigDict
    name: str
    workdir: Path
    stop: StopSignal = dataclasses.field(default_factory=StopSignal)
    overrides: Collection[str] = ()
    systems: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)


def run(job: Job) -> str:
    """Checks the settings and does the job that `config.task` names; returns what came of it, for people.

    Raises ValueError, OSError, FloatingPointError or ImportError, with a message for people.
    """
    for config in training_configs(job.config):
        init_state.check(config)
        config.init_from = _pinned(config.init_from, job.workdir)
    _pin_measured(job.config)
    text = JOBS.get(job.config.task, fine_tuning)(job)
    if not any(config is job.config for config in training_configs(job.config)) and jax.process_index() == 0:
        run_report.write(job.workdir, json.loads(job.config.to_json()), text=text)  # others wrote theirs
    return text


def _pinned(init_from: str, workdir: Path) -> str:
    """A name on the hub with the revision that the run in `workdir` began with, else with today's."""
    if model_hub.is_name(init_from) and (workdir / 'config.json').is_file():
        begun_with = read_run_config(workdir).get('init_from') or ''
        if begun_with.startswith(f'{init_from}@'):
            return begun_with
    return model_hub.pinned(init_from)


def _pin_measured(config: ConfigDict) -> None:
    """Gives names on the hub of what a job measures the revision that they stand for now, which its results
    and report then say."""
    if config.task == 'vectors':
        config.init_from = model_hub.pinned(config.init_from)
    elif config.task in ('probe', 'words'):
        entries = [entry.partition('=') for entry in config.models.split(',')]
        config.models = ','.join(f'{name}{sign}{model_hub.pinned(source)}' for name, sign, source in entries)


def pretraining(job: Job) -> str:
    """Pre-training (configs/pretrain.py)."""
    from input_pipeline.pretraining import batches

    config, workdir = job.config, job.workdir
    init_state.check_workdir(config, workdir)
    if not config.data.corpus:  # before one is made
        init_state.check_source(config)
    # One process builds what is missing, the others then find it.
    if jax.process_index() == 0:
        resolved = batches.resolve(config, workdir)
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices('corpus')
        resolved = batches.resolve(config, workdir)
    if jax.process_index() == 0:
        batches.warn_of_little_text(resolved)
    vocabulary = batches.vocabulary(resolved)
    first_step = finetune.latest_step(workdir)
    held_out = loop.train(
        resolved,
        workdir,
        functools.partial(batches.batches, resolved, makers={}),
        vocabulary,
        stop=job.stop,
        show=functools.partial(examples.of_pretraining, vocabulary.tokens),
    )
    if job.stop.requested and finetune.latest_step(workdir) < resolved.total_steps:
        return NOT_FINISHED
    if not held_out:  # it was at its end, where it may have been killed before there were results
        held_out = metrics_file.last_evaluation(workdir, resolved.total_steps)
    results = pretraining_results(resolved, workdir) | {'held_out': held_out}
    path = workdir / 'results.json'
    if jax.process_index() == 0 and (first_step < resolved.total_steps or not path.is_file()):
        output_file.write_json(path, results)
    return f'{read_and_skipped(results)}\n{_after_pretraining(job, held_out)}'


def pretraining_results(config: ConfigDict, workdir: Path) -> dict:
    """How much a finished pre-training has read and skipped, and its corpus kept and dropped."""
    from input_pipeline.pretraining import batches

    documents = batches.read_manifest(config.data.corpus)['documents']
    dropped = {reason: drop['count'] for reason, drop in documents['dropped'].items()}
    return {
        'steps': config.total_steps,
        'rows_read': config.total_steps * config.batch_size,
        'skipped_steps': finetune.skipped_steps(workdir),
        'documents': {'read': documents['read'], 'kept': documents['kept'], 'dropped': dropped},
    }


def read_and_skipped(results: dict) -> str:
    """`pretraining_results` in a line."""
    documents = describe({'documents': results['documents']})
    return (
        f'{results["steps"]:,} batches with {results["rows_read"]:,} rows; steps skipped, for their gradient '
        f'was not finite: {results["skipped_steps"]:,}. Corpus: {documents}'
    )


def tables(job: Job) -> str:
    """Models × tasks × seeds (configs/tables.py)."""
    from clower_jax.experiments import grid

    config, workdir, stop = job.config, job.workdir, job.stop
    known = ('random', 'clower', *job.systems)
    for name in grid.listed(config.models):
        if '=' not in name and name not in known:
            raise ValueError(f'models: {name!r} must be one of {", ".join(known)}, or NAME=FOLDER')
        folder = name.partition('=')[2]
        if folder and not Path(folder).is_relative_to(workdir):  # there before anything is trained
            weight_sources.source_info(folder)
    for task in grid.listed(config.tasks):  # before anything is trained
        if task in config.finetune:
            files.paths(config.finetune[task])

    def run_cell(config: ConfigDict, folder: Path) -> dict:
        return {} if stop.requested else finetuned(config, folder, stop)[1]

    with stop:
        text = grid.run(config, workdir, functools.partial(_model_of_grid, job), run_cell)
    if text:  # of the cells that there are
        figure = f' · figure: {workdir}/figure2.png' * (workdir / 'figure2.png').is_file()
        text += f'\nTables: {workdir}/tables.md{figure}'
    return '\n'.join(filter(None, (text, NOT_FINISHED if stop.requested else '')))


def _model_of_grid(job: Job, model: str, folder: Path) -> dict | None:
    """What the fine-tuning configs take of a model of the grid, which may be trained for it in `folder`;
    None where that was stopped."""
    from input_pipeline.pretraining import batches

    name, _, source = model.partition('=')
    if source:  # a name on the hub stays with the revision of the cell that was first
        cells = sorted((job.workdir / 'cells' / folder.name).glob('**/config.json'))
        return {'init_from': _pinned(source, cells[0].parent if cells else folder)}
    pretrain_config = copy.deepcopy(job.config.pretrain)
    if name == 'random':
        resolved = batches.resolve(pretrain_config, folder)
        vocab = folder / 'vocab.txt'
        folder.mkdir(parents=True, exist_ok=True)
        base = batches.vocabulary(resolved).tokens[: resolved.model.base_vocab_size]
        output_file.write_text(vocab, ''.join(f'{token}\n' for token in base))
        sizes = ('hidden_size', 'num_layers', 'num_heads', 'intermediate_size', 'max_positions')
        return {'data.vocab': str(vocab)} | {f'model.{size}': pretrain_config.model[size] for size in sizes}
    pretrain_config.update_from_flattened_dict(job.systems.get(name, {}))
    if finetune.latest_step(folder) < pretrain_config.total_steps:
        pretraining(dataclasses.replace(job, config=pretrain_config, workdir=folder))
    return {'init_from': str(folder)} if finetune.latest_step(folder) >= pretrain_config.total_steps else None


def similarity(job: Job) -> str:
    """The paper's Figure 3 (configs/similarity.py)."""
    from clower_jax.experiments import figure3
    from input_pipeline.pretraining import batches
    from input_pipeline.probing import word_lengths

    config, workdir = job.config, job.workdir
    distances, descriptions = {}, {}
    for name, folder in figure3.models(config).items():
        run_config = batches.resolve(figure3.config_of(config, folder), folder)
        vocabulary = batches.vocabulary(run_config)
        vocab_alignment.check_vocabulary(folder / 'vocab.txt', vocabulary.tokens, f'The run in {folder}')
        distances[name] = figure3.measure(
            run_config, folder, batches.batches(run_config, split='validation'), config.seed
        )
        shares = word_lengths.two_character_share(run_config.data.corpus, vocabulary)
        descriptions[name] = {
            'workdir': str(folder),
            'corpus': run_config.data.corpus,
            'two_character_words': shares,
        }
    results = figure3.write(workdir, distances, descriptions)
    return f'{figure3.describe(results)}\nFigure: {workdir}/similarity.png · {workdir}/similarity.json'


def words(job: Job) -> str:
    """What frozen character encoders know of words (configs/words.py)."""
    from clower_jax.experiments import word_view

    return word_view.run(job.config, job.workdir)


def probes(job: Job) -> str:
    """Linear probes of frozen encoders (configs/probe.py)."""
    from clower_jax.experiments import grid, probe

    config, workdir = job.config, job.workdir
    probe.models(config)  # before any text is read
    texts = {}
    for task in grid.listed(config.tasks):
        if task not in config.data:
            raise ValueError(f'tasks: {task!r} must be one of {", ".join(config.data)}')
        split = classification.single_texts(ConfigDict({'mode': 'train', 'data': config.data[task]}))
        texts[task] = split['train'], split['validation']
    text = probe.run(config, workdir, texts)
    return f'{text}\nTable: {workdir}/probe.md · {workdir}/probe.json · figure: {workdir}/probe.png'


def vectors(job: Job) -> str:
    """What an encoder's vectors are worth as they are (configs/vectors.py)."""
    config, workdir = job.config, job.workdir
    if not config.init_from:
        raise ValueError('there is no encoder to judge: give --config.init_from=X, a workdir or a folder')
    if not config.data.test:
        raise ValueError('there is nothing to judge it by: give --config.data.test=FILE, or a,b')
    data = config.data
    if len(data.text_columns) == 1:
        data.text_columns = tuple(data.text_columns[0].split(','))
    evaluation: Any = sentence_eval.read_evaluations(config)['test']  # of the one kind or the other
    encoder = Encoder.load(config.init_from, config.model.pooling, config.dtype, data.max_length)
    decoded = evaluation.compare(encoder.encode(evaluation.texts))
    workdir.mkdir(parents=True, exist_ok=True)
    evaluation.write_predictions(workdir, decoded)
    scores = evaluation.score(decoded)
    on_hub = model_hub.is_name(config.init_from)
    results = {
        'init_from': config.init_from if on_hub else model_hub.base_name(config.init_from),
        'evaluation': data.evaluation,
        'test': scores,
    }
    output_file.write_json(workdir / 'results.json', results)
    lines = [f'{name} {value:.4f}' for name, value in scores.items()]
    return '\n'.join([*lines, f'Results: {workdir}/results.json · pairs: {workdir}/predictions.json'])


def fine_tuning(job: Job) -> str:
    """Fine-tuning, or (`config.mode`) a fine-tuned model put to use."""
    config, workdir = job.config, job.workdir
    if config.mode == 'train':
        config, results = finetuned(config, workdir, job.stop)
        return _after_fine_tuning(job.name, workdir, results, config)
    config, vocabulary = resolve_source(with_trained_settings(config, workdir, job.overrides), workdir)
    config, data = read_data(config, vocabulary)
    results = finetune.apply(config, workdir, data)
    lines = [
        f'{split}: {", ".join(f"{name} {value:.4f}" for name, value in scores.items())}'
        for split, scores in results.items()
        if scores  # no labels, no metrics
    ]
    return '\n'.join([*lines, f'Predictions: {workdir}/{config.mode}/predictions.json'])


def read_data(config: ConfigDict, vocabulary: Vocabulary) -> tuple[ConfigDict, Data]:
    """`input_pipeline.finetuning.data.prepare`, with what compiling costs on these devices."""
    platform, training = sharding.mesh_platform(None), config.mode == 'train'
    return prepare(config, vocabulary, flops.width_price(platform, config.model.hidden_size, training))


def finetuned(config: ConfigDict, workdir: Path, stop: StopSignal | None = None) -> tuple[ConfigDict, dict]:
    """Fine-tunes; returns the resolved config and the contents of results.json ({}: stopped before)."""
    config, vocabulary = resolve_source(config, workdir)
    first = finetune.seed_folder(workdir, config.seed, config.seeds)
    config.data.buckets = config.data.buckets or begun_buckets(first)
    config, data = read_data(config, vocabulary)
    return config, finetune.run(config, workdir, data, vocabulary, stop)


def _after_fine_tuning(job: str, workdir: Path, results: dict, config: ConfigDict) -> str:
    """What fine-tuning came to and what to do next."""
    if not results:
        return NOT_FINISHED
    seed = finetune.best_seed(config, results['per_seed'])
    model = finetune.seed_folder(workdir, seed, config.seeds)
    lines = [f'Report: {workdir}/report.html · curves: {model}/curves.png · results: {workdir}/results.json']
    for split, by_time in results['mean'].items():
        for which, metrics in by_time.items():
            spread = results['std'][split][which]
            shown = (
                f'{name} {value:.4f}' + (f' ± {spread[name]:.4f}' if spread[name] is not None else '')
                for name, value in metrics.items()
            )
            lines.append(f'{split}, {which}: {", ".join(shown)}')
    for split, counts in results.get('data', {}).items():  # of before there were counts
        lines.append(f'{split}: {describe(counts)}')
    if skipped := sum(results.get('skipped_steps', {}).values()):
        lines.append(f'Steps skipped, for their gradient was not finite: {skipped:,}')
    if regressions := finetune.find_regressions(results, registry.from_config(config).metrics):
        lines.append(f'Worse than before training: {"; ".join(regressions)}')
    use = f'python run.py --config={job} --workdir={model} --config.mode=predict --config.data.test=F'
    if config.task in registry.SENTENCE_TASKS:
        use = f'python -m clower_jax.encode --model {model} --input texts.txt --output vectors.npy'
    reason = bert_folder.export_obstacle(
        config.model.kind or 'bert', config.task, config.model.get('classify_from', 'pooler')
    )
    if reason:
        lines += [f'Next: {use}', f'(For export: this model {reason}.)']
    else:
        lines += [
            f'Next: python -m clower_jax.convert export --checkpoint {model} --output {workdir}-hf',
            f'  or: {use}',
        ]
    return '\n'.join(lines)


def _after_pretraining(job: Job, held_out: dict[str, float]) -> str:
    """What came of the run of a config, as it was given, and what to do next."""
    config, workdir = job.config, job.workdir
    text = f'Report: {workdir}/report.html · every figure: {workdir}/metrics.jsonl'
    if 'acc_tcl' in held_out:
        text += (
            f'\nHeld out, a word finds its own characters among {held_out["anchors"]:.0f} words in '
            f'{held_out["acc_tcl"]:.1%} of the cases (chance: {1 / held_out["anchors"]:.1%}).'
        )
    if config.data.text == 'embedded' and not config.data.corpus:
        next_step, options = 'your own text', "--config.data.text='my/*.txt' --workdir=runs/mine"
    else:
        next_step = 'another run from these weights'
        corpus = config.data.corpus or workdir / 'corpus'
        options = f'--config.data.corpus={corpus} --config.init_from={workdir} --workdir=runs/next'
        export_command = f'python -m clower_jax.convert export --checkpoint {workdir} --output {workdir}-hf'
        text += f'\nTo use it elsewhere: {export_command}'
    return f'{text}\nNext: {next_step}, python run.py --config={job.name} {options}'


JOBS: dict[str, Callable[[Job], str]] = {  # of config.task; the others are fine-tuning
    'pretrain': pretraining,
    'tables': tables,
    'similarity': similarity,
    'vectors': vectors,
    'probe': probes,
    'words': words,
}
