"""Cleaning end to end: landed files in, the lake's tables out, whatever order they come in and whatever fails."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from include.errors import BadInput, GateFailed
from include.settings import Settings, load
from include.steps import clean as step
from include.steps.clean import clean
from include.stores import batches, lake

T0 = datetime(2024, 1, 1, 10, tzinfo=UTC)
MARTS = ("fct_interactions", "fct_user_texts", "dim_items", "dim_users", "fct_rejected_rows")


def hour(place: int) -> datetime:
    return T0 + timedelta(hours=place)


def put(settings: Settings, table: str, place: int, rows: list[dict[str, Any] | str], name: str = "") -> Path:
    """Land rows as a JSON Lines file of the arrival hour `place`; a str is a line as it is."""
    folder = settings.landing / table / hour(place).strftime("dt=%Y-%m-%d/hr=%H")
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / (name or f"{table}.jsonl")
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    file.write_text("\n".join(lines) + "\n", "utf-8")
    return file


def event(
    key: str | None, user: str | None, item: str | None, kind: str = "view", at: str = "09:00", **more: Any
) -> dict[str, Any]:
    row = {
        "event_id": key,
        "user_id": user,
        "item_id": item,
        "event_type": kind,
        "event_ts": f"2024-01-01T{at}:00",
        **more,
    }
    return {name: value for name, value in row.items() if value is not None}


def rows(settings: Settings, sql: str) -> list[tuple[Any, ...]]:
    with lake.connect(settings) as connection:
        return connection.execute(sql).fetchall()


def content(settings: Settings) -> dict[str, list[tuple[Any, ...]]]:
    """Everything in the marts, in a fixed order."""
    return {table: rows(settings, f"SELECT * FROM {table} ORDER BY ALL") for table in MARTS}


def net_changes(settings: Settings, since: int) -> dict[str, int]:
    """Rows of each mart that differ between a snapshot and now, both sides counted."""
    changed = {}
    with lake.connect(settings) as connection:
        newest = connection.execute("SELECT max(snapshot_id) FROM lake.snapshots()").fetchone()
        assert newest is not None
        if newest[0] == since:
            return dict.fromkeys(MARTS, 0)
        for table in MARTS:
            found = connection.execute(
                f"""
                SELECT count(*) FROM (
                    SELECT COLUMNS(* EXCLUDE (snapshot_id, rowid, change_type)),
                           sum(CASE WHEN change_type IN ('insert', 'update_postimage') THEN 1 ELSE -1 END) AS net
                    FROM ducklake_table_changes('lake', 'main', '{table}', {since + 1}, {newest[0]})
                    GROUP BY ALL HAVING net <> 0)
                """
            ).fetchone()
            assert found is not None
            changed[table] = found[0]
    return changed


def outcomes(settings: Settings) -> dict[str, Any]:
    """What became of the event rows, with the sum checked against what landed."""
    counts = clean(settings)["rows"]["events"]
    rejected = sum(counts["rejected"].values())
    assert (
        counts["landed"]
        == sum(counts[name] for name in ("interactions", "text_only", "duplicates", "cancelled")) + rejected
    )
    return counts


def test_each_row_has_one_outcome_counted_by_reader_and_marts(settings: Settings) -> None:
    put(
        settings,
        "events",
        0,
        [
            event("p", "u1", "i1", "purchase", "09:00", value=2),
            event("r", "u1", "i1", "refund", "09:30", value=2),
            event("v", "u1", "i2"),
            event("v", "u1", "i2"),
            event("q", "u2", None, "query", text="<b>red</b> shoes"),
            event("c", "u2", "i2", "comment", text="good &amp; nice"),
            event("z", "u2", "i2", "zap"),
            event("t", "test-1", "i2"),
            event("d", "u2", "i2", at="09:10", deleted=True),
            "{broken",
        ],
    )
    put(settings, "items", 0, [{"item_id": "i1", "title": "One"}, {"title": "nameless"}])
    put(settings, "users", 0, [{"user_id": "u1", "age": 24}, {"user_id": "u1", "age": 25}])

    summary = clean(settings)

    assert summary["changed"]
    assert summary["rows"] == {
        "events": {
            "landed": 10,
            "interactions": 2,
            "text_only": 1,
            "duplicates": 1,
            "cancelled": 3,
            "rejected": {"malformed_json": 1, "test_traffic": 1, "unknown_event_type": 1},
        },
        "items": {"landed": 2, "kept": 1, "superseded": 0, "rejected": {"missing_item": 1}},
        "users": {"landed": 2, "kept": 1, "superseded": 1, "rejected": {}},
    }
    assert rows(settings, "SELECT event_key FROM fct_interactions WHERE excluded_at IS NULL ORDER BY 1") == [
        ("c",),
        ("v",),
    ]
    assert rows(settings, "SELECT event_key, text FROM fct_user_texts ORDER BY 1") == [
        ("c", "good & nice"),
        ("q", "red shoes"),
    ]
    assert rows(settings, "SELECT user_id, described, attributes FROM dim_users ORDER BY 1") == [
        ("u1", True, '{"age":"25"}'),
        ("u2", False, None),
    ]
    assert rows(settings, "SELECT item_id, described, title FROM dim_items ORDER BY 1") == [
        ("i1", True, "One"),
        ("i2", False, None),
    ]
    assert rows(settings, "SELECT raw FROM fct_rejected_rows WHERE reason = 'malformed_json'") == [('"{broken"',)]
    assert {node["status"] for node in summary["nodes"]} == {"success", "pass"}


def test_the_same_batch_again_changes_nothing(settings: Settings) -> None:
    file = put(settings, "events", 0, [event("a", "u1", "i1"), event("b", "u2", None, "query", text="hats")])
    put(settings, "items", 0, [{"item_id": "i1", "title": "One"}])
    first = clean(settings)

    idle = clean(settings)
    assert (idle["batches"], idle["nodes"], idle["changed"]) == ([], [], False)

    file.write_text(file.read_text("utf-8"), "utf-8")  # the same content delivered again
    again = clean(settings)
    assert [(batch["table"], batch["state"]) for batch in again["batches"]] == [("events", "changed")]
    assert net_changes(settings, first["snapshot"]) == dict.fromkeys(MARTS, 0)


def test_a_new_batch_changes_only_the_users_it_touches(settings: Settings) -> None:
    put(settings, "events", 0, [event("a", "u1", "i1"), event("b", "u2", "i1", at="09:30")])
    before = clean(settings)["snapshot"]

    put(settings, "events", 1, [event("c", "u2", "i2", at="10:30")])
    clean(settings)

    assert net_changes(settings, before) == {
        "fct_interactions": 1,
        "fct_user_texts": 0,
        "dim_items": 1,
        "dim_users": 0,
        "fct_rejected_rows": 0,
    }


def test_withdrawn_events_come_back_when_delivered_again(settings: Settings) -> None:
    put(settings, "events", 0, [event("a", "u1", "i1"), event("b", "u1", "i2")])
    assert outcomes(settings)["interactions"] == 2

    put(settings, "events", 1, [{"event_id": "a", "deleted": True}])
    counts = outcomes(settings)
    assert (counts["interactions"], counts["duplicates"], counts["cancelled"]) == (1, 1, 1)
    assert rows(settings, "SELECT event_key FROM fct_interactions") == [("b",)]

    put(settings, "events", 2, [event("a", "u1", "i1")])
    counts = outcomes(settings)
    assert (counts["interactions"], counts["duplicates"], counts["cancelled"]) == (2, 2, 0)


def test_a_correction_replaces_the_event_even_of_another_user(settings: Settings) -> None:
    put(settings, "events", 0, [event("a", "wrong", "i1", "rating", value=1), event("b", "wrong", "i2")])
    clean(settings)
    put(settings, "events", 1, [event("a", "right", "i3", "rating", value=5)])
    clean(settings)
    assert rows(settings, "SELECT event_key, user_id, item_id, value FROM fct_interactions ORDER BY 1") == [
        ("a", "right", "i3", 5.0),
        ("b", "wrong", "i2", None),
    ]
    assert rows(settings, "SELECT item_id FROM dim_items ORDER BY 1") == [("i2",), ("i3",)]

    # The correction's batch loses the row: what was corrected holds again.
    put(settings, "events", 1, [event("c", "right", "i3")])
    clean(settings)
    assert rows(settings, "SELECT event_key, user_id FROM fct_interactions ORDER BY 1") == [
        ("a", "wrong"),
        ("b", "wrong"),
        ("c", "right"),
    ]


def test_rows_and_batches_that_vanish_leave_no_trace(settings: Settings) -> None:
    put(settings, "events", 0, [event("a", "u1", "i1"), event("b", "u2", "i2"), "broken"])
    put(settings, "items", 0, [{"item_id": "i9", "title": "Nine"}])
    clean(settings)

    put(settings, "events", 0, [event("a", "u1", "i1")])
    clean(settings)
    assert rows(settings, "SELECT user_id FROM dim_users") == [("u1",)]
    assert rows(settings, "SELECT count(*) FROM fct_rejected_rows") == [(0,)]

    for file in settings.landing.rglob("*.jsonl"):
        file.unlink()
    assert [batch["state"] for batch in batches.stale_batches(settings)] == ["vanished", "vanished"]
    assert clean(settings)["batches"] == []  # files that went are only believed where somebody says which hours
    summary = clean(settings, hour(0), hour(1))
    assert [batch["state"] for batch in summary["batches"]] == ["vanished", "vanished"]
    assert content(settings) == {table: [] for table in MARTS}
    assert rows(settings, "SELECT count(*) FROM audit_batches") == [(0,)]
    assert batches.stale_batches(settings) == []


def test_a_span_is_cleaned_and_nothing_else(settings: Settings) -> None:
    for place in range(3):
        put(settings, "events", place, [event(f"e{place}", "u1", f"i{place}")])
    clean(settings, hour(1), hour(2))
    assert rows(settings, "SELECT event_key FROM fct_interactions") == [("e1",)]
    assert [batch["state"] for batch in batches.stale_batches(settings)] == ["new", "new"]


def test_reversals_cancel_in_the_order_of_events_wherever_they_arrive(settings: Settings) -> None:
    put(settings, "events", 1, [event("r", "u1", "i1", "refund", "09:30", value=3)])
    clean(settings)
    put(
        settings,
        "events",
        0,
        [event("p1", "u1", "i1", "purchase", "09:00", value=3), event("p2", "u1", "i1", "purchase", "09:10", value=3)],
    )
    clean(settings)
    assert rows(settings, "SELECT event_key, excluded_at, excluded_reason FROM fct_interactions ORDER BY 1") == [
        ("p1", datetime(2024, 1, 1, 9, 30), "reversed"),
        ("p2", None, None),
    ]

    put(settings, "events", 2, [{"event_id": "r", "deleted": "true"}])  # the refund itself is withdrawn
    clean(settings)
    assert rows(settings, "SELECT event_key FROM fct_interactions WHERE excluded_at IS NULL ORDER BY 1") == [
        ("p1",),
        ("p2",),
    ]


def test_bots_are_excluded_from_the_event_that_shows_them(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    run = step.dbt
    monkeypatch.setattr(step, "dbt", lambda *a, **k: run(*a, **k, variables={"bot_events_per_hour": 3}))
    put(settings, "events", 0, [event(f"e{n}", "bot", "i", at=f"09:0{n}") for n in range(3)])
    assert outcomes(settings)["interactions"] == 3
    put(settings, "events", 1, [event("e3", "bot", "i", at="09:03"), event("e3", "bot", "i", at="09:03")])
    counts = outcomes(settings)
    assert (counts["interactions"], counts["rejected"]) == (0, {"bot": 5})
    assert rows(settings, "SELECT DISTINCT excluded_at, excluded_reason FROM fct_interactions") == [
        (datetime(2024, 1, 1, 9, 3), "bot")
    ]
    put(settings, "events", 1, [event("late", "u", "i", at="09:03")])  # without that batch the user is none
    assert outcomes(settings)["interactions"] == 4
    assert rows(settings, "SELECT count(*) FROM fct_rejected_rows") == [(0,)]


def test_versions_of_items_follow_arrivals(settings: Settings) -> None:
    put(settings, "events", 0, [event("a", "u1", "i1", at="08:00")])
    clean(settings)
    assert rows(settings, "SELECT version, described, valid_from FROM dim_items") == [
        (1, False, datetime(2024, 1, 1, 8))
    ]

    put(settings, "items", 1, [{"item_id": "i1", "title": "A"}])
    put(settings, "items", 2, [{"item_id": "i1", "title": "A"}])
    put(settings, "items", 3, [{"item_id": "i1", "title": "B"}])
    counts = clean(settings)["rows"]["items"]
    assert (counts["kept"], counts["superseded"]) == (2, 1)
    assert rows(settings, "SELECT version, title, valid_from, valid_to FROM dim_items ORDER BY 1") == [
        (1, "A", datetime(2024, 1, 1, 8), datetime(2024, 1, 1, 13)),
        (2, "B", datetime(2024, 1, 1, 13), None),
    ]

    put(settings, "events", 4, [event("b", "u2", "i1", at="07:00")])  # a late event moves the beginning
    clean(settings)
    assert rows(settings, "SELECT valid_from FROM dim_items WHERE version = 1") == [(datetime(2024, 1, 1, 7),)]


LANDED: list[tuple[str, int, list[dict[str, Any] | str]]] = [
    (
        "events",
        0,
        [event("a", "u1", "i1", "purchase", value=1), event("b", "u2", "i1"), event(None, "u3", "i2", at="08:00")],
    ),
    ("events", 1, [event("a", "u2", "i1", "purchase", value=1), event(None, "u3", "i2", at="08:00"), "broken"]),
    ("events", 2, [event("c", "u2", "i1", "refund", "09:30", value=1), {"event_id": "b", "deleted": True}]),
    ("events", 3, [event("b", "u2", "i3", at="08:30"), event("d", "u1", None, "query", text="hats", at="12:00")]),
    ("items", 1, [{"item_id": "i1", "title": "A", "categories": "x|y"}, {"item_id": "i1", "title": "B"}]),
    ("items", 3, [{"item_id": "i1", "title": "C"}, {"item_id": "i3", "published_at": "2023-01-01"}]),
    ("users", 2, [{"user_id": "u1"}, {"user_id": "u4", "created_at": "2023-01-01"}]),
]


@pytest.fixture(scope="module")
def at_once(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A home where all of `LANDED` was cleaned in one run."""
    settings = Settings(home=tmp_path_factory.mktemp("at_once"))
    for table, place, landed in LANDED:
        put(settings, table, place, landed)
    clean(settings)
    return settings


@pytest.mark.parametrize("order", [[6, 5, 4, 3, 2, 1, 0], [3, 0, 5, 2, 6, 1, 4]])
def test_the_order_of_cleaning_does_not_matter(settings: Settings, at_once: Settings, order: list[int]) -> None:
    for index in order:
        put(settings, *LANDED[index])
        clean(settings)
    assert content(settings) == content(at_once)


def test_after_a_failed_data_test_the_mended_batch_leaves_nothing_behind(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(settings, "events", 0, [event("a", "u1", "i1")])
    clean(settings)
    good = content(settings)

    # A rating scale of 0 gives the batch's rating no weight that is a number, which a data test of the mart refuses.
    run = step.dbt
    monkeypatch.setattr(step, "dbt", lambda *a, **k: run(*a, **k, variables={"rating_max": "nullif(1, 1)"}))
    put(settings, "events", 1, [event("bad", "u9", "i9", "rating", value=3), "broken"])
    with pytest.raises(GateFailed, match="not_null_fct_interactions_weight") as failure:
        clean(settings)
    assert failure.value.exit_code == 1
    assert batches.unfinished(settings) == {("events", hour(1))}
    assert rows(settings, "SELECT count(*) FROM fct_interactions WHERE user_id = 'u9'") == [(1,)]
    assert [batch["state"] for batch in batches.stale_batches(settings)] == ["unfinished"]

    monkeypatch.setattr(step, "dbt", run)
    put(settings, "events", 1, [event("b", "u2", "i2")])  # the file is mended: the bad user is gone from it
    clean(settings)
    assert batches.unfinished(settings) == set()
    assert not batches.marker(settings).exists()
    assert rows(settings, "SELECT event_key FROM fct_interactions ORDER BY 1") == [("a",), ("b",)]
    assert rows(settings, "SELECT item_id FROM dim_items ORDER BY 1") == [("i1",), ("i2",)]
    assert rows(settings, "SELECT user_id FROM dim_users ORDER BY 1") == [("u1",), ("u2",)]
    assert set(good["fct_interactions"]) < set(content(settings)["fct_interactions"])


def test_another_span_does_not_hide_an_unfinished_one(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    run = step.dbt
    monkeypatch.setattr(step, "dbt", lambda *a, **k: run(*a, **k, variables={"rating_max": "nullif(1, 1)"}))
    put(settings, "events", 0, [event("bad", "u9", "i9", "rating", value=3)])
    with pytest.raises(GateFailed):
        clean(settings)
    monkeypatch.setattr(step, "dbt", run)
    put(settings, "events", 1, [event("b", "u2", "i2")])
    clean(settings, hour(1), hour(2))
    assert batches.unfinished(settings) == {("events", hour(0))}
    assert rows(settings, "SELECT event_key FROM fct_interactions") == [("b",)]
    clean(settings)
    assert batches.unfinished(settings) == set()
    assert rows(settings, "SELECT event_key FROM fct_interactions ORDER BY 1") == [("b",), ("bad",)]


def test_a_killed_run_repeated_gives_what_it_would_have_given(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ends the run after each persistent table in turn, as a kill would, then repeats it."""
    whole = Settings(home=tmp_path / "whole")
    for home in (whole, settings):
        put(home, "events", 0, [event("a", "u1", "i1"), event("b", "u2", "i2")])
        put(home, "items", 0, [{"item_id": "i1", "title": "A"}])
        clean(home)
        put(home, "events", 0, [event("b", "u3", "i3"), "broken"])  # u1, u2, i1 and i2 lose what they had
        put(home, "items", 0, [{"item_id": "i3", "title": "C"}])
    clean(whole)
    run = step.dbt
    for last in ("fct_interactions", "dim_items", "int_event_history", "audit_batches"):
        monkeypatch.setattr(
            step,
            "dbt",
            lambda *a, last=last, **k: run(*a, "--select", f"+{last}", "--indirect-selection", "empty", **k),
        )
        monkeypatch.setattr(batches, "finish", lambda *_: None)  # nobody tidies up after a kill
        clean(settings)
        assert batches.unfinished(settings)
    monkeypatch.undo()
    clean(settings)
    assert content(settings) == content(whole)
    assert outcomes(settings) == outcomes(whole)


def test_an_unreadable_file_leaves_lake_and_marker_alone(settings: Settings) -> None:
    put(settings, "events", 0, [event("a", "u1", "i1")])
    before = clean(settings)["snapshot"]
    put(settings, "events", 1, [event("b", "u1", "i1")], name="events.parquet")  # not what its name says
    with pytest.raises(BadInput, match=r"events\.parquet"):
        clean(settings)
    assert lake.newest_snapshot(settings) == before
    assert not batches.marker(settings).exists()


def test_the_path_of_a_home_is_no_pattern_and_no_sql(tmp_path: Path) -> None:
    other = Settings(home=tmp_path / "x's=1 all $U%20#;")
    put(other, "events", 0, [event("b", "u2", "i2")])
    prepared = [batch for batch in batches.stale(other) if batch.state == "new"]
    step.prepare(other, prepared)  # its rows lie where a pattern of the other's path would find them
    settings = Settings(home=tmp_path / "[x]'s=1 * $U%20#;")
    put(settings, "events", 0, [event("a", "u1", "i1")])

    assert outcomes(settings)["landed"] == 1
    assert rows(settings, "SELECT user_id FROM fct_interactions") == [("u1",)]


@pytest.mark.parametrize("char", ["?", "\\", "{", "\n", "\x1b", "\u202e"])
def test_a_home_that_the_stores_cannot_name_is_refused(monkeypatch: pytest.MonkeyPatch, char: str) -> None:
    monkeypatch.setenv("TIDEMARK_HOME", f"/srv/tide{char}mark")
    with pytest.raises(BadInput, match=r"TIDEMARK_HOME.*must not hold") as refused:
        load()
    assert str(refused.value).isascii()
    assert str(refused.value).isprintable()


def test_changed_rules_make_every_batch_stale(settings: Settings) -> None:
    put(settings, "events", 0, [event("a", "u1", "i1")])
    clean(settings)
    stricter = Settings(home=settings.home, earliest_event="2024-01-02")
    assert [batch["state"] for batch in batches.stale_batches(stricter)] == ["rules_changed"]
    assert clean(stricter)["rows"]["events"]["rejected"] == {"implausible_time": 1}
    assert content(stricter)["fct_interactions"] == []


@pytest.mark.shared
def test_online_retail_agrees_with_counts_taken_from_the_raw_file(settings: Settings, shared_data: Path) -> None:
    from include.steps.land import land

    source = shared_data / "online_retail"
    land(settings, source, format="online-retail", progress=lambda _: None)
    counts = clean(settings)["rows"]["events"]

    import duckdb

    raw = duckdb.connect()
    raw.execute(f"CREATE VIEW raw AS SELECT * FROM read_parquet('{source}/*.parquet')")
    non_product = (
        "regexp_full_match(upper(trim(StockCode)), "
        "'POST|DOT|C[0-9]|M|D|S|B|CRUK|ADJUST.*|BANK CHARGES|AMAZONFEE|GIFT.*|DCGS?GIFT.*|TEST.*')"
    )
    raw.execute(
        f"""
        CREATE TABLE good AS SELECT *, trim(Invoice) LIKE 'C%' AS cancels FROM raw
        WHERE "Customer ID" IS NOT NULL AND NOT {non_product} AND Price > 0
          AND CASE WHEN trim(Invoice) LIKE 'C%' THEN Quantity < 0 ELSE Quantity > 0 END
        """
    )
    raw.execute(
        """
        CREATE TABLE unique_lines AS SELECT DISTINCT Invoice, upper(trim(StockCode)) AS code, trim(Description) AS description,
            Quantity, InvoiceDate, Price, "Customer ID", Country, cancels FROM good
        """
    )

    def count(sql: str) -> int:
        found = raw.execute(sql).fetchone()
        assert found is not None
        return int(found[0])

    assert counts["landed"] == count("SELECT count(*) FROM raw") == 365_825
    assert sum(counts["rejected"].values()) == count("SELECT count(*) FROM raw") - count("SELECT count(*) FROM good")
    assert counts["rejected"]["missing_user"] == count('SELECT count(*) FROM raw WHERE "Customer ID" IS NULL')
    assert counts["duplicates"] == count("SELECT count(*) FROM good") - count("SELECT count(*) FROM unique_lines")
    # First in, first out, walked line by line: a cancellation takes back the oldest equal purchase still standing.
    lines = raw.execute(
        'SELECT "Customer ID", code, abs(Quantity), cancels FROM unique_lines ORDER BY InvoiceDate, cancels'
    ).fetchall()
    standing: dict[tuple[Any, ...], int] = {}
    reversed_lines = 0
    for *key, cancels in lines:
        if not cancels:
            standing[tuple(key)] = standing.get(tuple(key), 0) + 1
        elif standing.get(tuple(key), 0):
            standing[tuple(key)] -= 1
            reversed_lines += 1
    cancellations = sum(1 for line in lines if line[3])
    assert counts["cancelled"] == cancellations + reversed_lines
    assert counts["interactions"] == len(lines) - cancellations - reversed_lines
    assert rows(settings, "SELECT title FROM dim_items WHERE item_id = '85123A'") == [
        ("WHITE HANGING HEART T-LIGHT HOLDER",)
    ]
    assert rows(settings, "SELECT count(*) FROM dim_items WHERE title IN ('?', 'damages', 'missing')") == [(0,)]
