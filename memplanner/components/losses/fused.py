"""Head and loss in one function whose forward already makes the gradients (Liger-Kernel)."""

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from memplanner.components.losses.base import Batch, LanguageModel, Loss, Losses
from memplanner.program.shapes import FP32, SCALAR, Shape
from memplanner.tape.engine import Node, Tape, Tensor

if TYPE_CHECKING:
    from memplanner.components.context import Context


class FusedLinearCrossEntropy(Loss):
    """Head and loss in one kernel that makes the gradients during forward (Liger)."""

    label: ClassVar[str] = "fused linear cross-entropy"
    multiplies_head: ClassVar[bool] = True
    kind: Literal["fused"] = "fused"

    def run(self, ctx: "Context", model: LanguageModel, batch: Batch) -> Losses:
        """Chunk by chunk, of as many tokens as keep a chunk's logits about as large as the input
        (liger_kernel/ops/fused_linear_cross_entropy.py).
        """
        hidden = model.hidden_states(batch["input_ids"])
        head = model.head_weight()
        tape, tokens, vocab, width = ctx.tape, ctx.batch * ctx.seq, model.vocab, hidden.shape.dims[-1]
        tape.phase("loss")
        x, weight = ctx.lowered(hidden, head)
        at_once = min(1 << (-(-tokens // -(-vocab // width)) - 1).bit_length(), tokens)
        grad_input = tape.like(x, "gradient of the head's input")
        learns = weight.node is not None
        grad_weight = tape.new(weight.shape, x.dtype, "gradient of the head") if learns else None
        losses = tape.new(Shape(tokens=tokens), FP32, "losses per token")
        logits = tape.new(Shape(tokens=at_once, vocab=vocab), x.dtype, "logits of a chunk")
        part = tape.new(Shape(tokens=at_once, hidden=width), x.dtype, "input gradient of a chunk")
        product = tape.new(weight.shape, x.dtype, "head gradient of a chunk") if learns else None
        del logits, part, product
        loss = tape.new(SCALAR, FP32, "loss")
        loss.node = tape.record(_fused_backward, (x.node, weight.node), (grad_input, grad_weight))
        del losses
        return Losses(loss)


def _fused_backward(tape: Tape, node: Node, grad: Tensor, saved: Any) -> tuple[Tensor | None, Tensor | None]:
    grad_input, grad_weight = saved
    return (None if node.edges[0] is None else grad_input), grad_weight
