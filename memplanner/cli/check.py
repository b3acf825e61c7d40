"""memplanner check: the verdict, the peak, what it is made of, and what would make it fit; of one plan or of all."""

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from memplanner.cli.exit_code import ExitCode
from memplanner.cli.main import Answer
from memplanner.cli.plan_arguments import add_plan_arguments, loaded, typed_flags
from memplanner.errors import Problem, UserError
from memplanner.report.check_text import PlanAnswer
from memplanner.report.terminal import Page
from memplanner.report.writers import BUDGETS, CHECK
from memplanner.timeline import advisable, passes

if TYPE_CHECKING:
    from memplanner.budgets.check import CheckedPlans
    from memplanner.plan.load import LoadedPlan


def configure(parser: argparse.ArgumentParser, *, described: bool) -> None:
    add_plan_arguments(parser, described=described, formats=(*BUDGETS.formats, "auto"))
    parser.add_argument("--strict", action="store_true", help="a tight fit counts as not fitting (exit code 1)")
    several = parser.add_argument_group("all plans", "the [plans.NAME] tables of memplanner.toml or of --plan FILE")
    several.add_argument("--all", action="store_true", help="check each of them against its budget")
    several.add_argument(
        "--locked",
        action="store_true",
        help="with --all: also fail where one needs more than memplanner.lock.json says",
    )
    several.add_argument(
        "--tolerance", default="", metavar="SHARE", help="with --locked: growth that still passes (default: 1%%)"
    )


def run(args: argparse.Namespace, page: Page, root: Path) -> Answer:
    if args.format == "auto":
        args.format = "github" if os.environ.get("GITHUB_ACTIONS") else "text"
    if args.all:
        return _all(args, page, root)
    for flag, typed in (("--locked", args.locked), ("--tolerance", args.tolerance)):
        if typed:
            raise UserError(Problem(where="memplanner check", key="", message=f"{flag} requires --all"))
    return _one(args, page, root)


def _one(args: argparse.Namespace, page: Page, root: Path) -> Answer:
    from memplanner.prediction import predict

    loaded_plan = loaded(args, root)
    if args.format not in CHECK.formats:
        return _for_ci(args, loaded_plan, page)
    estimate = predict(loaded_plan.plan, root=loaded_plan.root)
    code = ExitCode.OK if passes(estimate.verdict, strict=args.strict) else ExitCode.DOES_NOT_FIT
    changes = None
    # Every change that is tried would have to be traced.
    if not (advisable(estimate, strict=args.strict) or estimate.is_traced or args.format == "json"):
        from memplanner.solve.changes import single_changes

        changes = single_changes(estimate, lambda plan: predict(plan, root=loaded_plan.root), strict=args.strict)
    answer = PlanAnswer(estimate=estimate, label=loaded_plan.label, changes=changes, foreign=loaded_plan.foreign)
    return Answer(text=CHECK.write(args.format, answer, page), code=code)


def _for_ci(args: argparse.Namespace, loaded_plan: "LoadedPlan", page: Page) -> Answer:
    """One plan, as the only one of its kind."""
    from memplanner.budgets.check import NamedPlan, check_plans

    named = NamedPlan(
        name=loaded_plan.name or loaded_plan.plan.model,
        plan=loaded_plan.plan,
        root=loaded_plan.root,
        path=loaded_plan.path,
        alone=not loaded_plan.name,
        foreign=loaded_plan.foreign,
    )
    return _answer(check_plans((named,), strict=args.strict), args.format, page)


def _all(args: argparse.Namespace, page: Page, root: Path) -> Answer:
    from memplanner.budgets.check import TOLERANCE, check_plans, lock_beside, named_plans

    for what, typed in (("MODEL", args.model), ("--from", args.configs)):
        if typed:
            raise UserError(
                Problem(where="--all", key="", message=f"cannot be combined with {what}: it checks named plans")
            )
    tolerance = TOLERANCE
    if args.tolerance:
        if not args.locked:
            raise UserError(Problem(where="memplanner check", key="", message="--tolerance requires --locked"))
        from memplanner.cli.argument_types import share

        tolerance = share("--tolerance")(args.tolerance)  # read here, so that its error is written as --format says
    plans = named_plans(root, args.plan, typed_flags(args))
    checked_plans = check_plans(
        plans, lock_path=lock_beside(plans), locked=args.locked, tolerance=tolerance, strict=args.strict
    )
    return _answer(checked_plans, args.format, page)


def _answer(checked_plans: "CheckedPlans", form: str, page: Page) -> Answer:
    code = ExitCode.DOES_NOT_FIT if checked_plans.failed else ExitCode.OK
    return Answer(text=BUDGETS.write(form, checked_plans, page), code=code)
