"""jieba with the help of rjieba makes the words of jieba alone: on any text, and without it installed too."""

import random
import re
import sys
from itertools import accumulate

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from input_pipeline.text import segmenters

rjieba = pytest.importorskip('rjieba')

SAMPLE = 40_000  # characters of each file of real text
HAN = (
    '的一是了我不人在他有这个上们来到时大地为子中你说生国年着就那和要她出也得里后自以会家可下而过天去能对小多'
)
ODD = [
    'Wi-Fi',
    '350-400',
    'a.b',
    '1.2.3',
    '3.14%',
    'C++',
    'c#',
    'AT&T',
    'T恤',
    '卡拉OK',
    'x_1',
    '..',
    '-5',
    '5%5',
    '3.a.5%',
]
piece = st.one_of(
    st.text(HAN, min_size=1, max_size=8),
    st.sampled_from(ODD),
    st.text('ab1.2-%+#&_中国', min_size=1, max_size=8),
    st.text(' \t\r\n\x1c\x85\u3000，。！？“”', min_size=1, max_size=3),
    st.text(st.characters(min_codepoint=0x4E00, max_codepoint=0x9FFF), max_size=6),
    st.text('㐀䶿\u9fd5\u9fd6\u9fff\uf900\ufaff𠀀𠮷\U0002fa1d〇々😀é', max_size=4),
    st.text(max_size=4),
)
texts = st.lists(piece, max_size=8).map(''.join)


def alone(text: str, hmm: bool = True) -> list[str]:
    """By jieba itself."""
    return segmenters._jieba().lcut(text, HMM=hmm)


def together(text: str) -> list[str]:
    """By our way for many words."""
    ends = segmenters._ends(segmenters._rjieba().cut(text, hmm=False))
    return segmenters._spelled(text, segmenters._guess_together(text, ends))


@pytest.fixture(scope='module')
def dictionary() -> list[str]:
    with segmenters._jieba().get_dict_file() as file:
        return [line.split()[0] for line in file.read().decode().splitlines()]


def test_the_versions_installed_here_go_together():
    assert segmenters._rjieba_is_jieba()
    assert segmenters.segmenter('jieba') is segmenters._cut_fast


@pytest.mark.slow
@settings(max_examples=1500)
@given(texts)
@example('350-400' + '\u9fff' * 2 + 'a-b' + '中' * 130 + '1.2.3' + '国' * 70)
@example('㐀㐁㐂 a㐀b \uf900中国\uf901')
@example('常在他洞')  # of two ways the better one is better by a ten-millionth
@example('')
def test_any_text(text):
    """Run by run, and all runs at once, as it is done where they are many."""
    for hmm in (True, False):
        assert segmenters.segmenter('jieba', hmm)(text) == alone(text, hmm)
    if words := segmenters._rjieba().cut(text, hmm=False):
        assert list(segmenters._guess_in_turn(words)) == together(text) == alone(text)


@pytest.mark.slow
@pytest.mark.parametrize('seed', range(4))
def test_many_runs(seed):
    """Ideographs at random: those that jieba has probabilities for, and any, with runs of all lengths."""
    rng = random.Random(seed)
    known = sorted(set().union(*segmenters._finalseg().emit_P.values()))
    pools = [known, list(map(chr, range(0x4E00, 0x9FD6))), list(HAN), [*HAN, *'ab1.2-%+ ，']]
    strings = [''.join(rng.choices(rng.choice(pools), k=rng.randint(1, 40))) for _ in range(600)]
    text = '。'.join(strings)
    assert together(text) == alone(text)


@pytest.mark.slow
def test_real_text(data_dir):
    """A page from a place of its own in each file; as lines, and as one text as the corpus builder has it."""
    for number, file in enumerate(sorted((data_dir / 'pretrain').glob('*.txt'))):
        with file.open('rb') as stream:
            stream.seek(random.Random(number).randrange(file.stat().st_size - 3 * SAMPLE))
            lines = stream.read(3 * SAMPLE).decode(errors='ignore').split('\n')
        for hmm in (True, False):
            cut = segmenters.segmenter('jieba', hmm)
            expected = [alone(line, hmm) for line in lines]
            assert list(map(cut, lines)) == expected
            joined = [word for words in expected for word in (*words, '\0')]
            text = '\0'.join([*lines, ''])
            assert cut(text) == joined
            assert segmenters.word_ends(cut, text).tolist() == list(accumulate(map(len, joined)))


@pytest.mark.slow
def test_the_dictionaries_are_the_same(dictionary):
    """Every word; and (of one in seven) how often it occurs, which `suggest_freq` tells: a product of floats
    rounded down, so that the order of the factors shows in the last place."""
    assert len(dictionary) > 300_000 and all(map(segmenters._rjieba().has_word, dictionary))
    ours, theirs = segmenters._rjieba(), segmenters._jieba()
    for word in dictionary[::7]:
        assert abs(ours.suggest_freq(word) - theirs.suggest_freq(word)) <= 1, word


@pytest.mark.slow
def test_the_whole_dictionary_as_text(dictionary):
    """Words beside words that they overlap with or run into, where a frequency that differs would show."""
    shuffled = random.Random(0).sample(dictionary, 30_000)
    text = '，'.join(map(''.join, zip(shuffled[::3], shuffled[1::3], shuffled[2::3])))
    assert segmenters.segmenter('jieba')(text) == alone(text)


def test_what_the_fast_way_takes_for_granted(dictionary):
    """Of the dictionary's words none is all Latin letters and digits, those with one are never cut, and none
    has a character that is for rjieba alone one of those that words are made of."""
    latin = [word for word in dictionary if any(map(str.isascii, word))]
    assert latin and not [word for word in latin if word.isascii() and word.isalnum()]
    assert all(segmenters._rjieba().cut(word, hmm=False) == [word] for word in latin)
    rjiebas = re.compile('[\u3400-\u4dbf\u9fd6-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]')
    assert not list(filter(rjiebas.search, dictionary))


@pytest.fixture
def forgetful():
    """What is loaded and decided once a process is decided again, before and after."""
    caches = (segmenters._rjieba, segmenters._rjieba_is_jieba)
    for cached in caches:
        cached.cache_clear()
    yield
    for cached in caches:
        cached.cache_clear()


def test_without_rjieba_jieba_works_alone(forgetful, monkeypatch, caplog):
    described = segmenters.describe('jieba')
    segmenters._rjieba.cache_clear()
    segmenters._rjieba_is_jieba.cache_clear()
    monkeypatch.setitem(sys.modules, 'rjieba', None)
    with caplog.at_level('INFO'):
        assert segmenters.segmenter('jieba')('他来到网易杭研大厦') == ['他', '来到', '网易', '杭研', '大厦']
    assert 'pip install rjieba' in caplog.text
    assert segmenters.describe('jieba') == described
    with pytest.raises(ImportError, match='rjieba is not installed: pip install rjieba'):
        segmenters.segmenter('rjieba')


def test_versions_that_were_not_compared_are_not_mixed(forgetful, monkeypatch, caplog):
    monkeypatch.setattr(segmenters, 'COMPARED', {('0.42.1', '9.9')})
    assert segmenters.segmenter('jieba') is not segmenters._cut_fast
    assert 'has not been compared' in caplog.text and 'jieba==0.42.1 rjieba==9.9' in caplog.text
