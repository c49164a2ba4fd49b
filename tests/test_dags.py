"""The DAG files: what they say, what they cost, and the whole path through `dag.test()`.

Airflow configures logging and keeps a database for its process, so it is looked at from a process of its own: this file
run as a program answers what a test wants to know.
"""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from include.settings import REPOSITORY, Settings

ANSWER = "ANSWER "
HEAVY = ("torch", "transformers", "lancedb", "duckdb", "great_expectations", "pandas")
DAG_IDS = {
    "clean_behaviour_hourly",
    "update_interests",
    "recommend_daily",
    "maintain_stores_daily",
    "roll_back_publication",
    "switch_encoder",
    "backtest_recommender",
    "compare_encoders",
    "train_encoder_weekly",
}
HEADINGS = ["What", "Inputs → outputs", "If it fails", "Safe to re-run?", "Backfill"]
CHAIN = [
    "plan",
    "embed_texts",
    "train_artefacts",
    "update_items",
    "update_users",
    "keep_users",
    "check_vectors",
    "update_lists",
    "keep_lists",
    "check_lists",
    "publish",
]
LOOKING_BACK = ["score_served_lists", "check_served_lists"]


def describe() -> dict[str, Any]:
    """Parse the DAG files as Airflow does; return what is in them and what parsing them imported."""
    import pendulum
    from airflow.dag_processing.dagbag import DagBag
    from airflow.sdk import DAG
    from airflow.serialization.encoders import coerce_to_core_timetable

    before = set(sys.modules)
    began = time.perf_counter()
    bag = DagBag(str(REPOSITORY / "dags"))
    seconds = time.perf_counter() - began
    imported = sorted(name for name in HEAVY if name in set(sys.modules) - before or name in sys.modules)

    from include.dag_defaults import OWNER, RUNBOOKS, WRITER_POOL, Tag, runbook

    def of_dag(dag: DAG) -> dict[str, Any]:
        timetable = coerce_to_core_timetable(dag.timetable)
        is_asset_triggered = type(timetable).__name__ == "AssetTriggeredTimetable"
        noon = pendulum.datetime(2024, 5, 1, 12, 30)
        interval = timetable.infer_manual_data_interval(run_after=noon)
        tasks = {
            task.task_id: {
                "owner": task.owner,
                "told": [callback.__name__ for callback in task.on_failure_callback or ()],
                "retries": task.retries,
                "timeout": task.execution_timeout is not None,
                "pool": task.pool,
                "outlets": [asset.name for asset in task.outlets],
                "downstream": sorted(task.downstream_task_ids),
                "rule": task.trigger_rule.value,
                "mapped": task.is_mapped,
                "doc": task.partial_kwargs.get("doc_md") if task.is_mapped else task.doc_md,
                "runbook": runbook(task.task_id),
            }
            for task in dag.tasks
        }
        return {
            "file": Path(dag.fileloc).name,
            "tags": sorted(dag.tags),
            "doc": dag.doc_md,
            "catchup": dag.catchup,
            "max_active_runs": dag.max_active_runs,
            "interval": [interval.start.isoformat(), interval.end.isoformat()],
            "start": str(dag.start_date),
            "assets": [asset.name for _, asset in timetable.asset_condition.iter_assets()]
            if is_asset_triggered
            else [],
            "tasks": tasks,
        }

    return {
        "errors": bag.import_errors,
        "seconds": seconds,
        "imported": imported,
        "dags": {dag_id: of_dag(dag) for dag_id, dag in bag.dags.items()},
        "all_tags": sorted(Tag),
        "owner": OWNER,
        "pool": WRITER_POOL,
        "runbooks": sorted({*RUNBOOKS.values(), runbook("anything else")}),
    }


def run_dag(dag_id: str, conf: dict[str, Any], logical_date: str | None = None) -> dict[str, Any]:
    """Run one DAG by `dag.test()`, by default as of now; return its state and its tasks' states."""
    from airflow.dag_processing.dagbag import DagBag

    dag = DagBag(str(REPOSITORY / "dags")).dags[dag_id]
    date = {} if logical_date is None else {"logical_date": datetime.fromisoformat(logical_date)}
    run = dag.test(run_conf=conf, **date)
    states: dict[str, list[str]] = {}
    for task in run.get_task_instances():
        states.setdefault(task.task_id, []).append(str(task.state))
    return {"state": str(run.state), "tasks": states}


def handed_on(dag_id: str, task_id: str) -> dict[str, Any]:
    """What a task of a DAG's runs handed to others, by XCom key."""
    from airflow.models.xcom import XComModel
    from airflow.utils.session import create_session
    from sqlalchemy import select

    with create_session() as session:
        query = select(XComModel).where(XComModel.dag_id == dag_id, XComModel.task_id == task_id)
        return {row.key: XComModel.deserialize_value(row) for row in session.scalars(query)}


def try_errors() -> dict[str, str]:
    """What the task wrapper makes of each error."""
    from airflow.sdk.exceptions import AirflowFailException, ParamValidationError

    from include.dag_backtests import backtest_params
    from include.dag_defaults import final_errors, span
    from include.errors import BadInput, GateFailed, TidemarkError

    found = {}
    for error in (BadInput("bad"), GateFailed("failed"), TidemarkError("other"), OSError("disk")):
        try:
            with final_errors():
                raise error
        except AirflowFailException as raised:
            found[type(error).__name__] = f"final: {raised}"
        except Exception as raised:
            found[type(error).__name__] = f"retried: {raised}"
    spans = [
        (None, None),
        ("2024-05-01T00:00:00Z", "2024-05-01T02:00:00+01:00"),
        ("2024-05-01", None),
        ("yesterday", "2024-05-01"),
        ("0001-01-01T00:00:00+05:00", "2024-05-01"),
    ]
    for start, end in spans:
        try:
            found[f"{start}/{end}"] = str(span(start, end))
        except BadInput as raised:
            found[f"{start}/{end}"] = f"refused: {raised}"
    for out in ("", "/reports/b1", "reports/b1", "s3://reports/b1"):
        try:
            found[f"out {out}"] = f"taken: {backtest_params()['out'].resolve(out)}"
        except ParamValidationError:
            found[f"out {out}"] = "refused"
    return found


class Asked:
    """This file as a program with an Airflow home of its own: one start and one import of everything for all questions."""

    def __init__(self, folder: Path) -> None:
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW_", "TIDEMARK_"))
        }
        # What docs/cluster.md says of being told of red runs.
        policy = re.search(
            r"(?s)```python\n(import logging\n.*?)```", (REPOSITORY / "docs" / "cluster.md").read_text("utf-8")
        )
        assert policy is not None
        (folder / "airflow_local_settings.py").write_text(policy[1], "utf-8")
        environment |= {
            "AIRFLOW_HOME": str(folder / "airflow"),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__DAGS_FOLDER": str(REPOSITORY / "dags"),
            "AIRFLOW__CORE__UNIT_TEST_MODE": "False",
            "PYTHONPATH": f"{REPOSITORY}:{folder}",
            "TIDEMARK_HOME": str(folder / "home"),
        }
        self.log = folder / "log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, __file__],
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )

    def __call__(self, what: str, *arguments: Any) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(json.dumps([what, *arguments]), file=self.process.stdin, flush=True)
        said = []
        for line in self.process.stdout:
            if line.startswith(ANSWER):
                return json.loads(line.removeprefix(ANSWER))
            said.append(line)
        raise AssertionError(f"it ended at {what}: {''.join(said)[-6000:]}\n{self.log.read_text()[-6000:]}")


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """The settings of the DAGs' home."""
    return Settings(home=tmp_path_factory.mktemp("dags") / "home")


@pytest.fixture(scope="module")
def ask(settings: Settings) -> Iterator[Asked]:
    settings.home.mkdir()
    asked = Asked(settings.home.parent)
    yield asked
    asked.process.kill()
    asked.process.wait()


@pytest.fixture(scope="module")
def facts(ask: Asked) -> dict[str, Any]:
    return dict(ask("describe"))


def tasks_of(facts: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    return [
        (f"{name}.{task_id}", task) for name, dag in facts["dags"].items() for task_id, task in dag["tasks"].items()
    ]


def test_the_callback_of_the_docs_reaches_every_task(facts: dict[str, Any]) -> None:
    assert {tuple(task["told"]) for _, task in tasks_of(facts)} == {("tell",)}


def test_exactly_these_dags_and_one_a_file(facts: dict[str, Any]) -> None:
    assert facts["errors"] == {}
    assert set(facts["dags"]) == DAG_IDS
    assert {name: dag["file"] for name, dag in facts["dags"].items()} == {name: f"{name}.py" for name in DAG_IDS}
    assert {file.name for file in (REPOSITORY / "dags").glob("*.py")} == {f"{name}.py" for name in DAG_IDS}


def test_parsing_imports_nothing_heavy(facts: dict[str, Any]) -> None:
    print(f"the DAG files parse in {facts['seconds']:.3f} s together")
    assert facts["imported"] == []


def test_tasks_that_neither_train_nor_score_import_nothing_that_does() -> None:
    """Where tasks are not forked from a process that has loaded the libraries: torch alone is seconds of each."""
    steps = (
        "clean",
        "gate_lake",
        "plan",
        "update_items",
        "keep_users",
        "check_vectors",
        "keep_lists",
        "check_lists",
        "publish",
    )
    code = f"import sys, {', '.join(f'include.steps.{step}' for step in steps)}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert not {"torch", "transformers", "lightgbm", "sklearn"} & set(done.stdout.split())


def test_docs_have_the_fixed_headings_in_order(facts: dict[str, Any]) -> None:
    for name, dag in facts["dags"].items():
        assert re.findall(r"^## (.+)$", dag["doc"], re.MULTILINE) == HEADINGS, name
        sections = re.split(r"^## .+$", dag["doc"], flags=re.MULTILINE)[1:]
        assert all(len(section.strip()) > 20 for section in sections), name


def test_tags_are_of_the_enum(facts: dict[str, Any]) -> None:
    used = [set(dag["tags"]) for dag in facts["dags"].values()]
    assert all(tags <= set(facts["all_tags"]) and "tidemark" in tags for tags in used)
    assert set().union(*used) == set(facts["all_tags"])


def test_every_task_has_owner_retries_timeout_and_doc(facts: dict[str, Any]) -> None:
    for name, task in tasks_of(facts):
        assert task["owner"] == facts["owner"], name
        assert task["retries"] >= 2, name
        assert task["timeout"], name
        assert task["doc"], name


def test_writers_wait_in_the_pool(facts: dict[str, Any]) -> None:
    outside = {name for name, task in tasks_of(facts) if task["pool"] != facts["pool"]}
    shards = {
        f"{dag}.{task}"
        for dag in ("update_interests", "recommend_daily", "switch_encoder", "train_encoder_weekly")
        for task in ("embed_texts", "update_users", "update_lists")
    }
    assert outside == shards | {
        "clean_behaviour_hourly.list_models",
        "clean_behaviour_hourly.show_model",
        "roll_back_publication.choose",
        "roll_back_publication.compare",
        "switch_encoder.compare_challenger",
        "switch_encoder.approve",  # it waits for hours
        "recommend_daily.check_served_lists",
        "maintain_stores_daily.check_batches",
        "backtest_recommender.plan_backtest",
        "backtest_recommender.embed_history",
        "backtest_recommender.backtest_cut",
        "backtest_recommender.report_backtest",
        "compare_encoders.plan_comparison",
        "compare_encoders.measure_encoder",
        "compare_encoders.report_comparison",
        "train_encoder_weekly.plan_training",
        "train_encoder_weekly.prepare_pairs",
        "train_encoder_weekly.train_encoder",
        "train_encoder_weekly.plan_trained_backtest",
        "train_encoder_weekly.measure_encoder",
        "train_encoder_weekly.decide",
        "train_encoder_weekly.compare_challenger",
        "train_encoder_weekly.approve",
    }


def test_assets_connect_the_dags(facts: dict[str, Any]) -> None:
    outlets = {name: task["outlets"] for name, task in tasks_of(facts) if task["outlets"]}
    assert outlets == {
        "clean_behaviour_hourly.check_lake_gate": ["gated_behaviour"],
        "update_interests.publish": ["publication"],
        "recommend_daily.publish": ["publication"],
        "switch_encoder.serve_challenger": ["publication"],
        "roll_back_publication.roll_back": ["publication"],
        "train_encoder_weekly.serve_challenger": ["publication"],
    }
    assert {name: dag["assets"] for name, dag in facts["dags"].items()} == {
        "clean_behaviour_hourly": [],
        "update_interests": ["gated_behaviour"],
        "recommend_daily": [],
        "maintain_stores_daily": [],
        "roll_back_publication": [],
        "switch_encoder": [],
        "backtest_recommender": [],
        "compare_encoders": [],
        "train_encoder_weekly": [],
    }


@pytest.mark.parametrize(
    ("dag", "way"),
    [
        ("backtest_recommender", ["plan_backtest", "embed_history", "backtest_cut", "report_backtest"]),
        ("compare_encoders", ["plan_comparison", "measure_encoder", "report_comparison"]),
    ],
)
def test_a_backtest_is_a_task_a_cut_or_an_encoder(facts: dict[str, Any], dag: str, way: list[str]) -> None:
    tasks = facts["dags"][dag]["tasks"]
    assert set(tasks) == set(way)
    for before, after in pairwise(way):
        assert after in tasks[before]["downstream"]
    assert [name for name, task in tasks.items() if task["mapped"]] == [way[-2]]
    assert {task["rule"] for task in tasks.values()} == {"all_success"}  # no report of some cuts
    assert {task["runbook"] for task in tasks.values()} == {"backtest_recommender"}


def test_the_gate_waits_for_the_clean_and_models_show_even_of_a_failed_build(facts: dict[str, Any]) -> None:
    tasks = facts["dags"]["clean_behaviour_hourly"]["tasks"]
    assert tasks["clean_batches"]["downstream"] == ["check_lake_gate", "list_models"]
    assert tasks["check_lake_gate"]["rule"] == "all_success"
    assert tasks["list_models"]["rule"] == "all_done"
    assert tasks["list_models"]["downstream"] == ["show_model"]
    assert tasks["show_model"]["mapped"]


@pytest.mark.parametrize(("name", "behind"), [("update_interests", []), ("recommend_daily", LOOKING_BACK)])
def test_a_publication_is_made_by_one_chain(facts: dict[str, Any], name: str, behind: list[str]) -> None:
    tasks = facts["dags"][name]["tasks"]
    assert set(tasks) == {*CHAIN, *behind}
    for before, after in pairwise([*CHAIN, *behind]):
        assert after in tasks[before]["downstream"]
    assert {tasks[name]["rule"] for name in CHAIN} == {"all_success"}  # who skips, skips the rest


def test_served_lists_are_looked_at_behind_the_publication_and_hide_no_failure(facts: dict[str, Any]) -> None:
    tasks = facts["dags"]["recommend_daily"]["tasks"]
    assert tasks["publish"]["downstream"] == ["score_served_lists"]
    # Nothing to publish is no reason not to look; what failed before must not end in a green run.
    assert [tasks[name]["rule"] for name in LOOKING_BACK] == ["none_failed", "all_success"]
    assert {tasks[name]["runbook"] for name in LOOKING_BACK} == {"served_lists"}


def test_a_challenger_takes_the_same_chain_and_serves_only_behind_its_approval(facts: dict[str, Any]) -> None:
    tasks = facts["dags"]["switch_encoder"]["tasks"]
    way = ["plan_challenger", *CHAIN[1:], "compare_challenger", "approve", "serve_challenger", "reject_challenger"]
    assert set(tasks) == set(way)
    for before, after in pairwise(way):
        assert after in tasks[before]["downstream"]
    # A rejection skips what is right behind the approval, and that alone lets it be recorded.
    assert tasks["approve"]["downstream"] == ["serve_challenger"]
    assert {name: task["rule"] for name, task in tasks.items() if task["rule"] != "all_success"} == {
        "reject_challenger": "none_failed"  # so that a failure before it fails the run
    }
    assert {tasks[name]["runbook"] for name in ("plan_challenger", *way[-4:])} == {"switch_encoder"}


def test_a_trained_encoder_is_judged_before_it_challenges(facts: dict[str, Any]) -> None:
    tasks = facts["dags"]["train_encoder_weekly"]["tasks"]
    own = ["plan_training", "prepare_pairs", "train_encoder", "plan_trained_backtest", "measure_encoder", "decide"]
    behind = ["compare_challenger", "approve", "serve_challenger", "reject_challenger"]
    way = [*own, "plan_trained_challenger", *CHAIN[1:], *behind]
    assert set(tasks) == set(way)
    for before, after in pairwise(way):
        assert after in tasks[before]["downstream"]
    assert [name for name in own if tasks[name]["mapped"]] == ["train_encoder", "measure_encoder"]
    # Where nothing was learned nothing is measured, and that is reported; a rejection is recorded. No failure is hidden.
    assert {name: task["rule"] for name, task in tasks.items() if task["rule"] != "all_success"} == {
        "decide": "none_failed",
        "reject_challenger": "none_failed",
    }
    assert {tasks[name]["runbook"] for name in own if name != "measure_encoder"} == {"train_encoder_weekly"}


def test_intervals_are_true_hours_and_days(facts: dict[str, Any]) -> None:
    hourly, daily = (facts["dags"][name] for name in ("clean_behaviour_hourly", "recommend_daily"))
    assert hourly["interval"] == ["2024-05-01T11:00:00+00:00", "2024-05-01T12:00:00+00:00"]
    assert daily["interval"] == ["2024-04-30T00:00:00+00:00", "2024-05-01T00:00:00+00:00"]
    nightly = facts["dags"]["maintain_stores_daily"]["interval"]
    assert nightly == ["2024-04-30T03:30:00+00:00", "2024-05-01T03:30:00+00:00"]
    weekly = facts["dags"]["train_encoder_weekly"]["interval"]
    assert weekly == ["2024-04-21T02:00:00+00:00", "2024-04-28T02:00:00+00:00"]
    for dag in facts["dags"].values():
        assert not dag["catchup"]
        assert dag["max_active_runs"] == 1
        assert dag["start"].startswith("1990-01-01")


def test_every_runbook_that_a_task_names_exists(facts: dict[str, Any]) -> None:
    there = {file.stem for file in (REPOSITORY / "docs" / "runbooks").glob("*.md")}
    assert set(facts["runbooks"]) <= there
    runbooks = {task["runbook"] for _, task in tasks_of(facts)}
    assert runbooks == set(facts["runbooks"])


def test_bad_input_and_failed_gates_are_not_retried(ask: Asked) -> None:
    found = ask("try_errors")
    assert {name: found[name] for name in ("BadInput", "GateFailed", "TidemarkError", "OSError")} == {
        "BadInput": "final: bad",
        "GateFailed": "final: failed",
        "TidemarkError": "retried: other",
        "OSError": "retried: disk",
    }
    assert found["None/None"] == "None"
    hours = (datetime(2024, 5, 1, 0, tzinfo=UTC), datetime(2024, 5, 1, 1, tzinfo=UTC))
    assert found["2024-05-01T00:00:00Z/2024-05-01T02:00:00+01:00"] == str(hours)
    assert "both" in found["2024-05-01/None"]
    assert "'yesterday'" in found["yesterday/2024-05-01"]
    assert "param from" in found["0001-01-01T00:00:00+05:00/2024-05-01"]
    # A folder that begins nowhere is another one on each worker.
    assert [found[f"out {out}"] for out in ("", "/reports/b1")] == ["taken: ", "taken: /reports/b1"]
    assert [found[f"out {out}"] for out in ("reports/b1", "s3://reports/b1")] == ["refused"] * 2


def land_sample(settings: Settings, hours: list[datetime], users: int = 12, items: int = 20) -> int:
    """Land items, and in each hour some views of each user; return the number of events."""
    count = 0
    titles = ["lantern", "harbour", "orchard", "railway", "observatory"]
    for number, hour in enumerate(hours):
        folder = f"dt={hour:%Y-%m-%d}/hr={hour:%H}"
        if number == 0:
            rows = [
                {
                    "item_id": f"i{item}",
                    "title": f"The {titles[item % 5]} number {item}",
                    "categories": [titles[item % 5]],
                    "published_at": "2024-01-01T00:00:00Z",
                }
                for item in range(items)
            ]
            write_lines(settings.landing / "items" / folder / "items.jsonl", rows)
        events = [
            {
                "user_id": f"u{user}",
                "item_id": f"i{(user * 3 + step + number * 5) % items}",
                "event_type": "view",
                "event_ts": (hour + timedelta(minutes=step, seconds=user)).isoformat(),
            }
            for user in range(users)
            for step in range(4)
        ]
        write_lines(settings.landing / "events" / folder / "events.jsonl", events)
        count += len(events)
    return count


def write_lines(file: Path, rows: list[dict[str, Any]]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


def test_the_whole_path_through_dag_test(ask: Asked, settings: Settings) -> None:
    from include.stores import publications

    first = datetime(2024, 5, 1, 10, tzinfo=UTC)
    landed = land_sample(settings, [first, first + timedelta(hours=1)])
    ask("migrate")
    span_end = first + timedelta(hours=2)
    span = {"from": first.isoformat(), "to": span_end.isoformat()}

    looked = ask("run_dag", "clean_behaviour_hourly", {**span, "dry_run": True})
    assert set().union(*looked["tasks"].values()) == {"skipped"}
    assert not (settings.lake / "catalogue.sqlite").exists()

    cleaned = ask("run_dag", "clean_behaviour_hourly", span)
    assert cleaned["state"] == "success"
    assert cleaned["tasks"]["check_lake_gate"] == ["success"]
    assert len(cleaned["tasks"]["show_model"]) > 10
    assert set(cleaned["tasks"]["show_model"]) == {"success"}

    again = ask("run_dag", "clean_behaviour_hourly", span)
    assert again["tasks"]["check_lake_gate"] == ["skipped"]  # nothing changed: no event on the asset

    updated = ask("run_dag", "update_interests", {})
    assert updated["tasks"] == {name: ["success"] for name in CHAIN}
    serving = publications.serving(settings)
    assert serving["as_of"] == (first + timedelta(hours=2)).isoformat()
    assert serving["rows"]["events"]["landed"] == serving["rows"]["events"]["interactions"] == landed

    assert ask("run_dag", "update_interests", {})["tasks"] == {name: ["skipped"] for name in CHAIN}
    daily = ask("run_dag", "recommend_daily", {})
    assert daily["state"] == "success"
    assert publications.serving(settings)["as_of"] == serving["as_of"]
    # One of midnight that comes behind the update of a later T takes that T, as of which everybody is listed already.
    assert ask("run_dag", "recommend_daily", {}, first.isoformat())["tasks"]["publish"] == ["skipped"]
    assert len(publications.manifests(settings)) == 1

    earlier = publications.serving_id(settings)
    land_sample(settings, [first + timedelta(hours=2)])
    more = {"from": span_end.isoformat(), "to": (span_end + timedelta(hours=1)).isoformat()}
    for name, conf in (("clean_behaviour_hourly", more), ("update_interests", {})):
        assert ask("run_dag", name, conf)["state"] == "success"
    newest, reason = publications.serving_id(settings), {"reason": "the lists look odd"}
    looked = ask("run_dag", "roll_back_publication", reason)
    assert looked["tasks"] == {"choose": ["success"], "roll_back": ["skipped"], "compare": ["success"]}
    assert publications.serving_id(settings) == newest
    for conf, state in (({"dry_run": False}, "failed"), ({**reason, "dry_run": False}, "success")):
        assert ask("run_dag", "roll_back_publication", conf)["state"] == state
    assert publications.serving_id(settings) == earlier != newest
    assert publications.pinned(settings)
    assert publications.changes(settings)[-1]["why"] == f"rolled back from {newest}: the lists look odd"
    publications.unpin(settings)

    kept = [entry["id"] for entry in publications.manifests(settings)]
    backtested(ask, settings)
    encoders_compared(ask, settings)
    encoder_trained(ask, settings)
    for dry_run in (True, False):
        assert ask("run_dag", "maintain_stores_daily", {"dry_run": dry_run})["state"] == "success"
        reports = list((settings.reports / "maintenance").glob("*.json"))
        assert len(reports) == (0 if dry_run else 1)
    assert [entry["id"] for entry in publications.manifests(settings)] == kept


def backtested(ask: Asked, settings: Settings) -> None:
    """Two cuts as two tasks, in a home that has publications; their results are in its reports."""
    conf = {"every": "1h", "cuts": 2, "k": 5, "methods": ["tidemark", "popularity"]}
    tested = ask("run_dag", "backtest_recommender", conf)
    assert tested["tasks"] == {
        "plan_backtest": ["success"],
        "embed_history": ["success"],
        "backtest_cut": ["success"] * 2,
        "report_backtest": ["success"],
    }
    # The plan names every cut, so it is handed on once, and not with each of them.
    found = ask("handed_on", "backtest_recommender", "plan_backtest")
    assert found["return_value"] == found["plan"]["cuts"]
    (results,) = (settings.reports / "backtests").iterdir()
    names = ["cuts", "metrics.json", "recommendations.parquet", "report.html"]
    assert sorted(file.name for file in results.iterdir()) == names
    assert set(json.loads((results / "metrics.json").read_text())["methods"]) == {"tidemark", "popularity"}


def encoders_compared(ask: Asked, settings: Settings) -> None:
    """Each encoder as a task; one of them, told in JSON, is the settings' own with prefixes."""
    prefixed = json.dumps({"source": settings.encoder.source, "item_prefix": "thing: "})
    compared = ask("run_dag", "compare_encoders", {"encoders": [prefixed], "every": "1h", "cuts": 2, "k": 5})
    assert compared["tasks"] == {
        "plan_comparison": ["success"],
        "measure_encoder": ["success"] * 2,
        "report_comparison": ["success"],
    }


def encoder_trained(ask: Asked, settings: Settings) -> None:
    """Of some hours nothing is learned that makes lists better: the report says so, nobody is asked, and no task is red."""
    conf = {"ways": ["adapter"], "minutes": 0.1, "every": "1h", "cuts": 1, "k": 5}
    trained = ask("run_dag", "train_encoder_weekly", conf)
    assert trained["state"] == "success"
    done = {name for name, states in trained["tasks"].items() if set(states) == {"success"}}
    assert done >= {"plan_training", "prepare_pairs", "train_encoder", "plan_trained_backtest", "decide"}
    for name in ("plan_trained_challenger", "approve", "serve_challenger", "reject_challenger"):
        assert trained["tasks"][name] == ["skipped"], name
    (report,) = (settings.reports / "training").iterdir()
    assert json.loads((report / "training.json").read_text())["better"] is False


def migrate() -> bool:
    """Make the database of AIRFLOW_HOME."""
    from airflow.utils.db import initdb

    initdb()
    return True


if __name__ == "__main__":
    # What Airflow prints on its own goes before the answer, on lines of its own.
    questions = {question.__name__: question for question in (describe, try_errors, migrate, run_dag, handed_on)}
    for line in sys.stdin:
        name, *arguments = json.loads(line)
        answer = json.dumps(questions[name](*arguments))
        print(f"\n{ANSWER}{answer}", flush=True)
