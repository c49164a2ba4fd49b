"""Compute the vectors of the users that a candidate touches; `keep_users` makes a version of the table of them."""

import logging
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy.sparse import csr_array, hstack

from include.columns import INTEREST_SHARES, Artefact, VectorTable
from include.models.interests import (
    decayed_weights,
    interest_vectors,
    latest_first_weights,
    several_interests,
    unit,
)
from include.models.texts import text_hash
from include.settings import Settings
from include.steps.item_texts import text_mean
from include.steps.tables import written_version
from include.stores import artefacts, behaviour, lake, parts, publications, vectors
from include.stores.parts import Part, cut, of_shard

log = logging.getLogger(__name__)

STEP = "update_users"
USERS_PER_PART = 16_384


def planned_users(settings: Settings, candidate: str, state: dict[str, Any]) -> list[Part]:
    """The users whose vectors a candidate computes, in parts."""
    users = publications.touched(settings, candidate)["users"]
    if state["full"]:
        with lake.connect(settings) as connection:
            users = behaviour.users(connection, state["lake_snapshot"], datetime.fromisoformat(state["as_of"]))
    return cut(STEP, users, USERS_PER_PART)


def user_inputs(state: dict[str, Any]) -> dict[str, Any]:
    """What user vectors follow from beside the users."""
    return {"items": written_version(state, VectorTable.ITEMS), "artefacts": state["artefacts"]}


@lake.attached_once
def update_users(settings: Settings, candidate: str, shard: int | None = None) -> dict[str, Any]:
    """Compute the vectors of the touched users, or of all: those of one shard, or of all shards.

    Returns:
        How many users were looked at, and how many of them have a history and so a vector.
    """
    state = publications.planned(settings, candidate)
    asked = written = 0
    for part in of_shard(planned_users(settings, candidate, state), shard, state["shards"]):
        start = time.monotonic()
        rows = user_rows(settings, state, list(part.keys))
        parts.write(settings, candidate, part, user_inputs(state), rows, time.monotonic() - start)
        asked, written = asked + len(part.keys), written + rows.num_rows
        log.info("users: part %d of %d", part.number + 1, part.of)
    return {"users": asked, "vectors": written}


def behaviour_weights(
    settings: Settings,
    state: dict[str, Any],
    user: NDArray[np.int64],
    item: NDArray[np.int64],
    event_ts: NDArray[np.datetime64],
    weight: NDArray[np.float64],
    last: NDArray[np.datetime64],
    *,
    shape: tuple[int, int],
) -> csr_array:
    """What each of a user's items weighs in the behavioural vector (see `latest_first_weights`).

    A publication with factors of before items were weighed so is rebuilt as it was, with sums of events that halve in 180 days.
    """
    factors = artefacts.describe(settings, state["artefacts"][Artefact.ITEM_FACTORS])
    if "half_life_days" not in factors["settings"]:
        return decayed_weights(user, item, event_ts, weight, last, half_life_days=180.0, shape=shape)
    return latest_first_weights(user, item, event_ts, weight, power=settings.interests.latest_first, shape=shape)


def has_several_interests(settings: Settings, state: dict[str, Any]) -> bool:
    """Whether a candidate's user vectors tell interests apart: not so where a publication of before is rebuilt as it was."""
    return "others" in artefacts.describe(settings, state["artefacts"][Artefact.ITEM_FACTORS])


def _several_columns(weights: csr_array, texts: NDArray[np.float32], most: int) -> dict[str, pa.Array]:
    """`interest_1`, `interest_2`, … and `interest_shares`, a row for each user."""
    found, shares = several_interests(weights, texts, most)
    columns = {f"interest_{number + 1}": vectors.vector_column(found[:, number]) for number in range(most)}
    return {**columns, INTEREST_SHARES: vectors.vector_column(shares)}


def _written_items(settings: Settings, state: dict[str, Any], items: list[str]) -> pa.Table:
    version = written_version(state, VectorTable.ITEMS)
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
    prefix = settings.with_encoder(state.get("encoder")).encoder.user_prefix
    hashes = [text_hash(prefix + own) for own in wrote.text]
    distinct = sorted(set(hashes))
    place = {name: row for row, name in enumerate(distinct)}
    mean = text_mean(settings, state)
    own_texts = unit(vectors.text_vectors(settings, state["encoder_id"], distinct, text.shape[1]) - mean)

    def weights(half_life_days: float) -> csr_array:
        return decayed_weights(
            history.user[done],
            history.item[done],
            history.event_ts[done],
            history.weight[done],
            last,
            half_life_days=half_life_days,
            shape=(len(users), known.num_rows),
        )

    def own_weights(half_life_days: float) -> csr_array:
        return decayed_weights(
            wrote.user,
            np.array([place[name] for name in hashes], dtype=np.int64),
            wrote.event_ts,
            wrote.weight * settings.interests.user_text_weight,
            last,
            half_life_days=half_life_days,
            shape=(len(users), len(distinct)),
        )

    def text_interest(of_items: csr_array, of_texts: csr_array) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
        return interest_vectors(of_items, text, np.asarray(of_texts @ own_texts.astype(np.float64)))

    long_days, short_days = settings.interests.long_half_life_days, settings.interests.short_half_life_days
    over_long = weights(long_days), own_weights(long_days)
    long, long_norm = text_interest(*over_long)
    short, short_norm = text_interest(weights(short_days), own_weights(short_days))
    weighed = behaviour_weights(
        settings,
        state,
        history.user[done],
        history.item[done],
        history.event_ts[done],
        history.weight[done],
        last,
        shape=(len(users), known.num_rows),
    )
    behaved, behaviour_norm = interest_vectors(weighed, left, None)
    several: dict[str, pa.Array] = {}
    if has_several_interests(settings, state):
        together = csr_array(hstack(over_long, format="csr"))
        several = _several_columns(together, np.concatenate([text, own_texts]), settings.interests.most)
    n = np.bincount(history.user, minlength=len(users))
    active = np.flatnonzero((n > 0) | (np.bincount(wrote.user, minlength=len(users)) > 0))
    return pa.table(
        {
            "user_id": pa.array([users[row] for row in active], pa.string()),
            "long": vectors.vector_column(long[active]),
            "short": vectors.vector_column(short[active]),
            "behaviour": vectors.vector_column(behaved[active]),
            **{name: column.take(pa.array(active)) for name, column in several.items()},
            # What the vectors were divided by: explanations need it to say how much one past item adds.
            "long_norm": pa.array(long_norm[active], pa.float64()),
            "short_norm": pa.array(short_norm[active], pa.float64()),
            "behaviour_norm": pa.array(behaviour_norm[active], pa.float64()),
            "last_event_ts": pa.array(last[active], pa.timestamp("us")),
            "n_interactions": pa.array(n[active], pa.int64()),
        }
    )
