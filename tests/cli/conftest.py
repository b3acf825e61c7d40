"""Commands run in an empty directory, without colour, 80 columns wide."""

from collections.abc import Callable
from pathlib import Path

import pytest

from memplanner.cli.main import main
from tests.fakes import install

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """run("check", "--gpu", "x") -> (exit code, stdout, stderr), over the fake predict."""
    install(monkeypatch)
    monkeypatch.chdir(tmp_path)
    for name in ("COLUMNS", "FORCE_COLOR", "COLORTERM"):
        monkeypatch.delenv(name, raising=False)

    def _run(*words: str) -> tuple[int, str, str]:
        code = main(words)
        out, err = capsys.readouterr()
        return code, out, err

    return _run
