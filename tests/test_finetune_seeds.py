"""Several seeds side by side in one program: each is what it would be alone."""

import copy
import json
import math
import shutil
from pathlib import Path

import finetuned
import jax
import numpy as np
import pytest
from ml_collections import ConfigDict
from test_finetune import go, killed_after

import run
from clower_jax import finetune, train
from clower_jax.checkpoint import BEST, FOLDER, Checkpoints
from clower_jax.train_state import TrainState
from clower_jax.writer import read_metrics
from input_pipeline import finetuning
from input_pipeline.tokenizer import Vocabulary

SEEDS = (5, 6)
# Of every step, in batches of two widths, with dropout.
SETTINGS = {'seeds': 2, 'seed': 5, 'num_epochs': 3.0, 'log_every': 1, 'data.buckets': 2}
RATES = {'examples_per_s', 'tokens_per_s'}


def files(workdir: Path) -> set[str]:
    """What a run leaves, but for the names of the event files and what Orbax writes."""
    found = (path.relative_to(workdir) for path in workdir.rglob('*') if path.is_file())
    return {str(path) for path in found if not {'tensorboard', FOLDER, BEST} & set(path.parts)}


def assert_same_metrics(one: Path, other: Path) -> None:
    """The lines of two metrics.jsonl to 1e-4, but for the rates, which the first step has none of."""
    rows, others = (read_metrics(folder / 'metrics.jsonl') for folder in (one, other))
    assert len(rows) == len(others) > 0
    for a, b in zip(rows, others):
        names = a.keys() - RATES
        assert names == b.keys() - RATES and a['split'] == b['split'], (a, b)
        for name in names - {'split'}:
            assert math.isclose(a[name], b[name], rel_tol=1e-4, abs_tol=1e-4), (name, a, b)


def saved(folder: Path, which: str) -> tuple[int | None, dict]:
    """The step and the parameters of the newest checkpoint."""
    with Checkpoints(folder, read_only=True, folder=which) as checkpoints:
        return checkpoints.latest_step, checkpoints.load_params()


@pytest.fixture(scope='module')
def both(tmp_path_factory):
    """(config, workdir of the seeds one by one and its results, the same of both at once)."""
    config = finetuned.classify_config(tmp_path_factory.mktemp('files'), **SETTINGS)
    found = []
    for at_once in (1, 2):
        one, workdir = copy.deepcopy(config), tmp_path_factory.mktemp('work') / 'run'
        one.seeds_at_once = at_once
        found += [workdir, go(one, workdir)]
    return config, *found


def test_every_step_is_that_of_the_seed_alone(both):
    _, alone, _, at_once, _ = both
    for seed in SEEDS:
        assert_same_metrics(alone / f'seed-{seed}', at_once / f'seed-{seed}')


def test_seeds_differ(both):
    _, _, _, at_once, _ = both
    losses = {read_metrics(at_once / f'seed-{seed}' / 'metrics.jsonl')[0]['loss'] for seed in SEEDS}
    assert len(losses) == 2


def test_the_same_files_and_results(both):
    config, alone, results, at_once, results_at_once = both
    assert files(alone) == files(at_once)
    assert [one['seed'] for one in results_at_once['per_seed']] == list(SEEDS)
    for one, other in zip(jax.tree.leaves(results), jax.tree.leaves(results_at_once), strict=True):
        assert one == other or math.isclose(one, other, rel_tol=1e-4, abs_tol=1e-4)
    for seed in SEEDS:
        settings = json.loads((at_once / f'seed-{seed}' / 'config.json').read_text('utf-8'))
        assert (settings['seed'], settings['seeds_at_once']) == (seed, 2)
        for which in (FOLDER, BEST):
            (step, params), (step_alone, params_alone) = (
                saved(folder / f'seed-{seed}', which) for folder in (at_once, alone)
            )
            assert step == step_alone
            for name, value in params.items():
                np.testing.assert_allclose(value, params_alone[name], atol=1e-4, err_msg=name)


def test_cut_off_and_gone_on_is_never_cut_off(both, tmp_path):
    """Both seeds were saved at step 8 of 12; and one of them only at step 4, as if killed in between."""
    config, _, _, whole, results = both
    config = copy.deepcopy(config)
    config.seeds_at_once = config.keep_checkpoints = 2
    killed_after(10, config, tmp_path / 'level')
    shutil.copytree(tmp_path / 'level', tmp_path / 'apart')
    shutil.rmtree(tmp_path / 'apart' / 'seed-6' / FOLDER / '8')
    for name, step in (('level', 8), ('apart', 4)):
        assert saved(tmp_path / name / 'seed-6', FOLDER)[0] == step
        resumed = go(config, tmp_path / name)
        for one, other in zip(jax.tree.leaves(results), jax.tree.leaves(resumed), strict=True):
            assert one == other or math.isclose(one, other, rel_tol=1e-4, abs_tol=1e-4)
        for seed in SEEDS:
            assert_same_metrics(whole / f'seed-{seed}', tmp_path / name / f'seed-{seed}')


def jobs_of(config: ConfigDict, workdir: Path) -> tuple[list[train.Job], Vocabulary]:
    """What `finetune.run` makes of a config, up to the loop."""
    config, vocabulary = run.with_source(config, workdir)
    config, data = finetuning.prepare(config, vocabulary)
    return [finetune._job(config, workdir, data, seed) for seed in SEEDS], vocabulary


def test_one_stops_early_and_the_other_goes_on(tmp_path):
    """The scores are made up: those of the first seed get worse, those of the second better."""
    changes = {'select': 'macro_f1', 'patience': 2, 'num_epochs': 5.0, 'data.buckets': 1}
    jobs, vocabulary = jobs_of(finetuned.classify_config(tmp_path, **SETTINGS | changes), tmp_path)
    curves = ([0.3, 0.2, 0.1], [0.1, 0.2, 0.3, 0.4, 0.5])
    scores = iter([value for pair in zip(*curves) for value in pair] + curves[1][3:])
    held_out = train.train_side_by_side(jobs, vocabulary, lambda outputs: {'macro_f1': next(scores)})
    for job, curve, found, best in zip(jobs, curves, held_out, (4, 20)):
        last = 4 * len(curve)
        rows = read_metrics(job.workdir / 'metrics.jsonl')
        assert [row['macro_f1'] for row in rows if row['split'] == 'validation'] == curve
        assert [row['step'] for row in rows if row['split'] == 'train'] == list(range(1, last + 1))
        assert (saved(job.workdir, FOLDER)[0], saved(job.workdir, BEST)[0]) == (last, best)
        assert found['macro_f1'] == curve[-1]
    # One is over, the other is at its end: there is no step that both would take.
    with pytest.raises(ValueError, match='only runs at the same step .*seed-5 at 12, .*seed-6 at 20'):
        train.train_side_by_side(jobs, vocabulary)


def test_a_gradient_that_is_not_finite_is_the_affair_of_one(tmp_path):
    """Of two steps on questions; the other one is what it would be alone."""
    jobs, _ = jobs_of(finetuned.span_config(tmp_path, **SETTINGS), tmp_path)
    evaluator, optimizer, step = train.programs_of(jobs[0].config)
    batches = [next(job.batches()) for job in jobs]
    keys = [jax.random.key(job.config.seed) for job in jobs]

    def states():
        first, second = (evaluator.task.init(key) for key in keys)
        second['qa_outputs']['bias'] *= np.nan
        return [TrainState.create(params, optimizer, 'float32') for params in (first, second)]

    (one, other), measured = step(states(), batches, keys)
    alone, measured_alone = step(states()[0], batches[0], keys[0])
    assert [int(found['bad_steps']) for found in measured] == [0, 1] and int(other.step) == 1
    for name, sums in measured_alone['sums'].items():
        np.testing.assert_allclose(measured[0]['sums'][name], sums, rtol=1e-5, atol=1e-6, err_msg=name)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), one.params, alone.params)
    jax.tree.map(np.testing.assert_array_equal, other.params, states()[1].params)


def test_groups_of_seeds(tmp_path):
    """Five seeds by twos; the last one is alone."""
    config = finetuned.classify_config(tmp_path, **SETTINGS | {'seeds': 5, 'seeds_at_once': 2})
    assert list(finetune._side_by_side(config, tmp_path / 'none')) == [[5, 6], [7, 8], [9]]
    assert not (tmp_path / 'none').exists()
