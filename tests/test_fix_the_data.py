"""A data fix and what follows it: the dry run, the report, the comparison, a user's past, and the way back."""

import copy
import json
from collections import Counter
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from include.columns import VectorTable
from include.errors import BadInput
from include.models.comparison import first_codes, movement, quantiles
from include.settings import ColdStart, Interests, Settings
from include.steps import timeline as timeline_step
from include.steps.compare import TOP, as_text, compare
from include.steps.dry_run import dry_run, dry_run_lines
from include.steps.embed_texts import embed_texts
from include.steps.keep_users import keep_users
from include.steps.land import land
from include.steps.plan import plan_rebuild, plan_recommend, plan_update
from include.steps.report import report_lines, write_page
from include.steps.timeline import as_text as timeline_text
from include.steps.timeline import timeline
from include.steps.train_artefacts import train_artefacts
from include.steps.update_items import update_items
from include.steps.update_users import update_users
from include.stores import lake, publications, vectors
from tests import samples
from tests.test_path import cleaned, lists, published, table

HOURS = 4
EVENTS = samples.events(160, users=9, items=24, hours=HOURS)


def corrected() -> list[dict[str, Any]]:
    """The events with one withdrawn, one on another item, one of another weight, and one more user."""
    rows = copy.deepcopy(EVENTS)
    own = [row for row in rows if row["user_id"] == "u2"]
    own[0]["deleted"] = True
    own[1]["item_id"] = "i23" if own[1]["item_id"] != "i23" else "i22"
    other = next(row for row in rows if row["user_id"] == "u5" and row["event_type"] == "view")
    other["event_type"] = "purchase"
    rows.append({**own[0], "event_id": "more", "user_id": "newcomer", "deleted": None, "event_type": "like"})
    return rows


FIXED = {"u2", "u5", "newcomer"}
RENAMED = 11
TOUCHED = FIXED | {row["user_id"] for row in EVENTS if row["item_id"] == f"i{RENAMED}"}
assert len(TOUCHED) < len({row["user_id"] for row in EVENTS}), "somebody must be left alone, or this shows nothing"


def content(folder: Path) -> dict[str, tuple[int, int]]:
    """Size and time of every file but those that SQLite keeps for whoever reads."""
    files = [file for file in folder.rglob("*") if file.is_file() and not file.name.startswith("catalogue.sqlite-")]
    return {str(file): (file.stat().st_size, file.stat().st_mtime_ns) for file in files}


def land_samples(settings: Settings, folder: Path) -> None:
    """Land the events and the items as they first came."""
    samples.write(folder / "events.jsonl", EVENTS)
    samples.write(folder / "items.jsonl", samples.items(24))
    land(settings, folder / "events.jsonl", format="canonical", arrival="event")
    land(settings, folder / "items.jsonl", format="canonical", arrival=samples.FIRST)


@pytest.fixture(scope="module")
def fixed(tmp_path_factory) -> tuple[Settings, dict[str, Any]]:
    """A home with a publication before a fix of its events and the update that follows the fix."""
    folder = tmp_path_factory.mktemp("fix")
    settings = Settings(home=folder / "home")
    made: dict[str, Any] = {}
    land_samples(settings, folder)
    cleaned(settings)
    made["before"] = published(settings, plan_recommend(settings))
    samples.write(folder / "fixed" / "events.jsonl", corrected())
    land(settings, folder / "fixed" / "events.jsonl", format="canonical", arrival="event", replace=True)
    samples.write(folder / "items2.jsonl", [{**samples.items(24)[RENAMED], "title": "Quite another thing"}])
    land(settings, folder / "items2.jsonl", format="canonical", arrival=samples.FIRST + timedelta(hours=HOURS - 1))
    files = content(settings.home)
    made["dry run"] = dry_run(settings, samples.FIRST, samples.FIRST + timedelta(hours=HOURS))
    made["dry run of one hour"] = dry_run(settings, samples.FIRST, samples.FIRST + timedelta(hours=1))
    made["left behind"] = {name for name, size in content(settings.home).items() if files.get(name) != size}
    cleaned(settings)
    made["nothing more"] = dry_run(settings)
    plan = plan_update(settings)
    made["touched"] = publications.touched(settings, plan["candidate"])
    made["after"] = published(settings, plan)
    return settings, made


def test_movement_is_one_minus_the_cosine():
    a = np.array([[1, 0], [1, 0], [1, 0], [0, 0], [0, 0], [2, 1]], dtype=np.float32)
    b = np.array([[3, 0], [0, 1], [-1, 0], [0, 0], [0, 1], [2, 1]], dtype=np.float32)
    np.testing.assert_allclose(movement(a, b), [0, 1, 2, 0, 1, 0], atol=1e-12)
    near = np.array([[1.0, 1e-7]], dtype=np.float32)
    assert movement(near, np.array([[1.0, 0.0]], dtype=np.float32))[0] == 0, "rounding is no movement"
    assert quantiles(np.array([])) == {}
    assert quantiles(np.array([0.1, 0.2, 0.3])) == {"p50": 0.2, "p90": 0.28, "p99": 0.298, "max": 0.3}


def test_lists_are_cut_and_filled_up():
    found = first_codes(np.array([7, 8, 9, 4, 5, 6]), np.array([3, 0, 1, 2]), 2)
    assert found.tolist() == [[7, 8], [-1, -1], [4, -1], [5, 6]]


def test_a_comparison_names_who_moved_and_which_lists_changed(fixed):
    settings, made = fixed
    found = compare(settings, made["before"]["id"], made["after"]["id"], top=1000)
    assert set(made["touched"]["users"]) == TOUCHED
    users = found["users"]
    assert (users["came"], users["went"], users["refused"]) == (1, 0, {})
    assert {row["user_id"] for row in users["most"]} == TOUCHED - {"newcomer"}
    assert users["moved"] == len(TOUCHED) - 1
    a = {row["user_id"]: row for row in table(settings, made["before"], VectorTable.USERS).to_pylist()}
    b = {row["user_id"]: row for row in table(settings, made["after"], VectorTable.USERS).to_pylist()}
    for row in users["most"]:
        for name in ("long", "short", "behaviour"):
            one, other = np.array(a[row["user_id"]][name]), np.array(b[row["user_id"]][name])
            assert row[name] == pytest.approx(1 - one @ other, abs=2e-6)
    assert users["quantiles"]["long"]["max"] == max(row["long"] for row in users["most"])

    old, new = lists(settings, made["before"]), lists(settings, made["after"])
    home = found["lists"]["home"]
    assert home["changed"] == sum(old[user]["items"][:TOP] != new[user]["items"][:TOP] for user in old) > 0
    assert home["came"] == 1
    count = {
        name: sum(name in row["items"][:TOP] for row in new.values())
        - sum(name in row["items"][:TOP] for row in old.values())
        for name in (f"i{n}" for n in range(24))
    }
    assert {row["item_id"]: row["after"] - row["before"] for row in home["items"]["most"]} == {
        name: change for name, change in count.items() if change
    }
    assert found["made_of"].keys() == {"lake_snapshot"}
    assert found["counts"]["events landed"] == [160, 161]
    assert found["gates"] == {}


def test_a_publication_does_not_differ_from_itself(fixed):
    settings, made = fixed
    found = compare(settings, made["after"]["id"], made["after"]["id"])
    assert found["made_of"] == found["counts"] == found["gates"] == {}
    assert (found["users"]["moved"], found["lists"]["home"]["changed"]) == (0, 0)
    assert found["lists"]["home"]["items"] == {"entered": 0, "left": 0, "most": []}


def test_an_update_is_compared_by_what_it_wrote(fixed):
    settings, made = fixed
    versions = [
        (made[name]["encoder_id"], made[name]["tables"]["user_vectors"]["version"]) for name in ("before", "after")
    ]
    came, went, rewritten = vectors.differing(settings, VectorTable.USERS, *versions)
    assert (came, went) == (["newcomer"], [])
    assert set(rewritten) == TOUCHED - {"newcomer"}
    back = vectors.differing(settings, VectorTable.USERS, *reversed(versions))
    assert back == ([], ["newcomer"], rewritten)


def test_vectors_of_two_encoders_or_trainings_are_not_compared(fixed):
    settings, made = fixed
    other = {**made["after"], "encoder_id": "another", "candidate": "x"}
    for key in ("id", "made_at"):
        del other[key]
    home = settings.vectors / made["after"]["encoder_id"]
    (settings.vectors / "another").symlink_to(home)
    other = publications.add(settings, other)
    users = compare_users(settings, made["before"], other)
    assert users.keys() == {"refused"}
    for why in users["refused"].values():
        assert "another" in why
        assert made["before"]["encoder_id"] in why
    trained = {**made["after"], "artefacts": {**made["after"]["artefacts"], "item_factors": "item_factors-other"}}
    users = compare_users(settings, made["before"], trained)
    assert users["refused"].keys() == {"behaviour"}
    assert "item_factors-other" in users["refused"]["behaviour"]
    assert users["quantiles"].keys() == {"long", "short"}
    publications_folder = settings.publications / other["id"] / "manifest.json"
    publications_folder.unlink()
    (settings.vectors / "another").unlink()


def compare_users(settings, before, after):
    from include.steps.compare import users_moved

    return users_moved(settings, before, after, 10)


def test_a_comparison_is_readable_and_nothing_in_it_acts(fixed):
    settings, made = fixed
    found = compare(settings, made["before"]["id"], made["after"]["id"])
    text = as_text(found)
    assert "u2" in text
    assert "1 came" in text
    found["users"]["most"][0]["user_id"] = "\x1b[31mred\n"
    assert "\x1b" not in as_text(found)
    assert r"\x1b[31mred\n" in as_text(found)
    json.dumps(found)


def rows_of(settings, manifest, mart) -> dict[str, dict[str, Any]]:
    """Rows of a mart as a publication read it, by identity."""
    with lake.connect(settings) as connection:
        found = connection.execute(f"FROM {mart} AT (VERSION => {manifest['lake_snapshot']})").to_arrow_table()
    return {row["event_key"]: row for row in found.to_pylist()}


def test_an_update_reports_what_it_changed(fixed):
    settings, made = fixed
    report = made["after"]["run"]["report"]
    found = compare(settings, made["before"]["id"], made["after"]["id"])
    assert report["since"] == made["before"]["id"]
    old, new = (rows_of(settings, made[name], "fct_interactions") for name in ("before", "after"))
    counts = {
        "added": len(new.keys() - old.keys()),
        "changed": sum(old[key] != new[key] for key in old.keys() & new.keys()),
        "removed": len(old.keys() - new.keys()),
    }
    assert report["rows"]["fct_interactions"] == counts
    assert (counts["added"], counts["removed"]) == (1, 1)
    assert report["rows"]["dim_users"]["added"] == 1
    assert report["users"] == {"touched": len(TOUCHED), "ids": sorted(TOUCHED)}
    assert report["items"] == {"touched": len(made["touched"]["items"]), "ids": made["touched"]["items"][:20]}
    assert report["moved"] == found["users"]
    assert report["lists"]["home"]["changed"] == found["lists"]["home"]["changed"]
    assert "report" not in made["before"]["run"], "everything was computed anew, so there is nothing to compare with"
    lines = "\n".join(report_lines(report))
    shuffled = json.loads(json.dumps(report), object_pairs_hook=lambda pairs: dict(reversed(pairs)))
    assert "\n".join(report_lines(shuffled)) == lines
    assert f"fct_interactions 1 added, {counts['changed']} changed, 1 removed" in lines
    assert f"users touched: {len(TOUCHED)} ({', '.join(sorted(TOUCHED))})" in lines


def test_the_page_of_a_publication_shows_the_report_and_escapes_it(fixed):
    settings, made = fixed
    page = settings.reports / "publications" / f"{made['after']['id']}.html"
    assert "u2" in page.read_text("utf-8")
    assert not page.with_name(f"{made['before']['id']}.html").exists()
    hostile = copy.deepcopy(made["after"])
    hostile["run"]["report"]["users"]["ids"] = ["<script>alert(1)</script>\x1b[31m"]
    hostile["id"] = "19990101T000000Z-hostile"
    text = write_page(settings, hostile).read_text("utf-8")
    assert "<script>" not in text
    assert "&lt;script&gt;" in text
    assert "\x1b" not in text


def test_a_dry_run_foretells_what_the_clean_then_touches(fixed):
    _, made = fixed
    found, report = made["dry run"], made["after"]["run"]["report"]
    assert {batch["state"] for batch in found["batches"]} == {"changed", "new"}
    events = [batch for batch in found["batches"] if batch["table"] == "events"]
    for name, rows in (("rows_before", EVENTS), ("rows_after", corrected())):
        hours = Counter(row["event_ts"][:13] for row in rows)
        assert {b["arrival_hour"][:13]: b[name] for b in events} == {
            b["arrival_hour"][:13]: hours[b["arrival_hour"][:13]] for b in events
        }
    for mart in ("fct_interactions", "fct_user_texts"):
        assert found["rows"][mart] == report["rows"][mart]
    assert found["rows"]["item versions"] == {"added": 1, "changed": 0, "removed": 0}
    assert found["users"]["ids"] == made["touched"]["users"]
    assert found["users"]["changed"] == len(TOUCHED) <= found["users"]["recomputed"]
    assert f"i{RENAMED}" in found["items"]["ids"]
    assert set(found["items"]["ids"]) <= set(made["touched"]["items"])
    lines = "\n".join(dry_run_lines(found))
    assert "events 2024-03-01T00:00:00+00:00: changed" in lines
    assert made["nothing more"]["batches"] == []
    assert "nothing to clean" in "\n".join(dry_run_lines(made["nothing more"]))


def test_a_dry_run_takes_the_span_and_leaves_nothing(fixed):
    _, made = fixed
    assert {batch["arrival_hour"] for batch in made["dry run of one hour"]["batches"]} == {samples.FIRST.isoformat()}
    assert made["left behind"] == set()


def test_a_dry_run_of_an_empty_home_makes_no_lake(tmp_path):
    settings = Settings(home=tmp_path / "home")
    land(settings, samples.write(tmp_path / "events.jsonl", EVENTS[:20]), format="canonical")
    before = content(settings.home)
    found = dry_run(settings)
    assert found["rows"]["fct_interactions"]["added"] == sum(row["item_id"] is not None for row in EVENTS[:20])
    assert set(found["users"]["ids"]) == {row["user_id"] for row in EVENTS[:20]}
    assert content(settings.home) == before
    assert not lake.exists(settings)


def test_a_dry_run_foretells_who_comes_into_another_segment(tmp_path):
    """Of descriptions of users only what their lists follow from counts: here the plan, and not the town."""
    settings = Settings(home=tmp_path / "home", cold_start=ColdStart(segment_by=("plan",)))
    users = [{**row, "town": "Aa"} for row in samples.users(9)]
    land_samples(settings, tmp_path)
    land(settings, samples.write(tmp_path / "users.jsonl", users), format="canonical", arrival=samples.FIRST)
    cleaned(settings)
    published(settings, plan_recommend(settings))
    described = [{**users[3], "plan": "paid"}, {**users[4], "town": "Bee"}]
    later = samples.FIRST + timedelta(hours=HOURS - 1)
    land(settings, samples.write(tmp_path / "more" / "users.jsonl", described), format="canonical", arrival=later)
    found = dry_run(settings)
    assert found["rows"]["user descriptions"] == {"added": 0, "changed": 2, "removed": 0}
    assert found["users"] == {"recomputed": 2, "changed": 1, "ids": ["u3"]}
    cleaned(settings)
    assert publications.touched(settings, plan_update(settings)["candidate"])["users"] == ["u3"]


def test_a_dry_run_foretells_no_items_of_which_no_vector_follows(fixed, tmp_path):
    """Another price is another row, and no other vector."""
    settings, _ = fixed
    priced = [{**row, "price": 1.0 + number} for number, row in enumerate(samples.items(24))]
    file = samples.write(tmp_path / "items.jsonl", priced)
    land(settings, file, format="canonical", arrival=samples.FIRST, replace=True)
    found = dry_run(settings)
    assert found["rows"]["item versions"] == {"added": 0, "changed": 24, "removed": 0}
    assert (found["items"]["changed"], found["items"]["ids"]) == (0, [])
    cleaned(settings)
    assert publications.touched(settings, plan_update(settings)["candidate"])["items"] == []


def rebuilt_users(settings, manifest, as_of) -> dict[str, dict[str, Any]]:
    """User vectors of a rebuild as of T with a publication's artefacts, which were trained later."""
    plan = plan_rebuild(settings, as_of, manifest["id"])
    publications.extend_candidate(settings, plan["candidate"], {"artefacts": manifest["artefacts"]})
    for step in (embed_texts, train_artefacts, update_items, update_users, keep_users):
        step(settings, plan["candidate"])
    state = publications.candidate(settings, plan["candidate"])
    version = state["tables"]["user_vectors"]["version"]
    return {
        row["user_id"]: row for row in vectors.read(settings, state["encoder_id"], "user_vectors", version).to_pylist()
    }


def test_a_timeline_is_what_rebuilds_as_of_its_times_give(fixed, tmp_path):
    settings, made = fixed
    manifest = made["after"]
    times = [samples.FIRST + timedelta(hours=hours) for hours in (1, 3)]
    expected = {time: rebuilt_users(settings, manifest, time) for time in times}
    end = samples.FIRST + timedelta(hours=HOURS)
    expected[end] = {row["user_id"]: row for row in table(settings, manifest, VectorTable.USERS).to_pylist()}
    user = min(expected[times[0]].keys() - TOUCHED)
    found = timeline(settings, user, at=[*reversed(times), end], out=tmp_path / "u.parquet", publication=manifest["id"])
    assert [point["as_of"] for point in found["points"]] == [time.isoformat() for time in (*times, end)]
    rows = pq.read_table(tmp_path / "u.parquet")
    several = ["interest_1", "interest_2", "interest_3", "interest_shares"]
    assert rows.schema.names == ["user_id", "as_of", "long", "short", "behaviour", *several]
    for row, point in zip(rows.to_pylist(), found["points"], strict=True):
        one = expected[row["as_of"]][user]
        for name in ("long", "short", "behaviour", *several):
            assert row[name] == one[name]
        assert sum(point["shares"].values()) == pytest.approx(1)
        assert point["n_interactions"] == one["n_interactions"]
    first, *others = found["points"]
    assert first["moved"] is None
    for (one, other), point in zip(pairwise(rows.to_pylist()), others, strict=True):
        for name, moved in point["moved"].items():
            assert moved == pytest.approx(1 - np.dot(one[name], other[name]), abs=2e-6)
    assert others[0]["moved"]["long"] > 0
    assert 1 <= len(first["near"]["long"]) <= 3
    assert first["near"]["long"][0] in timeline_text(found)
    assert first["near"]["interest_1"][0] in timeline_text(found)


def test_a_timeline_names_what_is_near_however_many_nearer_items_came_later(fixed, monkeypatch):
    settings, made = fixed
    given = {"every": timedelta(hours=2), "points": 2, "publication": made["after"]["id"]}
    expected = timeline(settings, "u1", **given)
    assert {len(names) for names in expected["points"][0]["near"].values()} == {3}
    monkeypatch.setattr(timeline_step, "SPARE", 1)
    assert timeline(settings, "u1", **given) == expected


def test_a_timeline_begins_where_the_history_does(fixed, tmp_path):
    settings, made = fixed
    found = timeline(settings, "u1", every=timedelta(hours=2), points=4, publication=made["after"]["id"])
    assert [point["as_of"][:13] for point in found["points"]] == [
        "2024-02-29T22", "2024-03-01T00", "2024-03-01T02", "2024-03-01T04",
    ]  # fmt: skip
    assert [point["n_interactions"] > 0 for point in found["points"]] == [False, False, True, True]
    assert found["points"][2]["moved"] is None
    assert "no history yet" in timeline_text(found)
    with pytest.raises(BadInput, match="'nobody' has no history"):
        timeline(settings, "nobody")
    with pytest.raises(BadInput, match="parquet"):
        timeline(settings, "u1", out=tmp_path / "u.csv")
    other = Settings(home=settings.home, interests=Interests(short_half_life_days=9))
    with pytest.raises(BadInput, match="other settings"):
        timeline(other, "u1", publication=made["after"]["id"])


def test_a_dry_run_foretells_who_had_an_item_that_is_described_as_before(tmp_path):
    """It had that text before the one it has: of all its versions there is none that is new."""
    settings = Settings(home=tmp_path / "home")
    land_samples(settings, tmp_path)
    row = samples.items(24)[RENAMED]
    again = [(row | {"title": "Quite another thing"}, HOURS - 2), (row, HOURS - 1)]
    for item, hour in again:
        file = samples.write(tmp_path / f"items-{hour}.jsonl", [item])
        land(settings, file, format="canonical", arrival=samples.FIRST + timedelta(hours=hour))
        if item is row:
            found = dry_run(settings)
        cleaned(settings)
        if item is not row:
            published(settings, plan_recommend(settings))
    had = {event["user_id"] for event in EVENTS if event["item_id"] == f"i{RENAMED}"}
    assert found["rows"]["item versions"] == {"added": 1, "changed": 0, "removed": 0}
    assert set(publications.touched(settings, plan_update(settings)["candidate"])["users"]) == had
    assert set(found["users"]["ids"]) == had
