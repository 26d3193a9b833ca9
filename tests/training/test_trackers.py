"""Trackers: metrics.jsonl is always there, the others where they are asked for, and a run that goes on is the
same run there."""

import json
import sys

import pytest

from clower_jax.training import init_state, trackers
from clower_jax.training.run_log import Writer
from clower_jax.utils.metrics_file import read_metrics
from helpers import synthetic

VOCABULARY = synthetic.Vocabulary()


def run_twice(workdir, log_to):
    """Steps 2 and 4, a kill, and from step 2 on again."""
    config = synthetic.tiny_config(log_to=log_to)
    for start, losses in ((0, {2: 9.0, 4: 8.0}), (2, {4: 7.5})):
        writer = Writer(workdir, start, log_to=log_to)
        writer.write_config(config, VOCABULARY.tokens)
        for step, loss in losses.items():
            writer.scalars(step, 'train', {'loss': loss})
        writer.scalars(max(losses), 'validation', {'acc_sop': 0.5})
        writer.close()
    rows = read_metrics(workdir / 'metrics.jsonl')
    assert [(row['step'], row.get('loss')) for row in rows] == [(2, 9.0), (4, 7.5), (4, None)]


@pytest.mark.parametrize('log_to', ['', 'tensorboard'])
def test_tensorboard_is_a_choice(tmp_path, log_to):
    run_twice(tmp_path, log_to)
    assert (tmp_path / 'tensorboard').is_dir() == bool(log_to)
    assert not (tmp_path / trackers.IDS).exists()


@pytest.mark.slow
@pytest.mark.filterwarnings('ignore')  # its own, of things that it is about to drop
def test_mlflow_has_the_settings_and_every_metric(tmp_path, monkeypatch):
    pytest.importorskip('mlflow')
    monkeypatch.setenv('MLFLOW_TRACKING_URI', f'file://{tmp_path}/mlruns')
    monkeypatch.setenv('MLFLOW_ALLOW_FILE_STORE', 'true')
    from mlflow.tracking import MlflowClient

    run_twice(tmp_path / 'run', 'mlflow')
    client = MlflowClient()
    experiment = client.get_experiment_by_name(trackers.PROJECT)
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_name == 'run' and run.info.status == 'FINISHED'
    assert run.data.tags['optim.learning_rate'] == '0.001' and run.data.tags['batch_size'] == '8'
    history = client.get_metric_history(run.info.run_id, 'train/loss')
    assert [(metric.step, metric.value) for metric in history] == [(2, 9.0), (4, 8.0), (4, 7.5)]
    assert run.data.metrics['validation/acc_sop'] == 0.5


@pytest.mark.slow
@pytest.mark.filterwarnings('ignore')
def test_wandb_has_the_settings_and_the_last_metrics(tmp_path, monkeypatch):
    wandb = pytest.importorskip('wandb')
    for name, value in {
        'MODE': 'offline',
        'SILENT': 'true',
        'CACHE_DIR': tmp_path,
        'CONFIG_DIR': tmp_path,
    }.items():
        monkeypatch.setenv(f'WANDB_{name}', str(value))
    config = synthetic.tiny_config(log_to='wandb')
    seen = []
    for _ in range(2):
        writer = Writer(tmp_path, log_to='wandb')
        writer.write_config(config, VOCABULARY.tokens)
        writer.scalars(4, 'train', {'loss': 7.5})
        seen.append((wandb.run.id, wandb.run.config['optim.learning_rate'], wandb.run.summary['train/loss']))
        writer.close()
    assert seen[0] == seen[1] == (json.loads((tmp_path / trackers.IDS).read_text())['wandb'], 1e-3, 7.5)
    assert len(list((tmp_path / 'wandb').glob(f'offline-run-*-{seen[0][0]}/*.wandb'))) == 2


def test_a_tracker_that_is_none_or_not_installed_is_refused_before_anything_else(monkeypatch):
    with pytest.raises(ValueError, match="'tensorbored' must be one of tensorboard, wandb, mlflow"):
        init_state.check(synthetic.tiny_config(log_to='tensorboard, tensorbored'))
    monkeypatch.setitem(sys.modules, 'wandb', None)
    with pytest.raises(ImportError, match=r'wandb is not installed: pip install "clower-jax\[wandb\]"'):
        init_state.check(synthetic.tiny_config(log_to='wandb'))
