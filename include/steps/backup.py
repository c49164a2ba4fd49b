"""Write a home to one file."""

from pathlib import Path
from typing import Any

from include.errors import BadInput
from include.settings import Settings
from include.steps.publish import finish
from include.stores import backups, lake, publications, versions
from include.stores.lock import writing


def backup(settings: Settings, out: Path) -> dict[str, Any]:
    """Write all of a home that cannot be computed again from the rest. Writers wait meanwhile; readers do not.

    Returns:
        `file`, `files` and `bytes`.

    Raises:
        BadInput: the file is there already, or inside the home, or the home holds nothing.
    """
    lake.require_one_folder(settings, "a backup")
    if out.suffix != ".tar":
        raise BadInput(f"{out}: a backup is a tar file, so the name must end in .tar")
    if out.exists():
        raise BadInput(f"{out} is there already: name another file")
    if out.resolve().is_relative_to(settings.home.resolve()):
        raise BadInput(f"{out} is inside the home that it would hold: name a file elsewhere, best on another disk")
    newest = publications.newest(settings)
    if newest is not None:
        finish(settings, newest)  # a backup holds no candidates, by which it is known that a switch is left to do
    with writing(settings):
        version = versions.version(settings)
        if version is None or backups.occupied(settings) is None:
            raise BadInput(f"{settings.home} holds nothing yet")
        return {"file": str(out), **backups.write(settings, out, version)}
