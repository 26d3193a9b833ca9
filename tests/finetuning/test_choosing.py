"""Multiple choice from files to answers: rows of choices, blanks, a run, its export."""

import copy
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from clower_jax import convert
from clower_jax.export.bert_folder import export
from clower_jax.training.inherited_settings import resolve_source
from configs import choose
from helpers import finetuned, workdirs
from helpers.finetune import go
from input_pipeline.datasets import files, hub
from input_pipeline.datasets.choices import Choice
from input_pipeline.features.buckets import Planned
from input_pipeline.finetuning import choosing
from input_pipeline.finetuning import data as finetuning_data
from input_pipeline.finetuning.choosing import Choosing
from input_pipeline.text.vocabulary import Vocabulary


def split_of(*questions, max_length=16):
    return Choosing(questions, Vocabulary(workdirs.BASE, len(workdirs.BASE)), max_length)


def texts_of(split, numbers, width=16, batch_size=4):
    """The tokens of every choice, and the batch."""
    planned = Planned(width, np.array(numbers))
    batch = split.rows.batch(planned, batch_size) | split.targets(planned, batch_size)
    rows = [[''.join(workdirs.BASE[i] for i in row if i) for row in choices] for choices in batch['char_ids']]
    return rows, batch


def test_what_a_batch_holds():
    split = split_of(
        Choice('我们去公园', None, '去？', ('手机', '公园', '大'), 1, 0, 'a:1'),
        Choice('天', '很好', '', ('气', '字'), None, '#idiom1#', 'a:2'),
    )
    rows, batch = texts_of(split, [1, 0])
    assert rows[0] == ['[CLS]天[MASK]很好[SEP]气[SEP]', '[CLS]天[MASK]很好[SEP]字[SEP]', '']
    assert rows[1] == [f'[CLS]我们去公园[SEP]去？{choice}[SEP]' for choice in ('手机', '公园', '大')]
    assert rows[2:] == [[''] * 3] * 2
    assert batch['char_ids'].shape == (4, 3, 16) and batch['example'].tolist() == [1, 0, -1, -1]
    assert batch['labels'].tolist() == [-1, 1, -1, -1]
    assert batch['char_segments'][1, 0].tolist() == [0] * 7 + [1] * 5 + [0] * 4
    assert split.rows.lengths.tolist() == [12, 8]


def test_what_is_cut():
    """Of a text its end, of one with a blank both its ends, never question and choice."""
    split = split_of(
        Choice('天' * 30, None, '去？', ('手机', '大'), 0, 0, 'a:1'),
        Choice('天' * 30, '气' * 30, '', ('手', '大'), 0, '#idiom1#', 'a:2'),
        Choice('天' * 2, '气' * 30, '', ('手', '大'), 0, '#idiom2#', 'a:2'),
        Choice('天' * 30, '', '', ('手', '大'), 0, '#idiom3#', 'a:2'),
    )
    rows, _ = texts_of(split, range(4))
    assert rows[0][0] == f'[CLS]{"天" * 9}[SEP]去？手机[SEP]'
    assert rows[1][0] == f'[CLS]{"天" * 5}[MASK]{"气" * 6}[SEP]手[SEP]'
    assert rows[2][1] == f'[CLS]{"天" * 2}[MASK]{"气" * 9}[SEP]大[SEP]'
    assert rows[3][1] == f'[CLS]{"天" * 11}[MASK][SEP]大[SEP]'


def test_answers_of_blanks_are_one_object(tmp_path):
    blanks = [Choice('天', '', '', ('手', '大'), None, f'#idiom{i}#', 'a:1') for i in range(2)]
    split_of(*blanks).write_predictions(tmp_path, np.array([1, 0]))
    found = json.loads((tmp_path / 'predictions.json').read_text('utf-8'))
    assert found == {'#idiom0#': 1, '#idiom1#': 0}


@pytest.mark.parametrize('name', choose.SETTINGS)
def test_official_files(tmp_path, name):
    config = choose.get_config(name)
    with pytest.raises(FileNotFoundError, match=f'The train split of {name} is not there'):
        files.paths(config)
    config.data.folder = str(tmp_path)
    for file in hub.SOURCES[name].files['train'][-1].split(','):
        (tmp_path / file).write_text('[]')
    found = files.paths(config)['train'].split(',')
    assert [Path(file).name for file in found] == hub.SOURCES[name].files['train'][-1].split(',')
    with pytest.raises(ValueError, match="no variant 'race'; it has c3, chid"):
        choose.get_config('race')


def questions(count, seed):
    """The right choice is the one whose character is in the text."""
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(count):
        right, *wrong = rng.permutation(finetuned.CHARACTERS[:6])[: 2 + number % 2]
        options = list(rng.permutation([right, *wrong]))
        text = ''.join(rng.permutation([right, *finetuned.CHARACTERS[10:13]]))
        rows.append(
            [[text], [{'question': finetuned.CHARACTERS[9], 'choice': options, 'answer': right}], str(number)]
        )
    return rows


def config_of(folder, **changes):
    """`configs/choose.py` on 96 + 20 questions in C3's form."""
    config = choose.get_config()
    for seed, (name, count) in enumerate({'train': 96, 'dev': 20}.items()):
        path = folder / f'{name}.json'
        path.write_text(json.dumps(questions(count, seed), ensure_ascii=False), encoding='utf-8')
        config.data[name] = str(path)
    more = {'data.vocab': str(finetuned.write_vocab(folder)), 'data.max_length': 16}
    config.update_from_flattened_dict(finetuned.SIZES | more | changes)
    return config


def test_a_share_of_train_and_several_files(tmp_path):
    config = config_of(tmp_path)
    config.data.update(train=f'{config.data.train},{config.data.dev}', dev='', dev_fraction=0.2)
    config, vocabulary = resolve_source(config, tmp_path / 'nowhere')
    _, data = finetuning_data.prepare(config, vocabulary)
    kept = [data.counts[name]['questions']['kept'] for name in ('train', 'validation')]
    assert sum(kept) == 116 and min(kept) > 5
    assert choosing._context(Choice('a', None, '', ('x', 'y'), 0, 0, 'f:3')) == 'a'
    assert choosing._context(Choice('a', 'b', '', ('x', 'y'), 0, '#', 'f:object 3')) == 'object 3'


@pytest.mark.slow
def test_from_c3_to_transformers(tmp_path, monkeypatch):
    config = config_of(tmp_path, num_epochs=2.0)
    workdir = tmp_path / 'run'
    best = go(config, workdir)['per_seed'][0]['validation']['best']
    lines = [json.loads(line) for line in (workdir / 'predictions.json').read_text('utf-8').splitlines()]
    asked = [row[1][0] for row in json.loads(Path(config.data.dev).read_text('utf-8'))]
    assert best['acc'] == np.mean([x['choice'] == q['answer'] for x, q in zip(lines, asked, strict=True)])
    assert all(q['choice'][x['label']] == x['choice'] for x, q in zip(lines, asked))
    folder = export(workdir, tmp_path / 'chooser')
    model, info = transformers.AutoModelForMultipleChoice.from_pretrained(folder, output_loading_info=True)
    assert not info['missing_keys'] and not info['unexpected_keys']
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    for row, line in zip(json.loads(Path(config.data.dev).read_text('utf-8')), lines):
        (text,), (question,), _ = row
        second = [f'{question["question"]} {choice}' for choice in question['choice']]
        inputs = tokenizer([text] * len(second), second, padding=True, return_tensors='pt')
        with torch.no_grad():
            logits = model(**{name: value[None] for name, value in inputs.items()}).logits[0]
        assert int(logits.argmax()) == line['label']
    card = (folder / 'README.md').read_text('utf-8')
    assert 'fine-tuned to choose the answer' in card and 'pipeline_tag: multiple-choice' in card
    monkeypatch.chdir(tmp_path)
    exec(re.findall(r'```python\n(.*?)```', card, re.DOTALL)[0], {})
    later = copy.deepcopy(config)
    later.mode = 'evaluate'
    assert go(later, workdir)['validation']['acc'] == best['acc']
    convert.import_weights(folder, tmp_path / 'again')
    assert go(later, tmp_path / 'again')['validation']['loss'] == pytest.approx(best['loss'], abs=1e-5)
