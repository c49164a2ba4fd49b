"""Candidate sources: many cheap scores of items for a user, of which a ranker makes one list.

Everything is fitted on interactions before one T. A user's scores follow from that user's own history alone and do not
depend, to the last bit, on which other users are scored with it: each is a row of a sparse product.

Where the sources come from: recent popularity at several half-lives; EASE (H. Steck, "Embarrassingly Shallow Autoencoders
for Sparse Data", WWW 2019) with queries that favour what came last; EASE smoothed over text neighbours, for items of little
evidence; EASE factorised, with the factors of text neighbours, and who had what, low-pass filtered (see `factors`); item
cosine with time decay (Y. Ding and X. Li, "Time Weight Collaborative Filtering", CIKM 2005); Markov transitions (as in S.
Rendle et al., "Factorizing Personalized Markov Chains", WWW 2010, not factorised); recent neighbours among users (as in D.
Jannach and M. Ludewig, "When Recurrent Neural Networks Meet the Neighborhood", RecSys 2017); neighbours by text; and, for
what is had again, a user's own counts.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array, csr_array, vstack

from include.models.factors import (
    expected_interactions,
    factorised,
    item_to_item,
    low_pass,
    with_neighbours,
)
from include.models.histories import LONGEST, Histories, Pairs
from include.models.sparse import (
    entries,
    kept_form,
    run_starts,
    sparse_of,
    sparse_tensors,
    strongest,
    strongest_of_dense,
)
from include.models.traits import Traits, popularity_of_likes
from include.settings import ItemFactors

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

HALF_LIVES_DAYS = (1 / 24, 1.0, 3.0, 7.0, 30.0, 180.0)
POPULAR = tuple(f"popular_{half * 24:g}h" for half in HALF_LIVES_DAYS)
TRENDS_OF_LIKES = (1, 3, 4)
"""Of the half-lives those at which the popularity of an item's likes is told: 1, 7 and 30 days."""

NEIGHBOURS = 128
"""Entries kept in a row of an item-to-item matrix: what is left out is near 0."""

LENDERS = 32
"""Of an item's row in EASE's matrix, the largest entries, which their text neighbours borrow."""

DIMENSIONS = 64
"""Of the factors that are a source: lists are as good as with the 128 of item vectors, at half the cost."""

MOST_TOGETHER = 500
"""Last items of a history that are held to be alike: it keeps the cost of the cosine in proportion to what happened."""

OWN_EVIDENCE = 5.0
"""Interactions at which an item's own evidence counts as much as its text neighbours'."""

TRANSITION_SPAN = 5
TRANSITION_PRIOR = 1.0
RECENT_USERS = 2_000
"""Recent neighbours, at most, the latest ones: it bounds what a user costs."""

MONTH_DAYS = 30.0

ENTRIES_AT_ONCE = 20_000_000
"""Entries of a block of an item-to-item matrix, at most: 250 MB or so."""

NEVER_DAYS = 10_000.0
"""Stands for a time that never was."""


@dataclass(frozen=True)
class Sources:
    """What is known of n items as of T, ready to score any user's history."""

    day: float
    """T, in days from the epoch."""

    counts: NDArray[np.float64]
    popularity: NDArray[np.float64]
    """(half-lives, n) decayed interactions."""

    first_day: NDArray[np.float64]
    last_day: NDArray[np.float64]
    gap_days: NDArray[np.float64]
    """(n,) median days until a user has it again; `NEVER_DAYS` where nobody did."""

    again: NDArray[np.float64]
    """(n,) share of those who had it that had it again."""

    recent: csr_array
    """(r, n) what users had lately, one row each, of norm 1."""

    ease: csr_array
    smoothed: csr_array
    cosine: csr_array
    transitions: csr_array
    text: csr_array

    recent_month: csr_array | None = None
    """(r, n) the same of a month. None, as the traits are, in artefacts of before they were there: lists go on without."""

    traits: Traits | None = None

    left: Floats | None = None
    right: Floats | None = None
    """(n, k) EASE's matrix factorised: what having an item says, and what it takes to be recommended."""

    low_left: Floats | None = None
    low_right: Floats | None = None
    """(n, k) the same of who had what (see `low_pass`)."""

    @cached_property
    def by_popularity(self) -> Ints:
        """(half-lives, n) items, the most popular first; of equal ones the first."""
        return np.argsort(-self.popularity, axis=1, kind="stable")

    @cached_property
    def levels(self) -> NDArray[np.float64]:
        """(half-lives, n) logarithms of popularity."""
        return np.log1p(self.popularity)

    @cached_property
    def velocities(self) -> NDArray[np.float64]:
        """(half-lives - 1, n) by how much an item's level is higher than at the next longer half-life, beside all items'."""
        level = self.levels - self.levels.mean(axis=1, keepdims=True)
        return np.asarray(level[:-1] - level[1:])

    @cached_property
    def total(self) -> NDArray[np.float64]:
        """(n,) logarithms of counts."""
        return np.log1p(self.counts)

    @cached_property
    def popularity_of_likes(self) -> dict[str, NDArray[np.float64]]:
        """(n,) by name: how popular items of like texts, of the same categories and of the same creator are."""
        found: dict[str, NDArray[np.float64]] = {}
        if self.traits is None:
            return found
        for place in TRENDS_OF_LIKES:
            name, popular = POPULAR[place], self.popularity[place]
            found[f"{name}_by_text"] = np.log1p(self.text @ popular)
            found[f"{name}_by_categories"] = popularity_of_likes(self.traits.categories, popular)
            found[f"{name}_by_creators"] = popularity_of_likes(self.traits.creators, popular)
        return found

    def tensors(self) -> dict[str, NDArray[Any]]:
        """As named arrays, to be kept."""
        found: dict[str, NDArray[Any]] = {} if self.traits is None else self.traits.tensors()
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, csr_array):
                found |= sparse_tensors(field.name, value)
            elif value is not None and field.name != "traits":
                found[field.name] = np.asarray(value)
        return found

    @classmethod
    def of(cls, tensors: dict[str, NDArray[Any]]) -> "Sources":
        """From what `tensors` gave."""
        n = len(tensors["counts"])

        def value(name: str) -> object:
            if name == "day":
                return float(tensors[name])
            if name == "traits":
                return Traits.of_tensors(tensors)
            return tensors.get(name) if f"{name}.indptr" not in tensors else sparse_of(tensors, name, n)

        return cls(**{field.name: value(field.name) for field in fields(cls)})  # type: ignore[arg-type]


def popularity(histories: Histories, day: float, half_lives_days: Sequence[float | None]) -> NDArray[np.float64]:
    """(half-lives, n) interactions of each item, halved for every half-life between them and a time; None does not decay."""
    age, n = day - histories.day, histories.shape[1]
    return np.stack(
        [
            np.bincount(histories.item, weights=np.exp2(-age / (half or np.inf)), minlength=n).astype(np.float64)
            for half in half_lives_days
        ]
    )


def shrunk(counts: NDArray[np.float64], overall: NDArray[np.float64], evidence: float) -> NDArray[np.float64]:
    """Decayed interactions of each item as they would be if everybody were like the users of a segment.

    The segment's own shares weigh n / (n + evidence), where n are its interactions; the overall ones weigh the rest.

    Args:
        counts: (n,) of the segment.
        overall: (n,) of all users.
        evidence: interactions at which both weigh the same.
    """
    own, total = counts.sum(), overall.sum()
    if own == 0.0 or total == 0.0:
        return overall
    weight = own / (own + evidence)
    return np.asarray(total * weight * counts / own + (1 - weight) * overall)


@dataclass(frozen=True)
class Relations:
    """(n, n) what having an item (row) says of others, ready to be kept."""

    ease: csr_array
    smoothed: csr_array
    cosine: csr_array
    transitions: csr_array
    left: Floats
    right: Floats
    """(n, k)."""

    low_left: Floats
    low_right: Floats
    """(n, k)."""


def relate(
    histories: Histories,
    near: csr_array,
    first_day: NDArray[np.float64],
    day: float,
    *,
    factors: ItemFactors,
    seed: int,
) -> Relations:
    """Learn what items have to do with each other from what happened before T.

    Args:
        histories: of all users; what happened at T or later is left out.
        near: (n, n) neighbours by text (see `nearest_texts`).
        first_day: (n,) when each item came to be.
        day: T, in days from the epoch.
        factors: of EASE and how it is factorised.
        seed: of the factorisation.
    """
    known = histories.before(day)
    n = known.shape[1]
    pairs = Pairs.of(known)
    counts = np.bincount(known.item, minlength=n).astype(np.float32)
    marks = pairs.matrix(np.ones(len(pairs.item), dtype=np.float32), np.ones(len(pairs.item), dtype=bool))
    used = _most_used(popularity(known, day, (factors.half_life_days,))[0], counts, factors.max_items)
    matrix = item_to_item(csr_array(marks[:, used]), factors.regularisation, np.float32)
    ease = _of_all(strongest_of_dense(matrix, NEIGHBOURS), used, n)
    had_by = np.bincount(marks.indices, minlength=n).astype(np.float64)
    exposure = np.maximum(expected_interactions(first_day, known.day, int((first_day < day).sum())), had_by)
    left, right = _factors(matrix, used, had_by, near, exposure, factors, seed)
    del matrix  # the largest there is, where items are many
    low_left, low_right = low_pass(marks, dimensions=DIMENSIONS, seed=seed)
    trust = counts / (counts + np.float32(OWN_EVIDENCE))
    towards = csr_array(near.T.astype(np.float32))
    # An item of much evidence borrows little: its column is scaled once, before the product.
    towards.data *= (1 - trust)[towards.indices]
    own = ease.copy()
    own.data *= trust[own.indices]

    def smoothed(rows: slice) -> csr_array:
        return csr_array(own[rows]) + csr_array(strongest(ease[rows], LENDERS) @ towards)

    return Relations(
        ease=kept_form(ease),
        smoothed=kept_form(_strongest_by_rows(smoothed, n)),
        cosine=kept_form(_cosine(pairs)),
        transitions=kept_form(_transitions(pairs)),
        left=left,
        right=right,
        low_left=low_left,
        low_right=low_right,
    )


def fit(
    histories: Histories,
    relations: Relations,
    near: csr_array,
    traits: Traits,
    first_day: NDArray[np.float64],
    day: float,
    *,
    recent_days: float,
) -> Sources:
    """Put the sources together: what items have to do with each other, and the trends as of T.

    Args:
        histories: of all users; what happened at T or later is left out.
        relations: learned at T or before it.
        near: (n, n) neighbours by text as of T (see `nearest_texts`).
        traits: of the items.
        first_day: (n,) when each item came to be.
        day: T, in days from the epoch.
        recent_days: how far back a user counts as a recent neighbour.
    """
    known = histories.before(day)
    gap_days, again = _repurchase(known)
    return Sources(
        **trends(known, day),
        first_day=first_day,
        gap_days=gap_days,
        again=again,
        recent=kept_form(_recent_users(known.since(day - recent_days))),
        recent_month=kept_form(_recent_users(known.since(day - MONTH_DAYS))),
        text=kept_form(near),
        traits=traits,
        **vars(relations),
    )


def trends(known: Histories, day: float) -> dict[str, Any]:
    """The fields of `Sources` that follow from what happened before a time and from nothing that was learned of it.

    Args:
        known: of all users, before the time.
        day: the time, in days from the epoch.
    """
    n = known.shape[1]
    last_day = np.full(n, day - NEVER_DAYS)
    np.maximum.at(last_day, known.item, known.day)
    return {
        "day": day,
        "counts": np.bincount(known.item, minlength=n).astype(np.float64),
        "popularity": popularity(known, day, HALF_LIVES_DAYS),
        "last_day": last_day,
    }


def _strongest_by_rows(of: Callable[[slice], csr_array], n: int) -> csr_array:
    """The largest positive entries of each row of an (n, n) matrix that is made some rows at a time, to bound the memory."""
    size = max(1, ENTRIES_AT_ONCE // max(n, 1))
    blocks = [strongest(of(slice(start, min(start + size, n))), NEIGHBOURS) for start in range(0, n, size)]
    return csr_array(vstack(blocks, format="csr")) if blocks else csr_array((n, n))


def _most_used(decayed: NDArray[np.float64], counts: NDArray[np.floating], most: int) -> Ints:
    """Of the items that somebody used the most used by decayed counts, sorted, as item factors are learned of."""
    used = np.flatnonzero(counts > 0)
    return np.sort(used[np.argsort(-decayed[used], kind="stable")[:most]])


def _of_all(matrix: csr_array, used: Ints, n: int) -> csr_array:
    """The (n, n) matrix of all items with the entries of one of some of them."""
    row, column = entries(matrix)
    return csr_array((matrix.data, (used[row], used[column])), shape=(n, n))


def _factors(
    matrix: Floats,
    used: Ints,
    had_by: NDArray[np.float64],
    near: csr_array,
    exposure: NDArray[np.float64],
    factors: ItemFactors,
    seed: int,
) -> tuple[Floats, Floats]:
    """(n, k) left and right vectors of all items: those of EASE's matrix of some, and what text neighbours lend."""
    left, right = np.zeros((2, len(had_by), DIMENSIONS), dtype=np.float32)
    evidence = np.zeros(len(had_by))
    evidence[used] = had_by[used]
    left[used], right[used] = factorised(matrix, had_by[used], dimensions=DIMENSIONS, seed=seed)
    own, weight = factors.own_evidence, factors.neighbours_weight
    return with_neighbours(left, right, near, evidence, exposure, own_evidence=own, neighbours_weight=weight)


def _cosine(pairs: Pairs) -> csr_array:
    n = pairs.shape[1]
    values = pairs.matrix(np.sqrt(pairs.decayed), (pairs.rank < LONGEST) & (pairs.place < MOST_TOGETHER))
    norms = np.sqrt(np.bincount(values.indices, weights=values.data**2, minlength=n))
    values.data = values.data / np.where(norms == 0, 1.0, norms)[values.indices]
    by_item = csr_array(values.T)

    return _strongest_by_rows(lambda rows: _without_itself(csr_array(by_item[rows] @ values), rows), n)


def _without_itself(block: csr_array, rows: slice) -> csr_array:
    """Some rows of an (n, n) matrix, with 0 in place of what an item says of itself."""
    row, column = entries(block)
    block.data[row + rows.start == column] = 0.0
    return block


def _transitions(pairs: Pairs) -> csr_array:
    """How often an item (column) came with another (row) or in the next moments after it, the sooner the more.

    What a moment holds has no order: each of its items counts by one over how many there are.
    """
    n = pairs.shape[1]
    kept = pairs.place < MOST_TOGETHER
    user, rank, item = pairs.user[kept], pairs.rank[kept], pairs.item[kept]
    new = run_starts(user, rank)
    start = np.flatnonzero(new)
    moments, of = len(start), user[start]
    had: csr_array = coo_array((np.ones(len(item)), (np.cumsum(new) - 1, item)), shape=(moments, n)).tocsr()
    sizes = np.diff(had.indptr)
    share = csr_array((1.0 / np.repeat(sizes, sizes), had.indices, had.indptr), shape=had.shape)
    # Moments of a user are newest first: the one some rows on is the earlier one.
    earlier, later, weights = [np.arange(moments)], [np.arange(moments)], [np.ones(moments)]
    for distance in range(1, TRANSITION_SPAN + 1):
        newer = np.flatnonzero(of[distance:] == of[:-distance])
        earlier.append(newer + distance)
        later.append(newer)
        weights.append(np.full(len(newer), 1.0 / distance))
    cells = (np.concatenate(earlier), np.concatenate(later))
    follows = coo_array((np.concatenate(weights), cells), shape=(moments, moments)).tocsr() @ share
    by_item = csr_array(had.T)

    def chances(rows: slice) -> csr_array:
        found = _without_itself(csr_array(by_item[rows] @ follows), rows)
        sums = np.asarray(found.sum(axis=1), dtype=np.float64).ravel()
        found.data = found.data / np.repeat(sums + TRANSITION_PRIOR, np.diff(found.indptr))
        return found

    return _strongest_by_rows(chances, n)


def _recent_users(lately: Histories) -> csr_array:
    """(r, n) what the latest users did, one row each, of norm 1."""
    pairs, users = Pairs.of(lately), lately.shape[0]
    last_day = np.full(users, -np.inf)
    np.maximum.at(last_day, pairs.user, pairs.last_day)
    latest = np.zeros(users, dtype=bool)
    latest[np.lexsort((np.arange(users), -last_day))[:RECENT_USERS]] = True
    found = pairs.matrix(np.ones(len(pairs.item)), latest[pairs.user])
    return _of_norm_1(csr_array(found[np.diff(found.indptr) > 0]))


def _repurchase(known: Histories) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Median days until a user has an item again, and the share of its users that did."""
    n = known.shape[1]
    order = np.lexsort((known.day, known.item, known.user))
    user, item, day = known.user[order], known.item[order], known.day[order]
    new = run_starts(user, item)
    later = ~new[1:] & (day[1:] > day[:-1])
    gaps, of = (day[1:] - day[:-1])[later], item[1:][later]
    by_gap = np.lexsort((gaps, of))
    gaps, of = gaps[by_gap], of[by_gap]
    sizes = np.bincount(of, minlength=n)
    middle = np.cumsum(sizes) - sizes + sizes // 2
    gap_days = np.full(n, NEVER_DAYS)
    gap_days[sizes > 0] = gaps[middle[sizes > 0]]
    having = np.bincount(item[new], minlength=n)
    again = np.bincount(np.unique(user[1:][later] * n + item[1:][later]) % n, minlength=n)
    return gap_days, again / np.maximum(having, 1)


def scores(sources: Sources, pairs: Pairs, *, repeats: bool) -> Iterator[tuple[str, csr_array]]:
    """Score items for some users, source by source.

    Args:
        sources: fitted before T.
        pairs: of the users to score.
        repeats: whether what a user had is scored for itself, too.

    Yields:
        The name of a source and (users, n) scores; a source says nothing of an item that it has no entry for.
    """
    rank, lately = pairs.rank.astype(np.float64), pairs.rank < LONGEST
    soft = pairs.latest_first
    sharp = pairs.matrix((rank + 1) ** -0.5, lately)
    marks = _of_norm_1(pairs.matrix(np.ones(len(rank)), lately))
    yield "ease", soft @ sources.ease
    yield "ease_latest", sharp @ sources.ease
    yield "smoothed", soft @ sources.smoothed
    yield "cosine", pairs.whole @ sources.cosine
    yield "transitions", pairs.matrix(1 / (rank + 1), pairs.rank < TRANSITION_SPAN) @ sources.transitions
    yield "user_neighbours", _by_neighbours(marks, sources.recent)
    if sources.recent_month is not None:
        yield "user_neighbours_month", _by_neighbours(marks, sources.recent_month)
    yield "text_long", pairs.whole @ sources.text
    yield "text_last", pairs.newest @ sources.text
    if repeats:
        # All of a history, however long: it costs no more than the history itself.
        whole = np.ones(len(rank), dtype=bool)
        yield "own_count", pairs.matrix(pairs.count, whole)
        yield "own_decayed", pairs.matrix(pairs.decayed, whole)


def _of_norm_1(marks: csr_array) -> csr_array:
    """Rows of ones, scaled in place."""
    sizes = np.diff(marks.indptr)
    marks.data = marks.data / np.repeat(np.sqrt(np.maximum(sizes, 1)), sizes)
    return marks


def _by_neighbours(marks: csr_array, recent: csr_array) -> csr_array:
    alike = csr_array(marks @ recent.T)
    alike.data = alike.data**2
    return csr_array(alike @ recent)
