"""The version of a home's own files, and the undoing of a change of them that did not end well.

A home's large files (Parquet, Lance, tensors) are only ever added to by what changes its version. What is rewritten are the
small ones, which name them: manifests, pointers, gate records, descriptions and the lake's catalogue. Those are remembered
before a change; to undo it they are put back.
"""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from include.settings import Settings
from include.stores import lake
from include.stores.files import write_json
from include.stores.maintenance import delete

_SMALL = (
    "version.json",
    "lake/*.json",
    "lake/catalogue.sqlite*",
    "lake/gates/*.json",
    "artefacts/*/artefact.json",
    "publications/**/*.json",
)


def _file(settings: Settings) -> Path:
    return settings.home / "version.json"


def version(settings: Settings) -> int | None:
    """The home's version; None where the home holds nothing yet. Homes from before there were versions have 1."""
    if _file(settings).exists():
        return int(json.loads(_file(settings).read_text("utf-8"))["version"])
    return 1 if lake.exists(settings) or settings.publications.exists() else None


def set_version(settings: Settings, number: int) -> None:
    """Write the home's version."""
    write_json(_file(settings), {"version": number})


def _remembered(settings: Settings) -> Path:
    return settings.home / "migrating"


def _small_files(home: Path) -> Iterator[Path]:
    for pattern in _SMALL:
        yield from (file for file in home.glob(pattern) if not file.name.startswith("."))


def remember(settings: Settings) -> None:
    """Copy the small files aside; from the last step on the home counts as being changed."""
    lake.require_one_folder(settings, "a change of the home's version")
    aside = settings.home / ".migrating.tmp"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    for file in _small_files(settings.home):
        copy = aside / file.relative_to(settings.home)
        copy.parent.mkdir(parents=True, exist_ok=True)
        if file == lake.catalogue_file(settings):
            lake.copy_catalogue(settings, copy)
        elif not file.name.startswith(lake.catalogue_file(settings).name):  # its journal is in the copy
            shutil.copy2(file, copy)
    os.replace(aside, _remembered(settings))


def changing(settings: Settings) -> bool:
    """Whether a change of the home began and did not end."""
    return _remembered(settings).exists()


def undo(settings: Settings) -> None:
    """Put the remembered files back and take away those that came since. May itself be repeated."""
    before = _remembered(settings)
    there = {file.relative_to(before) for file in _small_files(before)}
    for file in list(_small_files(settings.home)):
        if file.relative_to(settings.home) not in there:
            file.unlink()
    for name in sorted(there):
        (settings.home / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(before / name, settings.home / name)
    forget(settings)


def forget(settings: Settings) -> None:
    """End the change: what was remembered goes, in one step and then for good."""
    aside = settings.home / ".migrated.tmp"
    delete(aside)
    os.replace(_remembered(settings), aside)
    delete(aside)
