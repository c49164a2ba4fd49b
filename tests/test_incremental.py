"""Promise 3, as a property: whatever happens to histories, updates leave what a rebuild from nothing gives.

The marts are written directly (tests/test_clean.py holds dbt to them); everything after them is the product's own.
"""

import shutil
from datetime import datetime, timedelta

from hypothesis import HealthCheck, Phase, given, note, settings
from hypothesis import strategies as st

from include.columns import VectorTable
from include.settings import ColdStart, Settings, Surface
from include.steps.chain import STEPS
from include.steps.plan import plan_rebuild, plan_recommend, plan_update
from include.stores import lake, publications, vectors
from tests.test_path import same_content

START = datetime(2024, 1, 1)
USERS = [f"u{n}" for n in range(6)]
ITEMS = [f"i{n}" for n in range(8)]
TITLES = ("a red bicycle", "a blue kettle", "songs of the sea", "garden tools", "")
TABLES = """
CREATE TABLE fct_interactions (event_key VARCHAR, user_id VARCHAR, item_id VARCHAR, event_type VARCHAR, event_ts TIMESTAMP,
    value DOUBLE, weight DOUBLE, excluded_at TIMESTAMP);
CREATE TABLE fct_user_texts (event_key VARCHAR, user_id VARCHAR, item_id VARCHAR, event_type VARCHAR, event_ts TIMESTAMP,
    text VARCHAR, weight DOUBLE, excluded_at TIMESTAMP);
CREATE TABLE dim_items (item_id VARCHAR, version INTEGER, valid_from TIMESTAMP, valid_to TIMESTAMP, described BOOLEAN,
    title VARCHAR, description VARCHAR, categories VARCHAR[], available_from TIMESTAMP, available_until TIMESTAMP,
    creator_id VARCHAR);
CREATE TABLE dim_users (user_id VARCHAR, described BOOLEAN, created_at TIMESTAMP, attributes VARCHAR);
CREATE TABLE audit_batches (landed_table VARCHAR, arrival_hour TIMESTAMP, landed BIGINT, rejected BIGINT);
"""

NEW_ITEM = """
INSERT INTO dim_items VALUES ($1, 1, $2, NULL, true, $3, NULL, ['things'], NULL, NULL, 'who made ' || left($3::VARCHAR, 3))
"""
COLD_START = {
    "surfaces": (Surface(length=6, exploration=0.34),),
    "cold_start": ColdStart(segment_by=("plan",), segment_evidence=5, new_item_days=1, new_item_interactions=3),
}
"""Lists so short, places for new items so many, and items new for so short a time that each matters."""

hours = st.integers(0, 40)
events = st.tuples(
    st.just("event"),
    st.integers(0, 25),
    st.sampled_from(USERS),
    st.sampled_from(ITEMS),
    hours,
    st.sampled_from([0.5, 1.0, 3.0]),
)
changes = st.one_of(
    events,
    events,
    st.tuples(st.just("withdraw"), st.integers(0, 25)),
    st.tuples(st.just("reverse"), st.integers(0, 25), hours),
    st.tuples(st.just("text"), st.integers(0, 5), st.sampled_from(USERS), st.sampled_from(TITLES[:4]), hours),
    st.tuples(st.just("title"), st.sampled_from(ITEMS), st.sampled_from(TITLES)),
    st.tuples(
        st.just("arrives"), st.sampled_from(["x1", "x2"]), st.sampled_from(TITLES), st.sampled_from(USERS), hours
    ),
    st.tuples(st.just("ends"), st.sampled_from(ITEMS), st.one_of(st.none(), hours)),
    st.tuples(st.just("vanish"), st.sampled_from(USERS)),
    st.tuples(st.just("lands"), st.sampled_from(["x1", "x2", "x3"]), st.sampled_from(TITLES), st.integers(15, 26)),
    st.tuples(st.just("plan"), st.sampled_from([*USERS, "n1", "n2"]), st.sampled_from([None, "free", "gold"])),
    st.tuples(st.just("rewrite"), st.sampled_from(USERS)),
)


def at(hour: int) -> datetime:
    """Two moments never share a time by chance alone: the hour's own minute."""
    return START + timedelta(hours=hour, minutes=hour)


def apply(connection, change) -> None:
    """Do to the marts what dbt would do for such a change."""
    run = connection.execute
    match change:
        case ("event", key, user, item, hour, weight):
            run("DELETE FROM fct_interactions WHERE event_key = ?", [f"e{key}"])
            run(
                "INSERT INTO fct_interactions VALUES (?, ?, ?, 'view', ?, NULL, ?, NULL)",
                [f"e{key}", user, item, at(hour), weight],
            )
        case ("withdraw", key):
            run("DELETE FROM fct_interactions WHERE event_key = ?", [f"e{key}"])
        case ("reverse", key, hour):
            run(
                "UPDATE fct_interactions SET excluded_at = greatest(?, event_ts) WHERE event_key = ?",
                [at(hour), f"e{key}"],
            )
        case ("text", key, user, text, hour):
            run("DELETE FROM fct_user_texts WHERE event_key = ?", [f"t{key}"])
            run(
                "INSERT INTO fct_user_texts VALUES (?, ?, NULL, 'post', ?, ?, 1.0, NULL)",
                [f"t{key}", user, at(hour), text],
            )
        case ("title", item, title):
            run("UPDATE dim_items SET title = ? WHERE item_id = ?", [title, item])
        case ("arrives", item, title, user, hour):
            run("DELETE FROM dim_items WHERE item_id = ?", [item])
            run(NEW_ITEM, [item, START, title])
            apply(connection, ("event", item, user, item, hour, 1.0))
        case ("ends", item, hour):
            run(
                "UPDATE dim_items SET available_until = ? WHERE item_id = ?", [None if hour is None else at(hour), item]
            )
        case ("vanish", user):
            for table in ("fct_interactions", "fct_user_texts", "dim_users"):
                run(f"DELETE FROM {table} WHERE user_id = ?", [user])
        case ("lands", item, title, hour):
            run("DELETE FROM dim_items WHERE item_id = ?", [item])
            run(NEW_ITEM, [item, at(hour), title])
        case ("plan", user, plan):
            run("DELETE FROM dim_users WHERE user_id = ?", [user])
            run("INSERT INTO dim_users VALUES (?, true, NULL, ?)", [user, plan and f'{{"plan":"{plan}"}}'])
        case ("rewrite", user):
            run("CREATE OR REPLACE TEMP TABLE same AS SELECT * FROM fct_interactions WHERE user_id = ?", [user])
            run("DELETE FROM fct_interactions WHERE user_id = ?", [user])
            run("INSERT INTO fct_interactions SELECT * FROM same")


def commit(home: Settings, batch, last_hour: int) -> None:
    """Apply changes as one gated snapshot in which the given hour was the last to arrive."""
    with lake.connect(home, read_only=False) as connection:
        connection.execute("BEGIN")
        for change in batch:
            apply(connection, change)
        connection.execute("DELETE FROM audit_batches")
        connection.execute("INSERT INTO audit_batches VALUES ('events', ?, 1, 0)", [START + timedelta(hours=last_hour)])
        connection.execute("COMMIT")
    lake.record_gate(home, lake.newest_snapshot(home), lake.gated_snapshot(home), {"passed": True})


def published(home: Settings, plan) -> publications.Manifest:
    """Run the plan's steps; the gates, which have tests of their own, are left out for speed."""
    if plan["candidate"] is None:
        return publications.manifest(home, plan["publication"])
    for step in (step for step in STEPS if not step.__name__.startswith("check_")):
        step(home, plan["candidate"])
    state = publications.candidate(home, plan["candidate"])
    entry = publications.add(home, {**state, "candidate": plan["candidate"]})
    publications.discard_candidate(home, plan["candidate"])  # else it would seem to have been killed before its switch
    return entry


@settings(
    max_examples=6,
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(
    first=st.lists(events, min_size=12, max_size=30),
    later=st.lists(st.tuples(st.lists(changes, max_size=5), st.integers(0, 6), st.booleans()), min_size=2, max_size=4),
)
def test_updates_leave_what_a_rebuild_gives(tmp_path_factory, text_cache, first, later):
    home = Settings(home=tmp_path_factory.mktemp("home"), **COLD_START)
    (home.cache).mkdir(parents=True)
    (home.cache / "texts").symlink_to(text_cache)
    with lake.connect(home, read_only=False) as connection:
        for statement in TABLES.split(";")[:-1]:
            connection.execute(statement)
        for n, item in enumerate(ITEMS):
            connection.execute(NEW_ITEM, [item, START, TITLES[n % 5]])
        for user in USERS[:4]:
            connection.execute("INSERT INTO dim_users VALUES (?, true, NULL, NULL)", [user])
    hour = 20
    commit(home, first, hour)
    made = published(home, plan_recommend(home))
    for batch, passed, fresh in later:
        hour += passed
        commit(home, batch, hour)
        plan = plan_recommend(home) if fresh else plan_update(home)
        note(f"{'recommend' if fresh else 'update'} after {batch} as of hour {hour + 1}: {plan}")
        made = published(home, plan)
    shutil.rmtree(home.cache / "popularity")
    rebuilt = published(home, plan_rebuild(home, publication=made["id"]))
    same_content(home, made, rebuilt)
    for count in ("total", "with_history"):
        assert made["run"]["users"][count] == rebuilt["run"]["users"][count]
    keys = vectors.read(home, made["encoder_id"], VectorTable.USERS, made["tables"][VectorTable.USERS]["version"])
    assert len(set(keys["user_id"].to_pylist())) == keys.num_rows
