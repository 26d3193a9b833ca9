"""Linear probes are the optima that they claim to be, their penalty is chosen without the rows that are
reported, and the bootstrap is that of drawing rows."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from clower_jax.experiments.linear_probes import PENALTIES, PROBES, choose, interval, logistic, ridge


def problem(rows, size, classes, seed=0, noise=1.0):
    """Features fp32 [rows, size], correlated and not centred, and labels that depend on them."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(rows, size)) @ random.normal(size=(size, size)) / size**0.5 + 0.5
    logits = x @ np.random.default_rng(99).normal(size=(size, classes))
    labels = (logits + noise * random.gumbel(size=logits.shape)).argmax(axis=1)
    return x.astype(np.float32), labels


@pytest.mark.parametrize(('rows', 'size'), [(60, 8), (9, 12)])
def test_ridge_is_least_squares_with_rows_for_the_penalty(rows, size):
    x, labels = problem(rows, size, 3)
    for penalty, (weights, intercept) in zip(PENALTIES, ridge(x, labels, 3, PENALTIES), strict=True):
        for label in range(3):
            # A row [x, 1] for each example, and one that pulls each weight, but no intercept, to 0.
            left = [[*row, 1.0] for row in x.astype(float)]
            right = [float(found == label) for found in labels]
            for place in range(size):
                pull = [0.0] * (size + 1)
                pull[place] = math.sqrt(penalty * rows)
                left.append(pull)
                right.append(0.0)
            expected = np.linalg.lstsq(np.array(left), np.array(right), rcond=None)[0]
            np.testing.assert_allclose(weights[:, label], expected[:-1], atol=1e-7)
            np.testing.assert_allclose(intercept[label], expected[-1], atol=1e-7)


def torch_logistic(x, labels, classes, penalty):
    """The optimum by PyTorch's own L-BFGS, in fp64; its loss and its probabilities."""
    x, labels = torch.tensor(x, dtype=torch.float64), torch.tensor(labels)
    weights = torch.zeros(x.shape[1], classes, dtype=torch.float64, requires_grad=True)
    intercept = torch.zeros(classes, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weights, intercept], max_iter=5000, tolerance_grad=1e-10, tolerance_change=1e-14,
        line_search_fn='strong_wolfe', history_size=50,
    )  # fmt: skip

    def loss():
        fit = torch.nn.functional.cross_entropy(x @ weights + intercept, labels)
        return fit + penalty / 2 * (weights**2).sum()

    def closure():
        optimizer.zero_grad()
        value = loss()
        value.backward()
        return value

    optimizer.step(closure)
    with torch.no_grad():
        return loss().item(), torch.softmax(x @ weights + intercept, dim=1).numpy()


@pytest.mark.slow
@pytest.mark.parametrize(('rows', 'size'), [(200, 6), (12, 20)])
def test_logistic_is_the_optimum_that_torch_finds(rows, size):
    x, labels = problem(rows, size, 4)
    classes, labels = np.unique(labels, return_inverse=True)
    penalties = (1.0, 0.1, 1e-2)
    found = logistic(x, labels, len(classes), penalties)
    for penalty, (weights, intercept) in zip(penalties, found, strict=True):
        logits = torch.tensor(x @ weights + intercept)
        fit = torch.nn.functional.cross_entropy(logits, torch.tensor(labels)).item()
        expected, probabilities = torch_logistic(x, labels, len(classes), penalty)
        assert fit + penalty / 2 * (weights**2).sum() == pytest.approx(expected, abs=1e-5)
        np.testing.assert_allclose(torch.softmax(logits, dim=1).numpy(), probabilities, atol=5e-3)


@pytest.mark.slow
@pytest.mark.parametrize('probe', PROBES)
def test_the_penalty_is_the_one_that_gets_most_of_the_selection_right(probe):
    train, selection, reported = problem(40, 20, 3), problem(300, 20, 3, 1), problem(300, 20, 3, 2)
    found = choose(PROBES[probe], train, selection, reported[0])
    mean, deviation = train[0].mean(axis=0), train[0].std(axis=0)
    fits = PROBES[probe]((train[0] - mean) / deviation, train[1], 3, PENALTIES)
    rights, predictions = [], []
    for weights, intercept in fits:
        on_selection, on_reported = (
            ((rows - mean) / deviation @ weights + intercept).argmax(axis=1)
            for rows in (selection[0], reported[0])
        )
        rights.append(sum(on_selection == selection[1]))
        predictions.append(on_reported.tolist())
    assert len(set(rights)) > 2  # there is something to choose
    best = rights.index(max(rights))
    assert found.penalty == PENALTIES[best]
    assert found.predicted.tolist() == predictions[best]


@pytest.mark.slow
@pytest.mark.parametrize('probe', PROBES)
def test_reported_rows_have_no_say(probe):
    """Each row's prediction stays what it is whatever rows are reported beside it."""
    train, selection, reported = problem(40, 10, 3), problem(50, 10, 3, 1), problem(50, 10, 3, 2)[0]
    whole = choose(PROBES[probe], train, selection, reported)
    few = choose(PROBES[probe], train, selection, reported[:7])
    changed = choose(PROBES[probe], train, selection, np.concatenate([reported[:7], 100 * reported[7:]]))
    assert whole.penalty == few.penalty == changed.penalty
    assert whole.predicted[:7].tolist() == few.predicted.tolist() == changed.predicted[:7].tolist()


@pytest.mark.parametrize('probe', PROBES)
def test_a_class_without_rows_is_not_predicted_and_a_constant_feature_does_no_harm(probe):
    x, labels = problem(80, 6, 2, noise=0.1)
    x[:, 3] = 7.0
    numbers = np.array([1, 4])[labels]
    found = choose(PROBES[probe], (x, numbers), (x, numbers), x)
    assert set(found.predicted) == {1, 4}
    assert (found.predicted == numbers).mean() > 0.9


def test_nothing_to_train_on_is_an_error():
    x, labels = problem(5, 3, 2)
    with pytest.raises(ValueError, match='rows to train on'):
        choose(ridge, (x[:0], labels[:0]), (x, labels), x)
    with pytest.raises(ValueError, match='penalty'):
        choose(ridge, (x, labels), (x[:0], labels[:0]), x)


@given(st.integers(20, 400), st.floats(0.1, 0.9), st.integers(0, 100))
def test_the_interval_of_a_share_is_the_binomial_one(rows, share, seed):
    """Of right and wrong answers the bootstrap's distribution is known: binomial."""
    right = np.random.default_rng(seed).random(rows) < share
    low, high = interval(right.astype(float), seed, resamples=20_000)
    expected = binom.ppf([0.025, 0.975], rows, right.mean()) / rows
    np.testing.assert_allclose([low, high], expected, atol=2 / rows + 1e-9)


def test_the_interval_is_that_of_drawn_rows():
    random = np.random.default_rng(1)
    values = random.integers(-3, 4, 150) / 3
    means = [values[random.integers(0, 150, 150)].mean() for _ in range(5000)]
    np.testing.assert_allclose(interval(values), np.quantile(means, [0.025, 0.975]), atol=0.01)


def test_a_paired_interval_of_equal_models_is_nothing():
    assert interval(np.zeros(50)) == (0, 0)
    assert interval(np.full(50, 0.25)) == (0.25, 0.25)


def test_the_strongest_penalty_comes_first():
    assert list(PENALTIES) == sorted(PENALTIES, reverse=True)
    x, labels = problem(30, 4, 2)

    def always_the_same(features, labels, num_classes, penalties):
        return ((np.zeros((4, num_classes)), np.array([1.0, 0.0])) for _ in penalties)

    assert choose(always_the_same, (x, labels), (x, labels), x).penalty == PENALTIES[0]
