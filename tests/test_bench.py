"""The benchmarks compare like with like: the contenders in torch take our steps. The commands run."""

import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from bench import check, mirror, step, step_case, torch_steps
from clower_jax.checkpoints.train_state import TrainState
from clower_jax.interop import hf_bert
from clower_jax.objectives import registry
from clower_jax.ops import losses
from clower_jax.training import evaluate, optim
from clower_jax.training.train_step import make_train_step
from helpers import synthetic
from input_pipeline.sentence_vectors.mirror_bert import Masks

ROOT = Path(__file__).parent.parent
VIEWS = ('char', 'word')


def tiny_config(**changes):
    sizes = {
        **{'model.vocab_size': 300, 'model.base_vocab_size': 150, 'model.num_layers': 2},
        **{'model.dropout': 0.0, 'model.attention_dropout': 0.0},
        **{'data.char_length': 32, 'data.word_length': 24},
    }
    return synthetic.tiny_config(**sizes | changes)


# ---- the same loss, the same steps ----


@pytest.fixture(scope='module')
def case():
    """(config, batch with padding of every kind, parameters, the losses of our first three steps)."""
    # Large steps, so that a difference in the optimiser shows in the next loss.
    config = tiny_config(**{'optim.learning_rate': 1e-2, 'optim.weight_decay': 0.1, 'total_steps': 6})
    batch = step_case.synthetic_batch(config, fill=0.75)
    batch['anchor_char_length'][0, 1:] = 0
    batch['sop_labels'][:2] = 0, 1
    task, optimizer = registry.from_config(config), optim.optimizer(config)
    train_step = make_train_step(task, optimizer, optim.learning_rate(config))
    params = synthetic.random_params(task, spread=0.1)
    state = TrainState.create(jax.tree.map(jnp.asarray, params), optimizer, config.dtype)
    losses = []
    for _ in range(3):
        state, measured = train_step(state, batch, jax.random.key(0))
        losses.append(float(task.total_loss(evaluate.means([jax.device_get(measured['sums'])]))))
    return json.loads(config.to_json()), batch, params, losses


def named_tensors(params: dict):
    """(view, name in a Hugging Face BERT, tensor) of every parameter; what both views share is 'char'."""
    for path, value in flax.traverse_util.flatten_dict(params, sep='/').items():
        view = 'word' if path.startswith('word_') else 'char'
        value = np.array(value.T if path.endswith('/kernel') else value)
        yield view, hf_bert.tensor_name(path), torch.from_numpy(value)


def fill_plain(module, params):
    """This project's parameters into a torch_steps.Plain."""
    tensors = {}
    for view, name, value in named_tensors(params):
        if name.startswith('pooler.'):
            name = name.replace('pooler.dense', f'pooler.{view}')
        elif 'seq_relationship' in name:
            name = f'sop.{view}.{name.rpartition(".")[2]}'
        else:
            name = f'bert.{view}.{"" if name.startswith("cls.") else "bert."}{name}'
        tensors[name] = value
    missing, unexpected = module.load_state_dict(tensors, strict=False)
    assert not unexpected
    # Tied to what was given.
    tied = ('decoder.weight', 'decoder.bias', 'bert.word.bert.embeddings.')
    assert all(any(part in name for part in tied) for name in missing), missing


BEST_NAMES = {
    'embeddings.word_embeddings': 'table',
    'embeddings.position_embeddings': 'positions',
    'embeddings.token_type_embeddings': 'segments',
    'embeddings.LayerNorm': 'norm',
    'pooler.dense': 'pooler.{view}',
    'cls.predictions.transform.dense': 'transform.{view}',
    'cls.predictions.transform.LayerNorm': 'transform_norm.{view}',
    'attention.output.dense': 'attention_output',
    'attention.output.LayerNorm': 'attention_norm',
    'intermediate.dense': 'intermediate',
    'output.dense': 'output',
    'output.LayerNorm': 'output_norm',
}


def fill_best(module, params):
    """This project's parameters into a torch_steps.Best, every one of them."""
    tensors, thirds = {}, {}
    for view, name, value in named_tensors(params):
        base, _, leaf = name.rpartition('.')
        layer = ''
        if base.startswith('encoder.layer.'):
            number, base = base.removeprefix('encoder.layer.').split('.', 1)
            layer = f'layers.{view}.{number}.'
        if base.startswith('attention.self.'):
            thirds[f'{layer}qkv.{leaf}', base.rpartition('.')[2]] = value
        elif base == 'cls.predictions':
            tensors[f'decoder_bias.{view}'] = value
        elif 'seq_relationship' in base:
            tensors[f'sop.{view}.{leaf}'] = value
        else:
            tensors[f'{layer}{BEST_NAMES[base].format(view=view)}.{leaf}'] = value
    for name in {name for name, _ in thirds}:
        tensors[name] = torch.cat([thirds[name, part] for part in ('query', 'key', 'value')])
    module.load_state_dict(tensors)


FILL = {'plain': fill_plain, 'best': fill_best}


def trainer_with(case, which: str, options=(), **changes) -> torch_steps.Trainer:
    """The contender with the parameters of the case."""
    config, batch, params, _ = case
    trainer = torch_steps.trainer_of(config | changes, which, 'cpu', set(options), no_padding=False)
    FILL[which](trainer.module, params)
    trainer.match_copy()
    return trainer


@pytest.mark.slow
@pytest.mark.parametrize(
    'which, options', [('plain', ()), ('best', ()), ('best', ('chunked',))], ids=['plain', 'best', 'chunked']
)
def test_torch_takes_the_same_steps(case, which, options):
    """The first loss is of the same weights, the others of weights that both optimisers have changed."""
    if 'chunked' in options and not hasattr(torch.nn.functional, 'linear_cross_entropy'):
        pytest.skip('needs the linear_cross_entropy of torch 2.13')
    _, batch, _, expected = case
    trainer = trainer_with(case, which, options)
    tensors = torch_steps.tensors(batch, 'cpu')
    losses = [float(trainer.step(tensors)) for _ in expected]
    np.testing.assert_allclose(losses, expected, rtol=0, atol=1e-4)
    assert abs(losses[2] - losses[1]) > 0.1  # they did change


@pytest.mark.slow
def test_full_rows_need_no_mask(case):
    config, batch, params, _ = case
    full = {**batch, **{f'{view}_ids': np.maximum(batch[f'{view}_ids'], 1) for view in VIEWS}}
    tensors = torch_steps.tensors(full, 'cpu')
    with_mask, without = (torch_steps.Best(config, no_padding=none) for none in (False, True))
    for module in (with_mask, without):
        fill_best(module, params)
    with torch.no_grad():
        assert float(with_mask(tensors)) == pytest.approx(float(without(tensors)), abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize('which, options', [('plain', ()), ('best', ()), ('best', ('master',))])
def test_bf16_is_close_to_fp32(case, which, options):
    _, batch, _, expected = case
    trainer = trainer_with(case, which, options, dtype='bfloat16')
    loss = float(trainer.step(torch_steps.tensors(batch, 'cpu')))
    # Four of the terms are cross-entropies of logits rounded to one part in 256, or of cosines over 0.05.
    assert 0 < abs(loss - expected[0]) < 0.1


@pytest.mark.slow
def test_the_master_copy_collects_updates_that_bf16_would_lose(case):
    config, batch, _, _ = case
    optim = config['optim'] | {'learning_rate': 1e-6, 'warmup_steps': 0}
    trainer = trainer_with(case, 'best', ('master',), dtype='bfloat16', optim=optim)
    before = [copy.detach().clone() for copy in trainer.updated]
    trainer.step(torch_steps.tensors(batch, 'cpu'))
    matrices = [(old, new) for old, new in zip(before, trainer.updated) if old.ndim > 1]
    assert all((old != new).any() for old, new in matrices)
    for weight, copy in zip(trainer.weights, trainer.updated):
        assert weight.dtype == torch.bfloat16 and torch.equal(weight, copy.to(torch.bfloat16))


@pytest.mark.slow
def test_other_losses_are_refused(case):
    config = case[0] | {'loss': case[0]['loss'] | {'mlm_candidates': 'branch'}}
    with pytest.raises(ValueError, match='losses of the paper'):
        torch_steps.trainer_of(config, 'plain', 'cpu', set(), True)


# ---- the batch ----


@pytest.mark.parametrize('fill', [0.75, 1.0])
def test_the_synthetic_batch_keeps_the_contract(fill):
    config = tiny_config(batch_size=64)
    batch = step_case.synthetic_batch(config, fill)
    expected = synthetic.stack([synthetic.empty(config)] * 64)
    assert {k: (v.shape, v.dtype) for k, v in batch.items()} == {
        k: (v.shape, v.dtype) for k, v in expected.items()
    }
    for view in VIEWS:
        ids, labels = batch[f'{view}_ids'], batch[f'{view}_mlm_labels']
        lengths = (ids != 0).sum(1)
        assert np.array_equal(ids != 0, np.arange(ids.shape[1]) < lengths[:, None])
        assert np.mean(ids != 0) == pytest.approx(fill, abs=0.05)
        masked = labels >= 0
        assert np.array_equal(masked.sum(1), np.round(0.15 * lengths))
        at = np.take_along_axis(ids, batch[f'{view}_mlm_positions'], axis=1)
        assert np.all(at[masked] == step_case.MASK_ID) and np.sum(ids == step_case.MASK_ID) == masked.sum()
        assert np.all(batch[f'{view}_segments'][ids == 0] == 0)
    ends = batch['anchor_char_start'] + batch['anchor_char_length']
    assert np.all(ends < (batch['char_ids'] != 0).sum(1)[:, None])
    words = np.take_along_axis(batch['word_ids'], batch['anchor_word_position'], axis=1)
    assert np.array_equal(words, batch['anchor_ids']) and not np.isin(words, (0, step_case.MASK_ID)).any()
    assert step_case.useful_tokens(batch) == sum((batch[f'{view}_ids'] != 0).sum() for view in VIEWS)


def test_rows_too_short_for_the_anchors_are_refused():
    with pytest.raises(ValueError, match='cannot hold 4 anchors'):
        step_case.synthetic_batch(tiny_config(), fill=0.3)


# ---- the commands ----


def bench(*command: str) -> str:
    line = [sys.executable, *command]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
def test_step_runs_and_check_reads_it(tmp_path):
    tiny = ['--sizes', 'tiny', '--dtypes', 'float32', '--lengths', '96,64', '--vocab', '300', '--batch', '2']
    tiny += ['--rounds', '1', '--seconds', '0.01', '--best', '', '--fill', '0.9']
    path = 'ratios/tiny float32 dropout 0/ours/plain'
    checks = {
        'step': {'command': ['bench/step.py', *tiny], 'ratios': {path: {'reference': None, 'margin': 0.5}}}
    }
    file = tmp_path / 'reference.json'
    file.write_text(json.dumps({'about': {}, 'checks': checks}), encoding='utf-8')
    output = bench('bench/check.py', '--file', str(file), '--update')
    assert 'there is no reference yet' in output
    updated = json.loads(file.read_text(encoding='utf-8'))
    assert updated['checks']['step']['ratios'][path]['reference'] > 0 and updated['about']['date']


def step_figures():
    """What step.py saves of one comparison, without the launches."""
    found = {'options': 'master', 'batch_size': 4, 'step_seconds': 0.5, 'useful_tokens_per_s': 1234.5}
    found |= {'examples_per_s': 8.0, 'mfu': 0.5, 'peak_bytes': 2e9, 'ratios': {'plain': (1.0, 2.0, 3.0)}}
    found |= {'compile_seconds_cold': 12.3, 'compile_seconds_warm': 0.4}
    return {'cell': step.Cell('small', 'bfloat16', 0.1)._asdict(), 'contenders': {'best': found}}


def test_the_table_of_steps():
    *_, row = step.table([step_figures()]).splitlines()
    assert row == (
        '| small bfloat16 dropout 0.1 | best (master) | 4 | 0.500 | 1,234 | 8.0 | 50.0% | 2.00 | 12 / 0 '
        '| 2.00 (1.00–3.00) | — |'
    )


def test_a_flag_of_integers_says_what_it_got(capsys):
    with pytest.raises(SystemExit):
        step.parse(['--lengths', '64,long'])
    assert "--lengths: invalid integers value: '64,long'" in capsys.readouterr().err


def test_config_keys_of_ours_are_changed_by_type(tmp_path):
    bench_ = step.Bench(step.parse(['--lengths', '64,48']), tmp_path)
    config = bench_.config(step.Cell('tiny', 'bfloat16', 0.1), 8, 'loss.sop_on=char,loss.temperature=0.1')
    assert (config.loss.sop_on, config.loss.temperature, config.batch_size) == ('char', 0.1, 8)
    assert (config.data.char_length, config.data.word_length, config.model.dropout) == (64, 48, 0.1)
    for key in ('loss.nothing', 'nothing', 'nothing.seed'):
        with pytest.raises(ValueError, match=f"no config key '{key}'"):
            bench_.config(step.Cell('tiny', 'bfloat16', 0.1), 8, f'{key}=1')


def test_a_batch_grows_until_memory_is_out(tmp_path, monkeypatch):
    bench_ = step.Bench(step.parse([]), tmp_path)
    speeds = {8: 10.0, 16: 30.0, 32: 29.0, 64: 0.0}
    monkeypatch.setattr(bench_, 'speed', lambda cell, contender, size: speeds[size])
    grown = functools.partial(bench_.grown, None, step.Contender('ours'))
    assert grown(8) == 16  # the fastest, not the largest
    assert grown(32, (30.0, 16)) == 16 and grown(32, (20.0, 16)) == 32
    with pytest.raises(RuntimeError, match='ours does not run with batch 64'):
        grown(64)


@pytest.mark.parametrize('message', ['CUDA out of memory. Tried to allocate', 'RESOURCE_EXHAUSTED: Out of'])
def test_a_contender_says_that_memory_ran_out(message, capsys):
    with step_case.memory_may_run_out():
        raise RuntimeError(message)
    assert json.loads(capsys.readouterr().out) == {'out_of_memory': True}
    with pytest.raises(RuntimeError, match='another'), step_case.memory_may_run_out():
        raise RuntimeError('another')


# ---- the regression check ----


def script(tmp_path, figures) -> list[str]:
    """A benchmark that writes these figures."""
    path = tmp_path / 'benchmark.py'
    path.write_text(f'import pathlib, sys\npathlib.Path(sys.argv[-1]).write_text({json.dumps(figures)!r})')
    return [str(path)]


@pytest.mark.parametrize(
    'measured, good, line',
    [
        (1.41, True, 'ok a/b: 1.41 is good; the reference is 2.00, the margin 30%'),
        ([1.0, 1.41, 9.0], True, 'ok a/b: 1.41 is good'),
        (1.39, False, 'FAILED a/b: 1.39 is too slow, less than 1.40; the reference is 2.00, the margin 30%'),
        ('fast', False, "FAILED 'a/b' is neither a number nor three quartiles"),
        (None, False, "FAILED 'a/b' is neither a number nor three quartiles"),
    ],
)
def test_check_compares_with_the_reference(tmp_path, capsys, measured, good, line):
    command = script(tmp_path, {'a': {'b': measured}})
    checks = {'it': {'command': command, 'ratios': {'a/b': {'reference': 2.0, 'margin': 0.3}}}}
    fine, _ = check.run({'checks': checks}, ['it'])
    assert fine is good and line in capsys.readouterr().out


@pytest.mark.slow
def test_mirror_berts_recipe_has_our_loss_and_our_spans():
    a, b = np.random.default_rng(0).normal(size=(2, 6, 8)).astype(np.float32)
    ours = losses.info_nce(jnp.asarray(a), jnp.asarray(b), jnp.ones(6, bool), 0.2)
    theirs = mirror.info_nce(torch.tensor(a), torch.tensor(b), 0.2)
    np.testing.assert_allclose(theirs, ours.loss / ours.count, rtol=1e-5)
    texts, masks = ['天' * length for length in range(40)], Masks(2, 10)
    for text in texts:
        copy = mirror.mask_span(text, masks.of(text), np.random.default_rng(0))
        count = 2 if len(text) >= 10 else 0
        assert copy.count('天') == len(text) - count and copy.count('[MASK]') == (count > 0)


def test_check_names_what_is_missing(tmp_path, capsys):
    ratios = {'a/c': {'reference': 2.0, 'margin': 0.3}}
    missing = {'command': script(tmp_path, {'a': {'b': 1}}), 'ratios': ratios}
    (tmp_path / 'broken.py').write_text('print("no such corpus")\nraise SystemExit(3)')
    broken = {'command': [str(tmp_path / 'broken.py')], 'ratios': ratios}
    fine, updated = check.run({'checks': {'missing': missing, 'broken': broken}}, ['missing', 'broken'])
    out = capsys.readouterr().out
    assert not fine and updated['checks']['missing']['ratios'] == ratios
    assert "wrote no 'a/c': where 'c' should be there is b" in out
    assert 'it ended with 3' in out and 'no such corpus' in out


def test_the_committed_reference_is_well_formed():
    reference = json.loads((ROOT / 'bench/reference.json').read_text(encoding='utf-8'))
    for name, found in reference['checks'].items():
        assert (ROOT / found['command'][0]).is_file(), name
        for path, expected in found['ratios'].items():
            assert expected.keys() == {'reference', 'margin'} and 0 < expected['margin'] < 1, path


def test_gpu_parts_go_on_after_a_failure(tmp_path):
    """With an interpreter that always fails: every part is tried, and named at the end."""
    environment = os.environ | {'PYTHON': 'false', 'OUT': str(tmp_path)}
    line = ['bash', 'bench/gpu.sh', 'step', 'contrast']
    done = subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert 'bench/gpu.sh step contrast' in done.stdout.splitlines()[-1]
    assert {path.name for path in tmp_path.iterdir()} == {
        f'{part}.{kind}' for part in ('step', 'contrast') for kind in ('md', 'log')
    }
