"""Quantised bases through peft and bitsandbytes, by dtype."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("peft")

from memplanner.plan.training_plan import TrainingPlan
from memplanner.prediction import predict

QUANTISED = {
    "model_type": "llama",
    "hidden_size": 96,
    "intermediate_size": 200,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 301,
}


def quantised_model(quantization: str, kbit: bool, method: str) -> Any:
    """transformers' LLaMA, its linear layers but the head replaced by bitsandbytes', with peft's adapters."""
    bnb = pytest.importorskip("bitsandbytes")
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
    from transformers import LlamaConfig, LlamaForCausalLM

    fields = {k: v for k, v in QUANTISED.items() if k != "model_type"}
    model = LlamaForCausalLM(LlamaConfig(**fields)).to(torch.bfloat16)
    for name, module in list(model.named_modules()):
        if not isinstance(module, torch.nn.Linear) or name == "lm_head":
            continue
        size = (module.in_features, module.out_features)
        if quantization == "int8":
            new = bnb.nn.Linear8bitLt(*size, bias=False, has_fp16_weights=False)
            new.weight = bnb.nn.Int8Params(module.weight.data, requires_grad=False, has_fp16_weights=False)
        else:
            double = quantization == "nf4-double"
            new = bnb.nn.Linear4bit(*size, bias=False, compute_dtype=torch.bfloat16, quant_type="nf4")
            new.weight = bnb.nn.Params4bit(
                module.weight.data, requires_grad=False, quant_type="nf4", compress_statistics=double
            )
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, new.to("cpu"))
    model.is_loaded_in_8bit, model.is_loaded_in_4bit = quantization == "int8", quantization != "int8"
    if kbit:
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    config = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], use_dora=method == "dora", task_type="CAUSAL_LM")
    return get_peft_model(model, config)


def quantised_tensors(module: Any) -> list[Any]:
    """What a quantised layer holds beside its parameters."""
    state = getattr(module.weight, "quant_state", None)
    if state is None:
        return [scb] if (scb := getattr(module.weight, "SCB", None)) is not None else []
    tensors = [state.absmax, state.code]
    return [*tensors, state.state2.absmax, state.state2.code, state.offset] if state.nested else tensors


@pytest.mark.parametrize("method", ["lora", "dora"])
@pytest.mark.parametrize("kbit", [True, False], ids=["prepared", "unprepared"])
@pytest.mark.parametrize("quantization", ["int8", "nf4", "nf4-double"])
def test_quantised_base(quantization: str, kbit: bool, method: str, tmp_path: Path) -> None:
    model = quantised_model(quantization, kbit, method)
    real: Counter[tuple[str, bool]] = Counter()
    for param in model.parameters():
        real[str(param.dtype).removeprefix("torch."), param.requires_grad] += param.numel() * param.element_size()
    for module in model.modules():
        if type(module).__name__ in ("Linear4bit", "Linear8bitLt") and not hasattr(module, "lora_A"):
            for tensor in quantised_tensors(module):
                real[str(tensor.dtype).removeprefix("torch."), False] += tensor.numel() * tensor.element_size()
    if quantization == "nf4-double":  # functional.name2qmap keeps the code book, of which every weight has a copy
        real["float32", False] += 256 * 4
    path = tmp_path / "config.json"
    path.write_text(json.dumps(QUANTISED))
    plan = {
        "model": str(path),
        "method": {"kind": method, "rank": 4, "target_modules": ["q_proj", "v_proj"]},
        "quantization": quantization,
        "kbit_preparation": kbit,
    }
    estimate = predict(TrainingPlan.model_validate(plan))
    names = {"fp32": "float32", "bf16": "bfloat16"}
    predicted: Counter[tuple[str, bool]] = Counter()
    for p in estimate.program.persistent:
        if p.role != "state" and "inv_freq" not in p.name:
            predicted[names.get(p.dtype.name, p.dtype.name), p.trainable] += p.num_bytes
    assert predicted == real
