"""Texts and pairs for sentence encoders, and how vectors are judged."""

import json
import logging

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from ml_collections import ConfigDict

from configs import auto_mlm
from helpers import finetuned
from input_pipeline.features import buckets
from input_pipeline.metrics import retrieval
from input_pipeline.sentence_vectors import sentence_eval, sentences
from input_pipeline.sentence_vectors.sentences import Pair
from input_pipeline.text.vocabulary import Vocabulary

COLUMNS = ConfigDict({'text_columns': (), 'label_column': ''})
VOCABULARY = Vocabulary([*finetuned.SPECIAL, *finetuned.CHARACTERS], 35)
A, B, C, D, E = finetuned.CHARACTERS[:5]


def write(path, text: str) -> str:
    path.write_text(text, encoding='utf-8')
    return str(path)


# ---- files ----


def test_both_columns_of_texts_are_taken_and_labels_are_not(tmp_path):
    path = write(tmp_path / 'a.tsv', f'{A}{B}\t{C}\n{D}\t{E}\n{A}\t{B}\n')
    assert sentences.texts(path, COLUMNS) == [A + B, C, D, E, A, B]
    path = write(tmp_path / 'b.tsv', f'{A}{B}\t1\n{D}\t0\n{A}\t1\n')
    assert sentences.texts(path, COLUMNS) == [A + B, D, A]


def test_vectors_that_are_no_numbers_find_nothing():
    vectors = np.full((3, 4), np.nan, np.float32)
    ranks, _ = retrieval.ranks(vectors, vectors)
    assert retrieval.retrieval(ranks, ranks)['recall_1'] == 0


def test_texts_are_the_first_distinct_ones(tmp_path, caplog):
    caplog.set_level(logging.INFO, 'input_pipeline')
    path = write(tmp_path / 'a.txt', f'{A}{B}\n\n{C}\n {A}{B} \n{D}\n{E}\n')
    assert sentences.texts(path, COLUMNS, 3) == [A + B, C, D]
    assert '3 texts are used; left out: 0 blank, 1 repeated, 1 over data.max_strings' in caplog.text


def test_texts_of_pairs_are_of_both_columns(tmp_path, caplog):
    caplog.set_level(logging.INFO, 'input_pipeline')
    path = write(tmp_path / 'a.tsv', f'{A}\t{B}\t5\n{B}\t{C}\t2\n{D}\t\t1\n')
    assert sentences.texts(path, COLUMNS) == [A, B, C, D]
    assert '4 texts are used; left out: 1 blank, 1 repeated, 0 over' in caplog.text


def test_scored_pairs(tmp_path, caplog):
    caplog.set_level(logging.INFO, 'input_pipeline')
    path = write(tmp_path / 'a.txt', f'{A}\t {B}\t9.2\n{A}\t{B}\t9.2\n{C}\t\t0\n{C}\t{D}\t0')
    pairs = sentences.scored_pairs(path, COLUMNS)
    assert pairs == [Pair(A, B, 9.2, f'{path}:1'), Pair(A, B, 9.2, f'{path}:2'), Pair(C, D, 0.0, f'{path}:4')]
    assert '1 pairs with a blank text are left out' in caplog.text
    assert [pair.score for pair in sentences.scored_pairs(path, COLUMNS, scored=False)] == [None] * 3


@pytest.mark.parametrize('score', ['high', 'nan', 'inf'])
def test_a_score_that_is_no_number(tmp_path, score):
    path = write(tmp_path / 'a.csv', f'sentence1,sentence2,score\n{A},{B},1\n{C},{D},{score}\n')
    with pytest.raises(ValueError, match=rf"a\.csv:3: the score of a pair must be a number, not '{score}'"):
        sentences.scored_pairs(path, COLUMNS)


def test_related_pairs(tmp_path, caplog):
    """Those labelled 1, no text twice on its side."""
    caplog.set_level(logging.INFO, 'input_pipeline')
    rows = [(A, B, 1), (A, C, 1), (D, B, 1), (C, D, 0), (B, A, 1)]
    lines = (json.dumps({'sentence1': a, 'sentence2': b, 'label': str(label)}) for a, b, label in rows)
    pairs = sentences.related_pairs(write(tmp_path / 'a.json', '\n'.join(lines)), COLUMNS)
    assert [pair[:2] for pair in pairs] == [(A, B), (B, A)]
    assert '2 pairs are used; left out: 1 with another label than 1, 2 with a text that had' in caplog.text


def test_related_pairs_without_labels(tmp_path):
    path = write(tmp_path / 'a.tsv', f'Hi.\t{A}\nHi.\t{B}\nRun.\t{C}\n')
    assert [pair[:2] for pair in sentences.related_pairs(path, COLUMNS)] == [('Hi.', A), ('Run.', C)]


def test_files_with_nothing_of_use(tmp_path):
    with pytest.raises(ValueError, match='every pair has a blank text'):
        sentences.scored_pairs(write(tmp_path / 'a.tsv', f'{A}\t\t1\n'), COLUMNS)
    with pytest.raises(ValueError, match='no pair is left'):
        sentences.related_pairs(write(tmp_path / 'b.tsv', f'{A}\t{B}\t0\n'), COLUMNS)


def test_public_files(data_dir):
    similarity = data_dir / 'similarity'
    sizes = {'sts-b-dev.txt': (1458, 5), '240.txt': (240, 9.2), '297.txt': (297, 4.98)}
    for name, (size, first) in sizes.items():
        pairs = sentences.scored_pairs(str(similarity / name), COLUMNS)
        assert (len(pairs), pairs[0].score) == (size, first)
    assert len(sentences.texts(str(similarity / 'zh_words_top_10k.txt'), COLUMNS, 10_000)) == 10_000
    pairs = sentences.related_pairs(str(data_dir / 'parallel' / 'tatoeba_en_zh.tsv'), COLUMNS)
    assert pairs[0][:2] == ('Hi.', '嗨。') and len(pairs) > 10_000


# ---- scores ----


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(-3, 3)), min_size=2, max_size=30))
def test_spearman_is_scipys(pairs):
    x, y = np.array(pairs, float).T
    constant = len(set(x)) == 1 or len(set(y)) == 1
    expected = 0 if constant else scipy.stats.spearmanr(x, y).statistic
    assert retrieval.spearman(x, y) == pytest.approx(expected, abs=1e-12)


@given(st.integers(1, 9), st.integers(0, 100), st.integers(1, 4))
def test_ranks_against_a_loop(count, seed, block):
    """Vectors of few values, so that there are ties."""
    rng = np.random.default_rng(seed)
    a, b = (rng.integers(-1, 2, (count, 2)).astype(float) for _ in range(2))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(retrieval, 'BLOCK', block)
        rank, nearest = retrieval.ranks(a, b)

    def cosine(x, y):
        norm = np.sqrt((x @ x) * (y @ y))
        return x @ y / norm if norm else 0.0

    for i in range(count):
        scores = [round(cosine(a[i], y), 6) for y in b]
        assert rank[i] == sum(score >= scores[i] for score in scores)
        others = [scores[j] for j in range(count) if j != i]
        assert nearest[i] == -1 if not others else scores[nearest[i]] == max(others) and nearest[i] != i


def test_vectors_that_are_all_the_same_find_nothing():
    same = np.ones((20, 3))
    rank, _ = retrieval.ranks(same, same)
    assert retrieval.retrieval(rank, rank)['acc_ab'] == 0


def test_retrieval_by_hand():
    found = retrieval.retrieval(np.array([1, 2, 6, 11]), np.array([1, 1, 1, 2]))
    assert found == {
        'acc_ab': 0.25, 'acc_ba': 0.75, 'mrr': pytest.approx((1 + 1 / 2 + 1 / 6 + 1 / 11) / 4),
        'recall_1': 0.25, 'recall_5': 0.5, 'recall_10': 0.75,
    }  # fmt: skip


# ---- splits ----


def bags(split) -> list[dict]:
    """The outputs of a pass whose vectors are bags of characters, in batches of 2, the last one padded."""
    plan = buckets.epoch(split.rows.lengths, (8,), 2, seed=3)
    outputs = []
    for planned in plan:
        batch = split.rows.batch(planned, 2)
        ids = batch['char_ids']
        vectors = np.stack([np.bincount(row[row > 4], minlength=35) for row in ids]).astype(np.float32)
        outputs.append({'vectors': vectors, 'example': batch['example']})
    return outputs


PAIRS = [
    Pair(A + B, A + B, 3.0, 'x/f.tsv:1'),
    Pair(A + B, B + C, 2.0, 'x/f.tsv:2'),
    Pair(A + B, C + D, 1.0, 'x/f.tsv:4'),
    Pair(D + E, D + C, 2.5, 'x/f.tsv:5'),
]


def test_similarity(tmp_path):
    split = sentence_eval.Similarity(PAIRS, VOCABULARY, 8)
    assert len(split.rows) == 5  # each text once
    cosines = split.decode(bags(split))
    np.testing.assert_allclose(cosines, [1, 0.5, 0, 0.5], atol=1e-6)
    expected = scipy.stats.spearmanr([4, 2.5, 1, 2.5], [3, 2, 1, 2.5]).statistic
    assert split.score(cosines.round(5)) == {'spearman': pytest.approx(expected)}
    split.write_predictions(tmp_path, cosines)
    lines = [json.loads(line) for line in (tmp_path / 'predictions.json').read_text('utf-8').splitlines()]
    assert lines[1] == {
        'id': 1, 'text_a': A + B, 'text_b': B + C, 'score': 2.0, 'cosine': 0.5, 'where': 'f.tsv:2',
    }  # fmt: skip


def test_similarity_without_scores(tmp_path):
    split = sentence_eval.Similarity([pair._replace(score=None) for pair in PAIRS], VOCABULARY, 8)
    cosines = split.decode(bags(split))
    assert split.score(cosines) == {}
    split.write_predictions(tmp_path, cosines)
    assert 'score' not in json.loads((tmp_path / 'predictions.json').read_text('utf-8').splitlines()[0])


def test_retrieval(tmp_path):
    """Each first text finds the second text that shares most of its characters."""
    rows = [(A + B, A + B + C), (C + D, D), (E + A, B)]
    split = sentence_eval.Retrieval([Pair(*row, None, 'x/f.tsv:1') for row in rows], VOCABULARY, 8)
    found = split.decode(bags(split))
    assert found.ab.tolist() == [1, 1, 3] and found.ba.tolist() == [1, 1, 3]
    assert found.nearest.tolist() == [2, 0, 0]
    assert split.score(found).keys() == set(split.metrics)
    split.write_predictions(tmp_path, found)
    lines = [json.loads(line) for line in (tmp_path / 'predictions.json').read_text('utf-8').splitlines()]
    assert (lines[2]['rank'], lines[2]['nearest']) == (3, A + B + C)


def test_several_sets_are_judged_one_by_one_and_averaged(tmp_path):
    """A mean over the sets, not over their pairs; a text that is in both has a vector in each."""
    first, second = PAIRS, [PAIRS[1]._replace(score=5.0), PAIRS[0]._replace(score=1.0)]
    alone = [sentence_eval.Similarity(pairs, VOCABULARY, 8) for pairs in (first, second)]
    both = sentence_eval.EvaluationSets({'a': alone[0], 'b': alone[1]})
    assert both.metrics == ('spearman', 'spearman_a', 'spearman_b')
    found = both.decode(bags(both))
    expected = [one.score(one.decode(bags(one)))['spearman'] for one in alone]
    assert expected[1] == -1 and expected[0] > 0.5
    assert both.score(found) == {
        'spearman': pytest.approx(np.mean(expected)), 'spearman_a': expected[0], 'spearman_b': -1,
    }  # fmt: skip
    both.write_predictions(tmp_path, found)
    lines = [json.loads(line) for line in (tmp_path / 'predictions.json').read_text('utf-8').splitlines()]
    assert [(line['set'], line['id']) for line in lines] == [
        *(('a', n) for n in range(4)), ('b', 0), ('b', 1),
    ]  # fmt: skip
    unknown = sentence_eval.Similarity([pair._replace(score=None) for pair in PAIRS], VOCABULARY, 8)
    partly = sentence_eval.EvaluationSets({'a': alone[0], 'b': unknown})
    assert partly.score(partly.decode(bags(partly))) == {'spearman': expected[0], 'spearman_a': expected[0]}


def test_several_files_are_named_with_commas(tmp_path):
    (tmp_path / 'x').mkdir()
    files = [write(tmp_path / name, f'{A}\t{B}\t1\n{A}\t{A}\t2\n') for name in ('a.tsv', 'x/a.tsv', 'b.tsv')]
    data = {'evaluation': 'similarity', 'dataset': '', 'train': '', 'dev': ','.join(files), 'max_length': 8}
    config = ConfigDict({'mode': 'evaluate', 'data': {**COLUMNS, **data, 'test': files[2]}})
    splits = sentence_eval.read_evaluations(config, VOCABULARY)
    assert splits['validation'].metrics == ('spearman', 'spearman_a_1', 'spearman_a_2', 'spearman_b')
    assert splits['test'].metrics == ('spearman',)
    named = write(tmp_path / 'a,b.tsv', f'{A}\t{B}\t1\n')
    config.data.dev = named
    assert isinstance(
        sentence_eval.read_evaluations(config, VOCABULARY)['validation'], sentence_eval.Similarity
    )
    config.data.dev = f'{files[0]},{tmp_path}/none.tsv'
    with pytest.raises(FileNotFoundError, match='data.dev=.*there is no such file, .*/none.tsv'):
        sentence_eval.read_evaluations(config, VOCABULARY)


def test_long_texts_are_cut_and_counted(caplog):
    caplog.set_level(logging.INFO, 'input_pipeline')
    rows = sentences.single_rows([A * 9, B * 6, C], VOCABULARY, 8)
    assert rows.lengths.tolist() == [8, 8, 3]
    assert '1 of 3 texts are longer than 8 tokens and were cut' in caplog.text


def test_a_rate_is_chosen_on_other_pairs_than_are_reported(tmp_path):
    """Half of dev is the test set, none of whose texts is among those to choose by; else a test file."""
    texts = [''.join(row) for row in np.random.default_rng(0).choice(finetuned.CHARACTERS, (80, 6))]
    rows = [*zip(texts[::2], texts[1::2]), (texts[0], texts[3]), (texts[5], texts[3])]
    dev = write(tmp_path / 'dev.tsv', ''.join(f'{a}\t{b}\t{n % 5}\n' for n, (a, b) in enumerate(rows)))
    config = auto_mlm.get_config()
    config.update_from_flattened_dict(
        {'data.train': dev, 'data.dev': dev, 'data.evaluation': 'similarity', 'data.max_length': 8}
    )
    splits = sentence_eval.read_evaluations(config, VOCABULARY)
    sides = {}
    for name, split in splits.items():
        lines = list(split.lines(split.decode(bags(split))))
        sides[name] = [(line['text_a'], line['text_b']) for line in lines]
    assert sides.keys() == {'validation', 'test'} and min(map(len, sides.values())) > 10
    assert sorted(sides['validation'] + sides['test']) == sorted(rows)
    seen = {text for pair in sides['validation'] for text in pair}
    assert not any(text in seen for pair in sides['test'] for text in pair)
    config.mode = 'evaluate'
    assert len(list(sentence_eval.read_evaluations(config, VOCABULARY))) == 1
    config.mode, config.data.test = 'train', dev
    assert len(sentence_eval.read_evaluations(config, VOCABULARY)['validation'].rows) == len(texts)
