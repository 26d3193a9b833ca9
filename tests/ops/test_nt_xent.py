"""NT-Xent in tiles: against the loops of `test_losses`, against the dense formula, and on many devices."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import NamedSharding, PartitionSpec

from clower_jax.ops.nt_xent import HardNegatives, nt_xent
from clower_jax.parallel import sharding
from clower_jax.parallel.collectives import Collective, collectives
from helpers.losses import TOLERANCE, D, N, contrast, cosine
from helpers.meshes import mesh_of

TILES = {'one tile': N, 'tiles': 3}  # 3 does not divide 8: the last tile has padding


@functools.cache
def jitted_contrast(groups=1, tile=N, operands='float32'):
    """(p, w, real, temperature, ids) → [loss, correct, count] and the gradient of the loss by (p, w)."""

    def loss(p_and_w, real, temperature, ids):
        sums = nt_xent(*p_and_w, real, temperature, ids, groups=groups, tile=tile, operands=operands)
        return sums.loss, sums

    both = jax.jit(jax.value_and_grad(loss, has_aux=True), static_argnums=2)

    def run(p, w, real, temperature, ids=None):
        (_, sums), gradient = both((p, w), real, temperature, ids)
        return np.array([sums.loss, sums.correct, sums.count]), np.array(gradient)

    return run


def dense(p, w, real, temperature, ids=None):
    """The same as `jitted_contrast`, by the formula with all scores at once."""

    def loss(p_and_w):
        p, w = (x / jnp.linalg.norm(x, axis=1, keepdims=True) for x in p_and_w)
        number = np.arange(len(p))
        same = np.asarray(number if ids is None else ids)
        keep = (real[:, None] & real & (same[:, None] != same)) | np.eye(len(p), dtype=bool)
        scores = jnp.where(keep, jnp.matmul(p, w.T, precision='highest') / temperature, -jnp.inf)
        both = scores, scores.T
        each = sum(-jnp.diagonal(jax.nn.log_softmax(x, axis=1)) / 2 for x in both)
        correct = sum((x.argmax(1) == number) / 2 for x in both)
        total = jnp.where(real, each, 0).sum()
        return total, jnp.stack([total, jnp.where(real, correct, 0).sum(), real.sum()])

    (_, sums), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))((p, w))
    return np.array(sums), np.array(gradient)


def slopes(function, x, h=1e-6) -> np.ndarray:
    """The gradient of a scalar function of an array, by central differences in float64."""
    x = np.array(x, np.float64)
    out = np.zeros_like(x)
    for index in np.ndindex(x.shape):
        ends = []
        for step in (h, -h):
            moved = x.copy()
            moved[index] += step
            ends.append(function(moved))
        out[index] = (ends[0] - ends[1]) / (2 * h)
    return out


def pairs(seed, spread=1.0, shape=(N, D)):
    rng = np.random.default_rng(seed)
    p = rng.normal(size=shape)
    return p.astype(np.float32), (p + rng.normal(0, spread, shape)).astype(np.float32)


def assert_same_sums(got, expected):
    """The mean loss within the tolerance; what is counted exactly."""
    (loss, *counts), (expected_loss, *expected_counts) = got, expected
    assert counts == expected_counts
    number = max(1, expected_counts[1])
    np.testing.assert_allclose(loss / number, expected_loss / number, **TOLERANCE)


def assert_same_gradient(got, expected):
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5 * max(1, np.abs(expected).max()))


def check(p, w, real, temperature, ids=None, groups=1, tile=N):
    """Value, accuracy and gradient against the loops; returns the gradient."""
    sums, gradient = jitted_contrast(groups, tile)(p, w, np.array(real), temperature, ids)
    assert_same_sums(sums, contrast(p, w, real, temperature, ids, groups))

    def oracle(x):
        return contrast(*x, real, temperature, ids, groups)[0]

    assert_same_gradient(gradient, slopes(oracle, np.stack([p, w])))
    return gradient


# ---- against the loops ----


@pytest.mark.slow
@pytest.mark.parametrize(('temperature', 'tile'), [(0.05, N), (0.05, 3), (0.5, 3)])
def test_contrast_of_all_items(temperature, tile):
    check(*pairs(0), [True] * N, temperature, tile=tile)


@pytest.mark.slow
@given(
    seed=st.integers(0, 2**32 - 1),
    real=st.lists(st.booleans(), min_size=N, max_size=N),
    groups_and_tile=st.sampled_from([(1, N), (1, 3), (2, 3)]),
    ids=st.none() | st.lists(st.integers(0, 3), min_size=N, max_size=N).map(np.array),
)
def test_contrast(seed, real, groups_and_tile, ids):
    gradient = check(*pairs(seed), real, 0.05, ids, *groups_and_tile)
    assert np.all(gradient[:, ~np.array(real)] == 0)


@pytest.mark.slow
@given(
    p=st.lists(st.integers(0, 2), min_size=N, max_size=N),
    w=st.lists(st.integers(0, 2), min_size=N, max_size=N),
    tile=st.sampled_from([3, N]),
)
def test_the_first_of_equals_is_the_most_similar(p, w, tile):
    """Vectors of three directions: cosines are 0 or 1 exactly, and nearly all are equal to another."""
    real = np.arange(N) != 4
    p, w = (np.eye(D, dtype=np.float32)[x] for x in (p, w))
    sums, _ = jitted_contrast(tile=tile)(p, w, real, 0.05)
    assert_same_sums(sums, contrast(p, w, real, 0.05))


@pytest.mark.parametrize('tile', TILES.values(), ids=TILES)
def test_padded_items_have_no_weight_and_are_nobodys_negative(tile):
    p, w = pairs(1)
    real = np.array([True, False, True, True, False, True, True, False])
    run = jitted_contrast(tile=tile)
    sums, gradient = run(p, w, real, 0.05)
    rng = np.random.default_rng(2)
    for other in (rng.normal(size=(2, 3, D)), np.zeros((2, 3, D)), np.full((2, 3, D), 1e6)):
        p[~real], w[~real] = other
        changed, changed_gradient = run(p, w, real, 0.05)
        np.testing.assert_array_equal(changed, sums)
        np.testing.assert_array_equal(changed_gradient, gradient)
    # Nor do they count if they are not there at all.
    alone, _ = run(p[real], w[real], np.ones(5, bool), 0.05)
    np.testing.assert_allclose(alone, sums, rtol=1e-6)


@pytest.mark.parametrize('tile', TILES.values(), ids=TILES)
def test_same_word_is_no_negative_and_the_positive_stays(tile):
    p, w = pairs(3)
    ids = np.array([7, 7, 7, 7, 7, 7, 7, 8])
    check(p, w, [True] * N, 0.05, ids, tile=tile)
    # Were they all one word, each would have its own partner only: nothing to learn.
    sums, gradient = jitted_contrast(tile=tile)(p, w, np.ones(N, bool), 0.05, np.zeros(N, int))
    assert sums.tolist() == [0, N, N] and np.all(gradient == 0)


@pytest.mark.slow
def test_groups_are_separate_batches():
    p, w = pairs(4)
    real = np.arange(N) != 5
    got, _ = jitted_contrast(2)(p, w, real, 0.05)
    parts = [jitted_contrast()(p[i : i + 4], w[i : i + 4], real[i : i + 4], 0.05)[0] for i in (0, 4)]
    np.testing.assert_allclose(got, np.sum(parts, axis=0), rtol=1e-6)


def test_contrast_is_symmetric_and_blind_to_length():
    p, w = pairs(5)
    real = np.ones(N, bool)
    sums, (by_p, by_w) = jitted_contrast()(p, w, real, 0.05)
    exchanged, (by_first, by_second) = jitted_contrast()(w, p, real, 0.05)
    np.testing.assert_allclose(exchanged, sums, rtol=1e-6)
    np.testing.assert_allclose([by_second, by_first], [by_p, by_w], rtol=1e-5, atol=1e-5)
    scaled, _ = jitted_contrast()(p * 4, w / 2, real, 0.05)
    np.testing.assert_allclose(scaled, sums, rtol=1e-6)


@pytest.mark.parametrize('tile', TILES.values(), ids=TILES)
def test_contrast_of_padding_only(tile):
    sums, gradient = jitted_contrast(tile=tile)(*pairs(6), np.zeros(N, bool), 0.05)
    assert sums.tolist() == [0, 0, 0] and np.all(gradient == 0)


@pytest.mark.parametrize('tile', TILES.values(), ids=TILES)
def test_contrast_of_zero_vectors(tile):
    p, w = pairs(7)
    p[2] = w[2] = w[3] = 0
    sums, gradient = jitted_contrast(tile=tile)(p, w, np.ones(N, bool), 0.05)
    assert_same_sums(sums, contrast(p, w, [True] * N, 0.05))
    assert np.isfinite(gradient).all()
    assert np.all(gradient[:, 2] == 0) and np.all(gradient[1, 3] == 0) and np.any(gradient[0, 3] != 0)


def test_contrast_of_half_precision_is_computed_in_fp32():
    p, w = (x.astype(jnp.bfloat16) for x in pairs(8))
    half, gradient = jitted_contrast()(p, w, np.ones(N, bool), 0.05)
    full, _ = jitted_contrast()(p.astype(np.float32), w.astype(np.float32), np.ones(N, bool), 0.05)
    np.testing.assert_array_equal(half, full)
    assert half.dtype == np.float32 and gradient.dtype == jnp.bfloat16


# ---- against the dense formula ----


@pytest.mark.slow
@pytest.mark.parametrize(('tile', 'same_word_negatives'), [(128, True), (128, False), (4096, False)])
def test_many_items(tile, same_word_negatives):
    """333 items are three tiles of 128, the last with padding."""
    p, w = pairs(11, shape=(333, 24))
    rng = np.random.default_rng(12)
    real, ids = rng.random(333) < 0.9, None if same_word_negatives else rng.integers(0, 100, 333)
    expected, expected_gradient = dense(p, w, real, 0.05, ids)
    sums, gradient = jitted_contrast(tile=tile)(p, w, real, 0.05, ids)
    assert_same_sums(sums, expected)
    assert_same_gradient(gradient, expected_gradient)


@pytest.mark.slow
def test_a_temperature_that_overflows_a_plain_exponential():
    p, w = pairs(13)
    real = np.ones(N, bool)
    sums, gradient = jitted_contrast(tile=3)(p, w, real, 0.002)  # scores up to 500
    expected, expected_gradient = dense(p, w, real, 0.002)
    assert_same_sums(sums, expected)
    assert_same_gradient(gradient, expected_gradient)


@pytest.mark.slow
def test_operands_of_bf16():
    """Vectors of ±½ are exact in bf16, so that only the derivatives of the scores are rounded."""
    rng = np.random.default_rng(14)
    p, w = (np.zeros((N, 8), np.float32) for _ in range(2))
    for x in (p, w):
        for row in x:
            row[rng.choice(8, 4, replace=False)] = rng.choice([-0.5, 0.5], 4)
    real = np.ones(N, bool)
    full, gradient = jitted_contrast(tile=3)(p, w, real, 0.5)
    sums, rounded = jitted_contrast(tile=3, operands='bfloat16')(p, w, real, 0.5)
    np.testing.assert_allclose(sums, full, rtol=1e-6)
    np.testing.assert_allclose(rounded, gradient, atol=2**-8 * np.abs(gradient).max())
    assert np.any(rounded != gradient)


@pytest.mark.slow
def test_memory_is_linear():
    def temporary_bytes(items, tile):
        def loss(p, w, real):
            return nt_xent(p, w, real, 0.05, tile=tile).loss

        vectors, real = (jax.ShapeDtypeStruct((items, *x), t) for x, t in (((16,), jnp.float32), ((), bool)))
        compiled = jax.jit(jax.grad(loss, argnums=(0, 1))).lower(vectors, vectors, real).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    few, many = (temporary_bytes(items, tile=256) for items in (4096, 8192))
    assert many < 2.5 * few
    dense_few, dense_many = (temporary_bytes(items, tile=items) for items in (4096, 8192))
    assert dense_many > 3.5 * dense_few > 10 * few


# ---- on several devices ----

ITEMS, WIDTH = 104, 24  # 13 a device: tiles of 8 and their padding


def placed_step(mesh, groups, operands='float32'):
    """jit of (p, w, real, ids) → (mean loss · 3, sums), gradient; rows over the mesh."""

    def loss(p_and_w, real, ids):
        sums = nt_xent(*p_and_w, real, 0.05, ids, groups=groups, mesh=mesh, tile=8, operands=operands)
        return 3 * sums.loss / jnp.maximum(sums.count, 1), sums

    rows = NamedSharding(mesh, PartitionSpec(sharding.BATCH_AXES))
    whole = NamedSharding(mesh, PartitionSpec())
    return jax.jit(
        jax.value_and_grad(loss, has_aux=True), in_shardings=rows, out_shardings=((whole, whole), rows)
    )


@pytest.mark.devices
@pytest.mark.slow
@pytest.mark.parametrize(
    ('mesh', 'groups'),
    [((8, 1, 1), 1), ((2, 2, 2), 1), ((1, 1, 8), 1), ((2, 4, 1), 8), ((2, 2, 2), 8)],
    ids=str,
)
def test_eight_devices_equal_one(mesh, groups):
    p, w = pairs(15, shape=(ITEMS, WIDTH))
    rng = np.random.default_rng(16)
    real, ids = rng.random(ITEMS) < 0.8, rng.integers(0, 60, ITEMS)
    real[13:26] = False  # a device without any
    w = w.astype(jnp.bfloat16)  # the two views may differ in dtype
    (loss, sums), (by_p, by_w) = placed_step(mesh_of(*mesh), groups)((p, w), real, ids)
    expected, expected_gradient = jitted_contrast(groups, tile=ITEMS)(
        p, w.astype(np.float32), real, 0.05, ids
    )
    assert_same_sums([sums.loss, sums.correct, sums.count], expected)
    scale = 3 / expected[2]
    np.testing.assert_allclose(loss, scale * expected[0], rtol=1e-5)
    np.testing.assert_allclose(by_p, scale * expected_gradient[0], rtol=0, atol=1e-5)
    # Rounded to bfloat16 once: other orders of sums put a value that lies between two of them on either side.
    assert by_w.dtype == jnp.bfloat16
    rounded = by_w.astype(np.float32)
    np.testing.assert_allclose(rounded, scale * expected_gradient[1], rtol=2**-8, atol=1e-7)


def collectives_on_eight(groups: int) -> list[Collective]:
    """Those of the compiled step on 4 × 2 devices."""
    sds = jax.ShapeDtypeStruct
    vectors = (sds((ITEMS, WIDTH), jnp.float32),) * 2
    step = placed_step(mesh_of(4, 2, 1), groups)
    return collectives(step.lower(vectors, sds((ITEMS,), bool), sds((ITEMS,), jnp.int32)).compile().as_text())


@pytest.mark.devices
def test_each_view_is_gathered_once():
    found = collectives_on_eight(groups=1)
    wide = [one for one in found if any(WIDTH in shape for _, shape in one.arrays)]
    padded = 8 * 16
    assert [(one.operation, one.arrays) for one in wide] == [('all-gather', [('f32', (padded, WIDTH))])] * 2
    # What else travels are a few numbers for each item.
    others = sorted(one.operation for one in found if one not in wide)
    assert set(others) == {'all-gather', 'all-reduce'} and len(others) <= 6, found


@pytest.mark.devices
def test_groups_on_their_devices_need_no_gathering():
    assert {one.operation for one in collectives_on_eight(groups=8)} == {'all-reduce'}


# ---- what is refused ----


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ({'groups': 3}, '8 items do not divide into 3 groups'),
        ({'operands': 'int8'}, "operands='int8' must be float32 or bfloat16"),
    ],
)
def test_what_does_not_fit_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        nt_xent(*pairs(17), np.ones(N, bool), 0.05, **arguments)


@pytest.mark.devices
@pytest.mark.parametrize(('items', 'groups'), [(12, 1), (16, 4)])
def test_what_does_not_divide_over_devices_is_refused(items, groups):
    with pytest.raises(ValueError, match=f'{items} items in {groups} groups of negatives do not divide'):
        nt_xent(
            *pairs(18, shape=(items, D)), np.ones(items, bool), 0.05, groups=groups, mesh=mesh_of(8, 1, 1)
        )


# ---- hard negatives, and one direction alone ----


def with_hard_negatives(p, w, n, real, has_negative, temperature, ids, negative_ids, symmetric):
    """Gao et al. 2021, arXiv 2104.08821, equation 5, Σ over real i: −log e^{cos(p_i, w_i)/τ} / Σ_j
    (e^{cos(p_i, w_j)/τ} + e^{cos(p_i, n_j)/τ}); if symmetric, the mean of it and of (w, p) without n."""
    p, w, n = (np.float64(x) for x in (p, w, n))

    def is_negative(i, others):
        return not set(np.ravel(ids[i])) & set(np.ravel(others))

    loss = correct = 0.0
    for i in np.flatnonzero(real):
        others = [j for j in np.flatnonzero(real) if j == i or is_negative(i, ids[j])]
        hard = [j for j in np.flatnonzero(has_negative) if is_negative(i, negative_ids[j])]
        directions = [(p[i], w, [cosine(p[i], n[j]) / temperature for j in hard])]
        if symmetric:
            directions.append((w[i], p, []))
        for x, partners, more in directions:
            scores = {j: cosine(x, partners[j]) / temperature for j in others}
            every = [*scores.values(), *more]
            loss -= math.log(math.exp(scores[i]) / sum(math.exp(s) for s in every)) / len(directions)
            correct += (max(every) == scores[i]) / len(directions)
    return loss, correct, int(np.sum(real))


@functools.cache
def jitted_with_hard_negatives(symmetric, tile, mesh=None):
    def loss(vectors, real, has_negative, temperature, ids, negative_ids):
        p, w, n = vectors
        hard = HardNegatives(n, has_negative, negative_ids)
        options = {'symmetric': symmetric, 'tile': tile, 'mesh': mesh}
        sums = nt_xent(p, w, real, temperature, ids, hard_negatives=hard, **options)
        return sums.loss, sums

    return jax.jit(jax.value_and_grad(loss, has_aux=True), static_argnums=3)


@pytest.mark.slow
@given(
    seed=st.integers(0, 2**32 - 1),
    real=st.lists(st.booleans(), min_size=N, max_size=N),
    tile=st.sampled_from([N, 3]),
    symmetric=st.booleans(),
)
def test_hard_negatives(seed, real, tile, symmetric):
    """Items of two ids, of which some are others'; some have no hard negative."""
    rng = np.random.default_rng(seed)
    vectors = *pairs(seed), rng.normal(size=(N, D)).astype(np.float32)
    real = np.array(real)
    has_negative = real & rng.integers(0, 2, N).astype(bool)
    ids, negative_ids = rng.integers(0, 12, (N, 2)), rng.integers(0, 12, (N, 2))
    case = real, has_negative, 0.05, ids, negative_ids
    (_, sums), gradient = jitted_with_hard_negatives(symmetric, tile)(vectors, *case)
    expected = with_hard_negatives(*vectors, *case, symmetric)
    assert_same_sums([sums.loss, sums.correct, sums.count], expected)
    oracle = slopes(lambda x: with_hard_negatives(*x, *case, symmetric)[0], np.stack(vectors))
    assert_same_gradient(np.array(gradient), oracle)
    assert np.all(np.array(gradient)[2][~has_negative] == 0)


@pytest.mark.slow
@pytest.mark.parametrize('symmetric', [True, False])
def test_without_a_hard_negative_nothing_changes(symmetric):
    p, w = pairs(19)
    real, none = np.arange(N) != 3, np.zeros(N, bool)
    ids = np.array([0, 1, 1, 2, 3, 4, 5, 6])
    (_, sums), (by_p, by_w, by_n) = jitted_with_hard_negatives(symmetric, 3)(
        (p, w, p), real, none, 0.05, ids, ids
    )
    (_, plain), gradient = jax.jit(
        jax.value_and_grad(
            lambda x: (lambda sums: (sums.loss, sums))(
                nt_xent(*x, real, 0.05, ids, symmetric=symmetric, tile=3)
            ),
            has_aux=True,
        )
    )((p, w))
    np.testing.assert_allclose(jax.tree.leaves(sums), jax.tree.leaves(plain), rtol=1e-6)
    np.testing.assert_allclose([by_p, by_w], gradient, atol=1e-6)
    assert not np.any(by_n)


@pytest.mark.devices
@pytest.mark.slow
@pytest.mark.parametrize('symmetric', [True, False])
def test_hard_negatives_on_eight_devices(symmetric):
    mesh = mesh_of(4, 2, 1)
    rng = np.random.default_rng(20)
    vectors = *pairs(21, shape=(ITEMS, WIDTH)), rng.normal(size=(ITEMS, WIDTH)).astype(np.float32)
    real = rng.random(ITEMS) < 0.8
    case = real, real & (rng.random(ITEMS) < 0.7), 0.05, *rng.integers(0, 300, (2, ITEMS, 2))
    (_, expected), gradient = jitted_with_hard_negatives(symmetric, ITEMS)(vectors, *case)
    rows = NamedSharding(mesh, PartitionSpec(sharding.BATCH_AXES))
    placed = jax.device_put(vectors, rows)
    (_, sums), spread = jitted_with_hard_negatives(symmetric, 8, mesh)(placed, *case)
    assert_same_sums([sums.loss, sums.correct, sums.count], [float(x) for x in jax.tree.leaves(expected)])
    for one, other in zip(spread, gradient, strict=True):
        assert_same_gradient(np.array(one), np.array(other))
