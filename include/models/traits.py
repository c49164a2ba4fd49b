"""What items are, beside what was done with them: texts, categories and creators, and how a user's history likes them.

Profiles of what a user had, by content, are those of M. Pazzani and D. Billsus, "Content-Based Recommendation Systems" (2007);
rare categories weigh more, as rare words do (K. Sparck Jones, 1972).
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from include.models.interests import unit
from include.models.products import row_products
from include.models.sparse import entries, kept_form, sparse_of, sparse_tensors

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Traits:
    """What is known of n items beside what was done with them."""

    texts: Floats
    """(n, d) text vectors, unit, or zero for an item without a text."""

    categories: csr_array
    """(n, c) weights of an item's categories, a row's norm 1: ln(1 + n / items that have it)."""

    creators: csr_array
    """(n, a) 1 for an item's creator."""

    @classmethod
    def of(cls, texts: Floats, categories: Sequence[Sequence[str] | None], creators: Sequence[str | None]) -> "Traits":
        """Put traits together from what rows of items say; None for what is not known."""
        listed = [sorted(set(names or ())) for names in categories]
        marks = _marks([(row, name) for row, names in enumerate(listed) for name in names], len(listed))
        weights = np.log1p(len(listed) / np.maximum(marks.sum(axis=0), 1.0))
        marks.data = weights[marks.indices]
        norms = np.sqrt(np.asarray(marks.multiply(marks).sum(axis=1)).ravel())
        marks.data = marks.data / np.repeat(norms, np.diff(marks.indptr))
        made = [(row, name) for row, name in enumerate(creators) if name is not None]
        return cls(texts, kept_form(marks), kept_form(_marks(made, len(creators))))

    def tensors(self) -> dict[str, NDArray[Any]]:
        """As named arrays, to be kept."""
        return {
            "texts": self.texts,
            **sparse_tensors("categories", self.categories),
            **sparse_tensors("creators", self.creators),
        }

    @classmethod
    def of_tensors(cls, tensors: dict[str, NDArray[Any]]) -> "Traits | None":
        """From what `tensors` gave; None where they hold none."""
        if "texts" not in tensors:
            return None
        return cls(tensors["texts"], sparse_of(tensors, "categories"), sparse_of(tensors, "creators"))


def _marks(cells: Sequence[tuple[int, Hashable]], rows: int) -> csr_array:
    """1 for each pair of row and name; a column for each name."""
    columns: dict[Hashable, int] = {}
    column = np.array([columns.setdefault(name, len(columns)) for _, name in cells], dtype=np.int64)
    row = np.array([row for row, _ in cells], dtype=np.int64)
    return csr_array((np.ones(len(cells)), (row, column)), shape=(rows, len(columns)))


def cosines(texts: Floats, weights: csr_array, user: Ints, item: Ints) -> NDArray[np.float64]:
    """How near items are to what users had, by text.

    Args:
        texts: (n, d) text vectors, unit or zero.
        weights: (users, n) what each item weighs in the mean of a user's texts.
        user: (pairs,) rows of the weights.
        item: (pairs,) rows of the texts.

    Returns:
        (pairs,) cosines of a user's mean and an item's text; 0 where either has none. Each follows from its own row alone.
    """
    return row_products(unit(weights @ texts), texts, user, item)


def liking(traits: csr_array, weights: csr_array, user: Ints, item: Ints) -> NDArray[np.float64]:
    """(pairs,) how much of what a user had shares its traits with an item: the product of both rows of traits.

    Args:
        traits: (n, t) what each item has.
        weights: (users, n) what each item weighs for a user.
        user: (pairs,) rows of the weights.
        item: (pairs,) rows of the traits.
    """
    profile = csr_array(weights @ traits).toarray()
    own = csr_array(traits[item])
    pair, trait = entries(own)
    found = np.bincount(pair, weights=own.data * profile[user[pair], trait], minlength=len(item))
    return found.astype(np.float64)


def popularity_of_likes(traits: csr_array, popularity: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n,) how popular an item's traits are: for each ln(1 + interactions of the items that have it), weighed and summed."""
    having = csr_array((np.ones(traits.nnz), traits.indices, traits.indptr), shape=traits.shape)
    return np.asarray(traits @ np.log1p(np.asarray(having.T @ popularity)), dtype=np.float64)
