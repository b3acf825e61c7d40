"""What a config.json says beside its shapes: the head that is trained, and weights that are quantised already."""

import json
from pathlib import Path
from typing import Any

import pytest

from memplanner.catalogue import find_model
from memplanner.errors import UserError
from memplanner.plan.training_plan import TrainingPlan
from memplanner.prediction import predict


def write(folder: Path, model: str, **changes: Any) -> TrainingPlan:
    path = folder / "config.json"
    path.write_text(json.dumps(find_model(model).config | changes), encoding="utf-8")
    return TrainingPlan(model=str(path))


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("llama-60m", "LlamaForSequenceClassification"),
        ("llama-60m", "LlamaForTokenClassification"),
        ("qwen3-0.6b", "Qwen3ForQuestionAnswering"),
        ("gpt2", "GPT2ForSequenceClassification"),
        ("bert-base-uncased", "BertForTokenClassification"),
        ("roberta-base", "RobertaForQuestionAnswering"),
        ("bert-base-uncased", "BertLMHeadModel"),
    ],
)
def test_a_head_that_is_not_modelled_is_refused(tmp_path: Path, model: str, name: str) -> None:
    plan = write(tmp_path, model, architectures=[name])
    with pytest.raises(UserError) as caught:
        predict(plan)
    (problem,) = caught.value.problems
    assert problem.key == "architectures"
    assert problem.message == f"{name!r} has a head that is not modelled"
    assert problem.hint.startswith("modelled: …For") or "LMHeadModel" in problem.hint


@pytest.mark.parametrize(
    ("model", "names"),
    [
        ("llama-60m", ["LlamaForCausalLM"]),
        ("llama-60m", ["LlamaModel"]),
        ("llama-60m", []),
        ("llama-60m", None),
        ("gpt2", ["GPT2LMHeadModel"]),
        ("bert-base-uncased", ["BertForMaskedLM"]),
        ("roberta-base", ["RobertaForSequenceClassification"]),
    ],
)
def test_a_head_that_is_trained_otherwise_too(tmp_path: Path, model: str, names: Any) -> None:
    plan = write(tmp_path, model, architectures=names)
    assert predict(plan).live_bytes == predict(TrainingPlan(model=model)).live_bytes


@pytest.mark.parametrize("value", ["LlamaForCausalLM", [3], {"a": 1}])
def test_architectures_is_a_list_of_names(tmp_path: Path, value: Any) -> None:
    plan = write(tmp_path, "llama-60m", architectures=value)
    with pytest.raises(UserError, match=r"architectures: .* is not a list of names"):
        predict(plan)


@pytest.mark.parametrize("method", ["gptq", "awq", "fp8", "bitsandbytes"])
def test_weights_that_are_saved_quantised_are_refused(tmp_path: Path, method: str) -> None:
    plan = write(tmp_path, "llama-60m", quantization_config={"quant_method": method, "bits": 4})
    with pytest.raises(UserError) as caught:
        predict(plan)
    (problem,) = caught.value.problems
    assert (problem.key, method in problem.message) == ("quantization_config", True)
    assert "--quantization" in problem.hint
