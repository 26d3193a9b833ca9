"""Words against their characters: the distances are the formula's, on held-out text as it is."""

import functools
import json

import jax
import numpy as np
import pytest

from clower_jax import jobs
from clower_jax.checkpoints.orbax_store import Checkpoints
from clower_jax.experiments import figure3
from clower_jax.experiments.figure3 import CONTROL, GROUPS, MEASURES
from clower_jax.objectives import registry
from clower_jax.training.run_log import Writer
from configs import similarity as config_file
from helpers import synthetic, workdirs
from input_pipeline.corpus import record_source
from input_pipeline.pretraining import batches
from input_pipeline.probing import word_lengths
from input_pipeline.text.vocabulary import Vocabulary
from input_pipeline.utils.tensorflow import tf

EXAMPLES = 12
SIZES = {'batch_size': 8, 'data.eval_examples': EXAMPLES, 'data.max_anchors': 15}


def pretrained(workdir, corpus, seed=0):
    """A workdir with random parameters on a real corpus, as a run that packs and contrasts nothing has it;
    the network and the parameters."""
    config = synthetic.tiny_config(
        **{'data.corpus': str(corpus), 'data.text': '', 'loss.contrast_on': 'none', 'data.char_length': 0},
        **{'data.word_length': 0},
    )
    config = batches.resolve(config, workdir)
    task = registry.from_config(config)
    params = jax.tree.map(lambda x: np.roll(x, seed), synthetic.random_params(task))
    writer = Writer(workdir)
    writer.write_config(config, batches.vocabulary(config).tokens)
    writer.close()
    with Checkpoints(workdir) as checkpoints:
        checkpoints.save_params(1, params)
    return task.model, params


@pytest.fixture(scope='module')
def workdir(small_corpus, tmp_path_factory):
    """(workdir, network, parameters)."""
    folder = tmp_path_factory.mktemp('similarity') / 'run'
    return folder, *pretrained(folder, small_corpus)


def config_of(**changes):
    config = config_file.get_config()
    config.update_from_flattened_dict(SIZES | changes)
    return config


@pytest.fixture(scope='module')
def resolved(workdir):
    return batches.resolve(figure3.config_of(config_of(), workdir[0]), workdir[0])


@pytest.mark.slow
def test_texts_are_in_order_and_nothing_is_masked(resolved):
    made = list(batches.batches(resolved, split='validation'))
    records = record_source.open_split(resolved.data.corpus, 'validation').__getitems__(list(range(EXAMPLES)))
    records = record_source.parse(tf.constant(records))
    vocabulary = batches.vocabulary(resolved)
    special = [vocabulary.pad, vocabulary.cls, vocabulary.sep]
    for view in ('char', 'word'):
        rows = np.concatenate([figure3.unmasked(batch, view) for batch in made])
        assert not rows[EXAMPLES:].any() and len(rows) == 16
        for row, record in zip(rows, records[f'{view}_ids']):
            assert row[~np.isin(row, special)].tolist() == record.numpy().tolist()


@pytest.mark.slow
def test_distances_are_the_formula(workdir, resolved):
    folder, model, params = workdir
    found = figure3.measure(resolved, folder, batches.batches(resolved, split='validation'))
    expected = {group: {'cosine': [], 'euclidean': []} for group in GROUPS}
    encode = jax.jit(functools.partial(model.apply, method='encode'), static_argnums=1)
    for batch in batches.batches(resolved, split='validation'):
        hidden = {}
        for view in ('char', 'word'):
            ids = figure3.unmasked(batch, view)
            hidden[view] = np.asarray(encode({'params': params}, view, ids, batch[f'{view}_segments']))
        for row, anchor in zip(*np.nonzero(batch['anchor_char_length'])):
            start, length = (batch[f'anchor_char_{name}'][row, anchor] for name in ('start', 'length'))
            word = hidden['word'][row, batch['anchor_word_position'][row, anchor]]
            chars = hidden['char'][row, start : start + length].mean(0)
            group = expected['2' if length == 2 else '3+']
            group['cosine'].append(word @ chars / np.sqrt((word @ word) * (chars @ chars)))
            group['euclidean'].append(np.sqrt(((word - chars) ** 2).sum()))
    for group, measures in expected.items():
        for name, values in measures.items():
            assert values
            np.testing.assert_allclose(found[group][name], values, rtol=1e-5, atol=1e-5)
            assert 0 < len(found[group][name + CONTROL]) <= len(values)


@pytest.mark.slow
def test_a_control_is_another_word(workdir, resolved, monkeypatch):
    """Of a batch in which all words are the same none is left."""
    made = [
        batch | {'anchor_ids': np.ones_like(batch['anchor_ids'])}
        for batch in batches.batches(resolved, split='validation')
    ]
    found = figure3.measure(resolved, workdir[0], made)
    assert all(len(found[group][name + CONTROL]) == 0 for group in GROUPS for name in MEASURES)
    assert all(len(found[group][name]) for group in GROUPS for name in MEASURES)


@pytest.fixture(scope='module')
def long_words(tmp_path_factory):
    """A corpus with words of two to seven characters, and a Latin one."""
    build_vocab = pytest.importorskip('input_pipeline.corpus.vocab_builder', exc_type=ImportError)
    build_corpus = pytest.importorskip('input_pipeline.corpus.corpus_builder', exc_type=ImportError)
    folder = tmp_path_factory.mktemp('long')
    (folder / 'a.txt').write_text(
        '\n\n'.join(f'{n}年，北京。中华人民共和国在北京用python，天安门好。' for n in range(40)), 'utf-8'
    )
    build_vocab.build(str(folder / 'a.txt'), folder / 'vocab.txt', num_words=50)
    build_corpus.build(
        str(folder / 'a.txt'), folder / 'vocab.txt', folder / 'corpus', 32, 24, validation_fraction=0.3
    )
    return folder / 'corpus'


@pytest.mark.slow
def test_words_of_any_length_are_measured_though_shorter_ones_are_contrasted(long_words, tmp_path):
    pretrained(tmp_path / 'run', long_words)
    config = config_of(**{'data.max_anchors': 20, 'data.eval_examples': 0})
    its = batches.resolve(figure3.config_of(config, tmp_path / 'run'), tmp_path / 'run')
    trained = batches.resolve(
        synthetic.tiny_config(
            **{'data.corpus': str(long_words), 'data.text': '', 'data.char_length': 0, 'data.word_length': 0}
        ),
        tmp_path,
    )

    def lengths(config):
        made = batches.batches(config, split='validation')
        return {int(n) for batch in made for n in np.unique(batch['anchor_char_length'])} - {0}

    assert lengths(its) == {2, 3, 7} and lengths(trained) == {2, 3}
    found = figure3.measure(its, tmp_path / 'run', batches.batches(its, split='validation'))
    longer = [(batch['anchor_char_length'] > 2).sum() for batch in batches.batches(its, split='validation')]
    assert len(found['3+']['cosine']) == sum(longer)


@pytest.mark.slow
def test_the_share_of_two_characters_is_counted_word_by_word(long_words, small_corpus):
    for corpus in (long_words, small_corpus):
        vocabulary = Vocabulary.load(corpus / 'vocab.txt')
        source = record_source.open_split(corpus, 'train')
        running = []
        records = record_source.parse(tf.constant(source.__getitems__(list(range(len(source))))))
        for row in range(len(source)):
            char_ids, of_token, of_word = (
                records[name][row].numpy().tolist()
                for name in ('char_ids', 'word_char_len', 'whole_word_tokens')
            )
            for tokens in of_word:
                length, of_token = sum(of_token[:tokens]), of_token[tokens:]
                chars, char_ids = [vocabulary.tokens[i] for i in char_ids[:length]], char_ids[length:]
                if all('\u4e00' <= char <= '\u9fff' for char in chars) and length > 1:
                    running.append(length)
        words = [
            word for word in vocabulary.tokens[vocabulary.base_size :] if '\u4e00' <= word[0] <= '\u9fff'
        ]
        share = word_lengths.two_character_share(corpus, vocabulary)
        assert share['corpus'] == pytest.approx(running.count(2) / len(running))
        assert share['vocabulary'] == pytest.approx(sum(len(word) == 2 for word in words) / len(words))
    assert word_lengths._share(np.array([1, 1])) is None


def test_summary_is_numpys():
    values = np.array([1.0, 2.0, 6.0])
    expected = {'count': 3, 'mean': 3.0, 'std': np.sqrt(7), 'median': 2.0}
    assert figure3.summary(values) == pytest.approx(expected)
    assert figure3.summary(values[:1])['std'] is None and figure3.summary(values[:0])['mean'] is None


@pytest.mark.slow
def test_the_job_compares_models(workdir, small_corpus, tmp_path):
    pretrained(tmp_path / 'other', small_corpus, seed=1)
    config = config_of(models=f'ours={workdir[0]},{tmp_path}/other')
    text = jobs.similarity(jobs.Job(config, 'configs/similarity.py', tmp_path / 'figure'))
    results = json.loads((tmp_path / 'figure' / 'similarity.json').read_text('utf-8'))
    assert list(results) == ['ours', 'other']
    for model, about in results.items():
        assert set(about['groups']) == set(GROUPS) and f'{model}, ' in text
        share = about['two_character_words']['corpus']
        assert f'{share:.1%} of the running words' in text and "the paper's corpus: 72.1%" in text
        for measures in about['groups'].values():
            assert measures['cosine']['count'] == measures['euclidean']['count'] > 0
            assert -1 <= measures['cosine']['mean'] <= 1 and measures['euclidean']['mean'] > 0
    assert (
        results['ours']['groups']['2']['cosine']['mean'] != results['other']['groups']['2']['cosine']['mean']
    )
    counts = [[g['cosine']['count'] for g in about['groups'].values()] for about in results.values()]
    assert counts[0] == counts[1]  # the same words
    assert (tmp_path / 'figure' / 'similarity.png').read_bytes().startswith(b'\x89PNG')


@pytest.mark.slow
def test_what_cannot_be_measured_is_explained(workdir, small_corpus, tmp_path):
    def job(**changes):
        return jobs.similarity(jobs.Job(config_of(**changes), 'configs/similarity.py', tmp_path / 'figure'))

    with pytest.raises(ValueError, match='--config.init_from=W, or several'):
        job()
    with pytest.raises(ValueError, match='two have the same name'):
        job(models=f'a={workdir[0]},a={workdir[0]}')
    with pytest.raises(ValueError, match='no workdir of a pre-training run'):
        job(init_from=str(tmp_path))
    workdirs.make(tmp_path / 'classifier', 'classify')
    workdirs.make(tmp_path / 'bert', 'pretrain', **{'model.kind': 'bert', 'loss.contrast_on': 'none'})
    for name in ('classifier', 'bert'):
        with pytest.raises(ValueError, match='has no word encoder'):
            job(init_from=str(tmp_path / name))
    workdirs.make(tmp_path / 'stranger', 'pretrain', **{'data.corpus': str(small_corpus)})
    with pytest.raises(ValueError, match='another vocabulary than the corpus'):
        job(init_from=str(tmp_path / 'stranger'))


@pytest.mark.slow
def test_the_config_is_a_command_that_runs(workdir, tmp_path):
    from helpers.run import start_run

    done = start_run('similarity.py', f'--workdir={tmp_path}', init_from=workdir[0], **SIZES)
    assert done.returncode == 0, done.stderr
    assert 'words of two characters: cosine' in done.stdout and (tmp_path / 'similarity.png').is_file()
