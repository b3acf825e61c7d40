"""Losses on the tape."""

from typing import Any

from memplanner.program.shapes import SCALAR
from memplanner.tape.engine import Node, Tape, Tensor


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """torch.nn.functional.cross_entropy: log_softmax, whose output is saved, then nll_loss."""
    tape = logits.tape
    log_probs = tape.like(logits, "log-probabilities")
    log_probs.node = tape.record(_log_softmax_backward, (logits.node,), (log_probs,))
    loss = tape.new(SCALAR, logits.dtype, "loss")
    total_weight = tape.new(SCALAR, logits.dtype, "total weight")
    loss.node = tape.record(_nll_backward, (log_probs.node,), (log_probs, labels, total_weight), log_probs.shape)
    return loss


def mse(x: Tensor, target: Tensor) -> Tensor:
    """torch.nn.functional.mse_loss: the mean of the squares, in the wider of the two types."""
    tape = x.tape
    wider = x if x.dtype.size > target.dtype.size else target
    squares = tape.like(wider, "squared differences")
    loss = tape.new(SCALAR, wider.dtype, "loss")
    del squares
    loss.node = tape.record(_mse_backward, (x.node,), (x, target), x)
    return loss


def _mse_backward(tape: Tape, node: Node, grad: Tensor, saved: Any) -> tuple[Tensor]:
    return (tape.like(node.ctx, "gradient"),)


def _nll_backward(tape: Tape, node: Node, grad: Tensor, saved: Any) -> tuple[Tensor]:
    return (tape.new(node.ctx, grad.dtype, "gradient of the log-probabilities"),)


def _log_softmax_backward(tape: Tape, node: Node, grad: Tensor, saved: Any) -> tuple[Tensor]:
    return (tape.like(grad, "gradient of the logits"),)
