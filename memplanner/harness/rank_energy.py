"""Rank evidence: the share of each weight's gradient that its leading singular directions hold.

The gradients are those of the full weights, whatever the method trains. For a layer y = x·Wᵀ, with input x (tokens, in)
and output gradient g (tokens, out), the weight's gradient is gᵀ·x (out, in). It is made in a backward hook for one
layer at a time and not kept.
"""

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from memplanner.harness.builders.models import block_linears
from memplanner.harness.job import Job
from memplanner.harness.loop import Untimed, run_step
from memplanner.measurement import WeightEvidence

RANKS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
STEPS = 3
OVERSAMPLING = 8
"""Columns beyond the largest rank in the randomised decomposition (arXiv 0909.4061, section 4.2 and on)."""
POWER_ITERATIONS = 2
MOST = 256
"""The largest rank that the randomised decomposition computes. Shares of larger ranks are left out."""


def energy_shares(gradient: Tensor, ranks: tuple[int, ...] = RANKS) -> dict[int, float]:
    """Rank → ‖G_r‖² / ‖G‖², G_r the best rank-r approximation of the gradient G (m, n), by a randomised SVD.

    A rank equal to the smaller side holds everything. Other ranks above 256 or the smaller side are left out, and so
    are all of a gradient that is not finite.
    """
    whole = gradient.float()
    total = float(whole.square().sum())
    if not math.isfinite(total):
        return {}
    small = min(whole.shape)
    if total == 0:
        return dict.fromkeys((r for r in ranks if r <= small), 1.0)
    columns = min(MOST + OVERSAMPLING, small)
    if columns == small:
        values = torch.linalg.svdvals(whole)
    else:
        values = torch.svd_lowrank(whole, q=columns, niter=POWER_ITERATIONS)[1]
    sums = values.square().cumsum(0) / total
    shares = {r: min(1.0, float(sums[r - 1])) for r in ranks if r < small and r <= min(MOST, len(sums))}
    return {**shares, **{r: 1.0 for r in ranks if r == small}}


def rank_evidence(job: Job, device: str, steps: int = STEPS) -> tuple[WeightEvidence, ...]:
    """Run a few more steps and decompose, in each, the gradient of every linear layer in the model's blocks. A weight
    whose gradient was not finite in one of them has no shares.
    """
    sums: dict[str, dict[int, float]] = {}
    shapes: dict[str, tuple[int, int]] = {}
    with _watching(job.model, sums, shapes):
        for _ in range(steps):
            run_step(job, Untimed(device))
    count = steps * job.grad_accumulation
    return tuple(
        WeightEvidence(
            name=name,
            shape=shapes[name],
            energy={str(rank): min(1.0, total / count) for rank, total in shares.items()},
        )
        for name, shares in sums.items()
    )


@contextlib.contextmanager
def _watching(
    model: nn.Module, sums: dict[str, dict[int, float]], shapes: dict[str, tuple[int, int]]
) -> Iterator[None]:
    handles = [module.register_forward_hook(_hook(name, sums, shapes)) for name, module in linear_layers(model)]
    getter: Any = getattr(model, "get_input_embeddings", None)
    if getter is not None:  # so that first layers whose weights are frozen have output gradients too
        handles.append(getter().register_forward_hook(lambda module, inputs, output: output.requires_grad_()))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def linear_layers(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The linear layers of the blocks, named as in the model without adapters; an adapted layer is one layer."""
    wrapped = {
        name for name, module in model.named_modules() if hasattr(module, "base_layer") or hasattr(module, "row_scale")
    }
    for name in wrapped:
        yield name.removeprefix("base_model.model."), model.get_submodule(name)
    inside = tuple(f"{name}." for name in wrapped)
    for name, module in block_linears(model):
        if not name.startswith(inside):
            yield name.removeprefix("base_model.model."), module


def _hook(name: str, sums: dict[str, dict[int, float]], shapes: dict[str, tuple[int, int]]) -> Any:
    def forward(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if not output.requires_grad:
            return
        x = inputs[0].detach()

        def backward(grad: Tensor) -> None:
            gradient = grad.reshape(-1, grad.shape[-1]).t().float() @ x.reshape(-1, x.shape[-1]).float()
            shapes[name] = (gradient.shape[0], gradient.shape[1])
            shares = energy_shares(gradient)
            before = sums.setdefault(name, dict.fromkeys(shares, 0.0))
            sums[name] = {rank: before[rank] + share for rank, share in shares.items() if rank in before}

        output.register_hook(backward)

    return forward
