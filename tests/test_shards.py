"""Work in parts: any number of shards gives the same publication, and the join takes nothing but the whole of it."""

import shutil
from datetime import timedelta
from pathlib import Path

import pyarrow as pa
import pytest

from include.errors import TidemarkError
from include.settings import Settings
from include.steps import embed_texts as embedding
from include.steps import list_plan as listing
from include.steps import update_users as updating
from include.steps.chain import SHARDED, STEPS
from include.steps.embed_texts import embed_texts
from include.steps.keep_lists import keep_lists
from include.steps.keep_users import keep_users
from include.steps.publish import publish
from include.steps.train_artefacts import train_artefacts
from include.steps.update_items import update_items
from include.steps.update_lists import update_lists
from include.steps.update_users import update_users
from include.stores import files, parts, publications, vectors
from include.stores.parts import cut, of_shard
from tests import samples
from tests.test_path import assert_same_exports, cleaned, land, plan_recommend, plan_update


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding, "TEXTS_PER_PART", 7)
    monkeypatch.setattr(updating, "USERS_PER_PART", 2)
    monkeypatch.setattr(listing, "USERS_PER_PART", 2)


@pytest.fixture(scope="module")
def gated_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gated")
    settings = Settings(home=folder / "home")
    samples.write(folder / "events.jsonl", samples.events(200, users=11))
    samples.write(folder / "items.jsonl", samples.items(19))
    samples.write(folder / "users.jsonl", samples.users(13))
    land(settings, folder / "events.jsonl", format="canonical")
    for name in ("items", "users"):
        land(settings, folder / f"{name}.jsonl", format="canonical", arrival=samples.FIRST)
    cleaned(settings)
    return settings.home


def home(gated_home: Path, folder: Path, shards: int) -> Settings:
    return Settings(home=shutil.copytree(gated_home, folder / f"home{shards}"), shards=shards)


def published(settings: Settings, plan: dict) -> publications.Manifest:
    """Each shard by itself, the last one first, as tasks side by side may end."""
    for step in STEPS:
        for shard in reversed(plan["shards"]) if step in SHARDED else [None]:
            step(settings, plan["candidate"], *([] if shard is None else [shard]))
    return publications.manifest(settings, publish(settings, plan["candidate"])["publication"])


def test_three_shards_publish_what_one_does(gated_home: Path, tmp_path: Path) -> None:
    made = {}
    for shards in (1, 3):
        settings = home(gated_home, tmp_path, shards)
        first = published(settings, plan_recommend(settings))
        later = samples.events(12, users=5, seed=5, hours=1)
        samples.write(tmp_path / "later.jsonl", later)
        land(
            settings,
            tmp_path / "later.jsonl",
            format="canonical",
            table="events",
            arrival=samples.FIRST + timedelta(hours=9),
        )
        cleaned(settings)
        made[settings] = [first, published(settings, plan_update(settings))]
    (one, ones), (three, threes) = made.items()
    for here, there in zip(ones, threes, strict=True):
        assert here["id"] == there["id"]
        assert here["run"]["texts"] == there["run"]["texts"]
        assert {name: table["written"] for name, table in here["tables"].items()} == {
            name: table["written"] for name, table in there["tables"].items()
        }
        assert_same_exports(one, here, three, there, tmp_path)
    assert ones[0]["run"]["texts"]["embedded"] > 3 * embedding.TEXTS_PER_PART, "each shard must have had work"
    assert {"embed_texts", "update_users", "update_lists"} <= ones[0]["run"]["seconds"].keys()


@pytest.mark.parametrize("number", [0, 1, 2, 5, 7, 100])
def test_every_key_is_in_one_part_of_one_shard(number: int) -> None:
    keys = [f"u{n}" for n in range(number)]
    whole = cut("step", keys, 3)
    assert [key for part in whole for key in part.keys] == keys
    assert [part.number for part in whole] == list(range(whole[0].of))
    done = [part.number for shard in range(4) for part in of_shard(whole, shard, 4)]
    assert sorted(done) == list(range(whole[0].of))


@pytest.fixture
def at_users(gated_home: Path, tmp_path: Path) -> tuple[Settings, str]:
    """A candidate of three shards whose item vectors are written."""
    settings = home(gated_home, tmp_path, 3)
    candidate = plan_recommend(settings)["candidate"]
    for step in (embed_texts, train_artefacts, update_items):
        step(settings, candidate)
    return settings, candidate


def test_a_shard_that_is_missing_is_named_and_can_be_made_up_for(at_users: tuple[Settings, str]) -> None:
    settings, candidate = at_users
    for shard in (0, 2):
        update_users(settings, candidate, shard)
    with pytest.raises(TidemarkError, match=r"part 2 of 7 of update_users .* is missing"):
        keep_users(settings, candidate)
    assert "user_vectors" not in publications.candidate(settings, candidate)["tables"]
    update_users(settings, candidate, 1)
    assert keep_users(settings, candidate)["written"] == 11
    for shard in (0, 1):
        update_lists(settings, candidate, shard)
    with pytest.raises(TidemarkError, match=r"part 3 of 7 of update_lists-home .* is missing"):
        keep_lists(settings, candidate)


@pytest.mark.parametrize(
    ("left_out", "stops"),
    [
        ("train_artefacts", "update_items"),
        ("update_items", "update_users"),
        ("keep_users", "check_vectors"),
        ("keep_lists", "check_lists"),
    ],
)
def test_what_is_missing_since_its_step_was_marked_as_a_success_is_named(
    gated_home: Path, tmp_path: Path, left_out: str, stops: str
) -> None:
    settings = home(gated_home, tmp_path, 1)
    candidate = plan_recommend(settings)["candidate"]
    for step in STEPS:
        if step.__name__ == stops:
            with pytest.raises(TidemarkError, match=rf" is missing: run {left_out} again"):
                step(settings, candidate)
            return
        if step.__name__ != left_out:
            step(settings, candidate)


def test_a_shard_or_a_join_that_runs_again_changes_nothing(at_users: tuple[Settings, str]) -> None:
    settings, candidate = at_users
    for shard in range(3):
        update_users(settings, candidate, shard)
    first = keep_users(settings, candidate)
    update_users(settings, candidate, 1)
    again = keep_users(settings, candidate)
    encoder_id = publications.candidate(settings, candidate)["encoder_id"]
    one, other = (vectors.read(settings, encoder_id, "user_vectors", table["version"]) for table in (first, again))
    assert one.equals(other)
    assert one.num_rows == len(set(one["user_id"].to_pylist())) == 11


def spoil(settings: Settings, candidate: str, edit) -> None:
    file = publications.candidate_folder(settings, candidate) / "parts" / "update_users" / "000001.arrow"
    files.write_table(file, edit(files.read_table(file)))


@pytest.mark.parametrize(
    "edit",
    [
        pytest.param(lambda rows: pa.concat_tables([rows, rows]), id="a user twice"),
        pytest.param(lambda rows: rows.set_column(0, "user_id", pa.array(["x"] * rows.num_rows)), id="another's user"),
        pytest.param(
            lambda rows: rows.replace_schema_metadata({**rows.schema.metadata, b"inputs": b'{"items": 1}'}),
            id="from another version of the items",
        ),
    ],
)
def test_a_part_that_is_not_what_was_planned_is_refused(at_users: tuple[Settings, str], edit) -> None:
    settings, candidate = at_users
    update_users(settings, candidate)
    spoil(settings, candidate, edit)
    with pytest.raises(TidemarkError, match=r"part 2 of 7 of update_users .* something else than was planned"):
        keep_users(settings, candidate)


def test_what_a_dead_run_embedded_is_not_embedded_again(gated_home: Path, tmp_path: Path) -> None:
    settings = home(gated_home, tmp_path, 3)
    dead = plan_recommend(settings)
    total = dead["texts"]["embedded"]
    embedded = [embed_texts(settings, dead["candidate"], shard)["embedded"] for shard in (0, 2)]
    done = sum(embedded)
    assert 0 < done < total
    assert embed_texts(settings, dead["candidate"], 0) == {"embedded": 0, "there_already": embedded[0]}
    # The run ends here, between a shard and the join. Another is planned.
    again = plan_recommend(settings)
    assert again["texts"] == {"embedded": total - done, "reused": done}
    assert published(settings, again)["run"]["texts"]["embedded"] == total - done


def test_a_join_that_died_after_it_kept_the_texts_is_done_again(at_users: tuple[Settings, str]) -> None:
    settings, candidate = at_users
    assert not list(parts.left_behind(settings, candidate, "embed_texts-item", {}))
    assert train_artefacts(settings, candidate)["kept"] == 0
