"""The whole path by the command line's steps: what is published, what an update touches, and that a rebuild gives the same."""

import io
import json
import os
import shutil
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from include.__main__ import main
from include.columns import USER_VECTORS, VectorTable
from include.errors import BadInput, GateFailed
from include.models.encoder import resolve
from include.settings import REPOSITORY, Encoder, Settings, Surface
from include.steps.chain import STEPS
from include.steps.check_lists import check_lists
from include.steps.check_vectors import check_vectors
from include.steps.clean import clean
from include.steps.export import export
from include.steps.gate_lake import gate_lake
from include.steps.land import land
from include.steps.look_up import follow, item_page, user_page
from include.steps.plan import plan_challenger, plan_rebuild, plan_recommend, plan_update
from include.steps.publish import publish
from include.steps.show import item_as_text, of_item, of_user, user_as_text
from include.stores import behaviour, lake, publications, vectors
from tests import samples

LATER = samples.FIRST + timedelta(hours=6)


def published(settings, plan, *, gated=True):
    """Run a plan's steps and publish. Without the gates, which have tests of their own, it takes a quarter of the time."""
    for step in STEPS:
        if gated or not step.__name__.startswith("check_"):
            step(settings, plan["candidate"])
    if not gated:
        publications.extend_candidate(settings, plan["candidate"], {"expected_gates": []})
    return publications.manifest(settings, publish(settings, plan["candidate"])["publication"])


def table(settings, manifest, name):
    return vectors.read(settings, manifest["encoder_id"], name, manifest["tables"][name]["version"])


def lists(settings, manifest):
    found = table(settings, manifest, VectorTable.recommendations("home"))
    return {row["user_id"]: row for row in found.to_pylist()}


def same_content(settings, one, other, elsewhere=None):
    """Promise 3: the same keys, vectors equal to 1e-6, the same lists. The other one may be of a home elsewhere."""
    elsewhere = elsewhere or settings
    for name in (VectorTable.ITEMS, VectorTable.USERS):
        a, b = table(settings, one, name), table(elsewhere, other, name)
        key = a.schema.field(0).name
        assert a[key].to_pylist() == b[key].to_pylist()
        for column in a.schema.names:
            if a.schema.field(column).type == b.schema.field(column).type and "list" in str(
                a.schema.field(column).type
            ):
                assert np.abs(vectors.vector_array(a[column]) - vectors.vector_array(b[column])).max() <= 1e-6
    a, b = lists(settings, one), lists(elsewhere, other)
    assert {user: row["items"] for user, row in a.items()} == {user: row["items"] for user, row in b.items()}
    for user, row in a.items():
        assert row["scores"] == pytest.approx(b[user]["scores"], abs=2e-6)


def exports(settings, publication, folder):
    """The bytes of everything that a publication exports."""
    found = {}
    for what in ("recommendations", "user-vectors", "item-vectors"):
        export(settings, what, folder / "out.parquet", publication)
        found[what] = (folder / "out.parquet").read_bytes()
    return found


def assert_same_exports(one_settings, one, other_settings, other, folder):
    """Two publications, maybe of two homes, export the same bytes."""
    a, b = exports(one_settings, one["id"], folder), exports(other_settings, other["id"], folder)
    assert [what for what in a if a[what] != b[what]] == []


def cleaned(settings):
    clean(settings)
    return gate_lake(settings)


@pytest.fixture(scope="module")
def shop(tmp_path_factory) -> tuple[Settings, dict[str, dict]]:
    """A home with four publications: the first load, an update by a later hour, a rebuild of it, and fresh lists."""
    folder = tmp_path_factory.mktemp("shop")
    settings = Settings(home=folder / "home")
    made = {}
    # Of 14 users two have no history yet, and item i19 is described by nobody.
    samples.write(folder / "events.jsonl", samples.events(200, users=11))
    samples.write(folder / "items.jsonl", samples.items(19))
    samples.write(folder / "users.jsonl", samples.users(13))
    land(settings, folder / "events.jsonl", format="canonical")
    for name in ("items", "users"):
        land(settings, folder / f"{name}.jsonl", format="canonical", arrival=samples.FIRST)
    cleaned(settings)
    made["first"] = published(settings, plan_recommend(settings))

    late = samples.events(4, users=3, seed=5, hours=1)
    for row in late:
        row["event_ts"] = (datetime.fromisoformat(row["event_ts"]) + timedelta(hours=6)).isoformat()
    late.append(
        {**late[0], "event_id": "late", "user_id": "newcomer", "event_type": "comment", "text": "a fjord at dusk"}
    )
    samples.write(folder / "events2.jsonl", late)
    samples.write(folder / "items2.jsonl", [{**samples.items(20)[3], "title": "Quite another thing"}])
    land(settings, folder / "events2.jsonl", format="canonical")
    land(settings, folder / "items2.jsonl", format="canonical", arrival=LATER)
    cleaned(settings)
    plan = plan_update(settings)
    made["update plan"] = {**plan, **publications.touched(settings, plan["candidate"])}
    made["update"] = published(settings, plan)
    made["rebuilt"] = published(settings, plan_rebuild(settings, publication=made["update"]["id"]))
    made["fresh"] = published(settings, plan_recommend(settings))
    return settings, made


def test_the_manifest_says_what_the_contract_names(shop):
    settings, made = shop
    manifest = json.loads((settings.publications / made["first"]["id"] / "manifest.json").read_text())
    assert {
        "id", "as_of", "lake_snapshot", "encoder_id", "artefacts", "settings_hash", "code_version", "tables", "gates", "rows", "run",
    } <= manifest.keys()  # fmt: skip
    assert {gate["name"] for gate in manifest["gates"]} == {"lake", "vectors", "recommendations_home"}
    assert all(gate["passed"] and gate["failed"] == [] for gate in manifest["gates"])
    assert manifest["gates"][1]["expectations"] > 10
    events = manifest["rows"]["events"]
    outcomes = sum(events[name] for name in ("interactions", "text_only", "duplicates", "cancelled"))
    assert events["landed"] == 200 == outcomes + sum(events["rejected"].values())
    assert manifest["run"]["texts"]["embedded"] > 19
    assert manifest["run"]["users"] == {"touched": 13, "total": 13, "with_history": 11}


def test_the_default_as_of_is_the_end_of_the_last_arrival_hour(shop):
    assert shop[1]["first"]["as_of"] == LATER.isoformat()
    assert shop[1]["update"]["as_of"] == (LATER + timedelta(hours=1)).isoformat()


def test_a_file_without_a_readable_time_does_not_move_the_default_as_of(tmp_path):
    settings = Settings(home=tmp_path / "home")
    land(settings, samples.write(tmp_path / "events.jsonl", samples.events(9)), format="canonical")
    cleaned(settings)
    with lake.connect(settings) as connection:
        before = behaviour.default_as_of(connection, lake.gated_snapshot(settings))
    rows = [{**row, "event_ts": "08.01.2010 10:00"} for row in samples.events(3)]
    land(settings, samples.write(tmp_path / "unreadable.jsonl", rows), format="canonical", table="events")
    cleaned(settings)
    with lake.connect(settings) as connection:
        assert behaviour.default_as_of(connection, lake.gated_snapshot(settings)) == before


def test_everyone_has_a_full_list_of_unseen_available_items(shop):
    settings, made = shop
    found = lists(settings, made["first"])
    assert len(found) == 13
    for row in found.values():
        assert len(row["items"]) == len(set(row["items"])) <= 20
        assert row["scores"] == sorted(row["scores"], reverse=True)
    had = {(event["user_id"], event["item_id"]) for event in samples.events(200, users=11)}
    assert not [(user, item) for user, row in found.items() for item in row["items"] if (user, item) in had]


def test_users_without_history_get_recent_popularity(shop):
    settings, made = shop
    found = lists(settings, made["first"])
    assert found["u11"]["items"] == found["u12"]["items"]
    assert len(found["u11"]["items"]) == 20, "also the item that no row describes"
    assert all(reason["text_long"] == reason["behaviour"] == 0 for reason in found["u11"]["reasons"])
    assert found["u11"]["reasons"][0]["popularity"] > 0


def test_what_people_dislike_is_not_popular(tmp_path):
    settings = Settings(home=tmp_path / "home")
    kinds = ["like", "dislike", "dislike"]
    rows = [
        {**row, "event_type": kind, "item_id": kind, "value": None}
        for row, kind in zip(samples.events(3, users=3), kinds, strict=True)
    ]
    land(settings, samples.write(tmp_path / "events.jsonl", rows), format="canonical")
    cleaned(settings)
    snapshot = lake.gated_snapshot(settings)
    with lake.connect(settings) as connection:
        as_of = behaviour.default_as_of(connection, snapshot)
        assert behaviour.popularity(connection, snapshot, as_of, 7.0).keys() == {"like"}
        assert len(behaviour.available_items(connection, snapshot, as_of)) == 2, "both can be shown"


def test_reasons_add_up_to_the_score_and_name_items_that_the_user_had(shop):
    settings, made = shop
    had = {}
    for event in samples.events(200, users=11):
        had.setdefault(event["user_id"], set()).add(event["item_id"])
    named = 0
    for user, row in lists(settings, made["first"]).items():
        for score, reason in zip(row["scores"], row["reasons"], strict=True):
            parts = [value for name, value in reason.items() if name != "because"]
            assert sum(parts) == pytest.approx(score, abs=1e-5)
            assert {entry["item_id"] for entry in reason["because"]} <= had.get(user, set())
            shares = [entry["share"] for entry in reason["because"]]
            assert shares == sorted(shares, reverse=True)
            named += len(shares)
    assert named > 100


def test_nothing_new_is_planned_when_nothing_changed(shop):
    settings, _ = shop
    cleaned(settings)
    assert plan_recommend(settings)["candidate"] is None
    assert plan_update(settings)["candidate"] is None


def test_an_update_touches_those_whose_input_changed(shop):
    _, made = shop
    plan = made["update plan"]
    wrote = {row["user_id"] for row in samples.events(4, users=3, seed=5, hours=1)} | {"newcomer"}
    had_changed_item = {event["user_id"] for event in samples.events(200, users=11) if event["item_id"] == "i3"}
    assert "i3" in plan["items"]
    assert set(plan["users"]) == wrote | had_changed_item
    assert len(plan["users"]) < 13, "somebody must be left alone, or this shows nothing"
    assert made["update"]["run"]["texts"]["embedded"] <= 4
    assert made["update"]["tables"]["user_vectors"]["written"] == len(plan["users"])


def test_an_update_leaves_what_a_rebuild_gives(shop):
    settings, made = shop
    assert made["rebuilt"]["base"] is None
    assert made["rebuilt"]["lists"]["as_of"] == made["update"]["lists"]["as_of"] == made["first"]["as_of"]
    same_content(settings, made["update"], made["rebuilt"])


def test_fresh_lists_differ_from_lists_of_an_earlier_hour(shop):
    settings, made = shop
    assert made["fresh"]["lists"]["as_of"] == made["update"]["as_of"]
    assert made["fresh"]["run"]["texts"]["embedded"] == 0
    assert lists(settings, made["fresh"]) != lists(settings, made["update"])


def test_exports_are_the_same_bytes_each_time_and_after_a_rebuild(shop, tmp_path):
    settings, made = shop
    for other in ("update", "rebuilt"):
        assert_same_exports(settings, made["update"], settings, made[other], tmp_path)
    exported = pq.read_table(tmp_path / "out.parquet")
    assert exported.schema.names[0] == "item_id"
    export(settings, "recommendations", tmp_path / "r.parquet")
    assert pq.read_schema(tmp_path / "r.parquet").names == ["surface", "user_id", "rank", "item_id", "score", "reasons"]
    with pytest.raises(BadInput, match="parquet"):
        export(settings, "recommendations", tmp_path / "r.csv")


def test_surfaces_with_different_reasons_are_exported_together(shop, tmp_path):
    shutil.copytree(shop[0].home, tmp_path / "home")
    # Ten places leave none for new items, so the lists of that surface have no such reason.
    for surfaces in (
        (Surface(name="a", length=10), Surface(name="b")),
        (Surface(name="a"), Surface(name="b", length=10)),
    ):
        settings = Settings(home=tmp_path / "home", surfaces=surfaces)
        made = published(settings, plan_recommend(settings), gated=False)
        export(settings, "recommendations", tmp_path / "r.parquet", made["id"])
        exported = pq.read_table(tmp_path / "r.parquet")
        fields = {}
        for surface in surfaces:
            stored = table(settings, made, VectorTable.recommendations(surface.name))
            own = stored.schema.field("reasons").type.value_type
            fields |= dict.fromkeys(field.name for field in own)
            rows = exported.filter(pc.equal(exported["surface"], surface.name))["reasons"].to_pylist()
            expected = [entry for row in stored["reasons"].to_pylist() for entry in row]
            assert rows == [{name: entry.get(name) for name in rows[0]} for entry in expected]
            assert ("exploration" in expected[0]) == (surface.length > 10)
        assert [field.name for field in exported.schema.field("reasons").type] == list(fields)


def test_a_person_can_read_a_user_and_an_item(shop):
    settings, made = shop
    text = user_as_text(of_user(settings, "u1"))
    assert made["fresh"]["id"] in text
    assert "because of" in text
    assert "Quite another thing" in item_as_text(of_item(settings, "i3"))
    assert "no text" in item_as_text(of_item(settings, "i19"))
    assert "no history" in user_as_text(of_user(settings, "u12", made["first"]["id"]))
    with pytest.raises(BadInput, match="nobody"):
        of_user(settings, "nobody")


def test_a_page_tells_how_a_user_went_from_publication_to_publication(shop):
    settings, made = shop
    touched = made["update plan"]["users"]
    moved = next(user for user in touched if user != "newcomer")
    still = next(user for user in ("u3", "u4", "u5", "u6") if user not in touched)
    fresh = made["fresh"]["id"]

    def followed(user, last=fresh, most=9):
        return {row["id"]: row for row in follow(settings, user, last, most)}

    rows = followed(still)
    assert list(rows) == [made[name]["id"] for name in ("fresh", "rebuilt", "update", "first")]
    assert rows[made["first"]["id"]]["moved"] == dict.fromkeys(USER_VECTORS), "there is nothing to compare with"
    for name in ("update", "rebuilt"):
        assert rows[made[name]["id"]]["moved"] == dict.fromkeys(USER_VECTORS, 0.0), "an hour of others"
    assert rows[made["update"]["id"]]["lists"] == {"home": 0}
    assert any(followed(moved)[made["update"]["id"]]["moved"].values())
    before = followed("newcomer")[made["first"]["id"]]
    assert (before["n_interactions"], before["lists"]) == (None, {"home": None})
    assert list(followed(still, made["update"]["id"], most=1)) == [made["update"]["id"]]

    page = user_page(settings, moved)
    assert f"publications/{fresh}" in page
    assert of_user(settings, moved)["lists"]["home"][0]["title"] in page
    assert "recent popularity" in user_page(settings, "u12", made["first"]["id"])
    assert "Quite another thing" in item_page(settings, "i3")
    assert "It has no text" in item_page(settings, "i19")
    with pytest.raises(BadInput, match="nobody"):
        user_page(settings, "nobody")


def test_a_past_t_does_not_serve_and_knows_nothing_later(shop):
    settings, _ = shop
    serving = publications.serving_id(settings)
    manifest = published(settings, plan_recommend(settings, samples.FIRST + timedelta(hours=3)))
    assert publications.serving_id(settings) == serving
    early = {
        e["user_id"]
        for e in samples.events(200, users=11)
        if datetime.fromisoformat(e["event_ts"]) < samples.FIRST + timedelta(hours=3)
    }
    assert set(table(settings, manifest, VectorTable.USERS)["user_id"].to_pylist()) == early
    last = max(table(settings, manifest, VectorTable.USERS)["last_event_ts"].to_pylist())
    assert last < (samples.FIRST + timedelta(hours=3)).replace(tzinfo=None)
    with pytest.raises(BadInput, match="forward only"):
        plan_update(settings, samples.FIRST)


def test_artefacts_trained_after_t_are_not_used_for_t(shop):
    settings, made = shop
    plan = plan_rebuild(settings, LATER - timedelta(hours=1), made["fresh"]["id"])
    state = publications.candidate(settings, plan["candidate"])
    for name in state["artefacts"].values():
        assert name not in made["first"]["artefacts"].values()


def broken(settings, name, column, edit):
    """A candidate whose table was spoilt after it was written."""
    plan = plan_rebuild(settings)
    upto = check_lists if name == VectorTable.recommendations("home") else check_vectors
    steps = STEPS[: STEPS.index(upto)]
    for step in steps:
        step(settings, plan["candidate"])
    state = publications.candidate(settings, plan["candidate"])
    rows = vectors.read(settings, state["encoder_id"], name, state["tables"][name]["version"])
    spoilt = rows.set_column(rows.schema.get_field_index(column), column, edit(rows[column]))
    version = vectors.write(settings, state["encoder_id"], name, spoilt.replace_schema_metadata(None), base=None)
    publications.extend_candidate(
        settings, plan["candidate"], {"tables": {name: {**state["tables"][name], "version": version}}}
    )
    return plan["candidate"]


def test_a_vector_of_another_length_stops_at_the_gate(shop):
    settings, _ = shop
    serving = publications.serving_id(settings)

    def spoil(column):
        values = vectors.vector_array(column).copy()
        values[2] *= 3
        return vectors.vector_column(values)

    candidate = broken(settings, VectorTable.USERS, "long", spoil)
    with pytest.raises(GateFailed, match="norm_long"):
        check_vectors(settings, candidate)
    with pytest.raises(GateFailed, match="vectors"):
        publish(settings, candidate)
    assert publications.serving_id(settings) == serving


def test_an_item_that_the_user_had_stops_at_the_gate(shop):
    settings, _ = shop
    serving = publications.serving_id(settings)
    users = sorted({event["user_id"] for event in samples.events(200, users=11)} | {"newcomer", "u11", "u12"})
    row = users.index("u1")
    had = next(event["item_id"] for event in samples.events(200, users=11) if event["user_id"] == "u1")

    def spoil(column):
        values = column.to_pylist()
        values[row] = [had, *values[row][1:]]
        return pa.chunked_array([values])

    candidate = broken(settings, VectorTable.recommendations("home"), "items", spoil)
    with pytest.raises(GateFailed, match="seen"):
        check_lists(settings, candidate)
    assert publications.serving_id(settings) == serving


def test_the_next_update_starts_from_the_manifest_not_from_what_a_failed_run_left(shop):
    settings, _ = shop
    base = publications.newest(settings)
    assert plan_update(settings) == {
        "candidate": None,
        "publication": base["id"],
        "reason": f"nothing changed since publication {base['id']}",
    }
    published_again = published(settings, plan_rebuild(settings, publication=base["id"]))
    same_content(settings, base, published_again)


def test_a_home_may_begin_with_one_item(tmp_path):
    settings = Settings(home=tmp_path / "home")
    samples.write(tmp_path / "events.jsonl", samples.events(20, users=3, items=1, hours=1))
    samples.write(tmp_path / "items.jsonl", samples.items(1))
    land(settings, tmp_path / "events.jsonl", format="canonical")
    land(settings, tmp_path / "items.jsonl", format="canonical", arrival=samples.FIRST)
    cleaned(settings)
    first = published(settings, plan_recommend(settings))
    (alone,) = vectors.vector_array(table(settings, first, VectorTable.ITEMS)["text"])
    assert np.linalg.norm(alone) == pytest.approx(1.0, abs=1e-6), "less the mean, which is itself, it would be nothing"
    later = samples.FIRST + timedelta(hours=1)
    land(
        settings,
        samples.write(tmp_path / "more.jsonl", samples.items(5)),
        format="canonical",
        arrival=later,
        table="items",
    )
    cleaned(settings)
    second = published(settings, plan_recommend(settings, later + timedelta(hours=1), beyond_data=True), gated=False)
    assert table(settings, second, VectorTable.ITEMS).num_rows == 5
    assert {len(row["items"]) for row in lists(settings, second).values()} == {4}, "all but the one that they had"


def test_another_encoder_from_a_folder_is_refused_until_a_challenger_was_approved(shop, tmp_path):
    settings, made = shop
    folder = tmp_path / "my encoder"
    shutil.copytree(resolve(settings.encoder.source), folder)
    other = Encoder(source=str(folder), max_tokens=64)
    with pytest.raises(BadInput, match=f"{made['fresh']['encoder_id']}.*my-encoder-"):
        plan_update(Settings(home=settings.home, encoder=other))
    manifest = published(settings, plan_challenger(settings, other, "a try"))
    assert manifest["encoder_id"].startswith("my-encoder-")
    assert manifest["run"]["texts"]["reused"] == 0
    assert lists(settings, made["fresh"]), "the vectors of the first encoder stand beside them"
    assert manifest["artefacts"]["text_mean"] != made["fresh"]["artefacts"]["text_mean"]
    assert publications.serving_id(settings) != manifest["id"]


def include(home: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command line, within this process: a process of its own loads torch, dbt and all the others anew."""
    out, err, code = io.StringIO(), io.StringIO(), None
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        for name in [name for name in os.environ if name.startswith("TIDEMARK_")]:
            patch.delenv(name)
        for name, value in {"TIDEMARK_HOME": str(home), **environment}.items():
            patch.setenv(name, value)
        patch.setattr(sys, "argv", ["include", *arguments])
        try:
            main()
        except SystemExit as ended:
            code = ended.code
    return subprocess.CompletedProcess(arguments, int(code or 0), out.getvalue(), err.getvalue())


def include_process(home: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command line as a process of its own, where what is shown is about bytes, logs or the process itself."""
    return subprocess.run(
        [sys.executable, "-m", "include", *arguments],
        cwd=REPOSITORY,
        env={"PATH": "/usr/bin:/bin", "TIDEMARK_HOME": str(home), "HOME": str(home), **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["land", "absent.csv"], "absent.csv"),
        (["publications", "show"], "nothing is published"),
        (["update", "--until", "yesterday"], "--until: 'yesterday' is not a time"),
        (["backtest", "--every", "7x", "--cuts", "1", "--out", "there"], "every: '7x' is not a span"),
        (["show", "user", "u1", "--every", "5d"], "go with --timeline"),
        (
            ["land", "absent.csv", "--arrival", "0204-05-01T10:00"],
            "--arrival 0204-05-01T10:00:00+00:00 is before 1990-01-01",
        ),
        (
            ["compare-encoders", '{"source": 1}', "--every", "7d", "--cuts", "1", "--out", "there"],
            "encoder source: Input should be a valid string",
        ),
        (["switch-encoder", "", "--reason", "why"], "encoder source: name it"),
        (["show", "user", "u1"], "nothing is published"),
        (["run"], "no snapshot"),
        (["sql", "select 1"], "no lake"),
        (["nonsense"], "No such command"),
        (["clean", "--from", "0001-01-01T00:00:00+05:00", "--to", "2020-01-01"], "is not a time"),
    ],
)
def test_bad_input_is_one_clear_line_and_exit_2(tmp_path, arguments, message):
    done = include(tmp_path, *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_a_t_before_everything_is_refused(shop):
    settings, _ = shop
    for command in ("recommend", "rebuild"):
        done = include(settings.home, command, "--as-of", "0001-01-01")
        assert done.returncode == 2
        assert "is before the first event" in done.stderr


def test_a_fault_is_no_failed_gate(shop, tmp_path):
    settings, _ = shop
    shutil.copytree(settings.home, tmp_path / "home")
    (tmp_path / "home" / "publications" / "serving.json").write_text("")
    done = include(tmp_path / "home", "doctor")
    assert done.returncode == os.EX_SOFTWARE


def test_where_all_events_were_rejected_it_says_why(tmp_path):
    rows = [{**row, "event_type": "bought"} for row in samples.events(20)]
    include(tmp_path / "home", "land", str(samples.write(tmp_path / "events.jsonl", rows)))
    done = include(tmp_path / "home", "run")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: all 20 events were rejected, 20 as unknown_event_type")


def test_a_home_that_cannot_be_made_is_one_clear_line(tmp_path):
    (tmp_path / "file").touch()
    done = include(tmp_path / "file" / "home", "doctor")
    assert done.returncode == 2
    assert done.stderr == f"error: {tmp_path}/file/home: Not a directory\n"


def test_an_unusable_setting_is_named(tmp_path):
    done = include_process(tmp_path, "doctor", TIDEMARK_INTERESTS__SHORT_HALF_LIFE_DAYS="-3")
    assert done.returncode == 2
    assert "TIDEMARK_INTERESTS__SHORT_HALF_LIFE_DAYS" in done.stderr


def test_a_query_may_write_a_file_and_a_wrong_one_is_one_line(shop, tmp_path):
    settings, _ = shop
    done = include(settings.home, "sql", f"COPY (SELECT 1 AS one) TO '{tmp_path}/one.parquet'")
    assert (done.returncode, done.stdout) == (0, "")
    assert pq.read_table(tmp_path / "one.parquet").to_pylist() == [{"one": 1}]
    done = include(settings.home, "sql", "SELECT nothing FROM nowhere")
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1


def test_doctor_and_list_work_on_the_shop(shop):
    settings, _ = shop
    found = json.loads(include(settings.home, "doctor", "--json").stdout)
    assert found["stale_batches"] == []
    assert found["publication"] == publications.serving_id(settings)
    listed = json.loads(include(settings.home, "publications", "list", "--json").stdout)
    assert [row["id"] for row in listed if row["serving"]] == [found["publication"]]
