"""How long Airflow needs to parse the DAG files: each in a fresh process, the import of Airflow itself apart.

Airflow parses every DAG file again and again; what a file imports at its top is paid each time.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.processes import REPOSITORY

PROGRAM = """
import sys, time
import airflow.sdk, airflow.sdk.exceptions
start = time.perf_counter()
import runpy
for file in sys.argv[1:]:
    runpy.run_path(file)
print(time.perf_counter() - start)
"""


def seconds(files: list[Path], home: str) -> float:
    """Wall seconds to run DAG files in one fresh process, after Airflow itself was imported."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *map(str, files)],
        cwd=REPOSITORY,
        env={"PYTHONPATH": str(REPOSITORY), "AIRFLOW_HOME": home, "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    return float(done.stdout.split()[-1])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5, help="fresh processes a figure (default 5)")
    repeats = parser.parse_args().repeats
    files = sorted((REPOSITORY / "dags").glob("*.py"))
    with tempfile.TemporaryDirectory() as home:
        print(f"{'DAG file':<32} median s")
        for group in [[file] for file in files] + [files]:
            found = statistics.median(seconds(group, home) for _ in range(repeats))
            name = group[0].name if len(group) == 1 else f"all {len(files)} together"
            print(f"{name:<32} {found:8.3f}")


if __name__ == "__main__":
    main()
