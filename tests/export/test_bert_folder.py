"""Exported folders: what transformers makes of them, their tokenizers, their cards, what is refused."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import flax.traverse_util
import huggingface_hub
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import transformers
from transformers import (
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForPreTraining,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
)

from clower_jax import convert
from clower_jax.checkpoints.digests import BEST
from clower_jax.checkpoints.orbax_store import Checkpoints
from clower_jax.export.bert_folder import export, export_obstacle, write_tokenizer
from clower_jax.interop import init_weights
from clower_jax.objectives import registry
from helpers import synthetic, workdirs
from helpers.workdirs import BASE, LABELS, TAGS, TEXTS, WORDS

ALL = len(BASE) + len(WORDS)
VIEWS = ('char', 'word')
FINE_TUNED = {
    'classify': AutoModelForSequenceClassification,
    'span': AutoModelForQuestionAnswering,
    'tag': AutoModelForTokenClassification,
}


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
    """{task: (workdir, parameters by path)}."""
    found = {}
    for task in ('pretrain', *FINE_TUNED, 'mirror'):
        workdir = tmp_path_factory.mktemp(task) / 'run'
        found[task] = workdir, workdirs.make(workdir, task)
    return found


@pytest.fixture(scope='module')
def folders(runs, tmp_path_factory):
    """A function from (task, options) to the exported folder and the parameters it is of."""
    made = {}

    def folder(task, **options):
        key = task, *sorted(options.items())
        if key not in made:
            output = tmp_path_factory.mktemp('out') / '-'.join([task, *map(str, options.values())])
            made[key] = export(runs[task][0], output, **options)
        return made[key], runs[task][1]

    return folder


def load(architecture, folder):
    """The model, without a missing or mismatched tensor; what was not expected; what was logged."""
    with workdirs.warnings_of('transformers') as logged:
        model, info = architecture.from_pretrained(
            folder, output_loading_info=True, attn_implementation='eager'
        )
    assert not info['missing_keys'] and not info['mismatched_keys'] and not info['error_msgs']
    return model.eval(), set(info['unexpected_keys']), logged


def ours(task, params, method, *args, **changes):
    """What a method of our network gives for these parameters by path."""
    model = registry.from_config(workdirs.config_of(task, **changes)).model
    return model.apply({'params': flax.traverse_util.unflatten_dict(params, sep='/')}, *args, method=method)


# ---- transformers loads them ----


@pytest.mark.slow
@pytest.mark.parametrize('encoder', VIEWS)
@pytest.mark.parametrize(
    ('heads', 'architecture'),
    [('all', AutoModelForPreTraining), ('mlm', AutoModelForMaskedLM), ('none', AutoModel)],
)
def test_each_class_has_a_folder_that_it_loads_without_a_word(folders, encoder, heads, architecture):
    folder, _ = folders('pretrain', encoder=encoder, heads=heads)
    model, unexpected, logged = load(architecture, folder)
    assert not unexpected and not logged
    assert workdirs.settings(folder)['architectures'] == [type(model).__name__]


@pytest.mark.slow
@pytest.mark.parametrize(
    ('architecture', 'unused'),
    [(AutoModel, {'cls'}), (AutoModelForMaskedLM, {'cls.seq_relationship', 'bert.pooler.dense'})],
)
def test_the_default_folder_has_every_weight_of_every_class(folders, architecture, unused):
    """transformers reports what a class does not use: nothing but the parts that it has not."""
    _, unexpected, _ = load(architecture, folders('pretrain')[0])
    assert unexpected and all(name.startswith(tuple(unused)) for name in unexpected)


@pytest.mark.parametrize(('task', 'architecture'), FINE_TUNED.items())
def test_fine_tuned_folders_load_without_a_word(folders, task, architecture):
    model, unexpected, logged = load(architecture, folders(task)[0])
    assert not unexpected and not logged
    if task != 'span':
        labels = LABELS if task == 'classify' else TAGS
        assert model.config.id2label == dict(enumerate(labels))
        assert model.config.label2id == {label: i for i, label in enumerate(labels)}


def test_the_config_has_the_runs_values(folders):
    settings = workdirs.settings(folders('pretrain')[0])
    assert settings['vocab_size'] == len(BASE) and settings['pad_token_id'] == 0
    assert (settings['hidden_dropout_prob'], settings['attention_probs_dropout_prob']) == (0.0, 0.1)
    assert workdirs.settings(folders('pretrain', keep_word_rows=True)[0])['vocab_size'] == ALL
    config = transformers.AutoConfig.from_pretrained(folders('pretrain')[0])
    assert (config.num_hidden_layers, config.layer_norm_eps, config.hidden_act) == (2, 1e-12, 'gelu')


# ---- the same function ----


@pytest.mark.slow
@pytest.mark.parametrize(
    ('view', 'options', 'rows'),
    [
        ('char', {}, len(BASE)),
        ('char', {'keep_word_rows': True}, ALL),
        ('word', {'encoder': 'word'}, ALL),
    ],
    ids=['char', 'char-unpruned', 'word'],
)
def test_a_pre_trained_encoder_is_the_same_function(folders, view, options, rows):
    folder, params = folders('pretrain', **options)
    batch = workdirs.padded_batch(rows)
    ids, segments = batch['input_ids'], batch['token_type_ids']
    positions = np.tile(np.arange(ids.shape[1]), (len(ids), 1))

    def outputs(model, ids, segments):
        hidden = model.encode(view, ids, segments)
        return hidden, model.mlm_logits(view, hidden, positions), model.sop_logits(view, hidden[:, 0])

    hidden, mlm, sop = ours('pretrain', params, outputs, ids, segments)
    out = workdirs.torch_outputs(load(AutoModelForPreTraining, folder)[0], batch)
    real = batch['attention_mask'] == 1
    assert np.ptp(out.prediction_logits) > 1  # far from a constant
    np.testing.assert_allclose(out.prediction_logits[real], mlm[..., :rows][real], rtol=0, atol=1e-5)
    np.testing.assert_allclose(out.seq_relationship_logits, sop, rtol=0, atol=1e-5)
    masked_lm = workdirs.torch_outputs(load(AutoModelForMaskedLM, folder)[0], batch)
    np.testing.assert_allclose(masked_lm.logits[real], mlm[..., :rows][real], rtol=0, atol=1e-5)
    plain = workdirs.torch_outputs(load(AutoModel, folder)[0], batch)
    np.testing.assert_allclose(plain.last_hidden_state[real], hidden[real], rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(('task', 'architecture'), FINE_TUNED.items())
def test_a_fine_tuned_model_is_the_same_function(folders, task, architecture):
    folder, params = folders(task)
    batch = workdirs.padded_batch(len(BASE))
    expected = ours(task, params, None, batch['input_ids'], batch['token_type_ids'])
    out = workdirs.torch_outputs(load(architecture, folder)[0], batch)
    if task == 'classify':
        np.testing.assert_allclose(out.logits, expected, rtol=0, atol=1e-5)
        return
    real = batch['attention_mask'] == 1
    if task == 'tag':
        np.testing.assert_allclose(out.logits[real], expected[real], rtol=0, atol=1e-5)
        return
    for logits, column in ((out.start_logits, 0), (out.end_logits, 1)):
        np.testing.assert_allclose(logits[real], expected[..., column][real], rtol=0, atol=1e-5)


def test_the_best_is_exported_where_it_was_kept(tmp_path):
    workdirs.make(tmp_path / 'run', 'span', step=9)
    last = workdirs.tensors(export(tmp_path / 'run', tmp_path / 'last'))
    with pytest.raises(ValueError, match='has no best checkpoint, only the last'):
        export(tmp_path / 'run', tmp_path / 'none', which='best')
    best = workdirs.make(tmp_path / 'run', 'span', shift=1, step=5, folder=BEST)
    for which, kernel in (('', best['qa_outputs/kernel'].T), ('last', last['qa_outputs.weight'])):
        got = workdirs.tensors(export(tmp_path / 'run', tmp_path / f'which-{which}', which=which))
        np.testing.assert_array_equal(got['qa_outputs.weight'], kernel)


@pytest.mark.parametrize('classify_from', ['cls', 'mean'])
def test_what_no_bert_computes_is_not_exported(tmp_path, classify_from):
    workdirs.make(tmp_path / 'run', 'classify', **{'model.classify_from': classify_from})
    with pytest.raises(ValueError, match=f'run classifies from {classify_from} .*from the pooler.*stays a w'):
        export(tmp_path / 'run', tmp_path / 'out')
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize('changes', [{'loss.sop_on': 'word'}, {'loss.sop_weight': 0.0}], ids=str)
def test_a_head_that_nothing_trained_stays_behind(tmp_path, changes):
    workdirs.make(tmp_path / 'run', 'pretrain', **changes)
    folder = export(tmp_path / 'run', tmp_path / 'out')
    assert not any('seq_relationship' in name or 'pooler' in name for name in workdirs.tensors(folder))
    _, unexpected, logged = load(AutoModelForMaskedLM, folder)
    assert not unexpected and not logged
    assert 'There is no pooler' in (folder / 'README.md').read_text('utf-8')
    workdirs.make(tmp_path / 'next', 'pretrain', init_from='bert', **changes)
    folder = export(tmp_path / 'next', tmp_path / 'with-pooler')
    assert {name for name in workdirs.tensors(folder) if 'pooler' in name} == {
        'bert.pooler.dense.weight', 'bert.pooler.dense.bias'
    }  # fmt: skip
    text = (folder / 'README.md').read_text('utf-8')
    assert 'has the pooler too' in text and 'AutoModel.from_pretrained' in text and 'fill-mask' in text


# ---- tokenizers ----


def ids_of(folder, *texts):
    with workdirs.warnings_of('transformers') as logged:
        tokenizer = AutoTokenizer.from_pretrained(folder)
    assert not logged
    return tokenizer, [tokenizer(text)['input_ids'] for text in texts]


@pytest.mark.parametrize('options', [{}, {'keep_word_rows': True}, {'encoder': 'word'}], ids=str)
def test_the_tokenizer_gives_the_base_vocabularys_ids(folders, options):
    """Also where words are in the token table that WordPiece would match: 'iphone', 'caf'."""
    folder, _ = folders('pretrain', **options)
    wordpiece = workdirs.vocabulary().wordpiece
    tokenizer, ids = ids_of(folder, *TEXTS)
    cls, sep = BASE.index('[CLS]'), BASE.index('[SEP]')
    assert ids == [[cls, *wordpiece.encode(text).ids, sep] for text in TEXTS]
    assert any(BASE[i] == '##p' for i in ids[1]) and BASE.index('[UNK]') in ids[3]
    assert (folder / 'vocab.txt').read_bytes().decode().split('\n') == [*BASE, '']
    assert (tokenizer.pad_token_id, tokenizer.mask_token_id) == (0, BASE.index('[MASK]'))
    assert tokenizer.model_max_length == workdirs.MODEL['max_positions']
    pair = tokenizer(TEXTS[0], TEXTS[2], padding='max_length', max_length=32)
    assert pair['token_type_ids'].count(1) == len(TEXTS[2]) + 1 and sum(pair['attention_mask']) == 16
    assert tokenizer.decode(ids[0], skip_special_tokens=True).replace(' ', '') == TEXTS[0]


def test_the_tokenizer_over_the_chinese_bert_vocabulary(data_dir, tmp_path):
    path = data_dir / 'vocab' / 'bert_base_chinese_vocab.txt'
    tokens = path.read_bytes().decode().removesuffix('\n').split('\n')
    write_tokenizer(tmp_path, tokens, 512)
    (tmp_path / 'config.json').write_text('{"model_type": "bert"}')
    assert len(tokens) == 21128 and '\u2028' in tokens
    text = (data_dir / 'pretrain' / 'wiki_zh_sample.txt').read_text('utf-8')[:20_000]
    lines = [line for line in text.split('\n') if line]
    reference = transformers.BertTokenizer(vocab=str(path))
    assert ids_of(tmp_path, *lines)[1] == [reference(line)['input_ids'] for line in lines]


# ---- the card ----


def python_of(folder):
    card = (folder / 'README.md').read_text(encoding='utf-8')
    return re.findall(r'```python\n(.*?)```', card, re.DOTALL)


@pytest.mark.parametrize(
    ('task', 'options'),
    [
        ('pretrain', {}),
        ('pretrain', {'keep_word_rows': True, 'heads': 'mlm'}),
        ('pretrain', {'encoder': 'word'}),
        ('classify', {}),
        ('span', {}),
        ('tag', {}),
        ('mirror', {}),
    ],
    ids=str,
)
def test_the_cards_code_runs(folders, task, options, monkeypatch, capsys):
    folder, _ = folders(task, **options)
    monkeypatch.chdir(folder.parent)
    names = {}
    for code in python_of(folder):
        exec(code, names)
    if task == 'mirror':
        assert 'SentenceTransformer' in names
        data = huggingface_hub.ModelCard(card_of(folder)).data
        assert (data.library_name, data.pipeline_tag) == ('sentence-transformers', 'sentence-similarity')
    if task == 'classify':
        printed = capsys.readouterr().out
        assert any(repr(label) in printed for label in LABELS)
    if task == 'tag':
        assert {entity['entity_group'] for entity in names['find'](TEXTS[0])} <= {'人名'}
    if options.get('encoder') == 'word':
        words = [names['tokenizer'].vocabulary.tokens[i] for i in names['inputs']['input_ids'][1]]
        assert words[:6] == ['[CLS]', '我们', '去', '公园', '。', '[SEP]']
    if 'vectors' in names:
        assert names['vectors'].shape[-1] == 32
    if task == 'classify':
        assert names['classify']('好' * 600)  # longer than there are positions


def test_a_tagger_in_bioes_is_not_aggregated(tmp_path, monkeypatch):
    labels = ['O', *(f'{letter}-x' for letter in 'BIES')]
    workdirs.make(tmp_path / 'run', 'tag', **{'data.labels': labels})
    folder = export(tmp_path / 'run', tmp_path / 'out')
    assert 'Tags are BIOES' in card_of(folder) and 'find entities in texts: `x`.' in card_of(folder)
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(python_of(folder)[0], names)
    assert {token['entity'] for token in names['tag'](TEXTS[0])} <= set(labels)


def test_the_card_tells_the_run(tmp_path):
    corpus = tmp_path / 'secret' / 'my-corpus'
    corpus.mkdir(parents=True)
    manifest = {
        'documents': {'read': 2100, 'kept': 2000, 'validation': 20}, 'characters': 1_234_567,
        'segmenter': workdirs.SEGMENTER, 'input': [{'path': f'{tmp_path}/secret/news.txt', 'bytes': 1}],
        'vocabulary': {'sha256': workdirs.vocabulary().sha256(), 'base_size': len(BASE), 'size': ALL},
    }  # fmt: skip
    (corpus / 'manifest.json').write_text(json.dumps(manifest))
    changes = {'data.corpus': str(corpus), 'init_from': f'{tmp_path}/secret/bert-base-chinese'}
    workdirs.make(tmp_path / 'run', 'pretrain', **changes)
    rows = [(2, 'validation', 9.5), (3, 'train', 8.5), (3, 'validation', 7.25), (4, 'validation', 1.5)]
    lines = [json.dumps({'step': step, 'split': split, 'loss': loss}) for step, split, loss in rows]
    (tmp_path / 'run' / 'metrics.jsonl').write_text('\n'.join(lines))
    folder = export(tmp_path / 'run', tmp_path / 'my-bert', encoder='word', license='apache-2.0')
    text = (folder / 'README.md').read_text(encoding='utf-8')
    data = huggingface_hub.ModelCard(text).data
    assert (data.language, data.license) == ('zh', 'apache-2.0')
    assert data.base_model == 'google-bert/bert-base-chinese'
    assert (data.library_name, data.pipeline_tag) == ('transformers', 'feature-extraction')
    for fact in (
        '# my-bert', '2,000 documents', '1,234,567 characters', '2,100', '`news.txt`', 'jieba 0.42.1',
        '| loss | 7.25 |', '| `batch_size` | 8 |', '| step exported | 3 |', '`bert-base-chinese`',
    ):  # fmt: skip
        assert fact in text, fact
    for path in folder.iterdir():
        assert str(tmp_path).encode() not in path.read_bytes(), path
    sidecar = json.loads((folder / 'word_vocab.json').read_text('utf-8'))
    assert sidecar['segmenter'] == workdirs.SEGMENTER and sidecar['base_size'] == len(BASE)
    # The same corpus where the run made it itself; then one of another vocabulary.
    corpus.rename(tmp_path / 'run' / 'corpus')
    assert '2,000 documents' in card_of(export(tmp_path / 'run', tmp_path / 'moved'))
    manifest['vocabulary']['sha256'] = '0'
    (tmp_path / 'run' / 'corpus' / 'manifest.json').write_text(json.dumps(manifest))
    text = card_of(export(tmp_path / 'run', tmp_path / 'other'))
    assert '2,000' not in text and '`my-corpus`, which was not at hand' in text


def test_the_card_tells_which_settings_each_step_was_taken_with(tmp_path):
    workdirs.make(tmp_path / 'run', 'pretrain', **{'optim.learning_rate': 3e-5, 'total_steps': 9})
    path = tmp_path / 'run' / 'config.json'
    config = json.loads(path.read_text('utf-8'))
    config['history'] = [
        {'until_step': 1, 'settings': {'optim.learning_rate': 1e-05, 'total_steps': 4}},
        {'until_step': 2, 'settings': {'optim.learning_rate': 2e-05}},
        {'until_step': 4, 'settings': {'total_steps': 7}},
    ]
    path.write_text(json.dumps(config))
    text = card_of(export(tmp_path / 'run', tmp_path / 'out'))
    assert '| `optim.learning_rate` | 1e-05 up to step 1, then 2e-05 up to step 2, then 3e-05 |' in text
    assert '| `total_steps` | 4 up to step 1, then 7 |' in text  # what came after step 3 is no matter


def card_of(folder):
    return (folder / 'README.md').read_text(encoding='utf-8')


@pytest.mark.parametrize(
    ('init_from', 'named'),
    [
        ('hfl/chinese-macbert-base', 'hfl/chinese-macbert-base'),
        ('/disk/bert-base-chinese', 'google-bert/bert-base-chinese'),
        ('runs/pretrain-base', None),
        ('models/bert', None),
        ('hfl/a/b', None),
        ('pretrain-base', None),
        ('/disk/hfl/bert', None),
        ('', None),
    ],
)
def test_only_a_hubs_name_is_a_base_model(tmp_path, init_from, named):
    workdirs.make(tmp_path / 'run', 'span', init_from=init_from)
    text = card_of(export(tmp_path / 'run', tmp_path / 'out'))
    assert huggingface_hub.ModelCard(text).data.base_model == named


def test_the_user_knows_better_what_the_base_model_is(tmp_path):
    workdirs.make(tmp_path / 'run', 'span', init_from='models/bert')
    text = card_of(export(tmp_path / 'run', tmp_path / 'out', base_model='me/bert'))
    assert huggingface_hub.ModelCard(text).data.base_model == 'me/bert'


@pytest.mark.slow
def test_the_card_says_for_which_bert_a_model_stands_in(tmp_path):
    """Where it is at hand, be it over another run, and has these ids; else for none."""
    bert = workdirs.saved(workdirs.bert(transformers.BertModel), tmp_path / 'their-bert')
    workdirs.make(tmp_path / 'one', 'pretrain', init_from=str(bert))
    workdirs.make(tmp_path / 'two', 'span', init_from=str(tmp_path / 'one'))
    stands_in = 'the same as in `their-bert`, which this model can stand in for'
    for name in ('one', 'two'):
        assert stands_in in card_of(export(tmp_path / name, tmp_path / f'{name}-hf'))
    workdirs.make(tmp_path / 'random', 'pretrain')
    bert.rename(tmp_path / 'away')
    for name in ('random', 'two'):  # from nothing; from what nobody can look at
        text = card_of(export(tmp_path / name, tmp_path / f'{name}-alone'))
        assert 'Token ids are those of `vocab.txt`.' in text and 'stand' not in text


# ---- the ids of a larger vocabulary ----


@pytest.fixture(scope='module')
def larger(tmp_path_factory):
    """(torch model, its folder): a BERT with the tokens of BASE in another order, and others between them."""
    model = workdirs.bert(transformers.BertForMaskedLM, vocab_size=len(BASE) + 40)
    folder = workdirs.saved(model, tmp_path_factory.mktemp('larger') / 'bert')
    others = [f'[unused{i}]' for i in range(2, 22)] + [chr(0x5000 + i) for i in range(20)]
    tokens = [BASE[0], *others[:20], *BASE[:0:-1], *others[20:]]
    (folder / 'vocab.txt').write_bytes(''.join(f'{token}\n' for token in tokens).encode())
    return model, folder, tokens


@pytest.mark.parametrize('task', ['pretrain', 'classify', 'span'])
def test_rows_go_back_to_the_ids_of_a_larger_vocabulary(runs, larger, tmp_path, task):
    _, bert, tokens = larger
    small = workdirs.tensors(export(runs[task][0], tmp_path / 'small'))
    folder = export(runs[task][0], tmp_path / 'whole', ids_of=bert)
    got, theirs = workdirs.tensors(folder), workdirs.tensors(bert)
    assert (folder / 'vocab.txt').read_bytes() == (bert / 'vocab.txt').read_bytes()
    assert workdirs.settings(folder)['vocab_size'] == len(tokens)
    by_token = {'bert.embeddings.word_embeddings.weight', 'cls.predictions.bias'}
    assert got.keys() == small.keys()
    for name, value in got.items():
        if name not in by_token:
            np.testing.assert_array_equal(value, small[name], err_msg=name)
            continue
        for row, token in enumerate(tokens):
            expected = small[name][BASE.index(token)] if token in BASE else theirs[name][row]
            np.testing.assert_array_equal(value[row], expected, err_msg=f'{name} {token!r}')
    _, unexpected, logged = load(FINE_TUNED.get(task, AutoModelForPreTraining), folder)
    assert not unexpected and not logged
    assert 'the same as in `bert`, which this model can stand in for' in card_of(folder)


def test_a_part_of_a_larger_vocabulary_is_told(larger, tmp_path, caplog):
    workdirs.make(tmp_path / 'run', 'span', init_from=str(larger[1]))
    text = card_of(export(tmp_path / 'run', tmp_path / 'own'))
    assert 'It is a part of that of `bert`, with ids of its own.' in text and 'stand in' not in text
    assert 'part of that of bert: --ids_of gives its tokens the ids there' in caplog.text
    text = card_of(export(tmp_path / 'run', tmp_path / 'theirs', ids_of=larger[1]))
    assert 'the same as in `bert`' in text and 'a part of that of' not in text
    assert caplog.text.count('--ids_of') == 1


@pytest.mark.slow
def test_a_run_from_a_part_of_a_larger_vocabulary_comes_back_as_it_was(larger, tmp_path):
    """Weights → a run with a part of the rows → the same weights, to the bit."""
    _, bert, _ = larger
    task = registry.from_config(workdirs.config_of('pretrain'))
    fresh = jax.tree.map(lambda x: jnp.zeros(x.shape), synthetic.initial_shapes(task))
    params, report = init_weights.load_initial(fresh, bert, workdirs.vocabulary(), 4)
    assert all('_sop/' in path or 'pooler' in path for path in report.random)
    workdirs.make(tmp_path / 'run', 'pretrain')
    with Checkpoints(tmp_path / 'run', keep=1) as checkpoints:
        checkpoints.save_params(4, params)
    got = workdirs.tensors(export(tmp_path / 'run', tmp_path / 'back', heads='mlm', ids_of=bert))
    expected = workdirs.tensors(bert)
    assert got.keys() == expected.keys()
    for name, value in got.items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)


def test_ids_that_cannot_be_taken(runs, larger, tmp_path):
    workdir, (_, bert, tokens) = runs['pretrain'][0], larger
    for options in ({'encoder': 'word'}, {'keep_word_rows': True}):
        with pytest.raises(ValueError, match='are of characters: leave out --ids_of'):
            export(workdir, tmp_path / 'out', ids_of=bert, **options)
    narrow = workdirs.bert(transformers.BertModel, vocab_size=len(tokens), hidden_size=16)
    folder = workdirs.saved(narrow, tmp_path / 'narrow')
    (folder / 'vocab.txt').write_bytes((bert / 'vocab.txt').read_bytes())
    with pytest.raises(ValueError, match='has token rows of width 16, not 32: it is another model'):
        export(workdir, tmp_path / 'out', ids_of=folder)
    tokens = [token for token in tokens if token != '今'] + ['[unused99]']
    (folder / 'vocab.txt').write_bytes(''.join(f'{token}\n' for token in tokens).encode())
    with pytest.raises(ValueError, match=rf"lacks 1 of its {len(BASE)} base tokens: '今'"):
        export(workdir, tmp_path / 'out', ids_of=folder)
    assert not (tmp_path / 'out').exists()


# ---- a disk that is full ----


def test_too_little_space_is_seen_before_anything_is_written(runs, tmp_path, monkeypatch):
    left = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, 'disk_usage', lambda _: left)
    with pytest.raises(
        ValueError, match=r'no space for .*out: it needs 0\.\d MB, .* has 0\.0 MB left\. Make'
    ):
        export(runs['pretrain'][0], tmp_path / 'out')
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_disk_that_fills_up_meanwhile(runs, tmp_path):
    """In a process that may write no file of more than 50 kB, as with a quota."""
    code = (
        'import resource, sys; from clower_jax import convert; '
        'resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000)); '
        'convert.main(["export", "--checkpoint", sys.argv[1], "--output", sys.argv[2]])'
    )
    command = [sys.executable, '-c', code, runs['pretrain'][0], tmp_path / 'out']
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 1 and 'Traceback' not in done.stderr
    assert re.search(r'convert export: .*out could not be written .*Nothing is left of it', done.stderr)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('task', ['classify', 'span', 'pretrain'])
def test_the_length_it_was_trained_on(folders, task):
    folder, _ = folders(task)
    config = workdirs.config_of(task)
    length = config.data.char_length if task == 'pretrain' else 32
    assert f'up to 64 tokens at a time; it was trained on up to {length}.' in card_of(folder)
    kept = AutoTokenizer.from_pretrained(folder).model_max_length
    assert kept == (64 if task == 'pretrain' else 32)


def test_logits_of_rows_that_nothing_trained(tmp_path):
    workdirs.make(tmp_path / 'run', 'pretrain', **{'loss.mlm_candidates': 'branch'})
    text = card_of(export(tmp_path / 'run', tmp_path / 'out', keep_word_rows=True))
    assert f'keep the first {len(BASE)} logits' in text


@pytest.mark.parametrize('step', [2, 4, 3], ids=['best', 'last', 'neither'])
def test_the_metrics_are_those_of_the_exported_step(tmp_path, step):
    workdirs.make(tmp_path / 'run', 'classify', step=step, seed=0)
    validation = {'best': {'step': 2, 'acc': 0.75}, 'last': {'step': 4, 'acc': 0.5}}
    results = {'per_seed': [{'seed': 0, 'validation': validation}]}
    (tmp_path / 'run' / 'results.json').write_text(json.dumps(results))
    (tmp_path / 'run' / 'metrics.jsonl').write_text('{"step": 3, "split": "validation", "acc": 0.625}\n')
    text = card_of(export(tmp_path / 'run', tmp_path / 'out'))
    shown = re.findall(r'^\| (?:validation )?acc \| (\S+) \|', text, re.MULTILINE)
    assert shown == [{2: '0.75', 4: '0.5', 3: '0.625'}[step]]


def test_the_card_of_one_of_several_seeds(tmp_path):
    for seed in (0, 1):
        workdirs.make(tmp_path / f'run/seed-{seed}', 'classify', step=4, **{'seed': seed})
    measured = [
        {
            'seed': seed,
            'validation': {
                'best': {'step': 2, 'acc': 0.75 + seed / 8},
                'last': {'step': 4, 'acc': 0.5 + seed / 8},
            },
        }
        for seed in (0, 1)
    ]
    over = {
        name: {'validation': {'best': {'acc': best}, 'last': {'acc': last}}}
        for name, best, last in (('mean', 0.8125, 0.5625), ('std', 0.08839, 0.08838))
    }
    (tmp_path / 'run' / 'results.json').write_text(json.dumps({'per_seed': measured, **over}))
    with pytest.raises(ValueError, match='several seeds: give one of .*seed-0, .*seed-1'):
        export(tmp_path / 'run', tmp_path / 'out')
    text = (export(tmp_path / 'run' / 'seed-1', tmp_path / 'out') / 'README.md').read_text(encoding='utf-8')
    assert '| validation acc | 0.625 | 0.5625 | 0.08838 |' in text
    assert 'mean of 2 seeds' in text and '`train.tsv`' in text and '/secret' not in text
    assert 'with 3 labels: `坏`, `好`' in text


# ---- writing ----


def test_torch_is_not_needed(runs, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'torch', None)
    folder = export(runs['span'][0], tmp_path / 'out')
    assert len({path.stat().st_mode for path in folder.iterdir()}) == 1  # whoever may read one may read all


def test_only_an_older_export_is_replaced_and_only_when_asked(runs, tmp_path):
    output = tmp_path / 'out'
    output.mkdir()  # an empty folder is as good as none
    export(runs['span'][0], output)
    before = workdirs.tensors(output)
    with pytest.raises(ValueError, match='holds an older export: give --overwrite'):
        export(runs['classify'][0], output)
    export(runs['classify'][0], output, overwrite=True)
    assert 'qa_outputs.bias' in before and 'classifier.bias' in workdirs.tensors(output)
    assert [path.name for path in tmp_path.iterdir()] == ['out']
    (tmp_path / 'thesis').mkdir()
    (tmp_path / 'thesis' / 'config.json').write_text('{}')
    with pytest.raises(ValueError, match='thesis is in the way, and no export'):
        export(runs['span'][0], tmp_path / 'thesis', overwrite=True)


def test_what_others_put_into_an_export_is_kept(runs, tmp_path):
    output = export(runs['span'][0], tmp_path / 'out')
    (output / 'notes.txt').write_text('mine')
    with pytest.raises(ValueError, match=r'files that no export wrote \(notes\.txt\): give another'):
        export(runs['span'][0], output, overwrite=True)
    (output / 'notes.txt').unlink()
    AutoModelForQuestionAnswering.from_pretrained(output).save_pretrained(output)  # trained on, say
    assert 'clower_jax' in workdirs.settings(output)
    with pytest.raises(ValueError, match='was saved by transformers since it was exported'):
        export(runs['span'][0], output, overwrite=True)
    assert 'transformers_version' in workdirs.settings(output)


def test_an_empty_folder_stays_the_same_folder(runs, tmp_path):
    (tmp_path / 'disk').mkdir()
    (tmp_path / 'link').symlink_to(tmp_path / 'disk')
    number = (tmp_path / 'disk').stat().st_ino
    export(runs['span'][0], tmp_path / 'link')
    assert (tmp_path / 'link').is_symlink() and (tmp_path / 'disk').stat().st_ino == number
    export(runs['classify'][0], tmp_path / 'link', overwrite=True)
    assert (tmp_path / 'link').is_symlink() and 'classifier.bias' in workdirs.tensors(tmp_path / 'disk')
    with pytest.raises(ValueError, match='config.json is a file, no folder'):
        export(runs['span'][0], tmp_path / 'disk' / 'config.json' / 'out')


@pytest.mark.slow
def test_without_words_there_is_no_word_encoder(tmp_path):
    folder = workdirs.saved(workdirs.bert(transformers.BertForMaskedLM), tmp_path / 'bert')
    convert.import_weights(folder, tmp_path / 'run')
    with pytest.raises(ValueError, match='has no words in its vocabulary'):
        export(tmp_path / 'run', tmp_path / 'out', encoder='word')
    text = card_of(export(tmp_path / 'run', tmp_path / 'out'))
    assert 'sentence order' not in text and 'There is no pooler' in text and 'trained on up to' not in text


def test_a_failed_export_leaves_nothing(tmp_path):
    workdirs.make(tmp_path / 'run', 'span')
    tokens = (tmp_path / 'run' / 'vocab.txt').read_text('utf-8').replace('[MASK]', 'mask')
    (tmp_path / 'run' / 'vocab.txt').write_text(tokens, 'utf-8')
    with pytest.raises(ValueError, match=r'none of a BERT: it lacks \[MASK\]'):
        export(tmp_path / 'run', tmp_path / 'out')
    assert [path.name for path in tmp_path.iterdir()] == ['run']


@pytest.mark.parametrize(
    ('task', 'options', 'message'),
    [
        ('span', ['--encoder', 'word'], 'a fine-tuned model: it has no word encoder'),
        ('span', ['--heads', 'none'], 'no word rows to keep, and one head'),
        ('classify', ['--keep_word_rows'], 'no word rows to keep, and one head'),
        ('span', ['--which', 'best'], 'has no best checkpoint'),
        (None, [], 'there is no folder .*nothing: give the workdir of a run'),
    ],
)
def test_errors_are_messages(runs, tmp_path, task, options, message):
    workdir = runs[task][0] if task else tmp_path / 'nothing'
    command = ['export', '--checkpoint', str(workdir), '--output', str(tmp_path / 'out'), *options]
    with pytest.raises(SystemExit, match=f'convert export: .*{message}'):
        convert.main(command)
    assert not (tmp_path / 'out').exists()


def test_the_command(runs, tmp_path, capsys):
    convert.main(['export', '--checkpoint', str(runs['pretrain'][0]), '--output', str(tmp_path / 'mine')])
    assert 'mine is ready; its README.md' in capsys.readouterr().out
    assert load(AutoModelForPreTraining, tmp_path / 'mine')


def test_a_head_that_transformers_has_no_class_for_stays_a_workdir():
    assert "has a head of the task 'ranked'" in export_obstacle('bert', 'ranked', 'pooler')
    assert not any(export_obstacle('bert', task, 'pooler') for task in ('pretrain', 'span', 'mlctl'))
