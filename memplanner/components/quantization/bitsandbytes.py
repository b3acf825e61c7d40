"""Frozen base weights in bitsandbytes' 4-bit and 8-bit formats."""

from typing import Any

from memplanner.program.shapes import FP16, FP32, INT8, INT32, UINT8, Dtype, Shape
from memplanner.tape.engine import Node, Tape, Tensor

BLOCK_4BIT = 64
"""Elements per absmax in Linear4bit (bitsandbytes.nn.Params4bit, blocksize=64)."""
NESTED_BLOCK = 256
"""Absmax values per second-level block under double quantisation."""


def state_shapes(quantization: str, shape: Shape) -> tuple[tuple[str, Shape, Dtype], ...]:
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


def linear_4bit(x: Tensor, weight_shape: Shape, out_shape: Shape, name: str) -> Tensor:
    """A product with a 4-bit weight, which stands dequantised in x's type for its length, forward and backward
    (bitsandbytes.autograd.MatMul4Bit; with few tokens its forward kernel does without, which is not modelled).
    """
    tape = x.tape
    node = tape.record(_dequantised_backward, (x.node,), (), (x.shape, weight_shape))
    weight = tape.new(weight_shape, x.dtype, "dequantised weight")
    out = tape.new(out_shape, x.dtype, name)
    del weight
    out.node = node
    return out


def linear_8bit(x: Tensor, weight_shape: Shape, out_shape: Shape, name: str) -> Tensor:
    """A product with an int8 weight: the input goes to int8 by way of fp16 and is kept; backward has the weight in x's
    type (bitsandbytes.autograd.MatMul8bitLt, threshold 0).
    """
    tape = x.tape
    node = tape.record(_dequantised_backward, (x.node,), (x,), (x.shape, weight_shape))
    half = None if x.dtype is FP16 else tape.new(x.shape, FP16, "input in fp16")
    small = tape.new(x.shape, INT8, "input in int8")
    del half
    product = tape.new(out_shape, INT32, "product in int32")
    out = tape.new(out_shape, x.dtype, name)
    del small, product
    out.node = node
    return out


def _dequantised_backward(tape: Tape, node: Node, grad: Tensor, saved: Any) -> tuple[Tensor]:
    x_shape, w_shape = node.ctx
    weight = tape.new(w_shape, grad.dtype, "dequantised weight")
    x_grad = tape.view(tape.new(x_shape, grad.dtype, "gradient"), x_shape)
    del weight
    return (x_grad,)
