"""The learned ranker: which candidates of a pool users take.

Models of three kinds see the same features: a regularised logistic regression, gradient-boosted trees with the LambdaRank
objective (C. Burges, "From RankNet to LambdaRank to LambdaMART", MSR-TR-2010-82), which compare the candidates of one user, and
trees for the odds that a candidate is taken, which learn from all users alike (LightGBM both). An item's score is a weighted mean
of all, each standardised over the user's candidates; where trees are grown, the linear model chooses which of a pool they order.
Labels come from windows before T, each with the trends and histories of its own start; what items are is as of T.
"""

from dataclasses import dataclass
from typing import Any

import lightgbm
import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from include.columns import DECIMALS
from include.models.pools import GROUPS, Pool, less_user_mean, standardised, user_deviation
from include.models.sparse import picked, places

Ints = NDArray[np.int64]

NEGATIVES = 100
"""Items of a pool, not taken, that training sees of a user in a window."""

REGULARISATION = 0.001
"""C of the logistic regression. So little lets few users, whose taken items are chance for the most part, teach no more than which
features count, and costs nothing where there are many."""

TREES = 100
OBJECTIVES: dict[str, dict[str, Any]] = {
    "trees": {"objective": "lambdarank", "lambdarank_truncation_level": 20},
    "odds": {"objective": "binary"},
}
"""The kinds of trees by name, with what each is grown for."""

TREE_PARAMETERS = {
    "learning_rate": 0.05,
    "num_leaves": 15,
    "min_data_in_leaf": 50,
    "feature_fraction": 0.5,
    "bagging_fraction": 0.7,
    "bagging_freq": 1,
    "lambda_l2": 10.0,
    # Rows that the bins are made from: the lists are as good as from all, and bins are quicker to make.
    "bin_construct_sample_cnt": 50_000,
    # One thread: the trees are then the same wherever they are grown, and busy machines do not slow down.
    "num_threads": 1,
    "deterministic": True,
    "force_row_wise": True,
    "verbose": -1,
}

SHORTLIST = 100
"""Candidates of a user that trees order, those that the linear model puts first: trees are most of what a list costs."""

LINEAR_SHARE = 0.25
"""The linear model's part of a score, unless a trial finds a better one or the users are few; all trees have the rest, each kind as much."""

FEW_USERS = 100
LINEAR_SHARE_OF_FEW = 0.5
"""Of fewer users trees have less to say."""


@dataclass(frozen=True)
class Example:
    """One window's pools and what was taken."""

    pool: Pool
    taken: NDArray[np.bool_]
    """(candidates,)."""

    def sampled(self, random: np.random.Generator) -> "Example":
        """What was taken, and some of what was not, of the users of whose pool anything was taken."""
        some = np.bincount(self.pool.user, weights=self.taken, minlength=self.pool.users) > 0
        drawn = random.random(len(self.taken)) < NEGATIVES / np.maximum(self.pool.sizes, 1)[self.pool.user]
        kept = some[self.pool.user] & (self.taken | drawn)
        return self.only(kept)

    def only(self, kept: NDArray[np.bool_]) -> "Example":
        """Some of the candidates."""
        return Example(self.pool.only(kept), self.taken[kept])

    @property
    def users(self) -> int:
        """Users with a candidate that was taken."""
        return len(np.unique(self.pool.user[self.taken]))


def usual_share(examples: list[Example]) -> float:
    """The linear model's part of a score where nothing is tried, and there are trees."""
    return LINEAR_SHARE if sum(example.users for example in examples) >= FEW_USERS else LINEAR_SHARE_OF_FEW


def teaches(examples: list[Example]) -> bool:
    """Whether some candidates were taken and some were not: else there is nothing to learn."""
    labels = np.concatenate([example.taken for example in examples])
    return bool(labels.any() and not labels.all())


def taken(pool: Pool, user: Ints, item: Ints, items: int) -> NDArray[np.bool_]:
    """(candidates,) whether each candidate is among the pairs of user and item."""
    return np.isin(pool.user * items + pool.item, user * items + item)


@dataclass(frozen=True)
class Ranker:
    """What orders a pool."""

    names: tuple[str, ...]
    mean: NDArray[np.float64]
    deviation: NDArray[np.float64]
    coefficients: NDArray[np.float64]
    trees: dict[str, lightgbm.Booster]
    """By kind; none where the linear model stands alone, one in artefacts of before there were two kinds."""

    shortlist: int | None = SHORTLIST
    """Candidates of a user that trees order, or twice the length of lists where that is more; None for the whole pool, as in
    artefacts of before there was a choice."""

    linear_share: float = LINEAR_SHARE
    """The linear model's part of a score, where there are trees."""

    def shortlisted(self, pool: Pool, length: int) -> Pool:
        """The candidates that lists of some length are made of."""
        if not self.trees or self.shortlist is None:
            return pool
        linear = np.sum(list(self._linear(pool).values()), axis=0)
        first, _ = best(pool, np.round(linear, DECIMALS), max(self.shortlist, 2 * length))
        kept = np.zeros(len(linear), dtype=bool)
        kept[first[first >= 0]] = True
        return pool.only(kept)

    def parts(self, pool: Pool) -> dict[str, NDArray[np.float64]]:
        """What each of `GROUPS` adds to the score of each candidate; their sum is the score.

        The linear model's part is shared out among the groups of its features, exactly; the trees' stays whole.
        """
        found, sizes = self._linear(pool), pool.sizes
        share = self.linear_share if self.trees else 1.0
        linear = np.sum(list(found.values()), axis=0)
        scale = share / user_deviation(less_user_mean(linear, pool.user, sizes), pool.user, sizes)
        found = {group: less_user_mean(values, pool.user, sizes) * scale for group, values in found.items()}
        features = pool.described_by(self.names).features
        for grown in self.trees.values() if len(pool.user) else ():
            raw = np.asarray(grown.predict(features, raw_score=True, num_threads=1), dtype=np.float64)
            found["trees"] += (1 - share) / len(self.trees) * standardised(raw, pool.user, sizes)
        return found

    def _linear(self, pool: Pool) -> dict[str, NDArray[np.float64]]:
        """What each of `GROUPS` adds to the linear model's score of each candidate."""
        pool = pool.described_by(self.names)
        found = {group: np.zeros(len(pool.user)) for group in GROUPS}
        for column, (group, values) in enumerate(zip(pool.groups, np.ascontiguousarray(pool.features.T), strict=True)):
            if group:
                weight = self.coefficients[column] / self.deviation[column]
                # Column by column: a product's bits would follow from how many rows it has.
                found[group] += weight * values.astype(np.float64)
        return found


def train(examples: list[Example], *, trees: bool, seed: int, linear_share: float = LINEAR_SHARE) -> Ranker:
    """Learn from windows before T.

    Args:
        examples: of each window, sampled, with the features of its start.
        trees: whether there is enough to grow trees from; else the linear model stands alone.
        seed: of the trees.
        linear_share: the linear model's part of a score, where there are trees; with all of it none are grown.
    """
    names = examples[0].pool.names
    features = np.concatenate([example.pool.features for example in examples])
    labels = np.concatenate([example.taken for example in examples])
    mean, deviation = features.mean(axis=0, dtype=np.float64), features.std(axis=0, dtype=np.float64)
    deviation = np.where(deviation > 1e-9, deviation, np.inf)
    standard = ((features - mean) / deviation).astype(np.float32)
    linear = LogisticRegression(C=REGULARISATION, max_iter=500).fit(standard, labels)
    grown: dict[str, lightgbm.Booster] = {}
    if trees and linear_share < 1.0:
        sizes = np.concatenate([example.pool.sizes[example.pool.sizes > 0] for example in examples])
        parameters = TREE_PARAMETERS | {"seed": seed}
        # Both kinds of trees share its bins, which cost as much as some of the trees.
        data = lightgbm.Dataset(features, labels, group=sizes, params=parameters, free_raw_data=False)
        for kind, objective in OBJECTIVES.items():
            grown[kind] = lightgbm.train(parameters | objective, data, num_boost_round=TREES)
    coefficients = linear.coef_[0].astype(np.float64)
    return Ranker(names, mean, deviation, coefficients, grown, linear_share=linear_share)


def best(pool: Pool, scores: NDArray[np.float64], length: int) -> tuple[Ints, Ints]:
    """The candidates with the largest scores of each user; equal ones in order of item.

    Returns:
        (users, length) places in the pool, -1 where a user has no more candidates, and (users, length) items, -1 likewise.
    """
    order = np.lexsort((pool.item, -scores, pool.user))
    rank = places(pool.sizes)
    first = order[rank < length]
    chosen = np.full((pool.users, length), -1)
    chosen[pool.user[first], rank[rank < length]] = first
    return chosen, picked(pool.item, chosen, -1)
