"""How a run begins: what is refused at once, and what a restart may and may not change."""

import json
import logging
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clower_jax.checkpoints.orbax_store import Checkpoints
from clower_jax.checkpoints.train_state import TrainState, sharded_state
from clower_jax.interop import weight_sources
from clower_jax.objectives import registry
from clower_jax.parallel import sharding
from clower_jax.training import init_state
from clower_jax.training.loop import make_programs, train
from clower_jax.training.run_log import Writer
from clower_jax.utils.metrics_file import read_metrics
from helpers import synthetic

# No layers: the embeddings and heads are enough here, and compile at once.
SHORT = {'total_steps': 2, 'log_every': 1, 'eval_every': 0, 'model.num_layers': 0}


def run(workdir, vocabulary=None, batches=synthetic.batches, **changes):
    config = synthetic.tiny_config(**SHORT | changes)
    vocabulary = vocabulary or synthetic.Vocabulary()
    return train(config, workdir, lambda **at: batches(config, **at), vocabulary)


@pytest.mark.parametrize(
    ('key', 'value'),
    [
        ('seed', 2**32), ('seed', -1), ('batch_size', 0), ('total_steps', 0), ('log_every', 0),
        ('max_bad_steps', 0), ('model.num_heads', 0), ('model.dropout', 1.0), ('loss.temperature', 0.0),
        ('optim.warmup_steps', 4), ('dtype', 'int8'), ('mesh.data', 3),
        pytest.param('batch_size', 12, marks=pytest.mark.devices),
    ],
)  # fmt: skip
def test_settings_that_no_data_could_make_good(key, value):
    init_state.check(synthetic.tiny_config())
    with pytest.raises(ValueError, match=key):
        init_state.check(synthetic.tiny_config(**{key: value}))


@pytest.mark.parametrize(
    'changes',
    [
        {'model.hidden_size': 2**16, 'model.intermediate_size': 2**20, 'model.num_layers': 1024},
        {'model.vocab_size': 2**24, 'model.hidden_size': 2**16},
        {'batch_size': 2**20, 'data.char_length': 2**20},
    ],
    ids=str,
)
def test_sizes_that_no_memory_holds(changes):
    """Each of them is in its range, and the process would be killed."""
    message = r'^[\d,]+ M parameters and [\d,]+ tokens at a time need more than [\d,]+ GB of memory'
    with pytest.raises(ValueError, match=message):
        init_state.check(synthetic.tiny_config(**changes))


@pytest.fixture(scope='module')
def two_steps(tmp_path_factory):
    workdir = tmp_path_factory.mktemp('run')
    run(workdir)
    return workdir


@pytest.fixture
def begun(two_steps, tmp_path):
    """A workdir with a finished run of two steps, to do with as one likes."""
    return shutil.copytree(two_steps, tmp_path / 'begun')


@pytest.mark.slow
def test_going_on_with_another_vocabulary_is_refused(begun):
    other = synthetic.Vocabulary()
    other.tokens = [*other.tokens[:-1], '另一个词']
    with pytest.raises(ValueError, match=r'another vocabulary.*vocab\.txt:60 is'):
        run(begun, other, total_steps=4)
    assert (begun / 'vocab.txt').read_text('utf-8').split('\n')[-2] != '另一个词'  # nothing was overwritten


@pytest.mark.slow
@pytest.mark.parametrize('changes', [{'seed': 1}, {'batch_size': 16}, {'data.mask_rate': 0.2}], ids=str)
def test_going_on_with_other_batches_is_refused(begun, changes):
    (key,) = changes
    with pytest.raises(
        ValueError, match=rf'decide its batches or what is made of them: {key}: .*--config\.init_from='
    ):
        run(begun, total_steps=4, **changes)
    assert json.loads((begun / 'config.json').read_text('utf-8'))['total_steps'] == 2


@pytest.mark.slow
def test_going_on_with_other_settings_says_so(begun, caplog):
    caplog.set_level(logging.INFO, 'clower_jax')
    run(begun, total_steps=4, **{'optim.clip_norm': 0.0, 'dtype': 'float16'})
    assert 'optim.clip_norm: 1.0 → 0.0' in caplog.text and 'Going on from step 2' in caplog.text
    rows = read_metrics(begun / 'metrics.jsonl')
    assert [row['step'] for row in rows if row['split'] == 'train'] == [1, 2, 3, 4]
    scale = next(row['loss_scale'] for row in rows if row['step'] == 3)
    assert scale == 2.0**15  # a scale of its own, not the 1 of fp32


@pytest.mark.slow
def test_a_checkpoint_that_is_not_finite_is_not_trained_on(begun):
    programs = make_programs(synthetic.tiny_config(**SHORT))

    def create():
        params = programs.evaluator.objective.init(jax.random.key(0))
        params['embeddings']['LayerNorm']['scale'] *= jnp.nan
        state = TrainState.create(params, programs.optimizer, 'float32')
        return state.replace(step=jnp.int32(3))

    with Checkpoints(begun, keep=2) as checkpoints:
        checkpoints.save(sharded_state(programs.evaluator.mesh, create))
    message = rf'of step 3 in {begun} has NaN or infinity in embeddings/LayerNorm/scale \(1 of'
    with pytest.raises(ValueError, match=message):
        run(begun, total_steps=4)


@pytest.mark.devices
def test_the_host_draws_what_one_program_would():
    programs = make_programs(synthetic.tiny_config(**SHORT | {'mesh.fsdp': 2, 'optim.ema_decay': 0.9}))
    objective, mesh = programs.evaluator.objective, programs.evaluator.mesh

    def create():
        return TrainState.create(objective.init(jax.random.key(3)), programs.optimizer, 'float16')

    expected, drawn = jax.jit(create)(), sharded_state(mesh, create)
    assert jax.tree.structure(drawn) == jax.tree.structure(expected)
    places = sharding.tree_shardings(mesh, expected)
    for one, other, place in zip(*map(jax.tree.leaves, (drawn, expected, places)), strict=True):
        assert one.sharding.is_equivalent_to(place, one.ndim) and one.committed
        assert (one == np.asarray(other)).all()
    buffers = [
        shard.data.unsafe_buffer_pointer() for x in jax.tree.leaves(drawn) for shard in x.addressable_shards
    ]
    assert len(set(buffers)) == len(buffers)  # a step is given them all to write to


@pytest.mark.devices
def test_drawing_runs_no_network():
    """Nothing that a mesh of other devices has a part in, so that the host can do it."""
    config = synthetic.tiny_config(**{'mesh.data': 4, 'mesh.fsdp': 2, 'model.num_layers': 1})
    objective = registry.from_config(config, sharding.make_mesh(config))
    drawn = str(jax.make_jaxpr(objective.init)(jax.random.key(0)))
    assert 'random_bits' in drawn
    network = 'shard_map', 'sharding_constraint', 'dot_general', 'gather', 'custom_vjp', 'cond'
    assert not any(word in drawn for word in network)


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob('*') if path.is_file()}


def test_nothing_to_do_writes_nothing(begun, caplog):
    before = contents(begun)
    assert run(begun, **{'optim.learning_rate': 9.0}) == {}
    assert contents(begun) == before
    assert 'already at step 2 of 2: nothing is trained, and nothing in it changes' in caplog.text


@pytest.mark.slow
def test_settings_that_changed_on_the_way_are_kept(begun):
    """What a step was taken with can be read off config.json; a change that no step saw is none."""

    def history():
        return json.loads((begun / 'config.json').read_text('utf-8')).get('history')

    first = json.loads((begun / 'config.json').read_text('utf-8'))['optim']['learning_rate']
    assert history() is None
    run(begun, total_steps=4, **{'optim.learning_rate': 0.5})
    at_2 = {'until_step': 2, 'settings': {'optim.learning_rate': first, 'total_steps': 2}}
    assert history() == [at_2]
    # As if it were started with a rate, and killed before it had saved a step that was taken with it.
    config = synthetic.tiny_config(**SHORT | {'total_steps': 6, 'optim.learning_rate': 0.25})
    at_4 = {'until_step': 4, 'settings': {'optim.learning_rate': 0.5, 'total_steps': 4}}
    assert init_state.history(begun, config, 4) == [at_2, at_4]
    Writer(begun, 4).write_config(config, synthetic.Vocabulary().tokens, init_state.history(begun, config, 4))
    run(begun, total_steps=6, **{'optim.learning_rate': 0.5})
    assert history() == [at_2, {'until_step': 4, 'settings': {'total_steps': 4}}]


def half(path):
    path.write_bytes(path.read_bytes()[:40])


@pytest.mark.parametrize(
    ('harm', 'message'),
    [
        (half, r'config\.json is no JSON .*put it back from a copy, or begin anew'),
        (lambda path: path.write_bytes(b''), r'config\.json is no JSON .*put it back from a copy'),
        (lambda path: path.unlink(), r'config\.json is missing: .*put it back from a copy'),
    ],
)  # fmt: skip
def test_a_damaged_config_is_not_passed_over(begun, harm, message):
    harm(begun / 'config.json')
    before = contents(begun)
    for going_on in (
        run,
        lambda workdir, **to: init_state.check_workdir(synthetic.tiny_config(**to), workdir),
    ):
        with pytest.raises(ValueError, match=message) as error:
            going_on(begun, total_steps=4)
        assert '\n' not in str(error.value)
    with pytest.raises(ValueError, match=r'config\.json is (no JSON|missing)'):
        weight_sources.source_info(begun)
    assert contents(begun) == before


@pytest.mark.slow
def test_lines_of_metrics_that_cannot_be_read_are_named(begun, caplog):
    """They block nothing, and take no other line with them."""
    path = begun / 'metrics.jsonl'
    rows = read_metrics(path)
    lines = path.read_bytes().split(b'\n')
    path.write_bytes(b'\n'.join([b'\xff' + lines[0], b'{}', *lines[1:-1], lines[0][:9]]))
    assert read_metrics(path) == rows[1:]
    run(begun, total_steps=3)
    assert f'{path}: no metrics on line 1, 2; left out, the others stay' in caplog.text
    assert read_metrics(path)[: len(rows) - 1] == rows[1:]


@pytest.mark.parametrize('name', ['config.json', 'vocab.txt'])
def test_a_start_that_fails_leaves_the_file_before(begun, monkeypatch, name):
    def full(partial, target):
        if target.name == name:
            raise OSError(28, 'No space left on device')
        return rename(partial, target)

    before = contents(begun)
    rename = Path.replace
    monkeypatch.setattr(Path, 'replace', full)
    with pytest.raises(OSError, match=rf"No space left on device: make room there: '\S+{name}'"):
        run(begun, total_steps=4)
    assert contents(begun)[begun / name] == before[begun / name]


@pytest.mark.slow
def test_text_without_anchors_trains(tmp_path):
    def without_anchors(config, **at):
        for batch in synthetic.batches(config, **at):
            yield batch | {'anchor_char_length': 0 * batch['anchor_char_length']}

    held_out = run(tmp_path, batches=without_anchors)
    assert 'acc_tcl' not in held_out and held_out['loss'] > 0


@pytest.mark.slow
def test_from_another_run_in_fp32(begun, tmp_path, monkeypatch):
    """The other run may be saving just now: its unfinished checkpoint is let be. fp32 is really fp32."""
    saving = begun / 'checkpoints' / '9.orbax-checkpoint-tmp'
    saving.mkdir()
    seen = []
    restore_or_init = init_state.restore_or_init

    def spy(*args):
        seen.append(jax.config.jax_default_matmul_precision)
        return restore_or_init(*args)

    monkeypatch.setattr(init_state, 'restore_or_init', spy)
    run(tmp_path / 'next', init_from=str(begun))
    assert saving.is_dir()
    assert seen == ['highest']
