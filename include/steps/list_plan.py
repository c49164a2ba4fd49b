"""Which lists a candidate writes, and which items cannot be in them; light to import, for the tasks that only need that."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from include.columns import VectorTable
from include.settings import Settings, Surface
from include.steps.tables import written_version
from include.stores import behaviour, lake, publications
from include.stores.parts import Part, cut

STEP = "update_lists"
USERS_PER_PART = 16_384


def planned_lists(
    settings: Settings, candidate: str, state: dict[str, Any], surface: Surface
) -> tuple[list[Part], list[str]]:
    """The users whose lists a candidate writes for a surface, in parts, and those whose lists it takes away."""
    relisted = publications.relisted(settings, candidate)
    with lake.connect(settings) as connection:
        users = behaviour.users(connection, state["lake_snapshot"], datetime.fromisoformat(state["as_of"]), relisted)
    gone = sorted(set(relisted or ()) - set(users))
    return cut(f"{STEP}-{surface.name}", users, USERS_PER_PART), gone


def list_inputs(state: dict[str, Any]) -> dict[str, Any]:
    """What lists follow from beside their users."""
    return {"users": written_version(state, VectorTable.USERS), "items": state["lists"]["item_vectors"]}


def ineligible(settings: Settings, state: dict[str, Any], items: Sequence[str]) -> NDArray[np.bool_]:
    """(n,) items that cannot be listed: not to be had as of the lists' T, or as of the candidate's."""
    return unavailable(settings, state["lists"], items) | unavailable(settings, state, items)


def unavailable(settings: Settings, entry: dict[str, Any], items: Sequence[str]) -> NDArray[np.bool_]:
    """(n,) items that are not to be had as of an entry's `as_of` and `lake_snapshot`."""
    with lake.connect(settings) as connection:
        there = behaviour.available_items(connection, entry["lake_snapshot"], datetime.fromisoformat(entry["as_of"]))
    return np.array([item not in there for item in items], dtype=bool)
