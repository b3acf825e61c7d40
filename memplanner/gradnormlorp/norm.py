"""The squared norm of every row of W0 + s·I·J, without building that matrix.

Letters: W0 (m, n) frozen, I (m, k), J (k, n), s the scale. Per row,

    ‖W0 + s·I·J‖² = ‖W0‖² + 2s·rowsum((W0·Jᵀ) ⊙ I) + s²·rowsum((I·(J·Jᵀ)) ⊙ I)

so that the largest temporary is (m, k). Everything is computed in float32 (float64 for float64 weights), because the
three terms can cancel: the error is the rounding of the largest of them.
"""

from typing import Any

import torch
from torch import Tensor

CHUNK_ROWS = 256
"""Rows of a half-precision W0 that are cast to float32 at a time where the matrix product cannot widen by itself."""


def wide(dtype: torch.dtype) -> torch.dtype:
    """The type that norms are computed in: float32, or float64 for float64."""
    return torch.promote_types(dtype, torch.float32)


def row_squares(weight: Tensor) -> Tensor:
    """‖W0‖² of each row (m,), in the type that `wide` gives."""
    dtype = wide(weight.dtype)
    return torch.cat([rows.to(dtype).square().sum(dim=1) for rows in weight.split(CHUNK_ROWS)])


def cross_product(weight: Tensor, factor_j: Tensor) -> Tensor:
    """W0·Jᵀ (m, k) in the type that `wide` gives, without ever making a cast copy of the whole W0."""
    dtype = wide(weight.dtype)
    if weight.dtype == dtype:
        return weight @ factor_j.to(dtype).t()
    if weight.is_cuda and factor_j.dtype == weight.dtype:
        return torch.mm(weight, factor_j.t(), out_dtype=dtype)  # half operands, float32 sums and result
    transposed = factor_j.to(dtype).t()
    out = transposed.new_empty(weight.shape[0], transposed.shape[1])
    for rows, into in zip(weight.split(CHUNK_ROWS), out.split(CHUNK_ROWS), strict=True):
        torch.mm(rows.to(dtype), transposed, out=into)
    return out


def adapted_row_squares(weight: Tensor, squares: Tensor, factor_i: Tensor, factor_j: Tensor, scale: float) -> Tensor:
    """‖W0 + s·I·J‖² of each row (m,); differentiable in I and J where gradients are enabled.

    weight: W0 (m, n). squares: ‖W0‖² (m,), from `row_squares`. factor_i: I (m, k). factor_j: J (k, n).
    """
    return _AdaptedRowSquares.apply(weight, squares, factor_i, factor_j, scale)  # type: ignore[no-any-return]


class _AdaptedRowSquares(torch.autograd.Function):
    """Saves its inputs alone: backward recomputes W0·Jᵀ, so that no (m, k) per layer is kept through the step."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, squares: Tensor, factor_i: Tensor, factor_j: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(weight, factor_i, factor_j)
        ctx.scale = scale
        with torch.autocast(weight.device.type, enabled=False):
            i, j = factor_i.to(squares.dtype), factor_j.to(squares.dtype)
            products = cross_product(weight, factor_j).mul_(2 * scale).addmm_(i, j @ j.t(), alpha=scale * scale)
            return products.mul_(i).sum(dim=1).add_(squares)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        weight, factor_i, factor_j = ctx.saved_tensors
        scale = ctx.scale
        with torch.autocast(weight.device.type, enabled=False):
            i, j = factor_i.to(grad.dtype), factor_j.to(grad.dtype)
            weighted = grad.unsqueeze(1) * i
            grad_i = cross_product(weight, factor_j).mul_(grad.unsqueeze(1)).addmm_(weighted, j @ j.t(), alpha=scale)
            grad_j = (weighted.t() @ i).mul_(scale) @ j
            for rows, part in zip(weight.split(CHUNK_ROWS), weighted.split(CHUNK_ROWS), strict=True):
                grad_j.addmm_(part.t(), rows.to(grad.dtype))
            return (
                None,
                None,
                grad_i.mul_(2 * scale).to(factor_i.dtype),
                grad_j.mul_(2 * scale).to(factor_j.dtype),
                None,
            )
