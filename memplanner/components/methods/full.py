"""Full training: every parameter learns."""

from typing import ClassVar, Literal

from memplanner.components.context import Context, LinearSpec
from memplanner.components.methods.base import Method
from memplanner.program.shapes import Shape
from memplanner.tape.engine import Tensor


class Full(Method):
    """Every parameter is trained."""

    label: ClassVar[str] = "full training"
    kind: Literal["full"] = "full"
    plain_layers: ClassVar[bool] = True

    def linear(self, ctx: Context, spec: LinearSpec, x: Tensor, out_shape: Shape) -> Tensor:
        """A plain linear layer."""
        return ctx.plain_linear(spec, x, out_shape, trainable=True)

    def trains(self, ctx: Context, path: str) -> bool:
        """Everything learns."""
        return True
