"""Auto-MLM: its loss against a formula, its masks, and a run from end to end."""

import json
import math

import jax
import numpy as np
import pytest
import transformers

from clower_jax import jobs
from clower_jax.export.bert_folder import export
from clower_jax.objectives import registry
from clower_jax.parallel import sharding
from clower_jax.utils.metrics_file import read_metrics
from configs import auto_mlm
from helpers import finetuned, synthetic
from helpers.losses import cross_entropy
from helpers.meshes import mesh_of
from helpers.mlctl import contrast, embedded, pooled
from input_pipeline.features.buckets import Planned
from input_pipeline.sentence_vectors import auto_mlm as finetuning_auto_mlm
from input_pipeline.text.vocabulary import Vocabulary

VOCAB, D, LENGTH = 14, 4, 8
TOLERANCE = {'rtol': 1e-5, 'atol': 1e-5}


def layer_norm(x, parameters) -> np.ndarray:
    x = (x - x.mean()) / math.sqrt(x.var() + 1e-12)
    return x * parameters['scale'] + parameters['bias']


def dense(x, parameters) -> np.ndarray:
    return x @ parameters['kernel'] + parameters['bias']


def gelu(x) -> np.ndarray:
    return np.array([v * (1 + math.erf(v / math.sqrt(2))) / 2 for v in x])


def expected_loss(params, batch, temperature, weight) -> dict[str, float]:
    """L = L_contrast + weight·L_mlm and its parts, without dropout: both vectors of a text are the same."""
    real = batch['char_ids'][:, 0] != 0
    ids, segments = batch['char_ids'][real], batch['char_segments'][real]
    sentences = pooled(embedded(params, ids, segments), ids)
    loss, count = contrast(sentences, sentences, temperature, within=True, with_positive=True)
    masked = embedded(params, batch['other_ids'][real], segments)
    fusion, head = params['fusion'], params['char_mlm']
    table = params['embeddings']['word_embeddings']['embedding']
    logits, labels = [], []
    for row, k in np.ndindex(batch['mlm_labels'][real].shape):
        token = masked[row, batch['mlm_positions'][row, k]]
        h = np.concatenate([token, sentences[row]])
        h = layer_norm(gelu(dense(h, fusion['dense'])), fusion['LayerNorm'])
        h = layer_norm(gelu(dense(h, head['transform.dense'])), head['transform.LayerNorm'])
        logits.append(table @ h + head['bias'])
        labels.append(batch['mlm_labels'][row, k])
    mlm, _, tokens = cross_entropy(np.stack(logits), labels)
    parts = {'loss_contrast': loss / count, 'loss_mlm': mlm / tokens}
    return parts | {'loss': parts['loss_contrast'] + weight * parts['loss_mlm'], 'tokens': tokens}


def task_of(mesh=None, **changes):
    config = auto_mlm.get_config()
    sizes = {'vocab_size': VOCAB, 'base_vocab_size': VOCAB, 'hidden_size': D, 'num_layers': 0, 'num_heads': 1}
    config.model.update(sizes | {'intermediate_size': 8, 'max_positions': LENGTH})
    config.update_from_flattened_dict(changes)
    return registry.from_config(config, mesh)


@pytest.fixture(scope='module')
def batch():
    """Three texts, one of them without a masked token, and a row of padding."""
    rng = np.random.default_rng(1)
    real = np.arange(LENGTH) < np.array([8, 5, 6, 0])[:, None]
    ids = np.where(real, rng.integers(5, VOCAB, real.shape), 0).astype(np.int32)
    positions = np.array([[1, 4], [2, 0], [0, 0], [0, 0]], np.int32)
    labels = np.array([[7, 9], [13, -100], [-100, -100], [-100, -100]], np.int32)
    other = ids.copy()
    other[[0, 0, 1], [1, 4, 2]] = 4
    return {
        'char_ids': ids, 'other_ids': other, 'mlm_positions': positions, 'mlm_labels': labels,
        'char_segments': np.zeros_like(ids), 'other_segments': np.zeros_like(ids),
        'example': np.array([0, 3, 1, -1], np.int32),
    }  # fmt: skip


@pytest.fixture(scope='module')
def params():
    return synthetic.random_params(task_of(), 1.0)


@pytest.mark.slow
def test_loss_and_gradient_are_the_formula(batch, params):
    task = task_of(**{'loss.mlm_weight': 0.5, 'loss.temperature': 0.1})
    run_task = jax.jit(jax.value_and_grad(lambda params: task.loss(params, batch, None), has_aux=True))
    (loss, sums), gradient = run_task(params)
    exact = jax.tree.map(np.float64, params)
    want = expected_loss(exact, batch, 0.1, 0.5)
    np.testing.assert_allclose(loss, want['loss'], **TOLERANCE)
    for name in ('loss_contrast', 'loss_mlm'):
        np.testing.assert_allclose(sums[name][0] / sums[name][1], want[name], **TOLERANCE)
    assert sums['loss_contrast'][1] == 3 and sums['loss_mlm'][1] == want['tokens'] == 3

    for path in (('embeddings', 'word_embeddings', 'embedding'), ('fusion', 'dense', 'kernel')):
        table, got = exact, gradient
        for key in path:
            table, got = table[key], got[key]
        for place in np.ndindex(table.shape):
            losses, value = [], table[place]
            for step in (1e-6, -1e-6):
                table[place] = value + step
                losses.append(expected_loss(exact, batch, 0.1, 0.5)['loss'])
            table[place] = value
            np.testing.assert_allclose(got[place], (losses[0] - losses[1]) / 2e-6, **TOLERANCE)


@pytest.mark.devices
@pytest.mark.slow
def test_eight_devices_equal_one(batch, params):
    batch = {name: np.concatenate([value] * 2) for name, value in batch.items()}
    mesh = mesh_of(8, 1, 1)

    def step(task, batch):
        return jax.jit(jax.value_and_grad(lambda params: task.loss(params, batch, jax.random.key(3))[0]))(
            params
        )

    one, eight = step(task_of(), batch), step(task_of(mesh), sharding.shard_batch(mesh, batch, 8))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6), one, eight)


@pytest.mark.slow
def test_the_two_views_differ_by_dropout_alone(batch, params):
    """Without it the vectors of a text are the same one."""
    task = task_of()
    apply = jax.jit(lambda keys: task.model.apply({'params': params}, batch, keys, method=task.model.views))
    plain = apply(None)
    np.testing.assert_array_equal(plain['first'], plain['second'])
    dropped = apply(jax.random.bits(jax.random.key(0), (12, 2), np.uint32))
    assert np.abs(dropped['first'] - dropped['second'])[:3].max(1).min() > 0


def test_no_dropout_is_refused():
    with pytest.raises(ValueError, match='model.dropout=0, model.attention_dropout=0'):
        task_of(**{'model.dropout': 0.0, 'model.attention_dropout': 0.0})


# ---- masks ----

TOKENS = [*finetuned.SPECIAL, *finetuned.CHARACTERS]


def texts(count):
    rng = np.random.default_rng(0)
    return [''.join(rng.choice(finetuned.CHARACTERS, rng.integers(1, 31))) for _ in range(count)]


@pytest.fixture(scope='module')
def split():
    return finetuning_auto_mlm.MaskedTexts(texts(2000), Vocabulary(TOKENS, len(TOKENS)), 32, 0.15)


def test_masks_are_those_of_bert(split):
    planned = Planned(32, np.arange(2000), epoch=1, seed=7)
    batch = split.rows.batch(planned, 2001) | split.targets(planned, 2001)
    ids, other, labels = batch['char_ids'], batch['other_ids'], batch['mlm_labels']
    lengths = split.rows.lengths
    chosen = np.zeros(ids.shape, bool)
    for row in range(2000):
        real = labels[row] >= 0
        assert real.sum() == max(1, round(0.15 * (lengths[row] - 2)))
        positions = batch['mlm_positions'][row, real]
        assert (np.diff(positions) > 0).all() and positions[0] > 0 and positions[-1] < lengths[row] - 1
        np.testing.assert_array_equal(labels[row, real], ids[row, positions])
        chosen[row, positions] = True
    np.testing.assert_array_equal(other[~chosen], ids[~chosen])
    assert not other[2000].any() and (labels[2000] == -100).all()
    put = other[chosen]
    assert abs((put == 4).mean() - 0.8) < 0.02
    assert abs((put == ids[chosen]).mean() - 0.1 - 0.1 / 30) < 0.02
    assert (put >= 4).all()  # no special token but [MASK]


def test_masks_are_a_function_of_seed_epoch_and_row(split):
    def targets(rows, **changes):
        planned = Planned(32, np.array(rows), **{'epoch': 1, 'seed': 7} | changes)
        return {name: value[: len(rows)] for name, value in split.targets(planned, 4).items()}

    both, alone = targets([3, 8]), targets([8])
    assert all(np.array_equal(both[name][1:], alone[name]) for name in alone)
    for changes in ({'epoch': 2}, {'seed': 8}):
        assert not np.array_equal(targets([3, 8], **changes)['other_ids'], both['other_ids'])


def test_a_text_without_tokens_has_nothing_to_predict():
    chosen, new = finetuning_auto_mlm.mask(
        np.array([2, 3]), 0.15, 4, np.arange(5, 9), np.random.default_rng(0)
    )
    assert len(chosen) == len(new) == 0


# ---- from end to end ----


@pytest.mark.slow
def test_a_run_leaves_before_and_after(tmp_path):
    train = tmp_path / 'texts.txt'
    train.write_text('\n'.join(texts(300)) + '\n', encoding='utf-8')
    lines = [(text, text[::-1], '1') for text in texts(60)] + [('一', '丁', '0')]
    dev = tmp_path / 'dev.tsv'
    dev.write_text(''.join('\t'.join(line) + '\n' for line in lines), encoding='utf-8')
    config = auto_mlm.get_config()
    files = {'data.train': str(train), 'data.dev': str(dev), 'data.max_length': 32}
    files['data.vocab'] = str(finetuned.write_vocab(tmp_path))
    config.update_from_flattened_dict(finetuned.SIZES | files | {'num_epochs': 4.0, 'eval_every': 1000})
    workdir = tmp_path / 'run'
    text = jobs.fine_tuning(jobs.Job(config, 'configs/auto_mlm.py', workdir))
    rows = read_metrics(workdir / 'metrics.jsonl')
    held_out = [row for row in rows if row['split'] == 'validation']
    train_rows = [row for row in rows if row['split'] == 'train']
    assert [row['step'] for row in held_out] == [0, train_rows[-1]['step']]
    assert {'mrr', 'recall_1', 'recall_5', 'recall_10'} <= held_out[0].keys()
    results = json.loads((workdir / 'results.json').read_text('utf-8'))['mean']
    assert results['test']['before'].keys() == results['test']['last'].keys() >= {'mrr'}
    assert train_rows[-1]['loss_mlm'] < train_rows[0]['loss_mlm']
    assert train_rows[-1]['loss_contrast'] < train_rows[0]['loss_contrast']
    assert 'validation, before' in text and 'validation, last' in text

    export(workdir, tmp_path / 'hf')
    model, report = transformers.BertModel.from_pretrained(tmp_path / 'hf', output_loading_info=True)
    assert not report['unexpected_keys'] and model.config.hidden_size == 32
