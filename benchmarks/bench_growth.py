"""What ten times the data costs: each command on two simulated data sets, and the exponent e of cost ~ rows^e.

Users, items and events all grow by the same factor. 1.0 is proportional; the fixed cost of a command (its imports, dbt's
start) lowers the exponent of a small set, so it is measured on its own, with nothing new to do, and shown.

    python -m benchmarks.bench_growth
    python -m benchmarks.bench_growth --events 20000 --factor 10
"""

import argparse
import math
import tempfile
from pathlib import Path

from benchmarks.processes import Cost, tidemark
from benchmarks.simulator import simulate, write

EVENTS_PER_USER = 50
EVENTS_PER_ITEM = 100
COMMANDS = ("land", "clean", "update", "recommend")


def costs(events: int, scratch: Path) -> dict[str, Cost]:
    """The cost of each command from raw files to lists, and of a `clean` with nothing to do."""
    data = write(simulate(events // EVENTS_PER_USER, events // EVENTS_PER_ITEM, events), scratch / "data")
    home = scratch / "home"
    found = {}
    for command in COMMANDS:
        paths = [data] if command == "land" else []
        found[command] = tidemark(home, command, *paths)
        print(f"  {events:>9,} events: {command:10}{found[command]}", flush=True)
    found["nothing"] = tidemark(home, "clean")
    return found


def main() -> None:
    """Run and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=40_000, help="of the smaller set (default %(default)s)")
    parser.add_argument("--factor", type=int, default=10, help="how much larger the other is (default %(default)s)")
    arguments = parser.parse_args()
    small, large = arguments.events, arguments.events * arguments.factor
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        before, after = costs(small, Path(one)), costs(large, Path(other))
    print(f"\n{'CPU seconds':12}{small:>12,}{large:>12,}{'exponent':>10}{'peak GB':>18}")
    for command in COMMANDS:
        a, b = before[command], after[command]
        exponent = math.log(b.cpu / a.cpu) / math.log(arguments.factor)
        print(f"{command:12}{a.cpu:12.1f}{b.cpu:12.1f}{exponent:10.2f}{a.peak:9.2f}{b.peak:9.2f}")
    print(f"{'(nothing new)':12}{before['nothing'].cpu:11.1f}{after['nothing'].cpu:12.1f}")


if __name__ == "__main__":
    main()
