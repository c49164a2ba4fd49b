"""Where a home names a user: in rows of the lake's newest snapshot, and in any file at all.

A Parquet or Lance file is compressed, so its bytes alone prove nothing: what it holds is read, whether a table still names the
rows or not. An id that is short, or an ordinary word or number, stands in many files by chance. Of such a one only columns of
user ids count; any other counts wherever it stands as a word of its own.
"""

import html
import json
import mmap
import re
import sqlite3
import string
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from include.settings import Settings
from include.stores import files, lake

DISTINCT = 6
"""Bytes from which on an id is taken to stand nowhere by chance."""
USER = "user_id"
_WORD = frozenset(bytes([char]) for char in (string.digits + string.ascii_letters + "_-").encode())
_SQLITE = b"SQLite format 3\0"
_COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}
_PART, _OVERLAP = 8 * 2**20, 64 * 2**10
_NOT_OURS = "duckdb_extensions"
"""A folder of links to packages."""


@dataclass(frozen=True)
class Wanted:
    """A user to look for; `exact` looks at columns of user ids alone."""

    user: str
    exact: bool

    @classmethod
    def of(cls, user: str, exact: bool = False) -> "Wanted":
        """A user, looked for in the way that suits the id."""
        return cls(user, exact or len(user.encode()) < DISTINCT)

    @cached_property
    def spellings(self) -> tuple[str, ...]:
        """The id as it stands in text, in JSON and on a page."""
        escaped = (json.dumps(self.user)[1:-1], json.dumps(self.user, ensure_ascii=False)[1:-1], html.escape(self.user))
        return tuple(dict.fromkeys((self.user, *escaped)))

    @cached_property
    def word(self) -> str:
        """A regular expression of any spelling, as a word of its own; RE2 has no look-around."""
        either = "|".join(map(re.escape, self.spellings))
        return f"(?:^|[^0-9A-Za-z_-])(?:{either})(?:$|[^0-9A-Za-z_-])"

    def is_in(self, text: str) -> bool:
        """Whether a text names the user."""
        return re.search(self.word, text) is not None

    @cached_property
    def _literals(self) -> list[re.Pattern[bytes]]:
        """Each spelling in bytes. Literals are found 30 times as fast as one expression with what must not stand beside them."""
        return [re.compile(re.escape(spelling.encode())) for spelling in self.spellings]

    def stands_in(self, content: Any, *, whole: bool = True) -> bool:
        """Whether bytes hold the id as a word of its own.

        Args:
            content: what can be searched as bytes are.
            whole: whether nothing comes before or after; else an id at an end does not count.
        """
        for literal in self._literals:
            for match in literal.finditer(content):
                start, end = match.span()
                if not whole and (start == 0 or end == len(content)):
                    continue
                if content[max(0, start - 1) : start] not in _WORD and content[end : end + 1] not in _WORD:
                    return True
        return False


@dataclass(frozen=True)
class Landed:
    """Rows of a table that name a user: of a landed file, or with `file` None those that only the table itself has."""

    table: str
    file: str | None
    rows: tuple[int, ...]


def in_lake(settings: Settings, wanted: Wanted) -> list[Landed]:
    """The rows of the lake's newest snapshot that name a user: by landed file, then of tables that name no file."""
    if not lake.exists(settings):
        return []
    found: dict[tuple[str, str], set[int]] = {}
    others: list[Landed] = []
    with lake.connect(settings) as connection:
        columns: dict[str, dict[str, str]] = {}
        for table, column, kind in connection.execute(
            "SELECT table_name, column_name, data_type FROM duckdb_columns() WHERE database_name = ? AND schema_name = 'main'",
            [lake.ALIAS],
        ).fetchall():
            columns.setdefault(table, {})[column] = kind
        for table, kinds in sorted(columns.items()):
            condition, values = _condition(kinds, wanted)
            if not condition:
                continue
            if {"file", "row_number"} <= kinds.keys():
                rows = connection.execute(f"SELECT file, row_number FROM {table} WHERE {condition}", values).fetchall()
                for file, number in rows:
                    found.setdefault((file.partition("/")[0], file), set()).add(number)
                continue
            row = connection.execute(f"SELECT count(*) FROM {table} WHERE {condition}", values).fetchone()
            if row and row[0]:
                others.append(Landed(table, None, tuple(range(row[0]))))
    return [Landed(table, file, tuple(sorted(rows))) for (table, file), rows in sorted(found.items())] + others


def _condition(kinds: dict[str, str], wanted: Wanted) -> tuple[str, dict[str, str]]:
    """SQL of what names the user in a table with these columns, and its parameters; empty where nothing can."""
    either, values = [], {}
    if USER in kinds:
        either.append(f"{USER} = $user")
        values["user"] = wanted.user
    texts = {"VARCHAR": '"{}"', "VARCHAR[]": "array_to_string(\"{}\", ' ')"}
    for name, kind in kinds.items():
        if kind in texts and not wanted.exact:
            either.append(f"regexp_matches({texts[kind].format(name)}, $word)")
            values["word"] = wanted.word
    return " OR ".join(either), values


@dataclass(frozen=True)
class Trace:
    """A file that names a user, and where in it."""

    file: Path
    where: str


def scan(wanted: Wanted, roots: Iterable[Path]) -> tuple[list[Trace], int]:
    """Look into every file of some folders, each once; returns what names the user, and how many files there were."""
    found: list[Trace] = []
    seen: set[Path] = set()
    for root in roots:
        for file in sorted([root] if root.is_file() else files.inside(root)):
            real = file.resolve()
            if real in seen or _NOT_OURS in file.parts or not real.is_file():
                continue
            seen.add(real)
            found += [Trace(file, where) for where in sorted(set(_look(file, wanted)))]
    return found, len(seen)


def everywhere(settings: Settings) -> list[Path]:
    """The folders of a home."""
    return [settings.home, settings.work]


def _look(file: Path, wanted: Wanted) -> Iterator[str]:
    try:
        columns = _columns(file, wanted)
        if columns is None:
            yield from _in_plain(file, wanted)
            return
        explained = False
        for name, values in columns:
            own = name.split(".")[0] == USER and pc.any(pc.equal(values, wanted.user)).as_py()
            if own or (not wanted.exact and _among(values, wanted.word, regex=True)):
                yield f"column {name}"
            explained = explained or (not wanted.exact and _among(values, wanted.user))
        # Bytes that no row holds, as of a statistic or a page that is free; not the beginning of somebody else's id.
        if not wanted.exact and not explained and _holds(file, wanted.user.encode()):
            yield "its bytes"
    except FileNotFoundError:  # gone meanwhile
        return
    except (pa.ArrowException, OSError, ValueError, sqlite3.Error) as error:
        yield f"it cannot be read ({' '.join(str(error).split())[:200]})"


def _among(values: Any, text: str, *, regex: bool = False) -> bool:
    match = pc.match_substring_regex if regex else pc.match_substring
    return bool(pc.any(match(values, text)).as_py())


def _in_plain(file: Path, wanted: Wanted) -> Iterator[str]:
    """A file of text, or of bytes that nothing here decodes."""
    if not wanted.exact:
        if _says(file, wanted):
            yield "its text"
    elif file.suffix == ".json" and "publications" in file.parts and _names(json.loads(file.read_bytes()), wanted.user):
        yield "its users"


def _names(content: Any, user: str, key: str = "") -> bool:
    """Whether JSON of Tidemark's own names a user where it names users."""
    if isinstance(content, dict):
        return any(
            _names(value, user, "users" if key == "users" and name == "ids" else name)
            for name, value in content.items()
        )
    if isinstance(content, list):
        return any(_names(value, user, key) for value in content)
    return key in (USER, "users") and content == user


@contextmanager
def _mapped(file: Path) -> Iterator[Any]:
    """The bytes of a file."""
    if file.stat().st_size == 0:
        yield b""
        return
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content:
        yield content


def _holds(file: Path, text: bytes) -> bool:
    with _mapped(file) as content:
        return re.search(re.escape(text), content) is not None


def _says(file: Path, wanted: Wanted) -> bool:
    if file.suffix not in _COMPRESSIONS:
        with _mapped(file) as content:
            return wanted.stands_in(content)
    with pa.input_stream(str(file), compression=_COMPRESSIONS[file.suffix]) as opened:
        before, cut = b" ", False
        while block := opened.read(_PART):
            content = before + block
            # What lies across two blocks, or at the edge of one, is in the middle of what is looked at.
            if wanted.stands_in(content, whole=False):
                return True
            before, cut = content[-_OVERLAP:], cut or len(content) > _OVERLAP
        return wanted.stands_in(b"_" * cut + before)


Columns = Iterator[tuple[str, Any]]


def _columns(file: Path, wanted: Wanted) -> Columns | None:
    """The texts of a file of rows, by the name of their column; None for any other file."""
    if file.suffix == ".parquet":
        return _of_parquet(file, wanted)
    if file.suffix == ".arrow":
        return _of_arrow(file)
    if file.suffix == ".lance" and file.parent.name == "data":
        return _of_lance(file, wanted)
    with file.open("rb") as opened:
        return _of_sqlite(file) if opened.read(len(_SQLITE)) == _SQLITE else None


def _asked(schema: pa.Schema, wanted: Wanted) -> list[str]:
    """Columns that may name a user."""
    return [field.name for field in schema if (field.name == USER if wanted.exact else _holds_text(field.type))]


def _holds_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        return _holds_text(kind.value_type)
    if pa.types.is_nested(kind):
        return any(_holds_text(kind.field(number).type) for number in range(kind.num_fields))
    return _is_text(kind)


def _is_text(kind: pa.DataType) -> bool:
    return any(test(kind) for test in (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view))


def _of_parquet(file: Path, wanted: Wanted) -> Columns:
    with pq.ParquetFile(file) as parquet:
        names = _asked(parquet.schema_arrow, wanted)
        for batch in parquet.iter_batches(columns=names) if names else ():
            yield from _texts(batch)


def _of_arrow(file: Path) -> Columns:
    yield from _texts(files.read_table(file))


def _of_lance(file: Path, wanted: Wanted) -> Columns:
    """Every row that was written, also one that is deleted since."""
    from lance.file import LanceFileReader

    names = _asked(LanceFileReader(str(file)).metadata().schema, wanted)
    if names:
        for batch in LanceFileReader(str(file), columns=names).read_all().to_batches():
            yield from _texts(batch)


def _of_sqlite(file: Path) -> Columns:
    """Every text of a database, the bytes of which follow. As the statistics of a column of user ids, `user_id`."""
    with closing(sqlite3.connect(f"{file.resolve().as_uri()}?mode=ro", uri=True)) as database:
        tables = [row[0] for row in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        ids: set[Any] = set()
        if "ducklake_column" in tables:
            ids = set(database.execute("SELECT table_id, column_id FROM ducklake_column WHERE column_name = ?", [USER]))
        for table in tables:
            read = database.execute(f'SELECT * FROM "{table}"')
            names = [column[0] for column in read.description]
            of_columns = {"table_id", "column_id", "min_value", "max_value"} <= set(names)
            while rows := read.fetchmany(10_000):
                texts: dict[str, list[str]] = {}
                for row in rows:
                    found = dict(zip(names, row, strict=True))
                    own = of_columns and (found["table_id"], found["column_id"]) in ids
                    for name, value in found.items():
                        if isinstance(value, str):
                            texts.setdefault(f"{USER}.{table}" if own else f"{table}.{name}", []).append(value)
                for name, values in texts.items():
                    yield name, pa.array(values, pa.large_string())


def _texts(rows: pa.Table | pa.RecordBatch) -> Columns:
    for name, column in zip(rows.schema.names, rows.columns, strict=True):
        for chunk in column.chunks if isinstance(column, pa.ChunkedArray) else [column]:
            yield from _leaves(name, chunk)


def _leaves(name: str, values: Any) -> Columns:
    kind = values.type
    if pa.types.is_dictionary(kind):
        yield from _leaves(name, values.dictionary)
    elif pa.types.is_struct(kind):
        for number, inner in enumerate(values.flatten()):
            yield from _leaves(f"{name}.{kind.field(number).name}", inner)
    elif pa.types.is_map(kind):
        yield from _leaves(f"{name}.keys", values.keys)
        yield from _leaves(f"{name}.items", values.items)
    elif pa.types.is_nested(kind):
        yield from _leaves(name, values.flatten())
    elif _is_text(kind):
        yield name, values.cast(pa.large_string())
