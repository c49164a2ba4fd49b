"""What a dry run of a clean foretells: the rows that it would leave, beside those that are in the lake."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb

from include.columns import Mart
from include.settings import Settings
from include.stores import lake
from include.stores.behaviour import KEYS, RELEVANT, count_changes, segment, users_of_items

_EVENTS = (Mart.INTERACTIONS, Mart.USER_TEXTS)
_DESCRIBED = {
    "item versions": (
        "int_item_outcomes",
        "int_item_history",
        "int_touched_items",
        ("item_id", "arrival_hour"),
        "item_id, arrival_hour, kind, title, description, categories, creator_id, price, published_at, available_from, "
        "available_until, attributes",
    ),
    "user descriptions": (
        "int_user_outcomes",
        "int_user_history",
        "int_touched_profiles",
        ("user_id",),
        "user_id, created_at, attributes",
    ),
}
_COMPARED = (*_EVENTS, Mart.ITEMS, *(history for _, history, *_ in _DESCRIBED.values()))
"""Tables of the lake that are read. Where a first clean did not end well, the histories are there and marts may not be."""
_TEXT = "item_id, title, description, categories"
_NEWEST = " QUALIFY row_number() OVER (PARTITION BY item_id ORDER BY arrival_hour DESC) = 1"
_OF_ITEMS = f"{_TEXT}, arrival_hour, published_at, available_from, available_until"
"""What of an item's description its vectors and versions follow from: `RELEVANT`, before there are versions."""


def foretold(settings: Settings, folder: Path, touched: Path) -> dict[str, Any]:
    """Compare what a dry run left in a folder with the newest snapshot of the lake.

    Args:
        settings: the home.
        folder: files of the marts and outcomes of the touched users and items, as they would be.
        touched: files of the ids of touched users and items.

    Returns:
        `rows`: by mart, or kind of description, `{added, changed, removed}` by identity. `users` and `items`: ids
        `recomputed` by cleaning, and those `changed`, whose vectors follow.
    """
    if lake.exists(settings):
        with lake.connect(settings) as connection:
            there = {name for name in _COMPARED if lake.has_table(connection, name)}
            return _foretold(connection, folder, touched, settings.cold_start.segment_by, there)
    with duckdb.connect() as connection:
        return _foretold(connection, folder, touched, settings.cold_start.segment_by, set())


def _foretold(
    connection: duckdb.DuckDBPyConnection, folder: Path, touched: Path, segment_by: Sequence[str], there: set[str]
) -> dict[str, Any]:
    recomputed = {
        "users": _ids(connection, "user_id", _ids_of(touched, "int_touched_profiles")),
        "items": _ids(connection, "item_id", _ids_of(touched, "int_touched_items")),
    }
    rows: dict[str, dict[str, int]] = {}
    users: set[str] = set()
    items: set[str] = set()
    whose = _ids_of(touched, "int_touched_users")
    for mart in _EVENTS:
        fresh = f"read_parquet('{_pattern(folder, mart)}')"
        earlier = f"lake.main.{mart} WHERE user_id IN (FROM {whose})" if mart in there else None
        rows[mart] = count_changes(connection, _net(fresh, earlier, "*"), KEYS[mart])
        users |= _ids(connection, "user_id", _net(fresh, earlier, RELEVANT[mart]))
        if mart == Mart.INTERACTIONS:
            known = f"WHERE item_id NOT IN (SELECT item_id FROM lake.main.{Mart.ITEMS})" if Mart.ITEMS in there else ""
            items |= _ids(connection, "item_id", f"(FROM {fresh} {known})")
            if mart in there and Mart.ITEMS in there:  # what nobody describes goes with its last event
                left = f"(FROM {fresh} UNION ALL BY NAME FROM lake.main.{mart} WHERE user_id NOT IN (FROM {whose}))"
                gone = f"item_id NOT IN (SELECT item_id FROM {left} WHERE item_id IS NOT NULL)"
                items |= _ids(connection, "item_id", f"lake.main.{Mart.ITEMS} WHERE NOT described AND {gone}")
    for kind, (outcomes, history, model, key, columns) in _DESCRIBED.items():
        fresh = f"read_parquet('{_pattern(folder, outcomes)}') WHERE outcome = 'kept'"
        ids = _ids_of(touched, model)
        earlier = (
            f"lake.main.{history} WHERE outcome = 'kept' AND {key[0]} IN (FROM {ids})" if history in there else None
        )
        rows[kind] = count_changes(connection, _net(fresh, earlier, columns), key)
        if kind == "user descriptions":
            own = f"user_id, created_at, {segment(segment_by)} AS segment" if segment_by else "user_id, created_at"
            users |= _ids(connection, "user_id", _net(fresh, earlier, own))
            continue
        items |= _ids(connection, "item_id", _net(fresh, earlier, _OF_ITEMS))
        # What an item is described as now may be what it was before, so that no text of it comes or goes.
        now = (fresh + _NEWEST, earlier and earlier + _NEWEST)
        texts = _ids(connection, "item_id", _net(fresh, earlier, _TEXT)) | _ids(
            connection, "item_id", _net(*now, _TEXT)
        )
        if texts and Mart.INTERACTIONS in there:
            newest = connection.execute("SELECT max(snapshot_id) FROM lake.snapshots()").fetchone()
            assert newest is not None
            users |= users_of_items(connection, newest[0], sorted(texts))
    changed = {"users": users, "items": items}
    return {
        "rows": rows,
        **{kind: {"recomputed": sorted(recomputed[kind]), "changed": sorted(changed[kind])} for kind in changed},
    }


def _pattern(folder: Path, name: str) -> str:
    return f"{lake.as_pattern(folder)}/{name}.parquet".replace("'", "''")


def _ids_of(touched: Path, model: str) -> str:
    return f"read_parquet('{_pattern(touched, model + '-*')}')"


def _ids(connection: duckdb.DuckDBPyConnection, key: str, rows: str) -> set[str]:
    return {row[0] for row in connection.execute(f"SELECT DISTINCT {key} FROM {rows}").fetchall()}


def _net(fresh: str, earlier: str | None, columns: str) -> str:
    """SQL of the rows that differ, `net` 1 for those that would come and -1 for those that would go."""
    if earlier is None:
        return f"(SELECT {columns}, 1 AS net FROM {fresh})"
    new, old = f"SELECT {columns} FROM {fresh}", f"SELECT {columns} FROM {earlier}"
    return f"(SELECT *, 1 AS net FROM ({new} EXCEPT {old}) UNION ALL BY NAME SELECT *, -1 AS net FROM ({old} EXCEPT {new}))"
