"""A linear layer under GradNormLoRP: y = (x·W0ᵀ + s·(x·Jᵀ)·Iᵀ) ⊙ (mag / ‖W0 + s·I·J‖) + b.

Letters: W0 (m, n) = (out, in) frozen; I (m, k), J (k, n) and mag (m) trained. Source: arXiv 2412.19616, read as in
memplanner/components/methods/gradnormlorp.py; the norm is over each output row, as in peft's DoRA.
"""

import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from memplanner.gradnormlorp.norm import CHUNK_ROWS, adapted_row_squares, row_squares, wide


class GradNormLoRPLinear(nn.Module):
    """Wraps a linear layer. At first it computes the same as the wrapped layer, since I is zero and mag is ‖W0‖.

    base: torch.nn.Linear, or transformers' Conv1D, whose weight is stored (n, m). It stays inside with its weight
    frozen, and `merge` returns it.
    rank: k. scale: s. norm: whether the gradient flows through the weight norm ("exact") or treats it as a constant
    ("detached", as public code does). dtype: of I and J; None for the base's. The magnitude is always kept in float32
    (or float64): in bfloat16 a step smaller than 0.4% of it would round to nothing.
    """

    row_squares: Tensor

    def __init__(
        self,
        base: nn.Module,
        *,
        rank: int,
        scale: float = 1.0,
        norm: Literal["detached", "exact"] = "detached",
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if rank < 1:
            raise ValueError(f"rank {rank} is not positive")
        if norm not in ("detached", "exact"):
            raise ValueError(f"norm {norm!r} is neither 'detached' nor 'exact'")
        self.base = base
        self.scale = scale
        self.norm = norm
        self.num_folds = 0
        self.transposed = not isinstance(base, nn.Linear)
        base.weight.requires_grad_(False)  # type: ignore[operator,union-attr]
        weight = self.weight
        placement: dict[str, Any] = {"dtype": dtype or weight.dtype, "device": weight.device}
        self.factor_i = nn.Parameter(torch.zeros(weight.shape[0], rank, **placement))
        self.factor_j = nn.Parameter(torch.empty(rank, weight.shape[1], **placement))
        self.register_buffer("row_squares", row_squares(weight.detach()))
        self.magnitude = nn.Parameter(self.row_squares.sqrt())
        self.reset_factors()

    @property
    def weight(self) -> Tensor:
        """W0 (m, n)."""
        stored: Tensor = self.base.weight  # type: ignore[assignment]
        return stored.t() if self.transposed else stored

    @property
    def bias(self) -> Tensor | None:
        """The base layer's bias (m,), if it has one."""
        return self.base.bias  # type: ignore[return-value]

    @property
    def rank(self) -> int:
        """The adapter's inner rank k."""
        return self.factor_j.shape[0]

    @torch.no_grad()
    def reset_factors(self) -> None:
        """Set I to zero and J as torch.nn.Linear initialises its weights, so that I·J is zero."""
        self.factor_i.zero_()
        nn.init.kaiming_uniform_(self.factor_j, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        """Maps x (..., n) to (..., m) without making a temporary of W0's shape (m, n)."""
        if torch.is_autocast_enabled(x.device.type):
            x = x.to(torch.get_autocast_dtype(x.device.type))
        dtype = x.dtype
        tokens = x.reshape(-1, x.shape[-1])
        low = functional.linear(tokens, self.factor_j.to(dtype))
        total = functional.linear(tokens, self.weight.to(dtype))
        total = total.addmm_(low, self.factor_i.to(dtype).t(), alpha=self.scale)
        ratio = self.row_scale().to(dtype)
        out = total * ratio
        if self.bias is not None:
            out = out.add_(self.bias.to(dtype))
        return out.view(*x.shape[:-1], out.shape[-1])

    def row_scale(self) -> Tensor:
        """mag / ‖W0 + s·I·J‖ (m,), in float32 (float64 for float64 weights)."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.norm == "exact"):
            squares = adapted_row_squares(self.weight, self.row_squares, self.factor_i, self.factor_j, self.scale)
            norms = squares.clamp_min(torch.finfo(squares.dtype).tiny).sqrt()
        return self.magnitude.to(norms.dtype) / norms

    @torch.no_grad()
    def merge(self) -> nn.Module:
        """Write the adapted weight into the base layer and return it; works a few rows at a time to save memory."""
        ratio = self.row_scale()
        for start in range(0, self.weight.shape[0], CHUNK_ROWS):
            rows = slice(start, start + CHUNK_ROWS)
            self.weight[rows] = self._sum(rows) * ratio[rows, None]
        return self.base

    @torch.no_grad()
    def fold(self) -> None:
        """Add s·I·J to W0 and begin again with I·J zero. The layer computes the same up to the rounding of W0's type,
        and can now learn a further change of rank k.
        """
        for start in range(0, self.weight.shape[0], CHUNK_ROWS):
            rows = slice(start, start + CHUNK_ROWS)
            self.weight[rows] = self._sum(rows).to(self.weight.dtype)
        self.refresh_row_squares()
        self.reset_factors()
        self.num_folds += 1

    def refresh_row_squares(self) -> None:
        """Recompute ‖W0‖², which is stored: call it whenever W0 itself has changed."""
        self.row_squares.copy_(row_squares(self.weight.detach()))

    def _sum(self, rows: slice) -> Tensor:
        dtype = wide(self.weight.dtype)
        return torch.addmm(
            self.weight[rows].to(dtype), self.factor_i[rows].to(dtype), self.factor_j.to(dtype), alpha=self.scale
        )

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "GradNormLoRPLinear":
        """Keep the norms and the magnitude wide: `.to(dtype)` would round them. The norms are recomputed from W0."""
        super()._apply(fn, recurse)
        dtype = wide(self.weight.dtype)
        if self.row_squares.dtype != dtype:
            self.row_squares = row_squares(self.weight.detach())
        if self.magnitude.dtype != dtype:
            self.magnitude.data = self.magnitude.data.to(dtype)
        return self

    def extra_repr(self) -> str:
        """The part of print(model) that describes this layer."""
        m, n = self.weight.shape
        return f"in_features={n}, out_features={m}, rank={self.rank}, scale={self.scale}, norm={self.norm}"
