"""The backtest: what a cut cannot see, that it repeats, what it counts, and what it refuses."""

import json
import math
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from benchmarks.bench_neural_peers import PEERS as OUTSIDE
from benchmarks.bench_neural_peers import export, judged
from include.errors import BadInput
from include.models import peers
from include.models.peers import PEERS
from include.settings import Ranker, Settings, Surface
from include.steps.backtest import METHODS, backtest_cut, known_at, plan_backtest, recommend_as_of, window_after
from include.steps.land import land
from include.steps.report_backtest import report_backtest
from include.stores import backtests, behaviour, maintenance
from include.stores.lock import writing
from tests import samples
from tests.test_path import cleaned, include

HOURS, USERS, ITEMS = 12, 20, 40
END = samples.FIRST + timedelta(hours=HOURS)
CUT = END - timedelta(hours=3)
RANKER = Ranker(window_days=1.5 / 24, min_users=5, min_users_for_trees=5)
SHOWN = [name for name in METHODS if name != "own_frequency"]
Rows = list[dict[str, Any]]


@cache
def past() -> Rows:
    """Events before the cut; one of them is reversed behind it."""
    rows = [row for row in samples.events(400, users=USERS, items=ITEMS, hours=HOURS) if at(row) < CUT]
    liked = {"event_id": "liked", "user_id": "u1", "item_id": "i2", "event_type": "like"}
    return [*rows, event(CUT - timedelta(minutes=90), **liked)]


@cache
def future() -> Rows:
    """Everything that could give a cut away: what the users do next, write, take back, and what all the world will want."""
    rows = [row for row in samples.events(400, users=USERS, items=ITEMS, hours=HOURS) if at(row) >= CUT]
    late = CUT + timedelta(minutes=40)
    unlike = {"event_id": "unliked", "user_id": "u1", "item_id": "i2", "event_type": "unlike"}
    spike = [
        event(
            late, event_id=f"spike{n}", user_id=f"crowd{n % 60}", item_id=("i7", "new1")[n % 2], event_type="purchase"
        )
        for n in range(240)
    ]
    wrote = [
        event(late, event_id=f"wrote{n}", user_id=f"u{n}", event_type="comment", text="an amber harbour at dusk")
        for n in range(USERS)
    ]
    return [*rows, event(late, **unlike), *spike, *wrote]


def event(when: datetime, **values: Any) -> dict[str, Any]:
    empty = dict.fromkeys(samples.events(1)[0])
    return {**empty, "event_ts": when.isoformat(), **values}


def at(row: dict[str, Any]) -> datetime:
    return datetime.fromisoformat(row["event_ts"])


def delivered(folder: Path, *, with_future: bool) -> Settings:
    """A home into which the past was landed and cleaned; and then, maybe, the future. Its lists are a learned ranker's."""
    settings = Settings(home=folder / "home", ranker=RANKER)
    items = [{**item, "creator_id": f"maker{n % 5}"} for n, item in enumerate(samples.items(ITEMS))]
    land(settings, samples.write(folder / "events.jsonl", past()), format="canonical", arrival="event")
    land(settings, samples.write(folder / "items.jsonl", items), format="canonical", arrival=samples.FIRST)
    if with_future:
        more = folder / "more"
        # Texts, prices, categories and creators that come later, and items nobody could know.
        told = {"title": "amber harbour", "description": "dusk", "categories": ["amber"], "creator_id": "maker0"}
        changed = [{**items[n], **told, "price": 1000.0 + n} for n in range(0, ITEMS, 2)]
        new = [{**items[0], "item_id": f"new{n}", "title": "amber dusk", "price": 0.5} for n in range(3)]
        land(settings, samples.write(more / "events.jsonl", future()), format="canonical", arrival="event")
        land(settings, samples.write(more / "items.jsonl", [*changed, *new]), format="canonical", arrival=CUT)
    cleaned(settings)
    return settings


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Settings:
    return delivered(tmp_path_factory.mktemp("whole"), with_future=True)


@pytest.fixture(scope="module")
def users(whole) -> list[str]:
    return sorted(f"u{n}" for n in range(USERS))


def recommended(settings: Settings, users: list[str], methods: list[str]) -> dict[str, pa.Table]:
    """What each method recommends as of the cut, from whatever snapshot the home has."""
    plan = plan_backtest(settings, every="3h", cuts=1, k=5, methods=methods)
    lists, facts, _ = recommend_as_of(settings, plan, CUT.isoformat(), users)
    assert facts["ranker"]["model"] != "blend", "what could leak into a ranker is looked at, too"
    return {name: lists.filter(pc.equal(lists["method"], name)) for name in methods}


@pytest.fixture(scope="module")
def honest(whole, users) -> dict[str, pa.Table]:
    return recommended(whole, users, SHOWN)


def test_a_home_that_holds_the_future_recommends_what_one_does_that_never_got_it(whole, users, honest, tmp_path):
    without = delivered(tmp_path, with_future=False)
    plan = plan_backtest(whole, every="3h", cuts=1, methods=SHOWN)
    assert plan["cuts"] == [CUT.isoformat()]
    other = recommended(without, users, SHOWN)
    for name in SHOWN:
        assert honest[name].num_rows == len(users) * 5, name
        assert honest[name].equals(other[name]), name


@pytest.mark.parametrize(
    ("guard", "opened", "methods"),
    [
        ("COUNTS", "$as_of IS NOT NULL", SHOWN),
        ("HOLDS", "valid_to IS NULL AND $as_of IS NOT NULL", ["tidemark"]),
    ],
)
def test_without_the_as_of_condition_the_future_shows(whole, users, honest, monkeypatch, guard, opened, methods):
    """The guard is taken out where all reads have it; every method that it guards gives itself away."""
    monkeypatch.setattr(behaviour, guard, opened)
    leaked = recommended(whole, users, methods)
    assert [name for name in methods if leaked[name].equals(honest[name])] == []


def exported(settings: Settings, folder: Path) -> set[str]:
    """Names of the exported tables, as `moment/table`, that hold what the cut could not know."""
    plan = plan_backtest(settings, every="3h", cuts=1, methods=["popularity"])
    export(settings, plan, folder)
    found = set()
    for moment, before in (("earlier", CUT - timedelta(hours=3)), ("cut", CUT)):
        done = pq.read_table(folder / moment / "interactions.parquet").to_pylist()
        assert done
        if any(row["event_ts"].replace(tzinfo=UTC) >= before for row in done):
            found.add(f"{moment}/interactions")
        for row in pq.read_table(folder / moment / "items.parquet").to_pylist():
            if row["item_id"].startswith("new") or row["title"] == "amber harbour":
                found.add(f"{moment}/items")
    return found


def test_what_methods_outside_are_given_holds_nothing_of_the_window_behind_the_cut(whole, tmp_path):
    assert exported(whole, tmp_path) == set()
    targets = pq.read_table(tmp_path / "earlier" / "targets.parquet").to_pylist()
    done = {(row["user_id"], row["item_id"]) for row in past() if CUT - timedelta(hours=3) <= at(row)}
    assert targets
    assert {(row["user_id"], row["item_id"]) for row in targets} <= done
    assert not (tmp_path / "cut" / "targets.parquet").exists()


@pytest.mark.parametrize(
    ("guard", "opened", "seen_in"),
    [
        ("COUNTS", "$as_of IS NOT NULL", {"earlier/interactions", "cut/interactions"}),
        ("HOLDS", "valid_to IS NULL AND $as_of IS NOT NULL", {"earlier/items", "cut/items"}),
    ],
)
def test_without_the_as_of_condition_they_are_given_the_future(whole, tmp_path, monkeypatch, guard, opened, seen_in):
    monkeypatch.setattr(behaviour, guard, opened)
    assert exported(whole, tmp_path) == seen_in


def test_lists_that_come_back_are_judged_as_the_backtest_judges_its_own(whole, tmp_path):
    """One method lists what users then did, and the other nothing right; the file is all that is read of them."""
    plan = plan_backtest(whole, every="3h", cuts=1, k=5, methods=["popularity"])
    export(whole, plan, tmp_path)
    known = known_at(whole, plan, CUT)
    window = window_after(whole, plan, known)
    lists, _, _ = recommend_as_of(whole, plan, CUT.isoformat(), window.users)
    best, none = OUTSIDE
    rows = []
    for number, user in enumerate(window.users):
        right = {known.items[item] for item in window.targets[[number]].indices}
        wrong = [item for item in known.items if item not in right | seen(user, CUT)]
        rows += [(best, user, rank, item) for rank, item in enumerate(sorted(right)[:5], start=1)]
        rows += [(none, user, rank, item) for rank, item in enumerate(wrong[:5], start=1)]
    write_lists(tmp_path, rows)
    found, counts = judged(whole, plan, tmp_path, lists)
    assert list(found) == ["popularity", *OUTSIDE]
    assert counts["pairs"] == len(window.users)
    assert (found[best]["ndcg"], found[none]["ndcg"]) == (1.0, 0.0)
    assert 0 < found["popularity"]["ndcg"] < 1
    assert found[best]["ratio"]["ratio"] == pytest.approx(found["popularity"]["ndcg"])

    user = window.users[0]
    write_lists(tmp_path, [(best, user, 1, min(seen(user, CUT) & set(known.items)))])
    with pytest.raises(SystemExit, match="items that were not to be recommended"):
        judged(whole, plan, tmp_path, lists)


def write_lists(folder: Path, rows: list[tuple[str, str, int, str]]) -> None:
    columns = dict(zip(("method", "user_id", "rank", "item_id"), map(list, zip(*rows, strict=True)), strict=True))
    table = pa.table({"cut": [CUT] * len(rows), **columns, "score": [1.0] * len(rows)})
    pq.write_table(table, folder / "recommendations.parquet")


def kept(settings: Settings) -> dict[Path, int]:
    """Every file of the home but for what may be made anew, with when it was written. The command's HOME is there too."""
    files = (file for file in settings.home.rglob("*") if file.is_file())
    own = (file for file in files if not {".cache", ".config", "cache"} & set(file.parts))
    locks = (".writer.lock", "catalogue.sqlite-shm", "catalogue.sqlite-wal")
    return {file: file.stat().st_mtime_ns for file in own if file.name not in locks}


@pytest.fixture(scope="module")
def done(whole, tmp_path_factory) -> tuple[Path, Any]:
    """The command's results of two cuts, in a home that never published anything."""
    out = tmp_path_factory.mktemp("results")
    before = kept(whole)
    options = ("--every", "3h", "--cuts", "2", "--k", "5", "--out", str(out))
    found = include(whole.home, "backtest", *options, TIDEMARK_RANKER=RANKER.model_dump_json())
    assert found.returncode == 0, found.stderr
    assert kept(whole) == before
    assert backtests.scratch_folders(whole) == []
    return out, found


def test_the_command_names_the_best_peer_and_the_ratio(done):
    out, found = done
    metrics = json.loads((out / "metrics.json").read_text())
    assert set(metrics["methods"]) == set(SHOWN)
    assert metrics["best_peer"] in PEERS
    best = metrics["methods"][metrics["best_peer"]]["ndcg"]
    assert best == max(metrics["methods"][name]["ndcg"] for name in metrics["methods"] if name in PEERS)
    assert metrics["ratio"]["low"] <= metrics["ratio"]["ratio"] <= metrics["ratio"]["high"]
    assert f"best peer: {metrics['best_peer']}" in found.stdout
    assert f"tidemark / {metrics['best_peer']}: {metrics['ratio']['ratio']:.3f}" in found.stdout
    alone = metrics["vectors_against_ease"]
    assert alone["low"] <= alone["ratio"] <= alone["high"]
    assert f"tidemark_vectors / ease: {alone['ratio']:.3f} ({alone['low']:.3f} to {alone['high']:.3f})" in found.stdout
    assert f"{alone['ratio']:.3f} times EASE" in (out / "report.html").read_text()
    assert metrics["failed_gates"] == []


def test_the_results_have_the_columns_of_the_contract_in_order(done):
    table = pq.read_table(done[0] / "recommendations.parquet")
    assert table.schema.names == ["cut", "method", "user_id", "rank", "item_id", "score"]
    assert table.schema.field("cut").type == pa.timestamp("us", tz="UTC")
    rows = table.to_pylist()
    assert {row["cut"] for row in rows} == {END - timedelta(hours=6), CUT}
    assert {row["rank"] for row in rows} == {1, 2, 3, 4, 5}
    order = [(row["cut"], SHOWN.index(row["method"]), row["user_id"], row["rank"]) for row in rows]
    assert order == sorted(set(order))


def test_every_list_is_of_unseen_items_that_were_there(done):
    items = {f"i{n}" for n in range(ITEMS)}
    for row in pq.read_table(done[0] / "recommendations.parquet").to_pylist():
        assert row["item_id"] in items
        assert row["item_id"] not in seen(row["user_id"], row["cut"])


@cache
def seen(user: str, before: datetime) -> frozenset[str]:
    return frozenset(row["item_id"] for row in [*past(), *future()] if row["user_id"] == user and at(row) < before)


def test_metrics_are_those_of_the_landed_events(done):
    """Targets from the events as they were landed, lists from the Parquet file, and the definition of NDCG."""
    metrics = json.loads((done[0] / "metrics.json").read_text())
    lists = defaultdict(list)
    for row in pq.read_table(done[0] / "recommendations.parquet").to_pylist():
        lists[row["method"], row["cut"], row["user_id"]].append(row["item_id"])
    targets, released = {}, 0
    for cut in (END - timedelta(hours=6), CUT):
        window = [row for row in [*past(), *future()] if cut <= at(row) < cut + timedelta(hours=3) and row["item_id"]]
        # What was liked and taken back within one window would be none, but the sample has no such pair.
        window = [row for row in window if row["event_type"] not in ("unlike",)]
        for user in {row["user_id"] for row in window if seen(row["user_id"], cut)}:
            own = {row["item_id"] for row in window if row["user_id"] == user}
            released += len({item for item in own if item.startswith("new")})
            own = {item for item in own if item.startswith("i")} - seen(user, cut)
            if own:
                targets[cut, user] = own
    assert metrics["counts"]["pairs"] == len(targets)
    assert metrics["counts"]["targets_released_in_window"] == released
    for method in SHOWN:
        values = []
        for (cut, user), wanted in targets.items():
            gains = [1 / math.log2(rank + 2) for rank, item in enumerate(lists[method, cut, user]) if item in wanted]
            values.append(sum(gains) / sum(1 / math.log2(rank + 2) for rank in range(min(5, len(wanted)))))
        assert metrics["methods"][method]["ndcg"] == pytest.approx(sum(values) / len(values)), method


def test_the_page_is_whole_by_itself(done):
    page = (done[0] / "report.html").read_text()
    assert page.count("<svg") == 5
    assert page.count("What tidemark learned for each cut") == 1
    assert not any(word in page for word in ('src="', "@import", "<script", 'rel="stylesheet"'))


def test_again_it_gives_the_same_bytes(whole, done, tmp_path):
    plan = plan_backtest(whole, every="3h", cuts=2, k=5, out=tmp_path / "again")
    for cut in reversed(plan["cuts"]):  # in any order
        backtest_cut(whole, plan, cut)
    (tmp_path / "again" / "cuts" / "20200101").mkdir()
    for time in ("once", "and when its task is cleared"):
        report_backtest(whole, plan)
        for name in ("recommendations.parquet", "metrics.json", "report.html"):
            assert (tmp_path / "again" / name).read_bytes() == (done[0] / name).read_bytes(), (name, time)
            (tmp_path / "again" / name).unlink()
    assert len(list((tmp_path / "again" / "cuts").iterdir())) == 2, "those of an earlier backtest are gone"


def test_where_nothing_can_be_listed_every_method_has_nothing(tmp_path):
    settings = Settings(home=tmp_path / "home", ranker=RANKER)
    items = [{**item, "available_until": (CUT - timedelta(hours=1)).isoformat()} for item in samples.items(ITEMS)]
    land(settings, samples.write(tmp_path / "items.jsonl", items), format="canonical", arrival=samples.FIRST)
    rows = [*past(), *future()]
    land(settings, samples.write(tmp_path / "events.jsonl", rows), format="canonical", arrival="event")
    cleaned(settings)
    methods = ["tidemark", "ease", "popularity"]
    plan = plan_backtest(settings, every="3h", cuts=1, methods=methods, out=tmp_path / "out")
    facts = backtest_cut(settings, plan, plan["cuts"][0])
    report_backtest(settings, plan)
    metrics = backtests.read_metrics(tmp_path / "out")
    assert facts["eligible_items"] == 0
    assert metrics["counts"]["pairs"] > 0
    for method in methods:
        found = metrics["methods"][method]
        assert (found["pairs"], found["ndcg"], found["coverage"]) == (metrics["counts"]["pairs"], 0.0, 0.0), method
    assert metrics["ratio"]["ratio"] is None, "there is nothing to compare with"


def test_where_seen_items_may_be_shown_own_frequency_is_a_peer_and_repeats_count(whole, tmp_path):
    again = whole.model_copy(update={"surfaces": (Surface(name="again", show_seen=True),)})
    plan = plan_backtest(
        again, every="3h", cuts=1, surface="again", methods=["popularity", "own_frequency"], out=tmp_path
    )
    facts = backtest_cut(again, plan, plan["cuts"][0])
    assert facts["users_without_target"] == 0
    report_backtest(again, plan)
    rows = pq.read_table(tmp_path / "recommendations.parquet").to_pylist()
    firsts = [row for row in rows if row["method"] == "own_frequency" and row["rank"] == 1]
    assert firsts
    assert all(row["item_id"] in seen(row["user_id"], CUT) for row in firsts)


def test_what_cannot_be_fitted_is_left_out_with_its_reason(whole, tmp_path, monkeypatch):
    monkeypatch.setattr(peers, "MOST_EASE_ITEMS", 5)
    plan = plan_backtest(
        whole, every="3h", cuts=1, methods=["ease", "popularity", "own_frequency"], out=tmp_path / "results"
    )
    backtest_cut(whole, plan, plan["cuts"][0])
    report_backtest(whole, plan)
    metrics = backtests.read_metrics(tmp_path / "results")
    assert list(metrics["methods"]) == ["popularity"]
    assert "items were used; EASE is dense, and 5 are the most" in metrics["refused"]["ease"]
    assert "shows nothing that a user had already" in metrics["refused"]["own_frequency"]
    assert metrics["best_peer"] == "popularity"
    assert metrics["ratio"] is None


def test_what_cannot_be_fitted_at_one_cut_is_left_out_of_all(whole, tmp_path, monkeypatch):
    plan = plan_backtest(whole, every="3h", cuts=2, methods=["ease", "popularity"], out=tmp_path / "results")
    backtest_cut(whole, plan, plan["cuts"][0])
    monkeypatch.setattr(peers, "MOST_EASE_ITEMS", 5)
    backtest_cut(whole, plan, plan["cuts"][1])
    report_backtest(whole, plan)
    metrics = backtests.read_metrics(tmp_path / "results")
    assert list(metrics["methods"]) == ["popularity"]
    assert set(metrics["methods"]["popularity"]["cuts"]) == set(plan["cuts"])
    assert metrics["best_peer"] == "popularity"
    assert "items were used; EASE is dense, and 5 are the most" in metrics["refused"]["ease"]
    lists = pq.read_table(tmp_path / "results" / "recommendations.parquet")
    assert set(lists["method"].to_pylist()) == {"ease", "popularity"}, "what was made at the other cut is there"
    alone = plan_backtest(whole, every="3h", cuts=1, methods=["ease"], out=tmp_path / "alone")
    backtest_cut(whole, alone, alone["cuts"][0])
    with pytest.raises(BadInput, match=r"no method is left, .*: ease: .* items were used"):
        report_backtest(whole, alone)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"every": "7"}, "'7' is not a span"),
        ({"every": "0d"}, "'0d' is not a span"),
        ({"cuts": 4}, "4 cuts every 3h reach back .* at most 3 fit"),
        ({"methods": ["popularity", "oracle"]}, "unknown method 'oracle': choose from tidemark, .*own_frequency"),
        ({"methods": ["own_frequency"]}, "the surface home shows nothing that a user had already"),
        ({"surface": "cellar"}, "no surface 'cellar': choose from home"),
        ({"until": END + timedelta(hours=1)}, "the data end at"),
        ({"out": "s3://reports/x"}, "s3://reports/x: is an address"),
        ({"out": f"{__file__}/x"}, "nothing can be written there"),
        ({"out": __file__}, "nothing can be written there"),
    ],
)
def test_what_cannot_be_backtested_is_refused(whole, options, message):
    with pytest.raises(BadInput, match=message):
        plan_backtest(whole, **{"every": "3h", "cuts": 1, **options})


def test_results_do_not_go_among_what_the_home_keeps(whole):
    with pytest.raises(BadInput, match="among what the home keeps"):
        plan_backtest(whole, every="3h", cuts=1, out=whole.lake / "x")
    assert not (whole.lake / "x").exists()
    with pytest.raises(BadInput, match="among what the home keeps"):
        plan_backtest(whole, every="3h", cuts=1, out=whole.reports / ".." / "lake" / "x")
    outside = whole.home / ".." / "outside"
    assert plan_backtest(whole, every="3h", cuts=1, out=outside)["out"] == str(outside.resolve())
    out = whole.reports / "mine"
    assert plan_backtest(whole, every="3h", cuts=1, out=out)["out"] == str(out)


def test_bad_input_is_one_line_and_exit_code_2(whole, tmp_path):
    found = include(whole.home, "backtest", "--every", "week", "--cuts", "1", "--out", str(tmp_path))
    assert (found.returncode, found.stdout) == (2, "")
    assert (
        found.stderr == "error: every: 'week' is not a span: write up to 100,000 days or hours, for example 7d or 12h\n"
    )


def test_what_a_killed_backtest_left_goes_with_maintenance(settings):
    with backtests.scratch(settings) as folder:
        (folder / "vectors").mkdir()
        assert maintenance.leftovers(settings, timedelta(hours=1)) == []  # it may be at work
        assert maintenance.leftovers(settings, timedelta(0)) == [folder]
    assert not folder.exists()


def test_a_home_beside_the_home_shares_its_lake_and_its_texts_alone(settings, tmp_path):
    beside = settings.beside(tmp_path / "beside")
    shared = {"home", "landing", "lake", "text_vectors", "work"}
    apart = {"written", "vectors", "artefacts", "publications", "cache", "reports"}
    for name in shared | apart:
        assert (getattr(beside, name) == getattr(settings, name)) == (name in shared), name
    assert beside.with_encoder(beside.encoder.named).vectors == beside.vectors
    assert beside.beside(None) == settings
    with writing(settings), writing(beside):  # neither waits for the other
        pass


def test_without_a_gated_snapshot_there_is_nothing_to_backtest(settings):
    with pytest.raises(BadInput, match=r"no snapshot of the lake .* has passed the gate yet"):
        plan_backtest(settings, every="3h", cuts=1)
