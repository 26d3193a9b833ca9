"""Several labels each against scikit-learn, thresholds against all others, Pearson against SciPy."""

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from input_pipeline.metrics import classification, retrieval

SHAPE = st.tuples(st.integers(1, 8), st.integers(1, 4))


@st.composite
def decisions(draw):
    """gold bool [N, C], probabilities [N, C] of which some are equal."""
    shape = draw(SHAPE)
    tenths = draw(arrays.arrays(np.int64, shape, elements=st.integers(0, 10)))
    return draw(arrays.arrays(bool, shape)), tenths / 10


def f1(gold, predicted, average):
    return sklearn.metrics.f1_score(gold, predicted, average=average, zero_division=0)


@given(decisions())
def test_f1_is_scikit_learns(case):
    gold, predicted = case[0], case[1] >= 0.5
    found = classification.multi_label_f1(gold, predicted)
    if gold.shape[1] == 1:  # which scikit-learn takes for two classes
        expected = {'micro': f1(gold[:, 0], predicted[:, 0], 'binary')} | {'macro': found['micro_f1']}
    else:
        expected = {average: f1(gold, predicted, average) for average in ('micro', 'macro')}
    assert found == pytest.approx({f'{average}_f1': value for average, value in expected.items()})


@pytest.mark.slow
@given(decisions())
def test_no_threshold_is_better(case):
    gold, probabilities = case
    thresholds = classification.best_thresholds(gold, probabilities)
    assert ((thresholds >= 0) & (thresholds <= 1)).all()
    for label, threshold in enumerate(thresholds):
        truth, values = gold[:, label], probabilities[:, label]
        if not truth.any():
            assert threshold == 0.5
            continue
        best = max(f1(truth, values >= other, 'binary') for other in np.arange(-5, 110, 10) / 100)
        assert f1(truth, values >= threshold, 'binary') == pytest.approx(best)


def test_of_thresholds_as_good_the_nearest_to_a_half():
    gold = np.array([[1], [0], [0]], bool)
    assert classification.best_thresholds(gold, np.array([[0.9], [0.2], [0.1]])) == pytest.approx([0.55])
    gold = np.array([[1, 1], [1, 0], [0, 1]], bool)
    probabilities = np.array([[0.3, 0.6], [0.2, 0.6], [0.1, 0.6]])
    assert classification.best_thresholds(gold, probabilities) == pytest.approx([0.15, 0.3])


@given(st.lists(st.tuples(*2 * [st.integers(-5, 5)]), min_size=2, max_size=10))
def test_pearson_is_scipys(pairs):
    x, y = np.array(pairs, np.float64).T  # scipy reckons in the type it is given
    if len(set(x)) == 1 or len(set(y)) == 1:
        assert retrieval.pearson(x, y) == 0
    else:
        known = scipy.stats.pearsonr(x, y).statistic
        assert retrieval.pearson(x.astype(np.float32), y) == pytest.approx(known, abs=1e-9)
