"""What the interface edits, without the interface."""

import shlex
from pathlib import Path

import pytest

from memplanner.cli.main import main
from memplanner.plan.flags import Value
from memplanner.plan.load import load_plan
from memplanner.tui.export import plan_table, save_plan
from memplanner.tui.state import FIELDS, PlanState, applies, options_for, start, value_in

CHANGES: list[dict[str, Value]] = [
    {},
    {"model": "llama-1b"},
    {"--method": "lora", "--rank": "64"},
    {"--method": "full", "--optimizer": "adamw-fused", "--gpu": "24GiB"},
    {"--gpu": "24GiB", "--context": "0"},
    {"--context": "500MiB"},
    {"--optimizer-bits": "16", "--per-layer-updates": False, "--keep-outputs": True, "--loss": "chunked"},
    {"--budget": "90%", "--headroom": "512MiB", "--checkpointing": "every-2", "--target-modules": "q_proj,v_proj"},
]


@pytest.mark.parametrize("changes", CHANGES, ids=str)
@pytest.mark.parametrize("begin", ["", "toml"])
def test_the_command_asks_about_the_very_plan(
    changes: dict[str, Value], begin: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if begin:
        (tmp_path / "memplanner.toml").write_text('model = "llama-350m"\n[method]\nkind = "galore"\nrank = 32\n')
    state = start(Path())
    state.change(changes)
    assert state.problems == {}
    words = shlex.split(state.command)
    assert words[:2] == ["memplanner", "check"]
    model = "" if len(words) < 3 or words[2].startswith("--") else words[2]
    rest = words[3 if model else 2 :]
    plan_file = rest[1] if rest[:1] == ["--plan"] else ""
    typed: dict[str, Value] = {}
    left = iter(rest[2:] if plan_file else rest)
    for word in left:
        switch = word.removeprefix("--no-") in ("per-layer-updates", "keep-outputs") or word == "--keep-outputs"
        typed[word.replace("--no-", "--")] = not word.startswith("--no-") if switch else next(left)
    assert load_plan(root=Path(), plan_file=plan_file, model=model, flags=typed).plan == state.plan
    assert main(words[1:]) in (0, 1)


@pytest.mark.parametrize("changes", CHANGES, ids=str)
def test_a_saved_plan_is_the_plan(changes: dict[str, Value], tmp_path: Path) -> None:
    state = start(tmp_path)
    state.change(changes)
    save_plan(state.plan, tmp_path / "mine.toml", tmp_path)
    assert load_plan(root=tmp_path, plan_file="mine.toml").plan == state.plan


def test_a_model_of_ones_own_is_saved_with_its_whole_path(tmp_path: Path) -> None:
    config = '{"model_type": "gpt2", "n_layer": 2, "n_embd": 64, "n_head": 2, "vocab_size": 100, "n_positions": 64}'
    (tmp_path / "config.json").write_text(config)
    state = start(tmp_path, model="config.json", flags={"--seq-len": "64"})
    assert plan_table(state.plan, tmp_path)["model"] == str(tmp_path / "config.json")


def test_every_field_reads_back_what_was_typed() -> None:
    for name in FIELDS:
        state = start(Path(), model="llama-60m", flags={"--method": "gradnormlorp"})
        for choice in options_for(name)[:6]:
            state.set(name, choice.value)
            if not state.problems:
                assert value_in(state.plan, name) == choice.value, name


def test_a_wrong_value_is_marked_and_the_last_plan_stays() -> None:
    state = start(Path(), model="llama-60m", flags={"--method": "lora"})
    before = state.estimate
    state.set("--rank", "0")
    assert list(state.problems) == ["--rank"]
    assert (state.text("--rank"), state.estimate) == ("0", before)
    state.set("--batch-size", "2")
    assert list(state.problems) == ["--rank"]
    state.set("--rank", "16")
    assert state.problems == {}
    assert (state.plan.method.rank, state.plan.step.batch_size) == (16, 2)  # type: ignore[attr-defined]


def test_a_conflict_is_shown_at_a_field() -> None:
    state = start(Path(), model="llama-60m", flags={"--per-layer-updates": True})
    state.set("--grad-accumulation", "4")
    (name,) = state.problems
    assert name == "--grad-accumulation"
    assert "per_layer_updates" in state.problems[name].message


@pytest.mark.parametrize(("model", "gpu"), [("no-such-model", "t4"), ("gpt2", "rtx4091")])
def test_what_is_not_known_is_shown_where_it_was_typed(model: str, gpu: str) -> None:
    state = start(Path(), model="llama-60m")
    state.change({"model": model, "--gpu": gpu})
    assert list(state.problems) == ["model" if model == "no-such-model" else "--gpu"]


def test_a_method_takes_its_settings_with_it() -> None:
    state = start(Path(), model="llama-60m", flags={"--method": "gradnormlorp", "--projection-rank": "4"})
    state.set("--method", "full")
    assert state.problems == {}
    assert not applies(state.plan, "--rank")
    assert state.moved("--rank", 1) is None
    state.undo()
    assert value_in(state.plan, "--projection-rank") == "4"


def test_undo_goes_back_step_by_step() -> None:
    state = start(Path(), model="llama-60m", flags={"--method": "lora"})
    plans = [state.plan]
    for rank in ("16", "32"):
        state.set("--rank", rank)
        plans.append(state.plan)
    for plan in reversed(plans[:-1]):
        assert state.undo()
        assert state.plan == plan
    assert not state.undo()


@pytest.mark.parametrize(
    ("name", "value", "steps", "after"),
    [
        ("--rank", "8", 1, "16"),
        ("--rank", "9", 1, "16"),
        ("--rank", "9", -1, "8"),
        ("--rank", "1", -1, "1"),
        ("--rank", "512", 1, "512"),
        ("--batch-size", "4", 1, "5"),
        ("--batch-size", "1", -1, "1"),
        ("--method", "full", 1, "lora"),
        ("--checkpointing", "none", -1, "full"),
    ],
)
def test_keys_move_a_field(name: str, value: str, steps: int, after: str) -> None:
    state = start(Path(), model="llama-60m", flags={"--method": "lora", name: value})
    assert state.moved(name, steps) == after


def test_switches_flip() -> None:
    state = start(Path(), model="llama-60m")
    assert state.moved("--keep-outputs", 1) is True
    state.set("--keep-outputs", True)
    assert state.moved("--keep-outputs", 1) is False


def test_the_largest_of_a_rank_is_the_models_width() -> None:
    assert PlanState.ceiling(start(Path(), model="llama-60m", flags={"--method": "lora"}), "--rank") == 512
