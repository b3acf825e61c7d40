"""Small models, and batches for them."""

from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    RobertaConfig,
    RobertaForSequenceClassification,
)

torch.set_num_threads(1)  # these models are too small to share, and pytest's workers share the cores already


def small_llama(**fields: Any) -> Any:
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 176, "num_hidden_layers": 2, "num_attention_heads": 4}
    return LlamaForCausalLM(LlamaConfig(vocab_size=256, use_cache=False, **{**sizes, **fields}))


def small_roberta(num_labels: int = 2) -> Any:
    torch.manual_seed(0)
    return RobertaForSequenceClassification(
        RobertaConfig(
            vocab_size=256,
            hidden_size=64,
            intermediate_size=176,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=132,
            pad_token_id=0,
            num_labels=num_labels,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
    )


def small_gpt2() -> Any:
    torch.manual_seed(0)
    return GPT2LMHeadModel(
        GPT2Config(vocab_size=256, n_embd=64, n_layer=2, n_head=4, attn_pdrop=0.0, resid_pdrop=0.0, embd_pdrop=0.0)
    )


MODELS: dict[str, Callable[[], Any]] = {"llama": small_llama, "roberta": small_roberta, "gpt2": small_gpt2}


def batch_for(model: Any, size: int = 4, seq: int = 32) -> dict[str, torch.Tensor]:
    """Token ids that the model takes, with labels."""
    generator = torch.Generator().manual_seed(3)
    tokens = torch.randint(1, 256, (size, seq), generator=generator)
    if "SequenceClassification" in type(model).__name__:
        return {"input_ids": tokens, "labels": torch.arange(size) % 2}
    return {"input_ids": tokens, "labels": tokens}
