"""Reads a plan and its budget from a test's keywords: `plan="pretrain"`, or a model and fields named like flags."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from memplanner.budgets.check import TOLERANCE, Checked, NamedPlan, check_plans, predicted
from memplanner.budgets.lock import LOCK_FILE
from memplanner.catalogue import model_inside
from memplanner.errors import Problem, UserError
from memplanner.plan.flags import OPTIONS
from memplanner.plan.load import LoadedPlan, load_plan
from memplanner.plan.merge import merge
from memplanner.prediction import Estimate
from memplanner.settings.errors import show, suggest
from memplanner.units import parse_share

FLAGS: Final = {option.dest: option.flag for option in OPTIONS}
OWN: Final = ("plan", "model", "strict", "locked", "tolerance")


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetRequest:
    """A valid plan, and how strictly it is checked against its budget and its lock."""

    named: NamedPlan
    strict: bool
    locked: bool
    tolerance: float

    def estimate(self) -> Estimate:
        """The plan's estimate; UserError where it cannot be predicted."""
        (estimate,) = predicted((self.named,)).values()
        return estimate

    def check(self) -> Checked:
        """Check the plan against its budget and, where it has a name, against the lock."""
        path = None if self.named.alone else self.named.path
        lock_path = path.parent / LOCK_FILE if path is not None else None
        checked = check_plans(
            (self.named,), lock_path=lock_path, locked=self.locked, tolerance=self.tolerance, strict=self.strict
        )
        return checked.plans[0]


def budget_request(keywords: Mapping[str, Any], root: Path, *, where: str) -> BudgetRequest:
    """The plan that keywords describe: `plan`, a file or a name, or else `model`, with fields named like flags over it.

    strict: a tight fit fails. locked: growth over the lock beyond `tolerance` ("1%") fails. root: where plan files and
    the lock are. where: the place of the keywords in messages. UserError with every problem.
    """
    problems = []
    for name in keywords:
        if name not in FLAGS and name not in OWN:
            hint = suggest(name, [*OWN, *FLAGS])
            problems.append(Problem(where=where, key=name, message="no such keyword", hint=hint))
    for names, kind, expected in ((("strict", "locked"), bool, "True or False"), (("plan", "model"), str, "text")):
        wrong = [name for name in names if not isinstance(keywords.get(name, kind()), kind)]
        problems += [Problem(where=where, key=n, message=f"{show(keywords[n])} is not {expected}") for n in wrong]
    tolerance = TOLERANCE
    if "tolerance" in keywords:
        try:
            tolerance = parse_share(str(keywords["tolerance"]))
        except ValueError as error:
            problems.append(Problem(where=where, key="tolerance", message=str(error)))
    if not keywords.get("plan") and not keywords.get("model"):
        message = "names neither a plan nor a model"
        problems.append(Problem(where=where, key="", message=message, hint='plan="pretrain" or model="llama-1b"'))
    if keywords.get("locked") and not keywords.get("plan"):
        message = "requires plan: the lock lists plans by name"
        problems.append(Problem(where=where, key="locked", message=message, hint='plan="pretrain"'))
    flags = {FLAGS[name]: _typed(value) for name, value in keywords.items() if name in FLAGS}
    try:
        if problems:
            raise UserError(*problems)
        plan_file, model = keywords.get("plan", ""), keywords.get("model", "")
        if plan_file:
            loaded = load_plan(root=root, plan_file=plan_file, model=model, flags=flags)
            if not model:
                model_inside(loaded.root, loaded.plan.model, where=where)
        else:
            loaded = LoadedPlan(plan=merge({"model": model}, flags, where=where), label=where, root=root)
    except UserError as error:
        raise blame(where, error) from None
    name = plan_file or model
    named = NamedPlan(name=name, plan=loaded.plan, root=loaded.root, path=loaded.path, alone=not loaded.name)
    chosen = BudgetRequest(
        named=named,
        strict=keywords.get("strict", False),
        locked=keywords.get("locked", False),
        tolerance=tolerance,
    )
    try:
        chosen.estimate()
    except UserError as error:
        raise blame(where, error) from None
    return chosen


def _typed(value: Any) -> Any:
    """A list of names as a flag takes it."""
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else value


def blame(where: str, error: UserError) -> UserError:
    """The error placed at `where`, with flags called by the keywords that the user wrote there."""
    return UserError(*(_blame(where, problem) for problem in error.problems))


def _blame(where: str, problem: Problem) -> Problem:
    if problem.where == where:
        return problem
    flags = FLAGS | {"plan": "--plan", "entry": "--entry"}
    name = next((dest for dest, flag in flags.items() if flag == problem.where), "")
    if name:
        return Problem(where=where, key=name, message=problem.message, hint=problem.hint)
    message = (
        f"{problem.where}: {problem.key}: {problem.message}" if problem.key else f"{problem.where}: {problem.message}"
    )
    return Problem(where=where, key="", message=message, hint=problem.hint)
