"""ML-CTL: the loss and the alignment against loops that read like their definitions; why CZ-NCE."""

import functools

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clower_jax import jobs
from clower_jax.objectives import mlctl
from clower_jax.utils.metrics_file import read_metrics
from configs import mlctl as config_of_mlctl
from helpers import finetuned
from helpers.losses import cosine
from helpers.mlctl import LENGTH, VOCAB, D, contrast, embedded, pooled, task_of

TOLERANCE = {'rtol': 1e-5, 'atol': 1e-5}


# ---- the oracles: float64, one formula a line ----


def mutual(a, b, most, threshold=-1.0) -> list[tuple[int, int]]:
    """The words of which each is the other's nearest, the most alike first, counted from 1."""
    found = []
    for i in range(len(a)):
        j = max(range(len(b)), key=lambda j: cosine(a[i], b[j]), default=None)
        if j is not None and max(range(len(a)), key=lambda i: cosine(a[i], b[j])) == i:
            if cosine(a[i], b[j]) >= threshold:
                found.append((-cosine(a[i], b[j]), i + 1, j + 1))
    return [pair for _, *pair in sorted(found)[:most]]


def words_of(hidden, numbers) -> list[np.ndarray]:
    """The mean vector of each word of one text."""
    return [hidden[numbers == word].mean(0) for word in range(1, numbers.max() + 1)]


def expected_loss(params, batch, kind, temperature, weight, most) -> dict[str, float]:
    """L = L_sentence + weight·L_word, and its parts."""
    real = batch['char_ids'][:, 0] != 0
    a, b = (
        embedded(params, batch[f'{side}_ids'], batch[f'{side}_segments'])[real] for side in ('char', 'other')
    )
    ids_a, ids_b, words_a, words_b = (
        batch[f'{side}_{name}'][real] for name in ('ids', 'words') for side in ('char', 'other')
    )
    with_positive = kind == 'info_nce'
    sides = pooled(a, ids_a), pooled(b, ids_b)
    loss, count = contrast(*sides, temperature, within=True, with_positive=with_positive)
    x, y = [], []
    for row in range(len(a)):
        of_a, of_b = words_of(a[row], words_a[row]), words_of(b[row], words_b[row])
        given = batch['alignment'][row].tolist() if 'alignment' in batch else mutual(of_a, of_b, most)
        for i, j in given:
            if i > 0:
                x.append(of_a[i - 1])
                y.append(of_b[j - 1])
    word_loss, word_count = contrast(x, y, temperature, within=False, with_positive=with_positive)
    parts = {'loss_sentence': loss / count, 'loss_word': word_loss / word_count, 'words': len(x)}
    return parts | {'loss': parts['loss_sentence'] + weight * parts['loss_word']}


# ---- the loss ----


@pytest.fixture(scope='module')
def batch():
    """Three pairs and a row of padding."""
    rng = np.random.default_rng(1)
    out = {}
    for side, lengths in (('char', (8, 5, 6, 0)), ('other', (6, 7, 4, 0))):
        real = np.arange(LENGTH) < np.array(lengths)[:, None]
        inner = real & (np.arange(LENGTH) > 0) & (np.arange(LENGTH) < np.array(lengths)[:, None] - 1)
        out[f'{side}_ids'] = np.where(real, rng.integers(1, VOCAB, real.shape), 0).astype(np.int32)
        out[f'{side}_segments'] = np.zeros(real.shape, np.int32)
        of = np.array([0, 1, 2, 2, 3, 3, 4, 4])  # words of one and of two tokens
        out[f'{side}_words'] = np.where(inner, of, 0).astype(np.int32)
    return out | {'example': np.array([5, 1, 2, -1], np.int32)}


@pytest.mark.slow
@pytest.mark.parametrize('kind', mlctl.CONTRASTS)
@pytest.mark.parametrize('source', ['model', 'file'])
def test_loss_and_gradient_are_the_formula(kind, source, batch, params):
    if source == 'file':
        alignment = np.zeros((4, 3, 2), np.int32)
        alignment[:2, :2] = [[[1, 2], [2, 1]], [[2, 1], [1, 3]]]
        batch = batch | {'alignment': alignment}
    changes = {'loss.contrast': kind, 'loss.word_weight': 0.5, 'data.max_aligned': 2}
    task = task_of(**changes)
    run_task = jax.jit(jax.value_and_grad(lambda params: task.loss(params, batch, None), has_aux=True))
    (loss, sums), gradient = run_task(params)
    exact = jax.tree.map(np.float64, params)
    arguments = batch, kind, 0.1, 0.5, 2
    want = expected_loss(exact, *arguments)
    np.testing.assert_allclose(loss, want['loss'], **TOLERANCE)
    for name in ('loss_sentence', 'loss_word'):
        np.testing.assert_allclose(sums[name][0] / sums[name][1], want[name], **TOLERANCE)
    assert sums['loss_sentence'][1] == 3 and sums['loss_word'][1] == want['words'] >= 3
    assert sums['aligned_words'] == (want['words'], 3)

    table = exact['embeddings']['word_embeddings']['embedding']
    got = gradient['embeddings']['word_embeddings']['embedding']
    for place in np.ndindex(table.shape):
        losses, value = [], table[place]
        for step in (1e-6, -1e-6):
            table[place] = value + step
            losses.append(expected_loss(exact, *arguments)['loss'])
        table[place] = value
        np.testing.assert_allclose(got[place], (losses[0] - losses[1]) / 2e-6, **TOLERANCE)


@pytest.mark.slow
def test_padded_rows_change_nothing(batch, params):
    loss = jax.jit(lambda batch: task_of().loss(params, batch, None))
    padded, alone = loss(batch), loss({name: value[:3] for name, value in batch.items()})
    # Sums over four rows and over three round differently, and cosines are divided by τ = 0.1.
    rounding = 2 * np.finfo(np.float32).eps / 0.1
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=rounding), padded, alone)


@pytest.mark.slow
def test_a_batch_of_padding_has_loss_0_and_no_gradient(batch, params):
    empty = {name: np.zeros_like(value) for name, value in batch.items()}
    step = jax.jit(jax.value_and_grad(lambda params: task_of().loss(params, empty, None)[0]))
    loss, gradient = step(params)
    assert loss == 0 and all(np.all(np.asarray(x) == 0) for x in jax.tree.leaves(gradient))


@pytest.mark.slow
@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_cz_nce_goes_on_where_info_nce_vanishes(dtype, params):
    """Two pairs, each far from the other: InfoNCE is log(1 + e^−18) and its gradient is lost."""
    rng = np.random.default_rng(3)
    params = jax.tree.map(np.zeros_like, params)
    tables = params['embeddings']
    tables['LayerNorm']['scale'] += 1
    direction = np.array([2, 1, -1, -2], np.float32)
    rows = [direction, direction, -direction, -direction] + rng.normal(0, 0.3, (4, D)).astype(np.float32)
    tables['word_embeddings']['embedding'][5:9] = rows
    ids = {'char_ids': [[5, 5], [7, 7]], 'other_ids': [[6, 6], [8, 8]]}
    batch = {name: np.array(value, np.int32) for name, value in ids.items()}
    ones, zeros = np.ones((2, 2), np.int32), np.zeros((2, 2), np.int32)
    batch |= {f'{side}_words': ones for side in ('char', 'other')}
    batch |= {f'{side}_segments': zeros for side in ('char', 'other')}

    size, value = {}, {}
    for kind in mlctl.CONTRASTS:
        task = task_of(**{'loss.contrast': kind, 'dtype': dtype})
        step = jax.jit(jax.value_and_grad(lambda params, task=task: task.loss(params, batch, None)[0]))
        value[kind], gradient = step(params)
        size[kind] = np.abs(gradient['embeddings']['word_embeddings']['embedding']).max()
    assert abs(value['info_nce']) < 1e-5 and size['info_nce'] < 1e-6
    assert value['cz_nce'] < -10 and size['cz_nce'] > 0.1


def test_dropout_follows_its_key(batch, params):
    loss = jax.jit(lambda key: task_of(**{'model.dropout': 0.2}).loss(params, batch, key)[0])
    first, again, other = (loss(jax.random.key(seed)) for seed in (1, 1, 2))
    assert first == again != other


def test_a_contrast_of_another_name_is_refused():
    with pytest.raises(ValueError, match="loss.contrast='nce' must be one of cz_nce, info_nce"):
        task_of(**{'loss.contrast': 'nce'})


# ---- words ----


@functools.cache
def jitted(function, *arguments):
    return jax.jit(lambda *arrays: function(*arrays, *arguments))


@given(st.integers(0, 2**32 - 1))
def test_word_vectors(seed):
    rng = np.random.default_rng(seed)
    hidden = rng.normal(size=(2, 6, D)).astype(np.float32)
    words = rng.integers(0, 4, (2, 6))
    got = jitted(mlctl.word_vectors, 4)(hidden, words)
    for b, word in np.ndindex(2, 4):
        inside = hidden[b][words[b] == word + 1]
        want = inside.mean(0) if len(inside) else np.zeros(D)
        np.testing.assert_allclose(got[b, word], want, **TOLERANCE)


@given(st.integers(0, 2**32 - 1), st.sampled_from([-1.0, 0.0, 0.5]))
def test_mutual_alignment(seed, threshold):
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(3, 5, D)), rng.normal(size=(3, 4, D))
    counts = rng.integers(0, [6, 5], (3, 2))
    real_a, real_b = (np.arange(size) < counts[:, i : i + 1] for i, size in enumerate((5, 4)))
    got = jitted(mlctl.mutual_alignment, 3, threshold)(a, b, real_a, real_b)
    assert got.shape == (3, 3, 2)
    for row, (words_a, words_b) in enumerate(counts):
        want = mutual(a[row, :words_a], b[row, :words_b], 3, threshold)
        assert got[row].tolist() == want + [[0, 0]] * (3 - len(want))


# ---- from end to end ----

LATIN = [chr(ord('a') + i) for i in range(26)]


def write_pairs(path, count, seed):
    """Texts of four to seven of 26 characters, and the letters that they translate to."""
    rng = np.random.default_rng(seed)
    lines = []
    for _ in range(count):
        chosen = rng.integers(0, 26, rng.integers(4, 8))
        a, b = ''.join(finetuned.CHARACTERS[i] for i in chosen), ' '.join(LATIN[i] for i in chosen)
        lines.append(f'{a}\t{b}\n')
    path.write_text(''.join(lines), encoding='utf-8')
    return path


@pytest.mark.slow
def test_translations_are_found_after_training(tmp_path):
    vocab = tmp_path / 'vocab.txt'
    vocab.write_text('\n'.join([*finetuned.SPECIAL, *finetuned.CHARACTERS, *LATIN]) + '\n', encoding='utf-8')
    config = config_of_mlctl.get_config()
    data = {'data.train': str(write_pairs(tmp_path / 'pairs.tsv', 600, 0)), 'data.vocab': str(vocab)}
    config.update_from_flattened_dict(finetuned.SIZES | data)
    config.update_from_flattened_dict({'data.max_length': 24, 'data.dev_fraction': 0.2, 'batch_size': 32})
    config.update_from_flattened_dict({'num_epochs': 6.0, 'optim.learning_rate': 1e-2, 'eval_every': 1000})
    workdir = tmp_path / 'run'
    text = jobs.fine_tuning(jobs.Job(config, 'configs/mlctl.py', workdir))
    rows = [row for row in read_metrics(workdir / 'metrics.jsonl') if row['split'] == 'validation']
    assert [row['step'] for row in rows] == [0, max(row['step'] for row in rows)]
    for name in ('acc_ab', 'acc_ba', 'mrr'):
        assert rows[0][name] < 0.3 and rows[-1][name] > 0.8, (name, rows)
    assert 'validation, before' in text and 'validation, last' in text
