"""Ranks by module under one budget, given to the modules whose recorded gradients need them most."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING

from memplanner.errors import Problem, UserError
from memplanner.measurement import WeightEvidence
from memplanner.plan.flags import no_rank
from memplanner.plan.training_plan import TrainingPlan
from memplanner.timeline import advisable

if TYPE_CHECKING:
    from memplanner.prediction.estimate import Estimate


@dataclass(frozen=True, slots=True, kw_only=True)
class Module:
    """The weights of one name in all blocks. shares: rank → share of the gradient that it holds, averaged over them."""

    name: str
    count: int
    elements: int
    """Rows plus columns of one of the weights, to which the cost of another rank is proportional."""
    shares: Mapping[int, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranks:
    """ranks: by module. share: of the gradients, averaged over all weights. uniform, uniform_share: the largest rank in
    the evidence that fits when every module has it, and the share that it holds; 0 where no such rank fits.
    """

    modules: tuple[Module, ...]
    ranks: Mapping[str, int]
    share: float
    uniform: int
    uniform_share: float
    estimate: "Estimate"


def ranks_by_evidence(
    plan: TrainingPlan,
    evidence: Sequence[WeightEvidence],
    predict: "Callable[[TrainingPlan], Estimate]",
    *,
    strict: bool = False,
) -> Ranks:
    """Start from the smallest ranks, and raise the module that gains most per element as long as the plan fits.

    Shares are concave in the rank, so that this greedy choice misses the best one by less than one step of one module.
    UserError where the method has no ranks, acts on no weight of the evidence, or does not fit at the smallest ranks.
    """
    if plan.method.chosen_rank is None:
        raise _evidence_error(*no_rank(plan.method))

    def predicted(ranks: Mapping[str, int]) -> "Estimate":
        lowest = min(ranks.values())
        pattern = {name: rank for name, rank in ranks.items() if rank != lowest}
        method = plan.method.model_copy(update={"rank": lowest, "rank_pattern": pattern})
        return predict(TrainingPlan.model_validate(plan.model_copy(update={"method": method}).model_dump()))

    modules = [m for m in _modules(evidence) if _acted_on(plan, m, predict)]
    if not modules:
        raise _evidence_error("none of the record's weights is one that the plan's method acts on")
    ranks = {module.name: min(module.shares) for module in modules}
    best = predicted(ranks)
    if not advisable(best, strict=strict):
        raise _evidence_error(f"not even rank {min(ranks.values())} fits")
    open_ = {module.name: module for module in modules}
    while open_:
        steps = [(gain, name, rank) for name, m in open_.items() for gain, rank in _next(m, ranks[name])]
        if not steps:
            break
        _, name, rank = max(steps)
        tried = predicted({**ranks, name: rank})
        if not advisable(tried, strict=strict):
            del open_[name]
        else:
            ranks[name], best = rank, tried
    uniform = 0
    for rank in sorted(set.intersection(*(set(module.shares) for module in modules))):
        if advisable(predicted({module.name: rank for module in modules}), strict=strict):
            uniform = rank
    everywhere = {module.name: uniform for module in modules}
    return Ranks(
        modules=tuple(modules),
        ranks=ranks,
        share=_share(modules, ranks),
        uniform=uniform,
        uniform_share=_share(modules, everywhere) if uniform else 0.0,
        estimate=best,
    )


def _modules(evidence: Sequence[WeightEvidence]) -> list[Module]:
    """The evidence grouped by the last part of the weights' names, with the ranks that all of a group share."""
    groups: dict[str, list[WeightEvidence]] = {}
    for weight in evidence:
        groups.setdefault(weight.name.rpartition(".")[2], []).append(weight)
    modules = []
    for name, weights in groups.items():
        common = set.intersection(*({int(rank) for rank in w.energy if rank.isdigit()} for w in weights))
        if common:
            shares = {rank: fmean(w.energy[str(rank)] for w in weights) for rank in sorted(common)}
            modules.append(Module(name=name, count=len(weights), elements=sum(weights[0].shape), shares=shares))
    return modules


def _acted_on(plan: TrainingPlan, module: Module, predict: "Callable[[TrainingPlan], Estimate]") -> bool:
    """Whether the method trains the module: then another rank changes what outlives a step."""

    def persistent_at(pattern: dict[str, int]) -> dict[str, int]:
        method = plan.method.model_copy(update={"rank_pattern": pattern})
        return predict(TrainingPlan.model_validate(plan.model_copy(update={"method": method}).model_dump())).persistent

    return persistent_at({module.name: 1}) != persistent_at({module.name: 2})


def _next(module: Module, rank: int) -> list[tuple[float, int]]:
    """The module's next larger rank and what it gains per element; none after the largest."""
    larger = [r for r in module.shares if r > rank]
    if not larger:
        return []
    gain = module.shares[min(larger)] - module.shares[rank]
    return [(gain / ((min(larger) - rank) * module.elements), min(larger))]


def _share(modules: Sequence[Module], ranks: Mapping[str, int]) -> float:
    """The mean share over all weights."""
    total = sum(module.count for module in modules)
    return sum(module.count * module.shares[ranks[module.name]] for module in modules) / total


def _evidence_error(message: str, hint: str = "") -> UserError:
    return UserError(Problem(where="--evidence", key="", message=message, hint=hint))
