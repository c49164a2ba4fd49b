"""New items in lists: some places of each are drawn for items of which nobody knows yet how good they are.

For each user, new items are drawn without replacement, each with a probability that grows with how near its text is to the
user's interests: exp(nearness / `TEMPERATURE`). That is Boltzmann exploration (R. Sutton and A. Barto, "Reinforcement Learning",
2018, 2.8), drawn as the largest of scores with Gumbel noise (W. Kool et al., "Stochastic Beams and Where to Find Them", ICML
2019). The noise of a pair of user and item is a hash of both, so a draw depends on no other user, and another item in the draw
changes only the places that it takes. An item without text has a nearness of 0 to everyone, so chance alone spreads it.
"""

import hashlib
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from include.columns import DECIMALS

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

TEMPERATURE = 0.1
"""In cosines. At 0.1 an item that is nearer by 0.23 is drawn ten times as often."""

MARGIN = 8
"""Items looked at exactly beyond those that are drawn."""

TOLERANCE = 1e-4
"""More than a score of single precision may differ from the exact one."""


def places(length: int, share: float) -> Ints:
    """Positions in a list, from 0, that are kept for new items: of the first k there are never more than k times the share."""
    if share <= 0.0:
        return np.zeros(0, dtype=np.int64)
    ranks = [math.ceil(round(number / share, 9)) for number in range(1, length + 1)]
    return np.array([rank - 1 for rank in ranks if rank <= length], dtype=np.int64)


def hashes(ids: Sequence[str], salt: str) -> NDArray[np.uint64]:
    """64 bits of each id, others with each salt."""
    key = hashlib.blake2b(salt.encode(), digest_size=32).digest()
    digests = b"".join(hashlib.blake2b(name.encode(), digest_size=8, key=key).digest() for name in ids)
    return np.frombuffer(digests, dtype="<u8").astype(np.uint64)


def noise(users: NDArray[np.uint64], items: NDArray[np.uint64]) -> NDArray[np.float64]:
    """(m, n) Gumbel noise of each pair: the bits are mixed as SplitMix64 does (G. Steele et al., OOPSLA 2014)."""
    mixed = users[:, None] ^ (items[None, :] * np.uint64(0x9E3779B97F4A7C15))
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    uniform = ((mixed >> np.uint64(11)).astype(np.float64) + 0.5) / 2.0**53
    return np.asarray(-np.log(-np.log(uniform)))


def rough_scores(interests: Sequence[Floats], text: Floats, noise: NDArray[np.float64]) -> NDArray[np.float64]:
    """(m, n) nearness to the nearest of a user's interests over the temperature, and noise; in single precision."""
    near = np.max([own @ text.T for own in interests], axis=0)
    return np.asarray(near, dtype=np.float64) / TEMPERATURE + noise


def draw(
    interests: Sequence[Floats],
    text: Floats,
    noise: NDArray[np.float64],
    barred: tuple[Ints, Ints],
    most: int,
) -> Ints:
    """The new items that are drawn for each user, the first first.

    Args:
        interests: each (m, d), unit or zero.
        text: (n, d) of the new items, unit or zero.
        noise: (m, n).
        barred: users and items that do not go together.
        most: items to draw.

    Returns:
        (m, most) positions of new items; -1 where fewer are left.
    """
    m, n = noise.shape
    drawn = np.full((m, most), -1, dtype=np.int64)
    if n == 0 or most == 0:
        return drawn
    rough = rough_scores(interests, text, noise)
    rough[barred] = -np.inf
    looked = min(most + MARGIN, n)
    near = np.sort(np.argpartition(-rough, looked - 1, axis=1)[:, :looked], axis=1)
    # The product finds them; what orders them is a product of each user's own, so that it depends on no other user.
    wide = text.astype(np.float64)[near]
    cosine = np.max([(wide @ own.astype(np.float64)[:, :, None])[:, :, 0] for own in interests], axis=0)
    exact = np.round(cosine / TEMPERATURE + np.take_along_axis(noise, near, axis=1), DECIMALS)
    exact = np.where(np.isfinite(np.take_along_axis(rough, near, axis=1)), exact, -np.inf)
    order = np.lexsort((near, -exact), axis=1)[:, :most]
    found = np.where(np.isfinite(np.take_along_axis(exact, order, axis=1)), np.take_along_axis(near, order, axis=1), -1)
    drawn[:, : found.shape[1]] = found
    return drawn


def draw_changes(
    scores: NDArray[np.float64], before: NDArray[np.bool_], now: NDArray[np.bool_], most: int
) -> NDArray[np.bool_]:
    """Whose draw may be another one, as some items came and some went.

    Args:
        scores: (m, n) of `rough_scores`, of what was drawn from before and what is drawn from now; minus infinity for what is
            barred.
        before: (n,) what was drawn from before.
        now: (n,) what is drawn from now.
        most: items to draw.

    Returns:
        (m,) whether an item that came or went is at least as good as the last one that was drawn, or nearly.
    """
    old = scores[:, before]
    last = np.full(len(scores), -np.inf)
    if old.shape[1] >= most:
        last = np.partition(old, old.shape[1] - most, axis=1)[:, old.shape[1] - most]
    other = scores[:, before != now]
    return np.asarray((np.isfinite(other) & (other >= last[:, None] - TOLERANCE)).any(axis=1))


def placed(listed: Ints, drawn: Ints, at: Ints) -> Ints:
    """Put drawn items at their places of lists; what stood there moves down, and what is drawn and stands higher stays.

    What is drawn and stands at its very place counts as drawn: so an item that is pushed off the end tells nothing of what is shown.

    Args:
        listed: (m, length) items, -1 behind the last.
        drawn: (m, places) items, -1 behind the last.
        at: (places,) ascending positions in a list.

    Returns:
        (m, length) for each position where its item comes from: a column of `listed`, or length + a column of `drawn`; -1
        behind the last.
    """
    length = listed.shape[1]
    found = np.full(listed.shape, -1, dtype=np.int64)
    for row, (items, new) in enumerate(zip(listed.tolist(), drawn.tolist(), strict=True)):
        own = [(item, column) for column, item in enumerate(items) if item >= 0]
        for number, (item, place) in enumerate(zip(new, at.tolist(), strict=True)):
            # A list that ends before the place gets the item at its end.
            to = min(len(own), place)
            stands = next((rank for rank, (other, _) in enumerate(own) if other == item), length)
            if item >= 0 and stands >= to:
                del own[stands : stands + 1]
                own.insert(to, (item, length + number))
                del own[length:]
        found[row, : len(own)] = [column for _, column in own]
    return found
