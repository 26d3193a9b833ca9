"""Corpus folders: what is in them, that TFDS reads them, that only the input decides them, and bad input."""

import gzip
import json
import os
import subprocess
import sys
from itertools import accumulate
from pathlib import Path

import pytest
import tensorflow_datasets as tfds

from input_pipeline.corpus import windows
from input_pipeline.corpus.record_files import FEATURES
from input_pipeline.text import segmenters
from input_pipeline.text.dual_tokenizer import Tokenizer
from input_pipeline.text.vocabulary import Vocabulary

build_corpus = pytest.importorskip(
    'input_pipeline.corpus.corpus_builder', reason="needs the extra 'beam'", exc_type=ImportError
)
build_vocab = pytest.importorskip('input_pipeline.corpus.vocab_builder', exc_type=ImportError)

ROOT = Path(__file__).parents[2]
ROW = {'char_length': 40, 'word_length': 24}
SUBJECTS = ['北京大学的学生', '我们的老师', '这只小猫', '春天的风', 'Linux 系统', '她的朋友', '人工智能']
VERBS = ['喜欢', '看见了', '想念', '研究', '离不开']
OBJECTS = ['天安门广场', '一本书', '音乐', 'Python 3.11', '长江和黄河', '[MASK] 与 café', '😀']


def sentence(n: int) -> str:
    return f'{SUBJECTS[n % 7]}{VERBS[n % 5]}{OBJECTS[n // 7 % 7]}。'


def document(n: int) -> str:
    """Two to seven sentences in two paragraphs, each document different."""
    sentences = [sentence(n * 11 + k) for k in range(2 + n % 6)]
    return sentences[0] + '\n' + ''.join(sentences[1:]) + f'第{n}篇。'


def processes(count: int) -> str:
    return f'--runner=DirectRunner,--direct_running_mode=multi_processing,--direct_num_workers={count}'


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def records(folder: Path, split: str) -> list[dict[str, list[int]]]:
    source = tfds.builder_from_directory(folder).as_data_source(split=split)
    return [{name: row[name].tolist() for name in FEATURES} for row in source]


@pytest.fixture(scope='module')
def text(tmp_path_factory) -> Path:
    """A folder with 60 documents in two files, three of them twice, one with one sentence, one with none."""
    folder = tmp_path_factory.mktemp('text')
    documents = [document(n) for n in range(60)]
    documents[50] = documents[3].replace('\n', '\n \t')  # the same but for white space
    documents[20] = documents[10]
    documents[40] = documents[10]
    documents[30] = '只有一句话。'
    documents[31] = '\u200b\u0301\n\u200b'
    (folder / 'a.txt').write_text('\n\n'.join(documents[:35]), encoding='utf-8')
    (folder / 'b.txt').write_text('\n\n'.join(documents[35:]) + '\n', encoding='utf-8')
    return folder


@pytest.fixture(scope='module')
def vocab(text) -> Path:
    path = text.parent / 'vocab.txt'
    build_vocab.build(str(text), path, num_words=40, min_count=1)
    return path


@pytest.fixture(scope='module')
def corpus(text, vocab) -> Path:
    """Built in this process, in small chunks."""
    output = text.parent / 'new' / 'corpus'
    build_corpus.build(str(text), vocab, output, **ROW, validation_fraction=0.1, chunk_bytes=3000)
    return output


def test_the_folder_stands_by_itself(corpus, vocab):
    names = {name.split('-of-')[0] for name in files(corpus)}
    assert {'vocab.txt', 'vocab.json', 'manifest.json', 'dataset_info.json', 'features.json'} < names
    assert 'clower-train.array_record-00001' in names and 'clower-validation.array_record-00000' in names
    assert (corpus / 'vocab.txt').read_bytes() == vocab.read_bytes()
    assert (corpus / 'vocab.json').read_bytes() == vocab.with_suffix('.json').read_bytes()
    assert [path.name for path in corpus.parent.iterdir()] == ['corpus']
    info = tfds.builder_from_directory(corpus).info
    assert info.name == 'clower' and set(info.splits) == {'train', 'validation'}
    assert tuple(sorted(info.features)) == tuple(sorted(FEATURES))


def test_records_are_the_documents(text, corpus):
    """Read back by TFDS, the records are every kept document in order, and hold what `examples` says."""
    vocabulary = Vocabulary.load(corpus / 'vocab.txt')
    tokenizer = Tokenizer(vocabulary)
    pauses = windows.pause_ids(tokenizer)
    cut = segmenters.segmenter('jieba')
    expected, seen, sentences = [], set(), 0
    for file in ('a.txt', 'b.txt'):
        for lines in (text / file).read_text(encoding='utf-8').split('\n\n'):
            if ''.join(lines.split()) not in seen:
                seen.add(''.join(lines.split()))
                paragraphs = [line.strip() for line in lines.split('\n')]
                made = windows.encode_document(paragraphs, cut, tokenizer, pauses, 40, 24)
                expected += [windows.record(window) for window in made.windows]
                sentences += made.sentences if made.windows else 0
    assert json.loads((corpus / 'manifest.json').read_text(encoding='utf-8'))['sentences'] == sentences
    found = {split: records(corpus, split) for split in ('train', 'validation')}
    assert len(found['train']) + len(found['validation']) == len(expected)
    for rows in found.values():
        in_order = iter(expected)
        assert all(row in in_order for row in rows)
    held_out = [row['char_ids'] for row in found['validation']]
    assert not any(row['char_ids'] in held_out for row in found['train'])
    pieces = vocabulary.pieces()
    for row in found['train']:
        for word, n, stop in zip(row['word_ids'], row['word_char_len'], accumulate(row['word_char_len'])):
            spelled = pieces[word - vocabulary.base_size] if word >= vocabulary.base_size else (word,)
            assert tuple(row['char_ids'][stop - n : stop]) == spelled


def test_manifest_adds_up(text, corpus):
    manifest = json.loads((corpus / 'manifest.json').read_text(encoding='utf-8'))
    documents, rows = manifest['documents'], records(corpus, 'train') + records(corpus, 'validation')
    dropped = {reason: found['count'] for reason, found in documents['dropped'].items()}
    assert dropped == {'duplicate': 3, 'one_sentence': 1, 'no_tokens': 1}
    assert documents['read'] == 60 == documents['kept'] + sum(dropped.values())
    assert documents['kept'] == documents['train'] + documents['validation']
    assert documents['validation'] > 0
    where = [place for found in documents['dropped'].values() for place in found['examples']]
    assert len(where) == 5 and all(place.startswith(str(text)) for place in where)
    for place in where:
        path, line = place.rsplit(':', 1)
        assert (
            Path(path).read_text(encoding='utf-8').split('\n')[int(line) - 2] == ''
        )  # a document begins there

    vocabulary = Vocabulary.load(corpus / 'vocab.txt')
    assert manifest['vocabulary'] == {
        'sha256': vocabulary.sha256(),
        'size': len(vocabulary),
        'base_size': vocabulary.base_size,
        'num_words': 40,
    }
    assert (manifest['char_length'], manifest['word_length']) == (40, 24)
    assert manifest['segmenter'] == segmenters.describe('jieba')
    assert manifest['records'] == {split: len(records(corpus, split)) for split in ('train', 'validation')}
    assert manifest['tokens'] == {
        view: sum(len(row[f'{view}_ids']) for row in rows) for view in ('char', 'word')
    }
    words = [n for row in rows for n in row['whole_word_tokens']]
    assert manifest['words'] == len(words)
    assert manifest['oov_rate'] == pytest.approx(sum(n > 1 for n in words) / len(words), abs=1e-6)
    filled = sum(len(row['char_ids']) + 3 for row in rows) / (40 * len(rows))
    assert manifest['packing_rate']['char'] == pytest.approx(filled, abs=1e-6)
    assert [Path(file['path']).name for file in manifest['input']] == ['a.txt', 'b.txt']
    assert [file['bytes'] for file in manifest['input']] == [
        (text / n).stat().st_size for n in ('a.txt', 'b.txt')
    ]
    assert manifest['input_problems'] == {}
    assert 'clower' not in build_corpus.summary(manifest) and '60' in build_corpus.summary(manifest)


@pytest.mark.slow
def test_same_bytes_for_any_number_of_workers(text, vocab, corpus, tmp_path):
    output = tmp_path / 'corpus'
    build_corpus.build(
        str(text), vocab, output, **ROW, validation_fraction=0.1, chunk_bytes=3000, beam=processes(3)
    )
    assert files(output) == files(corpus)


@pytest.mark.slow
def test_no_time_place_or_process_in_the_files(text, vocab, tmp_path, monkeypatch):
    """The same input by the command and by `build`, in two folders, makes the same bytes."""
    for name in ('here', 'there'):
        (tmp_path / name).mkdir()
        (tmp_path / name / 'text.txt').write_bytes((text / 'a.txt').read_bytes())
    monkeypatch.chdir(tmp_path / 'here')
    build_corpus.build('text.txt', vocab, 'corpus', **ROW)
    command = [sys.executable, '-m', 'input_pipeline.build_corpus', '--input', 'text.txt', '--vocab', vocab]
    ran = subprocess.run(
        [*command, '--output', 'corpus', '--char_length', '40', '--word_length', '24'],
        cwd=tmp_path / 'there',
        env=os.environ | {'PYTHONPATH': str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert files(tmp_path / 'here' / 'corpus') == files(tmp_path / 'there' / 'corpus')
    assert 'characters a second' in ran.stdout and 'one_sentence' in ran.stdout
    assert 'python run.py --config=configs/pretrain.py:cpu --config.data.corpus=corpus' in ran.stdout


@pytest.mark.slow
def test_a_small_corpus_still_has_a_validation_split(text, vocab, tmp_path):
    """The document with the smallest hash, where the fraction chooses none; none at all where it is 0."""
    (tmp_path / 'few.txt').write_text('\n\n'.join(map(document, range(3))), encoding='utf-8')
    (tmp_path / 'one.txt').write_text(document(1), encoding='utf-8')
    counts = []
    for number, (file, fraction) in enumerate([('few.txt', 1e-9), ('few.txt', 0), ('one.txt', 1e-9)]):
        output = tmp_path / str(number)
        manifest = build_corpus.build(
            str(tmp_path / file), vocab, output, **ROW, validation_fraction=fraction
        )
        counts.append((manifest['documents']['train'], manifest['documents']['validation']))
        splits = tfds.builder_from_directory(output).info.splits
        assert splits['train'].num_examples == manifest['records']['train'] > 0
        assert ('validation' in splits) == (manifest['records']['validation'] > 0)
    assert counts == [(2, 1), (3, 0), (1, 0)]


@pytest.mark.slow
def test_the_fallback_holds_out_no_document_of_over_half_the_records(vocab, tmp_path):
    """Whichever of the two has the smaller hash, the short one is held out."""
    for number in range(6):
        text = tmp_path / f'{number}.txt'
        long = document(number).replace('\n', '') * 30
        text.write_text(f'{long}\n\n{document(50 + number)}', encoding='utf-8')
        manifest = build_corpus.build(str(text), vocab, tmp_path / f'{number}', **ROW)
        records = manifest['records']
        assert manifest['documents']['validation'] == 1 and records['train'] > 10 * records['validation'] > 0


def test_too_much_held_out_is_said(corpus):
    manifest = json.loads((corpus / 'manifest.json').read_text(encoding='utf-8'))
    assert 'Warning' not in build_corpus.summary(manifest)
    manifest['records'] = {'train': 3, 'validation': 7}
    assert 'Warning: 70.0% of the records are held out for validation, not 10.0%' in build_corpus.summary(
        manifest
    )


def test_the_current_folder_as_output(text, vocab, tmp_path, monkeypatch):
    (tmp_path / 'here').mkdir()
    monkeypatch.chdir(tmp_path / 'here')
    build_corpus.build(str(text), vocab, '.', **ROW)
    assert Path('manifest.json').is_file() and records(Path.cwd(), 'train')
    assert [path.name for path in tmp_path.iterdir()] == ['here']


# Bad input: counted in the manifest under its reason, or a message that names file and line


def test_bad_lines_are_counted_with_their_place(vocab, tmp_path):
    good = [document(n).encode() for n in range(4)]
    text = tmp_path / 'bad.txt'
    text.write_bytes(
        b'\n\n'.join([good[0] + b'\n\xff\xfe', good[1] + b'\na\0b', b'\xe6\x88', '一句。'.encode(), good[2]])
    )
    rows = [
        json.dumps({'text': good[3].decode()}),
        '{"title": "无"}',
        '{"text": 3}',
        '{"text": ""}',
        '{"text"',
    ]
    (tmp_path / 'rows.jsonl').write_text('\n'.join(rows), encoding='utf-8')
    manifest = build_corpus.build(str(tmp_path), vocab, tmp_path / 'corpus', **ROW)
    problems = {reason: found['count'] for reason, found in manifest['input_problems'].items()}
    assert problems == {
        'not_utf8': 2,
        'nul': 1,
        'empty_document': 2,
        'no_text_field': 1,
        'text_not_string': 1,
        'json_invalid': 1,
    }
    assert manifest['input_problems']['nul']['examples'] == [f'{text}:7']
    assert manifest['input_problems']['no_text_field']['examples'] == [f'{tmp_path}/rows.jsonl:2']
    assert manifest['documents']['dropped'] == {'one_sentence': {'count': 1, 'examples': [f'{text}:11']}}
    assert manifest['documents']['kept'] == 4
    assert 'text (1 file)' in build_corpus.summary(manifest)


def test_a_line_longer_than_the_chunks_keeps_every_token(vocab, tmp_path):
    (tmp_path / 'long.txt').write_text('我们' * 160_000 + '，' + '长' * 5_000, encoding='utf-8')
    manifest = build_corpus.build(
        str(tmp_path / 'long.txt'), vocab, tmp_path / 'corpus', validation_fraction=0, chunk_bytes=100_000
    )
    assert manifest['characters'] == manifest['tokens']['char'] == 325_001
    assert manifest['documents']['kept'] == 1


def test_a_truncated_archive_stops_the_job(vocab, tmp_path):
    (tmp_path / 'cut.txt.gz').write_bytes(gzip.compress('\n\n'.join(map(document, range(50))).encode())[:-40])
    with pytest.raises(ValueError, match=r'cut\.txt\.gz:\d+: .*truncated'):
        build_corpus.build(str(tmp_path / 'cut.txt.gz'), vocab, tmp_path / 'corpus', **ROW)
    assert [path.name for path in tmp_path.iterdir()] == ['cut.txt.gz']


def test_input_without_records_is_refused_with_the_reasons(vocab, tmp_path):
    (tmp_path / 'one.txt').write_bytes('一句。\n\n又一句。\n\n'.encode() + b'\xff')
    with pytest.raises(
        ValueError, match=r'no training record.*one_sentence 2 \(.*one.txt:1, .*not_utf8 1'
    ) as info:
        build_corpus.build(str(tmp_path / 'one.txt'), vocab, tmp_path / 'corpus', **ROW)
    assert 'two sentences or more' in str(info.value)
    with pytest.raises(ValueError, match='none'):
        build_corpus.build(str(tmp_path / 'none*'), vocab, tmp_path / 'corpus', **ROW)
    assert not (tmp_path / 'corpus').exists()


def test_settings_that_make_no_sense_are_refused(text, vocab, tmp_path):
    for setting in (
        {'char_length': 9},
        {'validation_fraction': 1.0},
        {'segmenter': 'pkuseg'},
        {'beam': 'fast'},
    ):
        with pytest.raises(ValueError):
            build_corpus.build(str(text), vocab, tmp_path / 'corpus', **ROW | setting)
    with pytest.raises(FileNotFoundError):
        build_corpus.build(str(text), tmp_path / 'none.txt', tmp_path / 'corpus')
    assert not list(tmp_path.iterdir())


def test_an_output_in_use_is_left_alone(text, vocab, tmp_path, capsys):
    output = tmp_path / 'corpus'
    output.mkdir()
    (output / 'thesis.txt').write_text('mine')
    arguments = [
        '--input',
        f'{text}/a.txt',
        '--vocab',
        str(vocab),
        '--output',
        str(output),
        '--char_length',
        '64',
    ]
    for more in ([], ['--overwrite']):
        with pytest.raises(SystemExit, match='error: .*corpus.*another --output'):
            build_corpus.main([*arguments, *more])
    assert (output / 'thesis.txt').read_text() == 'mine'

    (output / 'thesis.txt').unlink()
    build_corpus.main(arguments)  # an empty folder is welcome
    with pytest.raises(SystemExit, match='--overwrite'):
        build_corpus.main(arguments)
    build_corpus.main([*arguments[:-1], '48', '--overwrite'])
    assert json.loads((output / 'manifest.json').read_text(encoding='utf-8'))['char_length'] == 48
    assert 'documents kept' in capsys.readouterr().out


def test_another_segmenter_than_the_vocabularys(text, vocab, tmp_path, caplog):
    pytest.importorskip('rjieba')
    manifest = build_corpus.build(str(text), vocab, tmp_path / 'corpus', **ROW, segmenter='rjieba', hmm=False)
    assert manifest['segmenter'] == segmenters.describe('rjieba', hmm=False)
    assert 'rjieba' in manifest['versions'] and 'jieba' not in manifest['versions']
