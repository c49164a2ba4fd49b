"""Let an earlier publication serve again."""

import logging
from typing import Any

from include.errors import BadInput
from include.settings import Settings
from include.steps.compare import as_text, compare
from include.stores import publications
from include.stores.lock import writing

log = logging.getLogger(__name__)


def choose_publication(settings: Settings, publication: str | None = None) -> dict[str, Any]:
    """What a rollback would switch from and to; changes nothing.

    Args:
        settings: all settings.
        publication: where to; by default the one that served before the one that serves now.

    Returns:
        `from` and `to`.

    Raises:
        BadInput: there is no such publication, or none served before.
    """
    now = publications.serving(settings)["id"]
    chosen = publication or publications.served_before(settings)
    if chosen is None:
        raise BadInput(f"no other publication served before {now}, so there is nothing to roll back to")
    return {"from": now, "to": publications.manifest(settings, chosen)["id"]}


def roll_back(settings: Settings, publication: str | None = None, reason: str | None = None) -> dict[str, Any]:
    """Switch to an earlier publication in one atomic step, and pin it until somebody ends the pin.

    Args:
        settings: all settings.
        publication: where to; by default the one that served before the one that serves now.
        reason: why, for the record.

    Returns:
        The record: `at`, `from`, `to`, `why` and `pinned`.

    Raises:
        BadInput: there is no such publication, or none served before.
    """
    with writing(settings):
        chosen = choose_publication(settings, publication)
        # What serves already is held where it is: so a run that was killed after its switch can be run again.
        what = "held" if chosen["from"] == chosen["to"] else f"rolled back from {chosen['from']}"
        why = publications.because(what, reason)
        change = publications.serve(settings, chosen["to"], why, pin=True)
    return {**change, "pinned": True}


def log_comparison(settings: Settings, before: str, after: str) -> dict[str, Any]:
    """Compare two publications for a log (see `compare`)."""
    found = compare(settings, before, after)
    for line in as_text(found).splitlines():
        log.info("%s", line)
    return {"moved": found["users"].get("moved"), "lists": {k: v.get("changed") for k, v in found["lists"].items()}}
