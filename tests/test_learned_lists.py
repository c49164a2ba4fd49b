"""Lists that a learned ranker orders: how it is named, what it falls back to, and that an update leaves what a rebuild gives."""

import shutil
from collections import Counter
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from include.models import pools
from include.models.histories import Histories
from include.models.nearest_texts import NearestTexts
from include.models.ranker import LINEAR_SHARE, LINEAR_SHARE_OF_FEW, SHORTLIST
from include.models.traits import Traits
from include.models.trial import SHARES
from include.settings import Ranker, Settings, Surface
from include.steps.land import land
from include.steps.learn_lists import MOST_WINDOWS, RELATED_WINDOWS, Past, examples, train_ranker, window_start, windows
from include.steps.plan import _why_full, plan_rebuild, plan_recommend, plan_update
from include.stores import artefacts, lake, publications, vectors
from tests import samples
from tests.test_path import assert_same_exports, cleaned, lists, published

USERS, ITEMS, HOURS = 40, 50, 12
RANKER = Ranker(window_days=1 / 24, min_users=20, min_users_for_trees=20, linear_share=0.25)
"""The samples are drawn at random, so a trial would see that trees find nothing; what is made with trees is to be seen."""


def landed(settings: Settings, folder: Any, rows: list[dict[str, Any]]) -> None:
    land(settings, samples.write(folder / "events.jsonl", rows), format="canonical", arrival="event")


@pytest.fixture(scope="module")
def learned(tmp_path_factory) -> tuple[Settings, dict[str, Any], dict[str, Any]]:
    """A home whose ranker was trained, and an update of a few users after it."""
    folder = tmp_path_factory.mktemp("learned")
    settings = Settings(home=folder / "home", ranker=RANKER)
    rows = samples.events(1500, users=USERS, items=ITEMS, hours=HOURS)
    landed(settings, folder, rows)
    items = samples.write(folder / "items.jsonl", samples.items(ITEMS - 2))
    land(settings, items, format="canonical", arrival=samples.FIRST)
    cleaned(settings)
    first = published(settings, plan_recommend(settings))
    when = samples.FIRST + timedelta(hours=HOURS, minutes=30)
    more = [
        {**rows[0], "event_id": f"more{n}", "user_id": f"u{n % 3}", "item_id": f"i{n}", "event_ts": when.isoformat()}
        for n in range(6)
    ]
    new = {**rows[0], "event_id": "new", "user_id": "newcomer", "item_id": "i4", "event_ts": when.isoformat()}
    # An item that nobody knew when the factors were trained; its text is like those of others.
    of_fresh = {**new, "event_id": "fresh", "user_id": "u0", "item_id": "fresh"}
    landed(settings, folder / "later", [*more, new, of_fresh])
    title = samples.items(ITEMS)[5]["title"]
    items = samples.write(folder / "later" / "items.jsonl", [{"item_id": "fresh", "title": f"another {title}"}])
    land(settings, items, format="canonical", arrival=samples.FIRST + timedelta(hours=HOURS))
    cleaned(settings)
    return settings, first, published(settings, plan_update(settings))


def test_windows_of_a_short_history_have_relations_to_learn_from(tmp_path):
    """Of 24 days there are two windows of a week with a past, so four of half a week are learned from."""
    past = past_of(np.random.default_rng(4).uniform(0.0, 24.0, 6000))
    found = examples(Settings(home=tmp_path, ranker=Ranker(window_days=7)), past, repeats=False)
    assert len(found) == 4
    for example in found:
        for name in ("ease", "cosine", "transitions", "factors", "low_pass"):
            assert example.pool.features[:, example.pool.names.index(name)].std() > 0, name


@pytest.mark.parametrize(
    ("day", "length", "count"),
    [
        (np.linspace(0.0, 24.0, 6000), 3.5, 4),
        (np.linspace(0.0, 60.0, 6000), 7.0, 6),
        (24.0 + np.log2(np.linspace(0.001, 1.0, 6000)) * 3.0, 0.875, 5),  # twice as much every 3 days
        (np.full(6000, 23.99), 7.0, 0),  # all at once
    ],
)
def test_windows_are_halved_until_four_have_a_past(tmp_path, day, length, count):
    found = windows(Settings(home=tmp_path, ranker=Ranker(window_days=7)), past_of(day))
    assert (found[0], len(found[1])) == (length, count)


@pytest.mark.parametrize(
    ("events", "again", "model"),
    [(6000, (0.5, 1.0), "habits"), (600, (0.0, 1 / 3), "blend"), (0, (-1.0, 0.1), "blend")],
)
def test_habits_order_lists_only_where_much_is_had_again(tmp_path, events, again, model):
    """Each of 150 users has 20 items to choose from: of 40 events most are repeats, of 4 few."""
    settings = Settings(home=tmp_path, ranker=Ranker(window_days=7, min_users=10_000))
    past = past_of(np.append(np.linspace(0.0, 23.9, events), [23.9]))
    assert again[0] < past.again < again[1]
    name = train_ranker(settings, past, {}, repeats=True)
    assert artefacts.describe(settings, name)["model"] == model
    assert artefacts.describe(settings, train_ranker(settings, past, {}, repeats=False))["model"] == "blend"


@pytest.mark.parametrize(
    ("events", "model", "linear_share", "tried_on"),
    [
        (6, "blend", None, None),
        (60, "linear", 1.0, 0),
        (150, "linear and trees", LINEAR_SHARE_OF_FEW, 0),
        (300, "linear and trees", LINEAR_SHARE, 40),
    ],
)
def test_a_handful_of_users_is_enough_to_learn_from_but_not_to_try_on(tmp_path, events, model, linear_share, tried_on):
    settings = Settings(home=tmp_path, ranker=Ranker(window_days=7))
    past = past_of(np.random.default_rng(4).uniform(0.0, 24.0, events))
    described = artefacts.describe(settings, train_ranker(settings, past, {}, repeats=False))
    assert (described["model"], described.get("linear_share")) == (model, linear_share)
    assert described.get("trial", {}).get("users") == tried_on


def past_of(day: NDArray[np.float64]) -> Past:
    """Users with a taste for a third of the items, who did something at some times up to T, day 24 or later."""
    random = np.random.default_rng(4)
    users, items, events = 150, 60, len(day)
    user = np.sort(random.integers(0, users, events))
    item = (random.integers(0, items // 3, events) * 3 + user % 3) % items
    return Past(
        histories=Histories(user, item, day, (users, items)),
        item_ids=[f"i{number}" for number in range(items)],
        nearest=NearestTexts.among(np.zeros((items, 2), np.float32), np.zeros(items)),
        traits=Traits.of(np.zeros((items, 2)), [None] * items, [None] * items),
        first_day=np.zeros(items),
        from_day=np.full(items, -np.inf),
        until_day=np.full(items, np.inf),
        day=float(np.ceil(day.max())),
    )


@pytest.mark.parametrize("several_hours", [True, False])
@pytest.mark.parametrize("length", [1 / 24, 0.5, 1.0, 4.0, 7.0])
def test_windows_end_by_t_and_begin_at_several_hours_where_trends_are_hourly(length, several_hours):
    backs = range(1, MOST_WINDOWS + RELATED_WINDOWS)
    starts = [window_start(100.0, length, back, several_hours=several_hours) for back in backs]
    assert starts[0] == 100.0 - length, "the newest window ends at T"
    assert all(start + length <= 100.0 for start in starts)
    assert starts == sorted(starts, reverse=True), "what is learned at an older start knows nothing of a newer one"
    assert all(older + length <= newer + 1e-9 for newer, older in pairwise(starts)), "none is taught twice"
    hours = {round(start % 1 * 24) % 24 for start in starts}
    assert len(hours) == (round(1 / length) if length < 1 else 4 if several_hours else 1)


def test_a_publication_names_its_ranker_and_what_it_learned_from(learned):
    settings, first, _ = learned
    described = artefacts.describe(settings, first["artefacts"]["ranker"])
    assert described["model"] == "linear and trees"
    assert described["trained_until"] == first["as_of"]
    assert described["windows"] >= 4
    assert described["users"] >= RANKER.min_users
    assert {"ease", "text_long_z", "popular_24h_rank", "age"} <= set(described["features"])
    assert {"text_cosine_long", "categories_liked_rank", "popular_168h_by_creators"} <= set(described["features"])
    assert described["trees"] == ["trees", "odds"]
    assert described["shortlist"] == SHORTLIST
    for kind in described["trees"]:
        assert artefacts.read_text(settings, first["artefacts"]["ranker"], f"{kind}.txt").startswith("tree")
    assert artefacts.describe(settings, first["artefacts"]["sources"])["trained_until"] == first["as_of"]


def test_what_a_score_is_made_of_adds_up(learned):
    settings, first, _ = learned
    table = first["tables"]["recommendations_home"]
    rows = vectors.read(settings, first["encoder_id"], "recommendations_home", table["version"]).to_pylist()
    assert len(rows) == USERS
    for row in rows:
        assert row["scores"] == sorted(row["scores"], reverse=True)
        for score, reasons in zip(row["scores"], row["reasons"], strict=True):
            parts = [value for name, value in reasons.items() if name != "because"]
            assert sum(parts) == pytest.approx(score, abs=1e-5)
    trees = [reasons["trees"] for row in rows for reasons in row["reasons"]]
    assert max(trees) > 0 > min(trees)


def test_an_update_keeps_sources_and_ranker_and_leaves_what_a_rebuild_gives(learned, tmp_path):
    settings, first, update = learned
    assert update["base"] == first["id"]
    assert update["run"]["users"]["touched"] == 4
    assert update["artefacts"] == first["artefacts"]
    rebuilt = published(settings, plan_rebuild(settings, publication=update["id"]), gated=False)
    assert rebuilt["run"]["users"]["touched"] == rebuilt["run"]["users"]["total"]
    assert rebuilt["artefacts"] == update["artefacts"]
    assert_same_exports(settings, rebuilt, settings, update, tmp_path)


def test_where_items_left_an_update_leaves_what_a_rebuild_gives(learned, tmp_path, monkeypatch):
    """First many, so that lists run out of candidates, then one that is in some lists and a candidate of others."""
    monkeypatch.setattr(pools, "TOP_OF_EACH", 3)  # else every item is everybody's candidate here
    home = Path(shutil.copytree(learned[0].home, tmp_path / "home"))
    shop = learned[0].model_copy(update={"home": home, "surfaces": (Surface(length=10, exploration=0.1),)})
    base = published(shop, plan_recommend(shop), gated=False)
    described = samples.items(ITEMS - 2)
    gone: set[str] = set()
    for hour in (1, 2):
        held = Counter(item for row in lists(shop, base).values() for item in row["items"])
        left = described[:20] if hour == 1 else [row for row in described if 0 < held[row["item_id"]] < USERS // 2][:1]
        assert left
        end = samples.FIRST + timedelta(hours=HOURS + hour, minutes=30)
        rows = [{**row, "available_until": end.isoformat()} for row in left]
        file = samples.write(tmp_path / f"items-left{hour}.jsonl", rows)
        land(shop, file, format="canonical", arrival=end - timedelta(minutes=30))
        event = {**samples.events(1)[0], "event_id": f"after{hour}", "user_id": "u1"}
        landed(shop, tmp_path / f"after{hour}", [{**event, "event_ts": (end + timedelta(minutes=20)).isoformat()}])
        cleaned(shop)
        update = published(shop, plan_update(shop), gated=False)
        gone |= {row["item_id"] for row in left}
        before, now = lists(shop, base), lists(shop, update)
        assert not gone & {item for row in now.values() for item in row["items"]}
        kept = [user for user, row in before.items() if user != "u1" and not gone & set(row["items"])]
        assert hour == 1 or kept, "who held nothing of it"
        assert all(now[user] == before[user] for user in kept)
        rebuilt = published(shop, plan_rebuild(shop, publication=update["id"]), gated=False)
        assert_same_exports(shop, rebuilt, shop, update, tmp_path)
        base = update
    filled = [row for row in now.values() if row["reasons"][-1]["popularity"] == row["scores"][-1] == row["scores"][-2]]
    assert filled, "some lists had too few candidates left"


def test_an_item_that_landed_after_training_has_factors_at_once(learned):
    settings, first, update = learned
    facts = artefacts.describe(settings, update["artefacts"]["item_factors"])
    assert "fresh" not in facts["items"] + facts["others"]
    table = update["tables"]["item_vectors"]
    row = vectors.read(settings, first["encoder_id"], "item_vectors", table["version"], keys=["fresh"]).to_pylist()[0]
    assert any(row["left"])
    assert any(row["right"])


def test_a_late_daily_run_takes_the_t_of_the_update_before_it(learned):
    settings, first, _ = learned
    as_of, newest = datetime.fromisoformat(first["as_of"]), publications.newest(settings)["as_of"]
    assert as_of < datetime.fromisoformat(newest)

    def planned(late: timedelta) -> dict[str, Any]:
        return publications.candidate(settings, plan_recommend(settings, as_of, late=late)["candidate"])

    found = planned(timedelta(days=1))
    assert (found["as_of"], found["lists"]["as_of"], found["full"]) == (newest, newest, False)
    past = planned(timedelta(0))
    assert (past["as_of"], past["full"]) == (first["as_of"], True), "as in a backfill, which goes back"


def test_fresh_lists_take_sources_of_their_own_time_and_a_young_ranker(learned):
    settings, first, update = learned
    fresh = published(settings, plan_recommend(settings), gated=False)
    assert fresh["lists"]["as_of"] == update["as_of"] > first["lists"]["as_of"]
    assert fresh["artefacts"]["ranker"] == first["artefacts"]["ranker"]
    assert fresh["artefacts"]["sources"] != first["artefacts"]["sources"]
    older = settings.model_copy(update={"ranker": RANKER.model_copy(update={"max_age_days": 1e-3})})
    older.__dict__.pop("hash", None)
    plan = plan_recommend(older, samples.FIRST + timedelta(hours=HOURS + 2), beyond_data=True)
    retrained = published(older, plan, gated=False)
    assert retrained["artefacts"]["ranker"] != fresh["artefacts"]["ranker"]


def test_on_what_was_made_without_a_ranker_nothing_builds(learned):
    """As where a publication of before there were any was rebuilt."""
    settings, first, _ = learned
    kept = {kind: name for kind, name in first["artefacts"].items() if kind in ("text_mean", "item_factors")}
    with lake.connect(settings) as connection:
        why = _why_full(settings, connection, {**first, "artefacts": kept}, first["lake_snapshot"])
        assert why == f"publication {first['id']} was made without ranker, sources"
        assert _why_full(settings, connection, first, first["lake_snapshot"]) is None


def test_a_window_in_which_nobody_took_anything_new_is_passed_over(tmp_path):
    """And a user who had everything is listed nothing."""
    settings = Settings(home=tmp_path / "home", ranker=RANKER.model_copy(update={"linear_share": None}))
    rows = samples.events(900, users=USERS, items=ITEMS, hours=HOURS - 3)
    one = {**rows[0], "user_id": "u0", "item_id": "i0"}
    # For three hours u0 alone does something, and again with what u0 had.
    quiet = [
        {**one, "event_id": f"again{hour}", "event_ts": (samples.FIRST + timedelta(hours=hour, minutes=5)).isoformat()}
        for hour in range(HOURS - 3, HOURS)
    ]
    had = [{**rows[0], "event_id": f"all{n}", "user_id": "all", "item_id": f"i{n}"} for n in range(ITEMS)]
    landed(settings, tmp_path, [one | {"event_id": "had"}, *rows, *had, *quiet])
    cleaned(settings)
    state = published(settings, plan_recommend(settings))
    described = artefacts.describe(settings, state["artefacts"]["ranker"])
    assert described["model"] != "blend"
    assert described["trial"]["users"] > 0
    assert lists(settings, state)["all"]["items"] == []


def test_with_too_few_users_the_lists_keep_the_blend_and_say_so(learned, tmp_path):
    settings, _, _ = learned
    few = settings.model_copy(
        update={"ranker": RANKER.model_copy(update={"min_users": 10_000}), "surfaces": (Surface(exploration=0),)}
    )
    few.__dict__.pop("hash", None)
    made = published(few, plan_rebuild(few), gated=False)
    described = artefacts.describe(few, made["artefacts"]["ranker"])
    assert described["model"] == "blend"
    assert "10000 are needed" in described["why"]
    table = made["tables"]["recommendations_home"]
    rows = vectors.read(few, made["encoder_id"], "recommendations_home", table["version"]).to_pylist()
    named = {name for row in rows for reasons in row["reasons"] for name in reasons}
    assert not named & {"trees", "exploration", "segment"}


def test_with_too_few_users_what_was_had_is_shown_again_by_how_often_then_by_what_is_popular(tmp_path):
    settings = Settings(home=tmp_path / "home", surfaces=(Surface(name="home", show_seen=True, exploration=0),))
    had = {"u0": ["i7", "i3", "i7", "i9", "i3", "i7"], "u1": ["i1", "i2"], "u2": ["i2", "i1"], "u3": ["i1", "i3"]}
    had |= {"u4": ["i1"], "u5": ["i9"] * 5}
    event = samples.events(1)[0]
    rows = [
        {**event, "event_id": f"{user}-{n}", "user_id": user, "item_id": item, "event_ts": when.isoformat()}
        for user, items in had.items()
        for n, item in enumerate(items)
        for when in [samples.FIRST + timedelta(minutes=n if user in ("u0", "u5") else 0)]
    ]
    landed(settings, tmp_path, rows)
    cleaned(settings)
    state = published(settings, plan_recommend(settings))
    described = artefacts.describe(settings, state["artefacts"]["ranker_repeats"])
    assert (described["model"], described["users"]) == ("habits", 0)
    assert "at least 5 are needed" in described["why"]
    made = lists(settings, state)
    assert made["u0"]["items"] == ["i7", "i3", "i9", "i1", "i2"]
    # What u2 had, each once, by how popular it is; then the rest by the same.
    assert made["u2"]["items"] == ["i1", "i2", "i9", "i7", "i3"]


def test_where_users_take_all_that_there_is_lists_keep_to_habits_and_say_so(tmp_path):
    settings = Settings(home=tmp_path / "home", surfaces=(Surface(name="home", show_seen=True),), ranker=RANKER)
    landed(settings, tmp_path, samples.events(600, users=USERS, items=1, hours=HOURS))
    cleaned(settings)
    state = published(settings, plan_recommend(settings))
    described = artefacts.describe(settings, state["artefacts"]["ranker_repeats"])
    assert described["users"] >= RANKER.min_users, "enough to learn from, were there anything"
    assert described["model"] == "habits"
    assert "no order to learn" in described["why"]
    assert {len(row["items"]) for row in lists(settings, state).values()} == {1}


def test_a_trial_on_the_newest_windows_says_how_far_trees_are_trusted(learned):
    settings, first, _ = learned
    free = settings.model_copy(update={"ranker": RANKER.model_copy(update={"linear_share": None})})
    free.__dict__.pop("hash", None)
    made = published(free, plan_rebuild(free), gated=False)
    described = artefacts.describe(free, made["artefacts"]["ranker"])
    assert described["trial"]["users"] > 0
    assert {f"linear share {share}" for share in SHARES} < set(described["trial"]["ndcg"])
    assert described["model"] != "blend"
    assert (described["model"] == "linear and trees") == bool(described["trees"])
    of_set = artefacts.describe(settings, first["artefacts"]["ranker"])
    assert (of_set["linear_share"], of_set["trial"]["users"]) == (0.25, 0), "what is set is not tried"


def fashions(event: dict[str, Any]) -> list[dict[str, Any]]:
    """Each hour some users take an item that nobody had, and in the next hour many others do: a ranker can learn that."""
    found = []
    for hour in range(HOURS - 1):
        for n in range(30):
            late = timedelta(hours=hour + (n >= 10), minutes=5 + n)
            facts = {"event_id": f"f{hour}-{n}", "user_id": f"u{(hour * 7 + n) % USERS}", "item_id": f"fashion{hour}"}
            found.append({**event, **facts, "event_ts": (samples.FIRST + late).isoformat()})
    return found


def test_hourly_trends_reach_users_without_new_events_and_a_rebuild_gives_the_same(tmp_path):
    """Two homes get the same hour, in which a crowd wants one item; in one of them the surface asks for hourly trends."""
    made = {}
    for trends in ("daily", "hourly"):
        settings = Settings(home=tmp_path / trends, ranker=RANKER, surfaces=(Surface(trends=trends),))
        rows = samples.events(1500, users=USERS, items=ITEMS, hours=HOURS)
        # Nobody had it yet, so it is in everyone's pool as soon as it is popular.
        landed(settings, tmp_path, [row for row in rows if row["item_id"] != "i7"] + fashions(rows[0]))
        items = samples.write(tmp_path / "items.jsonl", samples.items(ITEMS))
        land(settings, items, format="canonical", arrival=samples.FIRST)
        cleaned(settings)
        first = published(settings, plan_recommend(settings), gated=False)
        when = (samples.FIRST + timedelta(hours=HOURS, minutes=30)).isoformat()
        crowd = [
            {**rows[0], "event_id": f"c{n}", "user_id": f"crowd{n}", "item_id": "i7", "event_ts": when}
            for n in range(60)
        ]
        landed(settings, tmp_path / "later", crowd)
        cleaned(settings)
        made[trends] = settings, first, published(settings, plan_update(settings), gated=False)

    for trends, (settings, first, update) in made.items():
        assert update["run"]["users"]["touched"] == 60, trends
        assert update["artefacts"]["ranker"] == first["artefacts"]["ranker"]
        assert (update["lists"]["as_of"] == update["as_of"]) == (trends == "hourly")
        before, after = lists(settings, first), lists(settings, update)
        moved = [f"u{n}" for n in range(USERS) if before[f"u{n}"] != after[f"u{n}"]]
        assert len(moved) == (USERS if trends == "hourly" else 0)
        rebuilt = published(settings, plan_rebuild(settings, publication=update["id"]), gated=False)
        assert rebuilt["artefacts"] == update["artefacts"]
        assert_same_exports(settings, rebuilt, settings, update, tmp_path)

    def place(trends: str) -> float:
        settings, _, update = made[trends]
        found = lists(settings, update)
        return sum(found[f"u{n}"]["items"].index("i7") for n in range(USERS)) / USERS

    assert place("hourly") < place("daily") - 1
