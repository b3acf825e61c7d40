"""PyTorch operations on the tape: what each allocates, saves for backward, and makes in backward.

Derivatives follow torch/csrc/autograd (tools/autograd/derivatives.yaml, FunctionsManual.cpp). Shapes broadcast as in
PyTorch; `transposed` marks memory in another order than the shape's, as after `.transpose(1, 2)`.
"""

from collections.abc import Callable
from typing import Any

from memplanner.program.shapes import BOOL, FP16, FP32, Dtype, Shape
from memplanner.tape.engine import Node, Param, Tape, Tensor


def to(x: Tensor, dtype: Dtype, name: str = "cast") -> Tensor:
    """x.to(dtype): x itself when nothing changes."""
    if x.dtype is dtype:
        return x
    node = x.tape.record(to_backward, (x.node,), None, x.dtype)
    out = x.tape.like(x, name, dtype)
    out.node = node
    return out


def to_backward(tape: Tape, node: Node, grad: Tensor, saved: Any) -> tuple[Tensor]:
    """Cast the gradient back to the input's type."""
    return (tape.like(grad, "gradient cast", node.ctx),)


def unary(x: Tensor, name: str, *, saves: str = "") -> Tensor:
    """An elementwise function of one tensor. saves: what its derivative needs, "input", "output" or nothing ("").
    Backward makes one tensor.
    """
    tape = x.tape
    if saves == "output":
        out = tape.like(x, name)
        out.node = tape.record(elementwise_backward, (x.node,), (out,), x)
        if out.node is not None:
            out.node.ctx = None
        return out
    node = tape.record(elementwise_backward, (x.node,), (x,) if saves else None)
    out = tape.like(x, name)
    out.node = node
    return out


def elementwise_backward(tape: Tape, node: Node, grad: Tensor, saved: Any) -> tuple[Tensor]:
    """Make one tensor of the gradient's shape."""
    return (tape.like(grad, "gradient"),)


def scale(x: Tensor, name: str = "scaled") -> Tensor:
    """x times a Python number."""
    return unary(x, name)


def shift(x: Tensor, name: str = "shifted") -> Tensor:
    """x plus a Python number; backward passes the gradient on."""
    node = x.tape.record(pass_backward, (x.node,))
    out = x.tape.like(x, name)
    out.node = node
    return out


def pass_backward(tape: Tape, node: Node, grad: Tensor, saved: Any) -> tuple[Tensor]:
    """Pass the gradient on: no tensor is made."""
    return (grad,)


def add(a: Tensor, b: Tensor, name: str = "sum") -> Tensor:
    """a + b of equal shapes; the types may differ, and the result takes the wider one."""
    tape = a.tape
    node = tape.record(_add_backward, (a.node, b.node), casts=(a.dtype, b.dtype))
    out = tape.like(a, name, a.dtype if a.dtype.size >= b.dtype.size else b.dtype)
    out.node = node
    return out


def _add_backward(tape: Tape, node: Node, grad: Tensor, saved: Any) -> tuple[Tensor | None, Tensor | None]:
    a_edge, b_edge = node.edges
    return None if a_edge is None else grad, None if b_edge is None else grad


def add_constant(x: Tensor, constant: Tensor | Param, name: str = "sum") -> Tensor:
    """x plus a (broadcast) tensor that needs no gradient, such as a mask. Nothing is saved."""
    node = x.tape.record(to_backward if constant.dtype.size > x.dtype.size else pass_backward, (x.node,), None, x.dtype)
    out = x.tape.like(x, name, x.dtype if x.dtype.size >= constant.dtype.size else constant.dtype)
    out.node = node
    return out


def mul(a: Tensor, b: Tensor, name: str = "product") -> Tensor:
    """a * b of equal shapes."""
    tape = a.tape
    node = tape.record(
        _mul_backward,
        (a.node, b.node),
        (a if b.node is not None else None, b if a.node is not None else None),
        casts=(a.dtype, b.dtype),
    )
    out = tape.like(a, name, a.dtype if a.dtype.size >= b.dtype.size else b.dtype)
    out.node = node
    return out


def _mul_backward(tape: Tape, node: Node, grad: Tensor, saved: Any) -> tuple[Tensor | None, Tensor | None]:
    a_edge, b_edge = node.edges
    a = None if a_edge is None else tape.like(grad, "gradient")
    b = None if b_edge is None else tape.like(grad, "gradient")
    return a, b


def mul_constant(x: Tensor, constant: Tensor, name: str = "product") -> Tensor:
    """x times a (broadcast) tensor that needs no gradient and is saved: rotary's cos and sin, a dropout mask."""
    tape = x.tape
    node = tape.record(elementwise_backward, (x.node,), (constant,), casts=(x.dtype,))
    out = tape.like(x, name, x.dtype if x.dtype.size >= constant.dtype.size else constant.dtype)
    out.node = node
    return out


def mul_rows(x: Tensor, rows: Tensor, name: str = "product") -> Tensor:
    """x (…, n) times rows (…, 1), both with gradients."""
    tape = x.tape
    node = tape.record(_mul_rows_backward, (x.node, rows.node), (x, rows), rows.shape)
    out = tape.like(x, name)
    out.node = node
    return out


def _mul_rows_backward(tape: Tape, node: Node, grad: Tensor, saved: Any) -> tuple[Tensor | None, Tensor | None]:
    x_grad = tape.like(grad, "gradient") if node.edges[0] is not None else None
    rows_grad = None
    if node.edges[1] is not None:
        full = tape.like(grad, "gradient before summing")
        rows_grad = tape.new(node.ctx, grad.dtype, "gradient summed over features")
        del full
    return x_grad, rows_grad


def mul_param(x: Tensor, weight: Param | Tensor, name: str = "product") -> Tensor:
    """weight * x, the weight (a vector) broadcast over all but the last dimension."""
    tape = x.tape
    saves = x.node is not None or weight.node is not None
    saves_weight = x.node is not None and weight.__class__ is Tensor
    node = tape.record(
        _mul_param_backward,
        (x.node, weight.node),
        (x if weight.node is not None else None, weight if saves_weight else None) if saves else None,
        weight.shape,
        (x.dtype, weight.dtype),
    )
    out = tape.like(x, name, x.dtype if x.dtype.size >= weight.dtype.size else weight.dtype)
    out.node = node
    return out


def _mul_param_backward(tape: Tape, node: Node, grad: Tensor, saved: Any) -> tuple[Tensor | None, Tensor | None]:
    w_full = tape.like(grad, "weight gradient before summing") if node.edges[1] is not None else None
    x_grad = tape.like(grad, "gradient") if node.edges[0] is not None else None
    w_grad = None
    if w_full is not None:
        w_grad = tape.new(node.ctx, grad.dtype, "weight gradient")
    return x_grad, w_grad


def square(x: Tensor, name: str = "square") -> Tensor:
    """x.pow(2); every other integer power allocates the same."""
    node = x.tape.record(_square_backward, (x.node,), (x,))
    out = x.tape.like(x, name)
    out.node = node
    return out


def _square_backward(tape: Tape, node: Node, grad: Tensor, saved: Any) -> tuple[Tensor]:
    power = tape.like(grad, "power")
    scaled = tape.like(grad, "power times exponent")
    out = tape.like(grad, "gradient")
    del power, scaled
    return (out,)


def mean_rows(x: Tensor, rows: Shape) -> Tensor:
    """x.mean(-1, keepdim=True)."""
    node = x.tape.record(_mean_backward, (x.node,), None, x.shape)
    out = x.tape.new(rows, x.dtype, "mean over features")
    out.node = node
    return out


def _mean_backward(tape: Tape, node: Node, grad: Tensor, saved: Any) -> tuple[Tensor]:
    return (tape.new(node.ctx, grad.dtype, "gradient over features"),)


def rsqrt(x: Tensor) -> Tensor:
    """x.rsqrt()."""
    out = x.tape.like(x, "reciprocal root")
    out.node = x.tape.record(_rsqrt_backward, (x.node,), (out,))
    return out


def _rsqrt_backward(tape: Tape, node: Node, grad: Tensor, saved: Any) -> tuple[Tensor]:
    cube = tape.like(grad, "cube")
    half = tape.like(grad, "half")
    out = tape.like(grad, "gradient")
    del cube, half
    return (out,)


def silu(x: Tensor) -> Tensor:
    """SiLU, which saves its input."""
    return unary(x, "silu", saves="input")


def gelu(x: Tensor) -> Tensor:
    """torch's own GELU, exact or approximated by tanh: either is one kernel, which saves its input."""
    return unary(x, "gelu", saves="input")


def tanh(x: Tensor) -> Tensor:
    """tanh, which saves its output."""
    return unary(x, "tanh", saves="output")


def dropout(x: Tensor, p: float) -> Tensor:
    """nn.functional.dropout in training: native_dropout on CUDA, which saves a mask of one byte per element."""
    if p <= 0:
        return x
    tape = x.tape
    out = tape.like(x, "dropout")
    mask = tape.like(x, "dropout mask", BOOL)
    out.node = tape.record(elementwise_backward, (x.node,), (mask,))
    return out


def reshape(x: Tensor, shape: Shape) -> Tensor:
    """x in another shape: a view, or a copy if x's memory is in another order than its shape."""
    if x.transposed:
        return _copy(x, shape)
    out = x.tape.view(x, shape)
    out.node = x.node
    return out


def clone(x: Tensor) -> Tensor:
    """x.clone()."""
    node = x.tape.record(pass_backward, (x.node,))
    out = x.tape.like(x, "clone")
    out.node = node
    return out


def contiguous(x: Tensor) -> Tensor:
    """x.contiguous()."""
    return _copy(x, x.shape) if x.transposed or x.expanded else x


def _copy(x: Tensor, shape: Shape) -> Tensor:
    node = x.tape.record(pass_backward, (x.node,))
    out = x.tape.new(shape, x.dtype, "contiguous copy")
    out.node = node
    return out


def transpose(x: Tensor, shape: Shape) -> Tensor:
    """x.transpose(1, 2), a view; backward transposes the gradient back."""
    out = x.tape.view(x, shape)
    out.transposed = not x.transposed
    out.node = x.tape.record(_transpose_backward, (x.node,), None, x.shape)
    return out


def _transpose_backward(tape: Tape, node: Node, grad: Tensor, saved: Any) -> tuple[Tensor]:
    out = tape.view(grad, node.ctx)
    out.transposed = not grad.transposed
    return (out,)


def view(x: Tensor, shape: Shape) -> Tensor:
    """x.view(shape) of an x in memory order; backward copies a gradient that is in another order."""
    out = x.tape.view(x, shape)
    out.node = x.tape.record(_view_backward, (x.node,), None, x.shape)
    return out


def _view_backward(tape: Tape, node: Node, grad: Tensor, saved: Any) -> tuple[Tensor]:
    if grad.transposed:
        return (tape.new(node.ctx, grad.dtype, "contiguous gradient"),)
    return (tape.view(grad, node.ctx),)


def view_heads(x: Tensor, heads: Shape) -> Tensor:
    """x (batch, seq, heads·dim).view(…, heads, dim).transpose(1, 2). The gradient is transposed back; the backward of
    the view copies it unless it is then in memory order.
    """
    out = x.tape.view(x, heads)
    out.transposed = True
    out.node = x.tape.record(_view_heads_backward, (x.node,), None, x.shape)
    return out


def _view_heads_backward(tape: Tape, node: Node, grad: Tensor, saved: Any) -> tuple[Tensor]:
    if grad.transposed:
        return (tape.view(grad, node.ctx),)
    return (tape.new(node.ctx, grad.dtype, "contiguous gradient"),)


def rotate_half(x: Tensor, half: Shape) -> Tensor:
    """torch.cat((-x[..., d/2:], x[..., :d/2]), -1)."""
    tape = x.tape
    needs = x.node is not None
    lower = upper = None
    if needs:
        lower = tape.record(_slice_backward, (x.node,), None, x.shape)
        upper = tape.record(_slice_backward, (x.node,), None, x.shape)
    negated_node = tape.record(elementwise_backward, (upper,))
    negated = tape.new(half, x.dtype, "negated half")
    node = tape.record(_cat_backward, (negated_node, lower), None, half)
    out = tape.new(x.shape, x.dtype, "rotated halves")
    out.transposed = False
    out.node = node
    del negated
    return out


def slice_last(x: Tensor, shape: Shape) -> Tensor:
    """x[..., :n]: a view; backward makes a zero-filled gradient of the whole."""
    out = x.tape.view(x, shape)
    out.transposed = x.transposed
    out.node = x.tape.record(_slice_backward, (x.node,), None, x.shape)
    return out


def pad_last(x: Tensor, shape: Shape, name: str) -> Tensor:
    """torch.nn.functional.pad of the last dimension (constant_pad_nd): a copy in the shape's order, as the backward's
    is.
    """
    node = x.tape.record(_pad_backward, (x.node,), None, x.shape)
    out = x.tape.new(shape, x.dtype, name)
    out.node = node
    return out


def _pad_backward(tape: Tape, node: Node, grad: Tensor, saved: Any) -> tuple[Tensor]:
    return (tape.new(node.ctx, grad.dtype, "gradient without padding"),)


def _slice_backward(tape: Tape, node: Node, grad: Tensor, saved: Any) -> tuple[Tensor]:
    return (tape.new(node.ctx, grad.dtype, "gradient of a slice"),)


def _cat_backward(tape: Tape, node: Node, grad: Tensor, saved: Any) -> tuple[Tensor, Tensor]:
    return tape.view(grad, node.ctx), tape.view(grad, node.ctx)


def softmax(x: Tensor, dtype: Dtype = FP32) -> Tensor:
    """softmax over the last dimension in `dtype`. An input of another type is cast first, except that CUDA's kernel
    itself turns float16 into float32 (aten/src/ATen/native/SoftMax.cpp, half_to_float).
    """
    if not (x.dtype is FP16 and dtype is FP32):
        x = to(x, dtype, "softmax input")
    out = x.tape.new(x.shape, dtype, "softmax")
    out.node = x.tape.record(_softmax_backward, (x.node,), (out,), x.dtype)
    return out


def _softmax_backward(tape: Tape, node: Node, grad: Tensor, saved: Any) -> tuple[Tensor]:
    # aten/src/ATen/native/cuda/SoftMax.cu, softmax_backward_cuda_out: allocates grad * output as well.
    out = tape.new(grad.shape, node.ctx, "gradient")
    product = tape.new(grad.shape, grad.dtype, "gradient times softmax")
    del product
    return (out,)


def bmm(a: Tensor, b: Tensor, shape: Shape, name: str) -> Tensor:
    """Batched matrix product; each factor is saved if the other needs a gradient."""
    tape = a.tape
    node = tape.record(
        _bmm_backward,
        (a.node, b.node),
        (a if b.node is not None else None, b if a.node is not None else None),
        (a.shape, b.shape),
    )
    out = tape.new(shape, a.dtype, name)
    out.node = node
    return out


def _bmm_backward(tape: Tape, node: Node, grad: Tensor, saved: Any) -> tuple[Tensor | None, Tensor | None]:
    a_edge, b_edge = node.edges
    b = (
        None
        if b_edge is None
        else tape.view(tape.new(node.ctx[1], grad.dtype, "gradient of the right factor"), node.ctx[1])
    )
    a = (
        None
        if a_edge is None
        else tape.view(tape.new(node.ctx[0], grad.dtype, "gradient of the left factor"), node.ctx[0])
    )
    return a, b


def cube(x: Tensor) -> Tensor:
    """x.pow(3)."""
    return square(x, "cube")


def gelu_new(x: Tensor, autocast: bool = False) -> Tensor:
    """transformers' NewGELUActivation, operation by operation; under autocast the power runs in fp32."""
    half = scale(x, "half input")
    return mul(
        half,
        shift(
            tanh(scale(add(x, scale(cube(to(x, FP32, "power input") if autocast else x))), "tanh input")),
            "one plus tanh",
        ),
        "gelu",
    )


def split(x: Tensor, shape: Shape, parts: int) -> tuple[Tensor, ...]:
    """x.split(…, dim=-1) into equal views; backward copies their gradients into one new tensor."""
    tape = x.tape
    parent = tape.record(_split_backward, (x.node,), None, (x.shape, []))
    views = []
    for _ in range(parts):
        out = tape.view(x, shape)
        out.node = tape.record(_stash_backward, (parent,))
        views.append(out)
    return tuple(views)


def _stash_backward(tape: Tape, node: Node, grad: Tensor, saved: Any) -> tuple[Tensor | None]:
    parent = node.edges[0]
    assert isinstance(parent, Node)
    parent.ctx[1].append(grad)
    return (grad if parent.grad is None else None,)


def _split_backward(tape: Tape, node: Node, grad: Tensor, saved: Any) -> tuple[Tensor]:
    shape, grads = node.ctx
    out = tape.new(shape, grad.dtype, "joined gradients")
    grads.clear()
    return (out,)


def select_first(x: Tensor, shape: Shape) -> Tensor:
    """x[:, 0]: a view; backward makes a zero-filled gradient of the whole."""
    out = x.tape.view(x, shape)
    out.node = x.tape.record(_slice_backward, (x.node,), None, x.shape)
    return out


def select_rows(x: Tensor, indices: tuple[Tensor, ...], shape: Shape) -> Tensor:
    """x[i, j] with tensors of indices, which are saved; backward puts the gradient into one of zeros."""
    node = x.tape.record(_slice_backward, (x.node,), indices, x.shape)
    out = x.tape.new(shape, x.dtype, "selected rows")
    out.node = node
    return out


def slice_copy(x: Tensor, shape: Shape, name: str) -> Tensor:
    """x[..., :-1, :].contiguous(): backward makes a zero-filled gradient of the whole."""
    out = x.tape.new(shape, x.dtype, name)
    out.node = x.tape.record(_slice_backward, (x.node,), None, x.shape)
    return out


def add_broadcast(x: Tensor, small: Tensor, name: str = "sum") -> Tensor:
    """x plus a smaller tensor broadcast over the batch, both with gradients."""
    tape = x.tape
    node = tape.record(add_broadcast_backward, (x.node, small.node), None, small.shape, (x.dtype, small.dtype))
    out = tape.like(x, name, x.dtype if x.dtype.size >= small.dtype.size else small.dtype)
    out.node = node
    return out


def add_broadcast_backward(tape: Tape, node: Node, grad: Tensor, saved: Any) -> tuple[Tensor | None, Tensor | None]:
    """Pass the gradient on to x, and sum it over the batch for the smaller tensor."""
    small = None if node.edges[1] is None else tape.new(node.ctx, grad.dtype, "gradient summed over the batch")
    return (None if node.edges[0] is None else grad), small


_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": silu,
    "swish": silu,
    "gelu": gelu,
    "gelu_pytorch_tanh": gelu,
    "relu": lambda x: unary(x, "relu", saves="output"),
}
KNOWN_ACTIVATIONS = frozenset(_ACTIVATIONS) | {"gelu_new"}
"""The names of transformers' ACT2FN that the tape has operations for."""


def activation(name: str, x: Tensor, *, autocast: bool) -> Tensor:
    """transformers' ACT2FN[name](x)."""
    return gelu_new(x, autocast) if name == "gelu_new" else _ACTIVATIONS[name](x)
