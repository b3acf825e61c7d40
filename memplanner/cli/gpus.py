"""memplanner gpus: what is in profiles/gpus."""

import argparse
from pathlib import Path

from memplanner.catalogue import all_gpus
from memplanner.cli.main import Answer
from memplanner.report.as_json import dump
from memplanner.report.catalogue_text import gpus_object, gpus_text
from memplanner.report.terminal import Page


def configure(parser: argparse.ArgumentParser, *, described: bool) -> None:
    parser.add_argument("--format", choices=("text", "json"), default="text", help="how the list is written")


def run(args: argparse.Namespace, page: Page, root: Path) -> Answer:
    found = all_gpus()
    return Answer(text=dump(gpus_object(found)) if args.format == "json" else gpus_text(found, page))
