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
    run = publications.candidate(settings, candidate)["run"]
    seconds = {**run["seconds"], step: round(time.monotonic() - start, 3)}
    publications.extend_candidate(settings, candidate, {"run": {"seconds": seconds}})
