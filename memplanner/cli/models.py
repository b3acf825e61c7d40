"""memplanner models: what is in profiles/models."""

import argparse
from pathlib import Path

from memplanner.catalogue import models_with
from memplanner.cli.main import Answer
from memplanner.report.terminal import Page
from memplanner.report.writers import MODELS


def configure(parser: argparse.ArgumentParser, *, described: bool) -> None:
    parser.add_argument(
        "word", nargs="?", default="", metavar="WORD", help="only models with this in a name of theirs or in their type"
    )
    parser.add_argument("--format", choices=MODELS.formats, default="text", help="how the list is written")


def run(args: argparse.Namespace, page: Page, root: Path) -> Answer:
    from memplanner.prediction.recorded import answer_of

    answered = [(model, answer_of(model.config)) for model in models_with(args.word)]
    return Answer(text=MODELS.write(args.format, answered, page))
