"""memplanner explain: the picture of the step and the tensors at its peak."""

import argparse
from pathlib import Path

from memplanner.cli.argument_types import integer
from memplanner.cli.main import Answer
from memplanner.cli.plan_arguments import add_plan_arguments, loaded
from memplanner.report.terminal import Page


def configure(parser: argparse.ArgumentParser, *, described: bool) -> None:
    add_plan_arguments(parser, described=described, formats=("text", "json"))
    parser.add_argument(
        "--top",
        default=15,
        metavar="N",
        type=integer("--top", "a whole number above 0", least=1),
        help="how many tensors to list (default: 15)",
    )


def run(args: argparse.Namespace, page: Page, root: Path) -> Answer:
    from memplanner.prediction import predict

    found = loaded(args, root)
    estimate = predict(found.plan, root=found.root)
    if args.format == "json":
        from memplanner.report.as_json import dump, explain_object

        return Answer(text=dump(explain_object(estimate)))
    from memplanner.report.explain_text import explain_text

    return Answer(text=explain_text(estimate, page, label=found.label, top=args.top))
