"""What every training method answers: which parameters learn, what a linear layer is, and how updates are made."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from memplanner.components.optimizers.update import Optimizer, UpdateRule
from memplanner.program.shapes import Dtype, Shape
from memplanner.settings.base import Settings
from memplanner.tape import nn
from memplanner.tape.engine import Tensor

if TYPE_CHECKING:
    from memplanner.components.context import Context, LinearSpec


class Method(Settings):
    """A training method. The defaults are those of a method without rank that leaves updates to the optimizer.

    label: its name for people. freezes_base: whether the base weights are frozen, so that they may be quantised.
    plain_layers: whether linear layers stay torch's own.
    """

    label: ClassVar[str]
    kind: str
    freezes_base: ClassVar[bool] = False
    plain_layers: ClassVar[bool] = False

    def linear(self, ctx: "Context", spec: "LinearSpec", x: Tensor, out_shape: Shape) -> Tensor:
        """What a linear layer is under this method; out_shape: of its output."""
        raise NotImplementedError

    @property
    def lora_kernels(self) -> tuple[str, ...]:
        """Kernels that compute linear layers together with their adapters."""
        return ()

    def fused_linears(self, ctx: "Context", x: Tensor, *layers: "tuple[LinearSpec, Shape]") -> list[Tensor]:
        """Linear layers of one input with their adapters, in one kernel; of each, the shape of its output."""
        raise NotImplementedError

    def fused_mlp(
        self,
        ctx: "Context",
        x: Tensor,
        gate: "tuple[LinearSpec, Shape]",
        up: "tuple[LinearSpec, Shape]",
        down: "tuple[LinearSpec, Shape]",
    ) -> Tensor:
        """A gated MLP's three linear layers with their adapters, in one kernel; of each, the shape of its output."""
        raise NotImplementedError

    def embedding(
        self, ctx: "Context", path: str, table: Shape, indices: Tensor, out_shape: Shape, name: str
    ) -> Tensor:
        """What an embedding is under this method; table: its weight's shape."""
        return nn.embedding(ctx.tape, ctx.param(f"{path}.weight", table), indices, out_shape, name)

    def trains(self, ctx: "Context", path: str) -> bool:
        """Whether a parameter outside the linear layers learns, by its path inside its block."""
        raise NotImplementedError

    def rule(self, optimizer: Optimizer, weights: Dtype) -> UpdateRule:
        """How the optimizer updates what this method trains; UnsupportedError where no library has the pair.

        weights: the type of the model's weights.
        """
        return optimizer

    def default_targets(self, family: Any) -> tuple[str, ...] | str:
        """The linear modules that the method acts on where none are named; family: architectures.registry.Family."""
        targets: tuple[str, ...] = family.block_targets
        return targets

    @property
    def peft_targets(self) -> tuple[str, ...] | str | None:
        """target_modules as peft gets them, empty where it takes its own for the type; None where it adapts nothing."""
        return None

    def ranks(self, family: Any, config: Any) -> Mapping[str, int]:
        """The rank of every module that the method acts on with a rank, by its path; config: the model's."""
        return {}

    def copied(self, family: Any, config: Any) -> frozenset[str]:
        """The modules that are trained as copies, the originals kept (peft's modules_to_save), by their paths; with
        all that is in them.
        """
        return frozenset()

    def copied_dtype(self, original: Dtype) -> Dtype:
        """The type of a copy's weights; original: of the module's own."""
        return original

    @property
    def chosen_rank(self) -> int | None:
        """The rank; None where there is none to choose."""
        return None

    def describe(self) -> str:
        """The word that selects it, with its ranks."""
        return self.kind if self.chosen_rank is None else f"{self.kind} rank {self.chosen_rank}"

    @property
    def ranks_by_name(self) -> Mapping[str, int]:
        """Other ranks, by patterns of the ends of modules' paths."""
        return {}

    @property
    def refreshes(self) -> bool:
        """Whether some steps compute projections anew."""
        return False
