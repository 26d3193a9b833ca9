"""CMLM: its batches, its loss and gradient against transformers' BERT, what it learns, an export."""

import copy
import json

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
import transformers

from clower_jax import Encoder, jobs, replay
from clower_jax.export.bert_folder import export, state_dict
from clower_jax.interop import hf_bert
from clower_jax.objectives import registry
from clower_jax.objectives.cmlm import Cmlm
from configs import pretrain
from configs import vectors as configs_vectors
from helpers import synthetic
from helpers.batches import make_config, text
from helpers.masking import CLS, SEP, chosen_positions, random_records, run
from helpers.tasks import shallow_config
from input_pipeline.pretraining import baseline_masks, batches, masking, sentence_pairs
from input_pipeline.utils.tensorflow import tf

SYSTEM = pretrain.SYSTEMS['cmlm']
PAIRS = masking.Recipe(views=('char',), anchors=False, swap=False)
RECIPE = PAIRS._replace(inputs=baseline_masks.SecondSentence())
V, D, N = synthetic.BASE_SIZE, 32, 3


# ---- the batch ----


def test_sentences_stand_apart_and_the_second_is_masked():
    records = random_records(21, 60)
    batch = run(records, recipe=RECIPE, mask_rate=0.3)
    pairs = run(records, recipe=PAIRS, mask_rate=0.3)
    assert batch.keys() - {'context_ids'} == pairs.keys()
    predicted = 0
    for b, record in enumerate(records):
        tokens_a = int(pairs['char_segments'][b].argmax()) - 2
        first, second = record['char_ids'][:tokens_a], record['char_ids'][tokens_a:]
        chosen = chosen_positions(batch, 'char', b)
        ids = batch['char_ids'][b].copy()
        ids[chosen] = batch['char_mlm_labels'][b][: len(chosen)]
        for row, sentence in ((batch['context_ids'][b], first), (ids, second)):
            whole = [CLS, *sentence, SEP]
            assert row.tolist() == whole + [0] * (64 - len(whole))
        assert not batch['char_segments'][b].any() and batch['sop_labels'][b] == 0
        limit = max(1, round(0.3 * len(second)))
        assert len(chosen) <= limit
        predicted += len(chosen)
        ends = np.cumsum(record['word_char_len'])[np.cumsum(record['whole_word_tokens']) - 1] - tokens_a
        spans = [range(max(start, 0), end) for start, end in zip([-tokens_a, *ends[:-1]], ends, strict=True)]
        places = {int(place) - 1 for place in chosen}
        assert all(places.isdisjoint(span) or places.issuperset(span) for span in spans)
        assert all(len(span) > limit - len(places) for span in spans if span and places.isdisjoint(span))
    assert predicted > 300


def test_second_alone_where_a_row_is_full():
    segments = tf.constant([[0, 0, 0, 1, 1, 1]])
    alone = sentence_pairs.second_alone(tf.constant([[2, 10, 3, 11, 12, 3]]), segments)
    assert alone.numpy().tolist() == [[2, 11, 12, 3, 0, 0]]
    alone = sentence_pairs.second_alone(tf.constant([[False, True, False, True, True, True]]), segments)
    assert alone.numpy().tolist() == [[False, True, True, True, False, False]]


# ---- the loss ----


def task_of(**changes) -> Cmlm:
    sizes = {'loss.cmlm_vectors': N, 'model.vocab_size': V}
    return registry.from_config(shallow_config(**SYSTEM | sizes | changes))


@pytest.fixture(scope='module')
def batch():
    """Three pairs of sentences and a row of padding."""
    rng = np.random.default_rng(2)

    def rows(lengths, width):
        real = np.arange(width) < np.array(lengths)[:, None]
        return np.where(real, rng.integers(5, V, real.shape), 0).astype(np.int32)

    ids = rows([9, 6, 4, 0], 9)
    return {
        'context_ids': rows([7, 3, 5, 0], 7),
        'char_ids': ids,
        'char_segments': np.zeros_like(ids),
        'char_mlm_positions': np.array([[1, 5], [3, 0], [1, 2], [0, 0]], np.int32),
        'char_mlm_labels': np.array([[9, 30], [12, -100], [7, 39], [-100, -100]], np.int32),
        'sop_labels': np.array([0, 0, 0, -1], np.int32),
    }


@pytest.fixture(scope='module')
def params():
    return synthetic.random_params(task_of())


def torch_loss(params, batch):
    """The mean MLM loss out of transformers' BERT, run on A and then, vectors in front, on B; gradients."""
    config = transformers.BertConfig(
        vocab_size=V, hidden_size=D, num_hidden_layers=1, num_attention_heads=4, intermediate_size=64,
        max_position_embeddings=32, attn_implementation='eager',
    )  # fmt: skip
    bert = transformers.BertForMaskedLM(config).eval()
    flat = flax.traverse_util.flatten_dict(params, sep='/')
    tensors = state_dict({k: v for k, v in flat.items() if not k.startswith('projection')}, V)
    missing = bert.load_state_dict({k: torch.tensor(v) for k, v in tensors.items()}, strict=False)
    assert not missing.unexpected_keys
    bert.tie_weights()
    kernel = torch.tensor(params['projection']['kernel'], requires_grad=True)
    real = batch['char_ids'][:, 0] != 0
    context, ids = (torch.tensor(batch[name][real]).long() for name in ('context_ids', 'char_ids'))
    hidden = bert.bert(context, (context != 0).long()).last_hidden_state
    weights = (context != 0).float()
    pooled = (hidden * weights[..., None]).sum(1) / weights.sum(1, keepdim=True)
    vectors = (pooled @ kernel + torch.tensor(params['projection']['bias'])).view(len(ids), N, D)
    x = torch.cat([vectors, bert.bert.embeddings(ids)], 1)
    seen = torch.cat([torch.ones(len(ids), N), (ids != 0).float()], 1)[:, None, None]
    for layer in bert.bert.encoder.layer:
        x = layer(x, (1 - seen) * torch.finfo(torch.float32).min)
        x = x[0] if isinstance(x, tuple) else x
    logits = bert.cls(x[:, N:])
    labels = torch.tensor(batch['char_mlm_labels'][real]).long()
    places = torch.tensor(batch['char_mlm_positions'][real]).long()[..., None].expand(-1, -1, V)
    chosen = logits.gather(1, places)[labels >= 0]
    loss = torch.nn.functional.cross_entropy(chosen, labels[labels >= 0])
    loss.backward()
    table = bert.bert.embeddings.word_embeddings.weight.grad
    query = bert.bert.encoder.layer[0].attention.self.query.weight.grad.T
    return loss.item(), {
        'projection/kernel': kernel.grad,
        'embeddings/word_embeddings/embedding': table,
        'char_encoder/encoder.layer.0/attention.self.query/kernel': query,
    }


@pytest.mark.slow
def test_loss_and_gradient_are_those_of_transformers(batch, params):
    task = task_of()
    loss_and_gradient = jax.jit(jax.value_and_grad(lambda p: task.loss(p, batch, None), has_aux=True))
    (loss, sums), gradient = loss_and_gradient(params)
    want, gradients = torch_loss(params, batch)
    np.testing.assert_allclose(loss, want, rtol=1e-5)
    assert sums['loss_mlm_char'][1] == 5
    assert float(sums['examples'][0]) == 3 and float(sums['tokens'][0]) == 9 + 6 + 4 + 7 + 3 + 5
    flat = flax.traverse_util.flatten_dict(gradient, sep='/')
    for name, value in gradients.items():
        # Of [PAD] torch has none, as of a constant; ours takes part in nothing either.
        np.testing.assert_allclose(flat[name], value.numpy(), rtol=1e-4, atol=1e-5, err_msg=name)
        assert np.abs(value.numpy()).max() > 1e-3


@pytest.mark.slow
def test_in_parts_and_with_dropout(batch, params):
    whole, parts = (task_of(**{'batch_size': 4, 'microbatches': m}) for m in (1, 2))
    got = [jax.jit(task.loss)(params, batch, None)[0] for task in (whole, parts)]
    np.testing.assert_allclose(*got, rtol=1e-6)
    dropping = task_of(**{'model.dropout': 0.3})
    loss = jax.jit(lambda seed: dropping.loss(params, batch, jax.random.key(seed))[0])
    assert loss(1) == loss(1) != loss(2)


def test_flops_count_both_passes():
    config = shallow_config(**SYSTEM, **{'loss.cmlm_vectors': 1})
    bert = shallow_config(**pretrain.SYSTEMS['bert_wwm'], **{'data.mask_rate': 0.3})
    once, twice = (registry.from_config(c).step_flops(c) for c in (bert, config))
    config.loss.cmlm_vectors = 15
    assert once < twice < 2.1 * once < registry.from_config(config).step_flops(config) * 1.2
    assert twice < registry.from_config(config).step_flops(config)


@pytest.mark.parametrize('sop_on', ['both', 'char'])
def test_there_is_no_order(sop_on):
    with pytest.raises(ValueError, match=f'loss.sop_on={sop_on}, but a model.kind=cmlm'):
        task_of(**{'loss.sop_on': sop_on})


@pytest.mark.slow
def test_it_learns_to_use_the_right_neighbour():
    """A text is one character again and again, its whole second sentence masked: only the vector tells."""
    rows, length = 32, 6

    def draw(rng):
        topic = rng.integers(5, V, (rows, 1))
        context = np.concatenate([np.full((rows, 1), 2), np.repeat(topic, length - 1, 1)], 1)
        masked = np.array([[2, 4, 4, 3]] * rows)
        return {
            'context_ids': context, 'char_ids': masked, 'char_segments': np.zeros_like(masked),
            'char_mlm_positions': np.array([[1, 2]] * rows), 'char_mlm_labels': np.repeat(topic, 2, 1),
            'sop_labels': np.zeros(rows, int),
        }  # fmt: skip

    task = task_of(**{'model.initializer_range': 0.2})
    params = task.init(jax.random.key(0))
    optimizer = optax.adam(1e-2)

    @jax.jit
    def step(params, state, batch):
        gradient = jax.grad(lambda p: task.loss(p, batch, None)[0])(params)
        updates, state = optimizer.update(gradient, state)
        return optax.apply_updates(params, updates), state

    rng = np.random.default_rng(0)
    state = optimizer.init(params)
    for _ in range(80):
        params, state = step(params, state, {k: jnp.asarray(v, jnp.int32) for k, v in draw(rng).items()})
    batch = draw(rng)
    shuffled = batch | {'context_ids': np.roll(batch['context_ids'], 1, axis=0)}
    right, wrong = (task.evaluate(params, b)[0]['acc_mlm_char'] for b in (batch, shuffled))
    assert right[0] / right[1] > 0.95 and wrong[0] / wrong[1] < 0.2


# ---- from end to end ----


@pytest.mark.slow
def test_from_text_to_hugging_face(tmp_path):
    (tmp_path / 'text.txt').write_text(text(range(40)), 'utf-8')
    config = make_config(text=str(tmp_path / '*.txt'), eval_examples=8)
    config.update_from_flattened_dict(SYSTEM)
    config.total_steps, config.optim.warmup_steps = 2, 1
    config.model.update(hidden_size=16, num_layers=1, num_heads=2, intermediate_size=32)
    workdir = tmp_path / 'cmlm'
    jobs.pretraining(jobs.Job(config, 'configs/pretrain.py:cmlm', workdir))
    rows = [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]
    assert {row['split'] for row in rows} == {'train', 'validation'}
    assert all('loss_mlm_char' in row and 'loss_sop' not in row for row in rows)
    batch, tokens = replay.load(workdir, 1)
    assert '  context: [CLS] ' in replay.describe(batch, tokens, 0)
    folder = tmp_path / 'hf'
    export(workdir, folder)
    bert, report = transformers.BertForMaskedLM.from_pretrained(folder, output_loading_info=True)
    assert not report['unexpected_keys'] and not report['missing_keys']
    assert bert.config.num_hidden_layers == 1
    assert 'vector of the sentence before' in (folder / 'README.md').read_text('utf-8')
    assert hf_bert.tensor_name('projection/kernel') == 'projection.weight'

    judged_by_its_mean_vector(workdir, tmp_path)

    packed = copy.deepcopy(config)
    packed.data.pack = True
    with pytest.raises(ValueError, match='model.kind=cmlm reads two sentences apart'):
        batches.resolve(packed, tmp_path)


def judged_by_its_mean_vector(workdir, tmp_path):
    """By similarity and by retrieval, with the mean of the last hidden states, which is what CMLM trains."""
    texts = [text([number]).split('。')[1] for number in range(6)]
    pairs = tmp_path / 'pairs.tsv'
    pairs.write_text(
        ''.join(f'{a}\t{b}\t{n % 4}\n' for n, (a, b) in enumerate(zip(texts, texts[1:]))), 'utf-8'
    )
    config = configs_vectors.get_config('similarity')
    for key, value in (('--config.init_from', str(workdir)), ('--config.data.test', str(pairs))):
        with pytest.raises(ValueError, match=f'give {key}='):
            jobs.vectors(jobs.Job(config, 'configs/vectors.py', tmp_path / 'none'))
        config.update_from_flattened_dict({key.removeprefix('--config.'): value})
    vectors = {pooling: Encoder.load(workdir, pooling).encode(texts) for pooling in ('mean', 'cls')}
    for variant, metrics in (('similarity', {'spearman'}), ('retrieval', {'acc_ab', 'mrr', 'recall_1'})):
        config = configs_vectors.get_config(variant)
        config.init_from, config.data.test = str(workdir), str(pairs)
        said = jobs.vectors(jobs.Job(config, 'configs/vectors.py', tmp_path / variant))
        results = json.loads((tmp_path / variant / 'results.json').read_text('utf-8'))
        assert results['test'].keys() >= metrics and 'results.json' in said
    lines = (tmp_path / 'similarity' / 'predictions.json').read_text('utf-8').splitlines()
    found = np.array([json.loads(line)['cosine'] for line in lines])
    for pooling, expected in vectors.items():
        unit = expected / np.linalg.norm(expected, axis=1, keepdims=True)
        assert np.allclose((unit[:-1] * unit[1:]).sum(1), found, atol=1e-5) == (pooling == 'mean')
