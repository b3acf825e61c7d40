"""Reentrant activation checkpointing beside the other kind."""

from typing import Any

import pytest

from memplanner.errors import UserError
from memplanner.plan.training_plan import TrainingPlan
from memplanner.prediction import Estimate, predict

HIDDEN = 4 * 1024 * 2048 * 2
"""A hidden state of llama-1b in bf16."""


def estimate(method: Any, **step: Any) -> Estimate:
    step = {"batch_size": 4, "seq_len": 1024, "checkpointing": "full", "loss": "fused", **step}
    return predict(TrainingPlan.model_validate({"model": "llama-1b", "method": method, "step": step}))


def ends(predicted: Estimate) -> dict[str, int]:
    return {phase.name: phase.end_bytes for phase in predicted.live_phases}


@pytest.mark.parametrize("method", ["full", "lora"])
def test_what_a_checkpoint_saves_is_the_same(method: str) -> None:
    assert ends(estimate(method, use_reentrant=True)) == ends(estimate(method))


def test_a_blocks_output_and_its_gradient_live_while_its_graph_runs_back() -> None:
    """Peak of backward: in both, the block's input and one gradient; what is more is said above."""
    assert estimate("lora", use_reentrant=True).live_bytes == estimate("lora").live_bytes + HIDDEN


def test_without_checkpointing_it_changes_nothing() -> None:
    assert ends(estimate("lora", checkpointing="none", use_reentrant=True)) == ends(
        estimate("lora", checkpointing="none")
    )


@pytest.mark.parametrize("checkpointing", ["full", "every-2"])
def test_a_block_that_would_not_be_trained_is_refused(checkpointing: str) -> None:
    with pytest.raises(UserError, match=r"layers\.0\..*lora_A.* would get no gradient"):
        estimate("lora", checkpointing=checkpointing, use_reentrant=True, input_gradients=False)


def test_blocks_without_anything_to_train_need_no_gradient() -> None:
    only_head = {"kind": "lora", "target_modules": ["lm_head"]}
    step = {"input_gradients": False, "loss": "cross-entropy"}
    assert ends(estimate(only_head, use_reentrant=True, **step))["loss"] <= ends(estimate(only_head, **step))["loss"]
