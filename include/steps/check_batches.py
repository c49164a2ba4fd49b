"""The alarm of hours that are over and not in the lake as they landed."""

from datetime import UTC, datetime, timedelta
from typing import Any

from include.errors import GateFailed
from include.readable import some
from include.settings import Settings
from include.stores import batches

GRACE = timedelta(hours=2)
"""After its end the run of an hour may be under way, or wait."""

RUNBOOK = "docs/runbooks/stale_batch.md"


def overdue(stale: list[batches.Stale], now: datetime | None = None) -> list[batches.Stale]:
    """Of stale batches those that no run will clean by itself any more, as their hours are over.

    Batches whose files are gone are not among them: an archive may have taken them. `now` is by default the clock's.
    """
    until = (now or datetime.now(UTC)) - GRACE
    return [batch for batch in stale if batch.state != "vanished" and batch.arrival_hour + timedelta(hours=1) <= until]


def check_batches(settings: Settings, now: datetime | None = None) -> dict[str, Any]:
    """Fail where batches are overdue: the hourly run cleans its own hour and no other.

    Args:
        settings: all settings.
        now: the moment to look from; by default that of the clock.

    Returns:
        `overdue`, how many there are: none.

    Raises:
        GateFailed: names the batches and the runbook. What serves goes on serving.
    """
    names = [batch.name for batch in overdue(batches.stale(settings), now)]
    if names:
        raise GateFailed(
            f"{len(names)} batches of hours that are over are not cleaned as they are now: {some(names)}: "
            f"backfill their hours: see {RUNBOOK}"
        )
    return {"overdue": 0}
