"""Fixtures that several folders of tests share."""

from pathlib import Path

import pytest

from tests.repository import Repository, sample

collect_ignore = ["sample_repository"]  # run by tests, in pytest runs of its own


@pytest.fixture(autouse=True)
def as_at_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not as in a build, which the tests may well run in: memplanner is stricter with files there."""
    monkeypatch.delenv("CI", raising=False)


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    """The sample repository, locked and committed."""
    return sample(tmp_path)
