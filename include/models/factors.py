"""The item-to-item collaborative signal as vectors: EASE, factorised.

EASE (H. Steck, "Embarrassingly Shallow Autoencoders for Sparse Data", WWW 2019) predicts a user's next items as x·B from the
row x of what the user had; B has a closed form. Its truncated singular value decomposition B ≈ U·S·Vᵀ gives every item a left
vector (what having it says) and a right vector (what it takes to be recommended), so that x·B ≈ (Σ x_i·left_i)·right_p: a
user vector that new events update at once.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import get_lapack_funcs
from scipy.sparse import csr_array
from sklearn.utils.extmath import randomized_svd

Matrix = NDArray[np.floating]


def item_to_item(marks: csr_array, regularisation: float, precision: type[np.floating] = np.float64) -> Matrix:
    """EASE's matrix B: (items, items), zero diagonal, from (users, items) marks.

    Single precision takes half the time, and leaves entries that differ by 1e-6 of the largest.
    """
    gram = np.asarray((marks.T @ marks).todense()).astype(precision)
    gram[np.diag_indices_from(gram)] += regularisation
    # The inverse from the Cholesky factor: a third of the time of solving for the identity. It fills one triangle.
    potrf, potri = get_lapack_funcs(("potrf", "potri"), (gram,))
    factor, _ = potrf(gram, lower=True, overwrite_a=True)
    inverse, failed = potri(factor, lower=True, overwrite_c=True)
    assert failed == 0, "marks and a positive diagonal make a positive definite matrix"
    for column in range(len(inverse)):
        inverse[column, column + 1 :] = inverse[column + 1 :, column]
    weights = np.ascontiguousarray(inverse.T)  # the same: it is symmetric
    weights /= -np.diag(inverse)
    np.fill_diagonal(weights, 0.0)
    return weights


def train_item_factors(
    marks: csr_array, *, dimensions: int, regularisation: float, seed: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Train EASE and factorise it.

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
    u, s, vt = randomized_svd(item_to_item(marks, regularisation), n_components=rank, n_iter=4, random_state=seed)
    left[:, :rank] = u * np.sqrt(s)
    right[:, :rank] = vt.T * np.sqrt(s)
    return left, right
