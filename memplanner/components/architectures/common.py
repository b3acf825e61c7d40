"""What the causal language models share: the output projection, and the heads that take its place."""

from memplanner.components.context import Context, LinearSpec
from memplanner.program.shapes import Shape
from memplanner.tape import ops
from memplanner.tape.engine import Param, Tensor


def head_of(vocab: int, hidden: int, *, tied_to: str | None) -> LinearSpec:
    """The output projection (vocab, hidden). tied_to: the embeddings' table, where it is the same tensor."""
    labels = ("vocab", "hidden")
    return LinearSpec("lm_head", hidden, vocab, labels=labels, in_block=False, is_head=True, tied_to=tied_to or "")


def head_weight(ctx: Context, head: LinearSpec) -> Param:
    """What a loss that multiplies by the head itself takes: the weight, or the copy of it that is trained."""
    return ctx.param(f"{head.path}.weight", head.weight_shape, tied_to=head.tied_to)


def logits_of(ctx: Context, head: LinearSpec, hidden: Tensor) -> Tensor:
    """Logits (batch, seq, vocab) of all tokens."""
    shape = Shape(batch=ctx.batch, seq=ctx.seq, vocab=head.out_features)
    if ctx.rank_of(head) is None:
        return ctx.matmul(hidden, head_weight(ctx, head), None, shape, "logits")
    return ctx.linear(head, hidden, shape)


def label_logits(
    ctx: Context, hidden: Tensor, name: str, labels: int, *, bias: bool = True, dropout: float = 0.0
) -> Tensor:
    """The logits (batch, seq, labels) of a new linear layer of this name."""
    spec = LinearSpec(name, hidden.shape.dims[-1], labels, bias, ("labels", "hidden"))
    return ctx.head(spec, ops.dropout(hidden, dropout), Shape(batch=ctx.batch, seq=ctx.seq, labels=labels))
