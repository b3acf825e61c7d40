"""What every rule needs: operands, types of results, memory order, and nodes with several outputs."""

from collections.abc import Callable, Sequence
from typing import Any

from memplanner.program.shapes import BF16, BOOL, COMPLEX64, FP16, FP32, INT8, INT32, INT64, UINT8, Dtype, Shape
from memplanner.tape import strides
from memplanner.tape.engine import Backward, Node, Param, Tape, Tensor
from memplanner.tape.strides import Strides

Operand = Tensor | Param | float
"""An argument of an elementwise operation; a Python number needs no memory and no gradient."""
TENSORS = (Tensor, Param)
"""The classes of operands that are no numbers."""
Rule = Callable[..., Any]
"""rule(tape, outs, *args): an operation's outputs. outs: their shapes. Sizes are no arguments: `outs` has them."""

_RANK = {BOOL: 0, UINT8: 1, INT8: 2, INT32: 3, INT64: 4, FP16: 5, BF16: 5, FP32: 6, COMPLEX64: 7}
_FIRST_INTEGER, _FIRST_FLOAT, _FIRST_COMPLEX = 1, 5, 7


# -- types -------------------------------------------------------------------------------------------------------------


def is_float(dtype: Dtype) -> bool:
    """Whether it is a floating point type, so that gradients exist."""
    return _RANK[dtype] >= _FIRST_FLOAT


def promoted(*operands: Any) -> Dtype:
    """The type of an elementwise result (torch.result_type). Tensors of no dimensions count only where they are of a
    higher category than the others, and Python numbers where they are of a higher one than all tensors.
    """
    found: list[Dtype | None] = [None, None]
    for x in operands:
        if x.__class__ in TENSORS:
            place = 0 if x.shape.dims else 1
            known = found[place]
            if x.dtype is not known:
                found[place] = x.dtype if known is None else wider(known, x.dtype)
    best, scalar = found
    if best is None or (scalar is not None and _category(scalar) > _category(best)):
        best = scalar
    for x in operands:
        if x.__class__ is float and (best is None or _category(best) < 2):
            best = FP32
        elif x.__class__ is int and (best is None or _category(best) < 1):
            best = INT64
    return best or BOOL


def floating(dtype: Dtype) -> Dtype:
    """The type in which exp, division and the like answer: integers become fp32."""
    return dtype if is_float(dtype) else FP32


def _category(dtype: Dtype) -> int:
    rank = _RANK[dtype]
    return (rank >= _FIRST_INTEGER) + (rank >= _FIRST_FLOAT) + (rank >= _FIRST_COMPLEX)


def wider(a: Dtype, b: Dtype) -> Dtype:
    """The type that holds values of both (torch.promote_types)."""
    if a is b:
        return a
    if _RANK[a] == _RANK[b]:  # of bf16 and fp16
        return FP32
    return a if _RANK[a] > _RANK[b] else b


# -- memory order ------------------------------------------------------------------------------------------------------


def order_of(x: Tensor | Param) -> Strides | None:
    """The strides; None if memory is in the shape's order."""
    if x.__class__ is Param:
        return None
    assert isinstance(x, Tensor)
    if x.strides is None and x.transposed and len(x.shape.dims) == 4:
        _, heads, seq, dim = x.shape.dims
        return heads * seq * dim, dim, heads * dim, 1
    return x.strides


def strides_of(x: Tensor | Param) -> Strides:
    """The strides in elements, whatever the order."""
    return order_of(x) or strides.contiguous(x.shape.dims)


def is_contiguous(x: Tensor | Param) -> bool:
    """x.is_contiguous()."""
    return order_of(x) is None


def laid_out(x: Tensor, order: Strides | None) -> Tensor:
    """x itself, with its memory order noted."""
    x.strides = order
    x.transposed = order is not None
    return x


def view_of(tape: Tape, x: Tensor | Param, shape: Shape, order: Strides | None = None) -> Tensor:
    """A view: x's storage under another shape. One of a parameter has no storage in the log."""
    return laid_out(tape.view(x, shape) if isinstance(x, Tensor) else Tensor(tape, -1, shape, x.dtype, x), order)


def as_tensor(tape: Tape, x: Tensor | Param) -> Tensor:
    """x, a parameter as a view of itself, for functions that take tensors alone."""
    if isinstance(x, Tensor):
        return x
    out = view_of(tape, x, x.shape)
    out.node = x.node
    return out


def like(tape: Tape, x: Tensor | Param, name: str, dtype: Dtype | None = None) -> Tensor:
    """A new tensor of x's shape and memory order (empty_like)."""
    if isinstance(x, Tensor):
        return tape.like(x, name, dtype)
    return tape.new(x.shape, dtype or x.dtype, name)


def elementwise(tape: Tape, shape: Shape, dtype: Dtype, name: str, *operands: Any) -> Tensor:
    """A new tensor in the memory order that an elementwise operation gives its result."""
    out = tape.new(shape, dtype, name)
    for x in operands:
        if x.__class__ is Tensor and x.transposed:
            tensors = [y for y in operands if y.__class__ in TENSORS]
            order = strides.elementwise(shape.dims, [(y.shape.dims, strides_of(y)) for y in tensors])
            return laid_out(out, order)
    return out


# -- the graph ---------------------------------------------------------------------------------------------------------


def node_of(x: Any) -> Node | Param | None:
    """What its gradient goes to; None where it needs none."""
    return x.node if x.__class__ in TENSORS else None


def kept(x: Any) -> Tensor | None:
    """What saving x keeps alive: parameters are alive anyway."""
    return x if x.__class__ is Tensor else None


def record(
    tape: Tape, fn: Backward, shape: Shape, operands: Sequence[Any], saved: Any = None, ctx: Any = None
) -> Node | None:
    """Add an operation with broadcast operands to the graph. shape: of its result. Gradients are fitted to the types
    and the shapes of the operands.
    """
    edges = tuple([x.node if x.__class__ in TENSORS else None for x in operands])
    for edge in edges:
        if edge is not None:
            break
    else:
        return None
    shapes: tuple[Shape | None, ...] = ()
    for x in operands:
        if x.__class__ in TENSORS and x.node is not None and x.shape.dims != shape.dims:
            shapes = tuple([y.shape if y.__class__ in TENSORS else None for y in operands])
            break
    casts = tuple([x.dtype if x.__class__ in TENSORS else None for x in operands])
    return tape.record(fn, edges, saved, ctx, casts, shapes)


def without_gradient(tape: Tape, name: str, *operands: Operand) -> None:
    """Refuse an operation on what needs a gradient, where its derivative is not modelled."""
    if tape.grad_enabled and any(node_of(x) is not None for x in operands):
        raise NotImplementedError(f"the derivative of {name}")


def distribute(tape: Tape, node: Node | None, outs: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Several outputs of one node, whose ctx begins with a list: by the time it runs, the list has each output's
    gradient at its place, or None. What the node itself is given is one of them.
    """
    for place, out in enumerate(outs):
        out.node = tape.record(_hand_on, (node,), None, place)
    return tuple(outs)


def _hand_on(tape: Tape, node: Node, grad: Tensor, saved: Any) -> tuple[Tensor | None]:
    parent = node.edges[0]
    assert isinstance(parent, Node)
    parent.ctx[0][node.ctx] = grad
    return (grad if parent.grad is None else None,)
