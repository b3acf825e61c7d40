"""AdamW with block-wise 8-bit moments (arXiv 2110.02861), in bitsandbytes' and torchao's formats."""

from collections.abc import Sequence
from typing import ClassVar, Final, Literal

from pydantic import model_validator

from memplanner.components.optimizers.update import Optimizer, StateTensor, paged
from memplanner.program.shapes import FP32, SCALAR, UINT8, Shape
from memplanner.tape.engine import Param, Tape

BLOCK: Final = 256
"""Elements per absmax: bitsandbytes since 0.44.0 (2048 before), and torchao."""
MIN_8BIT_NUMEL: Final = 4096
"""Smaller tensors keep whole moments (min_8bit_size in bitsandbytes, the same bound in torchao)."""


class AdamW8bit(Optimizer):
    """AdamW with block-wise 8-bit moments."""

    label: ClassVar[str] = "8-bit AdamW"
    words: ClassVar = {"adamw-8bit": {"is_paged": False}, "paged-adamw-8bit": {"is_paged": True}}
    kind: Literal["adamw-8bit"] = "adamw-8bit"
    format: Literal["bitsandbytes", "torchao"] = "bitsandbytes"
    """Whose 8-bit format: block sizes and which tensors stay whole differ."""
    update_norms: bool = False
    """Keep the norm of each parameter's update, one fp32 (bitsandbytes' max_unorm above zero)."""
    is_paged: bool = False
    """The moments of parameters of 100,000 elements or more are in managed memory, which the host backs: no allocator
    of torch's counts it (bitsandbytes' paged optimizers)."""
    whole_embeddings: bool = False
    """The moments of embeddings are in fp32, as the Trainer of transformers 5 asks of bitsandbytes for every
    nn.Embedding (trainer.py, create_optimizer); those of a head that is the same tensor as well."""

    @model_validator(mode="after")
    def _bitsandbytes_alone_pages(self) -> "AdamW8bit":
        if self.is_paged and self.format != "bitsandbytes":
            raise ValueError(f"is_paged is bitsandbytes': format 'bitsandbytes', not {self.format!r}, can be paged")
        if self.whole_embeddings and self.format != "bitsandbytes":
            raise ValueError(f"whole_embeddings is for format 'bitsandbytes', not {self.format!r}")
        return self

    def describe(self) -> str:
        """adamw-8bit, whose format, and whether embeddings are left whole."""
        whole = ", whole_embeddings" if self.whole_embeddings else ""
        return f"{'paged-' if self.is_paged else ''}{self.kind} ({self.format}{whole})"

    def summary(self) -> str:
        """adamw-8bit, and whether it is paged."""
        return f"{'paged ' if self.is_paged else ''}{self.kind}"

    def is_quantised(self, param: Param) -> bool:
        """Whether the parameter is large enough for 8-bit moments, and no embedding where those are left whole;
        torchao's want whole blocks as well.
        """
        if self.whole_embeddings and param.is_table:
            return False
        n = param.shape.numel
        return n >= MIN_8BIT_NUMEL and (self.format == "bitsandbytes" or n % BLOCK == 0)

    def state(self, param: Param) -> tuple[StateTensor, ...]:
        """bitsandbytes: bytes (or whole moments), which may be paged, and an fp32 absmax per block. torchao: bytes, an
        fp32 scale per block, and a code book of 256 fp32 per state.
        """
        shape, blocks = param.shape, Shape(blocks=-(-param.shape.numel // BLOCK))
        if self.format == "bitsandbytes":
            norm = (StateTensor("unorm_vec", SCALAR, FP32),) if self.update_norms else ()
            dtype = UINT8 if self.is_quantised(param) else FP32
            first, second = StateTensor("state1", shape, dtype), StateTensor("state2", shape, dtype)
            if self.is_paged:
                first, second = paged(param, first, second)
            if dtype is FP32:
                return first, second, *norm
            absmax1, absmax2 = (StateTensor(name, blocks, FP32) for name in ("absmax1", "absmax2"))
            return first, absmax1, second, absmax2, *norm
        step = StateTensor("step", SCALAR, FP32)
        if not self.is_quantised(param):
            return StateTensor("exp_avg", shape, param.dtype), StateTensor("exp_avg_sq", shape, param.dtype), step
        code = Shape(code=256)
        return (
            *(StateTensor(name, shape, UINT8) for name in ("exp_avg", "exp_avg_sq")),
            *(StateTensor(f"{name} scale", blocks, FP32) for name in ("exp_avg", "exp_avg_sq")),
            *(StateTensor(f"{name} code book", code, FP32) for name in ("exp_avg", "exp_avg_sq")),
            step,
        )

    def shared(self, params: Sequence[Param], *, per_layer: bool) -> tuple[tuple[StateTensor, int], ...]:
        """bitsandbytes' two code books, signed and unsigned: a pair per optimizer object that quantises anything."""
        quantised = sum(p.count for p in params if self.is_quantised(p))
        if self.format == "torchao" or not quantised:
            return ()
        objects, code = quantised if per_layer else 1, Shape(code=256)
        return tuple((StateTensor(f"{sign} code book", code, FP32), objects) for sign in ("signed", "unsigned"))

    def step(self, tape: Tape, params: Sequence[Param]) -> None:
        """Nothing is made: bitsandbytes' kernel works in place, and torchao's compiled step as well."""
