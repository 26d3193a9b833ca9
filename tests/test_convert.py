"""Initial weights from Hugging Face folders of every vintage, and from another run."""

import json
import logging

import flax.traverse_util
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
import synthetic
import torch
import transformers

from clower_jax import convert
from clower_jax.tasks import Pretrain
from clower_jax.train import train

VIEWS = ('char', 'word')
SIZE = {'hidden_size': 32, 'intermediate_size': 64, 'num_attention_heads': 4, 'num_hidden_layers': 1}
UNTOUCHED = 7.0  # where no weight of the source goes
VOCABULARY = synthetic.Vocabulary()
QUERY = 'encoder.layer.0.attention.self.query.weight'


def config_of(**changes):
    return synthetic.tiny_config(**{'model.num_layers': 1, **changes})


def fresh(**changes) -> dict:
    """The parameters of a new run, each entry UNTOUCHED."""
    task = Pretrain.from_config(config_of(**changes), data_shards=1)
    shapes = jax.eval_shape(task.init, jax.random.key(0))
    return jax.tree.map(lambda x: jnp.full(x.shape, UNTOUCHED, x.dtype), shapes)


def load(folder, **changes) -> tuple[dict[str, np.ndarray], convert.Report]:
    params, report = convert.load_initial(fresh(**changes), str(folder), VOCABULARY, num_heads=4)
    return jax.tree.map(np.asarray, flax.traverse_util.flatten_dict(params, sep='/')), report


@pytest.fixture(scope='module')
def tensors() -> dict[str, np.ndarray]:
    """What transformers would save of a tiny BERT with its pre-training heads, all of it random."""
    shape = transformers.BertConfig(
        vocab_size=synthetic.BASE_SIZE, max_position_embeddings=32, tie_word_embeddings=False, **SIZE
    )
    names = transformers.BertForPreTraining(shape).state_dict()
    rng = np.random.default_rng(0)
    return {name: rng.normal(size=value.shape).astype(np.float32) for name, value in names.items()}


def write(folder, tensors, *, form='safetensors', model_type='bert', tokens=VOCABULARY.tokens[:40]):
    """A Hugging Face folder."""
    folder.mkdir(exist_ok=True)
    (folder / 'config.json').write_text(json.dumps({'model_type': model_type, **SIZE}))
    if tokens is not None:
        (folder / 'vocab.txt').write_text(''.join(f'{token}\n' for token in tokens), encoding='utf-8')
    if form == 'safetensors':
        safetensors.numpy.save_file(tensors, folder / 'model.safetensors')
    elif form == 'shards':
        weight_map = {}
        for i, name in enumerate(tensors):
            weight_map[name] = f'model-{i % 2 + 1:05}-of-00002.safetensors'
        for shard in set(weight_map.values()):
            part = {name: value for name, value in tensors.items() if weight_map[name] == shard}
            safetensors.numpy.save_file(part, folder / shard)
        (folder / 'model.safetensors.index.json').write_text(json.dumps({'weight_map': weight_map}))
    elif form == 'bin':

        def to_torch(x):  # by way of fp32: torch knows no NumPy bfloat16
            return torch.tensor(np.float32(x)).to(getattr(torch, x.dtype.name))

        torch.save({name: to_torch(x) for name, x in tensors.items()}, folder / 'pytorch_model.bin')
    return folder


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


def test_layers_that_differ_in_number_are_reported(tensors, tmp_path):
    _, report = load(write(tmp_path, tensors), **{'model.num_layers': 2})
    assert 'word_encoder/encoder.layer.1/output.dense/kernel' in report.random


# ---- what cannot be used, and what the person reads ----


def test_another_vocabulary_is_refused_by_its_row(tensors, tmp_path):
    tokens = list(VOCABULARY.tokens[:40])
    tokens[11] = '龘'
    with pytest.raises(ValueError, match=rf"vocab\.txt:12 is '龘', the corpus has '{VOCABULARY.tokens[11]}'"):
        load(write(tmp_path, tensors, tokens=tokens))
    with pytest.raises(ValueError, match=r'vocab\.txt:31 is nothing, the corpus has'):
        load(write(tmp_path, tensors, tokens=VOCABULARY.tokens[:30]))


def test_another_number_of_rows_is_refused(tensors, tmp_path):
    name = 'bert.embeddings.word_embeddings.weight'
    changed = {**tensors, name: tensors[name][:33]}
    with pytest.raises(ValueError, match='33 token rows, the base block .* 40: .*--base_vocab'):
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
    with pytest.raises(ValueError, match=r"tokenizer\.json, id 11, is '龘'"):
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
    with pytest.raises(ValueError, match=rf"init_from='.*{name}'.*neither a workdir .* nor a Hugging Face"):
        load(tmp_path / name)


# ---- another run ----


@pytest.fixture(scope='module')
def run(tensors, tmp_path_factory):
    """(workdir, log) of two steps from a Hugging Face folder; no layers, for they take longest."""
    folder = write(tmp_path_factory.mktemp('bert'), tensors)
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


def test_training_says_where_its_weights_are_from(run):
    log = '\n'.join(run[1])
    assert 'Initial weights from' in log
    assert 'Left at random values (4): ' in log and 'char_sop/seq_relationship/kernel' in log
    assert 'Not used (18): cls.seq_relationship.bias, cls.seq_relationship.weight, encoder.layer.0.' in log


def test_a_workdir_gives_its_parameters(run, tensors):
    got, report = load(run[0], **{'model.num_layers': 0})
    assert report == convert.Report([], [])
    for path, value in got.items():
        assert not np.any(value == UNTOUCHED), path
    # Two small steps away from where it started.
    moved = got['char_encoder/pooler.dense/kernel'] - tensors['bert.pooler.dense.weight'].T
    assert 0 < np.abs(moved).max() < 0.01


def test_a_workdir_of_another_shape_is_refused(run):
    with pytest.raises(ValueError, match='holds another model than the config') as error:
        load(run[0], **{'model.max_positions': 48})
    text = str(error.value)
    assert 'embeddings/position_embeddings/embedding: (32, 32) saved, (48, 32) wanted' in text
    assert 'char_encoder/encoder.layer.0/attention.output.dense/kernel: in this model, not saved' in text


def test_a_workdir_of_another_vocabulary_is_refused(run):
    other = synthetic.Vocabulary()
    other.tokens = [*other.tokens[:59], '龘龘']
    with pytest.raises(ValueError, match=r"vocab\.txt:60 is .* the corpus has '龘龘'"):
        convert.load_initial(fresh(), str(run[0]), other, num_heads=4)


def test_a_workdir_without_a_checkpoint_is_refused(tmp_path):
    (tmp_path / 'checkpoints').mkdir()
    with pytest.raises(ValueError, match='has no complete checkpoint yet'):
        load(tmp_path)
