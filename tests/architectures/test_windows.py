"""Sliding windows as config.json has them, and the masks and kernels that they cost."""

from pathlib import Path
from typing import Any

import pytest

from memplanner.components.architectures.registry import read_config
from memplanner.errors import UserError
from memplanner.plan.training_plan import TrainingPlan
from memplanner.prediction import predict
from tests.models import MODELS, VARIANTS, plan_of

FULL, SLIDING = "full_attention", "sliding_attention"


def read(model: str, **fields: Any) -> Any:
    config = {**MODELS[model], **fields}
    return read_config({k: v for k, v in config.items() if v != "absent"}, "config.json")[1]


@pytest.mark.parametrize(
    ("fields", "window", "kinds"),
    [
        ({"sliding_window": 4096}, 4096, (SLIDING,) * 2),
        ({"sliding_window": None}, None, ()),
        ({"sliding_window": "absent"}, 4096, (SLIDING,) * 2),  # MistralConfig's default
    ],
)
def test_mistral_has_one_window_in_every_layer(fields: dict[str, Any], window: int | None, kinds: Any) -> None:
    config = read("mistral", **fields)
    assert (config.sliding_window, config.layer_types, config.full_mask) == (window, kinds, window is None)


@pytest.mark.parametrize("model", ["qwen2", "qwen3"])
def test_qwen_has_windows_where_they_are_used(model: str) -> None:
    assert read(model, sliding_window=8).layer_types == ()
    assert read(model, use_sliding_window=True, sliding_window=None).layer_types == ()
    used = {"use_sliding_window": True, "sliding_window": 8}
    assert read(model, **used).layer_types == ()  # max_window_layers is 28, and the model has 3 layers
    assert read(model, **used, max_window_layers=1).layer_types == (FULL, SLIDING, SLIDING)
    assert read(model, **used, max_window_layers=0).layer_types == (SLIDING,) * 3
    named = [SLIDING, FULL, FULL]
    assert read(model, **used, max_window_layers=1, layer_types=named).layer_types == tuple(named)
    assert read(model, **used, layer_types=[FULL] * 3).layer_types == ()
    assert read("llama", sliding_window=8).layer_types == ()


@pytest.mark.parametrize(
    ("model", "fields", "message"),
    [
        ("mistral", {"sliding_window": 0}, "sliding_window: 0 is not between 1"),
        ("mistral", {"sliding_window": "4096"}, "sliding_window: '4096' is not a whole number"),
        ("qwen2", {"use_sliding_window": 1}, "use_sliding_window: 1 is not true or false"),
        ("qwen2", {"max_window_layers": -1}, "max_window_layers: -1 is not between 0"),
        ("qwen3", {"layer_types": "full_attention"}, "layer_types: 'full_attention' is not a list of names"),
        ("qwen3", {"layer_types": [FULL] * 2}, "layer_types: 2 names for 3 layers"),
        ("qwen3", {"layer_types": [FULL, "sliding_atention", FULL]}, "did you mean 'sliding_attention'"),
        ("qwen3", {"layer_types": [FULL, "chunked_attention", FULL]}, "'chunked_attention' is not modelled"),
        ("qwen3", {"layer_types": [FULL, SLIDING, FULL]}, "needs a sliding_window"),
    ],
)
def test_nonsense_is_refused(model: str, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=r"config\.json") as error:
        read(model, **fields)
    assert message in str(error.value)


def test_a_window_takes_the_flash_kernel_away_once_a_sequence_reaches_it(tmp_path: Path) -> None:
    def names(seq_len: int, attention: str = "sdpa") -> set[str]:
        plan = plan_of("mistral-window", {"step": {"seq_len": seq_len, "attention": attention}}, tmp_path)
        return {tensor.name for tensor in predict(plan).program.tensors}

    assert "attention mask (bool)" not in names(127)
    assert {"attention mask (bool)", "attention mask of this layer", "key/value heads expanded"} <= names(128)
    assert names(128, "flash-attention-2") == names(127)  # flash-attn knows windows by itself


def test_blocks_of_two_kinds_are_equal_to_the_same_written_out(tmp_path: Path) -> None:
    for model in VARIANTS:
        for step in ({}, {"checkpointing": "full"}, {"checkpointing": "every-3", "attention": "eager"}):
            plan = plan_of(model, {"method": "lora", "step": {"batch_size": 2, "seq_len": 256, **step}}, tmp_path)
            collapsed, whole = predict(plan), predict(plan, collapse=False)
            assert collapsed.phases == whole.phases, (model, step)


def test_mistral_with_its_window() -> None:
    """LoRA of rank 8 on q_proj and v_proj, one sequence of 8,192 tokens, in bf16, without checkpointing."""

    def allocated(model: str) -> float:
        plan = {"model": model, "method": "lora", "step": {"batch_size": 1, "seq_len": 8192}, "device": "80GiB"}
        return predict(TrainingPlan.model_validate(plan)).allocated_bytes / 2**30

    assert allocated("mistral-7b-v0.1") == pytest.approx(65.53, abs=0.01)
    assert allocated("mistral-7b-v0.3") == pytest.approx(58.61, abs=0.01)  # without one
