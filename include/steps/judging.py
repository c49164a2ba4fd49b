"""How lists are judged: what was known as of a cut, what users then did, and what the lists had of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import duckdb
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from include.models import metrics
from include.models.interests import MICROSECONDS_PER_DAY
from include.models.peers import History
from include.stores import behaviour

GROUPS = {"1-4": (1, 4), "5-19": (5, 19), "20+": (20, None)}
"""Users by the length of their history."""


def in_group(lengths: NDArray[np.int64], group: str) -> NDArray[np.bool_]:
    """Which histories, by their lengths, are of a group."""
    low, high = GROUPS[group]
    return np.asarray((lengths >= low) & (True if high is None else lengths <= high))


@dataclass(frozen=True)
class Known:
    """What is known as of a cut: users and items by id, and who did what."""

    cut: datetime
    users: list[str]
    items: list[str]
    available: NDArray[np.bool_]
    history: History
    counts: NDArray[np.int64]
    """(items,) interactions of each."""
    lengths: NDArray[np.int64]
    """(users,) interactions of each."""
    had: csr_array
    """(users, items): what each user did anything with."""

    def rows(self, users: Sequence[str]) -> NDArray[np.int64]:
        """Positions of some users."""
        place = {user: row for row, user in enumerate(self.users)}
        return np.array([place[user] for user in users], dtype=np.int64)


def known_as_of(connection: duckdb.DuckDBPyConnection, snapshot: int, cut: datetime) -> Known:
    """What a snapshot of the lake says of the time before a cut."""
    users = behaviour.users(connection, snapshot, cut)
    items = behaviour.items(connection, snapshot, cut)
    ids = items["item_id"].to_pylist()
    done = behaviour.interactions(connection, snapshot, cut, users, ids)
    shape = (len(users), len(ids))
    age = (np.datetime64(behaviour.naive(cut), "us") - done.event_ts).astype(np.float64) / MICROSECONDS_PER_DAY
    there = done.item >= 0
    likes = there & (done.weight > 0)
    return Known(
        cut=cut,
        users=users,
        items=ids,
        available=np.array(items["available"].to_pylist(), dtype=bool),
        history=History(done.user[likes], done.item[likes], age[likes], shape),
        counts=np.bincount(done.item[there], minlength=len(ids)),
        lengths=np.bincount(done.user, minlength=len(users)),
        had=History(done.user[there], done.item[there], age[there], shape).marks,
    )


@dataclass(frozen=True)
class Window:
    """What users with a history did in a window behind a cut: `targets` is a row for each of `users`."""

    users: list[str]
    targets: csr_array
    counts: dict[str, int]


def window(known: Known, used: list[tuple[str, str]], seen: csr_array | None) -> Window:
    """Whom lists as of a cut are judged by, and what they then did with items that were known.

    Args:
        known: what was known as of the cut.
        used: distinct pairs of user and item of the window.
        seen: (users, items) what counts as no target, because the user had it; None where everything counts.
    """
    row = {user: number for number, user in enumerate(known.users) if known.lengths[number]}
    column = {item: number for number, item in enumerate(known.items)}
    of_known = [(row[user], item) for user, item in used if user in row]
    released = [item for _, item in of_known if item not in column]
    users = np.array([user for user, item in of_known if item in column], dtype=np.int64)
    items = np.array([column[item] for _, item in of_known if item in column], dtype=np.int64)
    targets = csr_array((np.ones(len(users)), (users, items)), shape=known.had.shape)
    if seen is not None:
        targets = csr_array(targets - targets.multiply(seen))
        targets.eliminate_zeros()
    targets.sort_indices()
    asked = np.flatnonzero(np.diff(targets.indptr))
    return Window(
        users=[known.users[number] for number in asked],
        targets=targets[asked],
        counts={
            "pairs": len(asked),
            "targets": int(targets.nnz),
            "users_in_window": len({user for user, _ in used}),
            "users_without_history": len({user for user, _ in used if user not in row}),
            "users_without_target": len({user for user, _ in of_known}) - len(asked),
            "items_released_in_window": len(set(released)),
            "targets_released_in_window": len(released),
        },
    )


def metrics_of(targets: csr_array, listed: NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
    """(n,) of each metric, of lists of (n, k) items with -1 for none."""
    hits, count = metrics.hits(targets, listed), np.diff(targets.indptr).astype(np.int64)
    return {
        "ndcg": metrics.ndcg(hits, count),
        "recall": metrics.recall(hits, count),
        "hit_rate": metrics.hit_rate(hits),
        "mrr": metrics.mrr(hits),
    }
