"""How far vectors moved, and which lists changed."""

import numpy as np
from numpy.typing import NDArray

from include.models.sparse import places

STILL = 1e-9
"""A smaller movement is rounding: vectors that are equal to 1e-6 are nearer than this."""
QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}


def movement(before: NDArray[np.float32], after: NDArray[np.float32]) -> NDArray[np.float64]:
    """One minus the cosine of each pair of rows: 0 where nothing moved, 1 where they have nothing in common, 2 at most.

    Args:
        before: (n, d).
        after: (n, d), in the same space.

    Returns:
        (n,). A row of zeros is no interest: 0 beside another one, 1 beside anything else.
    """
    a, b = before.astype(np.float64), after.astype(np.float64)
    norms = np.sqrt(np.einsum("nd,nd->n", a, a) * np.einsum("nd,nd->n", b, b))
    cosine = np.einsum("nd,nd->n", a, b) / np.where(norms == 0, 1.0, norms)
    moved = np.where(norms == 0, np.any(a != 0, axis=1) != np.any(b != 0, axis=1), 1.0 - cosine)
    return np.clip(np.where(moved < STILL, 0.0, moved), 0.0, 2.0)


def first_codes(codes: NDArray[np.int64], lengths: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """The beginnings of lists that stand one after the other, as a matrix.

    Args:
        codes: what is listed, as whole numbers from 0 on.
        lengths: (n,) of each list.
        most: how many of each list to take.

    Returns:
        (n, most); -1 where a list is shorter.
    """
    rank = places(lengths)
    owner = np.repeat(np.arange(len(lengths)), lengths)
    found = np.full((len(lengths), most), -1, dtype=np.int64)
    found[owner[rank < most], rank[rank < most]] = codes[rank < most]
    return found


def shared(before: NDArray[np.int64], after: NDArray[np.int64]) -> NDArray[np.float64]:
    """Of each row's codes before, the share that is among those after, wherever; -1 is no code. A row without any: 1."""
    there = before >= 0
    stayed = (before[:, :, None] == after[:, None, :]).any(axis=2) & there
    count = there.sum(axis=1)
    return np.where(count == 0, 1.0, stayed.sum(axis=1) / np.maximum(count, 1))


def quantiles(values: NDArray[np.float64]) -> dict[str, float]:
    """Median, ninth decile, 99th percentile and largest of some movements; nothing of none."""
    if len(values) == 0:
        return {}
    found = np.quantile(values, list(QUANTILES.values()))
    return {name: round(float(value), 6) for name, value in zip(QUANTILES, found, strict=True)}
