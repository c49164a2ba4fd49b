"""What work costs: in this process, and as commands in processes of their own."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
KIB_PER_GB = 1e9 / 1024


@dataclass(frozen=True)
class Cost:
    """Wall and CPU seconds, and the most memory that the process held resident at once, in GB."""

    wall: float
    cpu: float
    peak: float

    def __str__(self) -> str:
        return f"{self.wall:9.1f}{self.cpu:9.1f}{self.peak:9.2f}"


HEADER = f"{'wall s':>9}{'CPU s':>9}{'peak GB':>9}"


def measure(work: Callable[[], object]) -> tuple[float, float]:
    """Do some work in this process; returns its wall and CPU seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def tidemark(home: Path, *arguments: object, **settings: str) -> Cost:
    """Run `python -m include ARGUMENTS` on a home, with more settings of the environment, such as `TIDEMARK_SEED`.

    Raises:
        SystemExit: it failed; its last lines were printed.
    """
    environment = os.environ | {"TIDEMARK_HOME": str(home)} | settings
    command = [sys.executable, "-m", "include", *map(str, arguments)]
    start = time.perf_counter()
    process = subprocess.Popen(
        command,
        cwd=REPOSITORY,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    said = process.stdout.read()
    _, status, used = os.wait4(process.pid, 0)
    wall = time.perf_counter() - start
    if code := os.waitstatus_to_exitcode(status):
        print(said[-3000:])
        raise SystemExit(f"{' '.join(command)} ended with {code}")
    return Cost(wall, used.ru_utime + used.ru_stime, used.ru_maxrss / KIB_PER_GB)
