"""New tensors that depend on no other's elements, and those with its elements elsewhere: padded, repeated, flipped."""

from typing import Any

from memplanner.program.shapes import Dtype, Shape
from memplanner.tape.aten.base import Rule, like
from memplanner.tape.engine import Node, Param, Tape, Tensor

Outs = tuple[Shape, ...]
Grads = tuple[Tensor | None, ...]
Source = Tensor | Param


def _maker(name: str) -> Rule:
    """rule(dtype): zeros, arange and the like."""

    def rule(tape: Tape, outs: Outs, dtype: Dtype, *_: Any) -> Tensor:
        return tape.new(outs[0], dtype, name)

    return rule


def _maker_like(name: str) -> Rule:
    """rule(x, dtype): zeros_like and the like, in x's memory order."""

    def rule(tape: Tape, outs: Outs, x: Source, dtype: Dtype | None = None, *_: Any) -> Tensor:
        return like(tape, x, name, dtype)

    return rule


def _maker_for(name: str) -> Rule:
    """rule(x, dtype): x.new_zeros and the like."""

    def rule(tape: Tape, outs: Outs, x: Source, dtype: Dtype | None = None, *_: Any) -> Tensor:
        return tape.new(outs[0], dtype or x.dtype, name)

    return rule


def _pad(tape: Tape, outs: Outs, x: Source, *_: Any) -> Tensor:
    """constant_pad_nd: a copy, as is backward's."""
    node = tape.record(_pad_backward, (x.node,), None, x.shape)
    out = tape.new(outs[0], x.dtype, "padded")
    out.node = node
    return out


def _pad_backward(tape: Tape, node: Node, grad: Tensor, saved: Any) -> Grads:
    return (tape.new(node.ctx, grad.dtype, "gradient without padding"),)


def _rearranged(name: str, *, keeps_order: bool = False) -> Rule:
    """flip, roll, tril and triu, whose backward is alike. keeps_order: whether the result is in x's memory order."""

    def backward(tape: Tape, node: Node, grad: Tensor, saved: Any) -> Grads:
        return (tape.like(grad, "gradient") if keeps_order else tape.new(grad.shape, grad.dtype, "gradient"),)

    def rule(tape: Tape, outs: Outs, x: Source, *_: Any) -> Tensor:
        node = tape.record(backward, (x.node,))
        out = like(tape, x, name) if keeps_order else tape.new(outs[0], x.dtype, name)
        out.node = node
        return out

    return rule


def _repeat(tape: Tape, outs: Outs, x: Source, *_: Any) -> Tensor:
    """x.repeat(sizes); backward sums over dimensions that it added, then over the others."""
    node = tape.record(_repeat_backward, (x.node,), None, x.shape)
    out = tape.new(outs[0], x.dtype, "repeated")
    out.node = node
    return out


def _repeat_backward(tape: Tape, node: Node, grad: Tensor, saved: Any) -> Grads:
    shape: Shape = node.ctx
    added = len(grad.shape.dims) - len(shape.dims)
    sizes = dict(zip(grad.shape.labels[added:], grad.shape.dims[added:], strict=True))
    if added:
        grad = tape.new(Shape(**sizes), grad.dtype, "gradient summed over added dimensions")
    if grad.shape.dims == shape.dims:
        return (grad,)
    return (tape.new(shape, grad.dtype, "gradient summed over repeats"),)


_NAMES = {
    "zeros": "zeros",
    "ones": "ones",
    "full": "constant",
    "empty": "uninitialised",
    "rand": "random",
    "randn": "random",
}

MAKING: dict[str, Rule] = {
    "arange": _maker("range"),
    "scalar_tensor": _maker("number"),
    "constant": _maker("constant"),
    "linspace": _maker("range"),
    "constant_pad_nd": _pad,
    "repeat": _repeat,
    "flip": _rearranged("flipped", keeps_order=True),
    "roll": _rearranged("rolled"),
    "tril": _rearranged("lower triangle"),
    "triu": _rearranged("upper triangle"),
    **{name: _maker(label) for name, label in _NAMES.items()},
    **{f"{name}_like": _maker_like(label) for name, label in _NAMES.items()},
    **{f"new_{name}": _maker_for(_NAMES[name]) for name in ("zeros", "ones", "full", "empty")},
}
