"""Head and loss over chunks of the sequence, each under a checkpoint."""

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from memplanner.components.losses.base import Batch, LanguageModel, Loss, Losses
from memplanner.program.shapes import FP32, INT64, Shape
from memplanner.tape import ops
from memplanner.tape.engine import Tensor
from memplanner.tape.loss import cross_entropy

if TYPE_CHECKING:
    from memplanner.components.context import Context


class ChunkedCrossEntropy(Loss):
    """Head and loss over chunks of tokens, each recomputed in backward, so that one chunk's logits are alive."""

    label: ClassVar[str] = "chunked cross-entropy"
    multiplies_head: ClassVar[bool] = True
    kind: Literal["chunked"] = "chunked"
    chunks: Annotated[int, Field(ge=1, le=256)] = 8
    """Number of chunks the tokens are split into."""

    def run(self, ctx: "Context", model: LanguageModel, batch: Batch) -> Losses:
        """One chunk's logits after another; the labels of a chunk are a copy."""
        hidden = model.hidden_states(batch["input_ids"])
        weight = model.head_weight()
        tape = ctx.tape
        tape.phase("loss")
        part = -(-ctx.seq // min(self.chunks, ctx.seq))
        rows = Shape(batch=ctx.batch, seq=part, hidden=hidden.shape.dims[-1])
        logits_shape = Shape(batch=ctx.batch, seq=part, vocab=model.vocab)
        labels = tape.new(Shape(batch=ctx.batch, seq=part), INT64, "shifted labels of a chunk")

        def one(x: Tensor) -> Tensor:
            logits = ops.to(
                ctx.matmul(x, weight, None, logits_shape, "logits of a chunk"), FP32, "logits of a chunk in fp32"
            )
            return cross_entropy(logits, labels)

        total: Tensor | None = None
        for chunk in ops.split(hidden, rows, -(-ctx.seq // part)):
            loss = tape.checkpoint(one, chunk)
            total = loss if total is None else ops.add(total, loss, "loss so far")
        assert total is not None
        return Losses(total)
