"""An hourly update and the day's fresh lists that overlap: whichever publishes last, nothing that the other brought is lost."""

import re
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from include.errors import BadInput
from include.settings import Interests, Retention, Settings
from include.steps.backup import backup
from include.steps.chain import STEPS
from include.steps.clean import clean
from include.steps.doctor import doctor
from include.steps.gate_lake import gate_lake
from include.steps.land import land
from include.steps.plan import plan_rebuild, plan_recommend, plan_update
from include.steps.prune import prune
from include.steps.publish import Overtaken, publish
from include.steps.publish_on_newest import publish_on_newest
from include.steps.restore import restore
from include.steps.roll_back import roll_back
from include.steps.score_served import score_served
from include.stores import landing, publications
from tests import samples
from tests.test_incremental import published
from tests.test_path import same_content

HOURS = 6


def land_hour(settings: Settings, folder: Path, seed: int) -> None:
    """Land and clean an hour of events, some hours after the first."""
    rows = samples.events(30, users=8, hours=1, seed=seed)
    file = samples.write(folder / f"events-{seed}.jsonl", rows)
    land(settings, file, format="canonical", arrival=samples.FIRST + timedelta(hours=HOURS + seed))
    clean(settings)
    gate_lake(settings)


def take_back(settings: Settings, hour: datetime) -> None:
    """Take an hour of events out of the landing folder and of the lake."""
    shutil.rmtree(landing.folder(settings, "events", hour))
    clean(settings, hour, hour + timedelta(hours=1))
    gate_lake(settings)


def stepped(settings: Settings, plan: dict[str, Any]) -> str:
    """A planned candidate that went through every step but to be published."""
    for step in STEPS:
        step(settings, plan["candidate"])
    return str(plan["candidate"])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with a publication, and an hour of events that came since."""
    folder = tmp_path_factory.mktemp("made")
    settings = Settings(home=folder / "home")
    samples.write(folder / "items.jsonl", samples.items(20))
    land(settings, folder / "items.jsonl", format="canonical", arrival=samples.FIRST)
    land_hour(settings, folder, 2)
    publish_on_newest(settings, stepped(settings, plan_recommend(settings)))
    land_hour(settings, folder, 3)
    return settings.home


@pytest.fixture
def home(settings: Settings, made: Path) -> Settings:
    """A copy of it."""
    shutil.copytree(made, settings.home)
    return settings


def test_fresh_lists_that_an_update_overtook_serve_with_its_hour(home: Settings, tmp_path: Path) -> None:
    lists = stepped(home, plan_recommend(home))
    land_hour(home, tmp_path, 4)
    update = publish_on_newest(home, stepped(home, plan_update(home)))
    with pytest.raises(Overtaken, match=update["publication"]):
        publish(home, lists)
    found = publish_on_newest(home, lists)
    serving = publications.serving(home)
    assert (found["publication"], found["serving"]) == (serving["id"], True)
    assert (serving["kind"], serving["base"]) == ("recommend", update["publication"])
    assert serving["as_of"] == serving["lists"]["as_of"] == update["as_of"]
    assert publish_on_newest(home, lists)["publication"] == serving["id"], "a retry finds it"
    same_content(home, serving, published(home, plan_rebuild(home, publication=serving["id"])))


def test_an_update_that_fresh_lists_overtook_leaves_them(home: Settings) -> None:
    update = stepped(home, plan_update(home))
    lists = publish_on_newest(home, stepped(home, plan_recommend(home)))
    assert publish_on_newest(home, update)["publication"] == lists["publication"], "the hour is in them"
    assert publications.serving(home)["lists"]["as_of"] == lists["as_of"]


def test_lists_of_a_past_day_take_nobodys_place(home: Settings) -> None:
    serving = publications.serving(home)
    before = datetime.fromisoformat(serving["as_of"]) - timedelta(hours=1)
    lists = stepped(home, plan_recommend(home, before))
    update = publish_on_newest(home, stepped(home, plan_update(home)))
    found = publish_on_newest(home, lists)
    assert (found["as_of"], found["serving"]) == (before.isoformat(), False)
    assert publications.serving_id(home) == update["publication"]


def test_an_update_goes_on_where_the_newest_hour_was_taken_back(home: Settings) -> None:
    first = publications.serving(home)
    update = publish_on_newest(home, stepped(home, plan_update(home)))
    take_back(home, datetime.fromisoformat(update["as_of"]) - timedelta(hours=1))
    found = publish_on_newest(home, stepped(home, plan_update(home)))
    serving = publications.serving(home)
    assert (serving["id"], serving["as_of"], serving["kind"]) == (found["publication"], update["as_of"], "update")
    assert serving["rows"]["events"] == first["rows"]["events"]
    same_content(home, serving, published(home, plan_rebuild(home, publication=serving["id"])))


@pytest.mark.parametrize("plan", [plan_recommend, plan_rebuild])
def test_fresh_lists_and_rebuilds_serve_where_the_newest_hour_was_taken_back(home: Settings, plan: Any) -> None:
    update = publish_on_newest(home, stepped(home, plan_update(home)))
    take_back(home, datetime.fromisoformat(update["as_of"]) - timedelta(hours=1))
    found = publish_on_newest(home, stepped(home, plan(home)))
    assert (found["as_of"], found["serving"]) == (update["as_of"], True)


@pytest.mark.parametrize("plan", [plan_update, plan_recommend])
def test_lists_follow_where_all_events_were_taken_back(home: Settings, plan: Any) -> None:
    first = publications.serving(home)
    for seed in (3, 2):
        take_back(home, samples.FIRST + timedelta(hours=HOURS + seed))
    found = publish_on_newest(home, stepped(home, plan(home)))
    assert (found["serving"], found["as_of"], found["run"]["users"]["with_history"]) == (True, first["as_of"], 0)
    assert score_served(home) == {"scored": [], "skipped": {}}


def test_where_events_of_a_later_day_were_taken_back_the_way_to_an_earlier_t_is_told(home: Settings) -> None:
    def told() -> list[str]:
        return [line for line in doctor(home)["advice"] if "days after the last events" in line]

    first, stray = publications.serving(home), samples.FIRST + timedelta(days=9)
    file = samples.write(home.home.parent / "stray.jsonl", [{**samples.events(1)[0], "event_ts": stray.isoformat()}])
    land(home, file, format="canonical", table="events")
    clean(home)
    gate_lake(home)
    publish_on_newest(home, stepped(home, plan_update(home)))
    assert told() == []
    take_back(home, stray)
    publish_on_newest(home, stepped(home, plan_update(home)))
    (line,) = told()
    asked = re.search(r"recommend --as-of (\S+) --serve", line)
    assert asked is not None
    end = datetime.fromisoformat(asked[1]).replace(tzinfo=UTC)
    assert publish_on_newest(home, stepped(home, plan_recommend(home, end)), serve=True)["serving"]
    assert told() == []
    assert plan_update(home)["candidate"] is None
    assert publications.serving(home)["as_of"] == end.isoformat() > first["as_of"]


def test_what_somebody_asks_for_serves_and_is_held_where_serving_is_pinned(home: Settings, tmp_path: Path) -> None:
    first = publications.serving(home)
    publish_on_newest(home, stepped(home, plan_update(home)))
    roll_back(home, reason="bad data")
    past = datetime.fromisoformat(first["as_of"]) - timedelta(hours=1)
    asked = publish_on_newest(home, stepped(home, plan_recommend(home, past)), serve=True)
    assert (asked["serving"], publications.pinned(home)) == (True, True)
    land_hour(home, tmp_path, 4)
    assert publish_on_newest(home, stepped(home, plan_update(home)))["serving"] is False
    assert publications.serving_id(home) == asked["publication"]


def test_a_home_of_words_alone_has_a_publication_and_goes_on(settings: Settings, tmp_path: Path) -> None:
    said = {"event_id": "e1", "user_id": "u1", "event_type": "comment", "event_ts": samples.FIRST.isoformat()}
    file = samples.write(tmp_path / "said.jsonl", [{**said, "text": "how do tides work"}])
    land(settings, file, format="canonical", table="events", arrival=samples.FIRST)
    clean(settings)
    gate_lake(settings)
    first = publish_on_newest(settings, stepped(settings, plan_recommend(settings)))
    assert first["run"]["users"]["with_history"] == 1
    land_hour(settings, tmp_path, 4)
    assert publish_on_newest(settings, stepped(settings, plan_update(settings)))["serving"]


def test_of_two_backfilled_days_that_overlap_each_has_its_publication(home: Settings) -> None:
    """Whichever was planned or ends first, as runs of a backfill side by side do."""
    last = datetime.fromisoformat(publications.serving(home)["as_of"])
    earlier, later = (stepped(home, plan_recommend(home, last + timedelta(hours=n), beyond_data=True)) for n in (1, 2))
    of_later = publish_on_newest(home, later)
    of_earlier = publish_on_newest(home, earlier)
    assert of_later["as_of"] == (last + timedelta(hours=2)).isoformat()
    assert of_earlier["as_of"] == (last + timedelta(hours=1)).isoformat()
    assert (of_later["serving"], of_earlier["serving"]) == (True, False)
    entry = publications.manifest(home, of_earlier["publication"])
    same_content(home, entry, published(home, plan_rebuild(home, publication=entry["id"])))


def test_lists_of_a_day_that_an_update_overtook_take_its_t(home: Settings) -> None:
    """As `recommend_daily` does, which may come up to a day late."""
    last = datetime.fromisoformat(publications.serving(home)["as_of"])
    lists = stepped(home, plan_recommend(home, last, late=timedelta(days=1)))
    update = publish_on_newest(home, stepped(home, plan_update(home)))
    found = publish_on_newest(home, lists)
    assert (found["as_of"], found["serving"]) == (update["as_of"], True)


def test_a_run_goes_on_with_the_settings_that_it_was_planned_with_only(home: Settings) -> None:
    candidate = plan_update(home)["candidate"]
    STEPS[0](home, candidate)
    other = home.model_copy(update={"interests": Interests(short_half_life_days=1.0)})
    for step in STEPS:
        with pytest.raises(BadInput, match=f"candidate {candidate} was planned with other settings"):
            step(other, candidate)
    for step in STEPS:
        step(home, candidate)
    assert publish(other, candidate)["serving"], "nothing is left to make"


def test_an_hour_that_has_not_begun_is_refused(settings: Settings, tmp_path: Path) -> None:
    file = samples.write(tmp_path / "events.jsonl", samples.events(3))
    later = datetime.fromisoformat("2999-01-01T00:00:00+00:00")
    with pytest.raises(BadInput, match="--arrival 2999-01-01T00:00:00"):
        land(settings, file, format="canonical", arrival=later)
    land(settings, file, format="canonical", arrival=samples.FIRST)
    ahead = landing.folder(settings, "events", later)
    ahead.mkdir(parents=True)
    shutil.copy(file, ahead)
    with pytest.raises(BadInput, match="dt=2999-01-01"):
        clean(settings)


@pytest.mark.parametrize("again", ["its retry", "the next update", "one after maintenance", "one of its backup"])
def test_a_run_that_was_killed_before_its_switch_serves(
    home: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, again: str
) -> None:
    update = stepped(home, plan_update(home))
    with monkeypatch.context() as patched:
        patched.setattr(publications, "serve", interrupted)
        with pytest.raises(KeyboardInterrupt):
            publish_on_newest(home, update)
    written = publications.newest(home)
    assert written is not None
    assert publications.serving_id(home) != written["id"], "its manifest is there, and it does not serve"
    if again == "its retry":
        assert publish_on_newest(home, update)["serving"]
    else:
        if again == "one after maintenance":
            prune(home.model_copy(update={"retention": Retention(grace_hours=1e-9)}))
        if again == "one of its backup":
            backup(home, tmp_path / "home.tar")
            home = Settings(home=tmp_path / "elsewhere")
            restore(home, tmp_path / "home.tar")
        assert plan_update(home)["candidate"] is None, "nothing changed since"
    assert publications.serving_id(home) == written["id"]
    assert publications.of_candidate(home, update) is not None, "nothing of it is left to do"


def interrupted(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt


def test_a_rebuild_does_not_take_fresh_lists_back(home: Settings) -> None:
    """An update at midnight has the lists of the day before, and T and the lake of the day's lists."""
    update = publish_on_newest(home, stepped(home, plan_update(home)))
    fresh = publish_on_newest(home, stepped(home, plan_recommend(home)))
    assert (fresh["as_of"], fresh["serving"]) == (update["as_of"], True)
    rebuilt = publish_on_newest(home, stepped(home, plan_rebuild(home, publication=update["publication"])))
    assert not rebuilt["serving"]
    newest = publications.newest(home)
    assert newest is not None
    assert newest["id"] == publications.serving_id(home) == fresh["publication"]
    again = publish_on_newest(home, stepped(home, plan_rebuild(home, publication=fresh["publication"])))
    assert again["serving"], "it knows as much as what serves"


def test_a_t_that_lies_ahead_is_refused(home: Settings) -> None:
    later = datetime.fromisoformat("2999-01-01T00:00:00+00:00")
    for plan in (
        lambda: plan_update(home, later),
        lambda: plan_recommend(home, later, beyond_data=True),
        lambda: plan_rebuild(home, later),
    ):
        with pytest.raises(BadInput, match=r"T 2999-01-01T00:00:00.* lies ahead"):
            plan()


def test_a_rebuild_of_an_older_lake_does_not_take_a_correction_back(home: Settings, tmp_path: Path) -> None:
    newest = publish_on_newest(home, stepped(home, plan_update(home)))
    rebuild = stepped(home, plan_rebuild(home))
    file = samples.write(tmp_path / "events-late.jsonl", samples.events(5, users=8, hours=1, seed=9))
    land(home, file, format="canonical", arrival=samples.FIRST)
    clean(home)
    gate_lake(home)
    corrected = publish_on_newest(home, stepped(home, plan_update(home)))
    assert (corrected["as_of"], corrected["serving"]) == (newest["as_of"], True)
    assert not publish_on_newest(home, rebuild)["serving"]
    assert publications.serving_id(home) == corrected["publication"]
