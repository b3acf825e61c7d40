"""In which order tensors are made before a step."""

from typing import Any

import pytest

from memplanner.allocator.making import Making, made_early, made_late
from memplanner.plan.training_plan import TrainingPlan
from memplanner.prediction import predict
from memplanner.program.program import Persistent, PersistentTensor
from memplanner.program.shapes import BF16, FP32, UINT8, Dtype, Shape

KIB = 1 << 10


def weight(name: str, numel: int, dtype: Dtype = BF16, copies: int = 1) -> PersistentTensor:
    return PersistentTensor(name, "parameters", Shape(n=numel), dtype, copies, "weight")


def packed(name: str, numel: int, copies: int = 1) -> tuple[PersistentTensor, ...]:
    shape = Shape(n=numel // 2)
    tensor = PersistentTensor(f"{name}.weight", "parameters", shape, UINT8, copies, "weight", False, Shape(n=numel))
    scales = ((f"{name}.absmax", numel // 64), (f"{name}.code", 16))
    return tensor, *(PersistentTensor(n, "parameters", Shape(n=k), FP32, copies, "buffer") for n, k in scales)


def told(making: Making) -> list[tuple[int, list[str]]]:
    """Of each span: for how many blocks, and what is allocated (+) and freed (-) in KiB."""
    return [
        (copies, [f"{'+' if e >= 0 else '-'}{making.sizes[max(e, ~e)] / KIB:g}" for e in events])
        for copies, events in making.spans
    ]


def test_without_a_quantised_base_block_by_block() -> None:
    state = PersistentTensor("moments", "optimizer_state", Shape(n=KIB), FP32, 3)
    adapters = PersistentTensor("lora", "adapters", Shape(n=KIB), FP32, 3)
    persistent = Persistent(
        (weight("embed_tokens.weight", 4 * KIB), weight("layers.0–2.w", KIB, copies=3), adapters, state)
    )
    assert told(made_early(persistent)) == [(1, ["+8"]), (3, ["+2", "+4"])]
    assert told(made_late(persistent)) == [(3, ["+4"])]


def test_a_quantised_base_is_read_by_name_packed_one_by_one_and_cast_last() -> None:
    """The head first, then the model's embeddings, then block after block, in each its modules by name."""
    tensors = (
        weight("embed_tokens.weight", 4 * KIB, FP32),
        weight("layers.0–11.input_layernorm.weight", KIB, FP32, copies=12),
        *packed("layers.0–11.self_attn.q_proj", 16 * KIB, copies=12),
        PersistentTensor("layers.0–11.self_attn.q_proj.lora_A", "adapters", Shape(n=KIB), FP32, 12),
        *packed("layers.0–11.mlp.up_proj", 32 * KIB, copies=12),
        *packed("layers.12.mlp.up_proj", 32 * KIB),
        weight("norm.weight", KIB, FP32),
        weight("lm_head.weight", 4 * KIB),
        PersistentTensor("inputs", "inputs", Shape(n=2 * KIB), BF16, 1),
    )
    warmup = (4 + 12 + 1 + 4) * 2 + (12 * (16 + 32) + 32) // 2
    assert told(made_early(Persistent(tensors, checkpoint=BF16))) == [
        (1, [f"+{warmup}", f"-{warmup}"]),
        (1, ["+8", "+8"]),
        (12, ["+2", "+64", "+2", "+16", "+0.5", "-64", "+32", "+1", "+8", "+0.5", "-32"]),
        (1, ["+64", "+2", "+16", "+0.5", "-64", "+2"]),
        (1, ["+16", "-8"]),
        (12, ["+4", "-2"]),
        (1, ["+4", "-2"]),
        (12, ["+4"]),
        (1, ["+4"]),
    ]


def test_what_a_checkpoint_has_quantised_is_read_as_it_is_kept() -> None:
    tensors = (weight("embed_tokens.weight", 4 * KIB, FP32), *packed("layers.0–3.mlp.up_proj", 32 * KIB, copies=4))
    assert told(made_early(Persistent(tensors, checkpoint=BF16, is_packed=True))) == [
        (1, ["+72", "-72"]),
        (1, ["+8"]),
        (4, ["+16", "+2", "+0.5"]),
        (1, ["+16", "-8"]),
    ]


@pytest.mark.parametrize("quantization", ["nf4", "nf4-double", "int8"])
@pytest.mark.parametrize("fields", [{}, {"checkpointing": "every-2"}], ids=str)
def test_what_is_there_after_reading_is_what_the_plan_has(quantization: str, fields: dict[str, Any]) -> None:
    """Whatever comes and goes meanwhile; expandable segments leave no rest of a block unsplit."""
    table = {"model": "llama-60m", "method": "lora", "quantization": quantization, "step": fields}
    estimate = predict(TrainingPlan.model_validate({**table, "allocator": {"expandable_segments": True}}))
    load, live = estimate.phases[0], estimate.live_phases[0]
    assert load.end_bytes == live.end_bytes
    assert load.peak_bytes >= live.peak_bytes
    assert estimate.phases[1:] == estimate.live_phases[1:]
