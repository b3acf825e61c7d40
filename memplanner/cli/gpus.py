"""memplanner gpus: what is in profiles/gpus."""

import argparse
from pathlib import Path

from memplanner.catalogue import all_gpus
from memplanner.cli.main import Answer
from memplanner.report.terminal import Page
from memplanner.report.writers import GPUS


def configure(parser: argparse.ArgumentParser, *, described: bool) -> None:
    parser.add_argument("--format", choices=GPUS.formats, default="text", help="how the list is written")


def run(args: argparse.Namespace, page: Page, root: Path) -> Answer:
    return Answer(text=GPUS.write(args.format, all_gpus(), page))
