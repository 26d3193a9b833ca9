"""The command line: mistakes in one line, help with every key, nothing slow imported before it is read."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from clower_jax.utils import command_line, config_checks
from configs import classify

ROOT = Path(__file__).parents[2]
# Each takes a second or more to import.
SLOW = ('jax', 'tensorflow', 'transformers', 'tensorboardX', 'matplotlib', 'orbax', 'pyarrow', 'scipy')


def command(*flags, python=()):
    return subprocess.run(
        [sys.executable, *python, 'run.py', *flags], cwd=ROOT, capture_output=True, text=True, timeout=120
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ('flags', 'message'),
    [
        ('', r'--config is missing: give one of configs/auto_mlm.py, configs/choose.py'),
        ('--config=configs/pretrane.py', r'no such file. Did you mean configs/pretrain.py\? There are'),
        ('--config=pretrain', r'no such file. Did you mean configs/pretrain.py\?'),
        ('--config=configs/pretrain.py:smal', r"has no variant 'smal'; it has mini, cpu, small, base, paper"),
        ('--config=configs/similarity.py:x', r"configs/similarity.py has no variants, so no 'x'"),
        (
            '--config=configs/pretrain.py --config.optim.lr=1',
            r'no such key; did you mean --config.optim.learning_rate\? config.optim has adversarial, adv',
        ),
        ('--config configs/classify.py --config.epochs=3', r'did you mean --config.num_epochs\?'),
        ('--config=configs/classify.py --config.task=bq', 'config.task: the task is that of the job; choose'),
        ('--config=configs/tables.py --config.finetune.bq.task=span', 'bq.task: the task is that of the job'),
        ('--config=configs/classify.py --config.data.text.x=3', r'did you mean .*config.data has buckets, '),
        ('--config=configs/tables.py --config.finetune.bq.optim.lr=1', r'config.finetune.bq.optim.learn'),
        ('--config=configs/classify.py --optim.learning_rate=1', r'write --config.optim.learning_rate'),
        ('--config=configs/classify.py --workdri=x', r"'workdri'. Did you mean: workdir"),
        ('--config=configs/classify.py x', r'unknown arguments: x;'),
        ('--config=configs/classify.py --config.batch_size=abc', r'batch_size=abc: a whole number is wanted'),
        ('--config=configs/classify.py --config.data.hmm=maybe', r'hmm=maybe: True or False is wanted'),
        ('--config=configs/classify.py --config.batch_size=0', r'batch_size=0 must be from 1 to 1048576'),
        ('--config=configs/classify.py --config.dtype=int8', r"dtype='int8' must be one of float32"),
        ('--config=configs/tables.py --config.pretrain.seed=-1', r'seed=-1 must be'),
        (
            '--config=configs/probe.py --config.data.own.dev_fraction=nan',
            r'own.dev_fraction=nan must be from',
        ),
        ('--config=configs/classify.py --config.model.hidden_size=1000000000', r'hidden_size=.* to 65536'),
        ('--config=configs/classify.py --config.model[x=1', r'model.x|cannot be read'),
        ('--config=configs/' + 'x' * 300, 'no such file'),
        ('--config=configs/classify.py\nx', r'classify.py.nx: there is no such file'),
        ('--config=configs/classify.py --num_processes=2', r'need --coordinator='),
    ],
)
def test_a_mistake_is_one_line(flags, message):
    done = command(*flags.split(' '))
    assert done.returncode == 1 and not done.stdout
    assert re.fullmatch('run.py: [^\n]+\n', done.stderr) and re.search(message, done.stderr), done.stderr


@pytest.mark.parametrize(
    'flags',
    ['--help', '--config=configs/pretrain.py --help', '--config=configs/pretrain.py --config.seed=-1'],
)
def test_nothing_slow_is_imported_before_the_command_line_is_read(flags):
    done = command(*flags.split(), python=('-X', 'importtime'))
    modules = (line.split('|')[-1].strip() for line in done.stderr.splitlines() if '|' in line)
    imported = {module.partition('.')[0] for module in modules}
    assert 'ml_collections' in imported and not imported & set(SLOW)


@pytest.mark.parametrize(
    ('key', 'meant'),
    [
        ('optim.lr', ['optim.learning_rate']),
        ('lr', ['optim.learning_rate']),
        ('learning_rate', ['optim.learning_rate']),
        ('optim.learnig_rate', ['optim.learning_rate']),
        ('bs', ['batch_size']),
        ('epochs', ['num_epochs']),
        ('optim.warmup', ['optim.warmup_steps', 'optim.warmup_fraction']),
        ('data.max_len', ['data.max_length']),
        ('model.data.train', ['data.train']),
        ('xyzzy', []),
    ],
)
def test_what_one_may_mean(key, meant):
    keys = list(config_checks.flatten(classify.get_config().to_dict()))
    assert sorted(command_line.similar_keys(key, keys)) == sorted(meant)


def test_help_lists_every_key_with_what_the_job_says_of_it():
    text = command('--config=configs/classify.py:tnews', '--help').stdout
    for key, value in config_checks.flatten(classify.get_config('tnews').to_dict()).items():
        assert f'\n  {key}={value}' in text, key
    lines = {line.split('=')[0].strip(): line for line in text.splitlines() if line.startswith('  ')}
    assert 'steps between evaluations' in lines['eval_every']
    assert lines['dtype'].endswith('of the products: float32, bfloat16 or float16; parameters are fp32')
    assert 'data/<name>, or are named' in text  # the config's own words


def test_help_of_a_grid_names_the_jobs_in_it():
    text = command('--config=configs/tables.py', '--help').stdout
    assert re.search(r'\n  pretrain\.\* +the keys of a job of its own, pretrain\n', text)
    assert 'pretrain.seed' not in text


def test_help_of_the_command_lists_flags_and_jobs():
    done = command('--help')
    assert done.returncode == 0 and '--workdir' in done.stdout and 'configs/mirror.py' in done.stdout
