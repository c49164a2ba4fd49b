"""The one writer's lock of a home: DAG tasks and the command line take the same.

A file lock, or an advisory lock where the lake's catalogue is in Postgres. A home beside another has a file lock of its own.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from filelock import FileLock, Timeout

from include.settings import Settings

log = logging.getLogger(__name__)


@contextmanager
def writing(settings: Settings) -> Iterator[Callable[[], None]]:
    """Hold the writer's lock; wait for whoever holds it, and say so.

    Yields:
        A function to call before what cannot be taken back: it raises where the lock was lost.

    Raises:
        TidemarkError: the lock was lost before the end (only a lock in Postgres can be).
    """
    if settings.lake_catalogue is not None and settings.written == settings.home:
        # psycopg2 is loaded only where it is needed.
        from include.stores import postgres

        with postgres.writing(settings) as confirm:
            yield confirm
        return
    settings.written.mkdir(parents=True, exist_ok=True)
    lock = FileLock(settings.written / ".writer.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        log.warning("another writer is at work in %s; waiting for it to end", settings.written)
        lock.acquire()
    try:
        yield lambda: None
    finally:
        lock.release()
