"""What is on record of erasures: that there was one, never whose."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from include.settings import Settings
from include.stores import files

FOLDER = "erasures"


def _marker(settings: Settings) -> Path:
    return settings.home / FOLDER / "under_way.json"


def begin(settings: Settings) -> None:
    """Note that an erasure is under way, so that the next one goes on where it was killed."""
    files.write_json(_marker(settings), {"since": datetime.now(UTC).isoformat()})


def under_way(settings: Settings) -> bool:
    """Whether an erasure began and did not end."""
    return _marker(settings).exists()


def end(settings: Settings) -> None:
    """Note that an erasure did all that it can: none is under way."""
    _marker(settings).unlink(missing_ok=True)


def write(settings: Settings, content: dict[str, Any]) -> dict[str, Any]:
    """Record an erasure that was proved: then none is under way."""
    now = datetime.now(UTC)
    record = {"at": now.isoformat(), **content}
    files.write_json(settings.home / FOLDER / f"{now:%Y%m%dT%H%M%S%f}.json", record)
    end(settings)
    return record


def read(settings: Settings) -> list[dict[str, Any]]:
    """Every record, the oldest first."""
    found = sorted((settings.home / FOLDER).glob("[0-9]*.json"))
    return [json.loads(file.read_text("utf-8")) for file in found]
