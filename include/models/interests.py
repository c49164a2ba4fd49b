"""From a history to interest vectors: what a user did lately, weighed and decayed.

Every age is measured from the user's own last event, so a user without new events does not change. A row never depends
on which other rows are computed with it, to the last bit: an update of three users gives what a rebuild of all gives.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

MICROSECONDS_PER_DAY = 86_400e6


def decayed_weights(
    user: NDArray[np.int64],
    item: NDArray[np.int64],
    event_ts: NDArray[np.datetime64],
    weight: NDArray[np.float64],
    last_ts: NDArray[np.datetime64],
    *,
    half_life_days: float,
    shape: tuple[int, int],
) -> csr_array:
    """Sum each user's events by item, each halved for every half-life that lies between it and the user's last event.

    Args:
        user: (n,) row of each event.
        item: (n,) column of each event.
        event_ts: (n,) its time, in microseconds.
        weight: (n,) its weight.
        last_ts: (users,) time of each user's last event.
        half_life_days: in days; infinity means no decay.
        shape: (users, items).

    Returns:
        (users, items), float64, with sorted indices and no duplicates. Whatever order the events come in, equal events
        give equal bits.
    """
    age = (last_ts[user] - event_ts).astype("timedelta64[us]").astype(np.float64) / MICROSECONDS_PER_DAY
    decayed = weight * np.exp2(-age / half_life_days)
    sums, _ = _by_pair(user, item, event_ts, decayed, shape)
    return sums


def _by_pair(
    user: NDArray[np.int64],
    item: NDArray[np.int64],
    event_ts: NDArray[np.datetime64],
    values: NDArray[np.float64],
    shape: tuple[int, int],
) -> tuple[csr_array, NDArray[np.datetime64]]:
    """The sum of each pair of user and item, and the time of its last event, entry by entry."""
    # One fixed order of summation within each pair.
    order = np.lexsort((values, event_ts, item, user))
    user, item, event_ts, values = user[order], item[order], event_ts[order], values[order]
    new = np.ones(len(order), dtype=bool)
    new[1:] = (user[1:] != user[:-1]) | (item[1:] != item[:-1])
    pair = np.cumsum(new) - 1
    sums = np.bincount(pair, weights=values, minlength=int(new.sum()))
    indptr = np.concatenate([[0], np.cumsum(np.bincount(user[new], minlength=shape[0]))])
    last = event_ts[np.append(new[1:], True)[: len(order)]]
    return csr_array((sums, item[new], indptr), shape=shape), last


def later_items(owner: NDArray[np.int64], age: NDArray[Any]) -> NDArray[np.int64]:
    """(n,) how many of the same owner's entries are younger; those of one age share their number.

    Args:
        owner: (n,) ascending.
        age: (n,) of each entry, in any unit.
    """
    order = np.lexsort((age, owner))
    age, place = age[order], np.arange(len(order))
    new, begins = np.ones(len(order), dtype=bool), np.ones(len(order), dtype=bool)
    begins[1:] = owner[1:] != owner[:-1]
    new[1:] = begins[1:] | (age[1:] != age[:-1])
    found = np.empty(len(order), dtype=np.int64)
    found[order] = np.maximum.accumulate(np.where(new, place, 0)) - np.maximum.accumulate(np.where(begins, place, 0))
    return found


def latest_first_weights(
    user: NDArray[np.int64],
    item: NDArray[np.int64],
    event_ts: NDArray[np.datetime64],
    weight: NDArray[np.float64],
    *,
    power: float,
    shape: tuple[int, int],
) -> csr_array:
    """Weigh each of a user's items once, the latest most: (r + 1)^-power, where r of the user's items came later.

    What item-to-item factors are learned from says whether a user had an item, not how often; so an item's events count up to
    a weight of 1 together. Items whose last events are of one moment, such as a basket, share their r.

    Args:
        user: (n,) row of each event.
        item: (n,) column of each event.
        event_ts: (n,) its time.
        weight: (n,) its weight.
        power: 0 weighs all alike.
        shape: (users, items).

    Returns:
        (users, items), float64, with sorted indices and no duplicates.
    """
    found, last = _by_pair(user, item, event_ts, weight, shape)
    owner = np.repeat(np.arange(shape[0]), np.diff(found.indptr))
    later = later_items(owner, -last.astype(np.int64))
    found.data = np.minimum(found.data, 1.0) * (later + 1.0) ** -power
    return found


def unit(vectors: NDArray[np.floating]) -> NDArray[np.float32]:
    """Rows scaled to norm 1; a row of zeros stays one. (n, d) float32."""
    wide = np.asarray(vectors, dtype=np.float64)
    norms = np.sqrt(np.einsum("nd,nd->n", wide, wide))
    return (wide / np.where(norms == 0, 1.0, norms)[:, None]).astype(np.float32)


def interest_vectors(
    weights: csr_array, vectors: NDArray[np.float32], extra: NDArray[np.float64] | None
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Weighted sums of item vectors, scaled to norm 1.

    Args:
        weights: (users, items).
        vectors: (items, d).
        extra: (users, d), added before scaling: what the user wrote.

    Returns:
        (users, d) float32 of norm 1, or zeros where there is nothing, and (users,) the norms that were divided by.
    """
    # A sparse product sums a row's items one after the other: the same bits, whatever rows stand beside it.
    sums = np.asarray(weights @ vectors.astype(np.float64))
    if extra is not None:
        sums = sums + extra
    return unit(sums), np.sqrt(np.einsum("nd,nd->n", sums, sums))
