"""Peers of the backtest that nothing else tells apart."""

import numpy as np

from include.models.interests import unit
from include.models.peers import PEERS, TEXT, History, best_items


def test_frozen_text_orders_items_by_the_cosine_to_the_mean_of_a_users_own():
    users, items, random = 6, 15, np.random.default_rng(4)
    user, item = random.integers(0, users - 1, 40), random.integers(0, items, 40)  # the last user has no history
    age = random.integers(0, 9, 40) * 1.0
    text = unit(random.normal(size=(items, 8)))
    text[3] = 0.0  # an item without a text
    found = PEERS[TEXT].fitted(History(user, item, age, (users, items), text), {}, seed=0)
    assert [setting["power"] for setting, _ in found] == [0.0, 0.5, 1.0]
    for setting, scores in found:
        values = scores(np.arange(users))
        for who in range(users):
            last = {one: age[(user == who) & (item == one)].min() for one in set(item[user == who])}
            mean = np.zeros(8)
            for one, own in last.items():
                later = sum(other < own for other in last.values())
                mean += text[one] / (later + 1) ** setting["power"]
            np.testing.assert_allclose(values[who], text @ mean, atol=1e-5)


def test_the_best_items_are_those_of_a_plain_sort_also_where_most_are_equal():
    random = np.random.default_rng(5)
    scores = random.integers(-1, 2, (30, 40)) * 1.0
    scores[:10] = 0.0
    scores[random.random(scores.shape) < 0.3] = -np.inf
    scores[7] = -np.inf
    scores[8, 3:] = -np.inf
    for most in (1, 5, 40, 50):
        for row, found in zip(scores, best_items(scores, most), strict=True):
            listed = sorted(np.flatnonzero(row > -np.inf), key=lambda item, row=row: (-row[item], item))[:most]
            assert found.tolist() == listed + [-1] * (most - len(listed))
