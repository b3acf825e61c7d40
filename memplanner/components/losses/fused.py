"""Head and loss in one function whose forward already makes the gradients (Liger-Kernel)."""

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from memplanner.components.losses.base import Batch, LanguageModel, Loss, Losses
from memplanner.program.shapes import BOOL, FP32, INT64, SCALAR, Shape
from memplanner.tape import nn
from memplanner.tape.engine import Node, Param, Tape, Tensor

if TYPE_CHECKING:
    from memplanner.components.context import Context


class FusedLinearCrossEntropy(Loss):
    """Head and loss in one kernel that makes the gradients during forward (Liger)."""

    label: ClassVar[str] = "fused linear cross-entropy"
    multiplies_head: ClassVar[bool] = True
    kind: Literal["fused"] = "fused"

    def run(self, ctx: "Context", model: LanguageModel, batch: Batch) -> Losses:
        """Chunk by chunk, of as many tokens as keep a chunk's logits about as large as the input
        (liger_kernel 0.8.0, which Axolotl pins: transformers/model/loss_utils.py, LigerForCausalLMLoss, and
        ops/fused_linear_cross_entropy.py). From 0.8.5 on the head's gradient is made without the copies.
        """
        hidden = model.hidden_states(batch["input_ids"])
        head = model.head_weight()
        tape, tokens, width = ctx.tape, ctx.batch * ctx.seq, hidden.shape.dims[-1]
        tape.phase("loss")
        padded = tape.new(Shape(batch=ctx.batch, seq=ctx.seq + 1), INT64, "padded labels")
        shifted = tape.new(Shape(batch=ctx.batch, seq=ctx.seq), INT64, "shifted labels")
        grad_input = tape.like(hidden, "gradient of the head's input")
        grad_weight = None if head.node is None else tape.new(head.shape, head.dtype, "gradient of the head")
        losses = tape.new(Shape(tokens=tokens), FP32, "losses per token")
        mask = tape.new(Shape(tokens=tokens), BOOL, "whether a label counts")
        at_once = min(1 << (-(-tokens // -(-model.vocab // width)) - 1).bit_length(), tokens)
        with ctx.no_grad():
            held: list[Tensor] = []
            _chunk(ctx, hidden, head, at_once, held)
            if tokens > at_once:
                _chunk(ctx, hidden, head, min(at_once, tokens - at_once), held)
        loss = tape.new(SCALAR, FP32, "loss")
        loss.node = tape.record(_fused_backward, (hidden.node, head.node), (grad_input, grad_weight))
        del held, mask, losses, padded, shifted
        return Losses(loss)


def _chunk(ctx: "Context", hidden: Tensor, head: Param, tokens: int, held: list[Tensor]) -> None:
    """A chunk's logits, over which their gradient is written, and what the gradients of the head and of its input are
    made with. held: the logits of the chunk before, which live until this one's, which take their place, are there.
    """
    tape, autocast = ctx.tape, ctx.autocast
    vocab, width = head.shape.dims
    dtype = autocast or hidden.dtype
    rows = Shape(tokens=tokens, hidden=width)
    # The head is transposed for the first product: a view, whose cast is not cached.
    cast_head = None if head.dtype is dtype else tape.new(head.shape, dtype, "head cast by autocast")
    cast = None if hidden.dtype is dtype else tape.new(rows, dtype, "input cast by autocast")
    logits = tape.new(Shape(tokens=tokens, vocab=vocab), dtype, "logits of a chunk")
    del cast_head, cast
    held[:] = [logits]
    del logits
    whole = nn.cast_param(tape, head, dtype)
    part = tape.new(rows, dtype, "input gradient of a chunk")
    del whole, part
    if head.node is not None:
        cast = None if hidden.dtype is dtype else tape.new(rows, dtype, "input cast by autocast")
        product = tape.new(head.shape, dtype, "head gradient of a chunk")
        del cast
        in_fp32 = None if dtype is FP32 else tape.new(head.shape, FP32, "head gradient of a chunk in fp32")
        del product, in_fp32


def _fused_backward(tape: Tape, node: Node, grad: Tensor, saved: Any) -> tuple[Tensor | None, Tensor | None]:
    grad_input, grad_weight = saved
    return (None if node.edges[0] is None else grad_input), grad_weight
