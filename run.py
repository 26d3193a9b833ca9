"""Runs the job that a config describes: python run.py --config=configs/pretrain.py[:variant].

Any config value can be set on the command line: --config.batch_size=64. See configs/ for the jobs.
"""

import copy
import functools
import logging
import os
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any, NoReturn

from absl import app, flags
from ml_collections import ConfigDict, config_flags

from clower_jax import command_line, last_words

CONFIG = config_flags.DEFINE_config_file(
    'config', None, 'The job: configs/<job>.py[:variant].', lock_config=True
)
WORKDIR = flags.DEFINE_string('workdir', None, 'Where the run lives; default runs/<job>[-<variant>].')
COORDINATOR = flags.DEFINE_string('coordinator', None, 'Several processes: host:port of the first one.')
NUM_PROCESSES = flags.DEFINE_integer('num_processes', None, 'Several processes: how many.')
PROCESS_ID = flags.DEFINE_integer('process_id', None, 'Several processes: which one this is, from 0.')
CLUSTER = flags.DEFINE_bool('cluster', False, 'Several processes, found out from Slurm, MPI or a TPU pod.')

if __name__ == '__main__':  # before the libraries are imported, which takes seconds
    command_line.parse(sys.argv, __doc__)
    if (NUM_PROCESSES.value or PROCESS_ID.value is not None) and not (COORDINATOR.value or CLUSTER.value):
        command_line.refuse('--num_processes and --process_id need --coordinator=host:port (or --cluster)')

import absl.logging
import jax
from jax.experimental import multihost_utils

from clower_jax import (
    Encoder,
    export,
    finetune,
    hugging_face,
    initial,
    output_file,
    probe,
    similarity,
    start,
    tables,
    token_rows,
    train,
    word_view,
)
from clower_jax.model import KINDS
from clower_jax.progress import Stop
from clower_jax.settings import parts_of
from configs import common, pretrain
from input_pipeline import batches, classification, finetuning, locations, vector_sets, word_lengths
from input_pipeline.counts import describe
from input_pipeline.tokenizer import Vocabulary, read_tokens

NOT_FINISHED = 'Not finished; the same command goes on.'
LOST = (
    'run.py: another process of this run is gone (killed, out of memory, cut off, ended by an error that its '
    'own output tells) or never came, so this one has ended, too. Start all of them again with the same '
    'commands: the run goes on from its newest checkpoint.'
)
INTERRUPTED = 130  # what shells call the end of a process by Ctrl-C
# What a fine-tuned model is used with as it was trained.
READING_OF_TEXT = (
    *('dataset', 'labels', 'text_columns', 'label_column', 'max_length', 'stride', 'max_question_length'),
    *('max_answer_length', 'n_best', 'scorer', 'simplify', 'folder', 'pairs'),
    *('segmenter', 'hmm', 'language', 'test_language'),
)
# By kind of model: the tasks in which it reads words, beside characters or ('word') alone.
READS_WORDS = {'ambert': ('classify',), 'lichee': ('classify', 'span'), 'word': ('classify',)}


def default_workdir(config_file: str) -> Path:
    """'configs/pretrain.py:small,no_tcl' → runs/pretrain-small-no_tcl."""
    job, _, variant = config_file.partition(':')
    return Path('runs', '-'.join(x for x in (Path(job).stem, *variant.split(',')) if x))


def speak() -> None:
    """Lets the project's own messages through as plain lines; of other libraries, only warnings (see -v)."""
    if not flags.FLAGS['verbosity'].present:
        absl.logging.set_verbosity(absl.logging.WARNING)
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(logging.Formatter('%(message)s'))
    for name in ('clower_jax', 'input_pipeline'):
        logger = logging.getLogger(name)
        logger.setLevel(logging.INFO)
        logger.addHandler(handler)
        logger.propagate = False


def main(argv: list[str]) -> None:
    """Resolves the config and hands it to the one call that it names."""
    speak()
    start.keep_compiled()
    if COORDINATOR.value or CLUSTER.value:
        join()
    stop = Stop()
    job = config_flags.get_config_filename(flags.FLAGS['config'])
    workdir = Path(WORKDIR.value or default_workdir(job))
    try:
        for config in parts_of(CONFIG.value):
            start.check(config)
        text = JOBS.get(CONFIG.value.task, finetune_job)(CONFIG.value, job, workdir, stop)
    except (ValueError, FloatingPointError, OSError, ImportError) as error:
        absl.logging.debug('The traceback:', exc_info=True)
        end(f'\nrun.py: {error}\n(For the traceback add -v=1.)')
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        if start.is_out_of_memory(error):
            first = str(error).partition('\n')[0]
            end(f'\nrun.py: out of memory ({first}): lower batch_size, lengths, model.*; raise microbatches')
        # Of one process alone it is its own mistake; of several it is what a collective ends with whose other
        # side is gone.
        if jax.process_count() == 1 or absl.logging.get_verbosity() > absl.logging.WARNING:
            raise
        last_words.leave(str(error))
    except KeyboardInterrupt:
        end(INTERRUPTED)
    if jax.process_index() == 0:
        print(text)
    sys.exit(stop.status)


def join() -> None:
    """Joins the other processes. Leaves with one line where they do not come."""
    if absl.logging.get_verbosity() <= absl.logging.WARNING:
        last_words.listen(LOST)
    try:
        jax.distributed.initialize(COORDINATOR.value, NUM_PROCESSES.value, PROCESS_ID.value)
    except (RuntimeError, ValueError) as error:
        absl.logging.debug('The traceback:', exc_info=True)
        sys.exit(f'run.py: the processes did not find each other: {" ".join(str(error).split())}')


def end(status: str | int) -> NoReturn:
    """Ends this process as sys.exit does; one of several at once, so that the others, too, end at once."""
    if jax.process_count() == 1:
        sys.exit(status)
    if isinstance(status, str):
        print(status, file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status if isinstance(status, int) else 1)


def pretrain_job(config: ConfigDict, job: str, workdir: Path, stop: Stop | None = None) -> str:
    """Pre-training; returns the last words."""
    start.check_workdir(config, workdir)
    if not config.data.corpus:  # before one is made
        start.check_source(config)
    # One process builds what is missing, the others then find it.
    if jax.process_index() == 0:
        resolved = batches.resolve(config, workdir)
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices('corpus')
        resolved = batches.resolve(config, workdir)
    vocabulary = batches.vocabulary(resolved)
    its_batches = functools.partial(batches.batches, resolved)
    stop = stop or Stop()
    first_step = finetune.latest_step(workdir)
    held_out = train.train(resolved, workdir, its_batches, vocabulary, stop=stop)
    if stop.requested and finetune.latest_step(workdir) < resolved.total_steps:
        return NOT_FINISHED
    results = pretraining_results(resolved, workdir) | {'held_out': held_out}
    if first_step < resolved.total_steps and jax.process_index() == 0:
        output_file.write_json(workdir / 'results.json', results)
    return f'{read_and_skipped(results)}\n{farewell(job, config, workdir, held_out)}'


def pretraining_results(config: ConfigDict, workdir: Path) -> dict:
    """How much a finished pre-training has read and skipped, and its corpus kept and dropped."""
    documents = batches.read_manifest(config.data.corpus)['documents']
    dropped = {reason: found['count'] for reason, found in documents['dropped'].items()}
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


def tables_job(config: ConfigDict, job: str, workdir: Path, stop: Stop | None = None) -> str:
    """A grid of models × tasks × seeds (configs/tables.py); returns its tables."""
    stop = stop or Stop()
    known = ('random', 'clower', *pretrain.SYSTEMS)
    for name in tables.listed(config.models):
        if '=' not in name and name not in known:
            raise ValueError(f'models: {name!r} must be one of {", ".join(known)}, or NAME=FOLDER')
        source = name.partition('=')[2]
        if source and not Path(source).is_relative_to(workdir):  # there before anything is trained
            initial.source_info(source)
    for task in tables.listed(config.tasks):  # before anything is trained
        if task in config.finetune:
            locations.paths(config.finetune[task])

    def prepare(model: str, folder: Path) -> dict | None:
        name, _, source = model.partition('=')
        if source:
            return {'init_from': source}
        one = copy.deepcopy(config.pretrain)
        if name == 'random':
            resolved = batches.resolve(one, folder)
            vocab = folder / 'vocab.txt'
            folder.mkdir(parents=True, exist_ok=True)
            base = batches.vocabulary(resolved).tokens[: resolved.model.base_vocab_size]
            output_file.write_text(vocab, ''.join(f'{token}\n' for token in base))
            sizes = ('hidden_size', 'num_layers', 'num_heads', 'intermediate_size', 'max_positions')
            return {'data.vocab': str(vocab)} | {f'model.{size}': one.model[size] for size in sizes}
        one.update_from_flattened_dict(pretrain.SYSTEMS.get(name, {}))
        if finetune.latest_step(folder) < one.total_steps:
            pretrain_job(one, job, folder, stop)
        return {'init_from': str(folder)} if finetune.latest_step(folder) >= one.total_steps else None

    def run_cell(config: ConfigDict, folder: Path) -> dict:
        return {} if stop.requested else finetuned(config, folder, stop)[1]

    with stop:
        text = tables.run(config, workdir, prepare, run_cell)
    if text:  # of the cells that there are
        figure = f' · figure: {workdir}/figure2.png' * (workdir / 'figure2.png').is_file()
        text += f'\nTables: {workdir}/tables.md{figure}'
    return '\n'.join(filter(None, (text, NOT_FINISHED if stop.requested else '')))


def similarity_job(config: ConfigDict, job: str, workdir: Path, stop: Stop | None = None) -> str:
    """The paper's Figure 3 (configs/similarity.py); returns the last words."""
    found, about = {}, {}
    for name, folder in similarity.models(config).items():
        its = batches.resolve(similarity.config_of(config, folder), folder)
        vocabulary = batches.vocabulary(its)
        token_rows.check_vocabulary(folder / 'vocab.txt', vocabulary.tokens, f'The run in {folder}')
        found[name] = similarity.measure(its, folder, batches.batches(its, split='validation'), config.seed)
        shares = word_lengths.two_character_share(its.data.corpus, vocabulary)
        about[name] = {'workdir': str(folder), 'corpus': its.data.corpus, 'two_character_words': shares}
    results = similarity.write(workdir, found, about)
    return f'{similarity.describe(results)}\nFigure: {workdir}/similarity.png · {workdir}/similarity.json'


def words_job(config: ConfigDict, job: str, workdir: Path, stop: Stop | None = None) -> str:
    """What frozen character encoders know of words (configs/words.py); returns the tables."""
    return word_view.run(config, workdir)


def probe_job(config: ConfigDict, job: str, workdir: Path, stop: Stop | None = None) -> str:
    """Linear probes of frozen encoders (configs/probe.py); returns their table."""
    probe.models(config)  # before any text is read
    texts = {}
    for task in tables.listed(config.tasks):
        if task not in config.data:
            raise ValueError(f'tasks: {task!r} must be one of {", ".join(config.data)}')
        its = classification.single_texts(ConfigDict({'mode': 'train', 'data': config.data[task]}))
        texts[task] = its['train'], its['validation']
    text = probe.run(config, workdir, texts)
    return f'{text}\nTable: {workdir}/probe.md · {workdir}/probe.json · figure: {workdir}/probe.png'


def vectors_job(config: ConfigDict, job: str, workdir: Path, stop: Stop | None = None) -> str:
    """What an encoder's vectors are worth as they are (configs/vectors.py); returns the last words."""
    if not config.init_from:
        raise ValueError('there is no encoder to judge: give --config.init_from=X, a workdir or a folder')
    if not config.data.test:
        raise ValueError('there is nothing to judge it by: give --config.data.test=FILE, or a,b')
    data = config.data
    if len(data.text_columns) == 1:
        data.text_columns = tuple(data.text_columns[0].split(','))
    judged: Any = vector_sets.judged(config)['test']  # of the one kind or the other
    encoder = Encoder.load(config.init_from, config.model.pooling, config.dtype, data.max_length)
    found = judged.judge(encoder.encode(judged.texts))
    workdir.mkdir(parents=True, exist_ok=True)
    with output_file.all_whole(workdir) as partial:
        judged.write_predictions(partial, found)
    scores = judged.score(found)
    results = {'init_from': Path(config.init_from).name, 'evaluation': data.evaluation, 'test': scores}
    output_file.write_json(workdir / 'results.json', results)
    lines = [f'{name} {value:.4f}' for name, value in scores.items()]
    return '\n'.join([*lines, f'Results: {workdir}/results.json · pairs: {workdir}/predictions.json'])


def finetune_job(config: ConfigDict, job: str, workdir: Path, stop: Stop | None = None) -> str:
    """Fine-tuning, or (`config.mode`) a fine-tuned model put to use; returns the last words."""
    if config.mode == 'train':
        config, results = finetuned(config, workdir, stop)
        return finetune_farewell(job, workdir, results, config)
    given = config_flags.get_override_values(flags.FLAGS['config'])
    config, vocabulary = with_source(as_trained(config, workdir, given), workdir)
    config, data = finetuning.prepare(config, vocabulary)
    results = finetune.apply(config, workdir, data)
    lines = [
        f'{split}: {", ".join(f"{name} {value:.4f}" for name, value in found.items())}'
        for split, found in results.items()
        if found  # no labels, no metrics
    ]
    return '\n'.join([*lines, f'Predictions: {workdir}/{config.mode}/predictions.json'])


def finetuned(config: ConfigDict, workdir: Path, stop: Stop | None = None) -> tuple[ConfigDict, dict]:
    """Fine-tunes; returns the resolved config and the contents of results.json ({}: stopped before)."""
    config, vocabulary = with_source(config, workdir)
    config, data = finetuning.prepare(config, vocabulary)
    return config, finetune.run(config, workdir, data, vocabulary, stop)


def as_trained(config: ConfigDict, workdir: Path, given: Collection[str] = ()) -> ConfigDict:
    """A copy of the config in which texts are read as those were that the model in `workdir` was trained on,
    except for the keys that were `given` on the command line.

    Raises ValueError where a class is to be told from another vector than it was in training.
    """
    config = copy.deepcopy(config)
    path = workdir / 'config.json'
    saved = hugging_face.read_json(path) if path.is_file() else {}
    for section, names in (('data', READING_OF_TEXT), ('model', ('pooling', 'projection'))):
        before = saved.get(section, {})
        for name in names:
            if name in before and name in config[section] and f'{section}.{name}' not in given:
                value = before[name]
                config[section][name] = tuple(value) if isinstance(value, list) else value
    if 'classify_from' in config.model:
        before = saved.get('model', {}).get('classify_from', 'pooler')
        if 'model.classify_from' in given and config.model.classify_from != before:
            raise ValueError(
                f'model.classify_from={config.model.classify_from}, but {workdir} was trained with {before}'
            )
        config.model.classify_from = before
    return config


def with_source(config: ConfigDict, workdir: Path) -> tuple[ConfigDict, Vocabulary]:
    """A copy of the config with the encoder's kind and sizes as `workdir` or `init_from` have them, and the
    vocabulary of its characters, or of its words, too, where it reads them (then with `data.segmenter`, too);
    with random weights, BERT-base's sizes where none is given, and `data.vocab`.

    Raises ValueError where there is nothing to take them from, where `workdir` is of another task, or where
    the kind of model is not made for the task.
    """
    config = copy.deepcopy(config)
    began = initial.is_begun(workdir)
    if not began and config.mode != 'train':
        raise ValueError(
            f'--config.mode={config.mode} needs a fine-tuned --workdir, and {workdir} is none. Several seeds '
            'have a folder each: seed-0, …'
        )
    origin = str(workdir) if began else config.init_from or config.data.vocab
    if began or config.init_from:
        source = initial.source_info(origin)
        if began and source.task != config.task:
            raise ValueError(f'{workdir} is of the task {source.task!r}, the config of {config.task!r}')
        if began and source.labels:
            config.data.labels = tuple(config.data.labels) or tuple(source.labels)
        sizes, tokens, base_size, has = source.model, source.tokens, source.base_size, source.kind
        config.model.kind = config.model.kind or has
    elif config.data.vocab:
        sizes, tokens = common.model('base').to_dict(), read_tokens(config.data.vocab)
        base_size, has, config.model.kind = len(tokens), 'bert', config.model.kind or 'bert'
    else:
        raise ValueError(
            'there is nothing to start from: give --config.init_from=X, a pre-training workdir or a Hugging '
            'Face BERT folder; or, for random weights, a vocabulary: --config.data.vocab=vocab.txt'
        )
    for name, value in config.model.items():
        if value == 0 and name in sizes:
            config.model[name] = sizes[name]
    kind = config.model.kind
    if kind not in (*KINDS, 'word'):
        raise ValueError(f'model.kind={kind!r} must be one of {", ".join((*KINDS, "word"))}, or empty')
    if has == 'word' and kind != 'word':
        raise ValueError(f'{origin} holds a word encoder: leave model.kind={kind} out, or take word')
    if config.task not in READS_WORDS.get(kind, ()):
        if kind in ('lichee', 'word'):
            raise ValueError(
                f'a model.kind={kind} reads words, which the task {config.task!r} does not have: it is made '
                f'for {", ".join(READS_WORDS[kind])}'
            )
        if config.task not in ('classify', 'span'):
            config.model.kind = 'bert'  # what a sentence task trains is the character encoder alone
        return config, Vocabulary(tokens[:base_size], base_size)
    if kind == 'word' and (has not in ('word', 'clower') or len(tokens) == base_size):
        raise ValueError(
            f'model.kind=word is the word encoder of a CLOWER, and {origin} has none: start from the workdir '
            'of its pre-training, or from its export with --encoder word'
        )
    if len(tokens) == base_size:
        raise ValueError(
            f'a model.kind={kind} reads words, and there are none in its vocabulary: start from a workdir of '
            f'configs/pretrain.py:{kind}, with --config.init_from'
        )
    if not config.data.segmenter:
        cut_by = export.segmenter_of(origin)
        config.data.segmenter, config.data.hmm = cut_by['name'], cut_by.get('hmm', True)
    return config, Vocabulary(tokens, base_size)


def finetune_farewell(job: str, workdir: Path, results: dict, config: ConfigDict) -> str:
    """What fine-tuning came to and what to do next."""
    if not results:
        return NOT_FINISHED
    seed = finetune.best_seed(config, results['per_seed'])
    model = finetune.seed_folder(workdir, seed, config.seeds)
    lines = [f'Curves: {model}/curves.png · results: {workdir}/results.json']
    for split, found in results['mean'].items():
        for which, metrics in found.items():
            spread = results['std'][split][which]
            shown = (
                f'{name} {value:.4f}' + (f' ± {spread[name]:.4f}' if spread[name] is not None else '')
                for name, value in metrics.items()
            )
            lines.append(f'{split}, {which}: {", ".join(shown)}')
    for split, found in results.get('data', {}).items():  # of before there were counts
        lines.append(f'{split}: {describe(found)}')
    if skipped := sum(results.get('skipped_steps', {}).values()):
        lines.append(f'Steps skipped, for their gradient was not finite: {skipped:,}')
    if worse := finetune.got_worse(results):
        lines.append(f'Worse than before training: {"; ".join(worse)}')
    predict = f'python run.py --config={job} --workdir={model} --config.mode=predict --config.data.test=F'
    reason = export.why_no_bert(config.model.kind, config.task, config.model.get('classify_from', 'pooler'))
    if reason:
        lines += [f'Next: {predict}', f'(For export: this model {reason}.)']
    else:
        lines += [
            f'Next: python -m clower_jax.convert export --checkpoint {model} --output {workdir}-hf',
            f'  or: {predict}',
        ]
    return '\n'.join(lines)


def farewell(job: str, config: ConfigDict, workdir: Path, held_out: dict[str, float]) -> str:
    """What came of the run of a config, as it was given, and what to do next."""
    text = f'Curves: {workdir}/curves.png · every figure: {workdir}/metrics.jsonl'
    if 'acc_tcl' in held_out:
        text += (
            f'\nHeld out, a word finds its own characters among {held_out["anchors"]:.0f} words in '
            f'{held_out["acc_tcl"]:.1%} of the cases (chance: {1 / held_out["anchors"]:.1%}).'
        )
    if config.data.text == 'embedded' and not config.data.corpus:
        what, source = 'your own text', "--config.data.text='my/*.txt' --workdir=runs/mine"
    else:
        what = 'another run from these weights'
        corpus = config.data.corpus or workdir / 'corpus'
        source = f'--config.data.corpus={corpus} --config.init_from={workdir} --workdir=runs/next'
        export_it = f'python -m clower_jax.convert export --checkpoint {workdir} --output {workdir}-hf'
        text += f'\nTo use it elsewhere: {export_it}'
    return f'{text}\nNext: {what}, python run.py --config={job} {source}'


# The others are fine-tuning.
JOBS = {
    'pretrain': pretrain_job,
    'tables': tables_job,
    'similarity': similarity_job,
    'vectors': vectors_job,
    'probe': probe_job,
    'words': words_job,
}

if __name__ == '__main__':
    app.run(main, flags_parser=lambda argv: argv[:1])  # they are parsed, see above
