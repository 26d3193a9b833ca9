"""Ridge regression and the bootstrap, against loops and closed forms."""

import numpy as np
import pytest

from clower_jax.experiments import resampling

RANDOM = np.random.default_rng(0)


def test_ridge_minimises_its_objective():
    """Against the normal equations of the penalised problem, the intercept a column of its own."""
    x, y = RANDOM.normal(3, [1, 10, 0.1], (40, 3)), RANDOM.normal(size=(40, 2))
    for penalty, (weights, intercept) in zip((0.0, 0.3), resampling.ridge(x, y, (0.0, 0.3))):
        design = np.column_stack([x, np.ones(40)])
        cost = np.diag([*(penalty * 40 * x.var(axis=0)), 0])
        expected = np.linalg.solve(design.T @ design + cost, design.T @ y)
        np.testing.assert_allclose(np.vstack([weights, intercept]), expected, rtol=1e-8)


def test_a_constant_feature_does_no_harm():
    x, y = np.column_stack([np.ones(30), RANDOM.normal(size=30)]), RANDOM.normal(size=(30, 1))
    ((weights, intercept),) = resampling.ridge(x, y, [1e-3])
    assert np.isfinite(weights).all() and np.isfinite(intercept).all()


def test_held_out_errors_are_those_of_a_loop():
    x = RANDOM.normal(size=(60, 4))
    y = x @ RANDOM.normal(size=(4, 3)) + RANDOM.normal(size=(60, 3))
    penalties = (1e-3, 1.0)
    residual, total, chosen = resampling.held_out_errors(x, y, 3, seed=5, penalties=penalties)
    order = np.random.default_rng(5).permutation(60).tolist()
    seen = []
    for fold in range(3):
        test = order[fold::3]
        others = [row for row in order if row not in test]
        validation, train = others[:8], others[8:]
        errors = []
        for penalty in penalties:
            ((weights, intercept),) = resampling.ridge(x[train], y[train], [penalty])
            errors.append(sum(((x[row] @ weights + intercept - y[row]) ** 2).sum() for row in validation))
        assert chosen[fold] == penalties[int(np.argmin(errors))]
        ((weights, intercept),) = resampling.ridge(x[others], y[others], [chosen[fold]])
        for row in test:
            assert residual[row] == pytest.approx(((x[row] @ weights + intercept - y[row]) ** 2).sum())
            assert total[row] == pytest.approx(((y[row] - y[others].mean(axis=0)) ** 2).sum())
        seen += test
    assert sorted(seen) == list(range(60))
    ratio = sum(residual.tolist()) / sum(total.tolist())
    assert resampling.r_squared(residual, total) == pytest.approx(1 - ratio) and ratio < 0.7


def test_noise_tells_nothing_and_a_linear_map_everything():
    x = RANDOM.normal(size=(300, 5))
    for y, low, high in (
        (RANDOM.normal(size=(300, 3)), -0.05, 0.05),
        (x @ RANDOM.normal(size=(5, 3)), 0.999, 1),
    ):
        residual, total, _ = resampling.held_out_errors(x, y, 5, seed=0)
        assert low <= resampling.r_squared(residual, total) <= high


def test_too_few_words_are_refused():
    with pytest.raises(ValueError, match='29 words are too few for 3 folds'):
        resampling.held_out_errors(np.ones((29, 1)), np.ones((29, 1)), 3, 0)


def test_the_bootstrap_of_a_mean_has_its_standard_error():
    values = RANDOM.normal(size=400)
    drawn = resampling.bootstrap(np.mean, (values,), 2000, seed=1)
    assert drawn.std() == pytest.approx(values.std() / 20, rel=0.1)
    low, high = resampling.interval(drawn)
    assert (drawn < low).mean() == pytest.approx(0.025, abs=1e-3)
    assert (drawn > high).mean() == pytest.approx(0.025, abs=1e-3)


def test_two_models_are_drawn_in_pairs():
    """The difference of models that differ by a constant has no scatter, and columns stay together."""
    values = RANDOM.normal(size=50)
    a, b = (resampling.bootstrap(np.mean, (x,), 20, seed=2) for x in (values, values + 1))
    np.testing.assert_allclose(b - a, 1)
    assert a.std() > 0
    together = resampling.bootstrap(
        lambda x, y: float(np.abs(y - 2 * x).max()), (values, 2 * values), 20, seed=2
    )
    assert not together.any()
