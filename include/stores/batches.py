"""What the lake knows of landing batches: which were cleaned and by which rules, which are stale, and what became of their rows."""

import hashlib
import json
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from include.columns import Mart
from include.settings import REPOSITORY, Settings
from include.stores import files, lake, landing
from include.stores.formats import rows as text_rows

DBT_PROJECT = REPOSITORY / "dbt_project"
_RULES = ("dbt_project.yml", "models/**/*.sql", "macros/**/*.sql", "seeds/*.csv", "plugins/*.py")
_READER = Path(text_rows.__file__)  # says how landed files read
_RECORD = "int_batches"
_TOUCHED = {"int_touched_users": "user_id", "int_touched_items": "item_id", "int_touched_profiles": "user_id"}


@dataclass(frozen=True)
class Stale:
    """A batch whose landed files, or whose rules, are not those that the lake was cleaned from.

    `state` is `new`, `changed`, `rules_changed`, `vanished` (its files are gone) or `unfinished` (a clean of it did not
    end well). `fingerprint` is that of the files now, None where they are gone.
    """

    table: str
    arrival_hour: datetime
    state: str
    fingerprint: str | None

    @property
    def name(self) -> str:
        return f"{self.table} {self.arrival_hour:%Y-%m-%dT%H}"

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "arrival_hour": self.arrival_hour.isoformat()}


def rules(settings: Settings) -> str:
    """Hash of everything that decides how a row is read and cleaned."""
    seen = hashlib.sha256(settings.earliest_event.encode())
    seen.update(_READER.read_bytes())
    for pattern in _RULES:
        for file in sorted(DBT_PROJECT.glob(pattern)):
            seen.update(f"\0{file.relative_to(DBT_PROJECT).as_posix()}\0".encode())
            seen.update(file.read_bytes())
    return seen.hexdigest()[:16]


def _cleaned(settings: Settings, columns: str) -> dict[tuple[str, datetime], list[Any]] | None:
    """Some columns of the record of every batch that was cleaned; None where the lake has no tables yet."""
    if not lake.exists(settings):
        return None
    with lake.connect(settings) as connection:
        if not lake.has_table(connection, _RECORD):
            return None
        rows = connection.execute(f"SELECT landed_table, arrival_hour, {columns} FROM {_RECORD}").fetchall()
    return {(table, hour.replace(tzinfo=UTC)): found for table, hour, *found in rows}


def cleaned_rows(settings: Settings) -> dict[tuple[str, datetime], int] | None:
    """Rows of every batch that was cleaned, as they were landed then; None where the lake has no tables yet."""
    cleaned = _cleaned(settings, "n_landed")
    return None if cleaned is None else {batch: n for batch, [n] in cleaned.items()}


def stale(settings: Settings, start: datetime | None = None, end: datetime | None = None) -> list[Stale]:
    """The stale batches of the arrival hours from start up to, not including, end; by table, then hour."""
    cleaned = _cleaned(settings, "fingerprint, rules") or {}
    begun = unfinished(settings)
    now = rules(settings)
    landed = {(batch.table, batch.arrival_hour): batch.fingerprint for batch in landing.batches(settings, start, end)}
    within = {
        (table, hour)
        for table, hour in cleaned.keys() | begun
        if (start is None or hour >= start) and (end is None or hour < end)
    }
    found = []
    for table, hour in sorted(landed.keys() | within):
        fingerprint = landed.get((table, hour))
        before = cleaned.get((table, hour))
        if (table, hour) in begun:
            state = "unfinished"
        elif fingerprint is None:
            state = "vanished"
        elif before is None:
            state = "new"
        elif before[0] != fingerprint:
            state = "changed"
        elif before[1] != now:
            state = "rules_changed"
        else:
            continue
        found.append(Stale(table, hour, state, fingerprint))
    return found


# The marker: the batches of cleans that began and did not end well. Their marts may be half written, so the gate waits.


def marker(settings: Settings) -> Path:
    """The file that exists while a clean is under way or did not end well."""
    return settings.lake / "cleaning.json"


def touched_folder(settings: Settings) -> Path:
    """Where unfinished cleans remember which users and items they touched."""
    return settings.lake / "cleaning"


def unfinished(settings: Settings) -> set[tuple[str, datetime]]:
    """Table and arrival hour of the batches whose clean began and did not end well."""
    if not marker(settings).exists():
        return set()
    content = json.loads(marker(settings).read_text("utf-8"))
    return {(table, datetime.fromisoformat(hour)) for table, hour in content["batches"]}


def begin(settings: Settings, batches: set[tuple[str, datetime]]) -> None:
    """Mark batches as under way, beside those that earlier cleans left."""
    _mark(settings, unfinished(settings) | batches)
    touch_nothing(touched_folder(settings))


def touch_nothing(folder: Path) -> None:
    """Write an empty file for each model that remembers: dbt reads what is there, and something must be."""
    files.make_folder(folder)
    for model, column in _TOUCHED.items():
        nothing = pa.table({column: pa.array([], pa.string())})
        with (folder / f"{model}-none.parquet").open("wb") as file:
            pq.write_table(nothing, file)


def finish(settings: Settings, batches: set[tuple[str, datetime]]) -> None:
    """Take batches off the marker; with the last one everything about unfinished cleans goes."""
    left = unfinished(settings) - batches
    if left:
        _mark(settings, left)
        return
    files.remove_folder(touched_folder(settings))
    marker(settings).unlink(missing_ok=True)


def _mark(settings: Settings, batches: set[tuple[str, datetime]]) -> None:
    files.write_json(marker(settings), {"batches": [[table, hour.isoformat()] for table, hour in sorted(batches)]})


def superseded(settings: Settings, hours: set[datetime]) -> tuple[int, datetime | None]:
    """How many rows of the event batches of some hours do not hold, as their events arrived again later, and the last such hour.

    Later is also what lies in the same hour in a file whose name sorts behind.
    """
    with lake.connect(settings) as connection:
        found = connection.execute(
            """
            SELECT count(*), max(held.arrival_hour)
            FROM lake.main.int_event_history AS again
            JOIN lake.main.int_event_history AS held USING (event_key)
            WHERE again.outcome = 'duplicate' AND again.arrival_hour IN (SELECT unnest($hours::TIMESTAMP[]))
                AND held.outcome <> 'duplicate' AND (
                    held.arrival_hour > again.arrival_hour
                    -- Within an hour the last file by name holds; copies of a row are no correction.
                    OR held.arrival_hour = again.arrival_hour AND held.file > again.file AND held.raw <> again.raw
                )
            """,
            {"hours": [hour.replace(tzinfo=None) for hour in sorted(hours)]},
        ).fetchone()
    assert found is not None
    return found[0], None if found[1] is None else found[1].replace(tzinfo=UTC)


_COUNTS = {
    "events": ("landed", "interactions", "text_only", "duplicates", "cancelled"),
    "items": ("landed", "kept", "superseded"),
    "users": ("landed", "kept", "superseded"),
}


def row_counts(connection: duckdb.DuckDBPyConnection, snapshot: int) -> dict[str, dict[str, Any]]:
    """What became of every row in the lake at a snapshot.

    Returns:
        `{"events": {"landed", "interactions", "text_only", "duplicates", "cancelled", "rejected": {reason: n}},
        "items": {"landed", "kept", "superseded", "rejected": {reason: n}}, "users": {...}}`.
    """
    at = f"AT (VERSION => {int(snapshot)})"
    counts: dict[str, dict[str, Any]] = {}
    for table, names in _COUNTS.items():
        sums = ", ".join(f"coalesce(sum({name}), 0)::BIGINT" for name in names)
        row = connection.execute(
            f"SELECT {sums} FROM lake.main.{Mart.BATCHES} {at} WHERE landed_table = ?", [table]
        ).fetchone()
        assert row is not None
        reasons = connection.execute(
            f"SELECT reason, count(*) FROM lake.main.{Mart.REJECTED} {at} WHERE landed_table = ? GROUP BY reason ORDER BY reason",
            [table],
        ).fetchall()
        counts[table] = {**dict(zip(names, row, strict=True)), "rejected": dict(reasons)}
    return counts
