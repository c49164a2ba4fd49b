"""What lists are worth as they grow old: against plain loops, blind to what comes later, and what is said of it."""

import json
from collections import Counter
from dataclasses import fields
from datetime import timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from include.models.candidates import popularity
from include.models.encoder import TextEncoder
from include.models.freshness import curve, measurable, refreshed, refreshed_at
from include.models.histories import Histories
from include.models.interests import unit
from include.models.texts import item_texts
from include.models.traits import Traits
from include.settings import Settings, Surface
from include.steps import freshness
from include.steps.backtest import backtest_cut, plan_backtest, recommend_as_of
from include.steps.doctor import doctor
from include.steps.freshness import Told, active_hours, measure_freshness, ranked_at, read_texts, read_told, trends_at
from include.steps.report_backtest import _freshness as joined
from include.steps.report_backtest import report_backtest
from include.stores import backtests, behaviour, lake
from tests import test_candidates
from tests.test_backtest import CUT as BOUNDARY
from tests.test_backtest import END, USERS, at, delivered, future, past
from tests.test_candidates import DAY, ITEMS, fitted, neighbours
from tests.test_path import include

CUT, HOURS = END - timedelta(hours=6), 6
HISTORIES = test_candidates.histories()


@pytest.mark.parametrize(
    ("window", "found"),
    [
        (1, ["never"]),
        (24, ["never", "6-hourly", "hourly"]),
        (168, ["never", "daily", "6-hourly", "hourly"]),
        (720, ["never", "weekly", "daily", "6-hourly", "hourly"]),
    ],
)
def test_a_cadence_without_a_refresh_in_the_window_is_left_out(window, found):
    assert measurable(window) == found


def test_a_refresh_is_the_last_one_before_an_hour():
    assert [refreshed_at(hour, "6-hourly") for hour in (0, 5, 6, 17, 18)] == [0, 0, 6, 12, 18]
    assert [refreshed_at(hour, "daily") for hour in (23, 24, 170)] == [0, 24, 168]
    assert refreshed_at(29, "hourly") == 29
    assert refreshed_at(10_000, "never") == 0


def test_trends_are_those_of_a_fit_at_that_time_and_the_rest_stays():
    sources, later = fitted(HISTORIES), fitted(HISTORIES, DAY + 4)
    fresh = refreshed(sources, HISTORIES.before(DAY + 4), sources.traits, sources.text, np.zeros(ITEMS), DAY + 4)
    trends = ("day", "counts", "popularity", "first_day", "last_day")
    tensors, of_later = fresh.tensors(), later.tensors()
    for name, tensor in sources.tensors().items():
        expected = of_later[name] if name in trends else tensor
        assert np.array_equal(tensors[name], expected), name
    assert not np.array_equal(sources.popularity, fresh.popularity)
    same = refreshed(sources, HISTORIES.before(DAY), sources.traits, sources.text, np.zeros(ITEMS), DAY).tensors()
    assert all(np.array_equal(same[name], tensor) for name, tensor in sources.tensors().items())


def test_items_that_appeared_since_have_trends_traits_and_neighbours_and_no_learned_relations():
    more = Histories(HISTORIES.user, HISTORIES.item, HISTORIES.day, (HISTORIES.shape[0], ITEMS + 3))
    sources = fitted(HISTORIES)
    random = np.random.default_rng(1)
    texts = np.concatenate([sources.traits.texts, random.normal(size=(3, sources.traits.texts.shape[1]))])
    traits = Traits.of(texts.astype(np.float32), [["a"]] * (ITEMS + 3), [None] * (ITEMS + 3))
    near = neighbours(traits.texts)
    fresh = refreshed(sources, more, traits, near, np.zeros(ITEMS + 3), DAY + 6)
    factors = ("left", "right", "low_left", "low_right")
    for field in fields(fresh):
        value = getattr(fresh, field.name)
        if field.name not in ("day", "traits", *factors) and not field.name.startswith("recent"):
            assert value.shape[-1] == ITEMS + 3, field.name
    assert fresh.ease.shape == (ITEMS + 3, ITEMS + 3)
    assert (fresh.ease[:ITEMS, :ITEMS] != sources.ease).nnz == 0
    assert fresh.ease.nnz == sources.ease.nnz
    assert fresh.recent.shape == (sources.recent.shape[0], ITEMS + 3)
    assert fresh.recent_month.shape == (sources.recent_month.shape[0], ITEMS + 3)
    assert fresh.traits is traits
    for part in (getattr(fresh, name) for name in factors):
        assert len(part) == ITEMS + 3
        assert not part[ITEMS:].any()
    for name, likes in fresh.popularity_of_likes.items():
        assert likes.shape == (ITEMS + 3,)
        assert likes[ITEMS:].any() == (not name.endswith("_by_creators"))


def test_the_slowest_cadence_that_is_not_shown_to_be_worse_is_named():
    random = np.random.default_rng(1)
    users = np.arange(400) % 200
    base = random.uniform(0.0, 0.6, 400)
    noise = random.normal(0.0, 0.1, 400)
    ndcg = {"never": base * 0.5, "daily": base + noise, "hourly": base}
    found = curve(ndcg, users, 1)
    assert found["rewarded"] == "daily"
    assert found["cadences"]["never"]["ratio"]["high"] < 1
    assert found["cadences"]["daily"]["ratio"] == {"ratio": 1.0, "low": 1.0, "high": 1.0}
    assert curve({**ndcg, "hourly": base * 2}, users, 1)["rewarded"] == "hourly"
    assert curve({"never": base, "hourly": base}, users, 1)["against"] == "never"
    nothing = curve({"never": base * 0, "hourly": base * 0}, users, 1)
    assert nothing["rewarded"] is None


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Settings:
    return delivered(tmp_path_factory.mktemp("whole"), with_future=True)


def planned(settings: Settings, **options) -> dict:
    methods = ["tidemark", "popularity"]
    found = plan_backtest(settings, every="3h", cuts=1, k=5, methods=methods, freshness=True, **options)
    # By hand, so that the home that never got the future has the same window.
    return {**found, "every": f"{HOURS}h", "cuts": [CUT.isoformat()], "as_of": END.isoformat()}


def seen_at(settings: Settings, hour: int, users: list[str]) -> list[list[str]]:
    """Each user's list as of an hour after the cut."""
    plan = planned(settings)
    learned = recommend_as_of(settings, plan, CUT.isoformat(), users)[2]
    assert learned is not None
    told = read_told(settings, plan, CUT)
    return lists_at(plan, told, learned.ranking, read_texts(settings, told, learned), hour, users)


def lists_at(plan: dict, told: Told, ranking, texts, hour: int, users: list[str]) -> list[list[str]]:
    of = np.array([told.users.index(user) for user in users])
    order = np.argsort(of)
    found = ranked_at(plan, told, trends_at(told, ranking, texts, hour), hour, hour, of[order])
    return [[told.items[item] for item in row] for row in found[np.argsort(order)]]


@pytest.fixture(scope="module")
def users() -> list[str]:
    return sorted(f"u{n}" for n in range(USERS))


@pytest.fixture(scope="module")
def learned(whole, users):
    plan = planned(whole)
    lists, _, learned = recommend_as_of(whole, plan, CUT.isoformat(), users)
    assert learned is not None
    told = read_told(whole, plan, CUT)
    return plan, told, learned, read_texts(whole, told, learned), lists


def test_lists_as_of_the_cut_are_the_products_own(learned, users):
    plan, told, found, texts, lists = learned
    own = lists.filter(pc.equal(lists["method"], "tidemark")).to_pylist()
    again = lists_at(plan, told, found.ranking, texts, 0, users)
    assert again == [[row["item_id"] for row in own if row["user_id"] == user] for user in users]


def test_lists_of_a_refresh_see_nothing_at_or_after_it(learned, users, tmp_path, monkeypatch):
    """A home that holds the future, and one that ends where the lists are made anew."""
    plan, told, found, texts, _ = learned
    hour = (BOUNDARY - CUT) // timedelta(hours=1)
    honest = lists_at(plan, told, found.ranking, texts, hour, users)
    assert honest == seen_at(delivered(tmp_path, with_future=False), hour, users)
    assert honest != lists_at(plan, told, found.ranking, texts, 0, users), "a refresh does something"
    for guard, opened in (
        ("counts_at", lambda told, hour: np.ones(len(told.weight), dtype=bool)),
        ("items_at", lambda told, hour: len(told.items)),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(Told, guard, opened)
            assert lists_at(plan, told, found.ranking, texts, hour, users) != honest, guard


def test_what_appeared_later_says_of_itself_what_the_lake_says(whole, learned):
    plan, told, found, texts, _ = learned
    with lake.connect(whole) as connection:
        rows = behaviour.items(connection, plan["lake_snapshot"], END).drop_columns("available").to_pylist()
    new = [f"new{n}" for n in range(3)]
    assert told.items[told.known :] == new
    assert told.described.slice(told.known).to_pylist() == [row for row in rows if row["item_id"] in new]
    fresh = trends_at(told, found.ranking, texts, HOURS).sources
    traits, near = fresh.traits, fresh.text.toarray()
    # The three have a title of their own, and the categories and the creator of i0.
    own, first = told.items.index("i0"), told.known
    assert traits.texts[first] @ traits.texts[first + 1] == pytest.approx(1.0, abs=1e-6)
    assert traits.texts[first] @ traits.texts[own] < 0.9
    assert near[first].argmax() in (first + 1, first + 2)
    assert near[:first, first:].any(), "and what was there before has them for neighbours"
    for matrix in (traits.categories, traits.creators):
        rows = matrix.toarray()
        assert np.array_equal(rows[first], rows[own])
        assert rows[first].any()
    assert len(trends_at(told, found.ranking, texts, 0).sources.traits.texts) == told.known
    told_first = told.described.slice(first, 1)
    raw = TextEncoder(whole.encoder).encode(item_texts(told_first), prefix=whole.encoder.item_prefix)
    assert np.allclose(traits.texts[first], unit(raw - found.text_mean)[0], atol=1e-5)


def test_popularity_and_targets_are_those_of_the_landed_events(whole, monkeypatch):
    """Targets, lists and NDCG of each hour and user from the events as they were landed, by plain loops."""
    monkeypatch.setattr(freshness, "HALF_LIVES_DAYS", (None,))
    plan = planned(whole)
    rows, facts = measure_freshness(whole, plan, CUT, None)
    events = [row for row in [*past(), *future()] if row["item_id"] and row["event_type"] != "unlike"]

    def happened(hour: int) -> list[dict]:
        time = CUT + timedelta(hours=hour)
        return [
            row
            for row in events
            if at(row) < time and not (row["event_id"] == "liked" and time > BOUNDARY + timedelta(minutes=40))
        ]

    def there(hour: int) -> list[str]:
        new = [f"new{n}" for n in range(3)] if hour > (BOUNDARY - CUT) // timedelta(hours=1) else []
        return [*sorted(f"i{n}" for n in range(40)), *new]

    def had(user: str, hour: int) -> set[str]:
        return {row["item_id"] for row in happened(hour) if row["user_id"] == user}

    def listed(user: str, hour: int) -> list[str]:
        counts = Counter(row["item_id"] for row in happened(hour))
        own = had(user, hour)
        left = [item for item in there(hour) if item not in own]
        return sorted(left, key=lambda item: -counts[item])[:5]

    expected = {}
    for hour in range(HOURS):
        start, end = CUT + timedelta(hours=hour), CUT + timedelta(hours=hour + 1)
        for user in {row["user_id"] for row in happened(0)}:
            used = {row["item_id"] for row in happened(HOURS) if row["user_id"] == user and start <= at(row) < end}
            targets = {item for item in used if item in there(hour)} - had(user, hour)
            if targets:
                for cadence, refresh in (("never", 0), ("hourly", hour)):
                    gains = [1 / np.log2(rank + 2) for rank, i in enumerate(listed(user, refresh)) if i in targets]
                    best = sum(1 / np.log2(rank + 2) for rank in range(min(5, len(targets))))
                    expected[cadence, hour, user] = sum(gains) / best
    found = {(row["cadence"], row["hour"], row["user_id"]): row["ndcg"] for row in rows.to_pylist()}
    assert found == pytest.approx(expected)
    assert set(rows["curve"].to_pylist()) == {"popularity"}
    assert facts["rows"] * 2 == len(expected) > 50
    assert sum(expected.values()) > 0
    assert facts["half_life_days"] == {"never": None, "hourly": None}


@pytest.fixture(scope="module")
def done(whole, tmp_path_factory):
    """A backtest with freshness, by the command, into a folder elsewhere."""
    out = tmp_path_factory.mktemp("results")
    options = ("--every", "3h", "--cuts", "2", "--k", "5", "--methods", "tidemark,popularity", "--out", str(out))
    before = doctor(whole)["freshness"]
    assert (
        "run `python -m include backtest --every 14d --cuts 2 --surface home --freshness --out DIR`" in before["home"]
    )
    found = include(whole.home, "backtest", *options, "--freshness", TIDEMARK_RANKER=whole.ranker.model_dump_json())
    assert found.returncode == 0, found.stderr
    return out, found, json.loads((out / "metrics.json").read_text())


def test_the_command_the_metrics_and_the_page_tell_each_cadence(done):
    out, found, metrics = done
    told = metrics["freshness"]
    assert set(told["curves"]) == {"lists", "trends", "popularity"}
    for name, each in told["curves"].items():
        assert set(each["cadences"]) == {"never", "hourly"}
        assert each["rewarded"] in each["cadences"]
        assert f"{name}: as good as the best at: {each['rewarded']}" in found.stdout
        for facts in each["cadences"].values():
            assert facts["ratio"]["low"] <= facts["ratio"]["ratio"] <= facts["ratio"]["high"]
    # With their own histories followed by the hour, only the trends differ; made anew by the hour, both are the same lists.
    lists, trends = (told["curves"][name]["cadences"] for name in ("lists", "trends"))
    assert lists["hourly"] == trends["hourly"] | {
        "of_best": lists["hourly"]["of_best"],
        "ratio": lists["hourly"]["ratio"],
    }
    assert set(told["left_out"]) == {"weekly", "daily", "6-hourly"}
    page = (out / "report.html").read_text()
    assert page.count("<svg") == 6
    assert "How fresh lists should be" in page
    assert "6-hourly was left out: no refresh of it falls inside a window of 3h" in page


def test_doctor_says_which_cadence_the_data_reward(whole, done):
    rewarded = done[2]["freshness"]["curves"]["lists"]["rewarded"]
    words = {"never": "lists that stay for 3h", "hourly": "lists made anew hourly"}
    assert words[rewarded] in doctor(whole)["freshness"]["home"]
    assert (
        include(whole.home, "doctor", TIDEMARK_RANKER=whole.ranker.model_dump_json()).stdout.count("freshness: ") == 1
    )


@pytest.mark.parametrize(
    ("setting", "low", "advice"),
    [
        (
            "daily",
            1.1,
            "hourly trends were worth 1.200 times (1.100 to 1.300) daily ones: set `trends` to `hourly`",
        ),
        ("daily", 0.9, None),
        ("daily", None, "hourly trends had hits, and daily ones had none: set `trends` to `hourly`"),
        ("hourly", None, None),
        ("hourly", 0.9, "hourly trends were not shown to be worth more than daily ones: set `trends` to `daily`"),
        ("hourly", 1.1, None),
    ],
)
def test_doctor_advises_the_setting_that_the_trends_reward(settings, setting, low, advice):
    surfaces = (Surface(name="news", trends=setting),)
    home = settings.model_copy(update={"surfaces": surfaces})
    ratio = {"ratio": low and 1.2, "low": low, "high": low and 1.3}
    cadences = {name: {"ndcg": 0.1, "ratio": ratio, "of_best": ratio} for name in ("never", "daily", "hourly")}
    rewarded = "hourly" if low else "6-hourly"  # which may be as good as the best
    each = {"cadences": cadences, "against": "daily", "best": "hourly", "rewarded": rewarded}
    found = {
        "backtest": {"as_of": END.isoformat(), "cuts": [CUT.isoformat()], "every": "7d", "settings_hash": home.hash},
        "freshness": {"curves": {"lists": each, "trends": each}},
    }
    backtests.write_freshness(home, "news", found)
    said = [line for line in doctor(home)["advice"] if "trends" in line]
    assert said == ([] if advice is None else [f"surface news: {advice} in TIDEMARK_SURFACES"])


def test_without_anybody_active_it_says_so(whole, tmp_path, monkeypatch):
    plan = planned(whole, out=tmp_path)
    monkeypatch.setattr(freshness, "active_hours", lambda told, plan: [])
    backtest_cut(whole, plan, plan["cuts"][0])
    report_backtest(whole, plan)
    assert backtests.read_metrics(tmp_path)["freshness"]["curves"] == {}
    assert "so nothing was measured" in (tmp_path / "report.html").read_text()


def test_without_a_ranker_popularity_alone_is_measured_and_the_page_says_why(whole, tmp_path):
    other = whole.model_copy(update={"surfaces": (Surface(name="other"),)})
    options = {"every": "3h", "cuts": 1, "k": 5, "surface": "other", "freshness": True, "out": tmp_path}
    plan = plan_backtest(other, methods=["popularity"], **options)
    backtest_cut(other, plan, plan["cuts"][0])
    report_backtest(other, plan)
    found = backtests.read_metrics(tmp_path)["freshness"]
    assert list(found["curves"]) == ["popularity"]
    assert found["left_out"].items() >= dict.fromkeys(("lists", "trends"), "tidemark is none of the methods").items()
    assert "trends was left out: tidemark is none of the methods" in (tmp_path / "report.html").read_text()
    assert backtests.read_freshness(other, "other")["backtest"]["as_of"] == END.isoformat()
    # What a backtest of an earlier time finds does not take its place.
    plan = plan_backtest(other, methods=["popularity"], until=END - timedelta(hours=1), **options)
    backtest_cut(other, plan, plan["cuts"][0])
    report_backtest(other, plan)
    assert backtests.read_freshness(other, "other")["backtest"]["as_of"] == END.isoformat()


def test_all_curves_are_of_the_cuts_that_have_a_ranker():
    def rows(curves: tuple[str, ...], ndcg: float) -> pa.Table:
        made = [(curve, cadence, 0, "u1", ndcg) for curve in curves for cadence in ("never", "hourly")]
        return pa.table(list(zip(*made, strict=True)), schema=freshness.ROWS)

    facts = {cut: {"rows": 1, "targets": 1, "targets_released": 0, "half_life_days": {}} for cut in ("early", "late")}
    plan = {"methods": ["tidemark"], "every": "3h", "seed": 1}
    tables = {"early": rows(("popularity",), 0.5), "late": rows(tuple(freshness.CURVES), 1.0)}
    found = joined(plan, facts, tables)
    assert {each["cadences"]["never"]["ndcg"] for each in found["curves"].values()} == {1.0}
    assert found["rows"] == 1
    assert found["left_out"]["early"] == "its lists keep the blend, which has no trends"
    alone = joined(plan, {"early": facts["early"]}, {"early": tables["early"]})
    assert alone["left_out"]["trends"] == "lists of all cuts keep the blend"


def test_popularity_halves_what_is_a_half_life_old():
    one = Histories(np.array([0, 0]), np.array([0, 1]), np.array([1.0, 3.0]), (1, 3))
    assert popularity(one, 3.0, (2.0, None)).tolist() == [[0.5, 1.0, 0.0], [1.0, 1.0, 0.0]]


def test_hours_are_of_users_with_a_history(whole):
    plan = planned(whole)
    told = read_told(whole, plan, CUT)
    names = {told.users[user] for each in active_hours(told, plan) for user in each.users}
    assert names
    assert not any(name.startswith("crowd") for name in names)
