"""memplanner explain: the picture of the step and the tensors at its peak."""

import argparse
from pathlib import Path

from memplanner.cli.main import Answer
from memplanner.cli.plan_arguments import add_plan_arguments, loaded
from memplanner.errors import Problem, UserError
from memplanner.report.explain_text import Explanation
from memplanner.report.terminal import Page
from memplanner.report.writers import EXPLAIN
from memplanner.settings.errors import show


def configure(parser: argparse.ArgumentParser, *, described: bool) -> None:
    add_plan_arguments(parser, described=described, formats=EXPLAIN.formats)
    parser.add_argument("--top", default="15", metavar="N", help="how many tensors to list (default: 15)")


def run(args: argparse.Namespace, page: Page, root: Path) -> Answer:
    from memplanner.prediction import predict

    if not (args.top.isascii() and args.top.isdigit() and 0 < len(args.top) < 10 and int(args.top) > 0):
        raise UserError(Problem(where="--top", key="", message=f"{show(args.top)} is not a whole number above 0"))
    found = loaded(args, root)
    estimate = predict(found.plan, root=found.root)
    answer = Explanation(estimate=estimate, label=found.label, top=int(args.top))
    return Answer(text=EXPLAIN.write(args.format, answer, page))
