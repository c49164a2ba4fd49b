"""From vectors to lists: the blend of all sources as one matrix product, the best items, and what they owe to what.

The score of item p for a user is Σ_s w_s · z_s(p) over the sources s (long and short text interest, behaviour, popularity),
where z_s is the source's raw value standardised over the whole catalogue for that user. For a product u·p the mean and the
variance over the catalogue are u·mean(P) and uᵀ·Cov(P)·u, so the weights and deviations go into the query, and the whole
blend is one product of a query with the catalogue's matrix, up to a constant of the user.
"""

from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array

from include.columns import DECIMALS
from include.models.products import PackedMatrix
from include.settings import Surface

MARGIN = 16
"""Items beyond k that are looked at first, so that ties at the end of a list are cut by id."""

GROUPED = 16
"""Items whose maximum is looked at before they are."""

VECTORS_PER_BLOCK = 8192
"""Vectors of items that explaining lists gathers at once: 50 MB or so."""

SMALLEST_DEVIATION = 1e-9
SOURCES = ("text_long", "text_short", "behaviour", "popularity")

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Catalogue:
    """The items of a surface, sorted by id, and what standardising over them needs."""

    item_ids: NDArray[np.str_]
    text: Floats
    left: Floats
    right: Floats
    popularity: Floats
    matrix: Floats
    text_mean: NDArray[np.float64]
    text_covariance: NDArray[np.float64]
    right_mean: NDArray[np.float64]
    right_covariance: NDArray[np.float64]

    @classmethod
    def build(
        cls, item_ids: Sequence[str], text: Floats, left: Floats, right: Floats, counts: NDArray[np.float64]
    ) -> "Catalogue":
        """Put a catalogue together.

        Args:
            item_ids: n ids, sorted.
            text: (n, d) text vectors, unit or zero.
            left: (n, k) what having an item says.
            right: (n, k) what it takes to be recommended.
            counts: (n,) decayed interactions; their logarithm is standardised.
        """
        popularity = standardised(np.log1p(counts)).astype(np.float32)
        return cls(
            item_ids=np.asarray(item_ids, dtype=object),
            text=text,
            left=left,
            right=right,
            popularity=popularity,
            matrix=np.concatenate([text, right, popularity[:, None]], axis=1).astype(np.float32),
            text_mean=_mean(text),
            text_covariance=_covariance(text),
            right_mean=_mean(right),
            right_covariance=_covariance(right),
        )

    def with_more(self, item_ids: Sequence[str], text: Floats, left: Floats, right: Floats) -> "Catalogue":
        """The same with further items behind it, of those that it does not hold: they can be explained, and are not scored."""
        held = set(self.item_ids)
        more = [row for row, item in enumerate(item_ids) if item not in held]
        return replace(
            self,
            item_ids=np.concatenate([self.item_ids, np.asarray([item_ids[row] for row in more], dtype=object)]),
            text=np.concatenate([self.text, text[more]]),
            left=np.concatenate([self.left, left[more]]),
            right=np.concatenate([self.right, right[more]]),
        )


def standardised(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Values with mean 0 and deviation 1; zeros where all are equal."""
    if len(values) == 0:
        return values
    deviation = values.std()
    # Equal values deviate by rounding alone.
    varies = deviation > SMALLEST_DEVIATION * max(1.0, float(np.abs(values).max()))
    return (values - values.mean()) / deviation if varies else np.zeros_like(values)


def _mean(matrix: Floats) -> NDArray[np.float64]:
    return matrix.mean(axis=0, dtype=np.float64) if len(matrix) else np.zeros(matrix.shape[1])


def _covariance(matrix: Floats) -> NDArray[np.float64]:
    if len(matrix) == 0:
        return np.zeros((matrix.shape[1], matrix.shape[1]))
    wide = matrix.astype(np.float64) - _mean(matrix)
    return np.asarray(wide.T @ wide / len(wide))


def _scale(vectors: Floats, covariance: NDArray[np.float64], weight: float) -> NDArray[np.float64]:
    """(m,) weight over the deviation of u·p across the catalogue; 0 where it does not vary."""
    wide = vectors.astype(np.float64)
    deviation = np.sqrt(np.maximum(np.einsum("md,md->m", wide @ covariance, wide), 0.0))
    varies = deviation > SMALLEST_DEVIATION
    return np.where(varies, weight / np.where(varies, deviation, 1.0), 0.0)


class Blend:
    """A surface's blend for some users over one catalogue."""

    def __init__(self, surface: Surface, catalogue: Catalogue, long: Floats, short: Floats, behaviour: Floats) -> None:
        """Take the users' vectors and find how each source is to be scaled for each of them.

        Args:
            surface: the weights.
            catalogue: the items.
            long: (m, d) long text interests.
            short: (m, d) short text interests.
            behaviour: (m, k) behavioural vectors.
        """
        self.popularity_weight = surface.popularity
        self.catalogue = catalogue
        self.vectors = {"text_long": long, "text_short": short, "behaviour": behaviour}
        self.scales = {
            "text_long": _scale(long, catalogue.text_covariance, surface.text_long),
            "text_short": _scale(short, catalogue.text_covariance, surface.text_short),
            "behaviour": _scale(behaviour, catalogue.right_covariance, surface.behaviour),
        }

    def only(self, rows: NDArray[np.int64]) -> "Blend":
        """The same for some of the users."""
        found = copy(self)
        found.vectors = {name: values[rows] for name, values in self.vectors.items()}
        found.scales = {name: values[rows] for name, values in self.scales.items()}
        return found

    def _scaled(self, source: str) -> NDArray[np.float64]:
        return self.scales[source][:, None] * self.vectors[source].astype(np.float64)

    def queries(self) -> tuple[Floats, NDArray[np.float64]]:
        """(m, d + k + 1) queries whose product with the catalogue's matrix is the score plus an offset, and (m,) offsets."""
        text, behaved = self._scaled("text_long") + self._scaled("text_short"), self._scaled("behaviour")
        popular = np.full((len(text), 1), self.popularity_weight)
        offsets = text @ self.catalogue.text_mean + behaved @ self.catalogue.right_mean
        return np.concatenate([text, behaved, popular], axis=1).astype(np.float32), offsets

    def source_scores(self, positions: NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
        """What each source adds to the score of each listed item, in float64; a user's does not depend on the others.

        Args:
            positions: (m, length) listed items; -1 for none, which scores 0.

        Returns:
            An array for each of `SOURCES`, (m, length); their sum is the score.
        """
        parts = {name: np.zeros(positions.shape) for name in SOURCES}
        items = self.catalogue
        if len(items.item_ids) == 0:
            return parts
        texts = np.stack([self._scaled("text_long"), self._scaled("text_short")], axis=2)
        behaved = self._scaled("behaviour")[:, :, None]
        for rows in _blocks(np.arange(len(positions)), positions.shape[1]):
            listed = positions[rows]
            by_text = items.text[listed].astype(np.float64) @ texts[rows] - (items.text_mean @ texts[rows])[:, None]
            by_right = items.right[listed].astype(np.float64) @ behaved[rows]
            by_right -= (items.right_mean @ behaved[rows])[:, None]
            found = (
                by_text[..., 0],
                by_text[..., 1],
                by_right[..., 0],
                self.popularity_weight * items.popularity[listed],
            )
            for name, part in zip(SOURCES, found, strict=True):
                parts[name][rows] = np.where(listed >= 0, part, 0.0)
        return parts

    def contributions(
        self, rows: NDArray[np.int64], shares: dict[str, csr_array], listed: NDArray[np.int64], most: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """How much each past item of some users adds to the score of each of their listed items.

        The interest vectors are sums over past items and the score is linear in them, so the parts add up: past items,
        what the user wrote, and popularity make the score.

        Args:
            rows: (b,) the users; each has past items.
            shares: for `text_long`, `text_short` and `behaviour`, (m, n): what each past item weighs in the vector, divided
                by the vector's norm. All have their entries in the same places.
            listed: (b, length) listed items; -1 for none.
            most: h, no user has more past items.

        Returns:
            (b, h) positions of past items, -1 behind the last, and (b, h, length) what each adds; 0 where nothing is.
        """
        items, had = self.catalogue, shares["text_long"]
        first, count = had.indptr[rows], np.diff(had.indptr)[rows]
        there = np.arange(most) < count[:, None]
        entries = np.where(there, first[:, None] + np.arange(most), first[:, None])
        past = had.indices[entries].astype(np.int64)
        own = {
            name: np.where(there, self.scales[name][rows][:, None] * share.data[entries], 0.0)
            for name, share in shares.items()
        }
        by_text, by_left = own["text_long"] + own["text_short"], own["behaviour"]
        weighed = np.concatenate([by_text[..., None] * items.text[past], by_left[..., None] * items.left[past]], axis=2)
        facing = np.concatenate([items.text[listed], items.right[listed]], axis=2).astype(np.float64)
        mean = np.concatenate([items.text_mean, items.right_mean])
        # torch's product of many small matrices takes a seventh of numpy's time.
        added = torch.bmm(torch.from_numpy(weighed), torch.from_numpy(facing).transpose(1, 2)).numpy()
        added -= (weighed @ mean)[..., None]
        return np.where(there, past, -1), np.where(listed[:, None, :] >= 0, added, 0.0)

    def reasons(
        self, shares: dict[str, csr_array], listed: NDArray[np.int64], most: int
    ) -> tuple[NDArray[np.int64], Floats]:
        """The past items that add most to the score of each listed item; equal ones in order of position.

        Args:
            shares: as for `contributions`.
            listed: (m, length) listed items; -1 for none.
            most: past items to name.

        Returns:
            (m, length, most) positions, -1 where no other past item adds anything, and what each adds.
        """
        position = np.full((*listed.shape, most), -1, dtype=np.int64)
        added = np.zeros(position.shape, dtype=np.float32)
        count = np.diff(shares["text_long"].indptr)
        # Users with about as many past items share a product, whose size follows from the user alone: so do its bits.
        size = np.exp2(np.ceil(np.log2(np.maximum(count, 1)))).astype(np.int64)
        for width in np.unique(size[count > 0]):
            for rows in _blocks(np.flatnonzero((size == width) & (count > 0)), max(int(width), listed.shape[1])):
                past, share = self.contributions(rows, shares, listed[rows], int(width))
                share = np.round(share, DECIMALS)
                for place in range(min(most, int(width))):
                    best = share.argmax(axis=1)[:, None, :]  # of equal ones the first
                    value = np.take_along_axis(share, best, axis=1)
                    np.put_along_axis(share, best, -np.inf, axis=1)
                    value, best = value[:, 0, :], np.take_along_axis(past, best[:, 0, :], axis=1)
                    position[rows, :, place] = np.where(value > 0, best, -1)
                    added[rows, :, place] = np.maximum(value, 0.0)
        return position, added


def _blocks(rows: NDArray[np.int64], width: int) -> Iterator[NDArray[np.int64]]:
    """Rows in blocks that need about the same memory, whatever the width of each."""
    size = max(1, VECTORS_PER_BLOCK // max(1, width))
    return (rows[start : start + size] for start in range(0, len(rows), size))


def top_items(
    query: Floats,
    matrix: Floats,
    k: int,
    *,
    excluded: csr_array | None = None,
    ineligible: NDArray[np.bool_] | None = None,
    chunk: int = 1024,
) -> tuple[NDArray[np.int64], Floats]:
    """The k best items of each query by inner product, exactly.

    Args:
        query: (m, D).
        matrix: (n, D).
        k: length of a list.
        excluded: (m, n) with an entry where an item must not be shown to that user.
        ineligible: (n,) items that nobody may be shown.
        chunk: queries in one product.

    Returns:
        (m, k) positions and (m, k) scores, best first; products that are equal after rounding to six decimals are in order of
        position. Where fewer than k items are left, -1 and NaN.
    """
    m = len(query)
    positions = np.full((m, k), -1, dtype=np.int64)
    scores = np.full((m, k), np.nan, dtype=np.float32)
    eligible = np.arange(len(matrix)) if ineligible is None else np.flatnonzero(~ineligible)
    n = len(eligible)
    if 0 in (m, n, k):
        return positions, scores
    column = np.full(len(matrix), -1, dtype=np.int64)
    column[eligible] = np.arange(n)
    # Rows of zeros fill the last group up; their products are barred below.
    padded = np.zeros((-(-n // GROUPED) * GROUPED, matrix.shape[1]), dtype=np.float32)
    padded[:n] = matrix if n == len(matrix) else matrix[eligible]
    items = PackedMatrix(torch.from_numpy(padded))
    for start in range(0, m, chunk):
        out = items.product(torch.from_numpy(np.ascontiguousarray(query[start : start + chunk])))
        out[:, n:] = -torch.inf
        if excluded is not None:
            own = excluded.indptr[start : start + len(out) + 1]
            rows = np.repeat(np.arange(len(out)), np.diff(own))
            barred = column[excluded.indices[own[0] : own[-1]]]
            known = barred >= 0
            out[torch.from_numpy(rows[known]), torch.from_numpy(barred[known])] = -torch.inf
        value, place = _largest(out, min(k + MARGIN, n))
        rounded = _rounded(value)
        order = np.lexsort((place, -rounded), axis=1)
        value, place = np.take_along_axis(value, order, axis=1)[:, :k], np.take_along_axis(place, order, axis=1)[:, :k]
        if k + MARGIN < n:
            # More ties at the end of the list than the margin holds: look at the whole row.
            last = _rounded(value[:, -1])
            for row in np.flatnonzero(np.isfinite(last) & (rounded.min(axis=1) == last)):
                whole = out[row].numpy()
                near = np.flatnonzero(_rounded(whole) >= last[row])
                place[row] = near[np.lexsort((near, -_rounded(whole[near])))[:k]]
                value[row] = whole[place[row]]
        kept = np.isfinite(value)
        stop = start + len(out)
        positions[start:stop, : value.shape[1]] = np.where(kept, eligible[np.minimum(place, n - 1)], -1)
        scores[start:stop, : value.shape[1]] = np.where(kept, value, np.nan)
    return positions, scores


def _rounded(scores: Floats) -> NDArray[np.float64]:
    return np.asarray(np.round(scores.astype(np.float64), DECIMALS), dtype=np.float64)


def _largest(scores: torch.Tensor, most: int) -> tuple[Floats, NDArray[np.int64]]:
    """The `most` largest of each row and their columns, in no order.

    They lie in the `most` groups of columns with the largest maxima, which are far quicker to find than they are.
    """
    rows, columns = scores.shape
    groups = columns // GROUPED
    if groups <= 2 * most:
        value, place = torch.topk(scores, most, sorted=False)
        return value.numpy(), place.numpy()
    maxima = scores.view(rows, GROUPED, groups).amax(dim=1)
    best = torch.topk(maxima, most, sorted=False).indices
    within = (best[:, None, :] + torch.arange(0, columns, groups)[None, :, None]).view(rows, -1)
    value, at = torch.topk(scores.gather(1, within), most, sorted=False)
    return value.numpy(), within.gather(1, at).numpy()
