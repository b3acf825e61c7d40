"""What a config.json says beside its shapes: the head that is trained, and weights that are quantised already."""

import json
from pathlib import Path
from typing import Any

import pytest

from memplanner.catalogue import find_model
from memplanner.errors import UserError
from memplanner.notes import OtherHead
from memplanner.plan.training_plan import TrainingPlan
from memplanner.prediction import predict


def write(folder: Path, model: str, **changes: Any) -> TrainingPlan:
    path = folder / "config.json"
    path.write_text(json.dumps(find_model(model).config | changes), encoding="utf-8")
    return TrainingPlan(model=str(path))


@pytest.mark.parametrize(
    ("model", "names"),
    [
        ("llama-60m", ["LlamaForMaskedLM"]),
        ("llama-60m", ["LlamaForSequenceClassificationHead"]),
        ("gpt2", ["GPT2DoubleHeadsModel"]),
        ("bert-base-uncased", ["BertLMHeadModel"]),
        ("bert-base-uncased", ["BertForMultipleChoice", "BertForNextSentencePrediction"]),
        ("roberta-base", ["RobertaForCausalLM"]),
        ("qwen3-0.6b", ["Made up"]),
    ],
)
def test_a_head_that_the_family_has_not_got_is_refused(tmp_path: Path, model: str, names: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        predict(write(tmp_path, model, architectures=names))
    (problem,) = caught.value.problems
    assert problem.key == "architectures"
    assert problem.message == f"{names[0]!r} has a head that is not modelled"
    assert problem.hint.startswith("modelled: …For")


@pytest.mark.parametrize(
    ("model", "names", "task"),
    [
        ("llama-60m", ["LlamaForSequenceClassification"], "sequence-classification"),
        ("llama-60m", ["Made up", "LlamaForTokenClassification", "LlamaForCausalLM"], "token-classification"),
        ("qwen3-0.6b", ["Qwen3ForQuestionAnswering"], "question-answering"),
        ("gpt2", ["GPT2ForSequenceClassification"], "sequence-classification"),
        ("bert-base-uncased", ["BertForTokenClassification"], "token-classification"),
        ("roberta-base", ["RobertaForQuestionAnswering"], "question-answering"),
    ],
)
def test_the_head_that_a_model_was_published_with_is_trained(
    tmp_path: Path, model: str, names: list[str], task: str
) -> None:
    plan = write(tmp_path, model, architectures=names)
    chosen = TrainingPlan.model_validate({"model": model, "task": task})
    assert predict(plan).live_bytes == predict(chosen).live_bytes
    back = {"causal-lm": "llama", "sequence-classification": "bert"}
    default = next(word for word, family in back.items() if (family == "bert") == ("bert" in model))
    kept = TrainingPlan.model_validate({**plan.model_dump(exclude={"task"}), "task": default})
    assert predict(kept).live_bytes == predict(TrainingPlan(model=model)).live_bytes


def test_a_masked_language_model_is_fine_tuned_as_a_classifier_unless_told_otherwise(tmp_path: Path) -> None:
    estimate = predict(write(tmp_path, "bert-base-uncased", architectures=["BertForMaskedLM"]))
    assert OtherHead(published="BertForMaskedLM", task="sequence-classification") in estimate.notes
    masked = predict(TrainingPlan(model="bert-base-uncased", task="masked-lm"))
    assert not any(isinstance(note, OtherHead) for note in masked.notes)
    assert masked.num_parameters > estimate.num_parameters


def labels(folder: Path, **changes: Any) -> int:
    """The labels of a classifier, from the bytes of its head: a hidden row each."""
    config = find_model("llama-60m").config
    plan = write(folder, "llama-60m", **{"architectures": ["LlamaForSequenceClassification"], **changes})
    score = next(t for t in predict(plan).program.persistent if t.name == "score.weight")
    assert score.shape.dims[1] == config["hidden_size"]
    return score.shape.dims[0]


def test_labels_are_those_of_the_config_or_two(tmp_path: Path) -> None:
    assert labels(tmp_path) == 2
    assert labels(tmp_path, id2label={"0": "a", "1": "b", "2": "c"}) == 3
    assert labels(tmp_path, num_labels=7) == 7


def test_the_plan_has_the_last_word_on_labels() -> None:
    plan = TrainingPlan(model="llama-60m", task="token-classification", num_labels=9)
    score = {t.name: t for t in predict(plan).program.persistent}
    assert (score["score.weight"].shape.dims[0], score["score.bias"].shape.dims) == (9, (9,))


@pytest.mark.parametrize(
    ("model", "fields", "key", "message"),
    [
        ("llama-60m", {"task": "masked-lm"}, "task", "masked-lm is no task of llama models"),
        ("roberta-base", {"task": "causal-lm"}, "task", "causal-lm is no task of roberta models"),
        ("llama-60m", {"num_labels": 3}, "num_labels", "causal-lm has no labels to count"),
        ("gpt2", {"task": "question-answering", "num_labels": 2}, "num_labels", "has no labels to count"),
        ("llama-60m", {"task": "sequence-classification", "step": {"loss": "fused"}}, "step.loss", "causal language"),
    ],
)
def test_a_task_that_does_not_go_with_the_plan_is_refused(
    model: str, fields: dict[str, Any], key: str, message: str
) -> None:
    with pytest.raises(UserError) as caught:
        predict(TrainingPlan.model_validate({"model": model, **fields}))
    assert [problem.key for problem in caught.value.problems] == [key]
    assert message in caught.value.problems[0].message


@pytest.mark.parametrize(
    ("model", "changes", "key"),
    [
        ("llama-60m", {"architectures": ["XForSequenceClassification"], "problem_type": "regression"}, "problem_type"),
        ("bert-base-uncased", {"problem_type": "multi_label_classification"}, "problem_type"),
        ("llama-60m", {"architectures": ["XForTokenClassification"], "num_labels": "3"}, "num_labels"),
    ],
)
def test_labels_of_another_kind_are_refused(tmp_path: Path, model: str, changes: dict[str, Any], key: str) -> None:
    with pytest.raises(UserError) as caught:
        predict(write(tmp_path, model, **changes))
    assert [problem.key for problem in caught.value.problems] == [key]


@pytest.mark.parametrize(("targets", "name"), [(["all-linear"], "'all-linear'"), (["query", "classifier"], "")])
def test_an_adapter_of_a_new_head_that_peft_copies_is_refused(targets: list[str], name: str) -> None:
    method = {"kind": "lora", "target_modules": targets}
    plan = {"model": "bert-base-uncased", "task": "token-classification", "method": method}
    with pytest.raises(UserError, match=f"{name}.*matches classifier, which peft trains as a copy"):
        predict(TrainingPlan.model_validate(plan))


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


@pytest.mark.parametrize("method", ["gptq", "awq", "fp8", "mxfp4", None])
def test_weights_that_are_saved_in_other_formats_are_refused(tmp_path: Path, method: str | None) -> None:
    plan = write(tmp_path, "llama-60m", quantization_config={"quant_method": method, "bits": 4})
    with pytest.raises(UserError) as caught:
        predict(plan)
    (problem,) = caught.value.problems
    assert (problem.key, str(method) in problem.message) == ("quantization_config.quant_method", True)
    assert "--quantization" in problem.hint


BITSANDBYTES = {
    "quant_method": "bitsandbytes",
    "load_in_4bit": True,
    "load_in_8bit": False,
    "bnb_4bit_quant_type": "nf4",
    "bnb_4bit_use_double_quant": True,
    "bnb_4bit_compute_dtype": "bfloat16",
    "bnb_4bit_quant_storage": "uint8",
    "llm_int8_skip_modules": None,
}


def saved(folder: Path, changes: dict[str, Any], **fields: Any) -> TrainingPlan:
    plan = write(folder, "llama-60m", quantization_config={**BITSANDBYTES, **changes})
    return TrainingPlan.model_validate({**plan.model_dump(), "method": "lora", **fields})


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({}, "nf4-double"),
        ({"bnb_4bit_use_double_quant": False}, "nf4"),
        ({"load_in_4bit": False, "load_in_8bit": True}, "int8"),
    ],
)
def test_weights_that_bitsandbytes_saved_are_read_as_the_plan_has_them(
    tmp_path: Path, changes: dict[str, Any], word: str
) -> None:
    """Nothing is quantised on the way, which leaves no code book behind."""
    estimate = predict(saved(tmp_path, changes, quantization=word))
    packed = predict(TrainingPlan.model_validate({"model": "llama-60m", "method": "lora", "quantization": word}))
    code_book = 1024 if word == "nf4-double" else 0
    assert estimate.live_bytes == packed.live_bytes - code_book


@pytest.mark.parametrize(
    ("changes", "fields", "key", "hint"),
    [
        ({}, {}, "quantization", "--quantization nf4-double"),
        ({}, {"quantization": "nf4"}, "quantization", "--quantization nf4-double"),
        ({}, {"quantization": "nf4-double", "precision": "fp16"}, "precision", "--precision bf16"),
        ({"bnb_4bit_quant_type": "fp4"}, {}, "quantization_config.bnb_4bit_quant_type", "modelled: nf4"),
        ({"bnb_4bit_quant_storage": "bfloat16"}, {}, "quantization_config.bnb_4bit_quant_storage", "modelled: uint8"),
        ({"bnb_4bit_compute_dtype": "int8"}, {}, "quantization_config.bnb_4bit_compute_dtype", ""),
        ({"llm_int8_skip_modules": ["layers.3.mlp"]}, {}, "quantization_config.llm_int8_skip_modules", "quantised"),
        ({"load_in_8bit": True}, {}, "quantization_config.quant_method", "--quantization"),
    ],
)
def test_what_the_saved_format_and_the_plan_do_not_agree_on_is_refused(
    tmp_path: Path, changes: dict[str, Any], fields: dict[str, Any], key: str, hint: str
) -> None:
    with pytest.raises(UserError) as caught:
        predict(saved(tmp_path, changes, **fields))
    (problem,) = caught.value.problems
    assert problem.key == key
    assert hint in problem.hint


def test_a_quantization_config_is_an_object(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="quantization_config: 'nf4' is not an object"):
        predict(write(tmp_path, "llama-60m", quantization_config="nf4"))
