"""What `land` and `clean` cost in time and memory: 1.47 million lines in one batch, and a file larger than the memory.

The Complete Journey (from its package, as in `make demo DATASET=complete-journey`) goes through in one batch. Then a
file of long rows, larger than what a process is let to hold (RLIMIT_DATA), goes through under that limit.

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


def larger_than_memory(scratch: Path, file_gb: float, limit_gb: float) -> None:
    """A file larger than the memory limit."""
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
    print(f"\n{rows:,} rows in one file of {file_gb} GB, each process held below {limit_gb} GB\n{'':12}{HEADER}")
    memory = {"TIDEMARK_CLEANING__MEMORY_LIMIT": "1GB"}
    for command in (("land", file), ("clean",)):
        print(f"{command[0]:12}{tidemark(home, *command, memory_gb=limit_gb, **memory)}", flush=True)


def main() -> None:
    """Run and print tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=PARTS, help="one of the parts")
    parser.add_argument("--file-gb", type=float, default=4.0, help="size of the large file (default %(default)s)")
    parser.add_argument("--limit-gb", type=float, default=3.0, help="memory of a process (default %(default)s)")
    arguments = parser.parse_args()
    chosen = [arguments.only] if arguments.only else PARTS
    if PARTS[0] in chosen:
        with tempfile.TemporaryDirectory() as scratch:
            one_batch(Path(scratch))
    if PARTS[1] in chosen:
        with tempfile.TemporaryDirectory() as scratch:
            larger_than_memory(Path(scratch), arguments.file_gb, arguments.limit_gb)


if __name__ == "__main__":
    main()
