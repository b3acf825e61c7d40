"""Recorded forward passes: what ships is read whole, and what goes wrong with one is said in a line."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from memplanner.catalogue import ModelProfile, all_models, find_model
from memplanner.cli.main import main
from memplanner.components.architectures.tasks import Task
from memplanner.components.methods.lora import Lora
from memplanner.files.summed_json import dumps, loads
from memplanner.notes import TextAlone
from memplanner.plan.training_plan import TrainingPlan
from memplanner.prediction import predict
from memplanner.prediction.recorded import (
    Answer,
    answer_of,
    own_path,
    recording_name,
    shipped,
    shipped_path,
    shipped_types,
    why_traced,
)

RECORDED = [model for model in all_models() if answer_of(model.config) == "recorded"]
LORA: Mapping[str, Any] = {"kind": "lora", "rank": 8}


def defaults(model_type: str) -> dict[str, Any]:
    """A config.json that says the type alone."""
    return {"model_type": model_type}


def asked(folder: Path, config: Mapping[str, Any], **fields: Any) -> TrainingPlan:
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    step = {"batch_size": 1, "seq_len": 128, "checkpointing": "full"}
    return TrainingPlan.model_validate(
        {"model": str(folder / "config.json"), "device": "24GiB", "step": step, **fields}
    )


@pytest.mark.parametrize("model", RECORDED, ids=lambda model: model.id)
def test_the_parameters_of_bundled_models_are_those_published(model: ModelProfile) -> None:
    step = {"batch_size": 1, "seq_len": 128, "checkpointing": "full"}
    plan = {"model": model.id, "method": LORA, "quantization": "nf4", "device": "80GiB", "step": step}
    estimate = predict(TrainingPlan.model_validate(plan))
    assert estimate.num_parameters - estimate.num_trainable == model.parameters


@pytest.mark.parametrize("model_type", sorted(shipped_types()))
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_every_program_that_ships_runs(model_type: str, attention: str, tmp_path: Path) -> None:
    bundled = (model.config for model in RECORDED if recording_name(model.config) == model_type)
    plan = asked(tmp_path, next(bundled, defaults(model_type)), method=LORA)
    plan = plan.model_copy(update={"step": plan.step.model_copy(update={"attention": attention})})
    estimate = predict(plan)
    assert estimate.allocated_bytes > estimate.persistent["parameters"]
    (phase, *_) = [phase for phase in estimate.phases if phase.name == "forward"]
    assert phase.peak_bytes > 0


@pytest.mark.parametrize(
    ("model_type", "change", "said"),
    [
        ("gemma2", {"hidden_size": 0}, "hidden_size: 0 is not between 1 and"),
        ("gemma2", {"hidden_size": "wide"}, "hidden_size: 'wide' is not a whole number"),
        ("gemma2", {"num_key_value_heads": 3}, "num_key_value_heads: 3 does not divide"),
        ("gemma2", {"num_hidden_layers": -1}, "num_hidden_layers: -1 is not a whole number from 1 to"),
        ("qwen3_moe", {"num_experts": 10**6}, "num_experts: 1000000 is not between 1 and 4096"),
        ("gpt_oss", {"num_local_experts": 10**6}, "num_local_experts: 1000000 is not between 1 and 4096"),
        ("gemma2", {"layer_types": ["sliding_attention"]}, "layer_types: it does not name 26 layers"),
    ],
    ids=str,
)
def test_bad_settings_are_named(
    model_type: str, change: dict[str, Any], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(defaults(model_type) | change), encoding="utf-8")
    assert main(("check", str(tmp_path / "config.json"), "--gpu", "24GiB")) == 2
    out, err = capsys.readouterr()
    assert (out, len(err.splitlines())) == ("", 1)
    assert said in err


def test_adapters_of_experts_are_left_to_a_trace() -> None:
    config = defaults("qwen3_moe")

    def answered(targets: Any, **method: Any) -> str:
        fields = {"method": {**LORA, "target_modules": targets, **method}}
        return answer_of(config, None, TrainingPlan.model_validate({"model": "x", **fields}).method)

    assert answered([]) == "recorded"
    assert answered(["q_proj", "v_proj"]) == "recorded"
    assert answered(["q_proj", "gate_proj", "up_proj"]) == "traced"
    assert answered(["all-linear"]) == "traced"
    assert answered(".*q_proj") == "traced", "peft makes names of a pattern"
    assert answer_of(defaults("gemma2"), None, TrainingPlan.model_validate({"model": "x"}).method) == "recorded"


def test_another_task_is_left_to_a_trace() -> None:
    assert answer_of({**defaults("gemma2"), "architectures": ["Gemma2ForSequenceClassification"]}) == "traced"
    assert answer_of(defaults("gemma2"), "sequence-classification") == "traced"
    assert answer_of({**defaults("gemma2"), "architectures": ["Gemma2ForCausalLM"]}) == "recorded"


CONFIG = defaults("olmo2") | {"hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 2, "vocab_size": 300}


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the user's recording of olmo2 is, with nothing of it in what ships."""
    from memplanner.prediction import recorded

    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    ours = shipped
    monkeypatch.setattr(recorded, "shipped", lambda name: None if name == "olmo2" else ours(name))
    path = own_path("olmo2")
    assert path is not None
    path.parent.mkdir(parents=True)
    return path


def test_what_a_user_recorded_answers(own: Path, tmp_path: Path) -> None:
    plan = asked(tmp_path, CONFIG)
    assert answer_of(CONFIG) == "traced"
    own.write_bytes(shipped_path("olmo2").read_bytes())
    assert answer_of(CONFIG) == "recorded"
    assert predict(plan).allocated_bytes > 0


def _tampered(text: str, change: str) -> str:
    table = loads(text)
    variant = table["variants"][0]
    match change:
        case "a figure":
            return text.replace('"hidden_size": 4096', '"hidden_size": 4095', 1)
        case "a later schema":
            return dumps(table | {"schema": 2})
        case "no programs":
            return dumps({key: value for key, value in table.items() if key != "variants"})
        case "an operation that there is none of":
            variant["kernels"]["blocks"]["A"]["steps"][0][0] = "import"
        case "a value that nothing makes":
            variant["kernels"]["hidden"] = 10**9
        case "a shape that there is none of":
            variant["kernels"]["shapes"] = []
        case "no numbers":
            variant["kernels"] = {}
        case "half a file":
            return text[: len(text) // 2]
        case "no text":
            return ""
    return dumps(table)


@pytest.mark.parametrize(
    "change",
    [
        "a figure",
        "a later schema",
        "no programs",
        "an operation that there is none of",
        "a value that nothing makes",
        "a shape that there is none of",
        "no numbers",
        "half a file",
        "no text",
    ],
)
def test_a_recording_that_was_tampered_with_is_refused(
    change: str, own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own.write_text(_tampered(shipped_path("olmo2").read_text(encoding="utf-8"), change), encoding="utf-8")
    (tmp_path / "config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    assert main(("check", str(tmp_path / "config.json"), "--gpu", "24GiB")) == 2
    out, err = capsys.readouterr()
    assert (out, len(err.splitlines())) == ("", 1)
    assert f"{own}: is no recording that can be read: " in err
    assert "`memplanner record` with the model's type writes it anew" in err


def small_gemma3(**fields: Any) -> dict[str, Any]:
    """A config.json of a Gemma 3 with a small tower for images."""
    text = {"hidden_size": 256, "intermediate_size": 384, "vocab_size": 1000, "head_dim": 64, "num_hidden_layers": 6}
    tower = {"hidden_size": 128, "intermediate_size": 192, "num_hidden_layers": 3, "num_attention_heads": 16}
    fixed = {"image_size": 896, "patch_size": 14, "vision_use_head": False}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    return {
        "model_type": "gemma3",
        "image_token_index": 5,
        "text_config": text | heads,
        "vision_config": tower | fixed | fields,
    }


TOWER_BLOCK = 4 * 128 * 129 + 192 * 129 + 128 * 193 + 4 * 128
"""Parameters of a SigLIP block: four projections of attention and two of the MLP with biases, two layer norms."""


def test_a_tower_counts_and_has_no_states(tmp_path: Path) -> None:
    """Of text alone it gets no gradient, whether or not its weights are to learn."""
    less, more = (
        predict(asked(tmp_path, small_gemma3(num_hidden_layers=depth), method="full", precision="bf16"))
        for depth in (3, 4)
    )
    assert more.num_parameters - less.num_parameters == TOWER_BLOCK
    assert more.num_trainable - less.num_trainable == TOWER_BLOCK
    assert more.persistent["parameters"] - less.persistent["parameters"] == 2 * TOWER_BLOCK
    assert more.persistent["gradients"] == less.persistent["gradients"]
    assert more.persistent["optimizer_state"] == less.persistent["optimizer_state"]
    (note,) = [note for note in more.notes if isinstance(note, TextAlone)]
    assert note.parts == ("vision",)
    (before,) = [note for note in less.notes if isinstance(note, TextAlone)]
    assert note.num_parameters is not None
    assert before.num_parameters == note.num_parameters - TOWER_BLOCK


def test_names_in_the_tower_are_adapted_and_quantised_too(tmp_path: Path) -> None:
    """q_proj is in the tower as well: peft adapts it there; bitsandbytes packs every linear layer of it."""
    fields: dict[str, Any] = {"method": {**LORA, "target_modules": ["q_proj"]}, "quantization": "nf4"}
    less, more = (predict(asked(tmp_path, small_gemma3(num_hidden_layers=depth), **fields)) for depth in (3, 4))
    assert more.num_trainable - less.num_trainable == 8 * (128 + 128)
    linear = 4 * 128 * 128 + 2 * 128 * 192
    whole = TOWER_BLOCK - linear
    packed = linear // 2 + 4 * (linear // 64) + 6 * 4 * 16
    assert more.persistent["parameters"] - less.persistent["parameters"] == packed + 4 * whole
    assert more.persistent["optimizer_state"] == less.persistent["optimizer_state"]


def test_another_tower_than_was_recorded_is_traced() -> None:
    assert answer_of(small_gemma3()) == "recorded"
    assert answer_of(small_gemma3(patch_size=16)) == "traced"
    assert answer_of(small_gemma3(model_type="clip_vision_model")) == "traced"
    assert answer_of(small_gemma3() | {"architectures": ["Gemma3Model"]}) == "traced"


def test_the_margin_of_what_no_run_was_measured_of_is_the_widest(tmp_path: Path) -> None:
    full, lora = (predict(asked(tmp_path, CONFIG, method=method)) for method in ("full", LORA))
    assert full.margin == lora.margin
    for method in ("full", LORA):
        plan = TrainingPlan.model_validate({"model": "llama-60m", "method": method, "device": "24GiB"})
        assert predict(plan).margin.share <= full.margin.share
    nf4 = TrainingPlan.model_validate({"model": "llama-60m", "method": LORA, "quantization": "nf4", "device": "24GiB"})
    assert predict(nf4).margin.share == full.margin.share, "the widest today"


@pytest.mark.parametrize(
    ("changes", "task", "answer", "why"),
    [
        ({}, None, "recorded", ""),
        ({}, "causal-lm", "recorded", ""),
        ({}, "token-classification", "traced", "only causal language models of this type were recorded"),
        ({"architectures": ["GemmaForTokenClassification"]}, None, "traced", "only causal language models of this"),
        ({"hidden_act": "relu"}, None, "traced", "no forward pass with hidden_act 'relu' was recorded"),
        ({"hidden_act": "relu"}, "token-classification", "traced", "no forward pass with hidden_act 'relu' was"),
        ({"model_type": "gemma5"}, None, "traced", "no family is written for this type of model"),
    ],
)
def test_what_answers_and_why(changes: dict[str, object], task: Task | None, answer: Answer, why: str) -> None:
    config = find_model("gemma-2b").config | changes
    method = Lora(kind="lora", rank=8)
    assert answer_of(config, task, method) == answer
    if answer == "traced":
        assert why_traced(config, task, method).startswith(why)


def test_a_kind_of_layer_that_was_not_recorded_is_left_to_a_trace() -> None:
    config = defaults("gemma2") | {"layer_types": ["sideways"] * 26}
    assert answer_of(config) == "traced"
    assert "no forward pass with layer_types 'sideways' was" in why_traced(config, None, Lora(kind="lora", rank=8))
