"""The vector store: LanceDB tables with versions, one folder an encoder.

A write starts from the version that a manifest names, whatever an unfinished run left behind, and returns the version it
made. Two encoders never share a table, and a table that names another encoder is refused.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from include.columns import VectorTable
from include.errors import BadInput
from include.settings import Settings
from include.stores.files import make_folder, remove_folder
from include.stores.object_store import lance_options

# Lance warns of every table that it creates; set before the library is loaded.
os.environ.setdefault("LANCE_LOG", "error")
import lancedb

ENCODER_ID = b"encoder_id"
KEYS_PER_QUERY = 500


def folder(settings: Settings, encoder_id: str) -> Path:
    """Where the tables of one encoder are."""
    return settings.vectors / encoder_id


def vector_column(vectors: NDArray[np.float32]) -> pa.FixedSizeListArray:
    """An (n, d) array as an Arrow column of fixed-size lists."""
    return pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(vectors).reshape(-1)), vectors.shape[1])


def vector_array(column: pa.ChunkedArray | pa.Array) -> NDArray[np.float32]:
    """The inverse of `vector_column`: a column of fixed-size lists as an (n, d) array."""
    width = column.type.list_size
    if len(column) == 0:
        return np.zeros((0, width), dtype=np.float32)
    whole = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    return np.asarray(whole.flatten(), dtype=np.float32).reshape(-1, width)


def literal(keys: Iterable[str]) -> str:
    """Keys as a list of SQL string literals: LanceDB's filters take no parameters."""
    return ", ".join("'" + key.replace("'", "''") + "'" for key in keys)


def _connect(home: Path) -> Any:
    return lancedb.connect(str(home), storage_options=lance_options(home))


def _open(home: Path, name: str, encoder_id: str) -> Any:
    table = _connect(home).open_table(name)
    found = (table.schema.metadata or {}).get(ENCODER_ID, b"").decode()
    if found != encoder_id:
        raise BadInput(
            f"{home / name} holds vectors of encoder {found or '(none named)'}, not of {encoder_id}: they cannot meet"
        )
    return table


def _exists(home: Path, name: str) -> bool:
    return (home / f"{name}.lance").exists()


def _write(
    home: Path,
    name: str,
    encoder_id: str,
    rows: pa.Table,
    base: int | None,
    gone: Sequence[str],
    metadata: dict[str, str],
    *,
    keep: bool = False,
) -> int:
    """Write a version of a table: rows whose key is there take the place of those, or, with `keep`, change nothing."""
    named = rows.schema.metadata or {}
    if named.get(ENCODER_ID, encoder_id.encode()) != encoder_id.encode():
        raise BadInput(f"rows of encoder {named[ENCODER_ID].decode()} cannot be written beside those of {encoder_id}")
    key = rows.schema.field(0).name
    fields = [pa.field(key, pa.string(), nullable=False), *list(rows.schema)[1:]]
    schema = pa.schema(fields, metadata={"encoder_id": encoder_id, **metadata})
    if base is None:
        if _exists(home, name):
            with suppress(ValueError):  # what is left of a write that died before it made a table
                _open(home, name, encoder_id)
        make_folder(home)
        table = _connect(home).create_table(name, schema=schema, mode="overwrite")
        # Without a declared key two writers of the same new keys would leave them twice.
        table.set_unenforced_primary_key(key)
        if rows.num_rows:
            table.add(rows.cast(schema))
        return int(table.version)
    table = _open(home, name, encoder_id)
    _go_on_from(table, base)
    _delete(table, key, gone)
    if rows.num_rows:
        merge = table.merge_insert(key).when_not_matched_insert_all()
        (merge if keep else merge.when_matched_update_all()).execute(rows.cast(schema))
    return int(table.version)


def _go_on_from(table: Any, version: int) -> None:
    """Make a version the newest of a table, whatever was written after it; nothing to do where it is."""
    if table.version != version:
        table.checkout(version)
        table.restore()


def _delete(table: Any, key: str, gone: Sequence[str]) -> None:
    for start in range(0, len(gone), KEYS_PER_QUERY):
        table.delete(f"{key} IN ({literal(gone[start : start + KEYS_PER_QUERY])})")


def write(
    settings: Settings,
    encoder_id: str,
    name: str,
    rows: pa.Table,
    *,
    base: int | None,
    gone: Sequence[str] = (),
    metadata: dict[str, str] | None = None,
) -> int:
    """Write rows over a version of a table, or a new content where there is none to build on.

    Args:
        settings: where the store is.
        encoder_id: the encoder that the vectors are of.
        name: the table.
        rows: new and changed rows; the first column is the key.
        base: the version to build on; None replaces the content (older versions stay readable).
        gone: keys of rows to take away.
        metadata: what the table's schema says beside the encoder id; only used with a new content.

    Returns:
        The version that holds the result; `base` itself where there was nothing to do.

    Raises:
        BadInput: the table or the rows are of another encoder.
    """
    if base is not None and rows.num_rows == 0 and not gone:
        return base
    return _write(folder(settings, encoder_id), name, encoder_id, rows, base, gone, metadata or {})


Version = tuple[str, int]
"""Encoder id and version of a table."""


def _at(settings: Settings, name: str, version: Version) -> Any:
    table = _open(folder(settings, version[0]), name, version[0])
    table.checkout(version[1])
    return table


def read(
    settings: Settings,
    encoder_id: str,
    name: str,
    version: int,
    *,
    columns: list[str] | None = None,
    keys: Sequence[str] | None = None,
) -> pa.Table:
    """Rows of one version of a table, sorted by key.

    Raises:
        BadInput: the table is of another encoder.
    """
    table = _at(settings, name, (encoder_id, version))
    return _scan(table, columns, keys)


def _scan(table: Any, columns: list[str] | None, keys: Sequence[str] | None) -> pa.Table:
    dataset = table.to_lance()
    key = table.schema.field(0).name
    if keys is None:
        found = dataset.to_table(columns=columns)
    elif len(keys) > 20 * KEYS_PER_QUERY:
        found = dataset.to_table(columns=columns)
        found = found.filter(pc.is_in(found[key], pa.array(keys, pa.string())))
    else:
        parts = [
            dataset.to_table(columns=columns, filter=f"{key} IN ({literal(keys[start : start + KEYS_PER_QUERY])})")
            for start in range(0, len(keys), KEYS_PER_QUERY)
        ]
        found = (
            pa.concat_tables(parts) if parts else dataset.schema.empty_table().select(columns or dataset.schema.names)
        )
    return found.sort_by(key) if key in found.column_names else found


def batches(
    settings: Settings, encoder_id: str, name: str, version: int, columns: list[str]
) -> Iterator[pa.RecordBatch]:
    """All rows of one version of a table, a part at a time, for what needs no order."""
    table = _at(settings, name, (encoder_id, version))
    yield from table.to_lance().to_batches(columns=columns)


class NotEmbedded(BadInput):
    """A text has no vector yet."""


def _dataset(settings: Settings, name: str, version: Version) -> Any:
    return _at(settings, name, version).to_lance()


def _key(dataset: Any) -> str:
    return str(dataset.schema.names[0])


def _keys(dataset: Any, fragments: list[Any] | None = None) -> pa.Array:
    """Keys of all rows, or of those in some fragments, in the order of the table."""
    found = dataset.scanner(columns=[_key(dataset)], fragments=fragments).to_table()
    return found[_key(dataset)].combine_chunks()


def _written(dataset: Any, elsewhere: Any) -> pa.Array:
    """Keys of the rows in files that the other version does not have: all others are, row by row, the same in both."""
    shared = {file.path for fragment in elsewhere.get_fragments() for file in fragment.data_files()}
    own = [
        fragment
        for fragment in dataset.get_fragments()
        if not shared.issuperset(file.path for file in fragment.data_files())
    ]
    return _keys(dataset, own) if own else pa.array([], pa.string())


def differing(settings: Settings, name: str, before: Version, after: Version) -> tuple[list[str], list[str], list[str]]:
    """Keys that came, that went, and that stayed with a row that was written anew (and may be what it was), each sorted.

    Reads the keys of both versions, and of their rows only those that they do not share.
    """
    if before == after:
        return [], [], []
    one, other = _dataset(settings, name, before), _dataset(settings, name, after)
    old, new = _keys(one), _keys(other)
    went, came = (a.filter(pc.invert(pc.is_in(a, b))) for a, b in ((old, new), (new, old)))
    written = pa.concat_arrays([_written(one, other), _written(other, one)]).unique()
    alone = pa.concat_arrays([went, came])
    rewritten = written.filter(pc.invert(pc.is_in(written, alone)))
    return sorted(came.to_pylist()), sorted(went.to_pylist()), sorted(rewritten.to_pylist())


def pairs(
    settings: Settings,
    name: str,
    before: Version,
    after: Version,
    keys: Sequence[str],
    columns: list[str],
    rows: int = 20_000,
) -> Iterator[tuple[pa.Table, pa.Table]]:
    """Rows which both versions have, as they were and as they are: a part at a time, in the order of the keys, which are sorted."""
    tables = [_at(settings, name, version) for version in (before, after)]
    # By filter: a take by place is a hundred times slower where rows were deleted.
    wanted = [tables[0].schema.field(0).name, *columns]
    for start in range(0, len(keys), rows):
        first, second = (_scan(table, wanted, keys[start : start + rows]) for table in tables)
        yield first, second


def nearest(
    settings: Settings, encoder_id: str, name: str, version: int, column: str, vector: Sequence[float], most: int
) -> list[tuple[str, float]]:
    """The rows whose vectors are nearest to a unit vector, by exact search: key and cosine."""
    table = _at(settings, name, (encoder_id, version))
    key = table.schema.field(0).name
    query = table.search(np.asarray(vector, dtype=np.float32), vector_column_name=column).distance_type("dot")
    found = query.limit(most).select([key, "_distance"]).to_list()
    # LanceDB's dot distance is one minus the product.
    return [(row[key], 1.0 - row["_distance"]) for row in found]


def columns(settings: Settings, encoder_id: str, name: str, version: int) -> list[str]:
    """Names of a table's columns."""
    table = _at(settings, name, (encoder_id, version))
    return list(table.schema.names)


def metadata(settings: Settings, encoder_id: str, name: str, version: int) -> dict[str, str]:
    """What a table's schema says of itself: encoder id and artefact ids."""
    table = _at(settings, name, (encoder_id, version))
    return {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}


def tag(settings: Settings, encoder_id: str, name: str, version: int, label: str) -> None:
    """Name a version, so that no clean-up takes it away."""
    tags = _open(folder(settings, encoder_id), name, encoder_id).tags
    if label in tags.list():
        tags.update(label, version)
    else:
        tags.create(label, version)


# Maintenance. Its callers hold the writer's lock.

MANY_FRAGMENTS = 8
"""A version of more parts than this is read and merged into noticeably slower than one part."""


def tables(settings: Settings) -> list[tuple[str, str]]:
    """Encoder id and name of every table."""
    return sorted((path.parent.name, path.stem) for path in settings.vectors.glob("*/*.lance"))


def set_tags(settings: Settings, encoder_id: str, name: str, wanted: dict[str, int]) -> int:
    """Make these the tags of a table, label by version, and no others; returns how many were taken away."""
    tags = _open(folder(settings, encoder_id), name, encoder_id).tags
    there = {label: int(found["version"]) for label, found in tags.list().items()}
    for label, version in wanted.items():  # before any is taken away: a version is never without its tag
        if label not in there:
            tags.create(label, version)
        elif there[label] != version:
            tags.update(label, version)
    gone = there.keys() - wanted.keys()
    for label in gone:
        tags.delete(label)
    return len(gone)


def drop_old_versions(settings: Settings, encoder_id: str, name: str, age: timedelta, *, unended: bool = False) -> int:
    """Let go of versions of that age that have no tag, and of the files that only they used; returns their number.

    The newest version always stays. Files of writes that never ended go when they are seven days old (Lance's own rule), or with
    `unended` at once, for which nothing may write beside.
    """
    return _drop_old_versions(_open(folder(settings, encoder_id), name, encoder_id), age, unended=unended)


def _drop_old_versions(table: Any, age: timedelta, *, unended: bool = False) -> int:
    found = table.to_lance().cleanup_old_versions(
        older_than=age, error_if_tagged_old_versions=False, delete_unverified=unended
    )
    return int(found.old_versions)


def compact(settings: Settings, encoder_id: str, name: str, version: int) -> int:
    """Put the parts of a version together where they are many.

    Returns:
        The version with the same rows in few parts; the same one where there was nothing to do. The old one stays.
    """
    table = _at(settings, name, (encoder_id, version))
    if len(table.to_lance().get_fragments()) <= MANY_FRAGMENTS:
        return version
    table.checkout_latest()
    _go_on_from(table, version)
    table.to_lance().optimize.compact_files()
    table.checkout_latest()
    return int(table.version)


def without_deleted(settings: Settings, encoder_id: str, name: str, version: int) -> int:
    """The same rows in files that hold no others, as the table's newest version; the version itself where that is so already."""
    table = _open(folder(settings, encoder_id), name, encoder_id)
    _go_on_from(table, version)  # what an unfinished run left is the newest, and would stay
    return _write_without_deleted(table)


def _write_without_deleted(table: Any) -> int:
    table.to_lance().optimize.compact_files(materialize_deletions=True, materialize_deletions_threshold=0.0)
    table.checkout_latest()
    return int(table.version)


def drop_table(settings: Settings, encoder_id: str, name: str) -> None:
    """Take a whole table away, with every version."""
    remove_folder(folder(settings, encoder_id) / f"{name}.lance")


# Text vectors, kept by encoder and text hash: what was embedded once is never embedded again.


def _text_home(settings: Settings, encoder_id: str) -> Path:
    return settings.text_vectors / encoder_id


def known_texts(settings: Settings, encoder_id: str) -> set[str]:
    """Hashes of all texts that have a vector."""
    home = _text_home(settings, encoder_id)
    if not _exists(home, VectorTable.TEXTS):
        return set()
    found = _open(home, VectorTable.TEXTS, encoder_id).to_lance().to_table(columns=["text_hash"])
    return set(found["text_hash"].to_pylist())


def keep_texts(settings: Settings, encoder_id: str, hashes: Sequence[str], vectors: NDArray[np.float32]) -> None:
    """Keep vectors of texts: `vectors` is (n, d), a row for each hash. What is kept already stays as it is.

    A vector's last bits follow from what it was embedded beside, and what another run kept meanwhile may be in a publication.
    """
    home = _text_home(settings, encoder_id)
    rows = pa.table({"text_hash": pa.array(hashes, pa.string()), "vector": vector_column(vectors)})
    base = int(_open(home, VectorTable.TEXTS, encoder_id).version) if _exists(home, VectorTable.TEXTS) else None
    _write(home, VectorTable.TEXTS, encoder_id, rows, base, (), {}, keep=True)


def text_vectors(settings: Settings, encoder_id: str, hashes: Sequence[str], dimension: int) -> NDArray[np.float32]:
    """Kept vectors of texts, (n, d) in the order asked for.

    Raises:
        NotEmbedded: a text has no vector yet.
    """
    distinct = sorted(set(hashes))
    if not distinct:
        return np.zeros((0, dimension), dtype=np.float32)
    home = _text_home(settings, encoder_id)
    if not _exists(home, VectorTable.TEXTS):
        raise NotEmbedded(f"no text was embedded with {encoder_id} yet: run the step embed_texts first")
    found = _scan(_open(home, VectorTable.TEXTS, encoder_id), None, distinct)
    position = {name: row for row, name in enumerate(found["text_hash"].to_pylist())}
    missing = [name for name in distinct if name not in position]
    if missing:
        raise NotEmbedded(
            f"{len(missing)} texts have no vector of {encoder_id} (first: {missing[0]}): run the step embed_texts first"
        )
    return vector_array(found["vector"])[[position[name] for name in hashes]]


def text_encoders(settings: Settings) -> list[str]:
    """Ids of the encoders of which text vectors are kept."""
    return sorted(path.name for path in settings.text_vectors.glob("*") if path.is_dir())


def tidy_texts(settings: Settings, encoder_id: str, age: timedelta) -> None:
    """Put the parts of an encoder's text vectors together where they are many, and let go of old versions: nobody names one."""
    home = _text_home(settings, encoder_id)
    if not _exists(home, VectorTable.TEXTS):
        return
    table = _open(home, VectorTable.TEXTS, encoder_id)
    _drop_old_versions(table, age)
    if len(table.to_lance().get_fragments()) > MANY_FRAGMENTS:
        table.to_lance().optimize.compact_files()


def drop_texts(settings: Settings, encoder_id: str) -> None:
    """Forget an encoder's text vectors."""
    remove_folder(_text_home(settings, encoder_id))


def stored_texts(settings: Settings, encoder_id: str) -> set[str]:
    """Hashes of all texts of which a file holds a vector, also one that is deleted since, or that no version names."""
    from lance.file import LanceFileReader

    found: set[str] = set()
    for file in (_text_home(settings, encoder_id) / f"{VectorTable.TEXTS}.lance" / "data").glob("*.lance"):
        rows = LanceFileReader(str(file), columns=["text_hash"]).read_all().to_table()
        found |= set(rows["text_hash"].to_pylist())
    return found


def keep_only_texts(settings: Settings, encoder_id: str, wanted: set[str]) -> int:
    """Let go of the vectors of all texts but these, for good; returns how many went."""
    home = _text_home(settings, encoder_id)
    if not _exists(home, VectorTable.TEXTS):
        return 0
    gone = sorted(known_texts(settings, encoder_id) - wanted)
    table = _open(home, VectorTable.TEXTS, encoder_id)
    _delete(table, "text_hash", gone)
    _write_without_deleted(table)
    _drop_old_versions(table, timedelta(0), unended=True)
    return len(gone)
