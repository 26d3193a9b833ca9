"""A run that is asked to leave saves and goes on; tests/faults/ has the kills."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from clower_jax.checkpoints.orbax_store import Checkpoints
from clower_jax.utils.metrics_file import read_metrics

ROOT = Path(__file__).parents[2]
STEPS = 8
EVERY = 4


def command(workdir, corpus, **settings):
    """A shrunken pre-training run, by the command that people use."""
    values = {
        'data.corpus': corpus, 'data.text': '', 'total_steps': STEPS, 'batch_size': 8,
        'checkpoint_every': EVERY, 'eval_every': 0, 'log_every': 1, 'optim.warmup_steps': 4,
        'model.num_layers': 0,
        'model.hidden_size': 32, 'model.intermediate_size': 64, 'model.dropout': 0.1, 'data.eval_examples': 8,
        'data.char_length': 0, 'data.word_length': 0, **settings,
    }  # fmt: skip
    flags = [f'--config.{key}={value}' for key, value in values.items()]
    return [sys.executable, 'run.py', '--config=configs/pretrain.py', f'--workdir={workdir}', *flags]


def start(*args, **settings):
    return subprocess.Popen(
        command(*args, **settings), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={**os.environ, 'JAX_PLATFORMS': 'cpu'},
    )  # fmt: skip


def finish(*args, **settings):
    process = start(*args, **settings)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return output


def wait_for_step(workdir, step, process):
    """Until metrics.jsonl says that `step` is done."""
    deadline = time.monotonic() + 240
    while not any(row['step'] >= step for row in read_metrics(workdir / 'metrics.jsonl')):
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline, 'the run does not get on'
        time.sleep(0.02)


@pytest.fixture(scope='module')
def in_one_go(tmp_path_factory, small_corpus):
    workdir = tmp_path_factory.mktemp('run')
    finish(workdir, small_corpus)
    return workdir


@pytest.mark.slow
@pytest.mark.parametrize(('number', 'status'), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_and_leaves(small_corpus, tmp_path, number, status):
    process = start(tmp_path, small_corpus, total_steps=100_000, checkpoint_every=0)
    wait_for_step(tmp_path, 2, process)
    process.send_signal(number)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == status, output
    assert 'saved' in output and 'the same command goes on' in output and 'Next: ' not in output
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest_step >= 2


@pytest.mark.slow
def test_a_finished_run_says_so(in_one_go, small_corpus):
    output = finish(in_one_go, small_corpus)
    assert f'already at step {STEPS} of {STEPS}' in output


@pytest.mark.slow
def test_a_run_killed_between_its_last_checkpoint_and_its_results_gets_them(in_one_go, small_corpus):
    path = in_one_go / 'results.json'
    before = path.read_bytes()
    path.unlink()
    finish(in_one_go, small_corpus)
    assert path.read_bytes() == before
