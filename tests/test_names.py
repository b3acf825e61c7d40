"""Names of the hub: which bundled shapes they stand for, and which they must not."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memplanner.catalogue import all_models, find_model, model_by_words
from memplanner.errors import UserError
from memplanner.names import read_name
from memplanner.notes import SequenceAboveModel, TakenByName
from memplanner.plan.training_plan import TrainingPlan
from memplanner.prediction import predict
from memplanner.report.notes import note_sentence

SAME = {
    "unsloth/Meta-Llama-3.1-8B-Instruct": "llama-3.1-8b",
    "NousResearch/Meta-Llama-3-8B-Instruct-bf16": "llama-3-8b",
    "unsloth/llama-3-8b-Instruct": "llama-3-8b",
    "unsloth/Llama-3.2-1B-Instruct": "llama-3.2-1b",
    "TheBloke/Llama-2-13B-Chat-fp16": "llama-2-13b",
    "unsloth/mistral-7b-instruct-v0.3": "mistral-7b-v0.3",
    "Qwen/Qwen3-8B-Base": "qwen3-8b",
    "Qwen/Qwen3-4B-Instruct-2507": "qwen3-4b",
    "Qwen/Qwen3-4B-Thinking-2507": "qwen3-4b",
    "unsloth/Qwen2.5-Coder-7B-Instruct": "qwen2.5-coder-7b",
    "codellama/CodeLlama-7b-Instruct-hf": "codellama-7b",
    "01-ai/Yi-6B-Chat": "yi-6b",
    "google/gemma-3-12b-it": "gemma-3-12b",
    "mistralai/Mistral-7B-Instruct-v0.2": "mistral-7b-v0.2",
    "unsloth/Qwen2.5-VL-7B-Instruct": "qwen2.5-vl-7b",
    "Qwen/Qwen2.5-Math-7B-Instruct": "qwen2.5-math-7b",
    "unsloth/gpt-oss-20b-BF16": "gpt-oss-20b",
    "deepseek-ai/DeepSeek-V3-0324": "deepseek-v3",
    "deepseek-ai/DeepSeek-R1-0528": "deepseek-r1",
    "Qwen/Qwen3-30B-A3B-Instruct-2507": "qwen3-30b-a3b",
    "HuggingFaceTB/SmolLM3-3B-Base": "smollm3-3b",
    "someone/bert-base-uncased": "bert-base-uncased",
}
OTHER = (
    "meta-llama/Llama-3-Vision-8B",
    "meta-llama/Llama-3.2-8B",
    "Qwen/Qwen2.5-Omni-7B",
    "deepseek-ai/DeepSeek-R1-0528-Qwen3-8B",
    "zai-org/GLM-4-32B-0414",
    "mistralai/Mistral-Small-Instruct-2409",
    "google/gemma-3n-E4B-it",
    "CohereForAI/c4ai-command-r-08-2024",
    "Qwen/Qwen3-Embedding-8B",
    "Qwen/Qwen3-Reranker-4B",
    "Qwen/Qwen2.5-7B-Instruct-1M",
    "codellama/CodeLlama-7b-Python-hf",
    "01-ai/Yi-6B-200K",
    "NousResearch/Hermes-3-Llama-3.1-8B",
    "mistralai/Mistral-7B-v0.9",
    "google-bert/bert",
    "bert-uncased",
    "base",
    "instruct",
    "2507",
    "unsloth/Phi-4",
    "a/b/qwen3-8b",
    "-",
    "..",
    "",
)


@pytest.mark.parametrize(("name", "model"), SAME.items())
def test_names_of_the_same_shapes(name: str, model: str) -> None:
    found = find_model(name)
    assert found.id == model
    assert found.config == find_model(model).config
    assert found.asked in (name, "")


@pytest.mark.parametrize("name", OTHER)
def test_a_name_of_other_shapes_is_nobodys(name: str) -> None:
    assert model_by_words(name) is None


def test_no_two_models_have_one_name() -> None:
    """Every spelling of a bundled model is read as that model, with an owner of copies in front of it as well."""
    for model in all_models():
        for spelling in (model.id, model.name, *model.aliases):
            for copy in (spelling, f"someone/{spelling.rpartition('/')[2]}"):
                found = model_by_words(copy)
                assert found is None or found.id == model.id, copy


def test_the_answer_says_whose_shapes_a_name_has() -> None:
    name = "Qwen/Qwen3-4B-Instruct-2507"
    notes = predict(TrainingPlan.model_validate({"model": name, "step": {"seq_len": 50_000}})).notes
    assert TakenByName(asked=name, published="Qwen/Qwen3-4B") in notes
    assert not any(isinstance(note, SequenceAboveModel) for note in notes), "its own config.json allows 262,144"
    assert f"{name} is answered for with the shapes of Qwen/Qwen3-4B" in note_sentence(notes[0])
    own = predict(TrainingPlan.model_validate({"model": "qwen3-4b", "step": {"seq_len": 50_000}})).notes
    assert not any(isinstance(note, TakenByName) for note in own)


@pytest.mark.parametrize(
    ("name", "stored"),
    [
        ("Qwen/Qwen3-8B-AWQ", "awq"),
        ("Qwen/Qwen3-8B-FP8", "fp8"),
        ("TheBloke/Llama-2-7B-Chat-GPTQ", "gptq"),
        ("Qwen/Qwen2.5-7B-Instruct-GPTQ-Int4", "gptq-int4"),
        ("bartowski/Meta-Llama-3.1-8B-Instruct-GGUF", "gguf"),
        ("mlx-community/Qwen3-8B-4bit", "4bit"),
        ("RedHatAI/Llama-3.2-1B-Instruct-quantized.w8a8", ""),
        ("unsloth/Qwen3-8B-unsloth-bnb-4bit", "unsloth-bnb-4bit"),
        ("someone/Qwen3-8B-bnb-4bit", "bnb-4bit"),
    ],
)
def test_weights_that_are_stored_quantised_are_not_taken_for_whole_ones(name: str, stored: str) -> None:
    if not stored:
        assert model_by_words(name) is None
        return
    with pytest.raises(UserError) as caught:
        find_model(name)
    assert f"is stored quantised ({stored})" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("end", "saved_in", "products"),
    [("bnb-4bit", "nf4-double", " with products in bf16"), ("bnb-8bit", "int8", "")],
)
def test_the_format_of_quantised_copies_is_assumed_and_called_so(end: str, saved_in: str, products: str) -> None:
    plan = {"model": f"unsloth/Llama-3.2-1B-Instruct-{end}", "method": {"kind": "lora"}}
    with pytest.raises(UserError, match=rf"assumed of the model's name.*--quantization {saved_in}"):
        predict(TrainingPlan.model_validate(plan))
    estimate = predict(TrainingPlan.model_validate(plan | {"quantization": saved_in}))
    whole = predict(TrainingPlan.model_validate(plan | {"model": "llama-3.2-1b", "quantization": saved_in}))
    assert estimate.num_parameters == whole.num_parameters
    (note,) = (note_sentence(note) for note in estimate.notes if isinstance(note, TakenByName))
    assert f"; that its weights are in {saved_in}{products} is assumed of such a name, and was not read; " in note


def test_another_type_of_products_than_is_assumed_is_refused_as_such() -> None:
    table = {"model": "unsloth/Llama-3.2-1B-bnb-4bit", "method": "lora", "quantization": "nf4-double"}
    with pytest.raises(UserError, match=r"in fp16, and in bf16 where .* saved, by the .* assumed of the model's name"):
        predict(TrainingPlan.model_validate(table | {"precision": "fp16"}))


def test_a_path_comes_before_what_its_name_may_stand_for(tmp_path: Path) -> None:
    folder = tmp_path / "unsloth" / "Qwen3-8B-Base"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    assert find_model("unsloth/Qwen3-8B-Base", tmp_path).config == {"model_type": "llama"}
    with pytest.raises(UserError, match="no such file"):
        find_model("./unsloth/Qwen3-8B-it", tmp_path)


@given(st.text(max_size=300))
def test_any_text_is_a_name_or_none(text: str) -> None:
    read = read_name(text)
    assert read is None or (read.shapes and all(read.shapes))
