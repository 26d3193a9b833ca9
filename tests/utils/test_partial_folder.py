"""What killed builds leave is removed by the next, what others work in never; a full disk names the place."""

import contextlib
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from configs import pretrain
from input_pipeline.corpus import from_text
from input_pipeline.pretraining import batches
from input_pipeline.utils.partial_folder import LOCK, partial_folder

build_corpus = pytest.importorskip(
    'input_pipeline.corpus.corpus_builder', reason="needs the extra 'beam'", exc_type=ImportError
)
build_vocab = pytest.importorskip('input_pipeline.corpus.vocab_builder', exc_type=ImportError)

ROOT = Path(__file__).parents[2]
HOLDS = """
import pathlib, sys, time
from input_pipeline.utils.partial_folder import partial_folder
with partial_folder(pathlib.Path(sys.argv[1])) as folder:
    (folder / 'half').write_text('a shard')
    print(folder, flush=True)
    time.sleep(600)
"""


@contextlib.contextmanager
def another_process(output):
    """One that works beside `output`; gives it and its folder."""
    environment = os.environ | {'PYTHONPATH': str(ROOT)}
    with subprocess.Popen(
        [sys.executable, '-c', HOLDS, str(output)], stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout
        yield process, Path(process.stdout.readline().strip())
        process.kill()


def test_nothing_is_left(tmp_path):
    output = tmp_path / 'above' / 'corpus'
    with partial_folder(output) as folder:
        assert folder.parent == output.parent and folder.name.startswith('corpus.partial-')
        (folder / 'a').write_text('1')
    with pytest.raises(KeyError), partial_folder(output):
        raise KeyError
    assert list(output.parent.iterdir()) == []


def test_what_a_killed_process_left_is_removed_and_what_another_works_in_is_not(tmp_path, caplog):
    output = tmp_path / 'corpus'
    with another_process(output) as (process, its):
        with partial_folder(output) as folder:
            assert its.is_dir() and folder != its
        assert not caplog.text
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert (its / 'half').is_file()
    with partial_folder(output) as folder:
        assert list(tmp_path.iterdir()) == [folder]
    assert f'Removed {its}' in caplog.text
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_an_older_version_is_named_and_left(tmp_path, caplog):
    old = tmp_path / 'corpus.partial-abc'
    old.mkdir()
    (old / 'half').write_text('')
    other = tmp_path / 'corpus2.partial-abc'
    other.mkdir()
    (other / LOCK).write_text('')
    with partial_folder(tmp_path / 'corpus'):
        pass
    assert (old / 'half').is_file() and other.is_dir() and caplog.text.count(str(old)) == 1


@contextlib.contextmanager
def files_of_at_most(size):
    """A larger file cannot be written, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize('size', [3_000, 30_000, 100_000])  # no vocabulary, no shard, no whole shard
def test_a_full_disk_names_the_place(small_corpus, tmp_path, size):
    text, vocab = str(from_text.EMBEDDED / 'everyday.txt'), small_corpus / 'vocab.txt'
    output = tmp_path / 'corpus'
    with pytest.raises(ValueError) as info, files_of_at_most(size):
        build_corpus.build(text, vocab, output, char_length=32, word_length=24)
    message = str(info.value)
    assert message.startswith(f'{output} could not be written: the disk of {tmp_path} is full')
    assert '\n' not in message and 'File too large' in message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize('size', [2_000, 70_000])  # not what was counted, not the vocabulary itself
def test_a_full_disk_names_the_place_of_a_vocabulary(tmp_path, size):
    (tmp_path / 'words.txt').write_text('\n'.join(f'w{n} w{n}' for n in range(9_000)))
    text = str(from_text.EMBEDDED / 'everyday.txt') if size == 2_000 else str(tmp_path / 'words.txt')
    output = tmp_path / 'out' / 'v.txt'
    with pytest.raises(
        ValueError, match=rf'^{output} could not be written: the disk of {tmp_path}/out is full'
    ):
        with files_of_at_most(size):
            build_vocab.build(text, output)
    assert list(output.parent.iterdir()) == []


def test_a_full_disk_while_a_run_makes_its_corpus(tmp_path):
    """The place is named that the user knows, not one within it."""
    config = pretrain.get_config()
    with pytest.raises(ValueError) as info, files_of_at_most(30_000):
        batches.resolve(config, tmp_path / 'run')
    message = str(info.value)
    assert message.startswith(f'{tmp_path}/run/corpus could not be written') and 'partial' not in message
    assert list((tmp_path / 'run').iterdir()) == []
