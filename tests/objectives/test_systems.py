"""The baselines and ablations of the paper: the parts of CLOWER that they keep are CLOWER's, the others cost
nothing."""

import copy
import json

import numpy as np
import pytest

from clower_jax import jobs, replay
from clower_jax.export.bert_folder import export
from clower_jax.objectives.pretraining import Pretrain
from configs import pretrain
from helpers import synthetic
from helpers.batches import make_config, text
from helpers.tasks import shallow_config
from input_pipeline.pretraining import batches

# system: the losses that it has.
LOSSES = {
    'bert_wwm': {'mlm_char'},
    'bert_wwm_sop': {'mlm_char', 'sop'},
    'mm_bert': {'mlm_char', 'mlm_word'},
    'mm_bert_sop': {'mlm_char', 'mlm_word', 'sop'},
    'no_contrast': {'mlm_char', 'mlm_word', 'sop'},
    'no_tcl': {'mlm_char', 'mlm_word', 'sop', 'scl'},
    'no_scl': {'mlm_char', 'mlm_word', 'sop', 'tcl'},
}
# Other batches, other networks: test_recipes.py, test_cmlm.py, test_multigrained.py.
OWN_TESTS = {'macbert', 'fully_explored', 'fully_explored_whole', 'cmlm', 'ambert', 'lichee'}
ANCHORED = {'clower', 'no_scl'}
ONE_VIEW = {'bert_wwm', 'bert_wwm_sop'}


def test_every_system_is_tested():
    assert LOSSES.keys() | OWN_TESTS == pretrain.SYSTEMS.keys()


# ---- the loss ----


@pytest.fixture(scope='module')
def clower():
    """Parameters, a batch with padding, CLOWER's sums of it."""
    task = Pretrain.from_config(shallow_config())
    params = synthetic.random_params(task)
    batch = list(synthetic.batches(shallow_config(), split='validation'))[-1]
    return params, batch, task.loss(params, batch, None)[1]


@pytest.mark.slow
@pytest.mark.parametrize('system', LOSSES)
def test_loss_is_the_sum_of_what_is_left(system, clower):
    params, batch, sums = clower
    changes = pretrain.SYSTEMS[system]
    task = Pretrain.from_config(shallow_config(**changes))
    wanted = synthetic.initial_shapes(task)
    assert any('word' in name.split('_') for name in wanted) == (system not in ONE_VIEW)
    left_out = () if system in ANCHORED else ('anchor_',)
    left_out += ('word_',) if system in ONE_VIEW else ()
    batch = {name: value for name, value in batch.items() if not name.startswith(left_out)}
    loss, got = task.loss({name: params[name] for name in wanted}, batch, None)
    assert {name for name in got if name.startswith('loss_')} == {f'loss_{name}' for name in LOSSES[system]}
    expected = 0.0
    for name in LOSSES[system]:
        total, count = sums[f'loss_{name}']
        if name == 'sop' and system in ONE_VIEW:  # CLOWER's is of both encoders
            total, count = Pretrain.from_config(shallow_config(**{'loss.sop_on': 'char'})).loss(
                params, clower[1], None
            )[1]['loss_sop']
        np.testing.assert_allclose(got[f'loss_{name}'][0], total, rtol=1e-6)
        assert got[f'loss_{name}'][1] == count > 0
        expected += total / count
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    means = {f'loss_{name}': sums[f'loss_{name}'][0] / sums[f'loss_{name}'][1] for name in LOSSES[system]}
    assert float(task.total_loss(means)) == pytest.approx(sum(map(float, means.values())))


@pytest.mark.slow
def test_in_parts_too(clower):
    params, batch, _ = clower
    task = Pretrain.from_config(shallow_config(**pretrain.SYSTEMS['bert_wwm'] | {'microbatches': 4}))
    whole = Pretrain.from_config(shallow_config(**pretrain.SYSTEMS['bert_wwm']))
    params = {name: params[name] for name in ('embeddings', 'char_encoder', 'char_mlm', 'char_sop')}
    np.testing.assert_allclose(*(one.loss(params, batch, None)[0] for one in (task, whole)), rtol=1e-6)


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'model.kind': 'bert'}, 'loss.contrast_on=both is a contrast of two views'),
        ({'model.kind': 'bert', 'loss.contrast_on': 'none', 'loss.sop_on': 'word'}, 'has no word encoder'),
        ({'model.kind': 'gpt'}, "model.kind='gpt' must be one of clower"),
        ({'loss.contrast_on': 'words'}, "loss.contrast_on='words' must be one of both"),
    ],
)
def test_what_does_not_go_together(changes, message):
    with pytest.raises(ValueError, match=message):
        Pretrain.from_config(shallow_config(**changes))


def test_flops_are_of_what_is_computed():
    config = shallow_config()
    flops = {
        system: Pretrain.from_config(shallow_config(**changes)).step_flops(shallow_config(**changes))
        for system, changes in pretrain.SYSTEMS.items()
        if system in LOSSES
    }
    whole = Pretrain.from_config(config).step_flops(config)
    assert flops['bert_wwm'] < 0.65 * flops['mm_bert'] < 0.65 * whole
    assert flops['no_scl'] == whole


# ---- the batches ----


@pytest.fixture(scope='module')
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp('systems')
    (folder / 'text.txt').write_text(text(range(40)), 'utf-8')
    return batches.resolve(make_config(text=str(folder / '*.txt')), folder / 'run')


def first_batch(config, changes, **data):
    config = copy.deepcopy(config)
    config.update_from_flattened_dict(changes)
    config.data.update(data)
    config = batches.resolve(config, 'unused')
    return next(batches.batches(config, start_step=3)), config


@pytest.mark.slow
@pytest.mark.parametrize('pack', [False, True])
def test_batches_hold_what_is_needed_and_that_is_clowers(config, pack):
    data = {'pack': pack, 'char_length': 0, 'word_length': 0} if pack else {}
    whole, _ = first_batch(config, {}, **data)
    for system in LOSSES:
        changes = pretrain.SYSTEMS[system]
        batch, _ = first_batch(config, changes, **data)
        missing = {name for name in whole if name not in batch}
        left_out = () if system in ANCHORED else ('anchor_',)
        left_out += ('word_',) if system in ONE_VIEW else ()
        assert missing == {name for name in whole if name.startswith(left_out or '-')}, system
        if changes.get('loss.sop_on') == 'none':
            assert set(np.unique(batch['sop_labels'])) <= {0, -1}  # in order
        elif not pack or system not in ONE_VIEW:  # rows of one view are other rows
            for name, value in batch.items():
                np.testing.assert_array_equal(value, whole[name], err_msg=f'{system} {name}')


@pytest.mark.slow
def test_without_swapping_rows_in_order_stay_as_they_are(config):
    swapped, _ = first_batch(config, {})
    ordered, _ = first_batch(config, pretrain.SYSTEMS['mm_bert'])
    rows = np.flatnonzero(swapped['sop_labels'] == 0)
    assert 0 < len(rows) < len(swapped['sop_labels'])
    for name in ('char_ids', 'word_ids', 'char_mlm_labels'):
        np.testing.assert_array_equal(ordered[name][rows], swapped[name][rows])


@pytest.mark.slow
def test_rows_of_one_view_are_planned_for_it(config):
    batch, resolved = first_batch(
        config, pretrain.SYSTEMS['bert_wwm'], pack=True, char_length=0, word_length=0
    )
    assert resolved.data.word_length == resolved.data.char_length
    other, _ = first_batch(config, pretrain.SYSTEMS['mm_bert'], pack=True, char_length=0, word_length=0)
    filled = [(found['char_ids'] > 0).mean() for found in (batch, other)]
    assert filled[0] >= filled[1]


# ---- from end to end ----


@pytest.mark.slow
def test_a_baseline_from_text_to_hugging_face(config, tmp_path, capsys):
    workdir = tmp_path / 'bert'
    config = copy.deepcopy(config)
    config.update_from_flattened_dict(pretrain.SYSTEMS['bert_wwm'])
    config.total_steps, config.batch_size, config.data.eval_examples = 2, 8, 8
    config.optim.warmup_steps = 0
    config.model.update(hidden_size=16, num_layers=1, num_heads=2, intermediate_size=32)
    said = jobs.pretraining(jobs.Job(config, 'configs/pretrain.py:bert_wwm', workdir))
    assert 'finds its own characters' not in said
    rows = [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]
    assert 'loss_mlm_char' in rows[-1] and not {'acc_tcl', 'acc_scl', 'acc_sop', 'anchors'} & set(rows[-1])
    batch, tokens = replay.load(workdir, 1)
    assert 'word:' not in replay.describe(batch, tokens, 0)
    export(workdir, tmp_path / 'hf')
    card = (tmp_path / 'hf' / 'README.md').read_text('utf-8')
    assert 'a baseline of CLOWER' in card and 'model.kind' in card
    with pytest.raises(ValueError, match='it has no word encoder'):
        export(workdir, tmp_path / 'word', encoder='word')
