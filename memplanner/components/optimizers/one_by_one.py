"""The update of memplanner.gradnormlorp's optimizer: AdamW's or bitsandbytes' states, parameter by parameter.

The only temporary is the root of a second moment that is kept whole; bitsandbytes' kernel needs none.
"""

from dataclasses import dataclass

from memplanner.components.optimizers.rules import Optimizer, StateTensor, step_each
from memplanner.program.shapes import UINT8, Dtype, Shape
from memplanner.tape.engine import Param, Tape


@dataclass(frozen=True, slots=True)
class OneByOne:
    """Steps with the states of another optimizer."""

    states: Optimizer

    @property
    def in_place(self) -> bool:
        """Whether the update makes no temporaries."""
        return False

    def state(self, shape: Shape, dtype: Dtype) -> tuple[StateTensor, ...]:
        """What it keeps for a tensor of this shape and type."""
        return self.states.state(shape, dtype)

    def shared(self) -> tuple[StateTensor, ...]:
        """The code books of 8-bit states."""
        return self.states.shared()

    def step_one(self, tape: Tape, shape: Shape, dtype: Dtype) -> None:
        """The root of the second moment, in the moment's type (memplanner/gradnormlorp/moments.py)."""
        second = next(t for t in self.state(shape, dtype) if t.name in ("exp_avg_sq", "state2"))
        if second.dtype is not UINT8:
            root = tape.new(shape, second.dtype, "root of the second moment")
            del root

    def step_all(self, tape: Tape, params: list[Param]) -> None:
        """One after another."""
        step_each(self, tape, params)
