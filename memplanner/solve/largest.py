"""The largest rank, batch or sequence of a plan that its device still holds."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from memplanner.plan.merge import merge
from memplanner.plan.training_plan import TrainingPlan
from memplanner.timeline import advisable

if TYPE_CHECKING:
    from memplanner.prediction.estimate import Estimate

SearchAxis = Literal["rank", "batch-size", "seq-len"]
AXES: Final[tuple[SearchAxis, ...]] = ("rank", "batch-size", "seq-len")
CEILINGS: Final[dict[SearchAxis, int]] = {"rank": 1 << 20, "batch-size": 1 << 16, "seq-len": 1 << 20}
"""The largest value that the search tries."""
ONE_BY_ONE: Final = 256
"""Values that are tried one after the other; a prediction takes a few milliseconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Largest:
    """The largest value with which the plan fits, of all up to `ceiling`, and not only by squeezing the allocator.

    value: that value, 0 where there is none. estimate: at that value (at 1 where there is none).
    comfortable, comfortable_estimate: the same of values that fit with more to spare than the estimate may be off; 0
    and None where there is none.
    above: one unit more, which does not fit; None where the search ended at `ceiling` instead.
    untried, comfortable_untried: where not every larger value was tried, the largest that may fit nevertheless: what
    its tensors need is within the limit. 0 where every one was, so that the value is the largest of all.
    """

    axis: SearchAxis
    value: int
    estimate: "Estimate"
    comfortable: int
    comfortable_estimate: "Estimate | None"
    above: "Estimate | None"
    ceiling: int
    untried: int = 0
    comfortable_untried: int = 0


def largest(
    plan: TrainingPlan,
    axis: SearchAxis,
    predict: "Callable[[TrainingPlan], Estimate]",
    *,
    ceiling: int | None = None,
    strict: bool = False,
) -> Largest:
    """Search from above: exact also where a larger value needs less, because less is lost to fragmentation.

    What tensors need grows with the value, and so the largest value whose tensors and context are within the limit is
    found by doubling and bisection. From there down every value is tried until one fits, and after ONE_BY_ONE of them,
    as where a hundred thousand tokens fit, a value that fits where one more does not. ceiling: no larger value makes
    sense (the model's positions, a matrix's side). strict: a tight fit does not count.
    UserError where the plan has no such setting (full training has no rank).
    """
    table = plan.model_dump(mode="json")
    if axis == "seq-len":  # the typical length may be above one that is tried, and decides nothing
        table["step"]["typical_seq_len"] = None
    top = min(CEILINGS[axis], ceiling or CEILINGS[axis])

    @functools.cache
    def at(value: int) -> "Estimate":
        return predict(merge(table, {f"--{axis}": str(value)}, where="plan"))

    def is_hopeless(value: int) -> bool:
        return at(value).is_hopeless

    def is_never_comfortable(value: int) -> bool:
        estimate = at(value)
        least = estimate.live_bytes + estimate.context_bytes
        return estimate.limit_bytes - least < round(least * estimate.margin.share)

    start = _last_before(is_hopeless, top)
    value = _first_down(start, lambda value: advisable(at(value), strict=strict))
    comfortable_start = min(value, _last_before(is_never_comfortable, top))
    comfortable = _first_down(comfortable_start, lambda value: at(value).verdict == "fits")
    return Largest(
        axis=axis,
        value=value,
        estimate=at(max(value, 1)),
        comfortable=comfortable,
        comfortable_estimate=at(comfortable) if comfortable else None,
        above=at(value + 1) if 0 < value < top else None,
        ceiling=top,
        untried=_untried(start, value),
        comfortable_untried=_untried(comfortable_start, comfortable),
    )


def _untried(start: int, found: int) -> int:
    """The largest value that _first_down(start, …) has not tried of those above what it found; 0 where it tried all."""
    return start - ONE_BY_ONE if found < start - ONE_BY_ONE else 0


def _first_down(start: int, fits: Callable[[int], bool]) -> int:
    """The first value from `start` down that fits; 0 where none does."""
    least = max(start - ONE_BY_ONE, 0)
    if (value := next((value for value in range(start, least, -1) if fits(value)), 0)) or not least:
        return value
    low, high, stride = least, least + 1, 1
    while low > 0 and not fits(low):
        low, high, stride = max(low - stride, 0), low, 2 * stride
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _last_before(beyond: Callable[[int], bool], top: int) -> int:
    """The largest value up to `top` that is not beyond, where all values above one that is beyond are so too; 0 where
    already 1 is.
    """
    low, high = 0, 1
    while high <= top and not beyond(high):
        low, high = high, min(2 * high, top) if high < top else top + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if beyond(middle) else (middle, high)
    return low
