"""Reading comprehension files: layouts, bad input with its place, repaired answers, Simplified offsets."""

import json
import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from input_pipeline.datasets.squad import (
    Answer,
    Counts,
    Question,
    align,
    parse_questions,
    read_questions,
    simplify,
    trainable,
)

CONTEXT = '陸特在歐洲研究梵語，\r\n看著，著名的Sanskrit 1786年。😀梵語'
QAS = [
    {'id': 'A_1', 'question': '在哪裡？', 'answers': [{'text': '歐洲', 'answer_start': 3, 'id': '1'}]},
    {'id': 2, 'question': '何時？', 'answers': [{'text': '1786年', 'answer_start': None}, {'text': '年'}]},
    {'id': 'A_3', 'question': '什麼？'},
]
SQUAD = {'version': 'v1.0', 'data': [{'title': '梵文', 'paragraphs': [{'context': CONTEXT, 'qas': QAS}]}]}


def question(context: str, *answers: tuple[str, int], text: str = '问') -> Question:
    return Question('q', text, context, tuple(Answer(*answer) for answer in answers), 'f, paragraph 1')


def write(tmp_path, content: object, encode=str.encode):
    path = tmp_path / 'file.json'
    path.write_bytes(
        content if isinstance(content, bytes) else encode(json.dumps(content, ensure_ascii=False))
    )
    return path


# Layouts


@pytest.mark.parametrize(
    'encode',
    [
        str.encode,
        lambda text: b'\xef\xbb\xbf' + text.encode(),
        lambda text: json.dumps(json.loads(text), indent=1).replace('\n', '\r\n').encode(),
    ],
    ids=['plain', 'byte order mark', 'CRLF'],
)
def test_squad_format(tmp_path, encode):
    path = write(tmp_path, SQUAD, encode)
    assert read_questions(path) == [
        Question('A_1', '在哪裡？', CONTEXT, (Answer('歐洲', 3),), f'{path}, paragraph 1, question A_1'),
        Question('2', '何時？', CONTEXT, (('1786年', -1), ('年', -1)), f'{path}, paragraph 1, question 2'),
        Question('A_3', '什麼？', CONTEXT, (), f'{path}, paragraph 1, question A_3'),
    ]


def test_the_list_that_cmrc_was_first_published_as():
    first = {'context_id': 'T_0', 'context_text': '甲乙丙', 'title': '天干', 'qas': []}
    row = {'query_id': 'T_1_Q_0', 'query_text': '谁？', 'answers': ['乙', '丙']}
    second = {'context_id': 'T_1', 'context_text': '甲乙丙', 'title': '天干', 'qas': [row]}
    assert parse_questions([first, second], 'cmrc') == [
        Question(
            'T_1_Q_0',
            '谁？',
            '甲乙丙',
            (Answer('乙', -1), Answer('丙', -1)),
            'cmrc, paragraph 2, question T_1_Q_0',
        )
    ]


def test_rows_of_a_table():
    row = {'id': 'D', 'context': '甲乙', 'question': '谁？', 'answers': {'text': ['乙'], 'answer_start': [1]}}
    new = {'id': 'E', 'context': '甲乙', 'question': '谁？'}
    assert [(q.id, q.answers) for q in parse_questions([row, new], 'rows')] == [
        ('D', (Answer('乙', 1),)),
        ('E', ()),
    ]


def changed(**fields) -> dict:
    """SQUAD with other fields in its second question; None deletes one."""
    row = {name: value for name, value in (QAS[1] | fields).items() if value is not None}
    return {'data': [{'paragraphs': [{'context': CONTEXT, 'qas': [QAS[0], row]}]}]}


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        (b'', 'file.json is empty'),
        (b'\xef\xbb\xbf \r\n', 'file.json is empty'),
        (b'{"data":\n[}', r'file.json:2: not JSON \(Expecting value'),
        (b'{"data": []}\n{"data": []}', 'file.json:2: not JSON'),
        (b'{}\n\xff', 'file.json:2: not UTF-8'),
        (b'[{"context": "a", "i\\nd": "1", "question": "b"}]', r'is missing; it has context, i.nd, question'),
        (b'[' * 100_000, 'file.json:1: not JSON'),
        ({'data': []}, 'file.json holds no question'),
        ({'data': {}}, 'file.json: the list "data" is missing'),
        ({'rows': []}, 'file.json: the list "data" is missing'),
        ('text', 'file.json: the list "data" is missing'),
        ({'data': [3]}, 'file.json, article 1: the list "paragraphs" is missing'),
        (
            {'data': [{'paragraphs': [3]}]},
            "file.json, paragraph 1: an object with 'context' should stand here",
        ),
        (
            {'data': [{'title': '天干'}]},
            "file.json, paragraph 1: the field 'context' is missing; it has title",
        ),
        ([{'context': '甲'}], 'file.json, paragraph 1: the list "qas" is missing'),
        (changed(id=None), "paragraph 1, question 2: the field 'id' is missing; it has question, answers"),
        (changed(question=None), "paragraph 1, question 2: the field 'question' is missing"),
        (changed(question=7), "paragraph 1, question 2: 'question' should be a text, not '7'"),
        (changed(id='A_1'), 'question A_1: this id occurs before, in .*file.json, paragraph 1, question A_1'),
        (changed(answers='甲'), 'question 2: "answers" should be a list'),
        (changed(answers=[{'start': 1}]), "question 2, answer 1: the field 'text' is missing; it has start"),
        (changed(answers=[7]), "question 2, answer 1: an object with 'text' should stand here"),
        (changed(answers=[{'text': '甲', 'answer_start': '1'}]), '"answer_start" should be a whole number'),
        (changed(answers={'text': ['甲'], 'answer_start': []}), 'the lists "text" and "answer_start"'),
        (changed(answers={'text': '甲'}), 'the lists "text" and "answer_start"'),
        (
            json.dumps(changed(question='a\ud800')).encode(),
            "character 1 of 'question' is half of a surrogate",
        ),
    ],
)
def test_bad_input_is_refused_with_its_place(tmp_path, content, message):
    with pytest.raises(ValueError, match=message):
        read_questions(write(tmp_path, content))


def test_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match='none.json'):
        read_questions(tmp_path / 'none.json')


# Gold answers


@pytest.mark.parametrize(
    ('answer', 'aligned', 'kind'),
    [
        (('乙乙', 1), ('乙乙', 1), 'right'),
        ((' 丙', 4), (' 丙', 4), 'right'),
        (('丙', -1), ('丙', 5), 'repaired'),
        (('丙', 4), ('丙', 5), 'repaired'),
        (('丙', 99), ('丙', 5), 'repaired'),
        ((' 丙\n', 4), ('丙', 5), 'repaired'),
        (('乙乙', 3), ('乙乙', -1), 'ambiguous'),  # the two places overlap
        (('\t乙 ', 1), ('\t乙 ', -1), 'ambiguous'),
        (('丁', 2), ('丁', -1), 'absent'),
        (('', 2), ('', -1), 'absent'),
        ((' ', 4), (' ', -1), 'absent'),
    ],
)
def test_align(answer, aligned, kind):
    found, counts = align([question('甲乙乙乙 丙', answer)])
    assert found == [question('甲乙乙乙 丙', aligned)]
    assert counts == Counts(1, *(int(kind == name) for name in Counts._fields[1:]))


answers_of = st.lists(st.tuples(st.text('ab 甲', max_size=3), st.integers(-1, 9)), max_size=4)


@given(st.text('ab 甲', max_size=8), answers_of)
def test_an_aligned_answer_is_where_it_says(context, answers):
    before = question(context, *answers)
    (after,), counts = align([before])
    assert counts.total == sum(counts[1:]) == len(answers) == len(after.answers)
    for old, new in zip(before.answers, after.answers):
        assert new.text in (old.text, old.text.strip())
        places = [i for i in range(len(context)) if new.text.strip() and context[i:].startswith(new.text)]
        if new.start >= 0:
            assert new.start in places and (new == old or len(places) == 1)
        else:
            assert len(places) != 1 and old.start not in places


def test_training_leaves_out_what_cannot_be_aligned(caplog):
    caplog.set_level(logging.INFO)
    usable = question('甲乙乙', ('丁', 0), ('甲', 0))
    questions, _ = align([usable, question('甲乙乙', ('丁', 0), ('乙', 0)), question('甲')])
    assert trainable(questions) == ([question('甲乙乙', ('丁', -1), ('甲', 0))], 2)
    assert caplog.messages == [
        '4 gold answers: 1 where they say, 0 repaired, 1 ambiguous, 2 not in their context; the first that '
        'cannot be aligned: f, paragraph 1',
        '2 of 3 questions have no answer that is in their context; training leaves them out',
    ]


def test_without_gold_answers_there_is_nothing_to_say(caplog):
    caplog.set_level(logging.INFO)
    assert align([question('甲')]) == ([question('甲')], Counts(0, 0, 0, 0, 0))
    assert caplog.messages == []


@pytest.mark.parametrize(
    ('file', 'num_questions', 'counts', 'dropped'),
    [
        ('cmrc2018/trial.json', 1002, Counts(1002, 997, 5, 0, 0), 0),
        ('cmrc2018/dev_600ctx.json', 2275, Counts(6825, 6698, 4, 0, 123), 0),
        ('drcd/DRCD_dev.json', 3524, Counts(7048, 7048, 0, 0, 0), 0),
    ],
)
def test_published_files(data_dir, file, num_questions, counts, dropped):
    questions = read_questions(data_dir / 'finetune' / file)
    aligned, found = align(questions)
    assert (len(questions), found) == (num_questions, counts)
    kept, left_out = trainable(aligned)
    assert left_out == dropped and len(kept) == num_questions - dropped
    for item in aligned:
        for answer in item.answers:
            assert answer.start < 0 or item.context[answer.start :].startswith(answer.text)


# Traditional to Simplified


def test_simplify_keeps_offsets():
    start = CONTEXT.index('著名')
    traditional = question(CONTEXT, ('歐洲', 3), ('著名', start), ('梵語', 0), ('看著', -1), text='誰著書？')
    (simplified,) = simplify([traditional])
    assert simplified.context == '陆特在欧洲研究梵语，\r\n看着，著名的Sanskrit 1786年。😀梵语'
    assert simplified.question == '谁著书？' and simplified[3] == (
        ('欧洲', 3),
        ('著名', start),
        ('梵语', 0),
        ('看着', -1),
    )


def test_a_nul_ends_no_text():
    assert simplify([question('漢\0語', ('語', 2))])[0][2:4] == ('汉\0语', (Answer('语', 2),))


TRADITIONAL = [
    *'漢語乾幹著麼瞭徵 \0\r\na１。😀',
    '乾隆',
    '著名',
    '看著',
    '什麼',
    '覆蓋',
    '\U0002f800',
    '龍\U000e0100',
]


@given(st.lists(st.sampled_from(TRADITIONAL), max_size=12).map(''.join), st.data())
def test_simplified_is_as_long_and_answers_stay_verbatim(context, data):
    start = data.draw(st.integers(0, len(context)))
    end = data.draw(st.integers(start, len(context)))
    (simplified,) = simplify([question(context, (context[start:end], start))])
    assert len(simplified.context) == len(context)
    assert simplified.answers == (Answer(simplified.context[start:end], start),)
    for old, new in zip(context, simplified.context):
        assert old == new or '\u4e00' <= new <= '\u9fff'


def test_drcd_in_simplified(data_dir):
    """The published conversion is by an older dictionary (it leaves 佔 and 崙, and writes 馀 for 餘)."""
    traditional = read_questions(data_dir / 'finetune/drcd/DRCD_dev.json')
    published = read_questions(data_dir / 'finetune/drcd/dev_simplified.json')
    simplified = simplify(traditional)
    assert align(simplified)[1] == Counts(7048, 7048, 0, 0, 0)
    same = total = 0
    for old, ours, theirs in zip(traditional, simplified, published, strict=True):
        assert ours.id == theirs.id and [a.start for a in ours.answers] == [a.start for a in theirs.answers]
        assert len(old.context) == len(ours.context) == len(theirs.context)
        same += sum(map(str.__eq__, ours.context + ours.question, theirs.context + theirs.question))
        total += len(ours.context + ours.question)
    assert same / total > 0.998
