"""Scorers against the official definitions, written out literally, with NLTK's word tokenizer as the oracle.

NLTK's Punkt model has to be downloaded, so here NLTK runs with the tables of `english_words` as its model.
That nothing else of the model matters is shown by `nltk_words.jsonl`, what NLTK 3.10.4 with its own model
(punkt_tab, English) made of 300 texts: every abbreviation and collocation of the model, and difficult
strings, chosen and drawn.
"""

import json
import string
from collections import Counter, defaultdict
from fractions import Fraction
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from nltk.tokenize import NLTKWordTokenizer
from nltk.tokenize.punkt import PunktParameters, PunktSentenceTokenizer

from input_pipeline.metrics import classification, em_f1
from input_pipeline.metrics import nltk_words as metrics_nltk_words

FROZEN = [json.loads(line) for line in (Path(__file__).parent / 'nltk_words.jsonl').read_text().splitlines()]

# What text is made of, and what the rules look for.
PARTS = [
    *'中国人民龥龦㐀々，。：？！“”；’‘《》……·、「」（）－～『』—–〇％',
    *string.punctuation,
    *(' ', '. ', ' .', '.', '.', "'", '"', '\n', '\t', '\u3000', '\xa0', '\x1c', '\x85', '\u2028', '\u200b'),
    *('A', 'b', 'c.', 'J. ', 'the', 'An', 'Mr.', 'Dr. ', 'U.S.A.', 'e.g.', 'I.B.M. 2000.', 'ph.d', 'Walter'),
    *('B-week', 'cannot', 'gonna', 'wanna ', "'tis", "d'ye", "n't ", "'s ", "'ll ", "rock'n'roll", "o'clock"),
    *('3', '2008年', '3.14', '1,000', '12:30', '20.', '1939–1945', '...', '. . .', '--', "''", '?!', '.)'),
    *('é', 'e\u0301', 'İ', 'ΑΣ', 'ſ', 'ı', '𝐀', '٣', '２', '½', 'Ⅷ', '한', 'カ', '𠀀', '😀', '«', '»', '„'),
]  # fmt: skip
texts = st.lists(st.sampled_from(PARTS) | st.characters(), max_size=12).map(''.join)
# Pairs that share much, as an answer and a good prediction do.
pairs = st.tuples(texts, texts, texts, texts).map(lambda t: (t[0] + t[1] + t[2], t[3] + t[1] + t[2]))


# ---- the oracles ----


def punkt() -> PunktSentenceTokenizer:
    """NLTK's, with our tables in place of its model. 48 = seen in lower case, at the start and inside."""
    model = PunktParameters()
    model.abbrev_types = set(metrics_nltk_words.ABBREVIATIONS)
    model.ortho_context = defaultdict(int, dict.fromkeys(metrics_nltk_words.STARTERS, 48))
    tokenizer = PunktSentenceTokenizer()
    tokenizer._params = model
    return tokenizer


SENTENCES, WORDS = punkt(), NLTKWordTokenizer()
MARKS = [
    *'-:_*^/\\~`+=，。：？！“”；’《》', '……', *'·、「」（）－～『』',
]  # fmt: skip


def nltk_words(text: str) -> list[str]:
    return [word for sentence in SENTENCES.tokenize(text) for word in WORDS.tokenize(sentence)]


def segmentation(text: str) -> list[str]:
    """CMRC's mixed_segmentation(text, rm_punc=True): character by character."""
    tokens, other = [], ''
    for character in text.lower().strip():
        if character in MARKS:
            continue
        if '\u4e00' <= character <= '\u9fa5':
            tokens += nltk_words(other) if other else []
            tokens.append(character)
            other = ''
        else:
            other += character
    return tokens + (nltk_words(other) if other else [])


def longest_run(a: list, b: list) -> int:
    """The longest common contiguous run: the table of all common suffixes."""
    table = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            table[i + 1][j + 1] = table[i][j] + 1 if x == y else 0
    return max(map(max, table))


def f1(common: int, answer: int, predicted: int) -> float:
    if common == 0:
        return 0
    precision = 1.0 * common / predicted
    recall = 1.0 * common / answer
    return (2 * precision * recall) / (precision + recall)


def cmrc_f1(answers: list[str], prediction: str) -> float:
    scores, predicted = [], segmentation(prediction)
    for answer in map(segmentation, answers):
        scores.append(f1(longest_run(answer, predicted), len(answer), len(predicted)))
    return max(scores)


def cmrc_em(answers: list[str], prediction: str) -> int:
    def bare(text: str) -> str:
        return ''.join(character for character in text.lower().strip() if character not in MARKS)

    return int(any(bare(answer) == bare(prediction) for answer in answers))


def cmrc_scores(gold: dict, predictions: dict) -> dict:
    f1_sum = em_sum = skip = 0
    for key, answers in gold.items():
        if key not in predictions:
            skip += 1
            continue
        f1_sum += cmrc_f1(answers, predictions[key])
        em_sum += cmrc_em(answers, predictions[key])
    f1_score, em_score = 100.0 * f1_sum / len(gold), 100.0 * em_sum / len(gold)
    average = (em_score + f1_score) * 0.5
    return {'f1': f1_score, 'em': em_score, 'average': average, 'total': len(gold), 'skip': skip}


def drcd_normal(text: str) -> str:
    """SQuAD's order: lower case, punctuation out, articles out, white space to single spaces."""
    text = ''.join(c for c in text.lower() if c not in string.punctuation and c not in '《》？，。、；：')
    runs = (''.join(run) for _, run in groupby(text, lambda c: c.isalnum() or c == '_'))  # `\w+`, `\W+`
    return ' '.join(''.join(' ' if run in ('a', 'an', 'the') else run for run in runs).split())


def drcd_f1(answers: list[str], prediction: str) -> float:
    scores, predicted = [], Counter(drcd_normal(prediction))
    for answer in map(Counter, map(drcd_normal, answers)):
        common = sum(min(answer[character], predicted[character]) for character in answer)
        scores.append(f1(common, sum(answer.values()), sum(predicted.values())))
    return max(scores)


# ---- NLTK's words ----


def test_words_are_those_of_nltk_with_its_own_model():
    assert len(FROZEN) == 300
    wrong = [(text, words) for text, words in FROZEN if metrics_nltk_words.word_tokenize(text) != words]
    assert not wrong
    # The model of the property tests below is as good.
    assert [nltk_words(text) for text, _ in FROZEN] == [words for _, words in FROZEN]


@pytest.mark.parametrize('table', ['ABBREVIATIONS', 'STARTERS'])
def test_frozen_words_depend_on_each_entry(monkeypatch, table):
    entries = getattr(metrics_nltk_words, table)
    for entry in entries:
        monkeypatch.setattr(metrics_nltk_words, table, entries - {entry})
        with_it = (pair for pair in FROZEN if entry in pair[0])
        assert any(metrics_nltk_words.word_tokenize(text) != words for text, words in with_it), entry


@pytest.mark.slow
@settings(max_examples=300)
@given(texts)
@example("x cannot'tis y")
@example('a.\n\x1c\nb')
@example('a. 𝐀b. c')
def test_words_are_nltks(text):
    text = text.lower()
    assert metrics_nltk_words.sentences(text) == SENTENCES.tokenize(text)
    assert metrics_nltk_words.word_tokenize(text) == nltk_words(text)


def test_words_want_lower_case():
    with pytest.raises(ValueError, match=r"'Mr\. X' is not in lower case"):
        metrics_nltk_words.word_tokenize('Mr. X')


# ---- CMRC 2018 ----


@pytest.mark.slow
@settings(max_examples=300)
@given(texts)
@example('《红楼梦》第１回 The U.S. Army’s…… 3.14%')
def test_cmrc_tokens(text):
    assert em_f1.cmrc_tokens(text) == segmentation(text)


@pytest.mark.slow
@settings(max_examples=300)
@given(st.lists(pairs, min_size=1, max_size=3))
@example([('', '')])
@example([('。', '！')])
@example([('——abc', 'abc')])
def test_cmrc_scores_are_the_official_ones(rows):
    answers, prediction = [answer for answer, _ in rows], rows[0][1]
    assert em_f1.cmrc_f1(answers, prediction) == cmrc_f1(answers, prediction)
    assert em_f1.cmrc_exact_match(answers, prediction) == cmrc_em(answers, prediction)
    assert em_f1.cmrc_exact_match(answers, answers[-1]) == 1


@given(st.lists(pairs, min_size=1, max_size=4), st.data())
def test_cmrc_corpus_scores_are_the_official_ones(rows, data):
    gold = {f'Q{i}': [answer, second] for i, (answer, second) in enumerate(rows)}
    answered = data.draw(st.sets(st.sampled_from(list(gold))))
    predictions = {key: data.draw(texts | st.sampled_from(gold[key])) for key in answered} | {'other': 'x'}
    assert em_f1.score_cmrc(gold, predictions) == cmrc_scores(gold, predictions)


def test_cmrc_by_hand():
    # 光荣 / 光荣公司: a run of 2 of 4 and 2 tokens; 荣光: a run of 1.
    assert em_f1.cmrc_f1(['光荣公司'], '光荣') == pytest.approx(2 / 3)
    assert em_f1.cmrc_f1(['光荣', '光荣公司'], '光荣公司') == 1
    assert em_f1.cmrc_f1(['光荣'], '荣光') == 0.5
    # Contiguous: a subsequence of 4 in 5 tokens counts for its longest run of 2.
    assert em_f1.cmrc_f1(['甲乙丙丁'], '甲乙天丙丁') == pytest.approx(2 * 2 / (4 + 5))
    # A Latin word is one token, whatever its length.
    assert em_f1.cmrc_f1(['微软Windows系统'], 'WINDOWS') == pytest.approx(2 / 6)
    assert em_f1.cmrc_exact_match(['《光荣》。'], '光荣') == 1
    assert em_f1.cmrc_exact_match(['光荣'], '光荣,') == 0  # an ASCII comma is not in the scorer's list
    # Empty after the marks are out: an exact match, and F1 0.
    assert (em_f1.cmrc_exact_match(['。'], ''), em_f1.cmrc_f1(['。'], '')) == (1, 0)


def test_unanswered_questions_score_zero_and_are_counted():
    gold = {'Q1': ['光荣'], 'Q2': ['公司', '光荣公司'], 'Q3': ['甲'], 'Q4': ['乙']}
    scores = em_f1.score_cmrc(gold, {'Q1': '光荣', 'Q2': '天'})
    assert scores == {'f1': 25.0, 'em': 25.0, 'average': 25.0, 'total': 4, 'skip': 2}
    scores = em_f1.score_drcd(gold, {'Q1': '光荣', 'Q2': '公'})
    assert (scores['total'], scores['skip'], scores['em']) == (4, 2, 25.0)


@pytest.mark.parametrize('score', [em_f1.score_cmrc, em_f1.score_drcd])
def test_what_cannot_be_scored(score):
    with pytest.raises(ValueError, match='no questions'):
        score({}, {'Q1': 'x'})
    with pytest.raises(ValueError, match="question 'Q2' has no answers"):
        score({'Q1': ['x'], 'Q2': []}, {'Q1': 'x'})


@pytest.mark.parametrize('score', [em_f1.cmrc_f1, em_f1.drcd_f1])
def test_f1_needs_an_answer(score):
    with pytest.raises(ValueError, match="no answers to compare the prediction '光荣' with"):
        score([], '光荣')


# ---- DRCD ----


@given(st.lists(pairs, min_size=1, max_size=3))
@example([('', '')])
@example([('The A an theory', 'a theory')])
def test_drcd_scores_are_the_literal_ones(rows):
    answers, prediction = [answer for answer, _ in rows], rows[0][1]
    same = any(drcd_normal(answer) == drcd_normal(prediction) for answer in answers)
    assert em_f1.drcd_f1(answers, prediction) == drcd_f1(answers, prediction)
    assert em_f1.drcd_exact_match(answers, prediction) == same


def test_drcd_by_hand():
    # A bag: order does not count. Full-width marks are left out, 「」 are not among them.
    assert em_f1.drcd_f1(['光榮公司'], '司公榮光') == 1
    assert em_f1.drcd_f1(['光榮公司'], '光榮') == pytest.approx(2 / 3)
    assert em_f1.drcd_exact_match(['《紅樓夢》'], '紅樓夢。') == 1
    assert em_f1.drcd_exact_match(['「紅樓夢」'], '紅樓夢') == 0
    # A Latin word is as many characters as it has; an article does not count.
    assert em_f1.drcd_f1(['the U.S. Army'], 'us') == pytest.approx(2 * 2 / (7 + 2))
    assert em_f1.drcd_exact_match(['The  Beatles'], 'beatles') == 1


def test_drcd_tells_the_two_scores_apart():
    scores = em_f1.score_drcd({'Q1': ['光榮公司']}, {'Q1': '司公榮光'})
    assert scores == {'f1_cmrc': 25.0, 'em_cmrc': 0.0, 'f1_drcd': 100.0, 'em': 0.0, 'total': 1, 'skip': 0}


# ---- real answers ----


@pytest.mark.slow
@pytest.mark.parametrize('file', ['cmrc2018/trial.json', 'drcd/DRCD_dev.json'])
def test_real_answers(data_dir, file):
    """Predictions as models make them: too long, too short, shifted, or missing, out of the real contexts."""
    gold, predictions = {}, {}
    text = (data_dir / 'finetune' / file).read_text(encoding='utf-8-sig')
    for article in json.loads(text)['data']:
        for paragraph in article['paragraphs']:
            for qa in paragraph['qas']:
                answers = gold[qa['id']] = [answer['text'] for answer in qa['answers']]
                before, after = len(gold) % 5 - 2, len(gold) % 7 - 3
                start = paragraph['context'].find(answers[0])
                if len(gold) % 50:
                    stop = start + len(answers[0]) + after
                    predictions[qa['id']] = paragraph['context'][max(start + before, 0) : max(stop, 0)]
    scores = em_f1.score_cmrc(gold, predictions)
    assert scores == cmrc_scores(gold, predictions)
    assert scores['skip'] == len(gold) // 50
    assert 40 < scores['f1'] < 95 and 0 < scores['em'] < 50
    both = em_f1.score_drcd(gold, predictions)
    assert (both['f1_cmrc'], both['em_cmrc']) == (scores['f1'], scores['em'])
    literal = sum(drcd_f1(gold[key], predictions[key]) for key in predictions)
    assert both['f1_drcd'] == pytest.approx(100 * literal / len(gold))


# ---- classification ----

classes = st.integers(1, 6).flatmap(
    lambda C: st.tuples(
        st.just(C), st.lists(st.tuples(st.integers(0, C - 1), st.integers(0, C - 1)), min_size=1, max_size=40)
    )
)


@given(classes)
def test_classification_scores(drawn):
    C, rows = drawn
    labels, predictions = zip(*rows)
    matrix = [[sum(row == (i, j) for row in rows) for j in range(C)] for i in range(C)]
    per_class = []
    for i in range(C):
        found, gold = sum(row[i] for row in matrix), sum(matrix[i])
        precision = Fraction(matrix[i][i], found) if found else 0
        recall = Fraction(matrix[i][i], gold) if gold else 0
        both = precision + recall
        per_class.append(2 * precision * recall / both if both else 0)
    result = classification.confusion_matrix(labels, predictions, C)
    assert result.dtype == np.int64 and result.tolist() == matrix
    assert classification.macro_f1(labels, predictions, C) == pytest.approx(float(sum(per_class) / C))


def test_a_class_that_never_occurs_lowers_macro_f1():
    assert classification.macro_f1([0, 1], [0, 1], 2) == 1
    assert classification.macro_f1([0, 1], [0, 1], 4) == 0.5


@pytest.mark.parametrize(
    ('labels', 'predictions', 'message'),
    [
        ([], [], 'nothing to score'),
        ([0, 1], [0], r'\(2,\) labels and \(1,\) predictions'),
        ([[0]], [[0]], r'must be \[N\]'),
        ([0, -1], [0, 1], 'labels contain class -1; there are 2 classes'),
        ([0, 1], [0, 2], 'predictions contain class 2; there are 2 classes'),
        ([0, 1], [0.2, 0.8], 'predictions are float64; they must be integers'),
    ],
)
def test_classes_that_cannot_be_scored(labels, predictions, message):
    with pytest.raises(ValueError, match=message):
        classification.confusion_matrix(labels, predictions, 2)
