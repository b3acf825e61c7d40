"""A recorded forward pass runs on the tape as the family that is written for it, and as a trace of the very step."""

import json
import random
from functools import cache
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("transformers")
pytest.importorskip("peft")

from memplanner.catalogue import capability_of
from memplanner.components.architectures.recorded.settings import Recorded, read_recorded
from memplanner.components.architectures.registry import read_config
from memplanner.harness.builders.models import quiet_libraries
from memplanner.harness.forward.recordings import Source
from memplanner.harness.forward.type_file import table_of, text_of
from memplanner.harness.recording import record
from memplanner.plan.training_plan import TrainingPlan
from memplanner.prediction.estimate import gpu_of
from memplanner.prediction.recorded import recorded_types
from memplanner.program.liveness import Liveness
from memplanner.program.program import StepProgram
from memplanner.step.assemble import assemble
from memplanner.step.run import run
from tests.models import MODELS, plan_of

LORA = {"kind": "lora", "rank": 16}
SMALL = {
    "hidden_size": 256,
    "intermediate_size": 384,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "vocab_size": 1000,
    "moe_intermediate_size": 96,
    "shared_expert_intermediate_size": 160,
    "num_experts": 8,
    "num_local_experts": 8,
    "n_routed_experts": 8,
    "num_experts_per_tok": 2,
}
"""Sizes of a model in whose trace every tensor can be told."""
TOLERANCE = 0.005
"""By which a trace of the CPU's kernels differs, of models so small that tensors of 512 bytes count: its layer norms
keep their numbers per row in bf16.
"""


@cache
def recorded_now(model_type: str) -> Recorded:
    """The type's file, made anew."""
    quiet_libraries()
    return Recorded(json.loads(text_of(table_of([Source({"model_type": model_type})]))))


def step_of(recorded: Recorded, config: dict[str, Any], plan: TrainingPlan) -> StepProgram:
    family, settings = read_recorded(recorded, config, "config.json", attention=plan.step.attention)
    step = assemble(plan, family, settings, compute_capability=capability_of(gpu_of(plan)))
    return run(step, plan.step.batch_size, plan.step.seq_len)[0]


def written(config: dict[str, Any], plan: TrainingPlan) -> StepProgram:
    family, settings = read_config(config, "config.json")
    step = assemble(plan, family, settings, compute_capability=capability_of(gpu_of(plan)))
    return run(step, plan.step.batch_size, plan.step.seq_len)[0]


def persistent(program: StepProgram) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for tensor in program.persistent:
        sizes[tensor.category] = sizes.get(tensor.category, 0) + tensor.num_bytes
    return sizes


def drawn(seed: int) -> dict[str, Any]:
    """A plan's fields at random."""
    rng = random.Random(seed)
    method: Any = rng.choice(
        (
            "full",
            LORA,
            {**LORA, "dropout": 0.1},
            {"kind": "dora", "rank": 8},
            {**LORA, "target_modules": ["all-linear"]},
        )
    )
    methods = ({"kind": "galore", "rank": 16}, {"kind": "gradnormlorp", "rank": 8})
    if rng.random() < 0.2:
        method = rng.choice(methods)
    adapts = isinstance(method, dict) and method["kind"] in ("lora", "dora")
    step = {
        "batch_size": rng.randint(1, 4),
        "seq_len": rng.choice((64, 100, 128, 250)),
        "attention": rng.choice(("sdpa", "sdpa", "eager", "sdpa-efficient", "flash-attention-2")),
        "checkpointing": rng.choice(("none", "full", "every-2")),
        "padding": rng.random() < 0.3,
    }
    if step["attention"] == "flash-attention-2":
        step["padding"] = False
    precision = rng.choice(("bf16", "bf16-mixed", "fp32", "fp16"))
    if step["attention"] == "flash-attention-2" and precision == "fp32":
        step["attention"] = "sdpa"
    quantization = rng.choice(("none", "nf4", "nf4-double")) if adapts and precision.startswith("bf16") else "none"
    return {"method": method, "precision": precision, "quantization": quantization, "step": step}


@pytest.mark.parametrize("seed", range(25))
@pytest.mark.parametrize("model", ["llama", "qwen3"])
def test_recorded_and_written_agree_to_the_byte(model: str, seed: int, tmp_path: Path) -> None:
    plan = plan_of(model, drawn(seed), tmp_path)
    ours, theirs = step_of(recorded_now(model), MODELS[model], plan), written(MODELS[model], plan)
    assert persistent(ours) == persistent(theirs)
    assert [phase[:3] for phase in Liveness(ours).phases] == [phase[:3] for phase in Liveness(theirs).phases]


PLANS: tuple[dict[str, Any], ...] = (
    {"method": "full"},
    {
        "method": {**LORA, "target_modules": ["all-linear"]},
        "precision": "bf16-mixed",
        "step": {"checkpointing": "full"},
    },
    {"method": {**LORA, "target_modules": ["all-linear"]}, "quantization": "nf4", "step": {"batch_size": 1}},
    {"method": "full", "precision": "fp32", "step": {"attention": "eager", "checkpointing": "every-2"}},
)


def small(model_type: str) -> dict[str, Any]:
    """A config.json of the type."""
    text = Source({"model_type": model_type}).text
    names = {key: text.attribute_map.get(key, key) for key in (*SMALL, "num_hidden_layers")}
    fields = text.to_dict()
    sizes = {names[key]: value for key, value in SMALL.items() if isinstance(fields.get(names[key]), int)}
    layers = {names["num_hidden_layers"]: 6}
    padding = {} if getattr(text, "pad_token_id", None) is None else {"pad_token_id": 0}
    return {"model_type": model_type, **sizes, **layers, **padding}


@pytest.mark.parametrize("model_type", [t for t in ("gemma2", "gemma3_text", "olmo2", "phi3") if t in recorded_types()])
def test_recorded_and_traced_agree(model_type: str, tmp_path: Path) -> None:
    """In fresh recordings, so that a new transformers shows."""
    config = small(model_type)
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    for fields in PLANS:
        step = {"batch_size": 2, "seq_len": 64, **fields.get("step", {})}
        plan = TrainingPlan.model_validate({"model": str(tmp_path), "device": "24GiB", **fields, "step": step})
        ours, theirs = step_of(recorded_now(model_type), config, plan), record(plan)
        assert persistent(ours) == persistent(theirs), fields
        base = ours.persistent.total
        for here, there in zip(Liveness(ours).phases, Liveness(theirs).phases, strict=True):
            assert base + here.peak == pytest.approx(base + there.peak, rel=TOLERANCE), (fields, here.name)
            assert base + here.end == pytest.approx(base + there.end, rel=TOLERANCE), (fields, here.name)
