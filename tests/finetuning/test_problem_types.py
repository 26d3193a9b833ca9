"""One label, any of several, or a score: found by the label column; runs, thresholds, exports."""

import copy
import json
import logging
import re
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics
import transformers

from clower_jax import convert
from clower_jax.export.bert_folder import export
from clower_jax.training.inherited_settings import resolve_source
from configs import classify
from helpers import finetuned
from helpers.finetune import go
from input_pipeline.datasets import labelled
from input_pipeline.datasets.tables import Spec
from input_pipeline.finetuning import classification, problem_types
from input_pipeline.finetuning import data as finetuning_data
from input_pipeline.utils.problem_types import MULTI_LABEL, REGRESSION, SINGLE_LABEL

OPEN = Spec(problem_type='')


def written(path, rows):
    """A file of rows as its suffix has them."""
    if path.suffix == '.tsv':
        text = ''.join('\t'.join(map(str, row)) + '\n' for row in [('text', 'label'), *rows])
    else:
        lines = [json.dumps({'text': text, 'label': label}, ensure_ascii=False) for text, label in rows]
        text = '\n'.join(lines)
    path.write_text(text, encoding='utf-8')
    return str(path)


# ---- what labels are ----


@pytest.mark.parametrize(
    ('name', 'labels', 'expected'),
    [
        ('a.json', [['x', 'y'], [], ['x']], MULTI_LABEL),
        ('a.json', [['x'], 'y', 'x'], MULTI_LABEL),
        ('a.json', [1.5, 2, 3.0], REGRESSION),
        ('a.tsv', ['1.5', '2', '-3.25'], REGRESSION),
        ('a.tsv', ['1.0', '2.0', '1.0'], SINGLE_LABEL),
        ('a.tsv', ['1', '5', '3'], SINGLE_LABEL),
        ('a.tsv', ['1.5', 'x', '1.5'], SINGLE_LABEL),
        ('a.tsv', ['x,y', 'x', 'x'], SINGLE_LABEL),
        ('a.tsv', ['nan', 'inf', '1.5'], SINGLE_LABEL),
    ],
)
def test_what_labels_are_by_themselves(tmp_path, caplog, name, labels, expected):
    caplog.set_level(logging.INFO, 'input_pipeline')
    path = written(tmp_path / name, [('一', label) for label in labels])
    examples, _ = labelled.read(path, OPEN)
    assert labelled.problem_type_of(examples) == expected
    assert f'label: label; problem_type: {expected})' in caplog.text


def test_several_labels_in_a_cell_are_what_the_separator_says(tmp_path):
    path = written(tmp_path / 'a.tsv', [('一', 'x| y|x'), ('丁', ''), ('七', 'x,y')])
    examples, _ = labelled.read(path, OPEN._replace(separator='|'))
    assert [example.labels for example in examples] == [('x', 'y'), (), ('x,y',)]
    assert all(example.label is None for example in examples)
    assert labelled.discover_labels(examples) == ('x', 'x,y', 'y')
    hot = labelled.multi_hot(examples, ('x', 'x,y', 'y'))
    assert hot.tolist() == [[1, 0, 1], [0, 0, 0], [0, 1, 0]]
    with pytest.raises(ValueError, match=r"a.tsv:2: this row has the label 'y', and the labels are x, x,y "):
        labelled.multi_hot(examples, ('x', 'x,y'))
    with pytest.raises(ValueError, match='a.tsv:2: all rows together have one label'):
        labelled.discover_labels([example._replace(labels=('x',)) for example in examples])


def test_lists_are_refused_where_nobody_asked(tmp_path):
    path = written(tmp_path / 'a.json', [('一', ['x'])])
    with pytest.raises(ValueError, match='a.json:1: label is no text but '):
        labelled.read(path)


def test_a_score_is_a_number(tmp_path):
    path = written(tmp_path / 'a.tsv', [('一', '1.5'), ('丁', ''), ('七', 'x')])
    examples, _ = labelled.read(path, OPEN)
    np.testing.assert_array_equal(labelled.scores_of(examples[:2]), np.float32([1.5, np.nan]))
    with pytest.raises(ValueError, match="a.tsv:4: a score is a number, not 'x'"):
        labelled.scores_of(examples)


def config_of(folder, rows, suffix, **changes):
    """`configs/classify.py` on (train, dev, test) rows in `folder`."""
    config = classify.get_config()
    names = ('train', 'dev', 'test')
    files = {f'data.{name}': written(folder / f'{name}{suffix}', part) for name, part in zip(names, rows)}
    more = {'data.vocab': str(finetuned.write_vocab(folder)), 'data.max_length': 32}
    config.update_from_flattened_dict(finetuned.SIZES | files | more | changes)
    return config


def drawn(label_of, seed=0):
    """64, 20 and 20 texts with the labels that this function of a text gives."""
    rng = np.random.default_rng(seed)
    texts = [''.join(rng.choice(finetuned.CHARACTERS[:8], rng.integers(2, 7))) for _ in range(104)]
    rows = [(text, label_of(text)) for text in texts]
    return rows[:64], rows[64:84], rows[84:]


def labels_in(text):
    """Any of three."""
    names = zip(('good', 'bad', 'other'), finetuned.CHARACTERS)
    return [name for name, character in names if character in text]


def prepared(config):
    config, vocabulary = resolve_source(copy.deepcopy(config), Path('nowhere'))
    return finetuning_data.prepare(config, vocabulary)


@pytest.mark.parametrize(
    ('label_of', 'suffix', 'changes', 'expected', 'select'),
    [
        (labels_in, '.json', {}, MULTI_LABEL, 'micro_f1'),
        (
            lambda text: ';'.join(labels_in(text)),
            '.tsv',
            {'data.label_separator': ';'},
            MULTI_LABEL,
            'micro_f1',
        ),
        (lambda text: len(text) / 2, '.tsv', {'select': 'pearson'}, REGRESSION, 'pearson'),
        (len, '.tsv', {'data.problem_type': REGRESSION}, REGRESSION, 'spearman'),
        (len, '.tsv', {}, SINGLE_LABEL, 'acc'),
    ],
    ids=['lists', 'separator', 'decimals', 'whole', 'classes'],
)
def test_the_config_finds_out(tmp_path, caplog, label_of, suffix, changes, expected, select):
    caplog.set_level(logging.INFO, 'input_pipeline')
    config, data = prepared(config_of(tmp_path, drawn(label_of), suffix, **changes))
    assert (config.data.problem_type, config.select) == (expected, select)
    assert f'problem_type: {expected}' in caplog.messages[0]
    batch = next(data.batches(config))
    if expected == MULTI_LABEL:
        assert config.data.labels == ('bad', 'good', 'other')
        assert batch['labels'].shape == (16, 3) and batch['labels'].dtype == np.int32
    elif expected == REGRESSION:
        assert config.data.labels == ('score',) and batch['labels'].dtype == np.float32
    again, _ = prepared(config)  # as a run that goes on does
    assert again.data.to_dict() == config.data.to_dict()


def test_what_does_not_go_together(tmp_path):
    rows = drawn(labels_in)
    config = config_of(tmp_path, rows, '.json', **{'data.problem_type': SINGLE_LABEL})
    with pytest.raises(ValueError, match='train.json:1: the row has a list of labels, and data.prob'):
        prepared(config)
    config = config_of(tmp_path, rows, '.json')
    with pytest.raises(ValueError, match='is for multi_label_classification, and texts with one label each'):
        classification.single_texts(config)


# ---- runs ----


@pytest.fixture(scope='module')
def several(tmp_path_factory):
    """(config, workdir, results) of a run on texts that have any of three labels."""
    files, workdir = tmp_path_factory.mktemp('files'), tmp_path_factory.mktemp('work') / 'run'
    config = config_of(files, drawn(labels_in), '.json', num_epochs=40.0, eval_every=160)
    return config, workdir, go(config, workdir)


def lines_of(path):
    return [json.loads(line) for line in path.read_text('utf-8').splitlines()]


@pytest.mark.slow
def test_scores_of_several_labels_are_scikit_learns(several):
    config, workdir, results = several
    gold = [row['label'] for row in lines_of(Path(config.data.test))]
    predicted = [line['label'] for line in lines_of(workdir / 'predictions.json')]
    names = ['bad', 'good', 'other']
    hot = [np.array([[name in row for name in names] for row in rows]) for rows in (gold, predicted)]
    best = results['per_seed'][0]['test']['best']
    for average in ('micro', 'macro'):
        expected = sklearn.metrics.f1_score(*hot, average=average)
        assert best[f'{average}_f1'] == pytest.approx(expected) and expected > 0.8
    assert not (workdir / 'confusion.png').exists()


@pytest.mark.slow
def test_thresholds_are_those_of_the_development_set_and_stay(several):
    """Evaluated later, also where there is another development set, they are what the run chose."""
    config, workdir, results = several
    thresholds = json.loads((workdir / 'thresholds.json').read_text('utf-8'))
    assert thresholds.keys() == {'bad', 'good', 'other'} and set(thresholds.values()) != {0.5}
    later = copy.deepcopy(config)
    later.mode = 'evaluate'
    found = go(later, workdir)
    assert found['test'] == results['per_seed'][0]['test']['best']
    assert found['validation']['micro_f1'] == results['per_seed'][0]['validation']['best']['micro_f1']
    (workdir / 'thresholds.json').write_text(json.dumps(dict.fromkeys(thresholds, 1.0)), 'utf-8')
    assert go(later, workdir)['test']['micro_f1'] == 0
    (workdir / 'thresholds.json').write_text('{"bad": 0.5}', 'utf-8')
    with pytest.raises(ValueError, match="thresholds.json has no threshold for 'good'"):
        go(later, workdir)
    (workdir / 'thresholds.json').write_text(json.dumps(thresholds), 'utf-8')


@pytest.mark.slow
def test_the_pipeline_gives_the_same_labels(several, tmp_path, monkeypatch, capsys):
    config, workdir, _ = several
    folder = export(workdir, tmp_path / 'labels')
    settings = json.loads((folder / 'config.json').read_text('utf-8'))
    assert settings['problem_type'] == MULTI_LABEL
    classify_texts = transformers.pipeline('text-classification', str(folder))
    thresholds = settings['clower_jax']['thresholds']
    texts = [row['text'] for row in lines_of(Path(config.data.test))]
    for line, answers in zip(lines_of(workdir / 'predictions.json'), classify_texts(texts, top_k=None)):
        given = {x['label']: x['score'] for x in answers if x['score'] >= thresholds[x['label']]}
        assert given.keys() == set(line['label'])
        assert [given[label] for label in line['label']] == pytest.approx(line['probability'], abs=1e-4)
    card = (folder / 'README.md').read_text('utf-8')
    assert 'fine-tuned to give texts any of 3 labels: `bad`, `good`, `other`.' in card
    monkeypatch.chdir(tmp_path)
    exec(re.findall(r'```python\n(.*?)```', card, re.DOTALL)[0], {})
    convert.import_weights(folder, tmp_path / 'again')
    again = export(tmp_path / 'again', tmp_path / 'second')
    assert json.loads((again / 'config.json').read_text('utf-8')) == settings


def test_the_worst_mistakes_come_first():
    """Of three texts with several labels, and of three scores."""
    logits = np.array([[4.0, -4.0], [-1.0, 2.0], [3.0, 3.0]], np.float32)
    split = problem_types.MultiLabel.__new__(problem_types.MultiLabel)
    split.labels, split.thresholds = ('a', 'b'), {'a': 0.5, 'b': 0.5}
    split._gold = np.array([[1, 0], [1, 1], [0, 0]], np.int32)
    split._examples = [labelled.Example(text, None, None, f'x/f.tsv:{n}') for n, text in enumerate('甲乙丙')]
    shown = split.mistakes(logits, 5)
    assert [(one['text'], one['label'], one['predicted']) for one in shown] == [
        ('丙', '', 'a, b'),
        ('乙', 'a, b', 'b'),
    ]
    assert shown[0]['where'] == 'f.tsv:2' and len(split.mistakes(logits, 1)) == 1
    scores = problem_types.Regression.__new__(problem_types.Regression)
    scores._gold, scores._examples = np.array([4.0, np.nan, 1.0], np.float32), split._examples
    assert [(one['text'], one['label'], one['predicted']) for one in scores.mistakes(logits, 5)] == [
        ('丙', '1', '3.000'), ('甲', '4', '4.000'),
    ]  # fmt: skip


@pytest.mark.slow
def test_scores_of_texts(tmp_path, monkeypatch):
    """Regression from the files to the pipeline and back."""
    config = config_of(
        tmp_path,
        drawn(lambda text: 1.5 * text.count(finetuned.GOOD) - 0.25),
        '.tsv',
        num_epochs=20.0,
        eval_every=40,
    )
    workdir = tmp_path / 'run'
    results = go(config, workdir)
    gold = [float(line.split('\t')[1]) for line in Path(config.data.test).read_text('utf-8').splitlines()[1:]]
    predicted = [line['label'] for line in lines_of(workdir / 'predictions.json')]
    best = results['per_seed'][0]['test']['best']
    expected = scipy.stats.pearsonr(predicted, gold).statistic
    assert best['pearson'] == pytest.approx(expected, abs=1e-4) and expected > 0.8
    assert best['spearman'] == pytest.approx(scipy.stats.spearmanr(predicted, gold).statistic, abs=1e-4)
    assert best['loss'] == pytest.approx(np.mean((np.array(predicted) - gold) ** 2), rel=1e-3)
    folder = export(workdir, tmp_path / 'scorer')
    texts = [line.split('\t')[0] for line in Path(config.data.test).read_text('utf-8').splitlines()[1:]]
    answers = transformers.pipeline('text-classification', str(folder))(texts)
    assert [answer['score'] for answer in answers] == pytest.approx(predicted, abs=1e-4)
    assert {answer['label'] for answer in answers} == {'score'}
    card = (folder / 'README.md').read_text('utf-8')
    assert 'fine-tuned to give texts a score.' in card
    monkeypatch.chdir(tmp_path)
    exec(re.findall(r'```python\n(.*?)```', card, re.DOTALL)[0], {})
    later = copy.deepcopy(config)
    later.mode = 'evaluate'
    assert go(later, workdir)['test'] == best
    convert.import_weights(folder, tmp_path / 'again')
    assert go(later, tmp_path / 'again')['test'] == pytest.approx(best, abs=1e-5)
