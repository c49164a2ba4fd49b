"""Turn a candidate whose gates all passed into a publication, and let it serve."""

import logging
from datetime import datetime
from typing import Any

from include.columns import VectorTable
from include.errors import GateFailed, TidemarkError
from include.settings import Settings
from include.steps.report import change_report, report_lines, write_page
from include.stores import batches, lake, publications, vectors
from include.stores.lock import writing

log = logging.getLogger(__name__)


class Overtaken(TidemarkError):
    """Another run published since a candidate was planned."""


def publish(settings: Settings, candidate: str, *, serve: bool | None = None) -> dict[str, Any]:
    """Write the manifest, then switch in one atomic step.

    Args:
        settings: all settings.
        candidate: a candidate that went through every step.
        serve: whether it serves; by default it does unless its T (at the same T, its lake snapshot, then those of its lists) precedes
            that of what serves, or serving is pinned. Where another line serves it never does: a challenger waits for its approval.

    Returns:
        `publication`, `serving`, `as_of`, the tables' versions and the run's counts. What changed since the base is logged,
        in the manifest (`run.report`) and on a page of its own.

    Raises:
        GateFailed: a gate is missing or did not pass.
        Overtaken: it builds on what is no longer the newest (see `publish_on_newest`).
    """
    already = publications.of_candidate(settings, candidate)
    if already is not None:
        # A retry after the switch: what this candidate was to do is done.
        return summary_of(already, publications.serving_id(settings) == already["id"])
    state = publications.candidate(settings, candidate)
    passed = {gate["name"] for gate in state["gates"] if gate["passed"]}
    missing = [name for name in state["expected_gates"] if name not in passed]
    if missing:
        raise GateFailed(
            f"candidate {candidate} cannot be published: these gates have not passed: {', '.join(missing)}"
        )
    report = change_report(settings, state, publications.touched(settings, candidate))
    with writing(settings) as confirm:
        _refuse_overtaken(settings, candidate, state)
        with lake.connect(settings) as connection:
            rows = batches.row_counts(connection, state["lake_snapshot"])
        own = ("follows", "expected_gates", "kinds", "relist", "full", "shards", "changed_rows", "asked")
        content = {key: state[key] for key in state if key not in own}
        gates = [lake.gate(settings, state["lake_snapshot"]), *state["gates"]]
        if report is not None:
            content["run"] = {**content["run"], "report": report}
        manifest = publications.add(settings, {**content, "candidate": candidate, "gates": gates, "rows": rows})
        for name, table in manifest["tables"].items():
            vectors.tag(settings, manifest["encoder_id"], name, table["version"], manifest["id"])
        lists = manifest["lists"]["item_vectors"]
        vectors.tag(settings, manifest["encoder_id"], VectorTable.ITEMS, lists, f"{manifest['id']}-lists")
        serves = _serves(settings, manifest, serve)
        if serves and publications.serving_id(settings) != manifest["id"]:
            confirm()
            # What somebody asked for serves though serving is pinned, and is held in its turn.
            pin = publications.pinned(settings)
            publications.serve(settings, manifest["id"], f"published by {manifest['kind']}", pin=pin)
        if report is not None:
            log.info("report: %s", write_page(settings, manifest))
        publications.discard_candidate(settings, candidate)
    for line in report_lines(report) if report is not None else ():
        log.info("%s", line)
    log.info("publication %s is %s", manifest["id"], "serving" if serves else "kept, but does not serve")
    return summary_of(manifest, serves)


def finish(settings: Settings, publication: publications.Manifest) -> None:
    """Switch to a publication whose run was killed when its manifest was written and its switch was not yet made."""
    if publications.is_under_way(settings, publication["candidate"]):
        log.warning("the run that made publication %s ended before the switch, which is made now", publication["id"])
        publish(settings, publication["candidate"])


def _refuse_overtaken(settings: Settings, candidate: str, state: dict[str, Any]) -> None:
    """What an update or fresh lists build on is to be the newest still; who goes back in time takes nobody's place anyway."""
    newest, follows = publications.newest_of(settings, state["line"]), state.get("follows")
    if newest is None or newest["candidate"] == candidate or state["kind"] not in ("update", "recommend"):
        return
    if follows is not None:
        goes_back = datetime.fromisoformat(state["as_of"]) < datetime.fromisoformat(follows["as_of"])
        if goes_back or newest["id"] == follows["publication"]:
            return
    raise Overtaken(f"{newest['kind']} {newest['id']} was published since this {state['kind']} was planned")


def summary_of(manifest: publications.Manifest, serves: bool) -> dict[str, Any]:
    """What a run says of its publication."""
    return {
        "publication": manifest["id"],
        "serving": serves,
        "as_of": manifest["as_of"],
        "tables": {name: table["version"] for name, table in manifest["tables"].items()},
        "run": {name: value for name, value in manifest["run"].items() if name != "report"},
    }


def _serves(settings: Settings, manifest: publications.Manifest, asked: bool | None) -> bool:
    """Whether a publication is to serve, as far as somebody asked for it or against it."""
    serving = publications.serving_id(settings)
    if asked is False:
        return False
    if serving is None:
        return True
    if publications.line_of(manifest) != publications.serving_line(settings):
        log.warning("another line serves (%s): approve this one, or roll back to it", serving)
        return False
    if asked:
        return True
    if publications.pinned(settings):
        log.warning("serving is pinned to %s since a rollback; `python -m include publications unpin` ends it", serving)
        return False
    knows_less = publications.age(manifest) < publications.age(publications.serving(settings))
    if knows_less:
        log.warning("%s goes on serving: it, or its lists, are of a later T or lake snapshot", serving)
    return not knows_less
