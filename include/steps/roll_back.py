"""Let an earlier publication serve again."""

from typing import Any

from include.errors import BadInput
from include.settings import Settings
from include.stores import publications
from include.stores.lock import writing


def roll_back(settings: Settings, publication: str | None = None) -> dict[str, Any]:
    """Switch to an earlier publication in one atomic step, and pin it until somebody ends the pin.

    Args:
        settings: all settings.
        publication: where to; by default the one that served before the one that serves now.

    Raises:
        BadInput: there is no such publication, or none served before.
    """
    with writing(settings):
        now = publications.serving(settings)["id"]
        if publication is None:
            publication = publications.served_before(settings)
            if publication is None:
                raise BadInput(f"no other publication served before {now}, so there is nothing to roll back to")
        change = publications.serve(settings, publication, f"rolled back from {now}", pin=True)
    return {**change, "pinned": True}
