"""The interface's background jobs: functions of plans that know no widgets and emit their results one by one."""

from collections.abc import Callable, Sequence
from pathlib import Path

from memplanner.errors import UserError
from memplanner.plan.merge import merge
from memplanner.plan.training_plan import TrainingPlan
from memplanner.prediction import Predictor
from memplanner.solve import largest as solve_largest
from memplanner.solve.changes import single_changes
from memplanner.solve.sweep import Axis, Sweep, sweep
from memplanner.timeline import Verdict, advisable
from memplanner.tui.state import Choice, Flags, ceiling, title_of
from memplanner.units import format_bytes


def columns(
    emit: Callable[[tuple[str, int, Verdict]], None], plan: TrainingPlan, flag: str, values: Sequence[str], root: Path
) -> None:
    """Emit (value, device bytes, verdict) of the plan with each value of a flag; values that are no plan are left out.

    The bytes are a lower bound where already that bound is above the limit.
    """
    predictor, table = Predictor(root, traces=False), plan.model_dump(mode="json")
    for value in values:
        try:
            estimate = predictor(merge(table, {flag: value}, where="plan"))
        except UserError:
            continue
        emit((value, estimate.least_device_bytes, estimate.verdict))


def combinations(emit: Callable[[int | Sweep], None], plan: TrainingPlan, axes: Sequence[Axis], root: Path) -> None:
    """Emit 1 for every combination tried, and at the end the sweep; see solve.sweep."""
    emit(sweep(plan.model_dump(mode="json"), {}, axes, Predictor(root, traces=False), where="plan", advance=emit))


def ways_to_fit(emit: Callable[[tuple[Choice, Flags]], None], plan: TrainingPlan, root: Path) -> None:
    """Emit single changes that make the plan fit, and the largest rank, batch and sequence that the card holds."""
    predictor = Predictor(root, traces=False)
    estimate = predictor(plan)
    if not advisable(estimate):
        changes = single_changes(estimate, predictor)
        if changes.together is not None:
            words = f"saves {format_bytes(changes.together.saved_bytes)}, then it fits: {changes.together.effect}"
            emit((Choice(value=changes.together.typed, about=words), dict(changes.together.flags)))
        for change in changes.fitting or changes.others:
            verb = "then it fits" if changes.fitting else "not enough"
            words = f"saves {format_bytes(change.saved_bytes)}, {verb}: {change.effect}"
            emit((Choice(value=change.typed, about=words), dict(change.flags)))
    for axis in solve_largest.AXES:
        if axis == "rank" and plan.method.chosen_rank is None:
            continue
        flag = f"--{axis}"
        best = solve_largest.largest(plan, axis, predictor, ceiling=ceiling(plan, flag, root))
        if not best.value:
            continue
        offered = [("that fits comfortably", best.comfortable, best.comfortable_estimate)]
        if best.value != best.comfortable:
            offered.append(("that fits, tightly", best.value, best.estimate))
        for how, value, at_value in offered:
            if at_value is not None:
                words = f"the largest {title_of(flag)} {how}, {format_bytes(at_value.margin_bytes)} to spare"
                emit((Choice(value=f"{flag} {value}", about=words), {flag: str(value)}))
