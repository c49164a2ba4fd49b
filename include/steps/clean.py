"""Clean landing batches into the behaviour lake: read their rows, then let dbt apply the rules."""

import json
import logging
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from include.columns import LANDED_TABLES, Mart
from include.errors import BadInput, GateFailed, TidemarkError
from include.readable import some
from include.settings import Settings
from include.stores import batches, files, lake, landing, list_quality, lock
from include.stores.object_store import duckdb_secret

log = logging.getLogger(__name__)

SECRETS = ("PASSWORD", "KEY_ID", "SECRET")
_PARSED: dict[tuple[str, ...], Any] = {}
"""The project as dbt parsed it, by all that parsing depends on: a process that cleans again does not parse it again."""


def clean(settings: Settings, start: datetime | None = None, end: datetime | None = None) -> dict[str, Any]:
    """Clean the stale batches of a span of arrival hours.

    With a start or an end, every stale batch of [start, end), also one whose files are gone: its rows leave the lake.
    With neither, every stale batch that has files, and whatever an earlier clean left unfinished.

    Returns:
        `{"batches": [{table, arrival_hour, state, fingerprint}], "nodes": [{name, resource_type, status, seconds,
        message}], "rows": (see `stores.batches.row_counts`), "superseded": rows of new or changed batches that do not hold, as their
        events arrived again later, "snapshot": int or None, "changed": bool, "seconds": {"read", "dbt"}}`.

    Raises:
        BadInput: the span is not of whole hours, a landed file cannot be read, or nothing at all is landed; the lake was not touched.
        GateFailed: a data test of dbt failed. The batches stay unfinished, and the gate waits for them.
        TidemarkError: a model of dbt failed; likewise.
    """
    refuse_part_hours(start, end)  # before it waits for another writer
    with lock.writing(settings):
        chosen, _ = choose(settings, start, end)
        nodes: list[dict[str, Any]] = []
        before = _newest(settings)
        seconds = {"read": 0.0, "dbt": 0.0}
        if chosen:
            nodes, seconds = _clean(settings, chosen)
        snapshot = _newest(settings)
        return {
            "batches": [batch.as_dict() for batch in chosen],
            "nodes": nodes,
            "rows": _rows(settings, snapshot),
            "superseded": _superseded(settings, chosen),
            "snapshot": snapshot,
            "changed": snapshot != before,
            "seconds": seconds,
        }


def choose(
    settings: Settings, start: datetime | None, end: datetime | None
) -> tuple[list[batches.Stale], list[batches.Stale]]:
    """The stale batches that a clean of a span takes, and those that it leaves: those without files where no span is given."""
    found = batches.stale(settings, start, end)
    if start is not None or end is not None:
        _refuse_an_absent_folder(settings, found)
        return found, []
    return (
        [batch for batch in found if batch.state != "vanished"],
        [batch for batch in found if batch.state == "vanished"],
    )


def _refuse_an_absent_folder(settings: Settings, chosen: list[batches.Stale]) -> None:
    """A disk that is not mounted is no reason to take out what was delivered on it."""
    vanished = sum(batch.state == "vanished" for batch in chosen)
    if vanished and not (settings.landing.is_dir() and any(settings.landing.iterdir())):
        raise BadInput(
            f"{settings.landing} is empty or not there, and the lake holds {vanished:,} batches of this span: is its disk mounted?"
        )


def refuse_part_hours(start: datetime | None, end: datetime | None) -> None:
    """Do nothing where a span is of whole hours.

    Raises:
        BadInput: it begins or ends inside an hour, or ends before it begins.
    """
    for name, moment in (("from", start), ("to", end)):
        if moment is not None and (moment.minute or moment.second or moment.microsecond):
            raise BadInput(f"{name} {moment.isoformat()} is inside an hour, but batches are whole hours")
    if start is not None and end is not None and start >= end:
        raise BadInput(f"from {start.isoformat()} must be before to {end.isoformat()}")


def said_of_vanished(vanished: list[dict[str, Any]]) -> str:
    """What can be done about batches whose files are gone (each as `Stale.as_dict` gives it), in words."""
    spans: list[tuple[datetime, datetime]] = []
    for hour in sorted({datetime.fromisoformat(batch["arrival_hour"]) for batch in vanished}):
        follows = bool(spans) and spans[-1][1] == hour
        start = spans.pop()[0] if follows else hour
        spans.append((start, hour + timedelta(hours=1)))
    commands = [f"`python -m include clean --from {start:%Y-%m-%dT%H} --to {end:%Y-%m-%dT%H}`" for start, end in spans]
    return (
        f"the files of {len(vanished):,} batches have vanished and the lake keeps their rows: put the files back, or take "
        f"the rows out with {some(commands)}; what was moved to another disk may stay there (docs/runbooks/disk_full.md)"
    )


def _superseded(settings: Settings, chosen: list[batches.Stale]) -> int:
    """Rows that were delivered now and do not hold: a correction must not arrive before what it corrects."""
    hours = {batch.arrival_hour for batch in chosen if batch.table == "events" and batch.state in ("new", "changed")}
    if not hours:
        return 0
    rows, later = batches.superseded(settings, hours)
    if later is not None:
        log.warning(
            "%s rows of these batches do not hold: the same events arrived again later, or in the same hour in a file whose name sorts behind, "
            "up to %s. Where they are a correction, land it "
            "with `--arrival %s`, or replace the files that it corrects (docs/runbooks/fix_the_data.md)",
            f"{rows:,}",
            f"{later:%Y-%m-%dT%H}",
            f"{later + timedelta(hours=1):%Y-%m-%dT%H}",
        )
    return rows


def _newest(settings: Settings) -> int | None:
    return lake.newest_snapshot(settings) if lake.exists(settings) else None


def _rows(settings: Settings, snapshot: int | None) -> dict[str, Any]:
    if snapshot is None:
        return {}
    with lake.connect(settings) as connection:
        # Where a first clean did not end well, there is a lake and they may be missing.
        if not all(lake.has_table(connection, mart) for mart in (Mart.BATCHES, Mart.REJECTED)):
            return {}
        return batches.row_counts(connection, snapshot)


def _clean(settings: Settings, chosen: list[batches.Stale]) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """The nodes of the dbt build, and the seconds spent in reading and in dbt."""
    log.info("cleaning %d batches: %s", len(chosen), some([batch.name for batch in chosen]))
    start = time.monotonic()
    prepare(settings, chosen)
    read = time.monotonic()
    nodes = build(settings)
    seconds = {"read": round(read - start, 3), "dbt": round(time.monotonic() - read, 3)}
    batches.finish(settings, {(batch.table, batch.arrival_hour) for batch in chosen})
    shutil.rmtree(landed_rows(settings))
    return nodes, seconds


def landed_rows(settings: Settings) -> Path:
    """Where dbt finds the rows of the batches under way."""
    return settings.work / "landed_rows"


def prepare(settings: Settings, chosen: list[batches.Stale]) -> None:
    """Read the rows of some batches to where dbt finds them, and mark the batches as under way."""
    rows = landed_rows(settings)
    shutil.rmtree(rows, ignore_errors=True)  # the writer's lock is ours: nobody reads an earlier one
    rows.mkdir(parents=True)
    read_rows(settings, chosen, rows)
    batches.begin(settings, {(batch.table, batch.arrival_hour) for batch in chosen})


def read_rows(settings: Settings, chosen: list[batches.Stale], out: Path) -> dict[tuple[str, datetime], int]:
    """Write the rows of the batches, and a table of the batches themselves, as dbt's sources; returns the rows of each.

    Raises:
        BadInput: a landed file cannot be read, or a batch that had files when it was chosen has none any more.
    """
    wanted = {(batch.table, batch.arrival_hour) for batch in chosen if batch.fingerprint is not None}
    hours = [hour for _, hour in wanted]
    found = [
        batch
        for batch in (landing.batches(settings, min(hours)) if hours else [])
        if (batch.table, batch.arrival_hour) in wanted
    ]
    fingerprints = {(batch.table, batch.arrival_hour): batch.fingerprint for batch in found}
    # Without files it would be cleaned as one whose rows are to leave the lake, which nobody asked for.
    vanished = [landing.batch_name(table, hour) for table, hour in sorted(wanted - fingerprints.keys())]
    if vanished:
        raise BadInput(f"{some(vanished)}: the files vanished while they were about to be read: run clean again")
    counts = landing.read_batches(settings, found, out, log.info)
    rules = batches.rules(settings)
    keys = [(batch.table, batch.arrival_hour) for batch in chosen]
    record = pa.table(
        {
            "landed_table": pa.array([table for table, _ in keys], pa.string()),
            "arrival_hour": pa.array([hour.replace(tzinfo=None) for _, hour in keys], pa.timestamp("us")),
            "n_landed": pa.array([counts.get(key, 0) for key in keys], pa.int64()),
            "fingerprint": pa.array([fingerprints.get(key) for key in keys], pa.string()),
            "rules": pa.array([rules] * len(keys), pa.string()),
        }
    )
    (out / "batches").mkdir()
    pq.write_table(record, out / "batches" / "0000.parquet")
    for table in LANDED_TABLES:
        log.info("landed %s rows: %d", table, sum(n for (name, _), n in counts.items() if name == table))
    return counts


def dbt(
    settings: Settings,
    *arguments: str,
    variables: dict[str, Any] | None = None,
    reads: Settings | None = None,
    dry_run: Path | None = None,
) -> Any:
    """Run dbt in this process on the project and the lake of the home; returns its `dbtRunnerResult`.

    Args:
        arguments: dbt's own, such as "build".
        variables: values of the project's vars besides those that follow from the settings.
        reads: for a dry run, the home whose lake is read and not written; whatever else dbt needs is in the home of the settings.
        dry_run: the folder that a dry run keeps its results in.
    """
    from dbt.adapters.duckdb.connections import DuckDBConnectionManager
    from dbt.cli.main import dbtRunner

    project = batches.DBT_PROJECT
    (settings.work / "duckdb_temporary").mkdir(parents=True, exist_ok=True)
    files.make_folder(settings.lake)
    source = reads or settings
    address, secret = lake.catalogue(source)
    # dbt keeps the values of names that begin so out of its logs, wherever the same letters stand.
    reached = {
        f"{'DBT_ENV_SECRET' if key in SECRETS else 'LAKE'}_{kind}_{key}": value
        for kind, values in (("CATALOGUE", secret), ("STORE", duckdb_secret(source)))
        for key, value in values.items()
    }
    environment = reached | {
        "LAKE_CATALOGUE": address,
        "LAKE_DATA": f"{lake.data(source)}/",
        "LAKE_READ_ONLY": str(reads is not None),
        "LAKE_EXTENSIONS": str(lake.link_extensions(source)),
        "LAKE_TEMPORARY": str(settings.work / "duckdb_temporary"),
        "LAKE_MEMORY": settings.cleaning.memory_limit,
        "LAKE_DBT_PLUGINS": str(project / "plugins"),
        # Folders are no vars: whatever the home, the project is parsed the same.
        "LAKE_LANDED_ROWS": lake.as_pattern(landed_rows(settings)),
        "LAKE_TOUCHED": str(batches.touched_folder(settings)),
        "LAKE_TOUCHED_ROWS": lake.as_pattern(batches.touched_folder(settings)),
        "LAKE_DRY_RUN": "" if dry_run is None else str(dry_run),
    }
    # `project` is read by no model. What a home keeps of a parse names the seeds by their folder: another value has dbt parse anew.
    values = {
        "earliest_event": settings.earliest_event,
        "quality": list_quality.there(source),
        "project": str(project),
    }
    parsed_by = [
        *("--project-dir", str(project), "--profiles-dir", str(project)),
        *("--target", "lake" if source.lake_catalogue is None else "cluster"),
        *("--vars", json.dumps(values | (variables or {}))),
    ]
    options = [
        *parsed_by,
        *("--target-path", str(settings.work / "dbt"), "--log-path", str(settings.work / "dbt")),
        *("--log-level", "none", "--log-level-file", "none", "--no-use-colors"),
    ]
    try:
        with _environment(environment):
            if arguments[0] != "build":  # such as `docs`, which needs what dbt writes when it parses
                return dbtRunner(callbacks=[_log_node]).invoke([*arguments, *options])
            options.append("--no-write-json")  # artefacts that nobody reads
            key = tuple(parsed_by)
            if key not in _PARSED:
                parsed = dbtRunner().invoke(["parse", *options])
                if not parsed.success:
                    return parsed
                _PARSED[key] = parsed.result
            return dbtRunner(_PARSED[key], [_log_node]).invoke([*arguments, *options])
    finally:
        # dbt-duckdb keeps its connection, and with it this run's tables in memory, for the next run of the process.
        with DuckDBConnectionManager._LOCK:
            if DuckDBConnectionManager._ENV is not None:
                DuckDBConnectionManager._ENV.close()
            DuckDBConnectionManager.close_all_connections()


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _log_node(event: Any) -> None:
    if event.info.name == "NodeFinished":
        result = event.data.run_result
        log.info("dbt %s: %s (%.1f s)", event.data.node_info.node_name, result.status, result.execution_time)


def build(settings: Settings, *arguments: str, **options: Any) -> list[dict[str, Any]]:
    """Run dbt's `build` with further arguments and the options of `dbt`; returns its nodes.

    Raises:
        GateFailed: a data test failed.
        TidemarkError: a model failed, or dbt did not run.
        BaseException: what ended dbt from outside, such as an interrupt.
    """
    outcome = dbt(settings, "build", "--exclude-resource-type", "unit_test", "exposure", *arguments, **options)
    results = getattr(outcome.result, "results", None) or []
    nodes = [
        {
            "name": result.node.name,
            "resource_type": str(result.node.resource_type),
            "status": str(result.status),
            "seconds": round(float(result.execution_time), 3),
            "message": result.message,
        }
        for result in results
    ]
    if outcome.success:
        return nodes
    failing = [node for node in nodes if node["status"] in {"fail", "error", "runtime error"}]
    if not failing:
        # dbt catches this, too: Ctrl-C, and the end of the time that Airflow gives a task.
        if isinstance(outcome.exception, BaseException) and not isinstance(outcome.exception, Exception):
            raise outcome.exception
        raise TidemarkError(f"dbt did not run: {outcome.exception}")
    what = "; ".join(f"{node['name']}: {' '.join(str(node['message']).split())}" for node in failing)
    kind = GateFailed if all(node["status"] == "fail" for node in failing) else TidemarkError
    error = kind(
        f"dbt build failed in {len(failing)} of {len(nodes)} nodes: {what} (see docs/runbooks/red_dbt_model.md)"
    )
    error.nodes = nodes  # type: ignore[attr-defined]
    raise error
