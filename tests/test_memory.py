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
    with (tmp_path / "said").open("w+", encoding="utf-8") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "include", "clean"], cwd=REPOSITORY, env=environment, stdout=log, stderr=log
        )
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        log.seek(0)
        assert process.returncode == 0, log.read()[-3000:]
    assert used.ru_maxrss / 1024 < LIMIT_MB + OVERHEAD_MB
