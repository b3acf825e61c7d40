"""What every optimizer answers: which tensors it keeps for a parameter, and which its step makes and frees again.

A rule is written like the library's own `step()`: a loop, or one call for all parameters, whose local variables keep
alive what the library's keep alive.
"""

from collections.abc import Sequence
from itertools import groupby
from typing import Any, ClassVar, Final, NamedTuple

from memplanner.errors import Problem, UnsupportedError
from memplanner.program.shapes import Dtype, Shape
from memplanner.settings.base import Settings
from memplanner.tape.engine import Param, Tape, Tensor
from memplanner.timeline import Category


class StateTensor(NamedTuple):
    """A tensor that an optimizer keeps."""

    name: str
    shape: Shape
    dtype: Dtype
    category: Category = "optimizer_state"
    is_paged: bool = False
    """Whether it is in managed memory, which the host backs and no allocator of torch's counts."""


PAGED_NUMEL: Final = 100_000
"""Elements of a parameter from which bitsandbytes' paged optimizers have its moments in managed memory
(bitsandbytes/optim/optimizer.py, get_state_buffer); what is kept beside them, absmax for instance, never is.
"""


def paged(param: Param, *moments: StateTensor) -> tuple[StateTensor, ...]:
    """A parameter's moments as a paged optimizer has them."""
    return tuple(t._replace(is_paged=param.shape.numel >= PAGED_NUMEL) for t in moments)


class UpdateRule:
    """How parameters are updated, by one optimizer object, or with per-layer updates by one object per parameter.

    replaces_gradients: the step leaves another tensor in the gradient's place, so that a gradient kept from an earlier
    micro-batch does not outlive it.
    """

    replaces_gradients: ClassVar[bool] = False

    def state(self, param: Param) -> tuple[StateTensor, ...]:
        """What is kept for a parameter between steps."""
        raise NotImplementedError

    def shared(self, params: Sequence[Param], *, per_layer: bool) -> tuple[tuple[StateTensor, int], ...]:
        """What optimizer objects keep beside any parameter, and how many such tensors there are."""
        return ()

    def step(self, tape: Tape, params: Sequence[Param]) -> None:
        """The update of all these parameters: the tensors that come and go."""
        raise NotImplementedError

    def step_in_backward(self, tape: Tape, param: Param) -> None:
        """A per-layer update, made as soon as the gradient is complete: a step over one parameter."""
        self.step(tape, [single(param)])


class Optimizer(Settings, UpdateRule):
    """An optimizer's settings; under a method that leaves updates to it, it is the rule itself."""

    label: ClassVar[str]
    """Its name for people."""
    kind: str

    def describe(self) -> str:
        """For people: the word that selects it, with what is unusual about these settings."""
        return self.kind

    def summary(self) -> str:
        """For a line about the plan: its kind, with the settings that are worth a word even at their defaults."""
        return self.kind


def no_such_pair(method: str, optimizer: Optimizer, available: str, reason: str = "") -> UnsupportedError:
    """The refusal of a method with an optimizer that no library combines; available: what there is."""
    message = f"no library trains {method} with {optimizer.describe()}{f': {reason}' if reason else ''}"
    return UnsupportedError(Problem(where="plan", key="optimizer", message=message, hint=available))


def single(param: Param) -> Param:
    """One of the equal parameters that a parameter of a repeated block stands for."""
    return param if param.count == 1 else param.copied(count=1)


def stand_in(param: Param) -> Param:
    """The parameter as its optimizer sees it: of the projected gradient's shape where the gradient is projected."""
    if param.projection is None:
        return param
    return param.copied(shape=param.projection.reduced(param.shape))


def one_per_copy(tape: Tape, param: Param, dtype: Dtype, name: str) -> Tensor:
    """A tensor of the parameter's shape for each of the equal parameters that it stands for, all at once."""
    if param.count == 1:
        return tape.new(param.shape, dtype, f"{param.name} {name}")
    tape.current_copies = param.count
    out = tape.new(param.shape, dtype, f"{param.name} {name}")
    tape.current_copies = 1
    return out


def loop_order(params: Sequence[Param]) -> list[Param]:
    """The parameters as a loop over the whole model meets them. Those of repeated blocks come twice, because there a
    block's last parameter is followed by the next block's first.
    """
    order: list[Param] = []
    for repeated, group in groupby(params, lambda p: p.count > 1):
        order += list(group) * (2 if repeated else 1)
    return order


def unequal(params: Sequence[Param]) -> list[Param]:
    """One parameter of each shape, type and projection, for updates of which each is done before the next begins."""
    first: dict[Any, Param] = {}
    for param in params:
        first.setdefault((param.shape.dims, param.dtype.name, param.projection), param)
    return list(first.values())
