"""Reads of the lake's marts: what was so at snapshot S, from events before T.

A row of `fct_interactions` or `fct_user_texts` counts as of T when it happened before T and was not yet excluded
(reversed, or its user found to be a bot) by an event before T.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from include.columns import Mart
from include.errors import BadInput
from include.stores import batches

COUNTS = "event_ts < $as_of AND (excluded_at IS NULL OR excluded_at >= $as_of)"
SPEAKS_FOR = "weight > 0"  # a dislike makes nothing popular
AVAILABLE = "coalesce(available_from <= $as_of, true) AND coalesce(available_until > $as_of, true)"
DECAYED = (
    "sum(pow(0.5, date_diff('microsecond', event_ts, $as_of) / (86400e6 * $half_life)) ORDER BY event_ts, event_key)"
)
HOLDS = "valid_from < $as_of AND (valid_to IS NULL OR valid_to >= $as_of)"


def naive(moment: datetime) -> datetime:
    """The lake's form of a moment: UTC without a zone."""
    return moment.astimezone(UTC).replace(tzinfo=None)


def at(table: str, snapshot: int) -> str:
    """SQL that reads a table of the lake as it was at a snapshot."""
    return f"lake.main.{table} AT (VERSION => {int(snapshot)})"


def has_snapshot(connection: duckdb.DuckDBPyConnection, snapshot: int) -> bool:
    """Whether a snapshot is still kept by the lake."""
    found = connection.execute("SELECT count(*) FROM lake.snapshots() WHERE snapshot_id = ?", [snapshot]).fetchone()
    return bool(found and found[0])


def snapshot_time(connection: duckdb.DuckDBPyConnection, snapshot: int) -> datetime:
    """When a snapshot of the lake was made."""
    found = connection.execute(
        "SELECT snapshot_time::TIMESTAMPTZ AT TIME ZONE 'UTC' FROM lake.snapshots() WHERE snapshot_id = ?", [snapshot]
    ).fetchone()
    if found is None:
        raise BadInput(f"lake snapshot {snapshot} is no longer kept")
    return found[0].replace(tzinfo=UTC)  # type: ignore[no-any-return]


def has_changes(connection: duckdb.DuckDBPyConnection, since: int, snapshot: int) -> bool:
    """Whether every snapshot from one to another is still kept: with one gone, what it changed cannot be read."""
    found = connection.execute(
        "SELECT count(*) FROM lake.snapshots() WHERE snapshot_id BETWEEN ? AND ?", [since, snapshot]
    ).fetchone()
    return found is not None and found[0] == snapshot - since + 1


def end_of_events(connection: duckdb.DuckDBPyConnection, snapshot: int) -> datetime | None:
    """The end of the last arrival hour of which the snapshot holds an event; None where it holds none.

    Rejected rows are none: a file without a readable time lands in the hour in which it comes.
    """
    found = connection.execute(
        f"SELECT max(arrival_hour) FROM {at(Mart.BATCHES, snapshot)} WHERE landed_table = 'events' AND landed > rejected"
    ).fetchone()
    return None if found is None or found[0] is None else found[0].replace(tzinfo=UTC) + timedelta(hours=1)


def busiest_user(connection: duckdb.DuckDBPyConnection, snapshot: int) -> tuple[str, int, int] | None:
    """Who has the most interactions, how many, and how many all have; None where there are none."""
    return connection.execute(
        f"""
        SELECT user_id, count(*) AS own, CAST(sum(count(*)) OVER () AS BIGINT)
        FROM {at(Mart.INTERACTIONS, snapshot)} WHERE excluded_at IS NULL
        GROUP BY user_id ORDER BY own DESC, user_id LIMIT 1
        """
    ).fetchone()


def default_as_of(connection: duckdb.DuckDBPyConnection, snapshot: int) -> datetime:
    """The default T: `end_of_events`.

    Raises:
        BadInput: the snapshot holds no events.
    """
    end = end_of_events(connection, snapshot)
    if end is None:
        rejected = batches.row_counts(connection, snapshot)["events"]["rejected"]
        if rejected:
            why = ", ".join(f"{count:,} as {reason}" for reason, count in rejected.items())
            raise BadInput(
                f"all {sum(rejected.values()):,} events were rejected, {why} (`fct_rejected_rows` has them): correct them and land "
                "them again"
            )
        raise BadInput("the lake holds no events yet: land some, clean them, and try again")
    return end


def items(
    connection: duckdb.DuckDBPyConnection, snapshot: int, as_of: datetime, only: list[str] | None = None
) -> pa.Table:
    """The version of each item that holds as of T, sorted by id.

    Returns:
        `item_id, title, categories, description, creator_id, available` (at T).
    """
    chosen = "" if only is None else "AND item_id IN (SELECT unnest($only::VARCHAR[]))"
    return connection.execute(
        f"""
        SELECT item_id, title, categories, description, creator_id, {AVAILABLE} AS available
        FROM {at(Mart.ITEMS, snapshot)}
        WHERE {HOLDS} {chosen}
        ORDER BY item_id
        """,
        {"as_of": naive(as_of)} | ({} if only is None else {"only": only}),
    ).to_arrow_table()


def first_items(connection: duckdb.DuckDBPyConnection, snapshot: int, item_ids: list[str]) -> pa.Table:
    """The first version of the named items, in the order that they are named in.

    Returns:
        `item_id, title, categories, description, creator_id`.
    """
    return connection.execute(
        f"""
        SELECT item_id, title, categories, description, creator_id
        FROM {at(Mart.ITEMS, snapshot)}
        JOIN (SELECT unnest($items::VARCHAR[]) AS item_id, generate_subscripts($items::VARCHAR[], 1) AS place)
        USING (item_id)
        WHERE version = 1
        ORDER BY place
        """,
        {"items": item_ids},
    ).to_arrow_table()


def item_spans(connection: duckdb.DuckDBPyConnection, snapshot: int, as_of: datetime) -> pa.Table:
    """When each item that holds as of T came to be, and from when until when it is available; sorted by id.

    Returns:
        `item_id, first_from, available_from, available_until`.
    """
    return connection.execute(
        f"""
        WITH began AS (SELECT item_id, min(valid_from) AS first_from FROM {at(Mart.ITEMS, snapshot)} GROUP BY item_id)
        SELECT item_id, first_from, available_from, available_until
        FROM {at(Mart.ITEMS, snapshot)} JOIN began USING (item_id)
        WHERE {HOLDS}
        ORDER BY item_id
        """,
        {"as_of": naive(as_of)},
    ).to_arrow_table()


def new_items(
    connection: duckdb.DuckDBPyConnection,
    own: tuple[int, datetime],
    lists: tuple[int, datetime],
    *,
    since: datetime,
    fewer: int,
    most: int,
) -> list[str]:
    """Items that can be had as of T and of which little was known as of the lists' T; sorted.

    Args:
        connection: the lake.
        own: S and T.
        lists: the lists' S and T.
        since: no item that came to be before.
        fewer: no item with as many interactions before the lists' T, or more.
        most: so many, the newest ones; of equal ones by a hash of the id.
    """
    found = connection.execute(
        f"""
        WITH began AS (
            SELECT item_id, min(valid_from) AS first_from FROM {at(Mart.ITEMS, own[0])}
            GROUP BY item_id HAVING first_from >= $since
        ), young AS (
            SELECT item_id, first_from FROM {at(Mart.ITEMS, own[0])} JOIN began USING (item_id)
            WHERE {HOLDS} AND {AVAILABLE}
        ), much AS (
            SELECT item_id FROM {at(Mart.INTERACTIONS, lists[0])} SEMI JOIN young USING (item_id)
            WHERE {COUNTS.replace("$as_of", "$lists_as_of")} GROUP BY item_id HAVING count(*) >= $fewer
        )
        SELECT item_id FROM young ANTI JOIN much USING (item_id) ORDER BY first_from DESC, md5(item_id) LIMIT $most
        """,
        {"as_of": naive(own[1]), "lists_as_of": naive(lists[1]), "since": naive(since), "fewer": fewer, "most": most},
    ).fetchall()
    return sorted(row[0] for row in found)


def available_items(connection: duckdb.DuckDBPyConnection, snapshot: int, as_of: datetime) -> set[str]:
    """The items that can be listed at T."""
    rows = connection.execute(
        f"SELECT item_id FROM {at(Mart.ITEMS, snapshot)} WHERE {HOLDS} AND {AVAILABLE}", {"as_of": naive(as_of)}
    ).fetchall()
    return {row[0] for row in rows}


def item_count(connection: duckdb.DuckDBPyConnection, snapshot: int, as_of: datetime) -> int:
    """How many items there are as of T."""
    query = f"SELECT count(*) FROM {at(Mart.ITEMS, snapshot)} WHERE {HOLDS}"
    found = connection.execute(query, {"as_of": naive(as_of)}).fetchone()
    assert found is not None
    return int(found[0])


def titles(connection: duckdb.DuckDBPyConnection, snapshot: int, as_of: datetime, only: list[str]) -> dict[str, str]:
    """Titles of the named items, for people to read; an item without one shows its id."""
    found = items(connection, snapshot, as_of, only).select(["item_id", "title"]).to_pylist()
    return {name: name for name in only} | {row["item_id"]: row["title"] for row in found if row["title"]}


def item_versions(connection: duckdb.DuckDBPyConnection, snapshot: int, item_id: str) -> list[dict[str, Any]]:
    """Every version of one item, the oldest first."""
    found = connection.execute(
        f"SELECT version, valid_from, valid_to, title, categories FROM {at(Mart.ITEMS, snapshot)} WHERE item_id = ? ORDER BY version",
        [item_id],
    )
    return list(found.to_arrow_table().to_pylist())


def texts(connection: duckdb.DuckDBPyConnection, snapshot: int) -> tuple[pa.Table, list[str]]:
    """Every distinct text of a snapshot, of whatever time: what items are put into words from, and what users wrote.

    Returns:
        Rows of `title, categories, description`; and the user texts.
    """
    items = connection.execute(
        f"SELECT DISTINCT title, categories, description FROM {at(Mart.ITEMS, snapshot)}"
    ).to_arrow_table()
    wrote = connection.execute(f"SELECT DISTINCT text FROM {at(Mart.USER_TEXTS, snapshot)}").fetchall()
    return items, [str(row[0]) for row in wrote]


def recent_events(
    connection: duckdb.DuckDBPyConnection, snapshot: int, as_of: datetime, user_id: str, most: int
) -> list[dict[str, Any]]:
    """The last things that one user did or wrote before T, the newest first."""
    found = connection.execute(
        f"""
        SELECT event_ts, event_type, item_id, NULL AS text, event_key
        FROM {at(Mart.INTERACTIONS, snapshot)} WHERE user_id = $user AND {COUNTS}
        UNION ALL
        SELECT event_ts, event_type, item_id, text, event_key
        FROM {at(Mart.USER_TEXTS, snapshot)} WHERE user_id = $user AND item_id IS NULL AND {COUNTS}
        ORDER BY event_ts DESC, event_key LIMIT $most
        """,
        {"as_of": naive(as_of), "user": user_id, "most": most},
    )
    return list(found.to_arrow_table().to_pylist())


def users(
    connection: duckdb.DuckDBPyConnection, snapshot: int, as_of: datetime, only: list[str] | None = None
) -> list[str]:
    """Every user known as of T, with a history or without, or those of the named ones who are; sorted."""
    found = _known_users(connection, "SELECT user_id FROM known ORDER BY user_id", snapshot, as_of, only)
    return [row[0] for row in found.fetchall()]


def user_counts(
    connection: duckdb.DuckDBPyConnection, snapshot: int, as_of: datetime, only: list[str] | None = None
) -> dict[str, int]:
    """Of all users, or of the named ones: `total` known as of T, and `with_history`, who did or wrote something before it."""
    query = "SELECT count(*), count(*) FILTER (active) FROM known"
    found = _known_users(connection, query, snapshot, as_of, only).fetchone()
    assert found is not None
    return dict(zip(("total", "with_history"), found, strict=True))


def segment(names: Sequence[str]) -> str:
    """SQL of the segment that a row of the users' mart is in: the values of some attributes, as JSON; NULL without any value."""
    values = [f"""attributes ->> '$."{name.replace("'", "''")}"'""" for name in names]
    return f"if(coalesce({', '.join(values)}) IS NULL, NULL, CAST(to_json([{', '.join(values)}]) AS VARCHAR))"


def segments_of_users(
    connection: duckdb.DuckDBPyConnection, snapshot: int, user_ids: Sequence[str], names: Sequence[str]
) -> dict[str, str]:
    """The segment of each of the named users who is in one (see `segment`)."""
    if not names:
        return {}
    rows = connection.execute(
        f"""
        SELECT user_id, {segment(names)} AS segment FROM {at(Mart.USERS, snapshot)}
        WHERE user_id IN (SELECT unnest($only::VARCHAR[])) AND segment IS NOT NULL
        """,
        {"only": list(user_ids)},
    ).fetchall()
    return dict(rows)


def segment_popularity(
    connection: duckdb.DuckDBPyConnection, snapshot: int, as_of: datetime, half_life_days: float, names: Sequence[str]
) -> pa.Table:
    """What `popularity` counts, of the users of each segment on its own: `segment, item_id, count`."""
    return connection.execute(
        f"""
        WITH members AS (SELECT user_id, {segment(names)} AS segment FROM {at(Mart.USERS, snapshot)})
        SELECT segment, item_id, {DECAYED} AS count
        FROM {at(Mart.INTERACTIONS, snapshot)} JOIN members USING (user_id)
        WHERE {COUNTS} AND {SPEAKS_FOR} AND segment IS NOT NULL
        GROUP BY segment, item_id ORDER BY segment, item_id
        """,
        {"as_of": naive(as_of), "half_life": half_life_days},
    ).to_arrow_table()


def _known_users(
    connection: duckdb.DuckDBPyConnection, query: str, snapshot: int, as_of: datetime, only: list[str] | None
) -> duckdb.DuckDBPyConnection:
    """Ask of `known`: a row for each user known as of T, `active` where there is a history."""
    chosen = "" if only is None else "AND user_id IN (SELECT unnest($only::VARCHAR[]))"
    return connection.execute(
        f"""
        WITH known AS (
            SELECT user_id, bool_or(acts) AS active FROM (
                SELECT user_id, false AS acts FROM {at(Mart.USERS, snapshot)}
                WHERE described AND (created_at IS NULL OR created_at < $as_of) {chosen}
                UNION ALL
                SELECT user_id, true FROM {at(Mart.INTERACTIONS, snapshot)} WHERE {COUNTS} {chosen}
                UNION ALL
                SELECT user_id, true FROM {at(Mart.USER_TEXTS, snapshot)} WHERE {COUNTS} {chosen}
            ) GROUP BY user_id
        )
        {query}
        """,
        {"as_of": naive(as_of)} | ({} if only is None else {"only": only}),
    )


def users_of_any_time(connection: duckdb.DuckDBPyConnection, snapshot: int, until: datetime) -> list[str]:
    """Everyone who did anything before a time, excluded or not; sorted."""
    rows = connection.execute(
        f"SELECT DISTINCT user_id FROM {at(Mart.INTERACTIONS, snapshot)} WHERE event_ts < $until ORDER BY user_id",
        {"until": naive(until)},
    ).fetchall()
    return [row[0] for row in rows]


def items_of_users(
    connection: duckdb.DuckDBPyConnection, snapshot: int, as_of: datetime, user_ids: list[str]
) -> list[str]:
    """Every item that one of the users did something with before T, sorted."""
    rows = connection.execute(
        f"""
        SELECT DISTINCT item_id FROM {at(Mart.INTERACTIONS, snapshot)}
        WHERE user_id IN (SELECT unnest($users::VARCHAR[])) AND {COUNTS}
        ORDER BY item_id
        """,
        {"as_of": naive(as_of), "users": user_ids},
    ).fetchall()
    return [row[0] for row in rows]


@dataclass(frozen=True)
class Interactions:
    """What some users did, as arrays; users and items are positions in the lists asked for.

    Items that the list does not hold are -1: they count as events of the user and say nothing of a taste.
    """

    user: NDArray[np.int64]
    item: NDArray[np.int64]
    event_ts: NDArray[np.datetime64]
    weight: NDArray[np.float64]


@dataclass(frozen=True)
class UserTexts:
    """What some users wrote; users are positions in the list asked for."""

    user: NDArray[np.int64]
    text: list[str]
    event_ts: NDArray[np.datetime64]
    weight: NDArray[np.float64]


def _positions(column: str, keys: list[str]) -> pa.Table:
    return pa.table({column: pa.array(keys, pa.string()), "position": np.arange(len(keys))})


def interactions(
    connection: duckdb.DuckDBPyConnection, snapshot: int, as_of: datetime, user_ids: list[str], item_ids: list[str]
) -> Interactions:
    """Everything that the named users did before T, in one fixed order."""
    return _done_by(_rows_of(connection, snapshot, as_of, user_ids, item_ids, COUNTS))


def interactions_of_any_time(
    connection: duckdb.DuckDBPyConnection, snapshot: int, until: datetime, user_ids: list[str], item_ids: list[str]
) -> tuple[Interactions, NDArray[np.datetime64]]:
    """The same of what happened before a time, excluded or not, and from when on each is excluded (not a time: never).

    Of these counts as of a T up to that time what happened before T and was not excluded before it.
    """
    found = _rows_of(connection, snapshot, until, user_ids, item_ids, "event_ts < $as_of", ", excluded_at")
    excluded_at = found["excluded_at"].astype("datetime64[us]")
    return _done_by(found), np.ma.filled(excluded_at, np.datetime64("NaT"))


def _rows_of(
    connection: duckdb.DuckDBPyConnection,
    snapshot: int,
    as_of: datetime,
    user_ids: list[str],
    item_ids: list[str],
    condition: str,
    more: str = "",
) -> dict[str, Any]:
    """Interactions of the named users that meet a condition, as arrays, in one fixed order."""
    connection.register("asked_users", _positions("user_id", user_ids))
    connection.register("asked_items", _positions("item_id", item_ids))
    found = connection.execute(
        f"""
        SELECT asked_users.position AS u, coalesce(asked_items.position, -1) AS i, event_ts, weight {more}
        FROM {at(Mart.INTERACTIONS, snapshot)} JOIN asked_users USING (user_id) LEFT JOIN asked_items USING (item_id)
        WHERE {condition}
        -- By all that is asked for, so equal rows may change places; to read event keys for it would take as long as all the rest.
        ORDER BY u, event_ts, i, weight {more}
        """,
        {"as_of": naive(as_of)},
    ).fetchnumpy()
    connection.unregister("asked_users")
    connection.unregister("asked_items")
    return found


def _done_by(found: dict[str, Any]) -> Interactions:
    return Interactions(
        user=np.asarray(found["u"], dtype=np.int64),
        item=np.asarray(found["i"], dtype=np.int64),
        event_ts=np.asarray(found["event_ts"], dtype="datetime64[us]"),
        weight=np.asarray(found["weight"], dtype=np.float64),
    )


def used_in_window(
    connection: duckdb.DuckDBPyConnection, snapshot: int, start: datetime, end: datetime
) -> list[tuple[str, str]]:
    """Distinct pairs of user and item with an interaction of some weight in [start, end) that counts as of its end; sorted."""
    return connection.execute(
        f"""
        SELECT DISTINCT user_id, item_id FROM {at(Mart.INTERACTIONS, snapshot)}
        WHERE event_ts >= $start AND {COUNTS} AND {SPEAKS_FOR}
        ORDER BY user_id, item_id
        """,
        {"start": naive(start), "as_of": naive(end)},
    ).fetchall()


def shown_items(
    connection: duckdb.DuckDBPyConnection, snapshot: int, start: datetime, end: datetime
) -> list[tuple[str | None, int | None, int]]:
    """How many interactions in [start, end) name the list that they came from, in `attributes.publication` and `.rank`.

    Returns:
        `publication, rank, interactions`, sorted; None for interactions that name none.
    """
    return connection.execute(
        f"""
        SELECT attributes ->> '$.publication' AS publication, try_cast(attributes ->> '$.rank' AS INTEGER) AS rank, count(*)
        FROM {at(Mart.INTERACTIONS, snapshot)}
        WHERE event_ts >= $start AND {COUNTS} AND {SPEAKS_FOR}
        GROUP BY ALL ORDER BY ALL
        """,
        {"start": naive(start), "as_of": naive(end)},
    ).fetchall()


def user_texts(connection: duckdb.DuckDBPyConnection, snapshot: int, as_of: datetime, user_ids: list[str]) -> UserTexts:
    """Everything that the named users wrote before T, in one fixed order."""
    connection.register("asked_users", _positions("user_id", user_ids))
    found = connection.execute(
        f"""
        SELECT asked_users.position AS u, text, event_ts, weight
        FROM {at(Mart.USER_TEXTS, snapshot)} JOIN asked_users USING (user_id)
        WHERE {COUNTS}
        ORDER BY u, event_ts, event_key
        """,
        {"as_of": naive(as_of)},
    ).fetchnumpy()
    connection.unregister("asked_users")
    return UserTexts(
        user=np.asarray(found["u"], dtype=np.int64),
        text=[str(text) for text in found["text"]],
        event_ts=np.asarray(found["event_ts"], dtype="datetime64[us]"),
        weight=np.asarray(found["weight"], dtype=np.float64),
    )


def popularity(
    connection: duckdb.DuckDBPyConnection, snapshot: int, as_of: datetime, half_life_days: float
) -> dict[str, float]:
    """Interactions of each item before T that speak for it, each halved for every half-life that lies between it and T."""
    rows = connection.execute(
        f"""
        SELECT item_id, {DECAYED}
        FROM {at(Mart.INTERACTIONS, snapshot)}
        WHERE {COUNTS} AND {SPEAKS_FOR}
        GROUP BY item_id
        """,
        {"as_of": naive(as_of), "half_life": half_life_days},
    ).fetchall()
    return {item: float(count) for item, count in rows}


def list_facts(
    connection: duckdb.DuckDBPyConnection,
    snapshot: int,
    as_of: datetime,
    lists: pa.Table,
    eligible: pa.Array,
    new: pa.Array,
    *,
    show_seen: bool,
) -> tuple[pa.Table, pa.Table]:
    """What the lake says of lists, for the gate: asked of the lake anew, not taken from how the lists were made.

    Args:
        connection: the lake.
        snapshot: S.
        as_of: T.
        lists: rows of `user_id, items, scores`.
        eligible: items that could be listed.
        new: further items, for which lists keep places.
        show_seen: whether what a user had may be listed too.

    Returns:
        A row for each listed item (`user_id, item_id, rank, score, available, seen`), and one for each user (`user_id,
        eligible, new, listed`; eligible and new leave out what the user had).
    """
    connection.register("lists", lists)
    connection.register("eligible", pa.table({"item_id": eligible}))
    connection.register("new", pa.table({"item_id": new}))
    parameters = {"as_of": naive(as_of)}
    facts = connection.execute(
        f"""
        WITH listed AS (
            SELECT user_id, unnest(items) AS item_id, unnest(scores) AS score, generate_subscripts(items, 1) AS rank FROM lists
        ), seen AS (
            SELECT DISTINCT user_id, item_id FROM {at(Mart.INTERACTIONS, snapshot)} SEMI JOIN lists USING (user_id)
            WHERE {COUNTS}
        ), available AS (
            SELECT item_id FROM {at(Mart.ITEMS, snapshot)}
            WHERE {HOLDS} AND {AVAILABLE}
        )
        SELECT listed.user_id, listed.item_id, rank, score,
               listed.item_id IN (FROM available) AS available, seen.user_id IS NOT NULL AS seen
        FROM listed LEFT JOIN seen USING (user_id, item_id)
        """,
        parameters,
    ).to_arrow_table()
    users = connection.execute(
        f"""
        WITH could AS (
            SELECT item_id, false AS is_new FROM eligible UNION ALL SELECT item_id, true FROM new
        ), had AS (
            SELECT user_id, count(DISTINCT item_id) FILTER (NOT is_new) AS n, count(DISTINCT item_id) FILTER (is_new) AS n_new
            FROM {at(Mart.INTERACTIONS, snapshot)} JOIN could USING (item_id) SEMI JOIN lists USING (user_id)
            WHERE {COUNTS} GROUP BY user_id
        )
        SELECT user_id, len(items) AS listed,
               (SELECT count(*) FROM eligible) - if($show_seen, 0, coalesce(n, 0)) AS eligible,
               (SELECT count(*) FROM new) - if($show_seen, 0, coalesce(n_new, 0)) AS new
        FROM lists LEFT JOIN had USING (user_id)
        """,
        parameters | {"show_seen": show_seen},
    ).to_arrow_table()
    return facts, users


def first_event(connection: duckdb.DuckDBPyConnection, snapshot: int) -> datetime | None:
    """Time of the earliest interaction."""
    found = connection.execute(f"SELECT min(event_ts) FROM {at(Mart.INTERACTIONS, snapshot)}").fetchone()
    return found[0].replace(tzinfo=UTC) if found and found[0] else None


# What changed between (T0, S0) and (T1, S1). Rows that were rewritten as they were cancel out.

RELEVANT = {
    Mart.INTERACTIONS: "event_key, user_id, item_id, event_ts, weight, excluded_at",
    Mart.USER_TEXTS: "event_key, user_id, text, event_ts, weight, excluded_at",
    Mart.ITEMS: "item_id, valid_from, valid_to, title, categories, description, available_from, available_until",
    Mart.USERS: "user_id, described, created_at",
}


def relevant(table: str, segment_by: Sequence[str] = ()) -> str:
    """The columns of a mart that vectors and lists follow from; of users also those that say which segment they are in."""
    return (
        f"{RELEVANT[table]}, {segment(segment_by)} AS segment"
        if segment_by and table == Mart.USERS
        else RELEVANT[table]
    )


def _changed(
    connection: duckdb.DuckDBPyConnection,
    table: str,
    key: str,
    before: int,
    after: int,
    segment_by: Sequence[str] = (),
) -> set[str]:
    if after <= before:
        return set()
    rows = connection.execute(
        f"""
        SELECT DISTINCT {key} FROM (
            SELECT {relevant(table, segment_by)}, sum(net) AS left_over FROM {_net(connection, table, before, after)}
            GROUP BY ALL HAVING left_over <> 0
        )
        """
    ).fetchall()
    return {row[0] for row in rows}


KEYS = {
    Mart.INTERACTIONS: ("event_key",),
    Mart.USER_TEXTS: ("event_key",),
    Mart.ITEMS: ("item_id", "version"),
    Mart.USERS: ("user_id",),
}


def net_changes(table: str, before: int, after: int) -> str:
    """SQL of the rows of a mart that differ between two snapshots, `net` 1 for those that came and -1 for those that went."""
    return f"""(
        SELECT columns(* EXCLUDE (snapshot_id, rowid, change_type)),
               sum(CASE WHEN change_type IN ('insert', 'update_postimage') THEN 1 ELSE -1 END) AS net
        FROM ducklake_table_changes('lake', 'main', '{table}', {int(before) + 1}, {int(after)})
        GROUP BY ALL HAVING net <> 0
    )"""


def _net(connection: duckdb.DuckDBPyConnection, table: str, before: int, after: int) -> str:
    """Name of a temporary table of `net_changes`, made once in a connection: reading the feed costs what whole files do."""
    name = f"net_{table}_{int(before)}_{int(after)}"
    connection.execute(f"CREATE TEMP TABLE IF NOT EXISTS {name} AS FROM {net_changes(table, before, after)}")
    return name


def count_changes(connection: duckdb.DuckDBPyConnection, net: str, key: tuple[str, ...]) -> dict[str, int]:
    """How many keys were added, changed and removed, of rows as `net_changes` gives them."""
    row = connection.execute(
        f"""
        WITH keys AS (
            SELECT bool_or(net > 0) AS came, bool_or(net < 0) AS went FROM {net} GROUP BY {", ".join(key)}
        )
        SELECT count(*) FILTER (WHERE NOT went), count(*) FILTER (WHERE came AND went), count(*) FILTER (WHERE NOT came)
        FROM keys
        """
    ).fetchone()
    assert row is not None
    return dict(zip(("added", "changed", "removed"), row, strict=True))


def row_changes(connection: duckdb.DuckDBPyConnection, before: int, after: int) -> dict[str, dict[str, int]]:
    """How many rows of each mart were added, changed and removed between two snapshots, by their keys."""
    if after <= before:
        return {table: dict.fromkeys(("added", "changed", "removed"), 0) for table in KEYS}
    return {
        table: count_changes(connection, _net(connection, table, before, after), key) for table, key in KEYS.items()
    }


def _passed(
    connection: duckdb.DuckDBPyConnection,
    table: str,
    key: str,
    moments: tuple[str, ...],
    after: int,
    span: dict[str, Any],
) -> set[str]:
    """Keys of rows of which one of the moments lies in [T0, T1)."""
    either = " OR ".join(f"({moment} >= $since AND {moment} < $until)" for moment in moments)
    rows = connection.execute(f"SELECT DISTINCT {key} FROM {at(table, after)} WHERE {either}", span).fetchall()
    return {row[0] for row in rows}


def touched_users(
    connection: duckdb.DuckDBPyConnection,
    before: int,
    after: int,
    since: datetime,
    until: datetime,
    segment_by: Sequence[str] = (),
) -> set[str]:
    """Users whose own rows changed between two snapshots, their segment too, or of whom events lie between two T."""
    span = {"since": naive(since), "until": naive(until)}
    found = set()
    for table in (Mart.INTERACTIONS, Mart.USER_TEXTS):
        found |= _changed(connection, table, "user_id", before, after)
        found |= _passed(connection, table, "user_id", ("event_ts", "excluded_at"), after, span)
    found |= _changed(connection, Mart.USERS, "user_id", before, after, segment_by)
    return found | _passed(connection, Mart.USERS, "user_id", ("created_at",), after, span)


def touched_items(
    connection: duckdb.DuckDBPyConnection, before: int, after: int, since: datetime, until: datetime
) -> set[str]:
    """Items whose rows changed between two snapshots, or of which a version begins or ends between two T."""
    span = {"since": naive(since), "until": naive(until)}
    return _changed(connection, Mart.ITEMS, "item_id", before, after) | _passed(
        connection, Mart.ITEMS, "item_id", ("valid_from", "valid_to"), after, span
    )


def users_of_each(
    connection: duckdb.DuckDBPyConnection, snapshot: int, as_of: datetime, item_ids: list[str]
) -> list[tuple[str, str]]:
    """Distinct pairs of user and item, of the named items, with an interaction before T."""
    return connection.execute(
        f"""
        SELECT DISTINCT user_id, item_id FROM {at(Mart.INTERACTIONS, snapshot)}
        WHERE item_id IN (SELECT unnest($items::VARCHAR[])) AND {COUNTS}
        """,
        {"as_of": naive(as_of), "items": item_ids},
    ).fetchall()


def users_of_items(connection: duckdb.DuckDBPyConnection, snapshot: int, item_ids: list[str]) -> set[str]:
    """Users with an interaction on one of the items."""
    rows = connection.execute(
        f"SELECT DISTINCT user_id FROM {at(Mart.INTERACTIONS, snapshot)} WHERE item_id IN (SELECT unnest(?::VARCHAR[]))",
        [item_ids],
    ).fetchall()
    return {row[0] for row in rows}
