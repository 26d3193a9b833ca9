"""The word tokenizer gives the ids that pre-training reads."""

import json
import re

import numpy as np
import pytest

from clower_jax.export.bert_folder import export
from helpers import workdirs
from input_pipeline.corpus import windows
from input_pipeline.text import segmenters
from input_pipeline.text.dual_tokenizer import Tokenizer
from input_pipeline.text.vocabulary import Vocabulary, read_tokens
from input_pipeline.text.word_tokenizer import WordTokenizer

BASE = workdirs.BASE
CLS, SEP = BASE.index('[CLS]'), BASE.index('[SEP]')


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp('word')
    workdirs.make(path / 'run', 'pretrain')
    return export(path / 'run', path / 'words', encoder='word')


@pytest.fixture(scope='module')
def tokenizer(folder):
    return WordTokenizer.load(folder)


def record_ids(vocabulary: Vocabulary, paragraphs: list[str]) -> list[int]:
    """What the corpus builder makes of a document, in windows of any number."""
    tokenizer = Tokenizer(vocabulary)
    document = windows.encode_document(
        paragraphs, segmenters.segmenter('jieba'), tokenizer, windows.pause_ids(tokenizer), 32, 24
    )
    return [i for window in document.windows for i in windows.record(window)['word_ids']]


def test_the_ids_are_those_of_pre_training(tokenizer):
    text = '我们去公园！今天，天气很好…打电话用iPhone？\n长江有多长\u200b？龘Café Wi-Fi。不\u2028喜欢手机；'
    ids = tokenizer.tokens(text)
    assert ids == record_ids(tokenizer.vocabulary, text.split('\n'))
    tokens = [tokenizer.vocabulary.tokens[i] for i in ids]
    assert {'公园', 'iphone', '[UNK]'} <= set(tokens)


def test_the_ids_on_real_text(data_dir):
    base = read_tokens(data_dir / 'vocab' / 'bert_base_chinese_vocab.txt')
    text = (data_dir / 'pretrain' / 'wiki_zh_sample.txt').read_text('utf-8')[:20_000]
    cut = segmenters.segmenter('jieba')
    words = [word for word in cut(text) if re.fullmatch('[\u4e00-\u9fff]{2,4}', word)]
    vocabulary = Vocabulary([*base, *dict.fromkeys(words)], len(base))
    paragraphs = [line.strip() for line in text.split('\n')]
    ids = WordTokenizer(vocabulary, cut).tokens(text)
    assert ids == record_ids(vocabulary, paragraphs)
    assert np.mean(np.array(ids) >= len(base)) > 0.2


def test_a_batch(tokenizer):
    batch = tokenizer(['我们去公园。', '长江'])
    words = ['我们', '去', '公园', '。']
    ids = [tokenizer.vocabulary.tokens.index(word) for word in (*words, '长江')]
    np.testing.assert_array_equal(batch['input_ids'], [[CLS, *ids[:4], SEP], [CLS, ids[4], SEP, 0, 0, 0]])
    np.testing.assert_array_equal(batch['attention_mask'], [[1] * 6, [1] * 3 + [0] * 3])
    assert not batch['token_type_ids'].any()
    assert all(array.dtype == np.int64 for array in batch.values())
    assert tokenizer('长江')['input_ids'].shape == (1, 3)
    assert tokenizer(['长江'], padding='max_length', max_length=9)['attention_mask'].sum(axis=1) == 3
    assert tokenizer([])['input_ids'].shape == (0, 0)


def test_pairs(tokenizer):
    batch = tokenizer(['长江有多长？', '长江'], ['公园', '我们去公园'])
    for row in range(2):
        ids = batch['input_ids'][row]
        second = np.cumsum(ids == SEP) - (ids == SEP) == 1
        np.testing.assert_array_equal(batch['token_type_ids'][row], second & (ids != 0))
        assert (ids == SEP).sum() == 2 and ids[0] == CLS


def test_what_is_too_long_is_cut_and_counted(tokenizer, caplog):
    first, second = '长江有多长', '我们去公园'
    a, b = tokenizer.tokens(first), tokenizer.tokens(second)
    caplog.set_level('WARNING', 'input_pipeline')
    batch = tokenizer([first, '长江'], max_length=4)
    np.testing.assert_array_equal(batch['input_ids'][0], [CLS, *a[:2], SEP])
    assert '1 of 2 texts were cut to 4 tokens' in caplog.text
    assert len(a) > len(b) == 3
    for room in range(2, len(a) + len(b) + 1):
        ids = tokenizer([first], [second], max_length=room + 3)['input_ids'][0]
        kept_a, kept_b = len(a), len(b)
        while kept_a + kept_b > room:  # BERT's own way
            kept_a, kept_b = (kept_a - 1, kept_b) if kept_a > kept_b else (kept_a, kept_b - 1)
        np.testing.assert_array_equal(ids, [CLS, *a[:kept_a], SEP, *b[:kept_b], SEP])


def test_errors(tokenizer, folder, tmp_path):
    with pytest.raises(ValueError, match='2 texts and 1 pairs'):
        tokenizer(['a', 'b'], ['c'])
    with pytest.raises(ValueError, match='max_length is 3'):
        tokenizer(['a'], ['c'], max_length=3)
    with pytest.raises(ValueError, match="padding is False; it must be True or 'max_length'"):
        tokenizer(['a'], padding=False)
    with pytest.raises(FileNotFoundError, match='only a folder with word rows has one .*--encoder word'):
        WordTokenizer.load(tmp_path)
    for name in ('word_vocab.txt', 'word_vocab.json'):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    sidecar = json.loads((tmp_path / 'word_vocab.json').read_text('utf-8'))
    (tmp_path / 'word_vocab.json').write_text(json.dumps(sidecar | {'sha256': '0'}))
    with pytest.raises(ValueError, match='belongs to another vocabulary'):
        WordTokenizer.load(tmp_path)
