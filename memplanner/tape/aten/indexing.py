"""Elements picked and put by indices."""

from collections.abc import Sequence
from typing import Any

from memplanner.program.shapes import Shape
from memplanner.tape.aten.base import Rule, kept
from memplanner.tape.engine import Node, Param, Tape, Tensor

Outs = tuple[Shape, ...]
Grads = tuple[Tensor | None, ...]
Source = Tensor | Param


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


def _gather(tape: Tape, outs: Outs, x: Source, dim: int, indices: Tensor) -> Tensor:
    """gather, whose derivative keeps the input as well."""
    return _picked(tape, outs, x, (indices, x), "gathered")


INDEXING: dict[str, Rule] = {
    "embedding": _embedding,
    "index": _index,
    "index_select": _index_select,
    "gather": _gather,
}
