"""GradNormLoRP's update as memplanner.gradnormlorp makes it."""

from collections.abc import Sequence
from functools import singledispatch

from memplanner.components.methods.svd import singular_vectors
from memplanner.components.optimizers.adamw import AdamW
from memplanner.components.optimizers.adamw8bit import AdamW8bit
from memplanner.components.optimizers.update import (
    Optimizer,
    StateTensor,
    UpdateRule,
    no_such_pair,
    stand_in,
    unequal,
)
from memplanner.frozen import Frozen
from memplanner.program.shapes import UINT8, Shape
from memplanner.tape.engine import Param, Tape
from memplanner.tape.projection import Projection

METHOD = "GradNormLoRP"
AVAILABLE = "memplanner.gradnormlorp has adamw, with moments of any type, and adamw-8bit (bitsandbytes)"


@singledispatch
def gradnormlorp_rule(optimizer: Optimizer) -> UpdateRule:
    """memplanner.gradnormlorp's optimizer with the states of this one."""
    raise no_such_pair(METHOD, optimizer, AVAILABLE)


@gradnormlorp_rule.register
def _adamw(optimizer: AdamW) -> UpdateRule:
    if optimizer.implementation == "fused":
        raise no_such_pair(METHOD, optimizer, AVAILABLE, "its optimizer goes parameter by parameter")
    if optimizer.implementation == "bitsandbytes":
        raise no_such_pair(METHOD, optimizer, AVAILABLE)
    return GradNormLorpAdamW(moments=optimizer)


@gradnormlorp_rule.register
def _adamw8bit(optimizer: AdamW8bit) -> UpdateRule:
    if optimizer.format != "bitsandbytes" or optimizer.is_paged or optimizer.whole_embeddings:
        raise no_such_pair(METHOD, optimizer, AVAILABLE)
    return GradNormLorpAdamW(moments=optimizer)


class GradNormLorpAdamW(Frozen, UpdateRule):
    """memplanner.gradnormlorp.GradNormLoRPAdamW: parameter by parameter, each done before the next begins. The update
    is added into a factor as a product, without a tensor of the factor's shape.
    """

    moments: AdamW | AdamW8bit

    def state(self, param: Param) -> tuple[StateTensor, ...]:
        """Moments of the projected gradient's shape, and a projector for every side that the rank does not cover."""
        moments = self.moments.state(stand_in(param))
        return moments if param.projection is None else (*moments, *self.projectors(param, param.projection))

    def shared(self, params: Sequence[Param], *, per_layer: bool) -> tuple[tuple[StateTensor, int], ...]:
        """The code books of 8-bit moments, once: one object makes per-layer updates as well (update_in_backward)."""
        return self.moments.shared([stand_in(p) for p in params], per_layer=False)

    def projectors(self, param: Param, projection: Projection) -> tuple[StateTensor, ...]:
        """In the factor's type."""
        return tuple(
            StateTensor(f"{name} projector", projection.projector(side, param.shape), param.dtype, "projectors")
            for name, side in projection.sides(param.shape)
            if not projection.covers(side)
        )

    def step(self, tape: Tape, params: Sequence[Param]) -> None:
        """What is not projected comes first; equal parameters are alike."""
        for p in unequal([p for p in params if p.projection is None]):
            self.step_moments(tape, p)
        for p in unequal([p for p in params if p.projection is not None]):
            self.step_projected(tape, p)

    def step_moments(self, tape: Tape, param: Param) -> None:
        """The root of the second moment, in the moment's type (memplanner/gradnormlorp/moments.py); bitsandbytes'
        kernel needs none.
        """
        second = next(t for t in self.moments.state(param) if t.name in ("exp_avg_sq", "state2"))
        if second.dtype is not UINT8:
            root = tape.new(param.shape, second.dtype, "root of the second moment")
            del root

    def step_projected(self, tape: Tape, param: Param) -> None:
        """Project the gradient, update the moments, and add the update's product with the projectors."""
        assert param.projection is not None
        projectors = self.projectors(param, param.projection)
        if not projectors:
            self.step_moments(tape, param)
            return
        with singular_vectors(tape, param):
            new = [tape.new(p.shape, p.dtype, f"new {p.name}") for p in projectors]
            del new
        (m, n), dtype = param.shape.dims, param.dtype
        reduced = stand_in(param)
        two = len(projectors) == 2
        half = tape.new(Shape(r=reduced.shape.dims[0], n=n), dtype, "gradient projected on one side") if two else None
        low = tape.new(reduced.shape, dtype, "projected gradient")
        del half
        update = tape.new(reduced.shape, dtype, "projected update")
        self.step_moments(tape, reduced)
        if two:
            back = tape.new(Shape(m=m, r=reduced.shape.dims[1]), dtype, "update projected back on one side")
            del back
        del low, update
