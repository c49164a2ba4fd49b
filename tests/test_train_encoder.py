"""The encoder learns from what users took: pairs, the loss, the loop, and the way to a challenger, with real weights."""

import copy
import html
import json
import random
import shutil
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from include.errors import BadInput
from include.models import encoder as encoders
from include.models.adapter import Adapter
from include.models.contrastive import Lesson, Pace, Pairs, Trainer, allowed, info_nce, make_pairs, near_documents
from include.models.learned import DOWN, MEAN, UP, adapted, unit_rows
from include.models.lora import Lora, last_linear_layers
from include.settings import Encoder, Ranker, Settings, Training
from include.steps import train_encoder as steps
from include.steps.backtest import plan_backtest
from include.steps.challenge import compare_challenger
from include.steps.compare_encoders import measure_encoder, plan_comparison
from include.steps.land import land
from include.steps.plan import plan_rebuild, plan_recommend
from include.steps.prune import _let_artefacts_go
from include.steps.read_pairs import lesson_of, lesson_tensors, read_lesson
from include.stores import artefacts, behaviour, lake, publications, training, vectors
from tests import samples
from tests.test_backtest import CUT, delivered
from tests.test_path import assert_same_exports, cleaned, published

# Pairs, masks and the loss, by plain loops


def events(seed: int, n: int = 300) -> tuple[np.ndarray, ...]:
    draw = np.random.default_rng(seed)
    user, ts, document = draw.integers(0, 9, n), draw.integers(0, 60, n), draw.integers(0, 25, n)
    return user, ts, document, draw.random(n) < 0.8


def pairs_by_loops(user, ts, document, taken, history, known_until, most) -> list[tuple[int, list[int], int]]:
    found = []
    for who in range(9):
        own = sorted((ts[n], document[n], taken[n]) for n in range(len(user)) if user[n] == who)
        had, mine = set(), []
        for when, what, is_taken in own:
            if not is_taken or what in had:
                continue
            had.add(what)
            before = [row[1] for row in own if row[0] < (when if known_until is None else known_until)]
            if before and (known_until is None or when >= known_until):
                mine.append((who, before[::-1][:history], what))
        found += mine[-most:] if most else mine
    return found


@pytest.mark.parametrize(("known_until", "most"), [(None, None), (None, 3), (40, None), (0, None), (99, None)])
def test_pairs_are_those_of_plain_loops(known_until, most):
    for seed in range(5):
        rows = events(seed)
        found = make_pairs(*rows, history=4, known_until=known_until, most=most)
        listed = [
            (int(who), [int(one) for one in past if one >= 0], int(what))
            for who, past, what in zip(found.user, found.history, found.target, strict=True)
        ]
        assert listed == pairs_by_loops(*rows, 4, known_until, most)


def test_no_events_give_no_pairs():
    nothing = np.zeros(0, dtype=np.int64)
    assert len(make_pairs(nothing, nothing, nothing, nothing.astype(bool), history=3)) == 0


def test_the_loss_is_that_of_plain_loops():
    draw = np.random.default_rng(1)
    queries, candidates = (unit_rows(draw.normal(size=(n, 8)).astype(np.float32)) for n in (5, 7))
    correct, bias = draw.integers(0, 7, 5), draw.normal(size=7).astype(np.float32)
    mask = draw.random((5, 7)) < 0.6
    mask[np.arange(5), correct] = True
    found = info_nce(*map(torch.from_numpy, (queries, candidates, correct, mask, bias)), 0.1)
    for row in range(5):
        shares = [np.exp(queries[row] @ candidates[c] / 0.1 - bias[c]) for c in range(7) if mask[row, c]]
        right = np.exp(queries[row] @ candidates[correct[row]] / 0.1 - bias[correct[row]])
        assert float(found[row]) == pytest.approx(-np.log(right / sum(shares)), rel=1e-4)


def test_what_a_user_took_is_no_negative_of_that_user_but_the_target_stays():
    taken = np.unique(np.array([0 * 10 + 3, 0 * 10 + 4, 1 * 10 + 4]))
    user, target, candidates = np.array([0, 1, 2]), np.array([3, 4, 3]), np.array([3, 4, 5])
    assert allowed(taken, 10, user, target, candidates).tolist() == [
        [True, False, True],
        [True, True, True],
        [True, True, True],
    ]
    assert allowed(taken[:0], 10, user, target, candidates).all()


def test_near_documents_are_the_nearest_and_never_the_document_itself():
    found = unit_rows(np.random.default_rng(2).normal(size=(30, 4)).astype(np.float32))
    among = np.arange(0, 30, 2)
    near = near_documents(found, np.arange(30), among, 5)
    for own in range(30):
        order = sorted((one for one in among if one != own), key=lambda one: -float(found[own] @ found[one]))
        assert near[own].tolist() == order[:5]
    assert near_documents(found, np.arange(3), np.array([0, 1]), 5)[0].tolist() == [1, -1, -1, -1, -1]


# The loop


KNOWN, DOCUMENTS = 300, 400


def lesson(seed: int, *, hidden: bool, users: int = 60) -> tuple[Lesson, np.ndarray]:
    """Texts of which a weak but clear part says who takes them, or, where nothing is hidden, nothing does."""
    draw = np.random.default_rng(seed)
    documents, group = DOCUMENTS, draw.integers(0, 4, DOCUMENTS)
    loud = draw.normal(0, 0.35, (documents, 16)).astype(np.float32)
    loud[:, :4] = draw.normal(0, 0.05, (documents, 4))
    loud[np.arange(documents), group] += 0.25
    frozen = unit_rows(loud)
    rows = []
    for user in range(users):
        mine = np.flatnonzero(group == user % 4) if hidden else np.arange(documents)
        # The later window takes texts that the training span never saw.
        for start, texts in ((0, mine[mine < KNOWN]), (100, mine[mine >= KNOWN])):
            rows += [(user, start + place, document) for place, document in enumerate(draw.permutation(texts)[:12])]
    user, ts, document = (np.array(column) for column in zip(*rows, strict=True))
    taken, early = np.ones(len(rows), dtype=bool), ts < 100
    train = make_pairs(user[early], ts[early], document[early], taken[early], history=5)
    stop = make_pairs(user, ts, document, taken, history=5, known_until=100)
    had = np.unique((user * documents + document)[early])
    near = near_documents(frozen, np.unique(train.target), np.arange(KNOWN), 10)
    whole = np.unique(user * documents + document)
    return Lesson(train, had, near, stop, np.arange(KNOWN, documents), whole, documents), frozen


PACE = Pace(
    batch=64, hard_negatives=2, learning_rate=3e-3, weight_decay=0.01, temperature=0.1, popularity=1.0,
    evaluate_every=5, patience=6, epochs=12, seconds=1e9, seed=3,
)  # fmt: skip


def trainer(of: tuple[Lesson, np.ndarray], pace: Pace = PACE, saved: Any = None) -> Trainer:
    torch.set_num_threads(1)
    what, frozen = of
    return Trainer(Adapter(frozen, frozen.mean(axis=0), 32, 1, "cpu"), what, pace, saved)


@pytest.mark.parametrize("hidden", [True, False])
def test_an_adapter_learns_what_is_hidden_in_texts_and_nothing_where_nothing_is(hidden):
    done = trainer(lesson(5, hidden=hidden))
    tensors = done.run()
    curve, best = done.progress.curve, done.progress.best
    gain = curve[best]["ndcg_10"] / curve[0]["ndcg_10"]
    assert (gain > 1.3) is hidden, gain
    assert tensors[UP].any() is np.bool_(best > 0)


def test_a_training_that_was_killed_gives_the_bits_of_one_that_was_not():
    of, states = lesson(6, hidden=True), []
    pace = Pace(**{**PACE.__dict__, "patience": 99, "epochs": 4})
    whole = trainer(of, pace)
    expected = whole.run(lambda state: states.append(copy.deepcopy(state)))
    assert len(states) > 4
    for state in (states[0], states[2], states[-1]):
        again = trainer(of, pace, copy.deepcopy(state))
        found = again.run()
        assert all(np.array_equal(found[name], expected[name]) for name in (MEAN, DOWN, UP))
        assert [look["ndcg"] for look in again.progress.curve] == [look["ndcg"] for look in whole.progress.curve]


def test_it_stops_when_the_later_window_does_not_improve_when_the_time_is_over_and_after_the_epochs():
    of = lesson(7, hidden=False)
    early = trainer(of, Pace(**{**PACE.__dict__, "patience": 2, "epochs": 1000}))
    early.run()
    assert early.progress.ended == "the later window did not improve in 2 looks"
    assert len(early.progress.curve) - 1 - early.progress.best == 2
    over = trainer(of, Pace(**{**PACE.__dict__, "seconds": 1e-9}))
    over.run()
    assert over.progress.ended == "the time budget of 1e-09 s is over"
    assert over.progress.step <= 1
    last = trainer(of, Pace(**{**PACE.__dict__, "patience": 99, "epochs": 1}))
    last.run()
    assert last.progress.ended == "1 epochs are over"
    assert last.progress.step == last.steps_an_epoch


def test_a_training_that_runs_away_ends_and_what_was_best_before_it_is_kept():
    done = trainer(lesson(9, hidden=True), Pace(**{**PACE.__dict__, "learning_rate": 1e30}))
    tensors = done.run()
    curve, best = done.progress.curve, done.progress.best
    assert "no longer a number" in done.progress.ended
    assert (curve[-1]["loss"], best < len(curve) - 1) == (None, True), (
        "vectors that are no numbers are the best of none"
    )
    assert curve[-1]["ndcg"] < curve[best]["ndcg"]
    assert all(np.isfinite(tensor).all() for tensor in tensors.values())
    json.dumps(curve, allow_nan=False)


def test_what_is_applied_is_what_was_trained():
    of = lesson(8, hidden=True)
    done = trainer(of)
    tensors = done.run()
    documents = np.arange(of[0].documents)
    with torch.no_grad():
        trained = done.way.embed(documents).numpy()
    assert np.abs(adapted(tensors, of[1]) - trained).max() < 1e-6


# What it reads


def span(cut: datetime) -> dict[str, Any]:
    return {"train_until": (cut - timedelta(hours=3)).isoformat(), "stop_until": cut.isoformat()}


def lesson_read(settings: Settings) -> dict[str, Any]:
    snapshot = lake.gated_snapshot(settings)
    with lake.connect(settings) as connection:
        plan = {"lake_snapshot": snapshot, **span(CUT)}
        what, documents = read_lesson(connection, plan, Training(), 1, settings.encoder)
    return {**lesson_tensors(what), "texts": documents.to_pylist()}


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return all(np.array_equal(value, other[name]) for name, value in one.items())


@pytest.fixture(scope="module")
def with_future(tmp_path_factory) -> Settings:
    return delivered(tmp_path_factory.mktemp("future"), with_future=True)


def test_the_future_changes_nothing_that_is_learned_from(with_future, tmp_path):
    found = lesson_read(with_future)
    assert same(found, lesson_read(delivered(tmp_path, with_future=False)))
    assert len(found["train.target"]) > 50
    assert len(found["stop.target"]) > 20
    again = lesson_of(lesson_tensors(lesson_of({**found, "near": np.zeros((1, 1), dtype=np.int64)})))
    assert np.array_equal(again.train.history, found["train.history"])


@pytest.mark.parametrize(
    ("guard", "opened"), [("COUNTS", "$as_of IS NOT NULL"), ("HOLDS", "valid_to IS NULL AND $as_of IS NOT NULL")]
)
def test_without_the_as_of_condition_the_future_is_learned_from(with_future, monkeypatch, guard, opened):
    found = lesson_read(with_future)
    monkeypatch.setattr(behaviour, guard, opened)
    assert not same(found, lesson_read(with_future))


def test_the_window_that_says_when_to_stop_is_no_training(with_future):
    """Its pairs begin where the others end, and their history is what was known at its start."""
    settings, early = with_future, CUT - timedelta(hours=3)
    found = lesson_read(settings)
    with lake.connect(settings) as connection:
        first = connection.execute(
            "SELECT user_id, min(event_ts), item_id FROM lake.main.fct_interactions WHERE weight > 0 GROUP BY ALL"
        ).fetchall()
    # Distinct pairs of user and text can only be fewer than those of user and item.
    inside = [row for row in first if behaviour.naive(early) <= row[1] < behaviour.naive(CUT)]
    before = [row for row in first if row[1] < behaviour.naive(early)]
    assert 0 < len(found["stop.target"]) <= len(inside)
    assert 0 < len(found["train.target"]) <= len(before)


# The whole way, on a home whose texts say something that the encoder does not know

WINDOWS, PEOPLE, RELEASED = 8, 60, 24
GROUPS = (
    ("otter", "falcon", "badger", "salmon", "heron", "lynx", "beetle", "gecko", "walrus", "raven", "moose", "viper"),
    ("hammer", "chisel", "wrench", "drill", "pliers", "sander", "clamp", "lathe", "mallet", "spanner", "trowel", "hacksaw"),
    ("ginger", "waffle", "noodle", "cheddar", "muffin", "lentil", "pepper", "yogurt", "pretzel", "walnut", "custard", "salami"),
    ("violin", "trumpet", "cello", "banjo", "flute", "organ", "drums", "harp", "tuba", "guitar", "piano", "oboe"),
)  # fmt: skip
NOISE = (
    "winter", "copper", "harbour", "midnight", "velvet", "festival", "mountain", "railway", "library", "garden", "stadium", "desert",
    "island", "factory", "castle", "airport", "village", "temple", "market", "forest", "hospital", "theatre", "canyon", "cottage",
)  # fmt: skip
OWN = Training(
    min_pairs=100, min_stop_pairs=20, adapter_batch=64, adapter_learning_rate=2e-3, evaluate_every=5, minutes=60,
    lora_batch=8, lora_layers=1, lora_evaluate_every=1, epochs=8, patience=3,
)  # fmt: skip


def shop(folder: Path, *, hidden: bool) -> Settings:
    """Each hour brings new items and new users, who take two items, and two of the next hour: of one group, or any.

    Nothing but one word in six tells the items of an hour apart, for nobody had one before; and two items are too few for the
    other five words to cancel out.
    """
    draw = random.Random(3)  # noqa: S311
    settings = Settings(
        home=folder / "home",
        training=OWN,
        ranker=Ranker(window_days=1 / 24, min_users=5, min_users_for_trees=1000),
    )
    items, done = [], []
    for window in range(WINDOWS):
        mine: list[list[str]] = [[] for _ in GROUPS]
        for number in range(RELEASED):
            group = number % len(GROUPS)
            words = [draw.choice(GROUPS[group]), *draw.sample(NOISE, 5)]
            draw.shuffle(words)
            name = f"w{window}n{number}"
            there = samples.FIRST + timedelta(hours=window - 1)
            items.append({"item_id": name, "title": " ".join(words), "published_at": there.isoformat()})
            mine[group].append(name)
        for came, person in ((came, person) for came in (window - 1, window) if came >= 0 for person in range(PEOPLE)):
            choice = mine[person % len(GROUPS)] if hidden else [name for names in mine for name in names]
            for place, name in enumerate(draw.sample(choice, 2)):
                when = samples.FIRST + timedelta(hours=window, minutes=5 + 10 * place, seconds=person)
                user = f"u{came}-{person}"
                row = {"event_id": f"{user}-{name}", "user_id": user, "item_id": name, "event_type": "view"}
                done.append({**row, "event_ts": when.isoformat()})
    land(settings, samples.write(folder / "events.jsonl", done), format="canonical", arrival="event")
    land(settings, samples.write(folder / "items.jsonl", items), format="canonical", arrival=samples.FIRST)
    cleaned(settings)
    published(settings, plan_recommend(settings))
    return settings


def trained(settings: Settings, out: Path, ways: list[str]) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Every step up to the decision: the plan, the backtest's plan, and the decision."""
    plan = steps.plan_training(settings, every="1h", cuts=1, k=5, ways=ways, out=out)
    steps.prepare_pairs(settings, plan)
    for way in plan["ways"]:
        steps.train_encoder(settings, plan, way)
    backtest = steps.plan_trained_backtest(settings, plan)
    for each in (backtest["comparison"] or {"encoders": []})["encoders"]:
        measure_encoder(settings, backtest["comparison"], each)
    return plan, backtest, steps.decide(settings, plan, backtest)


@pytest.fixture(scope="module")
def better(tmp_path_factory) -> tuple[Settings, dict[str, Any], dict[str, Any], dict[str, Any]]:
    folder = tmp_path_factory.mktemp("better")
    settings = shop(folder, hidden=True)
    return settings, *trained(settings, folder / "out", ["adapter"])


@pytest.mark.parametrize(("low", "expected"), [(1.0001, True), (1.0, False), (0.98, False), (None, False)])
def test_better_is_better_beyond_the_interval(low, expected):
    assert steps.is_better({"ratio": 1.2, "low": low, "high": 1.4}) is expected


def test_what_is_hidden_in_texts_is_learned_and_judged_in_windows_that_it_did_not_see(better):
    settings, plan, backtest, decision = better
    assert decision["ratio"]["low"] > 1.1, "its lists are better, far beyond the interval"
    assert decision["better"]
    ends = [plan["train_until"], plan["stop_until"], backtest["comparison"]["plan"]["cuts"][0]]
    assert ends == sorted(ends), "what is judged lies behind what was learned from"
    report = json.loads((Path(decision["out"]) / "training.json").read_text())
    adapter = report["ways"]["adapter"]
    assert adapter["curve"][adapter["best"]]["ndcg"] > 1.1 * adapter["curve"][0]["ndcg"]
    assert report["comparison"]["encoders"].keys() == {report["champion"], report["challenger"]}
    assert publications.serving(settings)["encoder_id"] == report["champion"] == plan["champion"]
    page = (Path(decision["out"]) / "training.html").read_text()
    assert page.count("<svg") == 2
    assert decision["why"] in html.unescape(page)


def test_a_trained_encoder_that_was_better_becomes_a_shadow_that_waits(better):
    settings, _, backtest, decision = better
    champion = publications.serving(settings)
    shadow = published(settings, steps.plan_trained_challenger(settings, decision))
    assert publications.serving_id(settings) == champion["id"], "an approval alone lets it serve"
    assert shadow["encoder_id"] == backtest["comparison"]["encoders"][1]["id"] != champion["encoder_id"]
    assert shadow["line"] in publications.waiting(settings)
    found = compare_challenger(settings, shadow["id"])
    assert champion["id"] in found["text"]
    # Its vectors follow from those of the base that are kept: nothing but the adapter was computed.
    own = vectors.known_texts(settings, shadow["encoder_id"])
    assert own == vectors.known_texts(settings, champion["encoder_id"])


def test_the_home_may_be_moved_and_a_publication_of_a_trained_encoder_is_rebuilt(better, tmp_path):
    settings, _, _, decision = better
    entry = published(settings, steps.plan_trained_challenger(settings, decision))
    moved = settings.model_copy(update={"home": Path(shutil.copytree(settings.home, tmp_path / "elsewhere"))})
    again = published(moved, plan_rebuild(moved, publication=entry["id"]))
    assert_same_exports(settings, entry, moved, again, tmp_path)


def test_another_adapter_is_another_encoder_and_their_vectors_never_meet(better):
    settings, plan, _, _ = better
    encoder = training.read_result(settings, plan["name"], "adapter")["encoder"]
    own = settings.with_encoder(encoder).encoder
    tensors, description = artefacts.read(settings, own.source.removeprefix("trained:"))
    facts = {name: value for name, value in description.items() if name not in ("id", "kind")}
    name = artefacts.write(settings, "encoder", {**tensors, UP: tensors[UP] * np.float32(1.5)}, facts)
    other = settings.with_encoder({**encoder, "source": f"trained:{name}"}).encoder
    ids = {encoders.identify(each) for each in (settings.encoder, own, other)}
    assert len(ids) == 3
    assert encoders.dimension(own) == encoders.dimension(settings.encoder)
    champion = publications.serving(settings)
    with pytest.raises(BadInput, match="cannot meet"):
        plan_recommend(settings.with_encoder(encoder))
    with pytest.raises(BadInput, match=r"no text was embedded|cannot meet"):
        vectors.text_vectors(settings, encoders.identify(other), ["0" * 32], 384)
    text = "a quiet lantern"
    base = encoders.TextEncoder(settings.encoder).encode([text])
    assert np.abs(encoders.TextEncoder(own).encode([text]) - adapted(tensors, base)).max() < 1e-6
    assert champion["encoder_id"] == plan["base_id"]


def test_a_trained_encoder_is_not_judged_by_what_it_learned_from(better):
    settings, plan, _, _ = better
    encoder = training.read_result(settings, plan["name"], "adapter")["encoder"]
    named = [Encoder(**encoder)]
    with pytest.raises(BadInput, match="learned from what users did until"):
        plan_comparison(settings, named, every="1h", cuts=2)
    found = plan_comparison(settings, named, every="1h", cuts=1)["plan"]
    assert found["cuts"] == [plan["stop_until"]]
    with pytest.raises(BadInput, match="learned from what users did until"):
        steps.plan_training(settings.with_encoder(encoder), every="1h", cuts=2)


@pytest.mark.parametrize("method", ["tidemark", "tidemark_vectors", "text"])
def test_no_method_that_embeds_is_judged_by_what_the_encoder_learned_from(better, method):
    settings, plan, _, _ = better
    trained_with = settings.with_encoder(training.read_result(settings, plan["name"], "adapter")["encoder"])
    with pytest.raises(BadInput, match="learned from what users did until"):
        plan_backtest(trained_with, every="1h", cuts=2, methods=[method])
    assert plan_backtest(trained_with, every="1h", cuts=2, methods=["popularity"])["methods"] == ["popularity"]


def test_the_next_training_begins_at_the_same_base(better):
    settings, plan, _, _ = better
    encoder = training.read_result(settings, plan["name"], "adapter")["encoder"]
    again = steps.plan_training(settings.with_encoder(encoder), every="1h", cuts=1)
    assert (again["base"], again["base_id"]) == (plan["base"], plan["base_id"])
    assert again["champion"] != plan["champion"]


def test_an_artefact_stays_while_something_names_it(better):
    settings, done, _, _ = better
    encoder = training.read_result(settings, done["name"], "adapter")["encoder"]
    name = encoder["source"].removeprefix("trained:")
    entry = {"encoder": encoder, "artefacts": dict.fromkeys(artefacts.names(settings))}
    everything_else = {str(number): other for number, other in enumerate(artefacts.names(settings)) if other != name}
    _let_artefacts_go(settings, [{**entry, "artefacts": everything_else}], timedelta(0))
    assert name in artefacts.names(settings)


def test_a_way_that_was_killed_goes_on_from_its_checkpoint(better, tmp_path, monkeypatch):
    settings, done, _, _ = better
    encoder = training.read_result(settings, done["name"], "adapter")["encoder"]
    plan = steps.plan_training(settings, every="1h", cuts=1, k=5, ways=["adapter"], seed=77, out=tmp_path / "out")
    steps.prepare_pairs(settings, plan)
    whole = steps.train_encoder(settings, plan, "adapter")
    shutil.rmtree(settings.cache / "training" / plan["name"])
    steps.prepare_pairs(settings, plan)
    write, count = training.write_checkpoint, []

    def killed(*args: Any) -> None:
        write(*args)
        count.append(1)
        if len(count) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(training, "write_checkpoint", killed)
    with pytest.raises(KeyboardInterrupt):
        steps.train_encoder(settings, plan, "adapter")
    assert training.read_result(settings, plan["name"], "adapter") is None
    again = steps.train_encoder(settings, plan, "adapter")
    assert again["encoder"] == whole["encoder"] != encoder, "an artefact's name is the hash of its bits"
    assert again == training.read_result(settings, plan["name"], "adapter")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ways": ["magic"]}, "unknown way 'magic'"),
        ({"every": "1h", "cuts": 7}, "leave no time to learn from|reach back"),
        ({"every": "soon"}, "soon"),
    ],
)
def test_what_cannot_be_trained_is_a_clear_error(better, options, message):
    with pytest.raises(BadInput, match=message):
        steps.plan_training(better[0], **{"every": "1h", "cuts": 1, **options})


def test_where_nothing_is_hidden_the_champion_is_kept(tmp_path):
    settings = shop(tmp_path, hidden=False)
    _, _, decision = trained(settings, tmp_path / "out", [])
    assert not decision["better"]
    assert decision["encoder"] is None
    planned = steps.plan_trained_challenger(settings, decision)
    assert planned["candidate"] is None
    assert planned["reason"] == f"the champion is kept: {decision['why']}"
    report = json.loads((tmp_path / "out" / "training.json").read_text())
    assert set(report["ways"]) == {"adapter", "lora"}
    assert (tmp_path / "out" / "training.html").exists()
    assert [one["kind"] for one in publications.manifests(settings)] == ["recommend"]
    few = steps.plan_training(
        settings.model_copy(update={"training": Training(min_pairs=10**6)}), every="1h", cuts=1, out=tmp_path / "few"
    )
    assert "pairs to learn from, and at least 1,000,000" in steps.prepare_pairs(settings, few)["too_few"]
    for way in few["ways"]:
        assert steps.train_encoder(settings, few, way)["encoder"] is None
    kept = steps.decide(settings, few, steps.plan_trained_backtest(settings, few))
    assert "at least 1,000,000 are needed" in kept["why"]


# LoRA


def test_lora_changes_the_last_layers_alone_and_merged_it_gives_the_same_vectors(tmp_path):
    encoder = Encoder(threads=1)
    texts = ["a copper lantern", "an early meadow", "the heavy anchor", "walnut and prism"]
    mean = np.zeros(384, dtype=np.float32)
    lora = Lora(encoder, texts, mean, layers=1, rank=4, max_tokens=64, seed=1, device="cpu")
    documents = np.arange(4)
    before = encoders.TextEncoder(encoder).encode(texts)
    with torch.no_grad():
        assert np.abs(lora.embed(documents).numpy() - before).max() < 1e-5, "it begins as the encoder"
    pairs = Pairs(documents, documents[:, None], (documents + 1) % 4)
    near = np.zeros((4, 1), dtype=np.int64) - 1
    what = Lesson(pairs, np.zeros(0, dtype=np.int64), near, pairs, documents, np.zeros(0, dtype=np.int64), 4)
    pace = Pace(**{**PACE.__dict__, "batch": 4, "epochs": 3, "evaluate_every": 1, "patience": 9})
    tensors = Trainer(lora, what, pace).run()
    names = {name.split(":")[1] for name in tensors}
    assert names == {f"encoder.layer.5.{part}.weight" for part in (
        "attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense",
        "intermediate.dense", "output.dense",
    )}  # fmt: skip
    settings = Settings(home=tmp_path / "home")
    facts = {"base": encoder.named, "trained_until": samples.FIRST.isoformat()}
    own = settings.with_encoder(
        {**encoder.named, "source": f"trained:{artefacts.write(settings, 'encoder', tensors, facts)}"}
    ).encoder
    merged = encoders.TextEncoder(own)
    assert merged.adapts is None
    assert merged.encoder_id != encoders.identify(encoder)
    with torch.no_grad():
        assert np.abs(lora.embed(documents).numpy() - merged.encode(texts)).max() < 1e-5
    assert np.abs(merged.encode(texts) - before).max() > 1e-4


def test_the_last_layers_are_those_of_the_longest_list():
    layers = torch.nn.ModuleList(torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU()) for _ in range(5))
    model = torch.nn.ModuleDict({"few": torch.nn.ModuleList([torch.nn.Linear(2, 2)]), "layer": layers})
    assert last_linear_layers(model, 2) == ["layer.3.0", "layer.4.0"]
    with pytest.raises(BadInput, match="no list of layers"):
        last_linear_layers(torch.nn.Linear(2, 2), 1)
