"""What a method does to a model: adapters by peft, layers by memplanner.gradnormlorp, or nothing."""

from functools import singledispatch
from typing import Any

import torch
from torch import nn

from memplanner.components.architectures.family import Family
from memplanner.components.methods.dora import Dora
from memplanner.components.methods.full import Full
from memplanner.components.methods.galore import Galore
from memplanner.components.methods.gradnormlorp import GradNormLorp
from memplanner.components.methods.lora import Lora, PeftAdapter
from memplanner.components.methods.targets import ALL_LINEAR
from memplanner.gradnormlorp import apply_gradnormlorp
from memplanner.harness.builders.targets import linear_names
from memplanner.harness.errors import NotBuildableError


@singledispatch
def adapted(method: object, model: nn.Module, family: Family, dtype: torch.dtype) -> nn.Module:
    """The model as the method trains it. dtype: of adapters that follow the base weights' type."""
    raise NotBuildableError(f"{type(method).__name__}: this harness has no builder for such a method")


@adapted.register
def _full(method: Full, model: nn.Module, family: Family, dtype: torch.dtype) -> nn.Module:
    return model


@adapted.register
def _galore(method: Galore, model: nn.Module, family: Family, dtype: torch.dtype) -> nn.Module:
    return model


@adapted.register
def _lora(method: Lora, model: nn.Module, family: Family, dtype: torch.dtype) -> nn.Module:
    if method.kernels:
        raise NotBuildableError("kernels of Axolotl's: this harness has peft's own layers")
    return _with_peft(method, model, family, dtype, use_dora=False)


@adapted.register
def _dora(method: Dora, model: nn.Module, family: Family, dtype: torch.dtype) -> nn.Module:
    return _with_peft(method, model, family, dtype, use_dora=True)


@adapted.register
def _gradnormlorp(method: GradNormLorp, model: nn.Module, family: Family, dtype: torch.dtype) -> nn.Module:
    if method.is_bare:
        raise NotBuildableError(
            f"implementation {method.implementation!r}: the authors' code cannot be installed as a package"
        )
    if method.implementation == "reparameterised":
        return apply_gradnormlorp(model, method)
    factors = Dora(
        rank=method.rank,
        rank_pattern=method.rank_pattern,
        target_modules=method.target_modules or ("all-linear",),
        dropout=0.1,
        adapter_dtype="base",
    )
    with_dora = _with_peft(factors, model, family, dtype, use_dora=True)
    if method.train_rest:
        for name, param in with_dora.named_parameters():
            param.requires_grad_(param.requires_grad or ".base_layer." not in name)
    return with_dora


def _with_peft(
    method: PeftAdapter, model: nn.Module, family: Family, dtype: torch.dtype, *, use_dora: bool
) -> nn.Module:
    from peft import LoraConfig, get_peft_model
    from peft.tuners.lora import LoraLayer

    if use_dora and getattr(model, "is_loaded_in_4bit", False) and next(model.parameters()).is_meta:
        raise NotBuildableError("DoRA over a 4-bit base on fake tensors: peft dequantises weights that are not there")
    targets = method.target_modules or method.default_targets(family)
    if not method.target_modules and targets == (ALL_LINEAR,):
        targets = linear_names(model)
    config = LoraConfig(
        r=method.rank,
        lora_alpha=method.rank,
        lora_dropout=method.dropout,
        target_modules=_as_peft_takes_them(targets, family),
        rank_pattern=dict(method.rank_pattern),
        modules_to_save=list(method.modules_to_save) or None,
        use_dora=use_dora,
        task_type=_task_type(model),
    )
    with_adapters: nn.Module = get_peft_model(model, config)  # type: ignore[arg-type]
    if method.adapter_dtype == "base":
        for layer in with_adapters.modules():
            if isinstance(layer, LoraLayer):
                _to_type_of_base(layer, dtype)
    for name, param in with_adapters.named_parameters():
        if method.modules_to_save_dtype == "fp32" and ".modules_to_save." in name:
            param.data = param.data.to(torch.float32)
    return with_adapters


def _to_type_of_base(layer: Any, dtype: torch.dtype) -> None:
    """peft moves adapters to the base weight's type, but not on the meta device. dtype: over bitsandbytes' weights."""
    base = layer.get_base_layer()
    kind = dtype if type(base).__module__.startswith("bitsandbytes") else base.weight.dtype
    for name, param in layer.named_parameters():
        if name.startswith("lora_"):
            param.data = param.data.to(kind)


def _task_type(model: nn.Module) -> str | None:
    """peft's TaskType for transformers' class, by which it finds the head that is trained as well; it has none for
    masked language models.
    """
    types = {
        "ForSequenceClassification": "SEQ_CLS",
        "ForTokenClassification": "TOKEN_CLS",
        "ForQuestionAnswering": "QUESTION_ANS",
        "ForMaskedLM": None,
    }
    return next((kind for end, kind in types.items() if type(model).__name__.endswith(end)), "CAUSAL_LM")


def _as_peft_takes_them(targets: tuple[str, ...] | str, family: Family) -> list[str] | str:
    """Names as a list; the word for all of them, and a pattern, as text. Beside other names the word stands for the
    names that it means, as Axolotl writes them out.
    """
    if isinstance(targets, str):
        return targets
    if targets == (ALL_LINEAR,):
        return ALL_LINEAR
    return [*(t for t in targets if t != ALL_LINEAR), *(family.block_targets if ALL_LINEAR in targets else ())]
