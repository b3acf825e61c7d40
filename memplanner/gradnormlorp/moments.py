"""Adam's two moments of one tensor: as wide as the parameter, in float32 or bfloat16, or in blocks of 8 bits.

The 8-bit format and its kernel are bitsandbytes' (blocks of 256, a shared code book per moment; arXiv 2110.02861).
"""

from typing import Any, Literal

import torch
from torch import Tensor

StateFormat = Literal["param", "fp32", "bf16", "8-bit"]

MIN_8BIT_NUMEL = 4096
"""Smaller tensors keep float32 moments, as in bitsandbytes."""
BLOCK = 256
"""Elements per scale."""

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def initialise(state: dict[str, Any], grad: Tensor, how: StateFormat) -> None:
    """Zero moments for gradients of this shape and type.

    ValueError where the format cannot hold them: 8-bit moments need float32, bfloat16 or float16 gradients.
    """
    if how == "8-bit" and grad.numel() >= MIN_8BIT_NUMEL:
        if grad.dtype == torch.float64:
            raise ValueError("8-bit moments require float32, bfloat16 or float16 parameters, not float64")
        blocks = -(-grad.numel() // BLOCK)
        for name in ("exp_avg", "exp_avg_sq"):
            state[name] = torch.zeros(grad.shape, dtype=torch.uint8, device=grad.device)
            state[f"{name}_absmax"] = torch.zeros(blocks, dtype=torch.float32, device=grad.device)
        return
    wide = torch.promote_types(grad.dtype, torch.float32) if how == "8-bit" else _DTYPES.get(how, grad.dtype)
    for name in ("exp_avg", "exp_avg_sq"):
        state[name] = torch.zeros(grad.shape, dtype=wide, device=grad.device)


def clear(state: dict[str, Any]) -> None:
    """Set the moments to zero and the step count with them, which bias correction depends on."""
    state["step"] = 0
    for name in ("exp_avg", "exp_avg_sq", "exp_avg_absmax", "exp_avg_sq_absmax"):
        if name in state:
            state[name].zero_()


def adam_step(
    param: Tensor, grad: Tensor, state: dict[str, Any], group: dict[str, Any], lr: float, maps: tuple[Tensor, ...]
) -> None:
    """param -= lr · m̂ / (√v̂ + ε) with bias-corrected moments, all in place.

    maps: bitsandbytes' two code books, used by quantised moments only.
    """
    beta1, beta2 = group["betas"]
    if "exp_avg_absmax" in state:
        _step_8bit(param, grad, state, group, lr, maps)
        return
    exp_avg, exp_avg_sq = state["exp_avg"], state["exp_avg_sq"]
    exp_avg.mul_(beta1).add_(grad, alpha=1 - beta1)
    exp_avg_sq.mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
    correction1 = 1 - beta1 ** state["step"]
    correction2 = 1 - beta2 ** state["step"]
    denominator = exp_avg_sq.sqrt().div_(correction2**0.5).add_(group["eps"])
    param.addcdiv_(exp_avg, denominator, value=-lr / correction1)


def _step_8bit(
    param: Tensor, grad: Tensor, state: dict[str, Any], group: dict[str, Any], lr: float, maps: tuple[Tensor, ...]
) -> None:
    from bitsandbytes.functional import optimizer_update_8bit_blockwise

    beta1, beta2 = group["betas"]
    optimizer_update_8bit_blockwise(
        "adam",
        grad.contiguous(),
        param,
        state["exp_avg"],
        state["exp_avg_sq"],
        beta1,
        beta2,
        0.0,
        0.0,
        group["eps"],
        state["step"],
        lr,
        *maps,
        state["exp_avg_absmax"],
        state["exp_avg_sq_absmax"],
    )


def code_books(device: torch.device) -> tuple[Tensor, Tensor]:
    """bitsandbytes' signed and unsigned code books of 256 float32 each."""
    from bitsandbytes.functional import create_dynamic_map

    return create_dynamic_map(signed=True).to(device), create_dynamic_map(signed=False).to(device)
