"""Rates by layer, the average of the weights, adversarial steps, R-Drop: what each does by its formula, and
that a run without it is as it was, bit for bit."""

import copy
import re

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import safetensors.numpy
import torch
import transformers

from clower_jax.checkpoints.train_state import TrainState
from clower_jax.export import bert_folder
from clower_jax.interop import init_weights
from clower_jax.objectives import registry
from clower_jax.objectives.supervised import Classify
from clower_jax.ops import dropout
from clower_jax.training import evaluate, optim
from clower_jax.training.loop import make_programs, train
from clower_jax.training.train_step import adversarial_radius, make_train_step, perturbed
from clower_jax.utils.metrics_file import last_evaluation
from helpers import finetuned, synthetic, workdirs
from input_pipeline.utils.problem_types import MULTI_LABEL, REGRESSION

SHORT = {'log_every': 2, 'optim.warmup_steps': 0, 'model.num_layers': 0, 'model.kind': 'bert'}
SHORT |= {'loss.contrast_on': 'none', 'loss.sop_on': 'none'}
AVERAGED = {'optim.ema_decay': 0.25, 'select': 'loss'}


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
    params = synthetic.initial_shapes(task)
    rates = optim.layer_rates(params, 0.5, num_layers=2)
    for path, rate in leaves(rates).items():
        expected = 1.0
        if path.startswith('embeddings/'):
            expected = 0.125
        elif '/encoder.layer.' in path:
            expected = {'0': 0.25, '1': 0.5}[path.split('/encoder.layer.')[1][0]]
        assert rate == expected, path
    assert {'char_encoder/pooler.dense/kernel', 'word_mlm/bias'} <= leaves(rates).keys()


@pytest.mark.slow
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


@pytest.mark.slow
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


def go(config, workdir, programs=None):
    batches = lambda **at: synthetic.batches(config, **at)  # noqa: E731
    return train(config, workdir, batches, synthetic.Vocabulary(), programs=programs)


@pytest.fixture(scope='module')
def averaged(tmp_path_factory):
    """(config, workdir, weights before the first step and after each by path) of a run of four steps with an
    average, which keeps the best."""
    config = synthetic.tiny_config(**SHORT, **AVERAGED)
    workdir = tmp_path_factory.mktemp('averaged')
    programs, weights = make_programs(config), []

    def step(state, batch, key):
        if not weights:
            weights.append(leaves(jax.device_get(state.params)))
        state, measured = programs.train_step(state, batch, key)
        weights.append(leaves(jax.device_get(state.params)))
        return state, measured

    go(config, workdir, programs._replace(train_step=step))
    return config, workdir, weights


@pytest.mark.slow
def test_what_is_evaluated_saved_and_read_is_the_average(averaged, tmp_path):
    config, workdir, _ = averaged
    plain = synthetic.tiny_config(**SHORT)
    go(plain, tmp_path)
    last = init_weights.open_checkpoints(workdir, 'last')
    with last as one, init_weights.open_checkpoints(tmp_path) as other:
        average, weights = one.load_params(), other.load_params()
    assert any(not np.array_equal(average[path], weights[path]) for path in weights)
    evaluator = evaluate.Evaluator.from_config(config)
    params = flax.traverse_util.unflatten_dict(average, sep='/')
    measured = evaluator(params, synthetic.batches(config, split='validation'))
    assert measured == last_evaluation(workdir, 4) != last_evaluation(tmp_path, 4)


@pytest.mark.slow
def test_a_run_with_an_average_goes_on_bit_for_bit(averaged, tmp_path):
    config, workdir, _ = averaged
    half = synthetic.tiny_config(**SHORT, **AVERAGED)
    steps = iter(synthetic.batches(half))

    def cut(**at):
        if at['split'] == 'train' and at['start_step'] == 0:
            return (next(steps) for _ in range(3))
        return synthetic.batches(half, **at)

    with pytest.raises(StopIteration):
        train(half, tmp_path, cut, synthetic.Vocabulary())
    go(half, tmp_path)  # from the checkpoint of step 2
    for which in ('best', 'last'):
        one = init_weights.open_checkpoints(workdir, which)
        with one, init_weights.open_checkpoints(tmp_path, which) as other:
            equal(one.load_params(), other.load_params())
    changed = synthetic.tiny_config(**SHORT, total_steps=6)
    with pytest.raises(ValueError, match=r'optim.ema_decay: 0.25 → 0.0'):
        go(changed, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize('which', ['best', 'last'])
def test_the_average_is_what_is_exported(averaged, tmp_path, which):
    """That of the weights as they were after each step, up to the exported one."""
    config, workdir, weights = averaged
    with init_weights.open_checkpoints(workdir, which) as checkpoints:
        last = checkpoints.latest_step
    average = weights[0]
    for step in range(1, last + 1):
        keep = min(0.25, (1 + step) / (10 + step))
        average = {path: keep * average[path] + (1 - keep) * weights[step][path] for path in average}
    folder = bert_folder.export(workdir, tmp_path / 'bert', which=which)
    exported = safetensors.numpy.load_file(folder / 'model.safetensors')
    rows = config.model.base_vocab_size
    for name, path, form in (
        (
            'bert.embeddings.word_embeddings.weight',
            'embeddings/word_embeddings/embedding',
            lambda x: x[:rows],
        ),
        ('cls.predictions.transform.dense.weight', 'char_mlm/transform.dense/kernel', np.transpose),
        ('cls.predictions.bias', 'char_mlm/bias', lambda x: x[:rows]),
    ):
        np.testing.assert_allclose(exported[name], form(average[path]), rtol=1e-5, atol=1e-7, err_msg=name)
        assert np.abs(exported[name] - form(weights[last][path])).max() > 1e-5, name


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


@pytest.mark.slow
def test_steps_are_those_of_pytorch_as_people_write_them(tmp_path):
    """FGM: backward, the token table moved along its gradient, backward again, and back; rates by layer: a
    group of parameters for each."""
    changes = {'optim.adversarial': 'fgm', 'optim.adversarial_radius': 0.5, 'optim.layer_decay': 0.5}
    changes |= {'optim.schedule': 'constant', 'optim.warmup_steps': 0, 'optim.clip_norm': 0.0}
    changes |= {'optim.weight_decay': 0.1, 'model.attention_dropout': 0.0}
    workdirs.make(tmp_path / 'run', 'classify', **changes)
    folder = bert_folder.export(tmp_path / 'run', tmp_path / 'bert')
    inputs, labels = workdirs.padded_batch(len(workdirs.BASE)), np.array([0, 2, 1, 1])

    config = workdirs.config_of('classify', **changes)
    task, optimizer = registry.from_config(config), optim.optimizer(config)
    step = make_train_step(task, optimizer, optim.learning_rate(config), adversarial_radius(config))
    with init_weights.open_checkpoints(tmp_path / 'run') as checkpoints:
        params = flax.traverse_util.unflatten_dict(checkpoints.load_params(), sep='/')
    state = TrainState.create(jax.tree.map(jnp.asarray, params), optimizer, 'float32')
    batch = {'char_ids': inputs['input_ids'], 'char_segments': inputs['token_type_ids'], 'labels': labels}
    batch = {name: value.astype(np.int32) for name, value in batch.items()}

    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).train()
    inputs = {name: torch.from_numpy(value) for name, value in inputs.items()}
    table = model.bert.embeddings.word_embeddings.weight

    def group(name, parameter):
        layer = re.search(r'\.layer\.(\d)\.', name)
        depth = 0 if 'embeddings' in name else int(layer[1]) + 1 if layer else 3
        decayed = not ('LayerNorm' in name or name.endswith('bias'))
        rate = config.optim.learning_rate * 0.5 ** (3 - depth)
        return {'params': [parameter], 'lr': rate, 'weight_decay': 0.1 * decayed}

    adamw = torch.optim.AdamW([group(*item) for item in model.named_parameters()], eps=1e-6)
    for _ in range(3):
        adamw.zero_grad()
        model(**inputs, labels=torch.from_numpy(labels)).loss.backward()
        before = table.data.clone()
        table.data += 0.5 * table.grad / table.grad.norm()
        model(**inputs, labels=torch.from_numpy(labels)).loss.backward()
        table.data = before
        norm = torch.stack([parameter.grad.norm() for parameter in model.parameters()]).norm()
        adamw.step()
        state, measured = step(state, batch, jax.random.key(0))
        assert float(measured['sums']['grad_norm'][0]) == pytest.approx(norm.item(), rel=1e-4)
    flat = flax.traverse_util.flatten_dict(jax.device_get(state.params), sep='/')
    ours, first = bert_folder.state_dict(flat, len(workdirs.BASE)), workdirs.tensors(folder)
    for name, parameter in model.named_parameters():
        if name.endswith('key.bias'):  # whose gradient is 0: AdamW makes steps of what rounding leaves
            continue
        theirs = parameter.detach().numpy()
        np.testing.assert_allclose(ours[name], theirs, rtol=0, atol=1e-5, err_msg=name)
        assert np.abs(theirs - first[name]).max() > 1e-4, name


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


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.parametrize('problem_type', [MULTI_LABEL, REGRESSION])
def test_r_drop_of_several_labels_and_of_scores(classifier, problem_type):
    """Of as many rows as there are labels: nothing may be taken for another axis. One row has no label."""
    config, _, _, batch = classifier
    config = copy.deepcopy(config)
    several = problem_type == MULTI_LABEL
    config.data.problem_type, config.loss.r_drop = problem_type, 2.0
    config.data.labels = ('a', 'b', 'c', 'd') if several else ('score',)
    task = registry.from_config(config)
    params, key = synthetic.random_params(task), jax.random.key(3)
    known, hot = np.arange(4) != 2, np.array([[1, 0, 1, 0], [0, 0, 0, 1], [-1] * 4, [1, 1, 0, 0]], np.int32)
    labels = hot if several else np.float32([1.5, -2, np.nan, 0])
    a, b = (
        np.asarray(task._logits(params, batch, dropout.row_seeds(k, 4)), np.float64)[known]
        for k in (key, jax.random.fold_in(key, 1))
    )
    if several:
        gold, (p, q) = hot[known], (1 / (1 + np.exp(-x)) for x in (a, b))
        losses = [-np.mean(np.log(np.where(gold == 1, x, 1 - x))) for x in (p, q)]
        kl = lambda p, q: p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))  # noqa: E731
        divergence = np.mean(0.5 * (kl(p, q) + kl(q, p)))
    else:
        losses = [np.mean((x[:, 0] - labels[known]) ** 2) for x in (a, b)]
        divergence = np.mean((a - b) ** 2)
    loss, sums = task.loss(params, batch | {'labels': labels}, key)
    assert divergence > 0 and evaluate.means([sums])['loss_r_drop'] == pytest.approx(divergence, rel=1e-4)
    assert loss == pytest.approx(np.mean(losses) + 2.0 * divergence, rel=1e-5)


@pytest.mark.slow
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
