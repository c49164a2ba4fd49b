"""The past: what is recommended as of a T, again, after late events, and by the day's DAG."""

import json
import shutil
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from include.settings import Settings
from include.steps.compare import compare
from include.steps.land import land
from include.steps.plan import plan_rebuild, plan_recommend, plan_update
from include.stores import publications
from tests import samples
from tests.test_path import assert_same_exports, cleaned, exports, include, published

T = samples.FIRST + timedelta(hours=6)
LATE = "u3"  # whose event of before T arrives after it


@pytest.fixture(scope="module")
def past(tmp_path_factory) -> tuple[Settings, dict[str, Any]]:
    """A home with a publication of T, an update by events of before and after T that came later, and T once more."""
    folder = tmp_path_factory.mktemp("past")
    settings = Settings(home=folder / "home")
    land(settings, samples.write(folder / "events.jsonl", samples.events()), format="canonical", arrival="event")
    land(settings, samples.write(folder / "items.jsonl", samples.items()), format="canonical", arrival=samples.FIRST)
    cleaned(settings)
    made = {"before": published(settings, plan_recommend(settings))}
    assert made["before"]["as_of"] == T.isoformat()
    made["then"] = Path(shutil.copytree(settings.home, folder / "then"))

    row = samples.events(1)[0]
    seen = {event["item_id"] for event in samples.events() if event["user_id"] == LATE}
    other = next(f"i{n}" for n in range(20) if f"i{n}" not in seen)
    times = {"late": T - timedelta(hours=2), "new": T + timedelta(minutes=90)}
    rows = [
        {**row, "event_id": name, "user_id": LATE, "item_id": other, "event_type": "like", "event_ts": time.isoformat()}
        for name, time in times.items()
    ]
    land(settings, samples.write(folder / "later" / "events.jsonl", rows), format="canonical")
    cleaned(settings)
    made["rows"] = rows
    made["update"] = published(settings, plan_update(settings))
    made["after"] = published(settings, plan_recommend(settings, T))
    return settings, made


def test_late_events_change_the_snapshot_of_a_publication_and_nothing_else_it_is_made_of(past):
    settings, made = past
    assert made["update"]["as_of"] == (T + timedelta(hours=2)).isoformat(), "they came after T"
    before, after = made["before"], made["after"]
    assert after["as_of"] == before["as_of"] == T.isoformat()
    kinds = {kind for kind, name in before["artefacts"].items() if after["artefacts"][kind] != name}
    assert kinds == {"sources"}, "the candidate sources follow from the events before T, so from the late ones too"
    found = compare(settings, before["id"], after["id"])
    assert found["made_of"].keys() == {"lake_snapshot", "lists lake_snapshot", "sources"}
    assert after["lake_snapshot"] > before["lake_snapshot"]
    assert [row["user_id"] for row in found["users"]["most"]] == [LATE]
    assert publications.serving_id(settings) == made["update"]["id"]


def test_what_came_at_t_or_later_is_none_of_a_publication_of_t(past, tmp_path):
    """It is the one of a home that got the late event and never the new one."""
    settings, made = past
    then = settings.model_copy(update={"home": made["then"]})
    land(
        then,
        samples.write(tmp_path / "events-late.jsonl", made["rows"][:1]),
        format="canonical",
        arrival=T + timedelta(hours=1),
    )
    cleaned(then)
    assert_same_exports(settings, made["after"], then, published(then, plan_recommend(then, T), gated=False), tmp_path)


@pytest.mark.parametrize("name", ["before", "after"])
def test_a_publication_of_before_and_one_of_after_late_events_are_both_rebuilt(past, tmp_path, name):
    settings, made = past
    rebuilt = published(settings, plan_rebuild(settings, publication=made[name]["id"]), gated=False)
    assert rebuilt["id"] != made[name]["id"]
    assert_same_exports(settings, rebuilt, settings, made[name], tmp_path)
    one, other = (exports(settings, made[each]["id"], tmp_path) for each in ("before", "after"))
    assert {what for what in one if one[what] != other[what]} == {"recommendations", "user-vectors"}


def test_recommending_as_of_a_past_t_twice_gives_the_same_bytes(past, tmp_path):
    """Of an earlier T, for which nothing was trained yet: the first time trains, the second takes what the first trained."""
    settings, _ = past
    when = (T - timedelta(hours=2)).isoformat()
    made = []
    for _ in range(2):
        done = include(settings.home, "recommend", "--as-of", when)
        assert done.returncode == 0, done.stderr
        made.append(json.loads(done.stdout)["publication"])
    first, second = (publications.manifest(settings, name) for name in made)
    assert datetime.fromisoformat(first["as_of"]) == datetime.fromisoformat(second["as_of"]) == T - timedelta(hours=2)
    assert first["id"] != second["id"]
    assert first["artefacts"] == second["artefacts"]
    assert_same_exports(settings, first, settings, second, tmp_path)
