"""memplanner lock: writes what every named plan needs, for `check --all --locked` to hold them to."""

import argparse
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
    from memplanner.files.parse import MAX_FILE_BYTES, file_error
    from memplanner.files.write import write_text

    plans = named_plans(root, args.plan)
    estimates = predicted(plans)
    path = lock_beside(plans)
    text = lock_text(lock_of(estimates))
    if len(text) > MAX_FILE_BYTES:  # of ASCII
        raise file_error(path, f"would be larger than 1 MiB, with {len(plans)} plans, and could not be read again")
    write_text(path, text)
    each = ", ".join(f"{name} {format_bytes(estimate.device_bytes)}" for name, estimate in estimates.items())
    return Answer(text=page.write(paragraph(f"Locked in {path}: {each}", page.width, rest="  ")))
