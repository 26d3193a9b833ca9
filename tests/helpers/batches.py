"""Small texts, and configs of corpora made from them."""

import itertools

import pytest

from configs import pretrain
from input_pipeline.corpus import record_source
from input_pipeline.pretraining import batches

LENGTHS = {'char_length': 64, 'word_length': 48}


def text(numbers):
    """A document of four sentences for each number, no two the same."""
    subjects = ('老师', '学生', '医生', '农民', '工程师', '科学家', '图书馆', 'Python 程序')
    verbs = ('喜欢', '研究', '讨论', '介绍', '需要', '改变')
    objects = ('中国文化', '人工智能', '天气', '历史问题', '健康饮食', '城市交通', '3 种方法')
    sentences = [f'{s}{v}{o}。' for s, v, o in itertools.product(subjects, verbs, objects)]
    documents = []
    for n in numbers:
        picks = [(7 * n + k * (n + 11)) % len(sentences) for k in range(3)]
        documents.append(f'第{n}篇。' + ''.join(sentences[i] for i in picks))
    return '\n\n'.join(documents)


def make_config(**data):
    config = pretrain.get_config()
    config.batch_size = 8
    config.data.update({'text': '', 'num_words': 200, 'validation_fraction': 0.2} | LENGTHS | data)
    return config


@pytest.fixture(scope='module')
def config(tmp_path_factory):
    """A resolved config with a corpus of 60 documents; tests change copies of it."""
    folder = tmp_path_factory.mktemp('corpus')
    (folder / 'text.txt').write_text(text(range(60)), 'utf-8')
    return batches.resolve(make_config(text=str(folder / '*.txt')), folder / 'run')


def records_of(config, split, numbers=None):
    """The records of a split as lists; numbers None: all, in order."""
    source = record_source.open_split(config.data.corpus, split)
    numbers = range(len(source)) if numbers is None else numbers
    parsed = record_source.parse(source.__getitems__(list(numbers)))
    columns = {name: values.to_list() for name, values in parsed.items()}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
