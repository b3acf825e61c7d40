"""What transformers and peft say of models that no family is written for."""

from pathlib import Path

import pytest

pytest.importorskip("transformers")
pytest.importorskip("peft")

from memplanner.catalogue import find_model
from memplanner.errors import UserError
from memplanner.harness.builders.factories import factory_of
from memplanner.harness.builders.unwritten import config_of, unwritten
from memplanner.plan.training_plan import TrainingPlan


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
