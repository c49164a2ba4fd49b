"""Products of vectors: with one matrix that is used many times, and of single pairs of rows.

Such a matrix is packed once in oneDNN's own layout. torch's plain product calls MKL, which on AMD processors leaves AVX-512
unused; oneDNN does not. Where torch comes without oneDNN the plain product is used: the same numbers up to rounding.
"""

import numpy as np
import torch
from numpy.typing import NDArray

from include.models.sparse import places

Ints = NDArray[np.int64]

ROWS_AT_ONCE = 16_384
"""Pairs of rows that are multiplied together: 50 MB or so."""

ROUNDING = 1e-5
"""More than a product in single precision errs, of vectors of norm 1."""


class PackedMatrix:
    """A matrix W (n, d), float32, ready for x @ W.T."""

    def __init__(self, matrix: torch.Tensor) -> None:
        self._packs = (
            matrix.numel() > 0
            and matrix.dtype == torch.float32
            and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
            and hasattr(torch.ops.mkldnn, "_linear_pointwise")
        )
        # `None`: packed for no particular number of rows.
        self._matrix = torch.ops.mkldnn._reorder_linear_weight(matrix, None) if self._packs else matrix

    def product(self, rows: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        """Rows (…, d) times the matrix transposed, plus a bias (n,): (…, n)."""
        if not self._packs or rows.numel() == 0:
            return torch.nn.functional.linear(rows, self._matrix.to_dense() if self._packs else self._matrix, bias)
        result: torch.Tensor = torch.ops.mkldnn._linear_pointwise(rows, self._matrix, bias, "none", [], "")
        return result


class PackedLinear(torch.nn.Module):
    """Stands in for a `torch.nn.Linear` at inference."""

    def __init__(self, linear: torch.nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight = linear.weight  # some models ask for its dtype
        self.bias = linear.bias
        self._packed = PackedMatrix(linear.weight.detach())

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return self._packed.product(rows, self.bias)


def pack_linear_layers(module: torch.nn.Module) -> None:
    """Replace every plain linear layer inside a module by its packed form, in place."""
    for name, child in module.named_children():
        if type(child) is torch.nn.Linear:
            setattr(module, name, PackedLinear(child))
        else:
            pack_linear_layers(child)


def row_products(
    one: NDArray[np.floating], other: NDArray[np.floating], row: Ints, column: Ints
) -> NDArray[np.float64]:
    """(pairs,) products of rows of two matrices, (n, d) and (m, d). Each follows, to the last bit, from its own rows alone."""
    found = np.zeros(len(row))
    for start in range(0, len(row), ROWS_AT_ONCE):
        pairs = slice(start, start + ROWS_AT_ONCE)
        found[pairs] = np.einsum("pd,pd->p", one[row[pairs]], other[column[pairs]])
    return found


def largest_products(
    users: NDArray[np.floating], items: NDArray[np.float32], barred: NDArray[np.bool_], most: int
) -> tuple[Ints, Ints]:
    """The items that each user's product is largest with, and above 0; of equal ones the first.

    A user's follow from that user's own row alone: products in single precision only find who may be among them.

    Args:
        users: (u, k).
        items: (n, k).
        barred: (u, n) items that are not looked at.
        most: items of a user, at most.

    Returns:
        rows of the users and of the items, in order.
    """
    few = min(most, len(items))
    if few == 0 or len(users) == 0:
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    near = users.astype(np.float32) @ items.T
    near[barred] = -np.inf
    last = np.partition(near, len(items) - few, axis=1)[:, len(items) - few]
    lengths = np.sqrt(np.einsum("uk,uk->u", users, users)) * np.sqrt(np.einsum("nk,nk->n", items, items).max())
    # Of a user without a vector none is above.
    user, item = np.nonzero(near > (np.maximum(last, 0.0) - 2 * ROUNDING * lengths)[:, None])
    values = row_products(users, items, user, item)
    user, item, values = user[values > 0], item[values > 0], values[values > 0]
    order = np.lexsort((item, -values, user))
    user, item = user[order], item[order]
    kept = places(np.bincount(user, minlength=len(users))) < few
    return user[kept], item[kept]
