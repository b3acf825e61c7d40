"""What the causal language models share: the output projection, and the heads that take its place."""

from memplanner.components.context import Context, LinearSpec
from memplanner.program.shapes import Shape
from memplanner.tape.engine import Param, Tensor


def head_of(vocab: int, hidden: int, *, tied_to: str | None, path: str = "lm_head", bias: bool = False) -> LinearSpec:
    """The output projection (vocab, hidden). tied_to: the embeddings' table, where it is the same tensor."""
    return LinearSpec(
        path, hidden, vocab, bias, ("vocab", "hidden"), in_block=False, is_head=True, tied_to=tied_to or ""
    )


def head_weight(ctx: Context, head: LinearSpec) -> Param:
    """What a loss that multiplies by the head itself takes: the weight, or the copy of it that is trained."""
    return ctx.param(f"{head.path}.weight", head.weight_shape, tied_to=head.tied_to)


def logits_of(ctx: Context, head: LinearSpec, hidden: Tensor) -> Tensor:
    """Logits (batch, seq, vocab) of all tokens."""
    shape = Shape(batch=ctx.batch, seq=ctx.seq, vocab=head.out_features)
    if ctx.rank_of(head) is None:
        weight = head_weight(ctx, head)
        bias = ctx.param(f"{head.path}.bias", head.bias_shape) if head.bias else None
        return ctx.matmul(hidden, weight, bias, shape, "logits")
    return ctx.linear(head, hidden, shape)


def label_logits(ctx: Context, hidden: Tensor, name: str, labels: int, *, bias: bool = True) -> Tensor:
    """The logits (batch, seq, labels) of a new linear layer of this name."""
    spec = LinearSpec(name, hidden.shape.dims[-1], labels, bias, ("labels", "hidden"))
    return ctx.head(spec, hidden, Shape(batch=ctx.batch, seq=ctx.seq, labels=labels))
