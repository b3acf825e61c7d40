"""Which attention kernel runs for a plan's word, and the mask that transformers makes for it."""

from typing import TYPE_CHECKING, Final

from memplanner.errors import Problem
from memplanner.frozen import Frozen
from memplanner.program.shapes import BF16, BOOL, FP32, SCALAR, Dtype, Shape
from memplanner.tape.attention import Kernel
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
    return next(bound for bound in (10.0, 9.0, 8.6, 8.0, 7.0, 0.0) if compute_capability >= bound)


class Call(Frozen):
    """A call of scaled_dot_product_attention, as far as it decides which kernel runs. groups: query heads per key/value
    head, 1 where transformers expands them before the call. value_dim: the width of values; head_dim: of the others.
    broadcasts: keys and values have fewer heads, and enable_gqa is not asked for.
    """

    dtype: Dtype
    seq: int
    groups: int
    head_dim: int
    value_dim: int
    masked: bool
    dropout: float = 0.0
    broadcasts: bool = False


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
        elif self.kind == "flash-attention-2" and head_dim % 8:
            message = f"is modelled for head dims that 8 divides; the model's are {head_dim}"
        if not message:
            return None
        return Problem(where="plan", key="step.attention", message=f"{self.kind!r} {message}", hint="sdpa runs there")

    def kernel(self, call: Call) -> Kernel:
        """The kernel that runs for a call.

        "sdpa" is PyTorch's own choice: the first of cuDNN's, flash and memory-efficient that can, else math
        (aten/src/ATen/native/transformers/cuda/sdp_utils.cpp, select_sdp_backend).
        """
        match self.kind:
            case "eager":
                return "eager"
            case "flash-attention-2":
                return "flash"
            case "sdpa-efficient":
                return "efficient-grouped" if call.groups > 1 and self.torch != "2.13" else "efficient"
            case "sdpa-math":
                return "math"
        if self._can_run_cudnn(call):
            return "cudnn"
        if not self.against_flash(call):
            return "flash"
        if self.against_efficient(call):
            return "math"
        return "efficient-grouped" if call.groups > 1 else "efficient"

    def _can_run_cudnn(self, call: Call) -> bool:
        """check_prefer_cudnn_attention and can_use_cudnn_attention: Hopper and data-centre Blackwell (compute
        capability 9 and 10), with cuDNN 9.15.1 or newer, which PyPI's torch for Linux requires (2.13: 9.20, 2.14:
        9.24); dropout in sixteenths.

        In 2.13 the widest heads are of 256 on Hopper and 128 on Blackwell. 2.14 trains those up to 128 and of 256 on
        both (check_cudnn_d256_bprop_head_dim).
        """
        major = int(self.compute_capability)
        if major not in (9, 10) or call.dtype is FP32 or call.seq == 1 or call.dropout * 16 % 1:
            return False
        if call.head_dim % 8 or call.value_dim % 8 or call.broadcasts:
            return False
        widest = 256 if major == 9 and self.torch == "2.13" else 128
        width = max(call.head_dim, call.value_dim)
        return width <= widest or (call.head_dim == call.value_dim == 256 and self.torch != "2.13")

    def against_flash(self, call: Call) -> str:
        """Why the flash kernel cannot run (can_use_flash_attention); empty where it can.

        Consumer cards since Ampere have too little shared memory for the backward pass of some wide heads
        (check_requires_grad_and_head_dim_gt192_constraints_on_sm86_89_or_120).
        """
        if call.dtype is FP32:
            return "takes no fp32"
        if self.compute_capability < 8:
            return "needs sm_80"
        if call.masked:
            return "takes no mask"
        if call.broadcasts:
            return "broadcasts no keys"
        if call.head_dim != call.value_dim:
            return f"takes no keys of {call.head_dim} with values of {call.value_dim}"
        is_small = 8.6 <= self.compute_capability < 9 or self.compute_capability >= 12
        if call.head_dim > WIDEST_FLASH:
            return f"takes no head dim {call.head_dim}"
        if is_small and call.head_dim > 192 and (call.head_dim <= 224 or call.dropout):
            return f"takes no head dim {call.head_dim} on this card"
        return ""

    def against_efficient(self, call: Call) -> str:
        """Why the memory-efficient kernel cannot run (can_use_mem_efficient_attention); empty where it can."""
        if call.dtype is BF16 and self.compute_capability < 8:
            return "needs sm_80 for bf16"
        if call.broadcasts:  # check_batch_size_and_num_heads_dense
            return "broadcasts no keys"
        for width in (call.head_dim, call.value_dim):
            if width % self.alignment(call.dtype):
                return f"takes no head dim {width}"
        if call.groups > 1 and self.torch == "2.13":  # check_batch_size_and_num_heads_dense; pytorch/pytorch#191085
            return "takes no grouped heads"
        return ""

    def alignment(self, dtype: Dtype) -> int:
        """What the memory-efficient kernel asks head dims to be a multiple of (minimum_gemm_alignment)."""
        if self.compute_capability >= 8:
            return 4 if dtype is FP32 else 8
        return 8 if self.compute_capability >= 7 and dtype is not FP32 else 1

    def mask(
        self, ctx: "Context", embedded: Dtype, *, causal: bool = True, window: int | None = None, always: bool = False
    ) -> Tensor | None:
        """The mask that all layers of a kind share, (batch, 1, seq, seq): for eager attention in the type of the
        embedded tokens, for SDPA boolean, and only where batches are padded or a sequence is as long as the sliding
        window; the kernels know causality by themselves, and flash-attention windows too. always: the model asks for a
        mask in any case (allow_is_causal_skip=False).

        Source: transformers.masking_utils, eager_mask, sdpa_mask, _ignore_causal_mask_sdpa and flash_attention_mask.
        """
        eager = self.kind == "eager"
        if self.kind == "flash-attention-2":
            return None
        is_windowed = window is not None and ctx.seq >= window
        if not (self.padding or is_windowed or (causal and (eager or always))):
            return None
        tape, s = ctx.tape, ctx.seq
        full = Shape(batch=ctx.batch, one=1, queries=s, keys=s)
        shape = full if self.padding else Shape(one=1, one_=1, queries=s, keys=s)
        allowed = tape.new(shape, BOOL, "attention mask (bool)")
        if not eager:
            return tape.view(allowed, full)  # where batches are not padded, all sequences share it (expand)
        zero = tape.new(SCALAR, embedded, "zero")
        mask = tape.new(full, embedded, "attention mask")
        del allowed, zero
        return mask
