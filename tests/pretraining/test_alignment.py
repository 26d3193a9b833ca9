"""The two views spell the same text, and every mask and anchor is where it says, in real and nasty text."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.batches import make_config, records_of
from helpers.masking import check_batch, chosen_positions, ragged, unmask
from input_pipeline.corpus import record_source
from input_pipeline.corpus import windows as corpus_windows
from input_pipeline.pretraining import batches, loader, masking
from input_pipeline.text import constants, segmenters
from input_pipeline.text.dual_tokenizer import Tokenizer
from input_pipeline.text.vocabulary import is_chinese
from input_pipeline.utils.tensorflow import tf

NASTY = [
    *'[MASK] [CLS] [SEP] [PAD] [UNK] [unused1] ##的 [ ##'.split(),
    *'ＡＢＣ１２３ ，。！？ “引号” （全角） ３．１４ 12,345.67 2022年8月10日 50% C++ a_b-c Python'.split(),
    *'café naïve e\u0301 İstanbul ǅ ﬁ Привет я 한국어 ひらがな カタカナ ไทย http://a.b/c?d=e&f=g#h'.split(),
    *'繁體中文 學習 𠮷野家 㐀 龘 \U0002f800 \uf900 〇 々 ① ㈱ ½ 😀 👨\u200d👩\u200d👧 🇨🇳 ❤\ufe0f'.split(),
    *('\u200b', '\ufeff', '\u3000', '\u202e', '\t', ' ', '\n', '\x00', '\x7f', '\ufffd', '\ue000'),
    *('a' * 300, '的' * 300, '1' * 300, '哈' * 101, 'é' * 100, '。' * 40),
    *'。 ！ ？ …… ； ， !? ”'.split(),
]
PLAIN = '我们 因为 老师 时间 中国 孩子 一个 没有 可以 图书馆 的 是 了'.split()


def check_alignment(records, batch, vocabulary, char_length, word_length):
    """What `check_batch` checks against the records; and that views and anchors spell the same text."""
    check_batch(records, batch, char_length, word_length, vocabulary=vocabulary)
    pieces = [(row,) for row in range(vocabulary.base_size)] + vocabulary.pieces()
    for b in range(len(records)):
        chars, words = unmask(batch, 'char', b), unmask(batch, 'word', b)
        num_chars, num_words = np.count_nonzero(chars), np.count_nonzero(words)
        spelled = list(itertools.chain.from_iterable(pieces[row] for row in words[:num_words]))
        assert spelled == chars[:num_chars]

        masked_chars, masked_words = (set(chosen_positions(batch, view, b)) for view in ('char', 'word'))
        anchors = zip(
            *(batch[f'anchor_{name}'][b] for name in ('ids', 'word_position', 'char_start', 'char_length')),
            strict=True,
        )
        for row, position, start, length in anchors:
            if not length:
                continue
            word, span = vocabulary.tokens[row], range(start, start + length)
            assert ''.join(vocabulary.tokens[chars[p]] for p in span) == word
            assert 2 <= len(word) == length <= 4 and all(map(is_chinese, word))
            assert position < num_words and span.stop <= num_chars
            assert position not in masked_words and masked_chars.isdisjoint(span)
            assert batch['word_ids'][b, position] == row
            assert batch['char_ids'][b, start : span.stop].tolist() == chars[start : span.stop]


@pytest.fixture(scope='module')
def tools(tmp_path_factory):
    """Segmenter, tokenizer and pauses for the vocabulary of the embedded text."""
    config = batches.resolve(make_config(text='embedded'), tmp_path_factory.mktemp('embedded'))
    tokenizer = Tokenizer(batches.vocabulary(config))
    return segmenters.segmenter('jieba'), tokenizer, corpus_windows.pause_ids(tokenizer)


def documents():
    """Lists of documents, each of two sentences or more in which plain words and nasty pieces mix."""
    piece = st.sampled_from(PLAIN) | st.sampled_from(NASTY) | st.text(max_size=6)
    sentence = st.lists(piece, min_size=4, max_size=20).map(lambda pieces: ''.join(pieces) + '。')
    return st.lists(st.lists(sentence, min_size=2, max_size=6).map(''.join), min_size=1, max_size=3)


@pytest.mark.slow
@given(
    texts=documents(),
    lengths=st.sampled_from([(32, 24), (64, 48), (160, 160)]),
    seed=st.integers(0, 2**63 - 1),
)
def test_nasty_text(tools, texts, lengths, seed):
    tokenizer = tools[1]
    windows = []
    for text in texts:
        windows += corpus_windows.encode_document([text], *tools, *lengths).windows
    records = [corpus_windows.record(window) for window in windows]
    batch = masking.make_batch(
        ragged(records),
        tf.range(len(records), dtype=tf.int64),
        vocabulary=tokenizer.vocabulary,
        seed=seed,
        char_length=lengths[0],
        word_length=lengths[1],
    )
    batch = {name: value.numpy() for name, value in batch.items()}
    check_alignment(records, batch, tokenizer.vocabulary, *lengths)


@pytest.fixture(scope='module')
def real(data_dir, tmp_path_factory):
    """A config on a corpus of pages from the middle of each file of real text, and BERT's own vocabulary."""
    folder = tmp_path_factory.mktemp('real')
    for path in sorted((data_dir / 'pretrain').glob('*.txt')):
        data = path.read_bytes()
        lines = data[len(data) // 2 : len(data) // 2 + 60_000].split(b'\n')
        (folder / path.name).write_bytes(b'\n'.join(lines[1:-1]))  # the first and the last are cut
    config = make_config(
        text=str(folder / '*.txt'),
        base_vocab=str(data_dir / 'vocab' / 'bert_base_chinese_vocab.txt'),
        num_words=8000,
        char_length=256,
        word_length=192,
        validation_fraction=0.3,
    )
    return batches.resolve(config, folder / 'run')


@pytest.mark.slow
def test_real_text(real):
    vocabulary = batches.vocabulary(real)
    size = len(record_source.open_split(real.data.corpus, 'train'))
    numbers = loader.record_numbers(np.arange(size), size, real.seed).numpy()
    seen = []
    for step, batch in enumerate(itertools.islice(batches.batches(real), size // real.batch_size)):
        drawn = numbers[step * real.batch_size : (step + 1) * real.batch_size]
        check_alignment(records_of(real, 'train', drawn), batch, vocabulary, 256, 192)
        seen.append((batch['anchor_char_length'] > 0).sum(axis=1))
    assert np.mean(seen) > 10  # of 20: real text is full of words

    passes = list(batches.batches(real, split='validation'))
    whole = {name: np.concatenate([batch[name] for batch in passes]) for name in passes[0]}
    check_alignment(records_of(real, 'validation'), whole, vocabulary, 256, 192)


@pytest.mark.slow
def test_real_text_fills_the_budget(real):
    """15 % of the tokens, to the token in the word view and to a word in the character view."""
    passes = list(batches.batches(real, split='validation'))
    shares = {}
    for view in ('char', 'word'):
        ids = np.concatenate([batch[f'{view}_ids'] for batch in passes])
        labels = np.concatenate([batch[f'{view}_mlm_labels'] for batch in passes])
        tokens = np.maximum((ids != 0).sum(axis=1) - 3, 0)
        shares[view] = (labels != constants.IGNORED_LABEL).sum() / tokens.sum()
    assert shares['char'] == pytest.approx(0.15, abs=0.002)
    assert shares['word'] == pytest.approx(0.15, abs=0.002)
