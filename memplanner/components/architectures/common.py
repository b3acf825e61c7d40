"""What the causal language models share: the output projection."""

from memplanner.components.context import Context, LinearSpec
from memplanner.program.shapes import Shape
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
