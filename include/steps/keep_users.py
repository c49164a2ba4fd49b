"""Join the shards of `update_users`: a new version of the user vectors; and find whom new items concern."""

from typing import Any

from include.columns import VectorTable
from include.settings import Settings
from include.steps.new_items import relist_for_new_items
from include.steps.tables import base_version, keep_parts
from include.steps.timing import note_seconds, timed
from include.steps.update_users import STEP, planned_users, user_inputs
from include.stores import lake, publications


@lake.attached_once
def keep_users(settings: Settings, candidate: str) -> dict[str, Any]:
    """Write the touched users' vectors over the base's version, or all of them anew; then see who else is to be relisted.

    Returns:
        The table: its version, and how many rows were written and taken away; and what `relist_for_new_items` gives.

    Raises:
        TidemarkError: a shard's part is missing or is not what was planned.
    """
    state = publications.planned(settings, candidate)
    with timed(settings, candidate, "keep_users"):
        users, seconds = keep_parts(
            settings,
            candidate,
            VectorTable.USERS,
            planned_users(settings, candidate, state),
            user_inputs(state),
            base=base_version(settings, state, VectorTable.USERS),
            gone=[],
            metadata=state["artefacts"],
            some=True,
        )
    note_seconds(settings, candidate, STEP, seconds)
    publications.extend_candidate(settings, candidate, {"tables": {VectorTable.USERS: users}})
    with timed(settings, candidate, "relist_for_new_items"):
        exploration = relist_for_new_items(settings, candidate)
    publications.extend_candidate(settings, candidate, {"run": {"exploration": exploration}})
    return {**users, **exploration}
