"""`check --all`, `lock` and `diff`, as they are typed."""

import json
import os
import tempfile
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path

import pytest

from memplanner.budgets.lock import lock_text, read_lock
from memplanner.errors import UserError
from tests.repository import QUIET, Repository, run_in

Ask = Callable[..., tuple[int, str, str]]
PLANS = """
device = "rtx4090"

[plans.a]
model = "llama-60m"

[plans.b]
model = "llama-60m"
budget = "1GiB"
precision = "fp32"
"""


@pytest.fixture
def ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Ask:
    (tmp_path / "memplanner.toml").write_text(PLANS, encoding="utf-8")
    return lambda *words: run_in(tmp_path, monkeypatch, capsys, *words)


def change(root: Path, old: str, new: str) -> None:
    path = root / "memplanner.toml"
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def test_the_table_and_the_exit_code(ask: Ask) -> None:
    code, out, err = ask("check", "--all")
    assert (code, err) == (1, "")
    assert out.splitlines()[0] == "1 OF 2 PLANS FAILS"
    assert "b: over budget" in out
    assert "DOES NOT FIT: " in out
    assert "at the peak, in " in out
    assert ask("check", "--all", "--budget", "90%")[0] == 0


def test_a_lock_is_the_same_for_the_same_plans_and_reads_back(ask: Ask, tmp_path: Path) -> None:
    path = tmp_path / "memplanner.lock.json"
    code, out, _ = ask("lock")
    assert code == 0
    assert out.startswith("Locked in memplanner.lock.json: a ")
    text = path.read_text(encoding="utf-8")
    ask("lock")
    assert path.read_text(encoding="utf-8") == text == lock_text(read_lock(path))
    locked = json.loads(text)
    assert list(locked) == ["schema", "memplanner", "plans"]
    assert sum(read_lock(path).plans["a"].parts.values()) == locked["plans"]["a"]["device_bytes"]


def test_a_lock_has_the_same_bytes_everywhere_and_is_whole_or_not_there(
    ask: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "memplanner.lock.json"
    monkeypatch.setattr(os, "linesep", "\r\n")
    ask("lock")
    kept = path.read_bytes()
    assert kept.endswith(b"}\n")
    assert b"\r" not in kept
    assert kept.isascii()

    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    change(tmp_path, "1GiB", "2GiB")
    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", fail)
        patched.setattr(Path, "replace", fail)
        code, out, err = ask("lock")
    assert (code, out) == (2, "")
    assert err == "memplanner: memplanner.lock.json: cannot be written: No space left on device\n"
    assert path.read_bytes() == kept
    assert sorted(os.listdir(tmp_path)) == ["memplanner.lock.json", "memplanner.toml"]


def test_a_lock_that_could_not_be_read_is_not_written(
    ask: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("memplanner.files.parse.MAX_FILE_BYTES", 1000)
    assert ask("lock")[2] == (
        "memplanner: memplanner.lock.json: would be larger than 1 MiB, with 2 plans, and could not be read again\n"
    )
    assert os.listdir(tmp_path) == ["memplanner.toml"]


def test_locked(ask: Ask, tmp_path: Path) -> None:
    assert "memplanner.lock.json: no such file" in ask("check", "--all", "--locked")[2]
    ask("lock")
    assert ask("check", "--all", "--locked", "--budget", "90%")[0] == 0
    change(tmp_path, "[plans.b]", "step = { batch_size = 2 }\n\n[plans.c]\nmodel = 'llama-60m'\n\n[plans.b]")
    code, out, _ = ask("check", "--all", "--locked", "--budget", "90%")
    assert code == 1
    assert "grown beyond 1.0% since the lock: " in out
    assert "activations +" in out
    assert ": step.batch_size 1 → 2" in out
    assert "c: not locked" in out
    assert ask("check", "--all", "--budget", "90%")[0] == 0, "without --locked, growth within the budget passes"
    code, out, _ = ask("check", "--all", "--locked", "--tolerance", "90%", "--budget", "90%")
    assert "a: grown" not in out


def test_a_tight_fit_is_called_tight(ask: Ask, tmp_path: Path) -> None:
    ask("lock")
    size = read_lock(tmp_path / "memplanner.lock.json").plans["a"].device_bytes
    code, out, _ = ask("check", "--all", "--strict", "--budget", f"{size}B", "--format", "github")
    assert code == 1
    assert "::error file=memplanner.toml,line=4,title=Memory budget%3A a is tight::TIGHT" in out


SQUEEZED_PLAN = """
device = "rtx4090"

[plans.a]
model = "llama-3.1-8b"
method = "lora"
step = { batch_size = 2, seq_len = 2048, checkpointing = "full" }
"""
NOT_ADVISABLE = "returns unused segments to the device"


def test_a_squeezed_fit_is_called_so_in_every_format(ask: Ask, tmp_path: Path) -> None:
    """It passes, and no answer says no more of it than that it is tight."""
    (tmp_path / "memplanner.toml").write_text(SQUEEZED_PLAN, encoding="utf-8")
    answers = {
        name: ask("check", "--all", "--format", name) for name in ("text", "github", "markdown", "junit", "sarif")
    }
    assert {code for code, _, _ in answers.values()} == {0}
    said = {name: " ".join(out.split()) for name, (_, out, _) in answers.items()}
    assert "a squeezed" in said["text"]
    assert "a: it fits only because the caching allocator" in said["text"]
    assert "| a | squeezed |" in said["markdown"]
    assert "title=Memory budget%3A a is squeezed::TIGHT, squeezed: wants " in said["github"]
    assert all(NOT_ADVISABLE in said[name] for name in ("text", "github", "markdown", "sarif"))
    assert not any("within the error margin" in text for name, text in said.items() if name != "sarif")
    case = ET.fromstring(answers["junit"][1]).find(".//property[@name='verdict']")
    assert case is not None
    assert case.get("value") == "squeezed"
    (result,) = json.loads(answers["sarif"][1])["runs"][0]["results"]
    assert (result["ruleId"], result["level"]) == ("squeezed", "warning")
    code, out, _ = ask("check", "--all", "--strict")
    assert code == 1
    assert "a: squeezed" in out
    assert NOT_ADVISABLE in " ".join(out.split())


def test_one_squeezed_plan_as_markdown(ask: Ask, tmp_path: Path) -> None:
    (tmp_path / "memplanner.toml").write_text(SQUEEZED_PLAN, encoding="utf-8")
    code, out, _ = ask("check", "--plan", "a", "--format", "markdown")
    assert code == 0
    assert "| wanted | " in out
    assert "Any one of these makes it fit without squeezing:" in out
    assert NOT_ADVISABLE in out
    assert "a run elsewhere may need up to " in out


def test_a_lowered_budget_is_named(ask: Ask, tmp_path: Path) -> None:
    change(tmp_path, "[plans.b]", "[plans.c]\nbudget = '9GiB'\nmodel = 'llama-60m'\n\n[plans.b]")
    ask("lock")
    change(tmp_path, "9GiB", "100MiB")
    out = ask("check", "--all", "--locked", "--format", "github")[1]
    assert "since the lock: budget 9GiB → 100MiB" in out
    assert "::error file=memplanner.toml,line=8,title=Memory budget%3A c is over budget::" in out
    assert "no byte moved by budget 9GiB → 100MiB" in ask("diff", "memplanner.lock.json", "memplanner.toml")[1]


def test_a_locked_plan_that_no_longer_exists_is_a_note(ask: Ask, tmp_path: Path) -> None:
    ask("lock")
    change(tmp_path, "[plans.b]", "[plans.other]")
    assert "in the lock, but no plan any more: b" in ask("check", "--all")[1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("check", "--locked"), "memplanner check: --locked requires --all"),
        (("check", "--tolerance", "3%"), "memplanner check: --tolerance requires --all"),
        (("check", "--all", "--tolerance", "3%"), "memplanner check: --tolerance requires --locked"),
        (("check", "--all", "--locked", "--tolerance", "3"), "--tolerance: '3' is not a share such as '95%'"),
        (("check", "llama-1b", "--all"), "--all: cannot be combined with MODEL: it checks named plans"),
        (("check", "--all", "--rank", "8x"), "--rank: '8x' is not a whole number"),
        (("check",), "memplanner.toml: holds several plans: a, b (name one with --plan, or check them all with --all)"),
        (("check", "--plan", "c"), "--plan: no file or plan is called 'c'"),
        (("check", "--all", "--plan", "nosuch.toml"), "--plan: no such file: 'nosuch.toml'"),
        (("lock", "--plan", "llama-7b-galore-c4"), "holds no named plans"),
        (("lock", "--plan", "a"), "--plan: 'a' is one plan, where all of a file's are wanted (leave it out)"),
        (("check", "--all", "--plan", "a"), "--plan: 'a' is one plan, where all of a file's are wanted"),
        (("diff", "a", "nosuch"), "memplanner diff: no file or plan is called 'nosuch'"),
        (("diff", "a", "b", "--tolerance", "x"), "--tolerance: 'x' is not a share such as '95%'"),
        (("diff", "--upload-pack=x:memplanner.toml", "a"), "the following arguments are required: B"),
        (("diff", "nosuch:memplanner.toml", "a"), "nosuch:memplanner.toml: git has no such file"),
        (("diff", "HEAD:/etc/passwd", "a"), "HEAD:/etc/passwd: is not a file, plan or REVISION:FILE"),
    ],
)
def test_usage_errors_say_what_is_wrong(ask: Ask, words: tuple[str, ...], message: str) -> None:
    code, out, err = ask(*words)
    assert (code, out) == (2, "")
    assert message in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "its schema is None, not 'memplanner/lock/1' (`memplanner lock` writes it anew)"),
        ("[", "not valid JSON"),
        ('{"schema": "memplanner/lock/1", "memplanner": "1", "plans": {"a": {}}}', "plans.a.verdict: is missing"),
        ('{"schema": "memplanner/lock/1", "memplanner": "1", "plans": {"::error::x": {}}}', "plans.::error::x.[key]"),
        ('{"schema": "memplanner/lock/1", "memplanner": 1, "plans": {}}', "memplanner: 1 is not text"),
    ],
)
def test_a_damaged_lock_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "memplanner.lock.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError) as caught:
        read_lock(path)
    assert message in str(caught.value)


def test_diff(ask: Ask, tmp_path: Path) -> None:
    code, out, err = ask("diff", "a", "b")
    assert (code, err) == (0, "")
    assert out.startswith("a → b: ")
    assert "parameters +110.8 MiB: precision bf16 → fp32" in out
    assert ask("diff", "a", "b", "--tolerance", "10%")[0] == 1
    assert ask("diff", "b", "a", "--tolerance", "10%")[0] == 0
    ask("lock")
    change(tmp_path, "[plans.b]", "precision = 'fp32'\n[plans.b]")
    answer = json.loads(ask("diff", "memplanner.lock.json", "memplanner.toml", "--format", "json")[1])
    assert answer["schema"] == "memplanner/diff/1"
    a, b = answer["plans"]
    assert a["changes"] == [{"key": "precision", "before": "bf16", "after": "fp32"}]
    assert sum(row["bytes"] for row in a["rows"]) == a["grown_bytes"] > 0 == b["grown_bytes"]


def test_revisions_bring_their_own_model_configs(
    repository: Repository, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = json.loads((Path(__file__).parents[2] / "profiles" / "models" / "llama-60m.json").read_text())
    config.pop("memplanner")
    plan = repository.root / "own.toml"
    plan.write_text('model = "model.json"\n', encoding="utf-8")
    (repository.root / "model.json").write_text(json.dumps(config), encoding="utf-8")
    commit = "git add -A && git -c user.name=x -c user.email=x@example.com commit -qm x"
    assert repository.shell(commit).returncode == 0
    (repository.root / "model.json").write_text(json.dumps(config | {"num_hidden_layers": 16}), encoding="utf-8")
    code, out, err = run_in(repository.root, monkeypatch, capsys, "diff", "HEAD:own.toml", "own.toml")
    assert (code, err) == (0, "")
    assert "parameters +" in out


def test_format_auto_is_github_on_actions_and_text_elsewhere(
    ask: Ask, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    from memplanner.cli.main import main

    assert "::" not in ask("check", "--all", "--format", "auto")[1]
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    assert "GITHUB_ACTIONS" in QUIET
    main(["check", "--all", "--format", "auto"])
    assert "\n::error file=memplanner.toml,line=7,title=Memory budget%3A b is over budget::" in capsys.readouterr().out


def test_no_output_is_a_workflow_command_on_actions(
    ask: Ask, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    from memplanner.cli.main import main

    ask("lock")
    path = tmp_path / "memplanner.lock.json"
    locked = json.loads(path.read_text(encoding="utf-8"))
    locked["plans"]["a"]["plan"]["model"] = "x " * 40 + "::error::forged ##[error]forged"
    for key in ("device_bytes", "reserved_bytes", "allocated_bytes"):
        locked["plans"]["a"][key] -= 512
    locked["plans"]["a"]["at_peak"]["parameters"] -= 512
    locked["plans"]["a"]["phases"] = {locked["plans"]["a"]["peak_phase"]: locked["plans"]["a"]["allocated_bytes"]}
    path.write_text(json.dumps(locked), encoding="utf-8")
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    for form in ("text", "json"):
        main(["diff", "memplanner.lock.json", "memplanner.toml", "--format", form])
        out = capsys.readouterr().out
        assert "forged" in out
        assert "##[" not in out
        assert not [line for line in out.splitlines() if line.lstrip().startswith("::")]


@pytest.mark.parametrize("form", ["github", "junit", "sarif"])
def test_one_plan_in_the_formats_for_builds(ask: Ask, form: str) -> None:
    code, out, err = ask("check", "llama-60m", "--gpu", "rtx4090", "--budget", "1MiB", "--format", form)
    assert (code, err) == (1, "")
    assert "llama-60m is over budget" in out


def test_a_revisions_files_stay_in_their_scratch_folder(
    repository: Repository, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Scratch folders inside a repository, where a path could lead back into it."""
    scratch = repository.root / "scratch"
    scratch.mkdir()
    target = repository.root / ".git" / "config"
    before = target.read_bytes()
    named = f"{repository.root}/link/config"
    forged = repository.root / named.removeprefix("/")
    forged.parent.mkdir(parents=True)
    forged.write_text("[core]\n\tfsmonitor = forged\n", encoding="utf-8")
    (repository.root / "link").symlink_to(".git")
    repository.plans.write_text(f'model = "{named}"\n', encoding="utf-8")
    commit = "git add -A -f && git -c user.name=x -c user.email=x@example.com commit -qm x"
    assert repository.shell(commit).returncode == 0
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    for name in (named, "../../link/config", "../../conftest.py"):
        repository.plans.write_text(f'model = "{name}"\n', encoding="utf-8")
        repository.shell(commit)
        code, _, _ = run_in(repository.root, monkeypatch, capsys, "diff", "HEAD:memplanner.toml", "memplanner.toml")
        assert code == 2
    assert target.read_bytes() == before
    assert not (repository.root / "conftest.py").exists()


def test_a_lock_is_not_written_through_a_link(ask: Ask, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("kept", encoding="utf-8")
    (tmp_path / "memplanner.lock.json").symlink_to(outside)
    code, _, err = ask("lock")
    assert (code, outside.read_text(encoding="utf-8")) == (2, "kept")
    assert "is a link, and nothing is written through one" in err


@pytest.mark.parametrize("name", ["memplanner.toml", "memplanner.lock.json"])
def test_neither_plans_nor_lock_are_read_through_a_link_out_of_the_repository(
    name: str, repository: Repository, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = repository.root / name
    outside = repository.root.parent / "outside"
    path.rename(outside)
    path.symlink_to(outside)
    code, out, err = run_in(repository.root, monkeypatch, capsys, "check", "--all", "--locked")
    assert (code, out) == (2, "")
    assert "leads out of the repository" in err


@pytest.mark.parametrize("size", [0, 10**400, 1 << 70])
def test_a_lock_with_an_impossible_size_is_refused(ask: Ask, tmp_path: Path, size: int) -> None:
    ask("lock")
    path = tmp_path / "memplanner.lock.json"
    locked = json.loads(path.read_text(encoding="utf-8"))
    locked["plans"]["a"]["device_bytes"] = size
    path.write_text(json.dumps(locked), encoding="utf-8")
    for words in (("check", "--all", "--locked"), ("diff", "memplanner.lock.json", "memplanner.toml")):
        code, out, err = ask(*words)
        assert (code, out) == (2, "")
        assert "device_bytes" in err


def test_a_plan_asked_for_by_name_is_not_read_from_outside_either(ask: Ask, tmp_path: Path) -> None:
    change(tmp_path, 'model = "llama-60m"\nbudget', 'model = "/etc/config.json"\nbudget')
    for words in (("check", "--plan", "b"), ("explain", "--plan", "b"), ("diff", "a", "b"), ("check", "--all")):
        code, out, err = ask(*words)
        assert (code, out) == (2, "")
        assert "leads out of the repository" in err


def test_in_a_build_no_plan_is_read_from_outside_the_repository(
    ask: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """At home, a file that holds a single plan may name a model anywhere."""
    source = Path(__file__).parents[2] / "profiles" / "models" / "llama-60m.json"
    outside = tmp_path / "llama.json"
    outside.write_text(source.read_text(encoding="utf-8"), encoding="utf-8")
    inner = tmp_path / "inner"
    inner.mkdir()
    (inner / "memplanner.toml").write_text('model = "../llama.json"\n', encoding="utf-8")
    for words in (("check",), ("check", "--plan", "memplanner.toml"), ("explain",)):
        assert run_in(inner, monkeypatch, capsys, *words)[0] == 0
        monkeypatch.setenv("CI", "true")
        code, out, err = main_in(monkeypatch, capsys, *words)
        assert (code, out) == (2, "")
        assert "memplanner.toml: model: '../llama.json' leads out of the repository" in err
    assert main_in(monkeypatch, capsys, "check", "../llama.json")[0] == 0, "what is typed is no file's to say"


def main_in(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """A command with the environment as it is."""
    from memplanner.cli.main import main

    code = main(words)
    return code, *capsys.readouterr()


@pytest.mark.parametrize("form", ["junit", "sarif", "markdown"])
def test_usage_errors_are_written_in_the_formats_for_builds(ask: Ask, tmp_path: Path, form: str) -> None:
    change(tmp_path, "precision", "precisoin")
    code, out, err = ask("check", "--all", "--format", form)
    problem = "memplanner.toml: plans.b: precisoin: unknown key (did you mean 'precision'?)"
    assert (code, err) == (2, f"memplanner: {problem}\n")
    if form == "junit":
        (case,) = ET.fromstring(out).iter("testcase")
        (error,) = case
        assert (error.tag, error.text) == ("error", problem)
    elif form == "sarif":
        (run,) = json.loads(out)["runs"]
        (invocation,) = run["invocations"]
        assert (invocation["executionSuccessful"], run["results"]) == (False, [])
        assert [notification["message"]["text"] for notification in invocation["toolConfigurationNotifications"]] == [
            problem
        ]
    else:
        assert out.startswith("**memplanner has no answer")
        assert "plans.b: precisoin: unknown key" in out


def test_diff_of_other_frameworks_configs(
    repository: Repository, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = repository.root / "axolotl.yml"
    text = config.read_text(encoding="utf-8")
    (rank,) = (line for line in text.splitlines() if line.startswith("lora_r:"))
    config.write_text(text.replace(rank, "lora_r: 512"), encoding="utf-8")
    code, out, err = run_in(repository.root, monkeypatch, capsys, "diff", "HEAD:axolotl.yml", "axolotl.yml")
    assert (code, err) == (0, "")
    assert f"method.rank {rank.split()[1]} → 512" in out
    code, out, err = run_in(
        repository.root, monkeypatch, capsys, "check", "--all", "--locked", "--budget", "90%", "--format", "github"
    )
    assert code == 1
    number = text.splitlines().index(rank) + 1
    assert f"::error file=axolotl.yml,line={number},title=Memory budget%3A finetune is grown::" in out


def test_errors_of_a_revision_name_the_revision(
    repository: Repository, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    repository.replace("rank = 128", "rnak = 128")
    assert repository.shell("git -c user.name=x -c user.email=x@example.com commit -qam x").returncode == 0
    repository.replace("rnak = 128", "rank = 128")
    code, out, err = run_in(repository.root, monkeypatch, capsys, "diff", "HEAD:memplanner.toml", "memplanner.toml")
    assert (code, out) == (2, "")
    assert err.startswith("memplanner: HEAD:memplanner.toml: plans.pretrain: method.rnak: unknown key")


def test_on_github_a_usage_error_is_an_annotation(
    ask: Ask, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    from memplanner.cli.main import main

    change(tmp_path, 'model = "llama-60m"\nbudget', 'model = "##[error]x\\n::error::y"\nbudget')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    assert main(["check", "--all", "--format", "github"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    assert line.startswith("::error title=memplanner::memplanner: memplanner.toml: plans.b: ")
    assert "##[" not in line


def test_markdown_of_one_plan_is_no_workflow_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from memplanner.cli.main import main

    folder = tmp_path / "::error::forged"
    folder.mkdir()
    source = Path(__file__).parents[2] / "profiles" / "models" / "llama-60m.json"
    (folder / "config.json").write_text(source.read_text(encoding="utf-8"), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    main(["check", "::error::forged", "--gpu", "rtx4090", "--format", "markdown"])
    lines = capsys.readouterr().out.splitlines()
    assert any("forged" in line for line in lines)
    assert not [line for line in lines if line.lstrip().startswith("::")]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
def test_an_answer_that_cannot_be_written_is_one_line(repository: Repository) -> None:
    done = repository.shell("memplanner check --all > /dev/full")
    assert done.returncode == 2
    assert done.stderr == "memplanner: stdout: cannot be written: No space left on device\n"


@pytest.mark.parametrize(
    ("figures", "said"),
    [
        (
            {"device_bytes": 1},
            "the figures do not agree (device_bytes is reserved + context): they were changed by hand",
        ),
        ({"device_bytes": 1, "reserved_bytes": 1}, "plans.a: has other figures than its plan needs"),
        ({"device_bytes": 1, "context_bytes": 1}, "plans.a: has other figures than its plan needs"),
        ({"allocated_bytes": 1}, "the figures do not agree (allocated_bytes is the highest of phases)"),
        ({"limit_bytes": 1}, "plans.a: has other figures than its plan needs"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_a_lock_with_a_figure_raised_by_hand_is_found(
    figures: dict[str, int], said: str, ask: Ask, tmp_path: Path
) -> None:
    ask("lock")
    path = tmp_path / "memplanner.lock.json"
    lock = json.loads(path.read_text(encoding="utf-8"))
    for key, more in figures.items():
        lock["plans"]["a"][key] += more
    path.write_text(json.dumps(lock), encoding="utf-8")
    for words in (("check", "--all", "--locked"), ("check", "--all")):
        code, out, err = ask(*words)
        assert (code, out) == (2, "")
        assert said in err


def test_a_lock_of_a_plan_that_has_changed_since_is_held_to_its_own_plan(ask: Ask, tmp_path: Path) -> None:
    ask("lock")
    change(tmp_path, 'precision = "fp32"', 'precision = "bf16"')
    assert ask("check", "--all", "--locked")[0] == 1, "b is over its budget still, and within its lock"
    path = tmp_path / "memplanner.lock.json"
    lock = json.loads(path.read_text(encoding="utf-8"))
    for key in ("device_bytes", "reserved_bytes"):
        lock["plans"]["b"][key] += 1 << 20
    path.write_text(json.dumps(lock), encoding="utf-8")
    code, _, err = ask("check", "--all", "--locked")
    assert (code, err.count("plans.b: has other figures than its plan needs")) == (2, 1)
