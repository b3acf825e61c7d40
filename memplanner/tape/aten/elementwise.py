"""Elementwise operations: arithmetic, activations, comparisons, casts.

Derivatives as in tools/autograd/derivatives.yaml and torch/csrc/autograd/FunctionsManual.cpp; of two inputs, the
gradient of the one whose name there comes first in the alphabet ("other" before "self") is computed first.
"""

from collections.abc import Callable
from typing import Any

from memplanner.program.shapes import BOOL, COMPLEX64, SCALAR, Dtype, Shape
from memplanner.tape import ops
from memplanner.tape.aten.base import (
    TENSORS,
    Operand,
    Rule,
    elementwise,
    floating,
    kept,
    like,
    promoted,
    record,
    wider,
    without_gradient,
)
from memplanner.tape.engine import Backward, Node, Param, Tape, Tensor

Outs = tuple[Shape, ...]
Grads = tuple[Tensor | None, ...]


# -- two operands ------------------------------------------------------------------------------------------------------


def _binary(
    name: str,
    fn: Backward,
    *,
    saves: Callable[[Operand, Operand], Any] | None = None,
    divides: bool = False,
    turned: bool = False,
) -> Rule:
    """An operation of two operands, which are broadcast. saves: what is kept of them for backward. turned: whether the
    kernel takes the second one first.
    """

    def rule(tape: Tape, outs: Outs, a: Operand, b: Operand, *_: Any) -> Tensor:
        node = record(tape, fn, outs[0], (a, b), saves and saves(a, b))
        dtype = promoted(a, b)
        first, second = (b, a) if turned else (a, b)
        out = elementwise(tape, outs[0], floating(dtype) if divides else dtype, name, first, second)
        out.node = node
        return out

    return rule


def add_backward(tape: Tape, node: Node, grad: Tensor, saved: Any) -> Grads:
    """Pass the gradient on to both."""
    return tuple([None if edge is None else grad for edge in node.edges])


def sub_backward(tape: Tape, node: Node, grad: Tensor, saved: Any) -> Grads:
    """The second one's gradient is negated."""
    a, b = node.edges
    of_b = None if b is None else tape.like(grad, "negated gradient")
    return None if a is None else grad, of_b


def rsub_backward(tape: Tape, node: Node, grad: Tensor, saved: Any) -> Grads:
    """The first one's gradient is negated."""
    a, b = node.edges
    of_a = None if a is None else tape.like(grad, "negated gradient")
    return of_a, None if b is None else grad


def _mul_saves(a: Any, b: Any) -> Any:
    if a.__class__ not in TENSORS or b.__class__ not in TENSORS:
        return None
    return kept(a) if b.node is not None else None, kept(b) if a.node is not None else None


def mul_backward(tape: Tape, node: Node, grad: Tensor, saved: Any) -> Grads:
    """The gradient times the other factor."""
    a, b = saved or (None, None)
    of_b = None if node.edges[1] is None else _with_operand(tape, node, 0, grad, a)
    of_a = None if node.edges[0] is None else _with_operand(tape, node, 1, grad, b)
    return of_a, of_b


def _with_operand(tape: Tape, node: Node, place: int, grad: Tensor, saved: Tensor | None) -> Tensor:
    """The gradient times or over the operand at this place; a parameter or a number is not saved. Complex numbers are
    conjugated first.
    """
    if saved is not None:
        conjugate = tape.like(saved, "conjugate") if saved.dtype is COMPLEX64 else saved
        return elementwise(tape, grad.shape, promoted(grad, saved), "gradient", grad, conjugate)
    dtype = node.casts[place]
    return tape.like(grad, "gradient", grad.dtype if dtype is None else wider(grad.dtype, dtype))


def _div_saves(a: Any, b: Any) -> Any:
    if b.__class__ not in TENSORS:
        return None
    return kept(a) if b.node is not None else None, kept(b)


def div_backward(tape: Tape, node: Node, grad: Tensor, saved: Any) -> Grads:
    """div_tensor_other_backward, -grad * ((self / other) / other), and div_tensor_self_backward, grad / other."""
    a, b = saved or (None, None)
    of_b = None
    if node.edges[1] is not None:
        wide = wider(node.casts[0] or grad.dtype, node.casts[1] or grad.dtype)
        once = elementwise(tape, grad.shape, wide, "quotient", a, b)
        twice = elementwise(tape, grad.shape, wide, "quotient of the quotient", once, b)
        negated = tape.like(grad, "negated gradient")
        of_b = elementwise(tape, grad.shape, promoted(negated, twice), "gradient", negated, twice)
        del negated, twice, once
    of_a = None if node.edges[0] is None else _with_operand(tape, node, 1, grad, b)
    return of_a, of_b


def _pow(tape: Tape, outs: Outs, a: Operand, b: Operand) -> Tensor:
    """pow, of which every exponent but 0 makes the same."""
    dtype = promoted(a, b)
    if isinstance(b, Tensor | Param):
        without_gradient(tape, "a power whose exponent is a tensor", a, b)
        return elementwise(tape, outs[0], dtype, "power", a, b)
    assert isinstance(a, Tensor | Param)
    node = record(tape, zeros_backward if b == 0 else _pow_backward, outs[0], (a,), (kept(a),))
    out = elementwise(tape, outs[0], dtype, "power", a)
    out.node = node
    return out


def zeros_backward(tape: Tape, node: Node, grad: Tensor, saved: Any) -> Grads:
    """Nothing depends on the input."""
    return (tape.like(grad, "zeros"),)


def _pow_backward(tape: Tape, node: Node, grad: Tensor, saved: Any) -> Grads:
    """grad * (exponent * self.pow(exponent - 1))."""
    (x,) = saved
    x = grad if x is None else x
    power = tape.like(x, "power")
    scaled = tape.like(power, "power times exponent")
    out = elementwise(tape, grad.shape, grad.dtype, "gradient", grad, scaled)
    del scaled, power
    return (out,)


def _larger(tape: Tape, outs: Outs, a: Operand, b: Operand) -> Tensor:
    """maximum and minimum."""
    node = record(tape, _larger_backward, outs[0], (a, b), (kept(a), kept(b)))
    out = elementwise(tape, outs[0], promoted(a, b), "larger or smaller", a, b)
    out.node = node
    return out


def _larger_backward(tape: Tape, node: Node, grad: Tensor, saved: Any) -> Grads:
    """where(self == other, grad / 2, grad).masked_fill_(self < other, 0), for each of the two."""
    grads: list[Tensor | None] = [None, None]
    for place in (1, 0):
        if node.edges[place] is not None:
            half = tape.like(grad, "half")
            equal = elementwise(tape, grad.shape, BOOL, "equal", *saved)
            grads[place] = elementwise(tape, grad.shape, grad.dtype, "gradient", equal, half, grad)
            elementwise(tape, grad.shape, BOOL, "larger", *saved)
            del equal, half
    return tuple(grads)


def _addcmul(tape: Tape, outs: Outs, x: Operand, a: Operand, b: Operand, *_: Any) -> Tensor:
    """x + a * b."""
    node = record(tape, _addcmul_backward, outs[0], (x, a, b), _mul_saves(a, b)[::-1])
    out = elementwise(tape, outs[0], promoted(x, a, b), "sum with a product", x, a, b)
    out.node = node
    return out


def _addcmul_backward(tape: Tape, node: Node, grad: Tensor, saved: Any) -> Grads:
    """The gradient, and grad * (tensor2 * value) and grad * (tensor1 * value)."""
    grads: list[Tensor | None] = [None if node.edges[0] is None else grad]
    for edge, other in zip(node.edges[1:], saved, strict=True):
        of_edge = None
        if edge is not None:
            scaled = tape.like(other or grad, "scaled factor")
            of_edge = elementwise(tape, grad.shape, grad.dtype, "gradient", grad, scaled)
            del scaled
        grads.append(of_edge)
    return tuple(grads)


def _without(name: str, dtype: Dtype | None = None) -> Rule:
    """An operation that has no derivative, or none that is modelled. dtype: of its result, else as promoted."""

    def rule(tape: Tape, outs: Outs, *operands: Any) -> Tensor:
        tensors = [x for x in operands if isinstance(x, Tensor | Param)]
        if dtype is None:
            without_gradient(tape, name, *tensors)
        numbers = [x for x in operands if isinstance(x, float | int)]
        return elementwise(tape, outs[0], dtype or promoted(*tensors, *numbers), name, *tensors)

    return rule


# -- one operand -------------------------------------------------------------------------------------------------------


def _unary(
    name: str,
    saves: str = "",
    before: tuple[str, ...] = (),
    *,
    integers_too: bool = False,
    fn: Backward | None = None,
) -> Rule:
    """A function of one tensor. saves: what its derivative needs, "input", "output" or nothing (""). before: the
    temporaries that backward makes before it makes the gradient. integers_too: whether it leaves integers what they
    are. fn: backward, where it is another.
    """
    fn = fn or (_with_temporaries(before) if before else elementwise_backward)

    def rule(tape: Tape, outs: Outs, x: Tensor | Param, *_: Any) -> Tensor:
        dtype = x.dtype if integers_too else floating(x.dtype)
        if saves == "output":
            out = like(tape, x, name, dtype)
            out.node = tape.record(fn, (x.node,), (out,))
            return out
        node = tape.record(fn, (x.node,), (kept(x),) if saves else None)
        out = like(tape, x, name, dtype)
        out.node = node
        return out

    return rule


def elementwise_backward(tape: Tape, node: Node, grad: Tensor, saved: Any) -> Grads:
    """Make one tensor of the gradient and what was saved."""
    return (elementwise(tape, grad.shape, grad.dtype, "gradient", grad, *(saved or ())),)


def threshold_backward(tape: Tape, node: Node, grad: Tensor, saved: Any) -> Grads:
    """In the memory order of what was saved (aten/src/ATen/native/Activation.cpp, threshold_backward)."""
    return (elementwise(tape, grad.shape, grad.dtype, "gradient", saved[0], grad),)


def _with_temporaries(names: tuple[str, ...]) -> Backward:
    """A derivative that is written as several operations: all but the last one's results live until that is done."""

    def backward(tape: Tape, node: Node, grad: Tensor, saved: Any) -> Grads:
        of = saved[0] or grad
        temporaries = [tape.like(of, name) for name in names]
        out = elementwise(tape, grad.shape, grad.dtype, "gradient", grad, of)
        while temporaries:
            temporaries.pop()
        return (out,)

    return backward


def _clamp(tape: Tape, outs: Outs, x: Tensor | Param, low: float | None = None, high: float | None = None) -> Tensor:
    node = tape.record(clamp_backward, (x.node,), (kept(x),), low is not None and high is not None)
    out = like(tape, x, "clamped", promoted(x, *[limit for limit in (low, high) if limit is not None]))
    out.node = node
    return out


def clamp_backward(tape: Tape, node: Node, grad: Tensor, saved: Any) -> Grads:
    """Make where((self >= min).logical_and_(self <= max), grad, 0)."""
    zero = tape.new(SCALAR, grad.dtype, "zero")
    inside = tape.like(saved[0] or grad, "within one limit", BOOL)
    both = tape.like(inside, "within the other limit") if node.ctx else None
    out = elementwise(tape, grad.shape, grad.dtype, "gradient", inside, grad)
    del both, inside, zero
    return (out,)


def _where(tape: Tape, outs: Outs, condition: Tensor, a: Operand, b: Operand) -> Tensor:
    node = record(tape, _where_backward, outs[0], (a, b), (condition,))
    out = elementwise(tape, outs[0], promoted(a, b), "selected", condition, a, b)
    out.node = node
    return out


def _where_backward(tape: Tape, node: Node, grad: Tensor, saved: Any) -> Grads:
    grads: list[Tensor | None] = [None, None]
    for place in (1, 0):
        if node.edges[place] is not None:
            zero = tape.new(SCALAR, grad.dtype, "zero")
            grads[place] = elementwise(tape, grad.shape, grad.dtype, "gradient", saved[0], grad)
            del zero
    return tuple(grads)


def _masked_fill(tape: Tape, outs: Outs, x: Tensor | Param, mask: Tensor, value: Operand) -> Tensor:
    node = record(tape, masked_fill_backward, outs[0], (x,), (mask,))
    out = elementwise(tape, outs[0], x.dtype, "masked", x)
    out.node = node
    return out


def masked_fill_backward(tape: Tape, node: Node, grad: Tensor, saved: Any) -> Grads:
    """The gradient with zeros where the mask is."""
    return (tape.like(grad, "masked gradient"),)


def to(tape: Tape, outs: Outs, x: Tensor | Param, dtype: Dtype) -> Tensor | Param:
    """x.to(dtype): x itself when nothing changes."""
    if x.dtype is dtype:
        return x
    node = tape.record(ops.to_backward, (x.node,), None, x.dtype)
    out = like(tape, x, "cast", dtype)
    out.node = node
    return out


def _clone(tape: Tape, outs: Outs, x: Tensor | Param) -> Tensor:
    node = tape.record(ops.pass_backward, (x.node,))
    out = like(tape, x, "clone")
    out.node = node
    return out


def _dropout(tape: Tape, outs: Outs, x: Tensor, p: float) -> Tensor:
    """nn.functional.dropout in training: native_dropout on CUDA, which saves a mask of one byte per element."""
    if p <= 0:
        return x
    out = like(tape, x, "dropout")
    mask = like(tape, x, "dropout mask", BOOL)
    out.node = tape.record(elementwise_backward, (x.node,), (mask,))
    return out


COMPARISONS = (
    *("eq", "ne", "lt", "le", "gt", "ge"),
    *("logical_and", "logical_or", "logical_xor", "logical_not", "isnan", "isinf"),
)

ELEMENTWISE: dict[str, Rule] = {
    "add": _binary("sum", add_backward),
    "sub": _binary("difference", sub_backward),
    "rsub": _binary("difference", rsub_backward, turned=True),
    "mul": _binary("product", mul_backward, saves=_mul_saves),
    "div": _binary("quotient", div_backward, saves=_div_saves, divides=True),
    "pow": _pow,
    "neg": _unary("negated", integers_too=True),
    "abs": _unary("absolute value", "input", ("sign",), integers_too=True),
    "exp": _unary("exponential", "output"),
    "log": _unary("logarithm", "input"),
    "sqrt": _unary("root", "output", ("twice the root",)),
    "rsqrt": _unary("reciprocal root", "output", ("half", "cube")),
    "reciprocal": _unary("reciprocal", "output", ("negated gradient", "square")),
    "log1p": _unary("logarithm", "input", ("one more",)),
    "expm1": _unary("exponential less one", "output", ("one more",)),
    "sin": _unary("sine", "input", ("cosine",)),
    "cos": _unary("cosine", "input", ("sine", "negated sine")),
    "silu": _unary("silu", "input"),
    "gelu": _unary("gelu", "input"),
    "softplus": _unary("softplus", "input"),
    "relu": _unary("relu", "output", integers_too=True, fn=threshold_backward),
    "tanh": _unary("tanh", "output"),
    "sigmoid": _unary("sigmoid", "output"),
    "leaky_relu": _unary("leaky relu", "input", fn=threshold_backward),
    "elu": _unary("elu", "input"),
    "mish": _unary("mish", "input"),
    "hardswish": _unary("hardswish", "input"),
    "maximum": _larger,
    "minimum": _larger,
    "addcmul": _addcmul,
    "clamp": _clamp,
    "clamp_min": _clamp,
    "clamp_max": lambda tape, outs, x, high: _clamp(tape, outs, x, None, high),
    "where": _where,
    "masked_fill": _masked_fill,
    "to": to,
    "clone": _clone,
    "dropout": _dropout,
    **{
        name: _unary(name, fn=zeros_backward, integers_too=True) for name in ("floor", "ceil", "round", "trunc", "sign")
    },
    **{name: _without(name, BOOL) for name in COMPARISONS},
    **{name: _without(name) for name in ("bitwise_and", "bitwise_or", "bitwise_xor", "bitwise_not")},
    **{name: _without(name) for name in ("floor_divide", "remainder", "fmod", "__lshift__", "__rshift__")},
    "polar": _without("polar", COMPLEX64),
}
