"""The gate after cleaning: judges all that changed in the lake since the last gated snapshot."""

import logging
from typing import Any

import duckdb
import numpy as np
import pandas as pd

from include.columns import Mart
from include.errors import BadInput, GateFailed
from include.quality.results import MAX_EXAMPLES, GateResult
from include.settings import Settings
from include.stores import batches, lake
from include.stores.behaviour import KEYS, at, has_snapshot, net_changes
from include.stores.lock import writing

log = logging.getLogger(__name__)

HISTORIES = {"events": "int_event_history", "items": "int_item_history", "users": "int_user_history"}
BATCH = ["landed_table", "arrival_hour"]
RECORD = ("snapshot", "since", "at", "accepted")  # what lake.record_gate adds to a result


def gate_lake(settings: Settings) -> dict[str, Any]:
    """Judge what changed since the last gated snapshot and record the result; a snapshot that passes is gated.

    Does nothing where the newest snapshot is gated already, or where nothing was ever cleaned. Takes the writer's lock.

    Returns:
        `snapshot` (None without a lake), `since` (the gated snapshot before it, None before the first), `gated`, `gate`
        (the result, None where nothing was judged) and `changed`.

    Raises:
        GateFailed: an expectation failed, or a clean did not finish.
    """
    with writing(settings):
        return judge_newest(settings)


def judge_newest(settings: Settings) -> dict[str, Any]:
    """What `gate_lake` does, for those who hold the writer's lock."""
    _refuse_unfinished(settings)
    summary: dict[str, Any] = {"snapshot": None, "since": None, "gated": False, "gate": None, "changed": False}
    if not lake.exists(settings):
        return summary
    with lake.connect(settings) as connection:
        if not lake.has_table(connection, "int_batches"):
            return summary
        snapshot = lake.newest_of(connection)
        since = lake.gated_snapshot(settings)
        if since == snapshot:
            return summary | {"snapshot": snapshot, "since": since, "gated": True}
        changed, earlier, keys = _changes(connection, snapshot, since)
    result = _judge(changed, earlier, keys, settings)
    lake.record_gate(settings, snapshot, since, result.as_dict())
    result.raise_if_failed()
    changed_at_all = bool(len(changed) or len(keys))
    return {"snapshot": snapshot, "since": since, "gated": True, "gate": result.as_dict(), "changed": changed_at_all}


def accept_gate(settings: Settings, snapshot: int, reason: str) -> dict[str, Any]:
    """Accept a snapshot whose gate failed: it becomes the gated one, and the reason is kept with the result.

    Returns:
        The gate's record.

    Raises:
        BadInput: no failed gate of that snapshot can be accepted, or there is no reason.
    """
    if not reason.strip():
        raise BadInput("option --reason: say why the failed gate is accepted")
    with writing(settings):
        records = {record["snapshot"]: record for record in lake.gates(settings)}
        record = records.get(snapshot)
        failed = [number for number, found in records.items() if not found["passed"] and not found["accepted"]]
        if record is None or snapshot not in failed:
            choice = f"failed ones: {', '.join(map(str, failed))}" if failed else "no gate has failed"
            raise BadInput(f"snapshot {snapshot} has no failed gate to accept ({choice})")
        gated = lake.gated_snapshot(settings)
        if gated is not None and gated > snapshot:
            raise BadInput(f"snapshot {snapshot} need not be accepted: the newer snapshot {gated} is gated")
        with lake.connect(settings) as connection:
            if not has_snapshot(connection, snapshot):
                raise BadInput(
                    f"snapshot {snapshot} has expired: run `python -m include clean` and judge the newest one"
                )
        result = {key: value for key, value in record.items() if key not in RECORD}
        lake.record_gate(settings, snapshot, record["since"], result, accepted=reason.strip())
        return next(found for found in lake.gates(settings) if found["snapshot"] == snapshot)


def _refuse_unfinished(settings: Settings) -> None:
    """A clean that was killed has committed some tables and not others: no snapshot of it may be gated."""
    unfinished = batches.unfinished(settings)
    if unfinished:
        hours = sorted({hour for _, hour in unfinished})
        raise GateFailed(
            f"a clean of {len(unfinished)} batches, {hours[0]:%Y-%m-%dT%H} to {hours[-1]:%Y-%m-%dT%H}, did not finish: "
            "clean these hours again (`python -m include clean`), then run the gate"
        )


def _judge(changed: pd.DataFrame, earlier: pd.DataFrame, keys: pd.DataFrame, settings: Settings) -> GateResult:
    if not len(changed) and not len(keys):
        log.info("nothing changed since the last gated snapshot")
        return GateResult("lake", passed=True, expectations=0, failed=[])
    # Great Expectations takes seconds to import, which an hour without changes need not pay.
    from include.quality.lake import check_lake

    return check_lake(changed, earlier, keys, settings)


def _changes(
    connection: duckdb.DuckDBPyConnection, snapshot: int, since: int | None
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """The three frames of `include.quality.lake.check_lake`."""
    if since is not None and not has_snapshot(connection, since):
        log.warning("the gated snapshot %d has expired: everything in the lake is judged as if it had changed", since)
        since = None
    _choose(connection, snapshot, since)
    changed = _audit(connection, snapshot)
    earlier = changed.head(0)
    if since is not None:
        connection.execute(
            f"CREATE OR REPLACE TEMP TABLE chosen AS SELECT landed_table, arrival_hour FROM {at('int_batches', since)}"
        )
        earlier = _audit(connection, since)
        changed = _differing(changed, earlier)
    found = [_key_counts(connection, table, snapshot, since) for table in KEYS]
    keys = pd.DataFrame([row for row in found if row["rows"]])
    log.info(
        "snapshot %d: %d batches and %d keys changed since %s",
        snapshot,
        len(changed.drop_duplicates(BATCH)),
        sum(row["rows"] for row in found),
        "the beginning" if since is None else f"snapshot {since}",
    )
    return changed, earlier, keys


def _choose(connection: duckdb.DuckDBPyConnection, snapshot: int, since: int | None) -> None:
    """Put the batches that were cleaned, cleaned again or taken out into the temporary table `chosen`."""
    new = f"SELECT landed_table, arrival_hour, n_landed, fingerprint, rules FROM {at('int_batches', snapshot)}"
    differing = new
    if since is not None:
        old = new.replace(at("int_batches", snapshot), at("int_batches", since))
        differing = f"({new} EXCEPT {old}) UNION ALL ({old} EXCEPT {new})"
    connection.execute(
        f"CREATE OR REPLACE TEMP TABLE chosen AS SELECT DISTINCT landed_table, arrival_hour FROM ({differing})"
    )


def _audit(connection: duckdb.DuckDBPyConnection, snapshot: int) -> pd.DataFrame:
    """Counts of the chosen batches at a snapshot, one row a batch and source (source `''` where it has no rows)."""
    histories = " UNION ALL ".join(
        f"SELECT '{table}' AS landed_table, arrival_hour, source, outcome, reason, "
        f"{'item_id' if table == 'events' else 'NULL'} AS item_id FROM {at(history, snapshot)} "
        f"WHERE arrival_hour IN (SELECT arrival_hour FROM chosen WHERE landed_table = '{table}')"
        for table, history in HISTORIES.items()
    )
    frame = connection.execute(
        f"""
        WITH described AS (
            SELECT item_id FROM {at(Mart.ITEMS, snapshot)} GROUP BY item_id HAVING bool_or(described)
        ),
        landed_rows AS ({histories}),
        counts AS (
            SELECT landed_table, arrival_hour, coalesce(source, '') AS source,
                   count(*) AS landed,
                   count(*) FILTER (WHERE outcome = 'rejected') AS rejected,
                   count(*) FILTER (WHERE outcome = 'interaction') AS interactions,
                   count(*) FILTER (WHERE outcome = 'interaction' AND described.item_id IS NULL) AS undescribed,
                   histogram(coalesce(reason, '')) FILTER (WHERE outcome = 'rejected') AS reasons
            FROM landed_rows LEFT JOIN described USING (item_id)
            GROUP BY ALL
        )
        SELECT landed_table, arrival_hour, coalesce(source, '') AS source, coalesce(landed, 0) AS landed,
               coalesce(rejected, 0) AS rejected, coalesce(interactions, 0) AS interactions,
               coalesce(undescribed, 0) AS undescribed, reasons
        FROM chosen LEFT JOIN counts USING (landed_table, arrival_hour)
        ORDER BY ALL
        """
    ).df()
    frame["reasons"] = frame["reasons"].map(lambda found: found if isinstance(found, dict) else {})
    return frame


def _differing(changed: pd.DataFrame, earlier: pd.DataFrame) -> pd.DataFrame:
    """The batches whose counts are not what they were: the others were judged already."""
    before = {key: rows.to_dict("records") for key, rows in earlier.groupby(BATCH)}
    differs = {key: rows.to_dict("records") != before.get(key) for key, rows in changed.groupby(BATCH)}
    kept = [differs[key] for key in zip(changed["landed_table"], changed["arrival_hour"], strict=True)]
    return changed[np.array(kept, dtype=bool)]


def _key_counts(connection: duckdb.DuckDBPyConnection, table: str, snapshot: int, since: int | None) -> dict[str, Any]:
    """How many keys of a mart's net change there are, and which of them are missing or not unique in the mart."""
    names = ", ".join(KEYS[table])
    changes = at(table, snapshot)
    if since is not None:
        # Rewritten rows that are what they were net out.
        changes = net_changes(table, since, snapshot)
    same = " AND ".join(f"mart.{name} IS NOT DISTINCT FROM changed.{name}" for name in KEYS[table])
    missing = " OR ".join(f"{name} IS NULL" for name in KEYS[table])
    shown = " || ' ' || ".join(f"coalesce({name}::VARCHAR, 'null')" for name in KEYS[table])
    row = connection.execute(
        f"""
        WITH changed AS (SELECT DISTINCT {names} FROM {changes}),
        mart AS (SELECT {names}, true AS here FROM {at(table, snapshot)}),
        found AS (
            SELECT {", ".join(f"changed.{name}" for name in KEYS[table])}, count(mart.here) AS copies
            FROM changed LEFT JOIN mart ON {same}
            GROUP BY ALL
        )
        SELECT count(*), coalesce(sum(copies) FILTER (WHERE {missing}), 0),
               count(*) FILTER (WHERE copies > 1 AND NOT ({missing})),
               min({shown}, {MAX_EXAMPLES}) FILTER (WHERE copies > 0 AND (copies > 1 OR {missing}))
        FROM found
        """
    ).fetchone()
    assert row is not None
    return {
        "table": table,
        "rows": int(row[0]),
        "null_keys": int(row[1]),
        "repeated_keys": int(row[2]),
        "examples": [f"{table} {example}" for example in row[3] or []],
    }
