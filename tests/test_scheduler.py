"""The whole path once through a real Airflow: its scheduler, its API, its pools, and the plugin's pages."""

import html
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import httpx
import psutil
import pytest

from include.columns import VectorTable
from include.embedded import airflow
from include.embedded.client import Client, Run
from include.embedded.demo import DAGS, WRITER_POOL
from include.errors import TidemarkError
from include.models.encoder import identify
from include.settings import REPOSITORY, Encoder, Settings
from include.steps.compare import compare
from include.steps.land import land
from include.steps.migrate import opened
from include.steps.plan import plan_rebuild
from include.stores import publications, vectors
from tests import samples
from tests.test_dags import land_sample
from tests.test_incremental import published
from tests.test_path import assert_same_exports, exports, include, same_content

pytestmark = pytest.mark.scheduler

DAY = datetime(2024, 5, 1, tzinfo=UTC)
FIRST = DAY + timedelta(hours=22)
HOURS = [FIRST + timedelta(hours=number) for number in range(4)]  # two of the day, two of the next
CLEAN, UPDATE, DAILY = DAGS
SWITCH, ROLL_BACK = "switch_encoder", "roll_back_publication"
LONGEST_WAIT = 900.0  # seconds until something hangs; 60 are usual

NEXT = HOURS[3] + timedelta(hours=1)  # arrives while a correction is backfilled
READERS = ["u5", "u6"]  # who did something in it
WRONG = HOURS[1:3]  # are delivered again
FIXED = ["newcomer", "u1", "u2", "u3"]  # whose rows differ then


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


@pytest.fixture(scope="module")
def hourly(settings: Settings, client: Client, history: str) -> tuple[publications.Manifest, list[Run]]:
    """What served before two further hours were cleaned, each in a run of its own, and these runs."""
    before = publications.serving(settings)
    runs = client.backfill(CLEAN, HOURS[2], HOURS[3])
    client.wait_for_asset("gated_behaviour", UPDATE)
    return before, runs


def gated_events(client: Client) -> list[dict[str, Any]]:
    params = {"name_pattern": "gated_behaviour", "order_by": "timestamp"}
    return list(client.call("GET", "/api/v2/assets/events", params=params)["asset_events"])


def test_the_history_serves_after_one_run(settings: Settings, client: Client, history: str) -> None:
    serving = publications.serving(settings)
    assert serving["as_of"] == HOURS[2].isoformat()
    assert serving["rows"]["events"]["landed"] == serving["rows"]["events"]["interactions"] == 96
    (update,) = [run["dag_run_id"] for run in client.runs(UPDATE) if run["state"] == "success"]
    (publish,) = [task["task_id"] for task in client.tasks(UPDATE, update) if task["task_id"].endswith("publish")]
    links = client.call("GET", f"/api/v2/dags/{UPDATE}/dagRuns/{update}/taskInstances/{publish}/links")["extra_links"]
    assert links["Publication"] == f"/tidemark/publications/{serving['id']}"
    models = [task for task in client.tasks(CLEAN, history) if task["task_id"] == "show_model"]
    assert {"fct_interactions", "dim_items"} <= {task["rendered_map_index"] for task in models}
    events = gated_events(client)
    assert [event["extra"]["snapshot"] for event in events] == [serving["lake_snapshot"]]
    assert events[0]["extra"]["rows"]["events"]["landed"] == 96


def test_tasks_are_forked_from_a_process_that_has_loaded_the_libraries(settings: Settings, history: str) -> None:
    forked_from = [process for process in airflow.processes(settings) if "include.preloaded" in str(process.cmdline())]
    assert [process.name() for process in forked_from if any("libtorch" in file.path for file in process.memory_maps())]


def test_a_backfill_of_two_hours_is_followed(
    settings: Settings, client: Client, hourly: tuple[publications.Manifest, list[Run]]
) -> None:
    before, runs = hourly
    assert [run["data_interval_start"] for run in runs] == [
        hour.isoformat().replace("+00:00", "Z") for hour in HOURS[2:]
    ]
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
    scheduled = client.new_runs(DAILY, (), LONGEST_WAIT)  # Airflow itself schedules yesterday's
    assert scheduled
    client.wait(DAILY, scheduled)
    serving = publications.serving(settings)
    assert serving["kind"] == "recommend"
    params = {"name_pattern": "publication", "order_by": "timestamp"}
    events = client.call("GET", "/api/v2/assets/events", params=params)["asset_events"]
    assert serving["id"] in [event["extra"]["publication"] for event in events]


def test_a_past_day_recommended_twice_gives_the_same_bytes(
    settings: Settings, client: Client, hourly: tuple[publications.Manifest, list[Run]], tmp_path: Path
) -> None:
    serving = publications.serving(settings)
    client.unpause(DAILY)
    for _ in range(2):
        client.backfill(DAILY, DAY, DAY)
    client.wait(DAILY, [run["dag_run_id"] for run in client.runs(DAILY)])  # also what Airflow scheduled by itself
    end = (DAY + timedelta(days=1)).isoformat()
    first, second = [entry for entry in made_since(settings, serving) if entry["as_of"] == end]
    assert first["kind"] == second["kind"] == "recommend"
    assert first["artefacts"] == second["artefacts"]
    assert publications.serving(settings)["as_of"] == serving["as_of"] > end, "those of the past do not serve"
    assert_same_exports(settings, first, settings, second, tmp_path)


def made_since(settings: Settings, before: publications.Manifest) -> list[publications.Manifest]:
    return [entry for entry in publications.manifests(settings) if entry["made_at"] > before["made_at"]]


def deliver_corrected(settings: Settings, folder: Path) -> None:
    """Land two hours again: another item, a row too many, and rows of one who was not there; rows withdrawn, a row more."""
    first, second = (
        [json.loads(line) for line in file.read_text("utf-8").splitlines()]
        for file in (settings.landing / "events" / f"dt={hour:%Y-%m-%d}/hr={hour:%H}/events.jsonl" for hour in WRONG)
    )
    own = next(row for row in first if row["user_id"] == "u1")
    own["item_id"] = "i19" if own["item_id"] != "i19" else "i18"
    first.append({**own, "user_id": "newcomer", "item_id": "undescribed"})
    second = [row for row in second if row["user_id"] != "u2"]
    second.append({**next(row for row in second if row["user_id"] == "u3"), "event_type": "like"})
    file = samples.write(folder / "events.jsonl", [*first, *second])
    land(settings, file, format="canonical", arrival="event", replace=True)


def create_backfill(settings: Settings, client: Client, first: datetime, last: datetime) -> list[str]:
    """Type the operator's command, and return the ids of its runs."""
    head = airflow.running(settings)
    assert head is not None
    span = ("--from-date", first.isoformat(), "--to-date", last.isoformat())
    command = ["airflow", "backfill", "create", "--dag-id", CLEAN, *span, "--reprocess-behavior", "completed"]
    with client.paused(CLEAN):
        for _ in range(12):
            done = subprocess.run(
                [sys.executable, "-m", *command],
                env=airflow.environment(settings, head.port),
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode == 0:
                break
            time.sleep(5)  # the backfill before it counts as active for up to half a minute after its runs have ended
    assert done.returncode == 0, done.stdout + done.stderr
    runs = client.runs(CLEAN, logical_date_gte=first.isoformat(), logical_date_lte=last.isoformat())
    return [run["dag_run_id"] for run in runs]


def test_corrected_hours_are_backfilled_beside_an_hourly_run(
    settings: Settings, client: Client, hourly: tuple[publications.Manifest, list[Run]], tmp_path: Path
) -> None:
    before = publications.serving(settings)
    bytes_before = {entry["id"]: exports(settings, entry["id"], tmp_path) for entry in publications.manifests(settings)}
    deliver_corrected(settings, tmp_path)

    span = ("--from", WRONG[0].isoformat(), "--to", (WRONG[-1] + timedelta(hours=1)).isoformat())
    foretold = json.loads(include(settings.home, "clean", *span, "--dry-run", "--json").stdout)
    batches = [(batch["state"], batch["rows_before"], batch["rows_after"]) for batch in foretold["batches"]]
    assert batches == [("changed", 48, 49), ("changed", 48, 45)]
    fixed_rows = {"added": 3, "changed": 0, "removed": 5}
    assert foretold["rows"]["fct_interactions"] == fixed_rows
    assert foretold["users"]["ids"] == FIXED
    assert foretold["items"]["ids"] == ["undescribed"]

    backfilled = create_backfill(settings, client, WRONG[0], WRONG[-1])
    assert len(backfilled) == len(WRONG)
    events = [
        {"user_id": user, "item_id": f"i{item}", "event_type": "view", "event_ts": NEXT.isoformat()}
        for user in READERS
        for item in range(4)
    ]
    land(settings, samples.write(tmp_path / "next" / "events.jsonl", events), format="canonical")
    hour = client.trigger(CLEAN, {"from": NEXT.isoformat(), "to": (NEXT + timedelta(hours=1)).isoformat()})
    *corrections, hourly_run = client.wait(CLEAN, [*backfilled, hour])
    assert {run["run_type"] for run in corrections} == {"backfill"}
    assert hourly_run["start_date"] < max(run["end_date"] for run in corrections)
    assert hourly_run["end_date"] > min(run["start_date"] for run in corrections)
    client.wait_for_asset("gated_behaviour", UPDATE)

    # The hours may have been followed by one update or by several: together they touch whom they should.
    made = [entry for entry in made_since(settings, before) if entry["kind"] == "update"]
    reports = [entry["run"]["report"] for entry in made]
    rows = [report["rows"]["fct_interactions"] for report in reports]
    assert {name: sum(counts[name] for counts in rows) for name in fixed_rows} == {
        **fixed_rows,
        "added": fixed_rows["added"] + len(events),
    }
    assert {user for report in reports for user in report["users"]["ids"]} == {*FIXED, *READERS}
    assert {item for report in reports for item in report["items"]["ids"]} == {"undescribed"}
    for entry, report in zip(made, reports, strict=True):
        found = compare(settings, entry["base"], entry["id"])
        assert report["moved"] == found["users"]
        assert report["lists"]["home"]["changed"] == found["lists"]["home"]["changed"]
    serving = publications.serving(settings)
    assert serving["id"] == made[-1]["id"]
    assert serving["as_of"] == (NEXT + timedelta(hours=1)).isoformat()
    moved = compare(settings, before["id"], serving["id"])["users"]
    assert (moved["came"], {row["user_id"] for row in moved["most"]}) == (1, {*FIXED, *READERS} - {"newcomer"})

    # The same is said by the command line, by the log and by the page.
    touched = f"users touched: {len(reports[-1]['users']['ids'])} ({', '.join(reports[-1]['users']['ids'])})"
    assert touched in include(settings.home, "publications", "show").stdout
    logged = [
        str(line["event"])
        for run in client.runs(UPDATE)
        for task in client.tasks(UPDATE, run["dag_run_id"])
        if (task["task_id"], task["state"]) == ("publish", "success")
        for line in client.log(UPDATE, run["dag_run_id"], task)
    ]
    assert [line for line in logged if touched in line]
    page = (settings.reports / "publications" / f"{serving['id']}.html").read_text("utf-8")
    assert all(user in page for user in reports[-1]["users"]["ids"])

    for name, content in bytes_before.items():
        again = exports(settings, name, tmp_path)
        assert [what for what in content if content[what] != again[what]] == [], f"of publication {name}"
    rebuilt = published(settings, plan_rebuild(settings, publication=serving["id"]))
    same_content(settings, serving, rebuilt)
    publications.remove(settings, rebuilt["id"])


def hour_follows(settings: Settings, client: Client, hour: datetime) -> publications.Manifest:
    """An hour arrives, is cleaned and gated, and an update follows it; what serves then."""
    land_sample(settings, [hour])
    client.backfill(CLEAN, hour, hour)
    client.wait_for_asset("gated_behaviour", UPDATE)
    return publications.serving(settings)


def question(client: Client, run: str) -> dict[str, Any] | None:
    """What a run of `switch_encoder` shows to whoever decides, while it waits for an answer."""
    found = client.call("GET", f"/api/v2/dags/{SWITCH}/dagRuns/{run}/hitlDetails")["hitl_details"]
    waits = found and found[0]["task_instance"]["state"] == "awaiting_input" and not found[0]["response_received"]
    return found[0] if waits else None


def has_ended(client: Client, run: str) -> bool:
    return client.call("GET", f"/api/v2/dags/{SWITCH}/dagRuns/{run}")["state"] in ("success", "failed")


def asked(client: Client, run: str) -> dict[str, Any]:
    """Wait until the run asks somebody to decide."""
    deadline = time.monotonic() + LONGEST_WAIT
    while (found := question(client, run)) is None:
        assert not has_ended(client, run), client.reason(SWITCH, run)
        assert time.monotonic() < deadline, f"nobody was asked: {client.tasks(SWITCH, run)}"
        time.sleep(2)
    return found


def decide(client: Client, run: str, option: str, comment: str) -> dict[str, str]:
    """Answer through Airflow's API until the run ends, and return its tasks' states.

    Airflow 3.3 asks again where the answer came before its scheduler had seen that the task waits.
    """
    path = f"/api/v2/dags/{SWITCH}/dagRuns/{run}/taskInstances/approve/-1/hitlDetails"
    deadline = time.monotonic() + LONGEST_WAIT
    while not has_ended(client, run):
        assert time.monotonic() < deadline, f"it did not end: {client.tasks(SWITCH, run)}"
        if question(client, run):
            client.call("PATCH", path, json={"chosen_options": [option], "params_input": {"comment": comment}})
        time.sleep(2)
    client.wait(SWITCH, [run])
    return {task["task_id"]: task["state"] for task in client.tasks(SWITCH, run)}


def why_rejected(settings: Settings) -> str:
    """What the record of the newest challenger's rejection says."""
    newest = publications.manifests(settings)[-1]
    record = publications.rejection(settings, newest["line"])
    assert record is not None
    assert record["why"].startswith(newest["id"])
    return str(record["why"])


@pytest.mark.approval
def test_another_encoder_serves_when_somebody_approves_it(
    settings: Settings, client: Client, history: str, sre_model: Path
) -> None:
    for dag in (CLEAN, SWITCH, ROLL_BACK):
        client.unpause(dag)
    before = publications.serving(settings)
    with pytest.raises(TidemarkError, match=r"no config\.json"):
        client.wait(SWITCH, [client.trigger(SWITCH, {"source": str(sre_model.parent), "reason": "the wrong folder"})])
    run = client.trigger(SWITCH, {"source": str(sre_model), "reason": "it knows our words", "hours_to_decide": 2})
    shown = asked(client, run)
    shadow = next(entry for entry in publications.manifests(settings) if "challenger" in entry)
    assert publications.serving_id(settings) == before["id"]
    assert shadow["encoder_id"] == identify(Encoder(source=str(sre_model))) != before["encoder_id"]
    assert shown["subject"] == f"Shall {shadow['id']} serve?"
    assert shown["options"] == ["Approve", "Reject"]
    assert shown["defaults"] == ["Reject"]
    for fact in (
        shadow["encoder_id"],
        before["encoder_id"],
        "it knows our words",
        "home: top-10 lists changed",
        "entered",
    ):
        assert fact in shown["body"], fact

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
    links = {"Runbook": "/tidemark/runbooks/red_dbt_model", "Publication": None}
    assert client.call("GET", path)["extra_links"] == links


def signed_in(settings: Settings) -> tuple[str, dict[str, str]]:
    """Where Airflow answers, and the headers of somebody who may look at everything."""
    head = airflow.running(settings)
    assert head is not None
    token = httpx.post(
        f"{head.url}/auth/token", json={"username": airflow.USER, "password": airflow.password(settings)}
    ).json()["access_token"]
    return head.url, {"Authorization": f"Bearer {token}"}


def test_the_operators_page_and_its_links_are_served_behind_the_login(settings: Settings, client: Client) -> None:
    url, headers = signed_in(settings)
    serving = publications.serving(settings)
    views = [view for plugin in client.call("GET", "/api/v2/plugins")["plugins"] for view in plugin["external_views"]]
    assert [(view["name"], view["href"]) for view in views] == [("Tidemark", "/tidemark/")]
    page = httpx.get(f"{url}/tidemark/", headers=headers, timeout=60)
    assert page.status_code == 200, page.text
    assert page.headers["content-security-policy"].startswith("default-src 'none'")
    links = {urljoin("/tidemark/", link) for link in re.findall(r'href="([^"]*)"', page.text)}
    assert {f"/tidemark/publications/{serving['id']}", "/tidemark/runbooks/"} <= links
    for link in links:
        assert httpx.get(f"{url}{link}").status_code == 401, link
        found = httpx.get(f"{url}{link}", headers=headers, timeout=60)
        assert found.status_code == 200, link
        assert found.headers["content-security-policy"] == page.headers["content-security-policy"]
    shown = httpx.get(f"{url}/tidemark/publications/{serving['id']}", headers=headers, timeout=60).text
    assert f"{serving['rows']['events']['landed']:,}" in shown
    for wrong in (
        "publications/nothing",
        "publications/%2e%2e",
        "reports/nothing.html",
        "reports/..%2Fpublications%2Fserving.json",
    ):
        assert httpx.get(f"{url}/tidemark/{wrong}", headers=headers, timeout=60).status_code == 404, wrong


def test_a_user_and_an_item_are_looked_up_behind_the_login(settings: Settings, client: Client) -> None:
    url, headers = signed_in(settings)
    serving = publications.serving(settings)
    rows = {
        kind: vectors.read(settings, serving["encoder_id"], name, serving["tables"][name]["version"])
        for kind, name in (("users", VectorTable.USERS), ("items", VectorTable.ITEMS))
    }
    found = {kind: row[f"{kind.removesuffix('s')}_id"][0].as_py() for kind, row in rows.items()}
    for kind, name in found.items():
        address = f"{url}/tidemark/{kind}/"
        assert httpx.post(address, data={"id": name}).status_code == 401
        page = httpx.post(address, data={"id": name}, headers=headers, timeout=60)
        assert page.status_code == 200, page.text
        assert html.escape(name) in page.text
        assert serving["id"] in page.text
        assert page.headers["content-security-policy"].startswith("default-src 'none'")
        earlier = httpx.post(address, data={"id": name, "publication": "../serving"}, headers=headers, timeout=60)
        unknown = httpx.post(address, data={"id": "<b>nobody"}, headers=headers, timeout=60)
        assert (earlier.status_code, unknown.status_code) == (404, 404)
        assert "&lt;b&gt;nobody" in unknown.text
        assert httpx.post(address, headers=headers).status_code == 422, "no id"
        assert httpx.get(address, headers=headers, follow_redirects=False).headers["location"] == "../"


def test_runbooks_are_served_behind_the_login_and_nothing_else_is(settings: Settings, client: Client) -> None:
    url, headers = signed_in(settings)
    runbooks = f"{url}/tidemark/runbooks"
    assert httpx.get(f"{runbooks}/red_dbt_model").status_code == 401
    assert httpx.get(f"{runbooks}/").status_code == 401
    assert httpx.get(f"{url}/api/v2/dags").status_code == 401

    page = httpx.get(f"{runbooks}/red_dbt_model", headers=headers)
    assert page.status_code == 200
    assert "<h1>A red dbt model</h1>" in page.text
    assert "<table>" in page.text
    assert page.headers["content-security-policy"].startswith("default-src 'none'")
    links = set()
    for runbook in (REPOSITORY / "docs" / "runbooks").glob("*.md"):
        links |= set(re.findall(r'href="([^"]*)"', httpx.get(f"{runbooks}/{runbook.stem}", headers=headers).text))
    assert "/tidemark/runbooks/fix_the_data" in links
    assert {link: httpx.get(f"{url}{link}", headers=headers).status_code for link in links} == dict.fromkeys(links, 200)
    for wrong in ("..%2F..%2FREADME", "..%2Frunbooks%2Fstale_batch", "red_dbt_model.md", "%2e%2e", "nothing", "%00"):
        assert httpx.get(f"{runbooks}/{wrong}", headers=headers).status_code == 404, wrong


def test_it_listens_on_loopback_only(settings: Settings, client: Client) -> None:
    head = airflow.running(settings)
    assert head is not None
    listening = set()
    for process in airflow.processes(settings):
        with suppress(psutil.NoSuchProcess):  # a task may end meanwhile; who listens does not
            listening |= {
                connection.laddr.ip
                for connection in process.net_connections(kind="tcp")
                if connection.status == "LISTEN" and connection.laddr.port == head.port
            }
    assert listening == {"127.0.0.1"}


def test_a_server_of_somebody_else_on_the_same_port_is_no_start(
    settings: Settings, client: Client, tmp_path: Path
) -> None:
    """Two that start in the same moment find the same port free; one of them gets it."""
    other = Settings(home=tmp_path / "home")
    airflow.password_file(other).parent.mkdir(parents=True)
    airflow.password_file(other).write_text(json.dumps({airflow.USER: "another"}), "utf-8")
    found = airflow.running(settings)
    assert found is not None
    with pytest.raises(TidemarkError, match="another Airflow has taken"):
        airflow.wait_until_healthy(other, found, lambda _: None)
    airflow.wait_until_healthy(settings, found, lambda _: None)


def test_whoever_waits_or_asks_is_told_that_the_scheduler_has_ended(
    settings: Settings, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.check_scheduler()
    assert "ended" not in airflow.describe(settings)
    scheduler = airflow.scheduler(settings)
    assert scheduler is not None
    scheduler.kill()
    deadline = time.monotonic() + LONGEST_WAIT
    while airflow.scheduler(settings) is not None:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert "its scheduler has ended" in airflow.describe(settings)
    monkeypatch.setattr("include.embedded.client.SILENCE", 10.0)
    with pytest.raises(TidemarkError, match="no sign of life"):
        client.new_runs(CLEAN, [run["dag_run_id"] for run in client.runs(CLEAN)], LONGEST_WAIT)
