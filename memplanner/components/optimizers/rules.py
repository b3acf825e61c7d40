"""How a parameter's update is stored and made: plain, or in a projected gradient space.

Letters: (m, n) the parameter, r the projection rank, small = min(m, n). A rule answers which tensors persist between
steps and which come and go within one.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby
from typing import Literal, NamedTuple, Protocol

from memplanner.program.shapes import FP32, Dtype, Shape
from memplanner.tape.engine import Param, Tape, Tensor
from memplanner.timeline import Category


class StateTensor(NamedTuple):
    """A tensor that an optimizer keeps for a parameter."""

    name: str
    shape: Shape
    dtype: Dtype
    category: Category = "optimizer_state"


class Optimizer(Protocol):
    """One optimizer's answers; the settings classes in this package implement it."""

    @property
    def in_place(self) -> bool:
        """Whether the update makes no temporaries (a fused kernel)."""

    def state(self, shape: Shape, dtype: Dtype) -> tuple[StateTensor, ...]:
        """What it keeps for a tensor of this shape and type."""

    def shared(self) -> tuple[StateTensor, ...]:
        """What one optimizer object keeps beside any parameter."""

    def step_one(self, tape: Tape, shape: Shape, dtype: Dtype) -> None:
        """Temporaries of one parameter's update."""

    def step_all(self, tape: Tape, params: list[Param]) -> None:
        """Temporaries of a whole step."""


@dataclass(frozen=True, slots=True)
class ExtraState:
    """Further tensors per weight in the parameter's type: as large as the weight ("full") or one number per row."""

    name: str
    size: Literal["full", "row"]
    count: int = 1


def extra_states(extra: tuple[ExtraState, ...], shape: Shape, dtype: Dtype) -> tuple[StateTensor, ...]:
    """The tensors of these extra states for a parameter."""
    rows = Shape(rows=shape.dims[0])
    return tuple(StateTensor(e.name, shape if e.size == "full" else rows, dtype) for e in extra for _ in range(e.count))


@dataclass(frozen=True, slots=True)
class Projection:
    """The update happens in a projected space.

    sides: "one" projects the shorter side (GaLore's "std"), "two" both. pins_full_factor: the projector is a slice
    whose storage is the whole singular-vector matrix when no cast copies it (fp32 runs of galore_torch).
    stores_identity: galore_torch keeps a projector even where the rank covers the side. adds_product: the update is
    added into the parameter as a product, without a tensor of the parameter's shape (memplanner.gradnormlorp).
    """

    rank: int
    sides: Literal["one", "two"]
    pins_full_factor: bool = False
    stores_identity: bool = False
    keeps_moments: bool = True
    adds_product: bool = False
    extra: tuple[ExtraState, ...] = ()

    def reduced(self, shape: Shape) -> Shape:
        """The shape of the projected gradient, and so of the moments."""
        m, n = shape.dims
        first, second = shape.labels
        if self.sides == "two":
            return Shape(**{f"r_{first}": self._kept(m, min(m, n)), f"r_{second}": self._kept(n, min(m, n))})
        if m >= n:
            return Shape(**{first: m, "r": min(self.rank, n)})
        return Shape(**{"r": min(self.rank, m), second: n})

    def _kept(self, side: int, small: int) -> int:
        """What is left of a side: all of it where the rank covers it, else the rank, as far as the SVD goes."""
        return side if self.rank >= side else min(self.rank, small)

    def projectors(self, shape: Shape, dtype: Dtype) -> tuple[StateTensor, ...]:
        """The stored projectors."""
        m, n = shape.dims
        found = []
        sides = (("left", m), ("right", n)) if self.sides == "two" else ((("right", n),) if m >= n else (("left", m),))
        for name, side in sides:
            rank = min(self.rank, m, n)
            if self.rank >= side and not self.stores_identity:
                continue
            if self.pins_full_factor and dtype is FP32:
                found.append(
                    StateTensor(
                        f"{name} projector, pinning {side}×{side}", Shape(side=side, side_=side), dtype, "projectors"
                    )
                )
            else:
                found.append(StateTensor(f"{name} projector", Shape(side=side, r=rank), dtype, "projectors"))
        return tuple(found)

    def state(self, optimizer: Optimizer, shape: Shape, dtype: Dtype) -> tuple[StateTensor, ...]:
        """All that persists for a projected parameter."""
        moments = optimizer.state(self.reduced(shape), dtype) if self.keeps_moments else ()
        return (*moments, *self.projectors(shape, dtype), *extra_states(self.extra, shape, dtype))

    def refresh(self, tape: Tape, shape: Shape, dtype: Dtype) -> None:
        """A new subspace: the gradient in fp32 and its singular value decomposition, as torch.linalg.svd makes it
        (full_matrices=False), without the solver's own workspace, whose size no documentation gives.
        """
        if self.adds_product and not self.projectors(shape, dtype):
            return
        m, n = shape.dims
        k = min(m, n)
        copy = None if dtype is FP32 else tape.new(shape, FP32, "gradient in fp32")
        column_major = tape.new(shape, FP32, "column-major copy for the solver")
        u = tape.new(Shape(m=m, small=k), FP32, "left singular vectors U")
        s = tape.new(Shape(small=k), FP32, "singular values S")
        vh = tape.new(Shape(small=k, n=n), FP32, "right singular vectors Vh")
        del column_major
        if self.adds_product:
            new = [tape.new(p.shape, p.dtype, f"new {p.name}") for p in self.projectors(shape, dtype)]
            del new
        else:
            rank = min(self.rank, k)
            diagonal = tape.new(Shape(r=rank, r_=rank), FP32, "diagonal of S")
            weighted = tape.new(Shape(long=max(m, n), r=rank), FP32, "scaled singular vectors")
            del diagonal, weighted
        del copy, u, s, vh

    def step_adding_product(self, optimizer: Optimizer, tape: Tape, shape: Shape, dtype: Dtype) -> None:
        """memplanner.gradnormlorp: project, step a stand-in of the projected shape, add its product back."""
        m, n = shape.dims
        projected = {t.name.partition(" ")[0] for t in self.projectors(shape, dtype)}
        if not projected:
            optimizer.step_one(tape, shape, dtype)
            return
        reduced = self.reduced(shape)
        two = len(projected) == 2
        half = tape.new(Shape(r=reduced.dims[0], n=n), dtype, "gradient projected on one side") if two else None
        low = tape.new(reduced, dtype, "projected gradient")
        del half
        stand_in = tape.new(reduced, dtype, "projected update")
        optimizer.step_one(tape, reduced, dtype)
        if two:
            back = tape.new(Shape(m=m, r=reduced.dims[1]), dtype, "update projected back on one side")
            del back
        del low, stand_in

    def step_stand_in(self, tape: Tape, shape: Shape, dtype: Dtype, replace_gradient: Callable[[], None]) -> None:
        """GaLoreAdamW8bit lets the kernel update a stand-in for the parameter, whose clone takes the parameter's place;
        the projected gradient takes the gradient's.
        """
        clone = tape.new(shape, dtype, "clone of the parameter")
        stand_in = tape.new(self.reduced(shape), dtype, "stand-in for the parameter")
        del clone  # rather the parameter that it was made from
        replace_gradient()
        full = tape.new(shape, dtype, "update")
        scaled = tape.new(shape, dtype, "scaled update")
        del full, scaled, stand_in

    def step(self, optimizer: Optimizer, tape: Tape, shape: Shape, dtype: Dtype) -> None:
        """Project, update the moments, project back, add (galore_torch's adamw.py)."""
        if self.adds_product:
            self.step_adding_product(optimizer, tape, shape, dtype)
            return
        reduced = self.reduced(shape)
        low = tape.new(reduced, dtype, "projected gradient")
        denominator = tape.new(reduced, dtype, "denominator")
        normed = tape.new(reduced, dtype, "normalised projected gradient")
        full = tape.new(shape, dtype, "update")
        scaled = tape.new(shape, dtype, "scaled update")
        del full, scaled, low, denominator, normed


def bulk(tape: Tape, param: Param, dtype: Dtype, name: str) -> Tensor:
    """One tensor per copy of the parameter, all at once."""
    tape.current_reps = param.count
    out = tape.new(param.shape, dtype, f"{param.name} {name}")
    tape.current_reps = 1
    return out


def in_order(params: list[Param]) -> list[Param]:
    """The parameters as a loop over the whole model meets them, those of repeated blocks twice: there a block's last is
    followed by the next block's first.
    """
    return [p for repeated, group in groupby(params, lambda p: p.count > 1) for p in _again(list(group), repeated)]


def _again(group: list[Param], repeated: bool) -> list[Param]:
    return group * 2 if repeated else group


def step_each(optimizer: Optimizer, tape: Tape, params: list[Param]) -> None:
    """Parameter by parameter: equal shapes are walked once, since each is done before the next begins."""
    seen: set[tuple[tuple[int, ...], str]] = set()
    for param in params:
        key = (param.shape.dims, param.dtype.name)
        if key not in seen:
            seen.add(key)
            optimizer.step_one(tape, param.shape, param.dtype)
