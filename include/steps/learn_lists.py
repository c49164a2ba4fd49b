"""Learn how lists are made: the candidate sources as of the lists' T, and the ranker from the windows before it."""

import logging
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import lightgbm
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from include.columns import Artefact
from include.models.candidates import Relations, Sources, fit, relate
from include.models.histories import Histories
from include.models.interests import MICROSECONDS_PER_DAY
from include.models.nearest_texts import NearestTexts
from include.models.pools import Pool, pool
from include.models.ranker import LINEAR_SHARE, Example, Ranker, taken, teaches, train
from include.models.traits import Traits
from include.models.trial import Trial, alone, habits, tried
from include.settings import Settings, Surface
from include.steps.item_texts import centred_text_vectors
from include.steps.plan import hourly_trends
from include.stores import artefacts, behaviour, lake

log = logging.getLogger(__name__)

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
WINDOW_DAYS = (1.0, 7.0, 30.0, 90.0)
ENOUGH_USERS = 200
"""Users who come back in a window, from which on no longer one is looked for."""

ENOUGH_PAIRS = 1500
"""Users of all windows, from which on no more than `ranker.windows` of them are learned from."""

MOST_WINDOWS = 24
RELATED_WINDOWS = 4
"""Windows, at most, for which items' relations are learned once, as of the start of the oldest: it costs most of a window."""

HOURS_BETWEEN = 6.0
"""Between two windows, where trends are hourly, so that they begin at four hours in turns: what the last hour is worth depends on
the time of day. Lists of daily trends are always made at one hour, T's own, and are better learned from windows that begin at it."""

SHARED_HISTORY = 0.8
"""Of what happened before a window, the part that relations have to be learned of."""

LEAST_HISTORY = 0.3
"""Share of the interactions that lies before the earliest window: what is learned of a start needs a past."""

ENOUGH_WINDOWS = 4
"""Windows that trees and a trial need. Where fewer have a past, as in a young home or one that grows fast, they are halved."""

HALVINGS = 3
"""How often, at most."""

HABITUAL = 1 / 3
"""Share of interactions with what the user had before, from which on habits say more than the blend."""

SCORES_AT_ONCE = 2_000_000
"""Users times items of one block of pools: 100 MB or so."""

CANDIDATES_AT_ONCE = 300_000
"""Candidates of one block, as far as can be foretold: their features take 100 MB, some times over while they are made."""

USUAL_POOL = 300
"""Candidates of a user where there are more items than that."""


@dataclass(frozen=True)
class Past:
    """What happened before the lists' T, and the items as of it."""

    histories: Histories
    item_ids: list[str]
    nearest: NearestTexts
    traits: Traits
    first_day: NDArray[np.float64]
    from_day: NDArray[np.float64]
    until_day: NDArray[np.float64]
    day: float

    def eligible(self, day: float) -> NDArray[np.bool_]:
        """(n,) items that were there and could be listed at a time."""
        return (self.first_day < day) & (self.from_day <= day) & (self.until_day > day)

    @property
    def again(self) -> float:
        """The share of interactions with what the user had had at an earlier time."""
        done = self.histories
        _, pair = np.unique(done.user * done.shape[1] + done.item, return_inverse=True)
        first = np.full(len(done.day), np.inf)
        np.minimum.at(first, pair, done.day)
        return float(np.mean(done.day > first[pair])) if len(pair) else 0.0

    def near(self, day: float) -> csr_array:
        """(n, n) neighbours by text among the items that were there at a time."""
        counts = np.bincount(self.histories.before(day).item, minlength=len(self.item_ids))
        return self.nearest.neighbours(counts, self.first_day < day)


def in_days(moment: datetime) -> float:
    """Days from the epoch."""
    return (moment - EPOCH) / timedelta(days=1)


def days(column: NDArray[Any]) -> NDArray[np.float64]:
    """Days from the epoch of an array of times; not a number where there is none."""
    found = column.astype("datetime64[us]")
    return np.where(np.isnat(found), np.nan, found.astype(np.int64) / MICROSECONDS_PER_DAY)


def read_past(settings: Settings, state: dict[str, Any]) -> Past:
    """Read what a candidate's lists may follow from: nothing at or after their T."""
    as_of, snapshot = datetime.fromisoformat(state["lists"]["as_of"]), state["lists"]["lake_snapshot"]
    with lake.connect(settings) as connection:
        users = behaviour.users(connection, snapshot, as_of)
        items = behaviour.items(connection, snapshot, as_of)
        spans = behaviour.item_spans(connection, snapshot, as_of)
        ids = items["item_id"].to_pylist()
        done = behaviour.interactions(connection, snapshot, as_of, users, ids)
    known = (done.item >= 0) & (done.weight > 0)  # a dislike says nothing for an item
    first_day = days(spans["first_from"].to_numpy())
    texts = centred_text_vectors(settings, state, items)[1]
    return Past(
        histories=Histories(done.user[known], done.item[known], days(done.event_ts[known]), (len(users), len(ids))),
        item_ids=ids,
        nearest=NearestTexts.among(texts, first_day),
        traits=Traits.of(texts, items["categories"].to_pylist(), items["creator_id"].to_pylist()),
        first_day=first_day,
        from_day=np.nan_to_num(days(spans["available_from"].to_numpy()), nan=-np.inf),
        until_day=np.nan_to_num(days(spans["available_until"].to_numpy()), nan=np.inf),
        day=in_days(as_of),
    )


def _relate(settings: Settings, past: Past, day: float, near: csr_array) -> Relations:
    factors = settings.item_factors
    return relate(past.histories, near, past.first_day, day, factors=factors, seed=settings.seed)


def _fit(past: Past, relations: Relations, near: csr_array, day: float, window_days: float) -> Sources:
    recent_days = max(7.0, window_days)
    return fit(past.histories, relations, near, past.traits, past.first_day, day, recent_days=recent_days)


def fit_sources(settings: Settings, past: Past, description: dict[str, Any]) -> str:
    """Fit the candidate sources as of the lists' T; returns the artefact's id."""
    window, near = window_days(settings, past), past.near(past.day)
    tensors = _fit(past, _relate(settings, past, past.day, near), near, past.day, window).tensors()
    return artefacts.write(
        settings, Artefact.SOURCES, tensors, {**description, "items": past.item_ids, "window_days": window}
    )


def window_days(settings: Settings, past: Past) -> float:
    """The setting, or the shortest usual length in which enough users come back; else that with the most."""
    if settings.ranker.window_days is not None:
        return settings.ranker.window_days
    first = np.full(past.histories.shape[0], np.inf)
    np.minimum.at(first, past.histories.user, past.histories.day)
    back = []
    for length in WINDOW_DAYS:
        start = past.day - length
        lately = past.histories.user[past.histories.day >= start]
        back.append(len(np.unique(lately[first[lately] < start])))
        if back[-1] >= ENOUGH_USERS:
            return length
    return WINDOW_DAYS[int(np.argmax(back))]


def examples(settings: Settings, past: Past, *, repeats: bool) -> list[Example]:
    """Windows before T in which some candidate was taken, the newest first, each with the trends and histories of its own start."""
    whole, (length, starts) = window_days(settings, past), windows(settings, past)
    known = np.searchsorted(np.sort(past.histories.day), starts)  # interactions before each
    random = np.random.default_rng(settings.seed)
    found, users, related = [], 0, 0
    for back, start in enumerate(starts, 1):
        if back > settings.ranker.windows and users >= ENOUGH_PAIRS:
            break
        near = past.near(start)
        if back > related:
            shared = known[back - 1 : len(starts)] >= SHARED_HISTORY * known[back - 1]
            related = back - 1 + int(shared[:RELATED_WINDOWS].sum())
            relations = _relate(settings, past, starts[related - 1], near)
        before = past.histories.before(start)
        example = _example(settings, past, before, relations, near, start, length, whole, random, repeats=repeats)
        if example is not None and example.users:
            found.append(example)
            users += example.users
        log.info("window %d from %s: %d users so far", back, EPOCH + timedelta(days=start), users)
    return found


def windows(settings: Settings, past: Past) -> tuple[float, list[float]]:
    """How long the windows before T are, in days, and when they begin, the newest first, as far as enough happened before."""
    whole, several_hours = window_days(settings, past), hourly_trends(settings)
    happened = np.sort(past.histories.day)
    enough = max(1.0, LEAST_HISTORY * len(happened))
    tried = []
    for length in (whole / 2**halved for halved in range(HALVINGS + 1)):
        backs = range(1, MOST_WINDOWS + 1)
        starts = [window_start(past.day, length, back, several_hours=several_hours) for back in backs]
        tried.append((length, [start for start in starts if np.searchsorted(happened, start) >= enough]))
        if len(tried[-1][1]) >= ENOUGH_WINDOWS:
            return tried[-1]
    return max(tried, key=lambda one: len(one[1]))


def window_start(day: float, length: float, back: int, *, several_hours: bool) -> float:
    """When a window before T begins, in days. The newest ends at T; shorter ones than a day begin at several hours anyway."""
    earlier = HOURS_BETWEEN / 24 * (back - 1) if several_hours and length >= 1 else 0.0
    return day - back * length - earlier


def _example(
    settings: Settings,
    past: Past,
    before: Histories,
    relations: Relations,
    near: csr_array,
    start: float,
    length: float,
    whole: float,
    random: np.random.Generator,
    *,
    repeats: bool,
) -> Example | None:
    inside = (past.histories.day >= start) & (past.histories.day < start + length)
    user, item = past.histories.user[inside], past.histories.item[inside]
    with_history = np.zeros(past.histories.shape[0], dtype=bool)
    with_history[before.user] = True
    users = np.unique(user[with_history[user]])
    if len(users) > settings.ranker.users_per_window:
        users = np.sort(random.choice(users, settings.ranker.users_per_window, replace=False))
    if len(users) == 0:
        return None
    sources = _fit(past, relations, near, start, whole)
    pools = pool_in_blocks(sources, before.only(users), past.eligible(start), repeats=repeats)
    place = np.full(past.histories.shape[0], -1)
    place[users] = np.arange(len(users))
    own = place[user] >= 0
    # Of the whole pools only one window's are held at once.
    return Example(pools, taken(pools, place[user[own]], item[own], past.histories.shape[1])).sampled(random)


def users_at_once(items: int) -> int:
    """How many users' pools are made together."""
    items = max(items, 1)
    return max(1, min(SCORES_AT_ONCE // items, CANDIDATES_AT_ONCE // min(items, USUAL_POOL)))


def pool_in_blocks(sources: Sources, histories: Histories, eligible: NDArray[np.bool_], *, repeats: bool) -> Pool:
    """The pool of many users, put together of blocks that bound the memory."""
    users, n = histories.shape
    size = users_at_once(n)
    blocks = [
        pool(sources, histories.only(np.arange(start, min(start + size, users))), eligible, repeats=repeats)
        for start in range(0, users, size)
    ]
    return Pool(
        user=np.concatenate([block.user + number * size for number, block in enumerate(blocks)]),
        item=np.concatenate([block.item for block in blocks]),
        features=np.concatenate([block.features for block in blocks]),
        names=blocks[0].names,
        groups=blocks[0].groups,
        users=users,
    )


def train_ranker(settings: Settings, past: Past, description: dict[str, Any], *, repeats: bool) -> str:
    """Learn from the windows before T which candidates users take; returns the artefact's id.

    Where there is too little to learn from, the artefact says so: lists keep the blend, or, where users have much again and may be
    shown it, go by habits.
    """
    kind, seen = Artefact.ranker(repeats), examples(settings, past, repeats=repeats)
    users = sum(example.users for example in seen)
    facts = {
        **description,
        "repeats": repeats,
        "window_days": windows(settings, past)[0],
        "windows": len(seen),
        "users": users,
    }
    why = None
    if users < settings.ranker.min_users:
        why = f"{users} users to learn from, and at least {settings.ranker.min_users} are needed"
    elif not teaches(seen):
        why = "users took whatever they could be shown, so there is no order to learn"
    if why is not None and repeats and past.again >= HABITUAL:
        log.info("lists keep to habits: %s", why)
        return _write(settings, kind, habits(), {**facts, "model": "habits", "why": why})
    if why is not None:
        log.info("lists keep the blend: %s", why)
        return artefacts.write(settings, kind, {"none": np.zeros(0)}, {**facts, "model": "blend", "why": why})
    with_trees = users >= settings.ranker.min_users_for_trees and len(seen) >= ENOUGH_WINDOWS
    share = settings.ranker.linear_share
    trial = tried(seen, trees=with_trees, seed=settings.seed) if share is None else Trial(share, None, 0, {})
    log.info("tried on %d users of the newest windows: %s", trial.users, trial.ndcg)
    if trial.source is None:
        learned = train(seen, trees=with_trees, seed=settings.seed, linear_share=trial.linear_share)
        facts |= {"model": "linear and trees" if learned.trees else "linear"}
    else:
        learned = alone(seen[0].pool.names, trial.source)
        facts |= {"model": "one source", "why": f"{trial.source} alone was better in the newest windows"}
    return _write(settings, kind, learned, {**facts, "trial": {"users": trial.users, "ndcg": trial.ndcg}})


def _write(settings: Settings, kind: str, ranker: Ranker, facts: dict[str, Any]) -> str:
    tensors = {"mean": ranker.mean, "deviation": ranker.deviation, "coefficients": ranker.coefficients}
    texts = {f"{name}.txt": grown.model_to_string() for name, grown in ranker.trees.items()}
    facts |= {"features": list(ranker.names), "trees": list(ranker.trees), "shortlist": ranker.shortlist}
    facts |= {"linear_share": ranker.linear_share if ranker.trees else 1.0}
    return artefacts.write(settings, kind, tensors, facts, texts)


@dataclass(frozen=True)
class Ranking:
    """What orders the lists of a surface."""

    sources: Sources
    ranker: Ranker
    items: list[str]


def load_ranking(settings: Settings, state: dict[str, Any], surface: Surface) -> Ranking | None:
    """The sources and the ranker that a candidate names; None where lists keep the blend."""
    name = state["artefacts"].get(Artefact.ranker(surface.show_seen))
    if name is None:
        return None
    tensors, description = artefacts.read(settings, name)
    if description["model"] == "blend":
        return None
    # Before there were several kinds of trees, the artefact did not name them.
    kinds = description.get("trees", ["trees"] if description["model"] == "linear and trees" else [])
    trees = {kind: lightgbm.Booster(model_str=artefacts.read_text(settings, name, f"{kind}.txt")) for kind in kinds}
    fitted, facts = artefacts.read(settings, state["artefacts"][Artefact.SOURCES])
    return Ranking(
        sources=Sources.of(fitted),
        ranker=Ranker(
            tuple(description["features"]),
            tensors["mean"],
            tensors["deviation"],
            tensors["coefficients"],
            trees,
            description.get("shortlist"),
            description.get("linear_share", LINEAR_SHARE),
        ),
        items=facts["items"],
    )
