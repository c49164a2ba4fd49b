"""Score the lists that served on a day against what users then did, beside recent popularity."""

import logging
from datetime import UTC, date, datetime, timedelta
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy.sparse import csr_array

from include.columns import VectorTable
from include.models import metrics, peers
from include.settings import Settings, Surface
from include.steps.judging import GROUPS, Known, Window, in_group, known_as_of, metrics_of, window
from include.steps.plan import gated
from include.stores import behaviour, lake, list_quality, publications, vectors
from include.stores.list_quality import EVERYONE, POPULARITIES, PRODUCT
from include.stores.lock import writing

log = logging.getLogger(__name__)

K = 10
"""Items of a list that are scored, or as many as lists of the surface have."""

DAY = timedelta(days=1)
DAYS_BACK = 7
"""A day that is not scored a week after it ended is left alone: its publication goes with retention."""


def score_served(settings: Settings, again: int = 0) -> dict[str, Any]:
    """Score each whole UTC day of the gated data that is not scored yet, of the last seven.

    A day is scored by the publication that served when it began (see `_publication`), on users with a history as of its T who then
    used an item that was new to them (on a surface that shows what users had: any known item). Popularity knows what that
    publication knew: the same snapshot, before the same T. What users did is read from the newest gated snapshot.

    Args:
        settings: all settings.
        again: how many of the last whole days to score in any case, such as after their data were fixed.

    Returns:
        `scored` days, and `skipped` ones with the reason.
    """
    snapshot = gated(settings)
    with lake.connect(settings) as connection:
        end, first = behaviour.end_of_events(connection, snapshot), behaviour.first_event(connection, snapshot)
    if end is None:  # all were taken back
        return {"scored": [], "skipped": {}}
    last = end.replace(hour=0, minute=0, second=0, microsecond=0)
    done = list_quality.scored_days(settings)
    days = (last - (first or last)) // DAY + 1
    starts = [last - DAY * back for back in range(max(DAYS_BACK, min(again, days)), 0, -1)]
    starts = [start for start in starts if start.date() not in done or start >= last - DAY * again]
    rows: list[dict[str, Any]] = []
    clicks: list[tuple[Any, ...]] = []
    skipped: dict[str, str] = {}
    emptied: set[date] = set()
    for start in starts:
        with lake.connect(settings) as connection:
            named = behaviour.shown_items(connection, snapshot, start, start + DAY)
        try:
            rows += _score_day(settings, snapshot, start)
        except CannotScore as reason:
            log.info("%s is not scored: %s", start.date(), reason)
            skipped[start.date().isoformat()] = str(reason)
            if isinstance(reason, NothingToScore):
                emptied.add(start.date())
            if all(publication is None for publication, *_ in named):
                continue
        clicks += [(start.date(), *row) for row in named]
    if rows or clicks or emptied & done:
        schemas = list_quality.SCHEMAS
        columns = list(zip(*clicks, strict=True)) or [()] * 4
        tables = {
            list_quality.QUALITY: pa.Table.from_pylist(rows, schema=schemas[list_quality.QUALITY]),
            list_quality.CLICKS: pa.table(columns, schema=schemas[list_quality.CLICKS]),
        }
        with writing(settings):
            list_quality.write(settings, tables, emptied)
    return {"scored": sorted({row["day"].isoformat() for row in rows}), "skipped": skipped}


class CannotScore(Exception):
    """A day whose lists cannot be scored; the message says why. A score that it has stays."""


class NothingToScore(CannotScore):
    """A day on which, by the data as they are now, nobody did anything that lists can be held against: it has no score."""


def _publication(settings: Settings, start: datetime) -> publications.Manifest:
    """What served when a day began, by the record of switches.

    Days before the first switch are those of a history that was loaded later: of these, what would have served, the newest
    publication of the line that serves with a T up to the day's beginning.
    """
    name = publications.served_at(settings, start)
    entries = publications.manifests(settings)
    if name is not None:
        found = next((entry for entry in entries if entry["id"] == name), None)
        if found is None:
            raise CannotScore(f"publication {name}, which served, is gone")
        if _as_of(found) > start:
            raise CannotScore(f"publication {name}, which served, already knew of that day")
        return found
    line = publications.serving_line(settings)
    known = [entry for entry in entries if publications.line_of(entry) == line and _as_of(entry) <= start]
    if not known:
        raise CannotScore("no publication was there yet")
    return max(known, key=publications.order)


def _as_of(entry: publications.Manifest) -> datetime:
    return datetime.fromisoformat(entry["as_of"]).astimezone(UTC)


def _score_day(settings: Settings, snapshot: int, start: datetime) -> list[dict[str, Any]]:
    """The rows of a day: for each surface that was published, each method and user group."""
    entry = _publication(settings, start)
    surfaces = [
        surface for surface in settings.surfaces if VectorTable.recommendations(surface.name) in entry["tables"]
    ]
    with lake.connect(settings) as connection:
        if not behaviour.has_snapshot(connection, entry["lake_snapshot"]):
            raise CannotScore(f"the lake snapshot of publication {entry['id']} is gone")
        known = known_as_of(connection, entry["lake_snapshot"], _as_of(entry))
        used = behaviour.used_in_window(connection, snapshot, start, start + DAY)
        had = _had(connection, snapshot, start, known, sorted({user for user, _ in used} & set(known.users)))
    rows = []
    for surface in surfaces:
        then = window(known, used, None if surface.show_seen else had)
        if then.users:
            rows += _score(settings, entry, surface, start.date(), known, then)
    if not rows:
        raise NothingToScore("no user with a history used a known item that was new to them")
    return rows


def _had(
    connection: duckdb.DuckDBPyConnection, snapshot: int, start: datetime, known: Known, users: list[str]
) -> csr_array:
    """(users, items) of what is known: what some users had when the day began, also since the publication's T."""
    done = behaviour.interactions(connection, snapshot, start, users, known.items)
    there = done.item >= 0
    age = np.zeros(int(there.sum()))
    return peers.History(known.rows(users)[done.user[there]], done.item[there], age, known.had.shape).marks


def _score(
    settings: Settings, entry: publications.Manifest, surface: Surface, day: date, known: Known, then: Window
) -> list[dict[str, Any]]:
    k = min(K, surface.length)
    rows = known.rows(then.users)
    excluded = None if surface.show_seen else known.had
    listed = {PRODUCT: _served(settings, entry, surface, known, then.users, k)}
    for name, half_life in POPULARITIES.items():
        scores = peers.popularity(known.history, half_life_days=half_life)
        listed[name], _ = peers.recommend(scores, rows, excluded, known.available, k, settings.users_per_chunk)
    values = {name: metrics_of(then.targets, lists) for name, lists in listed.items()}
    lengths = known.lengths[rows]
    groups = {EVERYONE: np.ones(len(rows), dtype=bool), **{group: in_group(lengths, group) for group in GROUPS}}
    found = []
    for name, own in values.items():
        for group, chosen in groups.items():
            if not chosen.any():
                continue
            ratio: dict[str, float | None] = {}
            if name != PRODUCT:
                served = values[PRODUCT]["ndcg"][chosen]
                ratio = metrics.bootstrap_ratio(served, own["ndcg"][chosen], settings.seed)
            found.append(
                {
                    **{"day": day, "surface": surface.name, "method": name, "user_group": group},
                    **{"publication": entry["id"], "as_of": behaviour.naive(_as_of(entry)), "pairs": int(chosen.sum())},
                    **{metric: float(own[metric][chosen].mean()) for metric in ("ndcg", "hit_rate", "recall")},
                    **ratio,
                }
            )
    return found


def _served(
    settings: Settings, entry: publications.Manifest, surface: Surface, known: Known, users: list[str], k: int
) -> NDArray[np.int64]:
    """(n, k) positions of the items that some users were listed, -1 for none."""
    name = VectorTable.recommendations(surface.name)
    lists = vectors.read(
        settings, entry["encoder_id"], name, entry["tables"][name]["version"], columns=["user_id", "items"], keys=users
    )
    row = {user: number for number, user in enumerate(users)}
    column = {item: number for number, item in enumerate(known.items)}
    found = np.full((len(users), k), -1, dtype=np.int64)
    for user, items in zip(lists["user_id"].to_pylist(), lists["items"].to_pylist(), strict=True):
        listed = [column.get(item, -1) for item in items[:k]]
        found[row[user], : len(listed)] = listed
    return found
