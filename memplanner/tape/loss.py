"""Losses on the tape."""

from typing import Any

from memplanner.tape import ops
from memplanner.tape.engine import Node, Tape, Tensor
from memplanner.tape.shapes import FP32, INT64, SCALAR, Dtype, Shape


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


def causal_lm_loss(logits: Tensor, labels: Tensor, batch: int, seq: int) -> Tensor:
    """transformers' ForCausalLMLoss: logits in fp32, labels shifted by a padded copy."""
    tape = logits.tape
    logits = ops.to(logits, FP32, "logits in fp32")
    padded = tape.new(Shape(batch=batch, seq=seq + 1), INT64, "padded labels")
    shifted = tape.new(Shape(batch=batch, seq=seq), INT64, "shifted labels")
    loss = cross_entropy(logits, shifted)
    del padded, shifted
    return loss
