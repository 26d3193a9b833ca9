"""The grid: what it runs, what it does not run again, and the tables that it writes."""

import json
import math
import signal

import finetuned
import numpy as np
import pytest
from matplotlib.image import imread
from ml_collections import ConfigDict
from test_batches import text

import run
from clower_jax import finetune, tables
from clower_jax.tables import Cell
from configs import tables as config_file


def results(*values, split='validation', seed=0):
    """A results.json: accuracies of the best parameters."""
    per_seed = [
        {'seed': seed + n, split: {'best': {'acc': value}, 'last': {'acc': 0.0}}}
        for n, value in enumerate(values)
    ]
    return {'per_seed': per_seed}


def grid_config(**changes) -> ConfigDict:
    config = ConfigDict(
        {
            'models': 'random,clower,no_tcl',
            'tasks': 'tnews,ocnli',
            'seeds': 2,
            'reference': 'clower',
            'paper': '',
            'finetune': {
                task: {'seeds': 1, 'init_from': '', 'task': task} for task in ('tnews', 'ocnli', 'bq')
            },
        }
    )
    config.update(changes)
    return config


# ---- figures ----


def test_paired_p_is_the_t_test():
    """t = mean / (std / √n) with n − 1 degrees of freedom; for n = 3 the distribution has a closed form."""
    a, b = [70.0, 72.5, 71.0], [69.0, 70.0, 70.8]
    d = np.subtract(a, b)
    t = d.mean() / (d.std(ddof=1) / math.sqrt(3))
    assert tables.paired_p(a, b) == pytest.approx(1 - t / math.sqrt(2 + t * t), rel=1e-9)


def test_paired_p_where_there_is_nothing_to_test():
    assert math.isnan(tables.paired_p([1.0], [2.0]))
    assert tables.paired_p([1.0, 2.0], [1.0, 2.0]) == 1.0
    assert tables.paired_p([1.0, 2.0], [0.0, 1.0]) == 0.0  # the same difference every time


def test_a_cell_is_the_test_set_where_there_is_one():
    assert tables.read_cells('tnews', results(0.5, 0.25)) == {'tnews': Cell((0, 1), (50.0, 25.0))}
    both = results(0.5)
    both['per_seed'][0]['test'] = {'best': {'acc': 0.75}, 'last': {'acc': 0.0}}
    assert tables.read_cells('tnews', both) == {'tnews': Cell((0,), (75.0,))}
    reading = {'per_seed': [{'seed': 3, 'validation': {'best': {'f1': 61.5, 'em': 3.0}}}]}
    found = tables.read_cells('cmrc', reading)
    assert found == {'cmrc': Cell((3,), (61.5,)), 'cmrc EM': Cell((3,), (3.0,))}


def test_averages_are_of_complete_rows():
    grid = {
        ('a', 'x'): Cell((0, 1), (10.0, 20.0)), ('a', 'y'): Cell((0, 1), (30.0, 50.0)),
        ('b', 'x'): Cell((0, 1), (10.0, 20.0)),
        ('c', 'x'): Cell((0, 1), (10.0, 20.0)), ('c', 'y'): Cell((0,), (30.0,)),
    }  # fmt: skip
    assert tables.averages(grid, 'abc', 'xy') == {'a': Cell((0, 1), (20.0, 35.0))}


def test_tables(tmp_path):
    grid = {
        ('clower', 'tnews'): Cell((0, 1), (56.0, 58.0)), ('no_tcl', 'tnews'): Cell((0, 1), (55.0, 56.0)),
        ('clower', 'ocnli'): Cell((0, 1), (70.0, 70.0)), ('no_tcl', 'ocnli'): Cell((0, 1), (71.0, 71.0)),
    }  # fmt: skip
    shown = tables.write(
        tmp_path,
        grid,
        ['random', 'clower', 'no_tcl'],
        ['tnews', 'ocnli'],
        'clower',
        {'clower': {'tnews': 57.5}},
    )
    assert shown == (tmp_path / 'tables.md').read_text('utf-8')
    parts = dict(part.split('\n', 1) for part in shown.split('\n## ')[1:])
    assert list(parts) == [
        'Table 2. Classification of texts', 'Table 3. Classification of pairs of texts', 'Table 5. Ablations',
        'Table 6. Everything',
    ]  # fmt: skip
    texts = parts['Table 2. Classification of texts']
    assert '| random | — | — | — |' in texts
    assert '| clower | **57.00 ± 1.41** | — | 57.5 |' in texts
    assert '| no_tcl | 55.50 ± 0.71 | 0.205 | — |' in texts
    pairs = parts['Table 3. Classification of pairs of texts']
    assert '| no_tcl | **71.00 ± 0.00** | 0.000 | — |' in pairs and '0.33' in pairs and '0.50' in pairs
    assert (
        '| clower | **57.00 ± 1.41** | — | 57.5 | 70.00 ± 0.00 | — | — | **63.50 ± 0.71** | — | — |' in shown
    )
    assert 'random' not in parts['Table 5. Ablations']
    saved = json.loads((tmp_path / 'tables.json').read_text('utf-8'))
    assert {'model': 'clower', 'task': 'tnews', 'seeds': [0, 1], 'values': [56.0, 58.0]} in saved
    assert imread(tmp_path / 'figure2.png').std() > 0.01


def test_reading_comprehension_has_two_columns_and_one_in_the_average(tmp_path):
    grid = {
        ('clower', 'cmrc'): Cell((0,), (60.0,)), ('clower', 'cmrc EM'): Cell((0,), (40.0,)),
        ('clower', 'drcd'): Cell((0,), (80.0,)), ('clower', 'drcd EM'): Cell((0,), (70.0,)),
    }  # fmt: skip
    paper = {'clower': {'cmrc EM': 41.5}}
    shown = tables.write(tmp_path, grid, ['clower'], ['cmrc', 'drcd'], 'clower', paper)
    head, _, row = shown.split('Reading comprehension\n\n')[1].splitlines()[:3]
    assert [name for name in head.split(' | ') if name not in ('p', 'paper', 'p |', 'paper |')] == [
        '| model', 'cmrc', 'cmrc EM', 'drcd', 'drcd EM', 'average',
    ]  # fmt: skip
    assert row == (
        '| clower | **60.00** | — | — | **40.00** | — | 41.5 | **80.00** | — | — | **70.00** | — | — '
        '| **70.00** | — | — |'
    )


# ---- the grid ----


def test_the_grid_goes_on_where_it_was(tmp_path):
    asked, ran = [], []

    def prepare(model, folder):
        asked.append((model, folder.relative_to(tmp_path).as_posix()))
        return {'init_from': f'{model}!'}

    def finetune(config, folder):
        if len(ran) == 3:
            return {}  # stopped
        ran.append((config.task, config.init_from, config.seeds))
        found = results(0.5, len(ran) / 10)
        (folder / 'results.json').write_text(json.dumps(found))
        return found

    first = tables.run(grid_config(), tmp_path, prepare, finetune)
    assert ran == [('tnews', 'random!', 2), ('ocnli', 'random!', 2), ('tnews', 'clower!', 2)]
    assert '| clower |' in first and (tmp_path / 'tables.md').read_text('utf-8') == first
    ran.clear()
    asked.clear()
    tables.run(grid_config(), tmp_path, prepare, finetune)
    assert ran == [('ocnli', 'clower!', 2), ('tnews', 'no_tcl!', 2), ('ocnli', 'no_tcl!', 2)]
    assert asked == [
        ('clower', 'models/clower'),
        ('no_tcl', 'models/no_tcl'),
    ]  # a model that is done: not asked
    ran.clear()
    tables.run(grid_config(), tmp_path, prepare, finetune)
    assert not ran
    other = grid_config()
    other.finetune.tnews.task = 'other'
    with pytest.raises(ValueError, match='with other settings \\(finetune.task: tnews → other\\)'):
        tables.run(other, tmp_path, prepare, finetune)


def test_a_model_that_is_not_ready_ends_the_grid(tmp_path):
    def never(*_):
        raise AssertionError('nothing to fine-tune')

    assert tables.run(grid_config(), tmp_path, lambda *_: None, never) == ''


def test_bad_settings_are_named(tmp_path):
    with pytest.raises(ValueError, match="tasks: 'cola' must be one of bq, ocnli, tnews"):
        tables.run(grid_config(tasks='tnews,cola'), tmp_path, None, None)
    with pytest.raises(ValueError, match="must name reference='bert'"):
        tables.run(grid_config(reference='bert'), tmp_path, None, None)
    path = tmp_path / 'paper.json'
    path.write_text('[1]')
    with pytest.raises(ValueError, match='is no file of numbers'):
        tables.run(grid_config(paper=str(path)), tmp_path, None, None)
    with pytest.raises(ValueError, match="no variant 'gpu'"):
        config_file.get_config('gpu')


def test_a_real_grid(tmp_path, monkeypatch):
    """Three models, one of them random and one from a folder, one pre-trained here; stopped when the first
    cell is nearly done, and gone on with."""
    (tmp_path / 'text.txt').write_text(text(range(12)), 'utf-8')
    config = config_file.get_config('cpu')
    config.models, config.tasks, config.seeds = 'random,bert_wwm,again', 'tnews', 2
    config.pretrain.update(total_steps=1, batch_size=8, dtype='float32')
    config.pretrain.optim.warmup_steps = 0
    config.pretrain.model.update(hidden_size=16, num_layers=1, num_heads=2, intermediate_size=32)
    config.pretrain.data.update(
        text=str(tmp_path / 'text.txt'), num_words=50, char_length=64, word_length=48, eval_examples=4
    )
    config.models = f'random,bert_wwm,again={tmp_path}/grid/models/bert_wwm'
    config.reference = 'bert_wwm'
    rows = [f'{a}\t{label}' for a, label in finetuned.texts(24, 0)]
    task = config.finetune.tnews
    for split in ('train', 'dev'):
        (tmp_path / f'{split}.tsv').write_text('\n'.join(['text\tlabel', *rows]) + '\n', 'utf-8')
        task.data[split] = str(tmp_path / f'{split}.tsv')
    task.data.update(dataset='', max_length=32)
    task.update(total_steps=2, batch_size=8)
    for part in run.parts_of(config):
        run.start.check(part)
    summary = finetune.summary

    def stopped(*args):
        signal.raise_signal(signal.SIGTERM)
        return summary(*args)

    with monkeypatch.context() as patch:
        patch.setattr(finetune, 'summary', stopped)
        said = run.tables_job(config, 'configs/tables.py:cpu', tmp_path / 'grid')
    assert [path.parent.parent.name for path in tmp_path.glob('grid/cells/*/*/results.json')] == ['random']
    said = run.tables_job(config, 'configs/tables.py:cpu', tmp_path / 'grid')
    assert said.count('| again |') == 2 and '± ' in said
    cells = {
        cell['model']: cell for cell in json.loads((tmp_path / 'grid' / 'tables.json').read_text('utf-8'))
    }
    assert cells['again']['values'] == cells['bert_wwm']['values'] and len(cells['random']['values']) == 2
    with pytest.raises(ValueError, match="models: 'gpt' must be one of random, clower, bert_wwm"):
        config.models = 'gpt'
        run.tables_job(config, 'configs/tables.py:cpu', tmp_path / 'grid')
