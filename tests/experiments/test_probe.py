"""The command that probes encoders: rows never mix, results can be recomputed, errors come early."""

import json

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st

from clower_jax import jobs
from clower_jax.experiments import linear_probes, probe
from clower_jax.inference.encoder import Encoder
from configs import probe as config_file
from helpers import finetuned

JOB = 'configs/probe.py'


@pytest.fixture(scope='module')
def folders(tmp_path_factory):
    """Three tiny Hugging Face BERTs with other weights."""
    made = []
    for seed in range(3):
        torch.manual_seed(seed)
        shape = transformers.BertConfig(
            vocab_size=35, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24,
            max_position_embeddings=40, initializer_range=0.3,
        )  # fmt: skip
        folder = tmp_path_factory.mktemp('bert')
        transformers.BertModel(shape).save_pretrained(folder)
        finetuned.write_vocab(folder)
        made.append(str(folder))
    return made


def config_of(folder, models, train=90, **changes):
    """The config of a probe of made-up texts in `folder`, which is filled; and a split off them."""
    config = config_file.get_config()
    files = {
        f'data.own.{key}': str(finetuned.write_table(folder / f'{key}.tsv', finetuned.texts(count, seed)))
        for seed, (key, count) in enumerate({'train': train, 'dev': 60}.items())
    }
    settings = {
        'models': models, 'tasks': 'own', 'train_sizes': (10, 40), 'draws': 2, 'selection_rows': 20,
        'eval_rows': 50, 'resamples': 200, 'data.own.max_length': 32,
    }  # fmt: skip
    config.update_from_flattened_dict(settings | files | changes)
    return config


@pytest.fixture(scope='module')
def results(folders, tmp_path_factory):
    """(config, workdir, what the command said) of a model with two seeds and one with one."""
    folder = tmp_path_factory.mktemp('probe')
    first, second, third = folders
    config = config_of(folder, f'a={first},a={second}, b={third}')
    return config, folder / 'run', jobs.probes(jobs.Job(config, JOB, folder / 'run'))


@given(
    st.integers(30, 60),
    st.integers(1, 29),
    st.lists(st.integers(1, 50), min_size=1, max_size=3),
    st.integers(0, 60),
)
def test_rows_take_part_once(rows, selection, sizes, eval_rows):
    config = config_file.get_config()
    config.update(train_sizes=tuple(sizes), selection_rows=selection, eval_rows=eval_rows, draws=3)
    train = [f'train {number}' for number in range(rows)], np.arange(rows)
    reported = [f'reported {number}' for number in range(40)], np.arange(40)
    made = probe.choose_rows(config, train, reported)
    assert len(made.selection[0]) == selection
    assert not set(made.selection[0]) & set(made.train[0])
    assert len(set(made.train[0])) == len(made.train[0]) == min(max(sizes), rows - selection)
    assert len(set(made.reported[0])) == (min(eval_rows, 40) or 40)
    for texts, labels in (made.train, made.selection, made.reported):
        assert [int(text.split()[1]) for text in texts] == labels.tolist()
    assert list(made.draws) == sorted({min(size, rows - selection) for size in sizes})
    for size, draws in made.draws.items():
        assert draws.shape == (1 if size == len(made.train[0]) else 3, size)
        assert all(len(set(draw)) == size for draw in draws.tolist())


@pytest.mark.slow
def test_results_are_those_of_the_vectors(results, folders):
    """Every cell again, from the rows that the table stands on and vectors of one encoder at a time."""
    config, workdir, _ = results
    found = json.loads((workdir / 'probe.json').read_text('utf-8'))['tasks']['own']
    assert found['rows'] == {'train': 40, 'selection': 20, 'reported': 50}
    assert found['draws'] == {'10': 2, '40': 1}
    texts = finetuned.texts(90, 0), finetuned.texts(60, 1)
    names = ('bad', 'good')
    rows = probe.choose_rows(
        config,
        *(([text for text, _ in part], np.array([names.index(name) for _, name in part])) for part in texts),
    )
    accuracies, right = {}, {}
    for folder in folders:
        for vector in probe.VECTORS:
            encoder = Encoder.load(folder, vector, max_length=32)
            train, selection, reported = (encoder.encode(part[0]) for part in rows[:3])
            for size, draws in rows.draws.items():
                for name, fit in linear_probes.PROBES.items():
                    hits = [
                        linear_probes.choose(
                            fit, (train[draw], rows.train[1][draw]), (selection, rows.selection[1]), reported
                        ).predicted
                        == rows.reported[1]
                        for draw in draws
                    ]
                    right[folder, vector, name, size] = np.mean(hits, axis=0)
                    accuracies[folder, vector, name, size] = np.mean(hits)
    assert len(found['results']) == 2 * 3 * 2 * 2
    for result in found['results']:
        key = result['vector'], result['probe'], result['labels']
        seeds = folders[:2] if result['model'] == 'a' else folders[2:]
        expected = [accuracies[folder, *key] for folder in seeds]
        np.testing.assert_allclose(result['seeds'], expected, atol=0.011)  # a row of 50 on the fence
        assert result['accuracy'] == pytest.approx(np.mean(result['seeds']))
        low, high = result['interval']
        assert low <= result['accuracy'] <= high
        if result['model'] == 'a':
            assert 'difference' not in result
            continue
        change = right[folders[2], *key] - (right[folders[0], *key] + right[folders[1], *key]) / 2
        assert result['difference'] == pytest.approx(change.mean(), abs=0.021)
        expected = linear_probes.interval(change, config.seed, config.resamples)
        np.testing.assert_allclose(result['difference_interval'], expected, atol=0.041)


@pytest.mark.slow
def test_the_token_table_knows_what_the_label_is_of(results):
    """The label of a text is which of two characters it holds: the mean of its embeddings is enough."""
    found = json.loads((results[1] / 'probe.json').read_text('utf-8'))['tasks']['own']['results']
    best = {x['probe']: x['accuracy'] for x in found if (x['vector'], x['labels']) == ('embeddings', 40)}
    assert min(best.values()) > 0.7


@pytest.mark.slow
def test_table_and_picture(results):
    config, workdir, said = results
    table = (workdir / 'probe.md').read_text('utf-8')
    assert said.startswith(table) and str(workdir / 'probe.png') in said
    lines = [line for line in table.splitlines() if line.startswith('| own')]
    assert [line.split(' | ')[1:4] for line in lines] == [
        ['10', 'a', '2'], ['10', 'b', '1'], ['40', 'a', '2'], ['40', 'b', '1'],
    ]  # fmt: skip
    assert all(('[' in line) == (' b ' in line) for line in lines)
    assert (workdir / 'probe.png').stat().st_size > 10_000


@pytest.mark.slow
def test_a_task_that_is_half_done_is_drawn(results, tmp_path):
    found = json.loads((results[1] / 'probe.json').read_text('utf-8'))
    half = [x for x in found['tasks']['own']['results'] if x['model'] == 'a']
    found['tasks']['other'] = found['tasks']['own'] | {'results': half}
    probe.draw(found, tmp_path / 'probe.png')
    assert (tmp_path / 'probe.png').stat().st_size > 10_000
    assert sum(line.startswith('| other') for line in probe.table(found).splitlines()) == 2


@pytest.mark.slow
def test_the_same_command_goes_on_and_another_reference_measures_nothing(results, folders, tmp_path):
    config, workdir, said = results
    cells = {path: path.stat().st_mtime_ns for path in (workdir / 'cells').iterdir()}
    assert len(cells) == 3
    assert jobs.probes(jobs.Job(config, JOB, workdir)) == said
    other = config.copy_and_resolve_references()
    other.reference = 'b'
    assert 'difference from b' in jobs.probes(jobs.Job(other, JOB, workdir))
    assert cells == {path: path.stat().st_mtime_ns for path in (workdir / 'cells').iterdir()}
    assert jobs.probes(jobs.Job(config, JOB, workdir)) == said
    other.seed = 1
    with pytest.raises(ValueError, match='other settings'):
        jobs.probes(jobs.Job(other, JOB, workdir))


@pytest.mark.slow
def test_what_makes_no_sense_is_said_at_once(folders, tmp_path):
    good = f'a={folders[0]}'

    def go(models=good, **changes):
        jobs.probes(jobs.Job(config_of(tmp_path, models, **changes), JOB, tmp_path / 'run'))

    for models in ('', folders[0], 'a=', f'{good},'):
        with pytest.raises(ValueError, match='NAME=FOLDER'):
            go(models)
    with pytest.raises(ValueError, match='nowhere'):
        go(f'{good},b={tmp_path}/nowhere')
    with pytest.raises(ValueError, match='reference'):
        go(reference='b')
    with pytest.raises(ValueError, match="tasks: 'cmrc'"):
        go(tasks='cmrc')
    with pytest.raises(ValueError, match='none is left'):
        go(selection_rows=90)
    with pytest.raises(ValueError, match='draws=0'):
        go(draws=0)
    with pytest.raises(ValueError, match='train_sizes'):
        go(train_sizes=(0, 10))
    with pytest.raises(ValueError, match='no development examples'):
        go(**{'data.own.dev': '', 'data.own.dev_fraction': 0.0})
    with pytest.raises(ValueError, match='max_length=64'):
        go(**{'data.own.max_length': 64})
    pairs = tmp_path / 'pairs.tsv'
    pairs.write_text('text_a\ttext_b\tlabel\n' + '一丁\t丁七\tgood\n丁七\t一丁\tbad\n' * 9, encoding='utf-8')
    with pytest.raises(ValueError, match='pairs of texts'):
        go(**{'data.own.train': str(pairs), 'data.own.dev': str(pairs)})
    assert not (tmp_path / 'run' / 'cells').exists()
