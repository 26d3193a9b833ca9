"""Data sets by name: rows through the library `datasets` from local folders, and what is said without."""

import sys

import pytest

from configs import choose, classify, tag
from input_pipeline.datasets import catalog, files, hub, labelled


@pytest.fixture
def hf(monkeypatch, tmp_path):
    """The library, which loads from a folder as from the hub, with its cache in the test's own folder."""
    monkeypatch.setenv('HF_HUB_OFFLINE', '1')
    datasets = pytest.importorskip('datasets')
    monkeypatch.setattr(datasets.config, 'HF_HUB_OFFLINE', True)
    monkeypatch.setattr(datasets.config, 'HF_DATASETS_CACHE', tmp_path / 'cache')
    return datasets


@pytest.fixture
def tnews(hf, tmp_path):
    """The name of a folder of one parquet file, with class numbers as on the hub."""
    features = hf.Features({'sentence': hf.Value('string'), 'label': hf.ClassLabel(names=['100', '101'])})
    rows = {'sentence': ['甲', '乙\n', '丙'], 'label': [1, 0, -1]}
    hf.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / 'tnews' / 'train.parquet')
    return f'hf:{tmp_path}/tnews:train'


def test_class_numbers_become_names(tnews):
    assert hub.fetch(tnews) == [
        *({'sentence': '甲', 'label': '101'}, {'sentence': '乙\n', 'label': '100'}),
        {'sentence': '丙', 'label': None},
    ]
    assert [row['sentence'] for row in hub.fetch(f'{tnews}[1:]')] == ['乙\n', '丙']


def test_a_name_is_read_like_a_file(tnews):
    examples, counts = labelled.read(tnews, catalog.spec_of('tnews'))
    assert counts == {}
    assert [example[:4] for example in examples] == [
        ('甲', None, 'news_culture', f'{tnews}:row 1'),
        ('乙', None, 'news_story', f'{tnews}:row 2'),
        ('丙', None, None, f'{tnews}:row 3'),
    ]


def test_questions_keep_their_answers(hf, tmp_path):
    row = {
        'id': 'a',
        'context': '今天下雨',
        'question': '?',
        'answers': {'text': ['下雨'], 'answer_start': [2]},
    }
    hf.Dataset.from_list([row]).to_parquet(tmp_path / 'questions' / 'validation.parquet')
    assert hub.fetch(f'hf:{tmp_path}/questions:validation') == [row]


def test_what_cannot_be_loaded(tnews, tmp_path):
    with pytest.raises(ValueError, match=r'tnews:dev cannot be loaded: Unknown split "dev"'):
        hub.fetch(tnews.replace(':train', ':dev'))
    with pytest.raises(ValueError, match=r"^hf:nobody/nothing:train cannot be loaded: .*'nobody/nothing'"):
        hub.fetch('hf:nobody/nothing:train')


@pytest.mark.parametrize('name', ['hf:', 'hf:tnews', 'hf:tnews:train', 'hf:a/b:', 'hf:/no/such/folder:train'])
def test_names_of_another_form(name):
    assert hub.is_name(name)
    with pytest.raises(ValueError, match=f'^{name} is neither hf:OWNER/NAME'):
        hub.fetch(name)


def test_without_the_library(monkeypatch):
    monkeypatch.setitem(sys.modules, 'datasets', None)
    with pytest.raises(
        ImportError, match=r"^hf:a/b:train needs the library datasets: pip install 'clower-jax\[hub\]'"
    ):
        hub.fetch('hf:a/b:train')


CLUE = ('train.json', 'dev.json', 'test.json')
CHID = ('train.json', 'train_answer.json', 'dev.json', 'dev_answer.json', 'test1.0.json', 'test1.1.json')
C3 = ('d-train.json', 'm-train.json', 'd-dev.json', 'm-dev.json', 'test1.0.json', 'test1.1.json')


@pytest.mark.parametrize(
    ('dataset', 'published', 'found'),
    [
        *((name, CLUE, CLUE) for name in ('cluener', 'iflytek', 'cmnli', 'csl')),
        ('wsc', (*CLUE, 'test1.0.json'), CLUE),
        ('chid', CHID, ('train.json', 'dev.json', 'test1.1.json')),
        ('c3', C3, ('m-train.json,d-train.json', 'm-dev.json,d-dev.json', 'test1.1.json')),
        ('msra', ('train1.txt', 'testright1.txt'), ('train1.txt', None, 'testright1.txt')),
    ],
)
def test_the_files_of_an_official_archive_are_found(tmp_path, dataset, published, found):
    for name in published:
        (tmp_path / name).touch()
    config = {'c3': choose, 'chid': choose, 'msra': tag, 'cluener': tag}.get(dataset, classify)
    config = config.get_config(dataset)
    config.data.folder = str(tmp_path)
    names = (','.join(str(tmp_path / part) for part in name.split(',')) if name else None for name in found)
    expected = dict(zip(('train', 'validation', 'test'), names, strict=True))
    assert files.paths(config) == {split: path for split, path in expected.items() if path}


def test_missing_files_are_explained():
    text = hub.missing('tnews', 'data/tnews', 'dev')
    for part in ('dev.json', 'data/tnews', 'github.com/CLUEbenchmark/CLUE', '--config.data.dev=FILE'):
        assert part in text
    assert '--config.data.dev=hf:clue/clue/tnews:validation' in text
    assert hub.missing('', '', 'train') == 'There is no train file: name it, --config.data.train=FILE'
    for dataset in hub.SOURCES:
        for split in ('train', 'dev', 'test'):
            assert f'--config.data.{split}=FILE' in hub.missing(dataset, 'DIR', split)


def test_another_size_than_the_published_one_is_said(caplog):
    hub.check_size('tnews', 'train', 53360)
    hub.check_size('mine', 'train', 10)
    assert not caplog.messages
    hub.check_size('lcqmc', 'train', 1000)
    assert caplog.messages == [
        'The train split of lcqmc has 1,000 examples here and 238,766 as published: '
        'figures are not comparable'
    ]
