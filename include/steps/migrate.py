"""Open a home: bring one of an earlier version up to the present one, refuse what cannot be opened, take its encoder."""

import logging
from collections.abc import Callable, Sequence

from include.errors import BadInput
from include.settings import Encoder, Settings
from include.stores import backups, publications, versions
from include.stores.lock import writing

log = logging.getLogger(__name__)

Migration = Callable[[Settings], None]

MIGRATIONS: tuple[Migration, ...] = ()
"""In order; the first takes a home from version 1 to 2, and so on. See docs/adr/0011-maintenance.md for what one may do."""


def opened(settings: Settings, migrations: Sequence[Migration] = MIGRATIONS) -> Settings:
    """The same settings with the home's encoder, once it can be worked with. Every command and every task comes through here.

    Raises:
        BadInput: the home is of a newer version, or a restore into it did not finish.
    """
    _bring_up_to_date(settings, migrations)
    return _with_its_encoder(settings)


def _with_its_encoder(settings: Settings) -> Settings:
    """The settings with the encoder that serves, where theirs is one that a switch took out of use.

    So a switch is one step, whatever the environment of each worker names. An encoder that never served is left as it is:
    planning refuses it.
    """
    serves = publications.encoder(settings)
    past = [Encoder(**named).named for named in publications.encoders_of_the_past(settings)]
    if serves is None or settings.encoder.named not in past:
        return settings
    found = settings.with_encoder(serves)
    if found.encoder != settings.encoder:
        log.info(
            "the encoder that serves is that of %s; the settings name %s, which served before",
            found.encoder.set_instead_of(settings.encoder),
            settings.encoder.source,
        )
    return found


def _bring_up_to_date(settings: Settings, migrations: Sequence[Migration]) -> None:
    newest = len(migrations) + 1
    if backups.restoring(settings):
        raise BadInput(f"a restore into {settings.home} did not finish: run the same `python -m include restore` again")
    if versions.version(settings) == newest and not versions.changing(settings):
        return
    with writing(settings):
        if versions.changing(settings):
            log.warning("a change of the home's version did not end well: it is undone first")
            versions.undo(settings)
        found = versions.version(settings)
        if found is None:
            versions.set_version(settings, newest)
            return
        if found > newest:
            raise BadInput(
                f"{settings.home} is a home of version {found}, and this Tidemark knows versions up to {newest}: use the "
                "Tidemark that made it, or restore a backup (docs/runbooks/restore.md)"
            )
        _migrate(settings, migrations[found - 1 :], newest)


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
