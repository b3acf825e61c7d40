"""memplanner check: the verdict, the peak, what it is made of, and what would make it fit."""

import argparse
from pathlib import Path

from memplanner.cli.exit_code import ExitCode
from memplanner.cli.main import Answer
from memplanner.cli.plan_arguments import add_plan_arguments, loaded
from memplanner.report.page import Page


def configure(parser: argparse.ArgumentParser, *, described: bool) -> None:
    add_plan_arguments(parser, described=described)
    parser.add_argument("--strict", action="store_true", help="a tight fit counts as not fitting (exit code 1)")


def run(args: argparse.Namespace, page: Page, root: Path) -> Answer:
    from memplanner.prediction import predict

    found = loaded(args, root)
    estimate = predict(found.plan, root=found.root)
    refused = ("does-not-fit", "tight") if args.strict else ("does-not-fit",)
    code = ExitCode.DOES_NOT_FIT if estimate.verdict in refused else ExitCode.OK
    if args.format == "json":
        from memplanner.report.as_json import dump, estimate_object

        return Answer(text=dump(estimate_object(estimate)), code=code)
    changes = None
    if code != ExitCode.OK:
        from memplanner.solve.changes import single_changes

        changes = single_changes(estimate, lambda plan: predict(plan, root=found.root), strict=args.strict)
    if args.format == "markdown":
        from memplanner.report.markdown import check_markdown

        return Answer(text=check_markdown(estimate, changes, label=found.label), code=code)
    from memplanner.report.check_text import check_text

    return Answer(text=check_text(estimate, changes, page, label=found.label), code=code)
