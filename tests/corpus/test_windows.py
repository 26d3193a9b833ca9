"""Documents to windows: sentences, cutting, packing. Nothing is lost or too long, every window has two."""

from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as st

from input_pipeline.corpus import windows as corpus_windows
from input_pipeline.corpus.windows import Piece
from input_pipeline.text import segmenters
from input_pipeline.text import sentences as text_sentences
from input_pipeline.text.dual_tokenizer import Tokenizer
from input_pipeline.text.lexicon import Encoded
from input_pipeline.text.vocabulary import Vocabulary, read_tokens, word_key

BASE = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]', *'我爱北京天安门中国人学生，。！？、-a1', '##a', '##1']
WORDS = ['北京', '天安门', '中国', '中国人', '学生', '北京天安门', '中国人爱北京天安门', 'aa']
VOCABULARY = Vocabulary(BASE + WORDS, len(BASE))
PAUSES = frozenset(VOCABULARY.tokens.index(mark) for mark in '，、')

TOKENIZER = Tokenizer(VOCABULARY)
LEXICON = TOKENIZER.lexicon


def sentence(words: list[str]) -> Piece:
    return corpus_windows.piece(TOKENIZER.numbers(words), LEXICON)


# Sentences of words up to far beyond what a row holds.
words = st.sampled_from([*'我爱北，、。', *WORDS, '天学', '------', 'a1a1a1a1', '-' * 40])
pieces = st.lists(words, min_size=1, max_size=30).map(sentence)
lengths = st.integers(corpus_windows.SHORTEST, 48)


def views(piece: Piece) -> Encoded:
    return Encoded(*(column.tolist() for column in LEXICON.columns(piece.words)))


def spelling(parts) -> list[int]:
    """The character ids that the word view of sentences spells."""
    rows = chain.from_iterable(views(part).word_ids for part in parts)
    spelled = VOCABULARY.pieces()
    return [i for row in rows for i in (spelled[row - len(BASE)] if row >= len(BASE) else (row,))]


def check(parts, originals) -> None:
    """The parts have the characters of the originals in the same order, in both views."""
    chars = list(chain.from_iterable(views(part).char_ids for part in originals))
    assert list(chain.from_iterable(views(part).char_ids for part in parts)) == chars == spelling(parts)
    for part in parts:
        made = views(part)
        assert made.char_ids and sum(made.word_char_len) == len(made.char_ids) == part.chars
        assert len(made.word_char_len) == len(made.word_ids) == sum(made.whole_word_tokens) == part.tokens
        assert spelling([part]) == made.char_ids


# Sentences


@given(st.text(alphabet='我们。！？!?；…”」a=1 ，\n\u200b', max_size=60))
def test_sentences_are_the_paragraph(text):
    parts = list(text_sentences.sentences(text))
    assert ''.join(parts) == text.replace('\u200b', '')
    assert all(parts)
    assert text_sentences.sentences(text_sentences.END.join([text, '', text])) == parts * 2


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
    assert list(text_sentences.sentences(paragraph)) == expected


def test_endless_sentences_are_cut_at_a_pause():
    """A file without punctuation, or a 10 MB line, must not reach the segmenter whole."""
    parts = list(text_sentences.sentences('中' * 10_000 + '，' + '国' * 3_000))
    assert list(map(len, parts)) == [4096, 4096, 1809, 3000]
    assert parts[2].endswith('，')
    assert len(list(text_sentences.sentences('中' * 4096))) == 1


# Cutting


@given(pieces, st.integers(6, 20), st.integers(6, 20))
def test_pieces_fit_and_lose_nothing(whole, char_limit, word_limit):
    parts = corpus_windows.cut(whole, char_limit, word_limit, PAUSES, LEXICON)
    check(parts, [whole])
    assert max(part.chars for part in parts) <= char_limit
    assert max(part.tokens for part in parts) <= word_limit


def test_where_an_over_long_sentence_is_cut():
    """After the last pause that fits, else between words, else within a word."""

    def texts(words: list[str], char_limit: int, word_limit: int = 99) -> list[str]:
        parts = corpus_windows.cut(sentence(words), char_limit, word_limit, PAUSES, LEXICON)
        return [''.join(VOCABULARY.tokens[row] for row in views(part).char_ids) for part in parts]

    assert texts(['我', '，', '爱', '、', '北京', '天安门', '。'], 7) == ['我，爱、', '北京天安门。']
    assert texts(['我', '爱', '北京', '天安门', '。'], 6) == ['我爱北京', '天安门。']
    assert texts(['我', '爱', '北京天安门'], 9, 2) == ['我爱', '北京天安门']
    assert texts(['我', '------'], 4) == ['我---', '---']
    assert texts(['我', '中国人'], 4) == ['我中国人']
    whole = list(map(views, corpus_windows.cut(sentence(['北京天安门']), 2, 9, PAUSES, LEXICON)))
    assert [part.word_ids for part in whole] == [part.char_ids for part in whole]


# Packing


def pack(sentences: list[Piece], char_length: int, word_length: int) -> tuple[list[list[Piece]], int]:
    char_room, word_room = char_length - 3, word_length - 3
    limits = char_room // 2, word_room // 2
    parts = [part for whole in sentences for part in corpus_windows.cut(whole, *limits, PAUSES, LEXICON)]
    return corpus_windows.pack(parts, char_room, word_room, PAUSES, LEXICON) if len(parts) > 1 else ([], 0)


@given(st.lists(pieces, max_size=12), lengths, lengths)
def test_windows_fit_have_two_sentences_and_lose_nothing(sentences, char_length, word_length):
    windows, _ = pack(sentences, char_length, word_length)
    if not windows:
        assert len(sentences) <= 1
        return
    check(list(chain.from_iterable(windows)), sentences)
    for window in windows:
        assert len(window) >= 2 and min(part.tokens for part in window) > 0
        assert sum(part.chars for part in window) <= char_length - 3
        assert sum(part.tokens for part in window) <= word_length - 3


def plain(tokens: int) -> Piece:
    """A sentence of that many one-character words."""
    return sentence(['我'] * tokens)


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
    windows, _ = corpus_windows.pack(list(map(plain, sizes)), 12, 12, PAUSES, LEXICON)
    assert [[part.chars for part in window] for window in windows] == packed


def test_windows_closed_by_the_word_view_are_counted():
    sentences = [plain(5)] * 6
    assert corpus_windows.pack(sentences, 13, 13, PAUSES, LEXICON)[1] == 0
    assert corpus_windows.pack(sentences, 40, 13, PAUSES, LEXICON)[1] == 2


def test_a_lone_word_is_halved_into_its_tokens():
    """A title of one word, left alone by the sentence that the last window borrowed."""
    sentences = [sentence(['北京天安门']), plain(6), plain(6)]
    [first, second], _ = corpus_windows.pack(sentences, 12, 12, PAUSES, LEXICON)
    assert [views(part).word_ids for part in first] == [views(part).char_ids for part in first]
    assert [part.chars for part in first + second] == [3, 2, 6, 6] or [part.chars for part in first] == [2, 3]
    check([*first, *second], sentences)


# Documents


def test_documents(cut):
    tokenizer = Tokenizer(VOCABULARY)
    pauses = corpus_windows.pause_ids(tokenizer)
    assert pauses == PAUSES  # the others are not in this vocabulary

    def encode(*paragraphs: str) -> corpus_windows.Windows:
        return corpus_windows.encode_document(paragraphs, cut, tokenizer, pauses, 32, 32)

    assert encode() == encode('\u200b', ' ')._replace(characters=0) == corpus_windows.Windows([], 0, 0, 0)
    assert encode('我爱北京。') == corpus_windows.Windows([], 1, 5, 0)
    made = encode('我爱北京。我爱天安门！', '中国')
    assert (len(made.windows), made.sentences, made.characters) == (1, 3, 13)
    assert corpus_windows.record(made.windows[0])['sentence_words'] == [4, 4, 1]
    assert len(encode('我爱，' * 40).windows) > 2  # one sentence, but more than a row holds


@given(
    st.lists(st.lists(st.text('我爱北京。！，a1 -\u200b', max_size=60), max_size=4), max_size=6),
    lengths,
    lengths,
)
def test_documents_together_are_documents_one_by_one(cut, documents, char_length, word_length):
    """And a record is the two views of its sentences."""
    tools = cut, TOKENIZER, PAUSES, char_length, word_length
    together = corpus_windows.encode_documents(documents, *tools)
    alone = [corpus_windows.encode_document(document, *tools) for document in documents]
    for made, expected in zip(together, alone, strict=True):
        assert made[1:] == expected[1:]
        assert list(map(corpus_windows.record, made.windows)) == list(
            map(corpus_windows.record, expected.windows)
        )
        for record in map(corpus_windows.record, made.windows):
            assert sum(record['word_char_len']) == len(record['char_ids']) <= char_length - 3
            assert sum(record['sentence_words']) == len(record['word_ids']) <= word_length - 3
            assert sum(record['whole_word_tokens']) == len(record['word_ids']) == len(record['word_char_len'])
            assert len(record['sentence_words']) >= 2
    for document, made in zip(documents, together):
        chars = [i for line in document for i in TOKENIZER.encode(cut(line.replace('\u200b', ''))).char_ids]
        if made.windows:
            assert [i for window in made.windows for i in window.char_ids] == chars


def test_batches_of_documents():
    documents = [['我' * n] for n in (10, 70_000, 0, 5, 60_000, 5_600, 1)]
    batches = list(text_sentences.in_batches(documents, lambda document: document))
    assert list(chain.from_iterable(batches)) == documents and list(map(len, batches)) == [2, 4, 1]


def test_rows_too_short_are_refused():
    corpus_windows.check_lengths(16, 16)
    with pytest.raises(ValueError, match='word_length is 15.*16 or more'):
        corpus_windows.check_lengths(16, 15)


@pytest.mark.slow
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
    pauses = corpus_windows.pause_ids(tokenizer)
    assert len(pauses) == 6
    for document in documents:
        made = corpus_windows.encode_document(document, cut, tokenizer, pauses, *row)
        expected = [i for line in document for i in tokenizer.encode(cut(line)).char_ids]
        records = list(map(corpus_windows.record, made.windows))
        assert [i for record in records for i in record['char_ids']] == (expected if made.windows else [])
        assert made.windows or made.sentences < 2
        for record in records:
            assert len(record['char_ids']) <= row[0] - 3 and len(record['word_ids']) <= row[1] - 3
            assert len(record['sentence_words']) >= 2


@pytest.fixture(scope='module')
def cut() -> segmenters.Segment:
    return segmenters.segmenter('jieba')
