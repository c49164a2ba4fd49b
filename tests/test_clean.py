"""Cleaning end to end: landed files in, the lake's tables out, whatever order they come in and whatever fails."""

import json
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from include.errors import BadInput, GateFailed
from include.settings import Settings, load
from include.steps import clean as step
from include.steps.check_batches import GRACE, check_batches
from include.steps.clean import clean
from include.steps.doctor import doctor
from include.steps.dry_run import dry_run, dry_run_lines
from include.stores import batches, lake

T0 = datetime(2024, 1, 1, 10, tzinfo=UTC)
BOT_EVENTS = 3
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


def test_a_step_attaches_the_lake_once_and_sees_what_is_written_meanwhile(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    attached: list[bool] = []

    def counted(settings: Settings, *, read_only: bool, attach: Any = lake._attached) -> Any:
        attached.append(read_only)
        return attach(settings, read_only=read_only)

    def count() -> int:
        return int(rows(settings, "SELECT count(*) FROM fct_interactions")[0][0])

    @lake.attached_once
    def step(settings: Settings) -> tuple[int, int]:
        before = count()
        put(settings, "events", 1, [event("b", "u1", "i1")])
        clean(settings)  # dbt writes beside it
        return before, count()

    @lake.attached_once
    def fails(settings: Settings) -> None:
        raise BadInput(f"{count()} rows are too few")

    put(settings, "events", 0, [event("a", "u1", "i1")])
    clean(settings)
    monkeypatch.setattr(lake, "_attached", counted)
    assert step(settings) == (1, 2)
    assert attached == [True]
    with pytest.raises(BadInput, match="2 rows"):
        fails(settings)
    assert count() == 2
    assert attached == [True, True, True], "nothing stays attached"


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


def test_rows_and_batches_that_vanish_leave_no_trace(settings: Settings) -> None:
    put(settings, "events", 0, [event("a", "u1", "i1"), event("b", "u2", "i2"), "broken"])
    put(settings, "items", 0, [{"item_id": "i9", "title": "Nine"}])
    clean(settings)

    put(settings, "events", 0, [event("a", "u1", "i1")])
    clean(settings)
    assert rows(settings, "SELECT user_id FROM dim_users") == [("u1",)]
    assert rows(settings, "SELECT count(*) FROM fct_rejected_rows") == [(0,)]

    settings.landing.rename(settings.home / "away")
    with pytest.raises(BadInput, match=r"landing is empty or not there, and the lake holds 2 batches of this span"):
        clean(settings, hour(0), hour(1))
    (settings.home / "away").rename(settings.landing)
    for file in settings.landing.rglob("*.jsonl"):
        file.unlink()
    assert [batch.state for batch in batches.stale(settings)] == ["vanished", "vanished"]
    assert clean(settings)["batches"] == []  # files that went are only believed where somebody says which hours
    assert check_batches(settings) == {"overdue": 0}
    lines = list(dry_run_lines(dry_run(settings)))
    assert lines[0] == "nothing to clean: every batch that has files is in the lake as it is landed"
    advised = "take the rows out with `python -m include clean --from 2024-01-01T10 --to 2024-01-01T11`"
    assert "the files of 2 batches have vanished" in lines[1]
    assert advised in lines[1]
    looked = doctor(settings)
    assert lines[1] in looked["advice"]
    assert not [line for line in looked["advice"] if "changed since they were cleaned" in line]
    assert len(list(dry_run_lines(dry_run(settings, hour(0), hour(1))))) > 2, "a span takes their rows out"
    summary = clean(settings, hour(0), hour(1))
    assert [batch["state"] for batch in summary["batches"]] == ["vanished", "vanished"]
    assert content(settings) == {table: [] for table in MARTS}
    assert rows(settings, "SELECT count(*) FROM audit_batches") == [(0,)]
    assert batches.stale(settings) == []


def test_a_span_is_cleaned_and_nothing_else(settings: Settings) -> None:
    for place in range(3):
        put(settings, "events", place, [event(f"e{place}", "u1", f"i{place}")])
    clean(settings, hour(1), hour(2))
    assert rows(settings, "SELECT event_key FROM fct_interactions") == [("e1",)]
    assert [batch.state for batch in batches.stale(settings)] == ["new", "new"]
    assert check_batches(settings, hour(1) + GRACE - timedelta(minutes=1)) == {"overdue": 0}, (
        "the first hour's run may be under way"
    )
    first, third = (f"{hour(place):%Y-%m-%dT%H}" for place in (0, 2))
    for now, named in (
        (1, f"1 batches .*: events {first}: backfill"),
        (3, f"2 batches .*: events {first}, events {third}: backfill"),
    ):
        with pytest.raises(GateFailed, match=f"{named}.* docs/runbooks/stale_batch.md"):
            check_batches(settings, hour(now) + GRACE)
    assert [line for line in doctor(settings)["advice"] if line.startswith("2 batches changed since they were cleaned")]
    clean(settings)
    assert check_batches(settings) == {"overdue": 0}


def test_what_lands_in_the_present_hour_asks_for_nothing_yet(settings: Settings) -> None:
    put(settings, "events", (datetime.now(UTC) - T0) // timedelta(hours=1), [event("e1", "u1", "i1")])
    looked = doctor(settings)
    assert [batch["state"] for batch in looked["stale_batches"]] == ["new"]
    assert not [line for line in looked["advice"] if "changed since they were cleaned" in line]
    assert check_batches(settings) == {"overdue": 0}


@pytest.mark.parametrize("step", [clean, dry_run])
def test_a_span_of_no_whole_hours_or_the_wrong_way_round_is_refused(
    settings: Settings, step: Callable[..., Any]
) -> None:
    put(settings, "events", 0, [event("e0", "u1", "i1")])
    with pytest.raises(BadInput, match=r"from .*:30:00\+00:00 is inside an hour"):
        step(settings, hour(0) + timedelta(minutes=30), hour(1))
    with pytest.raises(BadInput, match="must be before"):
        step(settings, hour(1), hour(0))


# ---------------------------------------------------------------- stories, told at once in one home

Landed = tuple[str, int, list[dict[str, Any]]]  # table, arrival hour, rows: the story's own file of that hour
STORIES: dict[str, list[list[Landed]]] = {
    "withdrawn": [
        [("events", 0, [event("a", "u1", "i1"), event("b", "u1", "i2")])],
        [("events", 1, [{"event_id": "a", "deleted": True}])],
        [("events", 2, [event("a", "u1", "i1")])],
    ],
    "corrected": [
        [("events", 0, [event("a", "wrong", "i1", "rating", value=1), event("b", "wrong", "i2")])],
        [("events", 1, [event("a", "right", "i3", "rating", value=5)])],
        [("events", 1, [event("c", "right", "i3")])],  # the correction's batch loses the row
    ],
    "reversed": [
        [("events", 1, [event("r", "u1", "i1", "refund", "09:30", value=3)])],
        [("events", 0, [event(f"p{n}", "u1", "i1", "purchase", f"09:{n}0", value=3) for n in (0, 1)])],
        [("events", 2, [{"event_id": "r", "deleted": "true"}])],  # the refund itself is withdrawn
    ],
    "bots": [
        [("events", 0, [event(f"e{n}", "bot", "i", at=f"09:0{n}") for n in range(BOT_EVENTS)])],
        [("events", 1, [event("e3", "bot", "i", at="09:03"), event("e3", "bot", "i", at="09:03")])],
        [("events", 1, [event("late", "u", "i", at="09:03")])],
    ],
    "versions": [
        [("events", 0, [event("a", "u1", "i1", at="08:00")])],
        [("items", hour, [{"item_id": "i1", "title": title}]) for hour, title in ((1, "A"), (2, "A"), (3, "B"))],
        [("events", 4, [event("b", "u2", "i1", at="07:00")])],
    ],
}


@dataclass
class Told:
    """A home in which all stories happened side by side, each with ids of its own, and its snapshot after each clean."""

    settings: Settings
    snapshots: list[int]

    def after(self, clean: int, story: str, table: str, columns: str) -> list[tuple[Any, ...]]:
        """What a story left in a table after a clean; ids as the story has them."""
        key = "item_id" if "item" in table else "event_key"
        found = rows(
            self.settings,
            f"SELECT {columns} FROM {table} AT (VERSION => {self.snapshots[clean]}) WHERE {key} LIKE '{story}-%' ORDER BY ALL",
        )
        return [tuple(v.removeprefix(f"{story}-") if isinstance(v, str) else v for v in row) for row in found]

    def outcomes(self, clean: int, story: str, table: str = "int_event_history") -> dict[str, int]:
        """Rows by outcome, with its reason where there is one."""
        named = self.after(clean, story, table, "concat_ws(' ', outcome, reason)")
        return dict(Counter(outcome for (outcome,) in named))


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Told:
    found = Told(Settings(home=tmp_path_factory.mktemp("stories")), [])
    run = partial(step.dbt, variables={"bot_events_per_hour": BOT_EVENTS})
    for number in range(3):
        for story, deliveries in STORIES.items():
            for table, place, landed in deliveries[number]:
                own = [{k: f"{story}-{v}" if k.endswith("_id") else v for k, v in row.items()} for row in landed]
                put(found.settings, table, place, own, f"{story}.jsonl")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(step, "dbt", run)
            found.snapshots.append(clean(found.settings)["snapshot"])
    return found


def test_withdrawn_events_come_back_when_delivered_again(told: Told) -> None:
    assert [told.outcomes(clean, "withdrawn") for clean in range(3)] == [
        {"interaction": 2},
        {"interaction": 1, "duplicate": 1, "cancelled withdrawn": 1},
        {"interaction": 2, "duplicate": 2},
    ]
    assert told.after(1, "withdrawn", "fct_interactions", "event_key") == [("b",)]


def test_a_correction_replaces_the_event_even_of_another_user(told: Told) -> None:
    found = told.after(1, "corrected", "fct_interactions", "event_key, user_id, item_id, value")
    assert found == [("a", "right", "i3", 5.0), ("b", "wrong", "i2", None)]
    assert told.after(1, "corrected", "dim_items", "item_id") == [("i2",), ("i3",)]
    # Without the correction, what was corrected holds again.
    found = told.after(2, "corrected", "fct_interactions", "event_key, user_id")
    assert found == [("a", "wrong"), ("b", "wrong"), ("c", "right")]


def test_reversals_cancel_in_the_order_of_events_wherever_they_arrive(told: Told) -> None:
    columns = "event_key, excluded_at, excluded_reason"
    assert told.after(1, "reversed", "fct_interactions", columns) == [
        ("p0", datetime(2024, 1, 1, 9, 30), "reversed"),
        ("p1", None, None),
    ]
    assert told.after(2, "reversed", "fct_interactions", columns) == [("p0", None, None), ("p1", None, None)]


def test_bots_are_excluded_from_the_event_that_shows_them(told: Told) -> None:
    assert [told.outcomes(clean, "bots") for clean in range(3)] == [
        {"interaction": 3},
        {"rejected bot": 5},
        {"interaction": 4},  # without that batch the user is none
    ]
    columns = "DISTINCT excluded_at, excluded_reason"
    assert told.after(1, "bots", "fct_interactions", columns) == [(datetime(2024, 1, 1, 9, 3), "bot")]
    counts = [
        rows(told.settings, f"SELECT count(*) FROM fct_rejected_rows AT (VERSION => {snapshot})")
        for snapshot in told.snapshots
    ]
    assert counts == [[(0,)], [(5,)], [(0,)]]


def test_versions_of_items_follow_arrivals(told: Told) -> None:
    found = told.after(0, "versions", "dim_items", "version, described, valid_from")
    assert found == [(1, False, datetime(2024, 1, 1, 8))]
    assert told.outcomes(1, "versions", "int_item_history") == {"kept": 2, "superseded": 1}
    assert told.after(1, "versions", "dim_items", "version, title, valid_from, valid_to") == [
        (1, "A", datetime(2024, 1, 1, 8), datetime(2024, 1, 1, 13)),
        (2, "B", datetime(2024, 1, 1, 13), None),
    ]
    # A late event moves the beginning.
    found = told.after(2, "versions", "dim_items", "version, valid_from")
    assert found == [(1, datetime(2024, 1, 1, 7)), (2, datetime(2024, 1, 1, 13))]


# ---------------------------------------------------------------- any order, and what fails


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


@pytest.mark.parametrize("order", [[[6], [5], [4], [3], [2], [1], [0]], [[3, 0], [5, 2, 6], [1, 4]]])
def test_the_order_of_cleaning_does_not_matter(settings: Settings, at_once: Settings, order: list[list[int]]) -> None:
    for together in order:
        for index in together:
            put(settings, *LANDED[index])
        clean(settings)
    assert content(settings) == content(at_once)


WITHOUT_WEIGHT = "not_null_fct_interactions_weight"


@contextmanager
def without_rating_scale(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A rating scale of 0 gives a rating no weight that is a number, which a data test of the mart refuses."""
    run = step.dbt
    with monkeypatch.context() as patched:
        patched.setattr(step, "dbt", lambda *a, **k: run(*a, **k, variables={"rating_max": "nullif(1, 1)"}))
        yield


def clean_refused(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a rating into the first hour, and clean it: a data test refuses it."""
    put(settings, "events", 0, [event("bad", "u9", "i9", "rating", value=3)])
    with without_rating_scale(monkeypatch), pytest.raises(GateFailed, match=WITHOUT_WEIGHT):
        clean(settings)


def test_after_a_failed_data_test_the_mended_batch_leaves_nothing_behind(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(settings, "events", 0, [event("a", "u1", "i1")])
    clean(settings)
    good = content(settings)

    put(settings, "events", 1, [event("bad", "u9", "i9", "rating", value=3), "broken"])
    with without_rating_scale(monkeypatch), pytest.raises(GateFailed, match=WITHOUT_WEIGHT) as failure:
        clean(settings)
    assert failure.value.exit_code == 1
    assert batches.unfinished(settings) == {("events", hour(1))}
    assert rows(settings, "SELECT count(*) FROM fct_interactions WHERE user_id = 'u9'") == [(1,)]
    assert [batch.state for batch in batches.stale(settings)] == ["unfinished"]

    put(settings, "events", 1, [event("b", "u2", "i2")])  # the file is mended: the bad user is gone from it
    clean(settings)
    assert batches.unfinished(settings) == set()
    assert not batches.marker(settings).exists()
    assert rows(settings, "SELECT event_key FROM fct_interactions ORDER BY 1") == [("a",), ("b",)]
    assert rows(settings, "SELECT item_id FROM dim_items ORDER BY 1") == [("i1",), ("i2",)]
    assert rows(settings, "SELECT user_id FROM dim_users ORDER BY 1") == [("u1",), ("u2",)]
    assert set(good["fct_interactions"]) < set(content(settings)["fct_interactions"])


def test_what_ends_a_build_from_outside_is_no_fault_of_dbt(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    class TimeIsUp(BaseException):
        """As Airflow's, where a task takes longer than it may."""

    def ring(*_: Any) -> None:
        signal.signal(signal.SIGALRM, signal.SIG_IGN)  # once: dbt's threads may yet end another node
        raise TimeIsUp

    def at_the_first_node(event: Any) -> None:
        if event.info.name == "NodeFinished":
            signal.raise_signal(signal.SIGALRM)

    put(settings, "events", 0, [event("e1", "u1", "i1")])
    monkeypatch.setattr(step, "_log_node", at_the_first_node)
    signal.signal(signal.SIGALRM, ring)
    with pytest.raises(TimeIsUp):
        clean(settings)
    monkeypatch.undo()
    assert batches.unfinished(settings)
    assert clean(settings)["rows"]["events"]["interactions"] == 1


def test_another_span_does_not_hide_an_unfinished_one(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    clean_refused(settings, monkeypatch)
    put(settings, "events", 1, [event("b", "u2", "i2")])
    clean(settings, hour(1), hour(2))
    assert batches.unfinished(settings) == {("events", hour(0))}
    assert rows(settings, "SELECT event_key FROM fct_interactions") == [("b",)]
    clean(settings)
    assert batches.unfinished(settings) == set()
    assert rows(settings, "SELECT event_key FROM fct_interactions ORDER BY 1") == [("b",), ("bad",)]


def test_a_first_clean_that_failed_leaves_a_home_that_can_be_looked_at(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    clean_refused(settings, monkeypatch)
    with lake.connect(settings) as connection:
        assert lake.has_table(connection, "int_batches")
        assert not lake.has_table(connection, "audit_batches")
        assert not lake.has_table(connection, "dim_items")
    summary = clean(settings, hour(5), hour(6))
    assert (summary["batches"], summary["rows"], summary["changed"]) == ([], {}, False)
    found = dry_run(settings)
    assert found["rows"]["fct_interactions"] == {"added": 0, "changed": 1, "removed": 0}
    assert (found["users"]["ids"], found["items"]["ids"]) == (["u9"], ["i9"])
    clean(settings)
    assert rows(settings, "SELECT event_key FROM fct_interactions") == [("bad",)]


def test_a_dry_run_foretells_an_item_that_goes_with_its_only_event(settings: Settings) -> None:
    put(settings, "events", 0, [event("a", "u1", "i1"), event("b", "u2", "i2"), event("c", "u3", "i2")])
    clean(settings)
    put(settings, "events", 0, [event("c", "u3", "i2")])
    assert dry_run(settings)["items"] == {"recomputed": 2, "changed": 1, "ids": ["i1"]}
    clean(settings)
    assert rows(settings, "SELECT item_id FROM dim_items") == [("i2",)]


def test_what_a_later_delivery_supersedes_is_counted_and_said(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    put(settings, "events", 5, [event("a", "u1", "i1"), event("a", "u1", "i1"), event("b", "u2", "i2")])
    assert clean(settings)["superseded"] == 0, "copies within a batch hold once"
    put(settings, "events", 0, [event("a", "u1", "i9"), event("c", "u1", "i1")], "correction.jsonl")
    assert clean(settings)["superseded"] == 1
    assert "1 rows of these batches do not hold" in caplog.text
    assert "--arrival 2024-01-01T16`" in caplog.text
    put(settings, "events", 5, [event("a", "u1", "i9"), event("b", "u2", "i2")], "events-corrected.jsonl")
    assert clean(settings)["superseded"] == 1, "a name that sorts before; what is the same in both is none"
    put(settings, "events", 6, [event("a", "u1", "i9")], "correction.jsonl")
    assert clean(settings)["superseded"] == 0
    assert rows(settings, "SELECT item_id FROM fct_interactions WHERE event_key LIKE '%a'") == [("i9",)]


def test_vanished_hours_are_put_together_into_spans() -> None:
    gone = [
        batches.Stale(table, hour(place), "vanished", None).as_dict()
        for table, place in (("events", 0), ("events", 1), ("events", 4), ("items", 1))
    ]
    said = step.said_of_vanished(gone)
    assert (
        "--from 2024-01-01T10 --to 2024-01-01T12`, `python -m include clean --from 2024-01-01T14 --to 2024-01-01T15`"
        in said
    )


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


def test_files_that_vanish_between_choosing_and_reading_are_not_taken_for_withdrawn(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(settings, "events", 0, [event("a", "u1", "i1")])
    before = clean(settings)["snapshot"]
    changed = put(settings, "events", 0, [event("a", "u1", "i1"), event("b", "u1", "i1")])
    choose = step.choose

    def chosen_then_gone(*arguments: Any) -> Any:
        found = choose(*arguments)
        changed.unlink()
        return found

    monkeypatch.setattr(step, "choose", chosen_then_gone)
    with pytest.raises(BadInput, match=r"events/dt=2024-01-01/hr=10.*run clean again"):
        clean(settings)
    monkeypatch.undo()
    assert lake.newest_snapshot(settings) == before
    assert not batches.marker(settings).exists()
    assert clean(settings)["batches"] == []
    assert rows(settings, "SELECT event_key FROM fct_interactions") == [("a",)]


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
    assert [batch.state for batch in batches.stale(stricter)] == ["rules_changed"]
    assert clean(stricter)["rows"]["events"]["rejected"] == {"implausible_time": 1}
    assert content(stricter)["fct_interactions"] == []


def test_a_changed_reader_is_a_change_of_the_rules(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    before = batches.rules(settings)
    (tmp_path / "rows.py").write_bytes(batches._READER.read_bytes() + b"\n")
    monkeypatch.setattr(batches, "_READER", tmp_path / "rows.py")
    assert batches.rules(settings) != before


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
