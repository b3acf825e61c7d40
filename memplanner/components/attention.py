"""Which attention kernel runs for a plan's word, and the mask that transformers makes for it."""

from typing import TYPE_CHECKING, Final

from memplanner.errors import Problem
from memplanner.frozen import Frozen
from memplanner.program.shapes import BF16, BOOL, FP32, SCALAR, Dtype, Shape
from memplanner.tape.attention import WIDEST_GROUPED, Kernel
from memplanner.tape.engine import Tensor

if TYPE_CHECKING:
    from memplanner.components.context import Context


WIDEST_FLASH: Final = 256
"""The widest head that the flash kernels take."""


def same_kernels(compute_capability: float) -> float:
    """The least compute capability with which the same kernels run."""
    if compute_capability >= 12:
        return 8.6
    if compute_capability >= 11:
        return 8.0
    return next(bound for bound in (9.0, 8.6, 8.0, 7.0, 0.0) if compute_capability >= bound)


class Attention(Frozen):
    """An attention implementation on a card.

    kind: the plan's word. compute_capability: the card's, for CUDA. padding: batches are padded, so that there is a
    mask. torch: PyTorch's release.
    """

    kind: str
    compute_capability: float
    padding: bool
    torch: str = "2.13"

    def problem(self, dtype: Dtype, head_dim: int) -> Problem | None:
        """Why the implementation that the plan names cannot take heads of this width."""
        message = ""
        if self.kind == "sdpa-efficient" and head_dim % self.alignment(dtype):
            message = f"needs head dims that {self.alignment(dtype)} divides in {dtype}; the model's are {head_dim}"
        if self.kind == "flash-attention-2" and head_dim > WIDEST_FLASH:
            message = f"takes head dims up to {WIDEST_FLASH}; the model's are {head_dim}"
        if not message:
            return None
        return Problem(where="plan", key="step.attention", message=f"{self.kind!r} {message}", hint="sdpa runs there")

    def kernel(
        self, dtype: Dtype, *, seq: int, groups: int, head_dim: int, masked: bool, dropout: float = 0.0
    ) -> Kernel:
        """The kernel that runs for queries of this type. groups: query heads per key/value head. masked: there is a
        mask.

        "sdpa" is PyTorch's own choice: the first of cuDNN's, flash and memory-efficient that can, else math
        (aten/src/ATen/native/transformers/cuda/sdp_utils.cpp, select_sdp_backend). transformers passes grouped heads as
        they are, unless there is a mask or heads are wider than 256 (use_gqa_in_sdpa).
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
        is_grouped = groups > 1 and not masked and head_dim <= WIDEST_GROUPED
        if self._can_run_cudnn(dtype, head_dim, dropout) and seq != 1:
            return "cudnn"
        if not masked and self._can_run_flash(dtype, head_dim, dropout):
            return "flash"
        if not self._can_run_efficient(dtype, head_dim):
            return "math"
        if is_grouped:  # check_batch_size_and_num_heads_dense; pytorch/pytorch#191085
            return "math" if self.torch == "2.13" else "efficient-grouped"
        return "efficient"

    def _can_run_cudnn(self, dtype: Dtype, head_dim: int, dropout: float) -> bool:
        """check_prefer_cudnn_attention and can_use_cudnn_attention: Hopper and data-centre Blackwell (compute capability
        9 and 10) with cuDNN 9.15.1 or newer, which PyPI's torch for Linux requires (2.13: 9.20, 2.14: 9.24); dropout in
        sixteenths.
        """
        is_preferred = int(self.compute_capability) in (9, 10)
        return is_preferred and dtype is not FP32 and head_dim % 8 == 0 and head_dim <= 128 and dropout * 16 % 1 == 0

    def _can_run_flash(self, dtype: Dtype, head_dim: int, dropout: float) -> bool:
        """can_use_flash_attention, apart from its check of masks. Consumer cards since Ampere have too little shared
        memory for the backward pass of some wide heads (check_requires_grad_and_head_dim_gt192_constraints…).
        """
        if dtype is FP32 or self.compute_capability < 8 or head_dim > WIDEST_FLASH:
            return False
        is_small = 8.6 <= self.compute_capability < 9 or self.compute_capability >= 12
        return not is_small or head_dim <= 192 or (head_dim > 224 and not dropout)

    def _can_run_efficient(self, dtype: Dtype, head_dim: int) -> bool:
        """can_use_mem_efficient_attention, apart from its check of grouped heads."""
        return head_dim % self.alignment(dtype) == 0 and not (dtype is BF16 and self.compute_capability < 8)

    def alignment(self, dtype: Dtype) -> int:
        """What the memory-efficient kernel asks head dims to be a multiple of (minimum_gemm_alignment)."""
        if self.compute_capability >= 8:
            return 4 if dtype is FP32 else 8
        return 8 if self.compute_capability >= 7 and dtype is not FP32 else 1

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
