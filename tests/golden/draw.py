"""Draws the golden's plans: every family, method, optimizer, precision, quantisation, attention, checkpointing, …

`python -m tests.golden.draw` was run once; plans.jsonl is kept as it is, so that its answers can be compared over time.
"""

import json
import random
from pathlib import Path
from typing import Any

from memplanner.errors import UserError
from memplanner.plan.training_plan import TrainingPlan
from tests.golden.answers import PLANS, answer, predicted

COUNT, SEED = 2400, 20261125
SMALL = ("llama-60m", "gpt2", "roberta-base", "bert-base-uncased", "smollm2-135m", "qwen2.5-0.5b", "qwen3-0.6b")
OTHERS = (
    "llama-130m",
    "llama-350m",
    "llama-1b",
    "llama-7b",
    "tinyllama-1.1b",
    "mistral-7b-v0.3",
    "mistral-nemo-base-2407",
    "gpt2-xl",
    "distilgpt2",
    "roberta-large",
    "bert-large-uncased",
    "qwen2.5-7b",
    "qwen3-8b",
    "llama-3.1-8b",
    "llama-3-70b",
    "yi-6b",
)
VERY_LARGE = ("llama-3.1-405b", "qwen2.5-72b")
MODULES = {
    "gpt2": ("c_attn", "c_proj", "c_fc", "mlp.c_proj"),
    "bert": ("query", "value", "dense", "output.dense"),
    "llama": ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "down_proj", "no_such_module"),
}
BLOCKS = {"gpt2": "h", "bert": "layer", "llama": "layers"}


def family(model: str) -> str:
    if "gpt2" in model:
        return "gpt2"
    return "bert" if "bert" in model else "llama"


def _method(rng: random.Random, model: str) -> dict[str, Any]:
    kind = rng.choice(("full", "lora", "lora", "dora", "galore", "galore", "gradnormlorp", "gradnormlorp"))
    if kind == "full":
        return {"kind": kind}
    method: dict[str, Any] = {"kind": kind, "rank": rng.choice((1, 4, 8, 16, 61, 128, 512, 5000))}
    modules = MODULES[family(model)]
    if rng.random() < 0.25:
        method["target_modules"] = ["all-linear"]
    elif rng.random() < 0.25:
        method["target_modules"] = sorted(rng.sample(modules, 2))
    if rng.random() < 0.15:
        keys = [rng.choice(modules), f"{BLOCKS[family(model)]}.{rng.randrange(4)}.{rng.choice(modules)}"]
        method["rank_pattern"] = {key: rng.choice((2, 32, 100)) for key in keys[: rng.randint(1, 2)]}
    if kind in ("lora", "dora"):
        method |= {"dropout": rng.choice((0.0, 0.0, 0.1)), "adapter_dtype": rng.choice(("fp32", "base"))}
    elif kind == "galore":
        method["accounting"] = rng.choice(("as-coded", "as-published"))
    else:
        method |= {
            "projection_rank": rng.choice((1, 4, 8, 32, 300)),
            "projection": rng.choice(("two-sided", "one-sided")),
            "norm": rng.choice(("detached", "exact")),
            "adapter_dtype": rng.choice(("base", "fp32")),
            "train_rest": rng.random() < 0.6,
        }
        others = ("low-rank-weight-norm-adamw", "weight-norm-galore-adamw", "dora-galore")
        method["implementation"] = rng.choice(("reparameterised",) * 5 + others)
    return method


def _optimizer(rng: random.Random, kind: str) -> Any:
    adamw = {"kind": "adamw", "implementation": rng.choice(("foreach", "foreach", "for-loop", "fused"))}
    bitsandbytes = {"kind": "adamw-8bit", "update_norms": rng.random() < 0.1}
    if kind in ("galore", "gradnormlorp") and rng.random() < 0.85:  # mostly what a library has
        if kind == "gradnormlorp" and rng.random() < 0.3:
            return {"kind": "adamw", "state_dtype": rng.choice(("fp32", "bf16"))}
        return rng.choice(("adamw", "adamw-8bit"))
    return rng.choice(
        (
            adamw,
            adamw | {"state_dtype": rng.choice(("param", "fp32", "bf16"))},
            bitsandbytes,
            bitsandbytes | {"format": "torchao", "update_norms": False},
            {"kind": "sgd", "momentum": rng.choice((0.0, 0.9))},
            {"kind": "adafactor", "beta1": rng.random() < 0.5},
            "adamw-fused",
        )
    )


def _loss(rng: random.Random) -> Any:
    return rng.choice(
        (
            "cross-entropy",
            "cross-entropy",
            {"kind": "cross-entropy", "shifts": "logits"},
            {"kind": "chunked", "chunks": rng.choice((1, 3, 8))},
            "fused",
        )
    )


def _step(rng: random.Random) -> dict[str, Any]:
    accumulation = rng.choice((1, 1, 1, 2, 16))
    step: dict[str, Any] = {
        "batch_size": rng.choice((1, 2, 3, 4, 8, 16)),
        "seq_len": rng.choice((1, 17, 64, 128, 250, 256, 384, 512)),
        "grad_accumulation": accumulation,
        "per_layer_updates": accumulation == 1 and rng.random() < 0.3,
        "checkpointing": rng.choice(("none", "none", "full", "every-2", "every-3", "every-5")),
        "attention": rng.choice(("sdpa", "sdpa", "eager", "sdpa-efficient", "sdpa-math", "flash-attention-2")),
        "padding": rng.random() < 0.15,
        "keep_outputs": rng.random() < 0.25,
        "keep_outputs_until": rng.choice(("backward", "update")),
        "loss": _loss(rng),
    }
    if rng.random() < 0.3:
        step["input_gradients"] = rng.random() < 0.5
    if rng.random() < 0.05:
        step["typical_seq_len"] = max(1, step["seq_len"] // 2)
    step["keep_gradients"] = not step["per_layer_updates"] and rng.random() < 0.2
    return step


def _plan(rng: random.Random) -> dict[str, Any]:
    model = rng.choice(rng.choice((SMALL, SMALL, SMALL, OTHERS, OTHERS, OTHERS, OTHERS, OTHERS, OTHERS, VERY_LARGE)))
    method = _method(rng, model)
    precision = rng.choice(("fp32", "bf16", "bf16", "fp16", "bf16-mixed", "fp16-mixed"))
    quantised = method["kind"] in ("lora", "dora") and rng.random() < 0.4
    plan = {
        "model": model,
        "method": method,
        "precision": precision,
        "optimizer": _optimizer(rng, method["kind"]),
        "quantization": rng.choice(("int8", "nf4", "nf4-double")) if quantised else "none",
        "kbit_preparation": rng.choice(("all", "norms", "none")),
        "step": _step(rng),
        "device": rng.choice(("rtx4090", "t4", "a100-80gb", "h100-sxm", "v100-16gb", "24GiB", "mi300x")),
        "headroom": rng.choice(("0%", "0%", "5%", "1GiB")),
    }
    if precision.endswith("-mixed"):
        plan["master_weights"] = rng.random() < 0.7
    if rng.random() < 0.15:
        plan["budget"] = rng.choice(("90%", "20GiB"))
    if rng.random() < 0.15:
        plan["allocator"] = {"expandable_segments": rng.random() < 0.6}
        if not plan["allocator"]["expandable_segments"]:
            plan["allocator"]["max_split_size"] = rng.choice(("20MiB", "128MiB"))
    return plan


def draw_plan(rng: random.Random) -> dict[str, Any]:
    """A plan that is answered."""
    while True:
        fields = _plan(rng)
        try:
            predicted(TrainingPlan.model_validate(fields))
        except (ValueError, UserError):  # settings that exclude each other
            continue
        return fields


def drawn(count: int, seed: int) -> list[dict[str, Any]]:
    """`count` plans that are answered."""
    rng = random.Random(seed)
    return [draw_plan(rng) for _ in range(count)]


def main() -> None:
    with Path(PLANS).open("w", encoding="utf-8") as file:
        for plan in drawn(COUNT, SEED):
            file.write(json.dumps({"plan": plan, "answer": answer(plan)}, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
