"""Maintenance, backups and migrations, on a home that an earlier version made (tests/fixtures/make_home.py)."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from include.columns import VectorTable
from include.errors import BadInput, TidemarkError
from include.settings import REPOSITORY, Retention, Settings
from include.steps.backup import backup
from include.steps.clean import clean
from include.steps.export import export
from include.steps.gate_lake import gate_lake
from include.steps.land import land
from include.steps.maintain import maintain
from include.steps.migrate import MIGRATIONS, opened
from include.steps.plan import plan_rebuild, plan_update
from include.steps.prune import keep, prune
from include.steps.restore import restore
from include.steps.roll_back import roll_back
from include.stores import (
    backtests,
    backups,
    batches,
    lake,
    maintenance,
    pages,
    publications,
    training,
    vectors,
    versions,
)
from include.stores.backups import CONTENT
from include.stores.files import write_json
from include.stores.lock import writing
from tests import samples
from tests.test_path import published, same_content

FIXTURE = Path(__file__).parent / "fixtures" / "home-783bcd1.tar.xz"
NOTHING_IS_YOUNG = Retention(days=1e-9, grace_hours=0)
WHAT = ("recommendations", "user-vectors", "item-vectors")


@pytest.fixture(scope="session")
def old_home(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("fixture") / "home"
    with tarfile.open(FIXTURE) as archive:
        archive.extractall(folder, filter="data")
    return folder


@pytest.fixture
def settings(old_home, tmp_path) -> Settings:
    """A copy of the old home, with a retention for which everything is old."""
    shutil.copytree(old_home, tmp_path / "home")
    return opened(Settings(home=tmp_path / "home", retention=NOTHING_IS_YOUNG))


def ids(settings) -> list[str]:
    return [entry["id"] for entry in publications.manifests(settings)]


def exports(settings, names, folder: Path) -> dict[str, bytes]:
    found = {}
    for name in names:
        for what in WHAT:
            export(settings, what, folder / "export.parquet", name)
            found[f"{name} {what}"] = (folder / "export.parquet").read_bytes()
    return found


def files(home: Path) -> dict[str, bytes]:
    """Every file but the lock and what SQLite keeps beside its database while it is read."""
    found = (file for file in home.rglob("*") if file.is_file())
    return {
        str(file.relative_to(home)): file.read_bytes()
        for file in found
        if not file.name.endswith((".lock", "-wal", "-shm"))
        if "duckdb_extensions" not in file.parts
    }


# Retention


def test_retention_takes_old_publications_with_all_that_only_they_needed(settings, tmp_path):
    first, second, third = ids(settings)
    before = exports(settings, [second, third], tmp_path)
    for name in (first, second):
        pages.write(settings, name, "<p>what changed</p>")
    summary = prune(settings)
    assert summary["publications"] == [first]
    assert summary["staying"] == {second: "a rollback returns to it", third: "serves"}
    assert ids(settings) == [second, third]
    assert not pages.path(settings, first).exists()
    assert pages.path(settings, second).exists()
    manifests = {name: publications.manifest(settings, name) for name in (second, third)}
    named = {
        number for entry in manifests.values() for number in (entry["lake_snapshot"], entry["lists"]["lake_snapshot"])
    }
    # Changes are read from the newest publication's snapshot on, so everything since then is there too.
    since = range(manifests[third]["lake_snapshot"], lake.newest_snapshot(settings) + 1)
    assert maintenance.snapshots(settings) == sorted(named | set(since))
    for encoder_id, name in vectors.tables(settings):
        tags = vectors._open(vectors.folder(settings, encoder_id), name, encoder_id).tags.list()
        assert {label.removesuffix("-lists") for label in tags} == {second, third}
    assert exports(settings, [second, third], tmp_path) == before
    with pytest.raises(BadInput, match="no publication"):
        roll_back(settings, first)
    assert prune(settings)["publications"] == []


def test_what_is_kept_by_hand_stays_until_that_is_undone(settings, tmp_path):
    first = ids(settings)[0]
    before = exports(settings, [first], tmp_path)
    keep(settings, first)
    assert prune(settings)["staying"][first] == "kept"
    assert maintain(settings)["pruned"]["publications"] == []
    assert exports(settings, [first], tmp_path) == before
    assert plan_rebuild(settings, publication=first)["candidate"], "its lake snapshot is there"
    keep(settings, first, undo=True)
    for name, _, _ in publications.candidates(settings):
        publications.discard_candidate(settings, name)
    assert prune(settings)["publications"] == [first]
    with pytest.raises(BadInput, match="no publication"):
        keep(settings, first)


def test_what_a_rollback_serves_and_what_updates_build_on_stay(settings):
    first, _, third = ids(settings)
    roll_back(settings, first)
    assert prune(settings)["staying"] == {first: "serves", third: "the next update builds on it"}
    assert ids(settings) == [first, third]
    assert publications.serving_id(settings) == first


def test_young_publications_stay(settings):
    assert prune(Settings(home=settings.home))["publications"] == []
    assert len(ids(settings)) == 3


def test_a_run_under_way_keeps_its_base_its_snapshot_and_its_versions(settings):
    name = plan_update(settings, datetime(2024, 3, 1, 10, tzinfo=UTC))["candidate"]
    state = publications.candidate(settings, name)
    first = ids(settings)[0]
    table = {"version": publications.manifest(settings, first)["tables"][VectorTable.USERS]["version"]}
    publications.extend_candidate(
        settings, name, {"base": first, "lake_snapshot": 9, "tables": {VectorTable.USERS: table}}
    )
    hour = Retention(days=1e-9, grace_hours=1)
    assert prune(Settings(home=settings.home, retention=hour))["staying"][first] == "a run under way builds on it"
    # The run reports what changed since its base, so every snapshot since then is there, and its own.
    since = range(publications.manifest(settings, first)["lake_snapshot"], lake.newest_snapshot(settings) + 1)
    assert {9, *since} <= set(maintenance.snapshots(settings))
    encoder_id = state["encoder_id"]
    assert vectors.read(settings, encoder_id, VectorTable.USERS, table["version"]).num_rows > 0
    assert prune(settings)["candidates"] == [name], "one that has not got on for the grace is given up"
    with pytest.raises(BadInput, match="is gone"):
        publications.candidate(settings, name)


def test_a_dry_run_changes_nothing(settings):
    before = files(settings.home)
    said = maintain(settings, dry_run=True)
    assert said["pruned"]["publications"] == ids(settings)[:1]
    assert said["pruned"]["snapshots"] > 0
    assert prune(settings, dry_run=True)["publications"] == ids(settings)[:1]
    assert files(settings.home) == before


# Maintenance


def land_another_hour(settings, folder):
    moment = datetime(2024, 3, 1, 9, 30, tzinfo=UTC)
    event = {"user_id": "u1", "item_id": "i2", "event_type": "view", "event_ts": moment.isoformat()}
    samples.write(folder / "events.jsonl", [event, {**event, "user_id": "new"}])
    land(settings, folder / "events.jsonl", format="canonical", arrival=moment)
    clean(settings)
    gate_lake(settings)


def test_maintenance_harms_nothing_and_an_update_after_it_equals_a_rebuild(settings, tmp_path, monkeypatch):
    monkeypatch.setattr(vectors, "MANY_FRAGMENTS", 1)
    first, second, third = ids(settings)
    before = exports(settings, [second, third], tmp_path)
    versions_before = publications.manifest(settings, third)["tables"]
    summary = maintain(settings)
    assert summary["pruned"]["publications"] == [first]
    assert summary["merged"] > 0
    assert VectorTable.USERS in summary["compacted"]
    moved = publications.manifest(settings, third)["tables"]
    assert moved[VectorTable.USERS]["version"] > versions_before[VectorTable.USERS]["version"]
    assert exports(settings, [second, third], tmp_path) == before
    assert lake.gated_snapshot(settings) == lake.newest_snapshot(settings)
    report = json.loads(next((settings.reports / "maintenance").glob("*.json")).read_text())
    assert report["freed"] == summary["freed"]

    again = maintain(settings)  # what the first run's compaction replaced goes now
    assert again["compacted"] == []
    assert again["freed"]["lake"] + again["freed"]["vectors"] > 0
    assert exports(settings, [second, third], tmp_path) == before

    # Settings have come since the fixture: once everything anew.
    published(settings, plan_update(settings), gated=False)
    land_another_hour(settings, tmp_path)
    plan = plan_update(settings)
    assert set(publications.touched(settings, plan["candidate"])["users"]) == {"u1", "new"}
    updated = published(settings, plan, gated=False)
    rebuilt = published(settings, plan_rebuild(settings, publication=updated["id"]), gated=False)
    same_content(settings, updated, rebuilt)


STATIONS = [
    (publications, "remove"),
    (maintenance, "expire_snapshots"),
    (maintenance, "delete_old_files"),
    (maintenance, "drop_gate_records"),
    (vectors, "set_tags"),
    (vectors, "drop_old_versions"),
    (maintenance, "merge_files"),
    (vectors, "compact"),
    (publications, "move_tables"),
]


@pytest.mark.parametrize(("module", "name"), STATIONS, ids=[name for _, name in STATIONS])
def test_maintenance_may_die_anywhere(settings, tmp_path, monkeypatch, module, name):
    monkeypatch.setattr(vectors, "MANY_FRAGMENTS", 1)
    staying = ids(settings)[1:]
    before = exports(settings, staying, tmp_path)
    real = getattr(module, name)

    def die(*arguments):
        real(*arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(module, name, die)
        with pytest.raises(KeyboardInterrupt):
            maintain(settings)
    assert publications.serving_id(settings) == staying[-1]
    assert exports(settings, staying, tmp_path) == before
    maintain(settings)
    assert ids(settings) == staying
    assert exports(settings, staying, tmp_path) == before


def test_a_killed_maintenance_harms_nothing(settings, tmp_path):
    staying = ids(settings)[1:]
    before = exports(settings, staying, tmp_path)
    environment = {"PATH": os.environ["PATH"], "TIDEMARK_HOME": str(settings.home)}
    environment |= {"TIDEMARK_RETENTION__DAYS": "1e-9", "TIDEMARK_RETENTION__GRACE_HOURS": "0"}
    running = subprocess.Popen(
        [sys.executable, "-m", "include", "maintain"],
        cwd=REPOSITORY,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert running.stderr is not None
    assert any("is gone" in line for line in running.stderr)
    running.send_signal(signal.SIGKILL)
    running.wait()
    running.stderr.close()
    assert exports(settings, staying, tmp_path) == before
    maintain(settings)
    assert exports(settings, staying, tmp_path) == before


def test_maintenance_waits_for_the_writer(settings):
    with writing(settings):
        thread = threading.Thread(target=maintain, args=(settings,))
        thread.start()
        thread.join(2)
        assert len(ids(settings)) == 3
    thread.join()
    assert len(ids(settings)) == 2


def test_what_killed_writers_left_goes_and_what_was_delivered_is_left_alone(settings, tmp_path):
    encoder_id = publications.serving(settings)["encoder_id"]
    left = [
        settings.publications / ".serving.json.1.tmp",
        settings.artefacts / ".text_mean-1.1.tmp" / "tensors.safetensors",
        settings.vectors / encoder_id / "user_vectors.lance" / "data" / ".tmp123",
        settings.cache / "landed_rows" / "events" / "0000.parquet",
        settings.landing / "_incoming-1" / "0" / "events.parquet",
        settings.work / "copies" / "1" / "events.parquet",
        settings.work / "duckdb_temporary" / "duckdb_temp_storage-1.tmp",
    ]
    delivered = settings.landing / "events" / "dt=2024-03-01" / "hr=06" / ".part.tmp"
    for file in (*left, delivered):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"x")
    day = Settings(home=settings.home)
    assert maintain(day)["orphans"] == [], "a writer may still be at it"
    backup(day, tmp_path / "home.tar")
    with tarfile.open(tmp_path / "home.tar") as archive:
        assert not [name for name in archive.getnames() if "_incoming" in name or name.endswith(".tmp")]
    assert len(maintain(settings)["orphans"]) == 7
    assert not any(file.exists() for file in left)
    assert delivered.exists()


def test_old_reports_go_and_young_ones_stay(settings):
    old, young = (timedelta(days=days) for days in (91, 89))
    going = [backtests.folder(settings, "old"), training.folder(settings, "old")]
    staying = [
        backtests.folder(settings, "young"),
        backtests.folder(settings, "looked at of late"),
        settings.home / "mine",
    ]
    for folder in (*going, *staying):
        (folder / "cuts" / "1").mkdir(parents=True)
        for name in ("report.html", "cuts/1/facts.json"):
            (folder / name).write_text("{}", "utf-8")
        made_before(folder, young if folder == staying[0] else old)
    made_before(staying[1] / "report.html", young)
    backtests.write_freshness(settings, "home", {})
    made_before(settings.reports / "freshness", old)
    said = [path.relative_to(settings.home).as_posix() for path in going]
    assert maintain(settings, dry_run=True)["reports"] == said
    assert all(folder.exists() for folder in going)
    assert maintain(settings)["reports"] == said
    assert not any(folder.exists() for folder in going)
    assert all((folder / "cuts" / "1" / "facts.json").exists() for folder in staying)
    assert backtests.read_freshness(settings, "home") == {}
    (report,) = (settings.reports / "maintenance").iterdir()
    made_before(report, old)
    assert maintain(settings)["reports"] == [report.relative_to(settings.home).as_posix()]


def made_before(path: Path, age: timedelta) -> None:
    """As if it, and all that is in it, had been written then."""
    moment = (datetime.now(UTC) - age).timestamp()
    for file in [*path.rglob("*"), path]:
        os.utime(file, (moment, moment))


def test_above_the_disk_budget_the_oldest_go_first_and_what_cannot_be_held_fails_visibly(settings, tmp_path):
    first, second, third = ids(settings)
    keep(settings, second)
    before = exports(settings, [second, third], tmp_path)

    def budget(gigabytes):
        return Settings(home=settings.home, retention=Retention(days=9999, grace_hours=0, disk_budget_gb=gigabytes))

    assert maintain(budget(1))["over_budget"] == []
    with pytest.raises(TidemarkError, match="disk_full"):
        maintain(budget(1e-6))
    assert ids(settings) == [second, third]
    report = json.loads(max((settings.reports / "maintenance").glob("*.json")).read_text())
    assert report["over_budget"] == [first]
    assert exports(settings, [second, third], tmp_path) == before


# Backups


def test_a_backup_restored_elsewhere_is_the_same_home(settings, tmp_path):
    before = exports(settings, ids(settings), tmp_path)
    stale = batches.stale(settings)
    (settings.publications / ".x.tmp").write_text("")
    summary = backup(settings, tmp_path / "b" / "home.tar")
    assert summary["files"] > 50
    there = Settings(home=tmp_path / "elsewhere")
    opened(there)
    assert restore(there, tmp_path / "b" / "home.tar")["publication"] == publications.serving_id(settings)
    shutil.rmtree(settings.home)  # nothing of the old place is needed
    assert exports(there, ids(there), tmp_path) == before
    assert batches.stale(there) == stale, "the lake knows what it was cleaned from"
    assert not (there.publications / ".x.tmp").exists()
    # Settings have come since the fixture: once everything anew.
    published(there, plan_update(there), gated=False)
    land_another_hour(there, tmp_path)
    assert plan_update(there)["users"]["touched"] == 2, "the lake can be written to"


def test_a_backup_lacks_what_was_taken_out_of_landing_meanwhile(settings, tmp_path, monkeypatch):
    gone, other = sorted(file for file in settings.landing.rglob("*") if file.is_file())[:2]
    kept = backups._kept

    def spoilt(spoil):
        def found(home):
            listed = list(kept(home))
            spoil()
            yield from listed

        monkeypatch.setattr(backups, "_kept", found)

    spoilt(gone.unlink)
    backup(settings, tmp_path / "home.tar")
    listed = backups.check(tmp_path / "home.tar")["files"]
    assert gone.relative_to(settings.home).as_posix() not in listed
    assert other.relative_to(settings.home).as_posix() in listed

    manifest = settings.publications / ids(settings)[0] / "manifest.json"
    spoilt(manifest.unlink)
    with pytest.raises(BadInput, match=r"manifest\.json: cannot be read .*try again"):
        backup(settings, tmp_path / "other.tar")
    stated = tarfile.TarFile.gettarinfo

    def cut(self, *arguments, fileobj, **options):
        entry = stated(self, *arguments, fileobj=fileobj, **options)
        if Path(fileobj.name) == other:
            os.truncate(other, entry.size - 1)
        return entry

    monkeypatch.setattr(backups, "_kept", kept)
    monkeypatch.setattr(tarfile.TarFile, "gettarinfo", cut)
    with pytest.raises(BadInput, match=rf"{other.name}: cannot be read .*became shorter.*try again"):
        backup(settings, tmp_path / "other.tar")
    assert [file.name for file in tmp_path.glob("*.tar*")] == ["home.tar"], "nothing half written stays"


def test_a_backup_holds_what_was_moved_elsewhere_and_linked(settings, tmp_path):
    events = settings.landing / "events"
    events.rename(tmp_path / "another_disk")
    events.symlink_to(tmp_path / "another_disk")
    landed = {file.relative_to(settings.home).as_posix() for file in events.rglob("*.*") if file.is_file()}
    backup(settings, tmp_path / "home.tar")
    assert landed
    assert landed <= backups.check(tmp_path / "home.tar")["files"].keys()


def test_a_backup_lacks_a_folder_that_was_taken_out_of_landing_while_it_looked(settings, tmp_path, monkeypatch):
    looked = os.scandir

    def taken_first(path):
        if str(path) == str(settings.landing / "events"):
            shutil.rmtree(path)
        return looked(path)

    monkeypatch.setattr(os, "scandir", taken_first)
    backup(settings, tmp_path / "home.tar")
    listed = backups.check(tmp_path / "home.tar")["files"]
    assert {name.split("/")[1] for name in listed if name.startswith("landing/")} == {"items"}


def test_a_backup_that_is_not_whole_is_refused_and_the_home_stays_empty(settings, tmp_path):
    backup(settings, tmp_path / "home.tar")
    whole = (tmp_path / "home.tar").read_bytes()
    there = Settings(home=tmp_path / "elsewhere")
    spoilt = bytearray(whole)
    spoilt[whole.index(b"u1")] ^= 1
    for content in (whole[: len(whole) // 2], bytes(spoilt), b"no tar at all"):
        (tmp_path / "bad.tar").write_bytes(content)
        with pytest.raises(BadInput, match=r"bad\.tar"):
            restore(there, tmp_path / "bad.tar")
    with tarfile.open(tmp_path / "bad.tar", "w") as archive:
        archive.add(tmp_path / "home.tar", "../outside")
    with pytest.raises(BadInput, match="no file of a home"):
        restore(there, tmp_path / "bad.tar")
    for said in ([], {"version": 1}, {"version": 1, "files": {"version.json": {"sha256": "0"}}}):
        (tmp_path / CONTENT).write_text(json.dumps(said))
        with tarfile.open(tmp_path / "bad.tar", "w") as archive:
            archive.add(tmp_path / CONTENT, CONTENT)
        with pytest.raises(BadInput, match=r"bad\.tar is no backup"):
            restore(there, tmp_path / "bad.tar")
    assert not there.home.exists()
    assert (tmp_path / "home.tar").stat().st_mode & 0o777 == 0o600, "it holds what everybody did"
    with pytest.raises(BadInput, match="there already"):
        backup(settings, tmp_path / "home.tar")
    with pytest.raises(BadInput, match="inside the home"):
        backup(settings, settings.home / "home.tar")
    with pytest.raises(BadInput, match="holds landing already"):
        restore(settings, tmp_path / "home.tar")


def test_a_restore_that_died_is_done_again_by_the_same_command(settings, tmp_path, monkeypatch):
    backup(settings, tmp_path / "home.tar")
    there = Settings(home=tmp_path / "elsewhere")

    def half(self, path, members, filter):
        for _, entry in zip(range(30), members, strict=False):
            self.extract(entry, path, filter=filter)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(tarfile.TarFile, "extractall", half)
        with pytest.raises(KeyboardInterrupt):
            restore(there, tmp_path / "home.tar")
    with pytest.raises(BadInput, match="did not finish"):
        opened(there)
    restore(there, tmp_path / "home.tar")
    assert ids(opened(there)) == ids(settings)


# Versions


def test_a_home_of_the_first_version_opens_and_is_rebuilt_to_the_same_bytes(old_home, tmp_path):
    shutil.copytree(old_home, tmp_path / "home")
    settings = opened(Settings(home=tmp_path / "home"))
    assert versions.version(settings) == len(MIGRATIONS) + 1
    newest = publications.newest(settings)
    rebuilt = published(settings, plan_rebuild(settings, publication=newest["id"]))
    before, after = (exports(settings, [entry["id"]], tmp_path) for entry in (newest, rebuilt))
    assert list(before.values()) == list(after.values())


def test_a_home_of_a_newer_version_is_refused(settings):
    versions.set_version(settings, 99)
    with pytest.raises(BadInput, match="version 99"):
        opened(settings)


def test_a_new_home_is_of_the_present_version(tmp_path):
    settings = opened(Settings(home=tmp_path / "home"), [lambda _: pytest.fail("nothing to migrate")])
    assert versions.version(settings) == 2


def add_colour(settings):
    for entry in publications.manifests(settings):
        file = settings.publications / entry["id"] / "manifest.json"
        write_json(file, {**entry, "colour": "red"})


def add_table(settings):
    with lake.connect(settings, read_only=False) as connection:
        connection.execute("CREATE TABLE colours AS SELECT 'red' AS colour")
    write_json(settings.lake / "gates" / "000000000099.json", {"snapshot": 99})


def test_migrations_run_in_order_and_once(settings):
    assert versions.version(settings) == 1
    opened(settings, [add_colour])
    assert [entry["colour"] for entry in publications.manifests(settings)] == ["red"] * 3
    done = []
    opened(settings, [lambda _: pytest.fail("done already"), lambda _: done.append(2), lambda _: done.append(3)])
    assert done == [2, 3]
    assert versions.version(settings) == 4
    with pytest.raises(BadInput, match="version 4"):
        opened(settings)


def catalogue(settings):
    with lake.connect(settings) as connection:
        rows = connection.execute("SELECT table_name FROM duckdb_tables() WHERE database_name = 'lake' ORDER BY 1")
        return rows.fetchall(), maintenance.snapshots(settings)


@pytest.mark.parametrize("error", [TidemarkError("no"), KeyboardInterrupt()], ids=["fails", "interrupted"])
def test_a_migration_that_fails_half_way_leaves_the_home_as_it_was(settings, error):
    before, tables = files(settings.home), catalogue(settings)

    def fail(_):
        raise error

    with pytest.raises(type(error)):
        opened(settings, [add_colour, add_table, fail])
    after = files(settings.home)
    added = {name for name in after if name.startswith("lake/data/")}
    ignored = {"lake/catalogue.sqlite"}  # the same content in other pages: asked for its tables below
    assert {n: c for n, c in after.items() if n not in added | ignored} == {
        n: c for n, c in before.items() if n not in added | ignored
    }
    assert catalogue(settings) == tables
    opened(settings)


def test_a_migration_that_was_killed_is_undone_before_the_next_try(settings):
    versions.remember(settings)  # as the migration did, and then it was killed
    add_colour(settings)
    seen = []
    opened(settings, [lambda home: seen.append([entry.get("colour") for entry in publications.manifests(home)])])
    assert seen == [[None] * 3]
    assert versions.version(settings) == 2
    assert not backups.restoring(settings)
