"""Head and loss in kernels that never make the logits (Apple's Cut Cross Entropy, arXiv 2411.09009)."""

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from memplanner.components.losses.base import Batch, LanguageModel, Loss, Losses
from memplanner.program.shapes import BF16, BOOL, FP32, INT32, INT64, SCALAR, Shape
from memplanner.tape import ops
from memplanner.tape.engine import Node, Tape, Tensor

if TYPE_CHECKING:
    from memplanner.components.context import Context


class CutCrossEntropy(Loss):
    """Head and loss in kernels that never make the logits (Apple's cut-cross-entropy, and Axolotl's fork of it)."""

    label: ClassVar[str] = "cut cross-entropy"
    kind: Literal["cut-cross-entropy"] = "cut-cross-entropy"

    def run(self, ctx: "Context", model: LanguageModel, batch: Batch) -> Losses:
        """cce_linear_cross_entropy with the defaults, implementation "cce", which accumulates gradients in the type of
        what they are gradients of (cut_cross_entropy/cce.py). Every token but a sequence's last has a label.

        What the kernels are handed, and nothing else, is counted: Triton's own need no memory, and are tuned in advance
        (tl_autotune.py, without CCE_AUTOTUNE). What torch's nonzero and sort take inside is left out, a few bytes per
        token and vocabulary entry, while what the function makes later is larger.
        """
        hidden = model.hidden_states(batch["input_ids"])
        head = model.head_weight()
        tape, vocab = ctx.tape, model.vocab
        tape.phase("loss")
        if head.dtype is BF16:  # transformers/utils.py, apply_lce
            hidden = ops.to(hidden, BF16, "head's input in bf16")
        labelled = Shape(batch=ctx.batch, seq=max(1, ctx.seq - 1))
        places = Shape(batch=ctx.batch, seq=max(1, ctx.seq - 1), two=2)
        # utils.py, _build_flat_valids
        is_label = tape.new(labelled, BOOL, "whether a label counts")
        where = tape.new(places, INT64, "places of the labels")
        del is_label
        small = tape.new(places, INT32, "places of the labels in int32")
        del where
        valid = tape.new(labelled, INT64, "places of the labels, flat")
        del small
        # cce_lse_forward.py, cce_lse_forward_kernel
        lse = tape.new(labelled, FP32, "log-sum-exp per token")
        locks = tape.new(Shape(blocks=-(-labelled.numel // 128)), INT32, "locks")
        average = tape.new(Shape(vocab=vocab), FP32, "average logits")
        del locks
        # indexed_dot.py, indexed_neg_dot_forward_kernel, whose output becomes the losses in place
        losses = tape.new(labelled, FP32, "losses per token")
        loss = tape.new(SCALAR, FP32, "loss")
        saved = (hidden, lse, batch["labels"], average)
        # The function's own settings (CCEParams) hold the places as well, for as long as there is a loss.
        kept = (hidden.shape, hidden.dtype, head, valid)
        loss.node = tape.record(_cut_backward, (hidden.node, head.node), saved, kept)
        del losses
        return Losses(loss)


def _cut_backward(tape: Tape, node: Node, grad: Tensor, saved: Any) -> tuple[Tensor | None, Tensor | None]:
    """cce_backward.py, cce_backward_kernel, after sort_logit_avg."""
    shape, dtype, head, valid = node.ctx
    vocab, width = head.shape.dims
    values = tape.new(Shape(vocab=vocab), FP32, "average logits, sorted")
    order = tape.new(Shape(vocab=vocab), INT64, "order of the vocabulary")
    ordering = tape.new(Shape(vocab=vocab), INT32, "order of the vocabulary in int32")
    del values, order
    blocks, tokens = -(-width // 64), valid.shape.numel
    x_grad = w_grad = x_locks = w_locks = None
    if node.edges[0] is not None:
        x_grad = tape.new(shape, dtype, "gradient of the head's input")
    if node.edges[1] is not None:
        w_grad = tape.new(head.shape, head.dtype, "gradient of the head")
    if x_grad is not None:
        x_locks = tape.new(Shape(blocks=-(-tokens // 128), parts=blocks), INT32, "locks")
    if w_grad is not None:
        w_locks = tape.new(Shape(blocks=-(-vocab // 128), parts=blocks), INT32, "locks")
    del ordering, x_locks, w_locks
    return x_grad, w_grad
