"""AMBERT and LICHEE from text to fine-tuned models: initial weights, the words of labelled texts, jobs."""

import json
from pathlib import Path

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import transformers

from clower_jax import Encoder, jobs
from clower_jax.experiments import figure3
from clower_jax.export.bert_folder import export
from clower_jax.interop import init_weights
from clower_jax.objectives import registry
from clower_jax.training import finetune
from clower_jax.training.inherited_settings import resolve_source, with_trained_settings
from configs import classify, cmrc, mirror, pretrain
from configs import similarity as similarity_config
from helpers import workdirs
from helpers.batches import make_config, text
from helpers.workdirs import BASE, WORDS
from input_pipeline.features import buckets, word_inputs
from input_pipeline.finetuning import data as finetuning_data
from input_pipeline.pretraining import batches
from input_pipeline.text import segmenters
from input_pipeline.text.dual_tokenizer import Tokenizer
from input_pipeline.text.vocabulary import Vocabulary

KINDS = ('ambert', 'lichee')
SUBJECTS = ('老师', '学生', '医生', '农民')
SMALL = {'hidden_size': 16, 'num_layers': 1, 'num_heads': 2, 'intermediate_size': 32, 'max_positions': 64}


# ---- initial weights ----


def load(source, kind, encoder='pretrain'):
    """The parameters of a new run of this kind that starts from `source`, by path, and the report."""
    changes = (
        {'model.kind': kind, 'loss.contrast_on': 'none'} if encoder == 'pretrain' else {'model.kind': kind}
    )
    config = workdirs.config_of(encoder, **changes)
    vocabulary = workdirs.vocabulary()
    config.model.vocab_size, config.model.base_vocab_size = len(vocabulary), vocabulary.base_size
    shapes = jax.eval_shape(registry.from_config(config).init, jax.random.key(0))
    fresh = jax.tree.map(lambda x: jnp.full(x.shape, 7.0), shapes)
    labels = workdirs.LABELS if encoder == 'classify' else None
    params, report = init_weights.load_initial(fresh, source, vocabulary, num_heads=4, labels=labels)
    return flax.traverse_util.flatten_dict(params, sep='/'), report


@pytest.mark.slow
def test_both_embedding_layers_begin_as_those_of_a_bert(tmp_path):
    bert = workdirs.bert(transformers.BertForPreTraining)
    theirs = workdirs.tensors(workdirs.saved(bert, tmp_path))
    params, report = load(tmp_path, 'ambert')
    rows = theirs['bert.embeddings.word_embeddings.weight']
    words = [rows[list(pieces)].mean(0) for pieces in workdirs.vocabulary().pieces()]
    for layer, expected in (('embeddings', rows), ('coarse_embeddings', np.concatenate([rows, words]))):
        np.testing.assert_array_equal(params[f'{layer}/word_embeddings/embedding'], expected)
        for part in ('position', 'token_type'):
            table = theirs[f'bert.embeddings.{part}_embeddings.weight']
            np.testing.assert_array_equal(params[f'{layer}/{part}_embeddings/embedding'], table)
    assert {len(params[f'{view}_mlm/bias']) for view in ('char', 'word')} == {
        len(BASE),
        len(BASE) + len(WORDS),
    }
    assert {path.partition('/')[0] for path in report.random} == {'char_sop', 'word_sop'}
    params, _ = load(tmp_path, 'lichee')
    table = params['embeddings/word_embeddings/embedding']
    np.testing.assert_array_equal(table, np.concatenate([rows, words]))


@pytest.mark.slow
def test_clower_becomes_an_ambert_and_an_ambert_another(tmp_path):
    theirs = workdirs.make(tmp_path / 'clower', 'pretrain')
    params, report = load(tmp_path / 'clower', 'ambert')
    table = 'word_embeddings/embedding'
    np.testing.assert_array_equal(params[f'coarse_embeddings/{table}'], theirs[f'embeddings/{table}'])
    np.testing.assert_array_equal(params[f'embeddings/{table}'], theirs[f'embeddings/{table}'][: len(BASE)])
    assert not report.random and {path.partition('/')[0] for path in report.unused} == {'word_encoder'}
    ambert = {'model.kind': 'ambert', 'loss.contrast_on': 'none'}
    theirs = workdirs.make(tmp_path / 'ambert', 'pretrain', **ambert)
    for task in ('pretrain', 'classify'):
        params, report = load(tmp_path / 'ambert', 'ambert', task)
        for path in params.keys() & theirs.keys():
            np.testing.assert_array_equal(params[path], theirs[path], err_msg=path)
        assert {path.partition('/')[0] for path in report.random} == (
            {'classifier'} if task == 'classify' else set()
        )


@pytest.mark.slow
def test_a_fine_tuned_ambert_keeps_its_two_embedding_layers(tmp_path):
    vocabulary = workdirs.vocabulary()
    sizes = {'model.vocab_size': len(vocabulary), 'model.base_vocab_size': len(BASE)}
    theirs = workdirs.make(tmp_path, 'classify', **{'model.kind': 'ambert'} | sizes)
    (tmp_path / 'vocab.txt').write_bytes(''.join(f'{token}\n' for token in vocabulary.tokens).encode())
    for labels in ('classify', 'pretrain'):
        params, _ = load(tmp_path, 'ambert', labels)
        for path in params.keys() & theirs.keys():
            np.testing.assert_array_equal(params[path], theirs[path], err_msg=path)
        assert (
            params['embeddings/position_embeddings/embedding']
            != theirs['coarse_embeddings/position_embeddings/embedding']
        ).any()


# ---- labelled texts ----


def table(path: Path, rows) -> str:
    path.write_text('\n'.join('\t'.join(row) for row in rows) + '\n', 'utf-8')
    return str(path)


@pytest.fixture(scope='module')
def pretrained(tmp_path_factory):
    """By kind, the workdir of a run of two steps."""
    folder = tmp_path_factory.mktemp('pretrained')
    (folder / 'text.txt').write_text(text(range(40)), 'utf-8')
    first = make_config(text=str(folder / '*.txt'), max_anchors=5, eval_examples=8)
    corpus = batches.resolve(first, folder / 'first').data.corpus
    found = {}
    for kind in KINDS:
        config = make_config(corpus=corpus, max_anchors=5, eval_examples=8)
        config.update_from_flattened_dict(pretrain.SYSTEMS[kind])
        config.total_steps = 2
        config.optim.warmup_steps = 0
        config.model.update(SMALL | {'dropout': 0.0, 'attention_dropout': 0.0})
        jobs.pretraining(jobs.Job(config, f'configs/pretrain.py:{kind}', folder / kind))
        found[kind] = folder / kind
    return found


def classify_config(folder: Path, source: Path, **changes):
    rows = [
        (f'{subject}喜欢{what}。', subject)
        for subject in SUBJECTS
        for what in ('历史问题', '天气', '人工智能')
    ]
    config = classify.get_config()
    config.init_from = str(source)
    path = table(folder / 'train.tsv', [('text', 'label'), *rows])
    config.data.update(train=path, dev=path, max_length=16, buckets=1)
    config.batch_size, config.num_epochs = 8, 1.0
    config.update_from_flattened_dict(changes)
    return config


@pytest.mark.slow
@pytest.mark.parametrize('kind', KINDS)
def test_words_of_labelled_texts(pretrained, tmp_path, kind):
    """Both views of pairs as the tokenizer has them, one text at a time, and cut together."""
    pairs = [
        ('老师喜欢历史问题。', '学生研究Python程序'),
        ('医生', ''),
        ('农民讨论城市交通，城市交通！', '天气。天气？x'),
    ]
    rows = [('text_a', 'text_b', 'label'), *((*pair, str(n % 2)) for n, pair in enumerate(pairs))]
    config = classify_config(tmp_path, pretrained[kind])
    config.data.train = config.data.dev = table(tmp_path / 'pairs.tsv', rows)
    config, vocabulary = resolve_source(config, tmp_path / 'run')
    assert (config.model.kind, config.data.segmenter, config.data.hmm) == (kind, 'jieba', True)
    assert len(vocabulary) > vocabulary.base_size
    config, data = finetuning_data.prepare(config, vocabulary)
    assert (config.model.vocab_size, config.model.base_vocab_size) == (len(vocabulary), vocabulary.base_size)
    split = data.splits['validation'].rows
    batch = split.batch(buckets.Planned(16, np.arange(3)), 4)
    tokenizer, cut = Tokenizer(vocabulary), segmenters.segmenter('jieba')
    for row, (a, b) in enumerate(pairs):
        both = [tokenizer.encode(cut(part)) for part in (a, b)]
        kept = [len(one.char_ids) for one in both]
        while sum(kept) > 13:  # the longer one loses its end
            kept[kept[0] <= kept[1]] -= 1
        ids, words, per_char, first, words_first = [], [], [], [], []
        for side, (one, n) in enumerate(zip(both, kept, strict=True)):
            chars, ends = one.char_ids[:n], np.cumsum(one.word_char_len)
            assert one.char_ids == vocabulary.wordpiece.encode((a, b)[side], add_special_tokens=False).ids
            head = [vocabulary.cls] if side == 0 else []
            whole = [word for word, end in zip(one.word_ids, ends, strict=True) if end <= n]
            each = [one.word_ids[np.searchsorted(ends, i, side='right')] for i in range(n)]
            for into, values, segments in (
                (ids, chars, first),
                (words, whole, words_first),
                (per_char, each, None),
            ):
                into += [*head, *values, vocabulary.sep]
                if segments is not None:
                    segments += [side] * (len(into) - len(segments))
        expected = {'char_ids': ids, 'char_segments': first}
        expected |= (
            {'word_ids': words, 'word_segments': words_first}
            if kind == 'ambert'
            else {'char_words': per_char}
        )
        assert batch.keys() == {*expected, 'example'}
        for name, values in expected.items():
            np.testing.assert_array_equal(batch[name][row], values + [0] * (16 - len(values)), err_msg=name)
    for name, values in batch.items():
        assert (values[3] == (-1 if name == 'example' else 0)).all()
    assert (batch['char_ids'] > 0).sum() == split.lengths.sum()


@pytest.mark.slow
def test_empty_and_odd_texts_have_words(pretrained):
    config, vocabulary = resolve_source(
        classify_config(pretrained['lichee'], pretrained['lichee']), Path('none')
    )
    texts = [
        '',
        ' ',
        '老师\n学生',
        'caf\u0301e naïve Wi-Fi 3.14%',
        '老师\u200b喜欢',
        '龘\x00天气',
        '😀！？' * 30,
    ]
    for text_, found in zip(texts, word_inputs.encode(texts, vocabulary, config.data), strict=True):
        ids = vocabulary.wordpiece.encode(text_, add_special_tokens=False).ids
        assert found.char_ids.tolist() == ids
        assert len(word_inputs.word_of_each(found, len(ids))) == len(ids)
    assert [len(one.char_ids) for one in word_inputs.encode(['', ''], vocabulary, config.data)] == [0, 0]


def test_other_kinds_cut_no_words(tmp_path, monkeypatch):
    workdirs.make(tmp_path / 'run', 'pretrain')
    config = classify_config(tmp_path, tmp_path / 'run')
    config, vocabulary = resolve_source(config, tmp_path / 'out')
    assert (config.model.kind, config.data.segmenter) == ('clower', '') and len(
        vocabulary
    ) == vocabulary.base_size
    monkeypatch.setattr(segmenters, 'segmenter', None)
    _, data = finetuning_data.prepare(config, vocabulary)
    batch = data.splits['train'].rows.batch(buckets.Planned(16, np.arange(3)), 4)
    assert batch.keys() == {'char_ids', 'char_segments', 'example'}


# ---- from end to end ----


@pytest.mark.slow
@pytest.mark.parametrize('pack', [False, True])
def test_batches(pretrained, pack):
    for kind, views in (('ambert', {'char', 'word'}), ('lichee', {'char'})):
        its = json.loads((pretrained[kind] / 'config.json').read_text('utf-8'))
        config = make_config(corpus=its['data']['corpus'], max_anchors=5, pack=pack)
        config.data.update({'char_length': 0, 'word_length': 0} if pack else {})
        config.update_from_flattened_dict(pretrain.SYSTEMS[kind])
        batch = next(batches.batches(batches.resolve(config, 'unused')))
        assert {name.partition('_')[0] for name in batch} == views | {'sop'}
        assert ('char_words' in batch) == (kind == 'lichee') and 'word_words' not in batch
        for view in views:
            assert batch[f'{view}_ids'].shape == batch[f'{view}_segments'].shape
        if kind == 'lichee':
            np.testing.assert_array_equal(batch['char_words'] > 0, batch['char_ids'] > 0)
            assert (batch['char_words'] >= its['model']['base_vocab_size']).mean() > 0.1


@pytest.mark.slow
@pytest.mark.parametrize('kind', KINDS)
def test_classification(pretrained, tmp_path, kind):
    rows = [json.loads(line) for line in (pretrained[kind] / 'metrics.jsonl').read_text().splitlines()]
    losses = {name for name in rows[-1] if name.startswith('loss_')}
    assert losses == {'loss_mlm_char', 'loss_sop'} | ({'loss_mlm_word'} if kind == 'ambert' else set())
    workdir = tmp_path / 'run'
    config = classify_config(tmp_path, pretrained[kind])
    config.model.update(dropout=0.0, attention_dropout=0.0)
    _, results = jobs.finetuned(config, workdir)
    saved = json.loads((workdir / 'config.json').read_text('utf-8'))
    assert saved['model']['kind'] == kind and saved['data']['segmenter'] == 'jieba'
    # Used again, from its own workdir alone.
    config = classify.get_config()
    config.mode, config.batch_size, config.data.test = 'evaluate', 8, str(tmp_path / 'train.tsv')
    config, vocabulary = resolve_source(with_trained_settings(config, workdir), workdir)
    config, data = finetuning_data.prepare(config, vocabulary)
    again = finetune.apply(config, workdir, data)
    assert again['test']['loss'] == pytest.approx(results['mean']['validation']['best']['loss'], rel=1e-5)
    with pytest.raises(ValueError, match=f"kind '{kind}' with a head: it reads characters and words at once"):
        export(workdir, tmp_path / 'hf')
    # Another run may start from it.
    config = classify_config(tmp_path, workdir)
    config, vocabulary = resolve_source(config, tmp_path / 'next')
    assert (config.model.kind, config.data.segmenter, len(vocabulary)) == (
        kind,
        'jieba',
        saved['model']['vocab_size'],
    )


@pytest.mark.slow
@pytest.mark.parametrize('kind', KINDS)
def test_reading_comprehension(pretrained, tmp_path, kind):
    context = '老师喜欢历史问题。学生研究人工智能，医生讨论健康饮食。农民需要城市交通。'
    qas = [
        {
            'id': name,
            'question': f'谁{what}？',
            'answers': [{'text': name, 'answer_start': context.index(name)}],
        }
        for name, what in (('老师', '喜欢历史问题'), ('医生', '讨论健康饮食'))
    ]
    squad = {'version': '1', 'data': [{'paragraphs': [{'context': context, 'qas': qas}]}]}
    path = tmp_path / 'train.json'
    path.write_text(json.dumps(squad, ensure_ascii=False), 'utf-8')
    config = cmrc.get_config()
    config.init_from, config.batch_size, config.num_epochs = str(pretrained[kind]), 8, 1.0
    config.data.update(train=str(path), dev=str(path), max_length=32, stride=8, buckets=1)
    config, vocabulary = resolve_source(config, tmp_path / 'run')
    config, data = finetuning_data.prepare(config, vocabulary)
    rows = data.splits['train'].rows
    batch = rows.batch(buckets.Planned(32, np.arange(len(rows))), len(rows))
    if kind == 'lichee':
        # [CLS] question [SEP] window [SEP]: the words of the question, and those of the window's characters.
        asked = [question['question'] for question in qas]
        whole, *questions = word_inputs.encode([context, *asked], vocabulary, config.data)
        of_context = word_inputs.word_of_each(whole, len(whole.char_ids))
        assert (of_context >= vocabulary.base_size).sum() > 20 and len(rows) > len(qas)
        for ids, words, segments in zip(*(batch[f'char_{name}'] for name in ('ids', 'words', 'segments'))):
            second = int(segments.argmax())
            question = next(q for q in questions if q.char_ids.tolist() == ids[1 : second - 1].tolist())
            assert words[1 : second - 1].tolist() == word_inputs.word_of_each(question, second).tolist()
            length = int(segments.sum()) - 1
            window = ids[second : second + length].tolist()
            starts = range(len(whole.char_ids) - length + 1)
            first = next(at for at in starts if whole.char_ids[at : at + length].tolist() == window)
            assert words[second : second + length].tolist() == of_context[first : first + length].tolist()
            for place in (0, second - 1, *range(second + length, 32)):
                assert words[place] == ids[place]
    else:
        assert batch.keys() == {'char_ids', 'char_segments', 'example'}
        assert len(vocabulary) == vocabulary.base_size
    assert {*registry.from_config(config).model.inputs} == batch.keys() - {'example'}
    if kind == 'ambert':  # characters alone: an ordinary BERT
        workdirs.make(tmp_path / 'ambert', 'span', **{'model.kind': 'ambert'})
        export(tmp_path / 'ambert', tmp_path / 'hf')
        _, info = transformers.BertForQuestionAnswering.from_pretrained(
            tmp_path / 'hf', output_loading_info=True
        )
        assert not info['missing_keys'] and not info['unexpected_keys']


@pytest.mark.slow
@pytest.mark.parametrize('encoder', ['char', 'word'])
def test_each_view_of_an_ambert_is_a_bert(tmp_path, encoder):
    ambert = {'model.kind': 'ambert', 'loss.contrast_on': 'none'}
    flat = workdirs.make(tmp_path / 'run', 'pretrain', **ambert)
    folder = export(tmp_path / 'run', tmp_path / 'hf', encoder=encoder)
    model, info = transformers.BertForPreTraining.from_pretrained(folder, output_loading_info=True)
    assert not info['missing_keys'] and not info['unexpected_keys']
    rows = len(BASE) + (len(WORDS) if encoder == 'word' else 0)
    batch = workdirs.padded_batch(rows)
    found = workdirs.torch_outputs(model.eval(), batch)
    network = registry.from_config(workdirs.config_of('pretrain', **ambert)).model
    ids, segments = batch['input_ids'].astype(np.int32), batch['token_type_ids'].astype(np.int32)
    positions = np.broadcast_to(np.arange(12, dtype=np.int32), ids.shape)

    def outputs(network):
        hidden = network.encode(encoder, ids, segments)
        return network.mlm_logits(encoder, hidden, positions), network.sop_logits(encoder, hidden[:, 0])

    params = {'params': flax.traverse_util.unflatten_dict(flat, sep='/')}
    mlm, sop = network.apply(params, method=outputs)
    real = ids > 0
    np.testing.assert_allclose(found.prediction_logits[real], mlm[real], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found.seq_relationship_logits, sop, rtol=1e-4, atol=1e-4)
    assert 'of an AMBERT' in (folder / 'README.md').read_text('utf-8')
    vectors = Encoder.load(tmp_path / 'run').encode(['今天天气很好。'])
    assert vectors.shape == (1, 32)


def test_ambert_has_no_word_rows_among_its_characters(tmp_path):
    workdirs.make(tmp_path / 'run', 'pretrain', **{'model.kind': 'ambert', 'loss.contrast_on': 'none'})
    with pytest.raises(ValueError, match='its characters have a table of their own'):
        export(tmp_path / 'run', tmp_path / 'hf', keep_word_rows=True)


@pytest.mark.slow
def test_what_lichee_is_not(pretrained, tmp_path):
    with pytest.raises(ValueError, match="kind 'lichee': it reads characters and words at once"):
        export(pretrained['lichee'], tmp_path / 'hf')
    with pytest.raises(ValueError, match='the kind lichee, which reads words beside characters'):
        Encoder.load(pretrained['lichee'])
    config = mirror.get_config('sentence')
    config.init_from = str(pretrained['lichee'])
    with pytest.raises(
        ValueError, match="which the task 'mirror' does not have: it is made for classify, span"
    ):
        resolve_source(config, tmp_path)
    workdirs.saved(workdirs.bert(transformers.BertModel), tmp_path / 'bert')
    config = classify_config(tmp_path, tmp_path / 'bert', **{'model.kind': 'ambert'})
    with pytest.raises(
        ValueError, match='a model.kind=ambert reads words, and there are none in its vocabulary'
    ):
        resolve_source(config, tmp_path)


@pytest.mark.slow
def test_words_against_characters_of_an_ambert(pretrained):
    config = similarity_config.get_config()
    config.data.update(max_anchors=5, eval_examples=8)
    config.batch_size = 8
    its = figure3.config_of(config, pretrained['ambert'])
    its = batches.resolve(its, pretrained['ambert'])
    held_out = batches.batches(its, split='validation')
    found = figure3.measure(its, pretrained['ambert'], held_out)
    assert all(np.isfinite(values).all() for group in found.values() for values in group.values())


@pytest.mark.slow
def test_ambert_as_an_ordinary_bert(pretrained, tmp_path):
    config = classify_config(tmp_path, pretrained['ambert'], **{'model.kind': 'bert'})
    config, vocabulary = resolve_source(config, tmp_path / 'run')
    assert len(vocabulary) == vocabulary.base_size and isinstance(vocabulary, Vocabulary)
