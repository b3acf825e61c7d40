"""Matrix products, linear layers and norms."""

from typing import Any

from memplanner.program.shapes import FP32, Shape
from memplanner.tape import nn, strides
from memplanner.tape.aten.base import (
    Rule,
    as_tensor,
    is_contiguous,
    kept,
    laid_out,
    node_of,
    order_of,
    strides_of,
    view_of,
)
from memplanner.tape.aten.views import contiguous, expand, reshape, transpose, view
from memplanner.tape.engine import Node, Param, Tape, Tensor

Outs = tuple[Shape, ...]
Grads = tuple[Tensor | None, ...]
Source = Tensor | Param


# -- products of two ---------------------------------------------------------------------------------------------------


def bmm(tape: Tape, outs: Outs, a: Source, b: Source) -> Tensor:
    """Batched matrix product; each factor is saved if the other needs a gradient."""
    node = tape.record(_bmm_backward, (a.node, b.node), _factors(a, b), (a.shape, b.shape))
    out = tape.new(outs[0], a.dtype, "product")
    out.node = node
    return out


def _factors(a: Source, b: Source) -> tuple[Tensor | None, Tensor | None]:
    """What mm and bmm save. A tuple's last item is freed first: mat2 before self, as their names in PyTorch go."""
    return kept(a) if b.node is not None else None, kept(b) if a.node is not None else None


def _bmm_backward(tape: Tape, node: Node, grad: Tensor, saved: Any) -> Grads:
    a_shape, b_shape = node.ctx
    b = None if node.edges[1] is None else tape.new(b_shape, grad.dtype, "gradient of the right factor")
    a = None if node.edges[0] is None else tape.new(a_shape, grad.dtype, "gradient of the left factor")
    return a, b


def mm(tape: Tape, outs: Outs, a: Source, b: Source) -> Tensor:
    """Matrix product; each factor is saved if the other needs a gradient."""
    node = tape.record(_mm_backward, (a.node, b.node), _factors(a, b), (a.shape, order_of(a), b.shape, order_of(b)))
    out = tape.new(outs[0], a.dtype, "product")
    out.node = node
    return out


def _mm_backward(tape: Tape, node: Node, grad: Tensor, saved: Any) -> Grads:
    a_shape, a_order, b_shape, b_order = node.ctx
    b = None if node.edges[1] is None else _factor_gradient(tape, grad, b_shape, b_order)
    a = None if node.edges[0] is None else _factor_gradient(tape, grad, a_shape, a_order)
    return a, b


def _factor_gradient(tape: Tape, grad: Tensor, shape: Shape, order: strides.Strides | None) -> Tensor:
    """In column-major order where the factor is: the transpose of a product (FunctionsManual.cpp, mm_mat1_grad)."""
    out = tape.new(shape, grad.dtype, "gradient of a factor")
    if order is not None and order[-2:] == (1, shape.dims[-2]):
        return view_of(tape, out, shape, order)
    return out


def _addmm(tape: Tape, outs: Outs, bias: Source, a: Source, b: Source) -> Tensor:
    node = tape.record(
        _addmm_backward,
        (bias.node, a.node, b.node),
        _factors(a, b)[::-1],
        (a.shape, order_of(a), b.shape, order_of(b)),
        (bias.dtype, a.dtype, b.dtype),
        (bias.shape, a.shape, b.shape),
    )
    out = tape.new(outs[0], a.dtype, "product and bias")
    out.node = node
    return out


def _addmm_backward(tape: Tape, node: Node, grad: Tensor, saved: Any) -> Grads:
    """mat1, mat2, self: the opposite order of mm's self and mat2."""
    a_shape, a_order, b_shape, b_order = node.ctx
    a = None if node.edges[1] is None else _factor_gradient(tape, grad, a_shape, a_order)
    b = None if node.edges[2] is None else _factor_gradient(tape, grad, b_shape, b_order)
    return None if node.edges[0] is None else grad, a, b


def _baddbmm(tape: Tape, outs: Outs, x: Source, a: Source, b: Source, beta: float = 1, alpha: float = 1) -> Tensor:
    """beta * x + alpha * (a @ b)."""
    node = tape.record(
        _baddbmm_backward,
        (x.node, a.node, b.node),
        _factors(a, b)[::-1],
        (a.shape, b.shape, beta != 1, alpha != 1),
        (x.dtype, a.dtype, b.dtype),
        (x.shape, a.shape, b.shape),
    )
    out = tape.new(outs[0], a.dtype, "product and summand")
    out.node = node
    return out


def _baddbmm_backward(tape: Tape, node: Node, grad: Tensor, saved: Any) -> Grads:
    """batch1, batch2, self; what has a factor is multiplied once more (maybe_multiply)."""
    *shapes, scales_x, scales = node.ctx
    grads: list[Tensor | None] = []
    for edge, shape in zip(node.edges[1:], shapes, strict=True):
        of_factor = None if edge is None else tape.new(shape, grad.dtype, "gradient of a factor")
        if of_factor is not None and scales:
            of_factor = tape.like(of_factor, "scaled gradient of a factor")
        grads.append(of_factor)
    of_x = None if node.edges[0] is None else tape.like(grad, "scaled gradient") if scales_x else grad
    return of_x, *grads


def _grouped_mm(tape: Tape, outs: Outs, a: Source, b: Source, offsets: Tensor | None = None, *_: Any) -> Tensor:
    """Rows a (tokens, in), in groups, times the matrices b (experts, in, out): each group by its own."""
    of_b, of_a = _factors(a, b)
    node = tape.record(
        _mm_backward, (a.node, b.node), (of_b, offsets, of_a), (a.shape, order_of(a), b.shape, order_of(b))
    )
    out = tape.new(outs[0], a.dtype, "product by groups")
    out.node = node
    return out


def _solve_triangular(tape: Tape, outs: Outs, a: Source, b: Source, *_: Any) -> Tensor:
    """linalg_solve_triangular: the x of a @ x = b, in column-major order."""
    out = _by_column(tape.new(outs[0], b.dtype, "solution"))
    out.node = tape.record(_solve_backward, (a.node, b.node), (out, kept(a)), (a.shape, b.shape))
    return out


def _by_column(x: Tensor) -> Tensor:
    *rest, rows, columns = x.shape.dims
    *steps, _, _ = strides.contiguous((*rest, columns, rows))
    return laid_out(x, strides.normal(x.shape.dims, (*steps, 1, rows)))


def _solve_backward(tape: Tape, node: Node, grad: Tensor, saved: Any) -> Grads:
    """FunctionsManual.cpp, linalg_solve_triangular_backward."""
    a_shape, b_shape = node.ctx
    of_a = None
    of_b = _by_column(tape.new(b_shape, grad.dtype, "gradient of the right side"))
    if node.edges[0] is not None:
        product = tape.new(a_shape, grad.dtype, "product")
        negated = tape.like(product, "negated product")
        del product
        of_a = tape.like(negated, "gradient of the triangle")
        del negated
    return of_a, None if node.edges[1] is None else of_b


def matmul(tape: Tape, outs: Outs, a: Source, b: Source) -> Tensor:
    """torch.matmul of two tensors that are no vectors (aten/src/ATen/native/LinearAlgebra.cpp, _matmul_impl): mm where
    one of them is a matrix and the other's rows can be taken together, else bmm.
    """
    a_dims, b_dims = a.shape.dims, b.shape.dims
    if len(a_dims) == len(b_dims) == 2:
        return mm(tape, outs, a, b)
    if _folds(a, b):
        if len(a_dims) >= len(b_dims):
            rows = Shape(rows=a.shape.numel // a_dims[-1], columns=a_dims[-1])
            product = Shape(rows=rows.dims[0], columns=b_dims[-1])
            folded = reshape(tape, (rows,), a)
            return reshape(tape, outs, mm(tape, (product,), folded, b))
        b, a = _transposed(tape, a), _transposed(tape, b)
        rows = Shape(rows=a.shape.numel // a.shape.dims[-1], columns=a.shape.dims[-1])
        product = Shape(rows=rows.dims[0], columns=b.shape.dims[-1])
        folded = reshape(tape, (rows,), a)
        whole = Shape(**dict(zip(a.shape.labels, (*a.shape.dims[:-1], b.shape.dims[-1]), strict=True)))
        out = _transposed(tape, reshape(tape, (whole,), mm(tape, (product,), folded, b)))
        return as_tensor(tape, contiguous(tape, outs, out))
    batch = outs[0].dims[:-2]
    for x, other in ((a, b), (b, a)):
        if len(a_dims) == len(b_dims) == 3 and x.node is not None and x.shape.dims[0] == 1 != other.shape.dims[0]:
            matrix = Shape(rows=x.shape.dims[1], columns=x.shape.dims[2])
            squeezed = view(tape, (matrix,), x)
            return matmul(tape, outs, *((squeezed, b) if x is a else (a, squeezed)))
    left, right = _batched(tape, a, batch), _batched(tape, b, batch)
    product = Shape(batch=left.shape.dims[0], rows=a_dims[-2], columns=b_dims[-1])
    out = bmm(tape, (product,), left, right)
    del right, left
    return reshape(tape, outs, out)


def _folds(a: Source, b: Source) -> bool:
    """Whether the batch of the larger becomes rows of a matrix (should_fold)."""
    larger, smaller = (a, b) if len(a.shape.dims) >= len(b.shape.dims) else (b, a)
    if len(smaller.shape.dims) > 2:
        return False
    if smaller.node is not None:
        return True
    if larger is b:
        return False
    dims, order = larger.shape.dims, strides_of(larger)
    return all(order[place] == order[place + 1] * dims[place + 1] for place in range(len(dims) - 2))


def _transposed(tape: Tape, x: Source) -> Tensor:
    """x.mT."""
    labels, dims = x.shape.labels, x.shape.dims
    shape = Shape(**dict(zip((*labels[:-2], labels[-1], labels[-2]), (*dims[:-2], dims[-1], dims[-2]), strict=True)))
    return transpose(tape, (shape,), x, -2, -1)


def _batched(tape: Tape, x: Source, batch: tuple[int, ...]) -> Source:
    """x (…, n, m) expanded over the batch, whose dimensions become one."""
    *own, rows, columns = x.shape.dims
    if tuple(own) != batch:
        sizes = {f"batch{place}": size for place, size in enumerate(batch)}
        x = expand(tape, (Shape(**sizes, rows=rows, columns=columns),), x)
    number = 1
    for size in batch:
        number = number * size
    return reshape(tape, (Shape(batch=number, rows=rows, columns=columns),), x)


# -- layers ------------------------------------------------------------------------------------------------------------


def linear(tape: Tape, outs: Outs, x: Source, weight: Source, bias: Source | None = None) -> Tensor:
    """torch.nn.functional.linear. An input that is not in memory order is multiplied by matmul, and the bias is added
    in place.
    """
    if is_contiguous(x):
        return nn.matmul_weight(as_tensor(tape, x), weight, bias, outs[0], "linear output")
    turned = _transposed(tape, weight)
    if bias is not None and len(x.shape.dims) == 2:
        return _addmm(tape, outs, bias, x, turned)
    out = matmul(tape, outs, x, turned)
    if bias is not None:
        out.node = tape.record(
            _bias_backward, (out.node, bias.node), None, None, (out.dtype, bias.dtype), (out.shape, bias.shape)
        )
    return out


def _bias_backward(tape: Tape, node: Node, grad: Tensor, saved: Any) -> Grads:
    return tuple([None if edge is None else grad for edge in node.edges])


def _convolution(tape: Tape, outs: Outs, x: Source, weight: Source, bias: Source | None = None, *_: Any) -> Tensor:
    """convolution, whatever its dimensions: input and weight are saved, both of them."""
    parts = (x, weight, bias)
    node = tape.record(
        _parts_backward,
        tuple([node_of(part) for part in parts]),
        (kept(weight), kept(x)),
        tuple([None if part is None else (part.shape, part.dtype) for part in parts]),
    )
    out = tape.new(outs[0], x.dtype, "convolution")
    out.node = node
    return out


def layer_norm(
    tape: Tape, outs: Outs, x: Source, weight: Source | None = None, bias: Source | None = None, *_: Any
) -> Tensor | tuple[Tensor, Tensor, Tensor]:
    """torch.nn.functional.layer_norm and native_layer_norm: saves the input and two fp32 numbers per row."""
    rows = outs[1] if len(outs) > 1 else _rows(x, weight)
    out = tape.new(outs[0], x.dtype, "normalised")
    mean = tape.new(rows, FP32, "mean per row")
    rstd = tape.new(rows, FP32, "reciprocal deviation per row")
    parts = (x, weight, bias)
    node = tape.record(
        _parts_backward,
        tuple([node_of(part) for part in parts]),
        (rstd, mean, kept(weight), kept(x), kept(bias)),
        tuple([None if part is None else (part.shape, part.dtype) for part in parts]),
    )
    out.node = node
    return out if len(outs) == 1 else (out, mean, rstd)


def _rows(x: Source, weight: Source | None) -> Shape:
    """One number for each row; without a weight, rows are the last dimension's."""
    left = len(x.shape.dims) - (1 if weight is None else len(weight.shape.dims))
    return Shape(**dict(zip(x.shape.labels[:left], x.shape.dims[:left], strict=True)))


def _parts_backward(tape: Tape, node: Node, grad: Tensor, saved: Any) -> Grads:
    """New gradients of input, weight and bias, in this order."""
    names = ("gradient", "weight gradient", "bias gradient")
    return tuple(
        [
            None if edge is None else tape.new(part[0], part[1], name)
            for edge, part, name in zip(node.edges, node.ctx, names, strict=False)
        ]
    )


def _group_norm(
    tape: Tape, outs: Outs, x: Source, weight: Source | None = None, bias: Source | None = None, *_: Any
) -> tuple[Tensor, Tensor, Tensor]:
    """native_group_norm: as native_layer_norm, with its statistics in the input's type."""
    out, mean, rstd = (
        tape.new(shape, x.dtype, name)
        for shape, name in zip(outs, ("normalised", "mean per group", "reciprocal deviation per group"), strict=True)
    )
    parts = (x, weight, bias)
    out.node = tape.record(
        _parts_backward,
        tuple([node_of(part) for part in parts]),
        (rstd, mean, kept(weight), kept(x)),
        tuple([None if part is None else (part.shape, part.dtype) for part in parts]),
    )
    return out, mean, rstd


def _rms_norm(tape: Tape, outs: Outs, x: Source, weight: Source | None = None, *_: Any) -> Tensor:
    """torch.nn.functional.rms_norm as one kernel (_fused_rms_norm): saves the input and an fp32 number per row."""
    out = tape.new(outs[0], x.dtype, "normalised")
    rstd = tape.new(_rows(x, weight), FP32, "reciprocal root per row")
    parts = (x, weight)
    out.node = tape.record(
        _parts_backward,
        tuple([node_of(part) for part in parts]),
        (rstd, kept(weight), kept(x)),
        tuple([None if part is None else (part.shape, part.dtype) for part in parts]),
    )
    return out


PRODUCTS: dict[str, Rule] = {
    "mm": mm,
    "bmm": bmm,
    "addmm": _addmm,
    "baddbmm": _baddbmm,
    "_grouped_mm": _grouped_mm,
    "linalg_solve_triangular": _solve_triangular,
    "matmul": matmul,
    "linear": linear,
    "layer_norm": layer_norm,
    "native_layer_norm": layer_norm,
    "native_group_norm": _group_norm,
    "rms_norm": _rms_norm,
    "convolution": _convolution,
}
