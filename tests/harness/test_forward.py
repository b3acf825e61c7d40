"""A recorded forward pass runs on the tape as the family that is written for it, and as a trace of the very step."""

import random
from functools import cache
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("transformers")
pytest.importorskip("peft")

from memplanner.catalogue import capability_of, find_model
from memplanner.components.architectures.recorded.settings import Recorded
from memplanner.components.architectures.registry import read_config
from memplanner.files.summed_json import dumps, loads
from memplanner.harness.builders.models import quiet_libraries
from memplanner.harness.forward.against_trace import PLANS, TOLERANCE, compared, small_config, step_of
from memplanner.harness.forward.recordings import Source
from memplanner.harness.forward.type_file import table_of
from memplanner.plan.training_plan import TrainingPlan
from memplanner.prediction.estimate import gpu_of
from memplanner.program.liveness import Liveness
from memplanner.program.program import StepProgram
from memplanner.step.assemble import assemble
from memplanner.step.run import run
from tests.models import MODELS, plan_of

LORA = {"kind": "lora", "rank": 16}


@cache
def recorded_now(model_type: str) -> Recorded:
    """The type's file, made anew."""
    quiet_libraries()
    return Recorded(loads(dumps(table_of([Source({"model_type": model_type})]))))


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


@pytest.mark.parametrize("model_type", ["gemma2", "gemma3_text", "qwen3_moe", "phi3"])
def test_recorded_and_traced_agree(model_type: str) -> None:
    """In fresh recordings, so that a new transformers shows."""
    config = small_config(Source({"model_type": model_type}))
    for plan in PLANS:
        found = compared(recorded_now(model_type), config, plan)
        assert found.kept, found
        assert found.worst <= TOLERANCE, found


@pytest.mark.parametrize(
    ("model", "plan"),
    [("gemma-3-4b", "full, fp32, eager, every second block"), ("qwen2.5-vl-7b", "LoRA over nf4")],
)
def test_a_tower_that_text_does_not_run_is_held_as_in_a_trace(model: str, plan: str) -> None:
    """Its weights are loaded and quantised, adapters are on it, and transformers counts its blocks where it checkpoints
    every second; it gets no gradients and has no optimizer states.
    """
    source = Source(find_model(model).config)
    recorded = Recorded(loads(dumps(table_of([source]))))
    found = compared(recorded, small_config(source), plan)
    assert found.kept, found
    assert found.worst <= TOLERANCE, found
