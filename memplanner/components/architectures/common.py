"""What the causal language models share: the mask of eager attention, and the head with its loss."""

from memplanner.components.context import Context
from memplanner.program.shapes import BOOL, SCALAR, Shape
from memplanner.tape import loss as losses
from memplanner.tape.engine import Tensor


def attention_mask(ctx: Context, *, causal: bool = True) -> Tensor | None:
    """The mask that all layers share, (batch, 1, seq, seq): for eager attention in the weights' type, for SDPA boolean
    and only where batches are padded; the kernels know causality by themselves.

    Source: transformers.masking_utils, eager_mask and sdpa_mask.
    """
    eager = ctx.attention == "eager"
    if not ctx.padding and not (eager and causal):
        return None
    tape, s = ctx.tape, ctx.seq
    full = Shape(batch=ctx.batch, one=1, queries=s, keys=s)
    allowed = tape.new(full if ctx.padding else Shape(one=1, one_=1, queries=s, keys=s), BOOL, "attention mask (bool)")
    if not eager:
        return allowed
    zero = tape.new(SCALAR, ctx.weight_dtype, "zero")
    mask = tape.new(full, ctx.weight_dtype, "attention mask")
    del allowed, zero
    return mask


def language_model_head(
    ctx: Context, hidden: Tensor, labels: Tensor, *, vocab: int, tied_to: str | None
) -> tuple[Tensor | None, Tensor]:
    """(logits, loss): the output projection and transformers' ForCausalLMLoss, in the plan's way of computing it."""
    tape = ctx.tape
    weight = tape.params[tied_to] if tied_to else None
    if weight is None:
        width = hidden.shape.dims[-1]
        weight = ctx.param("lm_head.weight", Shape(vocab=vocab, hidden=width))
    if ctx.loss_kind == "cross-entropy":
        shape = Shape(batch=ctx.batch, seq=ctx.seq, vocab=vocab)
        logits = ctx.matmul(hidden, weight, None, shape, "logits")
        tape.phase("loss")
        return logits, losses.causal_lm_loss(logits, labels, ctx.batch, ctx.seq, ctx.loss_shifts)
    tape.phase("loss")
    if ctx.loss_kind == "chunked":

        def project(x: Tensor, shape: Shape) -> Tensor:
            return ctx.matmul(x, weight, None, shape, "logits of a chunk")

        return None, losses.chunked_cross_entropy(
            tape, hidden, project, batch=ctx.batch, seq=ctx.seq, vocab=vocab, chunks=ctx.loss_chunks
        )
    hidden, cast = ctx.lowered(hidden, weight)
    return None, losses.fused_linear_cross_entropy(tape, hidden, cast, tokens=ctx.batch * ctx.seq, vocab=vocab)
