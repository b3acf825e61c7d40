"""Suite files, and runs of them: resumed, cut off, killed."""

import json
import os
from pathlib import Path
from typing import Any, NoReturn

import pytest

from memplanner.catalogue import find_model
from memplanner.errors import UserError
from memplanner.measurement import (
    MOST_WORDS,
    Environment,
    Measurement,
    Outcome,
    load_measurement,
    save_measurement,
)
from memplanner.suite.definition import Case, load_suite
from memplanner.suite.runner import _failed, run_cases

TWO = """
[plan]
model = "llama-60m"
precision = "fp32"

[[group]]
name = "g"
rank_evidence = true
steps = 3

[group.plan]
step = { seq_len = 64, checkpointing = "full" }

[group.grid]
method = ["full", { kind = "lora", rank = 8 }]
"step.batch_size" = [1, 4]
"step.checkpointing" = ["none", "full"]
"step.per_layer_updates" = [true]
"""


def suite(text: str, folder: Path) -> list[Case]:
    (folder / "suite.toml").write_text(text)
    return load_suite("suite.toml", folder)


def test_every_point_of_the_grid_is_a_plan(tmp_path: Path) -> None:
    cases = suite(TWO, tmp_path)
    assert [case.id for case in cases] == [
        "g-full-bs1-per-layer-updates",
        "g-full-bs1-full-per-layer-updates",
        "g-full-bs4-per-layer-updates",
        "g-full-bs4-full-per-layer-updates",
        "g-lora-r8-bs1-per-layer-updates",
        "g-lora-r8-bs1-full-per-layer-updates",
        "g-lora-r8-bs4-per-layer-updates",
        "g-lora-r8-bs4-full-per-layer-updates",
    ]
    last = cases[-1]
    assert (last.plan.step.batch_size, last.plan.step.seq_len, last.plan.precision) == (4, 64, "fp32")
    assert last.plan.method.kind == "lora"
    assert (last.rank_evidence, last.steps, last.warmup, last.root) == (True, 3, 1, tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("group = 3", "group: 3"),
        ("[[group]]\nname = 'a b'", "group.0.name"),
        ("[[group]]\nname = 'a'\nplans = {}", "group.0.plans: unknown key (did you mean 'plan'?)"),
        ("[[group]]\nname = 'a'\nplan = { precision = 'bf61' }", "a: precision: 'bf61' is not a known precision"),
        ("[[group]]\nname = 'a'\ngrid = { 'step.batch_size' = [] }", "has no values"),
        ("[[group]]\nname = 'a'\ngrid = { 'step.batch_size' = [1, 0] }", "a-bs0: step.batch_size: 0 is below 1"),
        ("[[group]]\nname = 'a'\n[[group]]\nname = 'a'", "two plans have this name"),
    ],
)
def test_a_wrong_suite_is_refused_with_the_reason(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        suite(text, tmp_path)
    assert any(message in str(problem) for problem in caught.value.problems), caught.value.problems


def test_all_problems_come_at_once(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        suite("[[group]]\nname = 'a'\ngrid = { precision = ['x', 'y'] }", tmp_path)
    assert len(caught.value.problems) == 2


def smoke(*names: str) -> list[Case]:
    return [case for case in load_suite("smoke", Path()) if case.id in names]


def test_records_are_kept_and_failures_run_again(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    cases = smoke("llama-full", "llama-lora-r8")
    first = [(e.what, e.case.id) for e in run_cases(cases, "fake", tmp_path)]
    assert first == [
        ("begins", "llama-full"),
        ("done", "llama-full"),
        ("begins", "llama-lora-r8"),
        ("done", "llama-lora-r8"),
    ]
    path = tmp_path / "llama-full.json"
    path.write_text(
        path.read_text()
        .replace('"status":"completed"', '"status":"failed"')
        .replace('"status": "completed"', '"status": "failed"')
    )
    again = list(run_cases(cases, "fake", tmp_path))
    assert [(e.what, e.case.id) for e in again] == [
        ("begins", "llama-full"),
        ("done", "llama-full"),
        ("kept", "llama-lora-r8"),
    ]
    assert all(e.record is not None and e.record.outcome.status == "completed" for e in again if e.what != "begins")
    path.write_text("{")
    assert [e.what for e in run_cases(cases[:1], "fake", tmp_path)] == ["begins", "done"]
    assert [e.what for e in run_cases(cases[:1], "fake", tmp_path, again=True)] == ["begins", "done"]


def test_a_changed_plan_is_run_again(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    (case,) = smoke("llama-full")
    list(run_cases([case], "fake", tmp_path))
    longer = case.plan.model_copy(update={"step": case.plan.step.model_copy(update={"seq_len": 128})})
    changed = Case(id=case.id, plan=longer, root=case.root)
    assert [e.what for e in run_cases([changed], "fake", tmp_path)] == ["begins", "done"]


def test_no_time_leaves_everything_for_another_run(tmp_path: Path) -> None:
    cases = smoke("llama-full", "llama-lora-r8")
    assert [e.what for e in run_cases(cases, "fake", tmp_path, seconds=0)] == ["left", "left"]
    assert not list(tmp_path.iterdir())


def test_a_case_that_runs_out_of_time_has_no_record(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    cases = smoke("llama-full", "llama-lora-r8")
    assert [e.what for e in run_cases(cases, "fake", tmp_path, seconds=0.05)] == ["begins", "left", "left"]
    assert not list(tmp_path.glob("*.json"))


@pytest.mark.parametrize("how", ["crash", "kill"])
def test_a_case_that_dies_is_a_record_and_the_next_one_runs(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import memplanner.suite.runner as runner

    monkeypatch.setattr(runner, "_in_process", _crash if how == "crash" else _kill)
    first, second = smoke("llama-full", "llama-lora-r8")
    record = list(run_cases([first], "fake", tmp_path))[-1].record
    assert record is not None
    assert record.outcome.status == "failed"
    expected = "RuntimeError: no [bold]good[/bold]" if how == "crash" else "killed by SIGKILL"
    assert record.outcome.message == expected
    monkeypatch.undo()
    pytest.importorskip("transformers")
    assert [e.what for e in run_cases([first, second], "fake", tmp_path)] == ["begins", "done"] * 2


def _crash(sender: Any, case_id: str, plan: str, root: str, backend: str, log: str, options: Any) -> None:
    with Path(log).open("w") as file:
        os.dup2(file.fileno(), 2)
    raise RuntimeError("no [bold]good[/bold]")


def _kill(sender: Any, case_id: str, plan: str, root: str, backend: str, log: str, options: Any) -> None:
    Path(log).write_text("")
    os.kill(os.getpid(), 9)


def test_a_crash_is_not_hidden_by_an_older_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("transformers")
    (case,) = smoke("llama-full")
    list(run_cases([case], "fake", tmp_path))
    monkeypatch.setattr("memplanner.suite.runner._in_process", _crash)
    record = list(run_cases([case], "fake", tmp_path, again=True))[-1].record
    assert record is not None
    assert record.outcome.status == "failed"


def _no_server(*_: object, method: str, **__: object) -> NoReturn:
    raise EOFError(method)


def test_a_fork_server_that_ends_with_the_run_leaves_the_case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("memplanner.suite.runner.begin", _no_server)
    asked: list[bool] = []

    def stopped() -> bool:  # as a signal to all processes of a group has it: while the case begins
        asked.append(True)
        return len(asked) > 3

    events = [e.what for e in run_cases(smoke("llama-full"), "fake", tmp_path, stopped=stopped)]
    assert events == ["begins", "left"]
    with pytest.raises(EOFError, match="spawn"):  # tried anew without a server, before it is given up
        list(run_cases(smoke("llama-full"), "fake", tmp_path))


def test_what_is_left_behind_by_a_killed_run_is_removed(tmp_path: Path) -> None:
    draft = tmp_path / ".0123456789ab.tmp"
    draft.write_text("{")
    os.utime(draft, (1, 1))
    list(run_cases(smoke("llama-full"), "fake", tmp_path, seconds=0))
    assert not list(tmp_path.iterdir())


def test_ids_name_files_on_any_system(tmp_path: Path) -> None:
    text = "[[group]]\nname = 'nul'\n[[group]]\nname = 'a'\nplan = { model = 'llama-60m' }\n"
    below = Path("m" * 150, "n" * 150)
    (tmp_path / below).mkdir(parents=True)
    for name in ("1.json", "2.json"):
        (tmp_path / below / name).write_text(json.dumps(dict(find_model("llama-60m").config)))
    long = f"grid = {{ model = ['{below}/1.json', '{below}/2.json'] }}\n"
    assert [case.id for case in suite(text, tmp_path)] == ["_nul", "a"]
    ids = [case.id for case in suite(text + long, tmp_path)][1:]
    assert [len(each) for each in ids] == [200, 200]
    assert len(set(ids)) == 2


def test_a_device_that_is_asked_for_its_name_while_the_run_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (case,) = smoke("llama-full")
    environment = Environment(memplanner="0", python="3", platform="L", gpu="an old one")
    earlier = Measurement(
        id=case.id,
        backend="cuda",
        date="",
        plan=case.plan,
        environment=environment,
        outcome=Outcome(status="completed"),
    )
    save_measurement(earlier, tmp_path / f"{case.id}.json")
    monkeypatch.setattr("memplanner.suite.runner.begin", _no_server)
    asked: list[bool] = []

    def stopped() -> bool:
        asked.append(True)
        return len(asked) > 2

    assert [e.what for e in run_cases([case], "cuda", tmp_path, stopped=stopped)] == ["left"]
    assert load_measurement(tmp_path / f"{case.id}.json") == earlier


def test_of_a_long_log_the_end_is_read(tmp_path: Path) -> None:
    (case,) = smoke("llama-full")
    log = tmp_path / "a.log"
    log.write_text(f"{'x' * 300_000}\nit broke\n")
    assert _failed(case, "fake", 3, log).outcome.message == "exit code 3: it broke"
    assert len(_failed(case, "fake", 1, tmp_path / "none").outcome.message) < 20
    log.write_text("x" * 300_000)
    assert len(_failed(case, "fake", 1, log).outcome.message.encode()) == MOST_WORDS
