"""The files of a corpus against its manifest: whatever is damaged is named in one line, at the start."""

import json
import shutil

import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

from configs import pretrain
from input_pipeline.corpus import corpus_files, record_source
from input_pipeline.corpus.record_files import ShardWriter, assemble, examples
from input_pipeline.pretraining import batches, loader
from input_pipeline.utils.tensorflow import tf

build_corpus = pytest.importorskip(
    'input_pipeline.corpus.corpus_builder', reason="needs the extra 'beam'", exc_type=ImportError
)


@pytest.fixture
def corpus(small_corpus, tmp_path):
    """A copy that a test may damage, as it was built: without the packed rows that another test has left."""
    return shutil.copytree(small_corpus, tmp_path / 'corpus', ignore=shutil.ignore_patterns('rows-*'))


def change(corpus, **values):
    """Writes values into the manifest, by dotted key with __ for the dot."""
    path = corpus / 'manifest.json'
    manifest = json.loads(path.read_text('utf-8'))
    for key, value in values.items():
        place, parts = manifest, key.split('__')
        for name in parts[:-1]:
            place = place[name]
        place[parts[-1]] = value
    path.write_text(json.dumps(manifest), 'utf-8')


def before_digests(corpus):
    """Makes it a corpus of before there were digests."""
    path = corpus / 'manifest.json'
    manifest = json.loads(path.read_text('utf-8'))
    del manifest['files'], manifest['sha256']
    path.write_text(json.dumps(manifest), 'utf-8')


def refused(call, *names):
    with pytest.raises(ValueError) as info:
        call()
    message = str(info.value)
    assert '\n' not in message and 'build_corpus' in message, message
    assert all(name in message for name in names), message


def shards(corpus):
    return sorted(corpus.glob('clower-*'))


def test_the_manifest_lists_every_file(corpus):
    files = json.loads((corpus / 'manifest.json').read_text('utf-8'))['files']
    assert {*files, 'manifest.json'} == {path.name for path in corpus.iterdir()}
    for name, listed in files.items():
        assert listed['bytes'] == (corpus / name).stat().st_size
        assert listed['sha256'] == corpus_files.sha256(corpus / name)
    train = sum(file['records'] for name, file in files.items() if name.startswith('clower-train'))
    assert train == len(record_source.open_split(corpus, 'train'))
    assert 'all 6 files are intact' in corpus_files.verify(corpus)


def damages(path):
    data = path.read_bytes()
    yield 'flip', data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1 :]
    yield 'cut', data[: len(data) // 2]
    yield 'one block', data[:65536]
    yield 'zero', bytes(len(data))
    yield 'empty', b''
    yield 'more', data + b'\n'


def test_no_damage_is_verified(corpus):
    for path in sorted(corpus.iterdir()):
        before = path.read_bytes()
        for kind, data in damages(path):
            if data == before or path.name == 'manifest.json' and kind == 'more':  # white space
                continue
            path.write_bytes(data)
            with pytest.raises(ValueError, match=path.name):
                corpus_files.verify(corpus)
        path.unlink()
        with pytest.raises(ValueError, match=path.name):
            corpus_files.verify(corpus)
        path.write_bytes(before)
    corpus_files.verify(corpus)


def test_a_start_sees_sizes_counts_and_what_is_small(corpus):
    one, other = shards(corpus)
    for path in (one, corpus / 'dataset_info.json', corpus / 'features.json', corpus / 'vocab.json'):
        before = path.read_bytes()
        for kind, data in damages(path):
            if data != before and (path is not one or kind not in ('flip', 'zero')):
                path.write_bytes(data)
                refused(lambda: record_source.open_split(corpus, 'train'), str(path))
        path.write_bytes(before)
    shutil.copy(other, one)
    refused(lambda: record_source.open_split(corpus, 'train'), str(one))
    one.unlink()
    refused(lambda: record_source.open_split(corpus, 'train'), f'{one} is missing')


def test_a_shard_of_the_right_size_with_other_records(corpus):
    """Its count is seen at the start, a digest on demand."""
    files = json.loads((corpus / 'manifest.json').read_text('utf-8'))['files']
    one = shards(corpus)[0]
    reader = ArrayRecordReader(str(one))
    records = reader.read_all()
    reader.close()
    for kept, seen in ((records[:-1], True), (records[::-1], False)):
        writer = written(one, kept)
        missing = files[one.name]['bytes'] - writer.stat().st_size
        if missing:
            change(corpus, **{f'files__{one.name}__bytes': writer.stat().st_size})
            path = corpus / 'manifest.json'
            manifest = json.loads(path.read_text('utf-8'))
            manifest['sha256'] = corpus_files._digest(manifest)
            path.write_text(json.dumps(manifest), 'utf-8')
        if seen:
            refused(lambda: corpus_files.check(corpus), f'{one} has', 'records')
        refused(lambda: corpus_files.verify(corpus), str(one))


def written(path, records):
    writer = ArrayRecordWriter(str(path), 'group_size:1')
    for record in records:
        writer.write(record)
    writer.close()
    return path


@pytest.mark.parametrize('key,value', [
    ('char_length', 16), ('char_length', 15), ('char_length', -1), ('char_length', '32'),
    ('char_length', 32.0), ('char_length', None), ('char_length', True), ('char_length', 10**30),
    ('word_length', [24]), ('records', 7), ('records__train', -1), ('records__validation', 'all'),
    ('vocabulary', None), ('vocabulary__base_size', 0), ('vocabulary__base_size', 10**6),
    ('vocabulary__sha256', 3), ('tokens', {}), ('files', []), ('files', {'a': 1}), ('sha256', ''),
    ('characters', 1),
])  # fmt: skip
def test_a_changed_manifest(corpus, key, value):
    change(corpus, **{key: value})
    refused(lambda: batches.read_manifest(corpus), f'{corpus}/manifest.json: ')


@pytest.mark.parametrize('text', ['[]', '3', '"manifest"', 'null'])
def test_a_manifest_that_is_no_object(corpus, text):
    (corpus / 'manifest.json').write_text(text)
    refused(lambda: batches.read_manifest(corpus), 'manifest.json')


def test_a_corpus_of_before_there_were_digests(corpus, caplog):
    before_digests(corpus)
    for _ in range(2):
        assert len(record_source.open_split(corpus, 'train')) > 0
    assert caplog.text.count('cannot be verified') == 1
    refused(lambda: corpus_files.verify(corpus), 'before digests were kept')
    one, other = shards(corpus)
    whole = one.read_bytes()
    one.write_bytes(whole[:65536])
    refused(lambda: record_source.open_split(corpus, 'train'), str(one))
    shutil.copy(other, one)
    refused(lambda: record_source.open_split(corpus, 'train'), str(one), 'records')


def config_of(corpus, **data):
    config = pretrain.get_config()
    config.batch_size = 8
    config.data.update(corpus=str(corpus), char_length=0, word_length=0, max_anchors=5, **data)
    return config


@pytest.mark.slow
def test_lower_lengths_in_an_old_manifest(corpus):
    """The records do not fit; the longest of a batch is named."""
    before_digests(corpus)
    change(corpus, char_length=20)
    config = batches.resolve(config_of(corpus), corpus)

    def train():
        for _ in zip(range(20), batches.batches(config)):
            pass

    refused(train, str(shards(corpus)[0]), 'room for 17 characters')


SOUND = {
    'char_ids': [5, 6, 7, 8], 'word_ids': [9, 6], 'word_char_len': [2, 2], 'sentence_words': [1, 1],
    'whole_word_tokens': [1, 1],
}  # fmt: skip


@pytest.mark.parametrize('change', [
    {'char_ids': [5, 6, 7]}, {'word_ids': [9]}, {'word_char_len': [2, 3]}, {'word_char_len': [4, 0]},
    {'sentence_words': [2]}, {'sentence_words': [1, 2]}, {'whole_word_tokens': [2]}, {'word_ids': []},
])  # fmt: skip
def test_records_that_make_no_sense_are_named(tmp_path, change):
    if change == {'whole_word_tokens': [2]}:  # one word of two tokens is sound
        record_source.parse(tf.constant(examples([SOUND | change])))
        return
    with ShardWriter(tmp_path / 'shard') as writer:
        writer.write(SOUND)
        writer.write(SOUND | change)
    assert writer.shard
    assemble(tmp_path, {'train': [writer.shard]})
    source = record_source.open_split(tmp_path, 'train')
    make = loader.compiled(lambda records, examples: {'ids': records['char_ids'].to_tensor()}, 2)
    with pytest.raises(ValueError, match=r'array_record-00000-of-00001: record 1 is damaged \(its views'):
        loader.made_of(source, make, np.arange(2), np.arange(2))


def test_verify_is_a_command_of_its_own(corpus, capsys):
    build_corpus.main(['--verify', str(corpus)])
    assert 'files are intact' in capsys.readouterr().out
    shards(corpus)[0].write_bytes(b'')
    with pytest.raises(SystemExit, match=f'^error: {shards(corpus)[0]} has 0 bytes'):
        build_corpus.main(['--verify', str(corpus)])
    with pytest.raises(SystemExit):
        build_corpus.main(['--output', 'x'])
    assert 'required: --input, --vocab' in capsys.readouterr().err
