"""Candidate sources and the ranker: against plain loops, bit by bit, and blind to what comes later."""

from dataclasses import fields, replace
from itertools import product

import numpy as np
import pytest
from scipy.sparse import csr_array

from include.models import candidates, nearest_texts
from include.models.candidates import (
    LENDERS,
    OWN_EVIDENCE,
    POPULAR,
    TRANSITION_PRIOR,
    TRANSITION_SPAN,
    Relations,
    Sources,
    fit,
    relate,
    scores,
)
from include.models.factors import TEXT_NEIGHBOURS
from include.models.histories import DECAY_DAYS, LONGEST, Histories, Pairs
from include.models.interests import unit
from include.models.nearest_texts import NearestTexts
from include.models.pools import GROUPS, pool, standardised
from include.models.products import largest_products
from include.models.ranker import LINEAR_SHARE, Example, best, taken, train
from include.models.sparse import strongest
from include.models.traits import Traits, cosines, liking
from include.settings import ItemFactors

USERS, ITEMS, DAY = 60, 80, 100.0


def histories(seed: int = 1, *, events: int = 1500) -> Histories:
    """Users with a taste for a third of the items, over a hundred days and then five more."""
    random = np.random.default_rng(seed)
    user = np.sort(random.integers(0, USERS, events))
    item = (random.integers(0, ITEMS // 3, events) * 3 + user % 3) % ITEMS
    day = np.round(random.uniform(0.0, DAY + 5, events), 1)  # with ties
    order = np.lexsort((day, user))
    return Histories(user[order], item[order], day[order], (USERS, ITEMS))


def neighbours(text, there=True, counts=0, first_day=0.0) -> csr_array:
    n = len(text)
    nearest = NearestTexts.among(text, np.broadcast_to(first_day, n))
    return nearest.neighbours(np.broadcast_to(counts, n), np.broadcast_to(there, n))


def near(seed: int = 2) -> csr_array:
    return neighbours(unit(np.random.default_rng(seed).normal(size=(ITEMS, 12))))


def traits(seed: int = 3) -> Traits:
    """Texts, up to two categories and one creator of each item; every seventh has none of them."""
    random = np.random.default_rng(seed)
    texts = unit(random.normal(size=(ITEMS, 12)))
    texts[::7] = 0.0
    told = np.arange(ITEMS) % 7 > 0
    categories = [[f"c{number}" for number in random.integers(0, 6, 2)] if told[row] else None for row in range(ITEMS)]
    return Traits.of(texts, categories, [f"a{row % 5}" if told[row] else None for row in range(ITEMS)])


def fitted(known: Histories, day: float = DAY, related: float | None = None) -> Sources:
    factors = ItemFactors(regularisation=20.0)
    relations = relate(known, near(), np.zeros(ITEMS), related or day, factors=factors, seed=0)
    return fit(known, relations, near(), traits(), np.zeros(ITEMS), day, recent_days=7.0)


@pytest.fixture(scope="module")
def sources() -> Sources:
    return fitted(histories())


def test_of_too_many_items_the_newest_have_text_neighbours(monkeypatch):
    monkeypatch.setattr(nearest_texts, "MOST_TEXTS", 20)
    monkeypatch.setattr(nearest_texts, "TEXTS_AT_ONCE", 7)
    text = unit(np.random.default_rng(5).normal(size=(ITEMS, 12)))
    text[::4] = 0.0  # without a text
    first_day = np.arange(ITEMS, dtype=np.float64)[::-1] // 2
    told = [item for item in sorted(range(ITEMS), key=lambda item: (-first_day[item], item)) if text[item].any()]
    kept = sorted(told[:20])
    found = neighbours(text, first_day=first_day).toarray()
    alike = text[kept].astype(np.float64) @ text[kept].T
    np.fill_diagonal(alike, 0.0)
    expected = np.where(alike > 0, np.exp(10 * (alike - 1)), 0.0)
    np.testing.assert_allclose(found[np.ix_(kept, kept)], expected / expected.sum(axis=1, keepdims=True), rtol=1e-4)
    assert found.sum() == pytest.approx(20)


def test_text_neighbours_are_items_that_were_there():
    """As many as if the others had never come, as long as enough texts were looked for."""
    text = unit(np.random.default_rng(5).normal(size=(ITEMS, 3)))
    there = np.arange(ITEMS) % 5 > 0
    found = neighbours(text, there).toarray()
    alone = neighbours(text[there]).toarray()
    np.testing.assert_allclose(found[np.ix_(there, there)], alone, atol=1e-6)
    assert not found[:, ~there].any()
    assert (found[~there].sum(axis=1) > 0.99).all(), "also of an item that is about to come"


def test_of_one_text_the_most_used_are_neighbours():
    """Also where more items share it than an item has neighbours; beyond them come the next texts."""
    random = np.random.default_rng(6)
    kinds = unit(random.normal(size=(5, 3)))
    of = np.repeat(np.arange(5), [1, 2, 3, 40, 34])
    counts = random.integers(0, 9, len(of))
    there = random.random(len(of)) < 0.9
    found = neighbours(kinds[of], there, counts).toarray()
    alike = kinds.astype(np.float64) @ kinds.T
    np.fill_diagonal(alike, 1.0)
    for item, kind in enumerate(of):
        others = [other for other in np.flatnonzero(there) if other != item and alike[kind, of[other]] > 0]
        others.sort(key=lambda other: (-alike[kind, of[other]], -counts[other], other))
        expected = np.zeros(len(of))
        expected[others[:TEXT_NEIGHBOURS]] = np.exp(10 * (alike[kind, of[others[:TEXT_NEIGHBOURS]]] - 1))
        np.testing.assert_allclose(found[item], expected / max(expected.sum(), 1e-9), rtol=1e-4, atol=1e-9)


def test_pairs_equal_a_plain_loop():
    known = histories().before(DAY)
    pairs = Pairs.of(known)
    assert list(zip(pairs.user, -pairs.last_day, pairs.item, strict=True)) == sorted(
        zip(pairs.user, -pairs.last_day, pairs.item, strict=True)
    )
    for row in range(0, len(pairs.user), 7):
        own = known.user == pairs.user[row]
        days = known.day[own & (known.item == pairs.item[row])]
        last = known.day[own].max()
        assert pairs.count[row] == len(days)
        assert (pairs.first_day[row], pairs.last_day[row]) == (days.min(), days.max())
        assert pairs.decayed[row] == pytest.approx(sum(0.5 ** ((last - day) / DECAY_DAYS) for day in days))
        newest = {max(known.day[own & (known.item == item)]) for item in set(known.item[own])}
        assert pairs.rank[row] == sum(day > days.max() for day in newest), "items of one moment share a rank"


def test_strongest_keeps_the_largest_positive_entries_of_each_row():
    matrix = csr_array(np.array([[0.5, -1.0, 0.2, 0.9], [0.0, 0.1, 0.0, 0.0], [-1.0, -2.0, 0.0, 0.0]]))
    assert strongest(matrix, 2).toarray().tolist() == [[0.5, 0, 0, 0.9], [0, 0.1, 0, 0], [0, 0, 0, 0]]


def test_what_comes_later_changes_nothing(sources):
    again = fitted(histories().before(DAY))
    for name, values in sources.tensors().items():
        np.testing.assert_array_equal(values, again.tensors()[name], err_msg=name)
    assert len(histories().before(DAY).item) < len(histories().item), "something does come later"


def test_relations_may_be_of_an_earlier_time_and_trends_are_of_their_own(sources):
    older = fitted(histories(), DAY - 7, DAY - 14)
    relations = {field.name for field in fields(Relations)}
    of_then, of_now = fitted(histories(), DAY - 14), fitted(histories(), DAY - 7)
    for name, values in older.tensors().items():
        expected = of_then if name.split(".")[0] in relations else of_now
        np.testing.assert_array_equal(values, expected.tensors()[name], err_msg=name)


def test_smoothed_relations_lend_to_items_of_little_evidence():
    """Against plain arrays: an item's own column by its trust, the rest from its text neighbours' columns."""
    known = histories().before(DAY)
    found = fitted(known)
    counts = np.bincount(known.item, minlength=ITEMS)
    trust = counts / (counts + OWN_EVIDENCE)
    ease, text = found.ease.toarray(), near().toarray()
    lent = np.where(ease >= np.sort(ease, axis=1)[:, -LENDERS][:, None], ease, 0.0)
    expected = ease * trust + (lent @ text.T) * (1 - trust)
    np.testing.assert_allclose(found.smoothed.toarray(), expected, atol=1e-6)


def test_of_too_many_items_those_used_most_lately_have_relations_by_ease():
    """What was used most of all, long ago, is not among them."""
    random = np.random.default_rng(8)
    events = [
        (user, item, when) for user in range(USERS) for item in range(20) for when in ((0, 1) if item < 10 else (1000,))
    ]
    user, item, day = (np.array(column) for column in zip(*events, strict=True))
    some = random.random(len(user)) < 0.5
    order = np.lexsort((item[some], day[some], user[some]))
    known = Histories(user[some][order], item[some][order], day[some][order].astype(float), (USERS, ITEMS))
    assert np.bincount(known.item)[:10].min() > np.bincount(known.item)[10:].max()
    factors = ItemFactors(max_items=10, half_life_days=100.0, regularisation=1.0)
    found = relate(known, near(), np.zeros(ITEMS), 1001.0, factors=factors, seed=0)
    assert set(found.ease.nonzero()[0]) == set(range(10, 20))


def test_the_cosine_looks_at_the_last_items_of_a_long_history(monkeypatch):
    monkeypatch.setattr(candidates, "MOST_TOGETHER", 3)
    pairs = Pairs.of(histories().before(DAY))
    together = set()
    for user in range(USERS):
        last = pairs.item[pairs.user == user][:3]
        together |= {(one, other) for one in last for other in last if one != other}
    assert set(zip(*map(np.ndarray.tolist, fitted(histories()).cosine.nonzero()), strict=True)) == together


def test_popularity_is_what_it_says():
    day = np.array([98.0, 99.0])
    found = fitted(Histories(np.array([0, 1]), np.array([4, 4]), day, (USERS, ITEMS)), 101.0)
    week = POPULAR.index("popular_168h")
    assert found.popularity[week, 4] == pytest.approx(0.5 ** (3 / 7) + 0.5 ** (2 / 7))


def test_transitions_equal_a_plain_loop_over_moments():
    """Users have some items at a time: what a moment holds shares its weight, and which comes first by number is the same."""
    known = histories(events=6000).before(DAY)
    known = replace(known, day=np.floor(known.day / 2))
    expected = np.zeros((ITEMS, ITEMS))
    for user in range(USERS):
        own = known.user == user
        last = {item: known.day[own & (known.item == item)].max() for item in set(known.item[own])}
        moments = [[item for item in last if last[item] == day] for day in sorted(set(last.values()))]
        for place, earlier in enumerate(moments):
            for distance, later in enumerate(moments[place : place + TRANSITION_SPAN + 1]):
                for one, other in product(earlier, later):
                    expected[one, other] += (one != other) / max(distance, 1) / len(later)
    expected /= expected.sum(axis=1, keepdims=True) + TRANSITION_PRIOR
    np.testing.assert_allclose(fitted(known, DAY).transitions.toarray(), expected, rtol=1e-6)


def test_recent_neighbours_are_the_latest_users_of_the_last_days(monkeypatch):
    monkeypatch.setattr(candidates, "RECENT_USERS", 20)
    known, found = histories().before(DAY), fitted(histories())
    for days, rows in ((7.0, found.recent), (candidates.MONTH_DAYS, found.recent_month)):
        inside = known.day >= DAY - days
        last = {user: known.day[inside & (known.user == user)].max() for user in set(known.user[inside])}
        latest = sorted(sorted(last, key=lambda user: (-last[user], user))[:20])
        had = [set(known.item[inside & (known.user == user)]) for user in latest]
        expected = [[len(items) ** -0.5 if item in items else 0.0 for item in range(ITEMS)] for items in had]
        np.testing.assert_allclose(rows.toarray(), expected, rtol=1e-6)


def test_sources_are_kept_and_read_again_to_the_same_scores(sources):
    again = Sources.of(sources.tensors())
    known = Pairs.of(histories().before(DAY))
    for (name, one), (_, other) in zip(
        scores(sources, known, repeats=True), scores(again, known, repeats=True), strict=True
    ):
        assert (csr_array(one) != csr_array(other)).nnz == 0, name
    pools = [pool(each, histories().before(DAY), np.ones(ITEMS, dtype=bool), repeats=True) for each in (sources, again)]
    np.testing.assert_array_equal(pools[0].features, pools[1].features)


def test_traits_are_weighed_by_how_rare_they_are():
    made = Traits.of(np.zeros((3, 2), dtype=np.float32), [["a", "b", "a"], ["a"], None], ["x", None, "x"])
    weights = np.array([np.log(1 + 3 / 2), np.log(1 + 3)])
    np.testing.assert_allclose(made.categories.toarray()[0], weights / np.linalg.norm(weights), rtol=1e-6)
    assert made.categories.toarray()[1:].tolist() == [[1, 0], [0, 0]]
    assert made.creators.toarray().tolist() == [[1], [0], [1]]


def test_liking_and_cosines_equal_a_plain_loop(monkeypatch):
    monkeypatch.setattr("include.models.products.ROWS_AT_ONCE", 7)
    own, random = traits(), np.random.default_rng(4)
    weights = csr_array(np.where(random.random((USERS, ITEMS)) < 0.1, random.random((USERS, ITEMS)), 0.0))
    user, item = np.sort(random.integers(0, USERS, 200)), random.integers(0, ITEMS, 200)
    near, liked = cosines(own.texts, weights, user, item), liking(own.categories, weights, user, item)
    categories, dense = own.categories.toarray(), weights.toarray()
    for row in range(200):
        mean = sum(dense[user[row], had] * own.texts[had] for had in range(ITEMS))
        norm = np.linalg.norm(mean) or 1.0
        assert near[row] == pytest.approx(mean @ own.texts[item[row]] / norm, abs=1e-6)
        expected = sum(dense[user[row], had] * categories[had] @ categories[item[row]] for had in range(ITEMS))
        assert liked[row] == pytest.approx(expected, abs=1e-6)
    assert (near != 0).any()
    assert (liked != 0).any()


def test_the_largest_products_equal_a_plain_loop():
    random = np.random.default_rng(6)
    users, items = random.normal(size=(9, 4)), random.normal(size=(30, 4)).astype(np.float32)
    items[20:] = items[:10]  # ties
    barred = random.random((9, 30)) < 0.3
    barred[3], barred[4, 2:] = True, True
    users[5] = 0.0
    user, item = largest_products(users, items, barred, 7)
    for row in range(9):
        open_ = np.flatnonzero(~barred[row] & (items @ users[row] > 0))
        expected = sorted(open_, key=lambda place: (-round(float(users[row] @ items[place]), 9), place))[:7]
        assert item[user == row].tolist() == expected
    for empty in ((users[:0], items, barred[:0], 7), (users, items[:0], barred[:, :0], 7), (users, items, barred, 0)):
        assert [len(part) for part in largest_products(*empty)] == [0, 0]


@pytest.mark.parametrize(("name", "sides"), [("factors", ("left", "right")), ("low_pass", ("low_left", "low_right"))])
def test_what_a_user_had_says_by_its_factors_what_that_user_takes(sources, name, sides):
    left, right = (getattr(sources, side) for side in sides)
    known = histories().before(DAY)
    candidates, pairs = pool(sources, known, np.ones(ITEMS, dtype=bool), repeats=False), Pairs.of(known)
    for place in range(0, len(candidates.user), 50):
        own = np.flatnonzero(pairs.user == candidates.user[place])
        vector = sum((pairs.rank[row] + 1.0) ** -0.25 * left[pairs.item[row]].astype(float) for row in own)
        assert candidates.features[place, candidates.names.index(name)] == pytest.approx(
            vector @ right[candidates.item[place]], abs=1e-6
        )
    value = candidates.features[:, candidates.names.index(f"{name}_z")]
    own_third = candidates.item % 3 == candidates.user % 3
    assert value[own_third].mean() > value[~own_third].mean() + 0.5


def test_without_a_past_nothing_is_known_of_items():
    found = fitted(histories(), day=0.0)
    assert (found.ease.nnz, found.left.any(), found.right.any()) == (0, False, False)
    later = pool(found, histories(), np.ones(ITEMS, dtype=bool), repeats=True)
    assert not later.features[:, later.names.index("factors")].any()


def test_an_item_that_nobody_had_has_the_factors_of_its_text_neighbours():
    known = histories()
    without = known.item != 5
    known = Histories(known.user[without], known.item[without], known.day[without], known.shape)
    found = fitted(known)
    weight = near().toarray()[5]
    assert found.right[5] @ (weight @ found.right) > 0
    assert not np.isclose(found.left[5], 0.0).all()


def test_an_item_s_likes_are_as_popular_as_a_plain_loop_says(sources):
    week, own = sources.popularity[POPULAR.index("popular_168h")], sources.traits
    assert own is not None
    for name, matrix in (("categories", own.categories.toarray()), ("creators", own.creators.toarray())):
        having = [np.log1p(week[matrix[:, trait] > 0].sum()) for trait in range(matrix.shape[1])]
        np.testing.assert_allclose(
            sources.popularity_of_likes[f"popular_168h_by_{name}"], matrix @ np.array(having), rtol=1e-5
        )


def test_a_ranker_of_before_traits_orders_the_pools_of_today(sources):
    """Artefacts of before hold neither traits, factors nor the neighbours of a month: lists go on to be made with what they hold."""
    new = {field.name for field in fields(Traits)} | {"recent_month", "left", "right", "low_left", "low_right"}
    before = Sources.of({name: values for name, values in sources.tensors().items() if name.split(".")[0] not in new})
    known, eligible = histories().before(DAY), np.ones(ITEMS, dtype=bool)
    then, now = (pool(each, known, eligible, repeats=False) for each in (before, sources))
    assert set(then.names) < set(now.names)
    both = np.flatnonzero(np.isin(now.user * ITEMS + now.item, then.user * ITEMS + then.item))
    np.testing.assert_array_equal(then.item, now.item[both])
    raw = tuple(name for name in then.names if not name.endswith(("_z", "_rank")))
    np.testing.assert_array_equal(then.described_by(raw).features, now.described_by(raw).features[both])

    took = taken(then, known.user[::9], known.item[::9] + 1, ITEMS)
    learned = train([Example(then, took)] * 4, trees=True, seed=1)
    ranker = replace(learned, trees={"trees": learned.trees["trees"]})  # there was one kind
    parts = ranker.parts(now)
    assert np.isfinite(np.sum(list(parts.values()), axis=0)).all()
    raw_score = ranker.trees["trees"].predict(now.described_by(then.names).features)
    expected = (1 - LINEAR_SHARE) * standardised(raw_score, now.user, now.sizes)
    np.testing.assert_array_equal(parts["trees"], expected)


def test_a_user_s_pool_has_the_same_bits_whoever_else_is_scored(sources):
    known, eligible = histories().before(DAY), np.arange(ITEMS) % 11 != 0
    everyone = pool(sources, known, eligible, repeats=True)
    few = np.array([3, 17, 40])
    alone = pool(sources, known.only(few), eligible, repeats=True)
    kept = np.isin(everyone.user, few)
    np.testing.assert_array_equal(everyone.item[kept], alone.item)
    np.testing.assert_array_equal(everyone.features[kept], alone.features)


def test_a_pool_holds_only_what_may_be_listed(sources):
    known, eligible = histories().before(DAY), np.arange(ITEMS) % 11 != 0
    unseen = pool(sources, known, eligible, repeats=False)
    assert eligible[unseen.item].all()
    assert not set(zip(unseen.user, unseen.item, strict=True)) & set(zip(known.user, known.item, strict=True))
    again = pool(sources, known, eligible, repeats=True)
    assert set(zip(again.user, again.item, strict=True)) & set(zip(known.user, known.item, strict=True))
    assert np.isfinite(again.features).all()


def test_what_says_nothing_for_an_item_only_bars_it(sources):
    known = histories().before(DAY)
    disliked = Histories(np.arange(USERS), np.arange(USERS) % 7, np.full(USERS, DAY - 1), known.shape)
    before, after = (
        pool(sources, known, np.ones(ITEMS, dtype=bool), repeats=False, had=had) for had in (None, disliked)
    )
    pairs = {(user, user % 7) for user in range(USERS)}
    assert pairs & set(zip(before.user, before.item, strict=True))
    assert not pairs & set(zip(after.user, after.item, strict=True))
    own = set(zip(known.user, known.item, strict=True))
    assert own & set(zip(after.user, after.item, strict=True)), "what bars is what is given"


def test_own_counts_are_of_a_whole_history_however_long():
    items = LONGEST + 50
    day, item = np.arange(items + 2.0), np.append(np.arange(items), [0, 1])
    known = Histories(np.zeros(len(day), dtype=np.int64), item, day, (1, items))
    began, nothing = np.zeros(items), csr_array((items, items))
    relations = relate(known, nothing, began, day[-1] + 1, factors=ItemFactors(), seed=0)
    said = Traits.of(np.zeros((items, 2)), [None] * items, [None] * items)
    sources = fit(known, relations, nothing, said, began, day[-1] + 1, recent_days=7.0)
    found = dict(scores(sources, Pairs.of(known), repeats=True))
    decayed = np.bincount(item, weights=np.exp2(-(day[-1] - day) / DECAY_DAYS))
    np.testing.assert_allclose(found["own_decayed"].toarray()[0], decayed, rtol=1e-12)
    np.testing.assert_array_equal(found["own_count"].toarray()[0], np.bincount(item))


def examples() -> list[Example]:
    found, known = [], histories()
    for start in (70.0, 77.0, 84.0, 91.0):
        candidates = pool(fitted(known, start), known.before(start), np.ones(ITEMS, dtype=bool), repeats=False)
        inside = (known.day >= start) & (known.day < start + 7)
        found.append(Example(candidates, taken(candidates, known.user[inside], known.item[inside], ITEMS)))
    return found


@pytest.mark.parametrize("trees", [True, False])
def test_a_ranker_learns_what_users_take_and_its_parts_add_up(trees):
    learned = examples()
    ranker = train(learned[1:], trees=trees, seed=3)
    candidates, took = learned[0].pool, learned[0].taken
    parts = ranker.parts(candidates)
    assert tuple(parts) == GROUPS
    total = np.sum(list(parts.values()), axis=0)
    assert total[took].mean() > total[~took].mean() + 0.5
    assert (parts["trees"] != 0).any() == trees
    again = train(learned[1:], trees=trees, seed=3)
    np.testing.assert_array_equal(np.sum(list(again.parts(candidates).values()), axis=0), total)

    places, items = best(candidates, total, 5)
    for user in range(USERS):
        own = np.flatnonzero(candidates.user == user)
        expected = sorted(own, key=lambda place: (-total[place], candidates.item[place]))[:5]
        assert [place for place in places[user] if place >= 0] == expected
        assert items[user][: len(expected)].tolist() == candidates.item[expected].tolist()


def test_trees_order_what_the_linear_model_puts_first(sources):
    ranker = replace(train(examples(), trees=True, seed=3), shortlist=12)
    linear = replace(ranker, trees={})
    known, eligible = histories().before(DAY), np.ones(ITEMS, dtype=bool)
    candidates = pool(sources, known, eligible, repeats=False)
    chosen = ranker.shortlisted(candidates, 5)
    assert chosen.sizes.max() == 12 < candidates.sizes.max()
    total = np.sum(list(linear.parts(candidates).values()), axis=0)
    for user in range(USERS):
        own = np.flatnonzero(candidates.user == user)
        first = sorted(own, key=lambda place: -round(total[place], 6))[:12]
        assert set(candidates.item[first]) == set(chosen.item[chosen.user == user])
    assert ranker.shortlisted(candidates, 10).sizes.max() == 20, "longer lists have more to choose from"

    few = np.array([3, 17, 40])
    alone = ranker.shortlisted(pool(sources, known.only(few), eligible, repeats=False), 5)
    np.testing.assert_array_equal(alone.item, chosen.item[np.isin(chosen.user, few)])
    for whole in (linear, replace(ranker, shortlist=None)):
        assert whole.shortlisted(candidates, 5) is candidates
