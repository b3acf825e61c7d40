"""Small valid inputs of every kind, and the words that their readers know."""

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import memplanner
from memplanner.catalogue import file_of
from memplanner.files.sandbox import profiles_dir
from memplanner.prediction.recorded import shipped, shipped_types
from tests.models import MODELS

PACKAGE = Path(memplanner.__file__).parent
PLAN: dict[str, Any] = {
    "model": "tiny.json",
    "precision": "bf16",
    "quantization": "none",
    "method": {"kind": "lora", "rank": 8, "target_modules": ["q_proj", "v_proj"], "rank_pattern": {"q_proj": 4}},
    "optimizer": {"kind": "adamw", "state_dtype": "fp32"},
    "step": {
        "batch_size": 2,
        "seq_len": 64,
        "grad_accumulation": 1,
        "checkpointing": "every-2",
        "attention": "sdpa",
        "loss": {"kind": "chunked", "chunks": 4},
    },
    "device": {"kind": "gpu", "name": "rtx4090", "context": "500MiB"},
    "allocator": {"expandable_segments": False, "max_split_size": "128MiB"},
    "budget": "20GiB",
    "headroom": "5%",
}
PLANS: tuple[dict[str, Any], ...] = (
    PLAN,
    {"model": "tiny.json", "method": "full", "optimizer": "adamw-8bit", "device": "24GiB"},
    {"model": "tiny.json", "method": {"kind": "galore", "rank": 8}, "step": {"per_layer_updates": True}},
    {"model": "tiny.json", "method": {"kind": "gradnormlorp", "rank": 8, "projection_rank": 4}, "optimizer": "sgd"},
    {"model": "gpt2.json", "task": "token-classification", "num_labels": 5, "method": "dora", "optimizer": "adafactor"},
)
NAMED: tuple[dict[str, Any], ...] = (
    {"precision": "bf16", "plans": {"a": PLAN, "b.c": {"model": "tiny.json", "method": "full"}}},
    {
        "plans": {
            "x": {"from": "axolotl.yml", "model": "tiny.json", "ignore_keys": ["plugins"], "step": {"seq_len": 32}}
        }
    },
    {"plans": {"y": {"from": ["adapter.json", "trainer.json"], "model": "tiny.json"}, "z": {"model": "tiny.json"}}},
)
AXOLOTL: dict[str, Any] = {
    "base_model": "tiny.json",
    "load_in_4bit": True,
    "adapter": "qlora",
    "lora_r": 8,
    "lora_alpha": 16,
    "lora_dropout": 0.05,
    "lora_target_linear": True,
    "lora_target_modules": ["q_proj"],
    "sequence_len": 64,
    "sample_packing": True,
    "micro_batch_size": 2,
    "gradient_accumulation_steps": 4,
    "optimizer": "paged_adamw_8bit",
    "bf16": "auto",
    "gradient_checkpointing": True,
    "flash_attention": True,
    "wandb_project": None,
    "datasets": [{"path": "x", "type": "alpaca"}],
    "special_tokens": {"pad_token": "<pad>"},
}
AXOLOTL_FULL: dict[str, Any] = {
    "base_model": "llama-60m",
    "sequence_len": 128,
    "micro_batch_size": 4,
    "bf16": True,
    "optimizer": "galore_adamw_8bit_layerwise",
    "optim_args": "rank=64,update_proj_gap=100,scale=0.1",
    "optim_target_modules": ["attn", "mlp"],
    "plugins": ["axolotl.integrations.liger.LigerPlugin"],
    "liger_fused_linear_cross_entropy": True,
}
FACTORY: dict[str, Any] = {
    "model_name_or_path": "tiny.json",
    "stage": "sft",
    "do_train": True,
    "finetuning_type": "lora",
    "lora_rank": 8,
    "lora_target": "all",
    "template": "llama3",
    "cutoff_len": 64,
    "output_dir": "saves",
    "per_device_train_batch_size": 1,
    "gradient_accumulation_steps": 8,
    "bf16": True,
    "quantization_bit": 4,
    "use_galore": False,
}
TRAINER: dict[str, Any] = {
    "output_dir": "out",
    "model_name_or_path": "tiny.json",
    "per_device_train_batch_size": 4,
    "gradient_checkpointing": True,
    "gradient_checkpointing_kwargs": {"use_reentrant": False},
    "max_length": 128,
    "bf16": True,
    "optim": "adamw_torch_fused",
    "optim_args": "rank=8",
    "use_peft": True,
    "lora_r": 8,
    "lora_target_modules": "all-linear",
    "fsdp": "",
}
ADAPTER: dict[str, Any] = {
    "peft_type": "LORA",
    "task_type": "CAUSAL_LM",
    "base_model_name_or_path": "tiny.json",
    "r": 8,
    "lora_alpha": 16,
    "lora_dropout": 0.1,
    "target_modules": ["q_proj", "v_proj"],
    "rank_pattern": {"q_proj": 4},
    "alpha_pattern": {},
    "modules_to_save": None,
    "bias": "none",
    "use_dora": False,
}
SUITES: tuple[dict[str, Any], ...] = (
    {
        "description": "small",
        "plan": {"model": "llama-60m", "step": {"seq_len": 64}},
        "group": [
            {
                "name": "ranks",
                "plan": {"method": "lora"},
                "grid": {"method.rank": [4, 8], "step.padding": [True, False]},
                "cap_memory": False,
                "warmup": 1,
                "steps": 0,
            },
            {"name": "methods", "grid": {"method": ["full", {"kind": "galore", "rank": 8}], "optimizer": ["sgd"]}},
        ],
    },
)


@cache
def small_models() -> dict[str, dict[str, Any]]:
    """Configs of every family, so small that a prediction takes a millisecond or two."""
    small = {
        name: config | {key: 1 for key in ("num_hidden_layers", "n_layer") if key in config}
        for name, config in MODELS.items()
    }
    return {"tiny": small["llama"], **small}


SIZES: dict[str, int] = {
    "hidden_size": 256,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "vocab_size": 256,
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 32,
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "num_hidden_layers": 2,
}


@cache
def recorded_models() -> dict[str, dict[str, Any]]:
    """As small ones of every type with a recorded forward pass, with the settings that choose among its programs."""
    return {model_type: _recorded_model(model_type) for model_type in sorted(shipped_types())}


def _recorded_model(model_type: str) -> dict[str, Any]:
    recorded = shipped(model_type)
    assert recorded is not None
    names, defaults = recorded.table["names"], recorded.table["defaults"]
    sizes = {names.get(key, key): size for key, size in SIZES.items() if {key, names.get(key)} & {*defaults}}
    choices = {key: defaults[key] for key in recorded.table["variants"][0]["fields"] if key in defaults}
    return {"model_type": model_type, **choices, **sizes}


@cache
def record() -> dict[str, Any]:
    """A record of a traced run, as the harness writes it."""
    return {
        "schema": "memplanner/measurement/1",
        "id": "tiny-lora",
        "backend": "cuda",
        "date": "2026-01-01T00:00:00+00:00",
        "plan": PLAN,
        "config": small_models()["tiny"],
        "environment": {
            "memplanner": "0.1.0",
            "python": "3.11.7",
            "platform": "Linux x86_64",
            "libraries": {"torch": "2.13.0"},
            "gpu": "NVIDIA H200",
            "gpu_total_bytes": 1 << 37,
            "memory_fraction": 0.5,
        },
        "outcome": {"status": "completed", "message": ""},
        "phases": [
            {
                "name": name,
                "peak_bytes": 3 << 20,
                "end_bytes": 1 << 20,
                "at_peak": {"parameters": 1 << 20, "activations": 2 << 20},
                "reserved_bytes": 4 << 20,
                "device_bytes": 8 << 20,
                "seconds": 0.5,
            }
            for name in ("forward", "backward", "update")
        ],
        "persistent": {"parameters": 1 << 20, "optimizer_state": 1 << 10},
        "num_parameters": 1000,
        "num_trainable": 10,
        "warmup_steps": 1,
        "measured_steps": 2,
        "step_seconds": 0.1,
        "losses": [1.5, 1.25],
        "rank_evidence": [{"name": "q_proj", "shape": [8, 8], "energy": {"4": 0.5}}],
    }


@cache
def published() -> tuple[dict[str, Any], ...]:
    """Single rows of the bundled file, one of a kind."""
    rows = json.loads((profiles_dir() / "published" / "measurements.json").read_text(encoding="utf-8"))["rows"]
    kinds = {(row["method"], row.get("quantization"), row["id"].partition("-")[0]): row for row in rows}
    return tuple({"rows": [row]} for row in kinds.values())


@cache
def gpu() -> str:
    return file_of("gpus", "rtx4090", ".toml").read_text(encoding="utf-8")


@cache
def words_in(*places: str) -> tuple[str, ...]:
    """The words in quotes in some of the package's sources: keys and values that readers look for."""
    files = [file for place in places for file in sorted(PACKAGE.glob(place))]
    found = (word for file in files for word in re.findall(r'"([\w.-]{1,40})"', file.read_text(encoding="utf-8")))
    return tuple(sorted({*found}))
