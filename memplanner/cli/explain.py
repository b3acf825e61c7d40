"""memplanner explain: the picture of the step and the tensors at its peak."""

import argparse
from pathlib import Path

from memplanner.cli.argument_types import integer
from memplanner.cli.main import Answer
from memplanner.cli.plan_arguments import add_plan_arguments, loaded
from memplanner.report.explain_text import Explanation
from memplanner.report.terminal import Page
from memplanner.report.writers import EXPLAIN


def configure(parser: argparse.ArgumentParser, *, described: bool) -> None:
    add_plan_arguments(parser, described=described, formats=EXPLAIN.formats)
    parser.add_argument(
        "--top",
        default=15,
        metavar="N",
        type=integer("--top", "a whole number above 0", least=1),
        help="how many tensors to list (default: 15)",
    )


def run(args: argparse.Namespace, page: Page, root: Path) -> Answer:
    from memplanner.prediction import predict

    loaded_plan = loaded(args, root)
    estimate = predict(loaded_plan.plan, root=loaded_plan.root)
    answer = Explanation(estimate=estimate, label=loaded_plan.label, top=args.top)
    return Answer(text=EXPLAIN.write(args.format, answer, page))
