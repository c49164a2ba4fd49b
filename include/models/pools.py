"""Pools: the items that a user's list is chosen from, the best of every source, each described by its features.

A feature follows from the user's own history and from what is known of items as of the sources' T; standardised values and ranks
are over the user's own pool.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import chain, pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from include.models.candidates import HALF_LIVES_DAYS, NEVER_DAYS, POPULAR, Sources, scores
from include.models.histories import Histories, Pairs
from include.models.products import largest_products, row_products
from include.models.scoring import SOURCES
from include.models.sparse import entries, only, places, strongest
from include.models.traits import cosines, liking

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

TOP_OF_EACH = 60
"""Items of each source in a user's pool."""

GROUPS = (*SOURCES, "item", "own", "trees")
"""What an item's score is put together of."""

_GROUP_OF = {
    "ease": "behaviour",
    "ease_latest": "behaviour",
    "smoothed": "behaviour",
    "cosine": "behaviour",
    "transitions": "behaviour",
    "user_neighbours": "behaviour",
    "user_neighbours_month": "behaviour",
    "text_long": "text_long",
    "text_last": "text_short",
    "own_count": "own",
    "own_decayed": "own",
}


@dataclass(frozen=True)
class Pool:
    """The candidates of some users, ordered by user and item, with their features."""

    user: Ints
    item: Ints
    features: Floats
    """(candidates, features)."""

    names: tuple[str, ...]
    groups: tuple[str, ...]
    """The group of each feature; empty for what is the same for all of a user's candidates."""

    users: int

    @property
    def sizes(self) -> Ints:
        """(users,) candidates of each."""
        return np.bincount(self.user, minlength=self.users)

    def described_by(self, names: tuple[str, ...]) -> "Pool":
        """The same candidates with these features alone: those of a ranker that learned before others were there."""
        if names == self.names:
            return self
        columns = [self.names.index(name) for name in names]
        groups = tuple(self.groups[column] for column in columns)
        return replace(self, features=self.features[:, columns], names=names, groups=groups)

    def only(self, kept: NDArray[np.bool_]) -> "Pool":
        """Some of the candidates."""
        return replace(self, user=self.user[kept], item=self.item[kept], features=self.features[kept])


def pool(
    sources: Sources,
    histories: Histories,
    eligible: NDArray[np.bool_],
    *,
    repeats: bool,
    had: Histories | None = None,
    least: int = 0,
    also: Callable[[Ints], tuple[Ints, Ints]] | None = None,
) -> Pool:
    """Gather the best items of every source for some users, and describe them.

    Args:
        sources: fitted before T.
        histories: of the users, before T: what speaks for items.
        eligible: (n,) items that can be listed.
        repeats: whether what a user had can be listed again.
        had: all that the users had, also what says nothing for an item, such as a dislike; by default the histories.
        least: candidates that a user should have.
        also: of users who would have fewer, gives pairs of user and item that fill up their pools.
    """
    users, n = histories.shape
    chosen = np.zeros((users, n), dtype=bool)
    barred = np.zeros((users, n), dtype=bool)
    barred[:, ~eligible] = True
    if not repeats:
        had = histories if had is None else had
        barred[had.user, had.item] = True
    pairs = Pairs.of(histories)
    found = {name: csr_array(values) for name, values in scores(sources, pairs, repeats=repeats)}
    for values in found.values():
        chosen[entries(strongest(only(values, ~barred[entries(values)]), TOP_OF_EACH))] = True
    # The same for everybody: to offer what is popular next to whoever had these made worse lists.
    for order in sources.by_popularity:
        chosen[:, order[eligible[order]][:TOP_OF_EACH]] = True
    factored = dict(_by_factors(sources, pairs))
    for vectors, right in factored.values():
        chosen[largest_products(vectors, right, barred, TOP_OF_EACH)] = True
    chosen &= ~barred
    few = np.flatnonzero(chosen.sum(axis=1) < least)
    if also is not None and len(few):
        chosen[also(few)] = True
    user, item = np.nonzero(chosen)
    columns = chain(
        _of_sources(found, sources, user, item),
        _of_factors(factored, user, item),
        _of_items(sources, item),
        _of_users(sources, pairs, user),
        _of_now(sources, len(item)),
        _of_traits(sources, pairs, user, item),
    )
    if repeats:
        columns = chain(columns, _of_own(sources, pairs, user, item))
    # Halved as they come: all columns in double precision would be the most memory of a pool by far.
    described = [(name, group, values.astype(np.float32)) for name, group, values in columns]
    return Pool(
        user=user,
        item=item,
        features=np.ascontiguousarray(np.array([values for _, _, values in described]).T),
        names=tuple(name for name, _, _ in described),
        groups=tuple(group for _, group, _ in described),
        users=users,
    )


Columns = Iterator[tuple[str, str, NDArray[np.float64]]]
"""Name, group and values of features."""


def _of_sources(found: dict[str, csr_array], sources: Sources, user: Ints, item: Ints) -> Columns:
    users, n = next(iter(found.values())).shape
    sizes, wanted = np.bincount(user, minlength=users), user * n + item
    dense = np.zeros(users * n)
    for name, values in found.items():
        row, column = entries(values)
        at = row * n + column
        dense[at] = values.data
        raw = dense[wanted]
        dense[at] = 0.0
        yield from _three(name, _GROUP_OF[name], raw, user, sizes)
    for name, level in zip(POPULAR, sources.levels, strict=True):
        yield from _three(name, "popularity", level[item], user, sizes)


def _by_factors(sources: Sources, pairs: Pairs) -> Iterator[tuple[str, tuple[NDArray[np.float64], Floats]]]:
    """The sources that are u·p, by name: (users, k) vectors of users and (n, k) of items. Artefacts of before lack some."""
    kinds = (("factors", sources.left, sources.right), ("low_pass", sources.low_left, sources.low_right))
    for name, left, right in kinds:
        if left is not None and right is not None:
            yield name, (np.asarray(pairs.latest_first @ left), right)


def _of_factors(factored: dict[str, tuple[NDArray[np.float64], Floats]], user: Ints, item: Ints) -> Columns:
    """u·p, which tells of every candidate, where other sources know no more than what is near something that was had."""
    for name, (vectors, right) in factored.items():
        sizes = np.bincount(user, minlength=len(vectors))
        yield from _three(name, "behaviour", row_products(vectors, right, user, item), user, sizes)


def _three(name: str, group: str, raw: NDArray[np.float64], user: Ints, sizes: Ints) -> Columns:
    """A source's value, the same standardised over a user's pool, and its rank there."""
    yield name, group, raw
    yield f"{name}_z", group, standardised(raw, user, sizes)
    yield f"{name}_rank", group, _ranks(raw, user, sizes)


def standardised(values: NDArray[np.float64], user: Ints, sizes: Ints) -> NDArray[np.float64]:
    """Values less the mean over each user's pool, in deviations; zeros where all are equal."""
    centred = less_user_mean(values, user, sizes)
    return centred / user_deviation(centred, user, sizes)


def less_user_mean(values: NDArray[np.float64], user: Ints, sizes: Ints) -> NDArray[np.float64]:
    """Values less the mean over each user's pool."""
    return values - np.repeat(_means(values, user, sizes), sizes)


def user_deviation(centred: NDArray[np.float64], user: Ints, sizes: Ints) -> NDArray[np.float64]:
    """For each candidate the deviation of its user's pool; infinity where all are equal."""
    deviation = np.sqrt(_means(centred**2, user, sizes))
    return np.repeat(np.where(deviation > 1e-9, deviation, np.inf), sizes)


def _means(values: NDArray[np.float64], user: Ints, sizes: Ints) -> NDArray[np.float64]:
    return np.bincount(user, weights=values, minlength=len(sizes)) / np.maximum(sizes, 1)


def _ranks(values: NDArray[np.float64], user: Ints, sizes: Ints) -> NDArray[np.float64]:
    """1 for the best of a user's pool, then 1 / log2(rank + 1)."""
    # A row of a matrix for each user: many short sorts are far quicker than one of all.
    shape = len(sizes), int(sizes.max(initial=0))
    row, place = user, places(sizes)
    own = np.full(shape, np.inf)
    own[row, place] = -values
    found = np.empty(shape)
    np.put_along_axis(found, np.argsort(own, axis=1, kind="stable"), 1.0 / np.log2(np.arange(shape[1]) + 2.0)[None], 1)
    return found[row, place]


def _of_items(sources: Sources, item: Ints) -> Columns:
    names = pairwise(name.removeprefix("popular_") for name in POPULAR)
    for (short, long), velocity in zip(names, sources.velocities, strict=True):
        yield f"velocity_{short}_{long}", "popularity", velocity[item]
    yield "age", "item", np.log1p(np.clip(sources.day - sources.first_day, 0.0, NEVER_DAYS))[item]
    yield "idle", "item", np.log1p(np.clip(sources.day - sources.last_day, 0.0, NEVER_DAYS))[item]
    yield "total", "popularity", sources.total[item]


def _of_users(sources: Sources, pairs: Pairs, user: Ints) -> Columns:
    users = pairs.shape[0]
    distinct = np.bincount(pairs.user, minlength=users)
    taste = np.bincount(pairs.user, weights=sources.total[pairs.item], minlength=users)
    last, first = np.full(users, -np.inf), np.full(users, np.inf)
    np.maximum.at(last, pairs.user, pairs.last_day)
    np.minimum.at(first, pairs.user, pairs.first_day)
    active = distinct > 0
    span = np.zeros(users)
    span[active] = last[active] - first[active]
    yield "n_interactions", "", np.log1p(np.bincount(pairs.user, weights=pairs.count, minlength=users))[user]
    yield "n_items", "", np.log1p(distinct)[user]
    yield "user_idle", "", np.log1p(np.clip(sources.day - last, 0.0, NEVER_DAYS))[user]
    yield "user_span", "", np.log1p(np.clip(span, 0.0, NEVER_DAYS))[user]
    yield "taste_for_popular", "", (taste / np.maximum(distinct, 1))[user]


def _of_now(sources: Sources, candidates: int) -> Columns:
    """How busy the last hour was beside the last day, and the day beside the week: what short trends are worth follows."""
    rates = sources.popularity.sum(axis=1) / HALF_LIVES_DAYS
    for short, long in ((0, 1), (1, 3)):
        pace = np.log1p(rates[short]) - np.log1p(rates[long])
        names = (POPULAR[place].removeprefix("popular_") for place in (short, long))
        yield f"pace_{'_'.join(names)}", "", np.full(candidates, pace)


def _of_traits(sources: Sources, pairs: Pairs, user: Ints, item: Ints) -> Columns:
    """How near an item is to what the user had, by what it is, and how popular its likes are, which tells of new items, too."""
    traits, sizes = sources.traits, np.bincount(user, minlength=pairs.shape[0])
    if traits is None:
        return
    for span, group, own in (("long", "text_long", pairs.whole), ("last", "text_short", pairs.newest)):
        yield from _three(f"text_cosine_{span}", group, cosines(traits.texts, own, user, item), user, sizes)
    for name in ("categories", "creators"):
        raw = liking(getattr(traits, name), pairs.whole, user, item)
        yield from _three(f"{name}_liked", "behaviour", raw, user, sizes)
    for name, popular in sources.popularity_of_likes.items():
        yield name, "popularity", popular[item]


def _of_own(sources: Sources, pairs: Pairs, user: Ints, item: Ints) -> Columns:
    users, n = pairs.shape
    place = np.full(users * n, -1)
    place[pairs.user * n + pairs.item] = np.arange(len(pairs.user))
    pair = place[user * n + item]
    had = pair >= 0
    pair = pair[had]
    since, own_gap = np.full(len(had), NEVER_DAYS), np.full(len(had), NEVER_DAYS)
    since[had] = np.clip(sources.day - pairs.last_day[pair], 0.0, NEVER_DAYS)
    gaps = (pairs.last_day - pairs.first_day)[pair] / np.maximum(pairs.count[pair] - 1, 1)
    own_gap[had] = np.where(pairs.count[pair] > 1, gaps, NEVER_DAYS)
    gap = sources.gap_days[item]
    yield "had", "own", had.astype(np.float64)
    yield "since_had", "own", np.log1p(since)
    yield "own_gap", "own", np.log1p(own_gap)
    yield "since_over_gap", "own", np.minimum(since / np.maximum(gap, 0.5), 50.0)
    yield "since_over_own_gap", "own", np.minimum(since / np.maximum(own_gap, 0.5), 50.0)
    yield "gap", "item", np.log1p(gap)
    yield "again", "item", sources.again[item]
