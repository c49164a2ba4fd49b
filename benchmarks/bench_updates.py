"""What it costs to follow a change: an update of a few users beside the rebuild of all, on simulated behaviour.

Users whose interests move (see `simulator`) are landed, cleaned and published. Then everything is rebuilt from nothing, and
after it hours of new events come in, each of a share of the users, and an update follows each. Texts were embedded before, on both
sides. Steps run in this process and are timed one by one, so imports are not counted; gates are counted apart. Cleaning, which
an hour needs whatever follows it, is shown beside.

    python -m benchmarks.bench_updates
    python -m benchmarks.bench_updates --users 20000 --fixed 400
"""

import argparse
import logging
import math
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from threadpoolctl import threadpool_info

from benchmarks.processes import tidemark
from benchmarks.simulator import DAYS, START, simulate, write
from include.settings import Settings, load
from include.steps.chain import STEPS
from include.steps.land import land
from include.steps.migrate import opened
from include.steps.plan import plan_rebuild, plan_update
from include.steps.publish import publish
from include.stores import files, publications

EVENTS_PER_USER = 25
EVENTS_OF_TOUCHED = 3
GATES = ("check_vectors", "check_lists")
SHARES = (0.01, 0.001)
MB = 1e6


@dataclass(frozen=True)
class Run:
    """Seconds of a candidate's steps, gates and switch, the bytes that the vector tables grew by, and what was touched."""

    steps: dict[str, float]
    gates: float
    switch: float
    grown: int
    touched: int
    texts: int

    @property
    def seconds(self) -> float:
        """Of all steps but the gates."""
        return sum(self.steps.values())


def timed(settings: Settings, plan: Callable[[Settings], dict[str, Any]]) -> Run:
    """Plan a candidate and take it through every step, each timed."""
    before = files.size(settings.home / "vectors")
    steps: dict[str, float] = {}

    def step(name: str, call: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        start = time.perf_counter()
        answer = call()
        steps[name] = time.perf_counter() - start
        return answer

    planned = step("plan", lambda: plan(settings))
    candidate = planned["candidate"]
    assert candidate is not None, planned["reason"]
    for each in STEPS:
        step(each.__name__, lambda each=each: each(settings, candidate))
    made = step("publish", lambda: publish(settings, candidate))["publication"]
    start = time.perf_counter()
    publications.serve(settings, made, "timed", pin=False)
    switch = time.perf_counter() - start
    gates = sum(steps.pop(name) for name in GATES)
    grown = files.size(settings.home / "vectors") - before
    return Run(steps, gates, switch, grown, planned["users"]["touched"], planned["texts"]["embedded"])


def new_hour(settings: Settings, scratch: Path, users: int, touched: int, items: int, number: int) -> float:
    """Land an hour of events of some users, after all others, and clean it; returns the seconds of the cleaning."""
    draw = np.random.default_rng([number, touched])
    chosen = np.repeat(draw.choice(users, touched, replace=False), EVENTS_OF_TOUCHED)
    hour = START + timedelta(days=DAYS, hours=number)
    moments = [hour + timedelta(seconds=float(second)) for second in np.sort(draw.uniform(0, 3600, len(chosen)))]
    events = pa.table(
        {
            "event_id": [f"hour{number}-{row}" for row in range(len(chosen))],
            "user_id": [f"u{user}" for user in chosen],
            "item_id": [f"i{item}" for item in draw.integers(0, items, len(chosen))],
            "event_type": ["view"] * len(chosen),
            "event_ts": pa.array(moments, pa.timestamp("us", tz="UTC")),
        }
    )
    file = scratch / f"events{number}.parquet"
    pq.write_table(events, file)
    land(settings, file, format="canonical", arrival=hour)
    return tidemark(settings.home, "clean").wall


def matrix_seconds(users: int, items: int, columns: int, chunk: int) -> float:
    """Seconds of the bare product of all users with all items, in chunks as scoring does it."""
    draw = np.random.default_rng(0)
    catalogue = draw.standard_normal((items, columns), dtype=np.float32)
    queries = draw.standard_normal((chunk, columns), dtype=np.float32)
    out = np.empty((chunk, items), dtype=np.float32)
    start = time.perf_counter()
    for _ in range(math.ceil(users / chunk)):
        np.matmul(queries, catalogue.T, out=out)
    return time.perf_counter() - start


def measure(users: int, items: int, shares: Sequence[float], fixed: int, scratch: Path) -> dict[Any, Run]:
    """The rebuild, and updates by how many users they touch, on a home of its own."""
    data = write(simulate(users, items, users * EVENTS_PER_USER), scratch / "data")
    home = scratch / "home"
    for command, paths in (("land", [data]), ("clean", []), ("update", [])):
        print(f"  {users:,} users: {command:8}{tidemark(home, command, *paths)}", flush=True)
    os.environ["TIDEMARK_HOME"] = str(home)
    settings = opened(load())
    serving = publications.serving(settings)["id"]
    found: dict[Any, Run] = {"rebuild": timed(settings, lambda s: plan_rebuild(s, publication=serving))}
    show("rebuild", found["rebuild"])
    for number, touched in enumerate(sorted({*(round(share * users) for share in shares), fixed}, reverse=True)):
        cleaning = new_hour(settings, scratch, users, touched, items, number)
        found[touched] = timed(settings, plan_update)
        show(f"{touched:,} users", found[touched], found["rebuild"], cleaning)
    redelivered(settings, data)
    return found


def redelivered(settings: Settings, data: Path) -> None:
    """Deliver the whole history again, unchanged, and say what an update makes of it."""
    landed = land(settings, data, format="canonical", progress=lambda line: None)
    seconds = tidemark(settings.home, "clean").wall
    plan = plan_update(settings)
    touched = 0 if plan["candidate"] is None else plan["users"]["touched"]
    texts = 0 if plan["candidate"] is None else plan["texts"]["embedded"]
    print(
        f"  unchanged re-delivery of {sum(landed['rows'].values()):,} rows: clean {seconds:.1f} s, "
        f"{touched} users touched, {texts} texts embedded",
        flush=True,
    )


def show(name: str, run: Run, full: Run | None = None, cleaning: float | None = None) -> None:
    """Print one run."""
    share = "" if full is None else f", {run.seconds / full.seconds:.2%} of the rebuild"
    hour = "" if cleaning is None else f", clean {cleaning:.1f} s"
    print(
        f"  {name}: {run.seconds:.2f} s{share}; gates {run.gates:.2f} s, switch {run.switch * 1000:.0f} ms{hour}; "
        f"touched {run.touched:,}, embedded {run.texts}, vectors +{run.grown / MB:.1f} MB",
        flush=True,
    )
    print("    " + ", ".join(f"{step} {seconds:.2f}" for step, seconds in run.steps.items()), flush=True)


def main() -> None:
    """Run and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=200_000, help="of the largest home (default %(default)s)")
    parser.add_argument("--items", type=int, default=10_000, help="(default %(default)s)")
    parser.add_argument(
        "--fixed", type=int, default=500, help="users touched in every home, for the exponent (default %(default)s)"
    )
    parser.add_argument("--smaller", type=int, nargs="*", default=[4, 2], help="also homes of users / N (default 4 2)")
    arguments = parser.parse_args()
    logging.getLogger().setLevel(logging.WARNING)
    by_size = {}
    for divisor in [*arguments.smaller, 1]:
        users = arguments.users // divisor
        with tempfile.TemporaryDirectory() as scratch:
            by_size[users] = measure(
                users, arguments.items, SHARES if divisor == 1 else (), arguments.fixed, Path(scratch)
            )
    largest = by_size[arguments.users]
    product = matrix_seconds(arguments.users, arguments.items, 256 * 3, 1024)
    threads = max((pool["num_threads"] for pool in threadpool_info()), default=1)
    print(f"\nbare matrix product of all users and items: {product:.1f} s on {threads} threads, "
          f"{product / largest['rebuild'].seconds:.0%} of the rebuild")  # fmt: skip
    print(f"\n{'touched':>12}{'seconds':>10}{'of rebuild':>12}{'vectors MB':>12}")
    for name, run in largest.items():
        print(f"{name:>12}{run.seconds:10.2f}{run.seconds / largest['rebuild'].seconds:12.2%}{run.grown / MB:12.1f}")
    if len(by_size) == 1:
        return
    sizes = np.log(list(by_size))
    costs = np.log([runs[arguments.fixed].seconds for runs in by_size.values()])
    print(f"\n{arguments.fixed:,} users touched in homes of " + ", ".join(f"{users:,}" for users in by_size)
          + f": exponent {np.polyfit(sizes, costs, 1)[0]:.2f}")  # fmt: skip


if __name__ == "__main__":
    main()
