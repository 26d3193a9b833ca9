"""Vocabularies from text: what is in them, in which order, and that nothing but the input decides it."""

import json
from collections import Counter
from pathlib import Path

import pytest

from input_pipeline.corpus import base_vocabulary
from input_pipeline.text import segmenters
from input_pipeline.text.dual_tokenizer import Tokenizer
from input_pipeline.text.vocabulary import Vocabulary, is_chinese, read_tokens

build_vocab = pytest.importorskip(
    'input_pipeline.corpus.vocab_builder', reason="needs the extra 'beam'", exc_type=ImportError
)

SPECIALS = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]']
TEXT = """\
我们在北京大学学习Python。北京大学很大！
我们爱学习……我们爱 PYTHON，Café和Привет，Привет。

北京大学的学生用python 写程序；程序----写完了。
python好，linux也好，python、linux、２０２２年。
"""


@pytest.fixture
def text(tmp_path):
    path = tmp_path / 'text.txt'
    path.write_text(TEXT, encoding='utf-8')
    return str(path)


@pytest.fixture
def base(tmp_path):
    """A base vocabulary with odd rows, which must stay as they are."""
    tokens = [*SPECIALS, '[unused1]', *'我们爱学习的很大京北', '我', '', '\u2028', '学习', 'py', '##thon']
    path = tmp_path / 'bert.txt'
    path.write_text(''.join(f'{token}\n' for token in tokens), encoding='utf-8', newline='\n')
    return path, tokens


def two_processes() -> str:
    return '--runner=DirectRunner,--direct_running_mode=multi_processing,--direct_num_workers=2'


def test_base_made_from_the_text(text, tmp_path):
    vocabulary = build_vocab.build(text, tmp_path / 'vocab.txt', min_count=1)
    base, words = vocabulary.tokens[: vocabulary.base_size], vocabulary.tokens[vocabulary.base_size :]
    assert base[:5] == SPECIALS and len(set(vocabulary.tokens)) == len(vocabulary)
    # Every character of the normalised text, the most frequent first, equal counts in code point order.
    counts = Counter(''.join(TEXT.lower().replace('é', 'e').split()))
    chars = [char for char in counts if char not in base_vocabulary.ASCII]
    assert base[5 : 5 + len(chars)] == sorted(chars, key=lambda char: (-counts[char], char))
    # Any Latin word and any Cyrillic one of the text can be spelled.
    assert {*'abcxyz019', *(f'##{char}' for char in 'abcxyz019привет２')} <= set(base)
    assert {'##我', '##，'}.isdisjoint(base)
    assert base[-1] == 'python'  # five times; linux occurs too seldom to be basic English
    # Three times, three times, twice (in code point order), as the tokenizer sees them: not 'caf' and 'é'.
    assert words[:6] == ['北京大学', '我们', 'linux', 'привет', '学习', '程序']
    assert {'cafe', '２０２２'} <= set(words) and 'caf' not in words
    assert all(len(word) > 1 for word in words) and '----' not in words
    assert (
        vocabulary.unk
        not in Tokenizer(vocabulary).encode(['我们', '用', 'café', 'привет', '２０２２']).char_ids
    )


def test_base_given_stays_row_for_row(text, base, tmp_path):
    path, tokens = base
    vocabulary = build_vocab.build(text, tmp_path / 'new' / 'vocab.txt', base_vocab=path, min_count=1)
    assert vocabulary.tokens[: len(tokens)] == tokens and vocabulary.base_size == len(tokens)
    words = vocabulary.tokens[len(tokens) :]
    assert words == ['python', '北京大学', '我们', '很大']
    assert '学习' not in words  # it has a row in the base
    assert '程序' not in words  # the base could spell it only with [UNK]
    assert (tmp_path / 'new' / 'vocab.txt').read_bytes().startswith(path.read_bytes())
    again = Vocabulary.load(tmp_path / 'new' / 'vocab.txt')
    assert again.tokens == vocabulary.tokens
    assert again.details['segmenter']['name'] == 'jieba' and again.details['documents'] == 2


def test_a_part_of_the_base_given(text, base, tmp_path):
    """So many of its Chinese characters, in its order; and what else the text needs of it."""
    path, tokens = base
    more = [*tokens, *'，。ï', *'pyz2', '##p', '##y', '##ï', '##我', '##zz', 'hotel', 'ру', '##т']
    path.write_text(''.join(f'{token}\n' for token in more), encoding='utf-8', newline='\n')
    vocabulary = build_vocab.build(text, tmp_path / 'vocab.txt', base_vocab=path, num_chars=4)
    # 学 occurs six times, 我 five (in two equal rows), 大 and 很 four and twice; 北, 京 four times.
    part = vocabulary.tokens[: vocabulary.base_size]
    chinese = Counter(''.join(TEXT.split()))
    kept = sorted((x for x in tokens if x in chinese), key=lambda x: (-chinese[x], x))
    best = list(dict.fromkeys(kept))[:4]
    wanted = {*SPECIALS, *best, *'，。', *'pyz2', '##p', '##y', 'py', '##thon'}
    assert part == [token for token in more if token in wanted]
    assert vocabulary.details['base_vocab'] == 'a part of the one given'
    words = vocabulary.tokens[vocabulary.base_size :]
    assert 'python' in words and set(words) >= {x for x in ('我们', '北京') if set(x) <= set(part)}
    assert all(vocabulary.unk not in pieces for pieces in vocabulary.pieces())
    again = build_vocab.build(text, tmp_path / 'all.txt', base_vocab=path, num_chars=10**6)
    assert [x for x in more if x in set(again.tokens[: again.base_size])] == again.tokens[: again.base_size]
    assert {*'我们爱学习的很大京北'} <= set(again.tokens) and '[unused1]' not in again.tokens


@pytest.mark.slow
def test_a_vocabulary_of_the_papers_size(data_dir, tmp_path):
    """Of Google's, with real text: far fewer rows, and the same tokens for what is frequent."""
    path = data_dir / 'vocab' / 'bert_base_chinese_vocab.txt'
    corpus = str(data_dir / 'pretrain' / 'wiki_zh_sample.txt')
    small = build_vocab.build(
        corpus,
        tmp_path / 'small.txt',
        base_vocab=path,
        num_chars=base_vocabulary.NUM_CHARS,
        segmenter='rjieba',
    )
    base = small.tokens[: small.base_size]
    chinese = [token for token in base if len(token) == 1 and is_chinese(token)]
    assert 3000 < len(chinese) <= base_vocabulary.NUM_CHARS and not any(x.startswith('[unused') for x in base)
    assert len(base) - len(chinese) < 2500 and {*'0129abcz，。', '##0', '##z', 'the', '##ing'} <= set(base)
    assert not any(is_chinese(token[2:]) for token in base if token.startswith('##') and len(token) == 3)
    whole = Vocabulary(read_tokens(path), len(read_tokens(path)))
    for line in Path(corpus).read_text('utf-8').split('\n')[:200]:
        theirs = [whole.tokens[row] for row in whole.wordpiece.encode(line, add_special_tokens=False).ids]
        ours = [base[row] for row in small.wordpiece.encode(line, add_special_tokens=False).ids]
        for token in set(theirs) & set(base):
            if is_chinese(token[0]):
                assert ours.count(token) == theirs.count(token)


def test_sizes_are_upper_bounds(text, tmp_path):
    vocabulary = build_vocab.build(text, tmp_path / 'vocab.txt', num_words=2, num_chars=3, min_count=1)
    assert vocabulary.tokens[vocabulary.base_size :] == [
        'linux',
        'cafe',
    ]  # three characters spell no Chinese word
    assert vocabulary.base_size == 5 + 3 + 36 + 36 + 1  # special tokens, characters, ASCII twice, python
    vocabulary = build_vocab.build(text, tmp_path / 'vocab.txt', num_words=2)
    assert vocabulary.tokens[vocabulary.base_size :] == ['北京大学', '我们']


def test_what_occurs_too_seldom_is_no_word(text, tmp_path, capsys):
    def words(**settings):
        vocabulary = build_vocab.build(text, tmp_path / 'vocab.txt', **settings)
        return vocabulary, vocabulary.tokens[vocabulary.base_size :]

    every, twice = words(min_count=1), words()
    assert twice[1] == every[1][:6] and every[1][6:]  # the six that test_base_made_from_the_text names
    assert twice[0].details['rarest_word_count'] == 2 and twice[0].details['min_count'] == 2
    once = every[0].details['words_below_min_count'], twice[0].details['words_below_min_count']
    assert once == (0, len(every[1]) - len(twice[1]))
    assert words(min_count=3)[1] == every[1][:2]
    with pytest.raises(ValueError, match='min_count is 0; it must be 1'):
        words(min_count=0)
    build_vocab.main(['--input', text, '--output', str(tmp_path / 'vocab.txt'), '--min_count', '3'])
    assert ' 2 words' in capsys.readouterr().out
    assert json.loads((tmp_path / 'vocab.json').read_text())['min_count'] == 3


def test_the_segmenter_and_hmm_are_recorded(text, tmp_path):
    pytest.importorskip('rjieba')
    vocabulary = build_vocab.build(text, tmp_path / 'vocab.txt', segmenter='rjieba', hmm=False)
    assert vocabulary.details['segmenter'] == segmenters.describe('rjieba', hmm=False)


@pytest.mark.slow
def test_same_bytes_for_any_workers_and_chunks(text, base, tmp_path):
    settings = [{}, {'chunk_bytes': 90}, {'chunk_bytes': 90, 'beam': two_processes()}]
    found = set()
    for number, setting in enumerate(settings):
        output = tmp_path / f'{number}.txt'
        build_vocab.build(text, output, base_vocab=base[0], **setting)
        found.add((output.read_bytes(), output.with_suffix('.json').read_bytes()))
    assert len(found) == 1
    assert not list(tmp_path.glob('*partial*'))


def test_memory_is_bounded_and_what_is_forgotten_is_counted(text, tmp_path, monkeypatch):
    monkeypatch.setattr(build_vocab, 'MAX_COUNTED', 5)
    vocabulary = build_vocab.build(text, tmp_path / 'vocab.txt')
    assert vocabulary.details['words_forgotten'] > 0
    assert '我们' in vocabulary.tokens and '学生' not in vocabulary.tokens


def test_errors_say_what_to_do(text, base, tmp_path):
    with pytest.raises(ValueError, match=r'vocab.json must end in \.txt'):
        build_vocab.build(text, tmp_path / 'vocab.json')
    with pytest.raises(ValueError, match='is the base vocabulary itself'):
        build_vocab.build(text, base[0], base_vocab=base[0])
    with pytest.raises(ValueError, match='num_words'):
        build_vocab.build(text, tmp_path / 'vocab.txt', num_words=-1)
    base[0].write_text('我\n[PAD]\n')
    with pytest.raises(ValueError, match=r'bert\.txt.*no \[UNK\]'):
        build_vocab.build(text, tmp_path / 'vocab.txt', base_vocab=base[0])
    with pytest.raises(ValueError, match='none.txt'):
        build_vocab.build(str(tmp_path / 'none.txt'), tmp_path / 'vocab.txt')
    (tmp_path / 'bad.txt').write_bytes(b'\xff\n\n\n')
    with pytest.raises(ValueError, match=r'no text in .*not_utf8 1 \(.*bad.txt:1\)'):
        build_vocab.build(str(tmp_path / 'bad.txt'), tmp_path / 'vocab.txt')
    (tmp_path / 'blank.txt').write_text('\n')
    with pytest.raises(ValueError, match=r'no text in .*empty_document 1 \(.*blank.txt:1\)'):
        build_vocab.build(str(tmp_path / 'blank.txt'), tmp_path / 'vocab.txt')
    assert not (tmp_path / 'vocab.txt').exists() and not list(tmp_path.glob('*partial*'))


@pytest.mark.parametrize('name', ['vocab.txt', 'vocab.json'])
def test_other_files_are_not_replaced(text, tmp_path, name):
    (tmp_path / name).write_text('mine')
    with pytest.raises(FileExistsError, match=f'{name} would be replaced.*another --output'):
        build_vocab.build(text, tmp_path / 'vocab.txt')
    assert (tmp_path / name).read_text() == 'mine'
    assert {path.name for path in tmp_path.iterdir()} == {name, 'text.txt'}


def test_a_missing_base_says_what_to_give(text, tmp_path):
    with pytest.raises(FileNotFoundError, match='none.txt is missing.*vocab.txt of a Chinese BERT'):
        build_vocab.build(text, tmp_path / 'vocab.txt', base_vocab=tmp_path / 'none.txt')


def test_command_line(text, tmp_path, capsys):
    with open(text, 'ab') as file:
        file.write(b'\n\n\xff\n')
    output = tmp_path / 'vocab.txt'
    build_vocab.main(['--input', text, '--output', str(output), '--num_words', '3', '--nohmm'])
    out = capsys.readouterr().out
    assert f'{output}: ' in out and ' 3 words' in out and 'not_utf8: 1, for example' in out
    assert f"python -m input_pipeline.build_corpus --input '{text}' --vocab {output}" in out
    details = json.loads(output.with_suffix('.json').read_text())
    assert details['num_words'] == 3 and details['segmenter']['hmm'] is False
    assert details['input_problems']['not_utf8']['examples'] == [f'{text}:8']
    field = ['--text_field', 'my body']
    build_vocab.main(['--input', text, '--output', str(output), *field])  # a vocabulary of ours is replaced
    out = capsys.readouterr().out
    assert f"--text_field 'my body' --vocab {output}" in out and 'iconv -f GB18030 -t UTF-8' in out
    with pytest.raises(SystemExit, match='error: .*none.txt'):
        build_vocab.main(['--input', 'none.txt', '--output', str(output)])
