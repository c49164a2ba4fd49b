"""Erasing a user: what it asks for first, that nothing names the user afterwards, and that everybody else keeps what they had."""

import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import jinja2
import lance
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from lance.file import LanceFileReader

from include.errors import BadInput, TidemarkError
from include.models.texts import text_hash
from include.settings import REPOSITORY, Retention, Settings
from include.steps.backup import backup
from include.steps.clean import clean
from include.steps.compare import compare
from include.steps.doctor import doctor
from include.steps.forget import forget
from include.steps.land import land
from include.steps.plan import plan_rebuild, plan_recommend, plan_update
from include.steps.prune import keep
from include.steps.restore import restore
from include.steps.roll_back import roll_back
from include.stores import erasures, lake, maintenance, publications, traces, vectors
from include.stores.files import write_json
from include.stores.traces import Wanted
from tests import samples
from tests.test_path import assert_same_exports, cleaned, exports, published

HER, LAST = "alice-77f3a", "zoe-9931b"
"""Ids that sort before and after all others, as the least and the greatest value of every column that has them."""
NAMESAKE = "alice-77f3a2"
"""Somebody else, who stays."""
WROTE = {HER: "quetzals are all that I adore", LAST: "nothing but ocelots at noon"}
HOURS = 3
DAY = samples.FIRST + timedelta(hours=HOURS)
EVENTS = samples.events(90, users=8, items=20, hours=HOURS)


def doings(user: str) -> list[dict[str, Any]]:
    rows = [{**EVENTS[n * 9], "event_id": f"{user}-{n}", "user_id": user} for n in range(5)]
    if user in WROTE:
        rows.append(
            {**EVENTS[9], "event_id": f"{user}-c", "user_id": user, "event_type": "comment", "text": WROTE[user]}
        )
    return rows


def land_events(settings: Settings, folder: Path, leavers: bool, replace: bool = False) -> None:
    rows = [*EVENTS, *doings(NAMESAKE), *(row for user in WROTE if leavers for row in doings(user))]
    # A row that nothing can be read of names her, too.
    lines = [json.dumps(row) for row in rows] + ['{"user_id": "alice-77f3a", "item_id"'] * leavers
    folder.mkdir(parents=True)
    (folder / "events.jsonl").write_text("\n".join(lines) + "\n")
    land(settings, folder / "events.jsonl", format="canonical", arrival=DAY, replace=replace)


def her_profile(settings: Settings) -> Path:
    return settings.landing / "users" / f"dt={DAY:%Y-%m-%d}" / f"hr={DAY:%H}" / "users.jsonl"


@pytest.fixture(scope="module")
def stages(tmp_path_factory) -> dict[str, Path]:
    """Homes: `whole`, with a publication of everybody; `cleaned`, of which two users left; `listed`, with everybody's lists since."""
    folder = tmp_path_factory.mktemp("forget")
    settings = Settings(home=folder / "home")
    land_events(settings, folder / "in", leavers=True)
    samples.write(folder / "items.jsonl", samples.items(20))
    land(settings, folder / "items.jsonl", format="canonical", arrival=samples.FIRST)
    # A file of her own: it goes whole from the lake, and nothing of its table is written anew.
    samples.write(folder / "users.jsonl", [{"user_id": HER, "created_at": samples.FIRST.isoformat(), "plan": "free"}])
    land(settings, folder / "users.jsonl", format="canonical", arrival=DAY)
    cleaned(settings)
    published(settings, plan_recommend(settings), gated=False)
    made = {"whole": shutil.copytree(settings.home, folder / "whole")}
    land_events(settings, folder / "out", leavers=False, replace=True)
    her_profile(settings).unlink()
    clean(settings, DAY, DAY + timedelta(hours=1))
    cleaned(settings)
    made["cleaned"] = shutil.copytree(settings.home, folder / "cleaned")
    published(settings, plan_recommend(settings), gated=False)
    made["listed"] = settings.home
    return made


@pytest.fixture
def at(stages, tmp_path):
    """A copy of a home."""

    def copied(stage: str) -> Settings:
        shutil.copytree(stages[stage], tmp_path / stage)
        return Settings(home=tmp_path / stage)

    return copied


def said_by(home: Path, what: str) -> list[str]:
    """The files that hold a text, read by other means than the product's: as bytes, and as what they decode to."""
    pattern = re.compile(re.escape(what) + "(?!2)")
    found = set()
    for file in (file for file in home.rglob("*") if file.is_file() and "duckdb_extensions" not in file.parts):
        texts = [file.read_bytes().decode("latin-1")]
        if file.suffix == ".parquet":
            texts.append(str(pq.read_table(file).to_pydict()))
        elif file.suffix == ".arrow":
            texts.append(str(pa.ipc.open_file(file).read_all().to_pydict()))
        elif file.suffix == ".lance":
            texts.append(str(LanceFileReader(str(file)).read_all().to_table().to_pydict()))
        elif file.suffix == ".sqlite":
            with closing(sqlite3.connect(file)) as database:
                texts.append("\n".join(database.iterdump()))
        if any(pattern.search(text) for text in texts):
            found.add(str(file.relative_to(home)))
    for table in [*home.glob("vectors/*/*.lance"), *home.glob("cache/texts/*/*.lance")]:
        for version in lance.dataset(str(table)).versions():
            rows = lance.dataset(str(table), version=version["version"]).to_table()
            if pattern.search(str(rows.to_pydict())):
                found.add(f"{table.relative_to(home)} version {version['version']}")
    return sorted(found)


def refused(settings: Settings, user: str = HER, **options: Any) -> str:
    """Why the user cannot be forgotten yet; nothing is done, and a dry run says the same."""
    before = [entry["id"] for entry in publications.manifests(settings)], maintenance.snapshots(settings)
    with pytest.raises(BadInput) as caught:
        forget(settings, user, **options)
    assert ([entry["id"] for entry in publications.manifests(settings)], maintenance.snapshots(settings)) == before
    assert erasures.read(settings) == []
    assert str(caught.value) in forget(settings, user, dry_run=True, **options)["refused"]
    return str(caught.value)


# What is erased


def test_nothing_in_the_home_says_who_left_and_everybody_else_keeps_what_they_had(at, tmp_path):
    settings = at("listed")
    newest = publications.serving(settings)
    encoder_id, before = newest["encoder_id"], exports(settings, newest["id"], tmp_path)
    hashes = {user: text_hash(text) for user, text in WROTE.items()}
    vector = vectors.text_vectors(settings, encoder_id, [hashes[HER]], 384).tobytes().decode("latin-1")
    for user, text in WROTE.items():
        assert len(said_by(settings.home, user)) > 10, "the reader finds what there is"
        assert said_by(settings.home, text)
        assert said_by(settings.home, hashes[user])
    assert said_by(settings.home, vector)
    report = settings.reports / "backtests" / "1"
    report.mkdir(parents=True)
    pq.write_table(pa.table({"user_id": [HER], "item_id": ["i1"]}), report / "recommendations.parquet")
    # What writes that never ended left, of which no table knows.
    for file in (*settings.vectors.glob("*/user_vectors.lance/data/*"), *lake.data(settings).glob("main/dim_users/*")):
        shutil.copy(file, file.with_name(f"left-{file.name}"))

    told = forget(settings, HER, dry_run=True)
    assert told["refused"] == []
    assert {name.split(" (")[0] for name in told["named_in"]} == {
        name for name in said_by(settings.home, HER) if " version " not in name
    }, "the dry run names the same files as another reader"
    told = forget(settings, LAST, exact=True, dry_run=True)
    places = {place.split(" (")[1].split(".")[0].rstrip(")") for place in told["named_in"]}
    assert (told["refused"], places) == ([], {"column user_id", "its users"})
    done = forget(settings, HER, reference="request 12")
    assert (done["publication"], done["publications"]) == (newest["id"], 1)
    assert done["texts"] == 2
    assert not report.exists()
    forget(settings, LAST, exact=True)
    for user, text in WROTE.items():
        assert said_by(settings.home, user) == []
        assert said_by(settings.home, text) == []
        assert said_by(settings.home, hashes[user]) == []
    assert said_by(settings.home, vector) == []

    assert exports(settings, newest["id"], tmp_path) == before
    records = erasures.read(settings)
    assert [record["reference"] for record in records] == ["request 12", None]
    assert HER not in json.dumps(records)
    assert doctor(settings)["erasures"] == {"count": 2, "last": records[-1]["at"]}

    # The next update has nothing to do, and the one after that only what is new.
    assert plan_update(settings)["candidate"] is None
    rebuilt = published(settings, plan_rebuild(settings, publication=newest["id"]), gated=False)
    assert_same_exports(settings, publications.manifest(settings, newest["id"]), settings, rebuilt, tmp_path)
    assert compare(settings, newest["id"], rebuilt["id"])["users"]["moved"] == 0
    late = DAY + timedelta(hours=1, minutes=5)
    samples.write(
        tmp_path / "events.jsonl", [{**EVENTS[3], "event_id": "late", "user_id": "u1", "event_ts": late.isoformat()}]
    )
    land(settings, tmp_path / "events.jsonl", format="canonical", arrival="event")
    cleaned(settings)
    assert publications.touched(settings, plan_update(settings)["candidate"])["users"] == ["u1"]


def test_it_may_die_anywhere_and_be_run_again(at, tmp_path, monkeypatch):
    settings = at("listed")
    newest = publications.serving(settings)["id"]
    before = exports(settings, newest, tmp_path)
    stations = [
        (maintenance, "rewrite_deleted"),
        (publications, "move_lake"),
        (publications, "remove"),
        (maintenance, "expire_snapshots"),
        (vectors, "without_deleted"),
        (publications, "move_tables"),
        (vectors, "keep_only_texts"),
        (publications, "leave_out"),
    ]
    for module, name in stations:
        real = getattr(module, name)

        def die(*arguments: Any, real: Any = real) -> None:
            real(*arguments)
            raise KeyboardInterrupt

        with monkeypatch.context() as patched:
            patched.setattr(module, name, die)
            with pytest.raises(KeyboardInterrupt):
                forget(settings, HER)
        assert publications.serving_id(settings) == newest
        assert erasures.read(settings) == []
    forget(settings, HER)
    assert said_by(settings.home, HER) == said_by(settings.home, text_hash(WROTE[HER])) == []
    assert exports(settings, newest, tmp_path) == before
    again = forget(settings, HER)
    assert (again["named"], again["publications"], again["texts"]) == (0, 0, 0)


def test_an_id_that_nothing_names_takes_no_publication_with_it(at):
    settings = at("listed")
    before = [entry["id"] for entry in publications.manifests(settings)], maintenance.snapshots(settings)
    done = forget(settings, "allice-77f3a")
    assert (done["named"], done["publications"]) == (0, 0)
    assert done["texts"] == 2, "nothing says whose these were"
    assert ([entry["id"] for entry in publications.manifests(settings)], maintenance.snapshots(settings)) == before


def state(settings: Settings) -> tuple[list[str], list[int]]:
    return [entry["id"] for entry in publications.manifests(settings)], maintenance.snapshots(settings)


def test_a_word_or_a_broken_file_is_named_and_takes_nothing_with_it(at):
    settings = at("listed")
    before = state(settings)
    assert f"{before[0][-1]}/manifest.json (its text), publications/serving.json (its text)" in refused(
        settings, "recommend"
    )
    assert "--exact looks at columns of user ids alone" in refused(settings, "recommend")
    second = maintenance.snapshots(settings)[-1]
    with lake.connect(settings) as connection:
        (when,) = connection.execute(
            f"SELECT snapshot_time FROM ducklake_snapshots('{lake.ALIAS}') WHERE snapshot_id = {second}"
        ).fetchone()
    assert forget(settings, f"{when.microsecond:06}")["publications"] == 0, "the time of a snapshot is no user"
    (settings.reports / "x.parquet").write_bytes(b"")
    with pytest.raises(BadInput, match=r"reports/x\.parquet \(it cannot be read"):
        forget(settings, "allice-77f3a")
    assert state(settings) == before
    assert not erasures.under_way(settings)


def test_a_slip_after_an_erasure_that_left_foreign_files_takes_nothing_and_after_a_killed_one_says_what_goes(
    at, caplog
):
    settings = at("listed")
    mine = settings.home / "mine.txt"
    mine.write_text(f"{HER}\n")
    with pytest.raises(TidemarkError, match=r"1 files still name this user: mine\.txt"):
        forget(settings, HER)
    assert not erasures.under_way(settings), "all that was its own is done"
    with pytest.raises(BadInput, match=r"it would leave 1 files .*mine\.txt \(its text\)"):
        forget(settings, HER)
    mine.unlink()
    scratch = settings.work / "backtests" / "killed"
    scratch.mkdir(parents=True)
    for name in ("lists.parquet", "why.txt"):
        (scratch / name).write_text(HER)
        os.utime(scratch / name, (0, 0))
    os.utime(scratch, (0, 0))
    assert forget(settings, HER)["reports"] == 1, "what was left aside goes anyway"
    assert not scratch.exists()
    published(settings, plan_rebuild(settings), gated=False)
    before = state(settings)
    assert forget(settings, "allice-77f3a", dry_run=True)["publications"] == []
    forget(settings, "allice-77f3a")
    assert state(settings) == before
    erasures.begin(settings)
    assert forget(settings, "allice-77f3a", dry_run=True)["publications"] == before[0][:-1]
    caplog.clear()
    assert forget(settings, "allice-77f3a")["publications"] == 1
    assert "an erasure was killed: it is finished now, and takes every publication but the newest" in caplog.text


def test_what_begins_meanwhile_is_waited_for_or_left(at, monkeypatch):
    settings = at("listed")
    before = state(settings)
    scratch = settings.work / "backtests" / "1" / "lists.parquet"
    real = traces.scan

    def begun(*arguments: Any) -> Any:
        found = real(*arguments)
        scratch.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({"user_id": ["u1"]}), scratch)
        return found

    with monkeypatch.context() as patched:
        patched.setattr(traces, "scan", begun)
        with pytest.raises(BadInput, match="a backtest, training or land may be under way"):
            forget(settings, HER)
    assert state(settings) == before
    shutil.rmtree(scratch.parent)
    old, young = (settings.landing / f"_incoming-{name}" / "events.parquet" for name in ("old", "young"))
    old.parent.mkdir()
    pq.write_table(pa.table({"user_id": ["u1"]}), old)
    os.utime(old, (0, 0))
    os.utime(old.parent, (0, 0))
    dropped = lake.drop_examples

    def landing(settings: Settings) -> None:
        dropped(settings)
        young.parent.mkdir()
        pq.write_table(pa.table({"user_id": ["u1"]}), young)

    monkeypatch.setattr(lake, "drop_examples", landing)
    forget(settings, HER)
    assert (old.exists(), young.exists()) == (False, True)


@pytest.mark.parametrize(
    ("module", "name", "instead", "found"),
    [
        (maintenance, "rewrite_deleted", lambda settings: 0, r"int_event_history/.*\(column user_id\)"),
        (
            maintenance,
            "purge_catalogue",
            lambda settings: None,
            r"catalogue\.sqlite \(column user_id\.ducklake_table_column_stats",
        ),
        (
            vectors,
            "without_deleted",
            lambda settings, encoder_id, name, version: version,
            r"\.lance \(column user_id\)",
        ),
        (vectors, "keep_only_texts", lambda settings, name, there: 0, "vectors of 2 texts"),
        (
            publications,
            "leave_out",
            lambda settings, name, user: publications.manifest(settings, name),
            r"manifest\.json \(its users\)",
        ),
    ],
    ids=["lake", "catalogue", "vectors", "texts", "report"],
)
def test_the_proof_finds_what_a_step_leaves(at, monkeypatch, module, name, instead, found):
    settings = at("listed")
    monkeypatch.setattr(module, name, instead)
    with pytest.raises(TidemarkError, match=found):
        forget(settings, HER)
    assert erasures.read(settings) == [], "what was not proved is not recorded"


def test_what_is_not_tidemarks_is_named_and_left_but_for_logs_of_tasks(at):
    settings = at("listed")
    mine, logs = settings.home / "mine" / "lists.parquet", settings.home / "airflow" / "logs"
    for folder in (mine.parent, logs):
        folder.mkdir(parents=True)
    pq.write_table(pa.table({"user_id": ["u1", HER]}), mine)
    (logs / "1.log").write_text(f'{{"event": "users touched: 2 ({HER}, u2)"}}')
    (logs / "2.log").write_text(f'{{"event": "users touched: 2 ({NAMESAKE}, u2)"}}')
    with pytest.raises(TidemarkError, match=r"1 files still name this user: mine/lists\.parquet \(column user_id\)"):
        forget(settings, HER)
    assert mine.exists()
    assert [file.name for file in logs.iterdir()] == ["2.log"]
    mine.unlink()
    assert forget(settings, HER)["scanned"] > 0
    assert (lake.gated_snapshot(settings), len(maintenance.snapshots(settings))) == (lake.newest_snapshot(settings), 1)
    with pytest.raises(BadInput, match="landed rows are of this user"):
        forget(settings, "u1")
    assert forget(settings, "u12")["looked_at"] == "columns of user ids"


def test_a_backup_holds_the_record(at, tmp_path):
    settings = at("cleaned")
    write_json(settings.home / "version.json", {"version": 1})
    made = erasures.write(settings, {"reference": "request 12"})
    backup(settings, tmp_path / "home.tar")
    other = Settings(home=tmp_path / "other")
    restore(other, tmp_path / "home.tar")
    assert erasures.read(other) == [made]


def test_a_reader_of_the_lake_is_waited_for_and_named(at, monkeypatch):
    settings = at("listed")
    monkeypatch.setattr(maintenance, "READERS_END", 0.1)
    with closing(sqlite3.connect(lake.catalogue_file(settings), isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM ducklake_snapshot").fetchone()
        with pytest.raises(TidemarkError, match="somebody reads the lake"):
            maintenance.purge_catalogue(settings)
    maintenance.purge_catalogue(settings)


# What is to be done first


def test_rows_that_name_the_user_are_named(at):
    settings = at("whole")
    place = f"{DAY:dt=%Y-%m-%d/hr=%H}"
    why = refused(settings)
    assert why.startswith("7 landed rows are of this user: ")
    numbers = [
        n
        for n, line in enumerate((settings.landing / "events" / place / "events.jsonl").read_text().splitlines(), 1)
        if f'"{HER}"' in line
    ]
    assert (
        f"landing/events/{place}/events.jsonl rows {', '.join(map(str, numbers[:-1]))}; landing/users/{place}/users.jsonl row 1. "
        f"1 landed rows name the id in a text: landing/events/{place}/events.jsonl row {numbers[-1]} (they may be somebody else's"
        in why
    )
    assert "`python -m include clean`, then `python -m include recommend`" in why
    her_profile(settings).unlink()
    assert f"clean --from {DAY:%Y-%m-%dT%H} --to" in refused(settings), "the lake keeps the rows of files that are gone"


def test_what_somebody_else_wrote_of_the_user_is_named(at, tmp_path):
    settings = at("cleaned")
    samples.write(
        tmp_path / "events.jsonl",
        [
            {**EVENTS[3], "event_id": "m", "event_type": "comment", "text": f"as {HER} says"},
            {**EVENTS[3], "event_id": "n", "event_type": "comment", "text": f"as {NAMESAKE} says"},
        ],
    )
    land(settings, tmp_path / "events.jsonl", format="canonical", arrival=DAY + timedelta(hours=1))
    assert "1 batches changed since they were cleaned: events" in refused(settings)
    cleaned(settings)
    why = refused(settings)
    assert why.startswith("1 landed rows name the id in a text: ")
    assert "--exact looks at columns of user ids alone" in why
    assert "made before the newest changes" in refused(settings, exact=True)


def test_publications_that_may_hold_the_user_are_named(at):
    settings = at("cleaned")
    assert "run `python -m include recommend`" in refused(settings)
    published(settings, plan_update(settings), gated=False)
    assert "or its lists, were made before" in refused(settings), "an update lists against the totals of before"


def test_what_serves_waits_or_is_kept_is_asked_about(at):
    settings = at("listed")
    first, newest = (entry["id"] for entry in publications.manifests(settings))
    roll_back(settings, first)
    assert f"publications rollback {newest}`, then `python -m include publications unpin`" in refused(settings)
    roll_back(settings, newest)
    keep(settings, first)
    assert f"1 publications are kept by hand and would go: {first}" in refused(settings)
    name = plan_rebuild(settings)["candidate"]
    assert f"a run is under way (candidate {name}" in refused(settings, also_kept=True)
    publications.discard_candidate(settings, name)
    spool = settings.landing / "_incoming-1" / "events.parquet"
    spool.parent.mkdir()
    spool.write_bytes(b"")
    assert f"land may be under way (it wrote {spool.parent} lately)" in refused(settings, also_kept=True)
    settings = Settings(home=settings.home, retention=Retention(grace_hours=0))
    plan_rebuild(settings)
    shadow = {
        **publications.manifest(settings, newest),
        "line": "another",
        "candidate": "another",
        "challenger": {"champion": newest},
    }
    shadow = publications.add(settings, {key: shadow[key] for key in shadow if key not in ("id", "made_at")})
    assert f"`publications reject {shadow['id']}`" in refused(settings, also_kept=True)
    publications.reject(settings, "another", "no")
    done = forget(settings, HER, also_kept=True)
    assert (done["publications"], done["candidates"]) == (2, 1)
    assert [entry["id"] for entry in publications.manifests(settings)] == [newest]


def test_a_home_that_is_no_folder_and_a_record_that_would_name_the_user_are_refused(tmp_path):
    with pytest.raises(BadInput, match=r"one folder.*forget_a_user\.md"):
        forget(Settings(home=tmp_path, lake_catalogue="postgresql://nobody@nowhere/none"), HER)
    with pytest.raises(BadInput, match="--reference names the user"):
        forget(Settings(home=tmp_path), HER, reference=f"mail of {HER}, 3 May")
    with pytest.raises(BadInput, match="the id is empty"):
        forget(Settings(home=tmp_path), " ")


def test_the_command_reads_the_id_from_standard_input_and_says_what_is_wrong(tmp_path):
    command = [sys.executable, "-m", "include", "forget", "-", "--reference"]
    environment = {**os.environ, "TIDEMARK_HOME": str(tmp_path / "home")}
    done = subprocess.run(
        [*command, f"by {HER}"],
        cwd=REPOSITORY,
        env=environment,
        input=f"{HER}\n",
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (BadInput.exit_code, "")
    assert "error: --reference names the user" in done.stderr


# How an id is looked for


def test_an_id_is_found_as_a_word_and_a_short_one_where_ids_of_users_are(tmp_path, monkeypatch):
    def names(user: str, file: Path, **options: Any) -> list[str]:
        return [trace.where for trace in traces.scan(Wanted.of(user, **options), [file])[0]]

    pq.write_table(pa.table({"user_id": ["7", "u12345-b"], "item_id": ["9", "customer"]}), tmp_path / "a.parquet")
    assert names("7", tmp_path / "a.parquet") == ["column user_id"]
    assert names("9", tmp_path / "a.parquet") == []
    assert names("u12345", tmp_path / "a.parquet") == [], "the beginning of another's id"
    assert names("customer", tmp_path / "a.parquet") == ["column item_id"]
    assert names("customer", tmp_path / "a.parquet", exact=True) == []
    odd = 'Zoë "O\'Hara" 你好'
    pq.write_table(
        pa.table({"text": [f"as {odd} says"], "raw": [json.dumps({"user_id": odd})]}), tmp_path / "h.parquet"
    )
    assert names(odd, tmp_path / "h.parquet") == ["column raw", "column text"]
    for name, content in (
        ("a.json", json.dumps({"why": odd})),
        ("b.log", f"user {odd}."),
        ("c.html", "<p>Zoë &quot;O&#x27;Hara&quot; 你好</p>"),
    ):
        (tmp_path / name).write_text(content, "utf-8")
        assert names(odd, tmp_path / name) == ["its text"]
        assert names("7", tmp_path / name) == []
    samples.write_bytes(tmp_path / "d.jsonl.gz", f'{{"user_id": "{HER}"}}\n'.encode())
    samples.write_bytes(tmp_path / "e.jsonl.zst", f'{{"user_id": "{NAMESAKE}"}}\n'.encode())
    assert names(HER, tmp_path / "d.jsonl.gz") == ["its text"]
    assert names(HER, tmp_path / "e.jsonl.zst") == []
    monkeypatch.setattr(
        traces, "_PART", 16
    )  # so that an id lies across parts, at the edge of one, or ends with the file
    monkeypatch.setattr(traces, "_OVERLAP", 28)
    for before in range(40):
        for user, found in ((HER, ["its text"]), (NAMESAKE, []), (f"x{HER}", [])):
            for after in (b"", b"\n" * 20):
                samples.write_bytes(tmp_path / "i.jsonl.gz", b" " * before + user.encode() + after)
                assert names(HER, tmp_path / "i.jsonl.gz") == found, (before, user, after)
    (tmp_path / "f.parquet").write_bytes(b"no Parquet")
    assert "cannot be read" in names(HER, tmp_path / "f.parquet")[0]
    nested = pa.table({"lists": [[{"who": HER}]], "word": pa.array(["x"]).dictionary_encode()})
    pq.write_table(nested, tmp_path / "g.parquet")
    assert names(HER, tmp_path / "g.parquet") == ["column lists.who"]


@pytest.mark.parametrize(
    ("user", "text", "named"),
    [
        ("878210", "2024-05-01T07:00:07.878210+00:00", False),
        ("小明", "小明星", False),
        ("小明小红小刚", "小明小红小刚星", False),
        ("小明小红小刚", "我说，小明小红小刚。", True),
        ("Zoë-77", "Zoë-77é", False),
        ("alice1", "alice1@mail.com", False),
        ("alice1", "bob+alice1@mail.com", False),
        ("alice1", "alice1.", True),
        ("alice1", "so says alice1. Then", True),
        ("alice1", "@alice1, - alice1-", True),
        ("alice1", r"one\nalice1\ntwo", True),
        ("alice1", r"\u003calice1\u003e", True),
        ("alice1", "éalice1", False),
    ],
)
def test_an_id_is_no_part_of_a_longer_word(tmp_path, user, text, named):
    wanted = Wanted.of(user)
    pq.write_table(pa.table({"text": [text], "user_id": ["u1"]}), tmp_path / "a.parquet")
    (tmp_path / "b.log").write_text(text, "utf-8")
    found = [trace.file.name for trace in traces.scan(wanted, [tmp_path])[0]]
    assert found == ["a.parquet", "b.log"] * named
    if not wanted.exact:
        assert wanted.is_in(text) == named


def test_an_id_is_found_in_the_spellings_of_other_writers(tmp_path):
    odd, slashed = 'Zoë "O\'Hara" <7>', "org/471199"
    page = jinja2.Environment(autoescape=True).from_string("<p>{{ user }}</p>").render(user=odd)
    inside = jinja2.Environment(autoescape=True).from_string("<i>{{ user | tojson }}</i>").render(user=odd)
    php = json.dumps({"user_id": slashed}).replace("/", r"\/")
    shouted = json.dumps({"user_id": odd}).replace("\\u00eb", "\\u00EB")
    assert "&#39;" in page
    assert "\\u00EB" in shouted
    for user, text in ((odd, page), (odd, inside), (slashed, php), (odd, shouted)):
        for content in (text, json.dumps(text), json.dumps(text, ensure_ascii=False)):
            (tmp_path / "a.log").write_text(content, "utf-8")
            assert Wanted.of(user).is_in(content), content
            assert traces.scan(Wanted.of(user), [tmp_path])[0], content
    assert Wanted.of(slashed).is_in(r'"{\"user_id\":\"org\\/471199\"')
