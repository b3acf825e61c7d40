"""A rank raised from 128 to 256 turns a build red, a larger budget green again: by command, by pytest, by action."""

import socket
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.repository import Repository, run_in

TOP = Path(__file__).parents[2]
SAYS_WHY = "optimizer state +288.0 MiB: method.rank 128 → 256"


def by_command(repository: Repository) -> tuple[int, str]:
    done = repository.shell("memplanner check --all --locked")
    return done.returncode, done.stdout + done.stderr


def by_pytest(repository: Repository) -> tuple[int, str]:
    done = repository.shell("python -m pytest -q -p no:cacheprovider tests")
    return done.returncode, done.stdout + done.stderr


def by_action(repository: Repository, locked: str = "true") -> tuple[int, str]:
    """The action's own script, with its inputs as GitHub gives them."""
    action = yaml.safe_load((TOP / "action.yml").read_text(encoding="utf-8"))
    step = next(step for step in action["runs"]["steps"] if step["name"] == "Check")
    given = {f"${{{{ inputs.{name} }}}}": str(value["default"]) for name, value in action["inputs"].items()}
    given["${{ inputs.locked }}"] = locked
    env = {name: given.get(value, value) for name, value in step["env"].items()}
    summary = repository.root.parent / "summary.md"
    summary.write_text("", encoding="utf-8")
    env |= {"GITHUB_ACTIONS": "true", "GITHUB_STEP_SUMMARY": str(summary), "SARIF": str(summary.with_name("log.sarif"))}
    kept = summary.with_name("kept")
    kept.write_text("kept", encoding="utf-8")
    summary.with_name("log.sarif").unlink(missing_ok=True)
    summary.with_name("log.sarif").symlink_to(kept)
    done = repository.shell(step["run"], **env)
    assert kept.read_text(encoding="utf-8") == "kept", "nothing is written through a link"
    if done.returncode == 2:
        return done.returncode, done.stdout + done.stderr
    page = summary.read_text(encoding="utf-8")
    assert page.startswith("**"), page
    assert '"version": "2.1.0"' in summary.with_name("log.sarif").read_text(encoding="utf-8")
    if done.returncode:
        assert "::error file=memplanner.toml,line=10,title=Memory budget%3A pretrain is " in done.stdout
        assert SAYS_WHY.replace("+", "\\+") in page
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("build", [by_command, by_pytest, by_action])
def test_a_raised_rank_fails_until_budget_and_lock_allow_it(
    build: Callable[[Repository], tuple[int, str]], repository: Repository
) -> None:
    code, output = build(repository)
    assert code == 0, output
    repository.replace("rank = 128", "rank = 256")
    code, output = build(repository)
    assert code == 1, output
    assert SAYS_WHY in output
    assert "of 10.00 GiB budget on rtx3060" in output
    repository.replace('budget = "10GiB"', 'budget = "11GiB"')
    code, output = build(repository)
    assert code == 1, output  # within its budget now, but more than was agreed to
    assert SAYS_WHY in output
    assert repository.shell("memplanner lock").returncode == 0
    code, output = build(repository)
    assert code == 0, output


def test_the_action_reads_its_input_locked(repository: Repository) -> None:
    assert repository.shell("rm memplanner.lock.json").returncode == 0
    assert by_action(repository, "false")[0] == by_action(repository, "False")[0] == 0
    for locked in ("True", "true"):
        code, out = by_action(repository, locked)
        assert code == 2
        assert "memplanner.lock.json: no such file" in out
    code, out = by_action(repository, "yes")
    assert code == 2
    assert "the input locked is neither true nor false" in out


def test_the_action_imports_nothing_from_the_repository() -> None:
    action = yaml.safe_load((TOP / "action.yml").read_text(encoding="utf-8"))
    assert all(step["env"]["PYTHONSAFEPATH"] == "1" for step in action["runs"]["steps"])


def test_nothing_connects_anywhere(
    repository: Repository, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a connection")

    for name in ("socket", "create_connection", "getaddrinfo"):
        monkeypatch.setattr(socket, name, refuse)
    for words in (
        ("check", "--all", "--locked"),
        ("check", "--from", "axolotl.yml"),
        ("diff", "memplanner.lock.json", "memplanner.toml"),
        ("lock",),
    ):
        code, _, errors = run_in(repository.root, monkeypatch, capsys, *words)
        assert (code, errors) == (0, "")
