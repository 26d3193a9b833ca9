"""Questions with several choices: the files of C3 and CHID, a user's own, and what is wrong with one."""

import json

import pytest

from input_pipeline.datasets import choices
from input_pipeline.utils.counts import Ledger

C3 = [
    [
        ['男：你去哪儿？', '女：去公园。'],
        [
            {'question': '女的去哪儿？', 'choice': ['学校', '公园'], 'answer': '公园'},
            {'question': '谁问？', 'choice': ['男的', '女的', '老师', '学生'], 'answer': '男的'},
        ],
        '11-1',
    ],
    [['今天下雨。'], [{'question': '天气？', 'choice': ['雨', '晴'], 'answer': '雨', 'id': 7}], '11-2'],
]
CHID = [
    {
        'content': ['他#idiom000001#，又#idiom000002#。', '#idiom000003#！'],
        'candidates': ['碌碌无为', '得过且过'],
    },
]
ANSWERS = {'#idiom000001#': 1, '#idiom000002#': 0, '#idiom000003#': 1}


def dumped(rows):
    return '\n'.join(json.dumps(row, ensure_ascii=False) for row in rows)


@pytest.fixture
def write(tmp_path):
    """Writes a file of this name and returns its path."""

    def write_file(name, content):
        (tmp_path / name).write_text(content, encoding='utf-8')
        return str(tmp_path / name)

    return write_file


def test_c3(write):
    path = write('m-train.json', json.dumps(C3, ensure_ascii=False, indent=1))
    ledger = Ledger()
    first, second, third = choices.read(path, ledger=ledger)
    assert first[:6] == ('男：你去哪儿？\n女：去公园。', None, '女的去哪儿？', ('学校', '公园'), 1, 0)
    assert (second.answer, second.id, second.where) == (0, 1, f'{path}:object 1')
    assert (third.answer, third.id, third.where) == (0, 7, f'{path}:object 2')
    assert ledger.to_json() == {'questions': {'read': 3, 'kept': 3, 'dropped': {}}}
    assert [question.id for question in choices.read(path, start=5)] == [5, 6, 7]  # the last is its own


def test_chid(write):
    path = write('dev.json', dumped(CHID))
    with pytest.raises(ValueError, match=r'dev.json:object 1: the question has no answer; .*dev_answer.json'):
        choices.read(path)
    assert [question.answer for question in choices.read(path, answered=False)] == [None] * 3
    write('dev_answer.json', json.dumps(ANSWERS))
    first, second, third = choices.read(path)
    assert (first.before, first.after, first.id, first.answer) == ('他', '，又____。', '#idiom000001#', 1)
    assert (second.before, second.after, second.answer) == ('他____，又', '。', 0)
    assert (third.before, third.after, third.choices) == ('', '！', ('碌碌无为', '得过且过'))


@pytest.mark.parametrize('answer', ['公园', 1])
def test_ones_own(write, answer):
    row = {'context': ['我们去公园。'], 'question': '去哪里？', 'options': ['学校', '公园'], 'label': answer}
    expected = ('我们去公园。', None, '去哪里？', ('学校', '公园'), 1, 0)
    assert choices.read(write('a.jsonl', dumped([row])))[0][:6] == expected
    assert choices.read(write('a.json', json.dumps([row])))[0][:6] == expected


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        ('{"question": "a", "choices": ["x", "y"], "answer": "z"}', "the answer 'z' is none of the choices"),
        ('{"question": "a", "choices": ["x", "y"], "answer": 2}', 'the answer 2 is none of the choices'),
        ('{"question": "a", "choices": ["x", "y"], "answer": true}', 'the answer True is none'),
        ('{"question": "a", "choices": ["x"], "answer": "x"}', 'there are 1 choices'),
        ('{"question": "a", "answer": "x"}', 'something is missing'),
        ('{"question": 1, "choices": ["x", "y"], "answer": "x"}', '1 is no text'),
        ('{"question": "a", "choices": ["x", "y"]}', 'the question has no answer'),
        ('[[["a"]]]', 'a.json:object 1: '),
        ('[1]', 'something is missing'),
        ('{"question"', 'this is not JSON'),
        ('[]', 'a.json: there are no questions'),
    ],
)
def test_what_is_no_question(write, content, message):
    with pytest.raises(ValueError, match=message) as error:
        choices.read(write('a.json', content))
    assert '\n' not in str(error.value) and 'a.json' in str(error.value)
