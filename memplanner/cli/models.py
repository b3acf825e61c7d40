"""memplanner models: what is in profiles/models."""

import argparse
from pathlib import Path

from memplanner.catalogue import all_models
from memplanner.cli.main import Answer
from memplanner.report.as_json import dump
from memplanner.report.catalogue_text import models_object, models_text
from memplanner.report.terminal import Page


def configure(parser: argparse.ArgumentParser, *, described: bool) -> None:
    parser.add_argument("--format", choices=("text", "json"), default="text", help="how the list is written")


def run(args: argparse.Namespace, page: Page, root: Path) -> Answer:
    found = all_models()
    return Answer(text=dump(models_object(found)) if args.format == "json" else models_text(found, page))
