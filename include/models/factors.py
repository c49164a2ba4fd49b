"""The collaborative signal as vectors: EASE, factorised, and who had what, low-pass filtered (`low_pass`).

EASE (H. Steck, "Embarrassingly Shallow Autoencoders for Sparse Data", WWW 2019) predicts a user's next items as x·B from the
row x of what the user had; B has a closed form. Its truncated singular value decomposition B ≈ U·S·Vᵀ gives every item a left
vector (what having it says) and a right vector (what it takes to be recommended), so that x·B ≈ (Σ x_i·left_i)·right_p: a
user vector that new events update at once.

An item of little evidence borrows the factors of items with like texts, as its own are shrunk (neighbours by text are a
kernel regression of factors on text: E. Nadaraya and G. Watson, 1964). So a new item has factors as soon as it has a text.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg.lapack import dpotrf, dpotri, spotrf, spotri
from scipy.sparse import csr_array

from include.models.products import ROUNDING, PackedMatrix, row_products
from include.models.sparse import distinct_rows, picked, places

Matrix = NDArray[np.floating]
Floats = NDArray[np.float32]


SMALLEST = 1e-6
"""Of the largest singular value: a smaller one is 0 but for rounding."""

REACH_POWER = 0.25
"""An error in an item's row weighs as its users to this power."""

SPARSE_COST = 40
"""What an operation of a sparse product costs beside one of a dense inverse."""

TEXT_NEIGHBOURS = 30
TEXT_SHARPNESS = 10.0
"""A text neighbour's weight is exp(this x its cosine), so near ones count most; a lender's, times how far its factors are trusted."""

ITEMS_AT_ONCE = 256
"""Items whose neighbours are looked for together; some 50 MB."""

NO_TRUST = 1e-9


def item_to_item(marks: csr_array, regularisation: float, precision: type[np.floating] = np.float64) -> Matrix:
    """EASE's matrix B: (items, items), zero diagonal, from (users, items) marks.

    It needs the inverse of the items' Gram matrix. Where few users have more than one item, that comes from the inverse of
    a matrix of those users, by M. Woodbury's identity (1950), to the same numbers.

    Single precision takes half the time, and leaves entries that differ by 1e-6 of the largest.
    """
    marks = csr_array(marks.astype(precision))
    items = marks.shape[1]
    lengths = np.diff(marks.indptr)
    # A user of one item adds to the diagonal alone.
    alone = csr_array(marks[lengths == 1])
    diagonal = regularisation + np.bincount(alone.indices, weights=alone.data**2, minlength=items).astype(precision)
    several = csr_array(marks[lengths > 1])
    users = several.shape[0]
    if users**3 + SPARSE_COST * several.nnz * (users + items) < items**3:
        inverse = _inverse_by_users(several, diagonal)
    else:
        gram = (several.T @ several).toarray()
        gram[np.diag_indices_from(gram)] += diagonal
        inverse = _inverse(gram)
    own = np.diag(inverse).copy()
    inverse /= -own
    np.fill_diagonal(inverse, 0.0)
    return inverse


def _inverse(matrix: Matrix) -> Matrix:
    """Of a symmetric positive definite matrix, which it overwrites: a third of the time of solving for the identity."""
    if len(matrix) == 0:
        return matrix  # LAPACK refuses it
    potrf, potri = dpotrf, dpotri
    if matrix.dtype == np.float32:
        potrf, potri = spotrf, spotri
    # The transpose is the same matrix in LAPACK's order of memory: the matrix itself would be copied.
    factor, _ = potrf(matrix.T, lower=True, overwrite_a=True)
    inverse, failed = potri(factor, lower=True, overwrite_c=True)
    assert failed == 0, "marks and a positive diagonal make a positive definite matrix"
    for column in range(len(inverse)):  # it fills one triangle
        inverse[column, column + 1 :] = inverse[column + 1 :, column]
    return np.ascontiguousarray(inverse.T)  # the same: it is symmetric


def _inverse_by_users(marks: csr_array, diagonal: NDArray[np.floating]) -> Matrix:
    """The inverse of diagonal + marksᵀ·marks: diagonal⁻¹ - wᵀ·(1 + w·marksᵀ)⁻¹·w, where w = marks·diagonal⁻¹."""
    weighed = marks.copy()
    weighed.data = weighed.data / diagonal[weighed.indices]
    inner = (weighed @ marks.T).toarray()
    inner[np.diag_indices_from(inner)] += 1
    half = weighed.T @ _inverse(inner)
    inverse = np.ascontiguousarray(-(weighed.T @ half.T))
    inverse[np.diag_indices_from(inverse)] += 1 / diagonal
    return inverse


def low_pass(marks: csr_array, *, dimensions: int, seed: int) -> tuple[Floats, Floats]:
    """Left and right vectors of the largest dimensions of who had what, (items, dimensions) each; zeros for what nobody had.

    They tell of items that nobody had together, too, where EASE knows of pairs. A low-pass filter of the graph of users and
    items (Y. Shen et al., "How Powerful is Graph Convolution for Recommendation?", CIKM 2021), in which a dimension counts as
    far as it stands out from the last one that is kept.

    Args:
        marks: (users, items) with an entry where a user had an item.
        dimensions: size of the vectors; where there are fewer, the rest are zeros.
        seed: of the randomised decomposition.
    """
    left, right = np.zeros((2, marks.shape[1], dimensions), dtype=np.float32)
    users, used = np.flatnonzero(np.diff(marks.indptr)), np.unique(marks.indices)
    rank = min(dimensions, len(users), len(used))
    if rank == 0:
        return left, right
    some = csr_array(marks[users][:, used].astype(np.float64))
    of_users, of_items = np.sqrt(np.diff(some.indptr)), np.sqrt(np.bincount(some.indices, minlength=len(used)))
    some.data = 1 / (np.repeat(of_users, np.diff(some.indptr)) * of_items[some.indices])
    from sklearn.utils.extmath import randomized_svd  # here: what lends factors does not pay for it

    _, s, vt = randomized_svd(some, n_components=rank, n_iter=4, random_state=seed)
    there = s > SMALLEST * s[0]
    kept = np.where(there, 1 - (s[-1] / np.where(there, s, 1.0)) ** 2, 0.0)
    left[used, :rank] = vt.T * kept / of_items[:, None]
    right[used, :rank] = vt.T * of_items[:, None]
    return left, right


def train_item_factors(
    marks: csr_array, *, dimensions: int, regularisation: float, seed: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Train EASE and factorise it, the rows of much-used items more closely: they are in most histories.

    Args:
        marks: (users, items) of what users had; memory grows with the square of the items.
        dimensions: size of the vectors; where there are fewer items, the rest are zeros.
        regularisation: EASE's lambda.
        seed: of the randomised decomposition.

    Returns:
        left and right vectors, (items, dimensions) float32 each.
    """
    matrix = item_to_item(marks, regularisation) if marks.nnz else np.zeros((0, 0))
    return factorised(matrix, np.asarray(marks.sum(axis=0), dtype=np.float64), dimensions=dimensions, seed=seed)


def factorised(matrix: Matrix, had_by: NDArray[np.floating], *, dimensions: int, seed: int) -> tuple[Floats, Floats]:
    """Left and right vectors of EASE's matrix, (items, dimensions) each.

    Args:
        matrix: (items, items), as `item_to_item` gives it; (0, 0) where there was nothing to learn from, which gives zeros.
        had_by: (items,) users of each.
        dimensions: size of the vectors; where there are fewer items, the rest are zeros.
        seed: of the randomised decomposition.
    """
    items = len(had_by)
    left = np.zeros((items, dimensions), dtype=np.float32)
    right = np.zeros((items, dimensions), dtype=np.float32)
    rank = min(dimensions, len(matrix))
    if rank == 0:
        return left, right
    reach = ((had_by + 1.0) ** REACH_POWER).astype(matrix.dtype)
    from sklearn.utils.extmath import randomized_svd  # here: what lends factors does not pay for it

    u, s, vt = randomized_svd(reach[:, None] * matrix, n_components=rank, n_iter=4, random_state=seed)
    left[:, :rank] = u * np.sqrt(s) / reach[:, None]
    right[:, :rank] = vt.T * np.sqrt(s)
    return left, right


def expected_interactions(first_ts: NDArray[Any], event_ts: NDArray[Any], items: int) -> NDArray[np.float64]:
    """(n,) how many interactions an item would have had on the average, had it been used like the others since it came to be.

    An item that was there for long and was little used is known to be little used.

    Args:
        first_ts: (n,) when each came to be, as a time or in any unit.
        event_ts: (events,), likewise, when the interactions were that the average is of.
        items: how many items they are on.
    """
    after = len(event_ts) - np.searchsorted(np.sort(event_ts), first_ts)
    return np.asarray(after / max(items, 1), dtype=np.float64)


@dataclass(frozen=True)
class Lenders:
    """The distinct texts of items with factors, and what the items of each text have to lend.

    Equal texts are one lender, so that copies of a text do not crowd out the others.
    """

    text: Floats
    """(a, d) distinct, of norm 1."""

    of: NDArray[np.int64]
    """(f,) the lender that each item with factors is a part of; -1 without a text."""

    parts: NDArray[np.int64]
    """(a,) items in each."""

    factors: NDArray[np.float64]
    """(f, 2 k) left and right vectors side by side."""

    trust: NDArray[np.float64]
    """(f,) how far each item's own are trusted, 0 to 1."""

    total: NDArray[np.float64]
    """(a, 2 k + 1) sums over the items of each lender: factors times trust, and trust."""

    @classmethod
    def of_items(cls, text: Floats, left: Floats, right: Floats, trust: NDArray[np.float64]) -> "Lenders":
        """Put lenders together.

        Args:
            text: (f, d) text vectors of items with factors, unit or zero.
            left: (f, k) their left vectors.
            right: (f, k) their right vectors.
            trust: (f,) how far these are trusted, 0 to 1.
        """
        of, first = distinct_rows(text)
        told, distinct = np.flatnonzero(of >= 0), text[first]
        factors = np.concatenate([left, right], axis=1).astype(np.float64)
        weighed = np.concatenate([factors * trust[:, None], trust[:, None]], axis=1)
        # A sparse product sums in one order.
        members = csr_array((np.ones(len(told)), (of[told], told)), shape=(len(distinct), len(text)))
        parts = np.bincount(of[told], minlength=len(distinct)).astype(np.int64)
        return cls(distinct, of, parts, factors, trust, np.asarray(members @ weighed))

    def lend(self, text: Floats, place: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """What the nearest texts have to lend to some items; none lends to itself.

        A row follows, to the last bit, from the item's own text and place: products in single precision only find who may be
        near enough, and what is summed is computed row by row.

        Args:
            text: (n, d) text vectors, unit or zero.
            place: (n,) which item with factors each one is; -1 for none.

        Returns:
            (n, 2 k) means of the factors of its text neighbours, and (n,) whether there are any.
        """
        found = np.zeros((len(text), self.factors.shape[1]))
        some = np.zeros(len(text), dtype=bool)
        told = np.flatnonzero(text.any(axis=1))
        if len(self.text) == 0 or len(told) == 0:
            return found, some
        packed, wide = PackedMatrix(torch.from_numpy(self.text)), self.text.astype(np.float64)
        for start in range(0, len(told), ITEMS_AT_ONCE):
            rows = told[start : start + ITEMS_AT_ONCE]
            own = picked(self.of, place[rows], -1)
            found[rows], some[rows] = self._lend(packed, wide, text[rows], place[rows], own)
        return found, some

    def _lend(
        self,
        packed: PackedMatrix,
        wide: NDArray[np.float64],
        text: Floats,
        place: NDArray[np.int64],
        own: NDArray[np.int64],
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        n, most = len(text), min(TEXT_NEIGHBOURS, len(wide))
        near = packed.product(torch.from_numpy(np.ascontiguousarray(text))).numpy()
        alone = (own >= 0) & (self.parts[own] == 1)
        near[alone, own[alone]] = -1.0
        last = np.partition(near, near.shape[1] - most, axis=1)[:, near.shape[1] - most]
        row, lender = np.nonzero(near >= np.maximum(last, 0.0)[:, None] - ROUNDING)
        cosine = row_products(text.astype(np.float64), wide, row, lender)
        kept = (cosine > 0) & ~(alone[row] & (lender == own[row]))
        order = np.lexsort((lender[kept], -cosine[kept], row[kept]))
        row, lender, cosine = row[kept][order], lender[kept][order], cosine[kept][order]
        nearest = places(np.bincount(row, minlength=n)) < most
        row, lender = row[nearest], lender[nearest]
        weight = np.exp(TEXT_SHARPNESS * (cosine[nearest] - 1.0))
        sums = np.asarray(csr_array((weight, (row, lender)), shape=(n, len(wide))) @ self.total)
        itself = lender == own[row]
        row, weight = row[itself], (weight[itself] * self.trust[place[row[itself]]])[:, None]
        sums[row] -= np.concatenate([weight * self.factors[place[row]], weight], axis=1)
        mass = sums[:, -1:]
        some = mass > NO_TRUST
        return np.where(some, sums[:, :-1] / np.where(some, mass, 1.0), 0.0), some[:, 0]


def with_borrowed(
    lenders: Lenders,
    text: Floats,
    place: NDArray[np.int64],
    exposure: NDArray[np.float64],
    *,
    own_evidence: float,
    neighbours_weight: float,
) -> tuple[Floats, Floats]:
    """Left and right vectors of items: their own as far as they are trusted, and for the rest their text neighbours'.

    Args:
        lenders: the items with factors.
        text: (n, d) text vectors of the items, unit or zero.
        place: (n,) which item with factors each one is; -1 for none.
        exposure: (n,) interactions that the item had or, if more, would have had on the average: what it takes is known so well.
        own_evidence: at which own and borrowed weigh alike.
        neighbours_weight: of borrowed right vectors: a mean of vectors is shorter than they are.

    Returns:
        (n, k) left and right vectors; an item without text neighbours keeps its own, or zeros.
    """
    borrowed, some = lenders.lend(text, place)
    known = place >= 0
    own, trust = np.zeros_like(borrowed), np.zeros(len(place))
    own[known], trust[known] = lenders.factors[place[known]], lenders.trust[place[known]]
    return _mixed(own, trust, borrowed, some, exposure, own_evidence, neighbours_weight)


def with_neighbours(
    left: Floats,
    right: Floats,
    near: csr_array,
    had_by: NDArray[np.floating],
    exposure: NDArray[np.float64],
    *,
    own_evidence: float,
    neighbours_weight: float,
) -> tuple[Floats, Floats]:
    """The same as `with_borrowed` for all of n items at once, whose text neighbours were found before.

    Args:
        left: (n, k) left vectors, zeros where an item has none.
        right: (n, k) right vectors, likewise.
        near: (n, n) how near other items are by text; an item lends by that and by how far its own factors are trusted.
        had_by: (n,) users that the factors were learned from; 0 where an item has none.
        exposure: (n,) as for `with_borrowed`.
        own_evidence: as for `with_borrowed`.
        neighbours_weight: as for `with_borrowed`.
    """
    own = np.concatenate([left, right], axis=1).astype(np.float64)
    trust = had_by / (had_by + own_evidence)
    mass = np.asarray(near @ trust)
    some = mass > NO_TRUST
    borrowed = np.asarray(near @ (own * trust[:, None])) / np.where(some, mass, 1.0)[:, None]
    return _mixed(own, trust, borrowed, some, exposure, own_evidence, neighbours_weight)


def _mixed(
    own: NDArray[np.float64],
    trust: NDArray[np.float64],
    borrowed: NDArray[np.float64],
    some: NDArray[np.bool_],
    exposure: NDArray[np.float64],
    own_evidence: float,
    neighbours_weight: float,
) -> tuple[Floats, Floats]:
    """Of (n, 2 k) factors, left and right side by side, an item's own and the borrowed ones of items that have `some`."""
    says = np.where(some, trust, 1.0)[:, None]
    takes = np.where(some, exposure / (exposure + own_evidence), 1.0)[:, None]
    left, right = np.split(own, 2, axis=1)
    borrowed_left, borrowed_right = np.split(borrowed, 2, axis=1)
    return (
        (says * left + (1 - says) * borrowed_left).astype(np.float32),
        (takes * right + neighbours_weight * (1 - takes) * borrowed_right).astype(np.float32),
    )
