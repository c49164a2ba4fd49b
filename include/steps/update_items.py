"""Compute the item vectors that a candidate touches, and write them as a new version of the table."""

from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from include.columns import Artefact, VectorTable
from include.models.sparse import picked
from include.settings import Settings
from include.steps.item_texts import centred_text_vectors
from include.steps.tables import base_version, require_artefacts, summary
from include.steps.timing import timed
from include.stores import artefacts, behaviour, lake, publications, vectors
from include.stores.lock import writing


@lake.attached_once
def update_items(settings: Settings, candidate: str) -> dict[str, Any]:
    """Write the touched items' vectors over the base's version, or all of them anew.

    Returns:
        The table: its version, and how many rows were written and taken away.

    Raises:
        TidemarkError: an artefact or a text vector that it is made with is missing.
    """
    state = publications.planned(settings, candidate)
    require_artefacts(state)
    touched = publications.touched(settings, candidate)
    with timed(settings, candidate, "update_items"), writing(settings):
        items, lists = _write_items(settings, state, touched["items"])
    publications.extend_candidate(
        settings, candidate, {"tables": {VectorTable.ITEMS: items}, "lists": {"item_vectors": lists}}
    )
    return items


def _keys(rows: pa.Table) -> set[str]:
    return {str(key) for key in rows.column(0).to_pylist()}


def _write_items(settings: Settings, state: dict[str, Any], touched: list[str]) -> tuple[dict[str, Any], int]:
    """Write item vectors; returns the table and the version that lists are scored against."""
    base = base_version(settings, state, VectorTable.ITEMS)
    own = (state["lake_snapshot"], state["as_of"])
    context = (state["lists"]["lake_snapshot"], state["lists"]["as_of"])
    if state["full"] and own != context:
        # The lists of the publication that is rebuilt were scored against the catalogue of an earlier T.
        rows = item_rows(settings, state, *context, None)
        base = _write(settings, state, rows, None, [])
        context_version: int | None = base
        present = _keys(rows)
        rows = item_rows(settings, state, *own, None)
        gone = sorted(present - _keys(rows))
    else:
        rows = item_rows(settings, state, *own, None if state["full"] else touched)
        present = _keys(rows)
        gone = [] if state["full"] else [item for item in touched if item not in present]
        context_version = None if own == context else state["lists"]["item_vectors"]
    version = _write(settings, state, rows, base, gone)
    table = summary(state, VectorTable.ITEMS, version, rows.num_rows, len(gone))
    return table, version if context_version is None else int(context_version)


def _write(settings: Settings, state: dict[str, Any], rows: pa.Table, base: int | None, gone: list[str]) -> int:
    metadata = dict(state["artefacts"])
    return vectors.write(
        settings, state["encoder_id"], VectorTable.ITEMS, rows, base=base, gone=gone, metadata=metadata
    )


def item_rows(settings: Settings, state: dict[str, Any], snapshot: int, as_of: str, only: list[str] | None) -> pa.Table:
    """Vectors of the items, or of those named, by what describes them as of T, with the state's encoder and artefacts."""
    with lake.connect(settings) as connection:
        items = behaviour.items(connection, snapshot, datetime.fromisoformat(as_of), only)
    hashes, text = centred_text_vectors(settings, state, items)
    ids = items["item_id"].to_pylist()
    left, right = _factors(settings, state, ids, text)
    return pa.table(
        {
            "item_id": pa.array(ids, pa.string()),
            "text": vectors.vector_column(text),
            "left": vectors.vector_column(left),
            "right": vectors.vector_column(right),
            "text_hash": pa.array(hashes, pa.string()),
        }
    )


def _factors(
    settings: Settings, state: dict[str, Any], ids: list[str], text: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Left and right vectors of items with these texts: a function of the artefact and of each item's own text."""
    from include.models.factors import Lenders, with_borrowed  # here: it imports what trains, too

    tensors, description = artefacts.read(settings, state["artefacts"][Artefact.ITEM_FACTORS])
    place = _positions(description["items"], ids)
    if "others" not in description:
        # A publication of before items borrowed factors is rebuilt as it was.
        return _rows(tensors["left"], place), _rows(tensors["right"], place)
    used = description["settings"]
    had_by = tensors["had_by"]
    lenders = Lenders.of_items(
        tensors["text"], tensors["left"], tensors["right"], had_by / (had_by + used["own_evidence"])
    )
    exposure = np.concatenate([tensors["exposure"], tensors["exposure_of_others"]])
    known = _positions([*description["items"], *description["others"]], ids)
    return with_borrowed(
        lenders,
        text,
        place,
        picked(exposure, known, 0.0),
        own_evidence=used["own_evidence"],
        neighbours_weight=used["neighbours_weight"],
    )


def _positions(of: list[str], ids: list[str]) -> NDArray[np.int64]:
    """Where each id is in a list; -1 where it is not."""
    row = {item: position for position, item in enumerate(of)}
    return np.array([row.get(item, -1) for item in ids], dtype=np.int64)


def _rows(matrix: NDArray[Any], positions: NDArray[np.int64]) -> NDArray[Any]:
    """Rows of a matrix by position; zeros where the position is -1."""
    found = np.zeros((len(positions), matrix.shape[1]), dtype=matrix.dtype)
    found[positions >= 0] = matrix[positions[positions >= 0]]
    return found
