"""Fine-tuning from end to end on a made-up task: seeds, best and last, stopping, going on, being used."""

import copy
import json
import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import transformers

from clower_jax import jobs
from clower_jax.checkpoints.digests import BEST
from clower_jax.checkpoints.orbax_store import Checkpoints
from clower_jax.interop import init_weights
from clower_jax.reports.plots import draw_confusion
from clower_jax.training import finetune, inherited_settings, init_state
from clower_jax.training.early_stopping import EarlyStopping
from clower_jax.training.inherited_settings import with_trained_settings
from helpers import finetuned
from helpers.finetune import go, killed_after, validation_rows


@pytest.fixture(scope='module')
def two_seeds(tmp_path_factory):
    """(files, workdir, results) of two seeds of 30 epochs, and what they were."""
    files, workdir = tmp_path_factory.mktemp('files'), tmp_path_factory.mktemp('work') / 'run'
    config = finetuned.classify_config(files, seeds=2, num_epochs=30.0, seed=5, checkpoint_every=60)
    return config, workdir, go(config, workdir)


@pytest.mark.slow
def test_the_task_is_learned(two_seeds):
    _, _, results = two_seeds
    assert results['mean']['test']['best']['acc'] > 0.9


@pytest.mark.slow
def test_results_of_every_seed(two_seeds):
    _, workdir, results = two_seeds
    assert json.loads((workdir / 'results.json').read_text('utf-8')) == results
    assert [one['seed'] for one in results['per_seed']] == [5, 6]
    for one in results['per_seed']:
        rows = validation_rows(workdir / f'seed-{one["seed"]}')
        assert [row['step'] for row in rows] == list(range(4, 121, 4))  # an evaluation an epoch
        assert one['validation']['last']['step'] == 120
        best = one['validation']['best']
        assert best['acc'] == max(row['acc'] for row in rows)
        assert best['step'] == next(row['step'] for row in rows if row['acc'] == best['acc'])
    for split in ('validation', 'test'):
        for which in ('best', 'last'):
            for metric in ('acc', 'macro_f1', 'loss'):
                values = [one[split][which][metric] for one in results['per_seed']]
                assert results['mean'][split][which][metric] == pytest.approx(np.mean(values))
                assert results['std'][split][which][metric] == pytest.approx(np.std(values, ddof=1))


@pytest.mark.slow
def test_files_of_a_run(two_seeds):
    _, workdir, results = two_seeds
    for seed in (5, 6):
        folder = workdir / f'seed-{seed}'
        for name in ('config.json', 'vocab.txt', 'predictions.json', 'confusion.png', 'report.html'):
            assert (folder / name).stat().st_size > 0, name
        assert json.loads((folder / 'config.json').read_text('utf-8'))['seed'] == seed
        with Checkpoints(folder, read_only=True, folder=BEST) as best:
            chosen = next(one for one in results['per_seed'] if one['seed'] == seed)
            assert best.latest_step == chosen['validation']['best']['step']
    assert (workdir / 'predictions.json').read_bytes() in {
        (workdir / f'seed-{seed}' / 'predictions.json').read_bytes() for seed in (5, 6)
    }


@pytest.mark.slow
def test_predictions_are_of_the_best_parameters_on_the_test_set(two_seeds):
    config, workdir, results = two_seeds
    gold = [line.split('\t')[1] for line in Path(config.data.test).read_text('utf-8').splitlines()[1:]]
    for one in results['per_seed']:
        lines = (workdir / f'seed-{one["seed"]}' / 'predictions.json').read_text('utf-8').splitlines()
        rows = [json.loads(line) for line in lines]
        assert [row['id'] for row in rows] == list(range(20))
        right = np.mean([row['label'] == label for row, label in zip(rows, gold, strict=True)])
        assert one['test']['best']['acc'] == pytest.approx(right)
        assert all(0.5 <= row['probability'] <= 1 for row in rows)


@pytest.mark.slow
def test_a_finished_run_is_not_trained_again(two_seeds):
    config, workdir, results = two_seeds
    before = (workdir / 'seed-5' / 'metrics.jsonl').read_bytes()
    assert go(config, workdir) == results
    assert (workdir / 'seed-5' / 'metrics.jsonl').read_bytes() == before


@pytest.mark.slow
def test_a_finished_run_cannot_be_falsified(two_seeds):
    """Other settings than it was trained with change nothing in it, neither its files nor its results."""
    config, workdir, results = two_seeds
    before = {path: path.read_bytes() for path in workdir.rglob('*') if path.is_file()}
    other = copy.deepcopy(config)
    other.optim.learning_rate, other.select, other.optim.weight_decay = 1.0, 'macro_f1', 0.5
    assert go(other, workdir) == results
    assert {path: path.read_bytes() for path in workdir.rglob('*') if path.is_file()} == before


@pytest.mark.slow
def test_evaluation_of_a_workdir(two_seeds, tmp_path):
    """The same figures as at the end of training, and those of a file of one's own."""
    config, workdir, results = two_seeds
    config = copy.deepcopy(config)
    config.mode = 'evaluate'
    found = go(config, workdir / 'seed-5')
    per_seed = results['per_seed'][0]
    for split in ('validation', 'test'):
        assert found[split]['acc'] == per_seed[split]['best']['acc']
    folder = workdir / 'seed-5' / 'evaluate'
    assert json.loads((folder / 'results.json').read_text('utf-8')) == found
    assert (folder / 'confusion.png').stat().st_size > 0
    assert (folder / 'predictions.json').read_bytes() == (workdir / 'seed-5/predictions.json').read_bytes()


@pytest.mark.slow
def test_prediction_on_new_text(two_seeds, tmp_path):
    config, workdir, _ = two_seeds
    config = copy.deepcopy(config)
    new = tmp_path / 'new.txt'
    rest = ''.join(finetuned.CHARACTERS[2:6])
    new.write_text(f'{rest}{finetuned.GOOD}\n{finetuned.BAD}{rest}\n', encoding='utf-8')
    config.mode, config.data.test, config.data.dev = 'predict', str(new), ''
    assert go(config, workdir / 'seed-5') == {'test': {}}
    lines = (workdir / 'seed-5' / 'predict' / 'predictions.json').read_text('utf-8').splitlines()
    assert [json.loads(line)['label'] for line in lines] == ['good', 'bad']


@pytest.mark.slow
def test_a_model_reads_as_it_was_trained(two_seeds, tmp_path):
    config, workdir, _ = two_seeds
    config = copy.deepcopy(config)
    config.mode, config.data.max_length, config.data.text_columns = 'predict', 64, ('text',)
    assert with_trained_settings(config, workdir / 'seed-5').data.max_length == 32
    assert with_trained_settings(config, workdir / 'seed-5').data.text_columns == ()
    given = with_trained_settings(config, workdir / 'seed-5', ['data.max_length'])
    assert given.data.max_length == 64 and given.data.labels == ('bad', 'good')


@pytest.mark.slow
def test_a_run_keeps_the_widths_that_it_was_begun_with(tmp_path):
    """On other devices, or by the rule of another version, it may have had more."""
    short = finetuned.classify_config(tmp_path, total_steps=2, **{'data.buckets': 2})
    jobs.finetuned(short, tmp_path / 'run')
    longer = finetuned.classify_config(tmp_path, total_steps=4, **{'data.buckets': 0})
    resolved, results = jobs.finetuned(longer, tmp_path / 'run')
    assert resolved.data.buckets == 2 and results
    assert jobs.finetuned(longer, tmp_path / 'other')[0].data.buckets == 1


@pytest.mark.slow
def test_a_class_is_told_from_the_vector_that_it_was_trained_on(tmp_path):
    """Evaluated as it was trained, whatever the config says; gone on with as it was begun; not exported."""
    config = finetuned.classify_config(tmp_path, num_epochs=1.0, **{'model.classify_from': 'cls'})
    resolved, results = jobs.finetuned(config, tmp_path / 'run')
    farewell = jobs._after_fine_tuning('configs/classify.py', tmp_path / 'run', results, resolved)
    assert 'convert export' not in farewell and 'classifies from cls' in farewell
    rows = results['data']['train']['rows']
    assert rows['kept'] == rows['read'] - sum(rows['dropped'].values()) > 0
    assert f'train: {rows["read"]:,} rows read, {rows["kept"]:,} used' in farewell
    assert results == json.loads((tmp_path / 'run' / 'results.json').read_text('utf-8'))
    assert results['skipped_steps'] == {str(config.seed): 0} and 'skipped' not in farewell
    rows = [{'step': 1, 'split': 'train', 'skipped_steps': 2.0}, {'step': 2, 'split': 'train'}]
    (tmp_path / 'metrics.jsonl').write_text('\n'.join(map(json.dumps, rows)))
    assert finetune.skipped_steps(tmp_path) == 2
    assert farewell.count('--config.mode=predict') == 1
    later = copy.deepcopy(config)
    later.mode, later.model.classify_from = 'evaluate', 'pooler'
    assert go(later, tmp_path / 'run')['test'] == results['per_seed'][0]['test']['best']
    with pytest.raises(ValueError, match='classify_from=pooler, but .*run was trained with cls'):
        with_trained_settings(later, tmp_path / 'run', ['model.classify_from'])
    later.mode, later.num_epochs = 'train', 2.0
    with pytest.raises(ValueError, match='model.classify_from: cls → pooler'):
        go(later, tmp_path / 'run')


@pytest.mark.slow
def test_a_classifier_of_before_one_could_choose_reads_the_pooler(tmp_path):
    config = finetuned.classify_config(tmp_path, num_epochs=1.0)
    results = go(config, tmp_path / 'run')
    path = tmp_path / 'run' / 'config.json'
    saved = json.loads(path.read_text('utf-8'))
    del saved['model']['classify_from'], saved['model']['new_pooler']
    path.write_text(json.dumps(saved), 'utf-8')
    later = copy.deepcopy(config)
    later.mode, later.model.classify_from = 'evaluate', 'mean'
    assert go(later, tmp_path / 'run')['test'] == results['per_seed'][0]['test']['best']
    later.mode, later.num_epochs = 'train', 2.0
    with pytest.raises(ValueError, match='model.classify_from: pooler → mean'):
        go(later, tmp_path / 'run')
    later.model.classify_from = 'pooler'
    assert go(later, tmp_path / 'run')['per_seed']


@pytest.mark.slow
def test_a_folder_of_seeds_is_no_model(two_seeds):
    config, workdir, _ = two_seeds
    config = copy.deepcopy(config)
    config.mode = 'evaluate'
    with pytest.raises(ValueError, match='needs a fine-tuned --workdir.*seed-0'):
        go(config, workdir)


@pytest.mark.slow
def test_a_model_of_another_task_is_refused(two_seeds, tmp_path):
    _, workdir, _ = two_seeds
    config = finetuned.span_config(tmp_path, mode='evaluate')
    with pytest.raises(ValueError, match="is of the task 'classify', the config of 'span'"):
        go(config, workdir / 'seed-5')


@pytest.mark.slow
def test_early_stopping_and_going_on(tmp_path):
    """A learning rate of nothing: the second and third evaluation are no better, and the run is over."""
    config = finetuned.classify_config(
        tmp_path, num_epochs=9.0, patience=2, **{'optim.learning_rate': 1e-12, 'data.test': ''}
    )
    results = go(config, tmp_path / 'run')
    steps = [row['step'] for row in validation_rows(tmp_path / 'run')]
    assert steps == [4, 8, 12]
    assert results['per_seed'][0]['validation']['best']['step'] == 4
    assert go(config, tmp_path / 'run') == results  # it is over, though steps are left
    assert [row['step'] for row in validation_rows(tmp_path / 'run')] == steps


@pytest.mark.slow
def test_cut_off_and_gone_on_is_never_cut_off(tmp_path):
    """12 steps, evaluated every 4 and saved every 6; the second run fails at step 11."""
    config = finetuned.classify_config(tmp_path, num_epochs=3.0, checkpoint_every=6, **{'data.test': ''})
    whole = go(config, tmp_path / 'whole')

    killed_after(10, config, tmp_path / 'cut')
    assert [row['step'] for row in validation_rows(tmp_path / 'cut')] == [4, 8]
    assert go(config, tmp_path / 'cut') == whole
    assert [row['step'] for row in validation_rows(tmp_path / 'cut')] == [4, 8, 12]
    one, other = (tmp_path / name / 'predictions.json' for name in ('whole', 'cut'))
    assert one.read_bytes() == other.read_bytes()


@pytest.mark.slow
def test_the_best_of_a_killed_run_is_not_that_of_the_next(tmp_path):
    """Killed before its first checkpoint, with a best/ already: another run in the same place, from the start
    and with other settings, neither goes on from it nor takes its best for its own."""
    first = finetuned.classify_config(tmp_path, num_epochs=6.0, checkpoint_every=100)
    killed = tmp_path / 'run'
    killed_after(21, first, killed)
    assert list((killed / BEST).iterdir()) and not init_weights.has_checkpoint(killed)
    second = finetuned.classify_config(
        tmp_path, num_epochs=6.0, batch_size=8, **{'optim.learning_rate': 1e-12}
    )
    assert go(second, killed) == go(second, tmp_path / 'fresh')
    one, other = (folder / 'predictions.json' for folder in (killed, tmp_path / 'fresh'))
    assert one.read_bytes() == other.read_bytes()


@pytest.mark.slow
def test_selecting_by_nothing(tmp_path):
    config = finetuned.classify_config(tmp_path, num_epochs=2.0, select='', **{'data.test': ''})
    results = go(config, tmp_path / 'run')
    assert results['per_seed'][0]['validation']['best'] == results['per_seed'][0]['validation']['last']
    assert not (tmp_path / 'run' / BEST).exists()


@pytest.mark.slow
def test_errors_of_the_command_are_messages(tmp_path):
    finetuned.write_table(tmp_path / 'train.tsv', [('一丁', 'good'), ('丁七', 'bad')] * 4)
    command = [
        sys.executable, 'run.py', '--config=configs/classify.py', f'--workdir={tmp_path}/run',
        f'--config.data.train={tmp_path}/train.tsv', '--config.data.text_columns=title',
        f'--config.data.vocab={finetuned.write_vocab(tmp_path)}',
    ]  # fmt: skip
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=300)
    assert done.returncode == 1 and 'Traceback' not in done.stderr
    assert 'train.tsv: there is no column title; its columns are: text, label' in done.stderr


@pytest.mark.parametrize(
    ('key', 'value'),
    [
        ('mode', 'score'), ('seeds', 0), ('data.max_length', 7), ('num_epochs', -1.0),
        ('optim.warmup_fraction', 1.0), ('data.dev_fraction', 1.0), ('patience', -1), ('data.n_best', 0),
        ('data.max_answer_length', 0), ('data.scorer', 'squad'), ('data.stride', 0),
    ],
)  # fmt: skip
def test_settings_that_no_data_could_make_good(tmp_path, key, value):
    init_state.check(finetuned.span_config(tmp_path))
    with pytest.raises(ValueError, match=key):
        init_state.check(finetuned.span_config(tmp_path, **{key: value}))


def test_what_classification_may_read(tmp_path):
    for value in ('sep', ''):
        with pytest.raises(ValueError, match=f"classify_from='{value}' must be one of cls, pooler, mean"):
            init_state.check(finetuned.classify_config(tmp_path, **{'model.classify_from': value}))
    changes = {'model.new_pooler': True, 'model.classify_from': 'cls'}
    with pytest.raises(ValueError, match='classify_from=cls reads no pooler'):
        init_state.check(finetuned.classify_config(tmp_path, **changes))


def test_patience_needs_a_metric(tmp_path):
    with pytest.raises(ValueError, match='patience=2 needs select'):
        init_state.check(finetuned.classify_config(tmp_path, patience=2, select=''))


@pytest.mark.slow
def test_without_a_development_set(tmp_path):
    """Nothing to choose by, so the last parameters are the model; evaluation of a test set is of them."""
    config = finetuned.classify_config(tmp_path, num_epochs=1.0, **{'data.dev': '', 'data.dev_fraction': 0.0})
    results = go(config, tmp_path / 'run')
    assert results['per_seed'][0].keys() == {'seed', 'test'}
    assert results['mean']['test']['best'] == results['mean']['test']['last']
    config.mode = 'evaluate'
    assert go(config, tmp_path / 'run')['test'] == results['mean']['test']['last']


def test_a_rate_of_0_is_0(tmp_path):
    """Only sizes of 0 are found out; random weights, which have none of their own, are of BERT-base's."""
    rates = {'model.dropout': 0.0, 'model.attention_dropout': 0.0, 'model.num_layers': 0}
    config, _ = inherited_settings.resolve_source(
        finetuned.classify_config(tmp_path, **rates), tmp_path / 'run'
    )
    assert (config.model.dropout, config.model.attention_dropout, config.model.num_layers) == (0, 0, 12)


def test_random_weights_need_a_vocabulary(tmp_path):
    config = finetuned.classify_config(tmp_path, **{'data.vocab': ''})
    with pytest.raises(ValueError, match='nothing to start from.*init_from.*data.vocab'):
        go(config, tmp_path / 'run')


@pytest.mark.slow
def test_reading_comprehension(tmp_path):
    config = finetuned.span_config(tmp_path, num_epochs=2.0)
    results = go(config, tmp_path / 'run')
    predictions = json.loads((tmp_path / 'run' / 'predictions.json').read_text('utf-8'))
    data = json.loads(Path(config.data.dev).read_text('utf-8'))['data'][0]['paragraphs']
    answers = {p['qas'][0]['id']: p['qas'][0]['answers'][0]['text'] for p in data}
    assert predictions.keys() == answers.keys()
    exact = 100 * np.mean([predictions[key] == answers[key] for key in answers])
    assert results['per_seed'][0]['validation']['best']['em'] == pytest.approx(exact)
    assert all(predictions[p['qas'][0]['id']] in p['context'] for p in data)
    nbest = json.loads((tmp_path / 'run' / 'nbest.json').read_text('utf-8'))
    assert all(nbest[key][0]['text'] == predictions[key] for key in answers)

    config.mode = 'evaluate'
    found = go(config, tmp_path / 'run')['validation']
    assert found['em'] == pytest.approx(exact) and found['f1'] >= found['em']
    new = tmp_path / 'new.json'
    row = {'id': 'n', 'context': finetuned.BAD + finetuned.GOOD, 'question': finetuned.BAD}
    new.write_text(json.dumps([row], ensure_ascii=False), encoding='utf-8')
    config.mode, config.data.test = 'predict', str(new)
    assert go(config, tmp_path / 'run') == {'test': {}}
    predicted = json.loads((tmp_path / 'run' / 'predict' / 'predictions.json').read_text('utf-8'))
    assert predicted.keys() == {'n'} and predicted['n'] in row['context']


@pytest.mark.slow
def test_from_a_hugging_face_folder(tmp_path, caplog):
    """Sizes, vocabulary and weights are the folder's; only the head is new."""
    caplog.set_level(logging.INFO, 'clower_jax')
    folder = tmp_path / 'bert'
    shape = transformers.BertConfig(
        vocab_size=35, hidden_size=48, num_hidden_layers=1, num_attention_heads=3, intermediate_size=56,
        max_position_embeddings=40,
    )  # fmt: skip
    model = transformers.BertModel(shape)
    model.save_pretrained(folder)
    finetuned.write_vocab(folder)
    config = finetuned.classify_config(tmp_path, total_steps=1, init_from=str(folder))
    for name in ('hidden_size', 'num_layers', 'num_heads', 'intermediate_size', 'max_positions'):
        config.model[name] = 0
    config.optim.learning_rate = 1e-12
    go(config, tmp_path / 'run')
    assert 'Left at random values (2): classifier/{bias, kernel}' in caplog.text
    saved = json.loads((tmp_path / 'run' / 'config.json').read_text('utf-8'))['model']
    assert (saved['hidden_size'], saved['num_heads'], saved['max_positions']) == (48, 3, 40)
    with Checkpoints(tmp_path / 'run', read_only=True) as checkpoints:
        params = checkpoints.load_params()
    theirs = model.embeddings.word_embeddings.weight.detach().numpy()
    np.testing.assert_allclose(params['embeddings/word_embeddings/embedding'], theirs, atol=1e-6)


@pytest.mark.parametrize(
    ('values', 'patience', 'improvements', 'exhausted'),
    [
        ([0.1, 0.3, 0.2, 0.4], 2, [True, True, False, True], False),
        ([0.3, 0.3, 0.3], 2, [True, False, False], True),
        ([0.3, 0.2, 0.1], 0, [True, False, False], False),
    ],
)
def test_the_best_evaluation(values, patience, improvements, exhausted):
    best = EarlyStopping('acc', patience)
    assert [best.update(step, {'acc': value}) for step, value in enumerate(values)] == improvements
    assert best.should_stop == exhausted
    rows = [{'split': 'validation', 'step': step, 'acc': value} for step, value in enumerate(values)]
    again = EarlyStopping('acc', patience, [{'split': 'train', 'step': 0}, *rows])
    assert again.should_stop == exhausted and again.best_step == values.index(max(values)) == best.best_step


def test_an_unknown_metric_to_select_by():
    with pytest.raises(ValueError, match="select='f1' is none of the held-out metrics: acc, loss"):
        EarlyStopping('f1', 0).update(1, {'loss': 1.0, 'acc': 0.5})


@pytest.mark.parametrize('labels', [['0', '1'], ['好', '坏'], ['$a', 'b$_^']])
def test_a_confusion_matrix_of_any_labels(tmp_path, labels):
    """A missing glyph would be a warning, and so an error here."""
    draw_confusion(np.array([[3, 1], [0, 0]]), labels, tmp_path / 'confusion.png')
    assert (tmp_path / 'confusion.png').stat().st_size > 1000
