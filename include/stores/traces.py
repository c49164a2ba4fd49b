"""Where a home names a user: in rows of the lake's newest snapshot, and in any file at all.

A Parquet or Lance file is compressed, so its bytes alone prove nothing: what it holds is read, whether a table still names the
rows or not. An id that is short, a number, or an ordinary word stands in many files by chance. Of such a one only columns of
user ids count; any other counts wherever it stands as a word of its own.
"""

import html
import json
import mmap
import re
import sqlite3
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
"""Characters from which on an id is taken to stand nowhere by chance, unless it is of digits alone, as half a second is."""
USER = "user_id"
_LETTER = r"\p{L}\p{M}\p{N}_"
"""What words are made of; what `_JOINS` joins to one of these is of the same word, as in `alice1@mail.com`."""
_JOINS = r".@+\-"
_ESCAPED = r"\\(?:[bfnrt]|u00[23][0-9A-Fa-f])"
"""What JSON writes for a character that is of no word, but ends in one that is."""
_AROUND = 8
"""Bytes beside an id that say whether it is a word of its own: two characters, or an escaped one."""
_AT_ONCE = 10_000
_SQLITE = b"SQLite format 3\0"
_ROWS = (".parquet", ".arrow", ".lance")
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
        return cls(user, exact or len(user) < DISTINCT or user.isdigit())

    @cached_property
    def spellings(self) -> tuple[str, ...]:
        """The id as it stands in text, in JSON and on a page, and any of these in JSON, as a line that nothing can be read of is kept."""
        quoted = html.escape(self.user, quote=False)
        pages = (html.escape(self.user), quoted.replace('"', "&#34;").replace("'", "&#39;"))
        once = (self.user, *_in_json(self.user), *pages)
        return tuple(dict.fromkeys((*once, *(twice for spelling in once for twice in _in_json(spelling)))))

    @cached_property
    def word(self) -> str:
        """A regular expression of any spelling, as a word of its own; RE2 has no look-around."""
        alone = f"[^{_LETTER}{_JOINS}]"
        before = f"(?:^|{alone}|(?:^|[^{_LETTER}])[{_JOINS}]|{_ESCAPED})"
        return f"{before}(?:{self._literal})(?:$|{alone}|[{_JOINS}](?:$|[^{_LETTER}]))"

    @cached_property
    def _literal(self) -> str:
        """A regular expression of any spelling, wherever it stands: quick to compile, and what `word` finds has it."""
        return "|".join(map(re.escape, self.spellings))

    def is_in(self, text: str) -> bool:
        """Whether a text names the user."""
        return self.is_among(pa.array([text]))

    def is_among(self, texts: Any) -> bool:
        """Whether any of some texts, an array, names the user."""
        near = pc.match_substring_regex(texts, self._literal)
        return _any(near) and _any(pc.match_substring_regex(texts.filter(near), self.word))

    @cached_property
    def _literals(self) -> list[re.Pattern[bytes]]:
        """Each spelling in bytes. Literals are found 30 times as fast as one expression with what must not stand beside them."""
        return [re.compile(re.escape(spelling.encode())) for spelling in self.spellings]

    def stands_in(self, content: Any, *, begins: bool = True, ends: bool = True) -> bool:
        """Whether bytes hold the id as a word of its own.

        Args:
            content: what can be searched as bytes are.
            begins: whether nothing comes before; else an id at the beginning does not count.
            ends: whether nothing comes after; else an id at the end does not count.
        """
        return any(
            _any(pc.match_substring_regex(pa.array(some), self.word))
            for some in self._surroundings(content, begins, ends)
        )

    def _surroundings(self, content: Any, begins: bool, ends: bool) -> Iterator[list[str]]:
        """Each place that holds the id, with what stands beside it."""
        some: list[str] = []
        for literal in self._literals:
            for match in literal.finditer(content):
                start, end = match.start() - _AROUND, match.end() + _AROUND
                if (begins or start >= 0) and (ends or end <= len(content)):
                    some.append(content[max(0, start) : end].decode("utf-8", "replace"))
                if len(some) == _AT_ONCE:
                    yield some
                    some = []
        if some:
            yield some


def _in_json(text: str) -> Iterator[str]:
    """A text as writers of JSON put it: all of them, what is not ASCII, or what HTML reserves as it is or escaped, slashes too."""
    for ascii_only in (True, False):
        plain = json.dumps(text, ensure_ascii=ascii_only)[1:-1]
        reserved = re.sub("[<>&']", lambda match: f"\\u{ord(match[0]):04x}", plain)
        for escaped in (plain, reserved):
            shouted = re.sub(r"(?<!\\)((?:\\\\)*\\u)([0-9a-f]{4})", lambda match: match[1] + match[2].upper(), escaped)
            for each in (escaped, shouted):
                yield each
                yield each.replace("/", r"\/")


@dataclass(frozen=True)
class Landed:
    """Rows of a table that name a user: of a landed file, or with `file` None those that only the table itself has.

    `own` are those of the user; the others hold the id in some text.
    """

    table: str
    file: str | None
    rows: tuple[int, ...]
    own: bool


def in_lake(settings: Settings, wanted: Wanted) -> list[Landed]:
    """The rows of the lake's newest snapshot that name a user: by landed file, then of tables that name no file."""
    if not lake.exists(settings):
        return []
    found: dict[tuple[str, str, int], bool] = {}
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
            own = f"coalesce({USER} = $user, false)" if USER in kinds else "false"
            if {"file", "row_number"} <= kinds.keys():
                rows = connection.execute(
                    f"SELECT file, row_number, {own} FROM {table} WHERE {condition}", values
                ).fetchall()
                for file, number, is_own in rows:
                    row = file.partition("/")[0], file, number
                    found[row] = is_own or found.get(row, False)
                continue
            for is_own, count in connection.execute(
                f"SELECT {own}, count(*) FROM {table} WHERE {condition} GROUP BY 1 ORDER BY 1 DESC", values
            ).fetchall():
                others.append(Landed(table, None, tuple(range(count)), is_own))
    landed: dict[tuple[str, str, bool], list[int]] = {}
    for (table, file, number), is_own in sorted(found.items()):
        landed.setdefault((table, file, is_own), []).append(number)
    return [Landed(table, file, tuple(rows), is_own) for (table, file, is_own), rows in landed.items()] + others


def _condition(kinds: dict[str, str], wanted: Wanted) -> tuple[str, dict[str, str]]:
    """SQL of what names the user in a table with these columns, and its parameters; empty where nothing can."""
    either, values = [], {}
    if USER in kinds:
        either.append(f"{USER} = $user")
        values["user"] = wanted.user
    forms = {"VARCHAR": '"{}"', "VARCHAR[]": 'array_to_string("{}", chr(10))'}
    texts = [forms[kind].format(name) for name, kind in kinds.items() if kind in forms]
    if texts and not wanted.exact:
        # One expression a table, with line ends between the texts: to compile it costs more than to read a small table.
        either.append(f"regexp_matches(concat_ws(chr(10), {', '.join(texts)}), $word)")
        values["word"] = wanted.word
    return " OR ".join(either), values


@dataclass(frozen=True)
class Trace:
    """A file that names a user, and where in it.

    `holds` is whether that can only be the user: a row, or a list of users. A word, bytes, and what cannot be read may be chance.
    """

    file: Path
    where: str
    holds: bool = False
    unread: bool = False


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
            found += sorted(set(_look(file, wanted)), key=lambda trace: trace.where)
    return found, len(seen)


def everywhere(settings: Settings) -> list[Path]:
    """The folders of a home."""
    return [settings.home, settings.work]


def _look(file: Path, wanted: Wanted) -> Iterator[Trace]:
    try:
        columns = _columns(file, wanted)
        if columns is None:
            yield from _in_plain(file, wanted)
            return
        explained = False
        for name, values in columns:
            own = name.split(".")[0] == USER and _any(pc.equal(values, wanted.user))
            if own or (not wanted.exact and wanted.is_among(values)):
                yield Trace(file, f"column {name}", holds=own or file.suffix in _ROWS)
            explained = explained or (not wanted.exact and _any(pc.match_substring(values, wanted.user)))
        # Bytes that no row holds, as of a statistic or a page that is free; not the beginning of somebody else's id.
        if not wanted.exact and not explained and _holds(file, wanted.user.encode()):
            yield Trace(file, "its bytes")
    except FileNotFoundError:  # gone meanwhile
        return
    except (pa.ArrowException, OSError, ValueError, sqlite3.Error) as error:
        yield Trace(file, f"it cannot be read ({' '.join(str(error).split())[:200]})", unread=True)


def _any(found: Any) -> bool:
    return bool(pc.any(found).as_py())


def _in_plain(file: Path, wanted: Wanted) -> Iterator[Trace]:
    """A file of text, or of bytes that nothing here decodes."""
    ours = file.suffix == ".json" and "publications" in file.parts[-4:-1]
    if ours and names(json.loads(file.read_bytes()), wanted.user):
        yield Trace(file, "its users", holds=True)
    elif not wanted.exact and _says(file, wanted):
        # Of a table of vectors, a transaction names the keys that it deleted.
        keys = file.parent.name == "_transactions" and _holds(
            file, "'{}'".format(wanted.user.replace("'", "''")).encode()
        )
        yield Trace(file, "its text", holds=keys)


def names(content: Any, user: str, key: str = "") -> bool:
    """Whether JSON of Tidemark's own names a user where it names users."""
    if isinstance(content, dict):
        return any(
            names(value, user, "users" if key == "users" and name == "ids" else name) for name, value in content.items()
        )
    if isinstance(content, list):
        return any(names(value, user, key) for value in content)
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
        before, cut = b"", False
        while block := opened.read(_PART):
            content = before + block
            # What lies across two blocks, or at the edge of one, is in the middle of what is looked at.
            if wanted.stands_in(content, begins=not cut, ends=False):
                return True
            before, cut = content[-_OVERLAP:], cut or len(content) > _OVERLAP
        return wanted.stands_in(before, begins=not cut)


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
