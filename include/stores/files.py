"""Files of the home, in a local folder or on an object store.

A path of the home is a `Path`, or on an object store a `UPath`, which reads, lists and names files in the same way. What
differs is here: writing whole, moving into place, and working on a local copy.
"""

import contextlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from include.errors import BadInput


def is_remote(path: Path) -> bool:
    """Whether a path is on an object store."""
    return not isinstance(path, Path)


def make_folder(path: Path) -> None:
    """Make a folder; an object store has none to make."""
    if not is_remote(path):
        path.mkdir(parents=True, exist_ok=True)


def write(path: Path, content: bytes | pa.Buffer) -> None:
    """Write a file so that a reader sees the old or the new content, never a part."""
    if is_remote(path):
        path.write_bytes(bytes(content))  # an object appears whole
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with aside.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(aside, path)


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file, as `write` does."""
    text = json.dumps(content, ensure_ascii=False, indent=1, sort_keys=True, default=str)
    write(path, text.encode("utf-8"))


def write_table(path: Path, table: pa.Table) -> None:
    """Write a table with its schema's metadata (Arrow IPC), as `write` does."""
    content = pa.BufferOutputStream()
    with pa.ipc.new_file(content, table.schema, options=pa.ipc.IpcWriteOptions(compression="lz4")) as writer:
        writer.write_table(table)
    write(path, content.getvalue())


def write_parquet(path: Path, table: pa.Table) -> None:
    """Write a table as Parquet without its schema's metadata, as `write` does. Equal rows give equal bytes."""
    content = pa.BufferOutputStream()
    pq.write_table(table.replace_schema_metadata(None), content, compression="zstd", row_group_size=65536)
    write(path, content.getvalue())


def read_table(path: Path) -> pa.Table:
    """Read what `write_table` wrote."""
    with pa.ipc.open_file(pa.py_buffer(path.read_bytes())) as reader:
        return reader.read_all()


def put(source: Path, target: Path) -> None:
    """Move a local file to its place in the home, where it appears whole."""
    if is_remote(target):
        remote: Any = target
        remote.fs.put_file(str(source), remote.path)
        source.unlink()
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    os.replace(source, target)


def remove_folder(path: Path) -> None:
    """Remove a folder and all that is in it, if it is there."""
    if is_remote(path):
        remote: Any = path
        if remote.exists():
            remote.fs.rm(remote.path, recursive=True)
        return
    shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def local(path: Path, work: Path) -> Iterator[Path]:
    """A file to read on this machine: itself, or a copy in the folder `work` that is gone afterwards.

    Raises:
        BadInput: an object is not there, or was replaced while it was copied.
    """
    if not is_remote(path):
        yield path
        return
    remote: Any = path
    folder = work / "copies" / uuid.uuid4().hex
    folder.mkdir(parents=True)
    try:
        try:
            before = remote.stat()["ETag"]
            remote.fs.get_file(remote.path, str(folder / path.name))
            replaced = remote.stat()["ETag"] != before
        except OSError as error:
            raise BadInput(f"{path}: cannot be read ({error})") from error
        if replaced:
            raise BadInput(f"{path}: was replaced while it was copied; try again")
        yield folder / path.name
    finally:
        shutil.rmtree(folder)


@dataclass(frozen=True)
class Entry:
    """A file or a folder in a folder; `version` changes when a file is written anew."""

    path: Path
    is_folder: bool
    size: int
    version: str


class Listing:
    """What is in a folder and the folders in it.

    A local folder is read when it is asked for. An object store is asked once for everything, a thousand files a request,
    because a request for each folder would take minutes where there is one for each hour of years.
    """

    def __init__(self, top: Path) -> None:
        self._found: dict[str, list[Entry]] | None = None
        if is_remote(top):
            self._found = _by_folder(top)

    def entries(self, folder: Path) -> list[Entry]:
        """What is in a folder, sorted by name; nothing where there is no such folder."""
        if self._found is not None:
            return sorted(self._found.get(str(folder), []), key=lambda entry: entry.path.name)
        if not folder.exists():
            return []
        return [entry for path in sorted(folder.iterdir()) if (entry := _entry(path)) is not None]


def _entry(path: Path) -> Entry | None:
    try:
        status = path.stat()
    except FileNotFoundError:  # replaced while we looked: the next look finds what is there
        return None
    return Entry(path, path.is_dir(), status.st_size, str(status.st_mtime_ns))


def _by_folder(top: Path) -> dict[str, list[Entry]]:
    remote: Any = top
    found: dict[str, list[Entry]] = {}
    seen = {str(top)}
    for key, info in remote.fs.find(remote.path, detail=True).items():
        parts = key.removeprefix(remote.path).strip("/").split("/")
        folder = top
        for name in parts[:-1]:
            inner = folder / name
            if str(inner) not in seen:
                seen.add(str(inner))
                found.setdefault(str(folder), []).append(Entry(inner, True, 0, ""))
            folder = inner
        if parts[-1]:
            found.setdefault(str(folder), []).append(Entry(folder / parts[-1], False, info["size"], info["ETag"]))
    return found


def seen_from(folder: Path, path: Path) -> str:
    """A path as it is seen from a folder; whole where it lies elsewhere."""
    return str(path.relative_to(folder) if path.is_relative_to(folder) else path)


def size(folder: Path) -> int:
    """Bytes of all files in a folder; those that vanish meanwhile count nothing."""
    if is_remote(folder):
        remote: Any = folder
        return int(remote.fs.du(remote.path)) if remote.exists() else 0
    total = 0
    for file in inside(folder):
        with contextlib.suppress(FileNotFoundError):
            total += file.stat().st_size
    return total


def last_written(path: Path) -> float | None:
    """When a file, or the last of the files in a folder, was written, in seconds since 1970; None for what is not there."""
    if is_remote(path):
        remote: Any = path
        found = remote.fs.find(remote.path, detail=True).values()
        return max((info["LastModified"].timestamp() for info in found), default=None)
    moments = []
    for file in [path, *inside(path)]:
        with contextlib.suppress(FileNotFoundError):
            moments.append(file.stat().st_mtime)
    return max(moments, default=None)


def inside(folder: Path) -> Iterator[Path]:
    """The files in a folder of this machine, at any depth, also behind links; folders that vanish meanwhile have none."""
    for found, _, names in os.walk(folder, followlinks=True):
        for name in names:
            yield Path(found) / name
