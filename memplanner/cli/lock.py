"""memplanner lock: writes what every named plan needs, for `check --all --locked` to hold them to."""

import argparse
import os
from pathlib import Path

from memplanner.cli.main import Answer
from memplanner.report.layout import paragraph
from memplanner.report.terminal import Page
from memplanner.units import format_bytes


def configure(parser: argparse.ArgumentParser, *, described: bool) -> None:
    parser.add_argument(
        "--plan",
        default="",
        metavar="FILE",
        help="the file with the plans (default: memplanner.toml or pyproject.toml)",
    )


def run(args: argparse.Namespace, page: Page, root: Path) -> Answer:
    from memplanner.budgets.check import lock_beside, named_plans, predicted
    from memplanner.budgets.lock import lock_of, lock_text
    from memplanner.files.parse import file_error

    plans = named_plans(root, args.plan)
    estimates = predicted(plans)
    path = lock_beside(plans)
    if os.path.islink(path) or (os.path.exists(path) and not os.path.isfile(path)):
        raise file_error(path, "is a link or not a regular file, and is not overwritten")
    try:
        path.write_text(lock_text(lock_of(estimates)), encoding="utf-8")
    except OSError as error:
        raise file_error(path, f"cannot be written: {error.strerror}") from None
    each = ", ".join(f"{name} {format_bytes(estimate.device_bytes)}" for name, estimate in estimates.items())
    return Answer(text=page.write(paragraph(f"Locked in {path}: {each}", page.width, rest="  ")))
