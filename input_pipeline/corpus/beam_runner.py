"""A function over many chunks by Apache Beam, and exact duplicates; the only file that imports Beam.

No text travels through Beam. A worker is given the description of a chunk, does all the work on it, and
writes a small result into `work_dir`, where the launching process finds it, chunk by chunk. So memory is
bounded, finished files show the progress, and the outcome does not depend on which worker did what, or when.

`beam_args`, the text of the `--beam` flag, is a list of Beam's own options separated by commas; without it
the work is done in this process. On four cores of this machine:

    --direct_running_mode=multi_processing,--direct_num_workers=4

On a cluster (`--runner=FlinkRunner,--flink_master=…`), every machine must see the input and `work_dir`.
"""

import contextlib
import io
import logging
import os
import pickle
import re
import signal
import subprocess
import sys
import threading
import traceback
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent import futures
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import tqdm
from etils import epath

from input_pipeline.utils import garbage

if __name__ == '__main__':  # a worker: imports are most of its time on a small corpus
    garbage.collect_seldom()

# Importing Beam warns, on the root logger, of missing Google Cloud libraries, which nothing here needs.
_handlers, logging.root.handlers = logging.root.handlers, [logging.NullHandler()]
try:
    import apache_beam as beam
    from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions, StandardOptions
    from apache_beam.portability import python_urns
    from apache_beam.runners.portability.fn_api_runner import FnApiRunner
    from apache_beam.runners.portability.fn_api_runner.worker_handlers import GrpcWorkerHandler, WorkerHandler
    from apache_beam.runners.worker import sdk_worker_main
    from apache_beam.transforms.environments import SubprocessSDKEnvironment
    from google.protobuf import json_format, text_format
except ImportError as error:
    raise ImportError(
        "building a vocabulary or corpus needs Apache Beam: pip install 'clower-jax[beam]'"
    ) from error
finally:
    logging.root.handlers = _handlers

NUM_BUCKETS = 64  # of digests; each is searched for duplicates as a whole, by one worker
POLL_SECONDS = 0.5
Share = tuple[int, Sequence[tuple[int, Any]]]  # its number and tasks, each a chunk and its index
DONE = 70  # the status of a worker that ended as it was told to; code that leaves by itself says 0 or 1
READERS = ('beam_control_read', 'read_grpc_client_inputs')  # Beam's threads that read from a worker


def run_chunks(
    fn: Callable[[Any], Any],
    chunks: Sequence[Any],
    work_dir: epath.PathLike,
    beam_args: str | None = None,
    label: str = 'chunks',
) -> Iterator[Any]:
    """Runs `fn(chunk)` for every chunk on Beam's workers; the work is done when this returns.

    Args:
      fn: a function of an importable module, or a functools.partial of one, whose result can be pickled.
      chunks: what `plan` returns, or anything else that can be pickled.
      work_dir: a folder for the results, which the caller removes after reading them.
      beam_args: Beam's options, as above.
      label: what the progress bar says.

    Returns:
      the results in the order of the chunks, each read from its file when its turn comes.

    Raises:
      ValueError: `fn` raised a ValueError or an OSError: the message of the first chunk that failed, whatever
        the number of workers; or `beam_args` are wrong.
      ChildProcessError: a worker process that this one had started is gone: killed, or out of memory.
    """
    return _run(
        chunks, work_dir, beam_args, label, lambda shares, folder: shares | beam.Map(_work, fn, folder)
    )


def run_unique(
    hash_fn: Callable[[Any], np.ndarray],
    fn: Callable[[Any, np.ndarray], Any],
    chunks: Sequence[Any],
    work_dir: epath.PathLike,
    beam_args: str | None = None,
    label: str = 'chunks',
) -> Iterator[Any]:
    """Runs `fn(chunk, repeats)` for every chunk, once it is known which documents occurred before, in all
    chunks: of equal ones the first is kept.

    Args:
      hash_fn: `hash_fn(chunk)` -> uint64[n, 2], a 128-bit digest of each of the chunk's n documents.
      fn: as for `run_chunks`. `repeats`, int64[d]: the ascending rows of `hash_fn(chunk)` whose digest stands
        in an earlier row or chunk.
      chunks, work_dir, beam_args, label: as for `run_chunks`.

    Returns, raises: as `run_chunks`.
    """

    def transform(shares: Any, folder: epath.Path) -> Any:
        repeats = (
            shares
            | 'hash' >> beam.FlatMap(_hash, hash_fn, folder)
            | 'by digest' >> beam.GroupByKey()
            | 'repeats' >> beam.FlatMap(_repeats)
        )
        together = {'tasks': shares, 'repeats': repeats} | 'by share' >> beam.CoGroupByKey()
        return together | 'work' >> beam.Map(_work_unique, fn, folder, len(chunks))

    return _run(chunks, work_dir, beam_args, label, transform)


def _run(
    chunks: Sequence[Any], work_dir: epath.PathLike, beam_args: str | None, label: str, transform: Any
) -> Iterator[Any]:
    """Runs `transform(shares, folder)`, which writes a result into the folder for each chunk; returns these.
    A share is a number and a list of (index, chunk) tasks."""
    folder = epath.Path(work_dir) / uuid.uuid4().hex
    folder.mkdir(parents=True)
    if not chunks:
        return iter(())
    runner, options, workers = _runner(beam_args)
    shares = _shares(chunks, _num_shares(runner, options))
    # The runners tell how they start and stop; unexpected errors come as exceptions.
    logging.getLogger('apache_beam.runners').setLevel(logging.CRITICAL)

    def run() -> None:
        with _interruptible(), _as_outside_notebooks(), beam.Pipeline(runner, options) as pipeline:
            # One key a share: each goes to a worker.
            created = pipeline | beam.Create(shares, reshuffle=False) | beam.GroupByKey()
            transform(created | beam.MapTuple(lambda number, tasks: (number, [*tasks])), folder)

    with _progress(folder, chunks, label):
        workers.watch(run) if workers else run()
    if failed := _failed(folder):
        message, trace = load(folder / f'{min(failed)}.error')
        failure = ValueError(message)
        failure.add_note(f'Raised by a worker:\n{trace}')
        raise failure
    return (load(folder / f'{index}.result') for index in range(len(chunks)))


def _num_shares(runner: Any, options: PipelineOptions) -> int | None:
    """How many workers a local runner has; None: a cluster, which deals out chunks by itself."""
    if not isinstance(runner, FnApiRunner):
        return None
    return options.view_as(DirectOptions).direct_num_workers or os.cpu_count() or 1


def _shares(chunks: Sequence[Any], number: int | None) -> list[tuple[int, tuple[int, Any]]]:
    """(share, (index, chunk)) of all chunks: a share for each, or so many with about as many bytes each.

    Beam's local runner gives every worker the same number of keys before the work begins, whatever is behind
    them; so it is given a key a worker.
    """
    if number is None:
        return [(index, (index, chunk)) for index, chunk in enumerate(chunks)]
    loads = [0] * number
    dealt = []
    for size, index in sorted(((_size(chunk), index) for index, chunk in enumerate(chunks)), reverse=True):
        share = loads.index(min(loads))
        loads[share] += size
        dealt.append((share, (index, chunks[index])))
    return sorted(dealt, key=lambda task: task[1][0])


def _size(chunk: Any) -> int:
    """Bytes, or 1 of what has none; 0 is only for an empty file."""
    return getattr(chunk, 'num_bytes', 1)


@contextlib.contextmanager
def _as_outside_notebooks() -> Iterator[None]:
    """In a notebook Beam watches over interactive pipelines. Ours are none, and what it imports for that
    fails with pandas 3."""
    ipython: Any = sys.modules.get('IPython')
    if ipython is None:
        yield
        return
    get_ipython, ipython.get_ipython = ipython.get_ipython, lambda: None
    try:
        yield
    finally:
        ipython.get_ipython = get_ipython


def _runner(beam_args: str | None) -> tuple[Any, PipelineOptions, '_Workers | None']:
    """The runner, its options, and its workers where they are processes that this one starts.

    Beam's `DirectRunner` would first look for Prism, a program that it downloads; FnApiRunner, which it falls
    back on, needs nothing else.
    """
    args = [arg.strip() for arg in re.split(r',(?=\s*--)', beam_args or '') if arg.strip()]
    if unknown := [arg for arg in args if not arg.startswith('--')]:
        raise ValueError(
            f'--beam takes options such as --direct_num_workers=2, separated by commas, not {unknown[0]!r}'
        )
    options, unknown = _options(args)
    name = options.view_as(StandardOptions).runner
    if name not in (None, 'DirectRunner'):
        return name, options, None  # the cluster may know options that Beam here does not
    if unknown:
        raise ValueError(f'--beam: there is no option {", ".join(unknown)}')
    direct = options.view_as(DirectOptions)
    if direct.direct_running_mode != 'multi_processing':
        return FnApiRunner(), options, None
    direct.direct_running_mode = None  # or the runner would choose its own, talkative worker command
    workers = _Workers()
    WorkerHandler.register_environment(python_urns.SUBPROCESS_SDK, bytes)(
        lambda _, *args: _WorkerHandler(workers, *args)
    )
    return FnApiRunner(SubprocessSDKEnvironment.from_command_string('')), options, workers


class _Workers:
    """The worker processes of a pipeline, and a watch over them: Beam may wait without end for one that
    is gone."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ended = False
        self._processes: list[subprocess.Popen] = []

    def start(self, variables: dict[str, str]) -> subprocess.Popen:
        """Starts a worker; `variables` of its environment are added, by which Beam tells it what to do."""
        # The workers import from where this process does. Ctrl-C is for this process, which ends them.
        environment = {**os.environ, 'PYTHONPATH': os.pathsep.join(sys.path), **variables}
        command = ['sh', '-c', 'trap "" INT; exec "$0" -m input_pipeline.corpus.beam_runner', sys.executable]
        with self._lock:
            if self._ended:
                raise ChildProcessError('the workers have been ended')
            self._processes.append(subprocess.Popen(command, env=environment))
            return self._processes[-1]

    def watch(self, run: Callable[[], None]) -> None:
        """Calls `run`, which runs the pipeline, in a thread of its own, which is left alone where it waits
        for a worker that is gone. No worker outlives this, however it ends.

        Raises ChildProcessError where a worker ended before its work was done; else what `run` raises.
        """
        result: futures.Future[None] = futures.Future()

        def call() -> None:
            try:
                run()
                result.set_result(None)
            except BaseException as error:
                result.set_exception(error)

        with _silent_readers():
            try:
                threading.Thread(target=call, daemon=True).start()
                while not result.done():
                    futures.wait([result], POLL_SECONDS)
                    if not result.done() or result.exception():
                        self._check()
            finally:
                self._end()
        result.result()

    def _check(self) -> None:
        """Raises ChildProcessError where a worker is gone."""
        for process in list(self._processes):
            code = process.poll()
            if code not in (None, DONE):
                ending = (
                    f'by signal {-code} ({signal.strsignal(-code)})' if code < 0 else f'with status {code}'
                )
                raise ChildProcessError(
                    f'a worker (process {process.pid}) ended {ending} before its work was done, as it does '
                    'where memory is short; nothing was written. Run the same command again, with fewer '
                    'workers (--direct_num_workers) or more memory'
                )

    def _end(self) -> None:
        with self._lock:
            self._ended = True
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.wait()


@contextlib.contextmanager
def _silent_readers() -> Iterator[None]:
    """Threads that read from workers, and end by an error where one is gone, print no traceback of it."""
    before = threading.excepthook

    def is_reader(thread: threading.Thread | None) -> bool:
        return thread is not None and thread.name in READERS

    threading.excepthook = lambda args: None if is_reader(args.thread) else before(args)
    try:
        yield
    finally:
        for thread in filter(is_reader, threading.enumerate()):
            thread.join(10 * POLL_SECONDS)
        threading.excepthook = before


class _WorkerHandler(GrpcWorkerHandler):
    """Beam's side of a worker process."""

    def __init__(self, workers: _Workers, *args: Any):
        super().__init__(*args)
        self._workers = workers

    def start_worker(self) -> None:
        """Starts the process; without an address for its log, what Beam there says is said to nobody."""
        address = self.control_api_service_descriptor()
        options = self.provision_info.provision_info.pipeline_options
        self._process = self._workers.start(
            {
                'CONTROL_API_SERVICE_DESCRIPTOR': text_format.MessageToString(address),
                'PIPELINE_OPTIONS': json_format.MessageToJson(options),
                'WORKER_ID': self.worker_id,
            }
        )

    def stop_worker(self) -> None:
        """Waits for the process, which has been told that it is done."""
        self._process.wait()


def _options(args: list[str]) -> tuple[PipelineOptions, list[str]]:
    """The options, and the names of those that Beam does not know."""
    usage = io.StringIO()
    try:
        with contextlib.redirect_stderr(usage):
            options = PipelineOptions(args)
            known = PipelineOptions([]).get_all_options()
            given = options.get_all_options(retain_unknown_options=True)
    except SystemExit:  # the last line says which value is wrong, after a page of all there are
        reason = usage.getvalue().strip().rpartition('error: ')[2]
        raise ValueError(f'--beam: {reason}') from None
    return options, [f'--{name}' for name in given if name not in known]


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Lets KeyboardInterrupt and SystemExit through, which Beam, where it works in this process, hides in an
    error of its own."""
    try:
        yield
    except Exception as error:
        cause: BaseException | None = error
        while isinstance(cause, Exception):
            cause = cause.__cause__ or cause.__context__
        if cause is not None:
            raise cause from None
        raise


@contextlib.contextmanager
def command_line() -> Iterator[None]:
    """Ends the process as a command should: an error is one line (exit code 1), a signal to stop cleans up
    first (130 after Ctrl-C, 143 after SIGTERM)."""
    terminate = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        yield
    except KeyboardInterrupt:
        print('stopped; nothing was written', file=sys.stderr)
        sys.exit(130)
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f'error: {error}')
    finally:
        signal.signal(signal.SIGTERM, terminate)


@contextlib.contextmanager
def _progress(folder: epath.Path, chunks: Sequence[Any], label: str) -> Iterator[None]:
    """A bar of the finished chunks, in bytes where they have a size, moved by a thread that counts files."""
    sized = all(hasattr(chunk, 'num_bytes') for chunk in chunks)
    sizes = list(map(_size, chunks))
    finished = threading.Event()

    def follow(bar: tqdm.tqdm) -> None:
        last = False
        while not last:
            last = finished.wait(POLL_SECONDS)  # after the end, look once more
            files = list(folder.iterdir())
            done = {int(path.stem) for path in files if path.suffix in ('.result', '.error')}
            hashed = sum(path.suffix == '.hashed' for path in files)
            what = f'{hashed}/{len(chunks)} chunks searched for duplicates, ' if hashed and not done else ''
            bar.set_postfix_str(f'{what}{len(done)}/{len(chunks)} chunks', refresh=False)
            bar.update(sum(sizes[index] for index in done) - bar.n)

    with tqdm.tqdm(total=sum(sizes), desc=label, unit='B' if sized else 'chunk', unit_scale=sized) as bar:
        thread = threading.Thread(target=follow, args=(bar,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            finished.set()
            thread.join()


# On the workers


def _attempt(task: tuple[int, Any], fn: Callable[[Any], Any], folder: epath.Path) -> tuple[Any] | None:
    """(fn(chunk),), or None where that failed, or where a chunk before has failed: then it is not needed.
    These errors come from the input; any other is a mistake in the code and stops Beam with its traceback."""
    index, chunk = task
    if any(failed < index for failed in _failed(folder)):
        return None
    try:
        return (fn(chunk),)
    except (ValueError, OSError) as error:
        save(folder / f'{index}.error', (str(error), traceback.format_exc()))
        return None


def _failed(folder: epath.Path) -> list[int]:
    return [int(path.stem) for path in folder.glob('*.error')]


def _work(share: Share, fn: Callable[[Any], Any], folder: epath.Path) -> None:
    for task in share[1]:
        _work_one(task, fn, folder)


def _work_one(task: tuple[int, Any], fn: Callable[[Any], Any], folder: epath.Path) -> None:
    if result := _attempt(task, fn, folder):
        save(folder / f'{task[0]}.result', result[0])


def _hash(share: Share, hash_fn: Callable[[Any], np.ndarray], folder: epath.Path) -> Iterator[Any]:
    """(bucket, (chunk, its share, rows, their digests)) for each bucket that one of a chunk's documents falls
    in."""
    number, tasks = share
    for index, chunk in tasks:
        if result := _attempt((index, chunk), hash_fn, folder):
            digests = result[0]
            buckets = digests[:, 0] % NUM_BUCKETS
            for bucket in np.unique(buckets):
                rows = np.flatnonzero(buckets == bucket)
                yield int(bucket), (index, number, rows, digests[rows])
            save(folder / f'{index}.hashed', len(digests))


def _repeats(bucket: tuple[int, Iterable[Any]]) -> Iterator[tuple[int, tuple[int, np.ndarray]]]:
    """(share, (chunk, rows)) of all but the first of the equal digests of a bucket."""
    indices, numbers, rows, digests = zip(*sorted(bucket[1], key=itemgetter(0)), strict=True)
    share_of = dict(zip(indices, numbers))
    chunk = np.repeat(indices, [len(part) for part in rows])
    row = np.concatenate(rows)
    _, first = np.unique(np.concatenate(digests), axis=0, return_index=True)
    repeat = np.delete(np.arange(len(row)), first)
    for index in np.unique(chunk[repeat]).tolist():
        yield share_of[index], (index, row[repeat[chunk[repeat] == index]])


def _work_unique(
    share: tuple[int, dict[str, Iterable[Any]]],
    fn: Callable[..., Any],
    folder: epath.Path,
    num_chunks: int,
) -> None:
    if len(list(folder.glob('*.hashed'))) < num_chunks:  # one could not be read: it has an error
        return
    rows: defaultdict[int, list[np.ndarray]] = defaultdict(lambda: [np.empty(0, np.int64)])
    for index, some in share[1]['repeats']:
        rows[index].append(some)
    [tasks] = share[1]['tasks']
    for index, chunk in tasks:
        repeats = np.sort(np.concatenate(rows[index]))
        _work_one((index, chunk), partial(fn, repeats=repeats), folder)


def save(path: epath.Path | Path, value: Any) -> None:
    """Pickles a value into a file, whole or not at all: a worker may be killed, or Beam try a chunk twice."""
    unfinished = path.parent / f'.{path.name}-{uuid.uuid4().hex}'
    unfinished.write_bytes(pickle.dumps(value))
    unfinished.replace(path)


def load(path: epath.Path | Path) -> Any:
    """What `save` wrote."""
    return pickle.loads(path.read_bytes())


if __name__ == '__main__':  # a worker process, told by its environment what to do
    logging.root.addHandler(logging.NullHandler())
    sdk_worker_main.main(sys.argv)
    sys.exit(DONE)
