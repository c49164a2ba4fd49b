"""The dbt project by itself: unit tests of every rule, models that build on an empty lake, docs."""

import json
import shutil
from pathlib import Path

import pytest
import yaml

from include.settings import Settings
from include.steps import clean
from include.steps.land import land
from include.stores import batches, lake
from tests import samples

MODELS = batches.DBT_PROJECT / "models"
RULES = {
    "event_times_may_be_iso_or_epoch",
    "event_texts_are_tidied",
    "unknown_columns_of_events_go_to_attributes",
    "event_fields_are_typed_or_give_a_reason",
    "without_event_id_the_other_fields_are_the_identity",
    "item_fields_are_typed_or_give_a_reason",
    "user_fields_are_typed_or_give_a_reason",
    "invoice_lines_become_purchases_and_refunds",
    "descriptions_become_titles_unless_they_are_notes",
    "events_break_a_rule_or_none",
    "weight_follows_type_and_value",
    "old_rows_and_shared_identities_touch_users",
    "the_last_delivery_of_an_event_holds",
    "withdrawn_and_other_users_events_are_not_current",
    "the_nth_valid_reversal_takes_back_the_nth_event",
    "too_many_events_within_an_hour_are_a_bots",
    "a_pause_ends_a_session",
    "outcomes_are_decided_in_order",
    "an_item_row_needs_an_id",
    "a_change_is_a_version_and_a_copy_is_none",
    "a_user_row_needs_an_id_that_is_no_tests",
    "the_last_row_of_a_user_is_kept",
    "interactions_need_an_item_and_keep_what_was_excluded",
    "user_texts_are_what_a_user_wrote",
    "versions_hold_from_their_own_date_arrival_or_first_event",
    "users_are_described_or_did_something",
    "batches_count_their_rows_and_vanish_with_their_files",
    "questions_become_items",
    "posts_and_comments_become_events_on_questions",
    "reviews_of_both_years_become_events",
    "metadata_of_both_years_become_items",
    "lines_become_purchases",
    "products_have_their_type_for_a_title",
}


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A home with no landed rows, as `clean` would hand it to dbt."""
    settings = Settings(home=tmp_path_factory.mktemp("dbt"))
    clean.prepare(settings, [])
    return settings


@pytest.fixture(scope="module")
def built(empty: Settings) -> dict[str, tuple[str, str]]:
    """Kind and status of every node of a whole build, unit tests too."""
    outcome = clean.dbt(empty, "build")
    assert outcome.exception is None, outcome.exception
    results = outcome.result.results
    red = {result.node.name: result.message for result in results if str(result.status) in {"fail", "error"}}
    assert not red
    return {result.node.name: (str(result.node.resource_type), str(result.status)) for result in results}


def test_every_rule_has_a_unit_test_that_passes(built: dict[str, tuple[str, str]]) -> None:
    unit_tests = {name: status for name, (kind, status) in built.items() if kind.endswith("unit_test")}
    assert set(unit_tests) == RULES
    assert set(unit_tests.values()) == {"pass"}


def test_models_and_data_tests_pass_without_any_rows(built: dict[str, tuple[str, str]]) -> None:
    statuses = {status for kind, status in built.values() if kind in {"model", "test", "seed"}}
    assert statuses == {"success", "pass"}


def test_every_model_is_described_and_has_a_key_that_is_tested() -> None:
    for sql in MODELS.rglob("*.sql"):
        described = yaml.safe_load(sql.with_suffix(".yml").read_text("utf-8"))["models"]
        assert [model["name"] for model in described] == [sql.stem]
        assert described[0]["description"].strip()
        assert any("key" in test for test in described[0]["data_tests"]), f"{sql.stem} has no key"


def test_docs_build_and_name_what_hangs_on_the_marts(empty: Settings, built: dict[str, tuple[str, str]]) -> None:
    outcome = clean.dbt(empty, "docs", "generate")
    assert outcome.success, outcome.exception
    target = empty.cache / "dbt"
    assert (target / "index.html").exists()
    catalogue = json.loads((target / "catalog.json").read_text("utf-8"))
    assert "model.tidemark.fct_interactions" in catalogue["nodes"]
    exposures = json.loads((target / "manifest.json").read_text("utf-8"))["exposures"]
    assert {exposure["name"] for exposure in exposures.values()} == {"vectors", "recommendations"}


def test_a_failing_unit_test_is_seen(empty: Settings, tmp_path: Path) -> None:
    """Guards the guard: with another pause, the sessions' own test must go red."""
    outcome = clean.dbt(
        empty, "build", "--select", "+int_current_events", "int_sessions", variables={"session_gap_minutes": 5}
    )
    statuses = {result.node.name: str(result.status) for result in outcome.result.results}
    assert statuses["a_pause_ends_a_session"] == "fail"


def test_a_home_outlives_the_folder_of_the_code_that_cleaned_it(tmp_path, monkeypatch):
    settings = Settings(home=tmp_path / "home")
    first, second = samples.events(20)[:10], samples.events(20)[10:]
    land(settings, samples.write(tmp_path / "events1.jsonl", first), format="canonical", arrival=samples.FIRST)
    elsewhere = Path(shutil.copytree(batches.DBT_PROJECT, tmp_path / "elsewhere"))
    with monkeypatch.context() as patch:
        patch.setattr(batches, "DBT_PROJECT", elsewhere)
        clean.clean(settings)
    shutil.rmtree(elsewhere)
    land(settings, samples.write(tmp_path / "events2.jsonl", second), format="canonical", arrival="event")
    clean.clean(settings)
    with lake.connect(settings) as connection:
        assert connection.execute("SELECT count(*) FROM lake.main.int_event_history").fetchone() == (20,)


def test_duckdbs_extensions_are_linked_and_links_follow_their_packages(settings: Settings) -> None:
    folder = lake.link_extensions(settings)
    links = sorted(folder.glob("*/*/*.duckdb_extension"))
    assert [link.stem for link in links] == sorted(lake.extensions(settings))
    assert all(link.is_symlink() and link.exists() for link in links)
    links[0].unlink()
    links[0].symlink_to(settings.home / "of an environment that is gone")
    links[1].unlink()
    links[1].write_bytes(b"a copy, as homes held them before")
    lake.link_extensions(settings)
    assert all(link.is_symlink() and link.exists() for link in links)
