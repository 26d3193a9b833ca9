"""What frozen encoders know of words: hidden states are transformers', figures those of loops and scipy."""

import json

import numpy as np
import pytest
import scipy.stats
import torch
import transformers

from clower_jax import jobs
from clower_jax.experiments import resampling, word_report, word_view
from clower_jax.export.bert_folder import export
from clower_jax.inference.hidden_states import HiddenStates
from configs import words as config_file
from helpers import workdirs
from input_pipeline.probing import word_contexts, word_materials
from input_pipeline.text.vocabulary import Vocabulary

RANDOM = np.random.default_rng(0)


@pytest.fixture(scope='module')
def folders(tmp_path_factory):
    """Two exported encoders."""
    made = []
    for number in range(2):
        folder = tmp_path_factory.mktemp('words') / 'run'
        workdirs.make(folder, 'pretrain', shift=0.01 * number)
        made.append(export(folder, folder.with_name('exported'), heads='none'))
    return made


@pytest.fixture(scope='module')
def states(folders):
    return HiddenStates.load(folders[0])


def hidden(folder, ids):
    """[L, D]: transformers' last hidden states of one row."""
    model = transformers.AutoModel.from_pretrained(folder, add_pooling_layer=False).eval()
    with torch.no_grad():
        return model(torch.tensor(ids)[None].long()).last_hidden_state[0].numpy()


@pytest.mark.slow
def test_spans_are_means_of_transformers_hidden_states(folders, states):
    tokenizer = transformers.AutoTokenizer.from_pretrained(folders[0])
    texts = [*workdirs.TEXTS, '今天', '今天天气很好。' * 3]
    rows = states.rows(texts)
    assert [row.tolist() for row in rows] == tokenizer(texts)['input_ids']
    row = np.array([0, 2, 0, len(texts) - 1, 1])  # unordered, repeated, some rows without a span
    start, length = np.array([1, 0, 0, 5, 1]), np.array([2, 1, len(rows[0]), 7, 1])
    found = states.span_means(rows, row, start, length)
    for number, (at, begin, size) in enumerate(zip(row, start, length)):
        expected = hidden(folders[0], rows[at])[begin : begin + size].mean(axis=0)
        np.testing.assert_allclose(found[number], expected, rtol=1e-4, atol=1e-5)


def test_no_rows_have_no_vectors(states):
    nothing = np.zeros(0, int)
    assert states.span_means([], nothing, nothing, nothing).shape == (0, states.token_vectors.shape[1])


def test_tokens_are_found_by_their_names(folders, states):
    tokenizer = transformers.AutoTokenizer.from_pretrained(folders[0])
    assert states.ids(['天', '[SEP]', '没有的']).tolist() == tokenizer.convert_tokens_to_ids(
        ['天', '[SEP]', '[UNK]']
    )
    assert states.add_special_tokens(states.ids(['天'])).tolist() == tokenizer('天')['input_ids']


def test_a_word_is_the_mean_of_its_occurrences(folders, states):
    tokens = ['[UNK]', '今', '天', '气', '很', '好']
    sentences = [np.array([1, 2, 2, 3], np.int32), np.array([4, 1, 2], np.int32)]
    contexts = word_contexts.Contexts(
        sentences, np.array([0, 0, 2]), np.array([0, 1, 0]), np.array([0, 1, 2]), np.array([2, 2, 2])
    )
    found = word_view.in_context(states, tokens, contexts, 3)
    of = [
        hidden(folders[0], states.add_special_tokens(states.ids([tokens[i] for i in ids])))
        for ids in sentences
    ]
    expected = (of[0][1:3].mean(axis=0) + of[1][2:4].mean(axis=0)) / 2
    np.testing.assert_allclose(found[0], expected, rtol=1e-4, atol=1e-5)
    assert np.isnan(found[1]).all()
    np.testing.assert_allclose(found[2], of[0][3:5].mean(axis=0), rtol=1e-4, atol=1e-5)
    table = transformers.AutoModel.from_pretrained(folders[0]).get_input_embeddings().weight.detach().numpy()
    rows = states.ids(['今', '天'])
    np.testing.assert_allclose(
        word_view.token_means(states, tokens, contexts, 3)[0], table[rows].mean(axis=0), rtol=1e-6
    )
    alone = hidden(folders[0], states.rows(['今天'])[0])[1:3].mean(axis=0)
    np.testing.assert_allclose(word_view.alone(states, ['今天'])[0], alone, rtol=1e-4, atol=1e-5)


def test_sentences_that_are_too_long_are_refused(states):
    long = np.full(states.max_length, 1, np.int32)
    contexts = word_contexts.Contexts([long], *np.array([[0], [0], [0], [1]]))
    with pytest.raises(ValueError, match=f'of which the model reads {states.max_length}'):
        word_view.in_context(states, ['[UNK]', '今'], contexts, 1)


def test_centring_takes_the_mean_of_what_is_known():
    vectors = RANDOM.normal(size=(5, 3))
    vectors[2] = np.nan
    (_, plain), (name, moved) = word_view.centrings(vectors)
    assert plain is vectors and name == ', centred'
    np.testing.assert_allclose(np.nanmean(moved, axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(moved[0] - moved[1], vectors[0] - vectors[1])


def items(shift=0.0):
    """Measured items of 30 words, 20 pairs, 25 queries."""
    random = np.random.default_rng(1)
    cosines = random.normal(size=20) + shift
    cosines[3] = np.nan
    return {
        'vectors/context': random.normal(size=(30, 4)) * (1 + shift),
        'pairs/240/alone': np.stack([cosines, random.integers(0, 5, 20), random.integers(0, 2, 20)]),
        'paraphrases/bq/mean': random.integers(1, 15, 25),
        'counts': np.array('{}'),
    }


def test_figures_are_scipys_and_those_of_loops():
    known = np.arange(30) != 7
    targets = RANDOM.normal(size=(29, 2))
    measured = word_view.regress(items(), known, targets, folds=2, seed=3)
    figures = {
        name: statistic(*arrays) for name, (statistic, arrays) in word_view.statistics(measured).items()
    }
    residual, total, penalties = resampling.held_out_errors(items()['vectors/context'][known], targets, 2, 3)
    assert figures['R²/context'] == pytest.approx(1 - sum(residual) / sum(total))
    assert measured['r2/context/penalty'].tolist() == penalties
    cosines, scores, apart = items()['pairs/240/alone']
    rows = [row for row in range(20) if row != 3]
    expected = scipy.stats.spearmanr(cosines[rows], scores[rows]).statistic
    assert figures['ρ/240/alone'] == pytest.approx(expected)
    rows = [row for row in rows if apart[row]]
    expected = scipy.stats.spearmanr(cosines[rows], scores[rows]).statistic
    assert figures['ρ/240, no shared character/alone'] == pytest.approx(expected)
    ranks = items()['paraphrases/bq/mean'].tolist()
    assert figures['MRR/bq/mean'] == pytest.approx(sum(1 / rank for rank in ranks) / 25)
    assert figures['recall@1/bq/mean'] == pytest.approx(sum(rank == 1 for rank in ranks) / 25)
    assert figures['recall@10/bq/mean'] == pytest.approx(sum(rank <= 10 for rank in ranks) / 25)


def test_retrieval_is_that_of_a_loop(states):
    """Each first text among all second ones, by cosine, for both poolings, centred or not."""
    first = ['今天', '我们去公园', '天气很好', '北京']
    second = ['今天天气', '我们公园', '天气好', '我们']
    nothing = word_contexts.Contexts([], *np.zeros((4, 0), int))
    materials = word_materials.Materials(['[UNK]'], [], nothing, [], nothing, {}, {'own': (first, second)})
    measured = word_view.measure(states, materials)
    for pooling in ('mean', 'cls'):
        rows = states.rows([*first, *second])
        vectors = []
        for number, row in enumerate(rows):
            length = len(row) if pooling == 'mean' else 1
            vectors.append(states.span_means(rows, np.array([number]), np.array([0]), np.array([length]))[0])
        for end, mean in (('', 0), (', centred', np.mean(vectors, axis=0))):
            unit = [(v - mean) / np.linalg.norm(v - mean) for v in vectors]
            ranks = [
                1
                + sum(
                    unit[query] @ unit[4 + other] > unit[query] @ unit[4 + query]
                    for other in range(4)
                    if other != query
                )
                for query in range(4)
            ]
            assert measured[f'paraphrases/own/{pooling}{end}'].tolist() == ranks


def test_seeds_are_averaged_and_differences_paired():
    def made(shift):
        return {'paraphrases/bq/mean': np.array([1, 2, 4, 20] * 10) + shift}

    measured = {'a': [made(0), made(1)], 'b': [made(0), made(1)], 'c': [made(3), made(3)]}
    results = word_view.summarise(measured, ['a'], 50, 0)
    figure = results['systems']['a']['recall@10/bq/mean']
    assert figure['seeds'] == [0.75, 0.75] and figure['count'] == 40
    mrr = results['systems']['a']['MRR/bq/mean']
    assert mrr['value'] == pytest.approx(np.mean(mrr['seeds'])) and mrr['seeds'][0] > mrr['seeds'][1]
    assert mrr['interval'][0] < mrr['value'] < mrr['interval'][1]
    same, other = (results['differences']['a'][name]['MRR/bq/mean'] for name in 'bc')
    assert same == {'difference': 0, 'interval': (0, 0)}
    drawn = [
        np.mean(
            [
                resampling.bootstrap(np.mean, (1 / one['paraphrases/bq/mean'],), 50, 0)
                for one in measured[name]
            ],
            axis=0,
        )
        for name in 'ac'
    ]
    assert other['interval'] == pytest.approx(resampling.interval(drawn[1] - drawn[0]))
    text = word_report.tables(results, {'words': 0, 'sentences': 0, 'occurrences': 0})
    assert (
        f'| MRR/bq/mean | {same["difference"]:+.3f} [+0.000, +0.000] | **{other["difference"]:+.3f} [' in text
    )


@pytest.fixture(scope='module')
def job(folders, small_corpus, tmp_path_factory):
    """The workdir and the last words of a job with two seeds of one system; its config."""
    folder = tmp_path_factory.mktemp('job')
    words = Vocabulary.load(small_corpus / 'vocab.txt').tokens
    chinese = [word for word in words if len(word) == 2 and not word.isascii()][:30]
    (folder / 'pairs.txt').write_text(
        ''.join(f'{a}\t{b}\t{number % 7}.5\n' for number, (a, b) in enumerate(zip(chinese, chinese[3:]))),
        'utf-8',
    )
    (folder / 'same.tsv').write_text(
        ''.join(f'{word}很好\t很好{word}\t{int(number > 2)}\n' for number, word in enumerate(chinese)),
        'utf-8',
    )
    config = config_file.get_config()
    config.update_from_flattened_dict(
        {
            'models': f'ours={folders[0]},ours={folders[1]},other={folders[1]}',
            'data.corpus': str(small_corpus),
            'data.min_occurrences': 1,
            'data.pairs': f'own={folder}/pairs.txt',
            'data.paraphrases': f'some={folder}/same.tsv',
            'data.max_pairs': 20,
            'folds': 2,
            'samples': 20,
            'reference': 'other',
        }
    )
    return folder / 'out', jobs.words(jobs.Job(config, 'configs/words.py', folder / 'out')), config


@pytest.mark.slow
def test_the_job_leaves_a_table_and_a_picture(job):
    workdir, text, _ = job
    results = json.loads((workdir / 'words.json').read_text('utf-8'))
    ours, other = results['systems']['ours'], results['systems']['other']
    assert list(results['systems']) == ['ours', 'other'] and list(results['differences']['other']) == ['ours']
    assert set(ours) == set(other) and {'R²/context', 'R²/token embeddings', 'ρ/own/alone'} < set(ours)
    for name in ours:
        assert len(ours[name]['seeds']) == 2 and ours[name]['seeds'][1] == other[name]['seeds'][0]
    assert results['counts']['paraphrases'] == {'some': 20} and results['counts']['words'] >= 20
    assert ours['recall@1/some/cls, centred']['count'] == 20
    assert (workdir / 'words.md').read_text('utf-8') in text
    assert (workdir / 'words.png').read_bytes().startswith(b'\x89PNG')
    assert (workdir / 'word_vectors.txt').is_file()


@pytest.mark.slow
def test_what_was_measured_is_not_measured_again(job, monkeypatch):
    workdir, text, config = job

    def refuse(*_):
        raise AssertionError('measured again')

    with monkeypatch.context() as patch:
        patch.setattr(word_view, 'measure', refuse)
        patch.setattr(word_materials.similar_words, 'trained', refuse)
        assert jobs.words(jobs.Job(config, 'configs/words.py', workdir)) == text
        config.data.occurrences = 5
        with pytest.raises(AssertionError, match='measured again'):
            jobs.words(jobs.Job(config, 'configs/words.py', workdir))
        config.data.occurrences = 8


@pytest.mark.slow
@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'models': ''}, '--config.models=NAME=FOLDER'),
        ({'models': 'folder'}, 'write NAME=PATH,NAME=PATH'),
        ({'reference': 'nobody'}, 'reference=nobody must be one of ours, other'),
        ({'data.min_occurrences': 9}, 'at least data.min_occurrences'),
        ({'folds': 1}, 'folds=1 must be at least 2'),
    ],
)
def test_what_cannot_be_done_is_explained(job, tmp_path, changes, message):
    config = job[2].copy_and_resolve_references()
    config.update_from_flattened_dict(changes)
    with pytest.raises(ValueError, match=message):
        jobs.words(jobs.Job(config, 'configs/words.py', tmp_path))


@pytest.mark.slow
def test_vectors_without_a_word_of_the_text_are_refused(job, tmp_path):
    config = job[2].copy_and_resolve_references()
    (tmp_path / 'vectors.txt').write_text('没有的词 1 2\n', 'utf-8')
    config.data.vectors = str(tmp_path / 'vectors.txt')
    with pytest.raises(ValueError, match='no word of the held-out text has a vector in'):
        jobs.words(jobs.Job(config, 'configs/words.py', job[0]))
