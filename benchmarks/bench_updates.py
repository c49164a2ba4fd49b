"""What it costs to follow a change: an update of a few users beside the rebuild of all, on simulated behaviour.

Users whose interests move (see `simulator`) are landed, cleaned and published, all of them anew: that is the rebuild. Then hours of
new events come in, each of a share of the users, and an update follows each. Embedding texts and training artefacts are shown
apart, since neither an update nor a rebuild from the same artefacts does either; so are the gates. Steps run in this process
and are timed one by one, so imports are not counted. Cleaning, which an hour needs whatever follows it, is shown beside.

Smaller homes hold a part of the same users. Shares are of CPU seconds: other work on the machine does not move them much.

    python -m benchmarks.bench_updates
    python -m benchmarks.bench_updates --users 20000 --fixed 200
    python -m benchmarks.bench_updates --scratch DIR        # homes that are in it already are not landed and cleaned again
"""

import argparse
import logging
import math
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmarks.processes import Cost, tidemark
from benchmarks.simulator import START, simulate, write
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
APART = {*GATES, "embed_texts", "train_artefacts"}
SHARES = (0.01, 0.001)
MB = 1e6


@dataclass(frozen=True)
class Seconds:
    """Of the clock, and of the CPUs together."""

    wall: float
    cpu: float

    def __add__(self, other: "Seconds") -> "Seconds":
        return Seconds(self.wall + other.wall, self.cpu + other.cpu)

    def __str__(self) -> str:
        return f"{self.cpu:.2f} CPU s ({self.wall:.1f} s)"


@dataclass(frozen=True)
class Run:
    """What a candidate's steps cost, the seconds of the switch, the bytes that the vector tables grew by, and what was touched."""

    steps: dict[str, Seconds]
    switch: float
    grown: int
    touched: int
    texts: int

    def of(self, names: Collection[str]) -> Seconds:
        """What some steps cost together."""
        return sum((self.steps[name] for name in names), Seconds(0.0, 0.0))

    @property
    def work(self) -> Seconds:
        """What all steps cost but those that are shown apart."""
        return self.of(self.steps.keys() - APART)


def timed(settings: Settings, plan: Callable[[Settings], dict[str, Any]]) -> Run:
    """Plan a candidate and take it through every step, each timed."""
    before = files.size(settings.home / "vectors")
    steps: dict[str, Seconds] = {}

    def step(name: str, call: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        wall, cpu = time.perf_counter(), time.process_time()
        answer = call()
        steps[name] = Seconds(time.perf_counter() - wall, time.process_time() - cpu)
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
    grown = files.size(settings.home / "vectors") - before
    return Run(steps, switch, grown, planned["users"]["touched"], planned["texts"]["embedded"])


def part(tables: dict[str, pa.Table], users: int) -> dict[str, pa.Table]:
    """What the first users did, with all items."""
    names = pa.array([f"u{user}" for user in range(users)])
    return {
        name: table.filter(pc.is_in(table["user_id"], names)) if "user_id" in table.column_names else table
        for name, table in tables.items()
    }


def new_hour(settings: Settings, scratch: Path, users: int, touched: int, items: int) -> Cost:
    """Land an hour of events of some users, after all others, and clean it; returns what the cleaning cost."""
    hour = datetime.fromisoformat(publications.serving(settings)["as_of"])
    number = (hour - START) // timedelta(hours=1)
    draw = np.random.default_rng([number, touched])
    chosen = np.repeat(draw.choice(users, touched, replace=False), EVENTS_OF_TOUCHED)
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
    return tidemark(settings.home, "clean")


def matrix_seconds(users: int, items: int, columns: int, chunk: int) -> float:
    """CPU seconds of the bare product of all users with all items, in chunks as scoring does it."""
    draw = np.random.default_rng(0)
    catalogue = draw.standard_normal((items, columns), dtype=np.float32)
    queries = draw.standard_normal((chunk, columns), dtype=np.float32)
    out = np.empty((chunk, items), dtype=np.float32)
    start = time.process_time()
    for _ in range(math.ceil(users / chunk)):
        np.matmul(queries, catalogue.T, out=out)
    return time.process_time() - start


def measure(
    tables: dict[str, pa.Table], users: int, shares: Sequence[float], fixed: int, scratch: Path
) -> dict[Any, Run]:
    """The rebuild, and updates by how many users they touch, on a home of its own."""
    data, home = scratch / f"data{users}", scratch / f"home{users}"
    if not data.exists():
        write(part(tables, users), data)
    if not home.exists():
        for command, paths in (("land", [data]), ("clean", [])):
            print(f"  {users:,} users: {command:8}{tidemark(home, command, *paths)}", flush=True)
    embedded = next(
        (other / "cache" / "texts" for other in scratch.glob("home*/") if (other / "cache/texts").exists()), None
    )
    if embedded is not None and not (home / "cache" / "texts").exists():
        shutil.copytree(embedded, home / "cache" / "texts")
    os.environ["TIDEMARK_HOME"] = str(home)
    settings = opened(load())
    serving = publications.serving_id(settings)
    anew = plan_update if serving is None else lambda s: plan_rebuild(s, publication=serving)
    found: dict[Any, Run] = {"rebuild": timed(settings, anew)}
    show("rebuild", found["rebuild"])
    for touched in sorted({*(round(share * users) for share in shares), fixed}, reverse=True):
        cleaning = new_hour(settings, scratch, users, touched, tables["items"].num_rows)
        found[touched] = timed(settings, plan_update)
        show(f"{touched:,} users", found[touched], found["rebuild"], cleaning)
    redelivered(settings, data)
    return found


def redelivered(settings: Settings, data: Path) -> None:
    """Deliver the whole history again, unchanged, and say what an update makes of it."""
    landed = land(settings, data, format="canonical", progress=lambda line: None)
    cost = tidemark(settings.home, "clean")
    plan = plan_update(settings)
    touched = 0 if plan["candidate"] is None else plan["users"]["touched"]
    texts = 0 if plan["candidate"] is None else plan["texts"]["embedded"]
    print(
        f"  unchanged re-delivery of {sum(landed['rows'].values()):,} rows: clean {cost.cpu:.1f} CPU s ({cost.wall:.1f} s), "
        f"{touched} users touched, {texts} texts embedded",
        flush=True,
    )


def show(name: str, run: Run, full: Run | None = None, cleaning: Cost | None = None) -> None:
    """Print one run."""
    share = "" if full is None else f", {run.work.cpu / full.work.cpu:.2%} of the rebuild"
    hour = "" if cleaning is None else f", clean {cleaning.cpu:.1f} CPU s ({cleaning.wall:.1f} s)"
    print(
        f"  {name}: {run.work}{share}; gates {run.of(GATES)}, switch {run.switch * 1000:.0f} ms{hour}; "
        f"touched {run.touched:,}, embedded {run.texts}, vectors +{run.grown / MB:.1f} MB",
        flush=True,
    )
    print(
        "    " + ", ".join(f"{step} {cost.cpu:.2f} ({cost.wall:.1f})" for step, cost in run.steps.items()), flush=True
    )


def main() -> None:
    """Run and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=200_000, help="of the largest home (default %(default)s)")
    parser.add_argument("--items", type=int, default=10_000, help="(default %(default)s)")
    parser.add_argument(
        "--fixed", type=int, default=500, help="users touched in every home, for the exponent (default %(default)s)"
    )
    parser.add_argument("--smaller", type=int, nargs="*", default=[4, 2], help="also homes of users / N (default 4 2)")
    parser.add_argument("--scratch", type=Path, help="where data and homes are (default: a folder that is removed)")
    arguments = parser.parse_args()
    logging.getLogger().setLevel(logging.WARNING)
    tables = simulate(arguments.users, arguments.items, arguments.users * EVENTS_PER_USER)
    by_size = {}
    with tempfile.TemporaryDirectory() as removed:
        for divisor in [*arguments.smaller, 1]:
            users = arguments.users // divisor
            shares = SHARES if divisor == 1 else ()
            by_size[users] = measure(tables, users, shares, arguments.fixed, arguments.scratch or Path(removed))
    largest = by_size[arguments.users]
    product = matrix_seconds(arguments.users, arguments.items, 384 + 128 + 1, 1024)
    print(
        f"\nbare matrix product of all users and items: {product:.1f} CPU s, {product / largest['rebuild'].work.cpu:.0%} of the rebuild"
    )
    print(f"\n{'touched':>12}{'CPU s':>10}{'of rebuild':>12}{'wall s':>10}{'vectors MB':>12}")
    for name, run in largest.items():
        print(
            f"{name:>12}{run.work.cpu:10.2f}{run.work.cpu / largest['rebuild'].work.cpu:12.2%}{run.work.wall:10.1f}{run.grown / MB:12.1f}"
        )
    if len(by_size) == 1:
        return
    sizes = np.log(list(by_size))
    costs = np.log([runs[arguments.fixed].work.cpu for runs in by_size.values()])
    print(f"\n{arguments.fixed:,} users touched in homes of " + ", ".join(f"{users:,}" for users in by_size)
          + f": exponent {np.polyfit(sizes, costs, 1)[0]:.2f}")  # fmt: skip


if __name__ == "__main__":
    main()
