"""A rank raised from 128 to 256 turns a build red, a larger budget green again: by command, by pytest, by action."""

import re
import socket
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

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
    done = repository.shell(step["run"], **env)
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


def test_the_action_writes_nothing_through_a_link(repository: Repository) -> None:
    outside = repository.root.parent / "outside"
    outside.mkdir()
    (outside / "log.sarif").write_text("kept", encoding="utf-8")
    (repository.root / "results").symlink_to(outside)
    (repository.root / "log.sarif").symlink_to(outside / "log.sarif")
    action = yaml.safe_load((TOP / "action.yml").read_text(encoding="utf-8"))
    step = next(step for step in action["runs"]["steps"] if step["name"] == "Check")
    for name in ("results/log.sarif", "results/new.sarif", "log.sarif"):
        env = {"CI": "true", "GITHUB_STEP_SUMMARY": str(outside.with_name("summary.md")), "SARIF": name}
        done = repository.shell(step["run"], **env)
        assert done.returncode == 2
        assert f"{name}: leads out of the repository" in done.stderr
    assert [path.name for path in outside.iterdir()] == ["log.sarif"]
    assert (outside / "log.sarif").read_text(encoding="utf-8") == "kept"


def test_the_action_installs_pinned_dependencies() -> None:
    """Whatever the core and its build need is in the list, with hashes, and of a version that pyproject.toml allows."""
    project = tomllib.loads((TOP / "pyproject.toml").read_text(encoding="utf-8"))
    wanted = [Requirement(text) for text in (*project["project"]["dependencies"], *project["build-system"]["requires"])]
    listed = (TOP / "requirements-action.txt").read_text(encoding="utf-8").replace("\\\n", " ")
    pinned = {}
    for line in filter(lambda line: line and not line.startswith("#"), listed.splitlines()):
        found = re.fullmatch(r"([\w-]+)==(\S+)(?: ;[^-]*)?(?: +--hash=sha256:[0-9a-f]{64})+", line)
        assert found, line
        pinned[found[1]] = found[2]
    for requirement in wanted:
        assert requirement.specifier.contains(pinned[requirement.name.lower()])
    action = yaml.safe_load((TOP / "action.yml").read_text(encoding="utf-8"))
    install = action["runs"]["steps"][0]["run"]
    assert "--require-hashes" in install
    assert install.count("--no-deps --no-build-isolation") == 1
