"""The blend against a dense computation by definition; lists against sorting everything."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array

from include.columns import DECIMALS
from include.models.interests import decayed_weights, interest_vectors, unit
from include.models.scoring import SOURCES, Blend, Catalogue, top_items
from include.settings import Surface

N, D, K, M = 60, 12, 6, 9
SURFACE = Surface(name="home", text_long=0.3, text_short=0.2, behaviour=1.0, popularity=0.4)


def catalogue(seed=0, n=N):
    rng = np.random.default_rng(seed)
    text = unit(rng.normal(size=(n, D)) + 1.0)
    text[:: max(n // 5, 1)] = 0.0  # some items have no text
    left, right = (rng.normal(size=(n, K)).astype(np.float32) for _ in range(2))
    return Catalogue.build([f"i{j:04}" for j in range(n)], text, left, right, rng.exponential(5.0, n))


def users(seed=1, m=M):
    rng = np.random.default_rng(seed)
    return unit(rng.normal(size=(m, D))), unit(rng.normal(size=(m, D))), unit(rng.normal(size=(m, K)))


def by_definition(items, long, short, behaviour):
    """The score of every item for every user, each source standardised over the catalogue."""

    def standardise(raw):
        deviation = raw.std(axis=-1, keepdims=True)
        varies = deviation > 1e-9
        return np.where(varies, (raw - raw.mean(axis=-1, keepdims=True)) / np.where(varies, deviation, 1.0), 0.0)

    text, right = items.text.astype(np.float64), items.right.astype(np.float64)
    return {
        "text_long": SURFACE.text_long * standardise(long @ text.T),
        "text_short": SURFACE.text_short * standardise(short @ text.T),
        "behaviour": SURFACE.behaviour * standardise(behaviour @ right.T),
        "popularity": SURFACE.popularity * np.broadcast_to(items.popularity, (len(long), len(text))),
    }


def best_by_sorting(scores, k, barred):
    """Lists of positions by rounded score, then position; -1 where none is left."""
    lists = np.full((len(scores), k), -1)
    for row, own in enumerate(scores):
        left = [(-round(float(score), DECIMALS), place) for place, score in enumerate(own) if not barred[row, place]]
        lists[row, : len(left)] = [place for _, place in sorted(left)][:k]
    return lists


def test_one_product_is_the_blend():
    items, vectors = catalogue(), users()
    queries, offsets = Blend(SURFACE, items, *vectors).queries()
    assert queries.shape == (M, D + K + 1)
    assert queries.dtype == np.float32
    found = queries @ items.matrix.T - offsets[:, None]
    np.testing.assert_allclose(found, sum(by_definition(items, *vectors).values()), atol=2e-5)


def test_popularity_is_the_standardised_logarithm():
    counts = np.array([0.0, 1.0, 3.0, 100.0])
    items = Catalogue.build(list("abcd"), *(np.zeros((4, 2), np.float32) for _ in range(3)), counts)
    raw = np.log(1 + counts)
    np.testing.assert_allclose(items.popularity, (raw - raw.mean()) / raw.std(), rtol=1e-6)


def test_source_scores_are_the_standardised_parts():
    items, vectors = catalogue(), users()
    positions = np.random.default_rng(5).integers(0, N, (M, 7))
    positions[3, 4:] = -1
    parts = Blend(SURFACE, items, *vectors).source_scores(positions)
    assert tuple(parts) == SOURCES
    for name, dense in by_definition(items, *vectors).items():
        expected = np.where(positions >= 0, np.take_along_axis(dense, np.maximum(positions, 0), axis=1), 0.0)
        np.testing.assert_allclose(parts[name], expected, atol=1e-6)


def test_a_source_that_does_not_vary_adds_nothing():
    long, short, behaviour = users()
    text = np.tile(unit(np.ones((1, D))), (N, 1))
    items = Catalogue.build([f"i{j:03}" for j in range(N)], text, *[np.ones((N, K), np.float32)] * 2, np.full(N, 7.0))
    blend = Blend(SURFACE, items, long, short, np.zeros_like(behaviour))
    queries, offsets = blend.queries()
    assert not (queries @ items.matrix.T - offsets[:, None]).any()
    assert not any(part.any() for part in blend.source_scores(np.tile(np.arange(5), (M, 1))).values())


def test_contributions_and_the_rest_make_the_score():
    """Past items + what the user wrote + popularity - what the average item gets = the score."""
    rng = np.random.default_rng(7)
    items = catalogue()
    user, item = rng.integers(0, M, 90), rng.integers(0, N, 90)
    at = np.datetime64("2024-01-01", "us") + rng.integers(0, 40, 90).astype("timedelta64[D]")
    last = np.full(M, at.max())
    wrote = {"text_long": rng.normal(size=(M, D)), "text_short": rng.normal(size=(M, D))}
    shares, vectors, norms = {}, {}, {}
    for name, half_life, base in (
        ("text_long", 90.0, items.text),
        ("text_short", 3.0, items.text),
        ("behaviour", 180.0, items.left),
    ):
        weights = decayed_weights(user, item, at, np.ones(90), last, half_life_days=half_life, shape=(M, N))
        vectors[name], norms[name] = interest_vectors(weights, base, wrote.get(name))
        weights.data = weights.data / np.repeat(norms[name], np.diff(weights.indptr))
        shares[name] = weights
    blend = Blend(SURFACE, items, *(vectors[name] for name in ("text_long", "text_short", "behaviour")))
    listed = np.array([3, 0, 41, 17])
    most = int(np.diff(shares["text_long"].indptr).max())
    score = sum(by_definition(items, *(vectors[n] for n in ("text_long", "text_short", "behaviour"))).values())
    centred = items.text[listed].astype(np.float64) - items.text.mean(axis=0, dtype=np.float64)
    for row in range(M):
        past, added = (found[0] for found in blend.contributions(np.array([row]), shares, listed[None, :], most))
        assert past[past >= 0].tolist() == sorted(set(item[user == row].tolist()))
        assert not added[past < 0].any()
        written = sum(blend.scales[name][row] * (wrote[name][row] / norms[name][row]) @ centred.T for name in wrote)
        popular = SURFACE.popularity * items.popularity[listed]
        np.testing.assert_allclose(added.sum(axis=0) + written + popular, score[row, listed], atol=1e-5)


def test_nothing_is_contributed_to_the_padding():
    items, shares = catalogue(), csr_array(np.ones((1, N)))
    one = [vectors[:1] for vectors in users()]
    blend, every = Blend(SURFACE, items, *one), dict.fromkeys(SOURCES[:3], shares)
    _, added = blend.contributions(np.array([0]), every, np.array([[2, -1]]), N)
    assert added[0, :, 0].any()
    assert not added[0, :, 1].any()


def test_reasons_are_the_largest_contributions_whoever_stands_beside():
    rng = np.random.default_rng(13)
    items, vectors = catalogue(), users()
    marks = rng.random((M, N)) < rng.random((M, 1)) ** 2
    marks[0] = False
    had = csr_array(rng.random((M, N)) * marks)
    shares = {
        name: csr_array((had.data * (k + 1), had.indices, had.indptr), had.shape) for k, name in enumerate(SOURCES[:3])
    }
    listed = rng.integers(-1, N, (M, 6))
    blend = Blend(SURFACE, items, *vectors)
    found, added = blend.reasons(shares, listed, 3)
    assert (found[0] == -1).all()
    most = int(np.diff(had.indptr).max())
    for row in range(1, M):
        past, share = (each[0] for each in blend.contributions(np.array([row]), shares, listed[row][None, :], most))
        for place in range(6):
            rounded = np.round(share[:, place], DECIMALS)
            best = [k for k in np.lexsort((past, -rounded)) if past[k] >= 0 and rounded[k] > 0][:3]
            assert found[row, place][: len(best)].tolist() == past[best].tolist()
            assert (found[row, place][len(best) :] == -1).all()
            np.testing.assert_allclose(added[row, place][: len(best)], rounded[best], atol=1e-6)
        alone = Blend(SURFACE, items, *(vector[row : row + 1] for vector in vectors))
        own = alone.reasons({name: share[[row]] for name, share in shares.items()}, listed[[row]], 3)
        assert np.array_equal(own[0][0], found[row])
        assert np.array_equal(own[1][0], added[row])


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(0, 300),
    k=st.integers(1, 40),
    chunk=st.integers(1, 12),
    ties=st.booleans(),
    share=st.sampled_from([0.0, 0.1, 0.9, 1.0]),
)
def test_lists_equal_sorting_everything(seed, n, k, chunk, ties, share):
    """Small whole numbers make the products exact, so that ties are ties whichever way they are summed."""
    rng = np.random.default_rng(seed)
    most = 1 if ties else 50
    queries = rng.integers(-most, most + 1, (7, 4)).astype(np.float32)
    matrix = rng.integers(-most, most + 1, (n, 4)).astype(np.float32)
    excluded, ineligible = rng.random((7, n)) < share, rng.random(n) < share / 2
    found, scores = top_items(queries, matrix, k, excluded=csr_array(excluded), ineligible=ineligible, chunk=chunk)
    expected = best_by_sorting(queries @ matrix.T, k, excluded | ineligible[None, :])
    assert found.tolist() == expected.tolist()
    assert np.array_equal(np.isnan(scores), expected < 0)
    dense = np.take_along_axis(np.pad(queries @ matrix.T, ((0, 0), (0, 1))), expected, axis=1)
    assert np.array_equal(scores[expected >= 0], dense[expected >= 0])


@pytest.mark.parametrize("n", [500, 5000])
def test_more_ties_than_the_margin_are_cut_by_id(n):
    matrix = np.ones((n, 3), dtype=np.float32)
    matrix[[n - 1, n // 2]] = 2.0
    found, _ = top_items(np.ones((2, 3), dtype=np.float32), matrix, 10)
    assert found.tolist() == [[n // 2, n - 1, *range(8)]] * 2


def test_large_lists_equal_sorting_everything():
    """Enough items for the search by groups, with items left out that would lead."""
    rng = np.random.default_rng(11)
    queries, matrix = rng.normal(size=(20, 16)).astype(np.float32), rng.normal(size=(6007, 16)).astype(np.float32)
    dense = queries.astype(np.float64) @ matrix.T.astype(np.float64)
    excluded = dense > np.sort(dense, axis=1)[:, [-30]]
    ineligible = np.zeros(6007, dtype=bool)
    ineligible[rng.integers(0, 6007, 900)] = True
    found, scores = top_items(queries, matrix, 50, excluded=csr_array(excluded), ineligible=ineligible, chunk=8)
    expected = best_by_sorting(np.where(excluded | ineligible, -np.inf, dense), 50, excluded | ineligible)
    np.testing.assert_allclose(scores, np.take_along_axis(dense, expected, axis=1), atol=1e-5)
    assert (found == expected).mean() > 0.99  # neighbours within float32 rounding may swap
    assert not np.take_along_axis(excluded, found, axis=1).any()
    assert not ineligible[found].any()


def test_chunks_change_no_score():
    items, vectors = catalogue(n=900), users(m=50)
    queries, _ = Blend(SURFACE, items, *vectors).queries()
    _, whole = top_items(queries, items.matrix, 20, chunk=50)
    _, cut = top_items(queries, items.matrix, 20, chunk=7)
    np.testing.assert_allclose(cut, whole, atol=1e-6)


def test_an_empty_catalogue_and_no_users():
    items = Catalogue.build([], *(np.zeros((0, size), np.float32) for size in (D, K, K)), np.zeros(0))
    queries, _ = Blend(SURFACE, items, *users()).queries()
    found, scores = top_items(queries, items.matrix, 5)
    assert (found == -1).all()
    assert np.isnan(scores).all()
    assert top_items(queries[:0], catalogue().matrix, 5)[0].shape == (0, 5)
