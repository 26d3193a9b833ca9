"""The losses and outputs of the fine-tuning tasks, against NumPy formulas and PyTorch's models."""

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from transformers.loss.loss_utils import ForSequenceClassificationLoss

from clower_jax.interop.hf_bert import tensor_name
from clower_jax.objectives import registry, supervised
from helpers import finetuned, synthetic
from helpers.losses import cross_entropy

VOCAB, LABELS = 40, 3


def config_of(kind: str, tmp_path, **changes):
    make = getattr(finetuned, f'{kind}_config')
    config = make(tmp_path, **{'model.vocab_size': VOCAB, 'model.base_vocab_size': VOCAB, **changes})
    if kind != 'span':
        config.data.labels = tuple('abc')
    return config


@pytest.fixture(params=['classify', 'span', 'tag'])
def case(request, tmp_path):
    """(task, params, batch): a full row, a short one, one without a label or answer, and padding."""
    task = registry.from_config(config_of(request.param, tmp_path))
    rng, params = np.random.default_rng(0), synthetic.random_params(task)
    lengths = np.array([9, 5, 7, 0])
    real = np.arange(9) < lengths[:, None]
    ids = np.where(real, rng.integers(1, VOCAB, (4, 9)), 0).astype(np.int32)
    segments = np.where(real, np.arange(9) >= 3, 0).astype(np.int32)
    batch = {'char_ids': ids, 'char_segments': segments, 'example': np.array([4, 2, 7, -1], np.int32)}
    if request.param == 'classify':
        batch['labels'] = np.array([2, 0, -1, -1], np.int32)
    elif request.param == 'tag':
        batch['tags'] = np.where(real & (np.arange(9) % 4 > 0), ids % LABELS, -1).astype(np.int32)
        batch['tags'][2] = -1
    else:
        batch['span'] = np.array([[4, 8], [0, 0], [-1, -1], [-1, -1]], np.int32)
    return task, params, batch


def torch_logits(task, params: dict, batch: dict) -> np.ndarray:
    """[B, C], [B, L, 2] or [B, L, C] of the same weights in transformers' model."""
    flat = {
        jax.tree_util.keystr(path, simple=True, separator='/'): value
        for path, value in jax.tree_util.tree_leaves_with_path(params)
    }
    span = isinstance(task, supervised.FindSpan)
    shape = task.model.config
    config = transformers.BertConfig(
        vocab_size=VOCAB, hidden_size=shape.hidden_size, num_hidden_layers=shape.num_layers,
        num_attention_heads=shape.num_heads, intermediate_size=shape.intermediate_size,
        max_position_embeddings=task.model.max_positions, num_labels=2 if span else LABELS,
    )  # fmt: skip
    kind = {
        supervised.Classify: transformers.BertForSequenceClassification,
        supervised.FindSpan: transformers.BertForQuestionAnswering,
        supervised.Tag: transformers.BertForTokenClassification,
    }[type(task)]
    model = kind(config).eval()
    state = {}
    for path, value in flat.items():
        name = tensor_name(path)
        name = name if name.startswith(('classifier', 'qa_outputs')) else f'bert.{name}'
        state[name] = torch.from_numpy(np.ascontiguousarray(value.T if path.endswith('kernel') else value))
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected and not missing
    with torch.no_grad():
        out = model(
            input_ids=torch.from_numpy(batch['char_ids']).long(),
            token_type_ids=torch.from_numpy(batch['char_segments']).long(),
            attention_mask=torch.from_numpy(batch['char_ids'] != 0).long(),
        )
    return np.stack([out.start_logits, out.end_logits], axis=-1) if span else out.logits.numpy()


def torch_hidden(task, params: dict, batch: dict) -> np.ndarray:
    """[B, L, D]: the last hidden states of the same weights in transformers' BertModel."""
    shape = task.model.config
    config = transformers.BertConfig(
        vocab_size=VOCAB, hidden_size=shape.hidden_size, num_hidden_layers=shape.num_layers,
        num_attention_heads=shape.num_heads, intermediate_size=shape.intermediate_size,
        max_position_embeddings=task.model.max_positions,
    )  # fmt: skip
    model = transformers.BertModel(config, add_pooling_layer=False).eval()
    state = {
        tensor_name(path): torch.from_numpy(np.array(value.T if path.endswith('kernel') else value))
        for path, value in flax.traverse_util.flatten_dict(params, sep='/').items()
        if not path.startswith('classifier') and 'pooler' not in path
    }
    model.load_state_dict(state)
    with torch.no_grad():
        out = model(
            input_ids=torch.from_numpy(batch['char_ids']).long(),
            token_type_ids=torch.from_numpy(batch['char_segments']).long(),
            attention_mask=torch.from_numpy(batch['char_ids'] != 0).long(),
        )
    return out.last_hidden_state.numpy()


def test_outputs_are_torchs(case):
    task, params, batch = case
    _, out = jax.jit(task.evaluate)(params, batch)
    theirs = torch_logits(task, params, batch)
    assert out['example'].tolist() == [4, 2, 7, -1]
    if isinstance(task, supervised.Classify):
        np.testing.assert_allclose(out['logits'][:3], theirs[:3], atol=1e-5)
        return
    real = batch['char_ids'] != 0
    if isinstance(task, supervised.Tag):
        assert out['tags'].dtype == np.int32
        np.testing.assert_array_equal(out['tags'][real], theirs.argmax(-1)[real])
        return
    ours = np.stack([out['start_logits'], out['end_logits']], axis=-1)
    np.testing.assert_allclose(ours[real], theirs[real], atol=1e-5)
    assert (ours[~real] < -1e38).all()  # padding is no candidate


@pytest.mark.slow
@pytest.mark.parametrize('classify_from', ['cls', 'pooler', 'mean'])
def test_what_a_class_is_told_from(classify_from, tmp_path):
    """Of torch's last hidden states and the formula; without a pooler there are no weights of one."""
    changes = {'model.classify_from': classify_from}
    task = registry.from_config(config_of('classify', tmp_path, **changes))
    rng, params = np.random.default_rng(0), synthetic.random_params(task)
    ids = np.where(np.arange(9) < [[9], [5]], rng.integers(1, VOCAB, (2, 9)), 0).astype(np.int32)
    batch = {'char_ids': ids, 'char_segments': 0 * ids, 'example': np.arange(2)}
    batch['labels'] = np.zeros(2, np.int32)
    hidden = torch_hidden(task, params, batch)
    assert ('pooler.dense' in params['char_encoder']) == (classify_from == 'pooler')
    if classify_from == 'pooler':
        pooler = params['char_encoder']['pooler.dense']
        vectors = np.tanh(hidden[:, 0] @ pooler['kernel'] + pooler['bias'])
    elif classify_from == 'cls':
        vectors = hidden[:, 0]
    else:
        vectors = np.stack([row[:n].mean(0) for row, n in zip(hidden, (9, 5))])
    expected = vectors @ params['classifier']['kernel'] + params['classifier']['bias']
    np.testing.assert_allclose(task.evaluate(params, batch)[1]['logits'], expected, atol=1e-5)
    half = registry.from_config(config_of('classify', tmp_path, **changes, dtype='bfloat16'))
    np.testing.assert_allclose(half.evaluate(params, batch)[1]['logits'], expected, atol=0.1)


def test_loss_is_the_mean_over_what_has_a_label(case):
    task, params, batch = case
    loss, sums = jax.jit(lambda p, b: task.loss(p, b, None))(params, batch)
    sums_of_evaluation, out = jax.jit(task.evaluate)(params, batch)
    if isinstance(task, supervised.Classify):
        logits, labels = out['logits'][:2], batch['labels'][:2]
    elif isinstance(task, supervised.Tag):
        known = batch['tags'] >= 0
        logits, labels = torch_logits(task, params, batch)[known], batch['tags'][known]
    else:
        logits, labels = np.stack([out['start_logits'], out['end_logits']], axis=1)[:2], batch['span'][:2]
    total, correct, count = cross_entropy(np.asarray(logits), labels)
    np.testing.assert_allclose(loss, total / count, rtol=1e-5)
    (accuracy,) = (pair for name, pair in sums.items() if name.startswith('acc'))
    assert tuple(accuracy) == (correct, count)
    means = {name: total / count for name, (total, count) in sums.items()}
    np.testing.assert_allclose(task.total_loss(means), loss, rtol=1e-6)
    assert means['examples'] == 3 and means['tokens'] == 21
    for name, pair in sums.items():
        np.testing.assert_allclose(pair, sums_of_evaluation[name], rtol=1e-6)


@pytest.mark.parametrize('problem_type', ['multi_label_classification', 'regression'])
def test_losses_of_other_problems_are_transformers(problem_type, tmp_path):
    """The loss and its gradient at the head, of rows that have labels; a row without any is not there."""
    config = config_of('classify', tmp_path, **{'data.problem_type': problem_type})
    size = LABELS if problem_type.startswith('multi') else 1
    config.data.labels = tuple('abc'[:size])
    task = registry.from_config(config)
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (5, size)).astype(np.float32)
    if size > 1:
        labels, known = rng.integers(0, 2, (5, size)).astype(np.int32), slice(4)
        labels[4] = -1
        targets = torch.from_numpy(labels[known]).float()
    else:
        labels, known = np.float32([1.5, -2, 0, 3.25, np.nan]), slice(4)
        targets = torch.from_numpy(labels[known])
    batch = {'char_ids': np.ones((5, 3), np.int32), 'labels': labels}

    def mean(logits):
        sums = task._sums(logits, batch)
        total, count = sums['loss_label']
        return total / count, sums

    (loss, sums), gradient = jax.value_and_grad(mean, has_aux=True)(jnp.asarray(logits))
    shape = transformers.BertConfig(num_labels=size, problem_type=problem_type)
    tensor = torch.from_numpy(logits[known]).requires_grad_()
    theirs = ForSequenceClassificationLoss(targets, tensor, shape)
    theirs.backward()
    np.testing.assert_allclose(loss, theirs.item(), rtol=1e-6)
    np.testing.assert_allclose(gradient[known], tensor.grad.numpy(), rtol=1e-5, atol=1e-7)
    assert (gradient[4] == 0).all() and sums.keys() == {'loss_label'}
    assert task.metrics.keys() == {'loss', 'loss_label'}


@pytest.mark.slow
def test_padding_changes_nothing(case):
    task, params, batch = case
    wider = {
        name: np.pad(value, ((0, 2), (0, 4))) if name.startswith('char') else value
        for name, value in batch.items()
    }
    if 'tags' in batch:
        wider['tags'] = np.pad(batch['tags'], ((0, 2), (0, 4)), constant_values=-1)
    for name in {'labels', 'span', 'example'} & set(batch):
        wider[name] = np.concatenate([batch[name], np.full_like(batch[name][:2], -1)])
    step = jax.jit(jax.value_and_grad(lambda p, b: task.loss(p, b, None)[0]))
    (loss, gradients), (wide_loss, wide_gradients) = step(params, batch), step(params, wider)
    np.testing.assert_allclose(loss, wide_loss, rtol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), gradients, wide_gradients)


@pytest.mark.slow
def test_dropout_follows_its_key(tmp_path):
    task = registry.from_config(config_of('classify', tmp_path))
    params = task.init(jax.random.key(0))
    ids = np.full((8, 6), 7, np.int32)
    batch = {'char_ids': ids, 'char_segments': 0 * ids, 'labels': np.zeros(8, np.int32)}
    loss = jax.jit(lambda key: task.loss(params, batch, key)[0])
    first, again, other = (loss(jax.random.key(k)) for k in (0, 0, 1))
    assert first == again != other


def test_an_unknown_task(tmp_path):
    with pytest.raises(ValueError, match="task='parse' must be one of pretrain, classify, span"):
        registry.from_config(config_of('classify', tmp_path, **{'task': 'parse'}))
