"""The lake's catalogue in Postgres: how it is reached, and the one writer's lock that it keeps."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psycopg2
from psycopg2.extensions import parse_dsn

from include.errors import BadInput, TidemarkError
from include.settings import Settings

log = logging.getLogger(__name__)

LOCK = int.from_bytes(b"tidemark", "big")
# A server or a network that is gone is found out after half a minute instead of hours.
KEEPALIVE = {"keepalives": 1, "keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 4}


def parameters(settings: Settings) -> dict[str, str]:
    """The libpq parameters of the catalogue's database.

    Raises:
        BadInput: the setting is no connection string.
    """
    assert settings.lake_catalogue is not None
    text = settings.lake_catalogue.get_secret_value()
    if not text.startswith(("postgres://", "postgresql://")):
        text = text.partition(":")[2]
    try:
        return dict(parse_dsn(text))
    except psycopg2.ProgrammingError:
        # Its own message may quote the password.
        raise BadInput(
            "setting TIDEMARK_LAKE_CATALOGUE is no libpq connection string: write "
            "postgresql://USER:PASSWORD@HOST:PORT/DATABASE"
        ) from None


def _connect(settings: Settings) -> Any:
    found = parameters(settings)
    try:
        connection = psycopg2.connect(**{**KEEPALIVE, "connect_timeout": "15", **found})
    except psycopg2.OperationalError as error:
        raise TidemarkError(
            f"the lake's catalogue in Postgres at {found.get('host', 'the local socket')} is out of reach: "
            f"{' '.join(str(error).split())}"
        ) from None
    connection.autocommit = True
    return connection


def has_lake(settings: Settings) -> bool:
    """Whether a lake's catalogue is in the database."""
    connection = _connect(settings)
    try:
        return bool(_ask(connection, "SELECT to_regclass('ducklake_metadata') IS NOT NULL"))
    finally:
        connection.close()


def _ask(connection: Any, question: str, *values: int) -> Any:
    with connection.cursor() as cursor:
        cursor.execute(question, values)
        return cursor.fetchone()[0]


@contextmanager
def writing(settings: Settings) -> Iterator[Callable[[], None]]:
    """Hold the database's advisory lock, which ends with its connection; wait for whoever holds it, and say so.

    Yields:
        A function that raises where the lock was lost.

    Raises:
        TidemarkError: the lock was lost before the end, so that another may have written meanwhile.
    """
    connection = _connect(settings)
    try:
        waiting = False
        while not _ask(connection, "SELECT pg_try_advisory_lock(%s)", LOCK):
            if not waiting:
                log.warning("another writer is at work in %s; waiting for it to end", settings.home)
            waiting = True
            time.sleep(0.2)

        def confirm(question: str = "SELECT 1", *values: int) -> None:
            # The lock lives as long as its session, so a session that answers still holds it.
            try:
                held = bool(_ask(connection, question, *values))
            except psycopg2.Error:
                held = False
            if not held:
                raise TidemarkError(
                    f"the writer's lock of {settings.home} was lost, because its connection to Postgres ended: run this again"
                )

        yield confirm
        confirm("SELECT pg_advisory_unlock(%s)", LOCK)
    finally:
        with suppress(psycopg2.Error):
            connection.close()
