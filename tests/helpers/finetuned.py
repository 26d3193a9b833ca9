"""A made-up fine-tuning task that a tiny encoder learns in seconds, as files and as configs."""

import json
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from configs import classify, cmrc, tag

SPECIAL = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]']
CHARACTERS = [chr(0x4E00 + i) for i in range(30)]
GOOD, BAD = CHARACTERS[:2]  # the label of a text is which of the two it holds
SIZES = {
    'model.hidden_size': 32, 'model.num_layers': 1, 'model.num_heads': 2, 'model.intermediate_size': 64,
    'model.max_positions': 64, 'batch_size': 16, 'log_every': 5, 'data.buckets': 1,
    'optim.learning_rate': 3e-3,
}  # fmt: skip


def write_vocab(folder: Path) -> Path:
    """A BERT vocabulary of 30 characters."""
    path = folder / 'vocab.txt'
    path.write_text('\n'.join([*SPECIAL, *CHARACTERS]) + '\n', encoding='utf-8')
    return path


def texts(count: int, seed: int) -> list[tuple[str, str]]:
    """(text, label) pairs."""
    rng = np.random.default_rng(seed)
    out = []
    for number in range(count):
        words = list(rng.choice(CHARACTERS[2:], rng.integers(3, 9)))
        label = number % 2
        words.insert(int(rng.integers(0, len(words))), (GOOD, BAD)[label])
        out.append((''.join(words), ('good', 'bad')[label]))
    return out


def write_table(path: Path, rows: list[tuple[str, str]]) -> Path:
    """A tsv file with a header."""
    path.write_text(''.join(f'{a}\t{b}\n' for a, b in [('text', 'label'), *rows]), encoding='utf-8')
    return path


def questions(count: int, seed: int) -> dict:
    """SQuAD format: which character stands after the one that is asked for?"""
    rng = np.random.default_rng(seed)
    paragraphs = []
    for number in range(count):
        order = rng.permutation(len(CHARACTERS))[:12]
        context = ''.join(CHARACTERS[i] for i in order)
        at = int(rng.integers(0, 11))
        answer = {'text': context[at + 1], 'answer_start': at + 1}
        qas = [{'id': f'q{number}', 'question': context[at], 'answers': [answer]}]
        paragraphs.append({'context': context, 'qas': qas})
    return {'version': 'v1.0', 'data': [{'paragraphs': paragraphs}]}


def write_questions(path: Path, count: int, seed: int) -> Path:
    """The same as a file."""
    path.write_text(json.dumps(questions(count, seed), ensure_ascii=False), encoding='utf-8')
    return path


def tagged_texts(count: int, seed: int) -> list[tuple[str, list[tuple[int, int, str]]]]:
    """(text, entities as start, end, type): one type has two characters, the other one."""
    rng = np.random.default_rng(seed)
    out = []
    for _ in range(count):
        text, spans = '', []
        for _ in range(rng.integers(1, 4)):
            text += ''.join(rng.choice(CHARACTERS[3:], rng.integers(0, 4)))
            entity, type_ = [(CHARACTERS[0] + CHARACTERS[1], 'long'), (CHARACTERS[2], 'short')][
                rng.integers(2)
            ]
            spans.append((len(text), len(text) + len(entity), type_))
            text += entity
        out.append((text, spans))
    return out


def tag_config(folder: Path, **changes) -> ConfigDict:
    """`configs/tag.py` on 64 + 20 + 20 texts in `folder`, which is filled: CoNLL's columns, CLUENER's objects
    and spans."""
    config = tag.get_config()
    train, dev, test = (tagged_texts(count, seed) for seed, count in enumerate((64, 20, 20)))
    columns = []
    for text, spans in train:
        tags = ['O'] * len(text)
        for start, end, type_ in spans:
            tags[start:end] = [f'B-{type_}'] + [f'I-{type_}'] * (end - start - 1)
        columns.append(''.join(f'{token}\t{name}\n' for token, name in zip(text, tags, strict=True)))
    (folder / 'train.bio').write_text('\n'.join(columns), encoding='utf-8')
    objects = []
    for text, spans in dev:
        label: dict = {}
        for start, end, type_ in spans:
            label.setdefault(type_, {}).setdefault(text[start:end], []).append([start, end - 1])
        objects.append({'text': text, 'label': label})
    rows = [{'text': text, 'entities': spans} for text, spans in test]
    for name, lines in (('dev', objects), ('test', rows)):
        joined = ''.join(json.dumps(line, ensure_ascii=False) + '\n' for line in lines)
        (folder / f'{name}.json').write_text(joined, encoding='utf-8')
    files = {'train': 'train.bio', 'dev': 'dev.json', 'test': 'test.json'}
    more = {f'data.{split}': str(folder / name) for split, name in files.items()}
    more |= {'data.vocab': str(write_vocab(folder)), 'data.max_length': 32}
    config.update_from_flattened_dict(SIZES | more | changes)
    return config


def classify_config(folder: Path, **changes) -> ConfigDict:
    """`configs/classify.py` on 64 + 20 + 20 texts in `folder`, which is filled."""
    config = classify.get_config()
    files = {
        f'data.{key}': str(write_table(folder / f'{key}.tsv', texts(count, seed)))
        for seed, (key, count) in enumerate({'train': 64, 'dev': 20, 'test': 20}.items())
    }
    vocab = {'data.vocab': str(write_vocab(folder)), 'data.max_length': 32, 'data.dev_fraction': 0.0}
    config.update_from_flattened_dict(SIZES | files | vocab | changes)
    return config


def span_config(folder: Path, **changes) -> ConfigDict:
    """`configs/cmrc.py` on 32 + 10 questions in `folder`, which is filled."""
    config = cmrc.get_config()
    files = {
        f'data.{key}': str(write_questions(folder / f'{key}.json', count, seed))
        for seed, (key, count) in enumerate({'train': 32, 'dev': 10}.items())
    }
    more = {'data.vocab': str(write_vocab(folder)), 'data.max_length': 14, 'data.stride': 6}
    config.update_from_flattened_dict(SIZES | files | more | changes)
    return config
