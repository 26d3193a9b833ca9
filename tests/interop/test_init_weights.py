"""Initial weights from Hugging Face folders of every vintage, and from other runs."""

import json
import logging
import re

import flax.traverse_util
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
import torch
import transformers

from clower_jax.checkpoints.digests import BEST
from clower_jax.checkpoints.train_state import sharded_state
from clower_jax.export import bert_folder
from clower_jax.interop import hf_bert, init_weights, weight_sources
from clower_jax.objectives import registry
from clower_jax.objectives.pretraining import Pretrain
from clower_jax.parallel import sharding
from clower_jax.training.loop import train
from helpers import synthetic, workdirs
from input_pipeline.text.vocabulary import Vocabulary

VIEWS = ('char', 'word')
SIZE = {'hidden_size': 32, 'intermediate_size': 64, 'num_attention_heads': 4, 'num_hidden_layers': 1}
UNTOUCHED = 7.0  # where no weight of the source goes
VOCABULARY = synthetic.Vocabulary()
QUERY = 'encoder.layer.0.attention.self.query.weight'


def config_of(**changes):
    return synthetic.tiny_config(**{'model.num_layers': 1, **changes})


def fresh(**changes) -> dict:
    """The parameters of a new run, each entry UNTOUCHED."""
    task = Pretrain.from_config(config_of(**changes))
    shapes = synthetic.initial_shapes(task)
    return jax.tree.map(lambda x: jnp.full(x.shape, UNTOUCHED, x.dtype), shapes)


def load(folder, **changes) -> tuple[dict[str, np.ndarray], init_weights.Report]:
    params, report = init_weights.load_initial(fresh(**changes), str(folder), VOCABULARY, num_heads=4)
    return jax.tree.map(np.asarray, flax.traverse_util.flatten_dict(params, sep='/')), report


@pytest.fixture(scope='module')
def tensors() -> dict[str, np.ndarray]:
    """The state of a tiny BERT with its pre-training heads, all of it random."""
    shape = transformers.BertConfig(vocab_size=synthetic.BASE_SIZE, max_position_embeddings=32, **SIZE)
    names = transformers.BertForPreTraining(shape).state_dict()
    rng = np.random.default_rng(0)
    drawn = {name: rng.normal(size=value.shape).astype(np.float32) for name, value in names.items()}
    drawn['cls.predictions.decoder.weight'] = drawn['bert.embeddings.word_embeddings.weight']
    drawn['cls.predictions.decoder.bias'] = drawn['cls.predictions.bias']
    return drawn


def write(folder, tensors, *, form='safetensors', model_type='bert', tokens=VOCABULARY.tokens[:40]):
    """A Hugging Face folder."""
    folder.mkdir(exist_ok=True)
    (folder / 'config.json').write_text(json.dumps({'model_type': model_type, **SIZE}))
    if tokens is not None:
        (folder / 'vocab.txt').write_text(''.join(f'{token}\n' for token in tokens), encoding='utf-8')
    if form == 'safetensors':
        safetensors.numpy.save_file(tensors, folder / 'model.safetensors')
    elif form == 'shards':
        write_shards(folder, tensors, 'model', '.safetensors', safetensors.numpy.save_file)
    elif form == 'bin-shards':
        write_shards(folder, tensors, 'pytorch_model', '.bin', save_torch)
    elif form == 'bin':
        save_torch(tensors, folder / 'pytorch_model.bin')
    return folder


def write_shards(folder, tensors, stem, suffix, save):
    weight_map = {name: f'{stem}-{i % 2 + 1:05}-of-00002{suffix}' for i, name in enumerate(tensors)}
    for shard in set(weight_map.values()):
        save({name: value for name, value in tensors.items() if weight_map[name] == shard}, folder / shard)
    (folder / f'{stem}{suffix}.index.json').write_text(json.dumps({'weight_map': weight_map}))


def save_torch(tensors, path):
    def to_torch(x):  # by way of fp32: torch knows no NumPy bfloat16
        return torch.tensor(np.float32(x)).to(getattr(torch, x.dtype.name))

    torch.save({name: to_torch(x) for name, x in tensors.items()}, path)


def without_prefix_and_heads(tensors):
    """As `BertModel.save_pretrained` writes it."""
    return {
        name.removeprefix('bert.'): value for name, value in tensors.items() if not name.startswith('cls.')
    }


# ---- Hugging Face folders ----


@pytest.mark.parametrize('form', ['safetensors', 'shards', 'bin'])
def test_every_weight_has_its_place_in_both_encoders(tensors, tmp_path, form):
    got, report = load(write(tmp_path, tensors, form=form))
    for view in VIEWS:
        encoder, mlm = f'{view}_encoder/encoder.layer.0', f'{view}_mlm'
        for path, name in (
            (f'{encoder}/attention.self.query/kernel', f'bert.{QUERY}'),
            (f'{encoder}/attention.output.dense/bias', 'bert.encoder.layer.0.attention.output.dense.bias'),
            (f'{encoder}/attention.output.LayerNorm/scale',
             'bert.encoder.layer.0.attention.output.LayerNorm.weight'),
            (f'{encoder}/intermediate.dense/kernel', 'bert.encoder.layer.0.intermediate.dense.weight'),
            (f'{encoder}/output.dense/kernel', 'bert.encoder.layer.0.output.dense.weight'),
            (f'{view}_encoder/pooler.dense/kernel', 'bert.pooler.dense.weight'),
            (f'{mlm}/transform.dense/kernel', 'cls.predictions.transform.dense.weight'),
            (f'{mlm}/transform.LayerNorm/bias', 'cls.predictions.transform.LayerNorm.bias'),
        ):  # fmt: skip
            expected = tensors[name].T if path.endswith('/kernel') else tensors[name]
            np.testing.assert_array_equal(got[path], expected, err_msg=path)
    for table in ('position_embeddings', 'token_type_embeddings'):
        expected = tensors[f'bert.embeddings.{table}.weight']
        np.testing.assert_array_equal(got[f'embeddings/{table}/embedding'], expected)
    heads = [f'{view}_sop/seq_relationship/{leaf}' for view in VIEWS for leaf in ('kernel', 'bias')]
    assert sorted(report.random) == sorted(heads)
    assert report.unused == ['cls.seq_relationship.bias', 'cls.seq_relationship.weight']
    for path, value in got.items():
        assert np.all(value == UNTOUCHED) == (path in heads), path


def test_new_word_rows_are_the_mean_of_their_pieces(tensors, tmp_path):
    got, _ = load(write(tmp_path, tensors))
    base = synthetic.BASE_SIZE
    for path, name in (
        ('embeddings/word_embeddings/embedding', 'bert.embeddings.word_embeddings.weight'),
        ('char_mlm/bias', 'cls.predictions.bias'),
        ('word_mlm/bias', 'cls.predictions.bias'),
    ):
        np.testing.assert_array_equal(got[path][:base], tensors[name])
        for i, pieces in enumerate(VOCABULARY.pieces()):
            expected = sum(tensors[name][piece].astype(np.float64) for piece in pieces) / len(pieces)
            np.testing.assert_allclose(got[path][base + i], expected, rtol=1e-5, atol=1e-6)


def test_names_of_old_folders(tensors, tmp_path):
    def old(name):
        return name.replace('LayerNorm.weight', 'LayerNorm.gamma').replace('LayerNorm.bias', 'LayerNorm.beta')

    renamed = {old(name): value for name, value in tensors.items()}
    renamed['bert.embeddings.position_ids'] = np.arange(32)[None]
    got, report = load(write(tmp_path / 'old', renamed))
    expected, expected_report = load(write(tmp_path / 'new', tensors))
    assert renamed.keys() != tensors.keys() and report == expected_report
    jax.tree.map(np.testing.assert_array_equal, got, expected)


def test_an_encoder_without_heads(tensors, tmp_path):
    bare = without_prefix_and_heads(tensors)
    bare['dropped.weight'] = np.ones(3, np.float32)
    got, report = load(write(tmp_path / 'bare', bare))
    expected, _ = load(write(tmp_path / 'full', tensors))
    assert report.unused == ['dropped.weight']
    assert report.random and all('_mlm/' in path or '_sop/' in path for path in report.random)
    for path, value in got.items():
        np.testing.assert_array_equal(value, UNTOUCHED if path in report.random else expected[path], path)


@pytest.mark.parametrize('form', ['safetensors', 'bin'])
@pytest.mark.parametrize('dtype', [np.float16, ml_dtypes.bfloat16], ids=['float16', 'bfloat16'])
def test_half_precision_folders(tensors, tmp_path, dtype, form):
    halved = {name: value.astype(dtype) for name, value in tensors.items()}
    got, _ = load(write(tmp_path, halved, form=form))
    query = got['word_encoder/encoder.layer.0/attention.self.query/kernel']
    assert query.dtype == np.float32
    np.testing.assert_array_equal(query, halved[f'bert.{QUERY}'].T.astype(np.float32))


@pytest.mark.parametrize('prefix', ['module.', 'model.', '0.auto_model.', 'module.model.'])
@pytest.mark.parametrize('bare', [False, True])
def test_what_a_wrapper_put_before_all_names_is_taken_off_and_named(tensors, tmp_path, prefix, bare, caplog):
    plain = without_prefix_and_heads(tensors) if bare else tensors
    wrapped = {f'{prefix}{name}': value for name, value in plain.items()} | {'loss.weight': np.ones(2)}
    got, report = load(write(tmp_path / 'wrapped', wrapped))
    assert f'its names begin with {prefix}, which is not read' in caplog.text
    expected, plainly = load(write(tmp_path / 'plain', plain))
    assert report == plainly._replace(unused=sorted([*plainly.unused, 'loss.weight']))
    jax.tree.map(np.testing.assert_array_equal, got, expected)


def test_the_plain_encoder_is_taken_where_there_is_a_second(tensors, tmp_path):
    copies = {f'ema.{name}': value + 1 for name, value in tensors.items()}
    got, report = load(write(tmp_path / 'both', tensors | copies))
    expected, _ = load(write(tmp_path / 'plain', tensors))
    assert set(copies) < set(report.unused)
    jax.tree.map(np.testing.assert_array_equal, got, expected)


@pytest.mark.parametrize('form', ['shards', 'bin-shards'])
def test_shards_of_either_kind(tensors, tmp_path, form):
    got, _ = load(write(tmp_path / 'shards', tensors, form=form))
    expected, _ = load(write(tmp_path / 'one', tensors))
    jax.tree.map(np.testing.assert_array_equal, got, expected)


@pytest.mark.parametrize('keys', [['state_dict'], ['model'], ['module', 'state_dict']], ids=str)
def test_a_training_programs_checkpoint(tensors, tmp_path, keys):
    folder = write(tmp_path / 'wrapped', tensors, form='bin')
    saved = {f'module.{name}': torch.tensor(value) for name, value in tensors.items()}
    for key in reversed(keys):
        moments = {0: {'exp_avg': torch.ones(3)}}
        saved = {'optimizer': {'state': moments}, 'epoch': 3, 'seed': torch.tensor(1), key: saved}
    torch.save(saved, folder / 'pytorch_model.bin')
    got, _ = load(folder)
    expected, _ = load(write(tmp_path / 'plain', tensors))
    jax.tree.map(np.testing.assert_array_equal, got, expected)


@pytest.mark.parametrize(
    'config', [['config.json'], ['bert_config.json'], ['config.json', 'bert_config.json']]
)
def test_folders_of_before_model_type(tensors, tmp_path, config):
    folder = write(tmp_path / 'old', tensors, form='bin')
    settings = json.loads((folder / 'config.json').read_text('utf-8'))
    del settings['model_type']
    (folder / 'config.json').unlink()
    for name in config:
        (folder / name).write_text(json.dumps(settings | {'pooler_type': 'first_token_transform'}))
    got, _ = load(folder)
    expected, _ = load(write(tmp_path / 'new', tensors))
    jax.tree.map(np.testing.assert_array_equal, got, expected)
    for change, message in (
        ({'architectures': ['AlbertForMaskedLM']}, 'describes no BERT, but a AlbertForMaskedLM'),
        ({'hidden_size': None}, 'neither model_type nor hidden_size'),
    ):
        changed = {key: value for key, value in (settings | change).items() if value is not None}
        (folder / config[0]).write_text(json.dumps(changed))
        with pytest.raises(ValueError, match=message):
            load(folder)


def test_a_model_in_a_subfolder(tensors, tmp_path):
    """As sentence-transformers saved it, with a dense layer after it; and as an archive is unpacked."""
    inner = write(tmp_path / '0_Transformer', tensors)
    (tmp_path / 'config.json').write_text('{"__version__": {"sentence_transformers": "2.0.0"}}')
    dense = tmp_path / '2_Dense'
    dense.mkdir()
    (dense / 'config.json').write_text('{"in_features": 32}')
    (dense / 'pytorch_model.bin').write_bytes(b'')
    got, report = load(tmp_path)
    expected, _ = load(inner)
    assert weight_sources.source_info(tmp_path).folder == inner and report.random
    jax.tree.map(np.testing.assert_array_equal, got, expected)
    write(tmp_path / 'another', tensors)
    with pytest.raises(ValueError, match=r'several models in it: give one of \S+0_Transformer, \S+another'):
        load(tmp_path)


ADDED = ['<e1>', '</e1>', '新冠']


@pytest.mark.parametrize('place', ['added_tokens.json', 'tokenizer_config.json', 'tokenizer.json', 'alone'])
def test_tokens_that_were_added(tensors, tmp_path, place, caplog):
    """In each file in which a version of transformers keeps them; `alone`: without a vocab.txt."""
    base = list(VOCABULARY.tokens[: synthetic.BASE_SIZE])
    name = 'bert.embeddings.word_embeddings.weight'
    more = np.concatenate([tensors[name], np.full((3, 32), 5.0, np.float32)])
    bigger = {**tensors, name: more, 'cls.predictions.decoder.weight': more}
    for bias in ('cls.predictions.bias', 'cls.predictions.decoder.bias'):
        bigger[bias] = np.concatenate([tensors[bias], np.ones(3, np.float32)])
    folder = write(tmp_path / 'bert', bigger, tokens=None if place == 'alone' else base)
    settings = json.loads((folder / 'config.json').read_text('utf-8')) | {'vocab_size': 43}
    (folder / 'config.json').write_text(json.dumps(settings))
    ids = dict(enumerate(ADDED, len(base)))
    entries = [{'id': 0, 'content': '[PAD]'}] + [{'id': row, 'content': token} for row, token in ids.items()]
    content = {
        'added_tokens.json': {token: row for row, token in ids.items()},
        'tokenizer_config.json': {'added_tokens_decoder': {str(x.pop('id')): x for x in map(dict, entries)}},
        'tokenizer.json': {'model': {'vocab': {x: i for i, x in enumerate(base)}}, 'added_tokens': entries},
    }
    file = 'tokenizer.json' if place == 'alone' else place
    (folder / file).write_text(json.dumps(content[file]), encoding='utf-8')
    assert weight_sources.source_info(folder).tokens == base + ADDED
    hf_bert.warn_about_tokenizer(folder)
    assert 'added to its tokenizer (<e1>, </e1>, 新冠), which are ordinary text here' in caplog.text
    got, _ = load(folder)  # a run without them
    expected, _ = load(write(tmp_path / 'plain', tensors))
    jax.tree.map(np.testing.assert_array_equal, got, expected)
    # A tokenizer may know tokens that the model has no rows for; an id without a token is nobody's row.
    (folder / 'config.json').write_text(json.dumps(settings | {'vocab_size': 41}))
    assert weight_sources.source_info(folder).tokens == base + ADDED[:1]
    (folder / 'config.json').write_text(json.dumps(settings | {'vocab_size': 45}))
    (folder / 'added_tokens.json').write_text(json.dumps({'龘': 44}))
    with pytest.raises(ValueError, match=r'no token has the id 4\d, though there are 4\d tokens'):
        load(folder)


# ---- what would train from random weights ----


def test_names_that_do_not_fit_are_an_error_that_lists_what_lacks(tensors, tmp_path):
    renamed = {name.replace('encoder.layer', 'transformer.h'): value for name, value in tensors.items()}
    with pytest.raises(ValueError, match='is incomplete') as error:
        load(write(tmp_path, renamed))
    message = str(error.value)
    assert 'encoder.layer.0.attention.self.query.{' in message and '(16 of the 21 parameters' in message
    assert 'It has instead: transformer.h.0.' in message and '\n' not in message


@pytest.mark.parametrize(
    'name', [QUERY, 'embeddings.LayerNorm.bias', 'embeddings.word_embeddings.weight'], ids=str
)
def test_no_part_of_an_encoder_may_be_absent(tensors, tmp_path, name):
    whole = without_prefix_and_heads(tensors)
    del whole[name]
    with pytest.raises(ValueError, match=rf'is incomplete\. It lacks: {name} \(1 of the 21 parameters'):
        load(write(tmp_path, whole))


def test_fewer_layers_than_the_run_are_an_error(tensors, tmp_path):
    lacks = r'It lacks: .*encoder\.layer\.1-2\.attention\.self\.query\.\{bias, weight\}'
    with pytest.raises(ValueError, match=lacks) as error:
        load(write(tmp_path, tensors), **{'model.num_layers': 3})
    assert 'It has 1 layers, the run 3: set --config.model.num_layers=1' in str(error.value)


def test_a_pooler_that_is_not_there_is_new(tensors, tmp_path):
    without = {name: value for name, value in tensors.items() if 'pooler' not in name}
    _, report = load(write(tmp_path, without))
    poolers = {path for path in report.random if 'pooler' in path}
    assert poolers == {f'{view}_encoder/pooler.dense/{leaf}' for view in VIEWS for leaf in ('kernel', 'bias')}


def test_more_layers_than_the_run_are_worth_a_warning(tensors, tmp_path, caplog):
    folder = write(tmp_path, tensors)
    _, report = load(folder, **{'model.num_layers': 0})
    report.log()
    (record,) = [record for record in caplog.records if 'Not used' in record.message]
    assert record.levelname == 'WARNING' and f'{QUERY.rpartition(".")[0]}.{{bias, weight}}' in record.message


def test_what_stays_random_is_warned_of(caplog):
    caplog.set_level(logging.INFO, 'clower_jax')
    init_weights.Report(['classifier/bias', 'classifier/kernel'], ['cls.predictions.bias']).log()
    assert [(record.levelname, record.message) for record in caplog.records] == [
        ('WARNING', 'Left at random values (2): classifier/{bias, kernel}'),
        ('INFO', 'Not used (1): cls.predictions.bias'),
    ]


@pytest.mark.parametrize('prefix', ['a.', 'b.bert.'])
def test_of_two_encoders_nobody_can_tell_which(tensors, tmp_path, prefix):
    two = {f'{prefix}{name}': value for name, value in without_prefix_and_heads(tensors).items()}
    two |= {f'question.{name}': value for name, value in tensors.items()}
    place = prefix.removesuffix('bert.')
    with pytest.raises(ValueError, match=rf'there are 2 encoders, under {place}, question\.: save one'):
        load(write(tmp_path, two))


# ---- what cannot be used, and what the person reads ----


def test_another_vocabulary_is_refused_by_its_tokens(tensors, tmp_path):
    tokens = list(VOCABULARY.tokens[:40])
    tokens[11] = '龘'
    lacks = rf"vocab\.txt lacks 1 of its 40 base tokens: '{VOCABULARY.tokens[11]}'\. .*--base_vocab"
    with pytest.raises(ValueError, match=lacks):
        load(write(tmp_path, tensors, tokens=tokens))
    with pytest.raises(ValueError, match=r"lacks 10 of its 40 base tokens: ('.', ){5}…\."):
        load(write(tmp_path, tensors, tokens=VOCABULARY.tokens[:30]))


def test_another_number_of_rows_is_refused(tensors, tmp_path):
    name = 'bert.embeddings.word_embeddings.weight'
    changed = {**tensors, name: tensors[name][:33]}
    with pytest.raises(ValueError, match='33 token rows and 40 tokens: they are not of one model'):
        load(write(tmp_path, changed))


def test_a_folder_without_a_vocabulary_is_refused(tensors, tmp_path):
    with pytest.raises(ValueError, match='neither vocab.txt nor tokenizer.json'):
        load(write(tmp_path, tensors, tokens=None))


def test_the_vocabulary_may_be_in_tokenizer_json(tensors, tmp_path):
    """transformers 5 saves no vocab.txt."""
    folder = write(tmp_path, tensors, tokens=None)
    ids = {token: row for row, token in reversed(list(enumerate(VOCABULARY.tokens[:40])))}
    (folder / 'tokenizer.json').write_text(json.dumps({'model': {'vocab': ids}}), encoding='utf-8')
    assert load(folder)[1].random
    ids['龘'] = ids.pop(VOCABULARY.tokens[11])
    (folder / 'tokenizer.json').write_text(json.dumps({'model': {'vocab': ids}}), encoding='utf-8')
    with pytest.raises(ValueError, match=rf"tokenizer\.json lacks .* '{VOCABULARY.tokens[11]}'"):
        load(folder)


@pytest.mark.parametrize(
    'change', [{'num_attention_heads': 2}, {'hidden_act': 'relu'}, {'layer_norm_eps': 1e-5}], ids=str
)
def test_another_function_of_the_same_shapes_is_refused(tensors, tmp_path, change):
    folder = write(tmp_path, tensors)
    settings = json.loads((folder / 'config.json').read_text('utf-8')) | change
    (folder / 'config.json').write_text(json.dumps(settings), encoding='utf-8')
    with pytest.raises(ValueError, match='describes another encoder .*' + next(iter(change))):
        load(folder)


@pytest.mark.parametrize(
    ('setting', 'value', 'name'),
    [
        ('hidden_size', 64, r'[a-z]\S+'),
        ('intermediate_size', 128, r'encoder\.layer\.0\.\S+'),
        ('max_positions', 64, r'embeddings\.position_embeddings\.weight'),
    ],
)
def test_wrong_shapes_are_named(tensors, tmp_path, setting, value, name):
    message = rf': {name} has the shape .*, the model wants .*{value}.* at .*set model\.'
    with pytest.raises(ValueError, match=message):
        load(write(tmp_path, tensors), **{f'model.{setting}': value})


def test_another_kind_of_model_is_refused(tensors, tmp_path):
    with pytest.raises(ValueError, match=r"another encoder .* model_type is 'roberta' there, 'bert' here"):
        load(write(tmp_path, tensors, model_type='roberta'))


def test_a_folder_without_weights_is_refused(tmp_path):
    with pytest.raises(ValueError, match='has none of model.safetensors'):
        load(write(tmp_path, {}, form=None))


@pytest.mark.parametrize('name', ['missing', 'empty'])
def test_a_folder_that_is_neither_is_refused(tmp_path, name):
    (tmp_path / 'empty').mkdir()
    with pytest.raises(ValueError, match=rf"'.*{name}' is neither a workdir .* nor a Hugging Face"):
        load(tmp_path / name)


# ---- another run ----


@pytest.fixture(scope='module')
def run(tensors, tmp_path_factory):
    """(workdir, log) of two steps from a Hugging Face folder; no layers, for they take longest."""
    folder = write(tmp_path_factory.mktemp('bert'), tensors)
    (folder / 'tokenizer_config.json').write_text(json.dumps({'do_lower_case': False}))
    workdir = tmp_path_factory.mktemp('run')
    config = config_of(**{'model.num_layers': 0, 'total_steps': 2, 'init_from': str(folder)})
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    logger = logging.getLogger('clower_jax')
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        train(config, workdir, lambda **at: synthetic.batches(config, **at), VOCABULARY)
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
    return workdir, lines


@pytest.mark.slow
def test_training_says_where_its_weights_are_from(run):
    log = '\n'.join(run[1])
    source = json.loads((run[0] / 'config.json').read_text('utf-8'))['init_from']
    assert f'Initial weights from {source}' in run[1]
    assert 'tokenizer_config.json has do_lower_case false' in log
    assert 'Left at random values (4): char_sop/seq_relationship/' in log
    assert 'Not used (18): ' in log and 'cls.seq_relationship.{bias, weight}' in log


@pytest.mark.slow
def test_a_workdir_gives_its_parameters(run, tensors):
    got, report = load(run[0], **{'model.num_layers': 0})
    assert report == init_weights.Report([], [])
    for path, value in got.items():
        assert not np.any(value == UNTOUCHED), path
    # Two small steps away from where it started.
    moved = got['char_encoder/pooler.dense/kernel'] - tensors['bert.pooler.dense.weight'].T
    assert 0 < np.abs(moved).max() < 0.01


@pytest.mark.slow
def test_a_workdir_of_another_shape_is_refused(run):
    name = 'embeddings/position_embeddings/embedding'
    message = rf'{name} has the shape \(32, 32\), the model wants \(48, 32\) at {name}: set model'
    with pytest.raises(ValueError, match=message):
        load(run[0], **{'model.num_layers': 0, 'model.max_positions': 48})


@pytest.mark.slow
def test_a_run_with_fewer_layers_is_an_error(run):
    with pytest.raises(ValueError, match=r'It lacks: char_encoder/encoder\.layer\.0/.* 0 layers, the run 1'):
        load(run[0])


@pytest.mark.slow
def test_rows_of_a_run_are_taken_by_token(run):
    """Words that the other run has not are the means of their pieces, whatever their place."""
    other, changes = synthetic.Vocabulary(), {'model.num_layers': 0}
    words, pieces = list(other.tokens[40:]), other.pieces()
    other.tokens = [*other.tokens[:40], *words[5:], *words[:4], '龘龘']
    other._pieces = [*pieces[5:], *pieces[:4], (7, 9)]
    params, report = init_weights.load_initial(fresh(**changes), str(run[0]), other, num_heads=4)
    table = np.asarray(params['embeddings']['word_embeddings']['embedding'])
    before = load(run[0], **changes)[0]['embeddings/word_embeddings/embedding']
    assert report == init_weights.Report([], [])
    np.testing.assert_array_equal(table[:-1], before[[*range(40), *range(45, 60), *range(40, 44)]])
    np.testing.assert_allclose(table[-1], before[[7, 9]].mean(axis=0), rtol=1e-6)


@pytest.mark.slow
def test_a_run_without_a_token_of_the_base_block_is_refused(run):
    other = synthetic.Vocabulary()
    other.tokens = [*other.tokens[:39], '龘', *other.tokens[40:]]
    with pytest.raises(ValueError, match=r"vocab\.txt lacks 1 of its 40 base tokens: '龘'"):
        init_weights.load_initial(fresh(), str(run[0]), other, num_heads=4)


def test_a_workdir_without_a_checkpoint_is_refused(tmp_path):
    (tmp_path / 'checkpoints').mkdir()
    with pytest.raises(ValueError, match='has no complete checkpoint yet'):
        load(tmp_path)


# ---- other networks than the source's ----


def load_task(source, task, labels=None, new_pooler=False, **changes):
    """What `source` gives for the network of a task over the vocabulary of `workdirs`."""
    network = registry.from_config(workdirs.config_of(task, **changes))
    params = jax.tree.map(
        lambda x: jnp.full(x.shape, UNTOUCHED, x.dtype), jax.eval_shape(network.init, jax.random.key(0))
    )
    vocabulary = workdirs.vocabulary()
    if task != 'pretrain':
        vocabulary = Vocabulary(workdirs.BASE, len(workdirs.BASE))
    classify_from = changes.get('model.classify_from', 'pooler')
    params, report = init_weights.load_initial(
        params, source, vocabulary, 4, labels, classify_from=classify_from, new_pooler=new_pooler
    )
    return jax.tree.map(np.asarray, flax.traverse_util.flatten_dict(params, sep='/')), report


@pytest.fixture(scope='module')
def sources(tmp_path_factory):
    """{task: (workdir, parameters by path)}."""
    folder = tmp_path_factory.mktemp('sources')
    names = ('pretrain', 'classify', 'span', 'tag')
    return {task: (folder / task, workdirs.make(folder / task, task)) for task in names}


@pytest.mark.slow
@pytest.mark.parametrize('task', ['classify', 'span', 'tag'])
def test_fine_tuning_takes_the_base_rows_and_the_character_encoder(sources, task):
    workdir, params = sources['pretrain']
    got, report = load_task(workdir, task)
    head = {'classify': 'classifier', 'span': 'qa_outputs', 'tag': 'tagger'}[task]
    assert report.random == [f'{head}/bias', f'{head}/kernel']
    for path in got.keys() - set(report.random):
        expected = params[path][: len(workdirs.BASE)] if 'word_embeddings' in path else params[path]
        np.testing.assert_array_equal(got[path], expected, err_msg=path)
    unused = set(params) - set(got)
    assert set(report.unused) == unused and any('pooler' in path for path in unused)
    assert any('char_encoder/pooler' in path for path in unused) == (task != 'classify')


@pytest.mark.slow
@pytest.mark.parametrize(('task', 'other'), [('tag', 'classify'), ('classify', 'tag')])
def test_a_head_over_texts_is_none_over_tokens(sources, tmp_path, task, other):
    """Though both are called 'classifier' in a Hugging Face folder, and have a logit for each of three."""
    for source in (sources[other][0], bert_folder.export(sources[other][0], tmp_path / 'hf')):
        _, report = load_task(source, task)
        head = {'classify': 'classifier', 'tag': 'tagger'}[task]
        reason = 'the source has one of that name for something else'
        assert [path for path in report.random if head in path] == [
            f'{head}/{leaf} ({reason})' for leaf in ('bias', 'kernel')
        ]


@pytest.mark.slow
def test_a_pooler_that_nothing_trained_is_not_taken(tmp_path):
    """Without sentence order its gradient is exactly 0: what the run saved is what it drew."""
    pooler = [f'char_encoder/pooler.dense/{name}' for name in ('bias', 'kernel')]
    for name, changes in {'none': {'loss.sop_on': 'none'}, 'weight': {'loss.sop_weight': 0.0}}.items():
        params = workdirs.make(tmp_path / name, 'pretrain', **changes)
        got, report = load_task(tmp_path / name, 'classify')
        assert [path for path in report.random if 'pooler' in path] == [
            f'{path} (nothing trained it in the source)' for path in pooler
        ]
        assert all(np.all(got[path] == UNTOUCHED) for path in pooler)
        query = 'char_encoder/encoder.layer.0/attention.self.query/kernel'
        np.testing.assert_array_equal(got[query], params[query])
    # An AMBERT's pooler is that of both views; one that came with initial weights was trained before.
    trained = {
        'ambert': {'model.kind': 'ambert', 'loss.sop_on': 'word', 'loss.contrast_on': 'none'},
        'begun': {'loss.sop_on': 'none', 'init_from': 'bert-base-chinese'},
    }
    for name, changes in trained.items():
        params = workdirs.make(tmp_path / name, 'pretrain', **changes)
        got, report = load_task(tmp_path / name, 'classify')
        assert not any('pooler' in path for path in report.random)
        np.testing.assert_array_equal(got[pooler[1]], params[pooler[1]])


@pytest.mark.slow
def test_sentence_order_alone_trains_the_pooler():
    config = synthetic.tiny_config(**{'loss.sop_on': 'none', 'model.num_layers': 1})
    batch = next(synthetic.batches(config))
    for on in ('none', 'both'):
        config.loss.sop_on = on
        task = Pretrain.from_config(config)
        gradient_of = jax.jit(jax.grad(lambda p, task=task: task.loss(p, batch, None)[0]))
        gradient = gradient_of(synthetic.random_params(task))
        for view in VIEWS:
            largest = np.abs(gradient[f'{view}_encoder']['pooler.dense']['kernel']).max()
            assert (largest > 0) == (on == 'both'), (view, on)


@pytest.mark.parametrize('task', ['pretrain', 'classify'])
def test_a_new_pooler_is_the_runs_own(sources, task):
    got, report = load_task(sources[task][0], 'classify', workdirs.LABELS, new_pooler=True)
    pooler = [f'char_encoder/pooler.dense/{name}' for name in ('bias', 'kernel')]
    assert {f'{path} (model.new_pooler)' for path in pooler} <= set(report.random)
    assert all(np.all(value == UNTOUCHED) == ('pooler' in path) for path, value in got.items()
               if not path.startswith('classifier'))  # fmt: skip


@pytest.mark.slow
def test_a_head_that_reads_something_else_is_not_taken(sources, tmp_path):
    """A workdir of before one could choose has a head that reads the pooler."""
    config = json.loads((sources['classify'][0] / 'config.json').read_text('utf-8'))
    assert 'classify_from' not in config['model']
    assert load_task(sources['classify'][0], 'classify', workdirs.LABELS)[1] == init_weights.Report([], [])
    workdirs.make(tmp_path / 'mean', 'classify', **{'model.classify_from': 'mean'})
    for source, theirs in ((sources['classify'][0], 'pooler'), (tmp_path / 'mean', 'mean')):
        got, report = load_task(source, 'classify', workdirs.LABELS, **{'model.classify_from': 'cls'})
        reason = f'in the source it reads {theirs}, here cls'
        assert report.random == [f'classifier/{name} ({reason})' for name in ('bias', 'kernel')]
        assert np.all(got['classifier/kernel'] == UNTOUCHED)


def test_a_fine_tuned_model_goes_into_both_encoders(sources):
    workdir, params = sources['classify']
    got, report = load_task(workdir, 'pretrain')
    assert all('_mlm/' in path or '_sop/' in path for path in report.random)
    assert report.unused == ['classifier.bias', 'classifier.weight']
    for view in VIEWS:
        for path in params:
            if path.startswith('char_encoder/'):
                np.testing.assert_array_equal(got[path.replace('char', view, 1)], params[path])
    base = len(workdirs.BASE)
    table, pieces = got['embeddings/word_embeddings/embedding'], workdirs.vocabulary().pieces()
    np.testing.assert_array_equal(table[:base], params['embeddings/word_embeddings/embedding'])
    np.testing.assert_allclose(table[base], table[list(pieces[0])].mean(axis=0), rtol=1e-6)


@pytest.mark.slow
def test_a_head_is_taken_where_the_labels_are_the_same(sources):
    workdir, params = sources['classify']
    for labels in (None, workdirs.LABELS):
        got, report = load_task(workdir, 'classify', labels)
        assert report == init_weights.Report([], [])
        np.testing.assert_array_equal(got['classifier/kernel'], params['classifier/kernel'])
    got, report = load_task(workdir, 'classify', ['a', 'b', 'c'])
    assert report.random[0].startswith('classifier/bias (its labels are 坏, 好')
    assert report.unused == ['classifier.bias', 'classifier.weight']
    assert np.all(got['classifier/kernel'] == UNTOUCHED)
    _, report = load_task(workdir, 'classify', **{'data.labels': ['a', 'b']})
    assert report.random[1] == 'classifier/kernel (the source has the shape (32, 3), the model (32, 2))'


def test_a_fine_tuned_run_gives_its_best(sources, tmp_path):
    workdirs.make(tmp_path, 'span', step=9)
    best = workdirs.make(tmp_path, 'span', shift=1, step=5, folder=BEST)
    got, _ = load_task(tmp_path, 'span')
    np.testing.assert_array_equal(got['qa_outputs/kernel'], best['qa_outputs/kernel'])


@pytest.mark.devices
def test_arrays_stay_where_the_run_has_them(sources):
    """Part of the tree, so that it goes over the host; 8 simulated devices."""
    config = workdirs.config_of('span', **{'mesh.data': 2, 'mesh.fsdp': 2, 'mesh.tensor': 2})
    network = registry.from_config(config)
    mesh = sharding.make_mesh(config)
    places = sharding.tree_shardings(mesh, jax.eval_shape(network.init, jax.random.key(0)))
    params = sharded_state(mesh, lambda: network.init(jax.random.key(0)))
    vocabulary = Vocabulary(workdirs.BASE, len(workdirs.BASE))
    loaded, _ = init_weights.load_initial(params, sources['pretrain'][0], vocabulary, 4)
    assert jax.tree.map(lambda leaf: leaf.sharding, loaded) == places
    assert len(loaded['embeddings']['word_embeddings']['embedding'].sharding.device_set) == 8


@pytest.mark.parametrize('kind', ['bert', 'lichee'])
def test_a_run_with_one_encoder_goes_into_both(tmp_path, kind):
    """Encoder and heads, as a Hugging Face folder's do."""
    params = workdirs.make(tmp_path, 'pretrain', **{'model.kind': kind, 'loss.contrast_on': 'none'})
    got, report = load_task(tmp_path, 'pretrain')
    assert report == init_weights.Report([], [])
    for path, value in got.items():
        source = re.sub(r'^word_(encoder|mlm|sop)/', r'char_\1/', path)
        np.testing.assert_array_equal(value, params[source], err_msg=path)


# ---- heads and oddities of Hugging Face folders ----


@pytest.mark.parametrize(
    ('architecture', 'task', 'head'),
    [
        (transformers.BertForSequenceClassification, 'classify', 'classifier'),
        (transformers.BertForQuestionAnswering, 'span', 'qa_outputs'),
    ],
)
def test_heads_of_hugging_face_folders(tmp_path, architecture, task, head):
    model = workdirs.bert(architecture, num_labels=3 if task == 'classify' else 2)
    got, report = load_task(workdirs.saved(model, tmp_path), task)
    assert report == init_weights.Report([], [])
    weight = model.state_dict()[f'{head}.weight'].numpy()
    np.testing.assert_array_equal(got[f'{head}/kernel'], weight.T)


def test_a_head_of_that_name_for_something_else_is_left(tmp_path):
    folder = workdirs.saved(workdirs.bert(transformers.BertForTokenClassification, num_labels=3), tmp_path)
    got, report = load_task(folder, 'classify')
    assert 'classifier/kernel (the source has one of that name for something else)' in report.random
    assert 'classifier.weight' in report.unused and np.all(got['classifier/bias'] == UNTOUCHED)


def test_a_decoder_of_its_own_is_not_dropped_in_silence(tensors, tmp_path):
    changed = {**tensors, 'cls.predictions.decoder.weight': tensors['cls.predictions.decoder.weight'] + 1}
    assert 'cls.predictions.decoder.weight' in load(write(tmp_path / 'untied', changed))[1].unused
    only = {name: value for name, value in tensors.items() if name != 'cls.predictions.bias'}
    got, report = load(write(tmp_path / 'old', only))
    np.testing.assert_array_equal(
        got['char_mlm/bias'][: synthetic.BASE_SIZE], tensors['cls.predictions.bias']
    )
    assert not any('bias' in path for path in report.random if '_mlm' in path)


@pytest.mark.parametrize(
    ('begin', 'end'), [(b'\xef\xbb\xbf', b'\n'), (b'', b'\r\n'), (b'', b'')], ids=['bom', 'crlf', 'no-end']
)
def test_a_vocabulary_of_another_editor(tmp_path, begin, end):
    folder = workdirs.saved(workdirs.bert(transformers.BertModel), tmp_path)
    lines = (end or b'\n').join(token.encode() for token in workdirs.BASE)
    (folder / 'vocab.txt').write_bytes(begin + lines + end)
    assert '\u2028' in workdirs.BASE and weight_sources.source_info(folder).tokens == workdirs.BASE


def test_a_hugging_face_folder_may_hold_others(tensors, tmp_path):
    expected = load(write(tmp_path, tensors))[1]
    (tmp_path / 'best').mkdir()
    assert load(tmp_path)[1] == expected


def test_damaged_weights_are_explained(tensors, tmp_path):
    folder = write(tmp_path, tensors)
    (folder / 'model.safetensors').write_text('version https://git-lfs.github.com/spec/v1\n')
    with pytest.raises(
        ValueError, match=r'model\.safetensors \(\d+ bytes\) cannot be read .*Git LFS pointer'
    ):
        load(folder)
    (folder / 'model.safetensors').unlink()
    write(folder, tensors, form='shards')
    (folder / 'model-00002-of-00002.safetensors').unlink()
    with pytest.raises(ValueError, match='model-00002-of-00002.safetensors is missing: copy every shard'):
        load(folder)
    (folder / 'config.json').write_text('{"model_type"')
    with pytest.raises(ValueError, match=r'config\.json is no JSON'):
        load(folder)


@pytest.mark.slow
def test_odd_files_are_named(tensors, tmp_path):
    folder = write(tmp_path, tensors, form='bin')
    weights = folder / 'pytorch_model.bin'
    for content in (b'version https://git-lfs', weights.read_bytes()[:5000]):
        weights.write_bytes(content)
        with pytest.raises(
            ValueError, match=r'pytorch_model\.bin cannot be read .*convert it to safetensors'
        ):
            load(folder)
    torch.save({'state_dict': {'a': torch.ones(1)}, 'epoch': 3}, weights)
    with pytest.raises(ValueError, match=r'holds no state dict\. Save model\.state_dict\(\) alone'):
        load(folder)
    twice = {key: {'bert.embeddings.word_embeddings.weight': torch.ones(1)} for key in ('model', 'ema')}
    torch.save(twice, weights)
    with pytest.raises(ValueError, match=r'holds state dicts of several BERTs \(model, ema\)'):
        load(folder)
    torch.save({'state_dict': {'a': object}}, weights)
    with pytest.raises(ValueError, match='or holds more than tensors'):
        load(folder)
    (folder / 'vocab.txt').write_bytes('[PAD]\n天\n'.encode('gbk'))
    with pytest.raises(ValueError, match=r'vocab\.txt:2 is not UTF-8 .*save the file as UTF-8'):
        load(folder)
    (folder / 'vocab.txt').unlink()
    for model, message in (
        ({'type': 'Unigram', 'vocab': [['a', 0]]}, "of the type Unigram; BERT's is WordPiece"),
        ({'type': 'WordPiece'}, r'has no model\.vocab'),
    ):
        (folder / 'tokenizer.json').write_text(json.dumps({'model': model}))
        with pytest.raises(ValueError, match=rf'tokenizer\.json .*{message}'):
            load(folder)
    (folder / 'config.json').write_text('[]')
    with pytest.raises(ValueError, match=r'config\.json is no JSON object'):
        load(folder)


def test_padded_rows_are_explained(tensors, tmp_path):
    folder = write(tmp_path, tensors)
    settings = json.loads((folder / 'config.json').read_text('utf-8'))
    for rows, message in ((64, r'append 24 tokens that no text has'), (30, 'not of one model')):
        (folder / 'config.json').write_text(json.dumps(settings | {'vocab_size': rows}))
        with pytest.raises(ValueError, match=rf'{rows} rows \(vocab_size\), .*40 tokens\. .*{message}'):
            load(folder)


def test_a_cased_tokenizer_is_worth_a_warning(tensors, tmp_path, caplog):
    folder = write(tmp_path, tensors)
    for lower in (True, False):
        (folder / 'tokenizer_config.json').write_text(json.dumps({'do_lower_case': lower}))
        hf_bert.warn_about_tokenizer(folder)
        assert ('do_lower_case false' in caplog.text) == (not lower)


@pytest.mark.parametrize(
    'change',
    [{'type_vocab_size': 1}, {'is_decoder': True}, {'position_embedding_type': 'relative_key'}],
    ids=str,
)
def test_what_is_no_bert_like_ours_has_no_info(tensors, tmp_path, change):
    folder = write(tmp_path, tensors)
    settings = json.loads((folder / 'config.json').read_text('utf-8')) | change
    (folder / 'config.json').write_text(json.dumps(settings), encoding='utf-8')
    with pytest.raises(ValueError, match='describes another encoder .*' + next(iter(change))):
        weight_sources.source_info(folder)


# ---- what a source says of itself ----


def test_source_info(sources, tmp_path):
    sizes = {name: workdirs.MODEL[name] for name in ('hidden_size', 'num_layers', 'num_heads')}
    base = len(workdirs.BASE)
    info = weight_sources.source_info(sources['pretrain'][0])
    assert (info.task, info.labels, info.base_size) == ('pretrain', None, base)
    assert info.tokens == workdirs.BASE + workdirs.WORDS
    assert info.model['vocab_size'] == len(info.tokens) and info.model['max_positions'] == 64
    assert info.model.items() >= sizes.items()
    info = weight_sources.source_info(sources['classify'][0])
    assert (info.task, info.labels, len(info.tokens)) == ('classify', workdirs.LABELS, base)
    plain = workdirs.saved(workdirs.bert(transformers.BertForMaskedLM), tmp_path)
    info = weight_sources.source_info(plain)
    assert (info.task, info.labels, info.model['base_vocab_size']) == (None, None, base)
    assert info.model.items() >= sizes.items() and info.tokens == workdirs.BASE
    two = workdirs.saved(workdirs.bert(transformers.BertForSequenceClassification), tmp_path)
    assert weight_sources.source_info(two).labels == ['LABEL_0', 'LABEL_1']


def test_several_seeds_are_several_sources(tmp_path):
    for seed in (0, 1):
        (tmp_path / f'seed-{seed}' / 'checkpoints').mkdir(parents=True)
    with pytest.raises(
        ValueError, match=r'a run for each of several seeds: give one of \S+seed-0, \S+seed-1'
    ):
        weight_sources.source_info(tmp_path)
