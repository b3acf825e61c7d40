"""Full training: every parameter learns."""

from typing import Literal

from memplanner.components.context import Context, LinearSpec
from memplanner.program.shapes import Shape
from memplanner.settings.base import Settings
from memplanner.tape.engine import Tensor


class Full(Settings):
    """Every parameter is trained."""

    kind: Literal["full"] = "full"

    def linear(self, ctx: Context, spec: LinearSpec, x: Tensor, out_shape: Shape) -> Tensor:
        """A plain linear layer."""
        return ctx.plain_linear(spec, x, out_shape, trainable=True)

    @property
    def copies_head(self) -> bool:
        """Whether a new classification head is trained as a copy."""
        return False

    def trains(self, ctx: Context, path: str) -> bool:
        """Everything learns."""
        return True
