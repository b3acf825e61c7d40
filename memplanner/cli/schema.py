"""memplanner schema: the JSON Schema of a plan, for editors and other tools."""

import argparse
from pathlib import Path

from memplanner.cli.main import Answer
from memplanner.fields import json_schema
from memplanner.plan import TrainingPlan
from memplanner.report.as_json import dump
from memplanner.report.page import Page


def configure(parser: argparse.ArgumentParser, *, described: bool) -> None:
    """No arguments."""


def run(args: argparse.Namespace, page: Page, root: Path) -> Answer:
    return Answer(text=dump(json_schema(TrainingPlan)))
