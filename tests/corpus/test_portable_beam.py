"""Building through a job server, with workers in processes of their own that have only what is installed, as
a Flink or Spark cluster has it. The bytes are those of one process."""

import contextlib
import filecmp
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip('apache_beam', reason="needs the extra 'beam'")

from input_pipeline.corpus import corpus_builder, vocab_builder

EMBEDDED = Path(__file__).parents[2] / 'input_pipeline' / 'embedded'


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(('127.0.0.1', 0))
        return listener.getsockname()[1]


@contextlib.contextmanager
def serving(module: str, port_flag: str, folder: Path):
    """A server of Beam's, away from the project's folder; yields its port."""
    port = free_port()
    environment = {name: value for name, value in os.environ.items() if name != 'PYTHONPATH'}
    # The pool starts its workers as `python`, whichever that is.
    environment['PATH'] = f'{Path(sys.executable).parent}{os.pathsep}{environment["PATH"]}'
    with (folder / f'{module}.log').open('w') as log:
        process = subprocess.Popen(
            [sys.executable, '-m', module, f'{port_flag}={port}'],
            cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    try:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError), socket.create_connection(('127.0.0.1', port), 1):
                break
            assert process.poll() is None, (folder / f'{module}.log').read_text()
            time.sleep(0.2)
        yield port
    finally:
        os.killpg(process.pid, 15)
        process.wait(30)


@pytest.mark.slow
def test_a_job_server_and_its_workers_make_the_same_corpus(tmp_path):
    text = str(EMBEDDED / '*e.txt')
    made = {}
    with (
        serving('apache_beam.runners.portability.local_job_service_main', '--port', tmp_path) as jobs,
        serving('apache_beam.runners.worker.worker_pool_main', '--service_port', tmp_path) as pool,
    ):
        portable = (
            f'--runner=PortableRunner,--job_endpoint=localhost:{jobs},--environment_type=EXTERNAL,'
            f'--environment_config=localhost:{pool}'
        )
        for name, beam in (('one', None), ('cluster', portable)):
            folder = tmp_path / name
            vocab_builder.build(text, folder / 'vocab.txt', None, 500, beam=beam)
            corpus_builder.build(text, folder / 'vocab.txt', folder / 'corpus', beam=beam)
            made[name] = sorted(
                path.relative_to(folder).as_posix() for path in folder.rglob('*') if path.is_file()
            )
    assert made['one'] == made['cluster'] and any('array_record' in name for name in made['one'])
    same, different, missing = filecmp.cmpfiles(
        tmp_path / 'one', tmp_path / 'cluster', made['one'], shallow=False
    )
    assert (different, missing) == ([], [])
    assert 'Traceback' not in (tmp_path / 'apache_beam.runners.worker.worker_pool_main.log').read_text()
