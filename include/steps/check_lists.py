"""The gate on a candidate's recommendation lists."""

from datetime import datetime
from typing import Any

import pyarrow as pa

from include.columns import VectorTable
from include.quality.recommendations import check_recommendations
from include.quality.results import GateResult
from include.settings import Settings, Surface
from include.steps.list_plan import ineligible
from include.steps.new_items import explores, new_items
from include.steps.tables import written_version
from include.steps.timing import timed
from include.stores import behaviour, lake, publications, vectors


@lake.attached_once
def check_lists(settings: Settings, candidate: str) -> dict[str, Any]:
    """Judge the lists that this candidate wrote, and that no user lacks one.

    Lists that it did not write were judged when they were written; an item that left the catalogue since then is looked
    for in all of them.

    Raises:
        GateFailed: with the failing expectations, counts and examples. Nothing is published.
    """
    state = publications.planned(settings, candidate)
    results = []
    with timed(settings, candidate, "check_lists"):
        for surface in settings.surfaces:
            results.append(_check(settings, state, publications.relisted(settings, candidate), surface))
    for result in results:
        publications.add_gate(settings, candidate, result.as_dict())
    for result in results:
        result.raise_if_failed()
    return {result.name: result.as_dict() for result in results}


def _check(settings: Settings, state: dict[str, Any], relisted: list[str] | None, surface: Surface) -> GateResult:
    name = VectorTable.recommendations(surface.name)
    version = written_version(state, name)
    as_of, snapshot = datetime.fromisoformat(state["as_of"]), state["lake_snapshot"]
    items = vectors.read(
        settings, state["encoder_id"], VectorTable.ITEMS, state["lists"]["item_vectors"], columns=["item_id"]
    )
    ids = items["item_id"].to_pylist()
    eligible = [item for item, out in zip(ids, ineligible(settings, state, ids), strict=True) if not out]
    found = new_items(settings, state).ids if len(explores(state, surface)) else []
    new = sorted(set(found) - set(eligible))
    written = vectors.read(
        settings, state["encoder_id"], name, version, columns=["user_id", "items", "scores"], keys=relisted
    )
    keys = vectors.read(settings, state["encoder_id"], name, version, columns=["user_id"])
    with lake.connect(settings) as connection:
        facts, users = behaviour.list_facts(
            connection,
            snapshot,
            as_of,
            written,
            pa.array(eligible, pa.string()),
            pa.array(new, pa.string()),
            show_seen=surface.show_seen,
        )
    return check_recommendations(
        facts.to_pandas(),
        users.to_pandas(),
        surface=surface,
        listed_users=keys.num_rows,
        expected_users=state["run"]["users"]["total"],
        eligible_items=len(eligible) + len(new),
        settings=settings,
    )
