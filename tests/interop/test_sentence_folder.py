"""Folders of sentence-transformers: the library's own vectors, read from its folders and from ours."""

import json
import shutil

import numpy as np
import pytest
import transformers
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense, Normalize, Transformer
from sentence_transformers.sentence_transformer.modules import LayerNorm, Pooling

from clower_jax import Encoder, convert, jobs
from clower_jax.export.bert_folder import export
from configs import vectors
from helpers import workdirs
from helpers.sentence_folder import TEXTS

LENGTH = 20  # tokens: shorter than the last text, and than there are positions


@pytest.fixture(scope='module')
def bert(tmp_path_factory):
    """A BERT of transformers with its tokenizer."""
    folder = tmp_path_factory.mktemp('bert')
    workdirs.saved(workdirs.bert(transformers.BertModel), folder)
    transformers.BertTokenizer(vocab=str(folder / 'vocab.txt')).save_pretrained(folder)
    return folder


def saved(bert, folder, *modules, length=None):
    """The BERT and the modules as sentence-transformers saves them."""
    SentenceTransformer(modules=[Transformer(str(bert), max_seq_length=length), *modules]).save(str(folder))
    return folder


def as_before(folder):
    """The folder as version 2 of the library wrote it: the BERT in a folder of its own, other names."""
    (folder / '0_Transformer').mkdir()
    for path in list(folder.iterdir()):
        if path.is_file() and path.name not in ('modules.json', 'config_sentence_transformers.json'):
            path.rename(folder / '0_Transformer' / path.name)
    modules = json.loads((folder / 'modules.json').read_text('utf-8'))
    for module in modules:
        module['type'] = f'sentence_transformers.models.{module["type"].rpartition(".")[2]}'
    modules[0]['path'] = '0_Transformer'
    (folder / 'modules.json').write_text(json.dumps(modules))
    change(folder / '1_Pooling' / 'config.json', pooling_mode_cls_token=True, pooling_mode_mean_tokens=False)
    config = json.loads((folder / '1_Pooling' / 'config.json').read_text('utf-8'))
    del config['pooling_mode']
    (folder / '1_Pooling' / 'config.json').write_text(json.dumps(config))
    change(folder / '0_Transformer' / 'sentence_bert_config.json', max_seq_length=LENGTH, do_lower_case=True)
    change(folder / '0_Transformer' / 'tokenizer_config.json', model_max_length=40, do_lower_case=False)
    return folder


def change(path, **settings):
    """Settings of a JSON file."""
    before = json.loads(path.read_text('utf-8')) if path.is_file() else {}
    path.write_text(json.dumps(before | settings), encoding='utf-8')


def check(folder, texts=TEXTS, **options):
    """`Encoder` gives the library's vectors of the folder, and they are not all alike."""
    expected = SentenceTransformer(str(folder), device='cpu').encode(texts)
    assert np.ptp(expected) > 0.1
    encoder = Encoder.load(folder, **options)
    np.testing.assert_allclose(encoder.encode(texts), expected, rtol=0, atol=1e-5)
    return encoder


@pytest.mark.slow
@pytest.mark.parametrize('pooling', ['cls', 'mean'])
@pytest.mark.parametrize('normalize', [False, True])
@pytest.mark.parametrize('length', [None, LENGTH])
def test_a_folder_gives_its_own_vectors(bert, tmp_path, pooling, normalize, length):
    modules = [Pooling(32, pooling), *([Normalize()] if normalize else [])]
    encoder = check(saved(bert, tmp_path / 'model', *modules, length=length))
    assert (encoder.max_length, encoder.normalizes) == (length or 64, normalize)


@pytest.mark.slow
def test_a_folder_of_the_librarys_early_days(bert, tmp_path):
    folder = as_before(saved(bert, tmp_path / 'model', Pooling(32, 'mean'), Normalize()))
    encoder = check(folder)
    assert (encoder.max_length, encoder.normalizes) == (LENGTH, True)
    longer = Encoder.load(folder, 'mean', max_length=64).encode(TEXTS)
    assert np.abs(longer - encoder.encode(TEXTS)).max() > 0.1  # what the caller says counts more


@pytest.mark.slow
def test_the_default_prompt_stands_before_every_text(bert, tmp_path):
    folder = saved(bert, tmp_path / 'model', Pooling(32, 'mean'))
    plain = check(folder).encode(TEXTS)
    config = folder / 'config_sentence_transformers.json'
    change(config, prompts={'query': '我们喜欢'}, default_prompt_name='query')
    assert np.abs(check(folder).encode(TEXTS) - plain).max() > 0.1
    change(folder / '1_Pooling' / 'config.json', include_prompt=False)
    with pytest.raises(ValueError, match="1_Pooling.config.json has include_prompt false: .*'我们喜欢'"):
        Encoder.load(folder)


@pytest.mark.parametrize(
    ('modules', 'message'),
    [
        ([Pooling(32, 'max')], 'config.json has the pooling max; Encoder has mean and cls'),
        ([Pooling(32, 'lasttoken')], 'has the pooling lasttoken'),
        ([Pooling(32, ('cls', 'mean'))], r'has the pooling cls \+ mean'),
        ([Pooling(32, 'mean'), Dense(32, 16)], r'modules.json has the module Dense \(2_Dense\)'),
        ([Pooling(32, 'mean'), LayerNorm(32)], r'the module LayerNorm \(2_LayerNorm\)'),
        ([], 'modules.json has no Pooling'),
    ],
)
def test_what_is_not_done_is_named(bert, tmp_path, modules, message):
    folder = saved(bert, tmp_path / 'model', *modules)
    with pytest.raises(ValueError, match=message):
        Encoder.load(folder)
    if len(modules) < 2:  # the pooling can be the caller's own
        Encoder.load(folder, pooling='mean')


@pytest.mark.parametrize(
    ('name', 'content', 'message'),
    [
        ('modules.json', '[{"type": "my_code.Transformer", "path": ""}]', 'code of its own'),
        ('modules.json', '[]', 'names no module'),
        ('modules.json', '[', 'modules.json is no JSON'),
        ('modules.json', '{}', 'modules.json is no JSON list'),
        (
            'modules.json',
            '[{"type": "sentence_transformers.models.CLIPModel", "path": ""}]',
            'with CLIPModel',
        ),
        ('modules.json', '[{"idx": 0}]', 'a module without type or path'),
        ('1_Pooling/config.json', None, '1_Pooling/config.json is missing: copy the whole folder'),
        ('sentence_bert_config.json', '{"transformer_task": "fill-mask"}', "transformer_task 'fill-mask'"),
    ],
)
def test_a_damaged_folder(bert, tmp_path, name, content, message):
    folder = saved(bert, tmp_path / 'model', Pooling(32, 'mean'))
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        Encoder.load(folder)


# ---- ours ----


@pytest.mark.slow
@pytest.mark.parametrize('pooling', ['cls', 'mean'])
def test_our_sentence_encoders_are_folders_of_sentence_transformers(tmp_path, pooling):
    workdirs.make(tmp_path / 'run', 'mirror', **{'model.pooling': pooling})
    folder = export(tmp_path / 'run', tmp_path / 'exported')
    with (
        workdirs.warnings_of('sentence_transformers') as logged,
        workdirs.warnings_of('transformers') as logged_too,
    ):
        encoder = check(folder)
    assert not logged + logged_too and encoder.max_length == workdirs.config_of('mirror').data.max_length
    np.testing.assert_array_equal(Encoder.load(tmp_path / 'run').encode(TEXTS), encoder.encode(TEXTS))
    export(tmp_path / 'run', folder, overwrite=True)  # which is one of its own
    (folder / '1_Pooling' / 'notes.txt').write_text('mine')
    with pytest.raises(ValueError, match=r'no export wrote \(1_Pooling/notes\.txt\)'):
        export(tmp_path / 'run', folder, overwrite=True)


@pytest.mark.slow
def test_it_is_judged_as_long_as_it_reads(tmp_path):
    workdirs.make(tmp_path / 'run', 'mirror')
    folder = export(tmp_path / 'run', tmp_path / 'exported')
    long = TEXTS[-1]
    (tmp_path / 'pairs.tsv').write_text(f'{long}\t今天\t1\n今天\t天气\t3\n', encoding='utf-8')
    config = vectors.get_config('similarity')
    config.init_from, config.data.test = str(folder), str(tmp_path / 'pairs.tsv')
    jobs.run(jobs.Job(config, 'configs/vectors.py:similarity', tmp_path / 'judged'))
    a, b = Encoder.load(folder).encode([long, '今天'], normalize=True)
    first, _ = (tmp_path / 'judged' / 'predictions.json').read_text('utf-8').splitlines()
    assert json.loads(first)['cosine'] == pytest.approx(float(a @ b), abs=1e-5)


@pytest.mark.slow
def test_a_pooler_that_nothing_trained_is_zeros_and_not_read(tmp_path):
    workdirs.make(tmp_path / 'run', 'mirror')
    folder = export(tmp_path / 'run', tmp_path / 'exported')
    assert not any(value.any() for name, value in workdirs.tensors(folder).items() if 'pooler' in name)
    assert 'Nothing trained a pooler, so it is all zeros' in (folder / 'README.md').read_text('utf-8')
    random = convert.import_weights(folder, tmp_path / 'imported').random
    for encoder in ('char_encoder', 'word_encoder'):
        assert f'{encoder}/pooler.dense/kernel (nothing trained it in the source)' in random


def test_other_exports_say_nothing_of_pooling(tmp_path):
    workdirs.make(tmp_path / 'run', 'pretrain')
    folder = export(tmp_path / 'run', tmp_path / 'exported')
    assert not (folder / 'modules.json').exists()


@pytest.mark.slow
def test_a_bert_where_such_folders_have_it(bert, tmp_path):
    shutil.copytree(bert, tmp_path / 'model' / '0_Transformer')
    found = Encoder.load(tmp_path / 'model').encode(TEXTS)
    np.testing.assert_array_equal(found, Encoder.load(bert).encode(TEXTS))
