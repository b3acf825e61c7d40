"""Fixtures that several folders of tests share, and what each test needs: see `needs`."""

import subprocess
import sys
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NoReturn

import pytest

from tests.repository import Repository, sample

collect_ignore = ["sample_repository"]  # run by tests, in pytest runs of its own

HERE = Path(__file__).parent
EXPERIMENTS = ("experiments",)
"""Trainings that are long enough to learn something."""
LIVE = (
    "architectures",
    "cli/test_profile.py",
    "contract/test_harness.py",
    "gradnormlorp",
    "harness",
    "optimizers",
    "suite/test_kills.py",
    "tape/test_aten.py",
    "tape/test_quantized.py",
    "tape/test_strides.py",
    "validation/test_grid.py",
    "validation/test_regimes.py",
)
"""Folders and files whose every test needs torch, and which import it."""
PROCESSES = (
    "cli/test_many_records.py",
    "cli/test_profile.py",
    "plugin",
    "processes",
    "suite/test_kills.py",
    "test_boundaries.py",
)
"""Folders and files whose tests start processes: an interpreter, pytest, git, a shell."""
PROCESS_FIXTURES = frozenset({"in_processes", "pytester", "repository"})
"""What a test that starts processes asks for. Tests that start one without any of these are in PROCESS_TESTS."""
PROCESS_TESTS = frozenset(
    {
        "cli/test_fetch.py::test_a_config_is_fetched_once_and_then_there",
        "cli/test_fetch.py::test_what_does_not_come_is_one_line",
        "budgets/test_commands.py::test_usage_errors_say_what_is_wrong",
        "cli/test_no_answer.py::test_streams_that_cannot_be_written",
        "program/test_as_json.py::test_reading_a_program_needs_neither_torch_nor_pydantic",
        "suite/test_suite.py::test_a_case_that_dies_is_a_record_and_the_next_one_runs",
        "suite/test_suite.py::test_a_case_that_runs_out_of_time_has_no_record",
        "suite/test_suite.py::test_a_changed_plan_is_run_again",
        "suite/test_suite.py::test_a_crash_is_not_hidden_by_an_older_record",
        "suite/test_suite.py::test_records_are_kept_and_failures_run_again",
        "tui/test_web.py::test_a_tab_has_an_app_that_ends_with_it",
        "tui/test_web.py::test_an_app_that_will_not_end_is_killed",
        "tui/test_web.py::test_an_app_ends_with_a_server_that_was_killed",
        "tui/test_web.py::test_no_more_apps_than_there_may_be",
        "tui/test_web.py::test_nonsense_from_a_page_ends_nothing",
        "tui/test_web.py::test_the_command_serves_the_planner_until_it_is_ended",
        "tui/test_web.py::test_the_session_ends_with_the_app",
    }
)
SAMPLED: dict[str, tuple[str, object]] = {
    "golden/test_golden.py": ("part", 0),
    "tui/test_fuzz.py": ("seed", None),
    "tui/test_screens.py": ("size", (80, 24)),
}
"""Long tests whose cases are alike, and the one case that a run of the unit tests looks at: a parameter and its value.

None stands for no case at all.
"""
LIBRARIES = ("torch", "transformers", "peft", "bitsandbytes", "galore_torch", "safetensors")
"""What is not there in a run of the unit tests, installed or not."""


def needs(path: str, function: str, code_names: frozenset[str], fixtures: frozenset[str]) -> set[str]:
    """What a test needs, as the markers that say so: `experiment` alone, `live` and `process`, or `unit` for nothing.

    path: of its file, from this folder. code_names: the names its code uses; a test that asks for a library by itself
    uses importorskip.
    """
    if _within(path, EXPERIMENTS):
        return {"experiment"}
    needed = set()
    if _within(path, LIVE) or "importorskip" in code_names:
        needed.add("live")
    if _within(path, PROCESSES) or fixtures & PROCESS_FIXTURES or f"{path}::{function}" in PROCESS_TESTS:
        needed.add("process")
    return needed or {"unit"}


def _within(path: str, places: tuple[str, ...]) -> bool:
    return any(path == place or path.startswith(f"{place}/") for place in places)


def _only_unit(config: pytest.Config) -> bool:
    return bool(config.option.markexpr.strip() == "unit")


def pytest_configure(config: pytest.Config) -> None:
    """A run of the unit tests alone is the same whether or not torch is installed: importing it fails."""
    if _only_unit(config):
        for name in LIBRARIES:
            assert name not in sys.modules, f"{name} was imported before any test was"
            sys.modules[name] = None  # type: ignore[assignment]


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Files that import torch are not even looked at in a run of the unit tests."""
    if _only_unit(config) and collection_path.is_relative_to(HERE):
        path = collection_path.relative_to(HERE).as_posix()
        if _within(path, LIVE + EXPERIMENTS):
            return True
    return None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Marks every test with what it needs, before pytest chooses among them by their marks."""
    for item in items:
        assert isinstance(item, pytest.Function)
        path = item.path.relative_to(HERE).as_posix()
        code: Any = getattr(item.function, "hypothesis", None)
        function = code.inner_test if code is not None else item.function
        names = frozenset(function.__code__.co_names)
        for marker in needs(path, item.originalname, names, frozenset(item.fixturenames)):
            item.add_marker(marker)
    if _only_unit(config):
        kept = [item for item in items if not _is_one_more_of_many(item)]
        config.hook.pytest_deselected(items=[item for item in items if item not in kept])
        items[:] = kept


def _is_one_more_of_many(item: pytest.Item) -> bool:
    """Whether it repeats the first case of its test on other data."""
    if not isinstance(item, pytest.Function):
        return False
    case = SAMPLED.get(item.path.relative_to(HERE).as_posix())
    return case is not None and case[0] in item.fixturenames and item.callspec.params[case[0]] != case[1]


@pytest.fixture(autouse=True)
def _as_it_is_marked(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A unit test that starts a process fails: whoever runs the unit tests waits for none."""

    def refuse(*_: object, **__: object) -> NoReturn:
        raise AssertionError("a unit test starts a process: say in tests/conftest.py that it does")

    if request.node.get_closest_marker("unit") is not None:
        monkeypatch.setattr(subprocess, "Popen", refuse)
        monkeypatch.setattr(BaseProcess, "start", refuse)


@pytest.fixture(autouse=True)
def as_at_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not as in a build, which the tests may well run in: memplanner is stricter with files there."""
    monkeypatch.delenv("CI", raising=False)


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    """The sample repository, locked and committed."""
    return sample(tmp_path)
