"""A copy of the sample repository, under git and locked, for tests of what runs in a build."""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from memplanner.cli.main import main

SAMPLE = Path(__file__).parent / "sample_repository"
QUIET = {"CI": "", "GITHUB_ACTIONS": "", "COLUMNS": "", "FORCE_COLOR": "", "COLORTERM": "", "PYTEST_ADDOPTS": ""}


@dataclass(frozen=True)
class Repository:
    """root: its top."""

    root: Path

    @property
    def plans(self) -> Path:
        """The plan file."""
        return self.root / "memplanner.toml"

    def replace(self, old: str, new: str) -> None:
        """Change the plan file."""
        text = self.plans.read_text(encoding="utf-8")
        assert old in text
        self.plans.write_text(text.replace(old, new), encoding="utf-8")

    def shell(self, script: str, **env: str) -> subprocess.CompletedProcess[str]:
        """Run a script with this interpreter's commands first on the path, as a build would."""
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        return subprocess.run(
            ["bash", "-eo", "pipefail", "-c", script],
            cwd=self.root,
            env={**os.environ, **QUIET, "PATH": path, **env},
            capture_output=True,
            text=True,
            check=False,
        )


def sample(folder: Path) -> Repository:
    """The sample, committed, with a lock of its plans."""
    root = folder / "repository"
    shutil.copytree(SAMPLE, root, ignore=shutil.ignore_patterns("__pycache__"))
    repository = Repository(root)
    done = repository.shell(
        "memplanner lock && git init -q && git add -A && "
        "git -c user.name=someone -c user.email=someone@example.com commit -qm 'Plans and their lock'"
    )
    assert done.returncode == 0, done.stderr
    return repository


def run_in(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str
) -> tuple[int, str, str]:
    """A command in this process: (exit code, stdout, stderr)."""
    monkeypatch.chdir(root)
    for name in QUIET:
        monkeypatch.delenv(name, raising=False)
    code = main(words)
    out, err = capsys.readouterr()
    return code, out, err
