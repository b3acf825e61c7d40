"""Predicts every combination of some settings: which fit, and which of those no other one beats."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import TYPE_CHECKING, Final

from memplanner.errors import Problem, UserError
from memplanner.plan import moment_width
from memplanner.plan.flags import MODEL, Value, useful
from memplanner.plan.merge import merge
from memplanner.plan.training_plan import TrainingPlan
from memplanner.timeline import Phase, Verdict, advisable

if TYPE_CHECKING:
    from memplanner.prediction.estimate import Estimate

MOST: Final = 1_000_000
"""Combinations that one sweep may have."""
_DEVICE_AXES: Final = {"--gpu": "device", "--context": "device", "--budget": "budget", "--headroom": "headroom"}
"""Flags that change the device alone, and their settings. The step is the same for all their values."""
_MOST_DEVICES: Final = 1000
"""Devices whose settings are remembered."""
_SHARED: Final = {"--batch-size": 1, "--seq-len": 1} | dict.fromkeys(_DEVICE_AXES, 2)
"""How much of a prediction can be shared between the values of an axis; the higher, the faster the axis varies."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """A setting and the values it takes, as they are typed; True and False for a switch.

    name: a flag, or MODEL, the axis of models.
    """

    name: str
    values: tuple[Value, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A combination and what it needs. values: one per axis, "" where the method has no such setting.

    device_bytes, reserved_bytes, allocated_bytes: None where live tensors and context alone are above the limit. Such a
    plan does not fit whatever the allocator does, so its simulation is left out.
    """

    values: tuple[Value, ...]
    verdict: Verdict
    live_bytes: int
    allocated_bytes: int | None
    reserved_bytes: int | None
    context_bytes: int
    device_bytes: int | None
    limit_bytes: int
    peak_phase: Phase
    trainable: int
    is_squeezed: bool = False
    """Whether it fits only because the allocator returns unused segments and asks again."""
    is_context_assumed: bool = False
    """Whether neither the plan nor a card's profile says what the context is."""

    @property
    def least_device_bytes(self) -> int:
        """The device bytes, or a lower bound where they are not known."""
        return self.device_bytes if self.device_bytes is not None else self.live_bytes + self.context_bytes

    @property
    def margin_bytes(self) -> int:
        """What is left under the limit; an upper bound where the device bytes are not known."""
        return self.limit_bytes - self.least_device_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """points: in the order of the axes' values, the last axis fastest. skipped: why combinations are no plans, and how
    many each. flags: what all points have in common.
    """

    axes: tuple[Axis, ...]
    points: tuple[Point, ...]
    skipped: Mapping[str, int]
    flags: Mapping[str, Value] = field(default_factory=dict)

    def flags_of(self, point: Point) -> dict[str, Value]:
        """The flags of one of the points, its axes' among them."""
        return _typed(self.flags, self.axes, point.values)

    def fitting(self, *, strict: bool = False) -> list[Point]:
        """Points that fit without squeezing the allocator; strict: a tight fit is none."""
        return [point for point in self.points if advisable(point, strict=strict)]

    def frontier(self, *, strict: bool = False) -> tuple[Point, ...]:
        """Points that fit and that no other beats: as good in every ordered axis, and better in one.

        More is better for ranks, batches, sequences and the bits of AdamW's moments; less is better for checkpointing.
        Methods, cards and other values without an order are not compared with each other.
        """
        fitting = self.fitting(strict=strict)
        worths = [_worth(axis) for axis in self.axes]
        ordered = [i for i, of in enumerate(worths) if of is not None]
        groups: dict[tuple[Value, ...], list[tuple[tuple[float, ...], Point]]] = {}
        for point in fitting:
            group = tuple(value for i, value in enumerate(point.values) if i not in ordered)
            worth = tuple(of(str(value)) for of, value in zip(worths, point.values, strict=True) if of is not None)
            groups.setdefault(group, []).append((worth, point))
        best = {id(point) for members in groups.values() for point in _undominated(members)}
        return tuple(point for point in fitting if id(point) in best)


def _number(text: str) -> float:
    return float(text) if text else 0.0


def _less_recomputed(text: str) -> float:
    """Checkpointing: none is best, then every N-th block with a large N, then full."""
    return {"none": float("inf"), "full": 1.0}.get(text) or float(text.removeprefix("every-"))


def _worth(axis: Axis) -> Callable[[str], float] | None:
    """A measure by which one value of the axis is better than another; None where the values have no order."""
    if axis.name == "--optimizer":
        return _moments if all(moment_width.worth_of(str(value)) is not None for value in axis.values) else None
    return _WORTH.get(axis.name)


def _moments(word: str) -> float:
    return moment_width.worth_of(word) or 0.0


_WORTH: Final[dict[str, Callable[[str], float]]] = {
    "--rank": _number,
    "--projection-rank": _number,
    moment_width.FLAG: _number,
    "--batch-size": _number,
    "--seq-len": _number,
    "--checkpointing": _less_recomputed,
}


def _undominated(members: list[tuple[tuple[float, ...], Point]]) -> list[Point]:
    """The members that no other beats. In descending order a later member can never beat an earlier one."""
    members = sorted(members, key=lambda member: member[0], reverse=True)
    undominated: list[tuple[tuple[float, ...], Point]] = []
    for worth, point in members:
        if not any(
            other != worth and all(a >= b for a, b in zip(other, worth, strict=True)) for other, _ in undominated
        ):
            undominated.append((worth, point))
    return [point for _, point in undominated]


def sweep(
    base: Mapping[str, object],
    flags: Mapping[str, Value],
    axes: Sequence[Axis],
    predict: "Callable[[TrainingPlan], Estimate]",
    *,
    where: str,
    advance: Callable[[int], None] = lambda _: None,
) -> Sweep:
    """Predict every combination of the axes' values, laid with `flags` over the `base` table; see `points_of`."""
    skipped: Counter[str] = Counter()
    points = list(points_of(base, flags, axes, predict, where=where, advance=advance, skipped=skipped))
    places = [{value: place for place, value in enumerate(("", *axis.values))} for axis in axes]
    points.sort(key=lambda point: [of[value] for of, value in zip(places, point.values, strict=True)])
    return Sweep(axes=tuple(axes), points=tuple(points), skipped=dict(skipped), flags=dict(flags))


def points_of(
    base: Mapping[str, object],
    flags: Mapping[str, Value],
    axes: Sequence[Axis],
    predict: "Callable[[TrainingPlan], Estimate]",
    *,
    where: str,
    advance: Callable[[int], None] = lambda _: None,
    skipped: "Counter[str] | None" = None,
) -> Iterator[Point]:
    """Predict every combination of the axes' values, laid with `flags` over the `base` table, one after the other: the
    batch, the sequence and the device vary fastest, other axes in their order. Of a point that is made nothing is kept.

    A combination that is no plan (full training at a batch that per-layer updates forbid) is left out, and counted by
    its reason in `skipped`. A value that none accepts is a UserError after the last point, as is a sweep without any
    plan. A method without ranks stands once, whatever the ranks. where: what the base is called in messages. advance:
    called with 1 for every combination done.
    """
    total = 1
    for axis in axes:
        total *= len(axis.values)
    if total > MOST:
        raise UserError(Problem(where="sweep", key="", message=f"{total:,} combinations are more than {MOST:,}"))
    # A step is written once for all devices, and for most sizes: these axes vary fastest here, whatever their order.
    plans = _Plans(base, where)
    order = sorted(range(len(axes)), key=lambda i: _SHARED.get(axes[i].name, 0))
    worked = [bytearray(len(axis.values)) for axis in axes]
    refused: dict[tuple[int, int], tuple[Problem, ...]] = {}
    """Why the first combination with a value is no plan, as long as none with it has been one: (axis, place) → that."""
    problems: tuple[Problem, ...] = ()
    is_any = False
    for varied in product(*(range(len(axes[i].values)) for i in order)):
        places = [place for _, place in sorted(zip(order, varied, strict=True))]
        typed = _typed(flags, axes, [axis.values[place] for axis, place in zip(axes, places, strict=True)])
        used = [axis.name in typed for axis in axes]
        if all(is_used or place == 0 for is_used, place in zip(used, places, strict=True)):  # else it was there before
            try:
                estimate = predict(plans.plan(typed))
            except UserError as error:
                problems = error.problems
                if skipped is not None:
                    skipped[problems[0].message] += 1
                for i, place in enumerate(places):
                    if not worked[i][place]:
                        refused.setdefault((i, place), problems)
            else:
                is_any = True
                for i, place in enumerate(places):
                    if used[i] and not worked[i][place]:
                        worked[i][place] = True
                        refused.pop((i, place), None)
                yield _point(estimate, tuple(typed.get(axis.name, "") for axis in axes))
        advance(1)
    if refused:
        raise UserError(*{str(problem): problem for _, found in sorted(refused.items()) for problem in found}.values())
    if not is_any:
        raise UserError(*problems)


def _typed(flags: Mapping[str, Value], axes: Sequence[Axis], chosen: Sequence[Value]) -> dict[str, Value]:
    """The flags of one combination, without those that a method among several has no use for."""
    typed = {**flags, **{axis.name: value for axis, value in zip(axes, chosen, strict=True)}}
    several = any(axis.name == "--method" for axis in axes)
    return useful(typed, str(typed["--method"])) if several else typed


class _Plans:
    """The plans of combinations. Whether a step is valid does not depend on the device, nor the other way around: where
    both have been validated before, a plan is put together from them without validating it again.
    """

    def __init__(self, base: Mapping[str, object], where: str) -> None:
        self._base, self._where = base, where
        self._step: tuple[Mapping[str, Value], TrainingPlan] | None = None
        self._devices: dict[tuple[Value | None, ...], dict[str, object]] = {}

    def plan(self, typed: Mapping[str, Value]) -> TrainingPlan:
        """The plan of these flags; UserError where it is none."""
        device = tuple(typed.get(flag) for flag in _DEVICE_AXES)
        step = {flag: value for flag, value in typed.items() if flag not in _DEVICE_AXES}
        if self._step is not None and self._step[0] == step and device in self._devices:
            return self._step[1].model_copy(update=self._devices[device])
        table = dict(self._base)
        if MODEL in typed:
            table[MODEL] = typed[MODEL]
        plan = merge(table, {f: v for f, v in typed.items() if f != MODEL}, where=self._where)
        self._step = step, plan
        if len(self._devices) < _MOST_DEVICES:
            self._devices[device] = {name: getattr(plan, name) for name in _DEVICE_AXES.values()}
        return plan


def _point(estimate: "Estimate", values: tuple[Value, ...]) -> Point:
    hopeless = estimate.is_hopeless
    return Point(
        values=values,
        verdict=estimate.verdict,
        live_bytes=estimate.live_bytes,
        allocated_bytes=None if hopeless else estimate.allocated_bytes,
        reserved_bytes=None if hopeless else estimate.reserved_bytes,
        context_bytes=estimate.context_bytes,
        device_bytes=None if hopeless else estimate.device_bytes,
        limit_bytes=estimate.limit_bytes,
        peak_phase=estimate.peak_phase,
        trainable=estimate.num_trainable,
        is_squeezed=not hopeless and estimate.is_squeezed,
        is_context_assumed=estimate.is_context_assumed,
    )
