"""Popularity as of T, kept once it was counted: an update of a few users scores against the same totals as the one before."""

import hashlib
import json
from collections.abc import Callable, Sequence
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

    def count() -> pa.Table:
        fresh = behaviour.popularity(connection, snapshot, as_of, half_life_days)
        return pa.table(
            {"item_id": pa.array(fresh.keys(), pa.string()), "count": pa.array(fresh.values(), pa.float64())}
        )

    found = _once(settings, connection, snapshot, as_of, f"{half_life_days!r}d", count)
    return dict(zip(found["item_id"].to_pylist(), found["count"].to_pylist(), strict=True))


def segment_counts(
    settings: Settings,
    connection: duckdb.DuckDBPyConnection,
    snapshot: int,
    as_of: datetime,
    half_life_days: float,
    names: Sequence[str],
) -> pa.Table:
    """The same among the users of each segment: `segment, item_id, count`, as `behaviour.segment_popularity` counts them."""
    by = hashlib.sha256(json.dumps(list(names)).encode()).hexdigest()[:12]

    def count() -> pa.Table:
        return behaviour.segment_popularity(connection, snapshot, as_of, half_life_days, names)

    return _once(settings, connection, snapshot, as_of, f"{half_life_days!r}d-by-{by}", count)


def _once(
    settings: Settings,
    connection: duckdb.DuckDBPyConnection,
    snapshot: int,
    as_of: datetime,
    name: str,
    count: Callable[[], pa.Table],
) -> pa.Table:
    """What was counted before, or is now."""
    # A restored home may give a snapshot's number to another one, but not its time.
    made = behaviour.snapshot_time(connection, snapshot)
    parts = (f"{moment.astimezone(UTC):%Y%m%dT%H%M%S.%f}" for moment in (made, as_of))
    file = settings.cache / FOLDER / f"s{snapshot}-{'-'.join(parts)}-liked-{name}.arrow"
    if not file.exists():
        files.write_table(file, count())
    return files.read_table(file)


def kept(settings: Settings) -> list[tuple[Path, int]]:
    """Every file of counts, with the snapshot that it is of."""
    found = sorted((settings.cache / FOLDER).glob("s*.arrow"))
    return [(file, int(file.name.split("-", 1)[0].removeprefix("s"))) for file in found]
