"""Retention: which publications stay and why, and letting go of the others with all that only they needed."""

import logging
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from include.columns import VectorTable
from include.models import encoder
from include.settings import TRAINED, Settings
from include.stores import artefacts, lake, maintenance, pages, popularity, publications, vectors
from include.stores.lock import writing

log = logging.getLogger(__name__)

YOUNG = "made within the days of retention"


def keep(settings: Settings, publication: str, *, undo: bool = False) -> dict[str, Any]:
    """Keep a publication whatever its age, or end that.

    Raises:
        BadInput: there is no such publication.
    """
    with writing(settings):
        (publications.unkeep if undo else publications.keep)(settings, publication)
    return {"publication": publication, "kept": not undo}


def prune(settings: Settings, *, dry_run: bool = False) -> dict[str, Any]:
    """Let go of old publications, and of lake snapshots, vector versions and artefacts that only they needed.

    Returns:
        `publications`: ids that went, and `staying`: why each other one stays; counts of what went with them; `dry_run`.
    """
    with writing(settings):
        plan = plan_pruning(settings)
        done = {} if dry_run else let_go(settings, plan, grace(settings))
    return {**plan.as_dict(), **done, "dry_run": dry_run}


def grace(settings: Settings) -> timedelta:
    """How long what nothing names any more is still there, for runs and readers that began before."""
    return timedelta(hours=settings.retention.grace_hours)


@dataclass(frozen=True)
class Plan:
    """What goes: ids of publications and candidates. `staying` says why each other publication stays."""

    publications: list[str]
    candidates: list[str]
    staying: dict[str, str]

    def as_dict(self) -> dict[str, Any]:
        return {"publications": self.publications, "candidates": self.candidates, "staying": self.staying}


def plan_pruning(settings: Settings) -> Plan:
    """What retention lets go of now."""
    old = datetime.now(UTC) - grace(settings)
    newest = publications.newest(settings)
    # One whose manifest is written has only its switch left, which the next plan makes.
    unfinished = None if newest is None else newest["candidate"]
    stopped = [name for name, _, last in publications.candidates(settings) if last <= old and name != unfinished]
    why = _reasons(settings, newest, set(stopped))
    going = [name for name, reason in why.items() if reason is None]
    return Plan(going, stopped, {name: reason for name, reason in why.items() if reason is not None})


def oldest_that_may_go(settings: Settings) -> str | None:
    """The publication to give up first where the disk is full: the oldest that only its age keeps, if there is one."""
    plan = plan_pruning(settings)
    old = (datetime.now(UTC) - grace(settings)).isoformat()
    made = {entry["id"]: entry["made_at"] for entry in publications.manifests(settings)}
    return next((name for name, reason in plan.staying.items() if reason == YOUNG and made[name] <= old), None)


def _reasons(settings: Settings, newest: publications.Manifest | None, stopped: set[str]) -> dict[str, str | None]:
    """Why each publication stays, by id, the oldest first; None where nothing speaks for it."""
    serving = publications.serving_id(settings)
    before = publications.served_before(settings)
    waiting = publications.waiting(settings)
    bases = {state.get("base") for name, state, _ in publications.candidates(settings) if name not in stopped}
    young = (datetime.now(UTC) - timedelta(days=settings.retention.days)).isoformat()

    def reason(entry: publications.Manifest) -> str | None:
        name = entry["id"]
        reasons = (
            ("serves", name == serving),
            ("kept", publications.kept(settings, name)),
            ("the next update builds on it", newest is not None and name == newest["id"]),
            ("a rollback returns to it", name == before),
            ("it waits to be approved or rejected", publications.line_of(entry) in waiting),
            ("a run under way builds on it", name in bases),
            (YOUNG, entry["made_at"] > young),
        )
        return next((why for why, holds in reasons if holds), None)

    return {entry["id"]: reason(entry) for entry in publications.manifests(settings)}


def let_go(settings: Settings, plan: Plan, age: timedelta) -> dict[str, Any]:
    """Do what a plan says, then let go of whatever nothing names any more and that is of an age.

    May die anywhere: a publication vanishes in one step, and all else follows from those that are left.
    """
    for name in plan.candidates:
        publications.discard_candidate(settings, name)
    for name in plan.publications:
        publications.remove(settings, name)
        maintenance.delete(pages.path(settings, name))
        log.info("publication %s is gone", name)
    named = publications.manifests(settings)
    under_way = [state for _, state, _ in publications.candidates(settings)]
    return {
        "snapshots": _let_snapshots_go(settings, named, under_way, age),
        "versions": _let_versions_go(settings, named, age),
        "artefacts": _let_artefacts_go(settings, [*named, *under_way], age),
        "texts": _let_texts_go(settings, [*named, *under_way], age),
        "popularity": _let_popularity_go(settings, [*named, *under_way], age),
    }


def expiring(
    settings: Settings, named: list[publications.Manifest], under_way: list[dict[str, Any]], age: timedelta
) -> list[int]:
    """Lake snapshots of an age that nothing needs.

    A publication needs its own and that of its lists. What changed is read from all snapshots since the newest
    publication's, since the gated one, and since that of what a run under way or a waiting challenger builds on, so that none
    of those goes.
    """
    gated, newest = lake.gated_snapshot(settings), publications.newest(settings)
    if gated is None:
        return []
    states = [state for state in under_way if state]
    bases = {state["base"] for state in states} | {newest["id"] if newest else None, *publications.shadows(settings)}
    read_on_from = min([gated, *(entry["lake_snapshot"] for entry in named if entry["id"] in bases)])
    naming = [*named, *states]
    needed = {number for entry in naming for number in (entry["lake_snapshot"], entry["lists"]["lake_snapshot"])}
    return [number for number in maintenance.snapshots(settings, age) if number < read_on_from and number not in needed]


def _let_snapshots_go(
    settings: Settings, named: list[publications.Manifest], under_way: list[dict[str, Any]], age: timedelta
) -> int:
    expired = expiring(settings, named, under_way, age)
    maintenance.expire_snapshots(settings, expired)
    maintenance.delete_old_files(settings, age)
    maintenance.drop_gate_records(settings, maintenance.snapshots(settings), age)
    return len(expired)


def _tags(settings: Settings, named: list[publications.Manifest]) -> dict[tuple[str, str], dict[str, int]]:
    """The tags that belong on each table: a label for every version that a publication or a candidate names."""
    found: dict[tuple[str, str], dict[str, int]] = {}
    entries = [(entry["id"], entry) for entry in named]
    entries += [(f"candidate-{name}", state) for name, state, _ in publications.candidates(settings) if state]
    for label, entry in entries:
        for name, table in entry["tables"].items():
            found.setdefault((entry["encoder_id"], name), {})[label] = table["version"]
        lists = entry["lists"]["item_vectors"]
        if lists is not None:
            found.setdefault((entry["encoder_id"], VectorTable.ITEMS), {})[f"{label}-lists"] = lists
    return found


def _let_versions_go(settings: Settings, named: list[publications.Manifest], age: timedelta) -> int:
    wanted = _tags(settings, named)
    count = 0
    for encoder_id, name in vectors.tables(settings):
        labels = wanted.get((encoder_id, name), {})
        if not labels:  # a young one may be a run's that has not got as far as to name it
            if maintenance.age(vectors.folder(settings, encoder_id) / f"{name}.lance") >= age:
                vectors.drop_table(settings, encoder_id, name)
            continue
        vectors.set_tags(settings, encoder_id, name, labels)
        count += vectors.drop_old_versions(settings, encoder_id, name, age)
    return count


def _let_artefacts_go(settings: Settings, entries: list[dict[str, Any]], age: timedelta) -> int:
    wanted = {name for entry in entries for name in entry.get("artefacts", {}).values()}
    sources = {settings.encoder.source, *(entry.get("encoder", {}).get("source", "") for entry in entries)}
    wanted |= {source.removeprefix(TRAINED) for source in sources}
    return _delete_old([settings.artefacts / name for name in artefacts.names(settings) if name not in wanted], age)


def _let_texts_go(settings: Settings, entries: list[dict[str, Any]], age: timedelta) -> int:
    """Text vectors go by the encoder: those of one that nothing names and that the settings do not name either.

    Of a trained encoder those of the one below it stay, too: the next training learns on them.
    """
    own = {encoder.identify(each) for each in (settings.encoder, encoder.base(settings.encoder))}
    wanted = {entry["encoder_id"] for entry in entries if entry} | own
    count = 0
    for encoder_id in vectors.text_encoders(settings):
        if encoder_id in wanted:
            vectors.tidy_texts(settings, encoder_id, age)
        elif maintenance.age(settings.text_vectors / encoder_id) >= age:
            vectors.drop_texts(settings, encoder_id)
            count += 1
    return count


def _let_popularity_go(settings: Settings, entries: list[dict[str, Any]], age: timedelta) -> int:
    wanted = {entry["lists"]["lake_snapshot"] for entry in entries if entry}
    return _delete_old([file for file, snapshot in popularity.kept(settings) if snapshot not in wanted], age)


def _delete_old(paths: list[Path], age: timedelta) -> int:
    """Delete those of an age; returns their number."""
    old = [path for path in paths if maintenance.age(path) >= age]
    for path in old:
        maintenance.delete(path)
    return len(old)
