"""The whole path once through a real Airflow: its scheduler, its API, its pools, and the plugin's pages."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from include.embedded import airflow
from include.embedded.client import Client
from include.embedded.demo import DAGS, WRITER_POOL
from include.errors import TidemarkError
from include.models.encoder import identify
from include.settings import Encoder, Settings
from include.steps.migrate import opened
from include.stores import publications
from tests.test_dags import land_sample

pytestmark = pytest.mark.scheduler

FIRST = datetime(2024, 5, 1, 10, tzinfo=UTC)
HOURS = [FIRST + timedelta(hours=number) for number in range(4)]
CLEAN, UPDATE, DAILY = DAGS
SWITCH, ROLL_BACK = "switch_encoder", "roll_back_publication"


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return Settings(home=tmp_path_factory.mktemp("scheduler") / "home")


@pytest.fixture(scope="module")
def client(settings: Settings) -> Iterator[Client]:
    land_sample(settings, HOURS)
    head = airflow.start(settings)
    try:
        client = Client(head.url, airflow.USER, airflow.password(settings))
        client.ensure_pool(WRITER_POOL, 1, "One writer at a time")
        client.wait_for_dags(DAGS)
        yield client
    finally:
        airflow.stop(settings)
    assert airflow.processes(settings) == []


@pytest.fixture(scope="module")
def history(settings: Settings, client: Client) -> str:
    """The first two hours cleaned in one run, and published on the asset's event."""
    client.unpause(UPDATE)
    run = client.trigger(CLEAN, {"from": HOURS[0].isoformat(), "to": HOURS[2].isoformat()})
    client.unpause(CLEAN)
    client.wait(CLEAN, [run])
    assert client.wait_for_asset("gated_behaviour", UPDATE) is not None
    return run


def gated_events(client: Client) -> list[dict[str, Any]]:
    params = {"name_pattern": "gated_behaviour", "order_by": "timestamp"}
    return list(client.call("GET", "/api/v2/assets/events", params=params)["asset_events"])


def test_the_history_serves_after_one_run(settings: Settings, client: Client, history: str) -> None:
    serving = publications.serving(settings)
    assert serving["as_of"] == HOURS[2].isoformat()
    assert serving["rows"]["events"]["landed"] == serving["rows"]["events"]["interactions"] == 96
    models = [task for task in client.tasks(CLEAN, history) if task["task_id"] == "show_model"]
    assert {"fct_interactions", "dim_items"} <= {task["rendered_map_index"] for task in models}
    events = gated_events(client)
    assert [event["extra"]["snapshot"] for event in events] == [serving["lake_snapshot"]]
    assert events[0]["extra"]["rows"]["events"]["landed"] == 96


def test_a_backfill_of_two_hours_is_followed(settings: Settings, client: Client, history: str) -> None:
    before = publications.serving(settings)
    runs = client.backfill(CLEAN, HOURS[2], HOURS[3])
    assert [run["data_interval_start"] for run in runs] == [
        hour.isoformat().replace("+00:00", "Z") for hour in HOURS[2:]
    ]
    client.wait_for_asset("gated_behaviour", UPDATE)
    serving = publications.serving(settings)
    assert serving["as_of"] == (HOURS[3] + timedelta(hours=1)).isoformat()
    assert serving["rows"]["events"]["landed"] == 192
    assert serving["lake_snapshot"] > before["lake_snapshot"]

    events = len(gated_events(client))
    snapshot = serving["lake_snapshot"]
    for run in client.backfill(CLEAN, HOURS[2], HOURS[3]):  # the same once more: nothing to do, and no event
        states = {task["task_id"]: task["state"] for task in client.tasks(CLEAN, run["dag_run_id"])}
        assert states["clean_batches"] == "success"
        assert states["check_lake_gate"] == "skipped"
    assert len(gated_events(client)) == events
    assert publications.serving(settings)["lake_snapshot"] == snapshot


def test_the_day_lists_everyone_and_says_so_on_its_asset(settings: Settings, client: Client, history: str) -> None:
    client.unpause(DAILY)
    client.wait(DAILY, [client.trigger(DAILY)])
    serving = publications.serving(settings)
    params = {"name_pattern": "publication", "order_by": "timestamp"}
    events = client.call("GET", "/api/v2/assets/events", params=params)["asset_events"]
    assert serving["id"] in [event["extra"]["publication"] for event in events]


def hour_follows(settings: Settings, client: Client, hour: datetime) -> publications.Manifest:
    """An hour arrives, is cleaned and gated, and an update follows it; what serves then."""
    land_sample(settings, [hour])
    client.backfill(CLEAN, hour, hour)
    client.wait_for_asset("gated_behaviour", UPDATE)
    return publications.serving(settings)


def asked(client: Client, run: str) -> dict[str, Any]:
    """Wait until a run of `switch_encoder` asks somebody to decide, and return what it shows them."""
    deadline = time.monotonic() + 900
    while time.monotonic() < deadline:
        found = client.call("GET", f"/api/v2/dags/{SWITCH}/dagRuns/{run}/hitlDetails")["hitl_details"]
        if found and found[0]["task_instance"]["state"] == "awaiting_input":
            return dict(found[0])
        state = client.call("GET", f"/api/v2/dags/{SWITCH}/dagRuns/{run}")["state"]
        assert state not in ("success", "failed"), client.reason(SWITCH, run)
        time.sleep(2)
    raise AssertionError("nobody was asked")


def decide(client: Client, run: str, option: str, comment: str) -> dict[str, str]:
    """Answer through Airflow's API, wait for the run, and return its tasks' states."""
    path = f"/api/v2/dags/{SWITCH}/dagRuns/{run}/taskInstances/approve/-1/hitlDetails"
    client.call("PATCH", path, json={"chosen_options": [option], "params_input": {"comment": comment}})
    client.wait(SWITCH, [run])
    return {task["task_id"]: task["state"] for task in client.tasks(SWITCH, run)}


def why_rejected(settings: Settings) -> str:
    """What the record of the newest challenger's rejection says."""
    newest = publications.manifests(settings)[-1]
    record = publications.rejection(settings, newest["line"])
    assert record is not None
    assert record["why"].startswith(newest["id"])
    return str(record["why"])


def test_another_encoder_serves_when_somebody_approves_it(
    settings: Settings, client: Client, history: str, sre_model: Path
) -> None:
    for dag in (CLEAN, SWITCH, ROLL_BACK):
        client.unpause(dag)
    before = publications.serving(settings)
    with pytest.raises(TidemarkError, match=r"no config\.json"):
        client.wait(SWITCH, [client.trigger(SWITCH, {"source": str(sre_model.parent), "reason": "the wrong folder"})])
    run = client.trigger(SWITCH, {"source": str(sre_model), "reason": "it knows our words", "hours_to_decide": 2})
    question = asked(client, run)
    shadow = next(entry for entry in publications.manifests(settings) if "challenger" in entry)
    assert publications.serving_id(settings) == before["id"]
    assert shadow["encoder_id"] == identify(Encoder(source=str(sre_model))) != before["encoder_id"]
    assert question["subject"] == f"Shall {shadow['id']} serve?"
    assert question["options"] == ["Approve", "Reject"]
    assert question["defaults"] == ["Reject"]
    for fact in (
        shadow["encoder_id"],
        before["encoder_id"],
        "it knows our words",
        "home: top-10 lists changed",
        "entered",
    ):
        assert fact in question["body"], fact

    # It waits, and updates go on, each on the one before it.
    waiting = hour_follows(settings, client, HOURS[3] + timedelta(hours=1))
    assert (waiting["encoder_id"], waiting["line"]) == (before["encoder_id"], None)
    assert waiting["base"] == before["id"]

    states = decide(client, run, "Approve", "reads better")
    assert (states["serve_challenger"], states["reject_challenger"]) == ("success", "skipped")
    approved = publications.serving(settings)
    assert (approved["line"], approved["base"]) == (shadow["line"], shadow["id"])
    assert approved["as_of"] == waiting["as_of"]
    why = publications.changes(settings)[-1]["why"]
    assert why == f"{shadow['id']} approved by {airflow.USER}: reads better"

    # The environment of Airflow's processes names the first encoder, and stays as it is.
    after = hour_follows(settings, client, HOURS[3] + timedelta(hours=2))
    assert (after["encoder_id"], after["base"]) == (approved["encoder_id"], approved["id"])

    conf = {"source": Encoder().source, "reason": "back again"}
    run = client.trigger(SWITCH, conf)
    asked(client, run)
    states = decide(client, run, "Reject", "no need")
    assert (states["serve_challenger"], states["reject_challenger"]) == ("skipped", "success")
    assert why_rejected(settings).endswith(f"rejected by {airflow.USER}: no need")
    client.wait(SWITCH, [client.trigger(SWITCH, {**conf, "hours_to_decide": 0.01})])
    assert why_rejected(settings).endswith("rejected by nobody, the time to decide is over")
    assert publications.serving_id(settings) == after["id"]

    back = {"publication": waiting["id"], "reason": "bad lists", "dry_run": False}
    client.wait(ROLL_BACK, [client.trigger(ROLL_BACK, back)])
    publications.unpin(settings)
    assert opened(Settings(home=settings.home)).encoder == Encoder()
    last = hour_follows(settings, client, HOURS[3] + timedelta(hours=3))
    assert (last["encoder_id"], last["line"]) == (before["encoder_id"], None)
    assert last["base"] is not None, "an update, not a rebuild"


def test_an_unusable_span_fails_at_once_and_says_why(client: Client, history: str) -> None:
    client.unpause(CLEAN)
    run = client.trigger(CLEAN, {"from": HOURS[0].isoformat()})
    with pytest.raises(TidemarkError, match="both params, from and to"):
        client.wait(CLEAN, [run])
    task = next(task for task in client.tasks(CLEAN, run) if task["task_id"] == "clean_batches")
    assert task["try_number"] == 1
    path = f"/api/v2/dags/{CLEAN}/dagRuns/{run}/taskInstances/clean_batches/links"
    assert client.call("GET", path)["extra_links"] == {"Runbook": "/tidemark/runbooks/red_dbt_model"}


def test_runbooks_are_served_behind_the_login_and_nothing_else_is(settings: Settings, client: Client) -> None:
    head = airflow.running(settings)
    assert head is not None
    runbooks = f"{head.url}/tidemark/runbooks"
    assert httpx.get(f"{runbooks}/red_dbt_model").status_code == 401
    assert httpx.get(f"{runbooks}/").status_code == 401
    assert httpx.get(f"{head.url}/api/v2/dags").status_code == 401

    token = httpx.post(
        f"{head.url}/auth/token", json={"username": airflow.USER, "password": airflow.password(settings)}
    ).json()["access_token"]
    headers = {"Authorization": f"Bearer {token}"}
    page = httpx.get(f"{runbooks}/red_dbt_model", headers=headers)
    assert page.status_code == 200
    assert "<h1>A red dbt model</h1>" in page.text
    assert "<table>" in page.text
    assert page.headers["content-security-policy"].startswith("default-src 'none'")
    for wrong in ("..%2F..%2FREADME", "..%2Frunbooks%2Fstale_batch", "red_dbt_model.md", "%2e%2e", "nothing", "%00"):
        assert httpx.get(f"{runbooks}/{wrong}", headers=headers).status_code == 404, wrong


def test_it_listens_on_loopback_only(settings: Settings, client: Client) -> None:
    head = airflow.running(settings)
    assert head is not None
    listening = {
        connection.laddr.ip
        for process in airflow.processes(settings)
        for connection in process.net_connections(kind="tcp")
        if connection.status == "LISTEN" and connection.laddr.port == head.port
    }
    assert listening == {"127.0.0.1"}
