"""Segmenters, vocabulary files, the two views: characters are BERT's own, words spell the same characters."""

import json
import marshal
import os
import subprocess
import sys
from itertools import accumulate

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import BertWordPieceTokenizer

from helpers.tokenizer import BASE, NASTY, SPECIALS, nasty_text
from input_pipeline.text import dual_tokenizer, lexicon, segmenters
from input_pipeline.text import vocabulary as text_vocabulary
from input_pipeline.text.dual_tokenizer import Tokenizer
from input_pipeline.text.vocabulary import Vocabulary, is_chinese, read_tokens, word_key

WORDS = ['北京', '天安门', '中国', '中国人', '学生', '龍後', 'abca', 'cafea', '2022', '北京天安门', 'a，']


def bert_ids(base: list[str], texts: list[str]) -> list[list[int]]:
    """What BERT's own tokenizer makes of texts. A space in '[MASK]' stops it from seeing a special token."""
    bert = BertWordPieceTokenizer({token: row for row, token in enumerate(base)})
    for special in SPECIALS:
        texts = [text.replace(special, f'[ {special[1:]}') for text in texts]
    return [encoding.ids for encoding in bert.encode_batch(texts, add_special_tokens=False)]


def check_views(vocabulary: Vocabulary, encoded: lexicon.Encoded) -> None:
    """The invariants of an Encoded, and that the word view spells the character view."""
    assert sum(encoded.word_char_len) == len(encoded.char_ids)
    assert sum(encoded.whole_word_tokens) == len(encoded.word_ids) == len(encoded.word_char_len)
    assert all(n > 0 for n in [*encoded.word_char_len, *encoded.whole_word_tokens])
    assert all(row < vocabulary.base_size for row in encoded.char_ids)
    pieces = vocabulary.pieces()
    for row, n, stop in zip(encoded.word_ids, encoded.word_char_len, accumulate(encoded.word_char_len)):
        spelling = pieces[row - vocabulary.base_size] if row >= vocabulary.base_size else (row,)
        assert tuple(encoded.char_ids[stop - n : stop]) == spelling


@pytest.fixture(scope='module')
def tiny() -> Tokenizer:
    return Tokenizer(Vocabulary(BASE + WORDS, len(BASE)))


@pytest.fixture(scope='module', params=segmenters.SEGMENTERS)
def cut(request) -> segmenters.Segment:
    if request.param == 'rjieba':
        pytest.importorskip('rjieba')
    return segmenters.segmenter(request.param)


# Segmenters


@given(nasty_text)
def test_words_spell_the_text(cut, text):
    assert ''.join(cut(text)) == text


def test_segmenters_agree_on_chinese_and_take_hmm():
    pytest.importorskip('rjieba')
    for hmm, words in (
        (True, ['他', '来到', '网易', '杭研', '大厦']),
        (False, ['他', '来到', '网易', '杭', '研', '大厦']),
    ):
        assert segmenters.segmenter('jieba', hmm)('他来到网易杭研大厦') == words
        assert segmenters.segmenter('rjieba', hmm)('他来到网易杭研大厦') == words


def test_jieba_is_quiet_and_ignores_a_cache_left_by_others(tmp_path):
    """jieba itself loads any jieba.cache in the temporary folder."""
    (tmp_path / 'jieba.cache').write_bytes(marshal.dumps(({'北': 9, '北京大': 9}, 18)))
    code = (
        "from input_pipeline.text import segmenters as segment; print(segment.segmenter('jieba')('北京大学'))"
    )
    environment = os.environ | {'TMPDIR': str(tmp_path)}
    ran = subprocess.run(
        [sys.executable, '-W', 'error', '-c', code], env=environment, capture_output=True, text=True
    )
    assert (ran.stdout, ran.stderr) == ("['北京大学']\n", '')


def test_descriptions_name_the_dictionary():
    described = segmenters.describe('jieba', hmm=False)
    assert described['name'] == 'jieba' and described['hmm'] is False
    assert len(described['dictionary_sha256']) == 64
    with pytest.raises(ValueError, match='no segmenter.*jieba, rjieba'):
        segmenters.describe('pkuseg')


# The two views


@given(nasty_text)
@example('caf' + 'é' + 'привет')
@example('a\u200bb\u0301c中\u200b国')
@example('ab' * 51 + 'é' * 101)
@example('😀👩‍👩‍👧２０２２')
def test_characters_are_berts_and_words_spell_them(cut, tiny, text):
    encoded = tiny.encode(cut(text))
    assert encoded.char_ids == bert_ids(BASE, [text])[0]
    check_views(tiny.vocabulary, encoded)


@given(st.lists(st.sampled_from(NASTY) | st.text(min_size=1, max_size=3), max_size=12))
def test_whatever_the_segmentation(tiny, words):
    """Even with words that no segmenter makes, boundaries within letters and combining marks included."""
    encoded = tiny.encode(words)
    assert encoded.char_ids == bert_ids(BASE, [''.join(words)])[0]
    check_views(tiny.vocabulary, encoded)


@pytest.mark.slow
def test_real_text_with_berts_vocabulary(data_dir, cut):
    base = read_tokens(data_dir / 'vocab/bert_base_chinese_vocab.txt')
    assert len(base) == 21128
    lines = []
    for file in sorted((data_dir / 'pretrain').glob('*.txt')):
        with file.open(encoding='utf-8') as stream:
            lines += stream.read(30_000).split('\n')
    words = sorted({word_key(word) for line in lines[::2] for word in cut(line)} - set(base) - {''})
    vocabulary = Vocabulary(base + words, len(base))
    both_views = Tokenizer(vocabulary)
    for line, ids in zip(lines, bert_ids(base, lines), strict=True):
        encoded = both_views.encode(cut(line))
        assert encoded.char_ids == ids
        check_views(vocabulary, encoded)


def test_words_of_one_script_are_spelled_as_the_library_spells_them():
    """Without it: every ideograph of the plain range, half of them unknown, and Latin words."""
    ideographs = [chr(code) for code in range(0x4E00, 0xA000)]
    base = [*BASE, *(c for c in ideographs[::2] if c not in BASE)]
    vocabulary = Vocabulary(base, len(base))
    words = [
        *map(''.join, zip(ideographs, ideographs[1:])),
        *'a A Abc aBCa 1a xyz'.split(),
        'ab' * 50,
        'a' * 101,
    ]
    expected = vocabulary.wordpiece.encode_batch(words, add_special_tokens=False)
    assert list(map(vocabulary.spell, words)) == [tuple(encoding.ids) for encoding in expected]
    assert all(word_key(word) == word for word in words[: len(ideographs) - 1])


def test_words_of_every_kind(tiny):
    """In the vocabulary, one base token, out of the vocabulary, and without tokens."""
    rows = {token: row for row, token in enumerate(tiny.vocabulary.tokens)}
    encoded = tiny.encode(['我', '爱', ' ', '北京', '，', '学人生', '\u200b', 'ABCA'])
    assert [tiny.vocabulary.tokens[row] for row in encoded.word_ids] == [*'我爱', '北京', *'，学人生', 'abca']
    assert encoded.word_char_len == [1, 1, 2, 1, 1, 1, 1, 2]
    assert encoded.whole_word_tokens == [1, 1, 1, 1, 3, 1]
    assert encoded.char_ids == [rows[t] for t in [*'我爱北京，学人生', 'abc', '##a']]
    assert tiny.encode([]) == lexicon.Encoded([], [], [], [])


def test_joined_words_are_what_encode_sees(tiny):
    assert tiny.join(['我', 'caf', 'é', 'п', 'р', '，', '\u200b', '北京']) == [
        '我',
        'caféпр',
        '，',
        '\u200b',
        '北京',
    ]
    assert tiny.join(['我', '们']) == ['我', '们'] and tiny.join([]) == []


def test_special_tokens_in_the_text_are_text(tiny):
    encoded = tiny.encode(['我', '[', 'MASK', ']', '[PAD]'])
    assert [tiny.vocabulary.tokens[row] for row in encoded.char_ids] == [
        '我',
        '[',
        'ma',
        '##sk',
        ']',
        '[',
        '[UNK]',
        ']',
    ]


def test_the_memo_is_bounded(tiny, monkeypatch):
    """Too many words are forgotten before the next sentence, and met again then."""
    monkeypatch.setattr(dual_tokenizer, '_MEMO_CHARACTERS', 3)
    small = Tokenizer(tiny.vocabulary)
    words = ['我', '北京', '天安门', '爱', '北京', 'a' * 300, '学生']
    for _ in range(2):
        assert small.encode(words) == tiny.encode(words)
        assert len(small.lexicon) == len(set(words))
        assert small.encode(['我']) == tiny.encode(['我']) and len(small.lexicon) == 1


# The vocabulary


@pytest.mark.slow
def test_is_chinese_is_what_the_library_sets_apart():
    """Asked of the library for every code point: it puts a space on both sides of an ideograph."""
    codes = [code for code in range(0x110000) if not 0xD800 <= code < 0xE000 and chr(code) != '|']
    lines = text_vocabulary.NORMALIZER.normalize_str(''.join(f'<{chr(code)}>|' for code in codes)).split('|')
    chinese = [code for code in codes if is_chinese(chr(code))]
    apart = [code for code, line in zip(codes, lines) if len(line) == 5 and line[1] == line[3] == ' ']
    assert len(chinese) > 80_000 and chinese == apart


def test_masks_and_random_ids(tiny):
    vocabulary = tiny.vocabulary
    anchors = vocabulary.anchor_mask()
    assert anchors.dtype == bool and anchors.shape == (len(vocabulary),)
    assert [vocabulary.tokens[row] for row in np.flatnonzero(anchors)] == [
        '北京',
        '天安门',
        '中国',
        '中国人',
        '学生',
        '龍後',
    ]
    for base_only in (True, False):
        ids = vocabulary.random_ids(base_only)
        chosen = {vocabulary.tokens[row] for row in ids}
        assert ids.dtype == np.int32 and not chosen & {*SPECIALS, '[unused1]'} and {'[', ']', '我'} <= chosen
        assert ('北京' in chosen) != base_only


def test_repeated_base_rows_keep_their_ids(tmp_path):
    """The later of two equal rows is in use, as in BERT."""
    base = [*SPECIALS, '我', '爱', '我', '', '爱']
    vocabulary = Vocabulary([*base, '爱我'], len(base))
    vocabulary.save(tmp_path / 'vocab.txt')
    assert Vocabulary.load(tmp_path / 'vocab.txt').tokens == [*base, '爱我']
    assert Tokenizer(vocabulary).encode(['我']).char_ids == [7] == bert_ids(base, ['我'])[0]
    assert vocabulary.pieces() == [(9, 7)]


def test_files_come_back(tiny, tmp_path):
    vocabulary = Vocabulary(tiny.vocabulary.tokens, len(BASE), {'segmenter': {'name': 'jieba'}})
    path = tmp_path / 'new' / 'vocab.txt'
    vocabulary.save(path)
    again = Vocabulary.load(path)
    assert (again.tokens, again.base_size, again.details) == (
        vocabulary.tokens,
        len(BASE),
        vocabulary.details,
    )
    assert (
        again.sha256() == vocabulary.sha256() == json.loads(path.with_suffix('.json').read_text())['sha256']
    )
    assert path.read_bytes().decode().split('\n')[: len(BASE)] == BASE
    assert (again.pad, again.unk, again.cls, again.sep, again.mask) == (0, 1, 2, 3, 4)


def test_a_vocabulary_without_its_own_sidecar_is_refused(tiny, tmp_path):
    path = tmp_path / 'vocab.txt'
    tiny.vocabulary.save(path)
    sidecar = path.with_suffix('.json')
    text = sidecar.read_text()
    sidecar.unlink()
    with pytest.raises(ValueError, match='vocab.json is missing.*--base_vocab'):
        Vocabulary.load(path)
    for wrong in (
        '{"base_size": 3}',
        '{"base_size": 1e999, "sha256": ""}',
        '{"base_size": 3.5, "sha256": ""}',
    ):
        sidecar.write_text(wrong)
        with pytest.raises(ValueError, match='vocab.json is no vocabulary sidecar.*build_vocab'):
            Vocabulary.load(path)
    sidecar.write_text(text)
    with path.open('a') as file:
        file.write('学人\n')
    with pytest.raises(ValueError, match='vocab.json belongs to another vocabulary'):
        Vocabulary.load(path)
    path.write_bytes('[PAD]\n我\n'.encode() + b'\xff\n')
    with pytest.raises(ValueError, match='vocab.txt:3: not UTF-8'):
        Vocabulary.load(path)
    with pytest.raises(FileNotFoundError, match='none.txt is missing.*build_vocab'):
        Vocabulary.load(tmp_path / 'none.txt')


def test_a_byte_order_mark_is_no_token(tmp_path):
    (tmp_path / 'bert.txt').write_text('\ufeff[PAD]\n我\n', encoding='utf-8')
    assert read_tokens(tmp_path / 'bert.txt') == ['[PAD]', '我']


@pytest.mark.parametrize(
    ('tokens', 'base_size', 'message'),
    [
        (['[UNK]', '[PAD]', '[CLS]', '[SEP]', '[MASK]'], 5, r'\[PAD\] must be row 0 \(line 1\).*line 2'),
        (SPECIALS[:4], 4, r'no \[MASK\]'),
        ([*SPECIALS, '我', '我们', '我们'], 6, "line 8.*'我们'"),
        ([*SPECIALS, '我', '我们', '我'], 6, "line 8.*'我'"),
        ([*SPECIALS, '我', ''], 6, "line 7.*''"),
        (SPECIALS, 6, 'base_size 6'),
    ],
)
def test_impossible_vocabularies_are_refused(tokens, base_size, message):
    with pytest.raises(ValueError, match=message):
        Vocabulary(tokens, base_size)
