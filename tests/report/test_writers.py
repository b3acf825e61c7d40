"""Every format that a command offers has a writer, and all writers of an answer take that answer."""

import inspect
from collections.abc import Iterator

import pytest

from memplanner.cli.main import COMMANDS
from memplanner.report import writers
from memplanner.report.writers import Report

REPORTS = {name: report for name, report in vars(writers).items() if isinstance(report, Report)}
ASIDE = {"tui", "lock", "schema", "fetch"}
"""Commands that write in one format only."""


def named(annotation: object) -> str:
    """An annotation's name, whether it is imported or only there for the type checker."""
    return getattr(annotation, "__name__", str(annotation)).strip("'\"")


@pytest.mark.parametrize("name", REPORTS)
def test_writers_of_an_answer_take_that_answer_and_a_page(name: str) -> None:
    report = REPORTS[name]
    signatures = [inspect.signature(report.writer(form)) for form in report.formats]
    parameters = [[named(p.annotation) for p in signature.parameters.values()] for signature in signatures]
    assert len({answer for answer, _ in parameters}) == 1
    assert {page for _, page in parameters} == {"Page"}
    assert {signature.return_annotation for signature in signatures} <= {str, Iterator[str]}


def test_every_command_has_its_writers() -> None:
    assert {name.lower() for name in REPORTS} >= set(COMMANDS) - ASIDE
