"""Join the shards of `update_lists`: a new version of each surface's table."""

from typing import Any

from include.columns import VectorTable
from include.settings import Settings
from include.steps.list_plan import STEP, list_inputs, planned_lists
from include.steps.tables import keep_parts
from include.steps.timing import note_seconds, timed
from include.stores import publications


def keep_lists(settings: Settings, candidate: str) -> dict[str, Any]:
    """Write the lists of every surface: of everyone, or of the relisted users over the base's version.

    Returns:
        For each surface's table the version, and how many lists were written and taken away.

    Raises:
        TidemarkError: a shard's part is missing or is not what was planned.
    """
    state = publications.planned(settings, candidate)
    everyone = publications.relisted(settings, candidate) is None
    tables: dict[str, Any] = {}
    total = 0.0
    with timed(settings, candidate, "keep_lists"):
        for surface in settings.surfaces:
            name = VectorTable.recommendations(surface.name)
            planned, gone = planned_lists(settings, candidate, state, surface)
            base = None if everyone else publications.manifest(settings, state["base"])["tables"][name]["version"]
            metadata = {**state["artefacts"], "surface": surface.name}
            tables[name], seconds = keep_parts(
                settings, candidate, name, planned, list_inputs(state), base=base, gone=gone, metadata=metadata
            )
            total += seconds
    note_seconds(settings, candidate, STEP, total)
    publications.extend_candidate(settings, candidate, {"tables": tables})
    return tables
