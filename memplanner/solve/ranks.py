"""Ranks by module under one budget: where a recorded run shows that gradients need them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING

from memplanner.errors import Problem, UserError
from memplanner.measurement import WeightEvidence
from memplanner.plan.flags import no_rank
from memplanner.plan.training_plan import TrainingPlan
from memplanner.timeline import passes

if TYPE_CHECKING:
    from memplanner.prediction.estimate import Estimate


@dataclass(frozen=True, slots=True, kw_only=True)
class Module:
    """The weights of one name in all blocks. shares: rank → share of the gradient that it holds, the mean of them."""

    name: str
    count: int
    elements: int
    """Rows and columns of one of them: what another rank costs, to a factor."""
    shares: Mapping[int, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranks:
    """ranks: by module. share: of the gradients, the mean over all weights. uniform: the largest single rank of those
    in the evidence that fits, and the share that it holds; 0 where none does.
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
    """Raise, from the smallest ranks on, the module that gains most per element, as long as the plan fits.

    Greedy on concave shares: what it leaves is less than one step of one module. UserError where the method has no
    ranks, no weight of the evidence is one it acts on, or not even the smallest ranks fit.
    """
    if plan.method.chosen_rank is None:
        raise _wrong(*no_rank(plan.method))

    def predicted(ranks: Mapping[str, int]) -> "Estimate":
        lowest = min(ranks.values())
        pattern = {name: rank for name, rank in ranks.items() if rank != lowest}
        method = plan.method.model_copy(update={"rank": lowest, "rank_pattern": pattern})
        return predict(TrainingPlan.model_validate(plan.model_copy(update={"method": method}).model_dump()))

    modules = [m for m in _modules(evidence) if _acted_on(plan, m, predict)]
    if not modules:
        raise _wrong("none of the record's weights is one that the plan's method acts on")
    ranks = {module.name: min(module.shares) for module in modules}
    best = predicted(ranks)
    if not passes(best.verdict, strict=strict):
        raise _wrong(f"not even rank {min(ranks.values())} fits")
    open_ = {module.name: module for module in modules}
    while open_:
        steps = [(gain, name, rank) for name, m in open_.items() for gain, rank in _next(m, ranks[name])]
        if not steps:
            break
        _, name, rank = max(steps)
        tried = predicted({**ranks, name: rank})
        if not passes(tried.verdict, strict=strict):
            del open_[name]
        else:
            ranks[name], best = rank, tried
    uniform = 0
    for rank in sorted(set.intersection(*(set(module.shares) for module in modules))):
        if passes(predicted({module.name: rank for module in modules}).verdict, strict=strict):
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
    """The evidence by the weights' last name, with the ranks that all of that name have a share for."""
    groups: dict[str, list[WeightEvidence]] = {}
    for weight in evidence:
        groups.setdefault(weight.name.rpartition(".")[2], []).append(weight)
    found = []
    for name, weights in groups.items():
        common = set.intersection(*({int(rank) for rank in w.energy if rank.isdigit()} for w in weights))
        if common:
            shares = {rank: fmean(w.energy[str(rank)] for w in weights) for rank in sorted(common)}
            found.append(Module(name=name, count=len(weights), elements=sum(weights[0].shape), shares=shares))
    return found


def _acted_on(plan: TrainingPlan, module: Module, predict: "Callable[[TrainingPlan], Estimate]") -> bool:
    """Whether another rank for the module makes any difference to what a step keeps."""

    def kept(pattern: dict[str, int]) -> dict[str, int]:
        method = plan.method.model_copy(update={"rank_pattern": pattern})
        return predict(TrainingPlan.model_validate(plan.model_copy(update={"method": method}).model_dump())).persistent

    return kept({module.name: 1}) != kept({module.name: 2})


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


def _wrong(message: str, hint: str = "") -> UserError:
    return UserError(Problem(where="--evidence", key="", message=message, hint=hint))
