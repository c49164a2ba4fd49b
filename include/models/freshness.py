"""What a list is worth as it grows old: moments at which lists are made anew, and trends as of any of them. Pure functions."""

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from include.models import metrics
from include.models.candidates import NEVER_DAYS, Sources, trends
from include.models.histories import Histories
from include.models.sparse import kept_form, longer, wider
from include.models.traits import Traits

Floats = NDArray[np.float64]

CADENCES: dict[str, int | None] = {"never": None, "weekly": 168, "daily": 24, "6-hourly": 6, "hourly": 1}
"""Hours from one refresh to the next, the slowest first."""


def measurable(window_hours: float) -> list[str]:
    """Cadences with a refresh inside a window; without one, a cadence is `never`."""
    return [name for name, hours in CADENCES.items() if hours is None or hours < window_hours]


def refreshed_at(hour: int, cadence: str) -> int:
    """The last refresh at or before an hour, both counted from a cut, at which everything is made."""
    every = CADENCES[cadence]
    return 0 if every is None else hour // every * every


def refreshed(
    sources: Sources, histories: Histories, traits: Traits, near: csr_array, first_day: Floats, day: float
) -> Sources:
    """The same sources with their trends as of a later time; what was learned of pairs of items stays as it was.

    Args:
        sources: fitted as of a cut, of m items.
        histories: of all users before that time; of n >= m items, of which the first m are those of the sources.
        traits: of the n items.
        near: (n, n) their neighbours by text.
        first_day: (n,) when each item came to be.
        day: the time, in days from the epoch.
    """
    n = histories.shape[1]
    new, month = n - len(sources.counts), sources.recent_month
    relations: dict[str, Any] = {
        name: wider(getattr(sources, name), n, n) for name in ("ease", "smoothed", "cosine", "transitions")
    }
    return replace(
        sources,
        **trends(histories, day),
        first_day=first_day,
        gap_days=np.append(sources.gap_days, np.full(new, NEVER_DAYS)),
        again=np.append(sources.again, np.zeros(new)),
        recent=wider(sources.recent, sources.recent.shape[0], n),
        recent_month=None if month is None else wider(month, month.shape[0], n),
        traits=traits,
        text=kept_form(near),
        left=longer(sources.left, n),
        right=longer(sources.right, n),
        low_left=longer(sources.low_left, n),
        low_right=longer(sources.low_right, n),
        **relations,
    )


def curve(ndcg: dict[str, Floats], users: NDArray[np.int64], seed: int) -> dict[str, Any]:
    """What each cadence is worth.

    Args:
        ndcg: of each cadence, the slowest first, its values for the same rows.
        users: (rows,) the user's number in each.
        seed: of the draws.

    Returns:
        `cadences`: for each its `ndcg`, and the ratios to `against` (daily, or never where daily is not measured) and to
        the best (`of_best`), with intervals; and `rewarded`: the slowest that is not shown to be worse than the best, None
        where no list had a hit.
    """
    means = {name: metrics.user_means(users, values) for name, values in ndcg.items()}
    against = "daily" if "daily" in ndcg else "never"
    best = max(reversed(ndcg), key=lambda name: float(means[name].mean()))
    found = {
        name: {
            "ndcg": float(ndcg[name].mean()),
            "ratio": metrics.bootstrap_ratio(own, means[against], seed),
            "of_best": metrics.bootstrap_ratio(own, means[best], seed),
        }
        for name, own in means.items()
    }
    return {"cadences": found, "against": against, "best": best, "rewarded": _as_good(found)}


def _as_good(cadences: dict[str, dict[str, Any]]) -> str | None:
    for name, facts in cadences.items():
        high = facts["of_best"]["high"]
        if high is not None and high >= 1.0:
            return name
    return None
