"""Reads Parquet, JSON Lines and CSV files (gzip and zstd too) as a stream of rows of text.

Nothing is interpreted here: every scalar becomes the text that came, so that the cleaning rules see it. A row that cannot
be read is kept with a reason; a file that cannot be read is refused with its position.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, cast

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from include.errors import BadInput

LONGEST_LINE = 64 * 2**20  # bytes; a longer one means that the file is not what its name says
MOST_COLUMNS = 10_000  # noted of a JSON Lines file, where every row may have its own
CHUNK_ROWS = 20_000
CHUNK_BYTES = 8 * 2**20
TEXT_KINDS = {".jsonl": "json", ".ndjson": "json", ".json": "json", ".csv": "csv"}
COMPRESSIONS = (".gz", ".zst")
KNOWN = ".parquet, or .jsonl .ndjson .json .csv (also with .gz or .zst after it)"
AGAIN = "deliver the file again, whole"

# Arrow types by the names of pyarrow's tests: those that are text, and those whose cast to text DuckDB knows.
TEXTUAL = ("string", "large_string", "string_view", "binary", "large_binary", "binary_view", "fixed_size_binary")
CASTABLE = ("integer", "float32", "float64", "boolean", "timestamp", "date32", "time", "decimal128", "null")

csv.field_size_limit(LONGEST_LINE)


@dataclass(frozen=True)
class Dialect:
    """How the columns of a file are to be read; of JSON Lines only `each` and `unreadable` count.

    Attributes:
        delimiter: what stands between the fields of a line.
        quoted: whether a field may stand in double quotes.
        rename: gives each column's name as landed.
        constants: columns that every row gets besides those of the file.
        spaced: columns (as landed) of a CSV file that are lists with blanks between their members; they land with `|`.
        each: a function that is given every readable row, and returns the row that lands, or None where it belongs to another table.
        unreadable: whether rows that cannot be read land too; not where the same file lands as another table as well.
    """

    delimiter: str = ","
    quoted: bool = True
    rename: Callable[[str], str] = str
    constants: tuple[tuple[str, str], ...] = ()
    spaced: frozenset[str] = frozenset()
    each: Callable[[dict[str, Any]], dict[str, Any] | None] | None = None
    unreadable: bool = True


PLAIN = Dialect()


@dataclass(frozen=True)
class Chunk:
    """Some consecutive rows of a file.

    Attributes:
        raw: for each row one JSON object as text, every scalar a JSON string; for an unreadable row what came, as JSON.
        errors: for each row null, or why it cannot be read.
        columns: the columns seen so far, in order.
        position: bytes of the file consumed so far.
    """

    raw: pa.Array[Any]
    errors: pa.Array[Any]
    columns: tuple[str, ...]
    position: int


def kind_of(path: Path) -> str | None:
    """`parquet`, `json` or `csv` by the file's name; None if the name says no such thing."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in COMPRESSIONS:
        return TEXT_KINDS.get(suffixes[-2]) if len(suffixes) > 1 else None
    return "parquet" if suffixes[-1:] == [".parquet"] else TEXT_KINDS.get(suffixes[-1]) if suffixes else None


def read(path: Path, dialect: Dialect = PLAIN, *, kind: str | None = None) -> Iterator[Chunk]:
    """Stream a file's rows, in file order. An empty file has none.

    Args:
        path: the file.
        dialect: how its columns are to be read.
        kind: what the file is, where its name does not say it.

    Raises:
        BadInput: the file is missing, cut off, damaged or not what its name says; names file, position and what to do.
    """
    kind = kind or kind_of(path)
    if kind is None:
        raise BadInput(f"{path}: unknown extension; known are {KNOWN}")
    try:
        if path.stat().st_size == 0:
            return
        chunks = _read_parquet(path, dialect) if kind == "parquet" else _read_text(path, dialect, kind)
        yield from chunks if dialect.each is None else _each(chunks, dialect.each, dialect.unreadable)
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({_line(error)})") from error


def _each(
    chunks: Iterator[Chunk], change: Callable[[dict[str, Any]], dict[str, Any] | None], unreadable: bool
) -> Iterator[Chunk]:
    """The chunks with every readable row changed; the columns are those of the rows that are left."""
    columns: dict[str, None] = {}
    for chunk in chunks:
        raw: list[str] = []
        errors: list[str | None] = []
        for text, error in zip(chunk.raw.to_pylist(), chunk.errors.to_pylist(), strict=True):
            row = change(json.loads(text)) if error is None else None
            if row is not None:
                columns.update(dict.fromkeys(row))
            if row is not None or (error is not None and unreadable):
                raw.append(text if row is None else _encode(row))
                errors.append(error)
        yield _chunk(raw, errors, columns, chunk.position)


# ---------------------------------------------------------------- text


@dataclass
class _Lines:
    """The lines of a text file, and how far it was read."""

    path: Path
    stream: BinaryIO
    tell: Callable[[], int]
    number: int = 0
    pushed_back: deque[bytes] = field(default_factory=deque)

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> bytes:
        if self.pushed_back:
            self.number += 1
            return self.pushed_back.popleft()
        try:
            line = self.stream.readline(LONGEST_LINE + 1)
        except (OSError, EOFError, zlib.error, pa.ArrowException) as error:
            raise BadInput(
                f"{self.path}: cannot be read past line {self.number} (byte {self.tell()} of {self.path.stat().st_size}): "
                f"{_line(error)}; {AGAIN}"
            ) from error
        if not line:
            raise StopIteration
        self.number += 1
        if len(line) > LONGEST_LINE:
            raise BadInput(
                f"{self.path}: line {self.number} is longer than {LONGEST_LINE // 2**20} MiB, so this is no file of lines"
            )
        return line

    def push_back(self, lines: list[bytes]) -> None:
        self.pushed_back.extendleft(reversed(lines))
        self.number -= len(lines)


@dataclass
class _Row:
    raw: str
    error: str | None = None


def _read_text(path: Path, dialect: Dialect, kind: str) -> Iterator[Chunk]:
    with path.open("rb") as file, closing(_decompressed(path, file)) as stream:
        lines = _Lines(path, stream, file.tell)
        _check_beginning(path, stream, lines)
        columns: dict[str, None] = {}
        rows = _json_rows(lines, columns) if kind == "json" else _csv_rows(lines, columns, dialect)
        raw: list[str] = []
        errors: list[str | None] = []
        size = 0
        for row in rows:
            raw.append(row.raw)
            errors.append(row.error)
            size += len(row.raw)
            if len(raw) >= CHUNK_ROWS or size >= CHUNK_BYTES:
                yield _chunk(raw, errors, columns, file.tell())
                raw, errors, size = [], [], 0
        # Also without rows: a header says which columns there are.
        yield _chunk(raw, errors, columns, file.tell())


def _chunk(raw: list[str], errors: list[str | None], columns: dict[str, None], position: int) -> Chunk:
    return Chunk(pa.array(raw, pa.string()), pa.array(errors, pa.string()), tuple(columns), position)


def _decompressed(path: Path, file: BinaryIO) -> BinaryIO:
    match path.suffix.lower():
        case ".gz":
            return cast(BinaryIO, gzip.GzipFile(fileobj=file, mode="rb"))
        case ".zst":
            return cast(
                BinaryIO,
                io.BufferedReader(pa.CompressedInputStream(cast(Any, pa.PythonFile(cast(Any, file), "r")), "zstd")),
            )
    return file


def _check_beginning(path: Path, stream: BinaryIO, lines: _Lines) -> None:
    """Refuse what plainly is another format than the name says; skip a byte order mark."""
    try:
        first = lines.__next__()
    except StopIteration:
        return
    seen = {
        b"PAR1": "is a Parquet file: name it .parquet",
        b"\x1f\x8b": "is compressed with gzip: add .gz to its name",
        b"\x28\xb5\x2f\xfd": "is compressed with zstd: add .zst to its name",
        b"\xff\xfe": "is UTF-16: convert it to UTF-8",
        b"\xfe\xff": "is UTF-16: convert it to UTF-8",
    }
    for magic, what in seen.items():
        if first.startswith(magic):
            raise BadInput(f"{path}: its content, from byte 0, {what}")
    inner = path.with_suffix("") if path.suffix.lower() in COMPRESSIONS else path
    if inner.suffix.lower() == ".json" and first.lstrip().startswith(b"["):
        raise BadInput(
            f"{path}: its content, from byte 0, is one JSON array; wanted is one object a line (`jq -c '.[]'` makes them, name it .jsonl)"
        )
    without_mark = first.removeprefix(b"\xef\xbb\xbf")
    if without_mark:
        lines.push_back([without_mark])


def _json_rows(lines: _Lines, columns: dict[str, None]) -> Iterator[_Row]:
    for line in lines:
        if not line.isspace():
            yield _json_row(line, columns)


ERRORS = frozenset({"malformed_json", "not_an_object", "malformed_csv", "ragged_csv", "invalid_utf8", "nul_byte"})
"""Why a row cannot be read."""

REFUSED = {"refused", "error"}
"""The fields of a line that stands for an unreadable row of a file that was written anew."""


def refused_line(raw: str, error: str) -> str:
    """A line that is read as an unreadable row again: what came, as JSON, and why it could not be read."""
    return f'{{"refused":{raw},"error":"{error}"}}'


MEASURES = frozenset({"value", "price"})
"""Columns whose NaN the rules refuse. In others a number that is none stands for nothing, as data frames write it."""


class _Constant(str):
    """JSON's `NaN` or `Infinity`, which is no text."""


_decode = json.JSONDecoder(parse_int=str, parse_float=str, parse_constant=_Constant).decode
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def _json_row(line: bytes, columns: dict[str, None]) -> _Row:
    if b"\0" in line:
        return _Row(_quoted(line), "nul_byte")
    try:
        text = line.decode()
    except UnicodeDecodeError:
        return _Row(_quoted(line), "invalid_utf8")
    try:
        values = _decode(text)
        if type(values) is not dict:
            return _Row(_quoted(line), "not_an_object")
        if values.keys() == REFUSED and str(values["error"]) in ERRORS:
            return _Row(_encode(values["refused"]), values["error"])
        row = _object({name: v if type(v) is str else _flat_json(name, v) for name, v in values.items()}, line)
    except (ValueError, RecursionError):
        return _Row(_quoted(line), "malformed_json")
    if row.error is None and len(columns) < MOST_COLUMNS:
        columns.update(dict.fromkeys(values))
    return row


def _csv_rows(lines: _Lines, columns: dict[str, None], dialect: Dialect) -> Iterator[_Row]:
    taken: list[bytes] = []

    class Feed:
        """Hands the reader text, and remembers the lines of the record under way."""

        def __iter__(self) -> Feed:
            return self

        def __next__(self) -> str:
            line = next(lines)
            taken.append(line)
            return line.decode(errors="surrogateescape")

    reader = csv.reader(
        Feed(),
        delimiter=dialect.delimiter,
        quoting=csv.QUOTE_MINIMAL if dialect.quoted else csv.QUOTE_NONE,
        strict=True,
    )
    names: list[str] | None = None
    while True:
        taken.clear()
        try:
            record = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            if names is None:
                raise BadInput(f"{lines.path}: line 1, the header, cannot be read: {error}") from error
            # A stray quote costs its own line, not the lines that it swallowed.
            lines.push_back(taken[1:])
            yield _Row(_quoted(taken[0]), "malformed_csv")
            continue
        if not record:
            continue
        if names is None:
            names = _header(lines.path, record, dialect)
            columns.update(dict.fromkeys([*names, *dict(dialect.constants)]))
        elif len(record) != len(names):
            lines.push_back(taken[1:])  # here too: the quote that opens a later field may have closed it
            yield _Row(_quoted(taken[0]), "ragged_csv")
        else:
            values = dict(zip(names, record, strict=True)) | dict(dialect.constants)
            for name in dialect.spaced & values.keys() if dialect.spaced else ():
                values[name] = "|".join(values[name].split())
            yield _object(values, b"".join(taken))


def _header(path: Path, record: list[str], dialect: Dialect) -> list[str]:
    header = "".join(record)
    if not _encodable(header) or "\0" in header:
        raise BadInput(f"{path}: line 1, the header, is not UTF-8 text")
    return _unique([dialect.rename(name.strip()) for name in record])


def _unique(names: list[str]) -> list[str]:
    """The names, a repeated one with its number, so that no column hides another."""
    taken = set(names)  # a numbered name may itself stand in the file
    seen: dict[str, int] = {}
    unique = []
    for name in names:
        number = seen.get(name, 0) + 1
        free = name
        while number > 1 and (free := f"{name}_{number}") in taken:
            number += 1
        seen[name] = number
        taken.add(free)
        unique.append(free)
    return unique


def _object(values: dict[str, Any], came: bytes) -> _Row:
    raw = _encode(values)
    if not raw.isascii() and not _encodable(raw):
        return _Row(_quoted(came), "invalid_utf8")
    if "\\u0000" in raw and _has_nul(values):
        return _Row(_quoted(came), "nul_byte")
    return _Row(raw)


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _quoted(came: bytes) -> str:
    """What came as a JSON string, bytes that are no text escaped with a backslash."""
    text = came.rstrip(b"\r\n").decode(errors="backslashreplace").replace("\0", "\\x00")
    return _encode(text)


def _flat_json(name: str, value: Any) -> Any:
    return None if type(value) is _Constant and value == "NaN" and name not in MEASURES else _texts(value)


def _texts(value: Any) -> Any:
    """A JSON value with every scalar as text."""
    match value:
        case None | str():
            return value
        case bool():
            return "true" if value else "false"
        case bytes():
            return value.decode()
        case dict():
            return {str(_texts(name)): _texts(inner) for name, inner in value.items()}
        case list() | tuple():
            return [_texts(inner) for inner in value]
    return str(value)


def _has_nul(value: Any) -> bool:
    match value:
        case str():
            return "\0" in value
        case dict():
            return any(_has_nul(name) or _has_nul(inner) for name, inner in value.items())
        case list():
            return any(_has_nul(inner) for inner in value)
    return False


# ---------------------------------------------------------------- Parquet


def _read_parquet(path: Path, dialect: Dialect) -> Iterator[Chunk]:
    try:
        file = pq.ParquetFile(path, pre_buffer=False, buffer_size=2**20)
    except (OSError, pa.ArrowException) as error:
        raise BadInput(
            f"{path}: no readable Parquet (its footer, at byte {path.stat().st_size}): {_line(error)}; {AGAIN}"
        ) from error
    with file, duckdb.connect() as connection:
        connection.execute("SET threads = 1")
        names = _unique([dialect.rename(name) for name in file.schema_arrow.names])
        columns = (*names, *dict(dialect.constants))
        total = max(file.metadata.num_rows, 1)
        size = path.stat().st_size
        done = 0
        yield Chunk(pa.array([], pa.string()), pa.array([], pa.string()), columns, 0)
        for group in range(file.num_row_groups):
            for batch in _batches(path, file, group, done):
                try:
                    raw, errors = _rows_as_json(connection, batch, names, dialect)
                except (duckdb.Error, pa.ArrowException) as error:
                    raise BadInput(
                        f"{path}: the values past row {done} cannot be read: {_line(error)}; write them as text"
                    ) from error
                done += len(batch)
                yield Chunk(raw, errors, columns, size * done // total)


def _batches(path: Path, file: pq.ParquetFile, group: int, done: int) -> Iterator[pa.RecordBatch]:
    metadata = file.metadata.row_group(group)
    row_bytes = metadata.total_byte_size // max(metadata.num_rows, 1) + 1
    rows = max(1, min(65_536, 4 * CHUNK_BYTES // row_bytes))
    batches = file.iter_batches(batch_size=rows, row_groups=[group], use_threads=False)
    while True:
        try:
            batch = next(batches, None)
        except (OSError, pa.ArrowException) as error:
            raise BadInput(
                f"{path}: damaged in row group {group + 1} of {file.num_row_groups}, past row {done}: {_line(error)}; {AGAIN}"
            ) from error
        if batch is None:
            return
        done += len(batch)
        yield batch


def _rows_as_json(
    connection: duckdb.DuckDBPyConnection, batch: pa.RecordBatch, names: list[str], dialect: Dialect
) -> tuple[pa.Array[Any], pa.Array[Any]]:
    errors: dict[int, str] = {}
    nested: list[bool] = []
    columns = []
    for name, column in zip(names, batch.columns, strict=True):
        is_nested = pa.types.is_nested(column.type)
        nested.append(is_nested)
        columns.append(_nested_as_json(column, errors) if is_nested else _flat(name, column, errors))
    # Only positions are written into the statement; the file's own names are bound.
    texts = (f"?::VARCHAR, c{n}::{'JSON' if nested[n] else 'VARCHAR'}" for n in range(len(columns)))
    constants = dict(dialect.constants)
    pairs = ", ".join([*texts, *(["?::VARCHAR, ?::VARCHAR"] * len(constants))])
    bound = [*names, *(part for pair in constants.items() for part in pair)]
    if not columns:
        columns = [pa.nulls(len(batch))]
    table = pa.table(columns, names=[f"c{n}" for n in range(len(columns))])
    connection.register("batch", table)
    raw = connection.execute(f"SELECT json_object({pairs})::VARCHAR AS raw FROM batch", bound).to_arrow_table()
    connection.unregister("batch")
    texts_out = raw.column("raw").combine_chunks().cast(pa.string())
    return _without_nul(texts_out, errors)


def _flat(name: str, column: pa.Array[Any], errors: dict[int, str]) -> pa.Array[Any]:
    """A column that DuckDB casts to text as it came; strings are made valid UTF-8, and rows where they were not noted."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        column, kind = column.cast(kind.value_type), kind.value_type
    if pa.types.is_timestamp(kind) and kind.tz is not None:
        return column.cast(pa.timestamp(kind.unit))  # the instant, in UTC
    if not _is_text(kind):
        if pa.types.is_floating(kind) and name not in MEASURES:
            column = pc.if_else(pc.is_nan(column), None, column)
        if any(getattr(pa.types, f"is_{test}")(kind) for test in CASTABLE):
            return column
        return pa.array([None if value is None else str(value) for value in column.to_pylist()], pa.string())
    column = column.cast(pa.large_binary())
    try:
        return column.cast(pa.large_string())
    except pa.ArrowInvalid:
        values = column.to_pylist()
        for row, value in enumerate(values):
            if value is not None and not _is_utf8(value):
                errors.setdefault(row, "invalid_utf8")
                values[row] = value.decode(errors="backslashreplace").encode()
        return pa.array(values, pa.large_binary()).cast(pa.large_string())


def _is_text(kind: pa.DataType) -> bool:
    return any(getattr(pa.types, f"is_{test}")(kind) for test in TEXTUAL)


def _is_utf8(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def _nested_as_json(column: pa.Array[Any], errors: dict[int, str]) -> pa.Array[Any]:
    """Lists and structures as JSON text with every scalar as text."""
    texts: list[str | None] = []
    bytewise: Any = column.cast(_with_bytes(column.type))
    for row, value in enumerate(bytewise.to_pylist(maps_as_pydicts="lossy")):
        try:
            texts.append(None if value is None else _encode(_texts(value)))
        except UnicodeDecodeError:
            errors.setdefault(row, "invalid_utf8")
            texts.append(_encode(repr(value)))
    return pa.array(texts, pa.string())


def _with_bytes(kind: pa.DataType) -> pa.DataType:
    """The type with text as bytes, so that invalid UTF-8 is met row by row."""
    if pa.types.is_map(kind):
        return pa.map_(_with_bytes(kind.key_type), _with_bytes(kind.item_type))
    if pa.types.is_struct(kind):
        return pa.struct([pa.field(f.name, _with_bytes(f.type)) for f in kind])
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return pa.large_list(_with_bytes(kind.value_type))
    return pa.large_binary() if _is_text(kind) else kind


def _without_nul(raw: pa.Array[Any], errors: dict[int, str]) -> tuple[pa.Array[Any], pa.Array[Any]]:
    suspects = pa.compute.match_substring(raw, "\\u0000")
    if pa.compute.any(suspects).as_py():
        texts: list[Any] = raw.to_pylist()
        for row, suspect in enumerate(suspects.to_pylist()):
            if suspect and _has_nul(json.loads(texts[row])):
                errors.setdefault(row, "nul_byte")
                texts[row] = _encode(_escaped(json.loads(texts[row])))
        raw = pa.array(texts, pa.string())
    return raw, pa.array([errors.get(row) for row in range(len(raw))] if errors else [None] * len(raw), pa.string())


def _escaped(value: Any) -> Any:
    match value:
        case str():
            return value.replace("\0", "\\x00")
        case dict():
            return {_escaped(name): _escaped(inner) for name, inner in value.items()}
        case list():
            return [_escaped(inner) for inner in value]
    return value


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
