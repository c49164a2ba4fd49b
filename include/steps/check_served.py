"""The alarm of served lists, and their scores as people read them."""

from collections import Counter
from collections.abc import Iterator
from datetime import date
from typing import Any

from include.errors import GateFailed
from include.readable import readable
from include.settings import Settings
from include.stores import list_quality
from include.stores.list_quality import POPULARITIES, PRODUCT

SHOWN_RANKS = 20
RUNBOOK = "docs/runbooks/served_lists.md"


def judge_served(settings: Settings) -> dict[str, Any]:
    """Whether the lists of the last scored days were better than recent popularity, for each surface of the settings.

    Returns:
        By surface `days`, `pairs`, `better_on` (how many of the days), `enough` (whether they prove anything) and `failed`:
        enough, and on none of the days better.
    """
    wanted = settings.gates.served_days
    found: dict[str, Any] = {}
    scored = list_quality.by_day(list_quality.read(settings, list_quality.QUALITY, wanted).to_pylist())
    there = {surface.name for surface in settings.surfaces}
    for surface in sorted(scored.keys() & there):
        days = scored[surface]
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
    else:
        yield (
            f"{'day':<10}  {'surface':<10}  {'users by history':<16}  {'method':<13}  {'pairs':>7}  {'NDCG':>7}  {'hit rate':>8}  "
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
