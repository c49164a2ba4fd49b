"""Open a home: bring one of an earlier version up to the present one, and refuse what cannot be opened."""

import logging
from collections.abc import Callable, Sequence

from include.errors import BadInput
from include.settings import Settings
from include.stores import backups, versions
from include.stores.lock import writing

log = logging.getLogger(__name__)

Migration = Callable[[Settings], None]

MIGRATIONS: tuple[Migration, ...] = ()
"""In order; the first takes a home from version 1 to 2, and so on. See docs/adr/0011-maintenance.md for what one may do."""


def opened(settings: Settings, migrations: Sequence[Migration] = MIGRATIONS) -> Settings:
    """The same settings, once their home can be worked with. Every command and every task comes through here.

    Raises:
        BadInput: the home is of a newer version, or a restore into it did not finish.
    """
    newest = len(migrations) + 1
    if backups.restoring(settings):
        raise BadInput(f"a restore into {settings.home} did not finish: run the same `python -m include restore` again")
    if versions.version(settings) == newest and not versions.changing(settings):
        return settings
    with writing(settings):
        if versions.changing(settings):
            log.warning("a change of the home's version did not end well: it is undone first")
            versions.undo(settings)
        found = versions.version(settings)
        if found is None:
            versions.set_version(settings, newest)
            return settings
        if found > newest:
            raise BadInput(
                f"{settings.home} is a home of version {found}, and this Tidemark knows versions up to {newest}: use the "
                "Tidemark that made it, or restore a backup (docs/runbooks/restore.md)"
            )
        _migrate(settings, migrations[found - 1 :], newest)
    return settings


def _migrate(settings: Settings, migrations: Sequence[Migration], newest: int) -> None:
    """All of them or none."""
    versions.remember(settings)
    try:
        for migration in migrations:
            log.info("the home is brought up to date: %s", migration.__name__)
            migration(settings)
        versions.set_version(settings, newest)
    except BaseException:
        versions.undo(settings)
        raise
    versions.forget(settings)
