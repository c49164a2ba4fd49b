"""Peers of the backtest: the strong simple recommenders that the product has to beat. Pure functions over arrays.

Each is fitted on a history and then scores all items for some users. What they stand on:
popularity with exponential decay; EASE: H. Steck, "Embarrassingly Shallow Autoencoders for Sparse Data", WWW 2019; ALS: Y. Hu,
Y. Koren and C. Volinsky, "Collaborative Filtering for Implicit Feedback Datasets", ICDM 2008, by `implicit`; BM25 as a distance
of item neighbours and the cosine of items, both by `implicit`; a user's own frequency with recency, which repeat purchase
asks for.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any

import numpy as np
from implicit.als import AlternatingLeastSquares
from implicit.nearest_neighbours import BM25Recommender, CosineRecommender
from implicit.utils import ParameterWarning
from numpy.typing import NDArray
from scipy.sparse import csr_array, csr_matrix
from threadpoolctl import threadpool_limits

from include.models.factors import item_to_item
from include.models.interests import later_items
from include.models.sparse import places, run_starts

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Setting = dict[str, Any]
Scores = Callable[[Ints], Floats]
"""From (b,) rows of users to (b, items) scores."""

MOST_EASE_ITEMS = 20_000
"""EASE inverts a dense matrix of items by items: 3.2 GB at this size."""
ALS_ITERATIONS = 15
TIE_BREAK_HALF_LIFE_DAYS = 30.0
THREADS = 1
"""`implicit` calls BLAS from threads of its own and warns of more; one each also repeats to the last bit."""


class CannotFit(Exception):
    """A peer that these data are too large for; the message says why."""


@dataclass(frozen=True)
class History:
    """Who did what before a cut: positions of users and items, and how many days before the cut. In any order."""

    user: Ints
    item: Ints
    age_days: Floats
    shape: tuple[int, int]
    text: NDArray[np.float32] | None = None
    """(items, d) text vectors less their mean, of norm 1, or zeros for an item without a text; None stands for no text at all."""

    @cached_property
    def last_age_days(self) -> csr_array:
        """(users, items): days since the user's last interaction with the item."""
        order = np.lexsort((self.age_days, self.item, self.user))
        user, item = self.user[order], self.item[order]
        first = run_starts(user, item)
        indptr = np.concatenate([[0], np.cumsum(np.bincount(user[first], minlength=self.shape[0]))])
        return csr_array((self.age_days[order][first], item[first], indptr), shape=self.shape)

    @cached_property
    def marks(self) -> csr_array:
        """(users, items): 1 for what a user had."""
        had = self.last_age_days
        return csr_array((np.ones(had.nnz), had.indices, had.indptr), shape=self.shape)

    @cached_property
    def counts(self) -> Ints:
        """(items,): interactions of each."""
        return np.bincount(self.item, minlength=self.shape[1]).astype(np.int64)


def recent_popularity(history: History, half_life_days: float | None) -> Floats:
    """(items,): interactions, each halved for every half-life that lies between it and the cut; None does not decay."""
    decayed = np.exp2(-history.age_days / (half_life_days or np.inf))
    order = np.lexsort((decayed, history.item))  # one order of summation, whatever the events came in
    return np.asarray(
        np.bincount(history.item[order], weights=decayed[order], minlength=history.shape[1]), dtype=np.float64
    )


def popularity(history: History, *, half_life_days: float | None) -> Scores:
    """Recent popularity, the same for everyone."""
    totals = recent_popularity(history, half_life_days)
    return lambda rows: np.broadcast_to(totals, (len(rows), len(totals)))


def recency_weights(history: History, power: float) -> csr_array:
    """(users, items): (rank + 1)^-power, where the rank counts the user's items that were used later; a basket shares its rank."""
    had = history.last_age_days
    user = np.repeat(np.arange(history.shape[0]), np.diff(had.indptr))
    rank = later_items(user, had.data)
    return csr_array(((rank + 1.0) ** -power, had.indices, had.indptr), shape=history.shape)


def ease(history: History, *, regularisation: float) -> Callable[[Setting], Scores]:
    """EASE, dense over the items that were used; the setting `power` weighs a user's latest items more (0: all alike)."""
    used = np.flatnonzero(history.counts)
    if len(used) > MOST_EASE_ITEMS:
        raise CannotFit(
            f"{len(used):,} items were used; EASE is dense, and {MOST_EASE_ITEMS:,} are the most it takes here"
        )
    marks = csr_array(history.marks[:, used])
    weights = item_to_item(marks, regularisation)

    def with_query(query: Setting) -> Scores:
        queries = recency_weights(history, query["power"])[:, used]

        def scores(rows: Ints) -> Floats:
            found = np.zeros((len(rows), history.shape[1]))
            found[:, used] = queries[rows] @ weights
            return found

        return scores

    return with_query


def als(history: History, *, factors: int, regularisation: float, confidence: float, seed: int) -> Scores:
    """Factors by alternating least squares; a user's score of an item is the product of theirs.

    Args:
        confidence: how many times as much as an item that the user did not have one that the user had weighs.
    """
    model = AlternatingLeastSquares(
        factors=factors,
        regularization=regularisation,
        alpha=confidence,
        iterations=ALS_ITERATIONS,
        num_threads=THREADS,
        random_state=seed,
    )
    model.fit(csr_matrix(history.marks, dtype=np.float32), show_progress=False)
    of_users, of_items = (np.asarray(part, dtype=np.float64) for part in (model.user_factors, model.item_factors))
    return lambda rows: of_users[rows] @ of_items.T


def bm25(history: History, *, neighbours: int) -> Scores:
    """The sum over a user's items of their neighbours by BM25."""
    return _by_neighbours(history, BM25Recommender(K=neighbours, num_threads=THREADS))


def item_knn(history: History, *, neighbours: int) -> Scores:
    """The same with the cosine of who used both."""
    return _by_neighbours(history, CosineRecommender(K=neighbours, num_threads=THREADS))


def _by_neighbours(history: History, model: Any) -> Scores:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ParameterWarning)  # of the format that it makes itself
        model.fit(csr_matrix(history.marks), show_progress=False)
    similar = csr_array(model.similarity)
    return lambda rows: np.asarray((history.marks[rows] @ similar).todense())


def frozen_text(history: History) -> Callable[[Setting], Scores]:
    """The cosine of an item's text vector and the mean of the user's; the setting `power` weighs the latest items more."""
    text = np.zeros((history.shape[1], 1), dtype=np.float32) if history.text is None else history.text

    def with_query(query: Setting) -> Scores:
        queries = recency_weights(history, query["power"]).astype(np.float32)
        # A user's mean has one length for all items, so it does not change their order.
        return lambda rows: np.asarray(queries[rows] @ text @ text.T, dtype=np.float64)

    return with_query


def own_frequency(history: History, *, half_life_days: float) -> Scores:
    """How often and how lately the user had each item; equal ones, and then all others, by recent popularity."""
    decayed = np.exp2(-history.age_days / half_life_days)
    order = np.lexsort((decayed, history.item, history.user))
    own = csr_array((decayed[order], (history.user[order], history.item[order])), shape=history.shape)
    popular = recent_popularity(history, TIE_BREAK_HALF_LIFE_DAYS)
    popular /= max(float(popular.max(initial=0.0)), 1e-300)

    def scores(rows: Ints) -> Floats:
        had = np.asarray(own[rows].todense())
        least = np.min(had, axis=1, where=had > 0, initial=1.0, keepdims=True)
        return np.where(had > 0, had * (1.0 + 1e-9 * popular), least * popular / 2)

    return scores


def _settings(**choices: tuple[Any, ...]) -> tuple[Setting, ...]:
    return tuple(dict(zip(choices, values, strict=True)) for values in product(*choices.values()))


@dataclass(frozen=True)
class Peer:
    """A peer, the settings it is fitted with, and those that only its queries need. The first of each is taken where nothing can be learned."""

    fit: Callable[..., Any]
    fits: tuple[Setting, ...]
    queries: tuple[Setting, ...] = ()
    is_seeded: bool = False

    def fitted(self, history: History, setting: Setting, seed: int) -> list[tuple[Setting, Scores]]:
        """What one fit gives: a setting and its scores for each query."""
        # BLAS with threads of its own is slower where other work fills the cores.
        with threadpool_limits(THREADS):
            found = self.fit(history, **setting, **({"seed": seed} if self.is_seeded else {}))
        if not self.queries:
            return [(setting, found)]
        return [({**setting, **query}, found(query)) for query in self.queries]

    def chosen(self, history: History, setting: Setting, seed: int) -> Scores:
        """The scores of one setting, the query's part included."""
        names = self.fits[0].keys()
        fits = {name: value for name, value in setting.items() if name in names}
        return next(scores for found, scores in self.fitted(history, fits, seed) if found == setting)

    @property
    def default(self) -> Setting:
        """The setting that is taken where there is nothing to choose by."""
        return {**self.fits[0], **(self.queries[0] if self.queries else {})}


TEXT = "text"
PEERS = {
    "popularity": Peer(popularity, _settings(half_life_days=(7.0, 3.0, 1.0, 0.25, 1 / 24, 14.0, 30.0, None))),
    "ease": Peer(ease, _settings(regularisation=(250.0, 100.0, 500.0)), _settings(power=(0.0, 0.25, 0.5))),
    "als": Peer(
        als,
        _settings(factors=(64, 128), regularisation=(10.0, 1.0, 30.0), confidence=(1.0, 10.0)),
        is_seeded=True,
    ),
    "bm25": Peer(bm25, _settings(neighbours=(500, 100, 1000, 2000))),
    "item_knn": Peer(item_knn, _settings(neighbours=(20, 10, 50, 100))),
    TEXT: Peer(frozen_text, ({},), _settings(power=(0.0, 0.5, 1.0))),
    "own_frequency": Peer(own_frequency, _settings(half_life_days=(30.0, 7.0, 90.0))),
}
"""Every peer with its grid, the same on all data."""


def best_items(scores: Floats, most: int) -> Ints:
    """The positions of each row's best items, the best first, equal ones by position; -1 where nothing is left.

    Args:
        scores: (b, items); minus infinity for what may not be listed.
        most: how many.
    """
    rows, items = scores.shape
    found = np.full((rows, most), -1, dtype=np.int64)
    if items == 0:
        return found
    last = np.partition(scores, items - min(most, items), axis=1)[:, items - min(most, items)]
    better, equal = scores > last[:, None], (scores == last[:, None]) & (scores > -np.inf)
    # Where few items have a score all others are equal: no more of them than find a place.
    room = most - better.sum(axis=1)
    crowded = np.flatnonzero(equal.sum(axis=1) > room)
    equal[crowded] &= np.cumsum(equal[crowded], axis=1, dtype=np.int32) <= room[crowded, None]
    row, item = np.nonzero(better | equal)
    order = np.lexsort((item, -scores[row, item], row))
    row, item = row[order], item[order]
    found[row, places(np.bincount(row, minlength=rows))] = item
    return found


def recommend(
    scores: Scores, rows: Ints, excluded: csr_array | None, eligible: Bools, most: int, chunk: int
) -> tuple[Ints, Floats]:
    """The best eligible items of some users, a chunk of users at a time.

    Args:
        scores: a fitted peer.
        rows: (n,) users.
        excluded: (users, items): what each user may not be shown; None where everything may be.
        eligible: (items,) what may be shown at all.
        most: how many.
        chunk: users in one product.

    Returns:
        (n, most) positions, -1 for none, and their scores.
    """
    items, values = np.full((len(rows), most), -1, dtype=np.int64), np.zeros((len(rows), most))
    with threadpool_limits(THREADS):
        for start in range(0, len(rows), chunk):
            own = rows[start : start + chunk]
            found = np.where(eligible, scores(own), -np.inf)
            if excluded is not None:
                had = excluded[own]
                found[np.repeat(np.arange(len(own)), np.diff(had.indptr)), had.indices] = -np.inf
            best = best_items(found, most)
            items[start : start + chunk] = best
            values[start : start + chunk] = np.where(
                best >= 0, np.take_along_axis(found, np.maximum(best, 0), axis=1), 0.0
            )
    return items, values
