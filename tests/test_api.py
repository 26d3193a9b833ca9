"""From Python what run.py does: the same files, the same figures."""

import json
import os
import signal
import subprocess
import sys

import pytest

import clower_jax
import clower_jax.api
from configs import pretrain
from helpers import finetuned

STEPS = {'total_steps': 12, 'eval_every': 6, 'checkpoint_every': 6, 'seeds': 1}


@pytest.fixture(scope='module')
def classifier(tmp_path_factory):
    """A fine-tuned run, its config and its results."""
    folder = tmp_path_factory.mktemp('classifier')
    config = finetuned.classify_config(folder, **STEPS)
    before = config.to_json_best_effort()
    results = clower_jax.finetune(config, folder / 'run')
    assert config.to_json_best_effort() == before
    return folder, config, results


@pytest.mark.slow
def test_finetune_returns_what_it_wrote_and_does_it_once(classifier):
    folder, config, results = classifier
    assert results == json.loads((folder / 'run' / 'results.json').read_text('utf-8'))
    assert results['mean']['test']['best']['acc'] >= 0
    assert clower_jax.finetune(config, folder / 'run') == results


@pytest.mark.slow
def test_evaluate_measures_what_training_measured(classifier):
    folder, config, results = classifier
    measured = clower_jax.evaluate(folder / 'run', config.data.test)
    best = results['mean']['test']['best']
    assert measured == {name: value for name, value in best.items() if name != 'step'}


@pytest.mark.slow
def test_predictions_are_those_of_the_command(classifier):
    folder, config, _ = classifier
    rows = finetuned.texts(20, 2)  # as in the test file
    given = clower_jax.predict(folder / 'run', [text for text, _ in rows])
    lines = (folder / 'run' / 'predictions.json').read_text('utf-8').splitlines()
    written = [json.loads(line) for line in lines]
    assert [line['label'] for line in given] == [line['label'] for line in written]
    for mine, theirs in zip(given, written):
        assert mine['probability'] == pytest.approx(theirs['probability'], abs=1e-5)
    predictor = clower_jax.Predictor(folder / 'run')
    assert predictor([rows[3][0]]) == [given[3] | {'probability': pytest.approx(given[3]['probability'])}]
    assert predictor([]) == []


@pytest.mark.slow
def test_wrong_texts_and_folders_are_named(classifier, tmp_path):
    folder, _, _ = classifier
    predictor = clower_jax.Predictor(folder / 'run')
    with pytest.raises(ValueError, match='^texts must be a list of texts, or of pairs of texts$'):
        predictor('今天天气很好')
    with pytest.raises(ValueError, match='^texts must be a list'):
        predictor([3])
    with pytest.raises(ValueError, match='data.test: pairs, where the training data has single texts'):
        predictor([('一', '二')])
    with pytest.raises(ValueError, match='is no fine-tuned model'):
        clower_jax.predict(tmp_path, ['一'])
    with pytest.raises(FileNotFoundError, match='there is no such file, nothing.tsv'):
        clower_jax.evaluate(folder / 'run', 'nothing.tsv')
    with pytest.raises(ValueError, match="task='classify' is no pre-training"):
        clower_jax.pretrain(finetuned.classify.get_config(), tmp_path)
    with pytest.raises(ValueError, match="task='pretrain' is no fine-tuning"):
        clower_jax.finetune(pretrain.get_config(), tmp_path)


def test_a_config_is_checked_first(tmp_path):
    config = finetuned.classify_config(tmp_path, **{'optim.learning_rate': -1.0})
    with pytest.raises(ValueError, match=r'^optim.learning_rate=-1.0 must be from 0.0 to 1000.0$'):
        clower_jax.finetune(config, tmp_path / 'run')
    assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize(
    ('number', 'raised'), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)]
)
def test_nothing_begins_after_a_run_that_was_stopped(tmp_path, monkeypatch, number, raised):
    def stopped(job):
        with job.stop:
            signal.raise_signal(number)
        return clower_jax.api.jobs.NOT_FINISHED

    monkeypatch.setitem(clower_jax.api.jobs.JOBS, 'pretrain', stopped)
    with pytest.raises(raised):
        clower_jax.pretrain(pretrain.get_config(), tmp_path)


@pytest.mark.slow
def test_fine_tuning_needs_no_tensorflow(tmp_path):
    """It takes longer to import than all else together, and reads pre-training's records alone; nor PyTorch,
    which tensorboardX would bring along."""
    program = f"""
import sys, pathlib, clower_jax
from clower_jax import convert
from helpers import finetuned
folder = pathlib.Path({str(tmp_path)!r})
config = finetuned.classify_config(folder, total_steps=1)
clower_jax.finetune(config, folder / 'run')
clower_jax.predict(folder / 'run', ['一'])
convert.main(['export', '--checkpoint', str(folder / 'run'), '--output', str(folder / 'exported')])
clower_jax.Encoder.load(folder / 'exported').encode(['一'])
print(*{{'tensorflow', 'apache_beam', 'transformers', 'datasets', 'torch'}} & set(sys.modules), sep=',')
"""
    environment = os.environ | {'PYTHONPATH': os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, '-c', program], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == ''


@pytest.mark.slow
def test_answers_to_questions(tmp_path):
    config = finetuned.span_config(tmp_path, **STEPS)
    clower_jax.finetune(config, tmp_path / 'run')
    written = json.loads((tmp_path / 'run' / 'predictions.json').read_text('utf-8'))
    paragraphs = finetuned.questions(10, 1)['data'][0]['paragraphs']  # as in the dev file
    pairs = [(paragraph['qas'][0]['question'], paragraph['context']) for paragraph in paragraphs]
    answers = clower_jax.predict(tmp_path / 'run', pairs)
    assert [answer['answer'] for answer in answers] == list(written.values())
    with pytest.raises(ValueError, match='a reader takes pairs'):
        clower_jax.predict(tmp_path / 'run', ['一'])


@pytest.mark.slow
def test_pretrain_a_model_and_look_at_it(tmp_path):
    config = pretrain.get_config()
    config.total_steps, config.batch_size, config.optim.warmup_steps = 2, 8, 1
    config.model.update(hidden_size=32, num_layers=1, intermediate_size=32)
    config.data.eval_examples = 8
    results = clower_jax.pretrain(config, tmp_path)
    assert results['steps'] == 2 and results['held_out']['loss'] > 0
    assert clower_jax.Encoder.load(tmp_path).encode(['今天天气很好']).shape == (1, 32)
    with pytest.raises(ValueError, match='is of pre-training'):
        clower_jax.predict(tmp_path, ['一'])


@pytest.mark.slow
def test_entities_of_texts(tmp_path):
    config = finetuned.tag_config(tmp_path, **STEPS)
    clower_jax.finetune(config, tmp_path / 'run')
    lines = (tmp_path / 'run' / 'predictions.json').read_text('utf-8').splitlines()
    written = [json.loads(line) for line in lines]
    given = clower_jax.predict(tmp_path / 'run', [line['text'] for line in written])
    for entities, line in zip(given, written, strict=True):
        count = sum(len(places) for texts in line['label'].values() for places in texts.values())
        assert len(entities['entities']) == count
        for entity in entities['entities']:
            place = [entity['start'], entity['end'] - 1]
            assert place in line['label'][entity['type']][entity['text']]
            assert line['text'][entity['start'] : entity['end']] == entity['text']
