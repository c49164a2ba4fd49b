"""How far trees and the learned order are to be trusted on this data: a trial on windows that the rankers did not learn from.

What is grown on the older windows orders the pools of the newest. So a home with little or odd data keeps to what works there:
more of the linear model, or, where one single source was clearly better than anything learned, that source.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from include.models.metrics import ndcg
from include.models.ranker import Example, Ranker, best, teaches, train, usual_share

Floats = NDArray[np.float64]

SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Parts of the linear model that are tried."""

LENGTH = 10
"""Of the lists that are compared."""

HELD_USERS = 300
"""Users of the newest windows that are enough to try on; at most a third of the windows are held back for it."""

LATELY_USERS = 100
"""Users of the newest of them that are enough to see whether a single source is better of late."""

LEAST_USERS = 30
"""Users of the newest windows without whom nothing is tried: the best of many sources is chance then."""

LEARN_USERS = 400
"""Users of older windows that are learned from, at most; drawn. It bounds what a trial costs."""

POPULARITY_OF_EQUALS = 1e-4
"""What the most popular item is worth beside one that was had now: enough to tell equal ones apart."""

ERRORS_FOR_SHARE = 1.0
ERRORS_FOR_SOURCE = 2.0
"""By so many standard errors of the mean difference another share, or a single source, must be better to be taken."""


@dataclass(frozen=True)
class Trial:
    """What a trial chose.

    Attributes:
        linear_share: the linear model's part of a score.
        source: the name of the feature that orders lists alone; None where what is learned does.
        users: users of the windows that were held back; 0 where there was nothing to try on.
        ndcg: NDCG@10 over the held-back samples, of each share; and over the newest of them, of the chosen one and the best source.
    """

    linear_share: float
    source: str | None
    users: int
    ndcg: dict[str, float]


def newest(examples: list[Example], users: int) -> int:
    """How many of the newest windows hold so many users; a third of all at most, and of two the newer."""
    windows, found, most = 0, 0, len(examples) // 3 or len(examples) // 2
    while found < users and windows < most:
        found += examples[windows].users
        windows += 1
    return windows


def tried(examples: list[Example], *, trees: bool, seed: int) -> Trial:
    """Try on the newest windows what the older ones teach.

    Args:
        examples: windows, the newest first, sampled.
        trees: whether there is enough to grow trees from; else the linear model stands alone.
        seed: of the trees and of the users that are learned from.
    """
    usual = usual_share(examples) if trees else 1.0
    count = newest(examples, HELD_USERS)
    held, older = examples[:count], _some(examples[count:], LEARN_USERS, np.random.default_rng(seed))
    if sum(example.users for example in held) < LEAST_USERS or not teaches(older):
        return Trial(usual, None, 0, {})
    learned = train(older, trees=trees, seed=seed)
    values = _worth(held, learned, SHARES if trees else (usual,))
    share = max(values, key=lambda each: float(values[each].mean()))
    if _errors(values[share], values[usual]) <= ERRORS_FOR_SHARE:
        share = usual
    names, lately = learned.names, held[: newest(examples, LATELY_USERS)]
    learned_lately = values[share][: sum(example.users for example in lately)]
    singles = {name: _worth(lately, alone(names, name), (1.0,))[1.0] for name in _single_sources(names)}
    source = max(singles, key=lambda name: _errors(singles[name], learned_lately))
    chosen = source if _errors(singles[source], learned_lately) > ERRORS_FOR_SOURCE else None
    means = {f"linear share {each}": float(value.mean()) for each, value in values.items()}
    means |= {"lately": float(learned_lately.mean()), f"lately, {source} alone": float(singles[source].mean())}
    return Trial(share, chosen, len(values[usual]), means)


def alone(names: tuple[str, ...], source: str) -> Ranker:
    """A ranker that orders pools by one source: by its rank, which tells values apart, however near to each other they are."""
    only = np.array([name == f"{source}_rank" for name in names], dtype=np.float64)
    return Ranker(names, np.zeros(len(names)), np.ones(len(names)), only, {})


def habits() -> Ranker:
    """A ranker of nothing that was learned: what a user had, by how often and how lately, and equal ones by recent popularity."""
    names = ("own_decayed", "popular_720h_rank")
    return Ranker(names, np.zeros(2), np.ones(2), np.array([1.0, POPULARITY_OF_EQUALS]), {})


def _single_sources(names: tuple[str, ...]) -> list[str]:
    """Features that are a source's or a popularity's own value: those have a rank."""
    return [name for name in names if f"{name}_rank" in names]


def _some(examples: list[Example], most: int, random: np.random.Generator) -> list[Example]:
    """The examples of some users at most, as many of each window as it has part in all."""
    total = sum(example.users for example in examples)
    if total <= most:
        return examples
    found = []
    for example in examples:
        own = np.unique(example.pool.user)
        drawn = random.choice(own, max(1, len(own) * most // total), replace=False)
        kept = np.isin(example.pool.user, drawn)
        found.append(example.only(kept))
    return found


def _worth(held: list[Example], ranker: Ranker, shares: tuple[float, ...]) -> dict[float, Floats]:
    """(users,) NDCG of each user with a candidate that was taken, window by window, for each share of the linear model."""
    found: dict[float, list[Floats]] = {share: [] for share in shares}
    for example in held:
        candidates = replace(example.pool, item=np.arange(len(example.taken)))  # places, to find again what was taken
        some = ranker.shortlisted(candidates, LENGTH)
        parts = replace(ranker, linear_share=0.5).parts(some)
        trees = parts.pop("trees")
        linear = np.sum(list(parts.values()), axis=0)
        targets = np.bincount(example.pool.user, weights=example.taken, minlength=example.pool.users).astype(np.int64)
        for share in shares:
            places, items = best(some, share * linear + (1 - share) * trees, LENGTH)
            hits = (places >= 0) & example.taken[items]
            found[share].append(ndcg(hits[targets > 0], targets[targets > 0]))
    return {share: np.concatenate(values) for share, values in found.items()}


def _errors(one: Floats, other: Floats) -> float:
    """By how many standard errors of its mean one is better than the other, pair by pair."""
    gain = one - other
    spread = float(gain.std())
    return float(gain.mean()) / (spread / np.sqrt(len(gain))) if spread > 0.0 else 0.0
