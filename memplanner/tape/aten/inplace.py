"""Operations in place: the tensor stays, and gets a new node. What a derivative needs of the tensor before is cloned.

Written into a view, the change becomes a node of the view's base (torch/csrc/autograd/functions/tensor.cpp,
CopySlices).
"""

from collections.abc import Sequence
from typing import Any

from memplanner.program.shapes import Shape
from memplanner.tape.aten import elementwise, indexing
from memplanner.tape.aten.base import Operand, Rule, kept, laid_out, like, node_of, order_of, view_of
from memplanner.tape.engine import Backward, Node, Param, Tape, Tensor
from memplanner.tape.strides import Strides

Outs = tuple[Shape, ...]
Grads = tuple[Tensor | None, ...]


def _changed(
    tape: Tape, x: Tensor, others: tuple[Operand, ...], fn: Backward, saved: Any = None, ctx: Any = None
) -> Tensor:
    """x after an operation in place on it, of x and others, with `fn` as its derivative."""
    operands = (x, *others)
    edges = tuple([node_of(operand) for operand in operands])
    casts = tuple([operand.dtype if isinstance(operand, Tensor | Param) else None for operand in operands])
    shapes = tuple([operand.shape if isinstance(operand, Tensor | Param) else None for operand in operands])
    base = x.base
    if base is None or isinstance(base, Param):
        x.node = tape.record(fn, edges, saved, ctx, casts, shapes)
        return x
    slices = _Slices(fn, ctx, base.shape, order_of(base), x.shape, order_of(x))
    # The derivative is destroyed with all it saved, in the opposite order of that in which a node lets go of it.
    back = saved and saved[::-1]
    node = tape.record(_slices_backward, (base.node, *edges[1:]), back, slices, casts, (base.shape, *shapes[1:]))
    if node is not None:
        base.node = node
        x.node = tape.record(_base_backward, (node,), None, base.shape)
    return x


class _Slices:
    """A change to a view: its derivative, and the shapes and memory orders of the base and of the view."""

    __slots__ = ("base", "base_order", "ctx", "fn", "order", "shape")

    def __init__(
        self, fn: Backward, ctx: Any, base: Shape, base_order: Strides | None, shape: Shape, order: Strides | None
    ) -> None:
        self.fn, self.ctx = fn, ctx
        self.base, self.base_order = base, base_order
        self.shape, self.order = shape, order


def _slices_backward(tape: Tape, node: Node, grad: Tensor, saved: Any) -> Grads:
    """CopySlices: the base's gradient is a copy. What the derivative makes of a copy of the part is written into it."""
    slices: _Slices = node.ctx
    whole = laid_out(tape.new(slices.base, grad.dtype, "gradient of the base"), slices.base_order)
    part = view_of(tape, whole, slices.shape, slices.order)
    piece = tape.new(slices.shape, grad.dtype, "gradient of the part")
    inner = Node(slices.fn, node.edges, None, slices.ctx, node.casts)
    grads = list(slices.fn(tape, inner, piece, saved and saved[::-1]))
    del piece
    grads[0] = None  # it is written into the part
    if node.edges[0] is not None:
        grads[0] = whole
    del part, whole
    return tuple(grads)


def _base_backward(tape: Tape, node: Node, grad: Tensor, saved: Any) -> Grads:
    return (tape.new(node.ctx, grad.dtype, "gradient of the base"),)


def _before(tape: Tape, x: Tensor) -> Tensor:
    """A clone of what x was."""
    return like(tape, x, "clone of what is changed")


def _add(tape: Tape, outs: Outs, x: Tensor, other: Operand, *_: Any) -> Tensor:
    return _changed(tape, x, (other,), elementwise.add_backward)


def _sub(tape: Tape, outs: Outs, x: Tensor, other: Operand, *_: Any) -> Tensor:
    return _changed(tape, x, (other,), elementwise.sub_backward)


def _scaled(fn: Backward, *, keeps_other: bool) -> Rule:
    """mul_ and div_. keeps_other: the other one is saved whichever of the two needs a gradient."""

    def rule(tape: Tape, outs: Outs, x: Tensor, other: Operand, *_: Any) -> Tensor:
        saved = None
        if isinstance(other, Tensor | Param) and (x.node is not None or other.node is not None) and tape.grad_enabled:
            before = _before(tape, x) if other.node is not None else None
            saved = before, kept(other) if keeps_other or x.node is not None else None
            del before
        return _changed(tape, x, (other,), fn, saved)

    return rule


def _unary(fn: Backward = elementwise.elementwise_backward, *, saves: str = "") -> Rule:
    """A function of one tensor. saves: "input", which is cloned, "output" or nothing ("")."""

    def rule(tape: Tape, outs: Outs, x: Tensor, *_: Any) -> Tensor:
        if x.node is None or not tape.grad_enabled:
            return x
        saved = (_before(tape, x),) if saves == "input" else (x,) if saves == "output" else None
        return _changed(tape, x, (), fn, saved)

    return rule


def _masked_fill(tape: Tape, outs: Outs, x: Tensor, mask: Tensor, *_: Any) -> Tensor:
    return _changed(tape, x, (), elementwise.masked_fill_backward, (mask,))


def _copy(tape: Tape, outs: Outs, x: Tensor, source: Operand, *_: Any) -> Tensor:
    return _changed(
        tape, x, (source,), _copy_backward, None, source.dtype if isinstance(source, Tensor | Param) else None
    )


def _copy_backward(tape: Tape, node: Node, grad: Tensor, saved: Any) -> Grads:
    """Zeros for what was overwritten, the gradient itself, cast, for the source (CopyBackwards)."""
    zeros = None if node.edges[0] is None else tape.new(grad.shape, grad.dtype, "zeros")
    if node.edges[1] is None:
        return zeros, None
    return zeros, grad if grad.dtype is node.ctx else tape.like(grad, "gradient cast", node.ctx)


def _fill(tape: Tape, outs: Outs, x: Tensor, *_: Any) -> Tensor:
    """fill_, zero_ and random numbers: nothing of what was there matters any more."""
    return _changed(tape, x, (), elementwise.zeros_backward)


def _clamp(tape: Tape, outs: Outs, x: Tensor, low: float | None = None, high: float | None = None) -> Tensor:
    if x.node is None or not tape.grad_enabled:
        return x
    saved = (_before(tape, x),)
    return _changed(tape, x, (), elementwise.clamp_backward, saved, low is not None and high is not None)


def _scatter(tape: Tape, outs: Outs, x: Tensor, dim: int, indices: Tensor, source: Any = 0, *_: Any) -> Tensor:
    shape = source.shape if isinstance(source, Tensor | Param) else None
    return _changed(tape, x, (source,), indexing.scatter_backward, (indices,), shape)


def _index_put(
    tape: Tape, outs: Outs, x: Tensor, indices: Sequence[Tensor | None], values: Tensor, accumulate: bool = False
) -> Tensor:
    fn = indexing.index_add_backward if accumulate else indexing.index_put_backward
    return _changed(tape, x, (values,), fn, tuple([kept(index) for index in indices]), values.shape)


def _index_add(tape: Tape, outs: Outs, x: Tensor, dim: int, indices: Tensor, source: Tensor, *_: Any) -> Tensor:
    saved = (indexing.added(source), indices)
    return _changed(tape, x, (source,), indexing.index_add_backward, saved, source.shape)


IN_PLACE: dict[str, Rule] = {
    "add_": _add,
    "sub_": _sub,
    "mul_": _scaled(elementwise.mul_backward, keeps_other=False),
    "div_": _scaled(elementwise.div_backward, keeps_other=True),
    "neg_": _unary(),
    "relu_": _unary(elementwise.threshold_backward, saves="output"),
    **{name: _unary(saves="input") for name in ("silu_", "gelu_")},
    **{name: _unary(saves="output") for name in ("exp_", "tanh_", "sigmoid_")},
    "clamp_": _clamp,
    "scatter_": _scatter,
    "index_put_": _index_put,
    "index_add_": _index_add,
    "masked_fill_": _masked_fill,
    "copy_": _copy,
    **dict.fromkeys(("fill_", "zero_", "uniform_", "normal_", "exponential_", "bernoulli_"), _fill),
}
