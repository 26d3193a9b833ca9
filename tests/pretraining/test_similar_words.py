"""Similar words: a made-up language in which some words share their contexts; tables, good and bad."""

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from input_pipeline.corpus import corpus_builder, vocab_builder
from input_pipeline.pretraining import similar_words
from input_pipeline.text.vocabulary import Vocabulary

BASE = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]', *'今天气很好吃米饭面条喝茶水龘a', '##b']
WORDS = ['今天', '天气', '米饭', '面条', '喝茶水', 'ab']


@pytest.fixture
def vocabulary():
    return Vocabulary(BASE + WORDS, len(BASE))


@pytest.fixture(scope='module')
def corpus(tmp_path_factory):
    """上海 and 北京 stand in the same places, 苹果 and 香蕉 in others; so do 我 and 你."""
    draw = random.Random(0)
    lines = [
        draw.choice(
            [
                f'{draw.choice("我你")}去{draw.choice(["上海", "北京"])}工作。',
                f'{draw.choice("我你")}在{draw.choice(["上海", "北京"])}上学。',
                f'小狗吃{draw.choice(["苹果", "香蕉"])}。',
                f'小猫喜欢{draw.choice(["苹果", "香蕉"])}。',
            ]
        )
        for _ in range(3000)
    ]
    folder = tmp_path_factory.mktemp('words')
    text = '\n\n'.join('\n'.join(lines[first : first + 10]) for first in range(0, len(lines), 10))
    (folder / 'text.txt').write_text(text, encoding='utf-8')
    vocab_builder.build(str(folder / 'text.txt'), folder / 'vocab.txt', num_words=50)
    corpus_builder.build(
        str(folder / 'text.txt'), folder / 'vocab.txt', folder / 'corpus', char_length=64, word_length=48
    )
    return folder / 'corpus'


def table(path):
    return dict(line.split('\t') for line in path.read_text('utf-8').splitlines())


@pytest.mark.slow
def test_words_with_the_same_contexts_find_each_other(corpus, tmp_path):
    settings = {'dimensions': 16, 'epochs': 15, 'window': 2}
    flags = [f'--{name}={value}' for name, value in settings.items()]
    similar_words.main(['--corpus', str(corpus), '--output', str(tmp_path / 'similar.txt'), *flags])
    found = table(tmp_path / 'similar.txt')
    assert (found['上海'], found['北京']) == ('北京', '上海')
    assert (found['苹果'], found['香蕉']) == ('香蕉', '苹果')
    assert (found['我'], found['你']) == ('你', '我')
    assert all(len(word) == len(other) and word != other for word, other in found.items())
    first = (tmp_path / 'similar.txt').read_bytes()
    counts = similar_words.build(corpus, tmp_path / 'similar.txt', **settings)
    assert (tmp_path / 'similar.txt').read_bytes() == first
    assert counts['words'] == counts['without_vector'] + counts['alone'] + counts['written']
    similar = similar_words.load(tmp_path / 'similar.txt', Vocabulary.load(corpus / 'vocab.txt'))
    assert (similar >= 0).sum() == counts['written'] == len(found)


def test_vectors_may_come_from_a_file(corpus, tmp_path, vocabulary):
    vocabulary.save(tmp_path / 'corpus' / 'vocab.txt')
    lines = [
        '7 2',
        '今天 1 0',
        '米饭 0 1',
        '面条 0.1 1',
        '天气 1 0.2',
        '喝茶水 1 1',
        'new york 1 1',
        '米 1 1',
    ]
    (tmp_path / 'vectors.txt').write_text('\n'.join(lines) + '\n', encoding='utf-8')
    counts = similar_words.build(tmp_path / 'corpus', tmp_path / 'out.txt', vectors=tmp_path / 'vectors.txt')
    expected = {'今天': '天气', '天气': '今天', '米饭': '面条', '面条': '米饭'}
    assert table(tmp_path / 'out.txt') == expected
    assert counts == {'words': 19, 'without_vector': 13, 'alone': 2, 'written': 4}


@pytest.mark.parametrize(
    ('lines', 'message'),
    [
        ('今天 1 0\n天气 1 x\n', r'vectors.txt:2 is no word'),
        ('今天\n天气 1 0\n', r'vectors.txt:1 is no word and its numbers \(there are none\)'),
        ('今天 1 0\n天气 1\n', r'vectors.txt:2 has 1 numbers, those before have 2'),
        ('今天 1 0\n天气 nan 1\n', r'vectors.txt:2 has numbers that are not finite'),
        ('nothing 1 0\n', 'no word of .*vocab.txt has a vector'),
    ],
)
def test_bad_vectors_are_named(tmp_path, vocabulary, lines, message):
    vocabulary.save(tmp_path / 'vocab.txt')
    (tmp_path / 'vectors.txt').write_text(lines, encoding='utf-8')
    with pytest.raises(ValueError, match=message):
        similar_words.build(tmp_path, tmp_path / 'out.txt', vectors=tmp_path / 'vectors.txt')


def test_a_corpus_of_rare_words_is_explained(corpus, tmp_path):
    with pytest.raises(ValueError, match='min_count=100000'):
        similar_words.build(corpus, tmp_path / 'out.txt', min_count=100_000)


@given(st.integers(0, 2**32 - 1), st.integers(1, 30))
def test_most_similar_is_a_search(seed, count):
    draw = np.random.default_rng(seed)
    vectors, groups = draw.normal(size=(count, 4)).astype(np.float32), draw.integers(0, 4, count)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(similar_words, 'WORDS', 3)
        found = similar_words.most_similar(vectors, groups)
    for row, nearest in enumerate(found):
        others = [other for other in range(count) if other != row and groups[other] == groups[row]]
        cosine = {
            other: vectors[row]
            @ vectors[other]
            / np.linalg.norm(vectors[row])
            / np.linalg.norm(vectors[other])
            for other in others
        }
        assert (
            nearest == -1 if not others else cosine[nearest] == pytest.approx(max(cosine.values()), abs=1e-6)
        )


def test_what_has_a_similar_word(vocabulary):
    """Chinese characters and words of them; no Latin word, and none that the base block cannot spell."""
    found = similar_words.lengths(vocabulary)
    chosen = {vocabulary.tokens[row]: int(found[row]) for row in np.flatnonzero(found)}
    assert chosen == {
        **dict.fromkeys('今天气很好吃米饭面条喝茶水龘', 1),
        '今天': 2,
        '天气': 2,
        '米饭': 2,
        '面条': 2,
        '喝茶水': 3,
    }
    unknown = Vocabulary([*BASE, '今鑫'], len(BASE))
    assert similar_words.lengths(unknown)[-1] == 0


def test_a_table_is_read_as_ids_and_as_pieces(vocabulary, tmp_path):
    path = tmp_path / 'similar.txt'
    path.write_bytes('\ufeff米饭\t面条\r\n\n米\t面\n喝茶水\t今天天\n今天\t天气\n'.encode())
    similar = similar_words.load(path, vocabulary)
    ids = {token: row for row, token in enumerate(vocabulary.tokens)}
    expected = {'米饭': '面条', '米': '面', '今天': '天气'}  # 今天天 is no word
    assert similar.dtype == np.int32
    assert {row: int(similar[row]) for row in np.flatnonzero(similar >= 0)} == {
        ids[word]: ids[other] for word, other in expected.items()
    }
    pieces = similar_words.pieces(similar, vocabulary)
    assert pieces.dtype == np.int32 and pieces.shape == (len(vocabulary), 4)
    assert pieces[ids['米饭']].tolist() == [ids['面'], ids['条'], -1, -1]
    assert pieces[ids['米']].tolist() == [ids['面'], -1, -1, -1]
    assert (pieces[ids['喝茶水']] == -1).all()


@pytest.mark.parametrize(
    ('lines', 'message'),
    [
        ('今天\t天气\n今天 天气\n', r'similar.txt:2 must be a word'),
        ('今天\t天\n', r'similar.txt:1: 今天 has 2 tokens'),
        ('今天\t天气\n\udcff\n', r'similar.txt:2: not UTF-8'),
    ],
)
def test_a_bad_table_is_named(vocabulary, tmp_path, lines, message):
    (tmp_path / 'similar.txt').write_text(lines, encoding='utf-8', errors='surrogateescape')
    with pytest.raises(ValueError, match=message):
        similar_words.load(tmp_path / 'similar.txt', vocabulary)
