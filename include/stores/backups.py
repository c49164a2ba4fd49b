"""Backups of a home: one tar file, whole or not there, with the hash of every file in it."""

import hashlib
import io
import json
import os
import tarfile
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import IO, Any

from include.errors import BadInput
from include.settings import Settings
from include.stores import lake, landing
from include.stores.files import inside, write_json
from include.stores.maintenance import delete

CONTENT = "backup.json"
_FOLDERS = ("landing", "lake", "vectors", "artefacts", "publications", "cache/texts", "erasures")
_FILES = ("version.json",)


class _Hashed:
    """A file that knows the hash of what was read from it; less than was asked for means that it was cut off."""

    def __init__(self, path: Path, file: IO[bytes]) -> None:
        self._path = path
        self._file = file
        self.hash = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        # Said here, where it cannot be taken for an error of the backup's own file.
        try:
            part = self._file.read(size)
        except OSError as error:
            raise _unread(self._path, error) from error
        if len(part) < size:
            raise _unread(self._path, "it became shorter meanwhile")
        self.hash.update(part)
        return part


def _unread(file: Path, why: object) -> BadInput:
    return BadInput(f"{file}: cannot be read ({why}); nothing was backed up: try again")


def _kept(settings: Settings) -> Iterator[Path]:
    """Files of a backup: all but unfinished ones, and the catalogue with its journal, which SQLite copies."""
    found = [settings.home / name for name in _FILES]
    for name in _FOLDERS:
        found += sorted(inside(settings.home / name))
    catalogue, candidates = str(lake.catalogue_file(settings)), settings.publications / "candidates"
    for file in found:
        unfinished = any(
            part.startswith((".", landing.INCOMING)) or part.endswith(".tmp")
            for part in file.relative_to(settings.home).parts
        )
        copied = str(file).startswith(catalogue) or file.is_relative_to(candidates)
        if file.is_file() and not unfinished and not copied:
            yield file


def write(settings: Settings, out: Path, version: int) -> dict[str, Any]:
    """Write a backup of the home. Its callers hold the writer's lock, and have no connection to the lake.

    Returns:
        `files`, and `bytes` of the home.

    Raises:
        BadInput: a file of the home cannot be read, or became shorter while it was.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    aside = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    listed: dict[str, dict[str, Any]] = {}
    total = 0
    try:
        aside.touch(mode=0o600)  # it holds what everybody did
        with (
            tempfile.TemporaryDirectory(dir=out.parent) as scratch,
            tarfile.open(aside, "w", dereference=True) as archive,
        ):
            files = [(file, file.relative_to(settings.home).as_posix()) for file in _kept(settings)]
            if lake.exists(settings):
                copy = Path(scratch) / "catalogue.sqlite"
                lake.copy_catalogue(settings, copy)
                files.append((copy, lake.catalogue_file(settings).relative_to(settings.home).as_posix()))
            for file, name in files:
                try:
                    opened = file.open("rb")
                except OSError as error:
                    # Whoever delivers takes no lock, and may take a file back meanwhile.
                    if isinstance(error, FileNotFoundError) and file.is_relative_to(settings.landing):
                        continue
                    raise _unread(file, error) from error
                with opened:
                    entry = archive.gettarinfo(arcname=name, fileobj=opened)
                    hashed = _Hashed(file, opened)
                    archive.addfile(entry, hashed)
                    written = os.fstat(opened.fileno()).st_mtime_ns
                listed[name] = {"sha256": hashed.hash.hexdigest(), "mtime_ns": written}
                total += entry.size
            content = {"version": version, "made_at": datetime.now(UTC).isoformat(), "files": listed}
            last = json.dumps(content, indent=1).encode()
            entry = tarfile.TarInfo(CONTENT)
            entry.size = len(last)
            archive.addfile(entry, io.BytesIO(last))
        with aside.open("rb") as whole:
            os.fsync(whole.fileno())
        os.replace(aside, out)
    finally:
        aside.unlink(missing_ok=True)
    return {"files": len(listed), "bytes": total}


def check(path: Path) -> dict[str, Any]:
    """Read a whole backup, and return what it says of itself.

    Raises:
        BadInput: it is no backup, or not as it was written.
    """
    if not path.is_file():
        raise BadInput(f"{path} is not there")
    hashes = {}
    content: Any = None
    try:
        with tarfile.open(path, "r") as archive:
            for entry in archive:
                file = archive.extractfile(entry)
                if file is None:
                    raise BadInput(f"{path} holds {entry.name!r}, which is no file: not a backup of Tidemark")
                if entry.name == CONTENT:
                    content = json.load(file)
                    continue
                _refuse_other_places(path, entry.name)
                hashes[entry.name] = hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
    except (tarfile.TarError, EOFError, json.JSONDecodeError) as error:
        raise BadInput(f"{path} is no backup, or was cut off: {error}") from error
    try:
        listed = {name: file["sha256"] for name, file in content["files"].items() if isinstance(file["mtime_ns"], int)}
        whole = isinstance(content["version"], int)
    except (TypeError, KeyError, AttributeError):  # another program's, or none
        whole = False
    if not whole:
        raise BadInput(f"{path} is no backup, or was cut off: it has no {CONTENT} of Tidemark")
    if hashes != listed:
        wrong = sorted(name for name in {*hashes, *listed} if hashes.get(name) != listed.get(name))
        raise BadInput(f"{path} is not as it was written: {len(wrong)} files differ, the first is {wrong[0]}")
    return dict(content)


def _refuse_other_places(path: Path, name: str) -> None:
    parts = PurePosixPath(name)
    inside = name in _FILES or any(parts.is_relative_to(folder) for folder in _FOLDERS)
    if not inside or ".." in parts.parts:
        raise BadInput(f"{path} holds {name!r}, which is no file of a home: not a backup of Tidemark")


def _marker(settings: Settings) -> Path:
    return settings.home / "restoring.json"


def restoring(settings: Settings) -> bool:
    """Whether a restore into the home began and did not end."""
    return _marker(settings).exists()


def occupied(settings: Settings) -> str | None:
    """Something that the home holds already, or None."""
    return next((name for name in _FOLDERS if any((settings.home / name).rglob("*"))), None)


def extract(settings: Settings, path: Path, content: dict[str, Any]) -> None:
    """Put a backup into an empty home; `content` is what `check` returned. Until the end the home cannot be opened."""
    write_json(_marker(settings), {"from": str(path.resolve())})
    for name in (*_FILES, *_FOLDERS):  # what a restore before it left
        delete(settings.home / name)
    with tarfile.open(path, "r") as archive:
        archive.extractall(settings.home, members=(entry for entry in archive if entry.name != CONTENT), filter="data")
    for name, file in content["files"].items():  # a landed file is known by its time, which a tar rounds
        os.utime(settings.home / name, ns=(file["mtime_ns"], file["mtime_ns"]))
    _marker(settings).unlink()
