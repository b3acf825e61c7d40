"""What transformers and peft say of models that no family is written for."""

import pytest

pytest.importorskip("transformers")
pytest.importorskip("peft")

from memplanner.catalogue import find_model
from memplanner.errors import UserError
from memplanner.harness.builders.unwritten import unwritten
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


def test_a_model_without_a_class_for_any_task_is_one_line() -> None:
    plan = TrainingPlan.model_validate({"model": "qwen2.5-vl-7b"})
    with pytest.raises(UserError, match="no class of qwen2_5_vl models for a task that is modelled, which are causal"):
        unwritten(plan, find_model(plan.model))
