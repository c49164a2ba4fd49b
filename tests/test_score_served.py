"""Served lists against what users then did: scores as counted by hand, a history in the lake that disturbs nothing, the alarm."""

import json
import math
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from include.errors import GateFailed
from include.settings import Gates, Settings, Surface
from include.steps.check_served import check_served, judge_served
from include.steps.clean import build, clean, prepare
from include.steps.doctor import doctor
from include.steps.gate_lake import gate_lake
from include.steps.land import land
from include.steps.maintain import maintain
from include.steps.overview import overview
from include.steps.plan import plan_recommend, plan_update
from include.steps.score_served import CannotScore, _publication, score_served
from include.stores import behaviour, files, lake, landing, list_quality, publications
from include.stores.lock import writing
from tests import samples
from tests.test_path import cleaned, include, lists, published

USERS, ITEMS = 16, 60
GOOD = samples.FIRST + timedelta(days=3)
BAD = GOOD + timedelta(days=1)
ANY_DAY = Gates(served_days=1, min_served_pairs=1)
Rows = list[dict[str, Any]]


def took(moment: datetime, user: str, item: str, number: int, **attributes: Any) -> dict[str, Any]:
    when = (moment + timedelta(hours=9, minutes=number)).isoformat()
    name = f"{moment.date()}-{user}-{item}"
    return {"event_id": name, "user_id": user, "item_id": item, "event_type": "click", "event_ts": when} | attributes


def deliver(settings: Settings, folder: Path, name: str, rows: Rows) -> None:
    land(settings, samples.write(folder / name / "events.jsonl", rows), format="canonical")
    cleaned(settings)


def popular(rows: Rows, moment: datetime, half_life_days: float) -> list[str]:
    """Items by recent popularity before a moment, the best first."""
    totals: dict[str, float] = {f"i{n}": 0.0 for n in range(ITEMS)}
    for row in rows:
        age = (moment - datetime.fromisoformat(row["event_ts"])).total_seconds() / 86400
        totals[row["item_id"]] += 0.5 ** (age / half_life_days)
    return sorted(totals, key=lambda item: (-totals[item], item))


def history(settings: Settings) -> Rows:
    return list(list_quality.read(settings, list_quality.QUALITY, 99).to_pylist())


def closing(start: datetime) -> dict[str, Any]:
    """An event in a day's last hour, with which the day is whole."""
    return took(start + timedelta(hours=14, minutes=30), "stranger", "i1", 0)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> tuple[Settings, Rows, Rows]:
    """Three days and lists as of their end; a day on which users took what was listed, an update, and one of what was only popular."""
    folder = tmp_path_factory.mktemp("quality")
    settings = Settings(home=folder / "home")
    past = [row for row in samples.events(300, users=USERS, items=ITEMS, hours=72) if row["event_type"] != "rating"]
    file = samples.write(folder / "items.jsonl", samples.items(ITEMS))
    land(settings, file, format="canonical", arrival=samples.FIRST)
    deliver(settings, folder, "past", past)
    first = published(settings, plan_recommend(settings, GOOD, beyond_data=True))
    shown = lists(settings, first)
    good = [closing(GOOD)]
    for number, (user, items) in enumerate(sorted(owned(past).items())):
        for rank in (1, 4):
            listed = shown[user]["items"][rank - 1]
            good.append(took(GOOD, user, listed, 2 * number + rank, publication=first["id"], rank=rank))
        good.append(took(GOOD, user, min(items), 2 * number))  # had, so no target
    deliver(settings, folder, "good", good)
    return settings, past, good


def owned(rows: Rows) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for row in rows:
        found.setdefault(row["user_id"], set()).add(row["item_id"])
    return found


def test_a_day_is_scored_as_counted_by_hand(shop) -> None:
    settings, past, good = shop
    summary = score_served(settings)
    assert summary["scored"] == [GOOD.date().isoformat()]
    assert set(summary["skipped"].values()) == {"no publication was there yet"}
    assert len(summary["skipped"]) == 6, "no more than a week is looked back"
    rows = {(row["method"], row["user_group"]): row for row in history(settings)}
    first = publications.manifests(settings)[0]
    assert {row["publication"] for row in rows.values()} == {first["id"]}
    had = owned(past)
    discount = [1 / math.log2(rank + 2) for rank in range(10)]
    ideal = discount[0] + discount[1]
    expected: dict[str, list[tuple[float, float, float]]] = {"tidemark": []}
    targets = {user: {row["item_id"] for row in good if row["user_id"] == user} - had[user] for user in had}
    tops = {user: lists(settings, first)[user]["items"][:10] for user in had}
    for name, half_life in (("tidemark", None), ("popularity_7d", 7.0), ("popularity_1d", 1.0)):
        expected[name] = []
        for user in had:
            if half_life is not None:
                tops[user] = [item for item in popular(past, GOOD, half_life) if item not in had[user]][:10]
            gains = [gain for item, gain in zip(tops[user], discount, strict=True) if item in targets[user]]
            expected[name].append((sum(gains) / ideal, float(bool(gains)), len(gains) / 2))
    for name, values in expected.items():
        row = rows[name, "all"]
        assert row["pairs"] == USERS, "who came that day for the first time is left out"
        found = (row["ndcg"], row["hit_rate"], row["recall"])
        assert found == pytest.approx([sum(column) / USERS for column in zip(*values, strict=True)]), name
    assert rows["tidemark", "all"]["ndcg"] == pytest.approx((1 + discount[3]) / ideal)
    for name in ("popularity_7d", "popularity_1d"):
        row = rows[name, "all"]
        assert row["ratio"] == pytest.approx(rows["tidemark", "all"]["ndcg"] / row["ndcg"])
        assert row["low"] < row["ratio"] < row["high"]
    groups = {group: row["pairs"] for (name, group), row in rows.items() if name == "tidemark" and group != "all"}
    lengths = [sum(row["user_id"] == user for row in past) for user in had]
    assert groups == {"5-19": sum(n < 20 for n in lengths), "20+": sum(n >= 20 for n in lengths)}


def test_interactions_that_came_from_a_list_are_counted_by_rank(shop) -> None:
    settings, _, good = shop
    first = publications.manifests(settings)[0]["id"]
    rows = list_quality.read(settings, list_quality.CLICKS, 1).to_pylist()
    found = {(row["publication"], row["rank"]): row["interactions"] for row in rows}
    assert found == {(first, 1): USERS, (first, 4): USERS, (None, None): len(good) - 2 * USERS}
    shown = include(settings.home, "quality")
    assert f"{2 * USERS} of {len(good)} " in shown.stdout
    assert f"by rank: 1: {USERS}, 4: {USERS}" in shown.stdout


def test_a_score_is_no_change_of_behaviour(shop) -> None:
    settings, *_ = shop
    publication = published(settings, plan_update(settings))
    before = lake.gated_snapshot(settings)
    assert score_served(settings, again=1)["scored"] == [GOOD.date().isoformat()]
    with lake.connect(settings) as connection:
        newest = connection.execute("SELECT max(snapshot_id) FROM lake.snapshots()").fetchone()[0]
        assert newest > before, "it is a commit all the same"
        assert behaviour.touched_users(connection, before, newest, BAD, BAD) == set()
    assert gate_lake(settings)["snapshot"] == before == lake.newest_snapshot(settings)
    assert plan_update(settings)["candidate"] is None
    assert plan_update(settings)["publication"] == publication["id"]
    assert [line for line in doctor(settings)["advice"] if "gate" in line] == []
    assert maintain(settings)["merged"] > 0, "compaction does not wait for a gate that will not come"
    # What it merged is another snapshot with the same behaviour, gated as ever.
    assert lake.gated_snapshot(settings) == lake.newest_snapshot(settings)


def test_a_day_scored_again_takes_the_place_of_its_rows(shop) -> None:
    settings, *_ = shop
    before = history(settings)
    assert score_served(settings)["scored"] == []
    assert score_served(settings, again=1)["scored"] == [GOOD.date().isoformat()]
    assert history(settings) == before


def test_lists_that_are_shorter_are_held_against_as_many_popular_items(shop) -> None:
    settings, past, good = shop
    short = settings.model_copy(update={"surfaces": (Surface(name="home", length=3),)})
    score_served(short, again=1)
    rows = {row["method"]: row for row in history(short) if row["user_group"] == "all"}
    had = owned(past)
    targets = {user: {row["item_id"] for row in good if row["user_id"] == user} - had[user] for user in had}
    for name, half_life in (("popularity_7d", 7.0), ("popularity_1d", 1.0)):
        tops = {user: [item for item in popular(past, GOOD, half_life) if item not in had[user]][:3] for user in had}
        hits = sum(len(targets[user].intersection(tops[user])) for user in had)
        assert rows[name]["recall"] == pytest.approx(hits / 2 / USERS), name
    assert rows["tidemark"]["recall"] == 0.5, "of what was taken from ranks 1 and 4"
    score_served(settings, again=1)


def test_what_came_from_a_list_is_counted_where_the_day_cannot_be_scored(shop, monkeypatch) -> None:
    settings, _, good = shop
    written: list[dict[str, pa.Table]] = []
    monkeypatch.setattr(list_quality, "write", lambda _, tables, emptied: written.append(tables))
    elsewhere = settings.model_copy(update={"surfaces": (Surface(name="elsewhere"),)})
    assert GOOD.date().isoformat() in score_served(elsewhere, again=1)["skipped"]
    (tables,) = written
    assert tables[list_quality.QUALITY].num_rows == 0
    clicks = tables[list_quality.CLICKS].to_pylist()
    assert {row["day"] for row in clicks} == {GOOD.date()}, "on the other days nothing came from a list"
    assert sum(row["interactions"] for row in clicks) == len(good)


def test_the_check_is_red_when_lists_are_no_better_and_only_then(shop, tmp_path) -> None:
    settings, past, good = shop
    alarmed = settings.model_copy(update={"gates": ANY_DAY})
    assert not check_served(alarmed)["home"]["failed"]
    newest = publications.newest(settings)
    assert datetime.fromisoformat(newest["as_of"]) == BAD
    known = [*past, *good]
    had, shown = owned(known), lists(settings, newest)
    bad = [closing(BAD)]
    for user in sorted(had):
        tops = [item for item in popular(known, BAD, 7.0) if item not in had[user]][:10]
        bad += [took(BAD, user, item, len(bad) % 50) for item in tops if item not in shown[user]["items"][:10]]
    assert len({row["user_id"] for row in bad}) > USERS / 2, "there is something that was only popular"
    deliver(settings, tmp_path, "bad", bad)
    # A new publication comes all the same, and what is scored is the one before it.
    published(settings, plan_update(settings))
    assert score_served(settings)["scored"] == [BAD.date().isoformat()]
    rows = [row for row in history(settings) if row["day"] == BAD.date()]
    assert {row["publication"] for row in rows} == {newest["id"]}
    with pytest.raises(GateFailed, match=r"home \(days 1, pairs \d+\).*docs/runbooks/served_lists.md"):
        check_served(alarmed)
    assert any("docs/runbooks/served_lists.md" in line for line in doctor(alarmed)["advice"])
    done = include(alarmed.home, "quality", "--json")
    assert done.returncode == 0, "by default it takes seven days"
    assert {row["day"] for row in json.loads(done.stdout)["list_quality"]} == {"2024-03-04", "2024-03-05"}
    for gates in (Gates(served_days=2, min_served_pairs=1), Gates(served_days=1, min_served_pairs=1000)):
        assert not check_served(settings.model_copy(update={"gates": gates}))["home"]["failed"]


def test_the_operators_page_shows_what_serves_what_to_do_and_what_lists_were_worth(shop, tmp_path) -> None:
    shutil.copytree(shop[0].home, tmp_path / "home")
    settings = Settings(home=tmp_path / "home", gates=ANY_DAY)
    page = overview(settings)
    assert f'<a href="publications/{publications.serving_id(settings)}">' in page
    assert all(f'<a href="publications/{entry["id"]}">' in page for entry in publications.manifests(settings))
    assert "lists of home were no better than recent popularity" in page
    assert 'href="runbooks/served_lists"' in page
    scores = [row for row in history(settings) if row["user_group"] == "all" and row["method"] == "tidemark"]
    assert {row["day"] for row in scores} == {GOOD.date(), BAD.date()}
    assert all(f"<td>{row['day']}</td>" in page and f"{row['ndcg']:.4f}</td>" in page for row in scores)
    assert page.count("<svg") == 1
    assert "<b>pinned</b>" not in page

    first = publications.manifests(settings)[0]["id"]
    publications.serve(settings, first, "rolled back: <script>alert(1)</script>\x1b[31m", pin=True)
    files.write(settings.reports / "backtests" / "a&b" / "report.html", b"")
    page = overview(settings)
    assert "<b>pinned</b>" in page
    assert "<script>" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert "\x1b" not in page
    assert '<a href="reports/backtests/a%26b/report.html">' in page


def test_the_operators_page_of_an_empty_home_says_what_to_do(settings) -> None:
    page = overview(settings)
    assert "nothing serves yet: run <code>python -m include run</code>" in page
    assert "No day is scored yet" in page


def test_what_served_when_the_day_began_is_scored(settings, monkeypatch) -> None:
    """By the record of switches; a rollback, and a publication that is gone, too."""
    day = datetime(2020, 1, 5, tzinfo=UTC)
    entries = [
        {"id": name, "made_at": str(n)} | {"lists": knows} | knows
        for n, name in ((3, "old"), (4, "new"))
        for knows in [{"as_of": f"2020-01-0{n}T00:00:00+00:00", "lake_snapshot": n}]
    ]
    switches: list[dict[str, Any]] = []
    monkeypatch.setattr(publications, "manifests", lambda _: entries)
    monkeypatch.setattr(publications, "changes", lambda _: switches)

    def chosen(start: datetime) -> str:
        return str(_publication(settings, start)["id"])

    assert chosen(day) == "new"
    assert chosen(day - timedelta(days=1, hours=12)) == "old"
    switches += [{"at": "2020-01-04T12:00:00+00:00", "to": "new"}, {"at": "2020-01-04T18:00:00+00:00", "to": "old"}]
    assert chosen(day) == "old", "it was rolled back to"
    switches.append({"at": "2020-01-05T01:00:00+00:00", "to": "new"})
    assert chosen(day) == "old", "what was switched to later did not serve then"
    assert chosen(day + timedelta(days=1)) == "new"
    switches.append({"at": "2020-01-05T02:00:00+00:00", "to": "gone"})
    with pytest.raises(CannotScore, match="gone, which served, is gone"):
        chosen(day + timedelta(days=1))


def test_a_day_of_which_nothing_is_left_loses_its_score(shop, tmp_path) -> None:
    whole, *_ = shop
    shutil.copytree(whole.home, tmp_path / "home")
    settings = whole.model_copy(update={"home": tmp_path / "home"})
    before = {row["day"] for row in history(settings)}
    assert before == {GOOD.date(), BAD.date()}
    shutil.rmtree(landing.folder(settings, "events", GOOD).parent)
    clean(settings, GOOD, BAD)
    gate_lake(settings)
    summary = score_served(settings, again=3650)
    assert len(summary["skipped"]) < 10, "no day before the first event is looked at"
    assert "no user" in summary["skipped"][GOOD.date().isoformat()]
    assert {row["day"] for row in history(settings)} == {BAD.date()}
    clicks = list_quality.read(settings, list_quality.CLICKS, 99).to_pylist()
    assert GOOD.date() not in {row["day"] for row in clicks}


def test_dbt_tests_the_history(shop) -> None:
    settings, *_ = shop
    prepare(settings, [])
    nodes = build(settings, "--select", "source:quality")
    tests = {node["name"]: node["status"] for node in nodes if node["resource_type"] == "test"}
    assert len(tests) == 5
    assert set(tests.values()) == {"pass"}
    with writing(settings):
        twice = list_quality.read(settings, list_quality.QUALITY, 1)
        clicks = list_quality.read(settings, list_quality.CLICKS, 1)
        both = pa.concat_tables([twice, twice])
        list_quality.write(settings, {list_quality.QUALITY: both, list_quality.CLICKS: clicks})
    nodes = build(settings, "--select", "source:quality")
    assert [node["status"] for node in nodes if node["name"].startswith("source_key_quality_list_quality")] == ["warn"]


def test_a_surface_is_judged_by_its_own_days(shop) -> None:
    """A day on which another surface alone was scored is none of them."""
    settings, *_ = shop
    days = [BAD.date() + timedelta(days=n) for n in range(1, 5)]
    rows = [
        {
            "day": day,
            "surface": surface,
            "method": method,
            "user_group": "all",
            "publication": "p",
            "pairs": 5,
            "ndcg": ndcg,
        }
        for surface, of in (("busy", days), ("quiet", [*days[:2], days[3]]))
        for day in of
        for method, ndcg in (("tidemark", 0.1), ("popularity_7d", 0.2), ("popularity_1d", 0.1))
    ]
    empty = {name: schema.empty_table() for name, schema in list_quality.SCHEMAS.items()}
    with writing(settings):
        made = pa.Table.from_pylist(rows, schema=list_quality.SCHEMAS[list_quality.QUALITY])
        list_quality.write(settings, empty | {list_quality.QUALITY: made})
    both = (Surface(name="busy"), Surface(name="quiet"))
    strict = settings.model_copy(update={"gates": Gates(served_days=3, min_served_pairs=15), "surfaces": both})
    found = judge_served(strict)
    assert judge_served(strict.model_copy(update={"surfaces": both[:1]})).keys() == {"busy"}, "the other is no more"
    assert {name: (found[name]["days"], found[name]["failed"]) for name in ("busy", "quiet")} == {
        "busy": (3, True),
        "quiet": (3, True),
    }
