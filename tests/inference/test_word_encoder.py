"""The word encoder in use: vectors of texts, and fine-tuning, on words."""

import json

import jax
import numpy as np
import pytest
import transformers
from transformers import AutoModel, AutoModelForSequenceClassification

from clower_jax import Encoder, convert, jobs
from clower_jax.export.bert_folder import export
from clower_jax.interop import init_weights
from clower_jax.objectives import registry
from clower_jax.training import finetune
from clower_jax.training.inherited_settings import resolve_source, with_trained_settings
from configs import classify, cmrc, mirror
from helpers import synthetic, workdirs
from helpers.sentence_folder import TEXTS
from input_pipeline.datasets import labelled
from input_pipeline.finetuning import classification
from input_pipeline.finetuning import data as finetuning_data
from input_pipeline.text.model_inputs import MODEL_INPUTS
from input_pipeline.text.vocabulary import Vocabulary
from input_pipeline.text.word_tokenizer import WordTokenizer


@pytest.fixture(scope='module')
def pretrained(tmp_path_factory):
    """(workdir, the exported word encoder)."""
    folder = tmp_path_factory.mktemp('words')
    workdirs.make(folder / 'run', 'pretrain')
    return folder / 'run', export(folder / 'run', folder / 'exported', encoder='word')


def reference(folder, architecture, texts, pairs=None):
    """A model of transformers on the words of each text alone."""
    tokenizer, model = WordTokenizer.load(folder), architecture.from_pretrained(folder).eval()
    for number, text in enumerate(texts):
        batch = tokenizer(text, None if pairs is None else pairs[number], max_length=64)
        yield workdirs.torch_outputs(model, batch)


@pytest.mark.slow
@pytest.mark.parametrize('pooling', ['mean', 'cls'])
def test_vectors_are_those_of_transformers_on_words(pretrained, pooling):
    found = Encoder.load(pretrained[1], pooling).encode(TEXTS)
    for vector, out in zip(found, reference(pretrained[1], AutoModel, TEXTS), strict=True):
        hidden = out.last_hidden_state[0]
        np.testing.assert_allclose(vector, hidden.mean(0) if pooling == 'mean' else hidden[0], atol=1e-5)
    assert np.abs(found - Encoder.load(pretrained[0], pooling).encode(TEXTS)).max() > 0.1  # characters


@pytest.mark.slow
def test_what_is_cut(pretrained):
    with workdirs.warnings_of('clower_jax.inference.encoder') as logged:
        cut, same = Encoder.load(pretrained[1], max_length=5).encode(['我们去公园。', '我们去公园'])
    assert logged == ['1 of 2 texts were cut to 5 tokens']
    np.testing.assert_array_equal(cut, same)


def rows_of(texts, pairs, max_length=10):
    """The token rows that fine-tuning reads of texts, by name."""
    data = classify.get_config().data
    data.segmenter = 'jieba'
    inputs = MODEL_INPUTS['word']
    examples = [labelled.Example(a, b, None, 'a:1') for a, b in zip(texts, pairs)]
    vocabulary = workdirs.vocabulary()
    split = classification.Classification(
        examples, ['a', 'b'], vocabulary, max_length, inputs=inputs, data=data
    )
    planned = classification.buckets.Planned(max_length, np.arange(len(texts)))
    return split.rows.batch(planned, len(texts))


@pytest.mark.slow
@pytest.mark.parametrize('pairs', [None, TEXTS[::-1]], ids=['texts', 'pairs'])
def test_the_rows_are_those_of_the_word_tokenizer(pretrained, pairs):
    texts = [*TEXTS[:-1], '我们去公园！\n今天天气很好。']
    rows = rows_of(texts, pairs or [None] * len(texts))
    expected = WordTokenizer.load(pretrained[1])(texts, pairs, max_length=10, padding='max_length')
    np.testing.assert_array_equal(rows['word_ids'], expected['input_ids'])
    np.testing.assert_array_equal(rows['word_segments'], expected['token_type_ids'])
    assert set(rows) == {'word_ids', 'word_segments', 'example'}


def job(folder, source, **changes):
    """`configs/classify.py` on sentences whose last word decides, in `folder`, from `source`."""
    config = classify.get_config()
    for seed, (key, count) in enumerate({'train': 64, 'dev': 16, 'test': 16}.items()):
        rng = np.random.default_rng(seed)
        lines = ['text\tlabel']
        for number in range(count):
            words = rng.choice(['今天', '天气', '公园', '我们', '长江', '手机'], 4)
            lines.append(f'{"".join(words)}{("亚洲", "打电话")[number % 2]}\t{("a", "b")[number % 2]}')
        (folder / f'{key}.tsv').write_text('\n'.join(lines), encoding='utf-8')
        config.data[key] = str(folder / f'{key}.tsv')
    config.update_from_flattened_dict(
        {
            'init_from': str(source), 'batch_size': 16, 'total_steps': 40, 'eval_every': 40, 'log_every': 20,
            'data.max_length': 12, 'data.buckets': 1, 'optim.learning_rate': 3e-3, **changes,
        }
    )  # fmt: skip
    return config


@pytest.fixture(scope='module')
def tuned(pretrained, tmp_path_factory):
    """(workdir, config) of a fine-tuned word encoder, which started from the exported one."""
    folder = tmp_path_factory.mktemp('tuned')
    config, results = jobs.finetuned(job(folder, pretrained[1]), folder / 'run')
    assert config.model.kind == 'word' and results['per_seed'][0]['test']['best']['acc'] > 0.9
    return folder / 'run', config


@pytest.mark.slow
def test_it_starts_from_the_trained_word_encoder(pretrained, tmp_path):
    """From its export as from the run itself; nothing but the head is random."""
    changes = {'model.kind': 'word'}
    found = []
    for source in pretrained:
        config, vocabulary = resolve_source(job(tmp_path, source, **changes), tmp_path / 'new')
        assert (config.data.segmenter, len(vocabulary)) == ('jieba', len(workdirs.BASE + workdirs.WORDS))
        config.data.labels = ('a', 'b')
        config.model.vocab_size, config.model.base_vocab_size = len(vocabulary), vocabulary.base_size
        params = registry.from_config(config).init(jax.random.key(0))
        params, report = init_weights.load_initial(params, source, vocabulary, config.model.num_heads)
        assert sorted(report.random) == ['classifier/bias', 'classifier/kernel']
        found.append(workdirs.flax.traverse_util.flatten_dict(params, sep='/'))
    run_params, export_params = found
    for path in run_params:
        if not path.startswith('classifier'):
            np.testing.assert_array_equal(run_params[path], export_params[path], err_msg=path)
    assert any(path.startswith('word_encoder/') for path in run_params)
    assert not any(path.startswith('char_encoder/') for path in run_params)


@pytest.mark.slow
def test_a_fine_tuned_word_encoder_is_exported_and_used(tuned, tmp_path, monkeypatch, capsys):
    workdir, config = tuned
    folder = export(workdir, tmp_path / 'classifier')
    again = job(tmp_path, '', **{'mode': 'predict'})
    again, vocabulary = resolve_source(with_trained_settings(again, workdir), workdir)
    again, data = finetuning_data.prepare(again, vocabulary)
    finetune.apply(again, workdir, data)
    lines = (workdir / 'predict' / 'predictions.json').read_text('utf-8').splitlines()
    texts = [line.split('\t')[0] for line in (tmp_path / 'test.tsv').read_text('utf-8').split('\n')[1:]]
    names = ('a', 'b')
    for line, out in zip(
        map(json.loads, lines), reference(folder, AutoModelForSequenceClassification, texts), strict=True
    ):
        weights = np.exp(out.logits[0] - out.logits[0].max())
        assert line['label'] == names[int(weights.argmax())]
        np.testing.assert_allclose(line['probability'], weights.max() / weights.sum(), atol=1e-5)
    np.testing.assert_array_equal(Encoder.load(workdir).encode(texts), Encoder.load(folder).encode(texts))
    # And back, and out again.
    convert.import_weights(folder, tmp_path / 'imported')
    twice = export(tmp_path / 'imported', tmp_path / 'twice')
    for name, value in workdirs.tensors(folder).items():
        np.testing.assert_array_equal(workdirs.tensors(twice)[name], value)
    monkeypatch.chdir(tmp_path)
    code = (folder / 'README.md').read_text('utf-8').split('```python\n')[1].split('```')[0]
    exec(code, {})
    assert capsys.readouterr().out.strip() in names


@pytest.mark.slow
@pytest.mark.parametrize(
    ('of', 'config', 'changes', 'message'),
    [
        ('exported', classify, {'model.kind': 'bert'}, 'holds a word encoder: leave model.kind=bert out'),
        ('exported', cmrc, {}, "model.kind=word reads words, which the task 'span' does not have"),
        ('exported', mirror, {}, "model.kind=word reads words, which the task 'mirror' does not have"),
        (
            'bert',
            classify,
            {'model.kind': 'words'},
            "model.kind='words' must be one of .*lichee, word, or empty",
        ),
        ('bert', classify, {'model.kind': 'word'}, 'word encoder of a CLOWER, and .*bert has none'),
        (
            'characters',
            classify,
            {'model.kind': 'word'},
            'word encoder of a CLOWER, and .*characters has none',
        ),
        ('ambert', classify, {'model.kind': 'word'}, 'word encoder of a CLOWER, and .*ambert has none'),
    ],
)
def test_what_reads_no_words(pretrained, tmp_path, of, config, changes, message):
    config = config.get_config(*(['sentence'] if config is mirror else []))
    source = {'exported': pretrained[1]}.get(of, tmp_path / of)
    if of == 'bert':
        workdirs.saved(workdirs.bert(transformers.BertModel), source)
    elif of == 'characters':
        export(pretrained[0], source, keep_word_rows=True)
    elif of == 'ambert':
        workdirs.make(source, 'pretrain', **{'model.kind': 'ambert', 'loss.contrast_on': 'none'})
    config.update_from_flattened_dict({'init_from': str(source), **changes})
    with pytest.raises(ValueError, match=message):
        resolve_source(config, tmp_path / 'new')


@pytest.mark.slow
def test_pre_training_does_not_start_from_words(pretrained):
    params = synthetic.random_params(registry.from_config(workdirs.config_of('pretrain')))
    vocabulary = Vocabulary(workdirs.BASE + workdirs.WORDS, len(workdirs.BASE))
    with pytest.raises(ValueError, match='holds a word encoder, and what would start from it reads charac'):
        init_weights.load_initial(params, pretrained[1], vocabulary, 4)


@pytest.mark.slow
def test_it_is_not_imported_as_a_pre_training(pretrained, tmp_path):
    with pytest.raises(ValueError, match='holds a word encoder'):
        convert.import_weights(pretrained[1], tmp_path / 'run')
