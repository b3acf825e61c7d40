"""Who writes which answer: what a command looks up by --format, and is imported only then.

A writer is a function of an answer and the page it is written for; what is not meant for people leaves the page aside.
It returns text, or where that can be long, piece after piece of it.
The answers are values, and stand beside the writer of the text for people.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Generic, TypeVar, cast

if TYPE_CHECKING:
    from memplanner.budgets.check import CheckedPlans
    from memplanner.budgets.growth import Growth
    from memplanner.catalogue import GpuProfile, ModelProfile
    from memplanner.report.check_text import PlanAnswer
    from memplanner.report.compare_text import Comparison
    from memplanner.report.explain_text import Explanation
    from memplanner.report.fit_text import FitAnswer
    from memplanner.report.problems import NoAnswer
    from memplanner.report.profile_text import RunAnswer, SuiteAnswer
    from memplanner.report.ranks_text import RanksAnswer
    from memplanner.report.record_text import Recording
    from memplanner.report.sweep_text import PointsAnswer, SweepAnswer
    from memplanner.report.terminal import Page
    from memplanner.report.validate_report import ValidationAnswer
    from memplanner.solve.published import Computed, Paper

Answer = TypeVar("Answer")


class Report(Generic[Answer]):
    """An answer's writers by format, each as "module:function" of this package."""

    def __init__(self, writers: Mapping[str, str]) -> None:
        self.writers = writers

    @property
    def formats(self) -> tuple[str, ...]:
        """What --format may be."""
        return tuple(self.writers)

    def writer(self, form: str) -> Callable[[Answer, Page], str | Iterable[str]]:
        """The writer of a format."""
        module, _, name = self.writers[form].partition(":")
        writer = getattr(import_module(f"memplanner.report.{module}"), name)
        return cast("Callable[[Answer, Page], str | Iterable[str]]", writer)

    def write(self, form: str, answer: Answer, page: Page) -> str:
        """The answer in that format."""
        return "".join(self.stream(form, answer, page))

    def stream(self, form: str, answer: Answer, page: Page) -> Iterable[str]:
        """The same, of which no more need be in memory than a piece."""
        text = self.writer(form)(answer, page)
        return (text,) if isinstance(text, str) else text


CHECK: Report[PlanAnswer] = Report(
    {"text": "check_text:check_text", "json": "as_json:check_json", "markdown": "markdown:check_markdown"}
)
BUDGETS: Report[CheckedPlans] = Report(
    {
        "text": "budgets_text:budgets_text",
        "json": "as_json:budgets_json",
        "markdown": "budgets_text:budgets_markdown",
        "github": "github:github",
        "junit": "junit:junit",
        "sarif": "sarif:sarif",
    }
)
PROBLEMS: Report[NoAnswer] = Report(
    {
        "json": "problems:problems_json",
        "markdown": "markdown:problems_markdown",
        "junit": "junit:junit_of_problems",
        "sarif": "sarif:sarif_of_problems",
    }
)
"""Why there is no answer: what goes to a file that others read says so there, too."""
DIFF: Report[Sequence[Growth]] = Report(
    {"text": "budgets_text:diff_text", "json": "as_json:diff_json", "markdown": "budgets_text:diff_markdown"}
)
EXPLAIN: Report[Explanation] = Report({"text": "explain_text:explain_text", "json": "as_json:explain_json"})
FIT: Report[FitAnswer] = Report(
    {"text": "fit_text:fit_text", "json": "as_json:fit_json", "markdown": "fit_text:fit_markdown"}
)
RANKS: Report[RanksAnswer] = Report(
    {"text": "ranks_text:ranks_text", "json": "ranks_text:ranks_json", "markdown": "ranks_text:ranks_markdown"}
)
COMPARE: Report[Comparison] = Report(
    {"text": "compare_text:compare_text", "json": "as_json:compare_json", "markdown": "compare_text:compare_markdown"}
)
SWEEP: Report[SweepAnswer] = Report(
    {
        "text": "sweep_text:sweep_text",
        "json": "sweep_text:sweep_json",
        "svg": "sweep_svg:sweep_svg",
        "markdown": "sweep_text:sweep_markdown",
    }
)
POINTS: Report[PointsAnswer] = Report({"csv": "sweep_text:points_csv"})
"""Of a sweep as well, and not kept: each point is written when it is made."""
VALIDATE: Report[ValidationAnswer] = Report(
    {
        "text": "validate_report:validate_text",
        "json": "validate_report:validate_json",
        "markdown": "validate_report:validate_markdown",
    }
)
PROFILE: Report[RunAnswer] = Report({"text": "profile_text:profile_text", "json": "profile_text:profile_json"})
SUITE: Report[SuiteAnswer] = Report({"text": "profile_text:suite_text", "json": "profile_text:suite_json"})
PAPER: Report[Sequence[tuple[Paper, Sequence[Computed]]]] = Report(
    {"text": "paper_text:paper_text", "json": "paper_text:paper_json"}
)
GPUS: Report[Sequence[GpuProfile]] = Report({"text": "catalogue_text:gpus_text", "json": "catalogue_text:gpus_json"})
MODELS: Report[Sequence[tuple[ModelProfile, str]]] = Report(
    {"text": "catalogue_text:models_text", "json": "catalogue_text:models_json"}
)
RECORD: Report[Recording] = Report({"text": "record_text:record_text", "json": "record_text:record_json"})
