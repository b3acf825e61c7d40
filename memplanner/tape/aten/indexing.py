"""Elements picked and put by indices: tables, sorting, routing to experts."""

from collections.abc import Sequence
from typing import Any

from memplanner.program.shapes import INT64, Shape
from memplanner.tape.aten.base import Rule, kept, like, record
from memplanner.tape.engine import Node, Param, Tape, Tensor

Outs = tuple[Shape, ...]
Grads = tuple[Tensor | None, ...]
Source = Tensor | Param


# -- picked ------------------------------------------------------------------------------------------------------------


def _picked(tape: Tape, outs: Outs, x: Source, saved: Sequence[Source | None], name: str) -> Tensor:
    """A copy of some elements; backward puts the gradient into one of zeros. saved: the indices, above all."""
    node = tape.record(_picked_backward, (x.node,), tuple([kept(one) for one in saved]), x.shape)
    out = tape.new(outs[0], x.dtype, name)
    out.node = node
    return out


def _picked_backward(tape: Tape, node: Node, grad: Tensor, saved: Any) -> Grads:
    return (tape.new(node.ctx, grad.dtype, "gradient of picked elements"),)


def _embedding(tape: Tape, outs: Outs, weight: Source, indices: Tensor, *_: Any) -> Tensor:
    return _picked(tape, outs, weight, (indices,), "embeddings")


def _index(tape: Tape, outs: Outs, x: Source, indices: Sequence[Tensor | None]) -> Tensor:
    return _picked(tape, outs, x, indices, "indexed")


def _index_select(tape: Tape, outs: Outs, x: Source, dim: int, indices: Tensor) -> Tensor:
    return _picked(tape, outs, x, (indices,), "selected")


def _gather(tape: Tape, outs: Outs, x: Source, dim: int, indices: Tensor, *_: Any) -> Tensor:
    """gather, whose derivative keeps the input as well."""
    return _picked(tape, outs, x, (indices, x), "gathered")


# -- sorted ------------------------------------------------------------------------------------------------------------


def _values_and_indices(name: str) -> Rule:
    """topk, sort and max over a dimension: the indices are saved, by which backward puts the gradient into zeros
    (FunctionsManual.cpp, value_selecting_reduction_backward).
    """

    def rule(tape: Tape, outs: Outs, x: Source, *_: Any) -> tuple[Tensor, Tensor]:
        values = tape.new(outs[0], x.dtype, name)
        indices = tape.new(outs[1], INT64, "indices")
        values.node = tape.record(_picked_backward, (x.node,), (indices,), x.shape)
        return values, indices

    return rule


def _indices(tape: Tape, outs: Outs, x: Source, *_: Any) -> Tensor:
    """argmax: indices alone."""
    return tape.new(outs[0], INT64, "indices")


def _argsort(tape: Tape, outs: Outs, x: Source, *_: Any) -> Tensor:
    """argsort: the indices of sort(), whose values are dropped."""
    values = tape.new(outs[0], x.dtype, "sorted")
    indices = tape.new(outs[0], INT64, "indices")
    del values
    return indices


def _maximum(tape: Tape, outs: Outs, x: Source, *args: Any) -> Any:
    """max() over a dimension, with its indices; or of all elements, which no model here differentiates."""
    if len(outs) == 2:
        return _values_and_indices("largest")(tape, outs, x, *args)
    if x.node is not None:
        raise NotImplementedError("the gradient of the largest of all elements")
    return tape.new(outs[0], x.dtype, "largest")


# -- put ---------------------------------------------------------------------------------------------------------------


def _scatter(tape: Tape, outs: Outs, x: Source, dim: int, indices: Tensor, source: Any = 0, *_: Any) -> Tensor:
    node = record(
        tape,
        scatter_backward,
        outs[0],
        (x, source),
        (indices,),
        source.shape if isinstance(source, Tensor | Param) else None,
    )
    out = like(tape, x, "scattered")
    out.node = node
    return out


def scatter_backward(tape: Tape, node: Node, grad: Tensor, saved: Any) -> Grads:
    """Make grad.scatter(dim, index, 0), and grad.gather(dim, index) of the source."""
    of_x = None if node.edges[0] is None else tape.like(grad, "gradient")
    of_source = None if node.edges[1] is None else tape.new(node.ctx, grad.dtype, "gradient of what was scattered")
    return of_x, of_source


def _index_put(
    tape: Tape,
    outs: Outs,
    x: Source,
    indices: Sequence[Tensor | None],
    values: Source,
    accumulate: bool = False,
    *_: Any,
) -> Tensor:
    fn = index_add_backward if accumulate else index_put_backward
    saved = tuple([kept(index) for index in indices])
    node = record(tape, fn, outs[0], (x, values), saved, values.shape)
    out = like(tape, x, "indices put")
    out.node = node
    return out


def index_put_backward(tape: Tape, node: Node, grad: Tensor, saved: Any) -> Grads:
    """Make grad.index_put(indices, zeros), and grad.index(indices) of the values."""
    of_x = None
    if node.edges[0] is not None:
        zeros = tape.new(node.ctx, grad.dtype, "zeros")
        of_x = tape.like(grad, "gradient")
        del zeros
    of_values = None if node.edges[1] is None else tape.new(node.ctx, grad.dtype, "gradient of what was put")
    return of_x, of_values


def _index_add(tape: Tape, outs: Outs, x: Source, dim: int, indices: Tensor, source: Source, *_: Any) -> Tensor:
    node = tape.record(
        index_add_backward,
        (x.node, source.node),
        (added(source), indices),
        source.shape,
        (x.dtype, source.dtype),
    )
    out = like(tape, x, "indices added")
    out.node = node
    return out


def added(source: Source) -> Tensor | None:
    """What index_add saves besides its indices: the derivative asks for the number of the source's dimensions."""
    return kept(source) if source.node is not None else None


def _scatter_add(tape: Tape, outs: Outs, x: Source, dim: int, indices: Tensor, source: Source) -> Tensor:
    node = tape.record(index_add_backward, (x.node, source.node), (indices,), source.shape, (x.dtype, source.dtype))
    out = like(tape, x, "scattered and added")
    out.node = node
    return out


def index_add_backward(tape: Tape, node: Node, grad: Tensor, saved: Any) -> Grads:
    """The gradient itself, and what it has at the indices for the source."""
    of_source = None if node.edges[1] is None else tape.new(node.ctx, grad.dtype, "gradient of what was added")
    return None if node.edges[0] is None else grad, of_source


INDEXING: dict[str, Rule] = {
    "embedding": _embedding,
    "index": _index,
    "index_select": _index_select,
    "gather": _gather,
    "topk": _values_and_indices("largest"),
    "sort": _values_and_indices("sorted"),
    "max": _maximum,
    "argmax": _indices,
    "argmin": _indices,
    "argsort": _argsort,
    "scatter": _scatter,
    "index_put": _index_put,
    "index_add": _index_add,
    "scatter_add": _scatter_add,
}
