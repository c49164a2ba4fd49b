"""The topology of docker-compose.yaml, natively: Postgres, Redis, an object store, Airflow's services and two Celery workers.

Every Airflow process gets the command and the environment that compose would give it, with a `.env` whose hosts are on
loopback. The path runs through, gives what one machine gives, and goes on after a worker is killed amid embedding.
"""

import contextlib
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from include.embedded.client import Client
from include.settings import REPOSITORY, Settings, load
from include.steps.clean import clean
from include.steps.gate_lake import gate_lake
from include.steps.land import land
from include.steps.plan import plan_recommend, plan_update
from include.stores import publications
from tests import compose, samples, services
from tests.test_path import published, same_content

pytestmark = pytest.mark.cluster

CLEAN, UPDATE, DAILY = "clean_behaviour_hourly", "update_interests", "recommend_daily"
HOURS = 6
LAST_HOUR = samples.FIRST + timedelta(hours=HOURS)
LONG_TEXTS = 200  # of 256 tokens: 20 seconds or so
EMBED = "embed_texts"
WORKERS = ("one", "two")
SHARDS = 2


class Cluster:
    """The processes of a cluster, each with a log of its own; all of them end with it."""

    def __init__(self, folder: Path, env_file: Path) -> None:
        self.folder = folder
        self.services = compose.services(env_file)
        self.started: dict[str, subprocess.Popen[bytes]] = {}
        self.url = f"http://{services.HOST}:{compose.variables(env_file)['API_SERVER_PORT']}"
        # What a container has by its image and its own network, and two processes of one machine have not.
        self.own = {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "HOME": str(folder),
            "PYTHONPATH": str(REPOSITORY),
            "AIRFLOW_HOME": str(folder / "airflow"),
            "AIRFLOW__CORE__DAGS_FOLDER": str(REPOSITORY / "dags"),
            "AIRFLOW__CORE__PLUGINS_FOLDER": str(REPOSITORY / "plugins"),
            "AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_SERVER_PORT": str(services.free_port()),
        }

    def environment(self, service: str, name: str = "") -> dict[str, str]:
        given = {key: str(value) for key, value in self.services[service]["environment"].items()}
        return given | self.own | {"TIDEMARK_WORK": str(self.folder / "work" / (name or service))}

    def command(self, service: str) -> list[str]:
        """The service's command as the image's entry point runs it."""
        words = [str(word) for word in self.services[service]["command"]]
        return words if words[0] == "bash" else ["airflow", *words]

    def start(self, service: str, *more: str, name: str = "") -> None:
        name = name or service
        with (self.folder / f"{name}.log").open("wb") as log:
            self.started[name] = subprocess.Popen(
                [*self.command(service), *more],
                env=self.environment(service, name), cwd=REPOSITORY, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    def finish(self, service: str) -> None:
        """Run a service that ends by itself."""
        self.start(service)
        assert self.started.pop(service).wait() == 0, self.tail(service)

    def wait(self, what: str, answers: Callable[[], bool]) -> None:
        deadline = time.monotonic() + services.START_LIMIT
        while True:
            self.check()
            with contextlib.suppress(httpx.HTTPError, ValueError, KeyError):
                if answers():
                    return
            assert time.monotonic() < deadline, f"no {what}: {self.tails()}"
            time.sleep(0.5)

    def check(self) -> None:
        """Fail where a process has ended."""
        for name, process in self.started.items():
            assert process.poll() is None, f"{name} has ended: {self.tail(name)}"

    def healthy(self) -> bool:
        health = httpx.get(f"{self.url}/api/v2/monitor/health", timeout=5).json()
        return all(health[part]["status"] == "healthy" for part in ("metadatabase", "scheduler", "dag_processor"))

    def tail(self, name: str) -> str:
        return f"\n--- the end of {name}.log\n" + (self.folder / f"{name}.log").read_text(errors="replace")[-3000:]

    def tails(self) -> str:
        return "".join(self.tail(log.stem) for log in sorted(self.folder.glob("*.log")))

    def processes(self, name: str) -> list[psutil.Process]:
        """Every process of a service: tasks put themselves into groups of their own, but not into other sessions."""
        session, found = self.started[name].pid, []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                if os.getsid(process.pid) == session:
                    found.append(process)
        return found

    def kill(self, name: str) -> None:
        """End a service as a machine without power does: all at once, without a word."""
        for process in self.processes(name):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.started.pop(name).wait()

    def stop(self) -> None:
        for name in list(self.started):
            self.kill(name)


@contextlib.contextmanager
def redis(folder: Path, port: int, password: str) -> Iterator[None]:
    """Debian's Redis, which takes the password from its standard input, so that no list of processes shows it."""
    settings = f"bind {services.HOST}\nport {port}\nrequirepass {password}\ndir {folder}\nsave ''\n"
    with (folder / "redis.log").open("wb") as log:
        process = subprocess.Popen(["redis-server", "-"], stdin=subprocess.PIPE, stdout=log, stderr=log)
    assert process.stdin is not None
    with process.stdin as config:
        config.write(settings.encode())
    try:
        yield
    finally:
        process.terminate()
        process.wait()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """All of it, healthy."""
    compose.program()
    if not shutil.which("redis-server"):
        pytest.skip("redis-server is not there (apt-get install redis-server)")
    folder = tmp_path_factory.mktemp("cluster")
    redis_port = services.free_port()
    with services.postgres(folder) as postgres, services.object_store(folder) as store:
        env_file = compose.new_env(
            folder / "env",
            POSTGRES_HOST=services.HOST, POSTGRES_PORT=str(postgres.port),
            REDIS_HOST=services.HOST, REDIS_PORT=str(redis_port),
            OBJECT_STORE_ENDPOINT=store.endpoint,
            API_SERVER_HOST=services.HOST, API_SERVER_PORT=str(services.free_port()),
            TIDEMARK_SHARDS=str(SHARDS),
        )  # fmt: skip
        given = compose.variables(env_file)
        where = {
            "PGHOST": services.HOST,
            "PGPORT": str(postgres.port),
            "PGUSER": "tidemark",
            "PGPASSWORD": postgres.password,
        }
        subprocess.run(["sh", REPOSITORY / "deploy" / "databases.sh"], env={**os.environ, **given, **where}, check=True)
        with redis(folder, redis_port, given["REDIS_PASSWORD"]):
            found = Cluster(folder, env_file)
            try:
                found.finish("airflow-init")
                found.start("airflow-api-server", "--host", services.HOST)
                found.start("airflow-scheduler")
                found.start("airflow-dag-processor")
                for name in WORKERS:
                    found.start("airflow-worker", "--celery-hostname", f"{name}@%h", "--skip-serve-logs", name=name)
                found.wait("healthy Airflow", found.healthy)
                yield found
            finally:
                found.stop()


@pytest.fixture(scope="module")
def client(cluster: Cluster) -> Client:
    admin = cluster.services["airflow-init"]["environment"]
    found = Client(cluster.url, admin["AIRFLOW_ADMIN_USER"], admin["AIRFLOW_ADMIN_PASSWORD"])
    found.wait_for_dags([CLEAN, UPDATE, DAILY])
    return found


@pytest.fixture(scope="module")
def settings(cluster: Cluster) -> Settings:
    """Tidemark's settings as a worker has them."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in cluster.environment("airflow-worker", "test").items():
            if name.startswith("TIDEMARK_"):
                patch.setenv(name, value)
        return load()


def wordy(count: int) -> list[dict[str, Any]]:
    """Items whose texts are as long as the encoder reads, so that embedding them takes a while."""
    draw = random.Random(7)  # noqa: S311
    return [
        {"item_id": f"long{n}", "title": f"Item {n}", "description": " ".join(draw.choices(samples.WORDS, k=300))}
        for n in range(count)
    ]


def land_history(settings: Settings, folder: Path) -> None:
    samples.write(folder / "events.jsonl", samples.events(200, users=11, hours=HOURS))
    samples.write(folder / "items.jsonl", samples.items(19) + wordy(LONG_TEXTS))
    land(settings, folder / "events.jsonl", format="canonical")
    land(settings, folder / "items.jsonl", format="canonical", arrival=samples.FIRST)


def land_hour(settings: Settings, folder: Path) -> None:
    later = samples.events(30, users=4, seed=5, hours=HOURS + 1)
    samples.write(folder / "events2.jsonl", later)
    land(settings, folder / "events2.jsonl", format="canonical", arrival=LAST_HOUR)


@pytest.fixture(scope="module")
def one_machine(tmp_path_factory: pytest.TempPathFactory) -> tuple[Settings, list[publications.Manifest]]:
    """What the command line publishes from the same files, in a folder and with a SQLite catalogue."""
    folder = tmp_path_factory.mktemp("one-machine")
    settings = Settings(home=folder / "home")
    made = []
    for land_more, plan in ((land_history, plan_update), (land_hour, plan_recommend)):
        land_more(settings, folder)
        clean(settings)
        gate_lake(settings)
        made.append(published(settings, plan(settings)))
    return settings, made


def clean_hours(client: Client, first: datetime, last: datetime) -> None:
    client.unpause(CLEAN)
    client.wait(CLEAN, [client.trigger(CLEAN, {"from": first.isoformat(), "to": last.isoformat()})])


def test_a_worker_is_killed_amid_embedding_and_the_path_goes_on(
    cluster: Cluster, client: Client, settings: Settings, one_machine, tmp_path: Path
) -> None:
    land_history(settings, tmp_path)
    client.unpause(UPDATE)  # an asset says nothing to a DAG that is paused
    clean_hours(client, samples.FIRST, samples.FIRST + timedelta(hours=HOURS))
    run, task = embedding_task(cluster, client)
    victim = next(name for name in WORKERS if cluster.started[name].pid == os.getsid(task["pid"]))
    cluster.kill(victim)
    assert state_of(client, run, task)["state"] == "running", "it ended before its worker did"

    client.wait(UPDATE, [run])
    again = state_of(client, run, task)
    assert (again["state"], again["try_number"]) == ("success", 2)
    for step in ("embed_texts", "update_users", "update_lists"):
        mapped = [each["map_index"] for each in client.tasks(UPDATE, run) if each["task_id"] == step]
        assert sorted(mapped) == list(range(SHARDS))
    here, (first, _) = publications.serving(settings), one_machine[1]
    assert here["run"]["texts"] == first["run"]["texts"]
    assert here["rows"] == first["rows"]
    same_content(settings, here, first, one_machine[0])


def test_the_day_on_the_worker_that_is_left_gives_what_one_machine_gives(
    cluster: Cluster, client: Client, settings: Settings, one_machine, tmp_path: Path
) -> None:
    client.call("PATCH", f"/api/v2/dags/{UPDATE}", json={"is_paused": True})  # one publication less to wait for
    land_hour(settings, tmp_path)
    clean_hours(client, LAST_HOUR, LAST_HOUR + timedelta(hours=1))
    client.unpause(DAILY)  # the run of yesterday starts by itself; the one asked for follows it
    client.wait(DAILY, [client.trigger(DAILY)])
    here, (_, last) = publications.serving(settings), one_machine[1]
    assert here["as_of"] == last["as_of"] == (LAST_HOUR + timedelta(hours=1)).isoformat()
    assert here["rows"] == last["rows"]
    same_content(settings, here, last, one_machine[0])
    cluster.check()


def test_nobody_enters_without_a_login(cluster: Cluster, client: Client) -> None:
    assert httpx.get(f"{cluster.url}/api/v2/dags").status_code == 401
    refused = httpx.post(f"{cluster.url}/auth/token", json={"username": "admin", "password": "admin"})
    assert refused.status_code == 401


def test_the_operators_page_reads_a_home_on_an_object_store(
    cluster: Cluster, settings: Settings, client: Client
) -> None:
    admin = cluster.services["airflow-init"]["environment"]
    login = {"username": admin["AIRFLOW_ADMIN_USER"], "password": admin["AIRFLOW_ADMIN_PASSWORD"]}
    token = httpx.post(f"{cluster.url}/auth/token", json=login).json()["access_token"]
    page = httpx.get(f"{cluster.url}/tidemark/", headers={"Authorization": f"Bearer {token}"}, timeout=60)
    assert page.status_code == 200, page.text
    assert f'<a href="publications/{publications.serving_id(settings)}">' in page.text


def state_of(client: Client, run: str, task: dict[str, Any]) -> dict[str, Any]:
    found = client.tasks(UPDATE, run)
    return next(each for each in found if (each["task_id"], each["map_index"]) == (task["task_id"], task["map_index"]))


def embedding_task(cluster: Cluster, client: Client) -> tuple[str, dict[str, Any]]:
    """A run and a task of it that is embedding: it runs, and its process has the encoder's weights in memory."""
    found: list[tuple[str, dict[str, Any]]] = []

    def embeds() -> bool:
        for run in client.runs(UPDATE):
            for task in client.tasks(UPDATE, run["dag_run_id"]):
                assert task["state"] != "failed", client.reason(UPDATE, run["dag_run_id"])
                if task["task_id"] == EMBED and task["state"] == "running" and has_weights(task["pid"]):
                    found.append((run["dag_run_id"], task))
        return bool(found)

    cluster.wait("embedding task", embeds)
    return found[0]


def has_weights(pid: int) -> bool:
    try:
        return any(area.path.endswith(".safetensors") for area in psutil.Process(pid).memory_maps())
    except psutil.NoSuchProcess:
        return False
