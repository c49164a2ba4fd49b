"""What more than one model does with sparse matrices, with rows in groups and with positions."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

Ints = NDArray[np.int64]


def places(sizes: Ints) -> Ints:
    """0, 1, … within each of some groups of these sizes, one behind the other."""
    return np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)


def run_starts(*keys: NDArray[Any]) -> NDArray[np.bool_]:
    """(n,) whether a row differs from the one before it in any of some (n,) keys; the first one does."""
    found = np.zeros(len(keys[0]), dtype=bool)
    found[:1] = True
    for key in keys:
        found[1:] |= key[1:] != key[:-1]
    return found


def picked(values: NDArray[Any], position: Ints, none: float) -> NDArray[Any]:
    """Values at some positions, and `none` where a position is -1; there may be no values at all."""
    # -1 is the last one's position.
    return np.append(values, values.dtype.type(none))[position]


def distinct_rows(matrix: NDArray[Any]) -> tuple[Ints, Ints]:
    """Which distinct row each one is, numbered as they first come, -1 for one of zeros; and where each first comes."""
    told = np.flatnonzero(matrix.any(axis=1))
    kinds: dict[bytes, int] = {}
    of = np.full(len(matrix), -1, dtype=np.int64)
    of[told] = [kinds.setdefault(matrix[row].tobytes(), len(kinds)) for row in told]
    return of, told[np.unique(of[told], return_index=True)[1]]


def kept_form(matrix: csr_array) -> csr_array:
    """In the form in which it is kept, so that what is fitted and what is read again score alike."""
    found = csr_array(matrix)
    found.sort_indices()
    return csr_array(
        (found.data.astype(np.float32), found.indices.astype(np.int32), found.indptr.astype(np.int64)),
        shape=found.shape,
    )


def only(matrix: csr_array, kept: NDArray[np.bool_]) -> csr_array:
    """A sparse matrix with some of its entries."""
    indptr = np.concatenate([[0], np.cumsum(kept)])[matrix.indptr]
    return csr_array((matrix.data[kept], matrix.indices[kept], indptr), shape=matrix.shape)


def strongest(matrix: csr_array, most: int) -> csr_array:
    """The largest positive entries of each row of a sparse matrix."""
    matrix = csr_array(matrix)
    kept = matrix.data > 0
    for first, last in zip(matrix.indptr[:-1], matrix.indptr[1:], strict=True):
        if last - first > most:
            weakest = np.argpartition(-matrix.data[first:last], most - 1)[most:]
            kept[first + weakest] = False
    found = only(matrix, kept)
    found.sort_indices()  # of what is left: of all it would take longer than all the rest
    return found


def strongest_of_dense(matrix: NDArray[np.floating], most: int) -> csr_array:
    """The largest positive entries of each row of a dense matrix."""
    if (most := min(most, matrix.shape[1])) == 0:
        return csr_array(matrix.shape)
    columns = np.sort(np.argpartition(-matrix, most - 1, axis=1)[:, :most], axis=1)
    values = np.take_along_axis(matrix, columns, axis=1)
    kept = values > 0
    indptr = np.concatenate([[0], np.cumsum(kept.sum(axis=1))])
    return csr_array((values[kept], columns[kept], indptr), shape=matrix.shape)


def entries(matrix: csr_array) -> tuple[Ints, Ints]:
    """Row and column of each entry."""
    return np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr)), matrix.indices.astype(np.int64)


def wider(matrix: csr_array, rows: int, columns: int) -> csr_array:
    """The same entries in a larger matrix."""
    ends = np.full(rows + 1 - len(matrix.indptr), matrix.indptr[-1], dtype=matrix.indptr.dtype)
    return csr_array((matrix.data, matrix.indices, np.append(matrix.indptr, ends)), shape=(rows, columns))


def longer(matrix: NDArray[Any] | None, rows: int) -> NDArray[Any] | None:
    """The same rows of a dense matrix, and zeros behind them; None stays None."""
    return (
        None
        if matrix is None
        else np.concatenate([matrix, np.zeros((rows - len(matrix), *matrix.shape[1:]), dtype=matrix.dtype)])
    )


def sparse_tensors(name: str, matrix: csr_array) -> dict[str, NDArray[Any]]:
    """A matrix as named arrays, to be kept."""
    return {f"{name}.data": matrix.data, f"{name}.indices": matrix.indices, f"{name}.indptr": matrix.indptr}


def sparse_of(tensors: dict[str, NDArray[Any]], name: str, columns: int | None = None) -> csr_array:
    """From what `sparse_tensors` gave; by default the last column is the last one with an entry."""
    data, indices, indptr = (tensors[f"{name}.{part}"] for part in ("data", "indices", "indptr"))
    width = int(indices.max(initial=-1)) + 1 if columns is None else columns
    return csr_array((data, indices, indptr), shape=(len(indptr) - 1, width))
