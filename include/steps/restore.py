"""Make a home of a backup."""

from pathlib import Path
from typing import Any

from include.errors import BadInput
from include.settings import Settings
from include.steps.migrate import MIGRATIONS, opened
from include.stores import backups, lake, publications
from include.stores.lock import writing


def restore(settings: Settings, path: Path) -> dict[str, Any]:
    """Check a backup and put it into the home, which must be empty; then bring it up to the present version.

    One that died is done again by the same command; nothing else opens the home until then.

    Returns:
        `home`, `files` and `publication` (that serves, None before the first).

    Raises:
        BadInput: the file is no whole backup or of a newer version, or the home is not empty.
    """
    lake.require_one_folder(settings, "a restore")
    newest = len(MIGRATIONS) + 1
    content = backups.check(path)
    if content["version"] > newest:
        raise BadInput(f"{path} is of version {content['version']}, and this Tidemark knows versions up to {newest}")
    with writing(settings):
        there = None if backups.restoring(settings) else backups.occupied(settings)
        if there is not None:
            raise BadInput(
                f"{settings.home} holds {there} already: set TIDEMARK_HOME to a new folder, restore, and look at it there"
            )
        backups.extract(settings, path, content)
    opened(settings)
    return {
        "home": str(settings.home),
        "files": len(content["files"]),
        "publication": publications.serving_id(settings),
    }
