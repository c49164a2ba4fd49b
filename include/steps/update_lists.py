"""Score the users that a candidate relists; `keep_lists` makes a version of each surface's table of it.

Lists are scored against the catalogue and the popularity as of the lists' own T (`lists` in the manifest), so that an
update of a few users leaves what a rebuild of everyone would give.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy.sparse import csr_array

from include.columns import DECIMALS, USER_VECTORS, Reason, VectorTable
from include.errors import TidemarkError
from include.models.exploration import placed
from include.models.histories import Histories
from include.models.interests import decayed_weights
from include.models.pools import GROUPS, pool
from include.models.ranker import best
from include.models.scoring import SOURCES, Blend, Catalogue, top_items
from include.models.sparse import picked
from include.settings import Settings, Surface
from include.steps.learn_lists import Ranking, days, load_ranking, users_at_once
from include.steps.list_plan import list_inputs, planned_lists, unavailable
from include.steps.new_items import NewItems, drawn_for, explores, new_items
from include.steps.unseen_lists import segment_lists
from include.steps.update_users import behaviour_weights
from include.stores import behaviour, lake, parts, popularity, publications, vectors
from include.stores.parts import of_shard

log = logging.getLogger(__name__)

BestOf = Callable[[NDArray[np.int64]], NDArray[np.int64]]
"""Of some users, by their rows, the blend's best items as of the lists' T: (users, length), -1 for none."""

Filling = tuple[NDArray[np.int64], NDArray[np.int64]]
BECAUSE = pa.list_(pa.struct([("item_id", pa.string()), ("share", pa.float32())]))


@dataclass(frozen=True)
class Listing:
    """What the lists of a surface are made of."""

    settings: Settings
    state: dict[str, Any]
    """A candidate or a publication."""

    surface: Surface
    catalogue: Catalogue
    """The items as of the lists' T."""

    never: NDArray[np.bool_]
    """(n,) items of it that were not to be had as of the lists' T."""

    left: NDArray[np.bool_]
    """(n,) items of it that were, and are not as of the candidate's."""

    ranking: Ranking | None
    """None where lists keep the blend."""

    new: NewItems | None
    """None where no places are kept for new items."""

    @property
    def barred(self) -> NDArray[np.bool_]:
        """(n,) items that cannot be listed."""
        return self.never | self.left


@lake.attached_once
def update_lists(settings: Settings, candidate: str, shard: int | None = None) -> dict[str, Any]:
    """Score the users that a candidate relists, for every surface: those of one shard, or of all.

    Returns:
        For each surface how many lists were written.
    """
    state = publications.planned(settings, candidate)
    written = {}
    for surface in settings.surfaces:
        planned, _ = planned_lists(settings, candidate, state, surface)
        mine = of_shard(planned, shard, state["shards"])
        if mine:
            what = _listing(settings, state, surface)
        for part in mine:
            start = time.monotonic()
            rows = _lists(what, list(part.keys))
            parts.write(settings, candidate, part, list_inputs(state), rows, time.monotonic() - start)
            log.info("%s: listed part %d of %d", surface.name, part.number + 1, part.of)
        written[surface.name] = sum(len(part.keys) for part in mine)
    return written


def _listing(settings: Settings, state: dict[str, Any], surface: Surface) -> Listing:
    """Read what the lists of a surface are made of."""
    catalogue = _catalogue(settings, state, surface)
    never, now = (unavailable(settings, entry, list(catalogue.item_ids)) for entry in (state["lists"], state))
    return Listing(
        settings,
        state,
        surface,
        catalogue,
        never,
        now & ~never,
        load_ranking(settings, state, surface),
        new_items(settings, state) if len(explores(state, surface)) else None,
    )


def _catalogue(settings: Settings, state: dict[str, Any], surface: Surface) -> Catalogue:
    context = state["lists"]
    rows = vectors.read(
        settings,
        state["encoder_id"],
        VectorTable.ITEMS,
        context["item_vectors"],
        columns=["item_id", "text", "right", "left"],
    )
    with lake.connect(settings) as connection:
        counts = popularity.counts(
            settings,
            connection,
            context["lake_snapshot"],
            datetime.fromisoformat(context["as_of"]),
            surface.popularity_half_life_days,
        )
    ids = rows["item_id"].to_pylist()
    return Catalogue.build(
        ids,
        vectors.vector_array(rows["text"]),
        vectors.vector_array(rows["left"]),
        vectors.vector_array(rows["right"]),
        np.array([counts.get(item, 0.0) for item in ids]),
    )


def _lists(what: Listing, users: list[str]) -> pa.Table:
    """The lists of some users as rows of the surface's table, in the order of the users."""
    settings, state, surface, catalogue = what.settings, what.state, what.surface, what.catalogue
    known = vectors.read(
        settings, state["encoder_id"], VectorTable.USERS, state["tables"][VectorTable.USERS]["version"], keys=users
    )
    names = [*(SOURCES if what.ranking is None else GROUPS)]
    names += ([Reason.SEGMENT] if settings.cold_start.segment_by else []) + (
        [] if what.new is None else [Reason.EXPLORATION]
    )
    rows = _lists_of_history(what, names, known)
    unseen = sorted(set(users) - set(known["user_id"].to_pylist()))
    if not unseen:
        return rows
    popular = segment_lists(settings, state, surface, catalogue, what.barred, unseen)
    shape = popular.positions.shape
    parts = {name: popular.parts.get(name, np.zeros(shape)) for name in names}
    because = np.full((*shape, surface.reasons), -1, dtype=np.int64)
    segments = [str(number) for number in range(shape[0])]
    made = _table(
        segments, catalogue, popular.positions, popular.scores, parts, because, np.zeros(because.shape, np.float32)
    )
    shown = made.take(pa.array(popular.of)).set_column(0, "user_id", pa.array(unseen, pa.string()))
    return pa.concat_tables([rows, shown]).sort_by("user_id")


def _lists_of_history(what: Listing, names: list[str], known: pa.Table) -> pa.Table:
    """The lists of users with a history, whose vectors are given; `names` are the parts of a score."""
    settings, state, surface, catalogue = what.settings, what.state, what.surface, what.catalogue
    as_of, snapshot = datetime.fromisoformat(state["as_of"]), state["lake_snapshot"]
    users = known["user_id"].to_pylist()
    long, short, behaved = (vectors.vector_array(known[name]) for name in USER_VECTORS)
    last = np.asarray(known["last_event_ts"], dtype="datetime64[us]")
    with lake.connect(settings) as connection:
        history = behaviour.interactions(connection, snapshot, as_of, users, list(catalogue.item_ids))
    done = history.item >= 0

    user, item = history.user[done], history.item[done]
    event_ts, weight = history.event_ts[done], history.weight[done]
    likes = weight > 0
    shape = (len(users), len(catalogue.item_ids))

    def over_norm(found: csr_array, norm: str) -> csr_array:
        norms = np.asarray(known[norm])
        found.data = found.data / np.repeat(np.where(norms == 0, 1.0, norms), np.diff(found.indptr))
        return found

    def decayed(half_life_days: float) -> csr_array:
        return decayed_weights(user, item, event_ts, weight, last, half_life_days=half_life_days, shape=shape)

    interests = settings.interests
    weighed = behaviour_weights(settings, state, user, item, event_ts, weight, last, shape=shape)
    shares = {
        "text_long": over_norm(decayed(interests.long_half_life_days), "long_norm"),
        "text_short": over_norm(decayed(interests.short_half_life_days), "short_norm"),
        "behaviour": over_norm(weighed, "behaviour_norm"),
    }
    had = shares["text_long"]
    seen = csr_array((np.ones(had.nnz, dtype=bool), had.indices, had.indptr), shape=had.shape)

    blend = Blend(surface, catalogue, long, short, behaved)

    def best_of(barred: NDArray[np.bool_], some: NDArray[np.int64]) -> NDArray[np.int64]:
        found, _ = top_items(
            blend.only(some).queries()[0],
            catalogue.matrix,
            surface.length,
            excluded=None if surface.show_seen else seen[some],
            ineligible=barred,
            chunk=settings.users_per_chunk,
        )
        return found

    positions = np.full((len(users), surface.length), -1)
    scores = np.zeros(positions.shape)
    parts = {name: np.zeros(positions.shape) for name in names}
    if what.ranking is not None:
        _rank(
            what,
            what.ranking,
            Histories(user[likes], item[likes], days(event_ts[likes]), shape),
            Histories(user, item, days(event_ts), shape),
            partial(best_of, what.never),
            positions,
            scores,
            parts,
        )
        if what.left.any():
            _fill_up(what, None if surface.show_seen else seen, np.unique(user[likes]), positions, scores, parts)
    # The ranker knows nothing of a user without a history.
    rest = np.setdiff1d(np.arange(len(users)), () if what.ranking is None else user[likes])
    positions[rest], scores[rest], blended = _by_blend(blend.only(rest), best_of(what.barred, rest))
    for name in SOURCES:
        parts[name][rest] = blended[name]

    if what.new is not None:
        new = what.new
        catalogue = blend.catalogue = catalogue.with_more(new.ids, new.text, new.left, new.right)
        drawn = drawn_for(settings, state, surface, known, new)
        at = explores(state, surface)
        positions, scores, parts = _with_new_items(catalogue, at, new, drawn, positions, scores, parts)
    because_item, because_share = blend.reasons(shares, positions, surface.reasons)
    return _table(users, catalogue, positions, scores, parts, because_item, because_share)


def _by_blend(
    blend: Blend, positions: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.float64], dict[str, NDArray[np.float64]]]:
    """Lists in the order of the blend: positions, scores, and what each source adds."""
    parts = blend.source_scores(positions)
    scores = np.round(np.sum([parts[name] for name in SOURCES], axis=0), DECIMALS)
    # The product finds the items; the order follows from scores computed row by row, whatever the chunks were.
    order = np.lexsort((positions, np.where(positions >= 0, -scores, np.inf)), axis=1)
    positions, scores = (np.take_along_axis(each, order, axis=1) for each in (positions, scores))
    return positions, scores, {name: np.take_along_axis(part, order, axis=1) for name, part in parts.items()}


def _rank(
    what: Listing,
    ranking: Ranking,
    histories: Histories,
    had: Histories,
    best_of: BestOf,
    positions: NDArray[np.int64],
    scores: NDArray[np.float64],
    parts: dict[str, NDArray[np.float64]],
) -> None:
    """Fill in the ranker's lists of the users with a history; the blend's best items fill up pools that are too small."""
    surface, items = what.surface, list(what.catalogue.item_ids)
    if items != ranking.items:
        raise TidemarkError("the candidate sources are of other items than the lists' catalogue: run `rebuild`")
    users = np.unique(histories.user)
    size = users_at_once(len(items))
    for start in range(0, len(users), size):
        rows = users[start : start + size]
        chosen, positions[rows], total, added = ranked(
            ranking,
            histories.only(rows),
            ~what.never,
            repeats=surface.show_seen,
            length=surface.length,
            had=had.only(rows),
            also=partial(_filling, best_of, rows),
            left=what.left,
        )
        scores[rows] = picked(total, chosen, 0.0)
        for name in GROUPS:
            parts[name][rows] = picked(added[name], chosen, 0.0)


def _filling(best_of: BestOf, rows: NDArray[np.int64], few: NDArray[np.int64]) -> Filling:
    """The blend's best items of a few of some users, as pairs of user and item."""
    found = best_of(rows[few])
    user, place = np.nonzero(found >= 0)
    return few[user], found[user, place]


def _fill_up(
    what: Listing,
    seen: csr_array | None,
    users: NDArray[np.int64],
    positions: NDArray[np.int64],
    scores: NDArray[np.float64],
    parts: dict[str, NDArray[np.float64]],
) -> None:
    """Where more of a user's candidates left than a list can spare, what is popular stands at its end.

    Such a place has the score of the last one before it, as a part of popularity. So a list is the beginning of an order that no
    item's leaving changes, but for the item itself.
    """
    popular = np.argsort(-what.catalogue.popularity, kind="stable")
    popular = popular[~what.barred[popular]]
    for row in users[(positions[users] < 0).any(axis=1)]:
        listed = positions[row][positions[row] >= 0]
        known = listed if seen is None else np.append(listed, seen[[row]].indices)
        lacking = positions.shape[1] - len(listed)
        first = popular[: lacking + len(known)]
        more = first[~np.isin(first, known)][:lacking]
        at = np.arange(len(listed), len(listed) + len(more))
        last = scores[row, len(listed) - 1] if len(listed) else 0.0
        positions[row, at], scores[row, at], parts["popularity"][row, at] = more, last, last


def ranked(
    ranking: Ranking,
    histories: Histories,
    eligible: NDArray[np.bool_],
    *,
    repeats: bool,
    length: int,
    had: Histories | None = None,
    also: Callable[[NDArray[np.int64]], Filling] | None = None,
    left: NDArray[np.bool_] | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64], dict[str, NDArray[np.float64]]]:
    """The ranker's lists of some users; the arguments are those of `pool`.

    Args:
        left: (n,) items that are taken out when everything has its score. A candidate is told beside the others of its pool: taken out before,
            one would move the scores of others, in lists that never held it.

    Returns:
        (users, length) places among the candidates and items, -1 for none; and of the candidates the scores, and what each
        group adds.
    """
    found = pool(ranking.sources, histories, eligible, repeats=repeats, had=had, least=length, also=also)
    candidates = ranking.ranker.shortlisted(found, length)
    added = ranking.ranker.parts(candidates)
    total = np.round(np.sum([added[name] for name in GROUPS], axis=0), DECIMALS)
    if left is not None and left.any():
        there = ~left[candidates.item]
        candidates, total = candidates.only(there), total[there]
        added = {name: part[there] for name, part in added.items()}
    chosen, items = best(candidates, total, length)
    return chosen, items, total, added


def _with_new_items(
    catalogue: Catalogue,
    at: NDArray[np.int64],
    new: NewItems,
    drawn: NDArray[np.int64],
    positions: NDArray[np.int64],
    scores: NDArray[np.float64],
    parts: dict[str, NDArray[np.float64]],
) -> tuple[NDArray[np.int64], NDArray[np.float64], dict[str, NDArray[np.float64]]]:
    """Lists with drawn items at the places kept for them; such a place has the score of the one above it, as a part of its own."""
    place = {item: position for position, item in enumerate(catalogue.item_ids)}
    of_new = np.array([place[item] for item in new.ids], dtype=np.int64)
    chosen = picked(of_new, drawn, -1)
    length = positions.shape[1]
    source = placed(positions, chosen, at)
    column = np.arange(length)
    kept = source >= length
    ordinary = (source >= 0) & ~kept

    def moved(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.where(ordinary, np.take_along_axis(values, np.clip(source, 0, length - 1), axis=1), 0.0)

    above = np.maximum.accumulate(np.where(ordinary, column, -1), axis=1)
    # Where nothing stands above, it is the first that stands below.
    above = np.where(above >= 0, above, ordinary.argmax(axis=1)[:, None])
    score = np.where(source >= 0, np.take_along_axis(moved(scores), above, axis=1), 0.0)

    both = np.concatenate([positions, chosen], axis=1)
    positions = np.where(source >= 0, np.take_along_axis(both, np.maximum(source, 0), axis=1), -1)
    return (
        positions,
        score,
        {name: moved(part) for name, part in parts.items()} | {Reason.EXPLORATION: np.where(kept, score, 0.0)},
    )


def _table(
    users: list[str],
    catalogue: Catalogue,
    positions: NDArray[np.int64],
    scores: NDArray[np.float64],
    parts: dict[str, NDArray[np.float64]],
    because_item: NDArray[np.int64],
    because_share: NDArray[np.float32],
) -> pa.Table:
    """Dense arrays, (users, length) and (users, length, reasons), with -1 for nothing, as lists of Arrow."""
    ids = pa.array(catalogue.item_ids, pa.string())
    listed = positions >= 0
    offsets = pa.array(np.concatenate([[0], np.cumsum(listed.sum(axis=1))]), pa.int32())
    past = because_item[listed]
    named = past >= 0
    because = pa.ListArray.from_arrays(
        pa.array(np.concatenate([[0], np.cumsum(named.sum(axis=1))]), pa.int32()),
        pa.StructArray.from_arrays(
            [ids.take(pa.array(past[named])), pa.array(because_share[listed][named])], ["item_id", "share"]
        ),
    )
    reasons = pa.StructArray.from_arrays(
        [*(pa.array(np.round(part[listed], DECIMALS).astype(np.float32)) for part in parts.values()), because],
        [*parts, "because"],
    )
    reason = pa.struct([*((name, pa.float32()) for name in parts), ("because", BECAUSE)])
    return pa.table(
        {
            "user_id": pa.array(users, pa.string()),
            "items": pa.ListArray.from_arrays(offsets, ids.take(pa.array(positions[listed]))),
            "scores": pa.ListArray.from_arrays(offsets, pa.array(scores[listed].astype(np.float32))),
            "reasons": pa.ListArray.from_arrays(offsets, reasons),
        },
        schema=pa.schema(
            [
                ("user_id", pa.string()),
                ("items", pa.list_(pa.string())),
                ("scores", pa.list_(pa.float32())),
                ("reasons", pa.list_(reason)),
            ]
        ),
    )
