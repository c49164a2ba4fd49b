"""Memory of `clean` is bounded by its setting, not by the file."""

import json
import os
import subprocess
import sys
from pathlib import Path

from include.settings import Settings
from include.steps.land import land
from tests.test_formats import quiet

REPOSITORY = Path(__file__).resolve().parent.parent
ROWS, WORDS = 80_000, 300
LIMIT_MB = 500
OVERHEAD_MB = 1_000  # Python, dbt, and what DuckDB holds beside its buffers

MEASURED = """
import resource, subprocess, sys
done = subprocess.run(sys.argv[1:])
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(done.returncode)
"""


def test_a_file_beyond_the_memory_limit_is_cleaned_within_it(settings: Settings, tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    said = [" ".join(f"w{(n * word) % 4999}" for word in range(1, WORDS)) for n in range(1, 500)]
    with file.open("w", encoding="utf-8") as out:
        for row in range(ROWS):
            event = {
                "event_id": f"e{row}",
                "user_id": f"u{row % 999}",
                "item_id": f"i{row % 97}",
                "event_type": "review",
                "event_ts": 1_700_000_000 + row,
                "text": f"{row} {said[row % len(said)]}",
            }
            out.write(json.dumps(event) + "\n")
    land(settings, file, format="canonical", progress=quiet)
    environment = os.environ | {
        "TIDEMARK_HOME": str(settings.home),
        "TIDEMARK_CLEANING__MEMORY_LIMIT": f"{LIMIT_MB}MB",
    }
    # A process takes on the peak of the one that starts it, so a small one stands between.
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, sys.executable, "-m", "include", "clean"],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    peak_kib = int(done.stdout.splitlines()[-1])
    assert peak_kib / 1024 < LIMIT_MB + OVERHEAD_MB
