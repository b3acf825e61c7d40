"""Plans drawn at random from everything that a trace can be made of."""

import random
from pathlib import Path
from typing import Any

from memplanner.errors import UserError
from memplanner.plan.training_plan import TrainingPlan
from memplanner.prediction import predict
from tests.models import MODELS, ODD_HEADS, VARIANTS, plan_of

ALIKE = (*MODELS, *VARIANTS, *ODD_HEADS)
"""Models, of which those with sliding windows, odd heads and a single key/value head begin with their family's name."""
QUANTISABLE = ("llama", "mistral", "qwen2", "qwen3")


def draw(seed: int, count: int, folder: Path) -> list[TrainingPlan]:
    """`count` plans that can be; the same for the same seed."""
    rng = random.Random(seed)
    plans: list[TrainingPlan] = []
    while len(plans) < count:
        family = rng.choice(list(MODELS))
        model = rng.choice([name for name in ALIKE if name.split("-")[0] == family])
        try:
            plan = plan_of(model, _fields(rng, model), folder)
            predict(plan)
        except (ValueError, UserError):  # settings that exclude each other
            continue
        plans.append(plan)
    return plans


TASKS = {
    **dict.fromkeys(
        ("llama", "mistral", "qwen2", "qwen3", "gpt2"), ("sequence-classification", "token-classification")
    ),
    **dict.fromkeys(("bert", "roberta"), ("token-classification", "question-answering", "masked-lm")),
}
WITH_DROPOUT = ("gpt2", "roberta", "bert")
"""Models whose configs have dropout in the attention."""


def _attention(rng: random.Random, model: str, precision: str) -> str:
    """PyTorch's math kernel is traced on the CPU's own dropout and autocast rules, which are not CUDA's."""
    kinds = ["sdpa", "sdpa", "eager", "sdpa-efficient", "sdpa-math"]
    kind = rng.choice(kinds)
    return "sdpa" if kind == "sdpa-math" and (model in WITH_DROPOUT or precision.endswith("-mixed")) else kind


def _fields(rng: random.Random, model: str) -> dict[str, Any]:
    family = model.split("-")[0]
    kind = rng.choice(("full", "lora", "lora", "lora", "dora", "galore", "gradnormlorp"))
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
        "attention": _attention(rng, family, precision),
        "padding": rng.random() < 0.15,
        "use_reentrant": rng.random() < 0.2,
        "keep_outputs": rng.random() < 0.2,
        "keep_outputs_until": rng.choice(("backward", "update")),
    }
    step["keep_gradients"] = not step["per_layer_updates"] and rng.random() < 0.2
    if step["checkpointing"] == "none":
        step["use_reentrant"] = False
    quantised = kind == "lora" and family in QUANTISABLE and precision != "fp32" and rng.random() < 0.4
    # Norms in fp32 need autocast: PyTorch multiplies what they give with no head in half precision.
    return {
        "method": _method(rng, kind, family),
        "precision": precision,
        "optimizer": rng.choice(optimizers),
        "quantization": rng.choice(("nf4", "nf4-double")) if quantised else "none",
        "kbit_preparation": rng.choice(("all", "none", "norms") if precision.endswith("-mixed") else ("all", "none")),
        "master_weights": not (precision.endswith("-mixed") and rng.random() < 0.5),
        "task": rng.choice(TASKS[family]) if rng.random() < 0.2 else None,
        "step": step,
    }


PATTERNS = {
    "gpt2": (r".*\.attn\.c_\w+", ["c_attn", "lm_head"], ["wte", "c_fc"], ["h.1.attn.c_attn"]),
    "bert": (r".*\.(query|key)", ["query", "word_embeddings"], ["encoder.layer.1.output.dense"], ["dense"]),
    "llama": (r".*\.self_attn\.[qk]_proj", ["v_proj", "lm_head"], ["q_proj", "embed_tokens"], ["layers.1.mlp.up_proj"]),
}
"""target_modules by family: a regular expression, the head, the embeddings, a longer path."""
COPIES = {
    "gpt2": ("wte", "ln_f", "lm_head"),
    "bert": ("word_embeddings", "key"),
    "llama": ("embed_tokens", "lm_head", "norm"),
}
"""modules_to_save."""


def _method(rng: random.Random, kind: str, family: str) -> dict[str, Any]:
    if kind == "full":
        return {"kind": "full"}
    method: dict[str, Any] = {"kind": kind, "rank": rng.choice((1, 4, 16, 61, 128))}
    if kind in ("lora", "dora"):
        method |= {"dropout": rng.choice((0.0, 0.0, 0.1)), "adapter_dtype": rng.choice(("fp32", "base"))}
        if rng.random() < 0.3:
            method["target_modules"] = ["all-linear"]
        elif rng.random() < 0.4:
            method["target_modules"] = rng.choice(PATTERNS[_layout(family)])
        if rng.random() < 0.25:
            copies = COPIES[_layout(family)]
            method["modules_to_save"] = rng.sample(copies, rng.choice((1, 2)))
        if rng.random() < 0.2:
            method["rank_pattern"] = {rng.choice((r"layers?\.0\..*", "q_proj", "c_attn", "query")): 24}
    if kind == "gradnormlorp":
        method |= {
            "projection_rank": rng.choice((1, 8, 32, 300)),
            "projection": rng.choice(("two-sided", "one-sided")),
            "norm": rng.choice(("detached", "exact")),
            "adapter_dtype": rng.choice(("base", "base", "fp32")),
            "train_rest": rng.random() < 0.7,
        }
    return method


def _layout(family: str) -> str:
    """The family whose modules have the same names."""
    return {"gpt2": "gpt2", "bert": "bert", "roberta": "bert"}.get(family, "llama")
