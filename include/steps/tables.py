"""What the steps that write vector tables share."""

import logging
from typing import Any

import pyarrow as pa

from include.columns import VectorTable
from include.errors import TidemarkError
from include.settings import Settings
from include.stores import parts, publications, vectors
from include.stores.lock import writing
from include.stores.parts import Part

log = logging.getLogger(__name__)

ROWS_PER_WRITE = 50_000


def summary(state: dict[str, Any], name: str, version: int, written: int, gone: int) -> dict[str, Any]:
    """A table as the manifest names it."""
    log.info("%s: version %d, %d rows written, %d taken away", name, version, written, gone)
    return {"path": f"vectors/{state['encoder_id']}/{name}.lance", "version": version, "written": written, "gone": gone}


def base_version(settings: Settings, state: dict[str, Any], name: str) -> int | None:
    """The version of a table that an update builds on; None where all is written anew."""
    if state["full"]:
        return None
    return int(publications.manifest(settings, state["base"])["tables"][name]["version"])


def written_version(state: dict[str, Any], name: str) -> int:
    """The version of a table that a candidate has so far.

    Raises:
        TidemarkError: the step that writes it did not run, as where somebody marked its task as a success.
    """
    if name not in state["tables"]:
        step = {VectorTable.ITEMS: "update_items", VectorTable.USERS: "keep_users"}.get(name, "keep_lists")
        raise TidemarkError(f"{name} is missing: run {step} again, or start again from the plan")
    return int(state["tables"][name]["version"])


def require_artefacts(state: dict[str, Any]) -> None:
    """Do nothing where a candidate has all artefacts that it is made with.

    Raises:
        TidemarkError: the step that trains them did not run, as where somebody marked its task as a success.
    """
    missing = [kind for kind in state["kinds"] if kind not in state["artefacts"]]
    if missing:
        raise TidemarkError(
            f"the artefact {missing[0]} is missing: run train_artefacts again, or start again from the plan"
        )


def keep_parts(
    settings: Settings,
    candidate: str,
    name: str,
    planned: list[Part],
    inputs: dict[str, Any],
    *,
    base: int | None,
    gone: list[str],
    metadata: dict[str, str],
    some: bool = False,
) -> tuple[dict[str, Any], float]:
    """Join the parts that shards wrote, as a new version of a table.

    Args:
        base: the version to build on; None writes the table anew.
        gone: keys to take away from the base.
        some: whether a planned key may be without a row; its row in the base is taken away.

    Returns:
        The table as the manifest names it, and the seconds that the parts took.

    Raises:
        TidemarkError: a part is missing or is not what was planned.
    """
    state = publications.planned(settings, candidate)
    version, written, taken, seconds = base, 0, 0, 0.0
    waiting: list[pa.Table] = []
    leaving = list(gone)
    for part, rows, took in parts.read(settings, candidate, planned, inputs, some=some):
        seconds += took
        waiting.append(rows)
        if some and base is not None:
            present = set(rows.column(0).to_pylist())
            leaving += [key for key in part.keys if key not in present]
        if part.number + 1 < part.of and sum(table.num_rows for table in waiting) < ROWS_PER_WRITE:
            continue
        together = pa.concat_tables(waiting)
        with writing(settings):
            version = vectors.write(
                settings, state["encoder_id"], name, together, base=version, gone=leaving, metadata=metadata
            )
        written, taken = written + together.num_rows, taken + len(leaving)
        waiting, leaving = [], []
    assert version is not None
    return summary(state, name, version, written, taken), seconds
