"""memplanner compare: methods and ranks side by side at equal settings."""

import argparse
from pathlib import Path

from memplanner.cli.main import Answer
from memplanner.cli.plan_arguments import add_plan_arguments, loaded
from memplanner.components.methods.low_rank import LowRank
from memplanner.errors import Problem, UserError
from memplanner.plan.sources import merge
from memplanner.plan.training_plan import TrainingPlan
from memplanner.report.compare_text import Comparison
from memplanner.report.terminal import Page
from memplanner.report.writers import COMPARE
from memplanner.settings.describe import choices
from memplanner.settings.errors import show, suggest


def configure(parser: argparse.ArgumentParser, *, described: bool) -> None:
    add_plan_arguments(parser, described=described, formats=COMPARE.formats)
    methods = ",".join(choices(TrainingPlan, "method"))
    parser.add_argument("--methods", default=methods, metavar="A,B", help=f"which methods (default: {methods})")
    parser.add_argument("--ranks", default="", metavar="N,N", help="which ranks (default: the plan's)")


def run(args: argparse.Namespace, page: Page, root: Path) -> Answer:
    from memplanner.prediction import predict

    methods, ranks = _methods(args.methods), _ranks(args.ranks)
    found = loaded(args, root)
    estimates = [predict(plan, root=found.root) for plan in plans(found.plan, methods, ranks)]
    return Answer(text=COMPARE.write(args.format, Comparison(estimates=estimates, label=found.label), page))


def plans(base: TrainingPlan, methods: tuple[str, ...], ranks: tuple[str, ...]) -> list[TrainingPlan]:
    """The base plan with each method and, where it has one, each rank.

    When none is asked for, all get the plan's own rank, or the same default where the plan's method has none.
    """
    table = base.model_dump(mode="json")
    own = str(LowRank().rank if base.method.kind == "full" else base.method.rank)
    found = []
    for method in methods:
        for rank in ("",) if method == "full" else (ranks or (own,)):
            flags = {"--method": method} | ({"--rank": rank} if rank else {})
            found += [merge(table, flags, where="plan")]
    return found


def _methods(text: str) -> tuple[str, ...]:
    known = choices(TrainingPlan, "method")
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    problems = [
        Problem(where="--methods", key="", message=f"{show(name)} is not a known method", hint=suggest(name, known))
        for name in names
        if name not in known
    ]
    if problems or not names:
        raise UserError(*problems or [Problem(where="--methods", key="", message="names no method")])
    return names


def _ranks(text: str) -> tuple[str, ...]:
    ranks = tuple(dict.fromkeys(rank.strip() for rank in text.split(",") if rank.strip()))
    problems = [
        Problem(where="--ranks", key="", message=f"{show(rank)} is not a rank from 1 to {1 << 20}")
        for rank in ranks
        if not (rank.isascii() and rank.isdigit() and len(rank) < 10 and 1 <= int(rank) <= 1 << 20)
    ]
    if problems:
        raise UserError(*problems)
    return ranks
