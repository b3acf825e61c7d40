"""In continuous integration no file's path and no link leads out of the repository, whatever command opens it.

Every argument that is free text is listed here, so that a new command or argument fails until somebody has said whether
it names a file, and what then happens to one that lies outside.
"""

import argparse
import importlib
import json
from pathlib import Path
from typing import NamedTuple, Protocol

import pytest

from memplanner.cli.main import COMMANDS
from memplanner.plan.flags import OPTIONS
from tests.repository import run_in

OUTSIDE = "../outside/config.json"
CONFIG = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "vocab_size": 300,
}
RECORD = {
    "schema": "memplanner/measurement/1",
    "id": "record",
    "backend": "fake",
    "date": "2026-01-01T00:00:00+00:00",
    "plan": {"model": OUTSIDE},
    "config": None,
    "environment": {"memplanner": "0", "python": "3.11.0", "platform": "Linux x86_64"},
    "outcome": {"status": "completed"},
    "phases": [{"name": "forward", "peak_bytes": 1, "end_bytes": 1}],
}
FILES = {
    "config.json": json.dumps(CONFIG),
    "plan.toml": f'model = "{OUTSIDE}"\nmethod = "lora"\n',
    "plans.toml": f'[plans.a]\nmodel = "{OUTSIDE}"\n',
    "record.json": json.dumps(RECORD),
    "suite.toml": f'[plan]\nmodel = "{OUTSIDE}"\n[[group]]\nname = "a"\n',
    "axolotl.yml": f"base_model: {OUTSIDE}\nadapter: lora\nlora_r: 8\n",
    "published.json": '{"rows": []}',
}
"""What lies in the repository. Where it may name a path, it names one that leads out."""


class Case(NamedTuple):
    """file: one of FILES that the argument can name, and words: the command, with {} for it. names: whether the file
    names a path itself, which leads out.
    """

    file: str
    words: str
    names: bool = True


def _plan_cases(command: str) -> dict[tuple[str, str], Case]:
    """Of the three arguments that every command on a plan has."""
    return {
        (command, "model"): Case("config.json", f"{command} {{}} --method lora --gpu 24GiB", names=False),
        (command, "plan"): Case("plan.toml", f"{command} --plan {{}} --gpu 24GiB"),
        (command, "configs"): Case("axolotl.yml", f"{command} --from {{}} --gpu 24GiB"),
    }


CASES: dict[tuple[str, str], Case] = {
    **_plan_cases("check"),
    **_plan_cases("explain"),
    **_plan_cases("fit"),
    ("fit", "evidence"): Case("record.json", "fit llama-60m --method lora --gpu 24GiB --evidence {}", names=False),
    **_plan_cases("compare"),
    **_plan_cases("sweep"),
    ("lock", "plan"): Case("plans.toml", "lock --plan {}"),
    ("diff", "before"): Case("plan.toml", "diff {} llama-7b-gradnormlorp-rtx4090"),
    ("diff", "after"): Case("plan.toml", "diff llama-7b-gradnormlorp-rtx4090 {}"),
    ("profile", "plans"): Case("plan.toml", "profile {} --device fake"),
    ("profile", "suite"): Case("suite.toml", "profile --device fake --suite {} --out records"),
    ("validate", "records"): Case("record.json", "validate {}"),
    ("validate", "published"): Case("published.json", "validate --published {}", names=False),
    ("record", "model"): Case("config.json", "record {} --to out", names=False),
    ("tui", "model"): Case("config.json", "tui {}", names=False),
    ("tui", "plan"): Case("plan.toml", "tui --plan {}"),
}
FOLDERS = {("fetch", "to"), ("profile", "out"), ("record", "to"), ("tui", "records")}
"""Written to: tests/files/test_write.py and tests/suite hold what happens there."""
NO_FILES = {
    *((command, "ignored") for command in ("check", "explain", "fit", "compare", "sweep")),
    ("check", "tolerance"),
    ("compare", "methods"),
    ("fetch", "model"),
    ("models", "word"),
    ("profile", "entry"),
    ("profile", "time_limit"),
    ("sweep", "both"),
}


def _free_text(command: str) -> set[tuple[str, str]]:
    """The command's arguments that take any text, those apart that are the plan's fields."""
    parser = argparse.ArgumentParser(add_help=False)
    importlib.import_module(f"memplanner.cli.{command}").configure(parser, described=False)
    fields = {option.dest for option in OPTIONS}
    return {
        (command, action.dest)
        for action in parser._actions
        if action.nargs != 0 and action.choices is None and action.type is None and action.dest not in fields
    }


def test_every_argument_that_can_name_a_file_is_listed() -> None:
    there = {argument for command in COMMANDS for argument in _free_text(command)}
    assert there == {*CASES, *FOLDERS, *NO_FILES}


class Ask(Protocol):
    def __call__(self, *words: str) -> tuple[int, str, str]: ...


@pytest.fixture
def ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Ask:
    """Commands in a build, in a repository beside a folder that is not of it."""
    repository, outside = tmp_path / "repository", tmp_path / "outside"
    (repository / ".git").mkdir(parents=True)
    outside.mkdir()
    for name, text in FILES.items():
        (repository / name).write_text(text, encoding="utf-8")
        (outside / name).write_text(text.replace(OUTSIDE, "config.json"), encoding="utf-8")
        (repository / f"link-{name}").symlink_to(outside / name)
    (repository / "folder").symlink_to(outside)

    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr("tests.repository.QUIET", {})
        monkeypatch.setenv("CI", "true")
        return run_in(repository, monkeypatch, capsys, *words)

    return run


ASKED = [argument for argument in CASES if argument[0] != "tui"]
"""The interface needs a terminal; what it opens, it opens as the other commands do."""
QUICK = [argument for argument in ASKED if argument[0] not in ("profile", "record")]


@pytest.mark.parametrize("where", ["link-{}", "folder/{}"])
@pytest.mark.parametrize("argument", ASKED, ids="-".join)
def test_no_link_leads_out(argument: tuple[str, str], where: str, ask: Ask) -> None:
    case = CASES[argument]
    code, out, err = ask(*case.words.format(where.format(case.file)).split())
    assert (code, out) == (2, "")
    assert "leads out of the repository" in err


@pytest.mark.parametrize("argument", QUICK, ids="-".join)
def test_what_is_typed_may_lie_anywhere(argument: tuple[str, str], ask: Ask) -> None:
    case = CASES[argument]
    _, out, err = ask(*case.words.format(f"../outside/{case.file}").split())
    assert "leads out of the repository" not in out + err


def test_no_answer_is_written_outside(ask: Ask, tmp_path: Path) -> None:
    outside = {path.name for path in (tmp_path / "outside").iterdir()}
    for name in ("link-plan.toml", "folder/new.json"):
        code, _, err = ask("check", "llama-60m", "--gpu", "24GiB", "--format", "json", "--output", name)
        assert code == 2
        assert "leads out of the repository" in err
    assert {path.name for path in (tmp_path / "outside").iterdir()} == outside
    assert ask("check", "llama-60m", "--gpu", "24GiB", "--output", "../outside/new.txt") == (0, "", "")


@pytest.mark.parametrize("argument", [argument for argument in ASKED if CASES[argument].names], ids="-".join)
def test_no_path_in_a_file_leads_out(argument: tuple[str, str], ask: Ask) -> None:
    case = CASES[argument]
    code, out, err = ask(*case.words.format(case.file).split())
    if argument[0] == "validate":  # every record is compared for itself; this one is left out, with the reason
        assert (code, "leads out of the repository" in out) == (1, True), (out, err)
        return
    assert (code, out) == (2, ""), err
    assert "leads out of the repository" in err


def test_why_there_is_no_answer_goes_into_the_file_too(ask: Ask, tmp_path: Path) -> None:
    code, out, err = ask("check", "no-such-model", "--format", "json", "--output", "answer.json")
    assert (code, out) == (2, "")
    assert "no model or file is called 'no-such-model'" in err
    assert json.loads((tmp_path / "repository" / "answer.json").read_text(encoding="utf-8"))["exit_code"] == 2
