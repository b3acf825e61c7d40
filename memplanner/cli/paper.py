"""memplanner paper: the published figures beside what the model computes."""

import argparse
from pathlib import Path

from memplanner.cli.main import Answer
from memplanner.report.terminal import Page
from memplanner.report.writers import PAPER


def configure(parser: argparse.ArgumentParser, *, described: bool) -> None:
    parser.add_argument("--format", choices=PAPER.formats, default="text", help="how the answer is written")


def run(args: argparse.Namespace, page: Page, root: Path) -> Answer:
    from memplanner.prediction import predict
    from memplanner.solve.published import compute, papers

    computed = [(paper, [compute(figure, predict) for figure in paper.figure]) for paper in papers()]
    return Answer(text=PAPER.write(args.format, computed, page))
