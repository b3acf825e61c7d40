"""transformers' own loss of causal language models (ForCausalLMLoss)."""

from typing import TYPE_CHECKING, ClassVar, Literal

from memplanner.components.losses.base import Batch, LanguageModel, Loss, Losses
from memplanner.program.shapes import FP32, INT64, Shape
from memplanner.tape import ops
from memplanner.tape.engine import Tensor
from memplanner.tape.loss import cross_entropy

if TYPE_CHECKING:
    from memplanner.components.context import Context


class CrossEntropy(Loss):
    """transformers' own: logits upcast to fp32, then torch's cross_entropy."""

    label: ClassVar[str] = "cross-entropy"
    kind: Literal["cross-entropy"] = "cross-entropy"
    shifts: Literal["labels", "logits"] = "labels"
    """What is moved by one token so that each predicts the next: transformers 5 moves the labels; 4.48 and older copied
    the fp32 logits without their last token, which for a large vocabulary is the step's peak."""

    def run(self, ctx: "Context", model: LanguageModel, batch: Batch) -> Losses:
        """Logits of all tokens at once."""
        hidden = model.hidden_states(batch["input_ids"])
        logits = model.logits(hidden)
        ctx.tape.phase("loss")
        return Losses(self.of(logits, ctx), logits)

    def of(self, logits: Tensor, ctx: "Context") -> Tensor:
        """Logits in fp32; the labels are shifted by a padded copy, or the logits by a shorter one."""
        tape, seq = logits.tape, ctx.seq
        logits = ops.to(logits, FP32, "logits in fp32")
        if self.shifts == "logits":
            shorter = dict(zip(logits.shape.labels, logits.shape.dims, strict=True)) | {"seq": max(1, seq - 1)}
            copy = ops.slice_copy(logits, Shape(**shorter), "logits without the last token")
            shifted = tape.new(Shape(batch=ctx.batch, seq=max(1, seq - 1)), INT64, "shifted labels")
            return cross_entropy(copy, shifted)
        padded = tape.new(Shape(batch=ctx.batch, seq=seq + 1), INT64, "padded labels")
        shifted = tape.new(Shape(batch=ctx.batch, seq=seq), INT64, "shifted labels")
        loss = cross_entropy(logits, shifted)
        del padded, shifted
        return loss
