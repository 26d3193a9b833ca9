"""Pairs and triplets to train vectors on: what each form of file gives, and what a batch holds."""

import json
import logging
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ml_collections import ConfigDict

from configs import supervised_vectors as config_file
from helpers import finetuned
from input_pipeline.features.buckets import Planned
from input_pipeline.sentence_vectors.sentences import scored_pairs
from input_pipeline.sentence_vectors.supervised_vectors import Triplet, Triplets, read, triplets
from input_pipeline.text.vocabulary import Vocabulary
from input_pipeline.utils.counts import Ledger

COLUMNS = {'text_columns': (), 'label_column': ''}
VOCABULARY = Vocabulary([*finetuned.SPECIAL, *finetuned.CHARACTERS], 35)
A, B, C, D, E, F = finetuned.CHARACTERS[:6]


def found(tmp_path, text: str, name: str = 'a.tsv', **columns) -> tuple[list[Triplet], dict]:
    """What is read of a file, and how its rows were counted."""
    path = tmp_path / name
    path.write_text(text, encoding='utf-8')
    ledger = Ledger()
    rows = triplets(str(path), ConfigDict(COLUMNS | columns), ledger)
    counts = ledger.to_json()['rows']
    assert counts['read'] == counts['kept'] + sum(counts['dropped'].values())
    return rows, counts


@pytest.mark.parametrize(
    'text',
    [
        f'{A}\t{B}\t{C}\n{D}\t{E}\t{F}\n',
        f'anchor\tpositive\tnegative\n{A}\t{B}\t{C}\n{D}\t{E}\t{F}\n',
        f'negative\tlabel\tsentence1\tsentence2\n{C}\t1\t{A}\t{B}\n{F}\t1\t{D}\t{E}\n{B}\t0\t{A}\t{C}\n',
        f'sent0\tsent1\thard_neg\n{A}\t{B}\t{C}\n{D}\t{E}\t{F}\n',
        f'0\t{A}\t{B}\t{C}\n1\t{D}\t{E}\t{F}\n',
    ],
    ids=['no header', 'sentence-transformers', 'label', 'SimCSE', 'numbered'],
)
def test_three_texts_of_a_row(tmp_path, text):
    assert found(tmp_path, text)[0] == [Triplet(A, B, C), Triplet(D, E, F)]


def test_three_english_texts_are_no_labels(tmp_path):
    rows, _ = found(tmp_path, 'a man eats\tsomeone eats\tnobody eats\na dog\tan animal\ta cat\n')
    assert rows[0] == Triplet('a man eats', 'someone eats', 'nobody eats')


def test_a_hard_negative_may_be_missing(tmp_path):
    assert found(tmp_path, f'{A}\t{B}\t{C}\n{D}\t{E}\t\n')[0] == [Triplet(A, B, C), Triplet(D, E)]


def test_two_texts_of_a_row(tmp_path):
    rows, counts = found(tmp_path, f'{A}\t{B}\n{C}\t{D}\n{A}\t{B}\n\n{E}\t\n')
    assert rows == [Triplet(A, B), Triplet(C, D)]
    assert counts == {'read': 5, 'kept': 2, 'dropped': {'blank line': 1, 'blank text': 1, 'repeated': 1}}


@pytest.mark.parametrize('form', ['{a}\t{b}\t{label}\n', '{label}\t{a}\t{b}\n'])
def test_of_labelled_pairs_those_that_mean_the_same(tmp_path, form):
    labels = '1', '0', '1.0', '0.8'
    rows, counts = found(tmp_path, ''.join(form.format(a=A + x, b=B, label=x) for x in labels))
    assert rows == [Triplet(f'{A}1', B), Triplet(f'{A}1.0', B)]
    assert counts['dropped'] == {'label other than 1': 2}


def test_scores_of_another_scale_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"a.tsv:2: the label '3.5' does not say whether .* set --config"):
        found(tmp_path, f'{A}\t{B}\t1\n{C}\t{D}\t3.5\n')
    with pytest.raises(ValueError, match="a.tsv:1: the label 'same' does not say"):
        found(tmp_path, f'{A}\t{B}\tsame\n{C}\t{D}\tother\n', label_column='3')


def test_where_no_pair_is_left(tmp_path):
    with pytest.raises(ValueError, match='a.tsv: no pair is left; .* have the label 1, entailment, or none'):
        found(tmp_path, f'{A}\t{B}\t0\n{C}\t{D}\t0\n')


def test_natural_language_inference(tmp_path, caplog):
    """As OCNLI and CMNLI are written: entailments in order, contradictions over and over again."""
    caplog.set_level(logging.INFO, 'input_pipeline')
    rows = [
        (A, B, 'entailment'), (A, C, 'neutral'), (A, D, 'contradiction'), (A, E, 'entailment'),
        (A, F, 'contradictory'), (A, C, 'entailment'),  # gets the first contradiction again
        (B, C, 'entailment'),  # without any
        (C, D, 'contradiction'), (D, E, '-'),
        (E, A, 'entailment'), (E, A, 'contradiction'),  # says both
    ]  # fmt: skip
    lines = (json.dumps({'sentence1': a, 'sentence2': b, 'label': label, 'id': 0}) for a, b, label in rows)
    kept, counts = found(tmp_path, '\n'.join(lines), 'train.json')
    assert kept == [Triplet(A, B, D), Triplet(A, E, F), Triplet(A, C, D), Triplet(B, C)]
    assert counts == {
        'read': 11, 'kept': 7,  # four entailments, three contradictions
        'dropped': {
            "label '-'": 1, 'label neutral': 1, 'contradiction that no entailment takes': 1,
            'hard negative is one of the two texts': 1,
        },
    }  # fmt: skip
    assert '4 pairs, 3 of them with a hard negative; ' in caplog.text


@pytest.mark.slow
@pytest.mark.skipif('CLOWER_DATA' not in os.environ, reason='CLOWER_DATA names no folder of real data')
def test_ocnli():
    path = Path(os.environ['CLOWER_DATA'], 'finetune', 'ocnli', 'train.50k.json')
    ledger = Ledger()
    rows = triplets(str(path), ConfigDict(COLUMNS), ledger)
    counts = ledger.to_json()['rows']
    assert counts['read'] == 50486 == counts['kept'] + sum(counts['dropped'].values())
    assert rows[0] == Triplet('一月份跟二月份肯定有一个月份有.', '肯定有一个月份有', '一月二月都没有')
    labels = [json.loads(line)['label'] for line in path.read_text('utf-8').splitlines()]
    left_out = sum(counts['dropped'].get(x, 0) for x in ('repeated', 'hard negative is one of the two texts'))
    assert len(rows) == labels.count('entailment') - left_out
    assert sum(row.negative is not None for row in rows) > 0.9 * len(rows)


def test_a_triplets_header_is_no_header_elsewhere(tmp_path):
    """A first row of 'positive' and a text is a label and a text."""
    path = tmp_path / 'a.tsv'
    path.write_text(f'positive\t{A}\t1\n{B}\t{C}\t2\n', encoding='utf-8')
    assert [pair.text_a for pair in scored_pairs(str(path), ConfigDict(COLUMNS))] == ['positive', B]


# ---- batches ----

some_text = st.text(finetuned.CHARACTERS, min_size=1, max_size=9)


@given(
    st.lists(st.builds(Triplet, some_text, some_text, st.none() | some_text), min_size=1, max_size=6),
    st.randoms(),
)
def test_a_batch_has_the_texts_and_which_are_equal(rows, random):
    split = Triplets(rows, VOCABULARY, 8, ('spearman',))
    order = list(range(len(rows)))
    random.shuffle(order)
    planned, size = Planned(8, np.array(order)), len(rows) + 2
    batch = split.rows.batch(planned, size) | split.targets(planned, size)
    assert ('negative_ids' in batch) == any(row.negative for row in rows)
    assert batch['example'].tolist() == [*order, -1, -1]
    for side, name in enumerate(('char', 'other', 'negative')):
        ids = batch.get(f'{name}_ids', np.zeros((size, 8), np.int32))
        assert ids.dtype == np.int32 and ids.shape == (size, 8) and not ids[len(rows) :].any()
        for row, line in zip(order, ids):
            text = rows[row][side]
            expected = VOCABULARY.wordpiece.encode(text, add_special_tokens=False).ids[:6] if text else None
            real = line[line > 0]
            assert real.tolist() == ([] if text is None else VOCABULARY.row_of(expected).tolist())
            assert split.rows.lengths[row] >= len(real)
    texts = [text for row in order for text in rows[row]]
    numbers = batch['texts'][: len(rows)].ravel()
    for one, number in zip(texts, numbers):
        assert (number == -1) == (one is None)
        assert [x == one for x in texts] == (numbers == number).tolist()
    assert (batch['texts'][len(rows) :] == -1).all()


def test_train_and_what_it_is_judged_by(tmp_path):
    """The third of the columns that are named is of train alone."""
    (tmp_path / 'train.tsv').write_text(f'x\ty\tz\n{A}\t{B}\t{C}\n{D}\t{E}\t{F}\n', encoding='utf-8')
    (tmp_path / 'dev.tsv').write_text(f'x\ty\tscore\n{A}\t{B}\t5\n{A}\t{C}\t1\n', encoding='utf-8')
    config = config_file.get_config()
    config.data.text_columns = ('x', 'y', 'z')
    files = {f'data.{name}': str(tmp_path / f'{name}.tsv') for name in ('train', 'dev')}
    config.update_from_flattened_dict(files)
    splits = read(config, VOCABULARY)
    assert list(splits) == ['train', 'validation']
    assert splits['train'].metrics == splits['validation'].metrics == ('spearman',)
    with pytest.raises(ValueError, match="has no variant 'bert'; it has simcse"):
        config_file.get_config('bert')
