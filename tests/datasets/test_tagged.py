"""Texts with entities: every form of file and what is wrong with one, names for class numbers."""

import json

import pytest

from input_pipeline.datasets import tagged
from input_pipeline.datasets.tag_schemes import Span
from input_pipeline.utils.counts import Ledger

BIO = '王\tB-PER\n明\tI-PER\n在\tO\n北\tB-LOC\n京\tI-LOC\n\n好\tO\n'
KNOWN = [('王明在北京', (Span(0, 2, 'PER'), Span(3, 5, 'LOC'))), ('好', ())]


@pytest.fixture
def read(tmp_path):
    """What is read of a file with this name and content: (text, spans) pairs."""

    def read_content(name, content, **options):
        if not isinstance(content, str):
            content = '\n'.join(json.dumps(row, ensure_ascii=False) for row in content)
        (tmp_path / name).write_bytes(content.encode())
        return [(text.text, text.spans) for text in tagged.read(str(tmp_path / name), **options)]

    return read_content


@pytest.mark.parametrize(
    'content',
    [
        BIO,
        BIO.replace('\t', ' ').replace('\n', '\r\n'),
        '\ufeff-DOCSTART- -X- -X- O\n\n' + BIO.replace('\t', ' x y ') + '\n\n',
        BIO.replace('明\tI', '明\tE').replace('京\tI', '京\tE'),  # BMES
        BIO.replace('明\tI', '明\tL').replace('京\tI', '京\tL'),  # BILOU
        BIO.replace('\tB-', '\tI-'),  # IOB1
        '王明/PER 在/o 北京/LOC\r\n好/o\n',
        '王明/nr 在/o 北京/ns\n\n好/o\n',
        'text_a\tlabel\n王\x02明\x02在\x02北\x02京\tB-PER\x02I-PER\x02O\x02B-LOC\x02I-LOC\n好\x02\tO\x02O\n',
    ],
    ids=['bio', 'spaces', 'conll2003', 'bioes', 'bilou', 'iob1', 'slashes', 'msra', 'ernie'],
)
def test_the_forms_of_a_text_file(read, content):
    assert read('a.txt', content) == KNOWN
    assert read('no_suffix', content) == KNOWN


@pytest.mark.parametrize(
    'rows',
    [
        [{'label': {'PER': {'王明': [[0, 1]]}, 'LOC': {'北京': [[3, 4]]}}}, {'label': {}}],
        [{'label': [[3, 5, 'LOC'], [0, 2, 'PER']]}, {'label': []}],
        [
            {
                'entities': [
                    {'start_offset': 0, 'end_offset': 2, 'label': 'PER', 'id': 7},
                    {'start': 3, 'end': 5, 'entity_group': 'LOC', 'word': '北 京', 'score': 0.5},
                ]
            },
            {'entities': []},
        ],
        [  # ends that are the last character, as the text beside them shows
            {
                'entities': [
                    {'start_idx': 0, 'end_idx': 1, 'type': 'PER', 'entity': '王明'},
                    {'start_idx': 3, 'end_idx': 4, 'type': 'LOC', 'entity': '北京'},
                ]
            },
            {'entities': []},
        ],
    ],
    ids=['cluener', 'doccano', 'offsets', 'cmeee'],
)
def test_spans_in_json(read, rows):
    rows = [{'id': n, 'text': text} | row for n, ((text, _), row) in enumerate(zip(KNOWN, rows))]
    assert read('a.jsonl', rows) == KNOWN
    assert read('a.json', json.dumps(rows)) == KNOWN


def test_tokens_and_tags_in_json(read):
    rows = [
        {'tokens': list('王明在北京'), 'ner_tags': ['B-PER', 'I-PER', 'O', 'B-LOC', 'I-LOC']},
        {'words': ['好'], 'labels': ['O']},
    ]
    assert read('a.jsonl', rows) == KNOWN


def test_class_numbers_of_tags_become_names(monkeypatch, tmp_path):
    hf = pytest.importorskip('datasets')
    monkeypatch.setattr(hf.config, 'HF_HUB_OFFLINE', True)
    monkeypatch.setattr(hf.config, 'HF_DATASETS_CACHE', tmp_path / 'cache')
    names = hf.ClassLabel(names=['O', 'B-PER', 'I-PER', 'B-LOC', 'I-LOC'])
    features = hf.Features({'tokens': hf.List(hf.Value('string')), 'ner_tags': hf.List(names)})
    rows = {'tokens': [[*'王明在北京'], ['好']], 'ner_tags': [[1, 2, 0, 3, 4], [0]]}
    hf.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / 'msra' / 'train.parquet')
    texts = tagged.read(f'hf:{tmp_path}/msra:train')
    assert [(text.text, text.spans) for text in texts] == KNOWN


def test_words_of_letters_have_spaces_between_them(read):
    """Characters of one word, as in MSRA, have none."""
    words = 'I O\nlove O\nNew B-LOC\nYork I-LOC\n市 I-LOC\n3 O\nG O\nA O\nB O\n, O\nC O\n'
    text, spans = read('a.txt', words)[0]
    assert text == 'I love New York市3GAB,C' and text[spans[0].start : spans[0].end] == 'New York市'


def test_a_token_that_is_white_space_stays(read):
    assert read('a.txt', '北\tB-x\n \tI-x\n\tI-x\n京\tI-x\n') == [('北  京', (Span(0, 4, 'x'),))]


def test_texts_to_predict_on(read):
    assert read('a.txt', ' 王明在北京 \n\n好\n', labelled=False) == [('王明在北京', None), ('好', None)]
    assert read('a.jsonl', [{'id': 0, 'text': ' 好'}], labelled=False) == [(' 好', None)]
    assert read('a.jsonl', [{'tokens': ['好']}], labelled=False) == [('好', None)]


def test_a_text_keeps_its_id(tmp_path):
    path = tmp_path / 'test.json'
    path.write_text('{"id": 3, "text": "好"}\n{"text": "好"}\n', encoding='utf-8')
    assert [text.id for text in tagged.read(str(path), labelled=False)] == [3, None]


def test_what_is_not_there_is_dropped_and_counted(read):
    ledger = Ledger()
    label = {'PER': {'王明': [[0, 1], [1, 2]], '王': [[2, 2]]}}
    spans = read('a.jsonl', [{'text': '王明在', 'label': label}], ledger=ledger)
    assert spans == [('王明在', (Span(0, 2, 'PER'),))]
    assert ledger.to_json()['entities'] == {'read': 3, 'kept': 1, 'dropped': {tagged.MISPLACED: 2}}
    assert ledger.to_json()['texts'] == {'read': 1, 'kept': 1, 'dropped': {}}


@pytest.mark.parametrize(
    ('name', 'content', 'message'),
    [
        ('a.txt', '王\tB-PER\n明\tPER\n', r'a\.txt:2: a token and its tag .*"明\\tPER"'),
        ('a.txt', '王\tB-PER\n明\n', r'a\.txt:2: a token and its tag'),
        ('a.txt', '王/nr 明\n', r'a\.txt:1: the text has no tags'),
        ('a.txt', '王/nr 明/o\n王 在/o\n', r'a\.txt:2: text/tag is expected'),
        ('a.txt', '王\x02明\tB-PER\n', r'a\.txt:1: 2 tokens and 1 tags'),
        ('a.txt', '王\x02明\tB-PER\x02x\n', r'a\.txt:1: a tag is O, .* not "x"'),
        ('a.txt', '王\x02明\tB-\x1c\x02I-PER\n', r'a\.txt:1: a tag is O, .* not "B-'),  # white space
        ('a.txt', '今天天气很好\n', r'a\.txt:1: the text has no tags: give a token and its tag'),
        ('a.jsonl', '{"text": "王明", "label": {"PER": {"王明": [[0, 2]]}}}', r'a\.jsonl:1: entities within'),
        ('a.jsonl', '{"text": "王明", "label": [[0, 3, "PER"]]}', r'a\.jsonl:1: entities within'),
        ('a.jsonl', '{"text": "王明", "label": [[1, 1, "PER"]]}', r'a\.jsonl:1: entities within'),
        ('a.jsonl', '{"text": "王明", "label": [[0, 1, " "]]}', r'a\.jsonl:1: entities within'),
        ('a.jsonl', '{"text": "王明", "label": [[true, 1, "PER"]]}', r'a\.jsonl:1: entities within'),
        ('a.jsonl', '{"text": "王明", "label": [{"start": 0}]}', r'a\.jsonl:1: entities within'),
        ('a.jsonl', '{"text": "王明", "label": "positive"}', r'a\.jsonl:1: entities within .*not .positive'),
        ('a.jsonl', '{"text": "王明", "label": 1}', r'a\.jsonl:1: entities within'),
        ('a.jsonl', '{"text": "王明"}', r'a\.jsonl:1: the text has no tags'),
        ('a.jsonl', '{"label": []}', r'a\.jsonl:1: there is no text; its keys are: .label'),
        ('a.txt', '王\x02\tB-a\x02B-b\n', r'a\.txt:1: an entity \(b\) has no text'),
        ('a.jsonl', '{"tokens": [""], "tags": ["S-a"]}', r'a\.jsonl:1: an entity \(a\) has no text'),
        ('a.jsonl', '{"tokens": ["王"], "tags": [0]}', r'a\.jsonl:1: tokens and tags should be texts'),
        ('a.jsonl', '{"text": "\\ud800", "label": []}', r'a\.jsonl:1: the text holds half a character'),
        ('a.jsonl', '{"tokens": ["\\ud800"], "tags": ["O"]}', r'a\.jsonl:1: the text holds half a char'),
        ('a.txt', ' \n', r'a\.txt is empty'),
    ],
)
def test_what_is_none_of_these(read, name, content, message):
    with pytest.raises(ValueError, match=message) as error:
        read(name, content)
    assert '\n' not in str(error.value)
