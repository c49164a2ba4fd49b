"""The embedded Airflow's own parts that need no running Airflow, and the demo's reading of its data."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

import psutil
import pytest

from include.embedded import airflow, demo
from include.errors import BadInput
from include.settings import REPOSITORY, Settings
from include.steps import land as landing_step
from include.stores import lake, landing
from tests import samples


def test_environment_listens_on_loopback_with_a_login(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS", "True")
    found = airflow.environment(settings, 8081)
    assert found["AIRFLOW__API__HOST"] == "127.0.0.1"
    assert found["AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS"] == "False"
    assert found["AIRFLOW__CORE__LOAD_EXAMPLES"] == "False"
    assert Path(found["AIRFLOW_HOME"]) == settings.home / "airflow"
    assert found["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"] == f"sqlite:///{settings.home}/airflow/airflow.db?timeout=30"


def test_what_tasks_are_forked_from_holds_libraries_and_nothing_that_runs(settings: Settings) -> None:
    environment = airflow.environment(settings)
    code = f"""
import gc, json, sys, threading
for name in {environment["AIRFLOW__SCHEDULER__MP_FORKSERVER_PRELOAD"].split(",")}:
    __import__(name)
from include.preloaded import LIBRARIES
print(json.dumps({{
    "missing": [name for name in LIBRARIES if name not in sys.modules],
    "threads": threading.active_count(),
    "own": sorted(name for name in sys.modules if name.startswith("include.")),
    "frozen": gc.get_freeze_count(),
}}))
"""
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    assert found.pop("frozen") > 100_000
    assert found == {"missing": [], "threads": 1, "own": ["include.preloaded"]}


def test_a_taken_port_is_not_chosen() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert airflow.free_port(port) != port


def test_nothing_runs_at_first(settings: Settings) -> None:
    assert airflow.running(settings) is None
    assert airflow.processes(settings) == []
    assert "does not run" in airflow.describe(settings)
    airflow.stop(settings, lambda _: None)


@pytest.mark.parametrize("content", ["", "{", '{"pid": 1}', "[]"])
def test_a_broken_pid_file_counts_as_none(settings: Settings, content: str) -> None:
    (settings.home / "airflow").mkdir(parents=True)
    (settings.home / "airflow" / "embedded.json").write_text(content, "utf-8")
    assert airflow.running(settings) is None


def test_a_pid_that_is_now_somebody_elses_is_left_alone(settings: Settings) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, start_new_session=True) as other:
        (settings.home / "airflow").mkdir(parents=True)
        pid_file = settings.home / "airflow" / "embedded.json"
        pid_file.write_text(json.dumps({"pid": other.pid, "port": 8080, "created": time.time() - 3600}), "utf-8")
        assert airflow.running(settings) is None
        airflow.stop(settings, lambda _: None)
        assert other.poll() is None
        other.communicate(b"\n")


STUBBORN = """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
os.setpgid(0, 0)
print("ready", flush=True)
time.sleep(600)
"""
HEAD = f"""
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", {STUBBORN!r}], env={{"PATH": os.environ["PATH"]}})
time.sleep(600)
"""


def test_stop_ends_children_in_groups_of_their_own_that_ignore_it(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Like Airflow's tasks: another process group, no mark in the environment, and SIGTERM ignored."""
    monkeypatch.setattr(airflow, "GRACE", 2.0)
    command = [sys.executable, "-c", HEAD]
    with subprocess.Popen(
        command, env=airflow.environment(settings), start_new_session=True, stdout=subprocess.PIPE
    ) as head:
        assert head.stdout is not None
        assert head.stdout.readline() == b"ready\n"
        created = psutil.Process(head.pid).create_time()
        (settings.home / "airflow").mkdir(parents=True)
        pid_file = settings.home / "airflow" / "embedded.json"
        pid_file.write_text(json.dumps({"pid": head.pid, "port": 8080, "created": created}), "utf-8")
        child = next(process for process in airflow.processes(settings) if process.pid != head.pid)
        assert os.getpgid(child.pid) != os.getpgid(head.pid)
        airflow.stop(settings, lambda _: None)
        assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE
        assert head.wait() != 0
    assert airflow.processes(settings) == []
    assert not pid_file.exists()


def test_the_last_hours_are_taken_from_the_data(tmp_path: Path) -> None:
    moments = [
        "2024-05-01T10:59:59",
        "2024-05-01T13:00:00",
        "2024-05-01T15:10:00",
        "2024-05-01T15:59:59",
        "2024-05-01T16:00:00",
    ]
    users = ["a", "b", "c", "c", "b"]
    lines = ["user_id:token\titem_id:token\trating:float\ttimestamp:float"]
    for user, moment in zip(users, moments, strict=True):
        lines.append(f"{user}\t1\t3\t{datetime.fromisoformat(moment).replace(tzinfo=UTC).timestamp():.0f}")
    (tmp_path / "ml-100k.inter").write_text("\n".join(lines) + "\n", "utf-8")
    hours, most = demo.last_events(tmp_path)
    assert [f"{hour:%H:%M}" for hour in hours] == ["13:00", "15:00", "16:00"]
    assert most == ["b", "c"]


def test_the_demo_makes_the_pool_that_the_dags_wait_in() -> None:
    source = (REPOSITORY / "include" / "dag_defaults.py").read_text("utf-8")
    assert f'WRITER_POOL = "{demo.WRITER_POOL}"' in source


# ---------------------------------------------------------------- a home with data of its own


def land_own(settings: Settings, folder: Path) -> None:
    file = samples.write(folder / "events.jsonl", samples.events(20))
    arrival = datetime(2024, 5, 1, 13, tzinfo=UTC)
    landing_step.land(settings, file, format="canonical", arrival=arrival, progress=lambda _: None)


def test_what_a_demo_landed_is_not_data_of_a_homes_own(settings: Settings, tmp_path: Path) -> None:
    assert demo.data_of_its_own(settings) is None
    folder = samples.movielens_100k(tmp_path / "in")
    hours, _ = demo.last_events(folder)
    demo.land_all(settings, folder, hours)
    assert len(landing.batches(settings)) > 2
    assert demo.data_of_its_own(settings) is None
    assert demo.land_all(settings, folder, hours)[0] < hours[0]
    land_own(settings, tmp_path)
    assert demo.data_of_its_own(settings) == "landing/events/dt=2024-05-01/hr=13/events.jsonl"


def test_what_a_killed_demo_landed_is_not_either_and_the_next_goes_on(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = samples.movielens_100k(tmp_path / "in")
    hours, _ = demo.last_events(folder)
    land, calls = landing_step.land, []

    def land_once(*args: Any, **options: Any) -> dict[str, Any]:
        calls.append(options)
        if len(calls) > 1:
            raise KeyboardInterrupt
        return land(*args, **options)

    with monkeypatch.context() as patched:
        patched.setattr(landing_step, "land", land_once)
        with pytest.raises(KeyboardInterrupt):
            demo.land_all(settings, folder, hours)
    assert landing.batches(settings)
    assert demo.data_of_its_own(settings) is None
    _, end = demo.land_all(settings, folder, hours)
    assert end <= hours[0]
    assert demo.data_of_its_own(settings) is None
    land_own(settings, tmp_path)
    assert demo.data_of_its_own(settings) == "landing/events/dt=2024-05-01/hr=13/events.jsonl"


def test_data_whose_files_were_moved_away_are_a_homes_own_too(settings: Settings) -> None:
    lake.record_gate(settings, 4, None, {"passed": True})
    assert demo.data_of_its_own(settings) == "lake snapshot 4"


def test_the_demo_refuses_a_home_with_data_of_its_own(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    land_own(settings, tmp_path)
    before = landing.batches(settings)
    monkeypatch.setenv("TIDEMARK_HOME", str(settings.home))
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # of this process, which goes on
    monkeypatch.setattr(airflow, "start", lambda *_: pytest.fail("Airflow was started"))
    assert demo.main([]) == BadInput.exit_code
    said = capsys.readouterr().err
    assert f"error: {settings.home} holds data that the demo did not land (landing/events/" in said
    assert f"make demo DATASET=ml-100k TIDEMARK_HOME={settings.home}-ml-100k" in said
    assert landing.batches(settings) == before


class Watched:
    """In the place of Airflow's client: notes what it is asked for."""

    calls: ClassVar[list[str]] = []

    def __init__(self, *_: object) -> None:
        self.calls.clear()

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_: self.calls.append(name)


def test_on_such_a_home_only_airflow_starts(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    land_own(settings, tmp_path)
    before = landing.batches(settings)
    head = airflow.Running(os.getpid(), 8080, 0.0)
    monkeypatch.setenv("TIDEMARK_HOME", str(settings.home))
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # of this process, which goes on
    monkeypatch.setattr(airflow, "start", lambda *_: head)
    monkeypatch.setattr(airflow, "password", lambda _: "secret")
    monkeypatch.setattr(airflow, "describe", lambda _: f"Airflow: {head.url}")
    monkeypatch.setattr(airflow, "stop", lambda *_: pytest.fail("Airflow was stopped"))
    monkeypatch.setattr(demo, "Client", Watched)
    assert demo.main(["--keep-running"]) == 0
    assert Watched.calls == ["ensure_pool", "wait_for_dags"]
    said = capsys.readouterr().out
    assert "Airflow starts, nothing is landed and no DAG is unpaused" in said
    assert head.url in said
    assert landing.batches(settings) == before


def test_starting_the_demo_imports_no_airflow() -> None:
    """Its import makes an AIRFLOW_HOME in the user's home directory."""
    code = "import sys, include.embedded.demo; print('airflow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_commands_say_what_they_take(capsys: pytest.CaptureFixture[str]) -> None:
    assert airflow.main(["restart"]) == 2
    assert "start|stop|status" in capsys.readouterr().err
