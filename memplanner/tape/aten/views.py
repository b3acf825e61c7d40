"""Views, and the operations that copy where no view will do.

A view's backward brings the gradient back into the input's shape: by a view where its memory allows, else by a copy; of
a part of a tensor, into one of zeros.
"""

from collections.abc import Sequence
from typing import Any

from memplanner.program.shapes import COMPLEX64, FP32, SCALAR, Shape
from memplanner.tape import ops, strides
from memplanner.tape.aten.base import (
    Rule,
    distribute,
    is_contiguous,
    order_of,
    promoted,
    strides_of,
    view_of,
)
from memplanner.tape.engine import Node, Param, Tape, Tensor
from memplanner.tape.strides import Strides

Outs = tuple[Shape, ...]
Grads = tuple[Tensor | None, ...]
Source = Tensor | Param


def _wrapped(dim: int, x: Source) -> int:
    """A dimension counted from the front."""
    return dim % (len(x.shape.dims) or 1)


# -- the same elements in another order --------------------------------------------------------------------------------


def _permuted(tape: Tape, x: Source, shape: Shape, dims: Sequence[int]) -> Tensor:
    """x.permute(dims), out of the graph."""
    return view_of(tape, x, shape, strides.permute(x.shape.dims, strides_of(x), dims))


def permute(tape: Tape, outs: Outs, x: Source, dims: Sequence[int]) -> Tensor:
    """x.permute(dims), a view."""
    dims = [_wrapped(dim, x) for dim in dims]
    out = _permuted(tape, x, outs[0], dims)
    back = sorted(range(len(dims)), key=dims.__getitem__)
    out.node = tape.record(_permute_backward, (x.node,), None, (x.shape, back))
    return out


def _permute_backward(tape: Tape, node: Node, grad: Tensor, saved: Any) -> Grads:
    shape, dims = node.ctx
    return (_permuted(tape, grad, shape, dims),)


def transpose(tape: Tape, outs: Outs, x: Source, dim0: int, dim1: int) -> Tensor:
    """x.transpose(dim0, dim1), a view."""
    dims = list(range(len(x.shape.dims)))
    if dims:
        dims[dim0], dims[dim1] = dims[dim1], dims[dim0]
    return permute(tape, outs, x, dims)


def _t(tape: Tape, outs: Outs, x: Source) -> Tensor:
    return permute(tape, outs, x, range(len(x.shape.dims) - 1, -1, -1))


# -- other dimensions --------------------------------------------------------------------------------------------------


def _viewed(tape: Tape, x: Source, shape: Shape) -> Tensor:
    """x.view(shape), out of the graph; ValueError where no view will do."""
    order = order_of(x)
    if order is not None:
        order = strides.view(x.shape.dims, order, shape.dims)
    return view_of(tape, x, shape, order)


def reshaped(tape: Tape, x: Source, shape: Shape, name: str = "contiguous copy") -> Tensor:
    """x.reshape(shape), out of the graph: a view or, in another memory order, a copy."""
    try:
        return _viewed(tape, x, shape)
    except ValueError:
        return tape.new(shape, x.dtype, name)


def view(tape: Tape, outs: Outs, x: Source, *_: Any) -> Tensor:
    """x.view(shape); backward copies a gradient that is in another order."""
    out = _viewed(tape, x, outs[0])
    out.node = tape.record(_view_backward, (x.node,), None, x.shape)
    return out


def _view_backward(tape: Tape, node: Node, grad: Tensor, saved: Any) -> Grads:
    return (reshaped(tape, grad, node.ctx, "contiguous gradient"),)


def reshape(tape: Tape, outs: Outs, x: Source, *_: Any) -> Tensor:
    """x.reshape(shape): a view, or a copy that becomes a view of the shape."""
    node = tape.record(_view_backward, (x.node,), None, x.shape)
    out = reshaped(tape, x, outs[0])
    out.node = node
    return out


def contiguous(tape: Tape, outs: Outs, x: Source) -> Source:
    """x.contiguous()."""
    if is_contiguous(x):
        return x
    node = tape.record(ops.pass_backward, (x.node,))
    out = tape.new(x.shape, x.dtype, "contiguous copy")
    out.node = node
    return out


def _unsqueeze(tape: Tape, outs: Outs, x: Source, dim: int) -> Tensor:
    out = view_of(tape, x, outs[0], _unsqueezed(x, dim % len(outs[0].dims)))
    out.node = tape.record(_restrided_backward, (x.node,), None, x.shape)
    return out


def _unsqueezed(x: Source, dim: int) -> Strides | None:
    dims, order = x.shape.dims, strides_of(x)
    stride = dims[dim] * order[dim] if dim < len(dims) else 1
    return strides.normal((*dims[:dim], 1, *dims[dim:]), (*order[:dim], stride, *order[dim:]))


def _squeeze(tape: Tape, outs: Outs, x: Source, *_: Any) -> Tensor:
    out = _viewed(tape, x, outs[0])
    out.node = tape.record(_restrided_backward, (x.node,), None, x.shape)
    return out


def _restrided_backward(tape: Tape, node: Node, grad: Tensor, saved: Any) -> Grads:
    """Dimensions of one come or go, for which any memory order has a view."""
    return (_viewed(tape, grad, node.ctx),)


def expanded(tape: Tape, x: Source, shape: Shape) -> Tensor:
    """x.expand(shape), out of the graph."""
    return view_of(tape, x, shape, strides.expand(x.shape.dims, strides_of(x), shape.dims))


def expand(tape: Tape, outs: Outs, x: Source, *_: Any) -> Tensor:
    """x.expand(shape), a view; backward sums."""
    out = expanded(tape, x, outs[0])
    out.node = tape.record(_expand_backward, (x.node,), None, x.shape)
    return out


def _expand_backward(tape: Tape, node: Node, grad: Tensor, saved: Any) -> Grads:
    return (tape.summed_to(grad, node.ctx),)


# -- parts -------------------------------------------------------------------------------------------------------------


def _part(tape: Tape, x: Source, shape: Shape, order: Strides) -> Tensor:
    """A view of some of x's elements, whose backward makes a zero-filled gradient of the whole."""
    out = view_of(tape, x, shape, strides.normal(shape.dims, order))
    out.node = tape.record(_part_backward, (x.node,), None, x.shape)
    return out


def _part_backward(tape: Tape, node: Node, grad: Tensor, saved: Any) -> Grads:
    return (tape.new(node.ctx, grad.dtype, "gradient of a part"),)


def _slice(
    tape: Tape, outs: Outs, x: Source, dim: int = 0, start: Any = None, end: Any = None, step: int = 1
) -> Tensor:
    order = list(strides_of(x))
    order[dim] = order[dim] * step
    return _part(tape, x, outs[0], tuple(order))


def _select(tape: Tape, outs: Outs, x: Source, dim: int, index: Any = None) -> Tensor:
    dim = _wrapped(dim, x)
    order = strides_of(x)
    return _part(tape, x, outs[0], order[:dim] + order[dim + 1 :])


def _split(tape: Tape, outs: Outs, x: Source, sizes: Any = None, dim: int = 0) -> tuple[Tensor, ...]:
    """split, split_with_sizes and chunk: views, whose gradients backward copies into one new tensor (at::cat), with
    zeros for outputs that have no gradient.
    """
    order = strides_of(x)
    views = [view_of(tape, x, shape, strides.normal(shape.dims, order)) for shape in outs]
    node = tape.record(_join_backward, (x.node,), None, ([None] * len(outs), outs, x.shape))
    return distribute(tape, node, views)


def _unbind(tape: Tape, outs: Outs, x: Source, dim: int = 0) -> tuple[Tensor, ...]:
    """x.unbind(dim), as split, but that one zero is expanded for each output that has no gradient."""
    dim = _wrapped(dim, x)
    order = strides_of(x)
    views = [view_of(tape, x, shape, strides.normal(shape.dims, order[:dim] + order[dim + 1 :])) for shape in outs]
    node = tape.record(_join_backward, (x.node,), None, ([None] * len(outs), (SCALAR,) * len(outs), x.shape))
    return distribute(tape, node, views)


def _join_backward(tape: Tape, node: Node, grad: Tensor, saved: Any) -> Grads:
    grads, shapes, shape = node.ctx
    zeros = [tape.new(s, grad.dtype, "zeros") for s, g in zip(shapes, grads, strict=True) if g is None]
    out = tape.new(shape, grad.dtype, "joined gradients")
    for tensors in (zeros, grads):  # in order, as vectors are destroyed
        while tensors:
            del tensors[0]
    return (out,)


def _diagonal(tape: Tape, outs: Outs, x: Source, offset: int = 0, dim0: int = 0, dim1: int = 1) -> Tensor:
    order = list(strides_of(x))
    both = order[dim0] + order[dim1]
    for dim in sorted((_wrapped(dim0, x), _wrapped(dim1, x)), reverse=True):
        del order[dim]
    return _part(tape, x, outs[0], (*order, both))


def _unfold(tape: Tape, outs: Outs, x: Source, dim: int, size: Any = None, step: int = 1) -> Tensor:
    order = list(strides_of(x))
    last = order[dim]
    order[dim] = last * step
    return _part(tape, x, outs[0], (*order, last))


# -- other elements ----------------------------------------------------------------------------------------------------


def _alias(tape: Tape, outs: Outs, x: Source) -> Tensor:
    """alias, lift_fresh: x under another name."""
    out = view_of(tape, x, x.shape, order_of(x))
    out.node = tape.record(ops.pass_backward, (x.node,))
    return out


def _detach(tape: Tape, outs: Outs, x: Source) -> Tensor:
    return view_of(tape, x, x.shape, order_of(x))


def _view_as_complex(tape: Tape, outs: Outs, x: Source) -> Tensor:
    order = tuple([stride // 2 for stride in strides_of(x)[:-1]])
    out = view_of(tape, x, outs[0], strides.normal(outs[0].dims, order))
    out.dtype = COMPLEX64
    out.node = tape.record(_as_complex_backward, (x.node,), None, x.shape)
    return out


def _as_complex_backward(tape: Tape, node: Node, grad: Tensor, saved: Any) -> Grads:
    return (_as_real(tape, grad, node.ctx),)


def _view_as_real(tape: Tape, outs: Outs, x: Source) -> Tensor:
    out = _as_real(tape, x, outs[0])
    out.node = tape.record(_as_real_backward, (x.node,), None, x.shape)
    return out


def _as_real(tape: Tape, x: Source, shape: Shape) -> Tensor:
    order = (*[2 * stride for stride in strides_of(x)], 1)
    out = view_of(tape, x, shape, strides.normal(shape.dims, order))
    out.dtype = FP32
    return out


def _as_real_backward(tape: Tape, node: Node, grad: Tensor, saved: Any) -> Grads:
    """view_as_complex(grad.contiguous())."""
    if order_of(grad) is not None:
        grad = tape.new(grad.shape, grad.dtype, "contiguous gradient")
    out = tape.view(grad, node.ctx)
    out.dtype = COMPLEX64
    return (out,)


# -- joined ------------------------------------------------------------------------------------------------------------


def _cat(tape: Tape, outs: Outs, tensors: Sequence[Source], dim: int = 0) -> Tensor:
    node = tape.record(
        _cat_backward,
        tuple([x.node for x in tensors]),
        None,
        tuple([x.shape for x in tensors]),
        tuple([x.dtype for x in tensors]),
    )
    out = tape.new(outs[0], promoted(*tensors), "joined")
    out.node = node
    return out


def _cat_backward(tape: Tape, node: Node, grad: Tensor, saved: Any) -> Grads:
    """Each input's gradient is a part of the output's."""
    order = strides_of(grad)
    return tuple(
        [
            None if edge is None else view_of(tape, grad, shape, strides.normal(shape.dims, order))
            for edge, shape in zip(node.edges, node.ctx, strict=True)
        ]
    )


def _stack(tape: Tape, outs: Outs, tensors: Sequence[Source], dim: int = 0) -> Tensor:
    node = tape.record(
        _stack_backward,
        tuple([x.node for x in tensors]),
        None,
        (dim % len(outs[0].dims), tensors[0].shape),
        tuple([x.dtype for x in tensors]),
    )
    out = tape.new(outs[0], promoted(*tensors), "stacked")
    out.node = node
    return out


def _stack_backward(tape: Tape, node: Node, grad: Tensor, saved: Any) -> Grads:
    """grad.unbind(dim)."""
    dim, shape = node.ctx
    whole = strides_of(grad)
    order = strides.normal(shape.dims, whole[:dim] + whole[dim + 1 :])
    return tuple([None if edge is None else view_of(tape, grad, shape, order) for edge in node.edges])


VIEWS: dict[str, Rule] = {
    "permute": permute,
    "transpose": transpose,
    "t": _t,
    "view": view,
    "_unsafe_view": reshape,
    "reshape": reshape,
    "contiguous": contiguous,
    "unsqueeze": _unsqueeze,
    "squeeze": _squeeze,
    "expand": expand,
    "slice": _slice,
    "select": _select,
    "diagonal": _diagonal,
    "unfold": _unfold,
    "alias": _alias,
    "lift_fresh": _alias,
    "detach": _detach,
    "view_as_complex": _view_as_complex,
    "view_as_real": _view_as_real,
    "split": _split,
    "split_with_sizes": _split,
    "unbind": _unbind,
    "cat": _cat,
    "stack": _stack,
}
