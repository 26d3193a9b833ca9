"""Beam jobs: results in order whatever the workers, duplicates over the whole input, errors that speak."""

import functools
import logging
import os
import signal
import subprocess
import sys
import tempfile
import types
from hashlib import blake2b
from pathlib import Path

import numpy as np
import pytest

from input_pipeline.documents.report import Report
from input_pipeline.documents.sources import plan, read

beam_job = pytest.importorskip(
    'input_pipeline.corpus.beam_runner', reason="needs the extra 'beam'", exc_type=ImportError
)

ROOT = Path(__file__).parents[2]


def processes(count: int) -> str:
    """Real worker processes."""
    return f'--runner=DirectRunner,--direct_running_mode=multi_processing,--direct_num_workers={count}'


# The workers' functions


def measure(chunk, unit: str) -> tuple[str, int, Report]:
    report = Report()
    return unit, sum(len(''.join(d.paragraphs)) for d in read(chunk, report)), report


def digests(chunk) -> np.ndarray:
    hashes = [
        blake2b('\n'.join(d.paragraphs).encode(), digest_size=16).digest() for d in read(chunk, Report())
    ]
    return np.frombuffer(b''.join(hashes), np.uint64).reshape(-1, 2)


def take_repeats(chunk, repeats: np.ndarray) -> np.ndarray:
    return repeats


def find_repeats(hash_fn, chunks, work_dir, beam_args=None, label='chunks'):
    return beam_job.run_unique(hash_fn, take_repeats, chunks, work_dir, beam_args, label)


def leave_a_file(chunk, repeats: np.ndarray, folder: Path) -> None:
    (folder / f'{chunk.index}.packed').touch()


def fail_on_odd(number: int) -> int:
    if number % 2:
        raise ValueError(f'a.txt:{number}: odd')
    return number


def raise_it(number: int, error: BaseException):
    raise error


def process_id(number: int) -> int:
    return os.getpid()


def lose_process(number: int, how):
    """Ends the process at the third chunk; gives digests, of a document each."""
    if number == 2:
        how()
    return np.full((1, 2), number, np.uint64)


def kill_itself():
    os.kill(os.getpid(), signal.SIGKILL)


def leave():
    os._exit(0)


@pytest.fixture
def text(tmp_path) -> str:
    """60 documents in two files, every third one a repeat; two bad lines."""
    documents = [f'第{n if n % 3 else n % 2}篇。\n它有两段。' for n in range(60)]
    (tmp_path / 'a.txt').write_bytes('\n\n'.join(documents[:40]).encode() + b'\n\n\xff\n')
    (tmp_path / 'b.txt').write_bytes(b'\xfe\n\n' + '\n\n'.join(documents[40:]).encode())
    return f'{tmp_path}/*.txt'


def repeats_of(chunks) -> list[list[int]]:
    """The definition: a document that was seen before, in the order of the chunks."""
    seen: set[bytes] = set()
    repeats = []
    for chunk in chunks:
        rows = [row.tobytes() for row in digests(chunk)]
        repeats.append([n for n, row in enumerate(rows) if row in seen or row in rows[:n]])
        seen.update(rows)
    return repeats


@pytest.mark.slow
def test_results_do_not_depend_on_the_workers(text, tmp_path):
    chunks = plan(text, chunk_bytes=150)
    assert len(chunks) > 8
    expected = [measure(chunk, 'characters') for chunk in chunks]
    expected_repeats = repeats_of(chunks)
    assert sum(map(len, expected_repeats)) == 19
    for beam_args in (None, processes(3)):
        measured = beam_job.run_chunks(
            functools.partial(measure, unit='characters'), chunks, tmp_path / 'work', beam_args
        )
        assert list(measured) == expected
        repeats = list(find_repeats(digests, chunks, tmp_path / 'work', beam_args))
        assert [rows.tolist() for rows in repeats] == expected_repeats
        assert {rows.dtype for rows in repeats} == {np.dtype(np.int64)}


def test_a_notebook_is_as_good_as_a_shell(tmp_path, monkeypatch):
    notebook = types.ModuleType('IPython')
    notebook.get_ipython = object
    monkeypatch.setitem(sys.modules, 'IPython', notebook)
    results = beam_job.run_chunks(process_id, [1, 2], str(tmp_path))
    assert list(results) == [os.getpid()] * 2
    assert notebook.get_ipython is object


@pytest.mark.slow
def test_worker_processes_are_separate_and_quiet(tmp_path, capfd):
    pids = set(beam_job.run_chunks(process_id, range(6), tmp_path, processes(2), label='numbers'))
    assert len(pids) == 2 and os.getpid() not in pids
    output = capfd.readouterr()
    assert not output.out
    assert 'numbers: 100%' in output.err and '6/6 chunks' in output.err
    assert all('numbers' in line for line in output.err.replace('\r', '\n').split('\n') if line.strip())


@pytest.mark.slow
@pytest.mark.parametrize('beam_args', [None, processes(2)])
def test_the_first_error_reaches_the_user(tmp_path, beam_args):
    with pytest.raises(ValueError) as caught:
        beam_job.run_chunks(fail_on_odd, [0, 2, 4, 7, 8, 5, 6, 1], tmp_path, beam_args)
    assert str(caught.value) == 'a.txt:7: odd'
    assert 'fail_on_odd' in caught.value.__notes__[0]  # where in the code, for those who want to know


def test_an_error_while_hashing_reaches_the_user_before_any_work(tmp_path):
    (tmp_path / 'a.txt').write_text('第一篇。')
    (tmp_path / 'b.txt.gz').write_bytes(b'not compressed')
    with pytest.raises(ValueError, match=r'b\.txt\.gz is no gzip file'):
        beam_job.run_unique(
            digests, functools.partial(leave_a_file, folder=tmp_path), plan(str(tmp_path)), tmp_path
        )
    assert not list(tmp_path.glob('*.packed'))


@pytest.mark.parametrize('number', [1, 2, 5])
def test_workers_get_shares_of_about_the_same_size(number):
    sizes = [16, 16, 3, 2, 20, 1, 16, 12, 9, 2]
    chunks = [types.SimpleNamespace(num_bytes=size) for size in sizes]
    shares = beam_job._shares(chunks, number)
    assert [index for _, (index, _) in sorted(shares, key=lambda task: task[1][0])] == [*range(10)]
    loads = [sum(c.num_bytes for share, (_, c) in shares if share == n) for n in range(number)]
    assert max(loads) - min(loads) <= 3 and sum(loads) == sum(sizes)
    assert {share for share, _ in beam_job._shares(chunks, None)} == {*range(10)}  # a cluster deals them out


LOST = r'^a worker \(process \d+\) ended {} before its work was done, .*Run the same command again'
KILLED = LOST.format(r'by signal 9 \(Killed\)')


def assert_one_line_and_no_process(capfd):
    """Beam's threads say nothing, and no worker is left."""
    lines = capfd.readouterr().err.replace('\r', '\n').split('\n')
    assert all('chunks' in line for line in lines if line.strip()), lines
    children = [file.read_text() for file in Path('/proc/self/task').glob('*/children')]
    commands = [Path(f'/proc/{pid}/cmdline').read_bytes() for pid in ' '.join(children).split()]
    assert not any(b'beam_runner' in command for command in commands)


@pytest.mark.slow
@pytest.mark.parametrize('work', [beam_job.run_chunks, find_repeats])
@pytest.mark.parametrize(('how', 'told'), [(kill_itself, KILLED), (leave, LOST.format('with status 0'))])
def test_a_worker_that_is_gone_ends_the_work(tmp_path, capfd, work, how, told):
    """Whatever it was doing, also where it left as if it were done."""
    with pytest.raises(ChildProcessError, match=told):
        work(functools.partial(lose_process, how=how), range(6), tmp_path, processes(2), label='chunks')
    assert_one_line_and_no_process(capfd)


@pytest.mark.slow
def test_a_worker_that_has_left_is_told_of_also_where_beam_knows_first(tmp_path, capfd, monkeypatch):
    """Beam ends by an error of its own, and then tells all workers that they are done."""
    monkeypatch.setattr(beam_job, 'POLL_SECONDS', 20)
    with pytest.raises(ChildProcessError, match=LOST.format('with status 0')):
        find_repeats(
            functools.partial(lose_process, how=leave), range(6), tmp_path, processes(2), label='chunks'
        )
    assert_one_line_and_no_process(capfd)


@pytest.mark.parametrize('number', [1, 2])
def test_a_worker_that_is_gone_before_it_has_connected_ends_the_work(tmp_path, capfd, monkeypatch, number):
    start, started = beam_job._Workers.start, []

    def start_and_kill(workers, told):
        started.append(start(workers, told))
        if len(started) == number:
            started[-1].kill()
        return started[-1]

    monkeypatch.setattr(beam_job._Workers, 'start', start_and_kill)
    with pytest.raises(ChildProcessError, match=KILLED):
        beam_job.run_chunks(process_id, range(6), tmp_path, processes(2))
    assert all(process.returncode for process in started)
    assert_one_line_and_no_process(capfd)


def test_nothing_to_do(tmp_path):
    assert list(beam_job.run_chunks(fail_on_odd, [], tmp_path)) == []
    assert list(find_repeats(digests, [], tmp_path)) == []


def test_duplicates_against_the_definition(tmp_path, monkeypatch):
    """Random digests of few values, in few buckets: many repeats, within and between chunks."""
    rng = np.random.default_rng(0)
    tables = [rng.integers(0, 5, (size, 2)).astype(np.uint64) for size in (30, 0, 7, 30)]
    seen, expected = set(), []
    for table in tables:
        expected.append([])
        for n, row in enumerate(map(tuple, table.tolist())):
            if row in seen:
                expected[-1].append(n)
            seen.add(row)
    found = find_repeats(tables.__getitem__, range(4), tmp_path)
    assert [rows.tolist() for rows in found] == expected


@pytest.mark.parametrize(
    'wrong',
    ['direct_num_workers=2', '--runner=NoSuchRunner', '--direct_num_workrs=2', '--direct_num_workers=two'],
)
def test_wrong_beam_arguments(tmp_path, wrong):
    with pytest.raises(ValueError, match=wrong.removeprefix('--runner=').partition('=')[0]):
        beam_job.run_chunks(fail_on_odd, [0], tmp_path, wrong)


@pytest.mark.parametrize('stop', [KeyboardInterrupt, SystemExit])
def test_stopping_is_no_error_of_beam(tmp_path, stop):
    with pytest.raises(stop):
        beam_job.run_chunks(functools.partial(raise_it, error=stop(143)), [0], tmp_path)


@pytest.mark.parametrize(('sent', 'code'), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_command_that_is_stopped_cleans_up(tmp_path, capsys, sent, code, request):
    # A process that was started in the background has Ctrl-C switched off, and passes that on to the tests.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
    with pytest.raises(SystemExit) as caught, beam_job.command_line():
        with tempfile.TemporaryDirectory(dir=tmp_path):
            signal.raise_signal(sent)
    assert caught.value.code == code and not list(tmp_path.iterdir())
    assert capsys.readouterr().err == ('stopped; nothing was written\n' if code == 130 else '')


@pytest.mark.slow
def test_import_is_quiet_and_leaves_logging_alone():
    code = 'import logging, input_pipeline.corpus.beam_runner; logging.warning("heard")'
    done = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == '' and done.stderr.splitlines() == ['WARNING:root:heard']
    assert logging.root.manager.disable == logging.NOTSET


def test_without_beam_the_message_says_what_to_install():
    code = 'import sys; sys.modules["apache_beam"] = None; import input_pipeline.corpus.beam_runner'
    done = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True)
    assert (
        "ImportError: building a vocabulary or corpus needs Apache Beam: pip install 'clower-jax[beam]'"
        in done.stderr
    )
