"""The largest rank, batch or sequence of a plan that its device still holds."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from memplanner.plan.merge import merge
from memplanner.plan.training_plan import TrainingPlan
from memplanner.timeline import passes

if TYPE_CHECKING:
    from memplanner.prediction.estimate import Estimate

SearchAxis = Literal["rank", "batch-size", "seq-len"]
AXES: Final[tuple[SearchAxis, ...]] = ("rank", "batch-size", "seq-len")
CEILINGS: Final[dict[SearchAxis, int]] = {"rank": 1 << 20, "batch-size": 1 << 16, "seq-len": 1 << 20}
"""The largest value that the search tries."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Largest:
    """value: the largest that fits, 0 where not even 1 does. estimate: at that value (at 1 where none fits).

    above: one unit more, which does not fit; None where the search ended at `ceiling` instead.
    """

    axis: SearchAxis
    value: int
    estimate: "Estimate"
    above: "Estimate | None"
    ceiling: int


def largest(
    plan: TrainingPlan,
    axis: SearchAxis,
    predict: "Callable[[TrainingPlan], Estimate]",
    *,
    ceiling: int | None = None,
    strict: bool = False,
) -> Largest:
    """Search by doubling and then by bisection: exact to one unit where memory grows with the value.

    Fragmentation can make a value need less than the one before. `value` then still fits and its successor still does
    not, but a larger one may fit as well. ceiling: no larger value makes sense (the model's positions, a matrix's
    side). strict: a tight fit does not count.
    UserError where the plan has no such setting (full training has no rank).
    """
    table = plan.model_dump(mode="json")
    if axis == "seq-len":  # the typical length may be above one that is tried, and decides nothing
        table["step"]["typical_seq_len"] = None
    top = min(CEILINGS[axis], ceiling or CEILINGS[axis])
    tried: dict[int, Estimate] = {}

    def fits(value: int) -> bool:
        if value not in tried:
            tried[value] = predict(merge(table, {f"--{axis}": str(value)}, where="plan"))
        return passes(tried[value].verdict, strict=strict)

    low, high = 0, 1
    while high <= top and fits(high):
        low, high = high, min(2 * high, top) if high < top else top + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return Largest(
        axis=axis, value=low, estimate=tried[max(low, 1)], above=tried.get(high) if low else None, ceiling=top
    )
