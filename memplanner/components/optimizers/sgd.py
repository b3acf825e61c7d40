"""torch.optim.SGD (torch/optim/sgd.py)."""

from typing import Annotated, Literal

from pydantic import Field

from memplanner.components.optimizers.rules import StateTensor
from memplanner.program.shapes import Dtype, Shape
from memplanner.settings.base import Settings
from memplanner.tape.engine import Param, Tape


class Sgd(Settings):
    """torch.optim.SGD without weight decay: everything happens in place."""

    kind: Literal["sgd"] = "sgd"
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Above zero it keeps one buffer per trained element."""

    @property
    def in_place(self) -> bool:
        """Whether the update makes no temporaries."""
        return True

    def state(self, shape: Shape, dtype: Dtype) -> tuple[StateTensor, ...]:
        """The momentum buffer, if any."""
        return (StateTensor("momentum_buffer", shape, dtype),) if self.momentum > 0 else ()

    def shared(self) -> tuple[StateTensor, ...]:
        """Nothing."""
        return ()

    def step_one(self, tape: Tape, shape: Shape, dtype: Dtype) -> None:
        """In place."""

    def step_all(self, tape: Tape, params: list[Param]) -> None:
        """In place."""
