"""Frozen base weights in bitsandbytes' 4-bit and 8-bit formats."""

from typing import Any, ClassVar, Final

from memplanner.components.quantization.base import StoredTensor
from memplanner.frozen import Frozen
from memplanner.program.shapes import FP16, FP32, INT8, INT32, UINT8, Dtype, Shape
from memplanner.tape import ops
from memplanner.tape.engine import Node, Tape, Tensor

BLOCK_4BIT: Final = 64
"""Elements per absmax in Linear4bit (bitsandbytes.nn.Params4bit, blocksize=64)."""
NESTED_BLOCK: Final = 256
"""Absmax values per second-level block under double quantisation."""


class Linear4bit(Frozen):
    """bitsandbytes.nn.Linear4bit with nf4. double_quantized: its scales are quantised as well (compress_statistics).
    is_read: as a checkpoint has it, and not made from a whole weight.
    """

    clones_output: ClassVar[bool] = True
    double_quantized: bool = False
    is_read: bool = False

    def tensors(self, shape: Shape) -> tuple[StoredTensor, ...]:
        """Two weights in a byte, an absmax per block and the code book; or the absmax in 8 bits with scales of its
        own.
        """
        n = shape.numel
        blocks = -(-n // BLOCK_4BIT)
        packed = StoredTensor("weight (packed 4-bit)", Shape(packed=(n + 1) // 2), UINT8)
        code = StoredTensor("4-bit code", Shape(code=16), FP32)
        if not self.double_quantized:
            return packed, StoredTensor("absmax", Shape(blocks=blocks), FP32), code
        return (
            packed,
            StoredTensor("absmax (8-bit)", Shape(blocks=blocks), UINT8),
            code,
            StoredTensor("nested absmax", Shape(blocks=-(-blocks // NESTED_BLOCK)), FP32),
            StoredTensor("nested code", Shape(code=256), FP32),
            StoredTensor("nested offset", Shape(one=1), FP32),
        )

    @property
    def shared(self) -> tuple[StoredTensor, ...]:
        """The code book of 8-bit scales that bitsandbytes.functional keeps (name2qmap), on the device of the first
        weight that is quantised; every weight has a copy beside it (quantize_blockwise, code.to(…, copy=True)), or its
        own from the checkpoint (QuantState.from_dict).
        """
        if not self.double_quantized or self.is_read:
            return ()
        return (StoredTensor("code book of nested scales", Shape(code=256), FP32),)

    def scales(self, weight: Shape) -> Shape | None:
        """A scale per block, under double quantisation."""
        return Shape(blocks=-(-weight.numel // BLOCK_4BIT)) if self.double_quantized else None

    def linear(
        self, x: Tensor, weight: Shape, out_shape: Shape, compute_dtype: Dtype, stored: Dtype, name: str
    ) -> Tensor:
        """The input goes to the compute type, and the output back. The weight stands dequantised for the product's
        length, forward and backward (bitsandbytes.autograd.MatMul4Bit; with few tokens its forward kernel does without,
        which is not modelled). Quantised scales stand in fp32 as long in forward, where they are a variable of
        _gemm_4bit_default_impl (bitsandbytes/backends/default/ops.py), and in backward until the weight is there
        (functional.py, dequantize_4bit), which has its type from before it was quantised and is cast to the gradient's.
        """
        lowered = ops.to(x, compute_dtype, "input in the compute type")
        tape = x.tape
        blocks = self.scales(weight)
        node = tape.record(_dequantised_backward, (lowered.node,), None, (lowered.shape, weight, stored, blocks))
        scales = None
        if blocks is not None:
            before = tape.new(blocks, FP32, "scales before the offset")
            scales = tape.new(blocks, FP32, "dequantised scales")
            del before
        dequantised = tape.new(weight, lowered.dtype, "dequantised weight")
        out = tape.new(out_shape, lowered.dtype, name)
        del scales, dequantised
        out.node = node
        return ops.to(out, x.dtype, "output in the input's type")


class Linear8bit(Frozen):
    """bitsandbytes.nn.Linear8bitLt with threshold 0. is_read: as Linear4bit's."""

    is_read: bool = False
    clones_output: ClassVar[bool] = False
    shared: ClassVar[tuple[StoredTensor, ...]] = ()

    def tensors(self, shape: Shape) -> tuple[StoredTensor, ...]:
        """A byte per weight, and a scale per row."""
        rows = Shape(out=shape.dims[0])
        return StoredTensor("weight (int8)", shape, INT8), StoredTensor("row scales", rows, FP32)

    def scales(self, weight: Shape) -> Shape | None:
        """Row scales are in fp32 as they are."""
        return None

    def linear(
        self, x: Tensor, weight: Shape, out_shape: Shape, compute_dtype: Dtype, stored: Dtype, name: str
    ) -> Tensor:
        """The input goes to int8 by way of fp16, and is kept; backward has the weight in x's type
        (bitsandbytes.autograd.MatMul8bitLt).
        """
        tape = x.tape
        node = tape.record(_dequantised_backward, (x.node,), (x,), (x.shape, weight, x.dtype, None))
        half = None if x.dtype is FP16 else tape.new(x.shape, FP16, "input in fp16")
        small = tape.new(x.shape, INT8, "input in int8")
        del half
        product = tape.new(out_shape, INT32, "product in int32")
        out = tape.new(out_shape, x.dtype, name)
        del small, product
        out.node = node
        return out


def _dequantised_backward(tape: Tape, node: Node, grad: Tensor, saved: Any) -> tuple[Tensor]:
    x_shape, w_shape, stored, blocks = node.ctx
    scales = None if blocks is None else tape.new(blocks, FP32, "dequantised scales")
    weight = tape.new(w_shape, stored, "dequantised weight")
    del scales
    if stored is not grad.dtype:
        cast = tape.new(w_shape, grad.dtype, "dequantised weight in the gradient's type")
        weight = cast
        del cast
    x_grad = tape.view(tape.new(x_shape, grad.dtype, "gradient"), x_shape)
    del weight
    return (x_grad,)
