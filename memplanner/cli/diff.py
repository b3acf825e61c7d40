"""memplanner diff: what two plans, lock files or revisions of a file differ by, and which settings moved it."""

import argparse
from pathlib import Path

from memplanner.cli.argument_types import share
from memplanner.cli.exit_code import ExitCode
from memplanner.cli.main import Answer
from memplanner.report.terminal import Page
from memplanner.report.writers import DIFF


def configure(parser: argparse.ArgumentParser, *, described: bool) -> None:
    what = (
        "a plan file, a plan by name, a lock file, another framework's config, or REVISION:FILE for any, as git has it"
    )
    parser.add_argument("before", metavar="A", help=what)
    parser.add_argument("after", metavar="B", help="what A is compared with, in any of the same forms")
    parser.add_argument(
        "--tolerance",
        type=share("--tolerance"),
        metavar="SHARE",
        help="exit with 1 where a plan has grown by more than that share",
    )
    parser.add_argument(
        "--format",
        choices=DIFF.formats,
        default="text",
        help="how the answer is written (default: text)",
    )


def run(args: argparse.Namespace, page: Page, root: Path) -> Answer:
    from memplanner.budgets.diff import differences

    growths = differences(args.before, args.after, root)
    grown = args.tolerance is not None and any(growth.share > args.tolerance for growth in growths)
    code = ExitCode.DOES_NOT_FIT if grown else ExitCode.OK
    return Answer(text=DIFF.write(args.format, growths, page), code=code)
