"""How long each step of a candidate took, for its manifest."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from include.settings import Settings
from include.stores import publications


@contextmanager
def timed(settings: Settings, candidate: str, step: str) -> Iterator[None]:
    """Write the seconds that a step took into the candidate's `run`."""
    start = time.monotonic()
    yield
    note_seconds(settings, candidate, step, time.monotonic() - start)


def note_seconds(settings: Settings, candidate: str, step: str, seconds: float) -> None:
    """Write the seconds of a step into the candidate's `run`; of shards those of all together."""
    run = publications.candidate(settings, candidate)["run"]
    publications.extend_candidate(
        settings, candidate, {"run": {"seconds": {**run["seconds"], step: round(seconds, 3)}}}
    )
