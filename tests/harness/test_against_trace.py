"""The prediction held against real transformers and peft modules, traced on fake tensors, at every phase.

Peak and end of each phase (the end of "loss" is what backward finds saved) must agree within TOLERANCE; most agree to
the byte. What is left are CPU kernels whose small by-products differ from CUDA's.
"""

import itertools
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("transformers")
pytest.importorskip("peft")

from memplanner.harness.fake import trace
from memplanner.prediction import Estimate, predict
from tests.models import plan_of

TOLERANCE = 0.002


def case(model: str, **fields: Any) -> Any:
    step = {"batch_size": 4, "seq_len": 256, **fields.pop("step", {})}
    return pytest.param(model, {**fields, "step": step}, id=f"{model}-{_label(fields)}-{_label(step)}")


def _label(fields: dict[str, Any]) -> str:
    values = (v if not isinstance(v, dict) else "-".join(map(str, v.values())) for v in fields.values())
    return "-".join(map(str, values))


LORA = {"kind": "lora", "rank": 16}
DORA = {"kind": "dora", "rank": 16}

FAMILIES = [
    case(model, method=method, precision=precision, step={"attention": attention, "checkpointing": checkpointing})
    for model, (method, precision, attention, checkpointing) in itertools.chain(
        itertools.product(
            ("llama", "qwen2", "gpt2", "roberta"),
            itertools.product(("full", LORA), ("bf16", "bf16-mixed"), ("sdpa", "eager"), ("none", "full")),
        ),
        itertools.product(
            ("qwen3", "mistral", "bert"), itertools.product((LORA, DORA), ("fp32",), ("sdpa",), ("none", "full"))
        ),
    )
]

SIZES = [
    case(model, method=method, precision="bf16", step={"batch_size": batch, "seq_len": seq})
    for model in ("llama", "qwen2", "gpt2", "roberta")
    for method in ("full", LORA)
    for batch, seq in ((1, 512), (3, 100), (8, 64))
]

REGIMES = [
    case("llama", method="full", precision="bf16", step={"attention": "sdpa-math"}),
    case("llama", method=LORA, precision="fp16", step={"attention": "sdpa-math"}),
    case("llama", method="full", precision="bf16-mixed", step={"attention": "sdpa-efficient"}),
    case("gpt2", method=LORA, precision="fp16", step={"attention": "sdpa-efficient"}),
    case("llama", method="full", precision="fp16-mixed", step={"attention": "eager"}),
    case("llama", method=LORA, precision="fp16", step={"attention": "eager"}),
    case("qwen2", method="full", optimizer="adamw-fused", step={"checkpointing": "every-2", "keep_outputs": True}),
    case(
        "llama", method="full", optimizer={"kind": "adamw", "implementation": "for-loop"}, step={"keep_gradients": True}
    ),
    case("gpt2", method="full", optimizer={"kind": "sgd", "momentum": 0.9}, step={"grad_accumulation": 3}),
    case("llama", method="full", optimizer="adafactor", step={"seq_len": 64}),
    case("roberta", method="full", precision="fp32", optimizer={"kind": "adafactor", "beta1": True}),
    case("llama", method="full", optimizer="adamw", step={"per_layer_updates": True}),
    case("gpt2", method="full", optimizer="adamw-fused", step={"per_layer_updates": True, "checkpointing": "full"}),
    case("roberta", method={**LORA, "dropout": 0.1, "target_modules": ["all-linear"]}),
    case("llama", method={**LORA, "dropout": 0.1, "adapter_dtype": "base"}, step={"checkpointing": "full"}),
    case("gpt2", method=LORA, step={"checkpointing": "full", "input_gradients": False}),
    case("llama", method={**DORA, "dropout": 0.1}, precision="fp16-mixed", step={"attention": "eager"}),
    case("llama", method={**LORA, "rank_pattern": {"layers.1.self_attn.q_proj": 64, "v_proj": 4}}),
    case("roberta", method=DORA, precision="bf16-mixed", step={"checkpointing": "full"}),
    case("llama", method="full", step={"padding": True}),
    case("llama", method=LORA, precision="bf16-mixed", step={"padding": True, "checkpointing": "full"}),
    case("qwen2", method="full", step={"padding": True, "attention": "eager"}),
    case("gpt2", method=LORA, step={"padding": True}),
    case("roberta", method="full", precision="fp16", step={"padding": True}),
    case("roberta", method=LORA, precision="fp32", step={"padding": True, "attention": "eager"}),
]


APART = {"precision": "bf16-mixed", "master_weights": False, "fp32_embeddings": True}
FP32_EMBEDDINGS = [
    case("llama", method="full", **APART),
    case("llama", method="full", optimizer="adamw-fused", step={"checkpointing": "full"}, **APART),
    case("llama", method="full", optimizer="adamw-8bit", step={"attention": "eager", "grad_accumulation": 2}, **APART),
    case("qwen2", method="full", **APART),
    case("qwen3", method="full", optimizer="adafactor", step={"checkpointing": "every-2"}, **APART),
    case("mistral", method={"kind": "galore", "rank": 64}, **APART),
]

GRADNORMLORP = {"kind": "gradnormlorp", "rank": 16, "projection_rank": 4}
WIDE = {"kind": "gradnormlorp", "rank": 96, "projection_rank": 80}
EIGHT_BIT = {"optimizer": "adamw-8bit"}

METHODS = [
    case("llama", method=GRADNORMLORP),
    case("llama", method={**GRADNORMLORP, "projection": "one-sided"}, step={"checkpointing": "full"}),
    case("llama", method={**GRADNORMLORP, "norm": "exact"}),
    case("llama", method={**GRADNORMLORP, "norm": "exact"}, precision="fp32"),
    case("llama", method=WIDE, **EIGHT_BIT),
    case("llama", method=WIDE, step={"per_layer_updates": True, "checkpointing": "full"}, **EIGHT_BIT),
    case("llama", method=GRADNORMLORP, precision="bf16-mixed"),
    case("llama", method={**GRADNORMLORP, "adapter_dtype": "fp32"}, optimizer={"kind": "adamw", "state_dtype": "fp32"}),
    case(
        "llama", method={**GRADNORMLORP, "rank_pattern": {"down_proj": 64}, "target_modules": ["q_proj", "down_proj"]}
    ),
    case("roberta", method={**GRADNORMLORP, "train_rest": False}, precision="fp32"),
    case("roberta", method=GRADNORMLORP, precision="bf16-mixed", step={"checkpointing": "full"}),
    case("gpt2", method=GRADNORMLORP),
    case("qwen2", method=GRADNORMLORP, step={"grad_accumulation": 2}),
    case("llama", method={**GRADNORMLORP, "implementation": "dora-galore"}),
    case("llama", method={"kind": "galore", "rank": 64}, step={"per_layer_updates": True}),
    case("llama", method={"kind": "galore", "rank": 64}, precision="fp32", step={"per_layer_updates": True}),
    case("llama", method={"kind": "galore", "rank": 64}, step={"per_layer_updates": True}, **EIGHT_BIT),
    case("llama", method=LORA, quantization="nf4"),
    case("llama", method=LORA, quantization="nf4-double", step={"checkpointing": "full"}),
    case("qwen2", method={**LORA, "dropout": 0.1}, quantization="nf4", precision="fp16"),
    case("llama", method=LORA, quantization="nf4", kbit_preparation=False),
    case("llama", method="full", **EIGHT_BIT),
]


def workspaces(estimate: Estimate) -> int:
    """The trace has no cuBLAS."""
    return estimate.workspace_bytes


@pytest.mark.parametrize(("model", "fields"), FAMILIES + SIZES + REGIMES + FP32_EMBEDDINGS + METHODS)
def test_every_phase_agrees_with_the_trace(model: str, fields: dict[str, Any], tmp_path: Path) -> None:
    plan = plan_of(model, fields, tmp_path)
    estimate = predict(plan)
    trace_of_plan = trace(plan)
    traced = {p.name: p for p in trace_of_plan.phases}
    predicted = {p.name: p for p in estimate.phases}
    assert predicted.keys() == traced.keys()
    extra = workspaces(estimate)
    for name, phase in predicted.items():
        traced_phase = traced[name]
        expected = {"peak": traced_phase.peak_bytes, "end": traced_phase.end_bytes}
        bytes_predicted = {"peak": phase.peak_bytes, "end": phase.end_bytes}
        if name != "load":
            bytes_predicted = {k: v - extra for k, v in bytes_predicted.items()}
        for key, value in bytes_predicted.items():
            assert value == pytest.approx(expected[key], rel=TOLERANCE), f"{key} of {name}"
    assert estimate.persistent == {name: trace_of_plan.persistent.get(name, 0) for name in estimate.persistent}  # type: ignore[call-overload]
    assert (estimate.num_parameters, estimate.num_trainable) == (
        trace_of_plan.num_parameters,
        trace_of_plan.num_trainable,
    )
    at_peak = trace_of_plan.at_peak[estimate.peak_phase]
    for category, size in estimate.at_peak.items():
        if category != "workspaces":
            assert size == pytest.approx(at_peak.get(category, 0), abs=TOLERANCE * estimate.allocated_bytes), category


def test_llama_agrees_to_the_byte(tmp_path: Path) -> None:
    plan = plan_of("llama", {"step": {"batch_size": 4, "seq_len": 256}}, tmp_path)
    estimate = predict(plan)
    traced = trace(plan)
    extra = workspaces(estimate)
    assert estimate.phases[2].name == "loss"
    assert estimate.phases[2].peak_bytes - extra == traced.peak("loss")
    assert estimate.phases[2].end_bytes - extra == next(p.end_bytes for p in traced.phases if p.name == "loss")
    assert estimate.phases[4].peak_bytes - extra == traced.peak("update")
    assert (estimate.num_parameters, estimate.num_trainable) == (traced.num_parameters, traced.num_trainable)
