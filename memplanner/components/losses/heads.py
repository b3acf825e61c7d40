"""The losses of heads other than a causal language model's: those of transformers' classes for the task, in
loss/loss_utils.py or in the model's own forward(). They have no settings, and a plan does not choose them.
"""

from typing import TYPE_CHECKING

from memplanner.components.architectures.tasks import Task
from memplanner.components.losses.base import Batch, Losses, Model, batch_of
from memplanner.frozen import Frozen
from memplanner.program.shapes import BOOL, FP32, INT32, INT64, Shape
from memplanner.tape import ops
from memplanner.tape.engine import Tensor
from memplanner.tape.loss import cross_entropy, mse

if TYPE_CHECKING:
    from memplanner.components.context import Context


def head_loss(
    task: Task, *, is_decoder: bool, has_loss_function: bool, dropout: float, is_regression: bool
) -> "HeadLoss":
    """The loss of a task. is_decoder: the model is a causal one, whose last token stands for the sequence."""
    kinds = {
        "sequence-classification": PooledClassification if is_decoder else Classification,
        "token-classification": TokenClassification,
        "question-answering": QuestionAnswering,
        "masked-lm": MaskedLanguageModelling,
    }
    return kinds[task](has_loss_function=has_loss_function, dropout=dropout, is_regression=is_regression)


class HeadLoss(Frozen):
    """The loss of a head. has_loss_function: as architectures.family.Family has it. dropout, is_regression: as
    architectures.family.Published has them.
    """

    has_loss_function: bool = False
    dropout: float = 0.0
    is_regression: bool = False

    def inputs(self, ctx: "Context") -> Batch:
        """Token ids and a label for each."""
        return batch_of(ctx, Shape(batch=ctx.batch, seq=ctx.seq))

    def run(self, ctx: "Context", model: Model, batch: Batch) -> Losses:
        """The forward pass, from token ids to the loss."""
        raise NotImplementedError


class Classification(HeadLoss):
    """Of sequences, by an encoder."""

    def inputs(self, ctx: "Context") -> Batch:
        """Token ids and a label for each sequence, or a number."""
        return batch_of(ctx, Shape(batch=ctx.batch), FP32 if self.is_regression else INT64)

    def run(self, ctx: "Context", model: Model, batch: Batch) -> Losses:
        """The loss of the labels."""
        hidden = model.hidden_states(batch["input_ids"])
        logits = model.logits(hidden)
        ctx.tape.phase("loss")
        return Losses(self.of(ctx, logits, batch["labels"]), logits)

    def of(self, ctx: "Context", logits: Tensor, labels: Tensor) -> Tensor:
        """ForSequenceClassificationLoss: torch's cross_entropy, or mse_loss, which autocast runs in fp32."""
        if not self.is_regression:
            return _cross_entropy(ctx, logits, labels)
        numbers = ops.view(logits, labels.shape)
        return mse(ops.to(numbers, FP32, "logits in fp32") if ctx.autocast else numbers, labels)


class PooledClassification(Classification):
    """Of sequences, by a decoder: every token has logits, and the last one that is no padding counts."""

    def run(self, ctx: "Context", model: Model, batch: Batch) -> Losses:
        """GenericForSequenceClassification.forward (transformers' modeling_layers.py)."""
        tape = ctx.tape
        hidden = model.hidden_states(batch["input_ids"])
        logits = model.logits(hidden)
        tokens = batch["input_ids"].shape
        is_token = tape.new(tokens, BOOL, "whether a token is no padding")
        non_pad_mask = tape.new(tokens, INT32, "which tokens are no padding")
        del is_token
        token_indices = tape.new(Shape(seq=ctx.seq), INT32, "places of tokens")
        places = tape.new(tokens, INT32, "places of tokens that are no padding")
        last = tape.new(Shape(batch=ctx.batch), INT64, "last token")
        del places
        sequences = tape.new(Shape(batch=ctx.batch), INT64, "sequences")
        pooled = ops.select_rows(logits, (sequences, last), Shape(batch=ctx.batch, labels=logits.shape.dims[-1]))
        del sequences
        tape.phase("loss")
        loss = self.of(ctx, pooled, batch["labels"])
        del hidden, logits, non_pad_mask, token_indices, last
        return Losses(loss, pooled)


class TokenClassification(HeadLoss):
    """Of every token."""

    def run(self, ctx: "Context", model: Model, batch: Batch) -> Losses:
        """Dropout, logits and loss. transformers' function takes the logits to fp32 (ForTokenClassification); the code
        of a model's own leaves that to autocast.
        """
        hidden = model.hidden_states(batch["input_ids"])
        dropped = ops.dropout(hidden, self.dropout)
        logits = model.logits(dropped)
        ctx.tape.phase("loss")
        loss = _cross_entropy(ctx, logits, batch["labels"], upcast=self.has_loss_function)
        del hidden, dropped
        return Losses(loss, logits)


class MaskedLanguageModelling(HeadLoss):
    """Of every token; those that are not masked have the label that is ignored."""

    def run(self, ctx: "Context", model: Model, batch: Batch) -> Losses:
        """Logits of all tokens; nothing is shifted."""
        hidden = model.hidden_states(batch["input_ids"])
        logits = model.logits(hidden)
        ctx.tape.phase("loss")
        return Losses(_cross_entropy(ctx, logits, batch["labels"]), logits)


class QuestionAnswering(HeadLoss):
    """Where in the text the answer begins, and where it ends."""

    def inputs(self, ctx: "Context") -> Batch:
        """Token ids, and two places for each sequence."""
        batch = batch_of(ctx, Shape(batch=ctx.batch))
        tape = ctx.tape
        category, tape.category = tape.category, "inputs"
        start, end = batch.pop("labels"), tape.new(Shape(batch=ctx.batch), INT64, "end positions")
        tape.category = category
        return {**batch, "start_positions": start, "end_positions": end}

    def run(self, ctx: "Context", model: Model, batch: Batch) -> Losses:
        """Each token has two logits; those of a sequence's tokens are the classes."""
        tape = ctx.tape
        hidden = model.hidden_states(batch["input_ids"])
        logits = model.logits(hidden)
        tokens = Shape(batch=ctx.batch, seq=ctx.seq)
        one = Shape(batch=ctx.batch, seq=ctx.seq, one=1)
        begins, ends = (ops.clone(ops.view(part, tokens)) for part in ops.split(logits, one, 2))
        if self.has_loss_function:
            tape.phase("loss")
        clamped = [tape.new(Shape(batch=ctx.batch), INT64, f"{name} positions in range") for name in ("start", "end")]
        if not self.has_loss_function:
            tape.phase("loss")
        losses = [_cross_entropy(ctx, part, at) for part, at in zip((begins, ends), clamped, strict=True)]
        loss = ops.scale(ops.add(losses[0], losses[1], "sum of losses"), "loss")
        del hidden, logits, losses, clamped
        return Losses(loss, begins)


def _cross_entropy(ctx: "Context", logits: Tensor, labels: Tensor, *, upcast: bool = False) -> Tensor:
    return cross_entropy(ops.to(logits, FP32, "logits in fp32") if upcast or ctx.autocast else logits, labels)
