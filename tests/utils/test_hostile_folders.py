"""Folders that are damaged, or made to do harm: one line that names the file and the key, at once."""

import json
import re
import shutil
import time

import flax.traverse_util
import jax
import numpy as np
import pytest
import safetensors.numpy
import transformers

from clower_jax import Encoder, convert
from clower_jax.checkpoints.orbax_store import Checkpoints
from clower_jax.export import bert_folder
from clower_jax.interop import init_weights, weight_sources
from clower_jax.objectives import registry
from clower_jax.parallel import precision
from clower_jax.training import finetune
from helpers import synthetic, workdirs

QUERY = 'bert.encoder.layer.1.attention.self.query.weight'


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    """A classifier's folder with every file that there may be."""
    made = workdirs.saved(
        workdirs.bert(transformers.BertForSequenceClassification, num_labels=3),
        tmp_path_factory.mktemp('bert'),
    )
    bert_folder.write_tokenizer(made, workdirs.BASE, 32)
    return made


@pytest.fixture
def folder(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / 'folder')


def change(path, **changes):
    """Sets entries of a JSON file."""
    settings = json.loads(path.read_text('utf-8')) if path.is_file() else {}
    path.write_text(json.dumps(settings | changes), encoding='utf-8')


def refused(folder, message):
    """That it is refused in one line, and soon, by whoever reads such a folder."""
    for read in (Encoder.load, weight_sources.source_info):
        began = time.perf_counter()
        with pytest.raises(ValueError, match=message) as error:
            read(folder)
        assert '\n' not in str(error.value) and len(str(error.value)) < 1000
        assert time.perf_counter() - began < 2


@pytest.mark.parametrize(
    ('key', 'value'),
    [
        *(('num_hidden_layers', value) for value in (10**7, -1, '2', 2.0, True, [2])),
        *(('hidden_size', value) for value in ('32', 10**9, 0, {'a': 1})),
        *(('vocab_size', value) for value in (-1, 10**12, '69', 1.5)),
        *(('num_labels', value) for value in (10**9, 'three', 0)),
        *(('num_attention_heads', value) for value in (0, -4, 10**6)),
        *(('max_position_embeddings', value) for value in (10**10, 0)),
        *(('hidden_dropout_prob', value) for value in (float('nan'), -0.1, 'x')),
        ('architectures', 'BertModel'), ('architectures', [['BertModel']]), ('id2label', ['a']),
        ('id2label', {'0': 'a', 'x': 'b'}), ('id2label', {'0': 'a', '9' * 5000: 'b'}), ('id2label', {'0': 7}),
        ('tie_word_embeddings', 'no'), ('problem_type', 3), ('clower_jax', 'x'), ('model_type', 3),
    ],
)  # fmt: skip
def test_an_entry_of_config_json(folder, key, value):
    change(folder / 'config.json', **{key: value})
    refused(folder, rf'config\.json: {key} |config\.json describes another encoder .*{key}')


def test_heads_that_do_not_divide_the_width(folder):
    change(folder / 'config.json', num_attention_heads=5)
    refused(folder, r'config\.json: hidden_size 32 is no multiple of num_attention_heads 5')


@pytest.mark.parametrize('layers', [1, 3, 1000])
def test_other_layers_than_there_are_weights_of(folder, layers):
    change(folder / 'config.json', num_hidden_layers=layers)
    refused(folder, rf'config\.json says that there are {layers} layers, and \S+ has 2: correct')


def test_other_layers_than_a_checkpoint_has(tmp_path):
    workdirs.make(tmp_path / 'run', 'pretrain')
    settings = json.loads((tmp_path / 'run' / 'config.json').read_text('utf-8'))
    change(tmp_path / 'run' / 'config.json', model=settings['model'] | {'num_layers': 1})
    with pytest.raises(
        ValueError, match=r'config\.json says that there are 1 layers, and \S+ has 2: correct'
    ):
        Encoder.load(tmp_path / 'run')


@pytest.mark.parametrize('text', ['[' * 100_000, '{"hidden_size": ' + '9' * 5000 + '}', '\ud800'])
def test_json_that_python_does_not_read(folder, text):
    (folder / 'config.json').write_bytes(text.encode('utf-8', 'surrogatepass'))
    refused(folder, r'config\.json is no JSON')


@pytest.mark.parametrize(
    'name', ['../weights.safetensors', '/etc/weights.safetensors', 'a/b.safetensors', '..', '', 7, None]
)
def test_shards_lie_in_the_folder(folder, name):
    shutil.copy(folder / 'model.safetensors', folder.parent / 'weights.safetensors')
    (folder / 'model.safetensors').unlink()
    change(folder / 'model.safetensors.index.json', weight_map=dict.fromkeys([QUERY], name))
    with pytest.raises(
        ValueError, match=r'index\.json: weight_map has .*no plain name of a file in the same'
    ):
        Encoder.load(folder)


def test_links_are_followed(folder):
    """The files of Hugging Face's cache are links to another folder."""
    (folder / 'model.safetensors').rename(folder.parent / 'blob')
    (folder / 'model.safetensors').symlink_to(folder.parent / 'blob')
    assert Encoder.load(folder).size == 32


@pytest.mark.parametrize('path', ['../other', '/tmp', '1_Pooling/deep'])
def test_modules_lie_in_the_folder(folder, path):
    modules = [{'type': 'sentence_transformers.models.Transformer', 'path': path}]
    (folder / 'modules.json').write_text(json.dumps(modules))
    with pytest.raises(ValueError, match=r'modules\.json: path has .*no plain name of a file in the same'):
        Encoder.load(folder)


@pytest.mark.parametrize(
    ('name', 'changes', 'message'),
    [
        ('sentence_bert_config.json', {'max_seq_length': '128'}, 'max_seq_length is'),
        ('sentence_bert_config.json', {'max_seq_length': -5}, 'max_seq_length is -5'),
        ('sentence_bert_config.json', {'do_lower_case': 'yes'}, 'do_lower_case is'),
        ('1_Pooling/config.json', {'pooling_mode': 5}, 'pooling_mode is 5'),
        ('1_Pooling/config.json', {'pooling_mode': [['cls']]}, 'pooling_mode has'),
        ('1_Pooling/config.json', {'pooling_mode_mean_tokens': 'true'}, 'pooling_mode_mean_tokens is'),
        ('config_sentence_transformers.json', {'prompts': []}, 'prompts is'),
        ('config_sentence_transformers.json', {'default_prompt_name': ['a']}, 'default_prompt_name is'),
    ],
)
def test_an_entry_of_a_folder_of_sentence_transformers(folder, name, changes, message):
    kinds = (('Transformer', ''), ('Pooling', '1_Pooling'))
    modules = [{'type': f'sentence_transformers.models.{kind}', 'path': path} for kind, path in kinds]
    (folder / 'modules.json').write_text(json.dumps(modules))
    (folder / '1_Pooling').mkdir()
    (folder / '1_Pooling' / 'config.json').write_text('{}')
    change(folder / name, **changes)
    with pytest.raises(ValueError, match=rf'{name.rpartition("/")[2]}: {message}'):
        Encoder.load(folder)


@pytest.mark.parametrize(
    ('name', 'changes', 'message'),
    [
        ('tokenizer_config.json', {'model_max_length': float('nan')}, 'model_max_length is nan'),
        ('tokenizer_config.json', {'model_max_length': -1}, 'model_max_length is -1'),
        ('tokenizer_config.json', {'added_tokens_decoder': {'9' * 5000: {'content': 'x'}}}, ' has no added'),
        ('tokenizer_config.json', {'added_tokens_decoder': {'1': {'content': ['x']}}}, 'an added token has'),
        ('added_tokens.json', {'x': -3}, 'has an added token whose id should be'),
        ('tokenizer.json', {'model': {'type': 'WordPiece', 'vocab': {'[PAD]': '0'}}}, "vocab.*is '0'"),
        ('tokenizer.json', {'model': {'type': 'WordPiece', 'vocab': {}}}, 'no token has the id 1'),
        ('tokenizer.json', {'model': {'type': ['x'], 'vocab': {}}}, r"of the type \['x'\]"),
        ('tokenizer.json', {'model': 7}, 'has no model as such a file should'),
    ],
)  # fmt: skip
def test_an_entry_of_a_tokenizer(folder, name, changes, message):
    if name == 'tokenizer.json':
        (folder / 'vocab.txt').unlink()
    change(folder / name, **changes)
    with pytest.raises(ValueError, match=rf'{name}.*{message}'):
        Encoder.load(folder)


def test_ids_that_a_tokenizer_makes_up(folder):
    """They would read rows that the token table has not, and JAX gives NaN for those."""
    tokenizer = json.loads((folder / 'tokenizer.json').read_text('utf-8'))
    tokenizer['post_processor']['special_tokens']['[CLS]']['ids'] = [10**6]
    change(folder / 'tokenizer.json', **tokenizer)
    with pytest.raises(ValueError, match=r'tokenizer\.json puts ids around a text that the model has no'):
        Encoder.load(folder)


@pytest.mark.parametrize(
    ('section', 'changes', 'message'),
    [
        ('model', {'hidden_size': '32'}, "model.hidden_size is '32', and should be a whole number from 1"),
        ('model', {'num_layers': 10**7}, 'model.num_layers is 10000000'),
        ('model', {'kind': 'gpt'}, "model.kind is 'gpt'"),
        ('model', {'base_vocab_size': 10**6}, 'model.base_vocab_size is larger'),
        ('model', None, 'lacks model.hidden_size'),
        ('data', {'max_length': 'x'}, "data.max_length is 'x'"),
        ('data', {'buckets': 'x'}, "data.buckets is 'x'"),
        ('data', 'x', 'data should be an object'),
    ],
)
def test_an_entry_of_a_runs_config(tmp_path, section, changes, message):
    workdirs.make(tmp_path / 'run', 'pretrain')
    path = tmp_path / 'run' / 'config.json'
    settings = json.loads(path.read_text('utf-8'))
    settings[section] = settings[section] | changes if isinstance(changes, dict) else changes or {}
    path.write_text(json.dumps(settings))
    refused(tmp_path / 'run', rf'config\.json:? {message}')


# ---- weights that are not finite ----


@pytest.mark.parametrize('bad', [np.nan, np.inf, -np.inf])
def test_a_tensor_that_is_not_finite_is_named(folder, tmp_path, bad):
    tensors = workdirs.tensors(folder)
    tensors[QUERY][3, 4] = bad
    safetensors.numpy.save_file(tensors, folder / 'model.safetensors')
    name = re.escape(QUERY.removeprefix('bert.'))
    with pytest.raises(ValueError, match=rf'folder has NaN or infinity in {name} \(1 of '):
        Encoder.load(folder)
    with pytest.raises(ValueError, match=r'NaN or infinity in encoder\.layer\.1'):
        convert.import_weights(folder, tmp_path / 'run')
    assert not (tmp_path / 'run').exists()


def test_what_is_read_is_checked_as_fp32():
    precision.check_finite({'a': np.ones(3), 'b': np.arange(3), 'c': np.float16([1])}, 'x')
    with pytest.raises(ValueError, match=r'^x has NaN or infinity in big, text \(2 of 3 tensors\)'):
        precision.check_finite(
            {'a': np.ones(3), 'big': np.float64([1e300]), 'text': np.array(['a'], object)}, 'x'
        )


@pytest.fixture
def spoilt(tmp_path):
    """A run whose last parameters have a NaN."""
    workdirs.make(tmp_path / 'run', 'pretrain')
    with Checkpoints(tmp_path / 'run') as checkpoints:
        flat = checkpoints.load_params()
        flat['char_mlm/bias'][2] = np.nan
        checkpoints.save_params(9, flax.traverse_util.unflatten_dict(flat, sep='/'))
    return tmp_path / 'run'


@pytest.mark.slow
def test_export_refuses_what_is_not_finite(spoilt, tmp_path):
    with pytest.raises(ValueError, match=r'run has NaN or infinity in char_mlm/bias \(1 of '):
        bert_folder.export(spoilt, tmp_path / 'out')
    assert not (tmp_path / 'out').exists()
    assert bert_folder.export(spoilt, tmp_path / 'out', heads='none')  # which has no such parameter


@pytest.mark.slow
def test_a_run_does_not_start_from_what_is_not_finite(spoilt):
    drawn = synthetic.random_params(registry.from_config(workdirs.config_of('pretrain')))
    params = jax.tree.map(jax.numpy.asarray, drawn)
    with pytest.raises(ValueError, match=r'run has NaN or infinity in char_mlm/bias \(1 of '):
        init_weights.load_initial(params, spoilt, workdirs.vocabulary(), num_heads=4)


def test_a_model_is_not_used_that_is_not_finite(tmp_path):
    params = workdirs.make(tmp_path / 'run', 'classify')
    params['classifier/bias'] = np.full_like(params['classifier/bias'], np.nan)
    with Checkpoints(tmp_path / 'run') as checkpoints:
        checkpoints.save_params(9, flax.traverse_util.unflatten_dict(params, sep='/'))
    evaluator = finetune.evaluate.Evaluator.from_config(workdirs.config_of('classify'))
    with pytest.raises(ValueError, match=r'run has NaN or infinity in classifier/bias'):
        finetune.restore(tmp_path / 'run', evaluator)
