"""Entities and their scores against seqeval, on any sequences of tags."""

import warnings

import numpy as np
import pytest
import seqeval.metrics
from hypothesis import given, settings
from hypothesis import strategies as st
from seqeval.metrics.sequence_labeling import get_entities

from input_pipeline.datasets import tag_schemes
from input_pipeline.datasets.tag_schemes import Span
from input_pipeline.metrics.entities import entity_scores

TYPES = ('a', 'b', 'a-b', '组织')
TAG = st.one_of(
    st.just('O'),
    st.builds('{}-{}'.format, st.sampled_from('BIES'), st.sampled_from(TYPES)),
    st.sampled_from(['B', 'I', 'E', 'S', '.', 'Ba', 'B-', 'I--a', 'Ba-', 'E-a-']),
)
# Other letters, too. Of these seqeval takes the first of all its sentences for something else than the rest.
ANY_TAG = st.one_of(TAG, st.sampled_from(['X', 'M-a', 'O-a', '-', 'X-a']))
SENTENCES = st.lists(st.integers(0, 9), min_size=1, max_size=5).flatmap(
    lambda lengths: st.tuples(*(st.tuples(*2 * [st.lists(TAG, min_size=n, max_size=n)]) for n in lengths))
)


@pytest.mark.slow
@settings(max_examples=300)
@given(st.lists(ANY_TAG, max_size=12))
def test_any_tags_mean_what_they_mean_to_seqeval(tags):
    with warnings.catch_warnings(action='ignore'):  # seqeval's, of odd tags
        theirs = get_entities(tags)
    assert [(span.type, span.start, span.end - 1) for span in tag_schemes.entities(tags)] == theirs


@pytest.mark.slow
@settings(max_examples=200)
@given(SENTENCES)
def test_scores_are_seqevals(sentences):
    gold, predicted = ([list(pair[side]) for pair in sentences] for side in (0, 1))
    found = entity_scores(*([tag_schemes.entities(tags) for tags in side] for side in (gold, predicted)))
    with warnings.catch_warnings(action='ignore'):  # of nothing to divide by
        for name in ('precision', 'recall', 'f1'):
            score = getattr(seqeval.metrics, f'{name}_score')
            assert found[f'entity_{name}'] == pytest.approx(
                score(gold, predicted, average='micro'), abs=1e-12
            )
        macro = seqeval.metrics.f1_score(gold, predicted, average='macro')
    assert found['entity_macro_f1'] == pytest.approx(0 if np.isnan(macro) else macro, abs=1e-12)


def test_as_many_texts_on_both_sides():
    with pytest.raises(ValueError, match='zip'):
        entity_scores([[]], [])


@st.composite
def flat_spans(draw):
    cuts = sorted(draw(st.sets(st.integers(0, 12), min_size=2)))
    chosen = [pair for pair in zip(cuts, cuts[1:]) if draw(st.booleans())]
    return [Span(start, end, draw(st.sampled_from(TYPES))) for start, end in chosen]


@pytest.mark.parametrize('scheme', tag_schemes.SCHEMES)
@given(flat_spans())
def test_spans_come_back_from_their_tags(scheme, spans):
    tags = tag_schemes.tags_of(spans, 12, scheme)
    assert tag_schemes.entities(tags) == spans
    assert set(tags) <= set(tag_schemes.all_tags(TYPES, scheme)) and all(map(tag_schemes.is_tag, tags))
    other = [tag.translate(str.maketrans('IES', 'MLU')) if tag != 'O' else tag for tag in tags]
    assert [tag_schemes.normalised(tag) for tag in other] == tags  # BMES, BILOU


def test_the_letters_of_a_scheme():
    spans = [Span(0, 1, 'x'), Span(1, 4, 'y')]
    assert tag_schemes.tags_of(spans, 5, 'BIO') == ['B-x', 'B-y', 'I-y', 'I-y', 'O']
    assert tag_schemes.tags_of(spans, 5, 'BIOES') == ['S-x', 'B-y', 'I-y', 'E-y', 'O']
    assert tag_schemes.all_tags('xy', 'BIO') == ('O', 'B-x', 'I-x', 'B-y', 'I-y')
    assert tag_schemes.scheme_of(['O', 'B-x', 'I-x']) == 'BIO'
    assert tag_schemes.scheme_of(['O', 'S-x']) == 'BIOES'
    assert tag_schemes.types_of(['O', 'B-x', 'I-x', 'B-a-b']) == ('x', 'a-b')


def test_of_spans_that_overlap_the_longest_stays():
    spans = [Span(2, 4, 'a'), Span(0, 3, 'b'), Span(4, 5, 'a'), Span(4, 5, 'a'), Span(4, 5, 'b')]
    assert tag_schemes.without_overlaps(spans) == [Span(0, 3, 'b'), Span(4, 5, 'a')]
