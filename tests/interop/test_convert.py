"""Import, and round trips: nothing changes on the way from Hugging Face to a workdir and back."""

import json
import shutil

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import safetensors.numpy
import transformers
from ml_collections import ConfigDict

from clower_jax import convert
from clower_jax.checkpoints.orbax_store import Checkpoints
from clower_jax.checkpoints.train_state import TrainState, abstract_params
from clower_jax.export.bert_folder import export
from clower_jax.interop import init_weights, weight_sources
from clower_jax.objectives import registry
from clower_jax.parallel import sharding
from helpers import synthetic, workdirs
from input_pipeline.text.vocabulary import Vocabulary

ARCHITECTURES = {
    'BertModel': {},
    'BertForMaskedLM': {},
    'BertForSequenceClassification': {
        'id2label': dict(enumerate(workdirs.LABELS)),
        'label2id': {label: i for i, label in enumerate(workdirs.LABELS)},
    },
    'BertForQuestionAnswering': {},
}


@pytest.fixture(scope='module')
def imported(tmp_path_factory):
    """A function from an architecture to (torch model, its folder, the workdir made of it, the report)."""
    made = {}

    def of(name):
        if name not in made:
            path = tmp_path_factory.mktemp(name)
            model = workdirs.bert(getattr(transformers, name), **ARCHITECTURES.get(name, {}))
            folder = workdirs.saved(model, path / 'bert')
            report = convert.import_weights(folder, path / 'run')
            made[name] = model, folder, path / 'run', report
        return made[name]

    return of


def assert_same(got: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        assert got[name].dtype == value.dtype, name
        np.testing.assert_array_equal(got[name], value, err_msg=name)


# ---- round trips ----


@pytest.mark.slow
@pytest.mark.parametrize('name', ARCHITECTURES)
def test_hugging_face_to_a_workdir_and_back(imported, tmp_path, name):
    _, folder, workdir, _ = imported(name)
    back = export(workdir, tmp_path / 'back')
    assert_same(workdirs.tensors(back), workdirs.tensors(folder))
    got, expected = workdirs.settings(back), workdirs.settings(folder)
    for key in expected.keys() - {'transformers_version', 'attn_implementation', 'use_cache'}:
        assert got.get(key, transformers.BertConfig().to_dict()[key]) == expected[key], key
    assert (back / 'vocab.txt').read_bytes() == (folder / 'vocab.txt').read_bytes()


@pytest.mark.slow
def test_a_next_sentence_head_is_listed_and_left(imported, tmp_path):
    _, folder, workdir, report = imported('BertForPreTraining')
    assert report.unused == ['cls.seq_relationship.bias', 'cls.seq_relationship.weight']
    assert all('_sop/' in path for path in report.random) and len(report.random) == 4
    expected = {k: v for k, v in workdirs.tensors(folder).items() if 'seq_relationship' not in k}
    assert_same(workdirs.tensors(export(workdir, tmp_path / 'back')), expected)


@pytest.mark.slow
@pytest.mark.parametrize('lower', [True, False])
def test_a_cased_tokenizer_is_worth_a_warning(imported, tmp_path, caplog, lower):
    folder = shutil.copytree(imported('BertModel')[1], tmp_path / 'bert')
    (folder / 'tokenizer_config.json').write_text(json.dumps({'do_lower_case': lower}))
    convert.import_weights(folder, tmp_path / 'run')
    assert ('do_lower_case false' in caplog.text) == (not lower)


@pytest.mark.slow
@pytest.mark.parametrize('options', [{}, {'keep_word_rows': True}], ids=str)
def test_our_own_folders_come_back(tmp_path, options):
    """With the sentence-order head, which is none for next sentences, and the words."""
    workdirs.make(tmp_path / 'run', 'pretrain')
    first = export(tmp_path / 'run', tmp_path / 'first', **options)
    assert convert.import_weights(first, tmp_path / 'again') == init_weights.Report([], [])
    second = export(tmp_path / 'again', tmp_path / 'second', **options)
    assert_same(workdirs.tensors(second), workdirs.tensors(first))
    assert 'cls.seq_relationship.weight' in workdirs.tensors(first)
    assert workdirs.settings(second) == workdirs.settings(first)
    names = {path.name for path in first.iterdir()}
    assert names == {path.name for path in second.iterdir()}
    for name in names - {'README.md'}:
        assert (first / name).read_bytes() == (second / name).read_bytes(), name


@pytest.mark.parametrize('task', ['classify', 'span', 'tag'])
def test_our_own_fine_tuned_folders_come_back(tmp_path, task):
    params = workdirs.make(tmp_path / 'run', task)
    convert.import_weights(export(tmp_path / 'run', tmp_path / 'out'), tmp_path / 'again')
    with Checkpoints(tmp_path / 'again', read_only=True) as checkpoints:
        assert_same(checkpoints.load_params(), params)


# ---- an imported workdir in use ----


@pytest.mark.slow
@pytest.mark.parametrize('name', ['BertForSequenceClassification', 'BertForQuestionAnswering'])
def test_an_imported_head_is_ready_to_evaluate(imported, name):
    model, _, workdir, report = imported(name)
    config = ConfigDict(workdirs.settings(workdir))
    network = registry.from_config(config)
    mesh = sharding.make_mesh(workdirs.config_of('span'))
    assert report == init_weights.Report([], []) and config.dtype == 'float32'
    with Checkpoints(workdir, read_only=True) as checkpoints:
        params = checkpoints.restore_params(abstract_params(mesh, network.init))
    batch = workdirs.padded_batch(len(workdirs.BASE))
    logits = network.model.apply({'params': params}, batch['input_ids'], batch['token_type_ids'])
    out = workdirs.torch_outputs(model, batch)
    if config.task == 'classify':
        assert list(config.data.labels) == workdirs.LABELS
        np.testing.assert_allclose(logits, out.logits, rtol=0, atol=1e-5)
    else:
        real = batch['attention_mask'] == 1
        expected = np.stack([out.start_logits, out.end_logits], axis=-1)
        np.testing.assert_allclose(logits[real], expected[real], rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize('name', ['BertModel', 'BertForMaskedLM'])
def test_runs_start_from_an_imported_workdir_as_from_its_source(imported, name):
    """What the source has not is absent from the workdir too, though random values are saved there."""
    _, folder, workdir, report = imported(name)
    task = registry.from_config(workdirs.config_of('pretrain'))
    fresh = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), synthetic.initial_shapes(task))
    loaded = []
    for source in (folder, workdir):
        params, found = init_weights.load_initial(fresh, source, workdirs.vocabulary(), 4)
        flat = flax.traverse_util.flatten_dict(params, sep='/')
        loaded.append({path: np.asarray(value) for path, value in flat.items()})
        assert sorted(found.random) == sorted(report.random) and found.unused == []
    assert report.random and len(loaded[0]) > 60
    assert_same(*loaded)


@pytest.mark.slow
def test_what_was_drawn_is_not_taken_though_all_the_shapes_are_the_same(imported):
    _, _, workdir, report = imported('BertModel')
    changes = {'model.vocab_size': len(workdirs.BASE)}
    task = registry.from_config(workdirs.config_of('pretrain', **changes))
    fresh = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), synthetic.initial_shapes(task))
    vocabulary = Vocabulary(workdirs.BASE, len(workdirs.BASE))
    params, found = init_weights.load_initial(fresh, workdir, vocabulary, 4)
    assert sorted(found.random) == sorted(report.random)
    flat = flax.traverse_util.flatten_dict(params, sep='/')
    assert {path for path, value in flat.items() if not np.any(value)} == set(report.random)


@pytest.mark.slow
def test_what_a_source_has_not_is_drawn_as_a_new_run_draws_it(imported):
    _, _, workdir, report = imported('BertModel')
    assert set(workdirs.settings(workdir)['imported']['random']) == set(report.random)
    assert all(('_mlm/' in path) or ('_sop/' in path) for path in report.random) and len(report.random) == 14
    base = len(workdirs.BASE)
    task = registry.from_config(workdirs.config_of('pretrain', **{'model.vocab_size': base}))
    drawn = flax.traverse_util.flatten_dict(task.init(jax.random.key(0)), sep='/')
    with Checkpoints(workdir, read_only=True) as checkpoints:
        saved = checkpoints.load_params(report.random)
    for path in report.random:
        np.testing.assert_allclose(saved[path], drawn[path], rtol=1e-6, err_msg=path)


def test_training_does_not_go_on_in_an_imported_workdir(imported):
    *_, workdir, _ = imported('BertForQuestionAnswering')
    with Checkpoints(workdir, read_only=True) as checkpoints:
        params = flax.traverse_util.unflatten_dict(checkpoints.load_params(), sep='/')
        state = TrainState.create(params, optax.sgd(0.1), 'float32')
        with pytest.raises(ValueError, match='holds parameters alone.* --config.init_from='):
            checkpoints.restore(state)


# ---- what cannot be imported ----


def test_a_folder_in_the_way_is_kept(imported, tmp_path):
    _, folder, workdir, _ = imported('BertModel')
    (tmp_path / 'notes.txt').write_text('mine')
    with pytest.raises(ValueError, match='is in the way: give a folder that does not exist yet'):
        convert.import_weights(folder, tmp_path)
    with pytest.raises(ValueError, match='is a workdir already'):
        convert.import_weights(workdir, tmp_path / 'new')
    assert [path.name for path in tmp_path.iterdir()] == ['notes.txt']


@pytest.mark.parametrize(
    ('architecture', 'absent', 'path'),
    [
        ('BertModel', 'encoder.layer.1.output.dense.bias', 'encoder.layer.1.output.dense.bias'),
        ('BertForQuestionAnswering', 'qa_outputs.bias', 'qa_outputs/bias'),
        ('BertForSequenceClassification', 'bert.pooler.dense.weight', 'char_encoder/pooler.dense/kernel'),
    ],
)
def test_half_a_model_is_refused(tmp_path, architecture, absent, path):
    folder = workdirs.saved(workdirs.bert(getattr(transformers, architecture)), tmp_path / 'bert')
    tensors = workdirs.tensors(folder)
    del tensors[absent]
    safetensors.numpy.save_file(tensors, folder / 'model.safetensors')
    with pytest.raises(ValueError, match=rf'is incomplete\. It lacks: {path}'):
        convert.import_weights(folder, tmp_path / 'run')
    assert [path.name for path in tmp_path.iterdir()] == ['bert']


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'problem_type': 'regression'}, 'it gives 2 scores, ours one'),
        ({'problem_type': 'multi_label_classification', 'num_labels': 1}, 'it has 1 label, ours several'),
        ({'num_labels': 1}, 'it has 1 label, ours several'),
    ],
    ids=str,
)
def test_a_classifier_of_another_kind_is_no_classifier(tmp_path, change, message):
    model = workdirs.bert(transformers.BertForSequenceClassification, **change)
    folder = workdirs.saved(model, tmp_path / 'bert')
    with pytest.raises(ValueError, match=f'a classifier of another kind: {message}'):
        convert.import_weights(folder, tmp_path / 'run')
    assert weight_sources.source_info(folder).task is None  # an encoder all the same
    assert [path.name for path in tmp_path.iterdir()] == ['bert']


@pytest.mark.slow
def test_a_word_encoder_is_no_source_of_characters(tmp_path):
    workdirs.make(tmp_path / 'run', 'pretrain')
    folder = export(tmp_path / 'run', tmp_path / 'words', encoder='word')
    with pytest.raises(ValueError, match='holds a word encoder.*export the character encoder'):
        convert.import_weights(folder, tmp_path / 'again')
    assert weight_sources.source_info(folder).kind == 'word'


@pytest.mark.slow
def test_a_decoder_of_its_own_leaves_the_head_behind(tmp_path):
    model = workdirs.bert(transformers.BertForMaskedLM, tie_word_embeddings=False)
    report = convert.import_weights(workdirs.saved(model, tmp_path / 'bert'), tmp_path / 'run')
    head = [path for path in report.random if path.startswith('char_mlm/')]
    assert len(head) == 5 and all('decoder that is not the token table' in path for path in head)
    assert 'cls.predictions.decoder.weight' in report.unused
    back = workdirs.tensors(export(tmp_path / 'run', tmp_path / 'back'))
    assert not any('cls.' in name for name in back)


def test_the_output_may_be_a_link_to_an_empty_folder_but_not_below_a_file(imported, tmp_path):
    _, folder, *_ = imported('BertModel')
    (tmp_path / 'disk').mkdir()
    (tmp_path / 'link').symlink_to(tmp_path / 'disk')
    convert.import_weights(folder, tmp_path / 'link')
    assert (tmp_path / 'link').is_symlink() and weight_sources.is_workdir(tmp_path / 'disk')
    (tmp_path / 'file').write_text('mine')
    with pytest.raises(ValueError, match='file is a file, no folder'):
        convert.import_weights(folder, tmp_path / 'file' / 'run')


def test_the_commands(imported, tmp_path, capsys):
    _, folder, *_ = imported('BertForPreTraining')
    convert.main(['import', '--source', str(folder), '--output', str(tmp_path / 'run')])
    output = capsys.readouterr().out
    assert 'Left at random values (4): char_sop/' in output and 'Not used (2): cls.seq_relationship' in output
    with pytest.raises(SystemExit, match='convert import: .*nothing.* is neither a workdir'):
        convert.main(['import', '--source', str(tmp_path / 'nothing'), '--output', str(tmp_path / 'new')])
    assert not (tmp_path / 'new').exists()


def test_a_vocabulary_keeps_its_rows(imported):
    """U+2028 is a token, no end of a line."""
    *_, workdir, _ = imported('BertModel')
    tokens = weight_sources.source_info(workdir).tokens
    assert tokens == workdirs.BASE and Vocabulary(tokens, len(tokens)).tokens == workdirs.BASE
