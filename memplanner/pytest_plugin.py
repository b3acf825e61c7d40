"""pytest's plugin: `memory_budget` marks a test whose training plan must fit, by prediction or by a real step.

Nothing but pytest is imported before a test asks for it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from memplanner.budgets.check import Checked
    from memplanner.budgets.keywords import BudgetRequest
    from memplanner.measurement import Backend, Measurement
    from memplanner.prediction import Estimate

MARKER = "memory_budget"
_MARKED: pytest.StashKey[list[BudgetRequest]] = pytest.StashKey()


def pytest_configure(config: pytest.Config) -> None:
    """Tell pytest about the marker."""
    config.addinivalue_line(
        "markers",
        f"{MARKER}(plan=, model=, gpu=, budget=, strict=, locked=, …): the training plan, named or said by its fields, "
        "must fit the device within its budget (memplanner).",
    )


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Read the test's markers; a wrong one is an error of this test, which then neither passes nor fails."""
    problems = _read_markers(item)
    if problems:
        raise _failure("\n".join(problems))


def _for_log(text: str) -> str:
    """The text, on GitHub Actions altered so that the runner finds no command in it."""
    if not os.environ.get("GITHUB_ACTIONS"):
        return text
    from memplanner.report.github import inert

    return inert(text)


def _failure(text: str) -> BaseException:
    """A test's failure that is shown without a traceback."""
    return pytest.fail.Exception(_for_log(text), pytrace=False)


def _read_markers(item: pytest.Item) -> list[str]:
    """Store the plans of a test's markers in its stash; returns the problems of the markers."""
    marks = list(item.iter_markers_with_node(MARKER))
    if not marks:
        return []
    from memplanner.budgets.keywords import budget_request
    from memplanner.errors import UserError, printable

    problems: list[str] = []
    requests: list[BudgetRequest] = []
    for node, mark in reversed(marks):  # a class's marker comes before its test's
        where = printable(f"{node.nodeid}: {MARKER}")
        if mark.args:
            problems.append(f'{where}: takes keywords only, such as plan="pretrain"')
            continue
        try:
            requests.append(budget_request(mark.kwargs, item.config.rootpath, where=where))
        except UserError as error:
            problems += map(str, error.problems)
    item.stash[_MARKED] = requests
    return problems


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Check a marked test's plans against their budgets, then run the test."""
    for marked_plan in item.stash.get(_MARKED, []):
        _judge(marked_plan, item)
    return (yield)


def _judge(marked_plan: BudgetRequest, item: pytest.Item) -> Checked:
    from memplanner.errors import UserError

    try:
        checked = marked_plan.check()
    except UserError as error:
        raise _failure(str(error)) from None
    estimate = checked.estimate
    item.user_properties += [
        ("memplanner_plan", checked.named.name),
        ("memplanner_device_bytes", estimate.device_bytes),
        ("memplanner_limit_bytes", estimate.limit_bytes),
    ]
    if not checked.ok:
        raise _failure(failure(checked))
    return checked


def failure(checked: Checked) -> str:
    """The text of a test whose plan does not fit: the complaint, the difference to the lock, and the breakdown."""
    from memplanner.errors import printable
    from memplanner.report.growth_phrases import complaints, explanation, headline
    from memplanner.report.summary import breakdown
    from memplanner.report.terminal import Page

    grown = checked.growth is not None and checked.growth.rows
    lines = [headline(checked), *complaints(checked), *(explanation(checked) if grown else ())]
    page = Page(width=80)
    return "\n".join([*map(printable, lines), page.write(breakdown(checked.estimate, page.width)).rstrip("\n")])


class MemoryPlan:
    """The fixture `memory_plan`: plans given by keywords as in the marker; without keywords, the test's marked plan."""

    def __init__(self, request: pytest.FixtureRequest) -> None:
        self._item: pytest.Item = request.node
        self._root = request.config.rootpath

    def predict(self, **keywords: Any) -> Estimate:
        """The plan's estimate."""
        return self.requested(keywords).estimate()

    def assert_fits(self, **keywords: Any) -> Estimate:
        """Fail the test if the plan does not fit its device and budget; otherwise return its estimate."""
        return _judge(self.requested(keywords), self._item).estimate

    def requested(self, keywords: dict[str, Any]) -> BudgetRequest:
        """The plan of the keywords, or of the test's one marker."""
        from memplanner.budgets.keywords import budget_request
        from memplanner.errors import UserError

        own = self._item.stash.get(_MARKED, [])
        if not keywords and len(own) == 1:
            return own[0]
        try:
            return budget_request(keywords, self._root, where="memory_plan")
        except UserError as error:
            raise _failure(str(error)) from None


@pytest.fixture
def memory_plan(request: pytest.FixtureRequest) -> MemoryPlan:
    """Predicts plans: memory_plan.predict(...), memory_plan.assert_fits(...)."""
    return MemoryPlan(request)


@pytest.fixture
def measured_budget(request: pytest.FixtureRequest, memory_plan: MemoryPlan) -> Callable[..., Measurement]:
    """Runs real steps and fails the test where they allocate more than the budget.

    measured_budget(): of the marked plan, with what its keywords say. measured_budget(entry, budget="600MiB"): of a
    function that returns (model, optimizer or None, batch). device: "cuda" or "cpu"; where there is a GPU, "cuda".
    The bytes are torch's own: of live tensors on a CPU, max_memory_allocated on a GPU.
    """

    def run(
        entry: Callable[[], object] | None = None, *, device: Backend | None = None, budget: str = "", **keywords: Any
    ) -> Measurement:
        torch = pytest.importorskip("torch", reason="real steps need torch: pip install 'memplanner[live]'")
        backend: Backend = device or ("cuda" if torch.cuda.is_available() else "cpu")
        from memplanner.budgets.keywords import blame
        from memplanner.errors import UserError
        from memplanner.harness.record import measure
        from memplanner.units import parse_size

        name = request.node.name
        try:
            limit = parse_size(budget) if budget else None
            if entry is not None:
                if limit is None:
                    raise _failure('measured_budget(entry, budget="600MiB"): an entry point needs a budget')
                record, predicted = measure(None, backend, name=name, entry=entry, root=request.config.rootpath), None
            else:
                requested_plan = memory_plan.requested(keywords)
                estimate = requested_plan.estimate()
                limit = estimate.limit_bytes if limit is None else limit
                predicted = estimate.allocated_bytes
                plan, root = estimate.plan, requested_plan.named.root
                record = measure(plan, backend, name=name, root=root, needed_bytes=predicted)
        except UserError as error:
            raise _failure(str(blame("measured_budget", error))) from None
        except ValueError as error:
            raise _failure(f"measured_budget: budget: {error}") from None
        _judge_record(record, limit, predicted, request.node)
        return record

    return run


def _judge_record(record: Measurement, limit: int, predicted: int | None, item: pytest.Item) -> None:
    from memplanner.units import format_bytes

    peak = record.peak
    if record.outcome.status != "completed" or peak is None:
        raise _failure(f"the steps did not complete: {record.outcome.status} {record.outcome.message}")
    item.user_properties.append(("memplanner_measured_bytes", peak.peak_bytes))
    if peak.peak_bytes > limit:
        lines = [
            f"{record.witness.capitalize()} on {record.backend}: {format_bytes(peak.peak_bytes)} allocated in "
            f"{peak.name}, {format_bytes(peak.peak_bytes - limit)} over the budget of {format_bytes(limit)}"
        ]
        if predicted is not None:
            lines.append(f"predicted: {format_bytes(predicted)}")
        lines += [f"  {phase.name:<10} {format_bytes(phase.peak_bytes)}" for phase in record.phases]
        raise _failure("\n".join(lines))
