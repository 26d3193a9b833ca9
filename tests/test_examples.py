"""Documents to windows: sentences, cutting, packing. Nothing is lost or too long, every window has two."""

from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as st

from input_pipeline import examples, segment
from input_pipeline.tokenizer import Encoded, Tokenizer, Vocabulary, read_tokens, word_key

BASE = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]', *'我爱北京天安门中国人学生，。！？、-a1', '##a', '##1']
WORDS = ['北京', '天安门', '中国', '中国人', '学生', '北京天安门', '中国人爱北京天安门', 'aa']
VOCABULARY = Vocabulary(BASE + WORDS, len(BASE))
PAUSES = frozenset(VOCABULARY.tokens.index(mark) for mark in '，、')

# Sentences as lists of words, up to far beyond what a row holds.
words = st.sampled_from([*'我爱北，、。', *WORDS, '天学', '------', 'a1a1a1a1', '-' * 40])
encoded = st.lists(words, min_size=1, max_size=30).map(Tokenizer(VOCABULARY).encode)
lengths = st.integers(examples.SHORTEST, 48)


def spelling(parts) -> list[int]:
    """The character ids that the word view of sentences spells."""
    rows = chain.from_iterable(part.word_ids for part in parts)
    pieces = VOCABULARY.pieces()
    return [i for row in rows for i in (pieces[row - len(BASE)] if row >= len(BASE) else (row,))]


def check(parts, originals) -> None:
    """The parts have the characters of the originals in the same order, in both views."""
    chars = list(chain.from_iterable(part.char_ids for part in originals))
    assert list(chain.from_iterable(part.char_ids for part in parts)) == chars == spelling(parts)
    for part in parts:
        assert part.char_ids and sum(part.word_char_len) == len(part.char_ids)
        assert len(part.word_char_len) == len(part.word_ids) == sum(part.whole_word_tokens)
        assert spelling([part]) == part.char_ids


# Sentences


@given(st.text(alphabet='我们。！？!?；…”」a=1 ，\n\u200b', max_size=60))
def test_sentences_are_the_paragraph(text):
    parts = list(examples.sentences(text))
    assert ''.join(parts) == text.replace('\u200b', '')
    assert all(parts)


@pytest.mark.parametrize(
    ('paragraph', 'expected'),
    [
        ('今天好。明天呢？走！', ['今天好。', '明天呢？', '走！']),
        ('他说：“好。”我走了……然后；没了', ['他说：“好。”', '我走了……', '然后；', '没了']),
        ('真的吗？！（是的。）好', ['真的吗？！', '（是的。）', '好']),
        ('看 http://a.com/?q=1 和 a!=b 吧!好', ['看 http://a.com/?q=1 和 a!=b 吧!', '好']),
        ('一行', ['一行']),
        ('', []),
        ('\u200b\ufeff', []),
        ('北\u200b京', ['北京']),
    ],
)
def test_where_sentences_end(paragraph, expected):
    assert list(examples.sentences(paragraph)) == expected


def test_endless_sentences_are_cut_at_a_pause():
    """A file without punctuation, or a 10 MB line, must not reach the segmenter whole."""
    parts = list(examples.sentences('中' * 10_000 + '，' + '国' * 3_000))
    assert list(map(len, parts)) == [4096, 4096, 1809, 3000]
    assert parts[2].endswith('，')
    assert len(list(examples.sentences('中' * 4096))) == 1


# Cutting


@given(encoded, st.integers(6, 20), st.integers(6, 20))
def test_pieces_fit_and_lose_nothing(sentence, char_limit, word_limit):
    pieces = examples.cut(sentence, char_limit, word_limit, PAUSES)
    check(pieces, [sentence])
    assert max(len(piece.char_ids) for piece in pieces) <= char_limit
    assert max(len(piece.word_ids) for piece in pieces) <= word_limit


def test_where_an_over_long_sentence_is_cut():
    """After the last pause that fits, else between words, else within a word."""

    def texts(words: list[str], char_limit: int, word_limit: int = 99) -> list[str]:
        pieces = examples.cut(Tokenizer(VOCABULARY).encode(words), char_limit, word_limit, PAUSES)
        return [''.join(VOCABULARY.tokens[row] for row in piece.char_ids) for piece in pieces]

    assert texts(['我', '，', '爱', '、', '北京', '天安门', '。'], 7) == ['我，爱、', '北京天安门。']
    assert texts(['我', '爱', '北京', '天安门', '。'], 6) == ['我爱北京', '天安门。']
    assert texts(['我', '爱', '北京天安门'], 9, 2) == ['我爱', '北京天安门']
    assert texts(['我', '------'], 4) == ['我---', '---']
    assert texts(['我', '中国人'], 4) == ['我中国人']
    whole = examples.cut(Tokenizer(VOCABULARY).encode(['北京天安门']), 2, 9, PAUSES)
    assert [piece.word_ids for piece in whole] == [piece.char_ids for piece in whole]


# Packing


def pack(sentences: list[Encoded], char_length: int, word_length: int) -> tuple[list[list[Encoded]], int]:
    char_room, word_room = char_length - 3, word_length - 3
    pieces = [piece for s in sentences for piece in examples.cut(s, char_room // 2, word_room // 2, PAUSES)]
    return examples.pack(pieces, char_room, word_room, PAUSES) if len(pieces) > 1 else ([], 0)


@given(st.lists(encoded, max_size=12), lengths, lengths)
def test_windows_fit_have_two_sentences_and_lose_nothing(sentences, char_length, word_length):
    windows, _ = pack(sentences, char_length, word_length)
    if not windows:
        assert len(sentences) <= 1
        return
    check(list(chain.from_iterable(windows)), sentences)
    for window in windows:
        record = examples.record(window)
        assert len(window) == len(record['sentence_words']) >= 2 and min(record['sentence_words']) > 0
        assert len(record['char_ids']) <= char_length - 3
        assert len(record['word_ids']) <= word_length - 3
        assert sum(record['sentence_words']) == len(record['word_ids']) == len(record['word_char_len'])
        assert sum(record['word_char_len']) == len(record['char_ids'])
        assert sum(record['whole_word_tokens']) == len(record['word_ids'])


def plain(tokens: int) -> Encoded:
    """A sentence of that many one-character words."""
    return Encoded([5] * tokens, [5] * tokens, [1] * tokens, [1] * tokens)


@pytest.mark.parametrize(
    ('sizes', 'packed'),
    [
        ([5, 5], [[5, 5]]),
        ([3, 3, 3, 6, 4], [[3, 3, 3], [6, 4]]),
        ([3, 3, 3, 6], [[3, 3], [3, 6]]),  # the last one borrows
        ([3, 3, 3, 6, 6, 6], [[3, 3], [3, 6], [6, 6]]),  # and the one before it too
        ([6, 6, 6], [[3, 3], [6, 6]]),  # nobody can lend: a sentence is cut
        ([1, 6, 6, 6, 6], [[1, 3], [3, 6], [6, 6]]),  # the first has one token: the second is cut
        ([6, 1, 6], [[3, 3], [1, 6]]),
    ],
)
def test_the_last_window_is_not_left_with_one_sentence(sizes, packed):
    windows, _ = examples.pack(list(map(plain, sizes)), 12, 12, PAUSES)
    assert [[len(sentence.char_ids) for sentence in window] for window in windows] == packed


def test_windows_closed_by_the_word_view_are_counted():
    sentences = [plain(5)] * 6
    assert examples.pack(sentences, 13, 13, PAUSES)[1] == 0
    assert examples.pack(sentences, 40, 13, PAUSES)[1] == 2


# Documents


def test_documents(cut):
    tokenizer = Tokenizer(VOCABULARY)
    pauses = examples.pause_ids(tokenizer)
    assert pauses == PAUSES  # the others are not in this vocabulary

    def encode(*paragraphs: str) -> examples.Windows:
        return examples.encode_document(paragraphs, cut, tokenizer, pauses, 32, 32)

    assert encode() == encode('\u200b', ' ')._replace(characters=0) == examples.Windows([], 0, 0, 0)
    assert encode('我爱北京。') == examples.Windows([], 1, 5, 0)
    made = encode('我爱北京。我爱天安门！', '中国')
    assert (len(made.windows), made.sentences, made.characters) == (1, 3, 13)
    assert examples.record(made.windows[0])['sentence_words'] == [4, 4, 1]
    assert len(encode('我爱，' * 40).windows) > 2  # one sentence, but more than a row holds


def test_rows_too_short_are_refused():
    examples.check_lengths(16, 16)
    with pytest.raises(ValueError, match='word_length is 15.*16 or more'):
        examples.check_lengths(16, 15)


@pytest.mark.parametrize('row', [(512, 384), (64, 32)])
def test_real_text(data_dir, cut, row):
    base = read_tokens(data_dir / 'vocab/bert_base_chinese_vocab.txt')
    documents = []
    for file in sorted((data_dir / 'pretrain').glob('*.txt')):
        with file.open(encoding='utf-8') as stream:
            documents += [document.split('\n') for document in stream.read(30_000).split('\n\n')]
    words = {word_key(word) for lines in documents[::2] for line in lines for word in cut(line)}
    vocabulary = Vocabulary(base + sorted(words - {'', *base}), len(base))
    tokenizer = Tokenizer(vocabulary)
    pauses = examples.pause_ids(tokenizer)
    assert len(pauses) == 6
    for document in documents:
        made = examples.encode_document(document, cut, tokenizer, pauses, *row)
        expected = [i for line in document for i in tokenizer.encode(cut(line)).char_ids]
        records = list(map(examples.record, made.windows))
        assert [i for record in records for i in record['char_ids']] == (expected if made.windows else [])
        assert made.windows or made.sentences < 2
        for record in records:
            assert len(record['char_ids']) <= row[0] - 3 and len(record['word_ids']) <= row[1] - 3
            assert len(record['sentence_words']) >= 2


@pytest.fixture(scope='module')
def cut() -> segment.Segment:
    return segment.segmenter('jieba')
