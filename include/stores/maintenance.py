"""What frees space in the lake and among the files of a home. Its callers hold the writer's lock.

DuckLake lets go of a file in two steps: no snapshot names it any more, then it is deleted. Readers that began before the
first step end in between, so the second waits.
"""

import sqlite3
import time
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from include.errors import TidemarkError
from include.settings import Settings
from include.stores import backtests, files, lake, landing, training

MAINTENANCE = "maintenance"
"""The folder of its reports."""

REWRITE_DELETED = 0.5
"""Share of deleted rows from which a file of the lake is written anew without them."""


READERS_END = 60.0
"""Seconds to wait for those who read the catalogue."""


def age(path: Path) -> timedelta:
    """Time since a file, or the last of the files in a folder, was written; none of what vanishes meanwhile."""
    written = files.last_written(path)
    return timedelta(0) if written is None else timedelta(seconds=max(0.0, time.time() - written))


# The lake


def snapshots(settings: Settings, age: timedelta = timedelta(0)) -> list[int]:
    """Ids of every snapshot that the lake keeps and that is of an age."""
    if not lake.exists(settings):
        return []
    with lake.connect(settings) as connection:
        rows = connection.execute(
            "SELECT snapshot_id FROM lake.snapshots() WHERE snapshot_time <= ? ORDER BY 1", [datetime.now(UTC) - age]
        ).fetchall()
    return [int(row[0]) for row in rows]


def expire_snapshots(settings: Settings, expired: list[int]) -> None:
    """Let snapshots go; what only they named is deleted by `delete_old_files`."""
    if expired:
        with lake.connect(settings, read_only=False) as connection:
            connection.execute(
                f"CALL ducklake_expire_snapshots('{lake.ALIAS}', versions => {sorted(map(int, expired))})"
            )


def delete_old_files(settings: Settings, age: timedelta) -> int:
    """Delete files that no snapshot has named for that time; returns their number."""
    return _delete(settings, "ducklake_cleanup_old_files", age)


def delete_orphaned_files(settings: Settings, age: timedelta) -> int:
    """Delete files of that age that no commit ever named; returns their number.

    An age of zero would take the files of a transaction under way, if there were one.
    """
    return _delete(settings, "ducklake_delete_orphaned_files", age)


def _delete(settings: Settings, function: str, age: timedelta) -> int:
    if not lake.exists(settings):
        return 0
    moment = (datetime.now(UTC) - age).isoformat()
    with lake.connect(settings, read_only=False) as connection:
        call = f"CALL {function}('{lake.ALIAS}', older_than => TIMESTAMPTZ '{moment}')"
        return len(connection.execute(call).fetchall())


def merge_files(settings: Settings) -> int:
    """Write many small files of a table as few, and mostly deleted ones anew; returns how many files went in.

    Where there was something to do this commits a snapshot, with the same rows as the one before it.
    """
    return _into_new_files(settings, REWRITE_DELETED, merge=True)


def rewrite_deleted(settings: Settings) -> int:
    """Write every file of the lake that holds a deleted row anew, without it; returns how many there were.

    Commits a snapshot with the same rows as the one before it. The files before stay until the snapshots go that name them.
    """
    return _into_new_files(settings, 0.0, merge=False)


def _into_new_files(settings: Settings, deleted: float, *, merge: bool) -> int:
    """Write files with that share of deleted rows anew, and with `merge` small ones as few; returns how many files went in."""
    if not lake.exists(settings):
        return 0
    with lake.connect(settings, read_only=False) as connection:
        done = connection.execute(
            f"CALL ducklake_rewrite_data_files('{lake.ALIAS}', delete_threshold => {deleted})"
        ).fetchall()
        if merge:
            done += connection.execute(f"CALL ducklake_merge_adjacent_files('{lake.ALIAS}')").fetchall()
    return sum(int(row[2]) for row in done)


def purge_catalogue(settings: Settings) -> None:
    """Leave nothing in the catalogue of rows that are gone: neither in a table's statistics, which only ever widen, nor in free pages.

    Of a catalogue in SQLite, which this process has not attached.

    Raises:
        TidemarkError: somebody reads the catalogue all the while.
    """
    if not lake.exists(settings):
        return
    try:
        busy = _purge(lake.catalogue_file(settings))
    except sqlite3.OperationalError as error:
        busy = str(error)
    if busy:
        raise TidemarkError(
            f"{lake.catalogue_file(settings)}: somebody reads the lake, so what was deleted stays in its journal ({busy}): end that, and "
            "run this again"
        )


def _purge(file: Path) -> str | None:
    """Narrow the statistics and let go of free pages and the journal; returns what is in the way of the last."""
    with closing(sqlite3.connect(file, timeout=READERS_END, isolation_level=None)) as catalogue:
        # A file without a least value has one that is not known, unless all in it is null.
        catalogue.execute(
            """
            UPDATE ducklake_table_column_stats AS whole SET (min_value, max_value) = (
                SELECT iif(known, low, NULL), iif(known, high, NULL) FROM (
                    SELECT min(part.min_value) AS low, max(part.max_value) AS high,
                           total((part.min_value IS NULL OR part.max_value IS NULL) AND part.value_count > 0) = 0 AS known
                    FROM ducklake_file_column_stats AS part JOIN ducklake_data_file AS file USING (data_file_id)
                    WHERE part.table_id = whole.table_id AND part.column_id = whole.column_id AND file.end_snapshot IS NULL
                )
            )
            WHERE EXISTS (
                SELECT 1 FROM ducklake_column AS own
                WHERE own.table_id = whole.table_id AND own.column_id = whole.column_id AND own.column_type = 'varchar'
            )
            """
        )
        catalogue.execute("VACUUM")
        busy = catalogue.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
    return "the checkpoint is blocked" if busy else None


def drop_gate_records(settings: Settings, kept: list[int], older: timedelta) -> int:
    """Forget what gates said of snapshots that are gone, but for failed ones that somebody accepted."""
    gone = [
        record
        for record in lake.gates(settings)
        if record["snapshot"] not in kept
        and not record["accepted"]
        and datetime.fromisoformat(record["at"]) < datetime.now(UTC) - older
    ]
    for record in gone:
        lake.gate_file(settings, record["snapshot"]).unlink(missing_ok=True)
    return len(gone)


# Files


def leftovers(settings: Settings, grace: timedelta) -> list[Path]:
    """What killed writers left aside and nobody reads: unfinished files, what DuckDB spilled, and rows on their way into the lake.

    Of `landing/` only what `land` began there is looked at: the rest belongs to those who deliver.
    """
    folders = (settings.lake, settings.vectors, settings.artefacts, settings.publications, settings.text_vectors)
    found = [settings.work / "landed_rows", *backtests.scratch_folders(settings), *training.runs(settings)]
    for pattern in ("copies/*", "duckdb_tmp/*", "duckdb_temporary/*", f"{landing.INCOMING}*"):
        found += settings.work.glob(pattern)
    if not files.is_remote(settings.landing):
        found += settings.landing.glob(f"{landing.INCOMING}*")
    for folder in folders:
        found += [path for path in folder.rglob(".*") if path.name.startswith(".tmp") or path.name.endswith(".tmp")]
    return [path for path in found if path.exists() and age(path) >= grace]


def reports(settings: Settings, older: timedelta) -> list[Path]:
    """Reports of backtests, comparisons, trainings and maintenance whose last file is of that age."""
    kinds = [settings.reports / kind for kind in (backtests.FOLDER, training.FOLDER, MAINTENANCE)]
    return [path for kind in kinds if kind.exists() for path in sorted(kind.iterdir()) if age(path) >= older]


def write_report(settings: Settings, summary: dict[str, Any]) -> None:
    """Keep what a maintenance did."""
    files.write_json(settings.reports / MAINTENANCE / f"{datetime.now(UTC):%Y%m%dT%H%M%S}.json", summary)


def delete(path: Path) -> None:
    """Delete a file or a folder."""
    if path.is_dir():
        files.remove_folder(path)
    else:
        path.unlink(missing_ok=True)
