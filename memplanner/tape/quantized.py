"""Frozen base weights in bitsandbytes' 4-bit and 8-bit formats."""

from typing import Any

from memplanner.tape.engine import Node, Tape, Tensor
from memplanner.tape.shapes import FP16, FP32, INT8, UINT8, Shape

BLOCK_4BIT = 64
"""Elements per absmax in Linear4bit (bitsandbytes.nn.Params4bit, blocksize=64)."""
NESTED_BLOCK = 256
"""Absmax values per second-level block under double quantisation."""


def state_shapes(quantization: str, shape: Shape) -> tuple[tuple[str, Shape, Any], ...]:
    """The tensors that hold a quantised (out, in) weight: name, shape, type."""
    n = shape.numel
    if quantization == "int8":
        return (("weight (int8)", shape, INT8), ("row scales", Shape(out=shape.dims[0]), FP32))
    blocks = -(-n // BLOCK_4BIT)
    packed = ("weight (packed 4-bit)", Shape(packed=(n + 1) // 2), UINT8)
    code = ("4-bit code", Shape(code=16), FP32)
    if quantization == "nf4":
        return packed, ("absmax", Shape(blocks=blocks), FP32), code
    return (
        packed,
        ("absmax (8-bit)", Shape(blocks=blocks), UINT8),
        code,
        ("nested absmax", Shape(blocks=-(-blocks // NESTED_BLOCK)), FP32),
        ("nested code", Shape(code=256), FP32),
        ("nested offset", Shape(one=1), FP32),
    )


def linear(
    x: Tensor, quantization: str, weight_shape: Shape, out_shape: Shape, name: str
) -> Tensor:
    """A product with a quantised weight. 4-bit: a fused kernel forward, the weight in x's type for the length of the
    backward product (bitsandbytes.autograd.MatMul4Bit). 8-bit: the input quantised to int8 forward, the weight in x's
    type in backward (MatMul8bitLt)."""
    tape = x.tape
    node = tape.record(_backward, (x.node,), (x if quantization == "int8" else None,), (x.shape, weight_shape))
    scratch: list[Tensor] = []
    if quantization == "int8":
        if x.dtype is not FP16:
            scratch.append(tape.new(x.shape, FP16, "input in fp16"))
        scratch.append(tape.new(x.shape, INT8, "input in int8"))
        scratch.append(tape.new(out_shape, FP32, "int32 product"))
    out = tape.new(out_shape, x.dtype, name)
    scratch.clear()
    out.node = node
    return out


def _backward(tape: Tape, node: Node, grad: Tensor, saved: Any) -> tuple[Tensor]:
    x_shape, w_shape = node.ctx
    weight = tape.new(w_shape, grad.dtype, "dequantised weight")
    x_grad = tape.view(tape.new(x_shape, grad.dtype, "gradient"), x_shape)
    del weight
    return (x_grad,)
