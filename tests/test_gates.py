"""The gates: each passes on good data and fails, with its expectation named, on each kind of bad data."""

import json
import logging
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from include.errors import BadInput, GateFailed
from include.quality import run
from include.quality.lake import check_lake
from include.quality.recommendations import check_recommendations
from include.quality.results import RUNBOOK, GateResult, plain
from include.quality.vectors import check_vectors
from include.settings import REPOSITORY, Gates, Settings, Surface
from include.steps import gate_lake as step
from include.steps.clean import clean
from include.steps.gate_lake import accept_gate, gate_lake
from include.stores import batches, lake

HOUR = datetime(2026, 1, 1)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    gates = Gates(
        max_rejected_share=0.2,
        max_rejected_share_first=0.5,
        max_undescribed_share=0.5,
        max_volume_ratio=10,
        min_rows_for_shares=10,
        min_batches_for_volume=3,
        min_user_coverage=0.9,
        min_item_coverage=0.9,
        min_catalogue_coverage=0.5,
        norm_tolerance=1e-3,
    )
    return Settings(home=tmp_path / "home", gates=gates)


def failures(result: GateResult) -> set[tuple[str, str, str | None]]:
    """What failed, by suite, expectation and column."""
    json.dumps(result.as_dict(), allow_nan=False)
    assert result.passed == (not result.failed)
    return {(entry["suite"], entry["expectation"], entry["column"]) for entry in result.failed}


# Results


def test_results_are_read_without_great_expectations() -> None:
    code = "import sys, include.quality.results; sys.exit('great_expectations' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=False).returncode == 0


def test_what_a_log_cannot_show_is_escaped() -> None:
    found = plain(
        {"a\x1b[31m": ["\x00", "b\u202ec", np.float64("inf"), np.int64(3), None, float("nan"), "\udc80"], "t": HOUR}
    )
    assert found == {
        "a\\x1b[31m": ["\\x00", "b\\u202ec", "inf", 3, None, None, "\\udc80"],
        "t": "2026-01-01T00:00:00",
    }
    assert plain(pd.NaT) is None
    assert plain("x" * 1000) == "x" * 200 + "…"


def test_a_failure_says_what_where_how_many_and_what_to_do() -> None:
    entry = {
        "suite": "lake_rejected",
        "expectation": "expect_column_values_to_be_between",
        "column": "rejected_share",
        "observed": {"rows": "1 of 2", "values": [0.61]},
        "threshold": {"max_value": 0.2},
        "note": "share",
        "examples": ["events 2026-01-01T00 canonical: 61 of 100 rejected"],
    }
    with pytest.raises(GateFailed) as raised:
        GateResult("lake", False, 5, [entry], docs="/home/reports/data_docs/index.html").raise_if_failed()
    lines = str(raised.value).splitlines()
    assert lines[0].startswith("gate lake failed: 1 of 5 expectations")
    assert lines[1] == (
        "  lake_rejected: expect_column_values_to_be_between on rejected_share (share): observed rows 1 of 2, "
        "values [0.61], allowed max_value 0.2; for example events 2026-01-01T00 canonical: 61 of 100 rejected"
    )
    assert RUNBOOK in lines[-1]
    assert "/home/reports/data_docs/index.html" in lines[-1]
    assert (REPOSITORY / RUNBOOK).exists()
    GateResult("lake", True, 5, []).raise_if_failed()


# Vectors

BETWEEN = "expect_column_values_to_be_between"
IN_SET = "expect_column_values_to_be_in_set"
NOT_NULL = "expect_column_values_to_not_be_null"
UNIQUE = "expect_column_values_to_be_unique"
ROW_COUNT = "expect_table_row_count_to_be_between"


def good_items() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "item_id": [f"i{n}" for n in range(20)],
            "has_text": [True] * 19 + [False],
            "dimension": 384,
            "norm": [1.0] * 19 + [0.0],
            "finite": True,
        }
    )


def good_users() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "user_id": [f"u{n}" for n in range(20)],
            "n_interactions": range(20),
            "dimension": 384,
            "norm_long": [1.0] * 19 + [0.0],
            "norm_short": [1.0005] * 19 + [0.0],
            "interests_off": 0.0005,
            "finite": True,
        }
    )


def judged_vectors(
    items: pd.DataFrame,
    users: pd.DataFrame,
    encoder_ids: list[str | None],
    settings: Settings,
    *,
    expected: tuple[int, int],
    dimension: int = 384,
) -> GateResult:
    expected_items, expected_users = expected
    return check_vectors(
        items,
        users,
        encoder_ids,
        settings,
        expected_items=expected_items,
        expected_users=expected_users,
        dimension=dimension,
    )


def test_good_vectors_pass_and_leave_data_docs(settings: Settings, capfd: pytest.CaptureFixture[str]) -> None:
    logging.getLogger().setLevel(logging.INFO)
    result = judged_vectors(good_items(), good_users(), ["e", "e", "e"], settings, expected=(22, 22))
    assert failures(result) == set()
    assert result.expectations > 20
    index = settings.reports / "data_docs" / "index.html"
    assert result.docs == str(index)
    assert "vectors_items" in index.read_text("utf-8")
    assert "docs" not in result.as_dict()
    assert "Calculating Metrics" not in capfd.readouterr().err


ITEM_FAULTS = [
    ("item_id", None, NOT_NULL),
    ("item_id", "i19", UNIQUE),
    ("dimension", 383, IN_SET),
    ("finite", False, IN_SET),
    ("norm", 0.0, BETWEEN),
    ("norm", 1.002, BETWEEN),
    ("norm", float("nan"), NOT_NULL),
    ("has_text", None, NOT_NULL),
]
USER_FAULTS = [
    ("user_id", None, NOT_NULL),
    ("user_id", "u19", UNIQUE),
    ("n_interactions", -1, BETWEEN),
    ("n_interactions", None, NOT_NULL),
    ("dimension", 383, IN_SET),
    ("norm_long", 0.4, BETWEEN),
    ("norm_long", float("nan"), NOT_NULL),
    ("norm_short", float("inf"), BETWEEN),
    ("interests_off", 0.4, BETWEEN),
    ("interests_off", float("nan"), NOT_NULL),
    ("finite", False, IN_SET),
]


def spoil(frame: pd.DataFrame, faults: list[tuple[str, Any, str]]) -> pd.DataFrame:
    """The frame with one fault in each of its first rows."""
    spoilt = frame.astype(object)
    for row, (column, value, _) in enumerate(faults):
        spoilt.loc[row, column] = value
    return spoilt


def test_each_fault_of_a_vector_fails_its_expectation(settings: Settings) -> None:
    items, users = spoil(good_items(), ITEM_FAULTS), spoil(good_users(), USER_FAULTS)
    result = judged_vectors(items, users, ["e"], settings, expected=(20, 20))
    assert failures(result) == {
        *(("vectors_items", expectation, column) for column, _, expectation in ITEM_FAULTS),
        *(("vectors_users", expectation, column) for column, _, expectation in USER_FAULTS),
    }
    for suite, key, faults in (("vectors_items", "item_id", ITEM_FAULTS), ("vectors_users", "user_id", USER_FAULTS)):
        for row, (column, value, expectation) in enumerate(faults):
            if column == key:
                continue
            entries = [
                entry for entry in result.failed if entry["suite"] == suite and entry["expectation"] == expectation
            ]
            examples = [example for entry in entries for example in entry["examples"]]
            assert {key: f"{key[0]}{row}", column: plain(value)} in examples


def test_missing_vectors_two_encoders_and_another_dimension_fail(settings: Settings) -> None:
    result = judged_vectors(good_items(), good_users(), ["e", None, "f"], settings, expected=(23, 24), dimension=768)
    assert failures(result) == {
        ("vectors_items", ROW_COUNT, None),
        ("vectors_items", IN_SET, "dimension"),
        ("vectors_users", ROW_COUNT, None),
        ("vectors_users", IN_SET, "dimension"),
        ("vectors_encoder", "expect_column_unique_value_count_to_be_between", "encoder_id"),
        ("vectors_encoder", NOT_NULL, "encoder_id"),
    }
    encoder = next(entry for entry in result.failed if "unique_value_count" in entry["expectation"])
    assert (encoder["observed"], encoder["examples"]) == (2, ["e", "f"])
    counts = [entry for entry in result.failed if entry["expectation"] == ROW_COUNT]
    assert [(entry["observed"], entry["threshold"]) for entry in counts] == [
        (20, {"min_value": 21}),
        (20, {"min_value": 22}),
    ]
    assert len(next(entry for entry in result.failed if entry["column"] == "dimension")["examples"]) == 5


def test_no_vectors_pass_only_where_none_were_due(settings: Settings) -> None:
    items, users = pd.DataFrame(columns=list(good_items())), pd.DataFrame(columns=list(good_users()))
    assert failures(judged_vectors(items, users, ["e"], settings, expected=(0, 0))) == set()
    assert failures(judged_vectors(items, users, [], settings, expected=(1, 1))) == {
        ("vectors_items", ROW_COUNT, None),
        ("vectors_users", ROW_COUNT, None),
        ("vectors_encoder", "expect_column_unique_value_count_to_be_between", "encoder_id"),
    }


def test_an_expectation_that_cannot_be_judged_has_failed(settings: Settings) -> None:
    items = good_items().drop(columns="norm")
    result = judged_vectors(items, good_users(), ["e"], settings, expected=(20, 20))
    assert failures(result) == {("vectors_items", NOT_NULL, "norm"), ("vectors_items", BETWEEN, "norm")}
    assert all("norm" in entry["observed"] for entry in result.failed)


def test_data_docs_show_earlier_results_and_drop_the_oldest(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pages() -> set[Path]:
        return set((settings.reports / "data_docs" / "validations").rglob("*.html"))

    def judge() -> None:
        judged_vectors(good_items(), good_users(), ["e"], settings, expected=(1, 1))

    judge()
    first = pages()
    judge()
    assert first < pages()
    assert len(pages()) == 6
    monkeypatch.setattr(run, "KEPT_RESULTS", 3)
    judge()
    assert len(pages()) == 6
    assert not first & pages()


# Recommendations

SURFACE = Surface(length=3)


def good_lists() -> tuple[pd.DataFrame, pd.DataFrame]:
    rows = [(user, f"i{rank}", rank, 1.0 / rank, True, False) for user in ("u1", "u2") for rank in (1, 2, 3)]
    rows.append(("u3", "i1", 1, 0.5, True, False))
    lists = pd.DataFrame(rows, columns=["user_id", "item_id", "rank", "score", "available", "seen"])
    users = pd.DataFrame({"user_id": ["u1", "u2", "u3", "u4"], "eligible": [9, 3, 1, 0], "listed": [3, 3, 1, 0]})
    return lists, users


def judged_lists(
    lists: pd.DataFrame, users: pd.DataFrame, settings: Settings, surface: Surface = SURFACE, **expected: int
) -> GateResult:
    return check_recommendations(
        lists,
        users,
        surface,
        settings,
        **({"expected_users": 4, "eligible_items": 6, "listed_users": len(users)} | expected),
    )


def test_good_lists_pass(settings: Settings) -> None:
    assert failures(judged_lists(*good_lists(), settings)) == set()


LIST_FAULTS = [
    ("score", float("nan"), NOT_NULL, "score"),
    ("score", float("inf"), BETWEEN, "score"),
    ("rank", 4, BETWEEN, "rank"),
    ("rank", None, NOT_NULL, "rank"),
    ("rank", 3, "expect_compound_columns_to_be_unique", "user_id, rank"),
    ("item_id", "i3", "expect_compound_columns_to_be_unique", "user_id, item_id"),
    ("item_id", None, NOT_NULL, "item_id"),
    ("available", False, IN_SET, "available"),
    ("available", None, NOT_NULL, "available"),
    ("seen", True, IN_SET, "seen"),
    ("seen", None, NOT_NULL, "seen"),
]


def test_each_fault_of_a_list_fails_its_expectation(settings: Settings) -> None:
    """One user a fault, in the first or second row of the list."""
    rows = [
        (f"u{user}", f"i{rank}", rank, 1.0 / rank, True, False)
        for user in range(len(LIST_FAULTS))
        for rank in (1, 2, 3)
    ]
    lists = pd.DataFrame(rows, columns=["user_id", "item_id", "rank", "score", "available", "seen"]).astype(object)
    for user, (column, value, *_) in enumerate(LIST_FAULTS):
        lists.loc[3 * user, column] = value
    users = pd.DataFrame({"user_id": [f"u{user}" for user in range(len(LIST_FAULTS))], "eligible": 3, "listed": 3})
    result = judged_lists(lists, users, settings)
    assert failures(result) == {
        ("recommendations_home_lists", expectation, column) for _, _, expectation, column in LIST_FAULTS
    }
    for user, (_, _, expectation, column) in enumerate(LIST_FAULTS):
        (entry,) = (
            entry for entry in result.failed if (entry["expectation"], entry["column"]) == (expectation, column)
        )
        assert f"u{user}" in {example["user_id"] for example in entry["examples"]}


def test_seen_items_may_be_shown_where_the_surface_says_so(settings: Settings) -> None:
    lists, users = good_lists()
    assert failures(judged_lists(lists.assign(seen=True), users, settings, Surface(length=3, show_seen=True))) == set()


def test_short_lists_fail(settings: Settings) -> None:
    lists, users = good_lists()
    users.loc[1, "listed"] = 2
    result = judged_lists(lists[~((lists["user_id"] == "u2") & (lists["rank"] == 3))], users, settings)
    equal = "expect_column_pair_values_to_be_equal"
    assert failures(result) == {("recommendations_home_users", equal, "listed, due")}
    assert result.failed[0]["examples"] == [{"user_id": "u2", "eligible": 3, "listed": 2, "due": 3}]


def test_lists_that_do_not_hold_what_was_listed_fail(settings: Settings) -> None:
    lists, users = good_lists()
    lists.loc[lists["user_id"] == "u3", "user_id"] = "stranger"
    more = lists.tail(1).assign(user_id=None, item_id="i2", rank=2)
    result = judged_lists(pd.concat([lists, more]), users, settings)
    assert failures(result) == {
        ("recommendations_home_lists", NOT_NULL, "user_id"),
        ("recommendations_home_users", "expect_column_pair_values_to_be_equal", "listed, rows"),
        ("recommendations_home_lists", "expect_table_row_count_to_equal", None),
    }


def test_doubled_users_missing_users_and_a_narrow_catalogue_fail(settings: Settings) -> None:
    lists, users = good_lists()
    users = pd.concat([users, pd.DataFrame({"user_id": ["u4", None], "eligible": [0, 0], "listed": [0, None]})])
    result = judged_lists(lists, users, settings, expected_users=7, eligible_items=7)
    assert failures(result) == {
        ("recommendations_home_users", NOT_NULL, "user_id"),
        ("recommendations_home_users", NOT_NULL, "listed"),
        ("recommendations_home_users", "expect_column_pair_values_to_be_equal", "listed, due"),
        ("recommendations_home_users", "expect_column_pair_values_to_be_equal", "listed, rows"),
        ("recommendations_home_users", UNIQUE, "user_id"),
        ("recommendations_home_coverage", BETWEEN, "listed_users"),
        ("recommendations_home_coverage", BETWEEN, "listed_items"),
    }


def test_a_part_of_the_lists_is_judged_with_the_users_of_all(settings: Settings) -> None:
    lists, users = good_lists()
    result = judged_lists(lists, users, settings, listed_users=90, expected_users=100, eligible_items=100)
    assert failures(result) == set()
    result = judged_lists(lists, users, settings, listed_users=89, expected_users=100, eligible_items=100)
    assert failures(result) == {("recommendations_home_coverage", BETWEEN, "listed_users")}
    assert result.failed[0]["observed"]["values"] == [89]


# The lake: frames


def batch(
    hour: int, landed: int = 100, table: str = "events", source: str = "canonical", **counts: int
) -> dict[str, Any]:
    reasons = {"missing_user": counts["rejected"]} if counts.get("rejected") else {}
    empty = {"rejected": 0, "interactions": 0, "undescribed": 0}
    moment = HOUR + timedelta(hours=hour)
    key = {"landed_table": table, "arrival_hour": moment, "source": source, "landed": landed}
    return key | empty | counts | {"reasons": reasons}


NO_BATCHES = pd.DataFrame([batch(0)]).head(0)
GOOD_KEYS = pd.DataFrame([{"table": "fct_interactions", "rows": 5, "null_keys": 0, "repeated_keys": 0, "examples": []}])


def judged_lake(
    settings: Settings, changed: list[dict[str, Any]], earlier: list[dict[str, Any]], keys: pd.DataFrame = GOOD_KEYS
) -> GateResult:
    before = pd.DataFrame(earlier) if earlier else NO_BATCHES
    return check_lake(pd.DataFrame(changed), before, keys, settings)


def test_a_usual_hour_passes(settings: Settings) -> None:
    earlier = [batch(n, interactions=80, undescribed=8, rejected=10) for n in range(3)]
    result = judged_lake(settings, [batch(3, interactions=80, undescribed=40, rejected=20)], earlier)
    assert failures(result) == set()
    assert result.expectations == 6


def test_what_is_empty_passes_without_a_judgement(settings: Settings) -> None:
    assert check_lake(NO_BATCHES, NO_BATCHES, GOOD_KEYS.head(0), settings) == GateResult("lake", True, 0, [])


def test_too_many_rejected_rows_fail_with_the_batches_and_reasons(settings: Settings) -> None:
    changed = [batch(1, rejected=21), batch(2, 10, rejected=9), batch(1, 100, "items", rejected=0)]
    result = judged_lake(settings, changed, [batch(0)])
    assert failures(result) == {("lake_rejected", BETWEEN, "rejected_share")}
    (entry,) = result.failed
    assert entry["threshold"] == {"max_value": 0.2}
    assert entry["observed"]["values"] == [pytest.approx(30 / 110)]
    assert entry["examples"] == [
        "events 2026-01-01T01 canonical: 21 of 100 rejected (missing_user 21)",
        "events 2026-01-01T02 canonical: 9 of 10 rejected (missing_user 9)",
    ]


def test_a_first_load_and_a_source_that_was_always_dirty_have_a_threshold_of_their_own(settings: Settings) -> None:
    earlier = [batch(0, source="clean"), batch(0, source="dirty", rejected=25), batch(0, 9, source="tiny")]
    sources = ("clean", "dirty", "tiny", "new")
    shares = {"clean": 20, "dirty": 50, "tiny": 50, "new": 50}
    within = [batch(1, source=source, rejected=shares[source]) for source in sources]
    assert failures(judged_lake(settings, within, earlier)) == set()
    beyond = [batch(1, source=source, rejected=shares[source] + 1) for source in sources]
    result = judged_lake(settings, beyond, earlier)
    assert failures(result) == {("lake_rejected", BETWEEN, "rejected_share")}
    assert {entry["threshold"]["max_value"]: len(entry["examples"]) for entry in result.failed} == {0.2: 1, 0.5: 3}


def test_shares_of_few_rows_prove_nothing(settings: Settings) -> None:
    few = [batch(1, 9, rejected=9), batch(1, 9, source="shop", interactions=9, undescribed=9)]
    assert failures(judged_lake(settings, few, [batch(0, interactions=100), batch(0, source="shop")])) == set()


def test_volume_is_compared_with_the_median_of_earlier_batches(settings: Settings) -> None:
    earlier = [batch(0, 1), batch(1, 100), batch(2, 60), batch(2, 40, source="shop"), batch(3, 5000, "items")]
    changed = [batch(4 + n, landed) for n, landed in enumerate((1000, 1001, 10, 9, 0))]
    result = judged_lake(settings, changed, earlier)
    assert failures(result) == {("lake_volume", BETWEEN, "volume_ratio")}
    (entry,) = result.failed
    assert [(example["landed"], example["median"]) for example in entry["examples"]] == [
        (1001, 100),
        (9, 100),
        (0, 100),
    ]
    assert entry["examples"][0]["arrival_hour"] == "2026-01-01T05:00:00"


def test_volume_is_not_judged_without_enough_earlier_batches_or_rows(settings: Settings) -> None:
    assert failures(judged_lake(settings, [batch(4, 5000)], [batch(0), batch(1)])) == set()
    small = [batch(n, 9) for n in range(3)]
    assert failures(judged_lake(settings, [batch(4, 0)], small)) == set()


def test_undescribed_items_fail_only_where_the_source_described_them_before(settings: Settings) -> None:
    changed = [batch(1, interactions=100, undescribed=51)]
    described, never = [batch(0, interactions=100)], [batch(0, interactions=100, undescribed=100)]
    result = judged_lake(settings, changed, described)
    assert failures(result) == {("lake_undescribed", BETWEEN, "undescribed_share")}
    assert result.failed[0]["examples"] == ["events 2026-01-01T01 canonical: 51 of 100 undescribed"]
    assert failures(judged_lake(settings, changed, never)) == set()
    assert failures(judged_lake(settings, changed, [])) == set()


def test_missing_and_repeated_keys_fail(settings: Settings) -> None:
    keys = pd.DataFrame(
        [
            GOOD_KEYS.iloc[0].to_dict(),
            {"table": "dim_items", "rows": 5, "null_keys": 1, "repeated_keys": 2, "examples": ["dim_items i1\x07 2"]},
        ]
    )
    result = judged_lake(settings, [batch(0)], [], keys)
    assert failures(result) == {("lake_keys", BETWEEN, "null_keys"), ("lake_keys", BETWEEN, "repeated_keys")}
    assert result.failed[0]["examples"] == ["dim_items i1\\x07 2"]


# The lake: a small one of the test's own making, with the columns that cleaning gives it


TABLES = """
CREATE TABLE int_batches (landed_table VARCHAR, arrival_hour TIMESTAMP, n_landed BIGINT, fingerprint VARCHAR, rules VARCHAR);
CREATE TABLE int_event_history (arrival_hour TIMESTAMP, source VARCHAR, file VARCHAR, row_number BIGINT, event_key VARCHAR,
    user_id VARCHAR, item_id VARCHAR, outcome VARCHAR, reason VARCHAR);
CREATE TABLE int_item_history (arrival_hour TIMESTAMP, source VARCHAR, file VARCHAR, row_number BIGINT, item_id VARCHAR,
    outcome VARCHAR, reason VARCHAR);
CREATE TABLE int_user_history (arrival_hour TIMESTAMP, source VARCHAR, file VARCHAR, row_number BIGINT, user_id VARCHAR,
    outcome VARCHAR, reason VARCHAR);
CREATE TABLE fct_interactions (event_key VARCHAR, user_id VARCHAR, item_id VARCHAR, weight DOUBLE);
CREATE TABLE fct_user_texts (event_key VARCHAR, user_id VARCHAR, text VARCHAR);
CREATE TABLE dim_items (item_id VARCHAR, version BIGINT, described BOOLEAN, categories VARCHAR[]);
CREATE TABLE dim_users (user_id VARCHAR, described BOOLEAN);
"""


class SmallLake:
    """Writes what a clean of a batch would write."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        with self.writer() as connection:
            connection.execute(TABLES)

    @contextmanager
    def writer(self) -> Iterator[Any]:
        with lake.connect(self.settings, read_only=False) as connection:
            yield connection

    def clean(
        self,
        hour: int,
        interactions: int = 20,
        rejected: int = 0,
        item: str = "i1",
        source: str = "canonical",
        rules: str = "r1",
    ) -> None:
        """Replace a batch of events, in one snapshot."""
        moment = HOUR + timedelta(hours=hour)
        batch = {"moment": moment, "hour": hour, "interactions": interactions, "rejected": rejected, "item": item}
        statements = (
            "DELETE FROM int_batches WHERE arrival_hour = $moment",
            "DELETE FROM int_event_history WHERE arrival_hour = $moment",
            "DELETE FROM fct_interactions WHERE event_key LIKE 'e' || $hour || '-%'",
            """INSERT INTO int_event_history SELECT $moment, $source, 'f', n, 'e' || $hour || '-' || n, 'u', $item,
               'interaction', NULL FROM range($interactions) AS numbers(n)""",
            """INSERT INTO int_event_history SELECT $moment, $source, 'f', -n, NULL, NULL, $item, 'rejected', 'missing_user'
               FROM range($rejected) AS numbers(n)""",
            """INSERT INTO fct_interactions SELECT 'e' || $hour || '-' || n, 'u', $item, 1
               FROM range($interactions) AS numbers(n)""",
            """INSERT INTO int_batches VALUES ('events', $moment, $interactions + $rejected,
               concat_ws('-', $interactions, $rejected, $item), $rules)""",
        )
        batch |= {"source": source, "rules": rules}
        with self.writer() as connection:
            connection.begin()
            for statement in statements:
                connection.execute(statement, {name: batch[name] for name in re.findall(r"\$(\w+)", statement)})
            connection.commit()

    def run(self, statement: str) -> None:
        with self.writer() as connection:
            connection.execute(statement)

    def describe(self, item: str) -> None:
        self.run(f"INSERT INTO dim_items VALUES ('{item}', 1, true, ['a'])")


@pytest.fixture
def small(settings: Settings) -> SmallLake:
    return SmallLake(settings)


def test_without_a_lake_nothing_is_gated(settings: Settings) -> None:
    assert gate_lake(settings) == {"snapshot": None, "since": None, "gated": False, "gate": None, "changed": False}


def test_a_first_load_is_gated_once(settings: Settings, small: SmallLake) -> None:
    small.clean(0, interactions=20, rejected=15)
    first = gate_lake(settings)
    assert first["gated"]
    assert first["changed"]
    assert first["since"] is None
    assert first["gate"]["passed"]
    assert lake.gated_snapshot(settings) == first["snapshot"] == lake.newest_snapshot(settings)
    again = gate_lake(settings)
    assert again == {
        "snapshot": first["snapshot"],
        "since": first["snapshot"],
        "gated": True,
        "gate": None,
        "changed": False,
    }
    assert len(lake.gates(settings)) == 1


def test_a_failed_gate_advances_nothing_until_it_is_accepted_or_mended(settings: Settings, small: SmallLake) -> None:
    small.clean(0)
    good = gate_lake(settings)["snapshot"]
    small.clean(1, rejected=20)
    with pytest.raises(GateFailed, match=r"rejected_share .*events 2026-01-01T01 canonical: 20 of 40 rejected"):
        gate_lake(settings)
    assert lake.gated_snapshot(settings) == good
    bad = lake.newest_snapshot(settings)

    # More good data on top does not let the bad hour through: everything since the gated snapshot is judged again.
    small.clean(2)
    with pytest.raises(GateFailed, match=RUNBOOK):
        gate_lake(settings)
    small.clean(1, rejected=1)
    mended = gate_lake(settings)
    assert mended["since"] == good
    assert lake.gated_snapshot(settings) == mended["snapshot"]
    with pytest.raises(BadInput, match="newer snapshot"):
        accept_gate(settings, bad, "too late")


def test_accepting_a_failed_gate_is_recorded_with_its_reason(settings: Settings, small: SmallLake) -> None:
    small.clean(0)
    good = gate_lake(settings)["snapshot"]
    small.clean(1, rejected=20)
    with pytest.raises(GateFailed):
        gate_lake(settings)
    bad = lake.newest_snapshot(settings)
    with pytest.raises(BadInput, match="--reason"):
        accept_gate(settings, bad, "  ")
    for snapshot in (good, bad + 1):
        with pytest.raises(BadInput, match=f"failed ones: {bad}"):
            accept_gate(settings, snapshot, "because")
    assert lake.gated_snapshot(settings) == good

    record = accept_gate(settings, bad, "the shop was closed")
    assert (record["accepted"], record["passed"], record["since"]) == ("the shop was closed", False, good)
    assert record["failed"][0]["column"] == "rejected_share"
    assert lake.gated_snapshot(settings) == bad
    with pytest.raises(BadInput, match="no gate has failed"):
        accept_gate(settings, bad, "twice")
    assert gate_lake(settings)["changed"] is False


def test_only_batches_whose_data_changed_are_judged(settings: Settings, small: SmallLake) -> None:
    small.clean(0, rejected=15)
    gate_lake(settings)
    # Under new rules, with the same rows: the batch would not pass as a later load, but nothing changed.
    small.clean(0, rejected=15, rules="r2")
    again = gate_lake(settings)
    assert (again["gated"], again["changed"], again["gate"]["expectations"]) == (True, False, 0)
    assert lake.gated_snapshot(settings) == lake.newest_snapshot(settings)


def test_a_change_of_a_mart_alone_is_a_change(settings: Settings, small: SmallLake) -> None:
    small.clean(0)
    gate_lake(settings)
    small.run("DELETE FROM fct_interactions WHERE event_key = 'e0-1'")
    assert gate_lake(settings)["changed"] is True


def test_a_changed_key_that_another_row_has_fails(settings: Settings, small: SmallLake) -> None:
    small.clean(0)
    small.describe("i1")
    gate_lake(settings)
    small.clean(1)
    small.run("INSERT INTO fct_interactions VALUES ('e0-3', 'u', 'i1', 1), (NULL, 'u', 'i1', 1)")
    small.run("INSERT INTO dim_items VALUES ('i1', 1, true, ['b']), ('i2', NULL, true, NULL)")
    with pytest.raises(GateFailed) as raised:
        gate_lake(settings)
    failed = {entry["column"]: entry for entry in lake.gates(settings)[-1]["failed"]}
    assert set(failed) == {"null_keys", "repeated_keys"}
    expected = ["fct_interactions e0-3", "fct_interactions null", "dim_items i1 1", "dim_items i2 null"]
    assert failed["repeated_keys"]["examples"] == expected
    assert "fct_interactions e0-3" in str(raised.value)


def test_items_that_are_no_longer_described_fail(settings: Settings, small: SmallLake) -> None:
    small.describe("i1")
    small.clean(0)
    gate_lake(settings)
    small.clean(1, item="new")
    with pytest.raises(GateFailed, match="undescribed_share"):
        gate_lake(settings)
    small.describe("new")
    assert gate_lake(settings)["gated"]


def test_events_alone_pass_hour_after_hour(settings: Settings, small: SmallLake) -> None:
    for hour in range(3):
        small.clean(hour)
        assert gate_lake(settings)["gate"]["passed"]


def test_a_batch_that_vanished_is_judged_by_its_volume(settings: Settings, small: SmallLake) -> None:
    for hour in range(4):
        small.clean(hour)
    gate_lake(settings)
    small.run(f"DELETE FROM int_batches WHERE arrival_hour = '{HOUR}'")
    small.run(f"DELETE FROM int_event_history WHERE arrival_hour = '{HOUR}'")
    with pytest.raises(GateFailed, match="volume_ratio"):
        gate_lake(settings)


def test_an_unfinished_clean_is_not_gated(settings: Settings, small: SmallLake) -> None:
    small.clean(0)
    under_way = {("events", HOUR.replace(tzinfo=UTC))}
    batches.begin(settings, under_way)
    with pytest.raises(GateFailed, match=r"2026-01-01T00.*did not finish"):
        gate_lake(settings)
    assert lake.gates(settings) == []
    batches.finish(settings, under_way)
    assert gate_lake(settings)["gated"]


def test_after_the_gated_snapshot_expired_everything_is_judged(
    settings: Settings, small: SmallLake, caplog: pytest.LogCaptureFixture
) -> None:
    small.clean(0, rejected=15)
    gated = gate_lake(settings)["snapshot"]
    small.clean(1)
    with small.writer() as connection:
        connection.execute(f"CALL ducklake_expire_snapshots('lake', versions => [{gated}])")
    with caplog.at_level(logging.INFO, logger=step.__name__):
        assert gate_lake(settings)["gate"]["passed"]
    assert f"the gated snapshot {gated} has expired" in caplog.text
    assert "2 batches and 40 keys changed since the beginning" in caplog.text


def test_what_cleaning_leaves_can_be_gated(settings: Settings) -> None:
    """Through the real dbt build, with its own tables: a good hour, the same again, and a bad one."""

    def land(hour: int, nobodys: int, table: str = "events") -> None:
        rows: list[dict[str, Any]] = [{"item_id": f"i{n}", "title": f"Item {n}"} for n in range(5)]
        if table == "events":
            moment = f"2026-01-01T{hour:02d}:00:00"
            rows = [{"user_id": f"u{n % 4}", "item_id": f"i{n % 5}", "event_ts": moment, "value": n} for n in range(40)]
            rows = [
                row | {"event_type": "purchase"} | ({"user_id": None} if n < nobodys else {})
                for n, row in enumerate(rows)
            ]
        folder = settings.landing / table / "dt=2026-01-01" / f"hr={hour:02d}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{table}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows), "utf-8")

    land(0, nobodys=4)
    land(0, nobodys=0, table="items")
    clean(settings)
    first = gate_lake(settings)
    assert first["gate"]["passed"]
    assert first["changed"]

    land(0, nobodys=4)
    land(1, nobodys=30)
    clean(settings)
    with pytest.raises(GateFailed) as raised:
        gate_lake(settings)
    assert "events 2026-01-01T01 canonical: 30 of 40 rejected (missing_user 30)" in str(raised.value)
    assert "2026-01-01T00" not in str(raised.value)
    assert lake.gated_snapshot(settings) == first["snapshot"]
