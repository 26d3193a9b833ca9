"""Data of ML-CTL: words of any language, alignments from files, pairs divided by their texts."""

import logging
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ml_collections import ConfigDict

from configs import mlctl
from input_pipeline.features.buckets import Planned
from input_pipeline.sentence_vectors import mlctl as finetuning_mlctl
from input_pipeline.sentence_vectors import sentences, word_alignment
from input_pipeline.sentence_vectors.sentence_eval import Retrieval
from input_pipeline.sentence_vectors.sentences import Pair
from input_pipeline.text.segmenters import segmenter
from input_pipeline.text.vocabulary import Vocabulary, basic_tokens

SPECIAL = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]']
TOKENS = [
    *SPECIAL,
    *'我们爱北京天安门你好abcdefghijklmnopqrstuvwxyz.,!',
    '##e',
    '##s',
    'lov',
    'we',
    'beijing',
    'hi',
]
SEGMENT = segmenter('jieba')


@pytest.fixture(scope='module')
def vocabulary():
    return Vocabulary(TOKENS, len(TOKENS))


def numbers(text, vocabulary):
    encoding = vocabulary.wordpiece.encode(text, add_special_tokens=False)
    return encoding.tokens, word_alignment.word_numbers(text, encoding, SEGMENT).tolist()


# ---- words ----


@pytest.mark.parametrize(
    ('text', 'words'),
    [
        ('我们爱北京。', ['我们', '爱', '北京', '。']),
        ("Don't stop!", ['Don', "'", 't', 'stop', '!']),
        ('我们爱Beijing café', ['我们', '爱', 'Beijing', 'café']),
        ('3.14 条', ['3.14', '条']),
        ('Привет мир', ['Привет', 'мир']),
        (' ', []),
    ],
)
def test_words(text, words):
    assert word_alignment.words(text, SEGMENT) == words


def test_pieces_of_a_word_have_its_number(vocabulary):
    assert numbers('we loves 北京!', vocabulary) == (
        ['we', 'lov', '##e', '##s', '北', '京', '!'], [1, 2, 2, 2, 3, 3, 4]
    )  # fmt: skip


@given(st.text('我们爱北京天安门 ab1.-é，Ж', max_size=20))
def test_words_are_made_of_whole_pieces(text):
    """Of BERT's basic tokens and of the segmenter's words alike, in any vocabulary."""
    words = word_alignment.words(text, SEGMENT)
    assert ''.join(words) == ''.join(text.split())
    assert [token for word in words for token in basic_tokens(word)] == basic_tokens(text)
    ends, segmented = (
        set(np.cumsum([len(''.join(word.split())) for word in cut]).tolist())
        for cut in (words, SEGMENT(text))
    )
    assert ends <= segmented
    vocabulary = Vocabulary(TOKENS, len(TOKENS))
    assert max(numbers(text, vocabulary)[1], default=0) == len(words)


# ---- alignments from a file ----


def write(path, *lines):
    path.write_text(''.join(f'{line}\n' for line in lines), encoding='utf-8')
    return str(path)


def test_the_command_writes_a_line_for_every_line(tmp_path):
    pairs = write(
        tmp_path / 'pairs.tsv', 'text_a\ttext_b', 'We love Beijing.\t我们爱北京。', '', 'Hi!\t你好！'
    )
    out = tmp_path / 'words.txt'
    assert word_alignment.write_words(pairs, str(out), SEGMENT) == 4
    assert out.read_text('utf-8').splitlines() == [
        '_ ||| _', 'We love Beijing . ||| 我们 爱 北京 。', '_ ||| _', 'Hi ! ||| 你好 ！'
    ]  # fmt: skip


def test_read_alignment(tmp_path):
    texts = write(tmp_path / 'texts.tsv', 'a\tb', 'c\td', 'e\tf')
    path = write(tmp_path / 'links', '0-0 12-3', '', '1-0')
    assert word_alignment.read_alignment(path, texts) == {1: [(0, 0), (12, 3)], 2: [], 3: [(1, 0)]}
    with pytest.raises(ValueError, match=r"links:2: '1:2' is no link of two words"):
        word_alignment.read_alignment(write(tmp_path / 'links', '0-0', '0-1 1:2', ''), texts)
    with pytest.raises(ValueError, match=r"links:1: '0-9{400}.*' is no link"):
        word_alignment.read_alignment(write(tmp_path / 'links', f'0-{"9" * 5000}', '', ''), texts)
    (tmp_path / 'links').write_bytes(b'0-0\n\xff\n\n')
    with pytest.raises(ValueError, match=r'links:2: not UTF-8'):
        word_alignment.read_alignment(str(tmp_path / 'links'), texts)
    with pytest.raises(ValueError, match=r'links has 2 lines, .*texts.tsv has 3'):
        word_alignment.read_alignment(write(tmp_path / 'links', '0-0', '0-1'), texts)


LINKS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=12)


@given(LINKS, st.integers(0, 6), st.integers(0, 6), st.integers(1, 4))
def test_one_to_one(links, words_a, words_b, most):
    counts = Counter()
    kept = word_alignment.one_to_one(links, words_a, words_b, most, counts)
    assert sum(counts.values()) + len(kept) == len(links)
    assert len(kept) <= most and len({a for a, _ in kept}) == len({b for _, b in kept}) == len(kept)
    assert all((a - 1, b - 1) in links and 1 <= a <= words_a and 1 <= b <= words_b for a, b in kept)
    # None is left out that could have stayed.
    for a, b in links:
        taken = any(a + 1 == i or b + 1 == j for i, j in kept)
        assert taken or len(kept) == most or a >= words_a or b >= words_b


# ---- the batch ----


def test_batch(vocabulary, caplog):
    pairs = [
        Pair('We love Beijing.', '我们爱北京', None, 'p.tsv:2'),
        Pair('Hi', '你好！你好！', None, 'p.tsv:5'),
    ]
    alignment = {2: [(0, 0), (2, 2), (0, 1), (9, 0)], 5: [(0, 0)]}
    caplog.set_level(logging.INFO)
    split = finetuning_mlctl.Translations(pairs, vocabulary, 8, SEGMENT, alignment, max_aligned=3)
    assert (
        '3 links between words are used' in caplog.text and 'left out, of a word that has one' in caplog.text
    )
    planned = Planned(8, np.array([1, 0]))
    batch = split.rows.batch(planned, 3) | split.targets(planned, 3)
    assert all(value.dtype == np.int32 for value in batch.values())
    spelled = {
        side: [' '.join(TOKENS[i] for i in row if i) for row in batch[f'{side}_ids']]
        for side in ('char', 'other')
    }
    assert spelled['char'] == ['[CLS] hi [SEP]', '[CLS] we lov ##e beijing . [SEP]', '']
    assert spelled['other'] == ['[CLS] 你 好 [UNK] 你 好 [UNK] [SEP]', '[CLS] 我 们 爱 北 京 [SEP]', '']
    assert batch['char_words'].tolist() == [[0, 1, *[0] * 6], [0, 1, 2, 2, 3, 4, 0, 0], [0] * 8]
    assert batch['other_words'].tolist()[:2] == [[0, 1, 1, 2, 3, 3, 4, 0], [0, 1, 1, 2, 3, 3, 0, 0]]
    assert batch['alignment'].tolist() == [[[1, 1], [0, 0], [0, 0]], [[1, 1], [3, 3], [0, 0]], [[0, 0]] * 3]
    assert batch['example'].tolist() == [1, 0, -1]
    assert not batch['char_segments'].any() and not batch['other_segments'].any()
    # The width is that of the longer side.
    assert split.rows.lengths.tolist() == [7, 8]


def test_links_to_words_that_were_cut_off_do_not_count(vocabulary):
    pairs = [Pair('a b c d', '我 们 爱 你', None, 'p.tsv:1')]
    split = finetuning_mlctl.Translations(pairs, vocabulary, 5, SEGMENT, {1: [(0, 0), (3, 3), (2, 1)]})
    batch = split.targets(Planned(8, np.array([0])), 1)
    assert batch['alignment'][0, :3].tolist() == [[1, 1], [3, 2], [0, 0]]
    assert batch['char_words'].max() == 3


def test_without_a_file_there_is_no_alignment(vocabulary):
    split = finetuning_mlctl.Translations([Pair('a', '我', None, 'p:1')], vocabulary, 8, SEGMENT)
    assert 'alignment' not in split.targets(Planned(8, np.array([0])), 2)


# ---- splits ----


@given(st.lists(st.tuples(st.sampled_from('abcdefghij'), st.sampled_from('abcdefghij')), min_size=12))
def test_no_text_is_on_both_sides(drawn):
    pairs = [Pair(a, b, None, f'p:{n}') for n, (a, b) in enumerate(drawn)]
    pairs += [Pair(f'x{n}', f'y{n}', None, 'q') for n in range(40)]
    sides = sentences.split_off(pairs, 0.3)
    train, dev = ({text for pair in side for text in pair[:2]} for side in sides)
    assert not train & dev and sum(map(len, sides)) == len(pairs)


def config_of(tmp_path, **changes) -> ConfigDict:
    lines = [f'{chr(97 + n // 26)} {chr(97 + n % 26)}\t我们{chr(0x4E00 + n)}' for n in range(200)]
    config = mlctl.get_config()
    config.data.train = write(tmp_path / 'train.tsv', *lines, lines[0])
    config.update_from_flattened_dict({'data.dev_fraction': 0.25, 'data.max_length': 16} | changes)
    return config


def test_a_share_of_train_is_kept_to_evaluate_on(tmp_path, vocabulary):
    splits = finetuning_mlctl.read(config_of(tmp_path), vocabulary)
    assert list(splits) == ['train', 'validation'] and isinstance(splits['validation'], Retrieval)
    held_out = len(splits['validation'].rows) // 2
    assert len(splits['train'].rows) + held_out == 200 and 30 < held_out < 70
    assert splits['train'].metrics == splits['validation'].metrics


def test_a_dev_file_and_an_alignment(tmp_path, vocabulary):
    changes = {
        'data.dev': write(tmp_path / 'dev.tsv', 'x y\t我们', 'z\t你好'),
        'data.alignment': write(tmp_path / 'links', *(['0-0 1-1'] * 201)),
    }
    splits = finetuning_mlctl.read(config_of(tmp_path, **changes), vocabulary)
    assert len(splits['train'].rows) == 200 and len(splits['validation'].rows) == 4
    batch = splits['train'].targets(Planned(8, np.array([199])), 1)
    assert batch['alignment'][0, :3].tolist() == [[1, 1], [2, 2], [0, 0]]
