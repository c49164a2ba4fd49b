"""What users did before T, as arrays: every event, and summed up for each user and item."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array, csr_array

from include.models.sparse import places, run_starts

Ints = NDArray[np.int64]

DECAY_DAYS = 60.0
LONGEST = 200
"""Last distinct moments of a history that a source looks at: it bounds what a user costs."""

LAST = 3
"""Moments of a history that are its newest."""


@dataclass(frozen=True)
class Histories:
    """What some users did before T, in order of user, time and item; items are positions in a catalogue of n."""

    user: Ints
    item: Ints
    day: NDArray[np.float64]
    """Days from the epoch."""
    shape: tuple[int, int]

    def before(self, day: float) -> "Histories":
        """What happened before a time."""
        return self._where(self.day < day)

    def since(self, day: float) -> "Histories":
        """What happened at a time or later."""
        return self._where(self.day >= day)

    def _where(self, kept: NDArray[np.bool_]) -> "Histories":
        return Histories(self.user[kept], self.item[kept], self.day[kept], self.shape)

    def only(self, users: Ints) -> "Histories":
        """Those of some users, sorted positions, counted anew from 0."""
        place = np.full(self.shape[0], -1)
        place[users] = np.arange(len(users))
        kept = place[self.user] >= 0
        return Histories(place[self.user[kept]], self.item[kept], self.day[kept], (len(users), self.shape[1]))


@dataclass(frozen=True)
class Pairs:
    """One row for each pair of user and item of some histories, ordered by user and then the last that was had first."""

    user: Ints
    item: Ints
    count: NDArray[np.float64]
    first_day: NDArray[np.float64]
    last_day: NDArray[np.float64]
    rank: Ints
    """0 for the user's newest item; items of one moment share a rank."""
    decayed: NDArray[np.float64]
    """Counts halved for every `DECAY_DAYS` between the event and the user's last one."""
    shape: tuple[int, int]

    @classmethod
    def of(cls, histories: Histories) -> "Pairs":
        """Sum up histories."""
        users = histories.shape[0]
        order = np.lexsort((histories.day, histories.item, histories.user))
        user, item, day = histories.user[order], histories.item[order], histories.day[order]
        last = np.full(users, -np.inf)
        np.maximum.at(last, user, day)
        start = np.flatnonzero(run_starts(user, item))
        count = np.diff(np.append(start, len(user))).astype(np.float64)
        age = last[user] - day
        decayed = np.add.reduceat(np.exp2(-age / DECAY_DAYS), start) if len(start) else np.zeros(0)
        pair_user, pair_item = user[start], item[start]
        first_day = day[start]
        last_day = day[np.append(start[1:], len(user)) - 1] if len(start) else np.zeros(0)
        by_age = np.lexsort((pair_item, -last_day, pair_user))
        pair_user, last_day = pair_user[by_age], last_day[by_age]
        begins = run_starts(pair_user)
        later = np.zeros(len(pair_user), dtype=np.int64)
        later[1:] = (~begins[1:]) & (last_day[1:] < last_day[:-1])
        step = np.cumsum(later)
        rank = step - np.repeat(step[begins], np.diff(np.append(np.flatnonzero(begins), len(step))))
        return cls(
            user=pair_user,
            item=pair_item[by_age],
            count=count[by_age],
            first_day=first_day[by_age],
            last_day=last_day,
            rank=rank,
            decayed=decayed[by_age],
            shape=histories.shape,
        )

    @property
    def place(self) -> Ints:
        """0, 1, … within each user's rows."""
        return places(np.bincount(self.user, minlength=self.shape[0]))

    @cached_property
    def whole(self) -> csr_array:
        """(users, n) what each user had, by its decayed counts."""
        return self.matrix(self.decayed, self.rank < LONGEST)

    @cached_property
    def newest(self) -> csr_array:
        """(users, n) the items of a user's last moments, the newest most."""
        return self.matrix(1 / (self.rank + 1.0), self.rank < LAST)

    @cached_property
    def latest_first(self) -> csr_array:
        """(users, n) each item once, the latest most: (r + 1)^-1/4 with r moments after its own."""
        return self.matrix(np.power(self.rank + 1.0, -0.25), self.rank < LONGEST)

    def matrix(self, values: NDArray[np.float64], kept: NDArray[np.bool_]) -> csr_array:
        """(users, items) with a value for each kept pair."""
        found: csr_array = coo_array((values[kept], (self.user[kept], self.item[kept])), shape=self.shape).tocsr()
        found.sort_indices()
        return found
