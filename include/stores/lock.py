"""The one writer's lock of a home: DAG tasks and the command line take the same."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from filelock import FileLock, Timeout

from include.settings import Settings

log = logging.getLogger(__name__)


@contextmanager
def writing(settings: Settings) -> Iterator[None]:
    """Hold the writer's lock; wait for whoever holds it, and say so."""
    settings.home.mkdir(parents=True, exist_ok=True)
    lock = FileLock(settings.home / ".writer.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        log.warning("another writer is at work in %s; waiting for it to end", settings.home)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
