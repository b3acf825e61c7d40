"""What a format of frozen base weights answers."""

from typing import NamedTuple, Protocol

from memplanner.program.shapes import Dtype, Shape
from memplanner.tape.engine import Tensor


class StoredTensor(NamedTuple):
    """One of the tensors that hold a quantised weight."""

    name: str
    shape: Shape
    dtype: Dtype


class Quantization(Protocol):
    """A format of frozen base weights.

    clones_output: peft's layer over it clones the base layer's output before it adds to it. is_read: weights come from
    a checkpoint as they are kept.
    """

    @property
    def is_read(self) -> bool:
        """See above."""

    @property
    def clones_output(self) -> bool:
        """See above."""

    def tensors(self, shape: Shape) -> tuple[StoredTensor, ...]:
        """What holds a weight (out, in): first the weight itself, then its scales."""

    @property
    def shared(self) -> tuple[StoredTensor, ...]:
        """What all quantised weights have in common, once in a process."""

    def scales(self, weight: Shape) -> Shape | None:
        """The scales of a weight (out, in) that are quantised themselves, as they stand dequantised in fp32 beside it;
        None where they are not.
        """

    def linear(
        self, x: Tensor, weight: Shape, out_shape: Shape, compute_dtype: Dtype, stored: Dtype, name: str
    ) -> Tensor:
        """The layer's output: x · Wᵀ with the weight (out, in) of this shape. stored: the type that the weight had
        before it was quantised. name: the output's.
        """
