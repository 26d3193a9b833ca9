"""The grid: what it runs, what it does not run again, and the tables that it writes."""

import json
import math
import signal
import statistics
import tomllib
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread
from ml_collections import ConfigDict

from clower_jax import jobs
from clower_jax.experiments import grid as experiments_grid
from clower_jax.experiments import tables
from clower_jax.experiments.tables import Cell
from clower_jax.training import finetune, init_state
from clower_jax.utils import config_checks
from configs import classify, pretrain
from configs import tables as config_file
from helpers import finetuned
from helpers.batches import text


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


def test_a_cell_for_every_split():
    assert experiments_grid.read_cells('tnews', results(0.5, 0.25)) == {
        'tnews dev': Cell((0, 1), (50.0, 25.0))
    }
    both = results(0.5)
    both['per_seed'][0]['test'] = {'best': {'acc': 0.75}, 'last': {'acc': 0.0}}
    assert experiments_grid.read_cells('bq', both) == {
        'bq dev': Cell((0,), (50.0,)),
        'bq test': Cell((0,), (75.0,)),
    }
    reading = {'per_seed': [{'seed': 3, 'validation': {'best': {'f1': 61.5, 'em': 3.0}}}]}
    found = experiments_grid.read_cells('cmrc', reading)
    assert found == {'cmrc dev EM': Cell((3,), (3.0,)), 'cmrc dev F1': Cell((3,), (61.5,))}
    assert list(found) == ['cmrc dev EM', 'cmrc dev F1']
    drcd = {'per_seed': [{'seed': 3, 'test': {'best': {'f1_drcd': 61.5, 'f1_cmrc': 5.0, 'em': 3.0}}}]}
    assert experiments_grid.read_cells('drcd', drcd)['drcd test F1'] == Cell((3,), (61.5,))


def test_averages_are_of_complete_rows():
    grid = {
        ('a', 'x'): Cell((0, 1), (10.0, 20.0)), ('a', 'y'): Cell((0, 1), (30.0, 50.0)),
        ('b', 'x'): Cell((0, 1), (10.0, 20.0)),
        ('c', 'x'): Cell((0, 1), (10.0, 20.0)), ('c', 'y'): Cell((0,), (30.0,)),
    }  # fmt: skip
    assert tables.average(grid, 'a', 'xy') == Cell((0, 1), (20.0, 35.0))
    assert tables.average(grid, 'b', 'xy') is tables.average(grid, 'c', 'xy') is None


# ---- the paper ----


def test_the_papers_averages_are_those_of_its_cells():
    """To a hundredth, as cells and averages are rounded; one average is not the rounded mean of its cells."""
    paper, wrong = tables.read_paper(), []
    for table in paper.tables:
        for model, row in table.rows.items():
            assert list(row) == table.columns and all(0 < value < 100 for value in row.values())
            if 'average' in row:
                mean = statistics.fmean(value for column, value in row.items() if column != 'average')
                assert abs(mean - row['average']) < 0.01, (table.number, model)
                wrong += (
                    [] if abs(mean - row['average']) <= 0.005 else [(table.number, model, row['average'])]
                )
    assert wrong == [(2, 'bert_wwm', 90.53)]
    assert [(about, text) for about, text in paper.contradictions if '90.53' in text and about == [2]]


def test_the_papers_layout():
    """Development and test sets as the paper has them; averages of 5, 7 and 7 columns; EM before F1."""
    shape = {table.number: table for table in tables.read_paper().tables}
    assert list(shape) == [2, 3, 4, 5, 6]
    assert {number: len(table.columns) for number, table in shape.items()} == {2: 6, 3: 8, 4: 6, 5: 8, 6: 6}
    dev_alone = ('tnews', 'ocnli', 'cmrc')
    for number in (2, 3, 4):
        for task in {column.split()[0] for column in shape[number].columns} - {'average'}:
            splits = {column.split()[1] for column in shape[number].columns if column.startswith(f'{task} ')}
            assert splits == ({'dev'} if task in dev_alone else {'dev', 'test'}), task
    assert [table.columns[-1] == 'average' for table in shape.values()] == [True, True, False, True, False]
    assert shape[4].columns == shape[6].columns == [
        'cmrc dev EM', 'cmrc dev F1', 'drcd dev EM', 'drcd dev F1', 'drcd test EM', 'drcd test F1'
    ]  # fmt: skip
    systems = ['bert_wwm', 'bert_wwm_sop', 'mm_bert', 'mm_bert_sop', 'macbert_released', 'clower']
    assert all(list(shape[number].rows) == systems for number in (2, 3, 4))
    ablations = ['clower', 'no_tcl', 'no_scl', 'no_contrast']
    assert all(list(shape[number].rows) == ablations for number in (5, 6))
    # What two tables have of the same run is the same.
    for ablation, full in (('clower', 'clower'), ('no_contrast', 'mm_bert_sop')):
        everything = {
            column: value for number in (2, 3, 4) for column, value in shape[number].rows[full].items()
        }
        for number in (5, 6):
            row = shape[number].rows[ablation]
            assert all(value == everything[column] for column, value in row.items() if column != 'average')


def test_what_the_packages_read_is_shipped():
    root = Path(experiments_grid.__file__).parents[2]
    settings = tomllib.loads((root / 'pyproject.toml').read_text('utf-8'))['tool']['setuptools']
    for package in settings['packages']:
        files = {path for path in (root / package).rglob('*') if path.is_file()}
        data = {path for path in files if path.suffix not in ('.py', '.pyc')}
        shipped = {
            path for glob in settings['package-data'].get(package, ()) for path in (root / package).glob(glob)
        }
        assert data == shipped, package


# ---- tables ----


def training_configs(shown: str) -> dict[str, list[str]]:
    """Title → lines; '' is what stands above."""
    first, *parts = shown.split('\n## ')
    return {'': first.split('\n')} | {part.split('\n')[0]: part.split('\n')[1:] for part in parts}


def test_tables(tmp_path):
    grid = {
        ('clower', 'tnews dev'): Cell((0, 1), (56.0, 58.0)),
        ('no_tcl', 'tnews dev'): Cell((0, 1), (55.0, 56.0)),
        ('clower', 'ocnli dev'): Cell((0, 1), (70.0, 70.0)),
        ('no_tcl', 'ocnli dev'): Cell((0, 1), (71.0, 71.0)),
        ('random', 'tnews dev'): Cell((0, 1), (60.0, 60.0)),
        ('random', 'afqmc dev'): Cell((0, 1), (69.0, 69.0)),
        ('clower', 'afqmc dev'): Cell((0, 1), (69.5, 69.5)),
        ('macbert', 'tnews dev'): Cell((0,), (50.0,)),
        ('macbert_released', 'tnews dev'): Cell((0,), (51.0,)),
    }
    models = ['random', 'clower', 'no_tcl', 'macbert', 'macbert_released']
    numbers = {'clower': {'ocnli dev': 12.5}, 'macbert': {'ocnli dev': 13.5}}
    shown = tables.write(tmp_path, grid, models, ['tnews', 'ocnli', 'afqmc'], 'clower', numbers)
    assert shown == (tmp_path / 'tables.md').read_text('utf-8')
    parts = training_configs(shown)
    assert list(parts)[1:] == [
        'Table 2. Classification of single sentences, accuracy',
        'Table 3. Classification of sentence pairs, accuracy',
        'Table 5. Ablations: classification, accuracy', 'Not in the paper',
    ]  # fmt: skip
    single, pairs, ablations, own = list(parts.values())[1:]
    assert single[1].split(' | ') == [
        '| model', 'TNEWS dev', 'THUCNews dev', 'THUCNews test', 'ChnSentiCorp dev', 'ChnSentiCorp test',
        'average |',
    ]  # fmt: skip
    assert single[3] == '| BERT-wwm | — [66.59] | — [98.16] | — [97.41] | — [94.97] | — [95.55] | — [90.53] |'
    assert [line.split(' | ')[0][2:] for line in single[3:11]] == [
        'BERT-wwm', 'BERT-wwm-sop', 'MM-BERT', 'MM-BERT-sop', 'MacBERT', 'CLOWER', 'random',
        'MacBERT, re-trained',
    ]  # fmt: skip
    assert single[7].startswith('| MacBERT | 51.00 [67.07] | — [98.29] |')
    assert single[8].startswith('| CLOWER | 57.00 ± 1.41 [67.15] | — [98.39] |')
    assert single[9].startswith('| random | **60.00 ± 0.00** (p 0.205) | — | — |')
    assert single[10] == '| MacBERT, re-trained | 50.00 | — | — | — | — | — |'
    assert '90.54' in single[12]
    assert pairs[8].startswith('| CLOWER | **70.00 ± 0.00** [12.50] | — [89.92] | — [88.10] |')
    assert pairs[8].endswith('| — [85.26] | — [74.45] |')  # the average of what is printed, 12.5 included
    assert pairs[10].startswith('| MacBERT, re-trained | — [13.50] | — |')
    assert '0.33' in pairs[12] and '0.50' in pairs[12]
    assert [line.split(' | ')[0][2:] for line in ablations[3:7]] == [
        'CLOWER', 'w/o tcl', 'w/o scl', 'w/o tcl & scl'
    ]  # fmt: skip
    assert ablations[4].startswith('| w/o tcl | 55.50 ± 0.71 (p 0.205) [66.51] | — [97.54] |')
    assert '**71.00 ± 0.00** (p 0.000) [75.22]' in ablations[4] and '83.64' in ablations[8]
    assert own[1] == '| model | afqmc dev |' and own[3] == '| random | 69.00 ± 0.00 (p 0.000) |'
    assert own[4] == '| CLOWER | **69.50 ± 0.00** |'
    assert 'five seeds' in shown and 'arXiv 2208.10844' in shown
    saved = json.loads((tmp_path / 'tables.json').read_text('utf-8'))
    assert saved[0] == {
        'model': 'clower', 'task': 'tnews', 'split': 'dev', 'measure': 'accuracy', 'seeds': [0, 1],
        'values': [56.0, 58.0], 'paper': 67.15,
    }  # fmt: skip
    assert saved[4]['paper'] is None


def test_what_the_papers_tables_have_no_place_for_is_shown(tmp_path):
    """An ablation on a development set, where the paper has the test set; a test set that it has not."""
    grid = {
        ('clower', 'bq dev'): Cell((0,), (70.0,)), ('no_tcl', 'bq dev'): Cell((0,), (60.0,)),
        ('clower', 'tnews dev'): Cell((0,), (70.0,)), ('no_tcl', 'tnews dev'): Cell((0,), (60.0,)),
        ('no_contrast', 'bq dev'): Cell((0,), (50.0,)), ('clower', 'tnews test'): Cell((0,), (40.0,)),
    }  # fmt: skip
    models = ['clower', 'no_tcl', 'no_contrast']
    parts = training_configs(tables.write(tmp_path, grid, models, ['bq', 'tnews'], 'clower', {}))
    assert parts.popitem() == (
        "Not in the paper's tables",
        ['', '| model | BQ dev | TNEWS test |', '| --- | --- | --- |', '| CLOWER | **70.00** | **40.00** |',
         '| w/o tcl | 60.00 | — |', '| w/o tcl & scl | 50.00 | — |', ''],
    )  # fmt: skip
    assert list(parts)[-1] == 'Table 5. Ablations: classification, accuracy'
    three = next(lines for title, lines in parts.items() if title.startswith('Table 3'))
    assert '| 50.00 [86.00] |' in three[6]  # no_contrast is MM-BERT-sop


@pytest.mark.slow
def test_averages_are_over_the_papers_columns(tmp_path):
    """Five of table 2, whatever else the grid has; the same in table 5, of the columns that it has."""
    columns = ['tnews dev', 'thucnews dev', 'thucnews test', 'chnsenticorp dev', 'chnsenticorp test']
    grid = {('mm_bert_sop', column): Cell((0,), (10.0 * (n + 1),)) for n, column in enumerate(columns)}
    grid |= {('mm_bert_sop', f'afqmc {split}'): Cell((0,), (99.0,)) for split in ('dev', 'test')}
    pairs = ['ocnli dev', 'lcqmc dev', 'lcqmc test', 'xnli dev', 'xnli test', 'bq dev', 'bq test']
    grid |= {('mm_bert_sop', column): Cell((0,), (90.0 - n,)) for n, column in enumerate(pairs)}
    grid['clower', 'tnews dev'] = Cell((0,), (5.0,))
    tasks = ['tnews', 'thucnews', 'chnsenticorp', 'ocnli', 'lcqmc', 'xnli', 'bq', 'afqmc']
    parts = training_configs(tables.write(tmp_path, grid, ['mm_bert_sop', 'clower'], tasks, 'clower', {}))
    single, pairs_table, ablations, own = list(parts.values())[1:]
    assert single[6].endswith('| **50.00** [95.65] | **30.00** [90.43] |')
    assert pairs_table[6].endswith('| **84.00** [84.84] | **87.00** [83.05] |')
    # w/o tcl & scl is MM-BERT-sop: 10, 30, 50, then 90, 88, 86, 84.
    assert ablations[6].startswith('| w/o tcl & scl | **10.00** [66.27] | **30.00** [97.45] |')
    assert ablations[6].endswith(f'| **84.00** [84.84] | **{438 / 7:.2f}** [83.64] |')
    assert own[1] == '| model | afqmc dev | afqmc test |'


def test_reading_comprehension_has_exact_match_before_f1_and_no_average(tmp_path):
    names = ['cmrc dev EM', 'cmrc dev F1', 'drcd dev EM', 'drcd dev F1', 'drcd test EM', 'drcd test F1']
    grid = {
        (model, name): Cell((0,), (40.0 + n,))
        for model in ('clower', 'no_scl')
        for n, name in enumerate(names)
    }
    shown = tables.write(tmp_path, grid, ['clower', 'no_scl'], ['cmrc', 'drcd'], 'clower', {})
    parts = training_configs(shown)
    four, six = list(parts.values())[1:]
    assert four[1] == six[1]
    assert four[1].split(' | ') == [
        '| model', 'CMRC2018 dev EM', 'CMRC2018 dev F1', 'DRCD dev EM', 'DRCD dev F1', 'DRCD test EM',
        'DRCD test F1 |',
    ]  # fmt: skip
    assert four[8] == (
        '| CLOWER | **40.00** [68.73] | **41.00** [86.52] | **42.00** [88.27] | **43.00** [93.44] '
        '| **44.00** [87.68] | **45.00** [92.94] |'
    )
    assert len(four[3:9]) == 6 and 'no_scl' not in shown and 'w/o scl' in six[5]
    assert '0.42' in four[10] and '93.50' in four[12] and '93.50' in six[8]


def test_numbers_from_elsewhere(tmp_path):
    """As they were named when the paper's own had to be given, too."""
    path = tmp_path / 'paper.json'
    row = {
        'tnews': 1,
        'bq': 2,
        'bq dev': 3,
        'cmrc': 4,
        'cmrc EM': 5,
        'drcd EM': 6,
        'drcd dev F1': 7,
        'afqmc': 8,
    }
    path.write_text(json.dumps({'clower': row}))
    tasks = ['tnews', 'bq', 'cmrc', 'drcd', 'afqmc']
    assert tables.read_numbers(str(path), tasks) == {
        'clower': {
            'tnews dev': 1.0, 'bq test': 2.0, 'bq dev': 3.0, 'cmrc dev F1': 4.0, 'cmrc dev EM': 5.0,
            'drcd test EM': 6.0, 'drcd dev F1': 7.0, 'afqmc test': 8.0,
        }
    }  # fmt: skip
    assert tables.read_numbers('', tasks) == {}
    with pytest.raises(
        ValueError, match="clower has a number for 'afqmc', which must be one of bq dev, bq test"
    ):
        tables.read_numbers(str(path), ['tnews', 'bq', 'cmrc', 'drcd'])


# ---- figure 2 ----


def drawn(grid, path, monkeypatch):
    """The figure as matplotlib has it."""
    save, saved = tables.figures.save, []
    monkeypatch.setattr(tables.figures, 'save', lambda *args: (saved.append(args[0]), save(*args)))
    tables.draw(grid, tables.read_paper(), path)
    monkeypatch.undo()
    (figure,) = saved
    return [axis for axis in figure.axes if axis.get_visible()]


@pytest.mark.slow
def test_figure_2_is_of_the_ablations(tmp_path, monkeypatch):
    columns = ['tnews dev', 'ocnli dev', 'bq dev', 'bq test', 'afqmc dev', 'cmrc dev EM', 'cmrc dev F1']
    grid = {
        (model, column): Cell((0, 1), (60.0 + n, 62.0))
        for n, model in enumerate(['random', 'clower', 'no_tcl', 'no_scl', 'mm_bert_sop'])
        for column in columns
    }
    axes = drawn(grid, tmp_path / 'figure2.png', monkeypatch)
    assert [axis.get_title() for axis in axes] == [
        'TNEWS dev, accuracy', 'OCNLI dev, accuracy', 'BQ test, accuracy', 'CMRC2018 dev EM'
    ]  # fmt: skip
    names = [label.get_text() for label in axes[0].get_xticklabels()]
    assert names == ['CLOWER', 'w/o tcl', 'w/o scl', 'w/o tcl & scl']
    points = {tuple(line.get_ydata()) for line in axes[0].lines}
    assert {(67.15,), (66.51,), (66.34,), (66.27,)} <= points and (61.0, 62.0) in points
    assert (64.0, 62.0) in points  # w/o tcl & scl is MM-BERT-sop
    assert imread(tmp_path / 'figure2.png').std() > 0.01


def test_no_marker_of_figure_2_is_cut_off(tmp_path, monkeypatch):
    grid = {
        (model, 'tnews dev'): Cell((0, 1), values)
        for model, values in {
            'clower': (99.0, 99.5),
            'no_tcl': (1.0, 1.0),
            'no_contrast': (50.0, 50.0),
        }.items()
    }
    (axis,) = drawn(grid, tmp_path / 'figure2.png', monkeypatch)
    box = axis.get_window_extent()
    for line in axis.lines:
        half = line.get_markersize() * axis.figure.dpi / 72 / 2
        for x, y in axis.transData.transform(line.get_xydata()):
            assert box.x0 + half < x < box.x1 - half and box.y0 + half < y < box.y1 - half


def test_without_ablations_there_is_no_figure_2(tmp_path):
    (tmp_path / 'figure2.png').touch()  # of an earlier grid
    grid = {('clower', 'tnews dev'): Cell((0,), (60.0,)), ('bert_wwm', 'tnews dev'): Cell((0,), (60.0,))}
    shown = tables.write(tmp_path, grid, ['clower', 'bert_wwm'], ['tnews'], 'clower', {})
    assert 'Table 5' not in shown and not (tmp_path / 'figure2.png').exists()


# ---- the grid ----


@pytest.mark.slow
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

    first = experiments_grid.run(grid_config(), tmp_path, prepare, finetune)
    assert ran == [('tnews', 'random!', 2), ('ocnli', 'random!', 2), ('tnews', 'clower!', 2)]
    assert '| CLOWER |' in first and (tmp_path / 'tables.md').read_text('utf-8') == first
    ran.clear()
    asked.clear()
    experiments_grid.run(grid_config(), tmp_path, prepare, finetune)
    assert ran == [('ocnli', 'clower!', 2), ('tnews', 'no_tcl!', 2), ('ocnli', 'no_tcl!', 2)]
    assert asked == [
        ('clower', 'models/clower'),
        ('no_tcl', 'models/no_tcl'),
    ]  # a model that is done: not asked
    ran.clear()
    experiments_grid.run(grid_config(), tmp_path, prepare, finetune)
    assert not ran
    other = grid_config()
    other.finetune.tnews.task = 'other'
    with pytest.raises(ValueError, match='with other settings \\(finetune.task: tnews → other\\)'):
        experiments_grid.run(other, tmp_path, prepare, finetune)


def test_a_pooler_is_drawn_anew_for_all_or_read_by_none(tmp_path):
    """What some systems have trained and others not is compared in no cell."""
    ran = []

    def finetune(config, folder):
        ran.append((config.init_from, config.model.classify_from, config.model.new_pooler))
        found = results(0.5, 0.25)
        (folder / 'results.json').write_text(json.dumps(found))
        return found

    def grid(workdir, classify_from):
        config = grid_config(tasks='tnews')
        config.finetune.tnews.task = 'classify'
        config.finetune.tnews.model = {'classify_from': classify_from, 'new_pooler': False}
        experiments_grid.run(config, workdir, lambda model, folder: {'init_from': model}, finetune)
        return [ran.pop(0) for _ in range(len(ran))]

    models = ('random', 'clower', 'no_tcl')
    assert grid(tmp_path / 'pooler', 'pooler') == [(model, 'pooler', True) for model in models]
    assert grid(tmp_path / 'cls', 'cls') == [(model, 'cls', False) for model in models]
    # Cells of before there was the setting took whatever pooler there was.
    for path in tmp_path.glob('pooler/cells/*/*/cell.json'):
        cell = json.loads(path.read_text('utf-8'))
        for key in ('classify_from', 'new_pooler'):
            del cell['finetune']['model'][key]
        path.write_text(json.dumps(cell), 'utf-8')
    with pytest.raises(ValueError, match='finetune.model.classify_from: pooler → cls'):
        grid(tmp_path / 'pooler', 'cls')
    with pytest.raises(ValueError, match='finetune.model.new_pooler: False → True'):
        grid(tmp_path / 'pooler', 'pooler')


def test_all_tasks_of_a_grid_read_the_same_vector():
    config = config_file.get_config()
    classification = [one for one in config.finetune.values() if one.task == 'classify']
    assert len(classification) == len(classify.SETTINGS)
    assert {one.model.classify_from for one in classification} == {'cls'}
    config.classify_from = 'mean'
    assert {one.model.classify_from for one in classification} == {'mean'}
    config.finetune.bq.model.classify_from = 'pooler'
    assert {one.model.classify_from for one in classification} == {'pooler'} == {config.classify_from}


@pytest.mark.slow
def test_settings_that_there_were_not_yet(tmp_path):
    """A finished cell is read, though a config has got another key since."""

    def finetune(config, folder):
        found = results(0.5, 0.25)
        (folder / 'results.json').write_text(json.dumps(found))
        return found

    first = experiments_grid.run(grid_config(), tmp_path, lambda *_: {}, finetune)
    later = grid_config()
    later.finetune.tnews.later = 3
    assert experiments_grid.run(later, tmp_path, None, None) == first


def test_a_released_macbert_beside_one_that_is_trained_again(tmp_path):
    ran = []

    def finetune(config, folder):
        ran.append((config.init_from, folder.relative_to(tmp_path).as_posix()))
        found = results(0.5, 0.25 + len(ran) / 10)
        (folder / 'results.json').write_text(json.dumps(found))
        return found

    config = grid_config(models='clower,macbert,macbert=released,mine=other', tasks='tnews')
    shown = experiments_grid.run(config, tmp_path, lambda model, folder: {'init_from': model}, finetune)
    assert ran == [
        ('clower', 'cells/clower/tnews'), ('macbert', 'cells/macbert/tnews'),
        ('macbert=released', 'cells/macbert_released/tnews'), ('mine=other', 'cells/mine/tnews'),
    ]  # fmt: skip
    lines = {line.split(' | ')[0][2:]: line.split(' | ')[1] for line in shown.splitlines() if ' | ' in line}
    assert lines['MacBERT'].startswith('52.50') and lines['MacBERT'].endswith('[67.07]')
    assert lines['MacBERT, re-trained'].startswith('47.50') and '[' not in lines['MacBERT, re-trained']
    assert 'mine' in lines and 'MM-BERT' in lines


def test_a_model_that_is_not_ready_ends_the_grid(tmp_path):
    def never(*_):
        raise AssertionError('nothing to fine-tune')

    assert experiments_grid.run(grid_config(), tmp_path, lambda *_: None, never) == ''


def test_bad_settings_are_named(tmp_path):
    with pytest.raises(ValueError, match="tasks: 'cola' must be one of bq, ocnli, tnews"):
        experiments_grid.run(grid_config(tasks='tnews,cola'), tmp_path, None, None)
    with pytest.raises(ValueError, match="must name reference='bert'"):
        experiments_grid.run(grid_config(reference='bert'), tmp_path, None, None)
    path = tmp_path / 'paper.json'
    path.write_text('[1]')
    with pytest.raises(ValueError, match='is no file of numbers'):
        experiments_grid.run(grid_config(paper=str(path)), tmp_path, None, None)
    with pytest.raises(ValueError, match="no variant 'gpu'"):
        config_file.get_config('gpu')


@pytest.mark.slow
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
    config.models = f'random,bert_wwm,again={tmp_path}/grid/models/bert_wwm'  # which is made before
    config.reference = 'bert_wwm'
    rows = [f'{a}\t{label}' for a, label in finetuned.texts(24, 0)]
    task = config.finetune.tnews
    for split in ('train', 'dev'):
        (tmp_path / f'{split}.tsv').write_text('\n'.join(['text\tlabel', *rows]) + '\n', 'utf-8')
        task.data[split] = str(tmp_path / f'{split}.tsv')
    task.data.update(dataset='', max_length=32)
    task.update(total_steps=2, batch_size=8)
    for part in config_checks.training_configs(config):
        init_state.check(part)
    summary = finetune.summary

    def stopped(*args):
        signal.raise_signal(signal.SIGTERM)
        return summary(*args)

    def go():  # a start of its own, with nothing that asks it to stop
        return jobs.tables(
            jobs.Job(config, 'configs/tables.py:cpu', tmp_path / 'grid', systems=pretrain.SYSTEMS)
        )

    with monkeypatch.context() as patch:
        patch.setattr(finetune, 'summary', stopped)
        said = go()
    assert [path.parent.parent.name for path in tmp_path.glob('grid/cells/*/*/results.json')] == ['random']
    said = go()
    assert said.count('| again |') == 1 and '± ' in said and 'figure2.png' not in said
    cells = {
        cell['model']: cell for cell in json.loads((tmp_path / 'grid' / 'tables.json').read_text('utf-8'))
    }
    assert cells['again']['values'] == cells['bert_wwm']['values'] and len(cells['random']['values']) == 2
    saved = json.loads((tmp_path / 'grid/cells/bert_wwm/tnews/seed-0/config.json').read_text('utf-8'))
    assert saved['model']['classify_from'] == 'cls'
    for models, message in {
        'gpt': "models: 'gpt' must be one of random, clower, bert_wwm",
        f'bert_wwm,macbert={tmp_path}/nowhere': "nowhere' is neither a workdir",
    }.items():
        config.models = models
        with pytest.raises(ValueError, match=message):
            jobs.tables(
                jobs.Job(config, 'configs/tables.py:cpu', tmp_path / 'grid', systems=pretrain.SYSTEMS)
            )
