"""GaLore (arXiv 2403.03507; galore_torch): full training whose optimizer works in a projected gradient space."""

from typing import Annotated, Literal

from pydantic import Field

from memplanner.components.context import Context, LinearSpec
from memplanner.components.methods.low_rank import LowRank
from memplanner.components.optimizers.rules import Projection
from memplanner.program.shapes import Shape
from memplanner.tape.engine import Tensor


class Galore(LowRank):
    """Gradient low-rank projection; weights stay whole."""

    kind: Literal["galore"] = "galore"
    rank: Annotated[int, Field(ge=1, le=1 << 20)] = 128
    """Rank of the projected gradient space."""
    refresh_interval: Annotated[int, Field(ge=1, le=1 << 30)] = 200
    """Steps between two SVDs of the gradient."""
    accounting: Literal["as-coded", "as-published"] = "as-coded"
    """"as-coded": what galore_torch keeps (an fp32 run's projector pins the whole small×small matrix);
    "as-published": the paper's formula, state m·r + 2·n·r."""

    def linear(self, ctx: Context, spec: LinearSpec, x: Tensor, out_shape: Shape) -> Tensor:
        """A plain linear layer, its weight marked for projection."""
        projection = None
        if self.targets(ctx, spec):
            projection = Projection(
                rank=self.rank_of(ctx, spec),
                sides="one",
                pins_full_factor=self.accounting == "as-coded",
                stores_identity=True,
            )
        return ctx.plain_linear(spec, x, out_shape, trainable=True, tags=projection)

    @property
    def above_full_rank(self) -> str:
        """What a rank above a matrix's smaller side comes to."""
        return "the SVD has no more than that, and so the rank is that"

    @property
    def blocks_only(self) -> bool:
        """Without names, or for all-linear: the blocks' layers alone."""
        return not set(self.target_modules) - {"all-linear"}

    @property
    def copies_head(self) -> bool:
        """Whether a new classification head is trained as a copy."""
        return False

    def trains(self, ctx: Context, path: str) -> bool:
        """Everything learns."""
        return True
