"""AMBERT and LICHEE: their networks against BERTs called by hand, LICHEE's words against loops."""

import copy

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clower_jax.models.bert import BertEncoder, EncoderConfig
from clower_jax.models.finetuned import pool_tokens
from clower_jax.objectives.pretraining import Pretrain
from clower_jax.objectives.registry import from_config
from clower_jax.objectives.supervised import Classify
from configs import pretrain
from helpers import synthetic
from helpers.masking import MASK, VOCABULARY, lay_out, padded, ragged, random_records, unmask
from helpers.masking import run as make_batch
from helpers.tasks import shallow_config
from input_pipeline.pretraining import baseline_masks, masking, packing
from input_pipeline.text import constants
from input_pipeline.utils.tensorflow import tf

TOLERANCE = {'rtol': 1e-5, 'atol': 1e-5}
PLAIN = masking.Recipe(views=('char',), anchors=False)
LICHEE = PLAIN._replace(inputs=baseline_masks.CharactersWithWords())


def task_of(system, **changes):
    return Pretrain.from_config(shallow_config(**pretrain.SYSTEMS[system] | changes))


def batch_of():
    return list(synthetic.batches(shallow_config(), split='validation'))[-1]


def loss_of(task, batch):
    return lambda params: task.loss(params, batch, None)


def differs(a, b):
    return np.abs(np.asarray(a) - np.asarray(b)).max()


# ---- AMBERT ----


@pytest.fixture(scope='module')
def ambert():
    """Parameters of an AMBERT, and a batch with padding."""
    return synthetic.random_params(task_of('ambert')), batch_of()


def as_bert(params, batch, view):
    """What AMBERT has of a view, and that view of the batch, under the names of a BERT of characters."""
    embeddings = params['embeddings' if view == 'char' else 'coarse_embeddings']
    heads = {f'char_{head}': params[f'{view}_{head}'] for head in ('mlm', 'sop')}
    batch = {
        name.replace(f'{view}_', 'char_'): batch[name] for name in batch if name.startswith(f'{view}_')
    } | {'sop_labels': batch['sop_labels']}
    return {'embeddings': embeddings, 'char_encoder': params['char_encoder'], **heads}, batch


def bert_of(view):
    """A BERT with as many tokens as AMBERT's view has."""
    rows = {'char': synthetic.BASE_SIZE, 'word': synthetic.VOCAB_SIZE}[view]
    return task_of('bert_wwm_sop', **{'model.vocab_size': rows, 'loss.sop_on': 'char'})


@pytest.mark.slow
def test_ambert_is_one_bert_on_two_tables(ambert):
    """Loss and gradient: the sum of two BERTs' MLM and the mean of their sentence order; what reads both
    views gets the sum of both gradients, each embedding layer and head that of its own."""
    params, batch = ambert
    shapes = {
        name: params[name]['word_embeddings']['embedding'].shape[0] for name in params if 'embed' in name
    }
    assert shapes == {'embeddings': synthetic.BASE_SIZE, 'coarse_embeddings': synthetic.VOCAB_SIZE}
    assert 'word_encoder' not in params
    task = task_of('ambert')
    (loss, sums), grads = jax.jit(jax.value_and_grad(loss_of(task, batch), has_aux=True))(params)
    expected, in_encoder = 0.0, []
    for view in ('char', 'word'):
        its, its_batch = as_bert(params, batch, view)
        # Its sentence order counts half.
        bert = bert_of(view)
        bert = Pretrain(**{**vars(bert), 'sop_weight': 0.5})
        (one, one_sums), one_grads = jax.jit(jax.value_and_grad(loss_of(bert, its_batch), has_aux=True))(its)
        expected += one
        np.testing.assert_allclose(sums[f'loss_mlm_{view}'], one_sums['loss_mlm_char'], **TOLERANCE)
        mine, _ = as_bert(grads, batch, view)
        in_encoder.append(one_grads.pop('char_encoder'))
        for name, grad in one_grads.items():
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **TOLERANCE), mine[name], grad)
            assert max(np.abs(x).max() for x in jax.tree.leaves(grad)) > 1e-3, name
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    jax.tree.map(
        lambda a, b, c: np.testing.assert_allclose(a, b + c, rtol=1e-4, atol=1e-5),
        grads['char_encoder'], *in_encoder,
    )  # fmt: skip


@pytest.mark.slow
def test_ambert_drops_other_elements_of_each_view(ambert):
    """The same text in both views, the same tables: with dropout the vectors differ, without they do not."""
    params, batch = ambert
    rows = params['coarse_embeddings']
    rows = rows | {
        'word_embeddings': {'embedding': rows['word_embeddings']['embedding'][: synthetic.BASE_SIZE]}
    }
    model = task_of('ambert', **{'model.dropout': 0.5, 'model.vocab_size': synthetic.BASE_SIZE}).model
    params = {**params, 'embeddings': rows, 'coarse_embeddings': rows}
    ids, segments = batch['char_ids'], batch['char_segments']

    def encode(view, keys):
        return model.apply({'params': params}, view, ids, segments, dropout_seeds=keys, method='encode')

    keys = jnp.arange(2 * len(ids), dtype=jnp.uint32).reshape(-1, 2)
    assert differs(encode('char', None), encode('word', None)) == 0
    assert differs(encode('char', keys), encode('word', keys)) > 0.1


def classifier_of(kind, **changes):
    config = shallow_config(**{'task': 'classify', 'model.kind': kind} | changes)
    config.data.labels = ('a', 'b', 'c')
    task = from_config(config)
    assert isinstance(task, Classify)
    return task


@pytest.mark.slow
@pytest.mark.parametrize('classify_from', ['pooler', 'cls', 'mean'])
def test_ambert_classifies_by_both_views(ambert, classify_from):
    chosen = {'model.classify_from': classify_from}
    task, (_, batch) = classifier_of('ambert', **chosen), ambert
    params = synthetic.random_params(task)
    batch = batch | {'labels': np.arange(8) % 3, 'example': np.arange(8)}
    logits = task.evaluate(params, batch)[1]['logits']
    vectors = []
    for view, embeddings in (('char', 'embeddings'), ('word', 'coarse_embeddings')):
        its = {'embeddings': params[embeddings], 'char_encoder': params['char_encoder']}
        model = bert_of(view).model
        ids, segments = batch[f'{view}_ids'], batch[f'{view}_segments']
        hidden = model.apply({'params': its}, 'char', ids, segments, method='encode')
        if classify_from == 'pooler':
            vectors.append(model.apply({'params': its}, 'char', hidden[:, 0], method='pool'))
        else:
            vectors.append(pool_tokens(hidden, ids, classify_from))
    head = params['classifier']
    expected = np.concatenate(vectors, 1) @ head['kernel'] + head['bias']
    np.testing.assert_allclose(logits, expected, **TOLERANCE)
    dropping = classifier_of('ambert', **chosen, **{'model.dropout': 0.5})
    loss, _ = dropping.loss(params, batch, jax.random.key(0))
    assert np.isfinite(loss) and loss != dropping.loss(params, batch, None)[0]


# ---- LICHEE ----


def with_words(batch):
    """A batch whose characters have words, drawn at random; [MASK] where they are to be predicted."""
    rng = np.random.default_rng(1)
    words = np.where(batch['char_ids'] > 0, rng.integers(5, synthetic.VOCAB_SIZE, batch['char_ids'].shape), 0)
    words[batch['char_ids'] == synthetic.MASK] = synthetic.MASK
    return batch | {'char_words': words.astype(np.int32)}


@pytest.fixture(scope='module')
def lichee():
    return synthetic.random_params(task_of('lichee')), with_words(batch_of())


def by_hand(params, batch):
    """LICHEE's last hidden states, its input as the paper's formula has it."""
    tables = {name: params['embeddings'][f'{name}_embeddings']['embedding'] for name in ('word', 'position')}
    segments = params['embeddings']['token_type_embeddings']['embedding'][batch['char_segments']]
    x = np.maximum(tables['word'][batch['char_ids']], tables['word'][batch['char_words']])
    x = np.float64(x + tables['position'][: x.shape[1]] + segments)
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-12)
    norm = params['embeddings']['LayerNorm']
    encoder = BertEncoder(EncoderConfig.from_config(shallow_config().model), jnp.float32)
    attends = (batch['char_ids'] != 0)[:, None, :]
    x = np.float32(x * norm['scale'] + norm['bias'])
    return encoder.apply({'params': params['char_encoder']}, x, attends, None), encoder


@pytest.mark.slow
def test_lichee_reads_the_larger_of_two_rows(lichee):
    params, batch = lichee
    hidden, _ = by_hand(params, batch)
    out = task_of('lichee').model.apply({'params': params}, batch)
    assert out.keys() == {'char'}
    real = batch['char_ids'] > 0
    np.testing.assert_allclose(out['char']['hidden'][real], hidden[real], **TOLERANCE)


@pytest.mark.slow
def test_lichee_classifies_from_cls(lichee):
    _, batch = lichee
    task = classifier_of('lichee', **{'model.classify_from': 'cls'})
    params = synthetic.random_params(task)
    batch = batch | {'labels': np.zeros(8, int), 'example': np.arange(8)}
    head, hidden = params['classifier'], by_hand(params, batch)[0]
    expected = hidden[:, 0] @ head['kernel'] + head['bias']
    np.testing.assert_allclose(task.evaluate(params, batch)[1]['logits'], expected, **TOLERANCE)


@pytest.mark.slow
def test_lichee_with_a_head(lichee):
    _, batch = lichee
    task = classifier_of('lichee')
    params = synthetic.random_params(task)
    batch = batch | {'labels': np.zeros(8, int), 'example': np.arange(8), 'span': np.zeros((8, 2), int)}
    logits = task.evaluate(params, batch)[1]['logits']
    hidden, encoder = by_hand(params, batch)
    pooled = encoder.apply({'params': params['char_encoder']}, hidden[:, 0], method='pool')
    head = params['classifier']
    np.testing.assert_allclose(logits, pooled @ head['kernel'] + head['bias'], **TOLERANCE)
    finder = from_config(shallow_config(**{'task': 'span', 'model.kind': 'lichee'}))
    params = synthetic.random_params(finder)
    out = finder.evaluate(params, batch)[1]
    hidden, head = by_hand(params, batch)[0], params['qa_outputs']
    expected, real = hidden @ head['kernel'] + head['bias'], batch['char_ids'] > 0
    for part, name in enumerate(('start_logits', 'end_logits')):
        np.testing.assert_allclose(out[name][real], expected[..., part][real], **TOLERANCE)


@pytest.mark.slow
def test_lichees_gradient_reaches_the_rows_of_characters_and_of_words(lichee):
    """Of words through what is read alone: they are no candidates."""
    params, batch = lichee
    task = task_of('lichee', **{'loss.mlm_candidates': 'branch'})
    grads = jax.jit(jax.grad(loss_of(task, batch), has_aux=True))(params)[0]
    rows = grads['embeddings']['word_embeddings']['embedding']
    reached = np.abs(rows).max(1) > 1e-5
    words = np.unique(batch['char_words'][batch['char_words'] >= synthetic.BASE_SIZE])
    assert reached[words].all() and not reached[np.setdiff1d(np.arange(40, 60), words)].any()
    assert reached[5:40].all()


# ---- LICHEE's words ----


@pytest.mark.parametrize('swap', [True, False])
def test_words_of_characters(swap):
    """Each character's word, its own row in a word that has none; [MASK] where it is to be predicted."""
    records = random_records(3, 60)
    batch = make_batch(records, recipe=LICHEE._replace(swap=swap))
    plain = make_batch(records, recipe=PLAIN._replace(swap=swap))
    assert batch.keys() - plain.keys() == {'char_words'}
    for name in plain:
        np.testing.assert_array_equal(batch[name], plain[name])
    masked = 0
    for b, record in enumerate(records):
        found = 0
        for boundary in range(1, len(record['sentence_words'])):
            chars, words, *_, starts, _ = lay_out(record, boundary, batch['sop_labels'][b], VOCABULARY)
            segment_1 = int(batch['char_segments'][b].sum())
            if padded(chars, 64) != unmask(batch, 'char', b):
                continue
            expected = np.array(padded(chars, 64))  # special tokens stand for themselves
            for word, char, length in starts:
                expected[char : char + length] = words[word]
            places = batch['char_mlm_positions'][b][batch['char_mlm_labels'][b] != constants.IGNORED_LABEL]
            expected[places] = MASK
            if np.array_equal(expected, batch['char_words'][b]):
                found, masked = found + 1, masked + len(places)
            assert segment_1 > 0
        assert found, b
    assert masked > 200


def test_the_word_of_a_masked_character_is_not_told():
    """Other words of as many characters where characters are masked: LICHEE sees no difference."""
    records = random_records(5, 40)
    before = make_batch(records, recipe=LICHEE._replace(swap=False))
    changed = 0
    others = copy.deepcopy(records)
    for b, record in enumerate(others):
        masked = set(
            before['char_mlm_positions'][b][before['char_mlm_labels'][b] != constants.IGNORED_LABEL].tolist()
        )
        first_of_second = int(before['char_segments'][b].argmax())
        ends = np.cumsum(record['word_char_len'])
        for word, end in enumerate(ends):
            start = int(end) - record['word_char_len'][word] + 1
            start += start >= first_of_second - 1  # [SEP]
            if record['word_char_len'][word] > 1 and masked >= {
                *range(start, start + record['word_char_len'][word])
            }:
                record['word_ids'][word] = 299 if record['word_ids'][word] != 299 else 298
                changed += 1
    assert changed > 40
    after = make_batch(others, recipe=LICHEE._replace(swap=False))
    for name, value in before.items():
        np.testing.assert_array_equal(value, after[name], err_msg=name)


def test_packed_words_are_those_of_the_texts():
    records = random_records(8, 6)
    made = make_batch(records, recipe=LICHEE)
    lengths = np.array([[len(r['char_ids']) + 3, len(r['word_ids']) + 3] for r in records])
    widths = packing.Widths(
        chars=200, words=200, texts=4, char_predictions=60, word_predictions=60, anchors=40
    )
    rows = packing.pack(made, lengths, np.array([3, 3]), widths)
    for text_number in range(6):
        row, number = divmod(text_number, 3)
        mine = rows['char_words'][row][rows['char_texts'][row] == number + 1]
        np.testing.assert_array_equal(mine, made['char_words'][text_number, : lengths[text_number, 0]])
    assert (rows['char_words'][rows['char_texts'] == 0] == 0).all()
    batch = masking.make_batch(ragged(records), tf.range(6, dtype=tf.int64), vocabulary=VOCABULARY, seed=1,
                               char_length=64, word_length=48)  # fmt: skip
    assert 'char_words' not in batch
