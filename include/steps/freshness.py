"""What lists are worth as they grow old: a part of the backtest.

In the window behind a cut, what users did in each hour is held against lists of the last refresh before that hour, for
refreshes of several cadences. Only who is active in an hour is asked for. What a refresh follows from is selected by
`Told.before`, which looks at nothing at or after its time; what behaviour says of pairs of items, and the ranker, stay as they
were learned as of the cut.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from scipy.sparse import csr_array

from include.durations import duration
from include.models import candidates, metrics, peers
from include.models.freshness import measurable, refreshed, refreshed_at
from include.models.histories import Histories
from include.models.nearest_texts import NearestTexts
from include.models.traits import Traits
from include.settings import Settings
from include.steps.item_texts import centred, embed_items
from include.steps.learn_lists import Ranking, days, in_days, users_at_once
from include.steps.update_lists import ranked
from include.stores import behaviour, lake

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Plan = dict[str, Any]

FRESHNESS = "freshness"
LISTS, TRENDS, POPULARITY = "lists", "trends", "popularity"
CURVES = {
    LISTS: "lists that are made at each refresh and stay as they are until the next",
    TRENDS: "lists that follow their user's own history by the hour, as updates do, with trends of the last refresh",
    POPULARITY: "the recently popular items of each refresh",
}
HALF_LIVES_DAYS = tuple(fit["half_life_days"] for fit in peers.PEERS[POPULARITY].fits)
ROWS = pa.schema(
    [("curve", pa.string()), ("cadence", pa.string()), ("hour", pa.int32()), ("user_id", pa.string()), ("ndcg", pa.float64())]
)  # fmt: skip


@dataclass(frozen=True)
class Learned:
    """What the product learned as of a cut: what ranks its lists, and what makes vectors of the texts that come later."""

    ranking: Ranking
    state: dict[str, Any]
    """Of its candidate."""

    text_mean: NDArray[np.float32]


@dataclass(frozen=True)
class Told:
    """What the lake tells of a cut and of the window behind it. Items known at the cut come first, others as they appeared."""

    cut: datetime
    users: list[str]
    items: list[str]
    known: int
    """Items that were known at the cut."""

    first_day: Floats
    from_day: Floats
    until_day: Floats
    done: Histories
    weight: Floats
    excluded_day: Floats
    """From when on each interaction does not count; not a number: it always counts."""

    described: pa.Table
    """What each item says of itself: at the cut, or where it appeared later, at first."""

    def day(self, hour: int) -> float:
        """An hour after the cut, in days from the epoch."""
        return in_days(self.cut + timedelta(hours=hour))

    def items_at(self, hour: int) -> int:
        """How many items had appeared before an hour."""
        return self.known + int(np.searchsorted(self.first_day[self.known :], self.day(hour)))

    def counts_at(self, hour: int) -> NDArray[np.bool_]:
        """Which interactions happened before an hour, and were not excluded before it."""
        day = self.day(hour)
        return (self.done.day < day) & ~(self.excluded_day < day)

    def before(self, hour: int, items: int, *, liked: bool = False) -> Histories:
        """What was done before an hour with the first items: all of it, or what has some weight."""
        kept = self.counts_at(hour) & (self.done.item < items)
        if liked:
            kept &= self.weight > 0
        return Histories(self.done.user[kept], self.done.item[kept], self.done.day[kept], (len(self.users), items))

    def eligible(self, hour: int) -> NDArray[np.bool_]:
        """(items_at,) which items can be listed at an hour."""
        day, n = self.day(hour), self.items_at(hour)
        return (self.from_day[:n] <= day) & (self.until_day[:n] > day)


@dataclass(frozen=True)
class Texts:
    """What items say, those of the cut and those that appeared later."""

    vectors: NDArray[np.float32]
    """(items, d) as the vector table would have them."""

    nearest: NearestTexts


@dataclass(frozen=True)
class Hour:
    """Who did something in an hour of the window, and what: `targets` has a row for each of `users`, sorted positions."""

    hour: int
    users: Ints
    targets: csr_array


def measure_freshness(
    settings: Settings, plan: Plan, cut: datetime, learned: Learned | None
) -> tuple[pa.Table, dict[str, Any]]:
    """Hold what users did in each hour of the window against lists of several ages.

    Args:
        settings: all settings.
        plan: of the backtest.
        cut: T.
        learned: as of the cut; None where the product's lists keep the blend, or are not asked for.

    Returns:
        Rows of `ROWS`, one for each curve, cadence, hour and user; and how many `rows` of hour and user and `targets` there
        are, those of items that appeared in the window, and the half-lives of the popularity.
    """
    told = read_told(settings, plan, cut)
    hours = active_hours(told, plan)
    cadences = measurable(duration(plan["every"]) / timedelta(hours=1))
    half_lives = _choose_half_lives(settings, plan, cut, cadences)
    found = {
        POPULARITY: {name: _popular(settings, plan, told, hours, name, [half_lives[name]])[0] for name in cadences}
    }
    if learned is not None:
        found |= _of_ranking(plan, told, hours, cadences, learned.ranking, read_texts(settings, told, learned))
    who = np.concatenate([np.zeros(0, dtype=np.int64), *(each.users for each in hours)])
    when = np.repeat([each.hour for each in hours], [len(each.users) for each in hours])
    names = pa.array(told.users, pa.string()).take(pa.array(who))
    tables = [
        pa.table([[curve] * len(who), [cadence] * len(who), when, names, values], schema=ROWS)
        for curve, by_cadence in found.items()
        for cadence, values in by_cadence.items()
    ]
    return pa.concat_tables(tables), {
        "rows": len(who),
        "targets": sum(each.targets.nnz for each in hours),
        "targets_released": sum(int((each.targets.indices >= told.known).sum()) for each in hours),
        "half_life_days": half_lives,
    }


def read_told(settings: Settings, plan: Plan, cut: datetime) -> Told:
    """Read everything that happened until the end of a cut's window, and which items there were."""
    snapshot, end = plan["lake_snapshot"], cut + duration(plan["every"])
    with lake.connect(settings) as connection:
        known = behaviour.item_spans(connection, snapshot, cut)
        later = behaviour.item_spans(connection, snapshot, end)
        new = later.filter(pc.invert(pc.is_in(later["item_id"], known["item_id"])))
        spans = pa.concat_tables([known, new.sort_by([("first_from", "ascending"), ("item_id", "ascending")])])
        items = spans["item_id"].to_pylist()
        described = [
            behaviour.items(connection, snapshot, cut).drop_columns("available"),
            behaviour.first_items(connection, snapshot, items[known.num_rows :]),
        ]
        users = behaviour.users_of_any_time(connection, snapshot, end)
        done, excluded_at = behaviour.interactions_of_any_time(connection, snapshot, end, users, items)
    there = done.item >= 0
    return Told(
        cut=cut,
        users=users,
        items=items,
        known=known.num_rows,
        first_day=days(spans["first_from"].to_numpy()),
        from_day=np.nan_to_num(days(spans["available_from"].to_numpy()), nan=-np.inf),
        until_day=np.nan_to_num(days(spans["available_until"].to_numpy()), nan=np.inf),
        done=Histories(done.user[there], done.item[there], days(done.event_ts[there]), (len(users), len(items))),
        weight=done.weight[there],
        excluded_day=days(excluded_at[there]),
        described=pa.concat_tables(described),
    )


def read_texts(settings: Settings, told: Told, learned: Learned) -> Texts:
    """The vectors of the cut, and those that what appeared later would have."""
    known = learned.ranking.sources.traits
    assert known is not None, "only artefacts of before have none, and these were made for the cut"
    later = centred(*embed_items(settings, learned.state, told.described.slice(told.known)), learned.text_mean)
    vectors = np.concatenate([known.texts, later])
    return Texts(vectors, NearestTexts.among(vectors, told.first_day))


def active_hours(told: Told, plan: Plan) -> list[Hour]:
    """What users with a history at the cut did in each hour, as it counts at the window's end, with items that had appeared."""
    length = duration(plan["every"]) // timedelta(hours=1)
    with_history = np.zeros(len(told.users), dtype=bool)
    with_history[told.before(0, told.known).user] = True
    counts = told.counts_at(length) & (told.weight > 0) & with_history[told.done.user]
    found = []
    for hour in range(length):
        start, end, items = told.day(hour), told.day(hour + 1), told.items_at(hour)
        kept = counts & (told.done.day >= start) & (told.done.day < end) & (told.done.item < items)
        if not kept.any():
            continue
        users = np.unique(told.done.user[kept])
        targets = _marks(
            np.searchsorted(users, told.done.user[kept]), told.done.item[kept], (len(users), len(told.items))
        )
        if not plan["show_seen"]:
            had = told.before(hour, items).only(users)
            targets = csr_array(targets - targets.multiply(_marks(had.user, had.item, targets.shape)))
            targets.eliminate_zeros()
        asked = np.flatnonzero(np.diff(targets.indptr))
        if len(asked):
            found.append(Hour(hour, users[asked], csr_array(targets[asked])))
    return found


def _marks(row: Ints, column: Ints, shape: tuple[int, int]) -> csr_array:
    """1 for each pair."""
    found = csr_array((np.ones(len(row)), (row, column)), shape=shape)
    found.sum_duplicates()
    found.data[:] = 1.0
    return found


def _of_ranking(
    plan: Plan,
    told: Told,
    hours: list[Hour],
    cadences: list[str],
    ranking: Ranking,
    texts: Texts,
) -> dict[str, dict[str, Floats]]:
    """NDCG of the ranker's lists for each row of hour and user, by curve and cadence."""
    asked: dict[int, dict[int, set[int]]] = defaultdict(lambda: defaultdict(set))
    for each in hours:
        for cadence in cadences:
            refresh = refreshed_at(each.hour, cadence)
            for history in (refresh, each.hour):
                asked[refresh][history].update(each.users.tolist())
    listed = {}
    for refresh, by_history in asked.items():
        trends = trends_at(told, ranking, texts, refresh)
        for history, users in by_history.items():
            of = np.array(sorted(users), dtype=np.int64)
            listed[refresh, history] = of, ranked_at(plan, told, trends, refresh, history, of)

    def values(cadence: str, history_of: str) -> Floats:
        found = []
        for each in hours:
            users, lists = listed[refreshed_at(each.hour, cadence), refreshed_at(each.hour, history_of)]
            found.append(_ndcg(each, lists[np.searchsorted(users, each.users)]))
        return np.concatenate([np.zeros(0), *found])

    return {
        LISTS: {cadence: values(cadence, cadence) for cadence in cadences},
        TRENDS: {cadence: values(cadence, "hourly") for cadence in cadences},
    }


def trends_at(told: Told, ranking: Ranking, texts: Texts, hour: int) -> Ranking:
    """What ranks lists, with trends as of an hour, and what the items there say of themselves."""
    items = told.items_at(hour)
    said = told.described.slice(0, items)
    traits = Traits.of(texts.vectors[:items], said["categories"].to_pylist(), said["creator_id"].to_pylist())
    before, first_day = told.before(hour, items, liked=True), told.first_day[:items]
    counts = np.bincount(before.item, minlength=len(told.items))
    near = texts.nearest.neighbours(counts, np.arange(len(told.items)) < items)[:items, :items]
    sources = refreshed(ranking.sources, before, traits, near, first_day, told.day(hour))
    return Ranking(sources, ranking.ranker, told.items[:items])


def ranked_at(plan: Plan, told: Told, trends: Ranking, refresh: int, history: int, users: Ints) -> Ints:
    """(users, k) the items of the ranker's lists, -1 for none, with users' own histories as of an hour at or after the refresh."""
    n, eligible = len(trends.items), told.eligible(refresh)
    own, had = (told.before(history, n, liked=liked).only(users) for liked in (True, False))
    size = users_at_once(n)
    lists = [
        ranked(
            trends,
            own.only(some),
            eligible,
            repeats=plan["show_seen"],
            length=plan["k"],
            had=had.only(some),
        )[1]
        for some in (np.arange(start, min(start + size, len(users))) for start in range(0, len(users), size))
    ]
    return np.concatenate(lists)


def _ndcg(hour: Hour, listed: Ints) -> Floats:
    return metrics.ndcg(metrics.hits(hour.targets, listed), np.diff(hour.targets.indptr).astype(np.int64))


def _choose_half_lives(settings: Settings, plan: Plan, cut: datetime, cadences: list[str]) -> dict[str, float | None]:
    """For each cadence the half-life that was best in the window before the cut; the first of the grid without any row there."""
    earlier = read_told(settings, plan, cut - duration(plan["every"]))
    hours = active_hours(earlier, plan)
    if not hours:
        return dict.fromkeys(cadences, HALF_LIVES_DAYS[0])
    found = {}
    for cadence in cadences:
        means = _popular(settings, plan, earlier, hours, cadence, HALF_LIVES_DAYS).mean(axis=1)
        found[cadence] = HALF_LIVES_DAYS[int(np.argmax(means))]  # the first of equals
    return found


def _popular(
    settings: Settings,
    plan: Plan,
    told: Told,
    hours: list[Hour],
    cadence: str,
    half_lives_days: Sequence[float | None],
) -> Floats:
    """(half-lives, rows) NDCG of recent popularity for each row of hour and user."""
    found = [np.zeros((len(half_lives_days), 0))]
    by_refresh: dict[int, list[Hour]] = defaultdict(list)
    for each in hours:
        by_refresh[refreshed_at(each.hour, cadence)].append(each)
    for refresh, those in by_refresh.items():
        items, eligible = told.items_at(refresh), told.eligible(refresh)
        before = told.before(refresh, items)
        totals = candidates.popularity(told.before(refresh, items, liked=True), told.day(refresh), half_lives_days)
        for each in those:
            had = None
            if not plan["show_seen"]:
                own = before.only(each.users)
                had = _marks(own.user, own.item, (len(each.users), items))
            rows = np.arange(len(each.users))
            lists = [
                peers.recommend(
                    partial(_same_for_all, of_items), rows, had, eligible, plan["k"], settings.users_per_chunk
                )[0]
                for of_items in totals
            ]
            found.append(np.stack([_ndcg(each, best) for best in lists]))
    return np.concatenate(found, axis=1)


def _same_for_all(of_items: Floats, rows: Ints) -> Floats:
    """(rows, items) the same scores for each row."""
    return np.broadcast_to(of_items, (len(rows), len(of_items)))
