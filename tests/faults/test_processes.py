"""Several processes, by the command that people use: lost, stopped, gone on with on other devices."""

import shutil
import signal
import socket

import jobs
import numpy as np
import pytest
import starts
from moments import Moment

from clower_jax.utils.metrics_file import read_metrics

STEPS = 12
TRIES = 6  # starts of a run; on a busy machine Gloo may not connect, and the line says to start again


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    """run(workdir, total, devices): argument lists are of pre-training."""
    folder = tmp_path_factory.mktemp('processes')
    jobs.make_materials(folder / 'made')
    context = starts.server()
    job = jobs.all_jobs(folder / 'made')['pretrain']

    def starting(workdir, *flags, devices, log='log', total_steps=STEPS, **at):
        settings = {
            'eval_every': 0,
            'checkpoint_every': 2,
            'optim.schedule': 'constant',
            'total_steps': total_steps,
        }
        arguments = [*job.command(workdir), *(f'--config.{key}={value}' for key, value in settings.items())]
        path = workdir.parent / f'{workdir.name}-{log}'
        return starts.start(context, [*arguments, *flags], path, devices=devices, **at), path

    return starting


def both(run, workdir, which=None, moment=None, number=signal.SIGKILL, prepare=lambda: None):
    """Two processes of two devices, one of which gets a signal at a moment: their exit codes, and what each
    wrote. Where Gloo gives up, which waits for 30 s, they are started again, as they say. `prepare` is called
    before every start."""
    for _ in range(TRIES):
        prepare()
        with socket.socket() as probe:
            probe.bind(('localhost', 0))
            port = probe.getsockname()[1]
        flags = [f'--coordinator=localhost:{port}', '--num_processes=2']
        started = []
        for n in range(2):
            at = {'moment': moment, 'number': number} if n == which else {}
            started.append(run(workdir, *flags, f'--process_id={n}', devices=2, log=f'{n}.log', **at))
        codes, texts = [], []
        for process, log in started:
            process.join(240)
            codes.append(process.exitcode)
            texts.append(starts.text_of(log))
            log.unlink()
        killed = which is not None and number == signal.SIGKILL
        if codes[which] == -number if killed else not any('run.py: another' in text for text in texts):
            return codes, texts
    raise AssertionError(f'the processes did not find each other: {texts}')


def rows(workdir):
    found = [row for row in read_metrics(workdir / 'metrics.jsonl') if row['split'] == 'train']
    assert [row['step'] for row in found] == list(range(1, STEPS + 1))
    return found


def assert_same_course(got, expected):
    """The same examples at every step, counted; losses to rounding."""
    for one, other in zip(got, expected, strict=True):
        assert one['anchors'] == other['anchors'], one['step']
        for name in ('loss', 'loss_mlm_char', 'loss_mlm_word', 'grad_norm'):
            np.testing.assert_allclose(one[name], other[name], rtol=2e-4, err_msg=f'{name}, {one["step"]}')


@pytest.fixture(scope='module')
def on_eight(run, tmp_path_factory):
    """A run on eight devices: its folder in the middle, and its folder at its end."""
    folder = tmp_path_factory.mktemp('sizes')
    middle, end = folder / 'middle', folder / 'end'
    for workdir, steps in ((middle, STEPS // 2), (end, STEPS)):
        if workdir == end:
            shutil.copytree(middle, end)
        process, log = run(workdir, devices=8, total_steps=steps)
        process.join(240)
        assert process.exitcode == 0, log.read_text()
    return middle, end


@pytest.mark.slow
@pytest.mark.parametrize('devices', [2, 1])
def test_saved_on_eight_devices_gone_on_with_on_fewer(run, on_eight, tmp_path, devices):
    middle, end = on_eight
    shutil.copytree(middle, tmp_path / 'run')
    process, log = run(tmp_path / 'run', devices=devices)
    process.join(240)
    assert process.exitcode == 0, log.read_text()
    assert_same_course(rows(tmp_path / 'run'), rows(end))


@pytest.mark.slow
@pytest.mark.parametrize('lost', [0, 1], ids=['the first is lost', 'the second is lost'])
def test_two_processes_go_on_from_one_and_outlive_a_kill_and_a_signal(run, on_eight, tmp_path, lost):
    middle, end = on_eight
    workdir = tmp_path / 'run'
    shutil.copytree(middle, workdir)
    codes, texts = both(run, workdir, lost, Moment('step', 2, 0.0))
    assert codes[lost] == -signal.SIGKILL and codes[1 - lost] not in (0, None)
    told = [line for line in texts[1 - lost].splitlines() if 'Gloo] Rank' not in line]
    assert told[-1].startswith('run.py: another process') and 'Start all of them again' in told[-1]
    assert not any('Traceback' in line or 'coordination' in line for line in told), told
    codes, texts = both(run, workdir, lost, Moment('step', 1, 0.0), signal.SIGTERM)
    assert codes == [143, 143] and 'the same command goes on' in texts[0], '\n--\n'.join(texts)
    codes, texts = both(run, workdir)
    assert codes == [0, 0], '\n--\n'.join(texts)
    assert_same_course(rows(workdir), rows(end))


@pytest.mark.slow
def test_two_processes_go_on_from_the_checkpoint_before_a_damaged_one(run, on_eight, tmp_path):
    """Both set the newest aside, of which one file of values has a flipped bit, and take the same steps."""
    middle, end = on_eight
    workdir, newest = tmp_path / 'run', STEPS // 2
    values = max((middle / 'checkpoints' / str(newest)).rglob('*'), key=lambda path: path.stat().st_size)
    content = bytearray(values.read_bytes())
    content[len(content) // 2] ^= 1

    def damage():
        shutil.rmtree(workdir, ignore_errors=True)
        shutil.copytree(middle, workdir)
        (workdir / values.relative_to(middle)).write_bytes(content)

    codes, texts = both(run, workdir, prepare=damage)
    assert codes == [0, 0], '\n--\n'.join(texts)
    aside = f'checkpoints/damaged-{newest}'
    for text in texts:
        told = [line for line in text.splitlines() if 'set aside' in line]
        assert len(told) == 1 and f'{aside}: ' in told[0], text
        assert f'{values.name} has changed since it was saved' in told[0]
    assert [path.relative_to(workdir).as_posix() for path in workdir.rglob('damaged-*')] == [aside]
    events = [row for row in read_metrics(workdir / 'metrics.jsonl') if 'damaged_checkpoints' in row]
    assert [event['step'] for event in events] == [newest - 2]
    assert_same_course(rows(workdir), rows(end))
