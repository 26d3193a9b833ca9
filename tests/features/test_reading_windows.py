"""Windows over long contexts: run_squad's rules literally, offsets into the original text, gold positions."""

import logging

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from helpers.tokenizer import BASE, nasty_text
from helpers.windows import VOCABULARY, context_score, question
from input_pipeline.datasets.squad import align, read_questions
from input_pipeline.features.reading_windows import encode, targets
from input_pipeline.text.vocabulary import Vocabulary, basic_tokens, read_tokens

PAD, UNK, CLS, SEP, MASK = range(5)


def squad_windows(num_tokens: int, room: int, stride: int) -> list[tuple[int, int]]:
    """(first, length), as the loop of run_squad.py makes them."""
    windows, start = [], 0
    while True:
        length = min(num_tokens - start, room)
        windows.append((start, length))
        if start + length == num_tokens:
            return windows
        start += min(length, stride)


def most_context(windows: list[tuple[int, int]], token: int) -> int:
    """The first window in which a token has most context."""
    scores = [context_score(window, token) for window in windows]
    return scores.index(max(score for score in scores if score is not None))


# Windows


@given(st.integers(1, 60), st.integers(1, 30), st.integers(1, 35))
@example(990, 480, 128)
@example(612, 509, 384)  # the last window is more than 100 tokens shorter
def test_windows_are_those_of_run_squad(num_tokens, room, stride):
    windows = encode([question('中' * num_tokens)], VOCABULARY, room + 5, stride)
    expected = squad_windows(num_tokens, room, stride)
    assert list(zip(windows.first, windows.length)) == expected
    assert (windows.question_length == 4).all() and (windows.total_length <= room + 5).all()
    owners = [most_context(expected, token) for token in range(num_tokens)]
    for window, (start, stop) in enumerate(windows.max_context):
        assert [token for token in range(num_tokens) if owners[token] == window] == list(range(start, stop))


def test_a_window_as_the_model_reads_it():
    windows = encode([question('我爱北京', text='爱我'), question('安')], VOCABULARY, 7, 1)
    assert windows.question.tolist() == [0, 0, 0, 1] and len(windows) == 4
    rows = [[VOCABULARY.tokens[row] for row in windows.ids(w)] for w in range(4)]
    assert rows == [
        ['[CLS]', *'爱我', '[SEP]', *'我爱', '[SEP]'],
        ['[CLS]', *'爱我', '[SEP]', *'爱北', '[SEP]'],
        ['[CLS]', *'爱我', '[SEP]', *'北京', '[SEP]'],
        ['[CLS]', *'中国', '[SEP]', '安', '[SEP]'],
    ]
    assert windows.question_length.tolist() == [4, 4, 4, 4]
    assert windows.total_length.tolist() == [7, 7, 7, 6]
    for array in (windows.ids(0), windows.question, windows.first, windows.offsets[0]):
        assert array.dtype == np.int32


def test_questions_share_their_context():
    windows = encode([question('我爱北京'), question('我爱北京', text='爱')], VOCABULARY, 20, 5)
    assert windows.offsets[0] is windows.offsets[1]
    assert windows.context_ids[0] is windows.context_ids[1]


def test_a_long_question_is_cut_and_counted(caplog):
    caplog.set_level(logging.INFO)
    windows = encode([question('我', text='爱北京天'), question('我', text='爱北京')], VOCABULARY, 20, 5, 3)
    assert [row.tolist() for row in windows.question_ids] == [
        [CLS, *map(BASE.index, '爱北京'), SEP],
        [CLS, *map(BASE.index, '爱北京'), SEP],
    ]
    assert windows.questions_cut == 1
    assert caplog.messages == [
        '1 of 2 questions are longer than 3 tokens and were cut; the first: f, question q'
    ]


def test_no_questions_make_no_windows():
    windows = encode([], VOCABULARY, 20, 5)
    assert len(windows) == 0 and windows.max_context.shape == (0, 2)
    assert targets(windows, []).shape == (0, 2)


@pytest.mark.parametrize(
    ('context', 'lengths', 'message'),
    [
        ('', (20, 5), 'f, question q: the context is empty'),
        (' \r\n\u3000', (20, 5), 'f, question q: the context is empty'),
        (
            '我',
            (5, 5),
            'f, question q: .* takes 5 tokens of max_length=5 .*raise max_length or lower max_quest',
        ),
        ('我', (20, 0), 'stride=0'),
        ('我', (0, 5), 'max_length=0'),
        ('我', (20, 5, 0), 'max_question_length=0'),
    ],
)
def test_what_cannot_be_windowed_is_refused(context, lengths, message):
    with pytest.raises(ValueError, match=message):
        encode([question(context)], VOCABULARY, *lengths)


# Offsets


@given(nasty_text.filter(str.strip))
@example('cafe\u0301a b\u0301\u0301 \u0301 ❤\ufe0f中\u0301')
@example('한국어 abcabca１２İa\u200b\x00b中')
def test_offsets_count_characters_of_the_original_text(text):
    """A token's characters spell it, whatever case, accents and control characters they have; no token takes
    a space; and what lies between tokens is nothing to BERT, and no accent of the letter before."""
    windows = encode([question(text)], VOCABULARY, 4000, 4000)
    (ids,), (offsets,) = windows.context_ids, windows.offsets
    assert ids.tolist() == VOCABULARY.wordpiece.encode(text, add_special_tokens=False).ids
    before, last = 0, (0, 0)
    for row, (start, end) in zip(ids, offsets.tolist()):
        assert start < end <= len(text)
        written, token = ''.join(basic_tokens(text[start:end])), VOCABULARY.tokens[row]
        assert row == UNK or token.removeprefix('##') in written
        assert not set(text[start:end]) & set(' \t\r\n\u00a0\u3000\u2028')
        assert start >= before or (start, end) == last  # letters of one Korean syllable
        assert basic_tokens(text[before:start]) == []
        before, last = end, (start, end)
    assert basic_tokens(text[before:]) == []


@pytest.mark.parametrize(
    ('text', 'pieces'),
    [
        ('我 爱\u3000ABCA，１', ['我', '爱', 'ABC', 'A', '，', '１']),
        ('cafe\u0301 a', ['cafe\u0301', 'a']),
        ('CAFÉA', ['CAFÉ', 'A']),
        ('我\u0301\u0301爱', ['我\u0301\u0301', '爱']),
        ('😀中𠀀国', ['😀', '中', '𠀀', '国']),
        ('a\x00b\u200bc\ufeff中', ['a\x00b\u200bc', '中']),
        ('❤\ufe0f中', ['❤\ufe0f', '中']),
        ('éé', ['éé']),
        ('\u200b', []),
    ],
)
def test_the_characters_of_tokens(text, pieces):
    (offsets,) = encode([question(text)], VOCABULARY, 100, 100).offsets
    assert [text[start:end] for start, end in offsets] == pieces


# Gold positions


def test_targets_are_positions_in_each_window():
    gold = question('我爱北京天安门', ('安', -1), ('京天', 3), ('我', 0))
    windows = encode([question('我'), gold], VOCABULARY, 9, 2)  # 4 context tokens in a window
    assert windows.first.tolist() == [0, 0, 2, 4]
    assert targets(windows, [question('我'), gold]).tolist() == [[0, 0], [0, 0], [5, 6], [0, 0]]


@pytest.mark.parametrize(
    ('answer', 'span', 'message'),
    [
        (('爱', 2), (5, 5), None),
        (('爱 ABCA', 2), (5, 7), None),
        ((' 爱 ', 1), (5, 5), '1 answers have white space around them or begin or end inside'),
        (('BC', 5), (6, 6), '1 answers have white space around them or begin or end inside'),
        (('A中', 7), (7, 8), None),
        (
            ('ABCA中\u200b国我爱北京天', 4),
            (0, 0),
            '1 answers are in no window as a whole; the first: f, question q',
        ),
        (('\u200b', 9), (0, 0), '1 answers are in no window as a whole; the first: f, question q'),
    ],
)
def test_the_fewest_tokens_that_cover_the_answer(caplog, answer, span, message):
    text = '我 爱 ABCA中\u200b国我爱北京天'
    assert text.startswith(answer[0], answer[1])
    windows = encode([question(text, answer)], VOCABULARY, 4 + 1 + 8, 8)
    caplog.set_level(logging.INFO)
    assert tuple(targets(windows, [question(text, answer)])[0]) == span
    assert [line.startswith(message) for line in caplog.messages] == [True] * bool(message)


@given(nasty_text.filter(str.strip), st.integers(1, 9), st.integers(1, 9), st.data())
def test_targets_by_their_definition(text, room, stride, data):
    start = data.draw(st.integers(0, len(text) - 1))
    gold = question(text, (text[start : data.draw(st.integers(start + 1, len(text)))], start))
    windows = encode([gold], VOCABULARY, room + 5, stride)
    end = start + len(gold.answers[0].text)
    covering = [
        t for t, (a, b) in enumerate(windows.offsets[0]) if any(start <= c < end for c in range(a, b))
    ]
    for window, span in enumerate(targets(windows, [gold])):
        first = windows.first[window]
        held = covering and first <= covering[0] and covering[-1] < first + windows.length[window]
        assert span.tolist() == ([4 + covering[0] - first, 4 + covering[-1] - first] if held else [0, 0])


@pytest.mark.slow
@pytest.mark.parametrize(
    ('file', 'num_windows', 'num_cut', 'inexact'),
    [('cmrc2018/trial.json', 1746, 0, 3), ('drcd/DRCD_dev.json', 5422, 2, 2)],
)
def test_published_files(data_dir, caplog, file, num_windows, num_cut, inexact):
    base = read_tokens(data_dir / 'vocab/bert_base_chinese_vocab.txt')
    vocabulary = Vocabulary(base, len(base))
    questions, _ = align(read_questions(data_dir / 'finetune' / file))
    windows = encode(questions, vocabulary, 512, 128)
    caplog.set_level(logging.INFO)
    spans = targets(windows, questions)
    assert (len(windows), windows.questions_cut) == (num_windows, num_cut)
    assert caplog.messages[0].startswith(f'{inexact} answers have white space') and len(caplog.messages) == 1
    held = np.bincount(windows.question[spans[:, 0] > 0], minlength=len(questions))
    assert (held > 0).all()
    different = set()
    for window in np.flatnonzero(spans[:, 0]):
        index = windows.question[window]
        tokens = spans[window] - windows.question_length[window] + windows.first[window]
        start, end = windows.offsets[index][tokens[0], 0], windows.offsets[index][tokens[1], 1]
        if questions[index].context[start:end] != questions[index].answers[0].text:
            different.add(index)
    assert len(different) == inexact
