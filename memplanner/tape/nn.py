"""Layers with weights: linear layers, embeddings and norms."""

from typing import Any

from memplanner.program.shapes import FP32, Dtype, Shape
from memplanner.tape import ops
from memplanner.tape.engine import BlocksDifferError, Leaf, Node, Param, Tape, Tensor


def cast_param(tape: Tape, weight: Param | Tensor, dtype: Dtype) -> Tensor | Param:
    """The weight in `dtype`, as autocast casts it. The copy of a trained weight is cached until the autocast region
    ends (aten/src/ATen/autocast_mode.cpp, cached_cast).
    """
    if weight.dtype is dtype:
        return weight
    if isinstance(weight, Tensor):
        return ops.to(weight, dtype, "weight cast by autocast")
    cached = tape.autocast_cache.get(weight.name)
    if cached is not None:
        return cached
    node = tape.record(cast_param_backward, (weight.node,), None, weight)
    out = tape.new(weight.shape, dtype, f"{weight.name} as {dtype.name}")
    out.node = node
    if weight.trainable:
        tape.autocast_cache[weight.name] = out
    return out


def cast_input(x: Tensor, dtype: Dtype) -> Tensor:
    """An input in `dtype`, as autocast casts it. autocast's cache has the copies of all leaves that require a gradient,
    weights or not: of the detached input too that a checkpointed block with use_reentrant runs on again, and of the
    embedded tokens where they ask for a gradient of their own.
    """
    name = "" if x.dtype is dtype else _leaf_of(x)
    if not name:
        return ops.to(x, dtype, "input cast by autocast")
    cache = x.tape.autocast_cache
    if name not in cache:
        if x.tape.repeating is not None and x.node.__class__ is not Leaf:
            raise BlocksDifferError(x.tape.repeating)
        cache[name] = ops.to(x, dtype, "input cast by autocast")
    return cache[name]


def _leaf_of(x: Tensor) -> str:
    """What a leaf of the graph that is no weight is called; "" for other tensors."""
    node = x.node
    if node.__class__ is Leaf:
        return "detached input"
    edge = node.edges[0] if isinstance(node, Node) and len(node.edges) == 1 else None
    return edge.name if isinstance(edge, Param) and edge.value is x else ""


def cast_view(tape: Tape, weight: Param, dtype: Dtype) -> Tensor | Param:
    """A view of the weight in `dtype`: autocast keeps casts of weights alone."""
    if weight.dtype is dtype:
        return weight
    node = tape.record(cast_param_backward, (weight.node,), None, weight)
    out = tape.new(weight.shape, dtype, f"{weight.name} as {dtype.name}")
    out.node = node
    return out


def cast_param_backward(tape: Tape, node: Node, grad: Tensor, saved: Any) -> tuple[Tensor]:
    """Cast the gradient back to the weight's type."""
    weight = node.ctx
    return (tape.new(weight.shape, weight.dtype, "weight gradient"),)


def matmul_weight(
    x: Tensor, weight: Param | Tensor, bias: Param | Tensor | None, out_shape: Shape, name: str
) -> Tensor:
    """torch.nn.functional.linear: x·Wᵀ + b with W (out, in). x is saved if W is trained, W if x needs a gradient."""
    tape = x.tape
    saved = (
        x if weight.node is not None else None,
        weight if x.node is not None and weight.__class__ is Tensor else None,
    )
    node = tape.record(
        _matmul_backward,
        (x.node, weight.node, None if bias is None else bias.node),
        saved if bias is None else saved[::-1],  # a tuple's last item is freed first: the weight by mm, x by addmm
        (x.shape, weight.shape, None if bias is None else bias.shape),
    )
    out = tape.new(out_shape, x.dtype, name)
    out.node = node
    return out


def _matmul_backward(tape: Tape, node: Node, grad: Tensor, saved: Any) -> tuple[Tensor | None, ...]:
    x_shape, w_shape, b_shape = node.ctx
    x_edge, w_edge, b_edge = node.edges
    w_grad = x_grad = None
    if x_edge is not None and b_shape is not None:  # addmm makes the input's gradient first, mm the weight's
        x_grad = tape.new(x_shape, grad.dtype, "gradient")
    if w_edge is not None:
        w_grad = tape.view(tape.new(w_shape, grad.dtype, "weight gradient"), w_shape)
    if x_edge is not None and b_shape is None:
        x_grad = tape.new(x_shape, grad.dtype, "gradient")
    if x_grad is not None and len(x_shape.dims) != 2:  # the product's rows, viewed as the input's
        x_grad = tape.view(x_grad, x_shape)
    b_grad = None if b_edge is None else tape.new(b_shape, grad.dtype, "bias gradient")
    return x_grad, w_grad, b_grad


def embedding(tape: Tape, weight: Param, indices: Tensor, out_shape: Shape, name: str) -> Tensor:
    """nn.Embedding: rows of its weight; backward makes a gradient of the whole table."""
    weight.is_table = True
    node = tape.record(_embedding_backward, (weight.node,), (indices,), weight)
    out = tape.new(out_shape, weight.dtype, name)
    out.node = node
    return out


def _embedding_backward(tape: Tape, node: Node, grad: Tensor, saved: Any) -> tuple[Tensor]:
    return (tape.new(node.ctx.shape, grad.dtype, "weight gradient"),)


def embedding_of_columns(tape: Tape, weight: Param, indices: Tensor, out_shape: Shape, name: str) -> Tensor:
    """Select rows of a trained Wᵀ, a view of the weight."""
    node = tape.record(_columns_backward, (weight.node,), (indices,), weight)
    out = tape.new(out_shape, weight.dtype, name)
    out.node = node
    return out


def _columns_backward(tape: Tape, node: Node, grad: Tensor, saved: Any) -> tuple[Tensor]:
    """The gradient comes transposed. A first one is copied into the weight's own order of memory
    (torch/csrc/autograd/functions/accumulate_grad.h, obeys_layout_contract); a later one is added as it is.
    """
    transposed = tape.new(node.ctx.shape, grad.dtype, "transposed weight gradient")
    if tape.gradients_held:
        return (transposed,)
    return (tape.new(node.ctx.shape, grad.dtype, "weight gradient"),)


def layer_norm(x: Tensor, weight: Param, bias: Param, rows: Shape, *, autocast: bool) -> Tensor:
    """native_layer_norm: saves its input and two fp32 numbers per row; under autocast it runs in fp32."""
    if autocast:
        x = ops.to(x, FP32)
    tape = x.tape
    out = tape.new(x.shape, x.dtype, "normalised")
    mean = tape.new(rows, FP32, "mean per row")
    rstd = tape.new(rows, FP32, "reciprocal deviation per row")
    out.node = tape.record(_layer_norm_backward, (x.node, weight.node, bias.node), (x, mean, rstd), weight)
    return out


def _layer_norm_backward(tape: Tape, node: Node, grad: Tensor, saved: Any) -> tuple[Tensor | None, ...]:
    weight = node.ctx
    x_edge, w_edge, b_edge = node.edges
    x_grad = None if x_edge is None else tape.like(grad, "gradient")
    w_grad = None if w_edge is None else tape.new(weight.shape, weight.dtype, "weight gradient")
    b_grad = None if b_edge is None else tape.new(weight.shape, weight.dtype, "bias gradient")
    return x_grad, w_grad, b_grad


def rms_norm(x: Tensor, weight: Param, rows: Shape) -> Tensor:
    """RMSNorm as transformers writes it (LlamaRMSNorm.forward), operation by operation in fp32."""
    dtype = x.dtype
    hidden = ops.to(x, FP32, "norm input")
    del x
    variance = ops.mean_rows(ops.square(hidden), rows)
    hidden = ops.mul_rows(hidden, ops.rsqrt(ops.shift(variance)), "normalised")
    return ops.mul_param(ops.to(hidden, dtype), weight, "norm output")
