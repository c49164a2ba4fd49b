"""The places of lists that are kept for new items: how many, where, and for which; and that one user's depend on no other."""

import numpy as np
import pytest

from include.models.exploration import draw, draw_changes, hashes, noise, placed, places, rough_scores
from include.models.interests import unit

USERS, ITEMS, WIDTH = 400, 30, 16
NOBODY = (np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64))


def drawn_from(seed: int = 1) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    interests = [unit(rng.normal(size=(USERS, WIDTH))) for _ in range(2)]
    text = unit(rng.normal(size=(ITEMS, WIDTH)))
    text[::5] = 0.0
    users, items = (hashes([f"{kind}{n}" for n in range(many)], "1") for kind, many in (("u", USERS), ("i", ITEMS)))
    return interests, text, noise(users, items)


@pytest.mark.parametrize(
    ("length", "share", "expected"),
    [
        (50, 0.05, [20, 40]),
        (50, 0.1, [10, 20, 30, 40, 50]),
        (10, 0.3, [4, 7, 10]),
        (10, 0.05, []),
        (4, 1.0, [1, 2, 3, 4]),
        (50, 0.0, []),
    ],
)
def test_of_the_first_places_never_more_than_their_share_is_kept(length, share, expected):
    found = places(length, share) + 1
    assert found.tolist() == expected
    for k in range(1, length + 1):
        assert (found <= k).sum() <= round(k * share, 9)


def test_what_is_drawn_for_a_user_depends_on_no_other():
    interests, text, noised = drawn_from()
    together = draw(interests, text, noised, NOBODY, 3)
    for row in (0, 17, 399):
        alone = draw([own[[row]] for own in interests], text, noised[[row]], NOBODY, 3)
        assert alone[0].tolist() == together[row].tolist()
    some = np.arange(5, 77)
    assert (draw([own[some] for own in interests], text, noised[some], NOBODY, 3) == together[some]).all()


def test_near_items_are_drawn_more_often_and_every_item_finds_users():
    interests, text, noised = drawn_from()
    drawn = draw(interests, text, noised, NOBODY, 3)
    near = np.maximum(interests[0] @ text.T, interests[1] @ text.T)
    assert np.take_along_axis(near, drawn, axis=1).mean() > near.mean() + 0.2
    assert set(drawn.ravel()) == set(range(ITEMS)), "those without text too"


def test_what_a_user_had_is_not_drawn_and_few_items_fill_few_places():
    interests, text, noised = drawn_from()
    first = draw(interests, text, noised, NOBODY, 3)
    rows = np.arange(USERS)
    without = draw(interests, text, noised, (rows, first[:, 0]), 3)
    assert (without[:, :2] == first[:, 1:]).all()
    few = draw(interests, text[:2], noised[:, :2], (np.array([0]), np.array([1])), 3)
    assert few[0].tolist() == [0, -1, -1]
    assert (np.sort(few[1:], axis=1) == [-1, 0, 1]).all()


@pytest.mark.parametrize("most", [1, 3])
def test_exactly_those_whose_draw_changes_are_found(most):
    interests, text, noised = drawn_from()
    before, now = np.ones(ITEMS, dtype=bool), np.ones(ITEMS, dtype=bool)
    before[[4, 11]] = now[[5, 23]] = False
    found = draw_changes(rough_scores(interests, text, noised), before, now, most)

    def drawn(kept: np.ndarray) -> np.ndarray:
        own = np.flatnonzero(kept)
        return own[draw(interests, text[own], noised[:, own], NOBODY, most)]

    other = (drawn(before) != drawn(now)).any(axis=1)
    assert other.any()
    assert not other.all()
    assert (found == other).all()


def test_drawn_items_stand_at_their_places_or_above():
    rng = np.random.default_rng(3)
    at = places(10, 0.3)
    listed = np.stack([rng.permutation(14)[:10] for _ in range(200)])
    for row, length in enumerate(rng.integers(0, 11, 100)):
        listed[row, length:] = -1
    drawn = np.stack([rng.permutation(14)[: len(at)] for _ in range(200)])
    drawn[::7, 1:] = -1
    both = np.concatenate([listed, drawn], axis=1)
    source = placed(listed, drawn, at)
    found = np.where(source >= 0, np.take_along_axis(both, np.maximum(source, 0), axis=1), -1)
    for triple in zip(listed, drawn, found, strict=True):
        before, new, after = (row[row >= 0].tolist() for row in triple)
        assert len(after) == len(set(after)) == min(10, len({*before, *new}))
        for item, place in zip(new, at, strict=False):
            assert after.index(item) <= place
        others = [item for item in after if item not in new]
        assert others == [item for item in before if item not in new][: len(others)]
    kept = (source >= 10).cumsum(axis=1)
    assert (kept[:100] <= 3).all()
    assert (kept[100:] <= np.array([(at < k).sum() for k in range(1, 11)])).all()


def test_an_item_that_is_pushed_off_the_end_tells_nothing_of_what_is_shown():
    rng = np.random.default_rng(5)
    at, hidden = places(10, 0.5), 0
    for _ in range(2000):
        order = rng.permutation(16)
        drawn = rng.choice(20, len(at), replace=False)[None]
        out = rng.choice(np.setdiff1d(order, drawn))

        def shown(ordinary, drawn=drawn):
            listed = ordinary[None, :10]
            source = placed(listed, drawn, at)[0]
            return [(int(np.append(listed, drawn)[each]), bool(each >= 10)) for each in source if each >= 0]

        before = shown(order)
        if all(item != out for item, _ in before):
            hidden += 1
            assert shown(order[order != out]) == before
    assert hidden > 100
