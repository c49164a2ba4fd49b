"""Neighbours by text: for each item those whose texts are most like its own.

They are looked for among distinct texts, so that of items that share one, as variants and sizes of a product do, the most used
are neighbours, and copies cost nothing.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array, vstack

from include.models.factors import TEXT_NEIGHBOURS, TEXT_SHARPNESS
from include.models.products import PackedMatrix
from include.models.sparse import distinct_rows, entries, picked, places, strongest_of_dense

Ints = NDArray[np.int64]

MOST_TEXTS = 20_000
"""Distinct texts that neighbours are looked for of, the newest ones: it costs the square. 10 s or so at this number."""

TEXTS_AT_ONCE = 1024
"""Texts whose neighbours one product finds."""

NEAREST = 2 * TEXT_NEIGHBOURS
"""Texts that are looked for beside each, so that neighbours are left where some of them came later than a window's start."""


@dataclass(frozen=True)
class NearestTexts:
    """The distinct texts of n items, and those that are most like each."""

    of: Ints
    """(n,) which text each item has; -1 where it has none, or one that neighbours are not looked for of."""

    cosines: csr_array
    """(t, t) of each text with itself, which is 1, and with the nearest others; in each row the nearest come first."""

    @classmethod
    def among(cls, texts: NDArray[np.float32], first_day: NDArray[np.float64]) -> "NearestTexts":
        """Look for them.

        Args:
            texts: (n, d) text vectors, unit, or zero for an item without a text.
            first_day: (n,) when each item came to be, and so its text, if no other brought it before.
        """
        of, first = distinct_rows(texts)
        told = of >= 0
        came = np.full(len(first), np.inf)
        np.minimum.at(came, of[told], first_day[told])
        kept = np.sort(np.argsort(-came, kind="stable")[:MOST_TEXTS])
        place = np.full(len(first), -1)
        place[kept] = np.arange(len(kept))
        own = np.ascontiguousarray(texts[first[kept]])
        packed = PackedMatrix(torch.from_numpy(own))
        blocks: list[csr_array] = []
        for start in range(0, len(own), TEXTS_AT_ONCE):
            near = packed.product(torch.from_numpy(own[start : start + TEXTS_AT_ONCE])).numpy()
            near[np.arange(len(near)), np.arange(start, start + len(near))] = 0.0
            blocks.append(strongest_of_dense(near, NEAREST))
        nearest = csr_array(vstack(blocks, format="csr")) if blocks else csr_array((0, 0))
        row, other = entries(nearest)
        itself = np.arange(len(own))
        row, other = np.append(row, itself), np.append(other, itself)
        cosine = np.append(nearest.data.astype(np.float64), np.ones(len(own)))
        order = np.lexsort((other, row != other, -cosine, row))
        ends = np.cumsum(np.bincount(row, minlength=len(own)))
        cosines = csr_array((cosine[order], other[order], np.append(0, ends)), shape=nearest.shape)
        return cls(picked(place, of, -1), cosines)

    def neighbours(self, counts: NDArray[np.int64], there: NDArray[np.bool_]) -> csr_array:
        """(n, n) the text neighbours of each item, weighed by how like they are, each row's sum 1.

        Args:
            counts: (n,) interactions with each item: of one text the most used come first, of equally used ones the first.
            there: (n,) items that can be a neighbour.
        """
        of_text, told = self._items_of_nearest(counts, there), np.flatnonzero(self.of >= 0)
        found = csr_array(of_text[self.of[told]])
        row, item = entries(found)
        row = told[row]
        others = row != item
        row, item, cosine = row[others], item[others], found.data[others]
        kept = places(np.bincount(row, minlength=len(self.of))) < TEXT_NEIGHBOURS
        row, item, weights = row[kept], item[kept], np.exp(TEXT_SHARPNESS * (cosine[kept] - 1.0))
        weights /= np.bincount(row, weights=weights, minlength=len(self.of))[row]
        return csr_array((weights, (row, item)), shape=(len(self.of), len(self.of)))

    def _items_of_nearest(self, counts: NDArray[np.int64], there: NDArray[np.bool_]) -> csr_array:
        """(t, n) for each text the items of it and of those that are most like it, the nearest first, as many as are needed."""
        most = TEXT_NEIGHBOURS + 1  # an item is none of its own neighbours
        texts = self.cosines.shape[0]
        items = np.flatnonzero((self.of >= 0) & there)
        items = items[np.lexsort((-counts[items], self.of[items]))]
        having = np.bincount(self.of[items], minlength=texts)
        first = np.cumsum(having) - having

        row, other = entries(self.cosines)
        size = np.minimum(having[other], most)
        before = np.cumsum(size) - size
        before -= before[self.cosines.indptr[:-1]][row]
        kept = before < most
        row, other, cosine, size = row[kept], other[kept], self.cosines.data[kept], size[kept]
        ends = np.cumsum(np.bincount(row, weights=size, minlength=texts).astype(np.int64))
        listed = items[np.repeat(first[other], size) + places(size)]
        return csr_array((np.repeat(cosine, size), listed, np.append(0, ends)), shape=(texts, len(self.of)))
