"""A trial on the newest windows: how far trees are trusted, and when one source orders lists alone."""

from collections.abc import Callable

import numpy as np
import pytest

from include.models import ranker
from include.models.metrics import ndcg
from include.models.pools import Pool
from include.models.ranker import LINEAR_SHARE, LINEAR_SHARE_OF_FEW, Example, best, train
from include.models.trial import LEARN_USERS, alone, newest, tried

USERS, CANDIDATES, WINDOWS = 60, 30, 9
SOURCES = ("ease", "cosine", "popular_1h")
NAMES = (*SOURCES, *(f"{name}_rank" for name in SOURCES), "age")


def windows(odds: Callable[[int, np.ndarray], np.ndarray], *, users: int = USERS, seed: int = 1) -> list[Example]:
    """Windows, the newest first, whose candidates are taken by odds that follow from the window's number and the features."""
    random = np.random.default_rng(seed)
    found = []
    for window in range(WINDOWS):
        user = np.repeat(np.arange(users), CANDIDATES)
        features = random.normal(size=(len(user), len(NAMES))).astype(np.float32)
        features[:, len(SOURCES) : 2 * len(SOURCES)] = features[:, : len(SOURCES)]  # the larger, the higher the rank
        item, groups = np.tile(np.arange(CANDIDATES), users), ("behaviour",) * len(NAMES)
        pool = Pool(user, item, features, NAMES, groups, users)
        found.append(Example(pool, random.random(len(user)) < 1 / (1 + np.exp(-odds(window, features)))))
    return found


def test_trees_are_trusted_where_the_linear_model_cannot_see_it():
    crossed = windows(lambda _, x: 4 * np.sign(x[:, 0] * x[:, 1]) - 4)
    found = tried(crossed, trees=True, seed=1)
    assert found.linear_share <= LINEAR_SHARE
    assert found.ndcg["linear share 0.0"] > found.ndcg["linear share 1.0"] + 0.1
    assert found.source is None
    assert found.users == 3 * USERS
    assert found == tried(crossed, trees=True, seed=1), "the same windows give the same"


def test_the_linear_model_is_trusted_where_trees_see_too_little():
    few = windows(lambda _, x: x @ np.array([1.0, 0.8, 0.6, 0.5, 0.4, 0.3, 0.2]) - 3, users=12)
    found = tried(few, trees=True, seed=1)
    assert found.linear_share > LINEAR_SHARE
    assert found.source is None


def test_a_source_that_was_clearly_better_of_late_stands_alone():
    """What was learned of older windows is of no use any more: of late users take what is popular."""
    turned = windows(lambda window, x: (3 * x[:, 2] if window < 3 else 3 * x[:, 0] - 3 * x[:, 2]) - 3)
    for trees in (True, False):
        assert tried(turned, trees=trees, seed=1).source == "popular_1h"
    steady = windows(lambda _, x: 2 * x[:, 0] + 2 * x[:, 2] - 3)
    assert tried(steady, trees=True, seed=1).source is None


def test_a_source_alone_orders_pools_by_its_own_value():
    example = windows(lambda _, x: x[:, 0])[0]
    parts = alone(NAMES, "cosine").parts(example.pool)
    _, items = best(example.pool, np.sum(list(parts.values()), axis=0), 5)
    for user in range(USERS):
        own = example.pool.features[example.pool.user == user, 1]
        assert items[user].tolist() == np.argsort(-own)[:5].tolist()
    assert {name for name, values in parts.items() if values.any()} == {"behaviour"}


def test_where_few_users_are_held_back_nothing_is_tried():
    """The same turn as above, and one source seems better by far more than two standard errors, but of 27 users."""
    turned = windows(lambda window, x: (3 * x[:, 2] if window < 3 else 3 * x[:, 0] - 3 * x[:, 2]) - 3, users=9)
    for trees in (True, False):
        found = tried(turned, trees=trees, seed=1)
        assert (found.linear_share, found.source, found.users) == (LINEAR_SHARE_OF_FEW if trees else 1.0, None, 0)


def test_of_many_sources_that_err_each_in_its_own_way_few_users_teach_to_believe_all_alike(monkeypatch):
    """Else what was taken by chance decides which of them counts: that is what less regularisation does."""

    def made(seed: int, users: int) -> Example:
        random = np.random.default_rng(seed)
        user, sources = np.repeat(np.arange(users), CANDIDATES), 40
        worth = random.normal(size=len(user))
        features = (worth[:, None] + 2 * random.normal(size=(len(user), sources))).astype(np.float32)
        names, groups = tuple(f"source_{number}" for number in range(sources)), ("behaviour",) * sources
        pool = Pool(user, np.tile(np.arange(CANDIDATES), users), features, names, groups, users)
        return Example(pool, random.random(len(user)) < 1 / (1 + np.exp(4 - 2 * worth)))

    def found(seed: int) -> tuple[float, float]:
        few, many = made(seed, users=8), made(seed + 100, users=300)
        targets = np.bincount(many.pool.user, weights=many.taken, minlength=many.pool.users).astype(np.int64)
        scores = (sum(train([few], trees=False, seed=1).parts(many.pool).values()), many.pool.features.sum(axis=1))
        places = [best(many.pool, np.asarray(each, np.float64), 10)[0] for each in scores]
        learned, alike = (
            ndcg(((place >= 0) & many.taken[place])[targets > 0], targets[targets > 0]) for place in places
        )
        return float(learned.mean()), float(alike.mean())

    learned, alike = np.mean([found(seed) for seed in range(6)], axis=0)
    assert learned > 0.98 * alike
    monkeypatch.setattr(ranker, "REGULARISATION", 0.1)
    assert np.mean([found(seed)[0] for seed in range(6)]) < 0.95 * alike


@pytest.mark.parametrize("trees", [True, False])
def test_at_most_a_third_of_the_windows_is_held_back_and_without_any_nothing_is_tried(trees):
    made = windows(lambda _, x: x[:, 0])
    assert newest(made, 100) == 2, "two windows have a hundred users"
    assert newest(made, 300) == 3
    assert newest(made[:3], 100) == 1
    assert newest(made[:2], 100) == 1, "of two the newer"
    found = tried(made[:1], trees=trees, seed=1)
    assert (found.linear_share, found.source, found.users) == (LINEAR_SHARE_OF_FEW if trees else 1.0, None, 0)


def test_what_a_trial_learns_from_is_bounded(monkeypatch):
    seen = []

    def train(examples, **_):
        seen.append(sum(example.users for example in examples))
        raise InterruptedError

    monkeypatch.setattr("include.models.trial.train", train)
    with pytest.raises(InterruptedError):
        tried(windows(lambda _, x: x[:, 0], users=200), trees=True, seed=1)
    assert LEARN_USERS * 0.9 <= seen[0] <= LEARN_USERS


@pytest.mark.parametrize("always", [100.0, -100.0])
def test_nothing_is_tried_where_older_windows_teach_no_order(always):
    """All candidates of the older windows were taken, or none."""
    made = windows(lambda window, x: x[:, 0] if window < 3 else np.full(len(x), always))
    found = tried(made, trees=True, seed=1)
    assert (found.linear_share, found.source, found.users, found.ndcg) == (LINEAR_SHARE, None, 0, {})
