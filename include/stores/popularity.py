"""Popularity as of T, kept once it was counted: an update of a few users scores against the same totals as the one before."""

from datetime import UTC, datetime
from pathlib import Path

import duckdb
import pyarrow as pa

from include.settings import Settings
from include.stores import behaviour, files

FOLDER = "popularity"


def counts(
    settings: Settings, connection: duckdb.DuckDBPyConnection, snapshot: int, as_of: datetime, half_life_days: float
) -> dict[str, float]:
    """Decayed interactions of each item, as `behaviour.popularity` counts them."""
    # A restored home may give a snapshot's number to another one, but not its time.
    made = behaviour.snapshot_time(connection, snapshot)
    parts = (f"{moment.astimezone(UTC):%Y%m%dT%H%M%S.%f}" for moment in (made, as_of))
    file = settings.cache / FOLDER / f"s{snapshot}-{'-'.join(parts)}-{half_life_days!r}d.arrow"
    if file.exists():
        found = files.read_table(file)
        return dict(zip(found["item_id"].to_pylist(), found["count"].to_pylist(), strict=True))
    fresh = behaviour.popularity(connection, snapshot, as_of, half_life_days)
    table = {"item_id": pa.array(fresh.keys(), pa.string()), "count": pa.array(fresh.values(), pa.float64())}
    files.write_table(file, pa.table(table))
    return fresh


def kept(settings: Settings) -> list[tuple[Path, int]]:
    """Every file of counts, with the snapshot that it is of."""
    found = sorted((settings.cache / FOLDER).glob("s*.arrow"))
    return [(file, int(file.name.split("-", 1)[0].removeprefix("s"))) for file in found]
