"""Which models a recorded forward pass answers for, and what is said of the others."""

import pytest

from memplanner.catalogue import find_model
from memplanner.components.architectures.tasks import Task
from memplanner.components.methods.lora import Lora
from memplanner.prediction.recorded import Answer, answer_of, why_traced


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
