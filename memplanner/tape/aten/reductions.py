"""Sums, means and what else makes fewer elements of many."""

from collections.abc import Sequence
from typing import Any

from memplanner.program.shapes import BOOL, INT64, Dtype, Shape
from memplanner.tape import ops, strides
from memplanner.tape.aten.base import Rule, as_tensor, is_float, kept, strides_of, view_of, without_gradient
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


def _log_softmax(tape: Tape, outs: Outs, x: Source, dim: int = -1, dtype: Dtype | None = None) -> Tensor:
    """log_softmax, of which an input of another type is cast first."""
    x = as_tensor(tape, x) if dtype is None else ops.to(as_tensor(tape, x), dtype, "log_softmax input")
    out = tape.new(x.shape, x.dtype, "log-probabilities")
    out.node = tape.record(_whole_backward, (x.node,), (out,))
    return out


def _whole_backward(tape: Tape, node: Node, grad: Tensor, saved: Any) -> Grads:
    return (tape.new(grad.shape, grad.dtype, "gradient"),)


def _amax(tape: Tape, outs: Outs, x: Source, dims: Any = (), keepdim: bool = False) -> Tensor:
    """amax and amin; backward shares the gradient among equal elements (scale_grad_by_count)."""
    out = tape.new(outs[0], x.dtype, "largest")
    out.node = tape.record(_amax_backward, (x.node,), (out, kept(x)), (x.shape, _reduced_dims(x, dims)))
    return out


def _amax_backward(tape: Tape, node: Node, grad: Tensor, saved: Any) -> Grads:
    shape, dims = node.ctx
    mask = tape.new(shape, BOOL, "where the largest are")
    count = tape.new(_with_ones(shape, dims), INT64, "number of the largest")
    quotient = tape.like(grad, "gradient by number")
    out = tape.new(shape, grad.dtype, "gradient")
    del quotient, count, mask
    return (out,)


def _cumsum(tape: Tape, outs: Outs, x: Source, dim: int, dtype: Dtype | None = None) -> Tensor:
    node = tape.record(_cumsum_backward, (x.node,), None, None, (x.dtype,))
    out = tape.new(outs[0], dtype or (x.dtype if is_float(x.dtype) else INT64), "cumulative sum")
    out.node = node
    return out


def _cumsum_backward(tape: Tape, node: Node, grad: Tensor, saved: Any) -> Grads:
    """grad.flip(dim).cumsum(dim).flip(dim)."""
    flipped = tape.like(grad, "flipped gradient")
    summed = tape.new(grad.shape, grad.dtype, "cumulative sum")
    out = tape.like(summed, "gradient")
    del summed, flipped
    return (out,)


def _logsumexp(tape: Tape, outs: Outs, x: Source, dims: Any = None, keepdim: bool = False) -> Tensor:
    out = tape.new(outs[0], x.dtype, "logarithm of a sum")
    out.node = tape.record(_logsumexp_backward, (x.node,), (out, kept(x)), x.shape)
    return out


def _logsumexp_backward(tape: Tape, node: Node, grad: Tensor, saved: Any) -> Grads:
    """grad * (self - result).exp()."""
    difference = tape.new(node.ctx, grad.dtype, "difference")
    power = tape.like(difference, "exponential")
    out = tape.like(power, "gradient")
    del power, difference
    return (out,)


def _vector_norm(
    tape: Tape, outs: Outs, x: Source, order: float = 2, dims: Any = None, keepdim: bool = False, *_: Any
) -> Tensor:
    """linalg_vector_norm of order 2."""
    out = tape.new(outs[0], x.dtype, "norm")
    if order != 2:
        without_gradient(tape, f"a norm of order {order}", x)
    out.node = tape.record(_vector_norm_backward, (x.node,), (out, kept(x)), x.shape)
    return out


def _vector_norm_backward(tape: Tape, node: Node, grad: Tensor, saved: Any) -> Grads:
    """grad * (self / norm).masked_fill_(norm == 0, 0)."""
    quotient = tape.new(node.ctx, grad.dtype, "quotient")
    mask = tape.like(grad, "where the norm is 0", BOOL)
    out = tape.like(quotient, "gradient")
    del mask, quotient
    return (out,)


def _var(tape: Tape, outs: Outs, x: Source, *args: Any) -> Tensor:
    node = tape.record(_var_backward, (x.node,), (kept(x),), x.shape)
    out = tape.new(outs[0], x.dtype, "variance")
    out.node = node
    return out


def _var_backward(tape: Tape, node: Node, grad: Tensor, saved: Any) -> Grads:
    """(2 / (n - 1)) * grad * (self - self.mean(dim, True)) (FunctionsManual.cpp, var_backward)."""
    mean = tape.like(grad, "mean")
    difference = tape.new(node.ctx, grad.dtype, "difference")
    scaled = tape.like(grad, "scaled gradient")
    out = tape.like(difference, "gradient")
    del scaled, difference, mean
    return (out,)


def _counted(name: str, dtype: Dtype | None) -> Rule:
    """A reduction without a derivative. dtype: of its result, where it is not the input's."""

    def rule(tape: Tape, outs: Outs, x: Source, *_: Any) -> Tensor:
        if dtype is None:
            without_gradient(tape, name, x)
        return tape.new(outs[0], dtype or x.dtype, name)

    return rule


REDUCTIONS: dict[str, Rule] = {
    "log_softmax": _log_softmax,
    "amax": _amax,
    "amin": _amax,
    "cumsum": _cumsum,
    "logsumexp": _logsumexp,
    "linalg_vector_norm": _vector_norm,
    "var": _var,
    "any": _counted("any", BOOL),
    "all": _counted("all", BOOL),
    "histc": _counted("histogram", None),
    "sum": _sum,
    "mean": _mean,
    "softmax": _softmax,
}
