"""Projection of a factor's gradient onto its leading singular vectors: R = Uᵀ·G·V, and back.

Letters: G (m, n) the gradient of a trained factor, r the projection rank. A side that is no longer than r is not
projected, and nothing is stored for it.
"""

from typing import Literal

import torch
from torch import Tensor

Sides = Literal["two-sided", "one-sided"]


class Projector:
    """left: U (m, r), or None where the left side is not projected; right: V (n, r), or None likewise."""

    __slots__ = ("left", "right")

    def __init__(self, left: Tensor | None, right: Tensor | None) -> None:
        self.left = left
        self.right = right

    def project(self, grad: Tensor) -> Tensor:
        """Uᵀ·G·V, in the gradient's type."""
        if self.left is not None:
            grad = self.left.t() @ grad
        return grad if self.right is None else grad @ self.right

    def add_back(self, param: Tensor, update: Tensor, alpha: float) -> None:
        """param += alpha · U·update·Vᵀ, without making a tensor of the parameter's shape."""
        if self.left is None:
            assert self.right is not None, "nothing is projected"
            param.addmm_(update, self.right.t(), alpha=alpha)
        elif self.right is None:
            param.addmm_(self.left, update, alpha=alpha)
        else:
            param.addmm_(self.left @ update, self.right.t(), alpha=alpha)


def sides_to_project(shape: torch.Size, rank: int, sides: Sides) -> tuple[bool, bool]:
    """Which sides (left, right) of a matrix are projected; "one-sided" is the shorter one, as in GaLore's "std"."""
    m, n = shape
    if sides == "two-sided":
        return rank < m, rank < n
    return (False, rank < n) if m >= n else (rank < m, False)


def subspace(grad: Tensor, rank: int, sides: Sides) -> Projector | None:
    """The projector onto the gradient's leading singular vectors; None where neither side is projected.

    The decomposition is in float32 (float64 for float64). The vectors are copied, in the gradient's type, so that the
    whole U and V can be freed.
    """
    take_left, take_right = sides_to_project(grad.shape, rank, sides)
    if not (take_left or take_right):
        return None
    whole = grad.to(torch.promote_types(grad.dtype, torch.float32))
    u, _, vh = torch.linalg.svd(whole, full_matrices=False)
    return Projector(_own(u[:, :rank], grad) if take_left else None, _own(vh[:rank].t(), grad) if take_right else None)


def _own(vectors: Tensor, like: Tensor) -> Tensor:
    return vectors.to(like.dtype, copy=True, memory_format=torch.contiguous_format)
