"""A step program for all batch sizes and sequence lengths that need the same tensors in the same order."""

from functools import cached_property

from memplanner.frozen import Frozen
from memplanner.program.program import StepProgram
from memplanner.program.symbolic import Arithmetic


class SymbolicProgram(Frozen, eq=False):
    """A program whose sizes and shapes were computed from the inputs of an arithmetic.

    program: the program as it was written, in which dimensions and sizes are plain numbers or SymInts of the
    arithmetic. Tensors that outlive the step must not depend on the inputs.
    """

    program: StepProgram
    arithmetic: Arithmetic

    def __post_init__(self) -> None:
        assert all(isinstance(t.num_bytes, int) for t in self.program.persistent), "what stays is of the model's sizes"

    @cached_property
    def _places(self) -> list[int]:
        """The index of each size among the arithmetic's values."""
        return [self.arithmetic.place(size) for size in self.program.sizes]

    def at(self, *inputs: int) -> StepProgram | None:
        """The program for these inputs; None where they would lead to other tensors or another order."""
        places = self._places
        values = self.arithmetic.run(*inputs)
        if values is None:
            return None
        return self.program.replaced(sizes=[values[place] for place in places], symbols=values)
