"""One hour of ml-100k, end to end under a real Airflow, split into Airflow's, dbt's and Tidemark's own share.

The history goes first and is not measured. Then each of the last hours is a run of `clean_behaviour_hourly`, with the
`update_interests` that its asset starts. Wall time counts from the start of the one to the end of the other. Of that:

- dbt: what `clean_batches` spent in dbt;
- Airflow: the time between tasks, and for each task what a task that does next to nothing takes (`list_models`);
- Tidemark: the rest, the imports of its libraries included.

    python -m benchmarks.bench_hourly_run
"""

import argparse
import statistics
import tempfile
from datetime import datetime
from pathlib import Path
from typing import Any

from include.embedded import airflow, demo
from include.embedded.client import Client
from include.settings import Settings

CLEAN, UPDATE = demo.DAGS[:2]
EMPTY = "list_models"


def seconds(run: dict[str, Any]) -> tuple[datetime, datetime]:
    """When a run began and ended."""
    return datetime.fromisoformat(run["start_date"]), datetime.fromisoformat(run["end_date"])


def split(client: Client, clean: dict[str, Any], update: dict[str, Any]) -> dict[str, float]:
    """Seconds of one hour by whose they are."""
    tasks = [
        task
        for dag, run in ((CLEAN, clean), (UPDATE, update))
        for task in client.tasks(dag, run["dag_run_id"])
        if task["duration"] and task["task_id"] != "show_model"  # runs beside the others, and holds nothing up
    ]
    path = f"/api/v2/dags/{CLEAN}/dagRuns/{clean['dag_run_id']}/taskInstances/clean_batches/xcomEntries/return_value"
    summary = client.call("GET", path, params={"deserialize": True})["value"]
    wall = (seconds(update)[1] - seconds(clean)[0]).total_seconds()
    inside = sum(task["duration"] for task in tasks)
    empty = next(task["duration"] for task in tasks if task["task_id"] == EMPTY)
    dbt = float(summary["seconds"]["dbt"])
    starts = empty * len(tasks)
    return {"wall": wall, "Airflow": wall - inside + starts, "dbt": dbt, "Tidemark": inside - starts - dbt}


def main() -> None:
    """Run and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        settings = Settings(home=Path(scratch) / "home")
        folder = demo.fetch(settings)
        hours, _ = demo.last_events(folder)
        span = demo.land_all(settings, folder, hours)
        head = airflow.start(settings, demo.say)
        try:
            client = Client(head.url, airflow.USER, airflow.password(settings), demo.say)
            demo.run_history(client, span)
            found = []
            for hour in hours:
                (clean,) = client.backfill(CLEAN, hour, hour)
                update = client.wait_for_asset("gated_behaviour", UPDATE)
                assert update is not None
                found.append(split(client, clean, update))
        finally:
            airflow.stop(settings, demo.say)
    print(f"\n{'hour':18}" + "".join(f"{name:>12}" for name in found[0]))
    for hour, row in zip(hours, found, strict=True):
        print(f"{hour:%Y-%m-%d %H:%M}  " + "".join(f"{value:11.1f}s" for value in row.values()))
    medians = {name: statistics.median(row[name] for row in found) for name in found[0]}
    print("median            " + "".join(f"{value:11.1f}s" for value in medians.values()))
    print("share             " + "".join(f"{value / medians['wall']:12.0%}" for value in medians.values()))


if __name__ == "__main__":
    main()
