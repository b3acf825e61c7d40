"""torch.optim.SGD (torch/optim/sgd.py)."""

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from memplanner.components.optimizers.update import Optimizer, StateTensor
from memplanner.tape.engine import Param, Tape


class Sgd(Optimizer):
    """torch.optim.SGD without weight decay: everything happens in place."""

    label: ClassVar[str] = "SGD"
    kind: Literal["sgd"] = "sgd"
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Above zero it keeps one buffer per trained element."""

    def state(self, param: Param) -> tuple[StateTensor, ...]:
        """The momentum buffer, if any."""
        return (StateTensor("momentum_buffer", param.shape, param.dtype),) if self.momentum > 0 else ()

    def step(self, tape: Tape, params: Sequence[Param]) -> None:
        """Nothing is made: the update is added in place."""
