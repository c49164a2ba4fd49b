"""The landing folder: which batches of files arrived, and their rows as text.

`landing/{events,items,users}/dt=YYYY-MM-DD/hr=HH/*`, by hour of arrival in UTC. A file appears whole: names that start with
`_` or `.`, or end in `.tmp`, are not there yet.
"""

import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from include.columns import LANDED_TABLES
from include.errors import BadInput
from include.readable import readable
from include.settings import Settings
from include.stores import files
from include.stores.files import Entry, Listing
from include.stores.formats.progress import Progress
from include.stores.formats.rows import Chunk, read

CANONICAL = "canonical"
ROWS_PER_GROUP = 120_000
BYTES_PER_GROUP = 64 * 2**20
_COLUMNS: dict[str, Any] = {
    "arrival_hour": pa.timestamp("us"),
    "source": pa.string(),
    "file": pa.string(),
    "row_number": pa.int64(),
    "raw": pa.string(),
    "read_error": pa.string(),
}
SCHEMA = pa.schema(_COLUMNS)
_DAY = re.compile(r"dt=(\d{4}-\d{2}-\d{2})")
_HOUR = re.compile(r"hr=([01]\d|2[0-3])")


@dataclass(frozen=True)
class LandedFile:
    """One file of a batch; `name` is relative to the batch's folder, `version` changes when it is written anew."""

    path: Path
    name: str
    size: int
    version: str


@dataclass(frozen=True)
class Batch:
    """The files of one table that arrived in one hour, sorted by name; `arrival_hour` is in UTC."""

    table: str
    arrival_hour: datetime
    files: tuple[LandedFile, ...]

    @property
    def fingerprint(self) -> str:
        """Changes when a file of the batch is added, replaced or removed."""
        seen = hashlib.sha256()
        for file in self.files:
            seen.update(f"{file.name}\0{file.size}\0{file.version}\n".encode())
        return seen.hexdigest()


def folder(settings: Settings, table: str, hour: datetime) -> Path:
    """The folder of the batch of an hour."""
    return settings.landing / batch_name(table, hour)


def batch_name(table: str, hour: datetime) -> str:
    """The path of a batch's folder within the landing folder."""
    return f"{table}/dt={hour.date().isoformat()}/hr={hour:%H}"


def refuse_ahead(hour: datetime, what: str) -> None:
    """Refuse an hour of arrival that has not begun, but for one by which clocks may differ: T would run ahead, and never come back.

    Raises:
        BadInput: it has not; the message begins with what names it.
    """
    if hour > datetime.now(UTC) + timedelta(hours=1):
        raise BadInput(
            f"{what} is of an hour that has not begun: nothing can have arrived in it yet; take that in which it came"
        )


INCOMING = "_incoming-"
"""How the name of a folder begins in which `land` prepares files, beside their place."""


def is_ignored(name: str) -> bool:
    """Whether a name says that the file is still being written, or is a note to itself."""
    return name.startswith(("_", ".")) or name.endswith(".tmp")


def source_of(name: str) -> str:
    """Whose staging models clean a file: what stands before `--` in its name."""
    prefix, found, _ = name.rpartition("/")[2].partition("--")
    return prefix if found and prefix else CANONICAL


def batches(settings: Settings, start: datetime | None = None, end: datetime | None = None) -> list[Batch]:
    """The batches that have files, of the arrival hours from start up to, not including, end; by table, then hour.

    Raises:
        BadInput: something lies in the landing folder that belongs to no batch, and so would never be read.
    """
    return list(_batches(settings, start, end))


def _batches(settings: Settings, start: datetime | None, end: datetime | None) -> Iterator[Batch]:
    for table in LANDED_TABLES:
        listing = Listing(settings.landing / table)
        for day_folder in _entries(listing, settings.landing / table):
            day = _day(day_folder)
            for hour_folder in _entries(listing, day_folder.path):
                found = _HOUR.fullmatch(hour_folder.path.name)
                if found is None or not hour_folder.is_folder:
                    raise _stray(hour_folder.path)
                hour = day.replace(hour=int(found[1]))
                refuse_ahead(hour, str(hour_folder.path))
                if (start is None or hour >= start) and (end is None or hour < end):
                    landed = tuple(sorted(_files(listing, hour_folder.path, ""), key=lambda file: file.name))
                    if landed:
                        yield Batch(table, hour, landed)


def _day(folder: Entry) -> datetime:
    found = _DAY.fullmatch(folder.path.name)
    if found is None or not folder.is_folder:
        raise _stray(folder.path)
    try:
        return datetime.fromisoformat(found[1]).replace(tzinfo=UTC)
    except ValueError as error:
        raise _stray(folder.path) from error


def _stray(path: Path) -> BadInput:
    return BadInput(f"{path} is no batch: wanted is landing/TABLE/dt=YYYY-MM-DD/hr=HH/FILE; move or remove it")


def _entries(listing: Listing, folder: Path) -> list[Entry]:
    return [entry for entry in listing.entries(folder) if not is_ignored(entry.path.name)]


def _files(listing: Listing, folder: Path, within: str) -> Iterator[LandedFile]:
    for entry in _entries(listing, folder):
        name = within + entry.path.name
        if entry.is_folder:
            yield from _files(listing, entry.path, f"{name}/")
        else:
            yield LandedFile(entry.path, name, entry.size, entry.version)


def read_batches(
    settings: Settings, batches: Iterable[Batch], out: Path, progress: Callable[[str], None] | None = None
) -> dict[tuple[str, datetime], int]:
    """Stream every row of some batches into `out/{events,items,users}/NNNN.parquet` (see `SCHEMA`).

    A row that cannot be read is written too, with `read_error` and what came as `raw`. Each table has at least one file.

    Args:
        settings: whose landing folder.
        batches: what to read.
        out: folder to write to; files of an earlier reading in it are replaced.
        progress: takes a line every few seconds; None shows a bar, or lines, on stderr.

    Returns:
        The number of rows landed by table and arrival hour.

    Raises:
        BadInput: a file cannot be read at all; nothing is left in `out`. Names file, position and what to do.
    """
    chosen = sorted(batches, key=lambda batch: (batch.table, batch.arrival_hour))
    landed: dict[tuple[str, datetime], int] = {}
    written: list[tuple[Path, Path]] = []
    try:
        with Progress(sum(file.size for batch in chosen for file in batch.files), progress) as shown:
            for table in LANDED_TABLES:
                target = out / table / "0000.parquet"
                target.parent.mkdir(parents=True, exist_ok=True)
                aside = target.with_suffix(".tmp")
                written.append((aside, target))
                with pq.ParquetWriter(aside, SCHEMA, compression="zstd", compression_level=1) as writer:
                    grouped = _Grouped(writer)
                    for batch in (batch for batch in chosen if batch.table == table):
                        rows = sum(_read_file(settings, batch, file, grouped, shown) for file in batch.files)
                        landed[table, batch.arrival_hour] = rows
                    grouped.flush()
    except BaseException:
        for aside, _ in written:
            aside.unlink(missing_ok=True)
        raise
    for aside, target in written:
        aside.replace(target)
    return landed


class _Grouped:
    """Collects small tables into row groups of a useful size."""

    def __init__(self, writer: pq.ParquetWriter) -> None:
        self._writer = writer
        self._tables: list[pa.Table] = []
        self._rows = 0
        self._bytes = 0

    def add(self, table: pa.Table) -> None:
        self._tables.append(table)
        self._rows += table.num_rows
        self._bytes += table.nbytes
        if self._rows >= ROWS_PER_GROUP or self._bytes >= BYTES_PER_GROUP:
            self.flush()

    def flush(self) -> None:
        if self._rows:
            self._writer.write_table(pa.concat_tables(self._tables), row_group_size=self._rows)
        self._tables, self._rows, self._bytes = [], 0, 0


def _read_file(settings: Settings, batch: Batch, file: LandedFile, grouped: _Grouped, shown: Progress) -> int:
    name = f"{batch_name(batch.table, batch.arrival_hour)}/{file.name}"
    hour = batch.arrival_hour.replace(tzinfo=None)
    rows = 0
    with files.local(file.path, settings.work) as here, unwritten(here):
        for chunk in named(file.path, here, read(here)):
            grouped.add(_landed(chunk, hour, source_of(file.name), name, rows))
            rows += len(chunk.raw)
            shown.at(readable(name), chunk.position, rows)
    shown.file_done(file.size)
    return rows


@contextmanager
def unwritten(path: Path) -> Iterator[None]:
    """Refuse a file that is written to meanwhile: what was read of it may be rows of both contents.

    Another file of that name is harmless: the one that was opened was read whole.

    Raises:
        BadInput: there is no such file; or, at the end, it was written to. Names it and says what to do.
    """
    try:
        file = path.open("rb")
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error})") from error
    with file:  # held open, so that no other file gets its number
        before = os.fstat(file.fileno())
        yield
        after = os.fstat(file.fileno())
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise BadInput(
            f"{path}: was written to while it was read; deliver it whole (write aside, then rename), and try again"
        )


def named(original: Path, copy: Path, chunks: Iterator[Chunk]) -> Iterator[Chunk]:
    """The chunks of a copy; what is wrong with it is said of the original."""
    try:
        yield from chunks
    except BadInput as error:
        raise BadInput(str(error).replace(str(copy), str(original))) from error


def _landed(chunk: Chunk, hour: datetime, source: str, name: str, before: int) -> pa.Table:
    count = len(chunk.raw)
    columns: list[Any] = [
        pa.repeat(pa.scalar(hour, pa.timestamp("us")), count),
        pa.repeat(pa.scalar(source), count),
        pa.repeat(pa.scalar(name), count),
        pa.array(range(before + 1, before + count + 1), pa.int64()),
        chunk.raw,
        chunk.errors,
    ]
    return pa.table(columns, schema=SCHEMA)
