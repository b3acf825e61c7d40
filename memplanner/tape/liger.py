"""Liger-Kernel's autograd functions on the tape (0.8.0, liger_kernel/ops): what they keep, and make in Python.

A gradient is written over the one that comes in, or over what was saved. Left out: one fp32 row per multiprocessor of
the card, in which a norm's backward pass sums its weight's gradient (2 MiB on an H100 for 4096 features).
"""

from typing import Any

from memplanner.program.shapes import FP32, Shape
from memplanner.tape import ops
from memplanner.tape.engine import Node, Param, Tape, Tensor


def rms_norm(x: Tensor, weight: Param, rows: Shape) -> Tensor:
    """LigerRMSNormFunction (rms_norm.py), in place and cast as Llama's: the output is of the input's type."""
    tape = x.tape
    x = ops.contiguous(x)
    out = tape.like(x, "norm output")
    rstd = tape.new(rows, FP32, "reciprocal root per row")
    out.node = tape.record(_rms_norm_backward, (x.node, weight.node), (x, rstd), weight)
    return out


def _rms_norm_backward(tape: Tape, node: Node, grad: Tensor, saved: Any) -> tuple[Tensor, Tensor | None]:
    weight = node.ctx
    if grad.transposed:
        grad = tape.new(grad.shape, grad.dtype, "contiguous gradient")
    w_grad = tape.new(weight.shape, FP32, "weight gradient")
    if weight.dtype is not FP32:
        w_grad = tape.new(weight.shape, weight.dtype, "weight gradient")
    return tape.view(grad, grad.shape), None if node.edges[1] is None else w_grad


def rotate(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """LigerRopeFunction (rope.py): queries and keys (batch, heads, seq, dim), laid out by token, are rotated where they
    are, and so are their gradients.
    """
    tape = q.tape
    both = tape.record(_rotate_backward, (q.node, k.node), (cos, sin), [])
    outs = []
    for x in (q, k):
        out = tape.view(x, x.shape)
        out.transposed = x.transposed
        out.node = tape.record(_handed_on, (both,))
        outs.append(out)
    return outs[0], outs[1]


def _handed_on(tape: Tape, node: Node, grad: Tensor, saved: Any) -> tuple[Tensor | None]:
    both = node.edges[0]
    assert isinstance(both, Node)
    both.ctx.append(grad)
    return (grad if both.grad is None else None,)


def _rotate_backward(tape: Tape, node: Node, grad: Tensor, saved: Any) -> tuple[Tensor, ...]:
    of_k, of_q = node.ctx
    node.ctx.clear()
    out = []
    for x in (of_q, of_k):
        by_token = tape.view(x, x.shape) if x.transposed else tape.new(x.shape, x.dtype, "gradient by token")
        by_token.transposed = True
        out.append(by_token)
    return tuple(out)


def silu_mul(gate: Tensor, up: Tensor) -> Tensor:
    """LigerSiLUMulFunction (swiglu.py): silu(gate) * up, whose gradients take the place of gate and up."""
    tape = gate.tape
    out = tape.like(gate, "gated")
    out.node = tape.record(_silu_mul_backward, (gate.node, up.node), (gate, up))
    return out


def _silu_mul_backward(tape: Tape, node: Node, grad: Tensor, saved: Any) -> tuple[Tensor, Tensor]:
    gate, up = saved
    return tape.view(gate, gate.shape), tape.view(up, up.shape)
