"""The corpus that a run makes of text: once, again when something changed, and what stands in its way."""

import json
import logging
import shutil

import pytest

from helpers.batches import make_config, text
from input_pipeline.corpus import from_text
from input_pipeline.pretraining import batches


@pytest.mark.slow
def test_a_corpus_is_made_once_and_again_when_the_text_or_a_setting_changes(tmp_path, caplog):
    (tmp_path / 'a.txt').write_text(text(range(20)), 'utf-8')
    config = make_config(text=str(tmp_path / '*.txt'))
    run = tmp_path / 'run'
    caplog.set_level(logging.INFO, 'input_pipeline')

    def resolve(config):
        caplog.clear()
        resolved = batches.resolve(config, run)
        said = caplog.text
        manifest = json.loads((run / 'corpus' / 'manifest.json').read_text('utf-8'))
        return said, manifest['documents']['read'], resolved

    said, documents, _ = resolve(config)
    assert 'making' in said and documents == 20
    said, documents, _ = resolve(config)
    assert 'made before' in said and documents == 20
    (tmp_path / 'b.txt').write_text(text(range(20, 25)), 'utf-8')
    said, documents, _ = resolve(config)
    assert 'changed' in said and documents == 25
    config.data.char_length = 80
    said, _, resolved = resolve(config)
    assert 'changed' in said and resolved.data.char_length == 80
    assert [path.name for path in run.iterdir()] == ['corpus']


@pytest.mark.slow
def test_a_run_builds_a_corpus_of_any_fields(tmp_path, caplog):
    """With the name of the field, or by its usual names; in the vocabulary is what occurs often enough."""
    documents = text(range(20)).split('\n\n')
    rows = [{'headline': f'标题{n}。', 'story': document} for n, document in enumerate(documents)]
    (tmp_path / 'a.json').write_text(json.dumps(rows, ensure_ascii=False), 'utf-8')
    config = make_config(text=str(tmp_path / 'a.json'))
    with pytest.raises(ValueError, match=r'fields are: headline, story.*--config\.data\.text_field'):
        batches.resolve(config, tmp_path / 'run')
    config.data.text_field = 'headline,story'
    resolved = batches.resolve(config, tmp_path / 'run')
    manifest = json.loads((tmp_path / 'run' / 'corpus' / 'manifest.json').read_text('utf-8'))
    assert manifest['input'][0]['text_fields'] == ['headline', 'story']
    assert manifest['characters'] == sum(len(row['headline'] + row['story']) for row in rows)
    words = len(batches.vocabulary(resolved))
    config.data.min_count = 1000
    caplog.set_level(logging.INFO, 'input_pipeline')
    fewer = batches.vocabulary(batches.resolve(config, tmp_path / 'run'))
    assert 'changed' in caplog.text and words > len(fewer) == fewer.base_size


@pytest.mark.slow
def test_an_old_run_goes_on_with_its_own_words(tmp_path, caplog):
    """Its corpus was made when every word was one; another run there takes the words of today."""
    (tmp_path / 'a.txt').write_text(text(range(20)), 'utf-8')
    config = make_config(text=str(tmp_path / 'a.txt'), min_count=2)
    record = tmp_path / 'run' / 'corpus' / 'made_from.json'
    batches.resolve(config, tmp_path / 'run')
    old = {
        name: value for name, value in json.loads(record.read_text('utf-8')).items() if name != 'min_count'
    }
    record.write_text(json.dumps(old), 'utf-8')
    (tmp_path / 'run' / 'checkpoints' / '1').mkdir(parents=True)
    caplog.set_level(logging.INFO, 'input_pipeline')
    batches.resolve(config, tmp_path / 'run')
    assert 'made before' in caplog.text and 'min_count' not in json.loads(record.read_text('utf-8'))
    (tmp_path / 'run' / 'checkpoints' / '1').rmdir()
    batches.resolve(config, tmp_path / 'run')
    assert 'changed' in caplog.text and json.loads(record.read_text('utf-8'))['min_count'] == 2


def test_a_damaged_record_of_what_a_corpus_was_made_from(small_corpus, tmp_path):
    folder = shutil.copytree(small_corpus, tmp_path / 'corpus')
    (folder / 'made_from.json').write_text('{"text": [')
    config = make_config(text=str(from_text.EMBEDDED / 'everyday.txt'))
    with pytest.raises(ValueError, match=rf'{folder}/made_from.json is damaged .*; remove {folder}'):
        batches.resolve(config, tmp_path)


def test_a_folder_in_the_way_is_left_alone(tmp_path):
    (tmp_path / 'a.txt').write_text(text(range(5)), 'utf-8')
    precious = tmp_path / 'corpus' / 'precious'
    precious.mkdir(parents=True)
    with pytest.raises(ValueError, match='in the way'):
        batches.resolve(make_config(text=str(tmp_path / 'a.txt')), tmp_path)
    assert precious.is_dir()


def test_a_missing_base_vocabulary(tmp_path):
    (tmp_path / 'a.txt').write_text(text(range(5)), 'utf-8')
    with pytest.raises(ValueError, match='data.base_vocab=nowhere is no file'):
        batches.resolve(make_config(text=str(tmp_path / 'a.txt'), base_vocab='nowhere'), tmp_path / 'run')
