"""Every example in docs/ci.md is run on the sample repository."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.repository import SAMPLE, Repository, run_in

TOP = Path(__file__).parents[2]
TEXT = (TOP / "docs" / "ci.md").read_text(encoding="utf-8")
BLOCKS = [(kind.strip(), body) for kind, body in re.findall(r"^```(\S.*?)\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)]


def bodies(wanted: str) -> list[str]:
    return [body for language, body in BLOCKS if language == wanted]


def document(kind: str) -> Any:
    (body,) = bodies(kind)
    return yaml.safe_load(body)


def test_every_example_is_of_a_kind_that_is_run() -> None:
    ran = {
        "toml",
        "console",
        "console rank-256",
        "console refused",
        "yaml github-workflow",
        "yaml gitlab",
        "yaml pre-commit",
        "python",
    }
    assert {kind for kind, _ in BLOCKS} == ran


def test_the_plan_file_is_the_samples() -> None:
    assert bodies("toml") == [(SAMPLE / "memplanner.toml").read_text(encoding="utf-8")]


@dataclass(frozen=True)
class Console:
    """Runs the commands of a console block and holds what they print against what it shows."""

    monkeypatch: pytest.MonkeyPatch
    capsys: pytest.CaptureFixture[str]

    def hold(self, root: Path, body: str, *, refused: bool = False) -> None:
        for part in re.split(r"^\$ ", body, flags=re.MULTILINE)[1:]:
            command, _, shown = part.partition("\n")
            words = shlex.split(command, comments=True)[1:]
            code, printed, errors = run_in(root, self.monkeypatch, self.capsys, *words)
            assert (code, printed) == (2, "") if refused else errors == ""
            rest = printed = errors if refused else printed
            for stretch in filter(str.strip, re.split("…\n?", shown)):
                assert stretch.strip("\n") in rest, printed
                rest = rest.partition(stretch.strip("\n"))[2]


@pytest.fixture
def console(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Console:
    return Console(monkeypatch, capsys)


@pytest.mark.parametrize("kind", ["console", "console rank-256"])
def test_commands(kind: str, repository: Repository, console: Console) -> None:
    if kind.endswith("rank-256"):
        repository.replace("rank = 128", "rank = 256")
    assert bodies(kind)
    for body in bodies(kind):
        console.hold(repository.root, body)


def test_a_config_that_is_refused(repository: Repository, console: Console) -> None:
    with (repository.root / "axolotl.yml").open("a", encoding="utf-8") as config:
        config.write("\ndeepspeed: zero2.json\nour_own_key: 3\n")
    (body,) = bodies("console refused")
    console.hold(repository.root, body, refused=True)


def test_the_readmes_example(repository: Repository, console: Console) -> None:
    readme = (TOP / "README.md").read_text(encoding="utf-8").partition("## Budgets in continuous integration")[2]
    plans, commands = (re.search(rf"```{kind}\n(.*?)```", readme, re.DOTALL) for kind in ("toml", "console"))
    assert plans is not None
    assert commands is not None
    repository.plans.write_text(plans[1], encoding="utf-8")
    assert repository.shell("memplanner lock").returncode == 0
    repository.replace("rank = 128", "rank = 256")
    console.hold(repository.root, "$ memplanner check" + commands[1].partition("$ memplanner check")[2])


def test_the_workflow_gives_the_action_inputs_that_it_has() -> None:
    (job,) = document("yaml github-workflow")["jobs"].values()
    (step,) = [step for step in job["steps"] if step["uses"].startswith("memplanner/memplanner@")]
    action = yaml.safe_load((TOP / "action.yml").read_text(encoding="utf-8"))
    assert set(step["with"]) <= set(action["inputs"])
    assert all("${{" not in step["run"] for step in action["runs"]["steps"])


def test_gitlab(repository: Repository) -> None:
    script = document("yaml gitlab")["memory-budgets"]["script"]
    assert script.pop(0) == "pip install memplanner"
    done = repository.shell("\n".join(script))
    assert (done.returncode, done.stderr) == (0, "")
    assert '<testsuites tests="2" failures="0"' in (repository.root / "memplanner.xml").read_text(encoding="utf-8")


def test_pre_commit(repository: Repository) -> None:
    (repo,) = document("yaml pre-commit")["repos"]
    (chosen,) = repo["hooks"]
    hooks = yaml.safe_load((TOP / ".pre-commit-hooks.yaml").read_text(encoding="utf-8"))
    (hook,) = [hook for hook in hooks if hook["id"] == chosen["id"]]
    for name in ("memplanner.toml", "memplanner.lock.json", "pyproject.toml"):
        assert re.search(hook["files"], name)
    done = repository.shell(shlex.join([*shlex.split(hook["entry"]), *chosen["args"]]))
    assert done.returncode == 0, done.stderr


def test_pytest(repository: Repository) -> None:
    marked, fixtures = bodies("python")
    assert (SAMPLE / "tests" / "test_memory.py").read_text(encoding="utf-8") == marked
    pytest.importorskip("torch")
    (repository.root / "tests" / "test_fixtures.py").write_text(fixtures, encoding="utf-8")
    done = repository.shell("python -m pytest -q -p no:cacheprovider tests")
    assert done.returncode == 0, done.stdout
    assert "4 passed" in done.stdout
