"""Builds what a plan says from transformers and peft, on the meta device: real modules, no memory."""

import warnings
from pathlib import Path
from typing import Any

import torch

from memplanner.architectures.reader import Family, read_config
from memplanner.methods.dora import Dora
from memplanner.methods.lora import Lora
from memplanner.plan import TrainingPlan
from memplanner.profiles import find_model

DTYPES = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "bf16-mixed": torch.float32,
    "fp16-mixed": torch.float32,
}
AUTOCAST = {"bf16-mixed": torch.bfloat16, "fp16-mixed": torch.float16}


class NotBuildableError(Exception):
    """The plan asks for something that this harness cannot build yet."""


def build(plan: TrainingPlan, root: Path = Path()) -> tuple[torch.nn.Module, Family]:
    """The plan's model on the meta device, adapters and checkpointing included."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

    profile = find_model(plan.model, root)
    family, _ = read_config(profile.config, profile.name)
    fields = {k: v for k, v in profile.config.items() if k not in ("memplanner", "model_type", "architectures")}
    config = AutoConfig.for_model(profile.config["model_type"], **fields)
    config._attn_implementation = "eager" if plan.step.attention == "eager" else "sdpa"
    factory: Any = AutoModelForSequenceClassification if family.classifier else AutoModelForCausalLM
    if plan.quantization != "none":
        raise NotBuildableError(f"quantization {plan.quantization!r} on fake tensors")
    if plan.method.kind == "gradnormlorp":
        raise NotBuildableError("method 'gradnormlorp'")
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = factory.from_config(config, dtype=DTYPES[plan.precision])
        base = model
        if isinstance(plan.method, Lora):
            model = _adapted(model, plan.method, family, DTYPES[plan.precision])
    if plan.step.checkpoint_every:
        base.activation_checkpointing_enable({"use_reentrant": False}, every_n_layers=plan.step.checkpoint_every)
    if plan.step.asks_input_gradients:
        base.enable_input_require_grads()
    else:
        base.disable_input_require_grads()
    return model.train(), family


def _adapted(model: torch.nn.Module, method: Lora, family: Family, dtype: torch.dtype) -> torch.nn.Module:
    from peft import LoraConfig, TaskType, get_peft_model

    targets = method.target_modules or family.lora_targets
    config = LoraConfig(
        r=method.rank,
        lora_alpha=method.rank,
        lora_dropout=method.dropout,
        target_modules="all-linear" if targets == ("all-linear",) else list(targets),
        rank_pattern=dict(method.rank_pattern),
        use_dora=isinstance(method, Dora),
        task_type=TaskType.SEQ_CLS if family.classifier else TaskType.CAUSAL_LM,
    )
    model = get_peft_model(model, config)  # type: ignore[arg-type,assignment]
    if method.adapter_dtype == "base":  # peft moves adapters to the base's type, but not on the meta device
        for name, param in model.named_parameters():
            if ".lora_" in name:
                param.data = param.data.to(dtype)
    return model


def optimizer_for(plan: TrainingPlan, params: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
    """The plan's optimizer over these parameters."""
    settings = plan.optimizer
    if plan.method.kind in ("galore", "gradnormlorp"):
        raise NotBuildableError(f"the optimizer of method {plan.method.kind!r}")
    if settings.kind == "adamw" and settings.state_dtype == "param":
        way = settings.implementation
        return torch.optim.AdamW(params, lr=1e-4, foreach=way == "foreach", fused=way == "fused")
    if settings.kind == "sgd":
        return torch.optim.SGD(params, lr=1e-4, momentum=settings.momentum)
    if settings.kind == "adafactor":
        from transformers import Adafactor

        return Adafactor(  # type: ignore[no-any-return]
            params, lr=1e-4, relative_step=False, scale_parameter=False, beta1=0.9 if settings.beta1 else None
        )
    if settings.kind == "adamw-8bit" and settings.format == "bitsandbytes":
        import bitsandbytes

        return bitsandbytes.optim.AdamW8bit(params, lr=1e-4)  # type: ignore[no-any-return]
    raise NotBuildableError(f"optimizer {settings!r}")
