"""What `land` and `clean` cost in time and memory: 1.47 million lines in one batch, and files larger than the memory.

The Complete Journey (from its package, as in `make demo DATASET=complete-journey`) goes through in one batch. Then files
of long rows go through with a small `TIDEMARK_CLEANING__MEMORY_LIMIT`. Their peak is resident memory: a limit set on the
process (RLIMIT_DATA) would count the addresses that its allocators reserve, more than twice what it uses.

    python -m benchmarks.bench_cleaning
    python -m benchmarks.bench_cleaning --only larger-than-memory
"""

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.processes import HEADER, tidemark
from include.embedded.demo import fetch
from include.settings import Settings

PARTS = ("one-batch", "larger-than-memory")


def one_batch(scratch: Path) -> None:
    """1.47 million lines in one batch."""
    home = scratch / "home"
    data = fetch(Settings(home=scratch / "data"), "complete-journey")
    print(f"\ncomplete-journey, one batch\n{'':12}{HEADER}")
    print(f"{'land':12}{tidemark(home, 'land', data, '--format', 'complete-journey')}", flush=True)
    print(f"{'clean':12}{tidemark(home, 'clean')}\ngoal: clean within 180 s and 4 GB")


def larger_than_memory(scratch: Path, file_gb: float, limit_gb: int) -> bool:
    """A file larger than the memory limit; whether each command stayed within the limit and 1 GB."""
    file, size, rows = scratch / "events.jsonl", 0, 0
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice([f"w{number}" for number in range(5000)], 300)) for _ in range(1000)]
    with file.open("w", encoding="utf-8") as out:
        while size < file_gb * 1e9:
            row = {
                "event_id": f"e{rows}",
                "user_id": f"u{rows % 5000}",
                "item_id": f"i{rows % 977}",
                "event_type": "review",
                "event_ts": 1_700_000_000 + rows,
                "text": f"{rows} {texts[rows % len(texts)]}",
            }
            size += out.write(json.dumps(row) + "\n")
            rows += 1
    home = scratch / "home"
    print(
        f"\n{rows:,} rows in one file of {file_gb} GB, DuckDB's limit {limit_gb} GB\n{'':12}{HEADER}{'of the file':>13}"
    )
    memory = {"TIDEMARK_CLEANING__MEMORY_LIMIT": f"{limit_gb}GB"}
    bounded = True
    for command in (("land", file), ("clean",)):
        cost = tidemark(home, *command, **memory)
        print(f"{command[0]:12}{cost}{cost.peak / file_gb:13.0%}", flush=True)
        bounded = bounded and cost.peak <= limit_gb + 1
    return bounded


def main() -> None:
    """Run and print tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=PARTS, help="one of the parts")
    parser.add_argument(
        "--file-gb", type=float, nargs="+", default=[1.0, 2.0, 4.0], help="sizes of large files (default 1 2 4)"
    )
    parser.add_argument("--limit-gb", type=int, default=1, help="DuckDB's memory limit (default %(default)s)")
    arguments = parser.parse_args()
    chosen = [arguments.only] if arguments.only else PARTS
    if PARTS[0] in chosen:
        with tempfile.TemporaryDirectory() as scratch:
            one_batch(Path(scratch))
    if PARTS[1] in chosen:
        bounded = True
        for file_gb in arguments.file_gb:
            with tempfile.TemporaryDirectory() as scratch:
                bounded &= larger_than_memory(Path(scratch), file_gb, arguments.limit_gb)
        print(
            f"goal: a peak of at most {arguments.limit_gb + 1} GB, whatever the file: {'met' if bounded else 'missed'}"
        )


if __name__ == "__main__":
    main()
