"""A recorded step equals the one that a family writes; models without a family are answered for by it."""

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("transformers")
pytest.importorskip("peft")

from memplanner.catalogue import find_model
from memplanner.cli.main import main
from memplanner.harness.fake import trace
from memplanner.harness.recording import record
from memplanner.plan.training_plan import TrainingPlan
from memplanner.prediction import predict
from memplanner.prediction.estimate import estimate_of, gpu_of
from memplanner.program import as_json
from memplanner.program.program import StepProgram
from tests.models import plan_of

LORA = {"kind": "lora", "rank": 16}
TOLERANCE = 0.002
"""Of what is written, as in test_against_trace.py."""


@pytest.mark.parametrize("model", ["llama", "qwen3", "gpt2", "roberta"])
@pytest.mark.parametrize(
    "fields",
    [
        {"method": "full"},
        {"method": LORA, "precision": "bf16-mixed", "master_weights": False},
        {"method": LORA, "step": {"checkpointing": "full"}},
        {"method": "full", "optimizer": "adamw-8bit", "step": {"grad_accumulation": 2}},
        {"method": "full", "step": {"per_layer_updates": True}},
        {"method": "full", "step": {"keep_gradients": True, "attention": "eager"}},
    ],
    ids=str,
)
def test_a_recorded_step_is_the_one_that_is_written(model: str, fields: dict[str, Any], tmp_path: Path) -> None:
    step = {"batch_size": 2, "seq_len": 256, **fields.get("step", {})}
    plan = plan_of(model, {**fields, "step": step}, tmp_path)
    program = as_json.loads(as_json.dumps(record(plan)))
    assert isinstance(program, StepProgram)
    recorded = estimate_of(plan, find_model(plan.model), gpu_of(plan), program, ())
    written = predict(plan)
    assert (recorded.num_parameters, recorded.num_trainable) == (written.num_parameters, written.num_trainable)
    assert recorded.persistent == written.persistent
    traced = {phase.name: phase for phase in trace(plan).phases}
    for ours, theirs in zip(recorded.live_phases, written.live_phases, strict=True):
        own = recorded.workspace_bytes if ours.name != "load" else 0
        its = traced[ours.name]
        assert (ours.peak_bytes, ours.end_bytes) == (its.peak_bytes + own, its.end_bytes + own), ours.name
        assert ours.peak_bytes == pytest.approx(theirs.peak_bytes, rel=TOLERANCE)
        assert ours.end_bytes == pytest.approx(theirs.end_bytes, rel=TOLERANCE)
    assert recorded.reserved_bytes == pytest.approx(written.reserved_bytes, rel=0.02)


CONFIG = {
    "model_type": "gemma3_text",
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 300,
    "sliding_window": 128,
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a model of a type that, here, has no recorded forward pass either."""
    from memplanner.prediction import recorded

    monkeypatch.setattr(recorded, "recorded_type", lambda _: None)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    return tmp_path


WORDS = ("config.json", "--gpu", "24GiB", "--seq-len", "64", "--batch-size", "2")


def test_a_model_without_a_family_is_traced_once(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(("check", *WORDS)) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "gemma3_text: no family is written for this type of model; the step was traced on fake tensors with" in out
    (kept,) = (folder / "cache" / "memplanner" / "programs").iterdir()
    kept.write_text("{}", encoding="utf-8")  # a file that is no program is as good as none
    from memplanner.prediction import traced

    traced._kept.cache_clear()
    assert main(("check", *WORDS, "--format", "json")) == 0
    answer = json.loads(capsys.readouterr().out)
    kept.unlink()
    assert main(("check", *WORDS, "--format", "json", "--gpu", "rtx4090")) == 0
    assert json.loads(capsys.readouterr().out)["live_bytes"] == answer["live_bytes"], "what is kept serves other cards"
    assert not kept.exists()
    plan = TrainingPlan.model_validate({"model": "config.json", "step": {"batch_size": 2, "seq_len": 64}})
    phases = {phase.name: phase.peak_bytes for phase in trace(plan).phases}
    workspaces = answer["at_peak"]["workspaces"]
    assert answer["live_bytes"] - workspaces == max(phases.values())


def test_what_would_take_hundreds_of_traces_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(("fit", *WORDS, "--method", "lora")) == 2
    assert "its steps are traced one by one, in seconds each (`memplanner check`" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model_type": "gemma9_text"}, "model_type: 'gemma9_text' is no model type of the installed transformers"),
        ({"model_type": "gemma3_txet"}, "(did you mean 'gemma3_text'?)"),
        ({"model_type": None}, "model_type: missing"),
        ({"hidden_size": "wide"}, "transformers refuses it"),
        (
            {"auto_map": {"AutoConfig": "evil.Config"}, "model_type": "evil"},
            "is no model type of the installed",
        ),
    ],
    ids=str,
)
def test_what_cannot_be_traced_is_said_in_one_line(
    change: dict[str, Any], said: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "config.json").write_text(json.dumps(CONFIG | change), encoding="utf-8")
    assert main(("check", *WORDS)) == 2
    out, err = capsys.readouterr()
    assert (out, len(err.splitlines())) == ("", 1)
    assert said in err


def test_without_torch_the_answer_says_what_traces_it(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from memplanner.prediction import traced

    def missing(name: str) -> None:
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    monkeypatch.setattr(traced, "import_module", missing)
    assert main(("check", *WORDS)) == 2
    err = capsys.readouterr().err
    assert "a trace needs torch, which is not installed (pip install 'memplanner[live]' traces it in seconds)" in err
    assert "did you mean" not in err
