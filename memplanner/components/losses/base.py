"""What a loss answers: which inputs a step needs, and what it makes of a model's forward passes."""

from typing import TYPE_CHECKING, ClassVar, NamedTuple, Protocol

from memplanner.program.shapes import INT64, Dtype, Shape
from memplanner.settings.base import Settings
from memplanner.tape.engine import Param, Tensor

if TYPE_CHECKING:
    from memplanner.components.context import Context


class Model(Protocol):
    """A model as a loss sees it. It may be run as often as the loss likes."""

    def hidden_states(self, input_ids: Tensor) -> Tensor:
        """Token ids (batch, seq) to the last hidden state (batch, seq, hidden)."""

    def logits(self, hidden_states: Tensor) -> Tensor:
        """The head: (batch, seq, vocab), or (batch, labels) of a classifier."""


class LanguageModel(Model, Protocol):
    """A model whose head is one matrix, for losses that apply it by themselves."""

    vocab: int

    def head_weight(self) -> Param:
        """The output projection (vocab, hidden)."""


Batch = dict[str, Tensor]
"""A micro-batch on the device by the names that transformers gives its parts, such as input_ids and labels. Its tensors
are freed in the order in which they entered it.
"""


class Losses(NamedTuple):
    """What a forward pass gives: the loss, and the logits where the loss has made them."""

    loss: Tensor
    logits: Tensor | None = None


class Loss(Settings):
    """A language model's loss."""

    label: ClassVar[str]
    """Its name for people."""
    multiplies_head: ClassVar[bool] = False
    """Whether it takes the head's weight instead of calling the head, which leaves out an adapter of the head."""
    kind: str

    def inputs(self, ctx: "Context") -> Batch:
        """Token ids and a label for each."""
        return batch_of(ctx, Shape(batch=ctx.batch, seq=ctx.seq))

    def run(self, ctx: "Context", model: LanguageModel, batch: Batch) -> Losses:
        """The forward pass, from token ids to the loss. It says where the phase "loss" begins (ctx.tape.phase)."""
        raise NotImplementedError


def batch_of(ctx: "Context", labels: Shape, dtype: Dtype = INT64) -> Batch:
    """Token ids (batch, seq) and labels of this shape and type."""
    tape = ctx.tape
    category, tape.category = tape.category, "inputs"
    batch = {"input_ids": tape.new(Shape(batch=ctx.batch, seq=ctx.seq), INT64, "input ids")}
    batch["labels"] = tape.new(labels, dtype, "labels")
    tape.category = category
    return batch
