"""How far the device bytes have been off, by kind of plan: a plan that has less to spare fits tightly.

The shares are the worst errors of `memplanner validate` over the published runs that ship, rounded up to a tenth of a
percent; a test checks that they are. A kind without measurements gets the widest of them.
"""

from typing import Final

from memplanner.frozen import Frozen
from memplanner.plan.training_plan import TrainingPlan


class Margin(Frozen, kw_only=False):
    """A share of the device bytes, and the number of measured runs that it is taken from."""

    kind: str
    share: float
    runs: int


MEASURED: Final = (
    Margin("quantised bases", 0.045, 19),
    Margin("eager attention", 0.007, 9),
    Margin("LoRA", 0.034, 10),
    Margin("full training", 0.039, 1),
)
_BY_KIND = {margin.kind: margin for margin in MEASURED}
WIDEST: Final = max(margin.share for margin in MEASURED)


def kind_of_plan(plan: TrainingPlan) -> str:
    """The kind of measured runs that the plan is most like."""
    if plan.quantization != "none":
        return "quantised bases"
    label = plan.method.label
    return "eager attention" if label in _BY_KIND and plan.step.attention == "eager" else label


def margin_of(plan: TrainingPlan) -> Margin:
    """The margin of the plan's kind, with zero `runs` where no measured run of the kind has been compared."""
    kind = kind_of_plan(plan)
    return _BY_KIND.get(kind) or Margin(kind, WIDEST, 0)
