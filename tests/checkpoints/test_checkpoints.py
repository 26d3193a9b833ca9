"""Checkpoints: saving costs nothing that adds up; a damaged one is named, and never trained on."""

import gc
import json
import os
import resource
import shutil
import sys
import threading
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clower_jax.checkpoints import verify
from clower_jax.checkpoints.digests import BEST, DIGESTS, FOLDER, find_damage, newest_intact, steps
from clower_jax.checkpoints.orbax_store import Checkpoints
from clower_jax.interop import init_weights
from clower_jax.training import loop
from clower_jax.utils.metrics_file import read_metrics
from helpers import synthetic, workdirs

PARAMS = {'layer': {'kernel': jnp.arange(12.0).reshape(3, 4), 'bias': jnp.ones(4)}}
SHORT = {
    'total_steps': 3, 'log_every': 1, 'eval_every': 0, 'checkpoint_every': 1, 'keep_checkpoints': 2,
    'model.num_layers': 0,
}  # fmt: skip


def saved(workdir: Path, count: int, keep: int = 2) -> Path:
    """Checkpoints of the steps 1 … count, of which `keep` stay; their folder."""
    with Checkpoints(workdir, keep) as found:
        for step in range(1, count + 1):
            found.save_params(step, jax.tree.map(lambda x: x + step, PARAMS))  # noqa: B023
    return workdir / FOLDER


@pytest.mark.slow
def test_saving_holds_no_threads_and_no_descriptors(tmp_path):
    """Each save that leaked three descriptors, as Orbax's responses do, would end this before the 20th."""

    def held():
        return len(os.listdir('/proc/self/fd')), threading.active_count()

    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with Checkpoints(tmp_path) as found:
        for step in range(5):  # pools of threads fill up
            found.save_params(step, PARAMS)
        before = held()
        resource.setrlimit(resource.RLIMIT_NOFILE, (before[0] + 40, limits[1]))
        try:
            for step in range(5, 300):
                found.save_params(step, PARAMS)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        after = held()
    assert after[0] < before[0] + 20 and after[1] < before[1] + 20
    assert newest_intact(tmp_path / FOLDER) == (299, {})


@pytest.mark.slow
def test_saving_holds_no_memory(tmp_path):
    """Where TensorStore leaks what it makes JSON of, each of these saves holds some 380 objects."""
    arrays = {f'layer_{n}': jnp.ones(4) for n in range(40)}

    def objects(found, saves):
        for step in saves:
            found.save_params(step, arrays)
        found._finish_saving()
        gc.collect()
        return sys.getallocatedblocks()

    with Checkpoints(tmp_path) as found:
        before = objects(found, range(15))  # pools and caches fill up
        after = objects(found, range(15, 25))
    assert (after - before) / 10 < 80


def test_saving_is_asynchronous(tmp_path, monkeypatch):
    """`save_params` returns while the digests, which come last, are not yet written."""
    go_on = threading.Event()
    write = Checkpoints._write_digests
    monkeypatch.setattr(Checkpoints, '_write_digests', lambda self: (go_on.wait(60), write(self)))
    with Checkpoints(tmp_path) as found:
        found.save_params(1, PARAMS)
        assert steps(tmp_path / FOLDER) == []
        go_on.set()
    assert newest_intact(tmp_path / FOLDER) == (1, {})


def flip(path: Path, other: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path: Path, other: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def zero(path: Path, other: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def delete(path: Path, other: Path) -> None:
    path.unlink()


def swap(path: Path, other: Path) -> None:
    shutil.copyfile(other, path)


REASONS = {flip: 'has changed', cut: 'is cut short', zero: 'is all zeros', delete: 'is missing', swap: ''}


@pytest.fixture(scope='module')
def three(tmp_path_factory):
    return saved(tmp_path_factory.mktemp('three'), 3, keep=3)


@pytest.mark.parametrize('harm', REASONS)
def test_damage_of_every_file_is_named(three, tmp_path, harm):
    names = [path.relative_to(three / '3') for path in sorted((three / '3').rglob('*')) if path.is_file()]
    assert len(names) > 8 and Path(DIGESTS) in names
    for number, name in enumerate(names):
        folder = tmp_path / str(number)
        shutil.copytree(three, folder)
        other = next(path for path in names[number - 1 :: -1] if path.name != name.name)
        harm(folder / '3' / name, folder / '3' / other)
        step, damaged = newest_intact(folder)
        if name == Path(DIGESTS) and harm is delete:
            assert step == 3  # as those of before there were digests
            continue
        assert step == 2 and list(damaged) == [3], name
        assert '\n' not in damaged[3]
        if name != Path(DIGESTS):
            assert damaged[3].startswith(f'{name} {REASONS[harm]}')


@pytest.mark.parametrize(
    ('harm', 'reason'),
    [
        (lambda step: shutil.rmtree(step / 'params'), 'params/ is missing'),
        (lambda step: (shutil.rmtree(step), step.mkdir()), 'its folder is empty'),
    ],
)
def test_damage_of_folders_is_named(three, tmp_path, harm, reason):
    folder = shutil.copytree(three, tmp_path / 'copy')
    harm(folder / '3')
    assert newest_intact(folder) == (2, {3: reason})


def test_a_damaged_one_pushes_no_intact_one_out(tmp_path):
    folder = saved(tmp_path, 2)
    (value,) = (folder / '2' / 'params' / 'd').iterdir()
    cut(value, value)
    with Checkpoints(tmp_path, keep=2) as found:
        found.save_params(3, PARAMS)
    assert steps(folder) == [1, 2, 3] and find_damage(folder / '2')
    with Checkpoints(tmp_path, keep=2) as found:
        found.save_params(4, PARAMS)
    assert steps(folder) == [3, 4]


def test_what_a_power_cut_leaves_of_the_last_file(tmp_path):
    """Orbax writes it after the digests and without fsync; its own digest comes after that."""
    newest = saved(tmp_path, 2) / '2'
    digests = json.loads((newest / DIGESTS).read_text())
    del digests['_CHECKPOINT_METADATA']
    (newest / DIGESTS).write_text(json.dumps(digests))
    assert find_damage(newest) == ''  # killed then, by anything but the power
    (newest / '_CHECKPOINT_METADATA').write_bytes(b'')
    assert 'not written to its end' in find_damage(newest)
    assert newest_intact(tmp_path / FOLDER).step == 1


@pytest.fixture(scope='module')
def programs():
    return loop.make_programs(synthetic.tiny_config(**SHORT))


def run(workdir, programs, **changes) -> dict[str, np.ndarray]:
    """Trains; the parameters at the end."""
    config = synthetic.tiny_config(**SHORT | changes)
    loop.train(
        config, workdir, lambda **at: synthetic.batches(config, **at), synthetic.Vocabulary(), None, programs
    )
    with Checkpoints(workdir, read_only=True) as found:
        assert found.latest_step == config.total_steps
        return found.load_params()


@pytest.fixture(scope='module')
def undisturbed(tmp_path_factory, programs):
    workdir = tmp_path_factory.mktemp('run')
    return workdir, run(workdir, programs)


@pytest.fixture
def begun(undisturbed, tmp_path):
    return shutil.copytree(undisturbed[0], tmp_path / 'begun')


def harm_value(folder: Path) -> str:
    """Changes one bit of the largest file; its name."""
    path = max((folder / 'rest').rglob('*'), key=lambda path: path.stat().st_size * path.is_file())
    flip(path, path)
    return path.relative_to(folder).as_posix()


@pytest.mark.slow
def test_a_run_goes_on_from_the_newest_intact_one(begun, undisturbed, programs, caplog):
    name = harm_value(begun / FOLDER / '3')
    again = run(begun, programs)
    for path, value in undisturbed[1].items():
        np.testing.assert_array_equal(again[path], value, path)
    (line,) = (record.getMessage() for record in caplog.records if 'damaged' in record.getMessage())
    assert line.endswith(f'were set aside: checkpoints/damaged-3: {name} has changed since it was saved')
    assert (begun / FOLDER / 'damaged-3').is_dir() and steps(begun / FOLDER) == [2, 3]
    (event,) = (row for row in read_metrics(begun / 'metrics.jsonl') if row['split'] == 'event')
    assert event['step'] == 2 and event['damaged_checkpoints'][0].startswith('checkpoints/damaged-3: rest/')

    def rows(workdir):
        found = read_metrics(workdir / 'metrics.jsonl')
        return [(x['step'], x['split'], x.get('loss')) for x in found if x['split'] != 'event']

    assert rows(begun) == rows(undisturbed[0])
    harm_value(begun / FOLDER / '3')  # and once more: the first stays where it is
    run(begun, programs)
    assert (begun / FOLDER / 'damaged-3-2').is_dir()


@pytest.mark.slow
def test_where_none_is_intact_nothing_begins_anew(begun, programs):
    for step in (2, 3):
        harm_value(begun / FOLDER / str(step))
    before = {path: path.read_bytes() for path in begun.rglob('*') if path.is_file()}
    with pytest.raises(ValueError, match=r'no checkpoint in \S+ is intact: that of step 3 .*of step 2 ') as e:
        run(begun, programs)
    assert '\n' not in str(e.value)
    assert {path: path.read_bytes() for path in begun.rglob('*') if path.is_file()} == before
    with pytest.raises(ValueError, match='is intact'):
        init_weights.has_checkpoint(begun)


@pytest.mark.slow
def test_who_reads_a_workdir_is_told(begun, tmp_path, programs):
    """An export, an evaluation, the next run must not take older weights without a word."""
    harm_value(begun / FOLDER / '3')
    message = r'of step 3 is damaged: rest/.* intact one is that of step 2: .*: mv (\S+)/3 (\S+)/damaged-3$'
    with pytest.raises(ValueError, match=message) as error:
        init_weights.open_checkpoints(begun)
    assert '\n' not in str(error.value)
    with pytest.raises(ValueError, match=message):
        run(tmp_path / 'next', programs, init_from=str(begun))
    (begun / FOLDER / '3').rename(begun / FOLDER / 'damaged-3')  # as it says
    with init_weights.open_checkpoints(begun) as found:
        assert found.latest_step == 2 and found.load_params()


def test_the_best_is_verified(tmp_path):
    workdirs.make(tmp_path, 'classify', folder=FOLDER)
    workdirs.make(tmp_path, 'classify', folder=BEST)
    shutil.rmtree(tmp_path / BEST / '3' / 'params')
    with pytest.raises(
        ValueError, match=rf'in \S+{BEST} is intact: .*params/ is missing.*move \S+{BEST} away'
    ):
        init_weights.open_checkpoints(tmp_path)
    with init_weights.open_checkpoints(tmp_path, 'last') as found:
        assert found.latest_step == 3


@pytest.mark.slow
def test_a_damaged_best_is_set_aside(begun, programs, caplog):
    """The run goes on, and the best of its further evaluations is kept."""
    settings = {'select': 'acc_mlm_char', 'eval_every': 1}
    with (begun / 'metrics.jsonl').open('a') as out:
        out.write(json.dumps({'step': 3, 'split': 'validation', 'acc_mlm_char': 2.0}) + '\n')
    with Checkpoints(begun, folder=BEST) as best:
        best.save_params(3, PARAMS)
    (begun / BEST / '3' / 'params' / '_METADATA').unlink()
    run(begun, programs, total_steps=4, **settings)
    assert 'best/damaged-3: params/_METADATA is missing' in caplog.text
    assert steps(begun / BEST) == [4]
    (event,) = (row for row in read_metrics(begun / 'metrics.jsonl') if 'best_lost' in row)
    assert event['step'] == 3
    run(begun, programs, total_steps=5, **settings)  # a later start knows it, too
    assert steps(begun / BEST) in ([4], [5])
    assert (begun / BEST / 'damaged-3').is_dir()


def test_checkpoints_of_before_there_were_digests(tmp_path, caplog):
    folder = saved(tmp_path, 1)
    (folder / '1' / DIGESTS).unlink()
    with init_weights.open_checkpoints(tmp_path) as found:
        np.testing.assert_array_equal(found.load_params()['layer/bias'], np.full(4, 2.0))
    assert caplog.text.count('cannot be verified') == 1
    (folder / '1' / 'params' / 'manifest.ocdbt').write_bytes(b'')
    with (
        init_weights.open_checkpoints(tmp_path) as found,
        pytest.raises(ValueError, match=r'/1 cannot be read:') as e,
    ):
        found.load_params()
    assert '\n' not in str(e.value)


@pytest.mark.slow
def test_arrays_that_cannot_be_read_are_one_error(tmp_path, caplog):
    """Of many, the first ends the reading; what came of the others were tracebacks on stderr: log records,
    and warnings, which fail a test."""
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save_params(1, {f'layer_{i}': np.ones((64, 64), np.float32) for i in range(40)})
    (tmp_path / FOLDER / '1' / DIGESTS).unlink()
    (tmp_path / FOLDER / '1' / 'params' / 'manifest.ocdbt').write_bytes(b'')
    for _ in range(10):
        with (
            Checkpoints(tmp_path, read_only=True) as checkpoints,
            pytest.raises(ValueError, match='cannot be read'),
        ):
            checkpoints.load_params()
    gc.collect()
    assert {record.name for record in caplog.records} <= {'clower_jax.checkpoints.digests'}


def test_a_full_disk_names_the_folder(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr('clower_jax.checkpoints.orbax_store.write_digests', full)
    with pytest.raises(OSError, match=r'checkpoints/1 could not be saved: .*No space left') as error:
        saved(tmp_path, 1)
    assert '\n' not in str(error.value)
    assert newest_intact(tmp_path / FOLDER).step is None


def test_verify(three, tmp_path, monkeypatch, capsys):
    def status(workdir):
        monkeypatch.setattr(sys, 'argv', ['checkpoints', 'verify', str(workdir)])
        with pytest.raises(SystemExit) as end:
            verify.main()
        return end.value.code, capsys.readouterr().out.splitlines()

    folder = tmp_path / 'seed-1' / FOLDER
    shutil.copytree(three, folder)
    assert status(tmp_path) == (0, [f'{folder / str(step)}: intact' for step in (1, 2, 3)])
    (folder / '1' / DIGESTS).unlink()
    (folder / '2' / 'params' / '_METADATA').unlink()
    (folder / '3').rename(folder / 'damaged-3')
    assert status(tmp_path) == (
        1,
        [
            f'{folder}/1: saved without digests, cannot be verified',
            f'{folder}/2: damaged: params/_METADATA is missing',
            f'{folder}/damaged-3: set aside',
        ],
    )
    assert status(tmp_path / 'nothing')[0] == f'checkpoints: {tmp_path}/nothing has no checkpoint'
