"""EASE in vector form against its definition."""

import math

import numpy as np
import pytest
from scipy.sparse import csr_array

from include.models import factors
from include.models.factors import (
    REACH_POWER,
    Lenders,
    expected_interactions,
    item_to_item,
    low_pass,
    train_item_factors,
    with_borrowed,
    with_neighbours,
)
from include.models.interests import unit
from include.models.nearest_texts import NearestTexts


def marks(users=80, items=25, seed=0):
    rng = np.random.default_rng(seed)
    return csr_array((rng.random((users, items)) < 0.2).astype(np.float64))


def test_item_to_item_is_the_best_matrix_with_a_zero_diagonal():
    """Column by column, ridge regression of an item on all others: EASE's definition, without its closed form."""
    x, regularisation = marks().toarray(), 5.0
    found = item_to_item(csr_array(x), regularisation)
    for j in range(x.shape[1]):
        others = np.delete(x, j, axis=1)
        expected = np.linalg.solve(others.T @ others + regularisation * np.eye(others.shape[1]), others.T @ x[:, j])
        np.testing.assert_allclose(np.delete(found[:, j], j), expected, atol=1e-10)
        assert found[j, j] == 0.0


@pytest.mark.parametrize("precision", [np.float64, np.float32])
@pytest.mark.parametrize("users", [6, 300])
def test_few_users_and_many_give_the_inverse_of_the_gram_matrix(users, precision):
    """From the side of the users where they are few, else of the items; some users have one item, some none."""
    rng = np.random.default_rng(3)
    x = (rng.random((users, 60)) < rng.choice([0.0, 0.02, 0.2], (users, 1))).astype(np.float64)
    inverse = np.linalg.inv(x.T @ x + 7.0 * np.eye(60))
    expected = -inverse / np.diag(inverse)
    np.fill_diagonal(expected, 0.0)
    found = item_to_item(csr_array(x), 7.0, precision)
    assert found.dtype == precision
    np.testing.assert_allclose(found, expected, atol=1e-12 if precision is np.float64 else 1e-6)


@pytest.mark.parametrize("x", [np.ones((1, 1)), np.eye(3), np.eye(2, 3), np.zeros((2, 3)), np.zeros((0, 3))])
def test_where_nobody_has_several_items_nothing_is_related(x):
    found = item_to_item(csr_array(x), 7.0)
    assert found.shape == (x.shape[1], x.shape[1])
    assert not found.any()


def test_all_dimensions_give_the_scores_of_the_matrix():
    x = marks()
    left, right = train_item_factors(x, dimensions=25, regularisation=5.0, seed=1)
    np.testing.assert_allclose((x @ left) @ right.T, x @ item_to_item(x, 5.0), atol=1e-5)


@pytest.mark.parametrize("dimensions", [3, 10, 20])
def test_fewer_dimensions_are_near_the_best_of_their_rank(dimensions):
    """Eckart-Young: no matrix of rank k is nearer than the singular values left out. Errors weigh as REACH_POWER says."""
    x = marks(200, 60)
    matrix = item_to_item(x, 5.0)
    reach = (x.sum(axis=0) + 1.0)[:, None] ** REACH_POWER
    left, right = train_item_factors(x, dimensions=dimensions, regularisation=5.0, seed=1)
    best = np.sqrt((np.linalg.svd(reach * matrix, compute_uv=False)[dimensions:] ** 2).sum())
    error = np.linalg.norm(reach * (matrix - left.astype(np.float64) @ right.T))
    assert best * 0.999 <= error <= best * 1.05


def test_same_input_and_seed_same_bits():
    one = train_item_factors(marks(), dimensions=8, regularisation=5.0, seed=4)
    np.random.seed(99)
    other = train_item_factors(marks(), dimensions=8, regularisation=5.0, seed=4)
    assert [part.tobytes() for part in one] == [part.tobytes() for part in other]


def test_signs_do_not_depend_on_the_seed():
    one, _ = train_item_factors(marks(), dimensions=4, regularisation=5.0, seed=1)
    other, _ = train_item_factors(marks(), dimensions=4, regularisation=5.0, seed=2)
    assert ((one * other).sum(axis=0) > 0).all()


def test_fewer_items_than_dimensions_leaves_zeros():
    left, right = train_item_factors(marks(items=5), dimensions=9, regularisation=5.0, seed=1)
    assert left.shape == right.shape == (5, 9)
    assert left.dtype == right.dtype == np.float32
    assert not left[:, 5:].any()
    assert left[:, :5].any()


def test_nothing_to_learn_from():
    for shape in ((0, 0), (3, 0), (0, 4), (3, 4)):
        left, right = train_item_factors(csr_array(shape), dimensions=6, regularisation=5.0, seed=1)
        assert left.shape == right.shape == (shape[1], 6)
        assert not left.any()
        assert not right.any()


def test_an_item_that_nobody_used_scores_nothing():
    x = marks().toarray()
    x[:, 7] = 0.0
    left, right = train_item_factors(csr_array(x), dimensions=25, regularisation=5.0, seed=1)
    assert np.abs(left[7] @ right.T).max() < 1e-6
    assert np.abs(left @ right[7]).max() < 1e-6


# Borrowed from text neighbours

FACTORED, ITEMS, DIMENSIONS, EVIDENCE = 60, 90, 5, 4.0


def described(seed: int = 7):
    """Items of which the first have factors; some have no text, and some have the same one."""
    random = np.random.default_rng(seed)
    text = random.normal(size=(ITEMS, 6))
    text[:, 0] += 1  # most are somewhat alike
    text = unit(text)
    text[::9] = 0.0
    text[[4, 11, 20, 70, 71]] = text[3]
    text[[30, 31]] = text[32]
    left, right = random.normal(size=(2, FACTORED, DIMENSIONS)).astype(np.float32)
    had_by = random.integers(1, 12, FACTORED).astype(np.float64)
    place = np.where(np.arange(ITEMS) < FACTORED, np.arange(ITEMS), -1)
    exposure = np.concatenate([had_by + 2, random.uniform(0, 3, ITEMS - FACTORED)])
    return text, left, right, had_by / (had_by + EVIDENCE), place, exposure


def borrow(text, left, right, trust, place, exposure, rows=slice(None), text_then=None):
    lenders = Lenders.of_items((text if text_then is None else text_then)[:FACTORED], left, right, trust)
    return with_borrowed(lenders, text[rows], place[rows], exposure[rows], own_evidence=EVIDENCE, neighbours_weight=1.5)


def test_borrowed_factors_equal_a_plain_loop(monkeypatch):
    monkeypatch.setattr(factors, "TEXT_NEIGHBOURS", 7)
    monkeypatch.setattr(factors, "ITEMS_AT_ONCE", 16)
    text, left, right, trust, place, exposure = described()
    found = borrow(text, left, right, trust, place, exposure)
    for i in range(ITEMS):
        kinds: dict[bytes, list[int]] = {}
        for j in range(FACTORED):
            if text[j].any() and j != i:
                kinds.setdefault(text[j].tobytes(), []).append(j)
        cosine = {kind: float(text[i].astype(np.float64) @ text[js[0]]) for kind, js in kinds.items()}
        nearest = [kind for kind in sorted(kinds, key=lambda kind: -cosine[kind])[:7] if cosine[kind] > 0]
        weight = {j: math.exp(10 * (cosine[kind] - 1)) * trust[j] for kind in nearest for j in kinds[kind]}
        own = [part[i] if i < FACTORED else np.zeros(DIMENSIONS) for part in (left, right)]
        known = [trust[i] if i < FACTORED else 0.0, exposure[i] / (exposure[i] + EVIDENCE)]
        for part, one, share, times, values in zip(found, own, known, (1.0, 1.5), (left, right), strict=True):
            expected = one
            if weight:
                mean = sum(weight[j] * values[j].astype(np.float64) for j in weight) / sum(weight.values())
                expected = share * one + times * (1 - share) * mean
            np.testing.assert_allclose(part[i], expected, rtol=1e-4, atol=1e-5)
    assert found[0].dtype == found[1].dtype == np.float32


@pytest.mark.parametrize("seed", range(5))
def test_what_an_item_borrows_has_the_same_bits_whatever_is_computed_beside_it(seed):
    given = described(seed)
    whole = borrow(*given)
    rows = np.sort(np.random.default_rng(seed).choice(ITEMS, 13, replace=False))
    for row in (*([each] for each in rows), rows):
        part = borrow(*given, rows=row)
        assert [each.tobytes() for each in part] == [each[row].tobytes() for each in whole]


def test_an_item_lends_nothing_to_itself_even_when_its_text_changed():
    text, left, right, trust, place, exposure = described()
    changed = text.copy()
    changed[4] = text[8]  # it lends with the text that it had
    before = borrow(changed, left, right, trust, place, exposure, text_then=text)
    left, right = left.copy(), right.copy()
    left[4] += 100
    right[4] += 100
    after = borrow(changed, left, right, trust, place, exposure, text_then=text)
    for one, other, share in zip(before, after, (trust[4], exposure[4] / (exposure[4] + EVIDENCE)), strict=True):
        np.testing.assert_allclose((other - one)[4], share * 100, rtol=1e-4)
        assert (other - one)[11].min() > 1, "another item of its old text is lent it"


def test_neighbours_that_were_found_before_lend_the_same():
    random, n = np.random.default_rng(3), 25  # fewer than there can be neighbours
    text, had_by = random.normal(size=(n, 6)), random.integers(1, 12, n).astype(np.float64)
    text[:, 0] += 1
    text = unit(text)
    text[::9] = 0.0
    left, right = random.normal(size=(2, n, DIMENSIONS)).astype(np.float32)
    left[20:], right[20:], had_by[20:] = 0.0, 0.0, 0.0
    place, exposure = np.where(np.arange(n) < 20, np.arange(n), -1), had_by + 2
    lenders = Lenders.of_items(text[:20], left[:20], right[:20], had_by[:20] / (had_by[:20] + EVIDENCE))
    weights = {"own_evidence": EVIDENCE, "neighbours_weight": 1.5}
    expected = with_borrowed(lenders, text, place, exposure, **weights)
    near = NearestTexts.among(text, np.zeros(n)).neighbours(np.zeros(n), np.ones(n, dtype=bool))
    found = with_neighbours(left, right, near, had_by, exposure, **weights)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)
    assert found[1][20:].any(axis=1).all(), "items without factors have borrowed ones"


def test_low_pass_is_the_filter_of_a_dense_decomposition():
    marks = np.random.default_rng(4).random((40, 25)) < 0.2
    marks[7], marks[:, 3] = False, False  # a user without items, and an item that nobody had
    left, right = low_pass(csr_array(marks.astype(float)), dimensions=8, seed=1)
    of_users, of_items = np.sqrt(marks.sum(axis=1)), np.sqrt(marks.sum(axis=0))
    _, s, vt = np.linalg.svd(marks / np.maximum(of_users, 1)[:, None] / np.maximum(of_items, 1), full_matrices=False)
    weight = 1 - (s[7] / s[:8]) ** 2
    expected = (vt[:8].T * weight) @ vt[:8] / np.maximum(of_items, 1)[:, None] * of_items
    np.testing.assert_allclose(left @ right.T, expected, atol=2e-3)
    assert not (left @ right.T)[3].any()


def test_low_pass_tells_of_items_that_nobody_had_together():
    """Two tastes of ten items, of which each user had two: what EASE knows nothing of is what the taste's other items are."""
    random = np.random.default_rng(5)
    marks = np.zeros((60, 20))
    for user in range(60):
        marks[user, user % 2 * 10 + random.choice(10, 2, replace=False)] = 1.0
    left, right = low_pass(csr_array(marks), dimensions=4, seed=1)
    apart = (marks.T @ marks == 0) & (np.arange(20)[:, None] // 10 == np.arange(20) // 10)
    across = np.arange(20)[:, None] // 10 != np.arange(20) // 10
    said = left @ right.T
    assert apart.any()
    assert said[apart].mean() > 10 * np.abs(said[across]).mean()


@pytest.mark.parametrize("marks", [np.zeros((3, 4)), np.ones((1, 1)), np.ones((5, 2)), np.eye(5), np.zeros((0, 2))])
def test_low_pass_of_next_to_nothing_is_finite(marks):
    for vectors in low_pass(csr_array(marks), dimensions=8, seed=1):
        assert vectors.shape == (marks.shape[1], 8)
        assert np.isfinite(vectors).all()


def test_without_text_items_keep_their_own_factors():
    text, left, right, trust, place, exposure = described()
    for part, own in zip(borrow(0 * text, left, right, trust, place, exposure), (left, right), strict=True):
        np.testing.assert_array_equal(part[:FACTORED], own)
        assert not part[FACTORED:].any()
    nothing = np.zeros((0, DIMENSIONS), dtype=np.float32)
    lenders = Lenders.of_items(np.zeros((0, 6), np.float32), nothing, nothing, np.zeros(0))
    none = np.full(ITEMS, -1)
    for part in with_borrowed(lenders, text, none, exposure, own_evidence=EVIDENCE, neighbours_weight=1.0):
        assert part.shape == (ITEMS, DIMENSIONS)
        assert not part.any()


def test_what_was_there_for_long_and_little_used_is_expected_to_have_been_used_more():
    at = np.datetime64("2024-01-01", "us") + np.arange(10).astype("timedelta64[D]")
    found = expected_interactions(at[[0, 4, 9]] - np.timedelta64(1, "h"), at, 4)
    assert found.tolist() == [10 / 4, 6 / 4, 1 / 4]
    assert expected_interactions(at[:1] + np.timedelta64(99, "D"), at, 4).tolist() == [0.0]
    assert expected_interactions(at[:1], at[:0], 0).tolist() == [0.0]
