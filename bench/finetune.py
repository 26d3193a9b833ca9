"""Fine-tuning by this project against the Trainer of transformers, as markdown tables.

    CLOWER_DATA=../shared/data python bench/finetune.py [--rounds 3] [--dtypes float32] [--json FILE]

About 10 minutes on two cores: an encoder of 4 × 256 on a part of ChnSentiCorp (configs/classify.py) and of
CMRC 2018 (configs/cmrc.py); a whole epoch: --rows all --training-only. Where there is a GPU, or with
--device gpu: BERT-base's size, all rows, bfloat16. Both sides have the same rows, epochs, batch size (of the
paper's table 1), learning rates, decay, clipping, dropout, numbers, an evaluation and a checkpoint every
epoch, and start from the same Hugging Face folder (--model FOLDER, else random weights). The Trainer
(bench/trainer_peer.py) groups rows by length and pads each batch to its longest. In the tables

  training  from the first batch to the end, evaluation and saving included, nothing left to compile
  steps     of it, without evaluation and saving
  tokens    computed in a training, padding included
  command   the whole process: imports, reading, compiling, all that a run leaves; of ours the `first` with
            nothing compiled before, the other with what an earlier one has left in the cache
"""

import argparse
import functools
import json
import operator
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from ml_collections import ConfigDict  # noqa: E402

from bench import harness  # noqa: E402
from configs import classify, cmrc, common  # noqa: E402
from input_pipeline.text.vocabulary import read_tokens  # noqa: E402

HERE = Path(__file__).resolve().parent
JOBS = {
    'chnsenticorp': (
        'configs/classify.py:chnsenticorp',
        'chnsenticorp/train.tsv',
        'chnsenticorp/dev_unseen.tsv',
    ),
    'cmrc': ('configs/cmrc.py', 'cmrc2018/dev_600ctx.json', 'cmrc2018/trial.json'),
}
# On a CPU: training rows (texts, paragraphs) and rows to evaluate on, without --rows.
CPU_ROWS = {'chnsenticorp': (640, 192), 'cmrc': (30, 10)}
PART_BUCKETS = 6  # `data.buckets` where these rows stand for a whole set, whose steps are worth more widths


def config_of(case: str | Path, changed: bool = True) -> ConfigDict:
    """The config that a case file describes: {'config': 'configs/….py:variant', 'changes': {key: value}}; or
    as it is without the changes."""
    case = json.loads(Path(case).read_text(encoding='utf-8'))
    job, _, variant = case['config'].partition(':')
    config = {'configs/classify.py': classify, 'configs/cmrc.py': cmrc}[job].get_config(variant)
    if changed:
        config.update_from_flattened_dict(case['changes'])
    return config


# ---- what is given to all ----


def write_model(folder: Path, size: str, vocab: Path) -> Path:
    """A BERT with random weights as a Hugging Face folder."""
    import transformers  # takes seconds, and contenders import this module

    hidden_size, num_layers, num_heads, intermediate_size = common.SIZES[size]
    transformers.set_seed(0)
    shape = transformers.BertConfig(
        vocab_size=len(read_tokens(vocab)), hidden_size=hidden_size, num_hidden_layers=num_layers,
        num_attention_heads=num_heads, intermediate_size=intermediate_size,
    )  # fmt: skip
    transformers.BertModel(shape).save_pretrained(folder)
    shutil.copyfile(vocab, folder / 'vocab.txt')
    return folder


def write_part(source: Path, target: Path, count: int | None) -> Path:
    """`count` rows of a table with a header, or paragraphs of a SQuAD file, chosen at random; None: all."""
    text = source.read_text(encoding='utf-8')
    if source.suffix == '.json':
        file = json.loads(text)
        articles = random.Random(0).sample(file['data'], count) if count else file['data']
        text = json.dumps(file | {'data': articles}, ensure_ascii=False)
    elif count:
        header, *rows = text.splitlines()
        text = '\n'.join([header, *random.Random(0).sample(rows, count)]) + '\n'
    target.write_text(text, encoding='utf-8')
    return target


def write_case(folder: Path, job: str, dtype: str, model: Path, data: Path, flags) -> Path:
    """The case of one data set and dtype."""
    name, *files = JOBS[job]
    counts = flags.rows or (CPU_ROWS[job] if flags.device == 'cpu' else (None, None))
    train, dev = (
        str(write_part(data / file, folder / f'{split}{Path(file).suffix}', count))
        for split, file, count in zip(('train', 'dev'), files, counts)
    )
    changes = {
        'data.train': train, 'data.dev': dev, 'init_from': str(model), 'dtype': dtype,
        'model.max_positions': 512, 'num_epochs': float(flags.epochs), 'log_every': 10**6,
        'data.buckets': PART_BUCKETS if any(counts) else 0,  # 0: as many as are worth it, see `ours`
    }  # fmt: skip
    path = folder / 'case.json'
    path.write_text(json.dumps({'config': name, 'changes': changes}), encoding='utf-8')
    return path


# ---- the contenders, each a process of its own ----


def ours(case: Path) -> dict:
    """This project's training loop. Every width is compiled and run before, so
    that training alone counts."""
    import copy

    import jax
    import numpy as np

    from clower_jax import jobs
    from clower_jax.training import loop
    from clower_jax.training.inherited_settings import resolve_source
    from clower_jax.utils import allocator, metrics_file
    from input_pipeline.features import buckets

    allocator.keep_freed_memory()  # as run.py does
    with tempfile.TemporaryDirectory() as folder:
        config, vocabulary = resolve_source(config_of(case), Path(folder))
        # As many widths as the paper's number of epochs is worth, which the measured ones stand for.
        epochs, config.num_epochs = config.num_epochs, config_of(case, changed=False).num_epochs
        config.data.buckets = jobs.read_data(config, vocabulary)[0].data.buckets
        config.num_epochs = epochs
        config, data = jobs.read_data(config, vocabulary)
        programs = loop.make_programs(config)
        held_out = data.splits['validation']
        counts = {'computed_tokens': 0}

        def one_of_each_width(config, start_step=0, split='train', rows=None):
            chosen, size = data.splits[split], config.batch_size
            for width in data.widths[split]:
                planned = buckets.Planned(width, np.array([chosen.rows.lengths.argmin()]))
                yield chosen.rows.batch(planned, size) | chosen.targets(planned, size)

        def counted(config, start_step=0, split='train', rows=None):
            if split == 'train':
                counts.setdefault('began', time.perf_counter())
            for batch in data.batches(config, start_step, split, rows):
                counts['computed_tokens'] += batch['char_ids'].size if split == 'train' else 0
                yield batch

        def train_once(name: str, batches, score=None, **changes) -> Path:
            one, workdir = copy.deepcopy(config), Path(folder, name)
            one.update(changes)
            loop.train(one, workdir, functools.partial(batches, one), vocabulary, score, programs)
            return workdir

        train_once('warm', one_of_each_width, total_steps=len(data.widths['train']), select='')
        workdir = train_once('run', counted, lambda outputs: held_out.score(held_out.decode(outputs)))
        seconds = time.perf_counter() - counts.pop('began')
        rows = metrics_file.read_metrics(workdir / 'metrics.jsonl')
    trained, measured = (
        [row for row in rows if row['split'] == split][-1] for split in ('train', 'validation')
    )
    examples = len(data.splits['train'].rows) * config.num_epochs
    return counts | {
        'seconds': [seconds],
        'steps_seconds': examples / trained['examples_per_s'],
        'steps': config.total_steps,
        'held_out': {name: measured[name] for name in ('loss', 'acc', *held_out.metrics) if name in measured},
        'note': f'jax {jax.__version__}',
    }


def command(case: Path, arguments: list[str]) -> dict:
    """Seconds of a whole command: run.py on this case, or the one given."""
    with tempfile.TemporaryDirectory() as folder:
        if not arguments:
            settings = json.loads(case.read_text(encoding='utf-8'))
            arguments = ['run.py', f'--config={settings["config"]}', f'--workdir={folder}/run']
            arguments += [f'--config.{key}={value}' for key, value in settings['changes'].items()]
        began = time.perf_counter()
        done = subprocess.run([sys.executable, *arguments], cwd=HERE.parent, capture_output=True, text=True)
        seconds = time.perf_counter() - began
    if done.returncode:
        sys.exit(done.stderr)
    return {'seconds': [seconds], 'stdout': done.stdout}


def trainer(case: Path, options: list[str]) -> dict:
    """The Trainer's figures, and the seconds of its command without the warm-up that only this wants."""
    whole = command(case, ['bench/trainer_peer.py', str(case), *options])
    figures = json.loads(whole['stdout'].splitlines()[-1])
    return figures | {'command_seconds': whole['seconds'][0] - figures['warm_up_seconds']}


# ---- the comparison ----


def compare(case: Path, flags, cache: Path) -> dict:
    """One data set and dtype: the launches, and how many times as fast as the Trainer each contender is."""

    def contender(kind: str, *options: str, cached: bool = True) -> list[str]:
        variable = f'JAX_COMPILATION_CACHE_DIR={cache if cached else ""}'
        return ['env', variable, sys.executable, str(HERE / 'finetune.py'), '--as', kind, str(case), *options]

    device = ('--', '--device', flags.device)
    contenders = {'Trainer': contender('trainer', *device), 'ours': contender('ours')}
    if flags.compile:
        contenders['Trainer, compiled'] = contender('trainer', *device, '--compile')
    commands = {
        'ours, command': contender('command'),
        'ours, first command': contender('command', cached=False),
    }
    if not flags.training_only:
        harness.launch('to fill the cache', commands['ours, command'])
        contenders |= commands
    launches = harness.alternate(contenders, flags.rounds)
    command = {name: launches.pop(name) for name in commands if name in launches}
    figures = {'training': {'launches': launches, 'ratios': harness.speedups(launches, 'Trainer')}}
    if command:
        for name in set(launches) - {'ours'}:
            command[name] = [{'seconds': [one['command_seconds']]} for one in launches[name]]
        figures['command'] = {'launches': command, 'ratios': harness.speedups(command, 'Trainer')}
    return figures


def table(cells: dict[str, dict], part: str, ratio: str, more: dict) -> str:
    """Of each contender the median seconds, what else it is asked for, and its ratio."""
    rows = []
    for cell, figures in cells.items():
        for name, runs in figures[part]['launches'].items():
            columns = {f'{part}, s': (lambda one: one['seconds'][0], '.1f')} | more
            medians = (
                format(statistics.median(map(value, runs)), shown) for value, shown in columns.values()
            )
            rows.append((cell, name, *medians, harness.span(figures[part]['ratios'][name])))
    return harness.table(('', 'contender', f'{part}, s', *more, ratio), rows)


def parse() -> argparse.Namespace:
    """The flags."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n\n')[0])
    gpu = shutil.which('nvidia-smi') is not None
    parser.add_argument('--device', choices=('cpu', 'gpu'), default='gpu' if gpu else 'cpu')
    parser.add_argument('--jobs', type=harness.names, default=tuple(JOBS), help=f'of {", ".join(JOBS)}')
    parser.add_argument('--dtypes', type=harness.names, help='default float32, on a GPU bfloat16')
    parser.add_argument('--size', choices=tuple(common.SIZES), help='default small, on a GPU base')
    parser.add_argument('--model', type=Path, help='a Hugging Face folder instead of random weights')
    parser.add_argument(
        '--rows',
        type=lambda text: (None, None) if text == 'all' else harness.integers(text),
        help='train,dev, more than a batch; or all',
    )
    parser.add_argument('--epochs', type=int, default=1)
    parser.add_argument('--training-only', action='store_true', help='without whole commands')
    parser.add_argument('--compile', action='store_true', help='also the Trainer with torch.compile')
    parser.add_argument('--rounds', type=int, default=3, help='launches of each contender')
    parser.add_argument('--cache', type=Path, help='where what is compiled is kept, and found the next time')
    parser.add_argument(
        '--data', type=Path, default=os.environ.get('CLOWER_DATA'), help='default $CLOWER_DATA'
    )
    parser.add_argument('--json', help='where the figures go')
    parser.add_argument('--as', dest='kind', choices=('ours', 'command', 'trainer'), help=argparse.SUPPRESS)
    parser.add_argument('case', type=Path, nargs='?', help=argparse.SUPPRESS)
    parser.add_argument('options', nargs='*', help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if not flags.kind and not flags.data:
        parser.error('there is no data: set CLOWER_DATA, or give --data=FOLDER')
    if unknown := set(flags.jobs) - set(JOBS):
        parser.error(f'--jobs takes {", ".join(JOBS)}, not {", ".join(sorted(unknown))}')
    flags.dtypes = flags.dtypes or (('bfloat16',) if flags.device == 'gpu' else ('float32',))
    flags.size = flags.size or {'cpu': 'small', 'gpu': 'base'}[flags.device]
    return flags


def main() -> None:
    """Compares, or is a contender."""
    flags = parse()
    if flags.kind:
        made = {
            'ours': lambda: ours(flags.case),
            'command': lambda: command(flags.case, []),
            'trainer': lambda: trainer(flags.case, flags.options),
        }
        print(json.dumps(made[flags.kind]()))
        return
    cells: dict[str, dict] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        model = flags.model or write_model(
            folder / 'model', flags.size, flags.data / 'vocab' / 'bert_base_chinese_vocab.txt'
        )
        for job in flags.jobs:
            for dtype in flags.dtypes:
                place = folder / f'{job}-{dtype}'
                place.mkdir()
                case = write_case(place, job, dtype, model, flags.data / 'finetune', flags)
                cells[f'{job} {dtype}'] = compare(case, flags, flags.cache or folder / 'cache')
                ratios = {cell: figures['training']['ratios'] for cell, figures in cells.items()}
                harness.save(flags.json, ratios=ratios, cells=cells)
    faster = '× as fast as the Trainer'
    more = {
        'steps, s': (operator.itemgetter('steps_seconds'), '.1f'),
        'tokens': (operator.itemgetter('computed_tokens'), ',.0f'),
        'held out, loss': (lambda one: one['held_out']['loss'], '.3f'),
    }
    tables = [table(cells, 'training', faster, more)]
    if not flags.training_only:
        tables.append(table(cells, 'command', faster, {}))
    print('\n\n'.join(tables))


if __name__ == '__main__':
    main()
