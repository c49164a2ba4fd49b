"""Interest vectors against a plain loop, and their independence of what they are computed with."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array

from include.models import interests
from include.models.interests import (
    decayed_weights,
    interest_vectors,
    latest_first_weights,
    several_interests,
    unit,
)

START = np.datetime64("2024-01-01T00:00:00", "us")
USERS, ITEMS = 12, 30


def history(seed, n=400):
    rng = np.random.default_rng(seed)
    user, item = rng.integers(0, USERS, n), rng.integers(0, ITEMS, n)
    at = START + rng.integers(0, 200 * 86_400_000_000, n).astype("timedelta64[us]")
    weight = rng.uniform(0.1, 3.0, n)
    last = np.full(USERS, START)
    np.maximum.at(last, user, at)
    return user, item, at, weight, last


def decayed(user, item, at, weight, last, half_life=10.0, users=USERS):
    return decayed_weights(user, item, at, weight, last, half_life_days=half_life, shape=(users, ITEMS))


def test_weights_equal_a_plain_loop():
    user, item, at, weight, last = history(1)
    expected = np.zeros((USERS, ITEMS))
    for u, i, t, w in zip(user, item, at, weight, strict=True):
        days = (last[u] - t) / np.timedelta64(1, "us") / 86_400e6
        expected[u, i] += w * 0.5 ** (days / 10.0)
    found = decayed(user, item, at, weight, last)
    np.testing.assert_allclose(found.toarray(), expected, rtol=1e-12)
    assert found.has_sorted_indices
    assert found.has_canonical_format


def test_the_latest_items_weigh_most_and_each_counts_once():
    user, item, at, weight, _ = history(4)
    at = at.astype("datetime64[D]").astype("datetime64[us]")  # baskets: many events of one moment
    weight = weight / 4
    expected = np.zeros((USERS, ITEMS))
    for u in range(USERS):
        had = {i: at[(user == u) & (item == i)].max() for i in set(item[user == u].tolist())}
        for i, last in had.items():
            later = sum(other > last for other in had.values())
            expected[u, i] = min(math.fsum(weight[(user == u) & (item == i)]), 1.0) * (later + 1) ** -0.5
    found = latest_first_weights(user, item, at, weight, power=0.5, shape=(USERS, ITEMS))
    np.testing.assert_allclose(found.toarray(), expected, rtol=1e-12)
    assert found.has_canonical_format


def test_a_half_life_halves_and_the_last_event_counts_in_full():
    at = np.array([START, START + np.timedelta64(3, "D")])
    found = decayed(np.array([0, 0]), np.array([4, 5]), at, np.array([2.0, 2.0]), at[1:], half_life=3.0, users=1)
    assert found.toarray()[0, [4, 5]].tolist() == [1.0, 2.0]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_the_order_of_events_changes_no_bit(seed):
    user, item, at, weight, last = history(seed)
    at = at.astype("datetime64[D]").astype("datetime64[us]")  # many ties in time
    last = last.astype("datetime64[D]").astype("datetime64[us]")
    shuffled = np.random.default_rng(seed).permutation(len(user))
    one = decayed(user, item, at, weight, last)
    other = decayed(user[shuffled], item[shuffled], at[shuffled], weight[shuffled], last)
    assert one.data.tobytes() == other.data.tobytes()
    assert np.array_equal(one.indices, other.indices)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sets(st.integers(0, USERS - 1), min_size=1))
def test_a_row_does_not_depend_on_the_rows_beside_it(seed, chosen):
    rng = np.random.default_rng(seed)
    user, item, at, weight, last = history(seed)
    vectors = unit(rng.normal(size=(ITEMS, 48)))
    extra = rng.normal(size=(USERS, 48))
    whole, norms = interest_vectors(decayed(user, item, at, weight, last), vectors, extra)
    rows = np.array(sorted(chosen))
    place = np.full(USERS, -1)
    place[rows] = np.arange(len(rows))
    own = place[user] >= 0
    weights = decayed(place[user][own], item[own], at[own], weight[own], last[rows], users=len(rows))
    part, part_norms = interest_vectors(weights, vectors, extra[rows])
    assert part.tobytes() == whole[rows].tobytes()
    assert part_norms.tobytes() == norms[rows].tobytes()


def test_vectors_equal_a_plain_loop():
    rng = np.random.default_rng(3)
    user, item, at, weight, last = history(3)
    weights, vectors = decayed(user, item, at, weight, last), rng.normal(size=(ITEMS, 7)).astype(np.float32)
    extra = rng.normal(size=(USERS, 7))
    found, norms = interest_vectors(weights, vectors, extra)
    for u in range(USERS):
        total = [math.fsum(weights[u, i] * float(vectors[i, c]) for i in range(ITEMS)) + extra[u, c] for c in range(7)]
        assert norms[u] == pytest.approx(math.hypot(*total))
        np.testing.assert_allclose(found[u], np.array(total) / math.hypot(*total), atol=1e-6)


def test_what_decayed_over_hundreds_of_half_lives_still_has_a_direction():
    vectors = np.eye(3, dtype=np.float32)
    weights = csr_array(np.array([[3.0, 4.0, 0.0]]) * 1e-161)
    found, norms = interest_vectors(weights, vectors, None)
    np.testing.assert_allclose(found, [[0.6, 0.8, 0.0]], rtol=1e-6)
    np.testing.assert_allclose(norms, [5e-161], rtol=1e-6)


def test_without_history_the_vector_is_zero():
    found, norms = interest_vectors(csr_array((2, ITEMS)), np.ones((ITEMS, 4), np.float32), None)
    assert found.tolist() == [[0.0] * 4] * 2
    assert norms.tolist() == [0.0, 0.0]
    assert found.dtype == np.float32


def test_no_events_at_all():
    none = np.zeros(0, dtype=np.int64)
    found = decayed(none, none, np.zeros(0, "datetime64[us]"), np.zeros(0), np.full(3, START), users=3)
    assert found.shape == (3, ITEMS)
    assert found.nnz == 0


# Several interests

WIDTH, MOST = 16, 3


def tastes(seed, users=USERS, items=ITEMS):
    """Items of four kinds, some without a text, and what some users had of them."""
    random = np.random.default_rng(seed)
    kinds = random.normal(size=(4, WIDTH))
    vectors = unit(kinds[np.arange(items) % 4] + 0.3 * random.normal(size=(items, WIDTH)))
    vectors[::11] = 0.0
    weights = random.exponential(size=(users, items)) * (random.random((users, items)) < random.random((users, 1)))
    return csr_array(weights), vectors


def one_by_one(weights, vectors, heaviest):
    """Of one user, by plain loops: the groups of items, the heaviest first."""
    items = [i for i in np.argsort(-weights, kind="stable") if weights[i] > 0 and vectors[i].any()][:heaviest]
    points = {i: vectors[i].astype(np.float64) for i in sorted(items)}
    if not points:
        return []
    centres = [points[max(points, key=lambda i: (weights[i], -i))]]
    while len(centres) < MOST:
        far = {i: weights[i] * (1 - max(point @ c for c in centres)) for i, point in points.items()}
        far = {i: value for i, value in far.items() if max(points[i] @ c for c in centres) < interests.UNLIKE}
        if not far:
            break
        centres.append(points[max(far, key=lambda i: (far[i], -i))])
    for turn in range(interests.ROUNDS + 1):
        groups = [[] for _ in centres]
        for i, point in points.items():
            groups[max(range(len(centres)), key=lambda n: (point @ centres[n], -n))].append(i)
        sums = [sum(weights[i] * points[i] for i in group) if group else np.zeros(WIDTH) for group in groups]
        centres = [total / (np.linalg.norm(total) or 1.0) for total in sums]
        if turn < interests.ROUNDS:
            centres = [c if c.any() else np.full(WIDTH, -9.0 / WIDTH) for c in centres]
    masses = [sum(weights[i] for i in group) for group in groups]
    return sorted(((mass, c) for mass, c in zip(masses, centres, strict=True) if mass), key=lambda each: -each[0])


@pytest.mark.parametrize("heaviest", [6, 32])
def test_several_interests_equal_a_plain_loop(monkeypatch, heaviest):
    monkeypatch.setattr(interests, "HEAVIEST", heaviest)
    monkeypatch.setattr(interests, "VECTORS_AT_ONCE", 48)
    counts = set()
    for seed in range(5):
        weights, vectors = tastes(seed)
        found, shares = several_interests(weights, vectors, MOST)
        for user in range(USERS):
            expected = one_by_one(weights.toarray()[user], vectors, heaviest)
            counts.add(len(expected))
            total = sum(mass for mass, _ in expected)
            for n, (mass, centre) in enumerate(expected):
                np.testing.assert_allclose(found[user, n], centre, atol=1e-6)
                assert shares[user, n] == pytest.approx(mass / total, rel=1e-5)
            assert not found[user, len(expected) :].any()
            assert not shares[user, len(expected) :].any()
    assert {1, 3} <= counts
    assert found.dtype == shares.dtype == np.float32


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sets(st.integers(0, USERS - 1), min_size=1))
def test_several_interests_have_the_same_bits_whoever_is_beside_and_whatever_items_others_had(seed, chosen):
    weights, vectors = tastes(seed)
    whole, shares = several_interests(weights, vectors, MOST)
    rows = np.array(sorted(chosen))
    own = csr_array(weights[rows])
    columns = np.unique(own.indices)  # an update reads the items of its users only
    part, part_shares = several_interests(csr_array(own[:, columns]), vectors[columns], MOST)
    assert part.tobytes() == whole[rows].tobytes()
    assert part_shares.tobytes() == shares[rows].tobytes()


def test_unlike_tastes_are_kept_apart_and_like_ones_together():
    vectors = np.eye(4, dtype=np.float32)
    vectors[3] = unit(np.array([[1.0, 0.1, 0, 0]]))[0]
    found, shares = several_interests(csr_array(np.array([[2.0, 1.0, 0.0, 2.0], [1.0, 0.0, 0.0, 1.0]])), vectors, 3)
    np.testing.assert_allclose(shares, [[0.8, 0.2, 0], [1, 0, 0]], rtol=1e-6)
    assert found[0, 1].tolist() == [0, 1, 0, 0]
    np.testing.assert_allclose(found[1, 0], unit(vectors[[0]] + vectors[[3]])[0], atol=1e-6)


def test_nobody_and_nothing_have_no_interests():
    for users in (0, 2):
        found, shares = several_interests(csr_array((users, ITEMS)), np.ones((ITEMS, 4), np.float32), MOST)
        assert found.shape == (users, MOST, 4)
        assert not found.any()
        assert not shares.any()
