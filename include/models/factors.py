"""The item-to-item collaborative signal as vectors: EASE, factorised.

EASE (H. Steck, "Embarrassingly Shallow Autoencoders for Sparse Data", WWW 2019) predicts a user's next items as x·B from the
row x of what the user had; B has a closed form. Its truncated singular value decomposition B ≈ U·S·Vᵀ gives every item a left
vector (what having it says) and a right vector (what it takes to be recommended), so that x·B ≈ (Σ x_i·left_i)·right_p: a
user vector that new events update at once.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.linalg.lapack import dpotrf, dpotri, spotrf, spotri
from scipy.sparse import csr_array
from sklearn.utils.extmath import randomized_svd

Matrix = NDArray[np.floating]


REACH_POWER = 0.25
"""An error in an item's row weighs as its users to this power."""

SPARSE_COST = 40
"""What an operation of a sparse product costs beside one of a dense inverse."""


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
    factor, _ = potrf(matrix, lower=True, overwrite_a=True)
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
    items = marks.shape[1]
    left = np.zeros((items, dimensions), dtype=np.float32)
    right = np.zeros((items, dimensions), dtype=np.float32)
    rank = min(dimensions, items)
    if rank == 0 or marks.nnz == 0:
        return left, right
    reach = (marks.sum(axis=0) + 1.0) ** REACH_POWER
    matrix = reach[:, None] * item_to_item(marks, regularisation)
    u, s, vt = randomized_svd(matrix, n_components=rank, n_iter=4, random_state=seed)
    left[:, :rank] = u * np.sqrt(s) / reach[:, None]
    right[:, :rank] = vt.T * np.sqrt(s)
    return left, right
