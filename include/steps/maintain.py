"""Maintenance of the stores: retention, orphans, old reports, the disk budget, and compaction."""

import logging
from datetime import timedelta
from pathlib import Path
from typing import Any

from include.errors import TidemarkError
from include.settings import Settings
from include.steps.gate_lake import judge_newest
from include.steps.prune import Plan, expiring, grace, let_go, oldest_that_may_go, plan_pruning
from include.stores import batches, lake, maintenance, publications, vectors
from include.stores.files import seen_from, size
from include.stores.lock import writing

log = logging.getLogger(__name__)


def maintain(settings: Settings, dry_run: bool = False) -> dict[str, Any]:
    """Prune by retention, remove orphans and old reports, hold the disk budget, put small files together.

    In this order, so that what compaction replaces goes with the next run: readers have until then. A report goes to
    `reports/maintenance/`.

    Returns:
        `pruned` (see `include.steps.prune`), `over_budget` (publications given up for the disk budget), `orphans`, `reports`,
        `merged` files of the lake, `compacted` tables, and bytes: `before`, `after` and `freed` by store. With `dry_run` what
        would be pruned, and nothing is done.

    Raises:
        TidemarkError: the home is still above its disk budget.
    """
    with writing(settings):
        plan = plan_pruning(settings)
        if dry_run:
            named = [entry for entry in publications.manifests(settings) if entry["id"] in plan.staying]
            under_way = [state for name, state, _ in publications.candidates(settings) if name not in plan.candidates]
            files = maintenance.leftovers(settings, grace(settings))
            return {
                "pruned": {**plan.as_dict(), "snapshots": len(expiring(settings, named, under_way, grace(settings)))},
                "orphans": [seen_from(settings.home, path) for path in files],
                "reports": [seen_from(settings.home, path) for path in _old_reports(settings)],
                "dry_run": True,
            }
        before = _sizes(settings)
        pruned = {**plan.as_dict(), **let_go(settings, plan, grace(settings))}
        orphans = _remove_orphans(settings)
        reports = _remove(settings, _old_reports(settings))
        given_up = _hold_budget(settings)
        over = _over_budget(settings)
        # Compaction needs room of its own: above the budget it waits.
        merged = maintenance.merge_files(settings) if not over and _lake_is_gated(settings) else 0
        if merged:
            judge_newest(settings)  # the same rows as in the gated snapshot before it, and what comes next is another's
        compacted = [] if over else _compact(settings)
        after = _sizes(settings)
    summary = {
        "pruned": pruned,
        "over_budget": given_up,
        "orphans": orphans,
        "reports": reports,
        "merged": merged,
        "compacted": compacted,
        "before": before,
        "after": after,
        "freed": {name: before[name] - after[name] for name in before},
        "dry_run": False,
    }
    maintenance.write_report(settings, summary)
    if over:
        raise TidemarkError(
            f"the home has {size(settings.home) / 1e9:.3f} GB, more than its disk budget of "
            f"{settings.retention.disk_budget_gb:g} GB, and no publication may go: see docs/runbooks/disk_full.md"
        )
    return summary


def _lake_is_gated(settings: Settings) -> bool:
    """Whether nothing in the lake waits for a clean to be finished or a gate to pass."""
    if not lake.exists(settings) or batches.unfinished(settings):
        return False
    return lake.gated_snapshot(settings) == lake.newest_snapshot(settings)


def _sizes(settings: Settings) -> dict[str, int]:
    folders = (settings.landing, settings.lake, settings.vectors, settings.artefacts, settings.publications)
    return {folder.name: size(folder) for folder in (*folders, settings.cache, settings.reports)}


def _remove_orphans(settings: Settings) -> list[str]:
    found = _remove(settings, maintenance.leftovers(settings, grace(settings)))
    files = maintenance.delete_orphaned_files(settings, grace(settings))
    return found + [f"{files} files of the lake"] * bool(files)


def _old_reports(settings: Settings) -> list[Path]:
    return maintenance.reports(settings, timedelta(days=settings.retention.report_days))


def _remove(settings: Settings, paths: list[Path]) -> list[str]:
    for path in paths:
        maintenance.delete(path)
    return [seen_from(settings.home, path) for path in paths]


def _over_budget(settings: Settings) -> bool:
    budget = settings.retention.disk_budget_gb
    return budget is not None and size(settings.home) > budget * 1e9


def _hold_budget(settings: Settings) -> list[str]:
    """Give up the oldest publications until the home is within its budget; returns their ids.

    What they alone needed goes at once, without the grace that readers have otherwise.
    """
    given_up: list[str] = []
    while _over_budget(settings):
        if maintenance.delete_old_files(settings, timedelta(0)):
            continue
        name = oldest_that_may_go(settings)
        if name is None:
            break
        log.warning("above the disk budget: publication %s goes before its time", name)
        let_go(settings, Plan([name], [], {}), grace(settings))
        given_up.append(name)
    return given_up


def _compact(settings: Settings) -> list[str]:
    """Put together the parts of what the next update builds on; its manifest then names the new versions."""
    newest = publications.newest(settings)
    if newest is None:
        return []
    moved = {}
    for name, table in newest["tables"].items():
        version = vectors.compact(settings, newest["encoder_id"], name, table["version"])
        if version != table["version"]:
            moved[name] = version
    if moved:
        publications.move_tables(settings, newest["id"], moved)
    return sorted(moved)
