"""From a history to interest vectors: what a user did lately, weighed and decayed.

Every age is measured from the user's own last event, so a user without new events does not change. A row never depends
on which other rows are computed with it, to the last bit: an update of three users gives what a rebuild of all gives.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from include.models.sparse import places, run_starts

MICROSECONDS_PER_DAY = 86_400e6

HEAVIEST = 32
"""Items of a history, at most, that several interests are found in: what is left out weighs next to nothing."""

UNLIKE = 0.4
"""A further interest begins where an item's cosine with each interest so far is smaller than this."""

ROUNDS = 4
"""In which items go to the nearest interest, and interests to the middle of theirs."""

TINY = 1e-100
"""Numbers below it have no exact squares."""

VECTORS_AT_ONCE = 8192
"""Item vectors that are gathered together; 13 MB or so."""


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
    new = run_starts(user, item)
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
    begins, new = run_starts(owner), run_starts(owner, age)
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
    return _unit_and_norms(np.asarray(vectors, dtype=np.float64))[0]


def _unit_and_norms(wide: NDArray[np.float64]) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Rows of norm 1, and the norms that they had."""
    norms = np.sqrt(np.einsum("nd,nd->n", wide, wide))
    found = (wide / np.where(norms == 0, 1.0, norms)[:, None]).astype(np.float32)
    # The square of what decayed over hundreds of half-lives is no number of full precision any more.
    faint = np.flatnonzero(norms < TINY)
    faint = faint[wide[faint].any(axis=1)]
    if len(faint):
        largest = np.abs(wide[faint]).max(axis=1)
        found[faint], scaled = _unit_and_norms(wide[faint] / largest[:, None])
        norms[faint] = scaled * largest
    return found, norms


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
    return _unit_and_norms(sums)


def several_interests(
    weights: csr_array, vectors: NDArray[np.float32], most: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Put what a user had into a few groups of like items, each an interest of its own, and weigh them.

    A mean of unlike interests lies between them, near nothing that the user had: several vectors a user as in A. Pal et al.,
    "PinnerSage", KDD 2020. The groups are those of spherical k-means (I. Dhillon and D. Modha, 2001) from starts far from each
    other (T. Gonzalez, 1985), which needs no chance: the heaviest item, then each time the one whose weight times distance is
    largest.

    Args:
        weights: (users, items), positive, with sorted indices.
        vectors: (items, d) of norm 1, or zero.
        most: m, groups at most.

    Returns:
        (users, m, d) of norm 1, the heaviest first, zeros where a user has fewer; and (users, m) each one's part of the
        weight. Rows do not depend, to the last bit, on which users are beside them.
    """
    users = weights.shape[0]
    owner, item, weight = _heaviest(weights, np.asarray(vectors.any(axis=1)))
    count = np.bincount(owner, minlength=users)
    first = np.cumsum(count) - count
    group = np.zeros(len(owner), dtype=np.int64)
    # As in scoring: users with about as many items share products, whose size follows from the user alone; so do their bits.
    size = np.exp2(np.ceil(np.log2(np.maximum(count, 1)))).astype(np.int64)
    for width in np.unique(size[count > 0]):
        alike = np.flatnonzero((size == width) & (count > 0))
        step = max(1, VECTORS_AT_ONCE // int(width))
        for rows in (alike[start : start + step] for start in range(0, len(alike), step)):
            there = np.arange(width) < count[rows, None]
            entries = np.where(there, first[rows, None] + np.arange(width), first[rows, None])
            own = vectors[item[entries]] * there[..., None].astype(np.float32)
            group[entries[there]] = _groups(own, np.where(there, weight[entries], 0.0), most)[there]
    masses = np.bincount(owner * most + group, weights=weight, minlength=users * most).reshape(users, most)
    order = np.argsort(-masses, axis=1, kind="stable")
    place = np.argsort(order, axis=1)
    shares = np.take_along_axis(masses, order, axis=1) / np.maximum(masses.sum(axis=1), 1e-300)[:, None]
    cells = (weight, (owner * most + place[owner, group], item))
    found, _ = interest_vectors(csr_array(cells, shape=(users * most, len(vectors))), vectors, None)
    return found.reshape(users, most, vectors.shape[1]), shares.astype(np.float32)


def _heaviest(
    weights: csr_array, told: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Owner, item and weight of the `HEAVIEST` items of each user that have a text, in order of owner and item."""
    owner = np.repeat(np.arange(weights.shape[0]), np.diff(weights.indptr))
    kept = told[weights.indices] & (weights.data > 0)
    owner, item, weight = owner[kept], weights.indices[kept].astype(np.int64), weights.data[kept]
    order = np.lexsort((item, -weight, owner))
    ranked = places(np.bincount(owner, minlength=weights.shape[0]))
    chosen = np.sort(order[ranked < HEAVIEST])
    return owner[chosen], item[chosen], weight[chosen]


def _groups(vectors: NDArray[np.float32], weight: NDArray[np.float64], most: int) -> NDArray[np.int64]:
    """(b, h) the group of each of some users' items, of (b, h, d) vectors and (b, h) weights, zero where there is no item."""
    import torch  # here: most tasks that need weights alone do not pay for it

    gathered = torch.from_numpy(vectors)
    cosine = torch.bmm(gathered, gathered.transpose(1, 2)).double()
    users, rows = np.arange(len(vectors)), cosine.numpy()
    start = weight.argmax(axis=1)
    near = np.full((*weight.shape, most), -np.inf)
    near[:, :, 0] = rows[users, :, start]
    for number in range(1, most):
        nearest = near.max(axis=2)
        far = np.where(nearest < UNLIKE, weight * (1.0 - nearest), 0.0)
        start = far.argmax(axis=1)
        begins = far[users, start] > 0
        near[begins, :, number] = rows[users, :, start][begins]
    for _ in range(ROUNDS):
        group = near.argmax(axis=2)
        members = torch.from_numpy(weight[..., None] * (group[..., None] == np.arange(most)))
        along = torch.bmm(cosine, members)
        squares = torch.diagonal(torch.bmm(members.transpose(1, 2), along), dim1=1, dim2=2).numpy()
        lengths = np.sqrt(np.maximum(squares, 0.0))[:, None, :]
        near = np.where(lengths > 0, along.numpy() / np.where(lengths > 0, lengths, 1.0), -np.inf)
    return np.asarray(near.argmax(axis=2))
