"""memplanner models: what is in profiles/models."""

import argparse
from pathlib import Path

from memplanner.cli.main import Answer
from memplanner.profiles import all_models
from memplanner.report.as_json import dump
from memplanner.report.listing import models_object, models_text
from memplanner.report.page import Page


def configure(parser: argparse.ArgumentParser, *, described: bool) -> None:
    parser.add_argument("--format", choices=("text", "json"), default="text", help="how the list is written")


def run(args: argparse.Namespace, page: Page, root: Path) -> Answer:
    found = all_models()
    return Answer(text=dump(models_object(found)) if args.format == "json" else models_text(found, page))
