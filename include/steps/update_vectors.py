"""Compute the item and user vectors that a candidate touches, and write them as new versions of the tables."""

import logging
from collections.abc import Callable
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from include.columns import VectorTable
from include.models.interests import decayed_weights, interest_vectors, unit
from include.models.texts import text_hash
from include.settings import Settings
from include.steps.item_texts import item_text_vectors
from include.steps.plan import ITEM_FACTORS, TEXT_MEAN
from include.steps.timing import timed
from include.stores import artefacts, behaviour, lake, publications, vectors
from include.stores.lock import writing

log = logging.getLogger(__name__)

USERS_PER_READ = 50_000


def update_vectors(settings: Settings, candidate: str) -> dict[str, Any]:
    """Write the touched items' and users' vectors over the base's versions, or all of them anew.

    Returns:
        Versions of both tables, and how many rows were written and taken away.
    """
    state = publications.candidate(settings, candidate)
    touched = publications.touched(settings, candidate)
    with timed(settings, candidate, "update_vectors"):
        with writing(settings):
            items, lists = _write_items(settings, state, touched["items"])
        state = {**state, "tables": {VectorTable.ITEMS: items}}
        with writing(settings):
            users = _write_users(settings, state, touched["users"])
    publications.extend_candidate(
        settings,
        candidate,
        {"tables": {VectorTable.ITEMS: items, VectorTable.USERS: users}, "lists": {"item_vectors": lists}},
    )
    return {VectorTable.ITEMS: items, VectorTable.USERS: users}


def _keys(rows: pa.Table) -> set[str]:
    return {str(key) for key in rows.column(0).to_pylist()}


def _table(state: dict[str, Any], name: str, version: int, written: int, gone: int) -> dict[str, Any]:
    log.info("%s: version %d, %d rows written, %d taken away", name, version, written, gone)
    return {"path": f"vectors/{state['encoder_id']}/{name}.lance", "version": version, "written": written, "gone": gone}


def _base_version(settings: Settings, state: dict[str, Any], name: str) -> int | None:
    if state["full"]:
        return None
    return int(publications.manifest(settings, state["base"])["tables"][name]["version"])


# Items


def _write_items(settings: Settings, state: dict[str, Any], touched: list[str]) -> tuple[dict[str, Any], int]:
    """Write item vectors; returns the table and the version that lists are scored against."""
    base = _base_version(settings, state, VectorTable.ITEMS)
    gone: list[str] = []
    context_version: int | None = None
    own = (state["lake_snapshot"], state["as_of"])
    context = (state["lists"]["lake_snapshot"], state["lists"]["as_of"])
    if state["full"] and own != context:
        # The lists of the publication that is rebuilt were scored against the catalogue of an earlier T.
        rows = item_rows(settings, state, *context, None)
        base = _write(settings, state, VectorTable.ITEMS, rows, None, [])
        context_version = base
        present = _keys(rows)
        rows = item_rows(settings, state, *own, None)
        gone = sorted(present - _keys(rows))
    else:
        rows = item_rows(settings, state, *own, None if state["full"] else touched)
        present = _keys(rows)
        gone = [] if state["full"] else [item for item in touched if item not in present]
        context_version = None if own == context else state["lists"]["item_vectors"]
    version = _write(settings, state, VectorTable.ITEMS, rows, base, gone)
    table = _table(state, VectorTable.ITEMS, version, rows.num_rows, len(gone))
    return table, version if context_version is None else int(context_version)


def _write(
    settings: Settings, state: dict[str, Any], name: str, rows: pa.Table, base: int | None, gone: list[str]
) -> int:
    return vectors.write(
        settings, state["encoder_id"], name, rows, base=base, gone=gone, metadata=dict(state["artefacts"])
    )


def item_rows(settings: Settings, state: dict[str, Any], snapshot: int, as_of: str, only: list[str] | None) -> pa.Table:
    """Vectors of the items, or of those named, by what describes them as of T, with the state's encoder and artefacts."""
    with lake.connect(settings) as connection:
        items = behaviour.items(connection, snapshot, datetime.fromisoformat(as_of), only)
    hashes, raw = item_text_vectors(settings, state["encoder_id"], items)
    mean = artefacts.read(settings, state["artefacts"][TEXT_MEAN])[0]["mean"]
    described = np.array([name is not None for name in hashes], dtype=bool)
    text = np.where(described[:, None], unit(raw - mean), np.float32(0))
    factors, description = artefacts.read(settings, state["artefacts"][ITEM_FACTORS])
    row = {item: position for position, item in enumerate(description["items"])}
    ids = items["item_id"].to_pylist()
    positions = np.array([row.get(item, -1) for item in ids], dtype=np.int64)
    return pa.table(
        {
            "item_id": pa.array(ids, pa.string()),
            "text": vectors.vector_column(text.astype(np.float32)),
            "left": vectors.vector_column(_rows(factors["left"], positions)),
            "right": vectors.vector_column(_rows(factors["right"], positions)),
            "text_hash": pa.array(hashes, pa.string()),
        }
    )


def _rows(matrix: NDArray[np.float32], positions: NDArray[np.int64]) -> NDArray[np.float32]:
    """Rows of a matrix by position; zeros where the position is -1."""
    found = np.zeros((len(positions), matrix.shape[1]), dtype=np.float32)
    found[positions >= 0] = matrix[positions[positions >= 0]]
    return found


# Users


def _write_users(settings: Settings, state: dict[str, Any], touched: list[str]) -> dict[str, Any]:
    as_of, snapshot = datetime.fromisoformat(state["as_of"]), state["lake_snapshot"]
    with lake.connect(settings) as connection:
        asked = behaviour.users(connection, snapshot, as_of) if state["full"] else touched
    base = _base_version(settings, state, VectorTable.USERS)
    written, gone, version = 0, 0, base
    for start in range(0, max(len(asked), 1), USERS_PER_READ):
        part = asked[start : start + USERS_PER_READ]
        rows = user_rows(settings, state, part)
        present = _keys(rows)
        absent = [] if version is None else [user for user in part if user not in present]
        version = _write(settings, state, VectorTable.USERS, rows, version, absent)
        written, gone = written + rows.num_rows, gone + len(absent)
        log.info("users %d of %d", min(start + USERS_PER_READ, len(asked)), len(asked))
    assert version is not None
    return _table(state, VectorTable.USERS, version, written, gone)


def _written_items(settings: Settings, state: dict[str, Any], items: list[str]) -> pa.Table:
    version = state["tables"][VectorTable.ITEMS]["version"]
    columns = ["item_id", "text", "left"]
    return vectors.read(settings, state["encoder_id"], VectorTable.ITEMS, version, columns=columns, keys=items)


def user_rows(
    settings: Settings,
    state: dict[str, Any],
    users: list[str],
    items_of: Callable[[Settings, dict[str, Any], list[str]], pa.Table] = _written_items,
) -> pa.Table:
    """Vectors of those of the users who have a history.

    Args:
        settings: all settings.
        state: T, S, encoder and artefacts of a candidate or a publication.
        users: ids.
        items_of: gives the vectors of the named items, sorted by id; by default those that the state's table holds.
    """
    as_of, snapshot = datetime.fromisoformat(state["as_of"]), state["lake_snapshot"]
    with lake.connect(settings) as connection:
        items = behaviour.items_of_users(connection, snapshot, as_of, users)
        known = items_of(settings, state, items)
        history = behaviour.interactions(
            connection, snapshot, as_of, users, [str(item) for item in known["item_id"].to_pylist()]
        )
        wrote = behaviour.user_texts(connection, snapshot, as_of, users)
    text, left = vectors.vector_array(known["text"]), vectors.vector_array(known["left"])

    last = np.full(len(users), np.datetime64("1677-01-01", "us"))
    np.maximum.at(last, history.user, history.event_ts)
    np.maximum.at(last, wrote.user, wrote.event_ts)
    done = history.item >= 0
    hashes = [text_hash(settings.encoder.user_prefix + own) for own in wrote.text]
    distinct = sorted(set(hashes))
    place = {name: row for row, name in enumerate(distinct)}
    mean = artefacts.read(settings, state["artefacts"][TEXT_MEAN])[0]["mean"]
    own_texts = unit(vectors.text_vectors(settings, state["encoder_id"], distinct, text.shape[1]) - mean)

    def weights(half_life_days: float) -> Any:
        return decayed_weights(
            history.user[done],
            history.item[done],
            history.event_ts[done],
            history.weight[done],
            last,
            half_life_days=half_life_days,
            shape=(len(users), known.num_rows),
        )

    def text_interest(half_life_days: float) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
        own = decayed_weights(
            wrote.user,
            np.array([place[name] for name in hashes], dtype=np.int64),
            wrote.event_ts,
            wrote.weight * settings.interests.user_text_weight,
            last,
            half_life_days=half_life_days,
            shape=(len(users), len(distinct)),
        )
        return interest_vectors(weights(half_life_days), text, np.asarray(own @ own_texts.astype(np.float64)))

    long, long_norm = text_interest(settings.interests.long_half_life_days)
    short, short_norm = text_interest(settings.interests.short_half_life_days)
    behaved, behaviour_norm = interest_vectors(weights(settings.interests.factor_half_life_days), left, None)
    n = np.bincount(history.user, minlength=len(users))
    active = np.flatnonzero((n > 0) | (np.bincount(wrote.user, minlength=len(users)) > 0))
    return pa.table(
        {
            "user_id": pa.array([users[row] for row in active], pa.string()),
            "long": vectors.vector_column(long[active]),
            "short": vectors.vector_column(short[active]),
            "behaviour": vectors.vector_column(behaved[active]),
            # What the vectors were divided by: explanations need it to say how much one past item adds.
            "long_norm": pa.array(long_norm[active], pa.float64()),
            "short_norm": pa.array(short_norm[active], pa.float64()),
            "behaviour_norm": pa.array(behaviour_norm[active], pa.float64()),
            "last_event_ts": pa.array(last[active], pa.timestamp("us")),
            "n_interactions": pa.array(n[active], pa.int64()),
        }
    )
