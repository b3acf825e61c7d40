"""Plan files, locks and configs that a pull request made to hurt: refused in a line, in no time, and nothing leaks."""

import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from memplanner.cli.main import main
from tests.repository import Repository, run_in

Ask = Callable[..., tuple[int, str, str]]
MODEL = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "vocab_size": 64,
}


@pytest.fixture(autouse=True)
def at_most_twenty_seconds() -> Iterator[None]:
    def stop(number: int, frame: FrameType | None) -> None:
        raise TimeoutError("that took too long")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(20)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Ask:
    """A command in an empty repository."""
    (tmp_path / ".git").mkdir()
    return lambda *words: run_in(tmp_path, monkeypatch, capsys, *words)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a." * 80_000 + "a = 1", "has more than 256 dots on line 1: not a file of settings"),
        ("[plans.x]\nmodel" + ".a" * 200 + " = 1", "has more than 64 levels of tables"),
        ("[plans.x]\nmodel = " + "[" * 70 + "]" * 70, "has more than 64 levels of tables"),
        ("[plans.x]\nprecision = 0x" + "f" * 5000, "holds an integer of 20000 bits: no setting is that large"),
        ("[plans.x]\nbudget = [0x" + "f" * 5000 + "]", "holds an integer of 20000 bits"),
        ("[plans.x.method]\nkind = 0x" + "f" * 5000, "holds an integer of 20000 bits"),
        ("".join(f"[plans.p{n}]\n" for n in range(257)), "257 plans are more than 256 in one file"),
        ("[plans.x]\nmodel = ''", "plans.x: model: is empty"),
        ("[plans.x]\nprecision = 1979-05-27", "1979-05-27 is not a known precision"),
        ("[plans.x]\ndevice = '0GiB'", "'0GiB' is no memory at all"),
        ("[plans.x]\nfrom = ''", "plans.x: from: '' is not a file"),
        ("[plans.x]\nfrom = 'nosuch.yml'", "plans.x: from: 'nosuch.yml' is not a file"),
        (
            "[plans.x.method]\nkind = 'lora'\n[plans.x.method.rank_pattern]\n"
            + "".join(f"m{n} = 1\n" for n in range(5000)),
            "method.rank_pattern: has 5000 entries, more than 4096",
        ),
    ],
)
def test_a_hostile_plan_file_is_refused_in_one_line(ask: Ask, tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "memplanner.toml").write_text(text, encoding="utf-8")
    code, out, err = ask("check", "--all")
    assert (code, out) == (2, "")
    (line,) = err.splitlines()
    assert message in line


def test_only_fifty_problems_are_printed(ask: Ask, tmp_path: Path) -> None:
    text = "[plans.x]\n" + "".join(f"key{n} = 1\n" for n in range(2000))
    (tmp_path / "memplanner.toml").write_text(text, encoding="utf-8")
    code, _, err = ask("check", "--all")
    assert code == 2
    assert len(err.splitlines()) == 51
    assert err.endswith("memplanner: and 1,950 more\n")


@pytest.mark.parametrize(
    "text", ["base_model: " + "-v1" * 40_000, "base_model: x" + "-chat" * 20_000, "adapter: [0x" + "f" * 5000 + "]"]
)
def test_a_hostile_config_is_refused_in_one_line(ask: Ask, tmp_path: Path, text: str) -> None:
    (tmp_path / "memplanner.toml").write_text("[plans.x]\nfrom = 'a.yml'\n", encoding="utf-8")
    (tmp_path / "a.yml").write_text(text, encoding="utf-8")
    code, _, err = ask("check", "--all")
    assert (code, len(err.splitlines())) == (2, 1)


def test_sizes_that_no_device_has_are_refused(ask: Ask, tmp_path: Path) -> None:
    huge = MODEL | dict.fromkeys(("hidden_size", "intermediate_size", "vocab_size"), 1 << 24) | {"head_dim": 1 << 23}
    (tmp_path / "model.json").write_text(json.dumps(huge), encoding="utf-8")
    step = "{batch_size = 1048576, seq_len = 16777216, attention = 'eager'}"
    (tmp_path / "memplanner.toml").write_text(f"[plans.x]\nmodel = 'model.json'\nstep = {step}\n", encoding="utf-8")
    for words in (("check", "--all"), ("lock",), ("diff", "memplanner.toml", "memplanner.toml")):
        code, out, err = ask(*words)
        assert (code, out) == (2, "")
        assert "which is more memory than any device has" in err
        assert len(err.splitlines()) == 1


def test_the_layers_of_a_model_are_bounded(ask: Ask, tmp_path: Path) -> None:
    (tmp_path / "model.json").write_text(json.dumps(MODEL | {"num_hidden_layers": 513}), encoding="utf-8")
    assert "num_hidden_layers: 513 is not between 1 and 512" in ask("check", "model.json")[2]


@pytest.fixture
def locked(ask: Ask, tmp_path: Path) -> Callable[[Callable[[dict[str, Any]], object]], None]:
    """Locks a plan, and changes the lock's entry of it."""
    (tmp_path / "memplanner.toml").write_text("[plans.x]\nmodel = 'llama-60m'\n", encoding="utf-8")
    assert ask("lock")[0] == 0
    path = tmp_path / "memplanner.lock.json"

    def change(how: Callable[[dict[str, Any]], object]) -> None:
        lock = json.loads(path.read_text(encoding="utf-8"))
        how(lock["plans"]["x"])
        path.write_text(json.dumps(lock), encoding="utf-8")

    return change


def test_a_locks_model_is_not_looked_for_outside(
    ask: Ask,
    tmp_path_factory: pytest.TempPathFactory,
    locked: Callable[[Callable[[dict[str, Any]], object]], None],
    tmp_path: Path,
) -> None:
    outside = tmp_path_factory.mktemp("outside") / "config.json"
    outside.write_text(json.dumps(MODEL), encoding="utf-8")

    def change(entry: dict[str, Any]) -> None:
        entry["plan"]["model"] = str(outside)
        entry["plan"]["precision"] = "fp32"
        entry["at_peak"]["parameters"] -= 64 << 20
        for key in ("device_bytes", "reserved_bytes", "allocated_bytes"):
            entry[key] -= 64 << 20
        entry["phases"] = {entry["peak_phase"]: entry["allocated_bytes"]}

    locked(change)
    for words in (("check", "--all", "--locked"), ("diff", "memplanner.lock.json", "memplanner.toml")):
        code, out, _ = ask(*words)
        assert code in (0, 1)
        rows = [line for line in out.splitlines() if "parameters" in line and "MiB:" in line]
        assert rows
        assert not any("precision fp32" in row for row in rows), "no figure was worked out from it"


def test_a_lock_may_have_many_settings_but_no_deep_ones(
    ask: Ask, locked: Callable[[Callable[[dict[str, Any]], object]], None]
) -> None:
    def many(entry: dict[str, Any]) -> None:
        entry["plan"] |= {f"setting{n}": n for n in range(10_000)}
        entry["at_peak"]["parameters"] -= 512

    locked(many)
    code, _, err = ask("check", "--all", "--locked")
    assert (code, err) == (0, "")
    deep: Any = 1
    for _ in range(400):
        deep = {"a": deep}
    locked(lambda entry: entry["plan"].update(precision=deep))
    code, _, err = ask("check", "--all", "--locked")
    assert code == 2
    assert "has more than 64 levels of tables" in err


@pytest.mark.parametrize(
    "words",
    [
        ("check", "--from", "link.yml"),
        ("check",),
        ("check", "--all"),
        ("check", "--plan", "link.toml"),
        ("diff", "link.yml", "link.yml"),
        ("diff", "memplanner.toml", "memplanner.toml"),
        ("diff", "memplanner.lock.json", "memplanner.lock.json"),
        ("check", "--all", "--plan", "folder/memplanner.toml"),
        ("lock", "--plan", "folder/memplanner.toml"),
    ],
)
def test_in_a_build_no_file_is_read_through_a_link_out_of_the_repository(
    words: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    outside, top = tmp_path / "outside", tmp_path / "top"
    outside.mkdir()
    (top / ".git").mkdir(parents=True)
    (outside / "secret").write_text("a-secret-word\n", encoding="utf-8")
    (outside / "memplanner.toml").write_text("[plans.secret]\nmodel = 'llama-60m'\n", encoding="utf-8")
    for name in ("link.yml", "link.toml", "memplanner.toml", "memplanner.lock.json"):
        (top / name).symlink_to(outside / "secret")
    (top / "folder").symlink_to(outside)
    monkeypatch.chdir(top)
    monkeypatch.setenv("CI", "true")
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert "secret" not in out + err
    assert "leads out of the repository" in err
    assert not (outside / "memplanner.lock.json").exists()


def test_a_link_to_itself_is_a_file_all_the_same(ask: Ask, tmp_path: Path) -> None:
    (tmp_path / "memplanner.toml").symlink_to("memplanner.toml")
    for words in (("check",), ("check", "--all")):
        code, out, err = ask(*words)
        assert (code, out) == (2, "")
        assert "memplanner.toml: " in err


def commit(repository: Repository) -> None:
    done = repository.shell("git add -A -f && git -c user.name=x -c user.email=x@example.com commit -qm x")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "plans",
    [
        "".join(f"[plans.{name}]\nmodel = '{name}.json/../{name}.json'\n" for name in "xy")
        + "[plans.z]\nmodel = 'x.json'",
        f"[plans.a]\nmodel = '{'n' * 300}/../a'\n",
        "[plans.a]\nfrom = [" + ", ".join(f"'f{n}'" for n in range(65)) + "]\n",
        "[plans.a]\nmodel = '../../outside.json'\n",
    ],
)
def test_a_revisions_plans_that_cannot_be_read_are_refused(
    plans: str, repository: Repository, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    repository.plans.write_text(plans, encoding="utf-8")
    (repository.root / "x.json").write_text(json.dumps(MODEL), encoding="utf-8")
    commit(repository)
    code, out, err = run_in(repository.root, monkeypatch, capsys, "diff", "HEAD:memplanner.toml", "memplanner.toml")
    assert (code, out) == (2, "")
    assert "Traceback" not in err


def test_a_revisions_file_in_a_folder_names_files_above_it(
    repository: Repository, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = repository.root / "train"
    folder.mkdir()
    (folder / "memplanner.toml").write_text("[plans.a]\nfrom = '../axolotl.yml'\n", encoding="utf-8")
    commit(repository)
    name = "memplanner.toml"
    for root, words in ((repository.root, f"train/{name}"), (folder, name)):
        code, out, err = run_in(root, monkeypatch, capsys, "diff", f"HEAD:{words}", words)
        assert (code, err) == (0, "")
        assert "unchanged" in out


def test_diff_knows_other_frameworks_json(ask: Ask, tmp_path: Path) -> None:
    for name, rank in (("before", 8), ("after", 16)):
        config = {"peft_type": "LORA", "base_model_name_or_path": "llama-60m", "r": rank}
        (tmp_path / f"{name}.json").write_text(json.dumps(config), encoding="utf-8")
    code, out, err = ask("diff", "before.json", "after.json")
    assert (code, err) == (0, "")
    assert "method.rank 8 → 16" in out
