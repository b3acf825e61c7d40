"""Small models, one of each family that a trace is made of, and plans of them."""

import json
from pathlib import Path
from typing import Any

from memplanner.plan.training_plan import TrainingPlan

MODELS: dict[str, dict[str, Any]] = {
    "llama": {
        "model_type": "llama",
        "hidden_size": 512,
        "intermediate_size": 1376,
        "num_hidden_layers": 3,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "vocab_size": 4000,
    },
    "mistral": {
        "model_type": "mistral",
        "hidden_size": 384,
        "intermediate_size": 1024,
        "num_hidden_layers": 2,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "head_dim": 96,
        "vocab_size": 4000,
        "sliding_window": None,
    },
    "qwen2": {
        "model_type": "qwen2",
        "hidden_size": 448,
        "intermediate_size": 1216,
        "num_hidden_layers": 3,
        "num_attention_heads": 7,
        "num_key_value_heads": 1,
        "vocab_size": 15000,
        "tie_word_embeddings": True,
    },
    "qwen3": {
        "model_type": "qwen3",
        "hidden_size": 512,
        "intermediate_size": 1216,
        "num_hidden_layers": 3,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 128,
        "vocab_size": 5000,
        "tie_word_embeddings": True,
    },
    "gpt2": {"model_type": "gpt2", "n_embd": 384, "n_layer": 3, "n_head": 6, "vocab_size": 8000},
    "roberta": {
        "model_type": "roberta",
        "hidden_size": 384,
        "intermediate_size": 1536,
        "num_hidden_layers": 3,
        "num_attention_heads": 6,
        "vocab_size": 8000,
        "max_position_embeddings": 1026,
        "type_vocab_size": 1,
    },
    "bert": {
        "model_type": "bert",
        "hidden_size": 384,
        "intermediate_size": 1536,
        "num_hidden_layers": 3,
        "num_attention_heads": 6,
        "vocab_size": 8000,
        "max_position_embeddings": 1024,
    },
}

VARIANTS: dict[str, dict[str, Any]] = {
    "mistral-window": {**MODELS["mistral"], "num_hidden_layers": 3, "sliding_window": 128},
    "qwen3-windows": {
        **MODELS["qwen3"],
        "num_hidden_layers": 6,
        "use_sliding_window": True,
        "sliding_window": 128,
        "max_window_layers": 2,
    },
    "qwen2-alternating": {
        **MODELS["qwen2"],
        "num_hidden_layers": 4,
        "use_sliding_window": True,
        "sliding_window": 64,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
    },
}
"""Models of these families with what few models have."""

ODD_HEADS: dict[str, dict[str, Any]] = {
    "llama-36": {**MODELS["llama"], "head_dim": 36},
    "llama-80": {**MODELS["llama"], "head_dim": 80},
    "llama-100": {**MODELS["llama"], "head_dim": 100},
    "llama-208": {**MODELS["llama"], "head_dim": 208},
    "llama-264": {**MODELS["llama"], "head_dim": 264},
    "llama-one-kv-head": {**MODELS["llama"], "head_dim": 36, "num_key_value_heads": 1},
    "mistral-one-kv-head": {**MODELS["mistral"], "head_dim": 100, "num_key_value_heads": 1, "sliding_window": 96},
    "gpt2-100": {**MODELS["gpt2"], "n_embd": 400, "n_head": 4},
    "bert-36": {**MODELS["bert"], "hidden_size": 144, "num_attention_heads": 4},
}
"""Models of these families with heads that few models have: no multiple of 8 wide, wider than 192, one for all keys."""


def plan_of(model: str, fields: dict[str, Any], folder: Path) -> TrainingPlan:
    """A plan of one of the models above, whose config is written to the folder."""
    path = folder / f"{model}.json"
    path.write_text(json.dumps((MODELS | VARIANTS | ODD_HEADS)[model]))
    return TrainingPlan.model_validate({"model": str(path), "device": "24GiB", "precision": "bf16", **fields})
