"""The behaviour lake: a DuckLake with a catalogue in SQLite or Postgres, its snapshots, and which of them are gated.

One writer at a time (see `include.stores.lock`); any number of readers beside it.
"""

import importlib.util
import json
import os
import re
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, nullcontext
from datetime import UTC, datetime
from functools import cache, wraps
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import duckdb

from include.errors import BadInput
from include.settings import Settings
from include.stores import files
from include.stores.object_store import duckdb_secret

ALIAS = "lake"
CATALOGUE = "catalogue.sqlite"
SCORES_MESSAGE = "scores of served lists"
"""The commit message of snapshots that are of scores alone (`include.stores.list_quality`)."""


def extensions(settings: Settings) -> tuple[str, ...]:
    """DuckDB's extensions that a home needs."""
    others = ("sqlite_scanner",) if settings.lake_catalogue is None else ("postgres_scanner", "httpfs")
    return ("ducklake", *others)


def _extension_files(settings: Settings) -> dict[str, Path]:
    """Where the Python packages of the extensions that a home needs have them, by name."""
    found = {}
    for name in extensions(settings):
        spec = importlib.util.find_spec(f"duckdb_extension_{name}")
        if spec is None or spec.origin is None:
            raise BadInput(f"the package duckdb-extension-{name} is missing: run make install")
        folder = Path(spec.origin).parent / "extensions" / f"v{duckdb.__version__}"
        found[name] = folder / f"{name}.duckdb_extension"
    return found


def link_extensions(settings: Settings) -> Path:
    """The folder in which dbt-duckdb finds the extensions installed: links to them, as a copy takes 70 MB of each home."""
    directory = settings.work / "duckdb_extensions"
    with duckdb.connect() as connection:
        platform = str(connection.execute("PRAGMA platform").fetchall()[0][0])
    folder = directory / f"v{duckdb.__version__}" / platform
    folder.mkdir(parents=True, exist_ok=True)
    for name, file in _extension_files(settings).items():
        link = folder / f"{name}.duckdb_extension"
        if not link.is_symlink() or link.readlink() != file:
            aside = link.with_suffix(f".{os.getpid()}.tmp")
            aside.symlink_to(file)
            aside.replace(link)
    return directory


def exists(settings: Settings) -> bool:
    """Whether anything was ever cleaned into the lake."""
    if settings.lake_catalogue is None:
        return catalogue_file(settings).exists()
    from include.stores import postgres

    return postgres.has_lake(settings)


def has_table(connection: duckdb.DuckDBPyConnection, name: str) -> bool:
    """Whether the lake has a table; those of dbt come with the first clean."""
    found = connection.execute(
        "SELECT count(*) FROM duckdb_tables() WHERE database_name = ? AND table_name = ?", [ALIAS, name]
    ).fetchone()
    return bool(found and found[0])


def catalogue_file(settings: Settings) -> Path:
    """The SQLite file that holds the catalogue of a home on this machine."""
    return settings.lake / CATALOGUE


def require_one_folder(settings: Settings, what: str) -> None:
    """Refuse what works on the files of a home that is all in one folder.

    Raises:
        BadInput: the home is on an object store, or its catalogue is in Postgres.
    """
    if files.is_remote(settings.home) or settings.lake_catalogue is not None:
        raise BadInput(
            f"{what} works on a home that is one folder; {settings.home} has its files or its catalogue elsewhere: while "
            "nothing writes, copy the bucket and run pg_dump (docs/runbooks/restore.md)"
        )


def catalogue(settings: Settings) -> tuple[str, dict[str, str]]:
    """Where the lake's catalogue is.

    Returns:
        What follows `ducklake:` in an address, without what is secret; and the parameters of DuckDB's secret of type
        postgres that completes it, empty for SQLite.
    """
    if settings.lake_catalogue is None:
        return f"sqlite:{catalogue_file(settings)}", {}
    from include.stores import postgres

    found = postgres.parameters(settings)
    names = {"host": "HOST", "port": "PORT", "dbname": "DATABASE", "user": "USER", "password": "PASSWORD"}
    secret = {names[key]: value for key, value in found.items() if key in names}
    rest = (f"{key}={_quoted(value)}" for key, value in found.items() if key not in names)
    return f"postgres:{' '.join(rest)}", secret


def _quoted(value: str) -> str:
    """A value as a libpq connection string holds it."""
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


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
    attach = vars(_scopes).get(str(settings.lake)) if read_only else None
    attached = nullcontext(attach()) if attach else _attached(settings, read_only=read_only)
    with attached as engine, engine.cursor() as connection:
        connection.execute(f"USE {ALIAS}")
        yield connection


@contextmanager
def _attached(settings: Settings, *, read_only: bool) -> Iterator[duckdb.DuckDBPyConnection]:
    files.make_folder(settings.lake)
    address, secret = catalogue(settings)
    # A folder may be moved. A database that another home uses is refused.
    options = "OVERRIDE_DATA_PATH true, META_JOURNAL_MODE 'WAL', META_BUSY_TIMEOUT 10000"
    if secret:
        options = "META_SECRET 'catalogue'"
    mode = "READ_ONLY" if read_only else "READ_WRITE"
    with _engine(settings) as engine:
        _create_secret(engine, "catalogue", "postgres", secret)
        _create_secret(engine, "object_store", "s3", duckdb_secret(settings))
        # dbt_project/profiles.yml attaches the lake in the same way.
        engine.execute(
            f"ATTACH {_literal(f'ducklake:{address}')} AS {ALIAS} "
            f"({mode}, DATA_PATH {_literal(f'{data(settings)}/')}, {options}, DATA_INLINING_ROW_LIMIT 0)"
        )
        if not read_only:
            # The lake's row groups end by bytes, which asks for it of whoever writes. Reads keep their order.
            engine.execute("SET preserve_insertion_order = false")
        try:
            yield engine
        finally:
            engine.execute(f"DETACH {ALIAS}")
            engine.execute("RESET preserve_insertion_order")
            for name in ("catalogue", "object_store"):
                engine.execute(f"DROP SECRET IF EXISTS {name}")


_scopes = threading.local()
"""By the folder of a lake, what attaches it the first time that it is called within `attached_once`, and returns the same from then on."""

P = ParamSpec("P")
T = TypeVar("T")


def attached_once(step: Callable[Concatenate[Settings, P], T]) -> Callable[Concatenate[Settings, P], T]:
    """Decorate a step that connects several times to read: only the first time attaches the lake, for which its catalogue is read.

    Each connection still sees what others wrote before it. A catalogue in Postgres is attached each time: a connection that waits
    while a step computes may be cut on its way there.
    """

    @wraps(step)
    def within(settings: Settings, /, *args: P.args, **kwargs: P.kwargs) -> T:
        name = str(settings.lake)
        if settings.lake_catalogue is not None or name in vars(_scopes):
            return step(settings, *args, **kwargs)
        with ExitStack() as until_the_end:
            attach = cache(lambda: until_the_end.enter_context(_attached(settings, read_only=True)))
            setattr(_scopes, name, attach)
            until_the_end.callback(delattr, _scopes, name)
            return step(settings, *args, **kwargs)

    return within


_idle: dict[tuple[str, ...], list[duckdb.DuckDBPyConnection]] = {}


@contextmanager
def _engine(settings: Settings) -> Iterator[duckdb.DuckDBPyConnection]:
    """A DuckDB with the extensions loaded and nothing attached; used again, since loading them takes a quarter of a second."""
    waiting = _idle.setdefault(extensions(settings), [])
    try:
        engine = waiting.pop()
    except IndexError:
        engine = duckdb.connect()
        for file in _extension_files(settings).values():
            engine.load_extension(str(file))
    try:
        yield engine
    except BaseException:
        engine.close()
        raise
    waiting.append(engine)


def _create_secret(connection: duckdb.DuckDBPyConnection, name: str, kind: str, values: dict[str, str]) -> None:
    if not values:
        return
    pairs = ", ".join(f"{key} {_literal(value)}" for key, value in values.items())
    try:
        connection.execute(f"CREATE SECRET {name} (TYPE {kind}, {pairs})")
    except duckdb.Error:  # its message would quote the statement
        raise BadInput(
            f"DuckDB does not take the secret for {kind}: check TIDEMARK_LAKE_CATALOGUE and TIDEMARK_OBJECT_STORE__…"
        ) from None


def _literal(text: str) -> str:
    escaped = text.replace("'", "''")
    return f"'{escaped}'"


def as_pattern(path: Path) -> str:
    """A path as DuckDB's `read_parquet` takes it, which would read `[`, `*` and `?` as a pattern of many paths."""
    return re.sub(r"[*?[]", r"[\g<0>]", str(path))


def copy_catalogue(settings: Settings, copy: Path) -> None:
    """Copy the catalogue whole, its journal included, in the mode that readers beside a writer need.

    Not while this process has the lake attached: closing SQLite's files twice in one process loses its locks.
    """
    with closing(sqlite3.connect(catalogue_file(settings))) as original, closing(sqlite3.connect(copy)) as target:
        original.backup(target)
        target.execute("PRAGMA journal_mode = WAL")


def newest_snapshot(settings: Settings) -> int:
    """Id of the lake's newest snapshot of behaviour, see `newest_of`."""
    with connect(settings) as connection:
        return newest_of(connection)


def newest_of(connection: duckdb.DuckDBPyConnection) -> int:
    """Id of the newest snapshot that may hold another behaviour: what only keeps scores of lists waits for no gate."""
    row = connection.execute(
        "SELECT max(snapshot_id) FROM lake.snapshots() WHERE commit_message IS DISTINCT FROM ?", [SCORES_MESSAGE]
    ).fetchone()
    assert row is not None
    return int(row[0])


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
    files.write_json(gate_file(settings, snapshot), content)


def without_examples(result: dict[str, Any]) -> dict[str, Any]:
    """What a gate said, without the values and rows that it named as examples."""
    failed = [
        {
            **entry,
            "examples": [],
            "observed": observed.get("rows") if isinstance(observed := entry["observed"], dict) else None,
        }
        for entry in result["failed"]
    ]
    return {**result, "failed": failed}


def drop_examples(settings: Settings) -> None:
    """Take the examples out of every record of a gate."""
    for record in gates(settings):
        if record["failed"]:
            files.write_json(gate_file(settings, record["snapshot"]), without_examples(record))


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
    found = sorted((settings.lake / "gates").glob("[0-9]*.json"))
    return [json.loads(file.read_text("utf-8")) for file in found]


def gated_snapshot(settings: Settings) -> int | None:
    """The newest gated snapshot, or None before the first."""
    passed = [gate["snapshot"] for gate in gates(settings) if gate["passed"] or gate["accepted"]]
    return max(passed, default=None)
