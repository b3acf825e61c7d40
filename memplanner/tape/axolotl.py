"""Axolotl's autograd functions for LoRA on the tape (0.18.0, axolotl/kernels/lora.py): what they keep and make.

One function computes linear layers of one input together with their adapters. It keeps the input once, and every
adapter's factors in the input's type. A 4-bit weight stands dequantised for the length of one product. Backward sums
the input's gradient in one tensor; that of a gated MLP is computed in the place of what was saved. (Before 0.18 the
input's gradient took the input's place, which saves one hidden state in backward.)
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from memplanner.program.shapes import FP32, Dtype, Shape
from memplanner.tape.engine import Node, Param, Tape, Tensor


class Adapted(NamedTuple):
    """A linear layer with an adapter.

    weight: (out, in) of its frozen weight. a, b: the factors (rank, in) and (out, rank). out: of its output. stored:
    the type that a 4-bit weight is dequantised to, None where it is no 4-bit weight. scales: of the 4-bit weight, where
    these are quantised as well.
    """

    path: str
    weight: Shape
    a: Param
    b: Param
    out: Shape
    stored: Dtype | None
    scales: Shape | None

    def inner(self, rows: Shape) -> Shape:
        """What A makes of an input of these rows."""
        labels = (*rows.labels[:-1], "rank")
        return Shape(**dict(zip(labels, (*rows.dims[:-1], self.a.shape.dims[0]), strict=True)))


class _Call(NamedTuple):
    """What backward knows of a call. gradients: those of its outputs, as far as they have come."""

    layers: Sequence[Adapted]
    rows: Shape
    gradients: list[Tensor]


# -- LoRA_QKV and LoRA_O -----------------------------------------------------------------------------------------------


def linears(x: Tensor, dropped: Tensor | None, layers: Sequence[Adapted]) -> list[Tensor]:
    """LoRA_QKV of several layers, LoRA_O of one: their outputs. dropped: the adapters' input, where it is not x."""
    tape = x.tape
    outs = [_project(x, layer) for layer in layers]
    call = _Call(layers, x.shape, [])
    node = tape.record(
        _linears_backward, _edges(x, dropped, layers), (x, dropped, *_kept(x, layers)), call, _casts(x, layers)
    )
    if len(layers) == 1:
        outs[0].node = node
    else:
        for out in outs:
            out.node = tape.record(_handed_on, (node,))
    return outs


def _handed_on(tape: Tape, node: Node, grad: Tensor, saved: Any) -> tuple[Tensor | None]:
    """The function's backward runs once, when all its outputs have their gradients."""
    whole = node.edges[0]
    assert isinstance(whole, Node)
    whole.ctx.gradients.append(grad)
    return (grad if whole.grad is None else None,)


def _linears_backward(tape: Tape, node: Node, grad: Tensor, saved: Any) -> tuple[Tensor | None, ...]:
    layers, rows, gradients = node.ctx
    # The engine lets go of what came in when it has cast what comes out, as it does of what was saved.
    node.saved = (node.saved, *gradients)
    gradients.clear()
    dtype = grad.dtype
    by_rank, factors = [], []
    for layer in layers:
        inner, *of_factors = _factor_gradients(tape, layer, rows, dtype)
        by_rank.append(inner)
        factors += of_factors
        del inner, of_factors
    x_grad = None
    for layer in layers:
        weight = _dequantised(tape, layer)
        if x_grad is None:
            x_grad = tape.view(tape.new(rows, dtype, "gradient"), rows)
        del weight
    dropped_grad = None
    if node.edges[1] is not None:
        product = tape.new(rows, dtype, "gradient of the dropped input") if len(layers) == 1 else None
        dropped_grad = tape.view(tape.new(rows, dtype, "gradient of the dropped input"), rows)
        del product
    return x_grad, dropped_grad, *factors


# -- LoRA_MLP ----------------------------------------------------------------------------------------------------------


def gated_mlp(x: Tensor, dropped: Tensor | None, gate: Adapted, up: Adapted, down: Adapted) -> Tensor:
    """LoRA_MLP, with SwiGLU's kernels or GEGLU's, which are alike. dropped: the input of the adapters of gate and up,
    where it is not x; that of the down projection's is never dropped.
    """
    tape = x.tape
    layers = (gate, up, down)
    gated, upper = _project(x, gate), _project(x, up)
    hidden = tape.like(gated, "gated")
    out = _project(hidden, down)
    kept = _kept(x, layers)
    del hidden
    out.node = tape.record(
        _mlp_backward,
        _edges(x, dropped, layers),
        (x, dropped, gated, upper, *kept),
        _Call(layers, x.shape, []),
        _casts(x, layers),
    )
    return out


def _mlp_backward(tape: Tape, node: Node, grad: Tensor, saved: Any) -> tuple[Tensor | None, ...]:
    """The kernel writes gated's gradient over gated, that of `upper` over it, and `hidden` over hidden's gradient."""
    (gate, up, down), rows, _ = node.ctx
    dtype = grad.dtype
    weight = _dequantised(tape, down)
    hidden_grad = tape.new(gate.out, dtype, "gradient")
    del weight
    inner = tape.new(down.inner(rows), dtype, "gradient times lora_B")
    del inner
    of_down = _factor_gradients(tape, down, rows, dtype)
    of_up = _factor_gradients(tape, up, rows, dtype)
    of_gate = _factor_gradients(tape, gate, rows, dtype)
    x_grad = dropped_grad = None
    if node.edges[0] is not None:
        weight = _dequantised(tape, up)
        x_grad = tape.view(tape.new(rows, dtype, "gradient"), rows)
        del weight
        weight = _dequantised(tape, gate)
        del weight
        if node.edges[1] is not None:
            dropped_grad = tape.view(tape.new(rows, dtype, "gradient of the dropped input"), rows)
    del hidden_grad
    return x_grad, dropped_grad, *of_gate[1:], *of_up[1:], *of_down[1:]


# -- what they share ---------------------------------------------------------------------------------------------------


def _project(x: Tensor, layer: Adapted) -> Tensor:
    """matmul_lora: the base layer's output, to which bias and adapter are added in place."""
    tape = x.tape
    weight = _dequantised(tape, layer)
    out = tape.new(layer.out, x.dtype, f"{layer.path} output")
    del weight
    factors = _kept(x, [layer])
    inner = tape.new(layer.inner(x.shape), x.dtype, f"{layer.path}.lora_A output")
    del inner, factors
    return out


def _dequantised(tape: Tape, layer: Adapted) -> Tensor | None:
    """axolotl/kernels/quantize.py, dequantize; it leaves scales that are not quantised to bitsandbytes."""
    if layer.stored is None:
        return None
    weight = tape.new(layer.weight, layer.stored, "dequantised weight")
    if layer.scales is not None:
        tape.new(layer.scales, FP32, "dequantised scales")
    return weight


def _kept(x: Tensor, layers: Sequence[Adapted]) -> list[Tensor]:
    """The factors in the input's type; those that have it are the parameters themselves."""
    factors = (factor for layer in layers for factor in (layer.a, layer.b) if factor.dtype is not x.dtype)
    return [x.tape.new(factor.shape, x.dtype, f"{factor.name} as {x.dtype.name}") for factor in factors]


def _factor_gradients(tape: Tape, layer: Adapted, rows: Shape, dtype: Dtype) -> tuple[Tensor, Tensor, Tensor]:
    """The gradient by rank, which the input's gradient needs again, and the gradients of A and B."""
    by_rank = tape.new(layer.inner(rows), dtype, "gradient times lora_B")
    of_a = tape.view(tape.new(layer.a.shape, dtype, "weight gradient"), layer.a.shape)
    of_b = tape.view(tape.new(layer.b.shape, dtype, "weight gradient"), layer.b.shape)
    tape.new(layer.inner(rows), dtype, "lora_A output")
    return by_rank, of_a, of_b


def _edges(x: Tensor, dropped: Tensor | None, layers: Sequence[Adapted]) -> tuple[Node | Param | None, ...]:
    factors = (factor.node for layer in layers for factor in (layer.a, layer.b))
    return x.node, None if dropped is None else dropped.node, *factors


def _casts(x: Tensor, layers: Sequence[Adapted]) -> tuple[Dtype, ...]:
    return x.dtype, x.dtype, *(factor.dtype for layer in layers for factor in (layer.a, layer.b))
