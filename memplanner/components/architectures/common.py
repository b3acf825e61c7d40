"""What the causal language models share: the output projection, and the heads that take its place."""

from memplanner.components.context import Context, LinearSpec
from memplanner.program.shapes import Shape
from memplanner.tape import ops
from memplanner.tape.engine import Param, Tensor


def head_weight(ctx: Context, vocab: int, hidden: int, *, tied_to: str | None) -> Param:
    """The output projection (vocab, hidden), or the embeddings that it is tied to."""
    if tied_to:
        return ctx.tape.params[tied_to]
    return ctx.param("lm_head.weight", Shape(vocab=vocab, hidden=hidden))


def logits_of(ctx: Context, hidden: Tensor, weight: Param) -> Tensor:
    """Logits (batch, seq, vocab) of all tokens."""
    shape = Shape(batch=ctx.batch, seq=ctx.seq, vocab=weight.shape.dims[0])
    return ctx.matmul(hidden, weight, None, shape, "logits")


def label_logits(
    ctx: Context, hidden: Tensor, name: str, labels: int, *, bias: bool = True, dropout: float = 0.0
) -> Tensor:
    """The logits (batch, seq, labels) of a new linear layer of this name."""
    spec = LinearSpec(name, hidden.shape.dims[-1], labels, bias, ("labels", "hidden"))
    return ctx.head(spec, ops.dropout(hidden, dropout), Shape(batch=ctx.batch, seq=ctx.seq, labels=labels))
