"""Sums, means and what else makes fewer elements of many."""

from collections.abc import Sequence
from typing import Any

from memplanner.program.shapes import INT64, Dtype, Shape
from memplanner.tape import ops, strides
from memplanner.tape.aten.base import Rule, as_tensor, is_float, strides_of, view_of
from memplanner.tape.aten.views import expanded
from memplanner.tape.engine import Node, Param, Tape, Tensor

Outs = tuple[Shape, ...]
Grads = tuple[Tensor | None, ...]
Source = Tensor | Param


def _reduced_dims(x: Source, dims: Sequence[int] | int | None) -> tuple[int, ...]:
    """The dimensions counted from the front; all of them where none are named."""
    if isinstance(dims, int):
        dims = (dims,)
    rank = len(x.shape.dims)
    return tuple([dim % rank for dim in dims]) if dims else tuple(range(rank))


def _with_ones(shape: Shape, dims: Sequence[int]) -> Shape:
    """The shape of a reduction that keeps the dimensions."""
    sizes = [1 if place in dims else size for place, size in enumerate(shape.dims)]
    return Shape(**dict(zip(shape.labels, sizes, strict=True)))


def _spread(tape: Tape, grad: Tensor, shape: Shape, dims: Sequence[int]) -> Tensor:
    """The gradient of a reduction, expanded to its input's shape (FunctionsManual.cpp, sum_backward)."""
    kept_dims = _with_ones(shape, dims)
    if len(grad.shape.dims) != len(shape.dims):
        order = list(strides_of(grad))
        for dim in sorted(dims):
            order.insert(dim, 1)
        grad = view_of(tape, grad, kept_dims, strides.normal(kept_dims.dims, tuple(order)))
    return expanded(tape, grad, shape)


def _sum(
    tape: Tape, outs: Outs, x: Source, dims: Any = None, keepdim: bool = False, dtype: Dtype | None = None
) -> Tensor:
    node = tape.record(_sum_backward, (x.node,), None, (x.shape, _reduced_dims(x, dims)), (x.dtype,))
    out = tape.new(outs[0], dtype or (x.dtype if is_float(x.dtype) else INT64), "sum")
    out.node = node
    return out


def _sum_backward(tape: Tape, node: Node, grad: Tensor, saved: Any) -> Grads:
    return (_spread(tape, grad, *node.ctx),)


def _mean(tape: Tape, outs: Outs, x: Source, dims: Any = None, keepdim: bool = False) -> Tensor:
    node = tape.record(_mean_backward, (x.node,), None, (x.shape, _reduced_dims(x, dims)))
    out = tape.new(outs[0], x.dtype, "mean")
    out.node = node
    return out


def _mean_backward(tape: Tape, node: Node, grad: Tensor, saved: Any) -> Grads:
    return (tape.like(_spread(tape, grad, *node.ctx), "gradient"),)


def _softmax(tape: Tape, outs: Outs, x: Source, dim: int = -1, dtype: Dtype | None = None) -> Tensor:
    """softmax in `dtype`, as ops.softmax has it, over any dimension."""
    return ops.softmax(as_tensor(tape, x), dtype or x.dtype)


REDUCTIONS: dict[str, Rule] = {
    "sum": _sum,
    "mean": _mean,
    "softmax": _softmax,
}
