"""The jobs that are killed, as small as they can be, and what is compared of them in the end."""

import hashlib
import json
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from clower_jax.checkpoints.digests import BEST, FOLDER
from clower_jax.reports.history import EVENT
from clower_jax.utils.metrics_file import read_metrics
from helpers import finetuned
from input_pipeline.corpus import corpus_builder, from_text, vocab_builder

# Lines of metrics.jsonl tell how fast a step was, too.
RATES = ('examples_per_s', 'tokens_per_s')
# Of a model's size only; what is saved, and when, is that of a real run.
TINY = {
    'model.hidden_size': 16, 'model.num_layers': 1, 'model.num_heads': 2, 'model.intermediate_size': 32,
    'batch_size': 8, 'log_every': 1,
}  # fmt: skip
CORPUS = {'char_length': 32, 'word_length': 24, 'validation_fraction': 0.1}


class Job(NamedTuple):
    """A job of run.py: `command(workdir)` are its arguments; `phases`, what it can be killed in."""

    name: str
    command: Callable[[Path], list[str]]
    phases: tuple[str, ...]


def make_text(folder: Path) -> None:
    """A text of three files and its vocabulary, for the builder of corpora."""
    texts = folder / 'text'
    texts.mkdir(parents=True)
    lines = (from_text.EMBEDDED / 'everyday.txt').read_text('utf-8')
    for number in range(3):
        (texts / f'{number}.txt').write_text(lines.replace('。', f'{number}。'), 'utf-8')
    vocab_builder.build(str(texts), folder / 'vocab.txt', num_words=300)


def make_materials(folder: Path) -> None:
    """What all jobs read: a corpus, labelled texts, vocabularies."""
    make_text(folder)
    corpus_builder.build(str(folder / 'text' / '0.txt'), folder / 'vocab.txt', folder / 'corpus', **CORPUS)
    (folder / 'labelled').mkdir()
    finetuned.classify_config(folder / 'labelled')


def all_jobs(materials: Path) -> dict[str, Job]:
    """By name: pre-training, fine-tuning of two seeds, a grid of two systems."""
    pretrain = TINY | {
        'data.corpus': materials / 'corpus', 'data.text': '', 'data.char_length': 0, 'data.word_length': 0,
        'data.eval_examples': 8, 'total_steps': 12, 'checkpoint_every': 3, 'eval_every': 6,
        'optim.warmup_steps': 2, 'model.dropout': 0.1, 'model.num_layers': 0,
    }  # fmt: skip
    labelled = materials / 'labelled'
    tuned = TINY | {
        'data.train': labelled / 'train.tsv', 'data.dev': labelled / 'dev.tsv', 'data.max_length': 32,
        'data.buckets': 1,
    }  # fmt: skip
    finetune = tuned | {
        'data.vocab': labelled / 'vocab.txt', 'data.test': labelled / 'test.tsv', 'model.max_positions': 32,
        'total_steps': 8, 'eval_every': 4, 'checkpoint_every': 4, 'seeds': 2,
    }  # fmt: skip
    grid = {
        'models': 'random,clower', 'tasks': 'tnews', 'seeds': 1, 'reference': 'clower',
        **{f'pretrain.{key}': value for key, value in (pretrain | {
            'total_steps': 4, 'checkpoint_every': 2, 'eval_every': 2, 'dtype': 'float32',
        }).items()},
        **{f'finetune.tnews.{key}': value for key, value in (tuned | {
            'data.dataset': '', 'total_steps': 4, 'eval_every': 2, 'checkpoint_every': 2,
        }).items() if not key.startswith('model.')},
    }  # fmt: skip
    loop = ('start', 'step', 'save', 'evaluation')
    return {
        'pretrain': Job('pretrain', _arguments('pretrain.py', pretrain), loop),
        'finetune': Job('finetune', _arguments('classify.py', finetune), (*loop, 'results')),
        'grid': Job('grid', _arguments('tables.py:cpu', grid), (*loop, 'results', 'tables')),
    }


def _arguments(config: str, settings: dict) -> Callable[[Path], list[str]]:
    values = [f'--config.{key}={value}' for key, value in settings.items()]
    return lambda workdir: [f'--config=configs/{config}', f'--workdir={workdir}', *values]


def end_state(folder: Path) -> dict[str, str]:
    """What a job came to, by path: every array of its newest checkpoints, which steps are kept, every line
    of its metrics, and its other files but pictures, events and what names the workdir."""
    found = {}
    for path in sorted(folder.rglob('*')):
        name = str(path.relative_to(folder))
        inside = {FOLDER, BEST, 'tensorboard'} & set(path.relative_to(folder).parts[:-1])
        if path.name in (FOLDER, BEST) and path.is_dir():
            steps = sorted(int(step.name) for step in path.iterdir() if step.name.isdigit())
            found[f'{name}: steps'] = str(steps)
            found |= {f'{name}: {key}': value for key, value in _arrays(path / str(steps[-1])).items()}
        elif path.name == 'metrics.jsonl':
            for row in (row for row in read_metrics(path) if row['split'] != EVENT):
                line = json.dumps({key: value for key, value in row.items() if key not in RATES})
                found[f'{name}: {row["step"]} {row["split"]}'] = line
        elif path.is_file() and not inside and path.suffix in ('.json', '.txt', '.md'):
            text = path.read_text('utf-8').replace(os.fspath(folder), 'WORKDIR')
            found[name] = hashlib.sha256(text.encode()).hexdigest()
    return found


def _arrays(checkpoint: Path) -> dict[str, str]:
    import jax
    from orbax.checkpoint import v1 as ocp

    with warnings.catch_warnings():
        warnings.filterwarnings('ignore', 'Sharding info not provided')  # as it was saved is as wanted
        loaded = ocp.load_checkpointables(checkpoint)
    leaves = jax.tree_util.tree_leaves_with_path(loaded)
    return {
        jax.tree_util.keystr(path): hashlib.sha256(np.asarray(leaf).tobytes()).hexdigest()
        for path, leaf in leaves
        if hasattr(leaf, 'dtype')
    }


def assert_same(got: dict[str, str], expected: dict[str, str], told: str) -> None:
    """Raises AssertionError naming what differs; `told` says how to do it again."""
    differs = [name for name in sorted({*got, *expected}) if got.get(name) != expected.get(name)]
    assert not differs, f'{told}: differs from an undisturbed run in {", ".join(differs[:10])}'
