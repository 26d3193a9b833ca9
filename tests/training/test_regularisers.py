"""Rates by layer, the average of the weights, adversarial steps, R-Drop: what each does by its formula, and
that a run without it is as it was, bit for bit."""

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from clower_jax.checkpoints.train_state import TrainState
from clower_jax.interop import init_weights
from clower_jax.objectives import registry
from clower_jax.objectives.supervised import Classify
from clower_jax.ops import dropout
from clower_jax.training import evaluate, optim
from clower_jax.training.loop import train
from clower_jax.training.train_step import adversarial_radius, make_train_step, perturbed
from clower_jax.utils.metrics_file import last_evaluation
from helpers import finetuned, synthetic

SHORT = {'log_every': 2, 'optim.warmup_steps': 0, 'model.num_layers': 0, 'model.kind': 'bert'}
SHORT |= {'loss.contrast_on': 'none', 'loss.sop_on': 'none'}


def leaves(tree):
    return {
        jax.tree_util.keystr(path, simple=True, separator='/'): np.asarray(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def equal(a, b):
    a, b = leaves(a), leaves(b)
    assert a.keys() == b.keys()
    for path, value in a.items():
        np.testing.assert_array_equal(value, b[path], err_msg=path)


# ---- rates by layer ----


def test_the_rate_falls_from_the_heads_to_the_embeddings():
    task = registry.from_config(synthetic.tiny_config())
    params = jax.eval_shape(task.init, jax.random.key(0))
    rates = optim.layer_rates(params, 0.5, num_layers=2)
    for path, rate in leaves(rates).items():
        expected = 1.0
        if path.startswith('embeddings/'):
            expected = 0.125
        elif '/encoder.layer.' in path:
            expected = {'0': 0.25, '1': 0.5}[path.split('/encoder.layer.')[1][0]]
        assert rate == expected, path
    assert {'char_encoder/pooler.dense/kernel', 'word_mlm/bias'} <= leaves(rates).keys()


def test_updates_are_those_of_one_rate_times_the_layers():
    """Weight decay, too; the states are the same, so a run may change its mind."""
    config = synthetic.tiny_config(**{'optim.warmup_steps': 0})
    layered = synthetic.tiny_config(**{'optim.warmup_steps': 0, 'optim.layer_decay': 0.5})
    params = synthetic.random_params(registry.from_config(config))
    grads = jax.tree.map(lambda x: np.cos(x), params)
    plain, by_layer = optim.optimizer(config), optim.optimizer(layered)
    state = plain.init(params)
    one, one_state = jax.jit(plain.update)(grads, state, params)
    other, other_state = jax.jit(by_layer.update)(grads, state, params)
    equal(one_state, other_state)
    assert jax.tree.structure(by_layer.init(params)) == jax.tree.structure(state)
    rates = leaves(optim.layer_rates(params, 0.5, 2))
    for path, update in leaves(one).items():
        np.testing.assert_allclose(leaves(other)[path], update * rates[path], rtol=1e-6, err_msg=path)


def test_by_default_the_optimiser_is_clipped_adamw_bit_for_bit():
    config = synthetic.tiny_config(**{'optim.warmup_steps': 0})
    reference = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adamw(optim.learning_rate(config), eps=1e-6, weight_decay=0.01, mask=optim.weight_decay_mask),
    )
    params = {'a': {'kernel': np.linspace(-1, 1, 6, dtype=np.float32)}, 'b': {'bias': np.ones(3, np.float32)}}
    grads = jax.tree.map(np.sin, params)
    ours = optim.optimizer(config)
    equal(ours.init(params), reference.init(params))
    equal(ours.update(grads, ours.init(params), params), reference.update(grads, ours.init(params), params))
    assert adversarial_radius(config) == 0


# ---- the average of the weights ----


def test_the_average_follows_its_formula_and_skips_what_is_skipped():
    class Line:
        def loss(self, params, batch, key):
            loss = (params['w']['kernel'] * batch['x']).sum()
            return loss, {'loss': (loss, 1.0)}

    config = synthetic.tiny_config(**{'optim.warmup_steps': 0, 'optim.ema_decay': 0.3, 'total_steps': 100})
    optimizer = optim.optimizer(config)
    step = make_train_step(Line(), optimizer, optim.learning_rate(config))
    state = TrainState.create({'w': {'kernel': jnp.ones(2)}}, optimizer, 'float32')
    average, made = np.ones(2, np.float32), 0
    for x in (1, -2, np.nan, 3, 0.5):
        state, _ = step(state, {'x': np.array([x, 1], np.float32)}, jax.random.key(0))
        if np.isfinite(x):
            made += 1
            keep = min(0.3, (1 + made) / (10 + made))
            average = keep * average + (1 - keep) * np.asarray(state.params['w']['kernel'])
        np.testing.assert_allclose(optim.evaluated_params(state)['w']['kernel'], average, rtol=1e-6)
    assert optim.update_count(state.opt_state) == made == 4
    swapped = optim.exchanged(state)
    equal(swapped.params, optim.evaluated_params(state))
    equal(optim.exchanged(swapped), state)


def go(config, workdir):
    return train(config, workdir, lambda **at: synthetic.batches(config, **at), synthetic.Vocabulary())


@pytest.fixture(scope='module')
def averaged(tmp_path_factory):
    """(config, workdir) of a run of four steps with an average."""
    config = synthetic.tiny_config(**SHORT, **{'optim.ema_decay': 0.5})
    workdir = tmp_path_factory.mktemp('averaged')
    go(config, workdir)
    return config, workdir


@pytest.mark.slow
def test_what_is_evaluated_saved_and_read_is_the_average(averaged, tmp_path):
    config, workdir = averaged
    plain = synthetic.tiny_config(**SHORT)
    go(plain, tmp_path)
    with init_weights.open_checkpoints(workdir) as one, init_weights.open_checkpoints(tmp_path) as other:
        average, weights = one.load_params(), other.load_params()
    assert any(not np.array_equal(average[path], weights[path]) for path in weights)
    evaluator = evaluate.Evaluator.from_config(config)
    params = flax.traverse_util.unflatten_dict(average, sep='/')
    measured = evaluator(params, synthetic.batches(config, split='validation'))
    assert measured == last_evaluation(workdir, 4) != last_evaluation(tmp_path, 4)


@pytest.mark.slow
def test_a_run_with_an_average_goes_on_bit_for_bit(averaged, tmp_path):
    config, workdir = averaged
    half = synthetic.tiny_config(**SHORT, **{'optim.ema_decay': 0.5})
    steps = iter(synthetic.batches(half))

    def cut(**at):
        if at['split'] == 'train' and at['start_step'] == 0:
            return (next(steps) for _ in range(3))
        return synthetic.batches(half, **at)

    with pytest.raises(StopIteration):
        train(half, tmp_path, cut, synthetic.Vocabulary())
    go(half, tmp_path)  # from the checkpoint of step 2
    with init_weights.open_checkpoints(workdir) as one, init_weights.open_checkpoints(tmp_path) as other:
        equal(one.load_params(), other.load_params())
    changed = synthetic.tiny_config(**SHORT, total_steps=6)
    with pytest.raises(ValueError, match=r'optim.ema_decay: 0.5 → 0.0'):
        go(changed, tmp_path)


def test_the_average_begins_with_the_initial_weights():
    config = synthetic.tiny_config(**{'optim.ema_decay': 0.9})
    optimizer = optim.optimizer(config)
    state = TrainState.create({'w': jnp.zeros(2)}, optimizer, 'float32')
    state = optim.start_from(state, {'w': jnp.ones(2)})
    equal(optim.evaluated_params(state), {'w': np.ones(2, np.float32)})
    assert optim.evaluated_params(state)['w'] is not state.params['w']  # a donated buffer


# ---- adversarial steps ----


class Cubic:
    """Σ x·w³ of the token table, and Σ v² beside."""

    def loss(self, params, batch, key):
        loss = (batch['x'] * params['embeddings']['word_embeddings']['embedding'] ** 3).sum()
        loss += (params['v']['kernel'] ** 2).sum()
        return loss, {'loss': (loss, 1.0)}


def test_an_adversarial_step_adds_the_gradient_where_the_loss_is_worst():
    table = np.array([[1, 2], [0.5, -1]], np.float32)
    params = {'embeddings': {'word_embeddings': {'embedding': table}}, 'v': {'kernel': np.float32([3])}}
    x = np.float32([[1, 2], [3, 4]])
    first = 3 * x * table**2
    moved = table + 0.25 * first / np.linalg.norm(first)
    both = first + 3 * x * moved**2
    grads = {'embeddings': {'word_embeddings': {'embedding': first}}, 'v': {'kernel': np.float32([6])}}
    worst = perturbed(params, grads, 0.25)
    np.testing.assert_allclose(worst['embeddings']['word_embeddings']['embedding'], moved, rtol=1e-6)
    equal(worst['v'], params['v'])
    zero = jax.tree.map(np.zeros_like, grads)
    equal(perturbed(params, zero, 0.25), params)

    config = synthetic.tiny_config(
        **{'optim.warmup_steps': 0, 'optim.adversarial': 'fgm', 'optim.adversarial_radius': 0.25}
    )
    optimizer = optim.optimizer(config)
    step = make_train_step(Cubic(), optimizer, optim.learning_rate(config), adversarial_radius(config))
    state = TrainState.create(jax.tree.map(jnp.asarray, params), optimizer, 'float32')
    _, measured = step(state, {'x': x}, jax.random.key(0))
    expected = np.sqrt((both**2).sum() + 12.0**2)  # v: 6 twice
    assert measured['sums']['grad_norm'][0] == pytest.approx(expected, rel=1e-6)


# ---- R-Drop ----


@pytest.fixture(scope='module')
def classifier(tmp_path_factory):
    """(config, params, batch, logits of the two passes) of a classifier with dropout."""
    changes = {
        'model.vocab_size': 40,
        'model.base_vocab_size': 40,
        'model.dropout': 0.3,
        'model.num_layers': 1,
    }
    config = finetuned.classify_config(tmp_path_factory.mktemp('files'), **changes)
    config.data.labels = ('a', 'b', 'c')
    task = registry.from_config(config)
    params = synthetic.random_params(task)
    rng = np.random.default_rng(0)
    batch = {name: rng.integers(5, 40, (4, 6)).astype(np.int32) for name in ('char_ids', 'char_segments')}
    batch['char_segments'][:] = 0
    batch['labels'] = np.array([2, 0, -1, 1], np.int32)
    return config, task, params, batch


def test_r_drop_is_its_formula(classifier):
    config, task, params, batch = classifier
    key = jax.random.key(3)
    logits = [
        np.asarray(task._logits(params, batch, dropout.row_seeds(k, 4)), np.float64)
        for k in (key, jax.random.fold_in(key, 1))
    ]
    known = batch['labels'] >= 0
    p, q = (np.exp(x) / np.exp(x).sum(1, keepdims=True) for x in logits)
    gold = batch['labels'][known]
    entropies = [-np.log(x[known][np.arange(3), gold]).mean() for x in (p, q)]
    divergence = 0.5 * ((p * np.log(p / q)).sum(1) + (q * np.log(q / p)).sum(1))[known].mean()
    assert divergence > 0
    twice = Classify(task.model, r_drop=2.0)
    loss, sums = twice.loss(params, batch, key)
    assert loss == pytest.approx(np.mean(entropies) + 2.0 * divergence, rel=1e-5)
    means = evaluate.means([sums])
    assert means['loss_r_drop'] == pytest.approx(divergence, rel=1e-4)
    assert twice.total_loss(means) == pytest.approx(float(loss), rel=1e-6)
    assert 'loss_r_drop' in twice.metrics and 'loss_r_drop' not in task.metrics
    batch = batch | {'example': np.arange(4)}
    equal(twice.evaluate(params, batch), task.evaluate(params, batch))


def test_without_r_drop_there_is_one_pass_bit_for_bit(classifier):
    config, task, params, batch = classifier
    key = jax.random.key(3)
    loss, sums = task.loss(params, batch, key)
    expected = task._sums(task._logits(params, batch, dropout.row_seeds(key, 4)), batch)
    equal({name: sums[name] for name in expected}, expected)
    assert loss == expected['loss_label'][0] / expected['loss_label'][1] and set(sums) - set(expected) == {
        'examples',
        'tokens',
    }
    assert config.loss.r_drop == task.r_drop == 0
