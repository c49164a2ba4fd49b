"""What lists are worth, measured on what users then did. Pure functions over arrays; names as in the field.

A row is a pair of a user and a cut. `hits` is (n, k): whether the item at each rank is one of the row's targets; `targets`
is (n,): how many targets the row has, at least one.

NDCG with binary relevance: K. Järvelin and J. Kekäläinen, "Cumulated gain-based evaluation of IR techniques", ACM TOIS 2002.
Bootstrap: B. Efron and R. Tibshirani, "An Introduction to the Bootstrap", 1993 (percentile intervals, paired by user).
"""

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

DRAWS = 1000
LEVEL = 0.95
DRAWS_AT_ONCE = 50


def hits(targets: csr_array, listed: Ints) -> Bools:
    """(n, k) whether each listed item is a target of its row; -1 is none. `targets` is (n, items)."""
    items = targets.shape[1]
    wanted = np.repeat(np.arange(targets.shape[0]), np.diff(targets.indptr)) * items + targets.indices
    asked = np.arange(len(listed))[:, None] * items + listed
    return np.isin(asked, wanted) & (listed >= 0)


def ndcg(hits: Bools, targets: Ints) -> Floats:
    """Discounted gain of each row's hits over that of the best list there could be: min(k, targets) hits at the top."""
    discounts = 1.0 / np.log2(np.arange(hits.shape[1]) + 2.0)
    best = np.concatenate([[0.0], np.cumsum(discounts)])
    return np.asarray(hits @ discounts / best[np.minimum(targets, hits.shape[1])])


def recall(hits: Bools, targets: Ints) -> Floats:
    """The share of each row's targets that was listed."""
    return np.asarray(hits.sum(axis=1), dtype=np.float64) / targets


def hit_rate(hits: Bools) -> Floats:
    """1 for each row with a hit."""
    return np.asarray(hits.any(axis=1), dtype=np.float64)


def mrr(hits: Bools) -> Floats:
    """One over the rank of each row's first hit; 0 without one."""
    return np.where(hits.any(axis=1), 1.0 / (hits.argmax(axis=1) + 1.0), 0.0)


def coverage(listed: Ints, eligible: int) -> float:
    """The share of the eligible items that are in some list. `listed` are item positions, -1 for none."""
    return len(np.unique(listed[listed >= 0])) / max(eligible, 1)


def novelty(listed: Ints, counts: Ints) -> float:
    """Mean of -log2 of the listed items' share of all interactions, each item counted once more so that none has a share of 0.

    Args:
        listed: item positions, -1 for none.
        counts: (items,) interactions of each before the cut.
    """
    shares = (counts + 1.0) / (counts.sum() + len(counts))
    found = listed[listed >= 0]
    return float(-np.log2(shares[found]).mean()) if len(found) else 0.0


def user_means(users: Ints, values: Floats) -> Floats:
    """The mean of each user's rows, by user number."""
    return np.asarray(np.bincount(users, weights=values) / np.maximum(np.bincount(users), 1))


def bootstrap_ratio(one: Floats, other: Floats, seed: int) -> dict[str, float | None]:
    """The ratio of two methods' means over the same users, with an interval from drawing users again and again.

    Args:
        one: (users,) mean of each user's rows with the first method.
        other: the same of the second.
        seed: of the draws.

    Returns:
        `ratio`, `low` and `high`; None where the second method has no hit to compare with.
    """
    if len(other) == 0 or other.sum() == 0:
        return {"ratio": None, "low": None, "high": None}
    draw = np.random.default_rng(seed)
    ratios = []
    for start in range(0, DRAWS, DRAWS_AT_ONCE):
        drawn = draw.integers(0, len(one), (min(DRAWS_AT_ONCE, DRAWS - start), len(one)))
        above, below = one[drawn].sum(axis=1), other[drawn].sum(axis=1)
        ratios.append(above[below > 0] / below[below > 0])
    low, high = np.quantile(np.concatenate(ratios), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return {"ratio": float(one.sum() / other.sum()), "low": float(low), "high": float(high)}
