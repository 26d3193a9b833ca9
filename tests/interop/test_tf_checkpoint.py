"""Google's TensorFlow checkpoints, written here from small random models as Google's code writes them."""

import json

import numpy as np
import pytest
import transformers

from clower_jax import convert
from clower_jax.export.bert_folder import export
from clower_jax.interop import init_weights, tf_checkpoint, weight_sources
from helpers import workdirs
from input_pipeline.utils.tensorflow import tf

HEADS = {
    'cls.predictions.bias': 'cls/predictions/output_bias',
    'cls.seq_relationship.weight': 'cls/seq_relationship/output_weights',
    'cls.seq_relationship.bias': 'cls/seq_relationship/output_bias',
    'classifier.weight': 'output_weights',
    'classifier.bias': 'output_bias',
    'qa_outputs.weight': 'cls/squad/output_weights',
    'qa_outputs.bias': 'cls/squad/output_bias',
}


def tensorflow_name(name: str) -> str:
    """Of a tensor of a Hugging Face BERT."""
    if name in HEADS:
        return HEADS[name]
    name = name.replace('LayerNorm.weight', 'LayerNorm.gamma').replace('LayerNorm.bias', 'LayerNorm.beta')
    name = name.replace('embeddings.weight', 'embeddings').replace('.weight', '.kernel')
    return name.replace('layer.', 'layer_').replace('.', '/')


def write(folder, model, prefix='bert_model.ckpt', optimizer=True, named=tensorflow_name):
    """The folder of a checkpoint, as Google's archives have it, with the optimiser's states or without;
    `named` says how a tensor of the model is called there."""
    folder.mkdir(exist_ok=True)
    variables = {}
    for name, value in model.state_dict().items():
        if 'decoder' not in name and 'position_ids' not in name:
            value = value.numpy()
            stored = named(name)
            variables[stored] = value.T if stored.endswith('kernel') else value
    if optimizer:
        slots = [(f'{name}/adam_{kind}', np.ones_like(v)) for name, v in variables.items() for kind in 'mv']
        variables |= dict(slots) | {'global_step': np.int64(7)}
    tf.raw_ops.SaveV2(
        prefix=str(folder / prefix),
        tensor_names=list(variables),
        shape_and_slices=[''] * len(variables),
        tensors=[tf.constant(value) for value in variables.values()],
    )
    config = {name: value for name, value in workdirs.BERT.items() if name != 'attn_implementation'}
    config |= {'hidden_act': 'gelu', 'type_vocab_size': 2, 'pooler_type': 'first_token_transform'}
    (folder / 'bert_config.json').write_text(json.dumps(config))
    (folder / 'vocab.txt').write_bytes(''.join(f'{token}\n' for token in workdirs.BASE).encode())
    return folder


@pytest.fixture(scope='module')
def pretrained(tmp_path_factory):
    """(torch model, folder of its TensorFlow checkpoint)."""
    model = workdirs.bert(transformers.BertForPreTraining)
    return model, write(tmp_path_factory.mktemp('tf') / 'chinese_L-2_H-32_A-4', model)


@pytest.mark.slow
def test_every_variable_comes_back(pretrained, tmp_path):
    model, folder = pretrained
    report = convert.import_weights(folder, tmp_path / 'run')
    assert all('_sop/' in path for path in report.random) and len(report.random) == 4
    *heads, states = report.unused
    assert heads == ['cls.seq_relationship.bias', 'cls.seq_relationship.weight']
    model.save_pretrained(tmp_path / 'bert')
    expected = workdirs.tensors(tmp_path / 'bert')
    assert states == f'{2 * len(expected) + 1} states of the optimiser'
    got = workdirs.tensors(export(tmp_path / 'run', tmp_path / 'out'))
    assert got.keys() == expected.keys() - set(heads)
    for name, value in got.items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize(
    ('architecture', 'task'),
    [
        (transformers.BertForSequenceClassification, 'classify'),
        (transformers.BertForQuestionAnswering, 'span'),
    ],
)
def test_fine_tuned_checkpoints(tmp_path, architecture, task):
    model = workdirs.bert(architecture, num_labels=3 if task == 'classify' else 2)
    folder = write(tmp_path / 'tf', model, prefix='model.ckpt-343', optimizer=False)
    info = weight_sources.source_info(folder)
    assert info.task == task
    assert info.labels == (['LABEL_0', 'LABEL_1', 'LABEL_2'] if task == 'classify' else None)
    assert convert.import_weights(folder, tmp_path / 'run') == init_weights.Report([], [])
    batch = workdirs.padded_batch(len(workdirs.BASE))
    exported = architecture.from_pretrained(export(tmp_path / 'run', tmp_path / 'out'))
    for name, value in vars(workdirs.torch_outputs(model, batch)).items():
        again = getattr(workdirs.torch_outputs(exported.eval(), batch), name)
        np.testing.assert_allclose(again, value, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_what_a_wrapper_put_before_all_names_is_taken_off_and_named(pretrained, tmp_path, caplog):
    model, plain = pretrained
    folder = write(tmp_path / 'tf', model, named=lambda name: f'module/{tensorflow_name(name)}')
    report = convert.import_weights(folder, tmp_path / 'run')
    assert 'its names begin with module/, which is not read' in caplog.text
    assert report == convert.import_weights(plain, tmp_path / 'expected')
    got, expected = (
        workdirs.tensors(export(tmp_path / name, tmp_path / f'{name}-hf')) for name in ('run', 'expected')
    )
    assert got.keys() == expected.keys()
    for name, value in got.items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)


def test_names_that_do_not_fit_are_an_error(pretrained, tmp_path):
    """As TensorFlow 2 names what Keras keeps."""
    number = {name: f'model/layer-{i}/.ATTRIBUTES' for i, name in enumerate(pretrained[0].state_dict())}
    folder = write(tmp_path / 'tf', pretrained[0], named=number.__getitem__)
    with pytest.raises(ValueError, match=r'is incomplete\. It lacks: .*\(37 of the 37 parameters') as error:
        convert.import_weights(folder, tmp_path / 'run')
    assert 'It has instead: model.layer-0..ATTRIBUTES' in str(error.value)


def test_a_checkpoint_in_an_archives_folder(pretrained):
    _, folder = pretrained
    assert weight_sources.source_info(folder.parent) == weight_sources.source_info(folder)


def test_info_of_a_folder_or_a_prefix(pretrained):
    _, folder = pretrained
    info = weight_sources.source_info(folder)
    assert info == weight_sources.source_info(folder / 'bert_model.ckpt')
    assert info == weight_sources.source_info(folder / 'bert_model.ckpt.index')
    assert (info.task, info.labels, info.tokens) == (None, None, workdirs.BASE)
    assert info.model['num_heads'] == 4 and info.model['vocab_size'] == len(workdirs.BASE)


def test_names():
    for name in workdirs.bert(transformers.BertForPreTraining).state_dict():
        if 'decoder' not in name:
            again = tf_checkpoint.hugging_face_name(tensorflow_name(name))
            assert again == name.removeprefix('bert.')


# ---- what cannot be used, and what the person reads ----


def test_several_checkpoints_in_a_folder(tmp_path):
    for name in ('model.ckpt-1.index', 'model.ckpt-2.index'):
        (tmp_path / name).touch()
    with pytest.raises(ValueError, match=r'several TensorFlow checkpoints: give one of \S+ckpt-1, \S+ckpt-2'):
        weight_sources.source_info(tmp_path)


def test_a_checkpoint_without_its_config(pretrained, tmp_path):
    (tmp_path / 'bert_model.ckpt.index').touch()
    with pytest.raises(ValueError, match='has no bert_config.json'):
        weight_sources.source_info(tmp_path)


@pytest.mark.parametrize('damage', ['index', 'data'])
def test_a_damaged_checkpoint(pretrained, tmp_path, damage):
    folder = write(tmp_path / 'tf', pretrained[0], optimizer=False)
    path = next(folder.glob(f'*.{damage}*'))
    if damage == 'index':
        path.write_bytes(path.read_bytes()[:40])
    else:
        path.unlink()
    with pytest.raises(
        ValueError, match='is no TensorFlow checkpoint that can be read .*copy or unpack both'
    ):
        convert.import_weights(folder, tmp_path / 'run')


@pytest.mark.parametrize('kind', ['index', 'data'])
def test_a_checkpoint_that_is_cut_short(pretrained, tmp_path, kind):
    folder = write(tmp_path / 'tf', pretrained[0], optimizer=False)
    path = next(folder.glob(f'*.{kind}*'))
    whole = path.read_bytes()
    for left in (0, 1, len(whole) // 2, len(whole) - 50, len(whole) - 1):
        path.write_bytes(whole[:left])
        with pytest.raises(ValueError, match='is no TensorFlow checkpoint that can be read') as error:
            tf_checkpoint.read_tensors(folder / 'bert_model.ckpt')
        assert '\n' not in str(error.value)
