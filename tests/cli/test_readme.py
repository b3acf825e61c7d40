"""What the README shows is what the commands print; "…" on a line of its own stands for lines left out."""

import re
import shlex
from pathlib import Path

import pytest

from memplanner.cli.main import main

ROOT = Path(__file__).parents[2]
QUICK = ("check", "compare", "explain", "fit", "validate")


def examples() -> list[tuple[str, str]]:
    """(command, what the README says it prints) of every console block that can be run in a test."""
    examples = []
    for block in re.findall(r"```console\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, shown = part.partition("\n")
            if shown and shlex.split(command)[1] in QUICK and "--all" not in command:  # tests/ci has a repository
                examples.append((command, shown))
    return examples


@pytest.mark.parametrize(("command", "shown"), examples(), ids=lambda text: text.partition("\n")[0][:60])
def test_output_is_as_shown(
    command: str, shown: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    for name in ("COLUMNS", "FORCE_COLOR", "COLORTERM"):
        monkeypatch.delenv(name, raising=False)
    main(shlex.split(command, comments=True)[1:])
    printed = capsys.readouterr().out
    rest = printed
    for stretch in filter(None, shown.split("…\n")):
        assert stretch in rest, printed
        rest = rest.partition(stretch)[2]


def test_there_are_examples() -> None:
    assert len(examples()) >= 4
