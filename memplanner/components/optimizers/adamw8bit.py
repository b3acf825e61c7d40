"""AdamW with block-wise 8-bit moments (arXiv 2110.02861), in bitsandbytes' and torchao's formats."""

from typing import Final, Literal

from memplanner.components.optimizers.rules import StateTensor
from memplanner.program.shapes import FP32, SCALAR, UINT8, Dtype, Shape
from memplanner.settings.base import Settings
from memplanner.tape.engine import Param, Tape

BLOCK: Final = 256
"""Elements per absmax: bitsandbytes since 0.44.0 (2048 before), and torchao."""
MIN_8BIT_NUMEL: Final = 4096
"""Smaller tensors keep whole moments (min_8bit_size in bitsandbytes, the same bound in torchao)."""


class AdamW8bit(Settings):
    """AdamW with block-wise 8-bit moments."""

    kind: Literal["adamw-8bit"] = "adamw-8bit"
    format: Literal["bitsandbytes", "torchao"] = "bitsandbytes"
    """Whose 8-bit format: block sizes and which tensors stay whole differ."""
    update_norms: bool = False
    """Keep the norm of each parameter's update, one fp32 (bitsandbytes' max_unorm above zero)."""

    @property
    def in_place(self) -> bool:
        """Whether the update makes no temporaries."""
        return True

    def state(self, shape: Shape, dtype: Dtype) -> tuple[StateTensor, ...]:
        """bitsandbytes: bytes and fp32 absmax per block; the code books are shared. torchao: bytes, fp32 scale per
        block and a code book of 256 fp32 per state, only where whole blocks fit.
        """
        n = shape.numel
        blocks = Shape(blocks=-(-n // BLOCK))
        if self.format == "bitsandbytes":
            norm = (StateTensor("unorm_vec", SCALAR, FP32),) if self.update_norms else ()
            if n < MIN_8BIT_NUMEL:
                return StateTensor("state1", shape, FP32), StateTensor("state2", shape, FP32), *norm
            return (
                StateTensor("state1", shape, UINT8),
                StateTensor("absmax1", blocks, FP32),
                StateTensor("state2", shape, UINT8),
                StateTensor("absmax2", blocks, FP32),
                *norm,
            )
        step = StateTensor("step", SCALAR, FP32)
        if n < MIN_8BIT_NUMEL or n % BLOCK:
            return StateTensor("exp_avg", shape, dtype), StateTensor("exp_avg_sq", shape, dtype), step
        code = Shape(code=256)
        return (
            *(StateTensor(name, shape, UINT8) for name in ("exp_avg", "exp_avg_sq")),
            *(StateTensor(f"{name} scale", blocks, FP32) for name in ("exp_avg", "exp_avg_sq")),
            *(StateTensor(f"{name} code book", code, FP32) for name in ("exp_avg", "exp_avg_sq")),
            step,
        )

    def shared(self) -> tuple[StateTensor, ...]:
        """bitsandbytes' two code books (signed and unsigned), a pair per optimizer object that quantises anything."""
        if self.format == "torchao":
            return ()
        return StateTensor("signed code book", Shape(code=256), FP32), StateTensor(
            "unsigned code book", Shape(code=256), FP32
        )

    def step_one(self, tape: Tape, shape: Shape, dtype: Dtype) -> None:
        """bitsandbytes' kernel works in place; torchao's compiled step too."""

    def step_all(self, tape: Tape, params: list[Param]) -> None:
        """In place."""
