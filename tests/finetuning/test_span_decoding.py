"""From logits to answers: every gold answer comes back verbatim, and the best spans are really the best."""

import json

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from helpers.tokenizer import BASE, nasty_text
from helpers.windows import VOCABULARY, context_score, question
from input_pipeline.datasets.squad import align, read_questions, simplify
from input_pipeline.features.reading_windows import encode, targets
from input_pipeline.finetuning.span_decoding import Candidate, best_answers, nbest_json, predictions
from input_pipeline.text.vocabulary import Vocabulary, read_tokens


def one_hot(windows, spans):
    """Start and end logits, a list of rows, that point at one token of each window."""
    rows = [np.arange(length) for length in windows.total_length]
    return tuple([(row == span[i]).astype(np.float32) for row, span in zip(rows, spans)] for i in range(2))


def slow_best(windows, item, start_logits, end_logits, n_best, max_answer_length):
    """The definition, span by span, for one question: [(start, end, score)] in characters."""
    bounds = list(zip(windows.first.tolist(), windows.length.tolist()))
    offsets = windows.offsets[0].tolist()
    spans = []
    for first in range(len(offsets)):
        for last in range(first, min(first + max_answer_length, len(offsets))):
            scores = [
                context_score(bound, first) if bound[0] <= first and last < sum(bound) else None
                for bound in bounds
            ]
            held = [score for score in scores if score is not None]
            if held:
                window = scores.index(max(held))
                shift = windows.question_length[window] - bounds[window][0]
                score = float(start_logits[window][first + shift]) + float(end_logits[window][last + shift])
                spans.append((-score, first, last))
    best = {}
    for negative, first, last in sorted(spans):
        best.setdefault((offsets[first][0], offsets[last][1]), -negative)
    return [(start, end, score) for (start, end), score in best.items()][:n_best]


@st.composite
def windowed(draw):
    """A question, its windows, and logits with many ties."""
    context = draw(st.text('我爱北京', min_size=10, max_size=40) | nasty_text.filter(str.strip))
    room = draw(st.integers(2, 12))
    stride = draw(st.integers(1, room + 1))
    windows = encode([question(context)], VOCABULARY, room + 5, stride)
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    logits = [
        rng.integers(-spread, spread + 1, (len(windows), room + 5 + 2)).astype(np.float32)
        for spread in draw(st.sampled_from([(0, 0), (1, 1), (3, 500)]))
    ]
    return question(context), windows, *logits


@pytest.mark.slow
@settings(max_examples=100)
@given(windowed(), st.integers(1, 40), st.integers(1, 12))
def test_the_best_spans(drawn, n_best, max_answer_length):
    item, windows, start_logits, end_logits = drawn
    expected = slow_best(windows, item, start_logits, end_logits, n_best, max_answer_length)
    assume(expected)  # else no token
    (found,) = best_answers(windows, [item], start_logits, end_logits, n_best, max_answer_length)
    assert [(c.start, c.end, c.score) for c in found] == expected
    assert all(c.text == item.context[c.start : c.end] != '' for c in found)
    weights = np.exp([score - expected[0][2] for _, _, score in expected])
    np.testing.assert_allclose([c.probability for c in found], weights / weights.sum(), rtol=1e-12)


@given(nasty_text.filter(str.strip), st.integers(1, 12), st.integers(1, 14), st.data())
@example('看 ABCA１９９０年代，cafe\u0301！我爱北京天安门', 6, 6, None)
def test_gold_answers_come_back_verbatim(text, room, stride, data):
    """Whichever tokens they are of, if one window holds them all."""
    windows = encode([question(text)], VOCABULARY, room + 5, stride)
    spans = windows.offsets[0].tolist()
    assume(spans)
    first = data.draw(st.integers(0, len(spans) - 1)) if data else 4
    last = data.draw(st.integers(first, min(first + room, len(spans)) - 1)) if data else len(spans) - 1
    start, end = spans[first][0], spans[last][1]
    gold = question(text, (text[start:end], start))
    positions = targets(windows, [gold])
    assume(positions.any())
    (best,) = best_answers(windows, [gold], *one_hot(windows, positions), max_answer_length=room)
    assert best[0].text == text[start:end] and (best[0].start, best[0].end) == (start, end)
    assert best[0].score == 2


def test_an_answer_that_only_the_next_window_holds():
    """Its first token has as much context before it in the earlier window, which ends before the answer."""
    item = question('我爱北京天安门', ('天安', 4))
    windows = encode([item], VOCABULARY, 5 + 5, 4)
    assert windows.max_context.tolist() == [[0, 5], [5, 7]]
    (best,) = best_answers(windows, [item], *one_hot(windows, targets(windows, [item])))
    assert best[0][:4] == ('天安', 4, 6, 2.0)


def test_padding_and_question_are_no_answers():
    items = [question('我爱', text='北京'), question('天安门', text='')]
    windows = encode(items, VOCABULARY, 20, 5)
    logits = np.full((2, 30), 100, np.float32)
    logits[0, 4:6], logits[1, 2:5] = (1, 0), (0, 1, 0)
    padded = best_answers(windows, items, logits, logits, n_best=2)
    assert [[c[:4] for c in candidates] for candidates in padded] == [
        [('我', 0, 1, 2.0), ('我爱', 0, 2, 1.0)],
        [('安', 1, 2, 2.0), ('天安', 0, 2, 1.0)],
    ]
    rows = [row[:length] for row, length in zip(logits, windows.total_length)]
    assert best_answers(windows, items, rows, rows, n_best=2) == padded


def test_letters_of_one_syllable_are_one_candidate():
    vocabulary = Vocabulary([*BASE, 'ᄒ', *'##ᅡ ##ᆫ ##ᄀ ##ᅮ ##ᆨ'.split()], len(BASE) + 6)
    item = question('한국')
    windows = encode([item], vocabulary, 30, 5)
    assert windows.offsets[0].tolist() == [[0, 1]] * 3 + [[1, 2]] * 3
    logits = np.arange(30, dtype=np.float32)[None]
    (best,) = best_answers(windows, [item], logits, logits)
    assert [(c.text, c.score) for c in best] == [('국', 18.0), ('한국', 15.0), ('한', 12.0)]
    assert len(best_answers(windows, [item], logits, logits, n_best=2)[0]) == 2


def test_a_context_without_tokens_gets_the_empty_answer():
    items = [question('\u200b'), question('我')]
    windows = encode(items, VOCABULARY, 9, 5)
    assert windows.length.tolist() == [0, 1]
    best = best_answers(windows, items, np.zeros((2, 9)), np.zeros((2, 9)))
    assert best == [[Candidate('', 0, 0, -np.inf, 0.0)], [Candidate('我', 0, 1, 0.0, 1.0)]]


def test_what_is_no_logit_is_refused():
    item = question('我爱')
    windows = encode([item], VOCABULARY, 9, 5)
    good, short = np.zeros((1, 9)), np.zeros((1, 6))
    with pytest.raises(ValueError, match='1 windows need as many rows of logits, not 1 and 2'):
        best_answers(windows, [item], good, np.zeros((2, 9)))
    with pytest.raises(
        ValueError, match='f, question q: its window of 7 tokens has only 9 start logits and 6'
    ):
        best_answers(windows, [item], good, short)
    for bad in (np.nan, np.inf, -np.inf):
        broken = good.copy()
        broken[0, 5] = bad
        with pytest.raises(ValueError, match='f, question q: its logits are not all finite'):
            best_answers(windows, [item], good, broken)
    for lengths in ((0, 1), (1, 0)):
        with pytest.raises(ValueError, match='must be at least 1'):
            best_answers(windows, [item], good, good, *lengths)


def test_files_for_scorers():
    items = [question('我爱')._replace(id='A'), question('\u200b')._replace(id='B')]
    best = [
        [Candidate('爱', 1, 2, 1.5, 0.75), Candidate('我', 0, 1, 0.5, 0.25)],
        [Candidate('', 0, 0, -np.inf, 0.0)],
    ]
    assert predictions(items, best) == {'A': '爱', 'B': ''}
    assert json.loads(json.dumps(nbest_json(items, best), allow_nan=False)) == {
        'A': [
            {'text': '爱', 'start': 1, 'end': 2, 'score': 1.5, 'probability': 0.75},
            {'text': '我', 'start': 0, 'end': 1, 'score': 0.5, 'probability': 0.25},
        ],
        'B': [{'text': '', 'start': 0, 'end': 0, 'score': None, 'probability': 0.0}],
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    ('file', 'part', 'max_length', 'max_answer_length', 'inexact'),
    [
        ('cmrc2018/trial.json', slice(2, None, 4), 512, 200, 2),
        ('cmrc2018/dev_600ctx.json', slice(2, None, 4), 192, 100, 1),
        ('drcd/DRCD_dev.json', slice(0, None, 3), 256, 40, 1),
    ],
)
def test_published_gold_answers_come_back_verbatim(
    data_dir, file, part, max_length, max_answer_length, inexact
):
    """With the gold positions as logits. The inexact ones have a space around them or are in a number."""
    base = read_tokens(data_dir / 'vocab/bert_base_chinese_vocab.txt')
    vocabulary = Vocabulary(base, len(base))
    questions, _ = align(simplify(read_questions(data_dir / 'finetune' / file)[part]))
    windows = encode(questions, vocabulary, max_length, 64)
    spans = targets(windows, questions)
    short = (spans[:, 0] > 0) & (spans[:, 1] - spans[:, 0] < max_answer_length)
    found = np.bincount(windows.question[short], minlength=len(questions)) > 0
    best = best_answers(windows, questions, *one_hot(windows, spans), 1, max_answer_length)
    texts = predictions(questions, best)
    gold = [next((a.text for a in item.answers if a.start >= 0), None) for item in questions]
    wrong = [text for item, text, whole in zip(questions, gold, found) if whole and texts[item.id] != text]
    assert len(wrong) == inexact and found.mean() > 0.95
