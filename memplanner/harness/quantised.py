"""4-bit base weights on fake tensors, made by bitsandbytes' own functions; its parameter class needs real tensors."""

from typing import Any

import torch
from torch import Tensor, nn

from memplanner.harness.errors import NotBuildableError


def fake_quantised(model: nn.Module, mode: Any) -> None:
    """Quantise every 4-bit layer of the model: packed weight, scales and tables are as bitsandbytes makes them."""
    for module in model.modules():
        kind = type(module._parameters.get("weight")).__name__
        if kind == "Int8Params":
            raise NotBuildableError("quantization 'int8' on fake tensors: bitsandbytes' int8 classes cannot hold them")
        if kind == "Params4bit":
            _quantise(module, mode)


def _quantise(module: Any, mode: Any) -> None:
    import bitsandbytes

    waiting = module.weight
    with mode:
        whole = torch.empty(waiting.shape, dtype=waiting.dtype)
        packed, state = bitsandbytes.functional.quantize_4bit(
            whole, quant_type="nf4", compress_statistics=waiting.compress_statistics
        )
    module.weight = nn.Parameter(packed, requires_grad=False)
    module.weight.quant_state = state
    compute = module.compute_dtype

    def forward(x: Tensor) -> Tensor:
        """bitsandbytes.nn.Linear4bit.forward, with the weight dequantised in sight of the trace; gemm_4bit hides it."""
        bias = None if module.bias is None else module.bias.to(compute)
        lowered = x.to(compute)
        scales = torch.empty(state.absmax.shape, dtype=torch.float32) + state.offset if state.nested else None
        dequantised = torch.empty(state.shape, dtype=compute)
        out: Tensor = bitsandbytes.matmul_4bit(lowered, module.weight.t(), bias=bias, quant_state=state)
        del scales, dequantised
        return out.to(x.dtype)

    module.forward = forward
