"""Ranking metrics against values worked out by hand."""

import math

import numpy as np
import pytest

from include.models import metrics

# Three rows of k = 4: hits at ranks 1 and 3 of three targets; none of two; one at rank 4 of six.
HITS = np.array([[1, 0, 1, 0], [0, 0, 0, 0], [0, 0, 0, 1]], dtype=bool)
TARGETS = np.array([3, 2, 6])


def test_ndcg_is_the_gain_over_that_of_the_best_list():
    second, third, fourth = 1 / math.log2(3), 1 / math.log2(4), 1 / math.log2(5)
    ideal_of_four = 1 + second + third + fourth  # of six targets no more than four fit
    expected = [(1 + third) / (1 + second + third), 0.0, fourth / ideal_of_four]
    assert metrics.ndcg(HITS, TARGETS) == pytest.approx(expected)
    assert metrics.ndcg(np.ones((1, 4), dtype=bool), np.array([9])) == pytest.approx([1.0])


def test_recall_hit_rate_and_mrr():
    assert metrics.recall(HITS, TARGETS) == pytest.approx([2 / 3, 0, 1 / 6])
    assert metrics.hit_rate(HITS).tolist() == [1, 0, 1]
    assert metrics.mrr(HITS).tolist() == [1, 0, 0.25]


def test_coverage_counts_listed_items_once_and_nothing_for_a_short_list():
    assert metrics.coverage(np.array([[0, 3], [3, -1]]), 8) == 0.25
    assert metrics.coverage(np.full((2, 2), -1), 0) == 0.0


def test_novelty_is_the_mean_information_of_listed_items():
    counts = np.array([5, 1, 0, 0])  # with one more each: 6, 2, 1, 1 of 10
    expected = -(math.log2(0.6) + math.log2(0.2) + math.log2(0.1)) / 3
    assert metrics.novelty(np.array([[0, 1], [2, -1]]), counts) == pytest.approx(expected)


def test_the_unit_of_intervals_is_a_users_mean():
    users = np.array([0, 0, 1, 2, 2, 2])
    assert metrics.user_means(users, np.array([1.0, 0.0, 0.5, 0.3, 0.3, 0.0])) == pytest.approx([0.5, 0.5, 0.2])


def test_the_ratio_of_a_method_to_itself_is_one_whoever_is_drawn():
    values = np.random.default_rng(1).random(50)
    assert metrics.bootstrap_ratio(values, values, seed=3) == {"ratio": 1.0, "low": 1.0, "high": 1.0}
    double = metrics.bootstrap_ratio(2 * values, values, seed=3)
    assert double == pytest.approx({"ratio": 2.0, "low": 2.0, "high": 2.0})


def test_intervals_are_paired_seeded_and_as_wide_as_theory_has_them():
    draw = np.random.default_rng(5)
    base = draw.random(400)
    other = base + draw.normal(0, 0.05, 400)
    found = metrics.bootstrap_ratio(other, base, seed=7)
    assert found == metrics.bootstrap_ratio(other, base, seed=7)
    assert found != metrics.bootstrap_ratio(other, base, seed=8)
    # Of a ratio of means, by its linearisation.
    deviation = (other - found["ratio"] * base).std() / math.sqrt(400) / base.mean()
    assert found["high"] - found["low"] == pytest.approx(2 * 1.96 * deviation, rel=0.1)
    unpaired = math.hypot(other.std() / other.mean(), base.std() / base.mean()) / math.sqrt(400)
    assert found["high"] - found["low"] < unpaired


def test_nothing_to_compare_with_gives_no_ratio():
    nothing = {"ratio": None, "low": None, "high": None}
    assert metrics.bootstrap_ratio(np.ones(3), np.zeros(3), seed=1) == nothing
    assert metrics.bootstrap_ratio(np.zeros(0), np.zeros(0), seed=1) == nothing
