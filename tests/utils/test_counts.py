"""Nothing is lost in silence: of every reader, read = kept + dropped, by reason, against the files."""

import gzip
import json

import pytest
from ml_collections import ConfigDict

from configs import classify, cmrc, mirror, mlctl
from input_pipeline.finetuning import data as finetuning_data
from input_pipeline.sentence_vectors import sentences
from input_pipeline.text.vocabulary import Vocabulary
from input_pipeline.utils import counts

build_corpus = pytest.importorskip(
    'input_pipeline.corpus.corpus_builder', reason="needs the extra 'beam'", exc_type=ImportError
)
build_vocab = pytest.importorskip('input_pipeline.corpus.vocab_builder', exc_type=ImportError)

GOOD = '我们喜欢{}。他们也喜欢。'
BASE = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]', *'我们喜欢他也好不是一二三四五六abc？。']
VOCABULARY = Vocabulary(BASE, len(BASE))
TWO = '--direct_running_mode=multi_processing,--direct_num_workers=2'


def adds_up(found):
    assert found['read'] == found['kept'] + sum(found['dropped'].values())
    assert all(count > 0 for count in found['dropped'].values())


@pytest.fixture(scope='module')
def text(tmp_path_factory):
    """A folder of every format and every reason to drop something; and what it holds."""
    folder = tmp_path_factory.mktemp('text')
    good = [GOOD.format(n) for n in '一二三四五六']
    documents = [
        good[0].encode(),
        b'\xff\xfe',
        good[1].encode() + b'\n\xff\nx\0y',
        '一句'.encode(),
        good[0].encode(),
    ]
    (folder / 'a.txt').write_bytes(b'\n\n'.join(documents) + b'\n \n\n')
    values = [{'text': good[2] + '\n\n'}, {'t': 1}, {'text': 3}, {'text': ''}, [], {'text': good[3] + '\0'}]
    rows = '\n'.join(map(json.dumps, values)) + '\n{"te\n'
    (folder / 'b.jsonl').write_text(rows + '\n', 'utf-8')
    (folder / 'c.json').write_text(json.dumps([{'text': good[4]}, {'text': None}, 'x']), 'utf-8')
    (folder / 'd.txt.gz').write_bytes(gzip.compress(good[5].encode()))
    (folder / 'e.txt').write_bytes(b'')
    return folder


READ = {
    'documents': {
        'read': 5 + 7 + 3 + 1 + 1,
        'kept': 4 + 1 + 1 + 1,
        'dropped': {
            'empty_document': 1 + 2 + 1,
            'json_invalid': 2 + 1,
            'no_text_field': 1 + 1,
            'text_not_string': 1,
        },
    },
    'pieces': 7,
    'paragraphs': {'read': 7 + 5 + 1 + 1, 'kept': 7, 'dropped': {'blank': 3, 'not_utf8': 2, 'nul': 2}},
}  # fmt: skip


def test_a_vocabulary(text, tmp_path):
    vocabulary = build_vocab.build(str(text), tmp_path / 'v.txt', min_count=1)
    assert vocabulary.details['input_read'] == READ
    assert vocabulary.details['documents'] == READ['pieces']
    for unit in ('documents', 'paragraphs'):
        adds_up(vocabulary.details['input_read'][unit])
    assert Vocabulary.load(tmp_path / 'v.txt').details['input_read'] == READ


@pytest.mark.slow
@pytest.mark.parametrize('beam', [None, TWO])
def test_a_corpus(text, tmp_path, beam):
    build_vocab.build(str(text), tmp_path / 'v.txt', min_count=1)
    manifest = build_corpus.build(
        str(text),
        tmp_path / 'v.txt',
        tmp_path / 'corpus',
        char_length=32,
        word_length=24,
        chunk_bytes=2000,
        beam=beam,
    )
    assert manifest['input_read'] == READ
    documents = manifest['documents']
    dropped = {reason: found['count'] for reason, found in documents['dropped'].items()}
    assert dropped == {'duplicate': 1, 'one_sentence': 1}
    assert documents['read'] == READ['pieces'] == documents['kept'] + sum(dropped.values())
    for reason, found in manifest['input_problems'].items():
        everywhere = (READ[unit]['dropped'].get(reason, 0) for unit in ('documents', 'paragraphs'))
        assert found['count'] == sum(everywhere)


def test_a_long_document_is_cut_and_counted(tmp_path):
    from input_pipeline.documents import sources
    from input_pipeline.documents.report import Report

    (tmp_path / 'a.txt').write_text('\n'.join(['一' * 60] * 5) + '\n\n好', 'utf-8')
    report = Report()
    documents = [d for chunk in sources.plan(str(tmp_path)) for d in sources.read(chunk, report, 100)]
    assert report.documents.read == report.documents.kept == 2 and report.pieces == len(documents) == 6


def prepared(config, folder, **files):
    """The counts of a job's data; `files`: name → content, of the keys of `data`."""
    for key, (name, content) in files.items():
        (folder / name).write_text(content, 'utf-8')
        config.data[key] = str(folder / name)
    config.model.max_positions = 64
    config.data.max_length = 16
    _, data = finetuning_data.prepare(config, VOCABULARY)
    for split, found in data.counts.items():
        for unit in found.values():
            adds_up(unit)
        assert data.splits[split].rows is not None
    return data


@pytest.mark.parametrize('suffix', ['tsv', 'csv', 'jsonl'])
def test_classification(tmp_path, suffix):
    rows = [
        ('我们', '1'),
        ('', '0'),
        ('', ''),
        ('他们', '0'),
        ('好', '1'),
        ('不好', '0'),
        ('一', '1'),
        ('二', '0'),
    ]
    if suffix == 'jsonl':
        content = '\n'.join(json.dumps({'text': a, 'label': b}) if b else '' for a, b in rows)
    else:
        mark = {'tsv': '\t', 'csv': ','}[suffix]
        content = '\n'.join([f'text{mark}label', *(f'{a}{mark}{b}' if b else '' for a, b in rows)])
    config = classify.get_config()
    config.data.dev_fraction = 0.4
    data = prepared(config, tmp_path, train=(f't.{suffix}', content))
    train, held_out = data.counts['train']['rows'], data.counts['validation']['rows']
    assert train['read'] == 8 and train['dropped']['blank line'] == 1
    assert train['kept'] == len(data.splits['train'].rows)
    assert held_out['kept'] == held_out['read'] == len(data.splits['validation'].rows)
    assert train['dropped']['kept as validation'] == held_out['read']


def test_labels_and_languages_that_are_not_read(tmp_path):
    config = classify.get_config('xnli')
    lines = ['language\tsentence1\tsentence2\tgold_label']
    lines += [
        f'{language}\t我\t他\t{label}' for language in ('zh', 'en', 'zh', 'zh') for label in ('neutral', '-')
    ]
    data = prepared(config, tmp_path, train=('t.tsv', '\n'.join(lines)), dev=('d.tsv', '\n'.join(lines)))
    for split in ('train', 'validation'):
        rows = data.counts[split]['rows']
        assert rows == {'read': 8, 'kept': 3, 'dropped': {'language en': 2, "label '-'": 3}}


def test_questions(tmp_path):
    context = '我们喜欢他。他也好。'
    golds = [
        ('我们', 0),
        ('喜欢', 7),
        ('他', 9),
        ('四', 3),
        ('', 0),
    ]  # right, moved, ambiguous, absent, empty
    asked = [
        {'id': str(n), 'question': '我？', 'answers': [{'text': text, 'answer_start': start}]}
        for n, (text, start) in enumerate(golds)
    ]
    squad = json.dumps({'data': [{'paragraphs': [{'context': context, 'qas': asked}]}]})
    data = prepared(cmrc.get_config(), tmp_path, train=('t.json', squad), dev=('d.json', squad))
    train, held_out = data.counts['train'], data.counts['validation']
    gold = {'read': 5, 'kept': 2, 'dropped': {'ambiguous': 1, 'not in the context': 2}}
    assert train['answers'] == held_out['answers'] == gold
    assert train['questions'] == {'read': 5, 'kept': 2, 'dropped': {'no answer that is in its context': 3}}
    assert held_out['questions'] == {'read': 5, 'kept': 5, 'dropped': {}}
    assert train['windows']['kept'] == len(data.splits['train'].rows) == 2


PAIRS = '我们\tab\t1\n我们\tb\t1\n他\ta\t0\n\tc\t1\n好\tc\t1\n一\tbc\t1\n'


def test_mirror(tmp_path):
    config = mirror.get_config('sentence')
    config.data.max_strings = 3
    texts = '我们\n他们\n\n我们\n好\n不好\n我们\n'
    scored = '我们\t他们\t3.5\n\t好\t1\n好\t好\t5\n一\t二\t2\n'
    data = prepared(config, tmp_path, train=('t.txt', texts), dev=('d.tsv', scored))
    train = data.counts['train']
    assert train['rows'] == {'read': 7, 'kept': 6, 'dropped': {'blank line': 1}}
    assert train['texts'] == {'read': 6, 'kept': 3, 'dropped': {'repeated': 2, 'over data.max_strings': 1}}
    held_out = [data.counts[split]['rows'] for split in ('validation', 'test') if split in data.counts]
    assert held_out[0]['read'] == 4 and held_out[0]['dropped']['blank text'] == 1
    assert sum(rows['kept'] for rows in held_out) == 3


def test_translations(tmp_path):
    config = mlctl.get_config()
    (tmp_path / 'links').write_text('0-0 0-0 0-1 9-9\n\n\n\n0-0\n0-0\n')
    config.data.update(alignment=str(tmp_path / 'links'), dev_fraction=0.0, evaluation='retrieval')
    data = prepared(config, tmp_path, train=('t.tsv', PAIRS), dev=('d.tsv', PAIRS))
    dropped = {'blank text': 1, 'label other than 1': 1, 'a text had a partner': 1}
    for split in ('train', 'validation'):
        assert data.counts[split]['rows'] == {'read': 6, 'kept': 3, 'dropped': dropped}
    assert data.counts['train']['links']['read'] == 6


def test_pairs_of_sentences(tmp_path):
    (tmp_path / 'p.tsv').write_text(PAIRS, 'utf-8')
    data = ConfigDict({'text_columns': (), 'label_column': ''})
    ledger = counts.Ledger()
    assert len(sentences.scored_pairs(str(tmp_path / 'p.tsv'), data, ledger=ledger)) == 5
    assert ledger.to_json() == {'rows': {'read': 6, 'kept': 5, 'dropped': {'blank text': 1}}}
    assert counts.describe(ledger.to_json()) == '6 rows read, 5 used; blank text 1'
