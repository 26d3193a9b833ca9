"""Mirror-BERT: masked copies of texts, the loss against its formula, and a run from end to end."""

import copy
import json
from pathlib import Path

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from ml_collections import ConfigDict

from clower_jax import Encoder, jobs
from clower_jax.checkpoints.orbax_store import Checkpoints
from clower_jax.export import bert_folder
from clower_jax.interop import init_weights
from clower_jax.objectives import mirror_bert, registry
from clower_jax.objectives import sentence as objectives_sentence
from clower_jax.ops import dropout
from clower_jax.training import evaluate, finetune, init_state, run_log
from clower_jax.training.inherited_settings import resolve_source, with_trained_settings
from clower_jax.utils import config_checks, metrics_file
from configs import mirror as config_file
from helpers import finetuned, synthetic
from helpers.finetune import go, killed_after, validation_rows
from input_pipeline.features import buckets
from input_pipeline.finetuning import data
from input_pipeline.sentence_vectors import mirror_bert as finetuning_mirror_bert
from input_pipeline.sentence_vectors import sentences
from input_pipeline.text.vocabulary import Vocabulary

MASK = finetuned.SPECIAL.index('[MASK]')
VOCABULARY = Vocabulary([*finetuned.SPECIAL, *finetuned.CHARACTERS, *'abc', '##a', '##b', '##c', 'abc'], 42)


def text_of(ids: np.ndarray) -> str:
    """The text of a row, '?' for [MASK]."""
    assert ids[0] == VOCABULARY.cls
    end = ids.tolist().index(VOCABULARY.sep)
    assert (ids[end + 1 :] == 0).all()
    return ''.join('?' if i == MASK else VOCABULARY.tokens[i].removeprefix('##') for i in ids[1:end])


# ---- data ----


@given(st.lists(st.integers(0, 30), min_size=1), st.integers(0, 8), st.floats(0, 1, exclude_max=True))
def test_a_span_lies_in_its_text(lengths, span, uniform):
    lengths = np.array(lengths)
    masked = np.minimum(span, lengths)
    start = finetuning_mirror_bert.places(lengths, masked, np.full(len(lengths), uniform))
    assert (start >= 0).all() and (start + masked <= lengths).all()


def test_every_place_of_a_span_is_as_likely():
    uniform = (np.arange(600) + 0.5) / 600
    start = finetuning_mirror_bert.places(np.full(600, 10), np.full(600, 5), uniform)
    assert np.bincount(start).tolist() == [100] * 6


def test_what_is_masked_follows_the_script_and_the_length_of_a_text():
    """The authors' code masks 5 characters of a text of 30 or more; a Chinese text has a rule of its own."""
    masks = finetuning_mirror_bert.Masks(2, 10)
    assert [masks.of('一' * length) for length in (0, 9, 10, 29, 50)] == [0, 0, 2, 2, 2]
    latin = 'A man is playing a big flute. '
    assert [masks.of(latin[:29]), masks.of(latin), masks.of(latin * 2)] == [0, 5, 5]
    assert masks.of('他在GitHub上看了三个人写的代码') == 2  # more Chinese characters than letters
    assert masks.of('Python 3.12 documentation 中文') == 0
    assert masks.of('2021-11-21 12:30:00') == 2  # no letters of either
    assert finetuning_mirror_bert.Masks(5).of('一' * 7) == 3  # never more than half
    assert finetuning_mirror_bert.Masks(0).of(latin * 2) == finetuning_mirror_bert.Masks(0).of('一' * 60) == 0


texts_of = st.lists(
    st.text(finetuned.CHARACTERS, min_size=1, max_size=14), min_size=1, max_size=8, unique=True
)


@given(texts_of, st.integers(1, 4), st.integers(0, 3), st.integers(0, 3))
def test_the_copy_is_the_text_with_a_span_masked(texts, span, seed, epoch):
    split = finetuning_mirror_bert.Mirrored(texts, VOCABULARY, 12, finetuning_mirror_bert.Masks(span))
    batch_size = len(texts) + 2
    planned = buckets.Planned(12, np.arange(len(texts)), epoch, seed)
    batch = split.rows.batch(planned, batch_size) | split.targets(planned, batch_size)
    assert batch['other_ids'].shape == batch['other_segments'].shape == (batch_size, 12)
    assert batch['other_ids'].dtype == np.int32 and not batch['other_segments'].any()
    assert not batch['other_ids'][len(texts) :].any()
    for text, ids, other in zip(texts, batch['char_ids'], batch['other_ids']):
        assert text_of(ids) == text[:10]
        if len(text) == 1:
            assert text_of(other) == text
            continue
        before, after = text_of(other).split('?')  # one [MASK]
        masked = len(text[:10]) - len(before) - len(after)
        assert masked == min(span, len(text[:10]) // 2)
        assert text[:10] == before + text[len(before) : len(before) + masked] + after


def test_a_copy_depends_on_seed_epoch_and_text_alone():
    texts = [''.join(row) for row in np.random.default_rng(0).choice(finetuned.CHARACTERS, (20, 20))]
    split = finetuning_mirror_bert.Mirrored(texts, VOCABULARY, 22, finetuning_mirror_bert.Masks(5))

    def copies(rows, epoch, seed):
        return split.targets(buckets.Planned(22, np.array(rows), epoch, seed), len(rows))['other_ids']

    every = copies(range(20), 1, 7)
    np.testing.assert_array_equal(copies([3, 11], 1, 7), every[[3, 11]])
    assert (copies(range(20), 2, 7) != every).any(axis=1).sum() > 10
    assert (copies(range(20), 1, 8) != every).any(axis=1).sum() > 10


def test_without_a_span_the_copy_is_the_same():
    split = finetuning_mirror_bert.Mirrored(['abc', 'a'], VOCABULARY, 8, finetuning_mirror_bert.Masks(0))
    planned = buckets.Planned(8, np.array([1, 0]))
    batch = split.rows.batch(planned, 3) | split.targets(planned, 3)
    np.testing.assert_array_equal(batch['char_ids'], batch['other_ids'])
    np.testing.assert_array_equal(batch['char_segments'], batch['other_segments'])


def test_a_latin_word_that_is_cut():
    """'abc' is one token, what a mask leaves of it are two: of those that do not fit the first ones stay."""
    split = finetuning_mirror_bert.Mirrored(
        ['abc abc'], VOCABULARY, 8, finetuning_mirror_bert.Masks(1, 0, 1, 0)
    )
    assert split.rows.lengths.tolist() == [4]
    planned = (buckets.Planned(4, np.array([0]), epoch) for epoch in range(60))
    copies = {text_of(split.targets(one, 1)['other_ids'][0]) for one in planned}
    assert copies == {'?b', 'a?', 'ab', 'abc?', 'abca'}


# ---- drophead ----


@pytest.mark.slow
def test_drophead_drops_whole_heads_of_rows():
    keys = dropout.row_seeds(jax.random.key(0), 500)
    x = np.random.default_rng(0).normal(size=(500, 8, 3, 4)).astype(np.float32)
    dropped = np.asarray(jax.jit(dropout.drop_heads, static_argnums=1)(x, 0.25, dropout.seeds_at(keys, 5)))
    ratio = dropped / x
    kept = ratio[:, :, 0, 0] != 0
    np.testing.assert_allclose(
        ratio, np.broadcast_to(np.where(kept, 4 / 3, 0)[..., None, None], x.shape), rtol=1e-6
    )
    assert 0.72 < kept.mean() < 0.78 and 0 < kept.std(axis=0).min()
    others = dropout.drop_heads(x[100:], 0.25, dropout.seeds_at(keys[100:], 5))
    np.testing.assert_array_equal(dropped[100:], others)
    assert (dropped != dropout.drop_heads(x, 0.25, dropout.seeds_at(keys, 6))).any()
    np.testing.assert_array_equal(x, dropout.drop_heads(x, 0.25, None))


# ---- the loss ----


def small_task(**changes):
    """(task, params) of 1 layer × 32."""
    config = config_file.get_config('sentence')
    config.update_from_flattened_dict(finetuned.SIZES | {'model.vocab_size': 40} | changes)
    task = registry.from_config(config)
    return task, synthetic.random_params(task)


def small_batch(pairs: int = 5, width: int = 8, padding: int = 1) -> dict:
    """Pairs of rows of 3 to `width` tokens, and rows of padding."""
    rng = np.random.default_rng(2)
    batch = {}
    for side in ('char', 'other'):
        lengths = np.append(rng.integers(3, width + 1, pairs), [0] * padding)
        real = np.arange(width) < lengths[:, None]
        ids = np.where(real, rng.integers(1, 40, real.shape), 0).astype(np.int32)
        batch |= {f'{side}_ids': ids, f'{side}_segments': 0 * ids}
    return batch | {'example': np.append(np.arange(pairs), [-1] * padding).astype(np.int32)}


def info_nce(a: np.ndarray, b: np.ndarray, temperature: float) -> tuple[float, float]:
    """Equation 2 of arXiv 2104.08027 over the 2N vectors, a mean over them, and the share of vectors whose
    partner is the nearest of the 2N − 1 others."""
    f = np.concatenate([a, b]).astype(np.float64)
    f /= np.linalg.norm(f, axis=1, keepdims=True)
    loss = right = 0
    for i in range(len(f)):
        partner = (i + len(a)) % len(f)
        scores = {j: f[i] @ f[j] / temperature for j in range(len(f)) if j != i}
        loss -= np.log(np.exp(scores[partner]) / sum(np.exp(score) for score in scores.values()))
        right += max(scores, key=scores.get) == partner
    return loss / len(f), right / len(f)


def gradient(function, x: np.ndarray, step: float = 1e-6) -> np.ndarray:
    """By central differences."""
    x = x.astype(np.float64)
    found = np.zeros_like(x)
    for index in np.ndindex(x.shape):
        for sign in (1, -1):
            moved = x.copy()
            moved[index] += sign * step
            found[index] += sign * function(moved) / (2 * step)
    return found


@pytest.mark.slow
def test_loss_against_the_formula():
    """Value, accuracy and the gradient of every parameter, 5 pairs and a row of padding."""
    task, params = small_task(**{'loss.temperature': 0.3})
    batch = small_batch()

    def vectors(params):
        return jnp.stack(objectives_sentence.encode_sides(task, params, batch, None))[:, :5]

    step = jax.jit(jax.value_and_grad(lambda params: task.loss(params, batch, None), has_aux=True))
    (loss, sums), found = step(params)
    both = np.asarray(jax.jit(vectors)(params))
    expected, accuracy = info_nce(*both, 0.3)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    np.testing.assert_allclose(sums['loss_contrast'], (5 * expected, 5), rtol=1e-5)
    np.testing.assert_allclose(sums['acc_contrast'], (5 * accuracy, 5), rtol=1e-6)
    np.testing.assert_allclose(task.total_loss({'loss_contrast': 2.0}), 2.0)
    of_vectors = gradient(lambda both: info_nce(*both, 0.3)[0], both).astype(np.float32)
    backwards = jax.jit(lambda params, of_vectors: jax.vjp(vectors, params)[1](of_vectors)[0])
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, atol=1e-5), found, backwards(params, of_vectors)
    )


@pytest.mark.parametrize('rates', [(0.1, 0.1, 0.0), (0.0, 0.0, 0.5)])
def test_dropout_tells_two_equal_sides_apart(rates):
    """Dropout of elements, or drophead alone; the same key gives the same vectors."""
    names = ('model.dropout', 'model.attention_dropout', 'model.drophead')
    task, params = small_task(**dict(zip(names, rates)), **{'model.num_heads': 8})
    batch = small_batch(padding=0)
    batch |= {f'other_{name}': batch[f'char_{name}'] for name in ('ids', 'segments')}
    sides = jax.jit(lambda key: objectives_sentence.encode_sides(task, params, batch, key))
    a, b = sides(jax.random.key(0))
    assert (np.abs(a - b).max(axis=1) > 1e-3).all()
    np.testing.assert_array_equal(sides(jax.random.key(0)), (a, b))
    assert (np.abs(sides(jax.random.key(1))[0] - a).max(axis=1) > 1e-3).all()


@pytest.mark.slow
@pytest.mark.parametrize('pooling', ['mean', 'cls'])
def test_padding_changes_no_vector(pooling):
    task, params = small_task(**{'model.pooling': pooling})
    batch = small_batch(padding=0)
    wider = {
        name: np.pad(value, ((0, 3), (0, 4)) if value.ndim == 2 else (0, 3), constant_values=0)
        for name, value in batch.items()
    }
    step = jax.jit(task.evaluate)
    np.testing.assert_allclose(
        step(params, batch)[1]['vectors'], step(params, wider)[1]['vectors'][:5], atol=1e-6
    )
    loss = jax.jit(lambda batch: task.loss(params, batch, None)[0])
    np.testing.assert_allclose(loss(batch), loss(wider), rtol=1e-6)


# ---- SimCSE and ConSERT ----


@pytest.mark.slow
def test_simcse_is_the_cross_entropy_between_the_sides():
    """Negatives are the other side's texts alone, and the vectors go through a dense layer and tanh; both
    directions, where the authors take one."""
    task, params = small_task(**config_file.RELATIVES['simcse'])
    batch = small_batch()
    loss, sums = jax.jit(lambda params: task.loss(params, batch, None))(params)
    plain = jax.jit(lambda params: objectives_sentence.encode_sides(task, params, batch, None))(params)
    dense = params['char_encoder']['pooler.dense']
    a, b = (np.tanh(np.asarray(side)[:5] @ dense['kernel'] + dense['bias']) for side in plain)
    a, b = (side / np.linalg.norm(side, axis=1, keepdims=True) for side in (a, b))
    scores = torch.tensor(a @ b.T / 0.05)
    labels = torch.arange(5)
    both = [torch.nn.functional.cross_entropy(x, labels) for x in (scores, scores.T)]
    np.testing.assert_allclose(loss, np.mean(both), rtol=1e-4)
    assert sums['loss_contrast'][1] == 5
    # To evaluate, the vector of [CLS] as it is.
    out = jax.jit(task.evaluate)(params, batch)[1]['vectors']
    np.testing.assert_allclose(out, plain[0], atol=1e-6)


@pytest.mark.slow
def test_consert_cuts_features_of_one_side_and_shuffles_positions_of_the_other():
    dropped = {'model.dropout': 0.0, 'model.attention_dropout': 0.0}
    task, params = small_task(**config_file.RELATIVES['consert'] | dropped)
    batch = small_batch(padding=0)
    batch |= {f'other_{name}': batch[f'char_{name}'] for name in ('ids', 'segments')}
    order = np.tile(np.arange(8, dtype=np.int32), (5, 1))
    order[:, :3] = [2, 0, 1]
    batch['other_positions'] = order

    def sides(key, batch):
        cutoff = task.feature_cutoff
        return objectives_sentence.encode_sides(task, params, batch, key, feature_cutoff=cutoff)

    first, second = jax.jit(sides)(jax.random.key(0), batch)
    ids, segments = batch['char_ids'], batch['char_segments']
    vectors = jax.jit(lambda *more: task.model.apply({'params': params}, ids, segments, None, *more))
    np.testing.assert_allclose(second, vectors(order), atol=1e-5)
    plain = vectors()
    assert (np.abs(second - plain).max(1) > 1e-4).all() and (np.abs(first - plain).max(1) > 1e-4).all()
    keys = dropout.row_seeds(jax.random.key(0), 10)
    kept = np.asarray(
        dropout.keep((5, 32), 0.2, dropout.seeds_at(keys[::2], objectives_sentence.CUTOFF_SITE))
    )
    np.testing.assert_allclose(first, vectors(None, kept), atol=1e-5)
    assert 0.6 < kept.mean() < 0.95
    # Without a key nothing is cut off.
    np.testing.assert_allclose(jax.jit(lambda: sides(None, batch))()[0], plain, atol=1e-5)
    loss = jax.jit(lambda key: task.loss(params, batch, key)[0])(jax.random.key(0))
    np.testing.assert_allclose(loss, info_nce(np.asarray(first), np.asarray(second), 0.1)[0], rtol=1e-5)


def test_shuffled_positions_are_those_of_the_text():
    """Of its tokens, [CLS] and [SEP] too; what is padding keeps its place; a function of seed, epoch, row."""
    split = finetuning_mirror_bert.Mirrored(
        ['一' * 6, '丁', '七' * 3], VOCABULARY, 12, finetuning_mirror_bert.Masks(0), shuffle=True
    )

    def positions(rows, **which):
        planned = buckets.Planned(10, np.array(rows), **which)
        return split.targets(planned, 4)['other_positions']

    found = positions([0, 1, 2])
    assert found.dtype == np.int32 and found.shape == (4, 10)
    for row, length in zip(found, (8, 3, 5, 0)):
        assert sorted(row[:length]) == list(range(length)) and row[length:].tolist() == [*range(length, 10)]
    np.testing.assert_array_equal(positions([2])[0], found[2])
    assert any((positions([0], epoch=epoch)[0] != found[0]).any() for epoch in (1, 2))


@pytest.mark.slow
@pytest.mark.parametrize(('variant', 'card'), [('simcse', 'SimCSE'), ('consert', 'ConSERT')])
def test_a_relative_from_text_to_vectors(tmp_path, variant, card):
    config = mirror_config(tmp_path, variant, num_epochs=1.0, **{'data.max_strings': 20, 'data.test': ''})
    results = go(config, tmp_path / 'run')
    assert {'before', 'best', 'last'} == results['mean']['validation'].keys()
    folder = bert_folder.export(tmp_path / 'run', tmp_path / 'hf')
    assert card in (folder / 'README.md').read_text('utf-8')
    encoder = Encoder.load(folder)
    pairs = [line.split('\t')[:2] for line in (tmp_path / 'dev.tsv').read_text('utf-8').splitlines()]
    a, b = (encoder.encode([pair[side] for pair in pairs], normalize=True) for side in (0, 1))
    predictions = (tmp_path / 'run' / 'predictions.json').read_text('utf-8').splitlines()
    cosines = [json.loads(line)['cosine'] for line in predictions]
    np.testing.assert_allclose((a * b).sum(1), cosines, atol=1e-5)


# ---- from end to end ----


def mirror_config(folder: Path, variant: str = 'sentence', /, **changes) -> ConfigDict:
    """`configs/mirror.py` on 40 texts in `folder`, judged on pairs whose score is how many
    characters they share."""
    rng = np.random.default_rng(0)
    words = [''.join(row) for row in rng.choice(finetuned.CHARACTERS, (40, 8))]
    (folder / 'train.txt').write_text('\n'.join([*words, words[0]]) + '\n', encoding='utf-8')
    pairs = [(a, b[:4] + a[: int(n)], n) for a, b, n in zip(words, words[1:], rng.integers(0, 5, 40))]
    (folder / 'dev.tsv').write_text(''.join(f'{a}\t{b}\t{n}\n' for a, b, n in pairs), encoding='utf-8')
    # Two sets to test on; in the second people say the contrary.
    (folder / 'same.tsv').write_text(''.join(f'{a}\t{b}\t{n}\n' for a, b, n in pairs[:20]), encoding='utf-8')
    (folder / 'not.tsv').write_text(''.join(f'{a}\t{b}\t{-n}\n' for a, b, n in pairs[20:]), encoding='utf-8')
    config = config_file.get_config(variant)
    files = {'data.train': str(folder / 'train.txt'), 'data.dev': str(folder / 'dev.tsv')}
    files |= {'data.test': f'{folder}/same.tsv,{folder}/not.tsv'}
    files |= {'data.vocab': str(finetuned.write_vocab(folder)), 'data.max_length': 16}
    config.update_from_flattened_dict(finetuned.SIZES | files | changes)
    return config


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """(config, workdir, results) of 30 steps, ten epochs over 38 of 40 texts."""
    folder = tmp_path_factory.mktemp('mirror')
    config = mirror_config(folder, num_epochs=10.0, eval_every=15, **{'data.max_strings': 38})
    return config, folder / 'run', go(config, folder / 'run')


@pytest.mark.slow
def test_before_and_after(trained):
    config, workdir, results = trained
    init_state.check(config)
    found = results['per_seed'][0]['validation']
    assert results == json.loads((workdir / 'results.json').read_text('utf-8'))
    rows = [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text('utf-8').splitlines()]
    held_out = [row for row in rows if row['split'] == 'validation']
    assert [row['step'] for row in held_out] == [0, 15, 30]
    assert found['before'] == {'step': 0, 'spearman': held_out[0]['spearman']}
    assert found['best'] == found['last'] == {'step': 30, 'spearman': held_out[-1]['spearman']}
    assert found['last']['spearman'] > 0.3
    losses = [row['loss'] for row in rows if row['split'] == 'train']
    assert losses[-1] < losses[0]
    text = jobs._after_fine_tuning('configs/mirror.py:sentence', workdir, results, config)
    assert 'validation, before: spearman' in text
    assert f'or: python -m clower_jax.encode --model {workdir} --input' in text and 'predict' not in text


@pytest.mark.slow
def test_a_figure_that_got_worse_is_named(trained):
    """Of two sets at once, each by itself and their mean, before and after."""
    config, workdir, results = trained
    (first,) = (row for row in metrics_file.read_metrics(workdir / 'metrics.jsonl') if row['split'] == 'test')
    before, after = results['mean']['test']['before'], results['mean']['test']['last']
    assert before.keys() == after.keys() == {'spearman', 'spearman_same', 'spearman_not'}
    assert {name: first[name] for name in before} == before and first['step'] == 0
    assert after['spearman'] == pytest.approx((after['spearman_same'] + after['spearman_not']) / 2)
    worse = [name for name in before if after[name] < before[name]]
    text = jobs._after_fine_tuning('configs/mirror.py:sentence', workdir, results, config)
    (line,) = (line for line in text.splitlines() if line.startswith('Worse than before training: '))
    assert [
        part.split()[-4] for part in line.split(';') if 'test' in part
    ] == worse and 'spearman_same' in worse
    assert f'test spearman_same {before["spearman_same"]:.4f} → {after["spearman_same"]:.4f}' in line
    losses = {
        'mean': {'validation': {'before': {'loss': 1.0, 'acc': 0.5}, 'last': {'loss': 1.1, 'acc': 0.6}}}
    }
    metrics = mirror_bert.Mirror.metrics
    assert finetune.find_regressions(losses, metrics) == ['validation loss 1.0000 → 1.1000']
    unmeasured = {'mean': {'test': {'best': {'acc': 0.5}, 'last': {'acc': 0.4}}}}
    assert finetune.find_regressions(unmeasured, metrics) == []


@pytest.mark.slow
def test_cut_off_and_gone_on_is_never_cut_off(trained, tmp_path):
    """The evaluation before the first step is not done again."""
    config, workdir, results = trained
    killed_after(20, config, tmp_path / 'cut')
    assert go(config, tmp_path / 'cut') == results
    assert validation_rows(tmp_path / 'cut') == validation_rows(workdir)


@pytest.mark.slow
def test_going_on_with_another_pooling_is_refused(trained):
    config, workdir, _ = trained
    other = copy.deepcopy(config)
    other.num_epochs, other.model.pooling = 20.0, 'cls'
    with pytest.raises(ValueError, match='model.pooling: mean → cls'):
        go(other, workdir)


def test_a_run_that_begins_anew_is_judged_anew(tmp_path):
    """What an earlier run left that was killed before its first checkpoint is not of this one."""
    first = run_log.Writer(tmp_path)
    first.scalars(0, 'validation', {'spearman': 0.1})
    first.close()
    for start_step, kept in ((3, [{'step': 0, 'split': 'validation', 'spearman': 0.1}]), (0, [])):
        again = run_log.Writer(tmp_path, start_step)
        again.close()
        assert metrics_file.read_metrics(tmp_path / 'metrics.jsonl') == kept


@pytest.mark.slow
def test_evaluation_and_prediction(trained, tmp_path):
    """As at the end of training, with the pooling and the length that the model was trained with."""
    config, workdir, results = trained
    config = copy.deepcopy(config)
    config.mode, config.model.pooling = 'evaluate', 'cls'
    found = go(config, workdir)
    assert found['validation']['spearman'] == pytest.approx(results['mean']['validation']['last']['spearman'])
    path = tmp_path / 'new.tsv'
    path.write_text(''.join(f'{a}\t{b}\n' for a, b in zip('一丁七', '丁一七')), encoding='utf-8')
    config.mode, config.data.test, config.data.dev = 'predict', str(path), ''
    assert go(config, workdir) == {'test': {}}
    lines = (workdir / 'predict' / 'predictions.json').read_text('utf-8').splitlines()
    cosines = [json.loads(line)['cosine'] for line in lines]
    assert cosines[2] == pytest.approx(1)
    assert cosines[0] == pytest.approx(cosines[1]) and cosines[0] < 0.999


@pytest.mark.slow
def test_sides_that_do_not_differ_are_refused(trained):
    config = copy.deepcopy(trained[0])
    config.update_from_flattened_dict(
        {
            'data.mask_span': 0,
            **{f'model.{name}': 0.0 for name in ('dropout', 'attention_dropout', 'drophead')},
        }
    )
    with pytest.raises(ValueError, match='both sides of every pair are the same'):
        mirror_bert.Mirror.from_config(config)


@pytest.mark.slow
def test_exported_vectors_are_transformers(trained, tmp_path):
    """The Python in the model card, on texts of different lengths, gives the vectors that were judged."""
    config, workdir, _ = trained
    folder = bert_folder.export(workdir, tmp_path / 'encoder')
    card = (folder / 'README.md').read_text('utf-8')
    assert 'Mirror-BERT' in card and 'CLOWER model' not in card and '| `model.pooling` | mean |' in card
    texts = ['一丁七', '一丁七万丈三上下']
    found: list[dict] = []
    for block in card.split('```python\n')[1:]:
        code = block.split('```')[0].replace("'encoder'", repr(str(folder)))
        found.append({})
        exec(code.replace("['今天天气很好。', '天气真不错。']", repr(texts)), found[-1])
    config, vocabulary = resolve_source(with_trained_settings(config, workdir), workdir)
    config, _ = data.prepare(config, vocabulary)
    evaluator = evaluate.Evaluator.from_config(config)
    rows = sentences.single_rows(texts, vocabulary, 16).batch(buckets.Planned(16, np.arange(2)), 2)
    vectors = evaluator.objective.evaluate(finetune.restore(workdir, evaluator), rows)[1]['vectors']
    assert 'SentenceTransformer' in found[0] and 'AutoModel' in found[1]
    for names in found:
        np.testing.assert_allclose(np.asarray(names['vectors']), vectors, atol=1e-5)


@pytest.mark.slow
def test_fine_tuning_from_an_encoder(trained, tmp_path):
    """A classifier takes all of the encoder; the pooler, which no vector depends on, and the head are new."""
    _, workdir, _ = trained
    config = finetuned.classify_config(tmp_path, init_from=str(workdir))
    config, vocabulary = resolve_source(config, tmp_path / 'run')
    config, _ = data.prepare(config, vocabulary)
    params = jax.tree.map(np.asarray, registry.from_config(config).init(jax.random.key(0)))
    params = jax.device_put(params, jax.devices()[0])
    loaded, report = init_weights.load_initial(params, workdir, vocabulary, 2, config.data.labels)
    assert sorted(report.random) == [
        f'{module}/{leaf}'
        for module in ('char_encoder/pooler.dense', 'classifier')
        for leaf in ('bias', 'kernel')
    ]
    assert not report.unused
    with Checkpoints(workdir, read_only=True) as checkpoints:
        saved = checkpoints.load_params()
    found = flax.traverse_util.flatten_dict(loaded, sep='/')
    for path, value in saved.items():
        np.testing.assert_array_equal(found[path], value)


@pytest.mark.parametrize(
    ('key', 'value'),
    [
        ('model.pooling', 'max'), ('model.drophead', 1.0), ('data.mask_span', -1), ('data.max_strings', 0),
        ('data.evaluation', 'loss'), ('optim.schedule', 'exponential'), ('model.feature_cutoff', 1.0),
    ],
)  # fmt: skip
def test_settings_that_no_data_could_make_good(tmp_path, key, value):
    with pytest.raises(ValueError, match=key):
        init_state.check(mirror_config(tmp_path, **{key: value}))


def test_recipes_are_the_authors():
    """mirror_scripts/ of their code: pooling, dropout, temperature, epochs; a constant rate without warm-up,
    no clipping (torch's AdamW as it is)."""
    sentence, word = (config_file.get_config(name) for name in ('sentence', 'word'))
    for config, expected in ((sentence, ('mean', 50, 0.04, 1.0)), (word, ('cls', 25, 0.2, 2.0))):
        found = (config.model.pooling, config.data.max_length, config.loss.temperature, config.num_epochs)
        assert found == expected
        assert (config.batch_size, config.optim.learning_rate, config.optim.weight_decay) == (200, 2e-5, 0.01)
        assert (config.optim.schedule, config.optim.clip_norm, config.optim.warmup_fraction) == (
            'constant', 0, 0,
        )  # fmt: skip
        assert (config.model.dropout, config.model.attention_dropout, config.model.drophead) == (0.1, 0.1, 0)
    assert (sentence.data.latin_mask_span, sentence.data.latin_mask_shortest) == (5, 30)
    assert (sentence.data.mask_span, sentence.data.mask_shortest) == (
        5,
        10,
    )  # docs/results/archive/mirror_cpu
    assert word.data.mask_span == word.data.latin_mask_span == 0
    for name in ('sentence', 'word'):
        config, plain = config_file.get_config(f'{name},drophead'), config_file.get_config(name)
        config, plain = (config_checks.flatten(json.loads(one.to_json())) for one in (config, plain))
        assert {key: config[key] for key in config if config[key] != plain[key]} == {
            'model.dropout': 0.0, 'model.attention_dropout': 0.0, 'model.drophead': 0.2,
        }  # fmt: skip
    for name in ('', 'drophead', 'sentence,word', 'simcse,drophead'):
        with pytest.raises(ValueError, match='variants sentence, sentence,drophead, word'):
            config_file.get_config(name)


def test_the_relatives_are_their_authors():
    """run_unsup_example.sh and the README of SimCSE (BERT-base), scripts/chinese of ConSERT."""
    simcse, consert = map(config_file.get_config, ('simcse', 'consert'))
    for config, expected in (
        (simcse, ('cls', 32, 0.05, 64, 3e-5, 0.0, 1.0)),
        (consert, ('mean', 64, 0.1, 96, 5e-7, 0.1, 10.0)),
    ):
        optim = config.optim
        found = (config.model.pooling, config.data.max_length, config.loss.temperature, config.batch_size)
        assert (*found, optim.learning_rate, optim.warmup_fraction, config.num_epochs) == expected
        assert (optim.schedule, optim.clip_norm, config.data.mask_span) == ('linear', 1.0, 0)
        assert config.model.dropout == config.model.attention_dropout == 0.1
    assert simcse.model.projection and not simcse.loss.within
    assert consert.loss.within and not consert.model.projection


@pytest.mark.slow
def test_the_rate_is_constant_from_the_first_step(trained):
    rows = metrics_file.read_metrics(trained[1] / 'metrics.jsonl')
    np.testing.assert_allclose([row['lr'] for row in rows if row['split'] == 'train'], 3e-3)
