"""The pre-training loss from end to end, against NumPy formulas over the model's outputs; evaluation."""

import jax
import numpy as np
import pytest

from clower_jax.objectives.pretraining import Pretrain
from clower_jax.parallel import sharding
from clower_jax.training.evaluate import Evaluator
from helpers import synthetic
from helpers.losses import contrast, cross_entropy, span_mean
from helpers.meshes import mesh_of
from helpers.tasks import shallow_config

VIEWS = ('char', 'word')
LOSSES = ('mlm_char', 'mlm_word', 'sop', 'tcl', 'scl')
TOLERANCE = {'rtol': 1e-5, 'atol': 1e-5}


def task_of(devices=1, **changes) -> Pretrain:
    return Pretrain.from_config(shallow_config(**changes), mesh_of(devices, 1, 1))


def row(**values) -> dict[str, np.ndarray]:
    """A row of padding with these values in front."""
    out = synthetic.empty(shallow_config())
    for name, value in values.items():
        if name == 'sop_labels':
            out[name] = np.int32(value)
        else:
            out[name][: len(value)] = value
    return out


def handmade() -> dict[str, np.ndarray]:
    """Four rows: an ordinary one; the same anchor word twice; no masked word; padding."""
    return synthetic.stack(
        [
            row(
                char_ids=[2, 10, 11, 4, 13, 3, 14, 15, 16, 17, 3], char_segments=[0] * 6 + [1] * 5,
                char_mlm_positions=[3, 9], char_mlm_labels=[12, 17],
                word_ids=[2, 41, 4, 13, 3, 42, 17, 3], word_segments=[0] * 5 + [1] * 3,
                word_mlm_positions=[2], word_mlm_labels=[12],
                anchor_word_position=[1, 5], anchor_char_start=[1, 6], anchor_char_length=[2, 3],
                anchor_ids=[41, 42], sop_labels=1,
            ),
            row(
                char_ids=[2, 10, 11, 20, 3, 10, 11, 4, 3], char_segments=[0] * 5 + [1] * 4,
                char_mlm_positions=[3, 7], char_mlm_labels=[20, 21],
                word_ids=[2, 41, 20, 3, 41, 4, 3], word_segments=[0] * 4 + [1] * 3,
                word_mlm_positions=[2, 5], word_mlm_labels=[20, 59],
                anchor_word_position=[1, 4], anchor_char_start=[1, 5], anchor_char_length=[2, 2],
                anchor_ids=[41, 41], sop_labels=0,
            ),
            row(
                char_ids=[2, 30, 3, 4, 22, 23, 24, 3], char_segments=[0] * 3 + [1] * 5,
                char_mlm_positions=[3], char_mlm_labels=[31],
                word_ids=[2, 30, 3, 31, 43, 3], word_segments=[0] * 3 + [1] * 3,
                anchor_word_position=[4], anchor_char_start=[4], anchor_char_length=[3], anchor_ids=[43],
                sop_labels=0,
            ),
            row(),
        ]
    )  # fmt: skip


@pytest.fixture(scope='module')
def params():
    return synthetic.random_params(task_of())


@pytest.fixture(scope='module')
def outputs(params):
    """For each view: hidden states, MLM logits at every position over the whole vocabulary, SOP logits."""
    batch, out = handmade(), {}

    def run(model, view):
        hidden = model.encode(view, batch[f'{view}_ids'], batch[f'{view}_segments'])
        positions = np.tile(np.arange(hidden.shape[1]), (len(hidden), 1))
        return hidden, model.mlm_logits(view, hidden, positions), model.sop_logits(view, hidden[:, 0])

    for view in VIEWS:
        values = task_of().model.apply({'params': params}, view, method=run)
        out[view] = dict(zip(('hidden', 'mlm', 'sop'), map(np.asarray, values)))
    return out


def expected_sums(outputs, batch, *, branch=False, sop=VIEWS, same_word_negatives=True, groups=1):
    """Each loss as (sum, number right, count)."""
    sums = {}
    for view in VIEWS:
        logits = outputs[view]['mlm']
        if branch and view == 'char':
            logits = logits[..., : synthetic.BASE_SIZE]
        masked = [
            (logits[b, position], label)
            for b, (positions, labels) in enumerate(
                zip(batch[f'{view}_mlm_positions'], batch[f'{view}_mlm_labels'])
            )
            for position, label in zip(positions, labels)
            if label != -100
        ]
        sums[f'mlm_{view}'] = cross_entropy(np.stack([x for x, _ in masked]), [label for _, label in masked])
    both = [cross_entropy(outputs[view]['sop'][:3], batch['sop_labels'][:3]) for view in sop]
    sums['sop'] = tuple(np.sum(both, axis=0))

    p, w, ids = [], [], []
    for b, k in np.ndindex(batch['anchor_ids'].shape):
        span = batch['anchor_char_start'][b, k], batch['anchor_char_length'][b, k]
        p.append(span_mean(np.float64(outputs['char']['hidden'][b]), *span))
        w.append(outputs['word']['hidden'][b, batch['anchor_word_position'][b, k]])
        ids.append(batch['anchor_ids'][b, k])
    real = np.ravel(batch['anchor_char_length']) > 0
    sums['tcl'] = contrast(p, w, real, 0.05, None if same_word_negatives else ids, groups)
    cls = [outputs[view]['hidden'][:, 0] for view in VIEWS]
    sums['scl'] = contrast(*cls, [True, True, True, False], 0.05, groups=groups)
    return sums


VARIANTS = {
    'the paper': ({}, {}),
    'branch': ({'loss.mlm_candidates': 'branch'}, {'branch': True}),
    'sop on char': ({'loss.sop_on': 'char'}, {'sop': ('char',)}),
    'sop on word': ({'loss.sop_on': 'word'}, {'sop': ('word',)}),
    'same word': ({'loss.same_word_negatives': False}, {'same_word_negatives': False}),
    'local': ({'loss.contrast_scope': 'local', 'devices': 2}, {'groups': 2}),
    'global on two shards': ({'devices': 2}, {}),
    'weights': ({'loss.sop_weight': 0.25, 'loss.contrast_weight': 3.0}, {}),
    'MLM only': ({'loss.sop_weight': 0.0, 'loss.contrast_weight': 0.0}, {}),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    'variant',
    [
        pytest.param(variant, marks=[pytest.mark.devices] * ('devices' in changes))
        for variant, (changes, _) in VARIANTS.items()
    ],
)
def test_loss_is_the_formula(variant, params, outputs):
    changes, meaning = VARIANTS[variant]
    batch, task = handmade(), task_of(**changes)
    expected = expected_sums(outputs, batch, **meaning)
    # On one device not compiled: the variants share nearly all of their operations. On two every operation
    # would be a program of its own.
    loss, sums = (jax.jit(task.loss) if 'devices' in changes else task.loss)(params, batch, None)
    for name in LOSSES:
        total, correct, count = expected[name]
        assert sums[f'loss_{name}'][1] == sums[f'acc_{name}'][1] == count, name
        assert sums[f'acc_{name}'][0] == correct, name
        np.testing.assert_allclose(sums[f'loss_{name}'][0] / count, total / count, **TOLERANCE, err_msg=name)
    mlm_char, mlm_word, sop, tcl, scl = (expected[name][0] / expected[name][2] for name in LOSSES)
    sop_weight, contrast_weight = (changes.get(f'loss.{name}_weight', 1.0) for name in ('sop', 'contrast'))
    total = mlm_char + mlm_word + sop_weight * sop + contrast_weight * (tcl + scl)
    np.testing.assert_allclose(loss, total, **TOLERANCE)
    np.testing.assert_allclose(
        task.total_loss({f'loss_{name}': expected[name][0] / expected[name][2] for name in LOSSES}), total
    )


@pytest.mark.slow
def test_the_variants_differ(outputs):
    """Else the test above could not tell them apart."""
    batch = handmade()
    plain = expected_sums(outputs, batch)
    for meaning, changed in (
        ({'branch': True}, ['mlm_char']),
        ({'sop': ('char',)}, ['sop']),
        ({'same_word_negatives': False}, ['tcl']),
        ({'groups': 2}, ['tcl', 'scl']),
    ):
        other = expected_sums(outputs, batch, **meaning)
        assert [x for x in LOSSES if abs(other[x][0] - plain[x][0]) > 1e-3] == changed, meaning


@pytest.mark.slow
def test_counts_of_the_batch(params):
    _, sums = task_of().loss(params, handmade(), None)
    got = {name: tuple(map(float, sums[name])) for name in ('examples', 'tokens', 'anchors')}
    assert got == {'examples': (3, 1), 'tokens': (11 + 8 + 9 + 7 + 8 + 6, 1), 'anchors': (5, 1)}


@pytest.mark.slow
def test_padded_rows_change_nothing(params):
    """Wherever they stand: two rows alone, and with two of padding between them."""
    config = shallow_config()
    batch = next(synthetic.batches(config))
    first, second = ({key: value[i] for key, value in batch.items()} for i in (3, 4))
    assert first['anchor_char_length'][0] and second['anchor_char_length'][0]
    empty = synthetic.empty(config)
    loss = jax.jit(lambda batch: task_of().loss(params, batch, None))
    alone = loss(synthetic.stack([first, second]))
    padded = loss(synthetic.stack([empty, first, empty, second]))
    jax.tree.map(lambda got, want: np.testing.assert_allclose(got, want, rtol=1e-6), padded, alone)


@pytest.mark.slow
def test_a_batch_of_padding_only_has_loss_0_and_no_gradient(params):
    batch = synthetic.stack([synthetic.empty(shallow_config())] * 8)
    step = jax.jit(jax.value_and_grad(lambda p: task_of().loss(p, batch, None), has_aux=True))
    (loss, sums), gradients = step(params)
    assert loss == 0
    assert all(total == 0 for total, _ in sums.values())
    assert all(np.all(np.asarray(gradient) == 0) for gradient in jax.tree.leaves(gradients))


@pytest.mark.slow
def test_dropout_follows_its_key(params):
    task, batch = task_of(**{'model.dropout': 0.1, 'model.attention_dropout': 0.1}), handmade()
    first, again, other = (float(task.loss(params, batch, jax.random.key(seed))[0]) for seed in (1, 1, 2))
    assert first == again != other
    assert task.loss(params, batch, None)[0] == task_of().loss(params, batch, None)[0]


@pytest.mark.slow
def test_evaluation_does_not_depend_on_batches():
    """20 examples as 8 + 8 + 4 and as 20 + 4 of padding, on 8 devices."""
    out = {}
    for size in (8, 24):
        # Without layers: what is tested is the summing.
        config = shallow_config(**{'batch_size': size, 'model.num_layers': 0})
        mesh = sharding.make_mesh(config)
        task = Pretrain.from_config(config, mesh)
        params = synthetic.random_params(task)
        batches = synthetic.batches(config, split='validation')
        out[size] = Evaluator.create(mesh, task, size)(params, batches)
    in_three, in_one = out[8], out[24]
    for name in ('mlm_char', 'mlm_word', 'sop'):
        for key in (f'loss_{name}', f'acc_{name}'):
            assert in_three[key] == pytest.approx(in_one[key], rel=1e-6), key
    assert in_three['loss_tcl'] < in_one['loss_tcl']  # fewer negatives
    weights = {f'loss_{name}': in_one[f'loss_{name}'] for name in LOSSES}
    assert in_one['loss'] == pytest.approx(sum(weights.values()))
    assert not {'examples', 'tokens'} & in_one.keys()


def test_evaluation_of_nothing(params):
    config = shallow_config()
    mesh = sharding.make_mesh(config)
    assert Evaluator.create(mesh, task_of(), config.batch_size)(params, []) == {}


@pytest.mark.parametrize(
    ('key', 'value'),
    [
        ('loss.mlm_candidates', 'all'),
        ('loss.contrast_scope', 'host'),
        ('loss.sop_on', 'neither'),
        ('dtype', 'float64'),
        ('model.hidden_size', 30),
        ('data.char_length', 33),
        ('data.word_length', 33),
    ],
)
def test_bad_values_are_named(key, value):
    with pytest.raises(ValueError, match=rf'{key}={value!r}'):
        task_of(**{key: value})
