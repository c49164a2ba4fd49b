"""Products with one matrix that is used many times, packed once in oneDNN's own layout.

torch's plain product calls MKL, which on AMD processors leaves AVX-512 unused; oneDNN does not. Where torch comes
without oneDNN the plain product is used: the same numbers up to rounding.
"""

import torch


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
