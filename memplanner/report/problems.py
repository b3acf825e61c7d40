"""What a command says that has no answer, as JSON; `junit`, `markdown` and `sarif` write the same for their readers."""

from typing import TYPE_CHECKING

from memplanner.errors import Problem
from memplanner.frozen import Frozen
from memplanner.report.as_json import dump

if TYPE_CHECKING:
    from memplanner.report.terminal import Page

_DEFECT = 70


class NoAnswer(Frozen):
    """What was wrong with the question, or with memplanner. code: the exit code."""

    problems: tuple[Problem, ...]
    code: int

    @property
    def is_defect(self) -> bool:
        """Whether the question may have been right."""
        return self.code == _DEFECT

    @property
    def kind(self) -> str:
        """What it is called among test results."""
        return "SoftwareError" if self.is_defect else "UsageError"


def problems_json(answer: NoAnswer, page: "Page") -> str:
    """The JSON object that takes an answer's place; its names are fixed."""
    names = ("where", "key", "message", "hint")
    problems = [{name: getattr(problem, name) for name in names} for problem in answer.problems]
    return dump({"schema": "memplanner/problems/1", "exit_code": answer.code, "problems": problems})
