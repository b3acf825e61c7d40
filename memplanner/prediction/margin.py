"""How far device bytes may be too low, by kind of plan: a plan that has less than that to spare fits tightly.

profiles/margins.json has, for every published run that ships with memplanner, how far the measurement was above its
prediction, by kind of plan and by source (`memplanner.validation.margins` writes it). A new run comes from a source of
its own, with a card, a trainer and habits that none of these had. So the margin is the upper end of the one-sided 95%
prediction interval for one run of one source more. With k sources, of which the i-th has nᵢ runs and the mean mᵢ:

    mean(m) + t(0.95, k − 1) · √( var(m) · (1 + 1/k) + within · (1 − mean(1/n)) )

where var(m) is the variance of the sources' means and `within` that of a source's runs about their mean, pooled. This
is the interval of a one-way random-effects model with Student's t for the number of sources. It has one side: a run
that needs less than was predicted ends no training. A kind that fewer than two sources have measured takes the interval
over the runs of all kinds.
"""

import json
from collections.abc import Mapping, Sequence
from functools import cache
from math import sqrt
from typing import Final

from memplanner.files.sandbox import profiles_dir
from memplanner.frozen import Frozen
from memplanner.plan.training_plan import TrainingPlan

FILE: Final = "margins.json"

STUDENT: Final = (6.314, 2.920, 2.353, 2.132, 2.015, 1.943, 1.895, 1.860, 1.833, 1.812)
"""The 95% quantiles of Student's t with 1, 2, … degrees of freedom; beyond, the last, which is a little too wide."""

Excesses = Mapping[str, Sequence[float]]
"""Source → of each of its runs, (measured − predicted) / predicted."""


class Margin(Frozen, kw_only=False):
    """A share of the device bytes, and the numbers of runs of the kind and of their sources that it is taken from; zero
    where it is taken from the runs of all kinds.
    """

    kind: str
    share: float
    runs: int
    sources: int


@cache
def measured() -> Mapping[str, Excesses]:
    """Kind of plan → what profiles/margins.json has of it."""
    kinds: Mapping[str, Excesses] = json.loads((profiles_dir() / FILE).read_text(encoding="utf-8"))["kinds"]
    return kinds


def upper_end(excesses: Excesses) -> float | None:
    """The upper end of the prediction interval for one run of one source more; None for fewer than two sources."""
    k = len(excesses)
    if k < 2:
        return None
    runs = [*excesses.values()]
    means = [sum(of) / len(of) for of in runs]
    mean = sum(means) / k
    between = sum((m - mean) ** 2 for m in means) / (k - 1)
    squares = sum((e - m) ** 2 for of, m in zip(runs, means, strict=True) for e in of)
    within = squares / max(sum(map(len, runs)) - k, 1)
    variance = between * (1 + 1 / k) + within * (1 - sum(1 / len(of) for of in runs) / k)
    return mean + STUDENT[min(k - 1, len(STUDENT)) - 1] * sqrt(variance)


def of_all_kinds(kinds: Mapping[str, Excesses]) -> Excesses:
    """The runs of all kinds, by source."""
    together: dict[str, list[float]] = {}
    for excesses in kinds.values():
        for source, of in excesses.items():
            together.setdefault(source, []).extend(of)
    return together


def kind_of_plan(plan: TrainingPlan) -> str:
    """The kind of measured runs that the plan is most like."""
    return "quantised bases" if plan.quantization != "none" else plan.method.label


@cache
def margin_of_kind(kind: str) -> Margin:
    """The margin of a kind of plan, of which there need be no run."""
    return margin_from(measured(), kind)


def margin_from(kinds: Mapping[str, Excesses], kind: str) -> Margin:
    """The same from these runs, which must be of two sources at least."""
    own = kinds.get(kind, {})
    share = upper_end(own)
    if share is None:
        share, own = upper_end(of_all_kinds(kinds)), {}
    if share is None:
        raise ValueError("a prediction interval needs runs of two sources")
    return Margin(kind, max(share, 0.0), sum(map(len, own.values())), len(own))


@cache
def widest_margin() -> Margin:
    """That of the kind that has the widest, for models of a type that no run was measured of."""
    kinds = measured()
    widest = max((margin_from(kinds, kind) for kind in kinds), key=lambda margin: margin.share)
    return Margin("models of this type", widest.share, 0, 0)


def margin_of(plan: TrainingPlan, *, is_written: bool = True) -> Margin:
    """The margin of the plan's kind; the widest, where no family is written for the model."""
    return margin_of_kind(kind_of_plan(plan)) if is_written else widest_margin()
