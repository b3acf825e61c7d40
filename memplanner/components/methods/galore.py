"""GaLore (arXiv 2403.03507; galore_torch): full training whose optimizer works in a projected gradient space."""

from collections.abc import Sequence
from functools import singledispatch
from itertools import groupby
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from memplanner.components.context import Context, LinearSpec
from memplanner.components.methods.low_rank import LowRank
from memplanner.components.methods.svd import singular_vectors
from memplanner.components.optimizers.adamw import AdamW
from memplanner.components.optimizers.adamw8bit import AdamW8bit
from memplanner.components.optimizers.update import (
    Optimizer,
    StateTensor,
    UpdateRule,
    loop_order,
    no_such_pair,
    stand_in,
)
from memplanner.frozen import Frozen
from memplanner.program.shapes import FP32, Dtype, Shape
from memplanner.tape.engine import Param, Tape, Tensor
from memplanner.tape.projection import Projection

AVAILABLE = "galore_torch has adamw and adamw-8bit (bitsandbytes)"


class Galore(LowRank):
    """Gradient low-rank projection; weights stay whole."""

    label: ClassVar[str] = "GaLore"
    kind: Literal["galore"] = "galore"
    plain_layers: ClassVar[bool] = True
    rank: Annotated[int, Field(ge=1, le=1 << 20)] = 128
    """Rank of the projected gradient space."""
    refresh_interval: Annotated[int, Field(ge=1, le=1 << 30)] = 200
    """Steps between two SVDs of the gradient."""
    accounting: Literal["as-coded", "as-published"] = "as-coded"
    """"as-coded": what galore_torch keeps (an fp32 run's projector pins the whole small×small matrix);
    "as-published": the paper's formula, state m·r + 2·n·r."""

    def linear(self, ctx: Context, spec: LinearSpec, x: Tensor, out_shape: Shape) -> Tensor:
        """A plain linear layer, whose weight's gradient is projected."""
        projection = Projection(rank=self.rank_of(ctx, spec)) if self.targets(ctx, spec) else None
        return ctx.plain_linear(spec, x, out_shape, trainable=True, projection=projection)

    def trains(self, ctx: Context, path: str) -> bool:
        """Everything learns."""
        return True

    def rule(self, optimizer: Optimizer, weights: Dtype) -> UpdateRule:
        """galore_torch's optimizers. Its 8-bit one passes percentile_clipping=100 by position where bitsandbytes now
        expects max_unorm, so that it keeps the norms of the updates.
        """
        return galore_rule(optimizer, weights, self.label, self.accounting == "as-coded")

    @property
    def refreshes(self) -> bool:
        """Every refresh_interval steps."""
        return True

    @property
    def rank_is_capped(self) -> bool:
        """The SVD gives no more than the matrix's smaller side."""
        return True

    @property
    def blocks_only(self) -> bool:
        """Without names, or for all-linear: the blocks' layers alone."""
        return self.target_modules in ((), ("all-linear",))


@singledispatch
def galore_rule(optimizer: Optimizer, weights: Dtype, method: str, as_coded: bool | None = None) -> UpdateRule:
    """galore_torch's form of the optimizer.

    weights: their type. method: its name, for a refusal. as_coded: in an fp32 run no cast copies the projector out of
    the singular vectors, so that it keeps the storage of all of them; and the 8-bit optimizer keeps the norms of its
    updates. None: neither, unless the optimizer's settings say so.
    """
    raise no_such_pair(method, optimizer, AVAILABLE)


@galore_rule.register
def _adamw(optimizer: AdamW, weights: Dtype, method: str, as_coded: bool | None = None) -> UpdateRule:
    if optimizer.implementation in ("fused", "bitsandbytes"):
        raise no_such_pair(method, optimizer, AVAILABLE, "its AdamW is a loop over the parameters")
    if optimizer.moments_dtype(weights) is not weights:
        raise no_such_pair(method, optimizer, AVAILABLE, "its moments are of the parameter's type")
    return GaloreAdamW(pins_singular_vectors=bool(as_coded))


@galore_rule.register
def _adamw8bit(optimizer: AdamW8bit, weights: Dtype, method: str, as_coded: bool | None = None) -> UpdateRule:
    if optimizer.format != "bitsandbytes" or optimizer.whole_embeddings:
        raise no_such_pair(method, optimizer, AVAILABLE)
    moments = optimizer if as_coded is None else optimizer.model_copy(update={"update_norms": as_coded})
    return GaloreAdamW8bit(moments=moments, pins_singular_vectors=bool(as_coded))


class GaloreRule(Frozen, UpdateRule):
    """What galore_torch's optimizers share: moments of the projected gradient's shape, and the projectors."""

    moments: Optimizer
    pins_singular_vectors: bool

    def state(self, param: Param) -> tuple[StateTensor, ...]:
        """Moments, and the projector, which is there even where the rank covers the side."""
        moments = self.moments.state(stand_in(param))
        return moments if param.projection is None else (*moments, *self.projectors(param, param.projection))

    def projectors(self, param: Param, projection: Projection) -> tuple[StateTensor, ...]:
        """A projector in the parameter's type, or all the singular vectors that it is a slice of."""
        pinned = self.pins_singular_vectors and param.dtype is FP32
        return tuple(
            StateTensor(f"{name} projector, pinning {side}×{side}", Shape(side=side, side_=side), FP32, "projectors")
            if pinned
            else StateTensor(f"{name} projector", projection.projector(side, param.shape), param.dtype, "projectors")
            for name, side in projection.sides(param.shape)
        )

    def refresh(self, tape: Tape, param: Param, projection: Projection) -> None:
        """GaLoreProjector.get_orthogonal_matrix: both factors are made, U·diag(S) and diag(S)·Vh, whichever is used."""
        rank = min(projection.rank, *param.shape.dims)
        with singular_vectors(tape, param):
            diagonal = tape.new(Shape(r=rank, r_=rank), FP32, "diagonal of S")
            weighted = tape.new(Shape(long=max(param.shape.dims), r=rank), FP32, "scaled singular vectors")
            del diagonal, weighted


class GaloreAdamW(GaloreRule):
    """galore_torch/adamw.py."""

    moments: Optimizer = AdamW()

    def step(self, tape: Tape, params: Sequence[Param]) -> None:
        """AdamW.step: one loop, whose variables hold the last parameter's projected gradient, denominator and update
        while the next one is decomposed.
        """
        grad = denominator = update = None
        for p in (p for group in _groups(params) for p in loop_order(group)):
            shape = stand_in(p).shape
            grad = None
            if p.projection is not None:
                self.refresh(tape, p, p.projection)
                grad = tape.new(shape, p.dtype, "projected gradient")
            denominator = tape.new(shape, p.dtype, f"{p.name} denominator")
            update = tape.new(shape, p.dtype, f"{p.name} normalised gradient")
            if p.projection is not None:
                full = tape.new(p.shape, p.dtype, f"{p.name} update")
                scaled = tape.new(p.shape, p.dtype, f"{p.name} scaled update")
                del full
                update = scaled
                del scaled
        del grad, denominator, update


class GaloreAdamW8bit(GaloreRule):
    """galore_torch/adamw8bit.py: bitsandbytes' kernel updates a stand-in for the parameter."""

    replaces_gradients: ClassVar[bool] = True

    def shared(self, params: Sequence[Param], *, per_layer: bool) -> tuple[tuple[StateTensor, int], ...]:
        """bitsandbytes' code books."""
        return self.moments.shared([stand_in(p) for p in params], per_layer=per_layer)

    def step(self, tape: Tape, params: Sequence[Param]) -> None:
        """AdamW8bit.step: the projected gradient takes each gradient's place, so that memory falls as the loop goes on
        and a weight's first copy is its highest. What is not projected is updated in place.
        """
        projected = [p for group in _groups(params) for p in group if p.projection is not None]
        for _, group in groupby(projected, key=lambda p: (p.projection and p.projection.rank, p.count)):
            copies = list(group)
            lows = []
            for p in copies:
                assert p.projection is not None
                self.refresh(tape, p, p.projection)
                lows.append(_gradient(tape, p, stand_in(p).shape, 1))
                self._update_stand_in(tape, p, remaining=p.count - 1)
            for p in copies:
                del lows[0]
                p.grad = None
                p.grad = _gradient(tape, p, stand_in(p).shape, p.count)

    def step_in_backward(self, tape: Tape, param: Param) -> None:
        """The same for one parameter, whose gradient is freed."""
        if param.projection is None:
            return
        self.refresh(tape, param, param.projection)
        low = tape.new(stand_in(param).shape, param.dtype, "projected gradient")
        self._update_stand_in(tape, param, remaining=0)
        del low

    def _update_stand_in(self, tape: Tape, param: Param, *, remaining: int) -> None:
        """The stand-in's clone takes the parameter's place, and the projected gradient the gradient's: `remaining` of
        the equal parameters still have their own.
        """
        clone = tape.new(param.shape, param.dtype, "clone of the parameter")
        stand_in_tensor = tape.new(stand_in(param).shape, param.dtype, "stand-in for the parameter")
        del clone  # stands for the parameter that it was made from, which is what is freed
        param.grad = None
        if remaining:
            param.grad = _gradient(tape, param, param.shape, remaining)
        full = tape.new(param.shape, param.dtype, "update")
        scaled = tape.new(param.shape, param.dtype, "scaled update")
        del full, scaled, stand_in_tensor


def _groups(params: Sequence[Param]) -> list[list[Param]]:
    """galore_torch's parameter groups: the one without projection first, then one for each rank."""
    by_rank: dict[int, list[Param]] = {0: []}
    for param in params:
        by_rank.setdefault(0 if param.projection is None else param.projection.rank, []).append(param)
    return list(by_rank.values())


def _gradient(tape: Tape, param: Param, shape: Shape, count: int) -> Tensor:
    """Gradients of `count` of the equal parameters."""
    tape.current_copies, tape.category = count, "gradients"
    out = tape.new(shape, param.dtype, f"{param.name} gradient")
    tape.current_copies, tape.category = 1, "temporaries"
    return out
