"""Where there is no answer: one line, an exit code that is no verdict, and a document of the format asked for."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn
from xml.etree import ElementTree as ET

import pytest

from memplanner.cli import check
from memplanner.cli.main import COMMANDS, main
from tests.repository import run_in

Run = Callable[..., tuple[int, str, str]]
LONG, DIGITS = "x" * 5000, "1" * 5000


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """The whole program, in an empty directory."""
    return lambda *words: run_in(tmp_path, monkeypatch, capsys, *words)


def crash(*_: object) -> NoReturn:
    raise IndexError("list index\nout of \x1b[31mrange")


@pytest.fixture
def defective(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "run", crash)


@pytest.mark.usefixtures("defective")
def test_a_defect_is_no_verdict_and_can_be_reported(run: Run) -> None:
    code, out, err = run("check", "--gpu", "rtx4090")
    assert (code, out) == (70, "")
    (line,) = err.splitlines()
    assert line.startswith("memplanner: memplanner check: a defect of memplanner, and no answer: IndexError")
    assert line.endswith("(please report this line and the command at https://github.com/memplanner/memplanner/issues)")


@pytest.mark.usefixtures("defective")
@pytest.mark.parametrize("typed", [("--format", "{}"), ("--format={}",)])
def test_a_defect_is_said_in_the_document_too(run: Run, typed: tuple[str, ...]) -> None:
    def answer(form: str) -> str:
        code, out, _ = run("check", *(word.format(form) for word in typed))
        assert code == 70
        return out

    problems = json.loads(answer("json"))
    assert (problems["schema"], problems["exit_code"], len(problems["problems"])) == ("memplanner/problems/1", 70, 1)
    (error,) = ET.fromstring(answer("junit")).iter("error")
    assert error.get("type") == "SoftwareError"
    (invocation,) = json.loads(answer("sarif"))["runs"][0]["invocations"]
    assert (invocation["exitCode"], invocation["executionSuccessful"]) == (70, False)
    assert "a defect of its own" in answer("markdown")


@pytest.mark.parametrize(
    "words",
    [
        ("check", "--gpu", "nope", "--format", "json"),
        ("sweep", "--rank", "x", "--format", "json"),
        ("diff", "nope", "nope", "--format", "json"),
        ("validate", "nope", "--format=json"),
        ("check", "--bogus", "--format", "json"),
    ],
)
def test_a_usage_error_is_a_json_document_whatever_is_wrong(run: Run, words: tuple[str, ...]) -> None:
    code, out, err = run(*words)
    answer = json.loads(out)
    assert (code, answer["schema"], answer["exit_code"]) == (2, "memplanner/problems/1", 2)
    assert [sorted(problem) for problem in answer["problems"]] == [["hint", "key", "message", "where"]] * len(
        err.splitlines()
    )


@pytest.mark.parametrize("command", [name for name in COMMANDS if name not in ("tui", "profile")])
@pytest.mark.parametrize("words", [(LONG,), (f"--{LONG}",), ("--format", LONG), ("--plan", LONG), ("--from", LONG)])
def test_long_words_are_refused_in_a_short_line(run: Run, command: str, words: tuple[str, ...]) -> None:
    code, out, err = run(command, *words)
    assert (code, out) == (2, "")
    assert all(len(line) < 2000 for line in err.splitlines())


@pytest.mark.parametrize("flag", ["--rank", "--batch-size", "--budget", "--context", "--gpu", "--tolerance", "--plan"])
def test_long_numbers_are_refused_in_a_short_line(run: Run, flag: str) -> None:
    code, out, err = run("check", "--all", "--locked", flag, DIGITS)
    assert (code, out) == (2, "")
    assert all(len(line) < 2000 for line in err.splitlines())


@pytest.mark.parametrize("columns", [DIGITS, "²", "-1", "0", "9" * 30])
def test_columns_may_be_anything(monkeypatch: pytest.MonkeyPatch, columns: str) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    assert main(["gpus"]) == 0


def test_an_error_of_the_system_is_a_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def full(*_: object) -> NoReturn:
        raise OSError(28, "No space left on device", "somewhere")

    monkeypatch.setattr(check, "run", full)
    assert main(["check"]) == 2
    assert capsys.readouterr().err == "memplanner: somewhere: No space left on device\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
@pytest.mark.parametrize(
    ("redirected", "code"),
    [
        ("gpus >&-", 2),
        (">&-", 2),
        ("gpus >/dev/full", 2),
        ("gpus <&- >/dev/null", 0),
        ("<&- >/dev/null", 0),
        ("check --gpu nope 2>/dev/full", 2),
        ("check --gpu nope 2>&-", 2),
        ("check --gpu nope >&- 2>&-", 2),
        ("gpus >/dev/full 2>/dev/full", 2),
        ("check --budget 1MiB >/dev/full", 2),
        ("check --budget 1MiB >/dev/null 2>&-", 1),
        (f"gpus >/dev/null COLUMNS={DIGITS}", 0),
    ],
)
def test_streams_that_cannot_be_written(tmp_path: Path, redirected: str, code: int) -> None:
    words, _, columns = redirected.partition(" COLUMNS=")
    done = subprocess.run(
        ["sh", "-c", f'"$0" -m memplanner {words}', sys.executable],
        cwd=tmp_path,
        env={**os.environ, "COLUMNS": columns},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) == (code == 2 and "2>" not in words)
    assert done.stdout == ""
