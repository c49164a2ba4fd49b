"""Interest vectors against a plain loop, and their independence of what they are computed with."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array

from include.models.interests import decayed_weights, interest_vectors, latest_first_weights, unit

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
