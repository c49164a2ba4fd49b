"""EASE in vector form against its definition."""

import numpy as np
import pytest
from scipy.sparse import csr_array

from include.models.factors import REACH_POWER, item_to_item, train_item_factors


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
