"""Models by their names on the hub, from a server that answers as it does."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import constants

from clower_jax import Encoder, convert, jobs
from clower_jax.interop import model_hub, weight_sources
from configs import probe, tables, vectors, words
from helpers import hub_server
from input_pipeline.word_tokenizer import WordTokenizer

ROOT = Path(__file__).parents[2]
SMALL = ROOT / 'docs' / 'results' / 'clower-mini'
NAME = 'somebody/clower-mini'


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A hub with a model, the only one that is asked, and an empty cache; away from the project's folders."""
    with hub_server.serve() as served:
        served.revisions = [served.add_folder(NAME, SMALL)]
        monkeypatch.setattr(constants, 'ENDPOINT', served.url)
        template = f'{served.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}'
        monkeypatch.setattr(constants, 'HUGGINGFACE_CO_URL_TEMPLATE', template)
        monkeypatch.setattr(constants, 'HF_HUB_CACHE', str(tmp_path / 'cache'))
        monkeypatch.setenv('HF_TOKEN', served.token)
        monkeypatch.chdir(tmp_path)
        model_hub._fetch.cache_clear()
        yield served
    model_hub._fetch.cache_clear()


@pytest.mark.slow
def test_a_name_stands_for_its_folder(server):
    info = weight_sources.source_info(NAME)
    assert info.folder.name == server.revisions[0] and info.tokens == weight_sources.source_info(SMALL).tokens
    texts = ['今天天气很好', '语言模型']
    assert np.array_equal(Encoder.load(NAME).encode(texts), Encoder.load(SMALL).encode(texts))


def test_the_words_of_a_name(server):
    words = ROOT / 'docs' / 'results' / 'clower-mini-word'
    server.add_folder('somebody/words', words)
    texts = ['今天天气很好', '语言模型']
    expected = WordTokenizer.load(words)(texts)['input_ids']
    assert np.array_equal(WordTokenizer.load('somebody/words')(texts)['input_ids'], expected)
    assert not [line for line in server.requests if 'safetensors' in line]
    with pytest.raises(FileNotFoundError, match='only a folder with word rows has one'):
        WordTokenizer.load(NAME)
    with pytest.raises(ValueError, match=r"^'nobody/nothing' is neither a folder here nor a model") as error:
        WordTokenizer.load('nobody/nothing')
    assert '\n' not in str(error.value)


def test_a_pinned_name_stays_with_its_commit(server):
    first = model_hub.pinned(NAME)
    assert first == f'{NAME}@{server.revisions[0]}' and model_hub.pinned(first) == first
    files = {path.name: path.read_bytes() for path in SMALL.iterdir() if path.is_file()}
    second = server.add(NAME, files | {'README.md': b'new'})
    model_hub._fetch.cache_clear()
    assert model_hub.local_folder(NAME).name == second
    assert model_hub.local_folder(first).name == server.revisions[0]


def test_of_several_kinds_of_weights_one_is_fetched(server, tmp_path):
    small = {'config.json': b'{}', 'vocab.txt': b'x', '1_Pooling/config.json': b'{}'}
    weights = {
        'model.safetensors': b'1',
        'pytorch_model.bin': b'2',
        'tf_model.h5': b'3',
        'onnx/model.onnx': b'4',
    }
    server.add('somebody/all', small | weights)
    folder = model_hub.local_folder('somebody/all')
    found = {path.relative_to(folder).as_posix() for path in folder.rglob('*') if not path.is_dir()}
    assert found == {*small, 'model.safetensors'}
    server.add('somebody/old', small | {'pytorch_model.bin': b'2', 'tf_model.h5': b'3'})
    assert (model_hub.local_folder('somebody/old') / 'pytorch_model.bin').read_bytes() == b'2'


def test_a_cached_model_needs_no_hub(server, monkeypatch):
    pinned = model_hub.pinned(NAME)
    monkeypatch.setattr(constants, 'ENDPOINT', 'http://127.0.0.1:9')
    for name in (NAME, pinned):
        model_hub._fetch.cache_clear()
        assert model_hub.local_folder(name).name == server.revisions[0]
    with pytest.raises(
        ValueError, match=r"^'nobody/nothing' is no folder here, http://127.0.0.1:9 cannot be re"
    ):
        model_hub.local_folder('nobody/nothing')


@pytest.mark.parametrize('name', ['nobody/nothing', f'{NAME}@v9'])
def test_what_the_hub_has_not_is_one_line(server, name):
    with pytest.raises(
        ValueError, match=f"^'{name}' is neither a folder here nor a model on {server.url}"
    ) as caught:
        weight_sources.source_info(name)
    assert '\n' not in str(caught.value)


def test_a_path_is_never_looked_up(server, tmp_path):
    (tmp_path / 'runs').mkdir()
    for path in ('runs/pretrian', './a/b', '/a/b', '../a', 'bert', 'a/b/c', tmp_path, ''):
        assert not model_hub.is_name(path), path
    with pytest.raises(ValueError, match="'runs/pretrian' is neither a workdir"):
        weight_sources.source_info('runs/pretrian')
    assert not server.requests
    assert (
        model_hub.is_name(NAME) and model_hub.is_name(f'{NAME}@main') and model_hub.is_name('a/b@refs/pr/1')
    )


def test_names():
    assert model_hub.base_name(f'{NAME}@0123') == 'clower-mini' == model_hub.base_name('runs/clower-mini')
    assert model_hub.base_name('/x/a@b') == 'a@b'


@pytest.mark.slow
def test_a_run_keeps_the_commit_that_it_began_with(server, tmp_path):
    """Through run.py, as a user does it; then the model on the hub changes, and the run goes on."""
    rows = ''.join(f'{text}\t{label}\n' for text, label in [('今天很好', '好'), ('今天不好', '坏')] * 8)
    (tmp_path / 'train.tsv').write_text('text\tlabel\n' + rows, 'utf-8')
    command = [
        sys.executable, str(ROOT / 'run.py'), f'--config={ROOT}/configs/classify.py', '--workdir=run',
        f'--config.init_from={NAME}', '--config.data.train=train.tsv', '--config.data.dev=train.tsv',
        '--config.batch_size=8', '--config.data.max_length=16',
    ]  # fmt: skip
    env = os.environ | {
        'HF_ENDPOINT': server.url, 'HF_HUB_CACHE': str(tmp_path / 'cache'), 'PYTHONPATH': str(ROOT),
    }  # fmt: skip

    def run(steps):
        done = subprocess.run(
            [*command, f'--config.total_steps={steps}'], env=env, cwd=tmp_path, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads((tmp_path / 'run' / 'config.json').read_text('utf-8'))['init_from']

    pinned = f'{NAME}@{server.revisions[0]}'
    assert run(2) == pinned
    server.add(NAME, {'README.md': b'gone'})
    before = len(server.requests)
    assert run(4) == pinned and len(server.requests) == before


def test_the_cells_of_a_grid_keep_the_commit_of_the_first(server, tmp_path):
    job, folder = jobs.Job(tables.get_config(), '', tmp_path), tmp_path / 'models' / 'mini'
    pinned = {'init_from': f'{NAME}@{server.revisions[0]}'}
    assert jobs._model_of_grid(job, f'mini={NAME}', folder) == pinned
    cell = tmp_path / 'cells' / 'mini' / 'tnews' / 'seed-0'
    cell.mkdir(parents=True)
    (cell / 'config.json').write_text(json.dumps(pinned | {'task': 'classify', 'model': {}, 'data': {}}))
    server.add(NAME, {'README.md': b'gone'})
    model_hub._fetch.cache_clear()
    assert jobs._model_of_grid(job, f'mini={NAME}', folder) == pinned


def test_what_is_measured_says_its_commit(server, tmp_path, monkeypatch):
    measured = []
    for task in ('probe', 'words', 'vectors'):
        monkeypatch.setitem(jobs.JOBS, task, lambda job: measured.append(job.config) or '')
    pinned = f'{NAME}@{server.revisions[0]}'
    for config, key, value, expected in (
        (probe.get_config(), 'models', f'a={SMALL}, b={NAME}', f'a={SMALL}, b={pinned}'),
        (words.get_config(), 'models', f'b={NAME}', f'b={pinned}'),
        (vectors.get_config('similarity'), 'init_from', NAME, pinned),
        (probe.get_config(), 'models', 'what', 'what'),  # an error, which is told later
    ):
        config[key] = value
        jobs.run(jobs.Job(config, '', tmp_path))
        assert measured[-1][key] == expected
        assert expected in (tmp_path / 'report.html').read_text('utf-8')


def test_push_uploads_what_export_wrote(server, capsys):
    convert.main(['push', '--folder', str(SMALL), '--repository', 'me/mine'])
    assert f'{server.url}/me/mine/commit/' in capsys.readouterr().out
    assert Encoder.load('me/mine').size == Encoder.load(SMALL).size


def test_push_says_what_is_missing(server, tmp_path, monkeypatch):
    with pytest.raises(
        ValueError, match='is no exported model: make one with python -m clower_jax.convert export'
    ):
        model_hub.push(tmp_path, 'me/mine')
    server.token = 'another'
    with pytest.raises(
        ValueError, match=f'^me/mine cannot be written on {server.url} .*hf auth login'
    ) as caught:
        model_hub.push(SMALL, 'me/mine')
    assert '\n' not in str(caught.value)
