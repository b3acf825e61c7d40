"""Losses on the tape."""

from collections.abc import Callable
from typing import Any

from memplanner.program.shapes import FP32, INT64, SCALAR, Shape
from memplanner.tape import ops
from memplanner.tape.engine import Node, Param, Tape, Tensor


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """torch.nn.functional.cross_entropy: log_softmax, which is kept, then nll_loss."""
    tape = logits.tape
    log_probs = tape.like(logits, "log-probabilities")
    log_probs.node = tape.record(_log_softmax_backward, (logits.node,), (log_probs,))
    loss = tape.new(SCALAR, logits.dtype, "loss")
    total_weight = tape.new(SCALAR, logits.dtype, "total weight")
    loss.node = tape.record(_nll_backward, (log_probs.node,), (log_probs, labels, total_weight), log_probs.shape)
    return loss


def _nll_backward(tape: Tape, node: Node, grad: Tensor, saved: Any) -> tuple[Tensor]:
    return (tape.new(node.ctx, grad.dtype, "gradient of the log-probabilities"),)


def _log_softmax_backward(tape: Tape, node: Node, grad: Tensor, saved: Any) -> tuple[Tensor]:
    return (tape.like(grad, "gradient of the logits"),)


def causal_lm_loss(logits: Tensor, labels: Tensor, batch: int, seq: int, shifts: str = "labels") -> Tensor:
    """transformers' ForCausalLMLoss: logits in fp32, labels shifted by a padded copy; before, logits by a copy."""
    tape = logits.tape
    logits = ops.to(logits, FP32, "logits in fp32")
    if shifts == "logits":
        shorter = dict(zip(logits.shape.labels, logits.shape.dims, strict=True)) | {"seq": max(1, seq - 1)}
        copy = ops.slice_copy(logits, Shape(**shorter), "logits without the last token")
        shifted = tape.new(Shape(batch=batch, seq=max(1, seq - 1)), INT64, "shifted labels")
        return cross_entropy(copy, shifted)
    padded = tape.new(Shape(batch=batch, seq=seq + 1), INT64, "padded labels")
    shifted = tape.new(Shape(batch=batch, seq=seq), INT64, "shifted labels")
    loss = cross_entropy(logits, shifted)
    del padded, shifted
    return loss


def chunked_cross_entropy(
    tape: Tape,
    hidden: Tensor,
    project: Callable[[Tensor, Shape], Tensor],
    *,
    batch: int,
    seq: int,
    vocab: int,
    chunks: int,
) -> Tensor:
    """Head and loss over chunks of the sequence, each under a checkpoint: one chunk's logits are alive at a time.

    project: the output projection, (tokens, hidden) to (tokens, vocab).
    """
    chunks = min(chunks, seq)
    part = -(-seq // chunks)
    width = hidden.shape.dims[-1]
    rows = Shape(batch=batch, seq=part, hidden=width)
    labels = tape.new(Shape(batch=batch, seq=part), INT64, "shifted labels of a chunk")

    def one(x: Tensor) -> Tensor:
        logits = ops.to(project(x, Shape(batch=batch, seq=part, vocab=vocab)), FP32, "logits of a chunk in fp32")
        return cross_entropy(logits, labels)

    total: Tensor | None = None
    for chunk in ops.split(hidden, rows, -(-seq // part)):
        loss = tape.checkpoint(one, chunk)
        total = loss if total is None else ops.add(total, loss, "loss so far")
    assert total is not None
    return total


def fused_linear_cross_entropy(
    tape: Tape, hidden: Tensor, weight: Param | Tensor, *, tokens: int, vocab: int
) -> Tensor:
    """Head and loss in one function whose forward already makes the gradients, chunk by chunk (Liger-Kernel,
    ops/fused_linear_cross_entropy.py: as many tokens at once as keep a chunk's logits about as large as the input).
    """
    width = hidden.shape.dims[-1]
    at_once = 1 << (-(-tokens // -(-vocab // width)) - 1).bit_length()
    at_once = min(at_once, tokens)
    grad_input = tape.like(hidden, "gradient of the head's input")
    learns = weight.node is not None
    grad_weight = tape.new(weight.shape, hidden.dtype, "gradient of the head") if learns else None
    losses = tape.new(Shape(tokens=tokens), FP32, "losses per token")
    logits = tape.new(Shape(tokens=at_once, vocab=vocab), hidden.dtype, "logits of a chunk")
    part = tape.new(Shape(tokens=at_once, hidden=width), hidden.dtype, "input gradient of a chunk")
    product = tape.new(weight.shape, hidden.dtype, "head gradient of a chunk") if learns else None
    del logits, part, product
    loss = tape.new(SCALAR, FP32, "loss")
    loss.node = tape.record(_fused_backward, (hidden.node, weight.node), (grad_input, grad_weight))
    del losses
    return loss


def _fused_backward(tape: Tape, node: Node, grad: Tensor, saved: Any) -> tuple[Tensor | None, Tensor | None]:
    grad_input, grad_weight = saved
    return (None if node.edges[0] is None else grad_input), grad_weight
