"""What transformers and peft say of models that no family is written for."""

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("transformers")
pytest.importorskip("peft")

from memplanner.catalogue import all_models, find_model
from memplanner.errors import UserError
from memplanner.harness.builders.factories import factory_of
from memplanner.harness.builders.models import MOST_MODULES
from memplanner.harness.builders.unwritten import config_of, unwritten
from memplanner.plan.training_plan import TrainingPlan
from memplanner.prediction import predict


@pytest.mark.parametrize(
    ("model", "targets"),
    [
        ("gemma-4-e2b", r".*language_model\..*\.(q_proj|v_proj)"),
        ("gemma-2-2b", ("q_proj", "v_proj")),
        ("phi-4", ("all-linear",)),
    ],
)
def test_default_targets_are_pefts_names_or_its_pattern(model: str, targets: tuple[str, ...] | str) -> None:
    family, _ = unwritten(TrainingPlan.model_validate({"model": model}), find_model(model))
    assert family.lora_targets == targets


def test_a_model_without_a_class_for_any_task_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "blip_2_qformer"}', encoding="utf-8")
    plan = TrainingPlan.model_validate({"model": str(tmp_path)})
    with pytest.raises(UserError, match="no class of blip_2_qformer models for a task that is modelled, which are"):
        unwritten(plan, find_model(plan.model))


def test_the_class_that_config_json_names_is_trained() -> None:
    """Of a type with a language model's class and one with a tower beside it; with no name, the latter."""
    config = config_of(find_model("llama-4-scout"))
    classes = [
        factory_of(config, "causal-lm", names)._model_mapping[type(config)].__name__  # type: ignore[union-attr]
        for names in (["Llama4ForCausalLM"], ["Llama4ForConditionalGeneration"], [])
    ]
    assert classes == ["Llama4ForCausalLM", "Llama4ForConditionalGeneration", "Llama4ForConditionalGeneration"]


def prediction_of(config: dict[str, Any], folder: Path) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(config), encoding="utf-8")
    predict(TrainingPlan.model_validate({"model": str(path), "device": "24GiB"}))


@pytest.mark.parametrize(
    ("config", "complaint"),
    [
        ({"model_type": "falcon", "num_hidden_layers": 1 << 24}, "num_hidden_layers: 16777216 is above 512, and no"),
        ({"model_type": "bloom", "n_layer": 10**40}, r"n_layer: 10+\.\.\.0+ is above 512"),
        ({"model_type": "jamba", "num_experts": 5000}, "num_experts: 5000 is above 4096"),
        ({"model_type": "falcon", "hidden_size": 1 << 30}, "hidden_size: 1073741824 is above 16777216"),
        (
            {"model_type": "gemma3", "text_config": {"num_hidden_layers": 513}, "vision_config": {}},
            "num_hidden_layers: 513 is above 512",
        ),
        ({"model_type": "funnel", "block_sizes": [1 << 24]}, f"a model of more than {MOST_MODULES:,} modules"),
    ],
)
def test_no_config_makes_more_work_than_a_published_one(config: dict[str, Any], complaint: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=complaint):
        prediction_of(config, tmp_path)


def test_every_bundled_model_is_within_the_limits() -> None:
    for model in all_models():
        try:
            config_of(model)
        except UserError as error:
            assert "no published model" not in str(error), model.id
