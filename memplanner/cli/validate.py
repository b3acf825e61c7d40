"""memplanner validate: predictions beside what was measured, with the error of every figure."""

import argparse
import gc
from pathlib import Path

from memplanner.cli.argument_types import share
from memplanner.cli.exit_code import ExitCode
from memplanner.cli.main import Answer
from memplanner.errors import Problem, UserError
from memplanner.report.terminal import Page
from memplanner.report.validate_report import ValidationAnswer
from memplanner.report.writers import VALIDATE


def configure(parser: argparse.ArgumentParser, *, described: bool) -> None:
    parser.add_argument(
        "records",
        nargs="*",
        metavar="RECORD",
        help="records of `memplanner profile`: files, or directories of them; without these and --published, the "
        "measurements that ship with memplanner",
    )
    parser.add_argument(
        "--published", action="append", default=[], metavar="FILE", help="third parties' measurements, in one JSON file"
    )
    parser.add_argument(
        "--against",
        choices=("measured", "fake"),
        default="measured",
        help="fake: trace the plans of the records and rows on fake tensors now, and compare with the traces "
        "(default: measured, the figures that the files hold)",
    )
    parser.add_argument(
        "--tolerance",
        default="2%",
        type=share("--tolerance"),
        metavar="SHARE",
        help="exit with 1 where the prediction of an allocated peak is off by more than this (default: 2%%)",
    )
    parser.add_argument(
        "--format", choices=VALIDATE.formats, default="text", help="how the answer is written (default: text)"
    )


def run(args: argparse.Namespace, page: Page, root: Path) -> Answer:
    from memplanner.validation.published import published_files, validate_published
    from memplanner.validation.records import records_in, validate_records
    from memplanner.validation.rows import merged
    from memplanner.validation.traces import validate_against_traces

    gc.enable()  # predictions of many records, and models, are full of cycles
    tolerance = args.tolerance
    paths = records_in(args.records, root)
    published = [root / word for word in args.published]
    if not paths and not published:
        published = published_files()
    if args.against == "fake":
        try:
            validation = validate_against_traces(paths, published)
        except ModuleNotFoundError as error:
            message = f"needs {error.name}, which is not installed"
            problem = Problem(where="--against fake", key="", message=message, hint="pip install 'memplanner[live]'")
            raise UserError(problem) from None
    else:
        validation = merged([*([validate_records(paths)] if paths else []), *map(validate_published, published)])
    code = ExitCode.DOES_NOT_FIT if validation.beyond(tolerance) or not validation.rows else ExitCode.OK
    answer = ValidationAnswer(validation=validation, tolerance=tolerance)
    return Answer(text=VALIDATE.stream(args.format, answer, page), code=code)
