"""Plans drawn at random from everything that a trace can be made of."""

import random
from pathlib import Path
from typing import Any

from memplanner.errors import UserError
from memplanner.plan.training_plan import TrainingPlan
from memplanner.prediction import predict
from tests.models import MODELS, plan_of

QUANTISABLE = ("llama", "mistral", "qwen2", "qwen3")


def draw(seed: int, count: int, folder: Path) -> list[TrainingPlan]:
    """`count` plans that can be; the same for the same seed."""
    rng = random.Random(seed)
    plans: list[TrainingPlan] = []
    while len(plans) < count:
        model = rng.choice(list(MODELS))
        try:
            plan = plan_of(model, _fields(rng, model), folder)
            predict(plan)
        except (ValueError, UserError):  # settings that exclude each other
            continue
        plans.append(plan)
    return plans


WITH_DROPOUT = ("gpt2", "roberta", "bert")
"""Models whose configs have dropout in the attention."""


def _attention(rng: random.Random, model: str, precision: str) -> str:
    """PyTorch's math kernel is traced on the CPU's own dropout and autocast rules, which are not CUDA's."""
    kinds = ["sdpa", "sdpa", "eager", "sdpa-efficient", "sdpa-math"]
    kind = rng.choice(kinds)
    return "sdpa" if kind == "sdpa-math" and (model in WITH_DROPOUT or precision.endswith("-mixed")) else kind


def _fields(rng: random.Random, model: str) -> dict[str, Any]:
    kind = rng.choice(("full", "lora", "lora", "dora", "galore", "gradnormlorp", "gradnormlorp"))
    precision = rng.choice(("fp32", "bf16", "bf16", "fp16", "bf16-mixed", "fp16-mixed"))
    optimizers: list[Any] = ["adamw", "adamw-8bit"]
    if kind in ("full", "lora", "dora"):
        optimizers += ["adamw-fused", {"kind": "adamw", "implementation": "for-loop"}, "sgd", "adafactor"]
        optimizers += [{"kind": "sgd", "momentum": 0.9}]
    elif kind == "gradnormlorp":
        optimizers += [{"kind": "adamw", "state_dtype": "fp32"}, {"kind": "adamw", "state_dtype": "bf16"}]
    accumulation = rng.choice((1, 1, 1, 2))
    step = {
        "batch_size": rng.choice((1, 2, 4, 7)),
        "seq_len": rng.choice((17, 64, 128, 250, 384)),
        "grad_accumulation": accumulation,
        "per_layer_updates": accumulation == 1 and rng.random() < 0.25,
        "checkpointing": rng.choice(("none", "none", "full", "every-2")),
        "attention": _attention(rng, model, precision),
        "keep_outputs": rng.random() < 0.2,
        "keep_outputs_until": rng.choice(("backward", "update")),
    }
    step["keep_gradients"] = not step["per_layer_updates"] and rng.random() < 0.2
    quantised = kind == "lora" and model in QUANTISABLE and precision in ("bf16", "fp16") and rng.random() < 0.4
    return {
        "method": _method(rng, kind),
        "precision": precision,
        "optimizer": rng.choice(optimizers),
        "quantization": rng.choice(("nf4", "nf4-double")) if quantised else "none",
        "kbit_preparation": rng.choice(("all", "none")),
        "step": step,
    }


def _method(rng: random.Random, kind: str) -> dict[str, Any]:
    if kind == "full":
        return {"kind": "full"}
    method: dict[str, Any] = {"kind": kind, "rank": rng.choice((1, 4, 16, 61, 128))}
    if kind in ("lora", "dora"):
        method |= {"dropout": rng.choice((0.0, 0.0, 0.1)), "adapter_dtype": rng.choice(("fp32", "base"))}
        if rng.random() < 0.3:
            method["target_modules"] = ["all-linear"]
    if kind == "gradnormlorp":
        method |= {
            "projection_rank": rng.choice((1, 8, 32, 300)),
            "projection": rng.choice(("two-sided", "one-sided")),
            "norm": rng.choice(("detached", "exact")),
            "adapter_dtype": rng.choice(("base", "base", "fp32")),
            "train_rest": rng.random() < 0.7,
        }
    return method
