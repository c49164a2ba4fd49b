"""The behaviour lake: a DuckLake with a SQLite catalogue, its snapshots, and which of them are gated.

One writer at a time (see `include.stores.lock`); any number of readers beside it.
"""

import importlib.util
import json
import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb

from include.errors import BadInput
from include.settings import Settings

EXTENSIONS = ("ducklake", "sqlite_scanner")
ALIAS = "lake"


def install_extensions(settings: Settings) -> Path:
    """Install DuckDB's extensions from their Python packages into the home, once, and return that folder."""
    directory = settings.cache / "duckdb_extensions"
    version = f"v{duckdb.__version__}"
    if all(any((directory / version).glob(f"*/{name}.duckdb_extension")) for name in EXTENSIONS):
        return directory
    directory.mkdir(parents=True, exist_ok=True)
    with duckdb.connect(config={"extension_directory": str(directory)}) as connection:
        for name in EXTENSIONS:
            spec = importlib.util.find_spec(f"duckdb_extension_{name}")
            if spec is None or spec.origin is None:
                raise BadInput(f"the package duckdb-extension-{name} is missing: run make install")
            file = Path(spec.origin).parent / "extensions" / version / f"{name}.duckdb_extension"
            connection.install_extension(str(file))
    return directory


def exists(settings: Settings) -> bool:
    """Whether anything was ever cleaned into the lake."""
    return catalogue(settings).exists()


def catalogue(settings: Settings) -> Path:
    """The SQLite file that holds the lake's catalogue."""
    return settings.lake / "catalogue.sqlite"


def data(settings: Settings) -> Path:
    """The folder of the lake's Parquet files."""
    return settings.lake / "data"


@contextmanager
def connect(settings: Settings, *, read_only: bool = True) -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection with the lake attached as `lake` and made current.

    Raises:
        BadInput: nothing was cleaned yet, so there is no lake to read.
    """
    if read_only and not exists(settings):
        raise BadInput(f"there is no lake in {settings.home} yet: land a file and run `python -m include clean`")
    settings.lake.mkdir(parents=True, exist_ok=True)
    with duckdb.connect(config={"extension_directory": str(install_extensions(settings))}) as connection:
        for name in EXTENSIONS:
            connection.load_extension(name)
        mode = "READ_ONLY" if read_only else "READ_WRITE"
        target = f"ducklake:sqlite:{catalogue(settings)}".replace("'", "''")
        folder = f"{data(settings)}/".replace("'", "''")
        connection.execute(
            f"ATTACH '{target}' AS {ALIAS} ({mode}, DATA_PATH '{folder}', OVERRIDE_DATA_PATH true, META_JOURNAL_MODE 'WAL', META_BUSY_TIMEOUT 10000, DATA_INLINING_ROW_LIMIT 0)"
        )
        connection.execute(f"USE {ALIAS}")
        yield connection


def as_pattern(path: Path) -> str:
    """A path as DuckDB's `read_parquet` takes it, which would read `[`, `*` and `?` as a pattern of many paths."""
    return re.sub(r"[*?[]", r"[\g<0>]", str(path))


def copy_catalogue(settings: Settings, copy: Path) -> None:
    """Copy the catalogue whole, its journal included, in the mode that readers beside a writer need.

    Not while this process has the lake attached: closing SQLite's files twice in one process loses its locks.
    """
    with closing(sqlite3.connect(catalogue(settings))) as original, closing(sqlite3.connect(copy)) as target:
        original.backup(target)
        target.execute("PRAGMA journal_mode = WAL")


def newest_snapshot(settings: Settings) -> int:
    """Id of the lake's newest snapshot."""
    with connect(settings) as connection:
        row = connection.execute("SELECT max(snapshot_id) FROM lake.snapshots()").fetchone()
    assert row is not None
    return int(row[0])


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file so that a reader sees the old or the new content, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with aside.open("w", encoding="utf-8") as file:
        json.dump(content, file, ensure_ascii=False, indent=1, sort_keys=True, default=str)
        file.flush()
        os.fsync(file.fileno())
    os.replace(aside, path)


# Gates: one small file for each snapshot that a gate judged. A snapshot is gated when its file says so; the gate always
# judges the whole change since the gated snapshot before it, so the newest gated one is the newest that may be read.


def gate_file(settings: Settings, snapshot: int) -> Path:
    return settings.lake / "gates" / f"{snapshot:012d}.json"


def record_gate(
    settings: Settings, snapshot: int, since: int | None, result: dict[str, Any], accepted: str | None = None
) -> None:
    """Record what the gate said of a snapshot's change since the gated snapshot before it.

    Args:
        accepted: the reason for which somebody accepted a failed gate.
    """
    content = {
        "snapshot": snapshot,
        "since": since,
        "at": datetime.now(UTC).isoformat(),
        "accepted": accepted,
        **result,
    }
    write_json(gate_file(settings, snapshot), content)


def gate(settings: Settings, snapshot: int) -> dict[str, Any]:
    """What the gate said of one snapshot.

    Raises:
        BadInput: it was not judged.
    """
    file = gate_file(settings, snapshot)
    if not file.exists():
        raise BadInput(f"lake snapshot {snapshot} was never judged by the gate: run `python -m include clean`")
    return dict(json.loads(file.read_text("utf-8")))


def gates(settings: Settings) -> list[dict[str, Any]]:
    """Every recorded gate result, oldest snapshot first."""
    files = sorted((settings.lake / "gates").glob("[0-9]*.json"))
    return [json.loads(file.read_text("utf-8")) for file in files]


def gated_snapshot(settings: Settings) -> int | None:
    """The newest gated snapshot, or None before the first."""
    passed = [gate["snapshot"] for gate in gates(settings) if gate["passed"] or gate["accepted"]]
    return max(passed, default=None)
