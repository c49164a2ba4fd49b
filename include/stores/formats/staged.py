"""Writes what is to be landed aside: rows of text as Parquet, or spread over hours as JSON Lines."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from include.stores.formats.rows import Chunk, refused_line
from include.stores.lake import as_pattern

_COLUMNS: dict[str, Any] = {"t": pa.timestamp("us"), "n": pa.int64(), "raw": pa.string(), "error": pa.string()}
SPOOL = pa.schema(_COLUMNS)
BATCH_ROWS = 10_000
UNREADABLE = ".unreadable.jsonl"


@dataclass(frozen=True)
class Staged:
    """A file written aside, and the batch and name that it will have. `hour` None: the others' hour decides.

    `since` is the first usable event time of a bulk arrival, `instead` the name that it would have had were it not whole, or not cut.
    """

    path: Path
    table: str
    hour: datetime | None
    name: str
    since: datetime | None = None
    instead: str | None = None


class Spool:
    """Rows on their way into the landing folder, kept on disk with their times."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows = 0
        self._writer = pq.ParquetWriter(path, SPOOL, compression="zstd", compression_level=1)

    def add(self, chunk: Chunk, times: list[datetime | None], keep: list[bool] | None) -> None:
        """Append a chunk's rows, or those to keep."""
        count = len(chunk.raw)
        naive = [None if time is None else time.replace(tzinfo=None) for time in times]
        numbers = pa.array(range(self.rows, self.rows + count), pa.int64())
        table = pa.table([pa.array(naive, pa.timestamp("us")), numbers, chunk.raw, chunk.errors], schema=SPOOL)
        if keep is not None:
            table = table.filter(pa.array(keep, pa.bool_()))
        if table.num_rows:
            self._writer.write_table(table)
        self.rows += count

    def close(self) -> None:
        self._writer.close()


@contextmanager
def bounded(work: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """A DuckDB that spills to disk instead of growing, and keeps the order of rows."""
    # A folder of its own: DuckDB gives what it spills the same names in every process, and landings need no lock.
    scratch = work / "duckdb_tmp" / uuid.uuid4().hex
    scratch.mkdir(parents=True)
    config: dict[str, Any] = {"memory_limit": "1GB", "threads": 1, "temp_directory": str(scratch)}
    try:
        with duckdb.connect(config=config) as connection:
            yield connection
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def column_texts(
    connection: duckdb.DuckDBPyConnection, raw: pa.Array[Any], errors: pa.Array[Any], column: str
) -> pa.Array[Any]:
    """One column of rows of JSON text, null where a row cannot be read or has no such column."""
    connection.register("chunk", pa.table({"raw": raw, "error": errors}))
    found = connection.execute(
        "SELECT CASE WHEN error IS NULL THEN json_extract_string(raw, ?) END AS text FROM chunk", [_pointer(column)]
    )
    return found.to_arrow_table().column("text").combine_chunks()


def write_parquet(connection: duckdb.DuckDBPyConnection, spool: Path, columns: tuple[str, ...], to: Path) -> None:
    """Write a spool's readable rows as Parquet of text columns, and the others beside it as JSON Lines, if any."""
    picked = ", ".join(f"json_extract_string(raw, ?) AS c{n}" for n in range(len(columns)))
    pointers = [_pointer(column) for column in columns]
    reader = connection.execute(
        f"SELECT {picked} FROM read_parquet(?, hive_partitioning = false) WHERE error IS NULL ORDER BY n",
        [*pointers, as_pattern(spool)],
    ).to_arrow_reader(BATCH_ROWS)
    schema = pa.schema([(column, pa.string()) for column in columns])
    with pq.ParquetWriter(to, schema, compression="zstd") as writer:
        for batch in reader:
            writer.write_table(pa.table(batch.columns, schema=schema))
    unreadable = connection.execute(
        "SELECT raw, error FROM read_parquet(?, hive_partitioning = false) WHERE error IS NOT NULL ORDER BY n",
        [as_pattern(spool)],
    ).to_arrow_reader(BATCH_ROWS)
    beside = to.with_name(to.name.removesuffix(".parquet") + UNREADABLE)
    with beside.open("wb") as file:
        for batch in unreadable:
            file.writelines(_lines(batch))
        empty = file.tell() == 0
    if empty:
        beside.unlink()


def write_lines(connection: duckdb.DuckDBPyConnection, spool: Path, to: Path) -> None:
    """Write a spool's rows as JSON Lines, compressed with zstd."""
    reader = connection.execute(
        "SELECT raw, error FROM read_parquet(?, hive_partitioning = false) ORDER BY n", [as_pattern(spool)]
    ).to_arrow_reader(BATCH_ROWS)
    with pa.CompressedOutputStream(str(to), "zstd") as file:
        for batch in reader:
            file.write(b"".join(_lines(batch)))


def spread_lines(
    connection: duckdb.DuckDBPyConnection, spool: Path, otherwise: datetime, folder: Path
) -> Iterator[tuple[datetime, Path]]:
    """Write a spool's rows as one JSON Lines file an hour of their times; yields each hour (naive, UTC) and its file.

    Args:
        connection: from `bounded`.
        spool: the rows.
        otherwise: the hour of rows without a time, naive.
        folder: where the files are written.
    """
    reader = connection.execute(
        "SELECT coalesce(date_trunc('hour', t), ?::TIMESTAMP)::TIMESTAMP AS hour, raw, error FROM read_parquet(?, hive_partitioning = false) ORDER BY 1, n",
        [otherwise, as_pattern(spool)],
    ).to_arrow_reader(BATCH_ROWS)
    before: tuple[datetime, Path] | None = None
    for batch in reader:
        hours: list[Any] = batch.column("hour").to_pylist()
        lines = _lines(batch)
        for start, end in _runs(hours):
            hour = hours[start]
            if before is not None and before[0] != hour:
                yield before
            before = (hour, folder / f"{hour:%Y%m%d%H}.jsonl")
            with before[1].open("ab") as file:
                file.writelines(lines[start:end])
    if before is not None:
        yield before


def items_of_lines(
    connection: duckdb.DuckDBPyConnection, spool: Path, hour: datetime | None, otherwise: datetime, folder: Path
) -> Iterator[tuple[datetime, Path, int]]:
    """Write the items that invoice lines name: one row a (code, description), in order of first appearance.

    Args:
        connection: from `bounded`.
        spool: the lines.
        hour: the hour of them all, naive; None cuts them by their own hours.
        otherwise: the hour of lines without a time, naive.
        folder: where the files are written.

    Yields:
        Each hour (naive), its file and its number of rows.
    """
    reader = connection.execute(
        """
        WITH lines AS (
            SELECT
                coalesce(?::TIMESTAMP, date_trunc('hour', t), ?::TIMESTAMP)::TIMESTAMP AS hour, n, t,
                raw ->> 'stock_code' AS stock_code, raw ->> 'description' AS description,
                raw ->> 'invoice_date' AS invoice_date
            FROM read_parquet(?, hive_partitioning = false) WHERE error IS NULL
        )
        SELECT
            hour, stock_code, description, count(*) AS n_lines,
            coalesce(arg_min(invoice_date, (t, n)) FILTER (t IS NOT NULL), min(invoice_date)) AS first_invoice_date,
            coalesce(arg_max(invoice_date, (t, n)) FILTER (t IS NOT NULL), max(invoice_date)) AS last_invoice_date
        FROM lines GROUP BY hour, stock_code, description ORDER BY hour, min(n)
        """,
        [hour, otherwise, as_pattern(spool)],
    ).to_arrow_reader(BATCH_ROWS)
    schema = pa.schema([field for field in reader.schema if field.name != "hour"])
    current: datetime | None = None
    rows = 0
    writer: pq.ParquetWriter | None = None

    def path() -> Path:
        return folder / f"{current:%Y%m%d%H}.parquet"

    for batch in reader:
        hours: list[Any] = batch.column("hour").to_pylist()
        items = pa.Table.from_batches([batch]).drop_columns(["hour"])
        for start, end in _runs(hours):
            if writer is None or hours[start] != current:
                if writer is not None and current is not None:
                    writer.close()
                    yield current, path(), rows
                current, rows = hours[start], 0
                writer = pq.ParquetWriter(path(), schema, compression="zstd")
            writer.write_table(items.slice(start, end - start))
            rows += end - start
    if writer is not None and current is not None:
        writer.close()
        yield current, path(), rows


def _runs(values: list[datetime]) -> Iterator[tuple[int, int]]:
    """Start and end of each run of equal values."""
    starts = [n for n in range(len(values)) if n == 0 or values[n] != values[n - 1]]
    yield from zip(starts, [*starts[1:], len(values)], strict=True)


def _lines(batch: pa.RecordBatch) -> list[bytes]:
    raw: list[Any] = batch.column("raw").to_pylist()
    errors = batch.column("error").to_pylist()
    return [
        (row if error is None else refused_line(row, error)).encode() + b"\n"
        for row, error in zip(raw, errors, strict=True)
    ]


def _pointer(column: str) -> str:
    """DuckDB's path to a key of any spelling."""
    return "/" + column.replace("~", "~0").replace("/", "~1")
