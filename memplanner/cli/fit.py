"""memplanner fit: the largest rank, batch or sequence that a card holds."""

import argparse
from pathlib import Path

from memplanner.catalogue import find_model
from memplanner.cli.exit_code import ExitCode
from memplanner.cli.main import Answer
from memplanner.cli.plan_arguments import add_plan_arguments, loaded, typed_flags
from memplanner.errors import Problem, UserError
from memplanner.plan.flags import MODEL, command_line, command_words, no_rank
from memplanner.plan.load import LoadedPlan
from memplanner.report.fit_text import FitAnswer
from memplanner.report.terminal import Page
from memplanner.report.writers import FIT, RANKS


def configure(parser: argparse.ArgumentParser, *, described: bool) -> None:
    add_plan_arguments(parser, described=described, formats=FIT.formats)
    parser.add_argument(
        "--maximize",
        default="rank",
        choices=("rank", "batch-size", "seq-len"),
        help="what to make as large as the card allows (default: rank)",
    )
    parser.add_argument(
        "--evidence",
        default="",
        metavar="RECORD",
        help="a rank for each module instead, by the rank evidence in a record of `memplanner profile --rank-evidence`",
    )
    parser.add_argument("--strict", action="store_true", help="a tight fit counts as not fitting")


def run(args: argparse.Namespace, page: Page, root: Path) -> Answer:
    from memplanner.prediction import longest_sequence, predict, widest_rank
    from memplanner.prediction.recorded import answer_of
    from memplanner.prediction.traced import refuse_traced
    from memplanner.solve.largest import largest

    loaded_plan = loaded(args, root)
    plan = loaded_plan.plan
    model = find_model(plan.model, loaded_plan.root)
    if answer_of(model.config, plan.task, plan.method) == "traced":
        refuse_traced(plan, model)  # hundreds of steps would have to be traced
    if args.evidence:
        return _by_module(args, page, root, loaded_plan)
    if args.maximize == "rank" and plan.method.chosen_rank is None:
        message, hint = no_rank(plan.method)
        raise UserError(Problem(where="--maximize", key="", message=message, hint=hint))
    ceilings = {"rank": widest_rank, "seq-len": longest_sequence}
    ceiling = ceilings[args.maximize](plan, root=loaded_plan.root) if args.maximize in ceilings else None
    result = largest(
        plan, args.maximize, lambda p: predict(p, root=loaded_plan.root), ceiling=ceiling, strict=args.strict
    )
    code = ExitCode.OK if result.value else ExitCode.DOES_NOT_FIT
    answer = FitAnswer(largest=result, label=loaded_plan.label, command=_command(args, result.value))
    return Answer(text=FIT.write(args.format, answer, page), code=code)


def _by_module(args: argparse.Namespace, page: Page, root: Path, loaded_plan: LoadedPlan) -> Answer:
    from memplanner.measurement import load_measurement
    from memplanner.prediction import Predictor
    from memplanner.report.ranks_text import RanksAnswer
    from memplanner.solve.ranks import ranks_by_evidence

    if args.maximize != "rank":
        raise UserError(Problem(where="memplanner fit", key="", message="--evidence requires --maximize rank"))
    record = load_measurement(root / args.evidence)
    if not record.rank_evidence:
        hint = "memplanner profile --rank-evidence records it"
        raise UserError(Problem(where=args.evidence, key="rank_evidence", message="is empty", hint=hint))
    ranks = ranks_by_evidence(loaded_plan.plan, record.rank_evidence, Predictor(loaded_plan.root), strict=args.strict)
    return Answer(text=RANKS.write(args.format, RanksAnswer(ranks=ranks, label=loaded_plan.label), page))


def _command(args: argparse.Namespace, value: int) -> str:
    """The `check` command with everything that was typed and the value that was searched for."""
    typed = {name: text for name, text in ((MODEL, args.model), ("--plan", args.plan)) if text}
    typed |= {**typed_flags(args), f"--{args.maximize}": str(value)}
    return command_line(["memplanner", "check", *command_words(typed)])
