"""Labelled data: every format and its anomalies, which column is which, labels, splits, the real files."""

import csv
import json
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from input_pipeline.datasets import catalog, hub, labelled
from input_pipeline.datasets.catalog import DATASETS
from input_pipeline.datasets.labelled import Example
from input_pipeline.datasets.tables import Spec, clean, table

# Everything that some reader takes for the end of a line, for a quotation, or for nothing.
NASTY = [
    '"',
    "'",
    ',',
    '\\',
    '\r',
    '\x0b',
    '\x0c',
    '\x1c',
    '\x85',
    '\u2028',
    '\ufeff',
    '\u3000',
    '\u200b',
    '💯',
]
TEXT = st.text(
    st.one_of(st.sampled_from([*NASTY, '好', '1', 'a', ' ']), st.characters(exclude_categories=['Cs'])),
    max_size=8,
).map(lambda text: text.replace('\0', ''))
LABEL = st.sampled_from(['0', '1', '-1', '正面', 'very good'])
ROWS = st.lists(st.tuples(TEXT, TEXT, LABEL), min_size=1, max_size=5)


@pytest.fixture
def write(tmp_path):
    """Writes text, or bytes, to a file of this name, and returns its path."""

    def write_file(name, content):
        data = content if isinstance(content, bytes) else content.encode()
        (tmp_path / name).write_bytes(data)
        return str(tmp_path / name)

    return write_file


def triples(examples):
    return [(example.text_a, example.text_b, example.label) for example in examples]


# Formats


@given(rows=ROWS, bom=st.booleans(), newline=st.sampled_from(['\n', '\r\n']), header=st.booleans())
def test_tsv_round_trip(tmp_path_factory, rows, bom, newline, header):
    rows = [tuple(cell.replace('\t', ' ').replace('\n', ' ') for cell in row) for row in rows]
    # A first row that is 'text' would be a header.
    rows = [('第一行，不是标题', 'b', '0'), *rows]
    lines = [('text_a', 'text_b', 'label')] * header + rows
    path = tmp_path_factory.getbasetemp() / 'round_trip.tsv'
    text = '\ufeff' * bom + ''.join('\t'.join(line) + newline for line in lines)
    path.write_bytes(text.encode())
    spec = Spec(('text_a', 'text_b'), 'label') if header else Spec(('1', '2'), '3')
    examples, counts = labelled.read(str(path), spec)
    assert triples(examples) == [tuple(map(clean, row)) for row in rows]
    assert [example.where for example in examples] == [
        f'{path}:{line}' for line in range(1 + header, len(rows) + 1 + header)
    ]
    empty = sum('' in (clean(a), clean(b)) for a, b, _ in rows)
    assert counts == ({'empty text': empty} if empty else {})


@given(rows=ROWS, bom=st.booleans(), newline=st.sampled_from(['\n', '\r\n']))
def test_csv_round_trip(tmp_path_factory, rows, bom, newline):
    path = tmp_path_factory.getbasetemp() / 'round_trip.csv'
    with path.open('w', encoding='utf-8-sig' if bom else 'utf-8', newline='') as stream:
        writer = csv.writer(stream, lineterminator=newline, quoting=csv.QUOTE_ALL)
        writer.writerows([('label', 'sentence1', 'sentence2'), *((c, a, b) for a, b, c in rows)])
    examples, _ = labelled.read(str(path))
    assert triples(examples) == [tuple(map(clean, row)) for row in rows]


@given(rows=ROWS, bom=st.booleans(), array=st.booleans(), indent=st.sampled_from([None, 1]))
def test_json_round_trip(tmp_path_factory, rows, bom, array, indent):
    path = tmp_path_factory.getbasetemp() / f'round_trip.json{"" if array else "l"}'
    objects = [{'premise': a, 'id': 7, 'hypothesis': b, 'label': c} for a, b, c in rows]
    if array:
        text = json.dumps(objects, ensure_ascii=False, indent=indent)
    else:
        text = '\n'.join(json.dumps(row, ensure_ascii=bool(indent)) for row in objects)
    path.write_bytes(('\ufeff' * bom + text).encode())
    examples, _ = labelled.read(str(path))
    assert triples(examples) == [tuple(map(clean, row)) for row in rows]
    place = f'{path}:object 1' if array else f'{path}:1'
    assert examples[0].where == place


def test_a_csv_row_over_several_lines_is_placed_where_it_begins(write):
    path = write('a.csv', 'text,label\n"一\n二\n三",1\n\n四,0\n')
    examples, counts = labelled.read(path)
    assert examples == [
        Example('一\n二\n三', None, '1', f'{path}:2'),
        Example('四', None, '0', f'{path}:6'),
    ]
    assert counts == {'blank line': 1}


def test_quotation_marks_in_tsv_are_text(write):
    path = write('a.tsv', 'label\ttext_a\n1\t"引号"没有配对" \n0\t"又一个\n')
    assert triples(labelled.read(path)[0]) == [('"引号"没有配对"', None, '1'), ('"又一个', None, '0')]


def test_digits_that_nobody_counts_with_are_text(write):
    """Python reads no more than 4,300."""
    many = '9' * 5000
    examples, _ = labelled.read(write('a.tsv', f'甲\t1\n乙\t{many}\n'))
    assert labelled.discover_labels(examples) == ('1', many)
    examples, _ = labelled.read(write('b.tsv', f'1\t甲\t0\n{many}\t乙\t1\n'))
    assert [example.label for example in examples] == ['0', '1']


def test_numbers_and_gaps_in_json(write):
    rows = [
        {'text': '甲', 'label': 3},
        {'text': '乙', 'label': 2.0},
        {'text': '丙', 'label': None},
        {'text': 12306},
    ]
    path = write('a.jsonl', ''.join(json.dumps(row) + '\n' for row in rows))
    assert triples(labelled.read(path)[0]) == [
        *(('甲', None, '3'), ('乙', None, '2')),
        *(('丙', None, None), ('12306', None, None)),
    ]


# Which column is which


@pytest.mark.parametrize(
    'content, pair, expected',
    [
        ('text_a\ttext_b\tlabel\n甲\t乙\t1\n', None, ('甲', '乙', '1')),
        ('premise\thypo\tlabel\n甲\t乙\tneutral\n', None, ('甲', '乙', 'neutral')),
        ('qid\tlabel\ttext_a\n0\t1\t甲\n', None, ('甲', None, '1')),
        ('Label\tSentence\n1\t甲\n', None, ('甲', None, '1')),
        ('标签\t文本\n好\t甲\n', None, ('甲', None, '好')),
        ('title\tcategory\tdate\n甲\t体育\t2024\n', None, ('甲', None, '体育')),
        ('sentence1\tsentence2\tlabel\n甲\t乙\t1\n', False, ('甲', None, '1')),
        ('id\tquestion1\tquestion2\n7\t甲\t乙\n', True, ('甲', '乙', None)),
        # Without a header.
        ('甲\n乙\n', None, ('甲', None, None)),
        ('这是一个标题\t3\n那也是标题\t4\n', None, ('这是一个标题', None, '3')),
        ('体育\t比赛结束了\n财经\t股市下跌了\n', None, ('比赛结束了', None, '体育')),
        ('甲\t乙\n丙\t丁\n', True, ('甲', '乙', None)),
        ('他来了\t他没来\t0\n他来了\t来的是他\t1\n', None, ('他来了', '他没来', '0')),
        (
            'entailment\t他来了。\t来的是他。\nneutral\t他来了。\t他高兴。\n',
            None,
            ('他来了。', '来的是他。', 'entailment'),
        ),
        ('1\t花呗怎么还\t怎么还花呗\t1\n2\t借呗在哪\t花呗在哪\t0\n', None, ('花呗怎么还', '怎么还花呗', '1')),
        ('1\t花呗怎么还\t怎么还花呗\n2\t借呗在哪\t花呗在哪\n', True, ('花呗怎么还', '怎么还花呗', None)),
    ],
)
def test_columns_are_found(write, content, pair, expected):
    examples, _ = labelled.read(write('a.tsv', content), Spec(pair=pair))
    assert triples(examples)[0] == expected


def test_columns_that_are_named(write):
    path = write('a.csv', 'id,comment_body,verdict\n1,不错,good\n')
    spec = catalog.spec_of('', ['comment_body'], 'verdict')
    assert triples(labelled.read(path, spec)[0]) == [('不错', None, 'good')]
    path = write('b.tsv', 'x\t标题\t正文\t1\n')
    assert triples(labelled.read(path, Spec(('2', '3'), '4'))[0]) == [('标题', '正文', '1')]
    # Naming a column that would have been taken for something else frees its role.
    path = write('c.tsv', 'title\ttext\tlabel\n甲\t乙\t丙\n')
    assert triples(labelled.read(path, Spec(label_column='text'))[0]) == [('甲', None, '乙')]


def test_csv_with_a_field_of_any_length(write):
    long = '长' * 200_000
    path = write('a.csv', f'text,label\n"{long}",1\n短,0\n')
    csv.field_size_limit(131_072)  # as somebody else may have set it, and as it is at first
    assert [row['text'] for _, row in table(path).rows] == [long, '短']


@pytest.mark.parametrize(
    ('content', 'rows'),
    [
        ('text;label\n今天,很好;1\n"甲;乙";0\n', [['今天,很好', '1'], ['甲;乙', '0']]),
        ('今天很好;1\n不好;0\n', [['今天很好', '1'], ['不好', '0']]),
        ('text,label\n甲;乙,1\n丙,0\n', [['甲;乙', '1'], ['丙', '0']]),
        ('甲;乙;丙,1\n丁;戊;己,0\n', [['甲;乙;丙', '1'], ['丁;戊;己', '0']]),
        ('text\n甲;乙\n', [['甲;乙']]),
    ],
)
def test_csv_with_semicolons(write, content, rows):
    """They separate columns where commas do not."""
    assert [list(row.values()) for _, row in table(write('a.csv', content)).rows] == rows


def test_csv_that_is_separated_by_tabs(write):
    path = write('a.csv', '\ufeff1\t\ufeff怎么改,号码\t"号码怎么改\t1\r\n2\t甲\t乙\t0\r\n')
    assert triples(labelled.read(path)[0]) == [('怎么改,号码', '"号码怎么改', '1'), ('甲', '乙', '0')]


# The known data sets


def test_tnews_joins_title_and_keywords(write):
    rows = [
        {'label': '108', 'label_desc': 'news_edu', 'sentence': '上课了', 'keywords': '学生,老师'},
        {'label': '104', 'label_desc': 'news_finance', 'sentence': '公告', 'keywords': ''},
    ]
    path = write('train.json', '\n'.join(json.dumps(row) for row in rows))
    examples, counts = labelled.read(path, catalog.spec_of('tnews'))
    assert triples(examples) == [('上课了 学生,老师', None, 'news_edu'), ('公告', None, 'news_finance')]
    assert counts == {}
    # The test file has no label; the copy on the hub has no keywords.
    path = write('test.json', '{"id": 0, "sentence": "甲"}\n')
    assert triples(labelled.read(path, catalog.spec_of('tnews'))[0]) == [('甲', None, None)]


def test_xnli_keeps_its_chinese_rows_and_one_spelling(write):
    columns = ('language', 'gold_label', 'sentence1_binary_parse', 'sentence1', 'sentence2', 'promptID')
    rows = [('ar', 'neutral', '', 'x', 'y', '1'), ('zh', 'entailment', '', '甲', '乙', '1')]
    english = ('en', 'neutral', '', 'a', 'b', '1')
    path = write('xnli.dev.tsv', '\n'.join(map('\t'.join, [columns, *rows, rows[0], english])))
    examples, counts = labelled.read(path, catalog.spec_of('xnli'))
    assert triples(examples) == [('甲', '乙', 'entailment')]
    assert counts == {'language ar': 2, 'language en': 1}  # none is dropped in silence
    two = catalog.spec_of('xnli')._replace(languages=('zh', 'en'))
    examples, counts = labelled.read(path, two)
    assert [(x.text_a, x.language) for x in examples] == [('甲', 'zh'), ('a', 'en')]
    assert counts == {'language ar': 2}
    with pytest.raises(ValueError, match='every row was dropped: language ar: 2, language zh: 1, lang'):
        labelled.read(path, two._replace(languages=('de',)))
    path = write('multinli.train.zh.tsv', 'premise\thypo\tlabel\n甲\t乙\tcontradictory\n')
    assert triples(labelled.read(path, catalog.spec_of('xnli'))[0]) == [('甲', '乙', 'contradiction')]


def test_ocnli_drops_what_has_no_gold_label(write):
    rows = [{'sentence1': '甲', 'sentence2': '乙', 'label': label} for label in ('-', 'neutral', '-')]
    path = write('dev.json', '\n'.join(map(json.dumps, rows)))
    examples, counts = labelled.read(path, catalog.spec_of('ocnli'))
    assert [(example.label, example.where) for example in examples] == [('neutral', f'{path}:2')]
    assert counts == {"label '-'": 2}


@pytest.mark.parametrize(
    'content, expected',
    [
        ('女子学院招生\t3\n体验游戏\t8\n', ('education', 'game')),
        ('体育\t马刺击败了火箭\n时尚\t今年流行的颜色\n', ('fashion', 'sports')),
    ],
)
def test_thucnews_labels_are_topics(write, content, expected):
    examples, _ = labelled.read(write('train.txt', content), catalog.spec_of('thucnews'))
    assert labelled.labels_of('thucnews', examples) == expected
    assert set(expected) <= set(DATASETS['thucnews'].labels)


def test_every_data_set_has_a_source():
    others = {'cmrc2018', 'drcd', 'c3', 'chid', *catalog.ENTITY_TYPES}
    assert DATASETS.keys() | others == hub.SOURCES.keys()
    for dataset, (labels, spec, codes) in DATASETS.items():
        assert len(set(labels)) == len(labels)
        assert set(spec.label_names.values()) <= set(labels), dataset
        assert codes.keys() in (set(), set(labels)), dataset


# Labels and splits


def example(text_a, label=None, text_b=None, where='f:1'):
    return Example(text_a, text_b, label, where)


def test_labels():
    examples = [example('甲', '10'), example('乙', '9'), example('丙', '-1'), example('丁', '9')]
    labels = labelled.discover_labels([*examples, example('戊')])
    assert labels == ('-1', '9', '10')
    index = labelled.label_index(examples, labels)
    assert index.dtype == np.int32
    assert index.tolist() == [2, 1, 0, 1]
    assert labelled.discover_labels([example('甲', 'b'), example('乙', '9')]) == ('9', 'b')
    assert labelled.labels_of('ocnli', examples) == ('entailment', 'neutral', 'contradiction')


def test_a_label_of_thousands_of_digits_is_a_name(write):
    """Python makes no number of it."""
    long = '9' * 5000
    examples, _ = labelled.read(write('t.tsv', f'好\t1\n坏\t{long}\n' * 3))
    assert labelled.discover_labels(examples) == ('1', long)


@pytest.mark.parametrize(('label', 'warned'), [('新闻,重要', True), ('新闻；重要', True), ('新闻', False)])
def test_labels_that_look_like_several_are_warned_of(label, warned, caplog):
    labels = labelled.discover_labels([example('甲', label), example('乙', '体育'), example('丙', '体育')])
    assert set(labels) == {label, '体育'}
    assert (f'1 of 2 labels look like several in one cell, such as {label!r}' in caplog.text) == warned


def test_bad_labels_are_named_with_their_place():
    with pytest.raises(ValueError, match=r"^my.tsv:7: this row has the label '2', and the labels are 0, 1 "):
        labelled.label_index([example('甲', '1'), example('乙', '2', where='my.tsv:7')], ('0', '1'))
    with pytest.raises(ValueError, match=r'^my.tsv:7: this row has no label, and the labels are 0, 1 '):
        labelled.label_index([example('乙', where='my.tsv:7')], ('0', '1'))
    with pytest.raises(ValueError, match='1 different labels in 2 examples'):
        labelled.discover_labels([example('甲', '1'), example('乙', '1')])
    with pytest.raises(ValueError, match=r'30 different labels in 30 examples: is this the label column\?'):
        labelled.discover_labels([example('甲', str(number)) for number in range(30)])


@given(
    keys=st.lists(st.integers(0, 200), min_size=60, max_size=120),
    seed=st.integers(0, 3),
    order=st.randoms(use_true_random=False),
)
def test_split_off(keys, seed, order):
    examples = [example(f'前提{key}', '1', f'假设{number}', f'f:{number}') for number, key in enumerate(keys)]
    # So that neither side is empty, whatever the keys.
    examples += [example(f'其他{number}', '1', '', f'g:{number}') for number in range(60)]
    train, dev = labelled.split_off(examples, 0.3, seed)
    assert Counter(train + dev) == Counter(examples)
    assert not {e.text_a for e in train} & {e.text_a for e in dev}
    shuffled = order.sample(examples, len(examples))
    assert {*labelled.split_off(shuffled, 0.3, seed)[1]} == {*dev}
    assert {*dev} <= {*labelled.split_off(examples, 0.6, seed)[1]}  # the side depends on the text alone


def test_split_off_has_about_the_fraction_and_follows_the_seed():
    examples = [example(f'句子{number}') for number in range(5000)]
    first, second = (labelled.split_off(examples, 0.1, seed)[1] for seed in (0, 1))
    assert 400 < len(first) < 600
    assert first != second
    with pytest.raises(ValueError, match='2 examples, 0.1 of them for evaluation: one side would be empty'):
        labelled.split_off([example('甲'), example('甲')], 0.1)


def test_overlap_compares_texts():
    train = [example('甲', '0', '乙'), example('丙', '1')]
    dev = [example('甲', '1', '乙'), example('甲', '1', '丁'), example('丙'), example('丙')]
    assert labelled.overlap(train, dev) == 3


# Bad input


@pytest.mark.parametrize(
    'name, content, line, message',
    [
        ('a.tsv', 'label\ttext_a\n1\t甲\n0\t乙\t丙\n', 3, '3 columns where the file has 2 .*begins .0.t乙'),
        ('a.tsv', '甲\t乙\t1\n甲\t乙\n', 2, r'2 columns where the file has 3 \(1, 2, 3\)'),
        ('a.csv', 'text,label\n甲,乙,1\n', 2, '3 columns where .* a text with a comma needs'),
        ('a.csv', 'text;label\n甲;1\n乙;丙;1\n', 3, '3 columns where .* a text with a semicolon needs'),
        ('a.csv', 'text,label\n甲,1\n"乙,1\n丙,1\n', 3, 'the row that begins here is not csv'),
        ('a.csv', 'text,label\n"乙"丙,1\n', 2, 'the row that begins here is not csv'),
        ('a.tsv', 'text\ttext\n甲\t乙\n', 1, 'names a column twice'),
        ('a.tsv', b'text\tlabel\n\xe7\x94\xb2\t1\n\xbc\xd7\t0\n', 3, 'not UTF-8; the file is damaged'),
        ('a.tsv', 'text\tlabel\n甲乙\t1\n'.encode('gb18030'), 2, 'not UTF-8; it may be GB18030'),
        ('a.tsv', 'text\tlabel\n甲\t1\n'.encode('utf-16'), 1, 'not UTF-8 but UTF-16'),
        ('a.tsv', 'text\tlabel\na\0\t1\n', 2, 'U.0000'),
        ('a.jsonl', '{"text": "甲", "label": 1}\n{"text": "乙"\n', 2, 'not JSON'),
        ('a.json', '[{"text": "甲"},\n {"text": }]', 2, 'not JSON'),
        ('a.json', '{\n"text": "甲"\n}\n', 1, 'not JSON .* one object a line, or one array'),
        ('a.jsonl', '{"text": "甲"}\n\n["乙", 1]\n', 3, 'is expected, not'),
        ('a.jsonl', '{"text": "甲"}\n{"text": ["乙"]}\n', 2, 'text is no text but'),
        ('a.jsonl', '{"text": "甲"}\n{"text": "\\ud83d"}\n', 2, r"text holds half a character, '\\ud83d'"),
        ('a.tsv', 'text\tlabel\n甲\t1\n乙\t\n', 3, r'the row has no label \(column label\)'),
    ],
)
def test_what_is_wrong_is_named_with_its_place(write, name, content, line, message):
    path = write(name, content)
    labelled_too = 'no label' in message
    with pytest.raises(ValueError, match=message) as raised:
        labelled.read(path, Spec(labelled=labelled_too))
    assert str(raised.value).startswith(f'{path}:{line}: ')


@pytest.mark.parametrize(
    'name, content, spec, message',
    [
        ('a.tsv', '', Spec(), 'a.tsv is empty$'),
        ('a.tsv', '\ufeff\r\n', Spec(), 'a.tsv is empty$'),
        ('a.tsv', 'label\ttext_a\n', Spec(), 'a.tsv has no rows: only a header$'),
        ('a.json', '[]', Spec(), 'a.json has no rows$'),
        ('a.docx', 'x', Spec(), r'a.docx: a file of labelled texts is \.tsv'),
        ('a.json', '{"sentence1": "甲", "sentence2": "乙", "label": "-"}', DATASETS['ocnli'].spec, 'dropped'),
        (
            *('a.tsv', 'label\tbody\n1\t甲\n', Spec(('text',), 'label')),
            'a.tsv: there is no column text; its columns are: label, body; '
            'set --config.data.text_columns and --config.data.label_column',
        ),
        (
            'a.tsv',
            'text\tlabel\n甲\t1\n',
            Spec(label_column='y'),
            'there is no column y; its columns are: text',
        ),
        ('a.tsv', 'text\tlabel\n甲\t1\n', Spec(pair=True), r'two texts are expected, not 1 \(text\)'),
        (
            'a.jsonl',
            '{"body": "甲", "label": 1}',
            Spec(),
            'which column holds the text is unclear; .* body, label',
        ),
        (
            'a.tsv',
            '甲\t乙\t丙\t丁\t戊\n',
            Spec(),
            'is unclear; it has no header; .* by number, are: 1, 2, 3, 4, 5',
        ),
        ('a.tsv', '甲\n乙\n', Spec(labelled=True), 'there is no label column; it has no header'),
        ('a.tsv', 'text\n甲\n', Spec(labelled=True), 'there is no label column; its columns are: text'),
    ],
)
def test_files_that_cannot_be_understood(write, name, content, spec, message):
    with pytest.raises(ValueError, match=message):
        labelled.read(write(name, content), spec)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match='none.tsv'):
        labelled.read(str(tmp_path / 'none.tsv'))


def test_what_was_read_is_logged(write, caplog):
    caplog.set_level('INFO')
    path = write('a.tsv', 'text\tlabel\n甲\t1\n\n\t0\n')
    examples, counts = labelled.read(path)
    assert counts == {'blank line': 1, 'empty text': 1}
    assert len(examples) == 2  # an empty text stays: a prediction for it is expected
    assert caplog.messages == [f'{path}: 2 examples (text: text; label: label); blank line: 1, empty text: 1']


# The real files


@pytest.mark.slow
@pytest.mark.parametrize(
    'file, dataset, rows, dropped, classes',
    [
        ('chnsenticorp/train.tsv', 'chnsenticorp', 9600, {}, 2),
        ('chnsenticorp/dev.tsv', 'chnsenticorp', 1200, {}, 2),
        ('chnsenticorp/dev_unseen.tsv', 'chnsenticorp', 862, {}, 2),
        ('thucnews/train_45k_clean.txt', 'thucnews', 44872, {}, 10),
        ('thucnews/dev_10k.txt', 'thucnews', 10000, {}, 10),
        ('tnews/train.json', 'tnews', 53360, {}, 15),
        ('bq/dev.csv', 'bq', 10000, {}, 2),
        ('lcqmc/dev.txt', 'lcqmc', 8802, {}, 2),
        ('afqmc/dev.txt', 'afqmc', 4316, {}, 2),
        ('ocnli/train.50k.json', 'ocnli', 50437, {"label '-'": 49}, 3),
        ('xnli/dev.tsv', 'xnli', 2490, {}, 3),
        ('xnli_standin/train.tsv', 'xnli', 9751, {}, 3),
        ('snli/dev.txt', '', 9314, {}, 3),
        ('snli/test.txt', '', 9176, {}, 3),
        ('afqmc/train.txt', '', 34334, {}, 2),
        ('afqmc/dev.txt', '', 4316, {}, 2),
        ('atec/atec_nlp_sim_train.csv', '', 39346, {}, 2),
    ],
)
def test_real_files(data_dir, file, dataset, rows, dropped, classes):
    path = str(data_dir / 'finetune' / file)
    examples, counts = labelled.read(path, catalog.spec_of(dataset)._replace(labelled=True))
    assert len(examples) == rows
    assert counts == dropped
    single = ('chnsenticorp', 'thucnews', 'tnews')
    assert {example.text_b is None for example in examples} == {dataset in single}
    labels = labelled.labels_of(dataset, examples)
    assert len(labels) == classes
    assert set(np.bincount(labelled.label_index(examples, labels), minlength=classes) > 0) == {True}
    train, dev = labelled.split_off(examples, 0.1)
    assert 0.08 < len(dev) / rows < 0.12
    assert labelled.overlap(train, dev) == 0


def test_development_texts_of_chnsenticorp_that_are_in_train(data_dir):
    folder = data_dir / 'finetune' / 'chnsenticorp'
    read = {name: labelled.read(str(folder / f'{name}.tsv'))[0] for name in ('train', 'dev', 'dev_unseen')}
    assert labelled.overlap(read['train'], read['dev']) == 338
    assert labelled.overlap(read['train'], read['dev_unseen']) == 0


# The rest of CLUE, in the form of its official files


@pytest.mark.parametrize(
    ('dataset', 'row', 'expected'),
    [
        (
            'iflytek',
            {'label': '110', 'label_des': '社区超市', 'sentence': '朴朴快送超市'},
            ('朴朴快送超市', None, '110'),
        ),
        (
            'cmnli',
            {'sentence1': '新的权利已经足够好了', 'sentence2': '每个人都很喜欢', 'label': 'neutral'},
            ('新的权利已经足够好了', '每个人都很喜欢', 'neutral'),
        ),
        (
            'csl',
            {'id': 1, 'abst': '为解决传统均匀', 'keyword': ['水声学', '声纳', 'FFT'], 'label': '1'},
            ('水声学 声纳 FFT', '为解决传统均匀', '1'),
        ),
        (
            'wsc',
            {
                'target': {'span2_index': 5, 'span1_index': 1, 'span1_text': '床', 'span2_text': '它'},
                'idx': 261,
                'label': 'false',
                'text': '有床放着，它很旧',
            },
            ('有_床_放着，[它]很旧', None, 'false'),
        ),
        (
            'wsc',
            {
                'target': {'span2_index': 0, 'span1_index': 3, 'span1_text': '老师', 'span2_text': '他'},
                'label': True,
                'text': '他说，老师来了',
            },
            ('[他]说，_老师_来了', None, 'true'),
        ),
    ],
)
def test_the_rest_of_clue(write, dataset, row, expected):
    path = write('train.json', json.dumps(row, ensure_ascii=False) + '\n')
    examples, _ = labelled.read(path, catalog.spec_of(dataset)._replace(labelled=True))
    assert triples(examples) == [expected] and expected[2] in DATASETS[dataset].labels
    test = {key: value for key, value in row.items() if key != 'label'}
    unlabelled = write('test.json', json.dumps(test, ensure_ascii=False) + '\n')
    assert triples(labelled.read(unlabelled, catalog.spec_of(dataset))[0]) == [(*expected[:2], None)]


def test_a_row_keeps_its_id(write):
    rows = [{'id': 7, 'text': '好', 'label': '1'}, {'id': 'a', 'text': '坏', 'label': '0'}]
    rows += [{'text': '中', 'label': '1'}, {'id': True, 'text': '上', 'label': '1'}]
    path = write('a.jsonl', ''.join(json.dumps(row) + '\n' for row in rows))
    assert [example.id for example in labelled.read(path)[0]] == [7, 'a', None, None]
    path = write('a.tsv', 'id\ttext\tlabel\n07\t好\t1\n')
    assert labelled.read(path)[0][0].id == '07'
    assert labelled.read(path, Spec(text_columns=('id',)))[0][0].id is None


@pytest.mark.parametrize('target', [None, {}, {'span1_index': 9, 'span1_text': '床'}, 'x'])
def test_spans_that_are_not_in_the_text(write, target):
    row = {'text': '有床放着', 'label': 'true', 'target': target}
    with pytest.raises(ValueError, match='a.json:1: "target" should say where in the text span1_text and'):
        labelled.read(write('a.json', json.dumps(row)), catalog.spec_of('wsc'))
