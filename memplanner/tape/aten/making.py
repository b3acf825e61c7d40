"""New tensors that depend on no other's elements, and padding."""

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
    "linspace": _maker("range"),
    "constant_pad_nd": _pad,
    **{name: _maker(label) for name, label in _NAMES.items()},
    **{f"{name}_like": _maker_like(label) for name, label in _NAMES.items()},
    **{f"new_{name}": _maker_for(label) for name, label in _NAMES.items()},
}
