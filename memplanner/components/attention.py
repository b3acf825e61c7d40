"""Which attention kernel runs for a plan's word, and the mask that transformers makes for it."""

from typing import TYPE_CHECKING

from memplanner.frozen import Frozen
from memplanner.program.shapes import BF16, BOOL, FP32, SCALAR, Dtype, Shape
from memplanner.tape.attention import Kernel
from memplanner.tape.engine import Tensor

if TYPE_CHECKING:
    from memplanner.components.context import Context


class Attention(Frozen):
    """An attention implementation on a card.

    kind: the plan's word. compute_capability: the card's, for CUDA. padding: batches are padded, so that there is a
    mask.
    """

    kind: str
    compute_capability: float
    padding: bool

    def kernel(self, dtype: Dtype, *, groups: int, head_dim: int, masked: bool) -> Kernel:
        """The kernel that runs for queries of this type. groups: query heads per key/value head. masked: there is a
        mask.

        "sdpa" is PyTorch's own choice among flash (half precision, compute capability 8.0, head dim up to 256),
        memory-efficient (no grouped-query attention) and math (aten/src/ATen/native/transformers/cuda/sdp_utils.cpp);
        transformers passes grouped heads as they are, unless there is a mask (use_gqa_in_sdpa), which flash cannot
        take.
        """
        match self.kind:
            case "eager":
                return "eager"
            case "flash-attention-2":
                return "flash"
            case "sdpa-efficient":
                return "efficient"
            case "sdpa-math":
                return "math"
        if dtype is not FP32 and self.compute_capability >= 8 and head_dim <= 256 and not masked:
            return "flash"
        if (groups > 1 and not masked) or (dtype is BF16 and self.compute_capability < 8):
            return "math"
        return "efficient"

    def mask(self, ctx: "Context", *, causal: bool = True, window: int | None = None) -> Tensor | None:
        """The mask that all layers of a kind share, (batch, 1, seq, seq): for eager attention in the weights' type, for
        SDPA boolean, and only where batches are padded or a sequence is as long as the sliding window; the kernels know
        causality by themselves, and flash-attention windows too.

        Source: transformers.masking_utils, eager_mask, sdpa_mask, _ignore_causal_mask_sdpa and flash_attention_mask.
        """
        eager = self.kind == "eager"
        if self.kind == "flash-attention-2":
            return None
        is_windowed = window is not None and ctx.seq >= window
        if not (self.padding or is_windowed or (eager and causal)):
            return None
        tape, s = ctx.tape, ctx.seq
        full = Shape(batch=ctx.batch, one=1, queries=s, keys=s)
        shape = full if self.padding else Shape(one=1, one_=1, queries=s, keys=s)
        allowed = tape.new(shape, BOOL, "attention mask (bool)")
        if not eager:
            return tape.view(allowed, full)  # where batches are not padded, all sequences share it (expand)
        zero = tape.new(SCALAR, ctx.weight_dtype, "zero")
        mask = tape.new(full, ctx.weight_dtype, "attention mask")
        del allowed, zero
        return mask
