"""Score the lists that served on a day against what users then did, beside recent popularity; and the check that asks it."""

import logging
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from include.columns import VectorTable
from include.errors import GateFailed
from include.models import metrics, peers
from include.readable import readable
from include.settings import Settings, Surface
from include.steps.backtest import PRODUCT
from include.steps.judging import GROUPS, Known, Window, in_group, known_as_of, metrics_of, window
from include.steps.plan import gated
from include.stores import behaviour, lake, list_quality, publications, vectors
from include.stores.lock import writing

log = logging.getLogger(__name__)

K = 10
DAY = timedelta(days=1)
DAYS_BACK = 7
"""A day that is not scored a week after it ended is left alone: its publication goes with retention."""
POPULARITIES = {"popularity_7d": 7.0, "popularity_1d": 1.0}
"""Recent popularity by its half-life in days; the better one of a day is what lists are compared with."""
EVERYONE = "all"
SHOWN_RANKS = 20
RUNBOOK = "docs/runbooks/served_lists.md"


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
        end = behaviour.default_as_of(connection, snapshot)
    last = end.replace(hour=0, minute=0, second=0, microsecond=0)
    done = list_quality.scored_days(settings)
    starts = [last - DAY * back for back in range(max(DAYS_BACK, again), 0, -1)]
    starts = [start for start in starts if start.date() not in done or start >= last - DAY * again]
    rows: list[dict[str, Any]] = []
    clicks: list[tuple[Any, ...]] = []
    skipped: dict[str, str] = {}
    for start in starts:
        try:
            found = _score_day(settings, snapshot, start)
        except CannotScore as reason:
            log.info("%s is not scored: %s", start.date(), reason)
            skipped[start.date().isoformat()] = str(reason)
            continue
        rows += found
        with lake.connect(settings) as connection:
            named = behaviour.shown_items(connection, snapshot, start, start + DAY)
        clicks += [(start.date(), *row) for row in named]
    if rows:
        schemas = list_quality.SCHEMAS
        columns = list(zip(*clicks, strict=True)) or [()] * 4
        tables = {
            list_quality.QUALITY: pa.Table.from_pylist(rows, schema=schemas[list_quality.QUALITY]),
            list_quality.CLICKS: pa.table(columns, schema=schemas[list_quality.CLICKS]),
        }
        with writing(settings):
            list_quality.write(settings, tables)
    return {"scored": sorted({row["day"].isoformat() for row in rows}), "skipped": skipped}


class CannotScore(Exception):
    """A day whose lists cannot be scored; the message says why."""


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
    return max(known, key=lambda entry: (_as_of(entry), entry["lake_snapshot"], entry["made_at"]))


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
        raise CannotScore("no user with a history used a known item that was new to them")
    return rows


def _had(connection: Any, snapshot: int, start: datetime, known: Known, users: list[str]) -> Any:
    """(users, items) of what is known: what some users had when the day began, also since the publication's T."""
    done = behaviour.interactions(connection, snapshot, start, users, known.items)
    there = done.item >= 0
    age = np.zeros(int(there.sum()))
    return peers.History(known.rows(users)[done.user[there]], done.item[there], age, known.had.shape).marks


def _score(
    settings: Settings, entry: publications.Manifest, surface: Surface, day: date, known: Known, then: Window
) -> list[dict[str, Any]]:
    rows = known.rows(then.users)
    excluded = None if surface.show_seen else known.had
    listed = {PRODUCT: _served(settings, entry, surface, known, then.users)}
    for name, half_life in POPULARITIES.items():
        scores = peers.popularity(known.history, half_life_days=half_life)
        listed[name], _ = peers.recommend(scores, rows, excluded, known.available, K, settings.users_per_chunk)
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
    settings: Settings, entry: publications.Manifest, surface: Surface, known: Known, users: list[str]
) -> NDArray[np.int64]:
    """(n, K) positions of the items that some users were listed, -1 for none."""
    name = VectorTable.recommendations(surface.name)
    lists = vectors.read(
        settings, entry["encoder_id"], name, entry["tables"][name]["version"], columns=["user_id", "items"], keys=users
    )
    row = {user: number for number, user in enumerate(users)}
    column = {item: number for number, item in enumerate(known.items)}
    found = np.full((len(users), K), -1, dtype=np.int64)
    for user, items in zip(lists["user_id"].to_pylist(), lists["items"].to_pylist(), strict=True):
        listed = [column.get(item, -1) for item in items[:K]]
        found[row[user], : len(listed)] = listed
    return found


def judge_served(settings: Settings) -> dict[str, Any]:
    """Whether the lists of the last scored days were better than recent popularity, for each surface.

    Returns:
        By surface `days`, `pairs`, `better_on` (how many of the days), `enough` (whether they prove anything) and `failed`:
        enough, and on none of the days better.
    """
    wanted = settings.gates.served_days
    found: dict[str, Any] = {}
    rows = list_quality.read(settings, list_quality.QUALITY, wanted).to_pylist()
    for surface in sorted({row["surface"] for row in rows}):
        days: dict[date, dict[str, Any]] = {}
        for row in rows:
            if row["surface"] == surface and row["user_group"] == EVERYONE:
                days.setdefault(row["day"], {})[row["method"]] = row
        better = [
            methods[PRODUCT]["ndcg"] > max(methods[name]["ndcg"] for name in POPULARITIES) for methods in days.values()
        ]
        pairs = sum(methods[PRODUCT]["pairs"] for methods in days.values())
        enough = len(days) >= wanted and pairs >= settings.gates.min_served_pairs
        found[surface] = {
            **{"days": len(days), "pairs": pairs, "better_on": sum(better)},
            **{"enough": enough, "failed": enough and not any(better)},
        }
    return found


def check_served(settings: Settings) -> dict[str, Any]:
    """Fail when the served lists were no better than recent popularity on any of the last scored days.

    Returns:
        What `judge_served` gives.

    Raises:
        GateFailed: names the surfaces, their days and pairs, and the runbook. What serves goes on serving.
    """
    found = judge_served(settings)
    failed = [
        f"{name} (days {each['days']}, pairs {each['pairs']:,})" for name, each in found.items() if each["failed"]
    ]
    if failed:
        raise GateFailed(
            f"served lists were no better than recent popularity on each of the last {settings.gates.served_days} scored days: "
            f"{', '.join(failed)}; what serves goes on serving: see `python -m include quality` and {RUNBOOK}"
        )
    return found


def quality_lines(found: dict[str, list[dict[str, Any]]]) -> Iterator[str]:
    """The rows of both tables as people read them, a line at a time."""
    if not found[list_quality.QUALITY]:
        yield (
            "no day is scored yet: that takes a publication and, behind its T, a whole UTC day of gated events; "
            "then `recommend_daily` or `python -m include quality --score`"
        )
        return
    yield (
        f"{'day':<10}  {'surface':<10}  {'users by history':<16}  {'method':<13}  {'pairs':>7}  {'NDCG@10':>7}  {'hit rate':>8}  "
        f"{'recall':>6}  lists : method (95 %)"
    )
    for row in found[list_quality.QUALITY]:
        ratio = "" if row["ratio"] is None else f"{row['ratio']:.3f} ({row['low']:.3f} - {row['high']:.3f})"
        yield (
            f"{row['day']}  {row['surface']:<10}  {row['user_group']:<16}  {row['method']:<13}  {row['pairs']:>7,}  "
            f"{row['ndcg']:>7.4f}  {row['hit_rate']:>8.4f}  {row['recall']:>6.4f}  {ratio}"
        )
    yield from _click_lines(found[list_quality.CLICKS])


def _click_lines(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Of all interactions, how many named a list as where they came from: by day and publication, and by rank."""
    total: Counter[date] = Counter()
    by_list: Counter[tuple[date, str]] = Counter()
    by_rank: Counter[int] = Counter()
    for row in rows:
        total[row["day"]] += row["interactions"]
        if row["publication"] is not None:
            by_list[row["day"], row["publication"]] += row["interactions"]
            if row["rank"] is not None:
                by_rank[row["rank"]] += row["interactions"]
    if not by_list:
        return
    yield "interactions that came from a list (attributes.publication):"
    for (day, publication), count in sorted(by_list.items()):
        yield f"{day}  {readable(publication, 60)}  {count:,} of {total[day]:,} ({count / total[day]:.1%})"
    yield "by rank: " + ", ".join(f"{rank}: {count:,}" for rank, count in sorted(by_rank.items())[:SHOWN_RANKS])
