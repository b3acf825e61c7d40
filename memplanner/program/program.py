"""The step program: everything that a training step allocates and frees, in order, whoever wrote it down.

Events are whole numbers: i where tensor i is allocated, ~i where it is freed. Equal blocks in a row are written once: a
`Repeat` says which events stand for how many blocks, and which tensors a block takes from its neighbour. Sizes may have
been computed from a batch size and a sequence length (program.symbolic); a program has the sizes of one such pair.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Final, Literal, NamedTuple

from memplanner.frozen import Frozen
from memplanner.program.shapes import Dtype, Shape
from memplanner.program.symbolic import resolved
from memplanner.timeline import Category, Phase

BLOCK_BYTES: Final = 512
"""The caching allocator rounds every request up to this (c10/cuda/CUDACachingAllocator.cpp, kMinBlockSize)."""


def round_to_block(num_bytes: int) -> int:
    """The bytes that the caching allocator hands out for a request of `num_bytes`."""
    return (num_bytes + BLOCK_BYTES - 1) & -BLOCK_BYTES


class TensorInfo(NamedTuple):
    """A tensor of the step. scope: the block that makes it. stream: the CUDA stream that it is allocated on.

    copies: how many equal tensors it stands for, made one in each of the equal blocks, or all at once.
    """

    scope: str
    name: str
    shape: Shape
    dtype: Dtype
    category: Category
    copies: int = 1
    stream: int = 0


class PersistentTensor(NamedTuple):
    """A tensor that outlives the step, or `copies` equal ones.

    role: a weight of the model; a buffer, which is no parameter; or state that training keeps. stands_for: the shape of
    the weight that a packed tensor holds; None where it is the tensor's own. is_reached: the step gives it a gradient,
    if it is trained.
    """

    name: str
    category: Category
    shape: Shape
    dtype: Dtype
    copies: int
    role: Literal["weight", "buffer", "state"] = "state"
    trainable: bool = False
    stands_for: Shape | None = None
    is_reached: bool = True

    @property
    def num_bytes(self) -> int:
        """Exact bytes of all copies."""
        return self.shape.numel * self.dtype.size * self.copies

    @property
    def block_bytes(self) -> int:
        """What the caching allocator hands out for them."""
        return round_to_block(self.shape.numel * self.dtype.size) * self.copies

    @property
    def num_parameters(self) -> int:
        """How many of the model's parameters it holds, packed ones included; 0 unless it is a weight."""
        return (self.stands_for or self.shape).numel * self.copies if self.role == "weight" else 0


class Persistent(Frozen, eq=False, kw_only=False):
    """All that outlives a step. Programs of several sizes share one, whose sums are computed once. Compared by
    identity, not by content.

    checkpoint: the type in which the weights of a quantised base are read; None where none are quantised. is_packed:
    those that are quantised are read as they are kept.
    """

    tensors: tuple[PersistentTensor, ...] = ()
    checkpoint: Dtype | None = None
    is_packed: bool = False

    def __iter__(self) -> Iterator[PersistentTensor]:
        return iter(self.tensors)

    @cached_property
    def by_category(self) -> Counter[Category]:
        """What the caching allocator hands out for them."""
        sums: Counter[Category] = Counter()
        for tensor in self.tensors:
            sums[tensor.category] += tensor.block_bytes
        return sums

    @cached_property
    def total(self) -> int:
        """Block bytes of all categories."""
        return sum(self.by_category.values())

    @cached_property
    def num_parameters(self) -> int:
        """Parameters of the model, adapters included."""
        return sum(tensor.num_parameters for tensor in self.tensors)

    @cached_property
    def num_trainable(self) -> int:
        """Elements of the weights that learn."""
        return sum(t.shape.numel * t.copies for t in self.tensors if t.trainable)

    @cached_property
    def gradient_bytes(self) -> int:
        """Exact bytes of the gradients of all weights that learn and get one."""
        return sum(t.num_bytes for t in self.tensors if t.trainable and t.is_reached)


class Carried(NamedTuple):
    """A tensor that equal blocks hand on: each reads its neighbour's output as its input, and frees it in this section.

    output: the tensor that a block makes for its neighbour. input: the tensor from outside that the block at the edge
    of the row, which has no such neighbour, reads instead. offset: -1 where a block reads the output of the block
    before, +1 where it reads that of the block after. Where the section's events free `input`, every other block frees
    its neighbour's output there. freed_at_end: the events do not free `input`, because something outside keeps it
    alive; every other block frees its neighbour's output at the end of the section.
    """

    input: int
    output: int
    offset: Literal[-1, 1]
    freed_at_end: bool = False


class Repeat(NamedTuple):
    """A section of events, start to end, that stands for `times` equal blocks in a row.

    blocks: a number that sections over the same blocks share, such as their forward and their backward pass: a tensor
    that a block makes in one section it may free in another. descending: whether the last block comes first.
    """

    start: int
    end: int
    times: int
    blocks: int
    descending: bool = False
    carried: tuple[Carried, ...] = ()


class Structure(NamedTuple):
    """A program without its sizes, which is all that decoding needs; compared by content."""

    events: tuple[int, ...]
    phases: tuple[tuple[Phase, int], ...]
    repeats: tuple[Repeat, ...]
    copies: tuple[int, ...]


class StepProgram(Frozen, eq=False):
    """One training step. Compared by identity, not by content.

    sizes: the bytes that the caching allocator hands out for one copy of each tensor. structure.phases: each phase with
    the position of its first event. refresh_only: tensors that exist only in steps that recompute projections.
    symbols: where sizes were computed from inputs, the values of the symbolic dimensions in `tensors`; else empty.
    """

    tensors: Sequence[TensorInfo]
    sizes: Sequence[int]
    structure: Structure
    persistent: Persistent
    refresh_only: frozenset[int] = frozenset()
    symbols: Sequence[int] = ()

    def described(self, index: int) -> TensorInfo:
        """A tensor with its shape in numbers."""
        tensor = self.tensors[index]
        if not self.symbols:
            return tensor
        dims = (resolved(dim, self.symbols) for dim in tensor.shape.dims)
        return tensor._replace(shape=Shape(**dict(zip(tensor.shape.labels, dims, strict=True))))

    def with_workspaces(self, workspace: PersistentTensor | None) -> "StepProgram":
        """The same step on a card with other cuBLAS workspaces; None: without any."""
        others = tuple(t for t in self.persistent if t.category != "workspaces")
        return self.replaced(
            persistent=self.persistent.replaced(tensors=others if workspace is None else (*others, workspace))
        )

    def phases_of(self, index: int) -> tuple[Phase, Phase]:
        """The phases in which a tensor is first made and first freed; "steady" for what is not freed."""
        return self._phase_of(index), self._phase_of(~index)

    def _phase_of(self, event: int) -> Phase:
        try:
            position = self.structure.events.index(event)
        except ValueError:
            return "steady"
        return next(name for name, start in reversed(self.structure.phases) if start <= position)
