"""New items are in lists after the update of the hour in which they land, and who has no history sees what the segment likes."""

import random
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from include.settings import ColdStart, Settings, Surface
from include.steps import keep_users
from include.steps.plan import plan_rebuild, plan_recommend, plan_update
from include.steps.show import of_user, user_as_text
from include.stores import behaviour, lake
from tests.test_incremental import NEW_ITEM, START, TABLES, at, commit, published
from tests.test_path import assert_same_exports, lists

SURFACE = Surface(length=10, exploration=0.2)
"""Ranks 5 and 10 are kept for new items."""

USERS = [f"u{n:02}" for n in range(24)]
GOLD, FREE = USERS[:8], USERS[8:]
TITLES = ("a red bicycle", "a blue kettle", "songs of the sea", "garden tools")


@dataclass(frozen=True)
class Hour:
    """A home before and after the hour that the tests are about."""

    home: Settings
    copy: Path
    """The same home as it was before the hour."""

    before: dict[str, Any]
    after: dict[str, Any]


def home_of(folder: Path, texts: Path) -> Settings:
    """Forty old items; those who pay for gold want other ones; g, f and s are described and did nothing yet."""
    cold_start = ColdStart(segment_by=("plan",), segment_evidence=10, new_item_days=0.5)
    home = Settings(home=folder, surfaces=(SURFACE,), cold_start=cold_start)
    home.cache.mkdir(parents=True)
    (home.cache / "texts").symlink_to(texts)
    with lake.connect(home, read_only=False) as connection:
        for statement in TABLES.split(";")[:-1]:
            connection.execute(statement)
        for n in range(40):
            connection.execute(NEW_ITEM, [f"i{n:02}", START, TITLES[n % 4]])
        for user, plan in [*((user, "gold") for user in [*GOLD, "g"]), *((user, "free") for user in [*FREE, "f", "s"])]:
            connection.execute("INSERT INTO dim_users VALUES (?, true, NULL, ?)", [user, f'{{"plan":"{plan}"}}'])
        connection.execute("INSERT INTO dim_users VALUES ('plain', true, NULL, NULL)")
    draw = random.Random(1)  # noqa: S311
    events = [
        ("event", n, user, f"i{draw.randrange(20) + (20 if user in GOLD else 0):02}", draw.randrange(19), 1.0)
        for n, user in enumerate(USERS * 8)
    ]
    commit(home, events, 20)
    return home


def land(home: Settings) -> None:
    """What the hour brings: two items, the first event of a user, another plan for s, and one that did something."""
    commit(
        home,
        [
            ("lands", "x1", "a blue kettle and a red bicycle", 21),
            ("lands", "x2", "", 21),
            ("event", 900, "n", "i03", 21, 1.0),
            ("plan", "s", "gold"),
            ("event", 901, USERS[0], "x1", 21, 1.0),
        ],
        21,
    )


@pytest.fixture(scope="module")
def hour(tmp_path_factory: pytest.TempPathFactory, text_cache: Path) -> Hour:
    folder = tmp_path_factory.mktemp("cold")
    home = home_of(folder / "home", text_cache)
    before = published(home, plan_recommend(home))
    copy = shutil.copytree(home.home, folder / "copy", symlinks=True)
    land(home)
    return Hour(home, copy, before, published(home, plan_update(home)))


def explored(found: dict[str, Any]) -> dict[str, list[tuple[int, str]]]:
    """Rank and item of the places that say that they are kept for new items."""
    return {
        user: [
            (rank, item)
            for rank, (item, reasons) in enumerate(zip(row["items"], row["reasons"], strict=True), 1)
            if reasons["exploration"]
        ]
        for user, row in found.items()
    }


def test_new_items_are_in_lists_after_the_update_of_their_hour(hour: Hour) -> None:
    found = lists(hour.home, hour.after)
    assert hour.after["lists"] == hour.before["lists"]
    shown = explored(found)
    assert {item for user in USERS for _, item in shown[user]} == {"x1", "x2"}, "with a text and without one"
    for user in USERS[1:]:
        assert sorted(shown[user]) == sorted([(5, shown[user][0][1]), (10, shown[user][1][1])]), user
        assert len(found[user]["items"]) == len(set(found[user]["items"])) == 10
        assert found[user]["scores"] == sorted(found[user]["scores"], reverse=True)
        for score, reasons in zip(found[user]["scores"], found[user]["reasons"], strict=True):
            assert sum(value for name, value in reasons.items() if name != "because") == pytest.approx(score, abs=1e-5)
    assert [item for _, item in shown[USERS[0]]] == ["x2"], "who had x1 does not see it again"
    assert hour.after["run"]["exploration"] == {"new_items": 2, "came": 2, "went": 0, "relisted": 23}
    text = user_as_text(of_user(hour.home, USERS[1], hour.after["id"]))
    assert text.count("a place kept for new items") == 2


def test_all_else_in_lists_stays_as_it_was(hour: Hour) -> None:
    before, after = lists(hour.home, hour.before), lists(hour.home, hour.after)
    for user in USERS[1:]:
        others = [item for item in after[user]["items"] if item not in ("x1", "x2")]
        assert others == before[user]["items"][:8]
    for user in ("g", "f", "plain"):
        assert after[user] == before[user]
    assert hour.after["run"]["users"]["touched"] == 3


def test_a_user_has_a_list_after_the_update_of_the_first_event(hour: Hour) -> None:
    assert "n" not in lists(hour.home, hour.before)
    own = lists(hour.home, hour.after)["n"]
    assert "i03" not in own["items"]
    assert own["items"] != lists(hour.home, hour.after)["plain"]["items"]
    assert {entry["item_id"] for reasons in own["reasons"] for entry in reasons["because"]} == {"i03"}


def test_users_without_a_history_see_what_their_segment_likes(hour: Hour) -> None:
    found = lists(hour.home, hour.before)

    def of_gold(user: str) -> int:
        return sum(item >= "i20" for item in found[user]["items"])

    assert of_gold("g") > of_gold("plain") >= of_gold("f")
    assert found["s"]["items"] == found["f"]["items"]
    assert lists(hour.home, hour.after)["s"] == found["g"] | {"user_id": "s"}, "another plan is another list"
    for user in ("g", "f", "plain"):
        for score, reasons in zip(found[user]["scores"], found[user]["reasons"], strict=True):
            assert reasons["popularity"] + reasons["segment"] == pytest.approx(score, abs=1e-5)
            assert reasons["exploration"] == 0
    assert not any(reasons["segment"] for reasons in found["plain"]["reasons"])
    assert "recent popularity among users with plan gold" in user_as_text(of_user(hour.home, "g", hour.before["id"]))
    assert "recent popularity is shown" in user_as_text(of_user(hour.home, "plain", hour.before["id"]))


def test_an_update_leaves_what_a_rebuild_gives(hour: Hour, tmp_path: Path) -> None:
    rebuilt = published(hour.home, plan_rebuild(hour.home, publication=hour.after["id"]))
    assert_same_exports(hour.home, rebuilt, hour.home, hour.after, tmp_path)


def test_without_its_guards_an_update_leaves_something_else(hour: Hour, monkeypatch: pytest.MonkeyPatch) -> None:
    home = hour.home.model_copy(update={"home": hour.copy})
    land(home)
    monkeypatch.setattr(keep_users, "relist_for_new_items", lambda settings, candidate: {})
    monkeypatch.setattr(behaviour, "relevant", lambda table, segment_by: behaviour.RELEVANT[table])
    without, whole = lists(home, published(home, plan_update(home))), lists(hour.home, hour.after)
    wrong = {user for user in whole if without[user] != whole[user]}
    assert wrong == {*USERS[1:], "s"}, "those whose places change, and who is in another segment"


def test_the_newest_are_those_that_came_last_however_often_they_are_described(tmp_path: Path, text_cache: Path) -> None:
    home = home_of(tmp_path / "home", text_cache)
    commit(home, [("lands", "old", "", 15), ("lands", "newer", "", 18)], 20)
    with lake.connect(home, read_only=False) as connection:
        connection.execute("UPDATE dim_items SET valid_to = $1 WHERE item_id = 'old'", [at(19)])
        connection.execute(NEW_ITEM.replace("$1, 1,", "$1, 2,"), ["old", at(19), "described again"])
    with lake.connect(home) as connection:
        now = lake.newest_snapshot(home), at(20)
        found = [behaviour.new_items(connection, now, now, since=at(10), fewer=3, most=most) for most in (1, 2)]
    assert found == [["newer"], ["newer", "old"]]


def test_a_fresh_list_keeps_no_place_for_what_is_new_no_more(hour: Hour) -> None:
    """x1 gets five interactions; x2, and later everything, grows old."""
    commit(hour.home, [("event", 910 + n, user, "x1", 22, 1.0) for n, user in enumerate(USERS[1:6])], 22)
    update = published(hour.home, plan_update(hour.home))
    assert update["run"]["exploration"] == {"new_items": 2, "came": 0, "went": 0, "relisted": 0}
    fresh = published(hour.home, plan_recommend(hour.home))
    assert {item for places in explored(lists(hour.home, fresh)).values() for _, item in places} == {"x2"}
    commit(hour.home, [("event", 920, USERS[7], "i20", 35, 1.0)], 35)
    late = published(hour.home, plan_recommend(hour.home))
    assert not any(explored(lists(hour.home, late)).values())
    assert late["run"]["exploration"]["new_items"] == 0
