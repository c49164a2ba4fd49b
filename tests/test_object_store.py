"""The whole path on a home on an object store with its catalogue in Postgres: real servers, on loopback."""

import multiprocessing
import signal
import threading
import time
from pathlib import Path

import duckdb
import psycopg2
import pytest
from pydantic import SecretStr

from include.errors import BadInput, TidemarkError
from include.settings import ObjectStore, Retention, Settings
from include.steps.backtest import backtest_cut, out_folder, plan_backtest
from include.steps.backup import backup
from include.steps.export import export
from include.steps.maintain import maintain
from include.steps.report_backtest import report_backtest
from include.steps.restore import restore
from include.steps.train_encoder import comparison_folder
from include.stores import backtests, batches, files, lake, publications
from include.stores.lock import writing
from tests import samples, services
from tests.test_path import assert_same_exports, cleaned, land, plan_rebuild, plan_recommend, plan_update, published

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("services")
    with services.postgres(folder) as postgres, services.object_store(folder, "tidemark") as store:
        yield postgres, store


@pytest.fixture(scope="module")
def remote_settings(cluster, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return settings_of(cluster, "home", tmp_path_factory.mktemp("work"))


def settings_of(cluster, name: str, work: Path) -> Settings:
    postgres, store = cluster
    return Settings(
        home=f"s3://tidemark/{name}",
        work=work,
        lake_catalogue=f"postgres:{postgres.create(name)}",
        object_store=ObjectStore(endpoint=store.endpoint, key_id=store.key_id, secret=store.secret),
    )


def two_publications(settings: Settings, folder: Path) -> list[publications.Manifest]:
    """A first load, and an update by a later hour in which a file of the first one is replaced."""
    samples.write(folder / "events.jsonl", samples.events(200, users=11))
    samples.write(folder / "items.jsonl", samples.items(19))
    land(settings, folder / "events.jsonl", format="canonical")
    land(settings, folder / "items.jsonl", format="canonical", arrival=samples.FIRST)
    cleaned(settings)
    first = published(settings, plan_recommend(settings))
    samples.write(folder / "items.jsonl", [{**row, "title": f"A new {row['title']}"} for row in samples.items(19)])
    land(settings, folder / "items.jsonl", format="canonical", arrival=samples.FIRST)
    samples.write(folder / "later.jsonl", samples.events(30, users=3, seed=5, hours=9))
    land(settings, folder / "later.jsonl", format="canonical", table="events")
    cleaned(settings)
    return [first, published(settings, plan_update(settings))]


@pytest.fixture(scope="module")
def remote(remote_settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> list[publications.Manifest]:
    return two_publications(remote_settings, tmp_path_factory.mktemp("remote"))


def test_an_object_store_publishes_what_a_folder_does(
    remote_settings: Settings, remote: list[publications.Manifest], tmp_path: Path
) -> None:
    local_settings = Settings(home=tmp_path / "home")
    local = two_publications(local_settings, tmp_path)
    assert remote[1]["base"] == remote[0]["id"]
    assert remote[1]["run"]["items"]["touched"] == 19
    for here, there in zip(local, remote, strict=True):
        assert here["id"] == there["id"]
        assert here["rows"] == there["rows"]
        assert_same_exports(local_settings, here, remote_settings, there, tmp_path)
    assert publications.serving(remote_settings)["id"] == remote[1]["id"]
    assert batches.stale(remote_settings) == []
    assert files.size(remote_settings.lake) > 0
    kept = [path.name for path in remote_settings.reports.iterdir()]
    assert kept == ["data_docs", "publications", "validations"]


def test_maintenance_lets_go_of_what_nothing_names(
    remote_settings: Settings, remote: list[publications.Manifest], tmp_path: Path
) -> None:
    first, before = (manifest["id"] for manifest in remote)
    last = published(remote_settings, plan_rebuild(remote_settings))["id"]
    export(remote_settings, "recommendations", tmp_path / "before.parquet", last)
    now = remote_settings.model_copy(update={"retention": Retention(days=1e-6, grace_hours=0)})
    (now.publications / "candidates" / "20240101T000000-dead" / "touched.json").write_text("{}")
    (now.lake / "data" / "main" / "fct_interactions" / "orphan.parquet").write_bytes(b"never committed")
    (now.artefacts / "nobodys" / "artefact.json").write_text("{}")
    (now.reports / "backtests" / "young" / "cuts" / "facts.json").write_text("{}")
    done = maintain(now)
    assert done["pruned"]["publications"] == [first]
    assert done["pruned"]["candidates"] == ["20240101T000000-dead"]
    assert done["orphans"] == ["1 files of the lake"]
    assert done["pruned"]["snapshots"] > 0
    assert done["pruned"]["artefacts"] == 1
    assert not (now.artefacts / "nobodys").exists()
    assert (now.reports / "backtests" / "young" / "cuts" / "facts.json").exists()
    assert done["reports"] == []
    looked = maintain(now, dry_run=True)
    assert (looked["pruned"]["publications"], looked["reports"]) == ([], [])
    soon = now.model_copy(update={"retention": Retention(days=1e-6, grace_hours=0, report_days=1e-6)})
    going = ["backtests/young", *(f"maintenance/{file.name}" for file in (now.reports / "maintenance").iterdir())]
    assert maintain(soon)["reports"] == [f"reports/{name}" for name in going]
    assert not (now.reports / "backtests" / "young").exists()
    assert [manifest["id"] for manifest in publications.manifests(now)] == [before, last]  # a rollback returns to it
    export(remote_settings, "recommendations", tmp_path / "after.parquet", last)
    assert (tmp_path / "after.parquet").read_bytes() == (tmp_path / "before.parquet").read_bytes()


def test_backups_are_refused_with_what_to_do_instead(remote_settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="pg_dump"):
        backup(remote_settings, tmp_path / "home.tar")
    with pytest.raises(BadInput, match="pg_dump"):
        restore(remote_settings, tmp_path / "home.tar")


def test_a_database_serves_one_home(remote_settings: Settings, remote: list[publications.Manifest]) -> None:
    other = remote_settings.model_copy(update={"home": remote_settings.home.parent / "another"})
    with pytest.raises(duckdb.Error, match="DATA_PATH"), lake.connect(other):
        pass


def test_secrets_stay_secret(remote_settings: Settings, remote: list[publications.Manifest], cluster) -> None:
    postgres, store = cluster
    written = [
        file.read_bytes() for file in remote_settings.publications.rglob("*.json")
    ] + [file.read_bytes() for file in remote_settings.work.rglob("*") if file.is_file() and file.suffix != ".duckdb_extension"]  # fmt: skip
    assert len(written) > 3
    for secret in (postgres.password, store.secret):
        assert not [content for content in written if secret.encode() in content]
        assert secret not in repr(remote_settings)
        assert secret not in remote_settings.model_dump_json()
        assert secret not in repr(remote_settings.landing) + str(remote_settings.landing)


def test_a_wrong_password_is_not_shown(remote_settings: Settings) -> None:
    text = remote_settings.lake_catalogue.get_secret_value()
    password = text.partition("password=")[2]
    wrong = remote_settings.model_copy(update={"lake_catalogue": SecretStr(text.replace(password, "guessed-it"))})
    for attempt in (lambda: lake.exists(wrong), lambda: lake.connect(wrong, read_only=False).__enter__()):
        with pytest.raises(Exception) as caught:  # noqa: PT011 - DuckDB's error and ours
            attempt()
        assert "guessed-it" not in str(caught.value)
        assert password not in str(caught.value)


def hold(settings: Settings, inside, go) -> None:
    with writing(settings):
        inside.set()
        go.wait()


def test_two_writers_exclude_one_another(cluster, tmp_path: Path) -> None:
    settings = settings_of(cluster, "exclusive", tmp_path)
    context = multiprocessing.get_context("spawn")
    inside, go = context.Event(), context.Event()
    other = context.Process(target=hold, args=(settings, inside, go))
    other.start()
    inside.wait()
    got = threading.Event()

    def second() -> None:
        with writing(settings):
            got.set()

    waiting = threading.Thread(target=second)
    waiting.start()
    time.sleep(1)
    assert not got.is_set(), "the other process still writes"
    go.set()
    waiting.join()
    assert got.is_set()
    other.join()


def test_a_writer_that_dies_leaves_no_lock(cluster, tmp_path: Path) -> None:
    settings = settings_of(cluster, "died", tmp_path)
    context = multiprocessing.get_context("spawn")
    inside, go = context.Event(), context.Event()
    other = context.Process(target=hold, args=(settings, inside, go))
    other.start()
    inside.wait()
    other.kill()
    other.join()
    assert other.exitcode == -signal.SIGKILL, "it did not let go of the lock itself"
    with writing(settings) as confirm:
        confirm()


def test_a_lost_lock_is_noticed(cluster, tmp_path: Path) -> None:
    postgres, _ = cluster
    settings = settings_of(cluster, "lost", tmp_path)

    def cut() -> None:
        connection = psycopg2.connect(postgres.dsn("lost"))
        connection.autocommit = True
        connection.cursor().execute(
            "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND database = "
            "(SELECT oid FROM pg_database WHERE datname = 'lost')"
        )
        connection.close()

    def write() -> None:
        with writing(settings) as confirm:
            confirm()
            cut()
            with pytest.raises(TidemarkError, match="lost"):
                confirm()

    with pytest.raises(TidemarkError, match="lost"):
        write()


def test_a_folder_may_have_its_catalogue_in_postgres(cluster, tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "home", lake_catalogue=f"postgres:{cluster[0].create('beside')}")
    assert not lake.exists(settings)
    samples.write(tmp_path / "events.jsonl", samples.events(50, users=5))
    land(settings, tmp_path / "events.jsonl", format="canonical")
    assert cleaned(settings)["gated"]
    assert lake.exists(settings)
    assert not (settings.lake / lake.CATALOGUE).exists()


def test_a_stray_object_in_the_landing_folder_is_named(cluster, tmp_path: Path) -> None:
    settings = settings_of(cluster, "stray", tmp_path)
    (settings.landing / "events" / "dt=2024-01-01" / "notes.txt").write_text("hello")
    with pytest.raises(BadInput, match=r"notes\.txt is no batch"):
        batches.stale(settings)


@pytest.mark.usefixtures("remote")
def test_backtests_write_into_the_home_or_into_a_folder(remote_settings: Settings, tmp_path: Path) -> None:
    for out in (None, tmp_path / "out"):
        plan = plan_backtest(remote_settings, every="5h", cuts=1, methods=["popularity"], out=out)
        folder = out_folder(remote_settings, plan)
        assert not backtests.has_cut(folder, plan["name"], plan["cuts"][0])
        backtest_cut(remote_settings, plan, plan["cuts"][0])
        assert backtests.has_cut(folder, plan["name"], plan["cuts"][0])
        report_backtest(remote_settings, plan)
        assert backtests.read_metrics(folder)["methods"]["popularity"]["ndcg"] > 0
        training = {"name": "trained", "out": plan["out"]}
        assert comparison_folder(remote_settings, training) == (out and str(out / "encoders"))
    with pytest.raises(BadInput, match="is an address"):
        plan_backtest(remote_settings, every="3h", cuts=1, out="s3://tidemark/reports")
