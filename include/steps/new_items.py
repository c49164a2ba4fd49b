"""The new items that lists keep places for, and whose places change with them."""

import logging
from collections import defaultdict
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from include.columns import VectorTable
from include.models.exploration import draw, draw_changes, hashes, noise, places, rough_scores
from include.settings import Settings, Surface
from include.stores import behaviour, lake, publications, vectors

log = logging.getLogger(__name__)

INTERESTS = ("long", "short")
"""Columns of user vectors that an item's text may be near to."""

MOST = 1000
"""New items that are drawn from, at most, the newest ones: it bounds what an item that lands costs."""

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class NewItems:
    """Some items, sorted by id, with what the vector table holds of them."""

    ids: list[str]
    text: NDArray[np.float32]
    left: NDArray[np.float32]
    right: NDArray[np.float32]
    text_hash: list[str | None]


def explores(state: dict[str, Any], surface: Surface) -> Ints:
    """The positions of a surface's lists that are kept for new items: none where a publication of before is rebuilt as it was."""
    return places(surface.length, surface.exploration if state.get("explores") else 0.0)


def new_items(settings: Settings, state: dict[str, Any]) -> NewItems:
    """What is new as of a candidate's T, or a publication's.

    An item is new that came to be since some days before the lists' T, had few interactions before it, and can be had at T. So
    within a day items become new as they land, and only `recommend`, which moves the lists' T, finds that they are it no more.
    """
    lists, own = state["lists"], settings.cold_start
    lists_as_of = datetime.fromisoformat(lists["as_of"])
    with lake.connect(settings) as connection:
        ids = behaviour.new_items(
            connection,
            (state["lake_snapshot"], datetime.fromisoformat(state["as_of"])),
            (lists["lake_snapshot"], lists_as_of),
            since=lists_as_of - timedelta(days=own.new_item_days),
            fewer=own.new_item_interactions,
            most=MOST,
        )
    version = state["tables"][VectorTable.ITEMS]["version"]
    rows = vectors.read(settings, state["encoder_id"], VectorTable.ITEMS, version, keys=ids)
    return NewItems(
        ids=rows["item_id"].to_pylist(),
        text=vectors.vector_array(rows["text"]),
        left=vectors.vector_array(rows["left"]),
        right=vectors.vector_array(rows["right"]),
        text_hash=rows["text_hash"].to_pylist(),
    )


def salt(settings: Settings, state: dict[str, Any]) -> str:
    """What noise is drawn with: other items are drawn on each day of lists."""
    return f"{settings.seed} {datetime.fromisoformat(state['lists']['as_of']).date()}"


def _had(settings: Settings, state: dict[str, Any], items: list[str]) -> list[tuple[str, str]]:
    """Users and those of the items that they did something with before T."""
    with lake.connect(settings) as connection:
        return behaviour.users_of_each(
            connection, state["lake_snapshot"], datetime.fromisoformat(state["as_of"]), items
        )


def _cells(pairs: list[tuple[str, str]], users: list[str], items: list[str]) -> tuple[Ints, Ints]:
    """Rows and columns of pairs of user and item; an item may have several columns."""
    row, columns = {user: number for number, user in enumerate(users)}, defaultdict(list)
    for number, item in enumerate(items):
        columns[item].append(number)
    found = [(row[user], column) for user, item in pairs if user in row for column in columns[item]]
    return (
        np.array([user for user, _ in found], dtype=np.int64),
        np.array([item for _, item in found], dtype=np.int64),
    )


def drawn_for(
    settings: Settings, state: dict[str, Any], surface: Surface, known: pa.Table, new: NewItems
) -> NDArray[np.int64]:
    """(users, places) the new items that are drawn for some users with a history, -1 for none.

    Args:
        settings: all settings.
        state: a candidate or a publication.
        surface: whose policy holds.
        known: rows of the user vectors.
        new: what is drawn from.
    """
    users, most = known["user_id"].to_pylist(), len(explores(state, surface))
    pairs = [] if surface.show_seen else _had(settings, state, new.ids)
    interests = [vectors.vector_array(known[name]) for name in INTERESTS]
    salted = salt(settings, state)
    of_users, of_items = hashes(users, salted), hashes(new.ids, salted)
    drawn = np.full((len(users), most), -1, dtype=np.int64)
    for start in range(0, len(users), settings.users_per_chunk):
        rows = slice(start, start + settings.users_per_chunk)
        drawn[rows] = draw(
            [own[rows] for own in interests],
            new.text,
            noise(of_users[rows], of_items),
            _cells(pairs, users[rows], new.ids),
            most,
        )
    return drawn


def relist_for_new_items(settings: Settings, candidate: str) -> dict[str, int]:
    """Add to the users whom an update relists those whose places for new items change, of the users that it did not touch.

    Their interests are what they were in the base. So all that can change is what is drawn from, and only what came and went is
    looked at: users times those items, and the items that stayed.

    Returns:
        `new_items` as of T, those that `came` and `went` since the base, and the users `relisted` for them.
    """
    state = publications.planned(settings, candidate)
    surfaces = [surface for surface in settings.surfaces if len(explores(state, surface))]
    relisted = publications.relisted(settings, candidate)
    if not surfaces:
        return {}
    now = new_items(settings, state)
    found = {"new_items": len(now.ids), "came": 0, "went": 0, "relisted": 0}
    if relisted is None:
        return found
    before = new_items(settings, publications.manifest(settings, state["base"]))
    stayed = set(zip(before.ids, before.text_hash, strict=True)) & set(zip(now.ids, now.text_hash, strict=True))
    kinds = [
        np.array([pair in stayed for pair in zip(each.ids, each.text_hash, strict=True)], dtype=bool)
        for each in (before, now)
    ]
    found |= {"went": int((~kinds[0]).sum()), "came": int((~kinds[1]).sum())}
    if not found["came"] and not found["went"]:
        return found
    # What stayed, once; then what went; then what came.
    ids = [*before.ids, *(name for name, same in zip(now.ids, kinds[1], strict=True) if not same)]
    text = np.concatenate([before.text, now.text[~kinds[1]]])
    of_before = np.arange(len(ids)) < len(before.ids)
    of_now = np.concatenate([kinds[0], np.ones(len(ids) - len(before.ids), dtype=bool)])
    changed = _with_other_draws(settings, state, surfaces, set(relisted), ids, text, of_before, of_now)
    publications.relist(settings, candidate, sorted({*relisted, *changed}))
    log.info(
        "%d items are new, %d are no more; they change the lists of %d users",
        found["came"],
        found["went"],
        len(changed),
    )
    return found | {"relisted": len(changed)}


def _with_other_draws(
    settings: Settings,
    state: dict[str, Any],
    surfaces: list[Surface],
    leave: set[str],
    ids: list[str],
    text: NDArray[np.float32],
    of_before: NDArray[np.bool_],
    of_now: NDArray[np.bool_],
) -> list[str]:
    """Users, but for some, whose draw may be another one as some items came and some went."""
    name = VectorTable.USERS
    salted = salt(settings, state)
    of_items = hashes(ids, salted)
    pairs = _had(settings, state, sorted(set(ids)))
    changed: list[str] = []
    columns = ["user_id", *INTERESTS]
    for batch in vectors.batches(settings, state["encoder_id"], name, state["tables"][name]["version"], columns):
        users = batch["user_id"].to_pylist()
        interests = [vectors.vector_array(batch[column]) for column in INTERESTS]
        of_users = hashes(users, salted)
        for start in range(0, len(users), settings.users_per_chunk):
            rows = slice(start, start + settings.users_per_chunk)
            scores = rough_scores([own[rows] for own in interests], text, noise(of_users[rows], of_items))
            other = np.zeros(len(scores), dtype=bool)
            for surface in surfaces:
                own = scores.copy()
                if not surface.show_seen:
                    own[_cells(pairs, users[rows], ids)] = -np.inf
                other |= draw_changes(own, of_before, of_now, len(explores(state, surface)))
            changed += [users[start + row] for row in np.flatnonzero(other) if users[start + row] not in leave]
    return changed
