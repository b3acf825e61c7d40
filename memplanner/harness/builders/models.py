"""A plan's model: transformers' modules with random weights, quantised, adapted and checkpointed."""

import contextlib
import itertools
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import torch
from torch import nn

from memplanner.catalogue import find_model
from memplanner.components.architectures.family import Family
from memplanner.components.architectures.registry import FAMILIES, read_config
from memplanner.components.losses.cross_entropy import CrossEntropy
from memplanner.harness.builders.adapters import adapted
from memplanner.harness.builders.factories import factory_of
from memplanner.harness.builders.unwritten import config_of, unwritten
from memplanner.harness.errors import NotBuildableError
from memplanner.harness.notices import recomputing, reentrant
from memplanner.plan.training_plan import TrainingPlan
from memplanner.step.assemble import rule_of

DTYPES = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "bf16-mixed": torch.float32,
    "fp16-mixed": torch.float32,
}
AUTOCAST = {"bf16-mixed": torch.bfloat16, "fp16-mixed": torch.float16}
MOST_MODULES: Final = 1 << 16
"""Of a model; each takes time and memory, in a trace as well. Published ones have a few thousand."""


def build(plan: TrainingPlan, root: Path = Path(), *, device: str = "meta") -> tuple[nn.Module, Family]:
    """The plan's model with random weights on the device, adapters and checkpointing included.

    UnsupportedError where no library trains such a model with the plan's optimizer; NotBuildableError where this
    harness has no builder for it.
    """
    rule_of(plan)
    profile = find_model(plan.model, root)
    family, settings = settings_of(plan, root)
    config = config_of(profile)
    for each in (config, config.get_text_config()):  # which else caches keys and values where nothing is checkpointed
        each.use_cache = False
    if plan.step.loss.kind != "cross-entropy":
        raise NotBuildableError(f"loss {plan.step.loss.kind!r}: no model of transformers has such a loss")
    config.num_labels = settings.num_labels
    if settings.task == "sequence-classification" and getattr(config, "pad_token_id", None) is None:
        config.pad_token_id = 0  # without any, decoders take no batches
    factory = factory_of(config, settings.task, profile.config.get("architectures") or ())
    assert factory is not None, "settings_of refuses a task that there is no class for"
    config._attn_implementation = _attention_of(plan, factory._model_mapping[type(config)])
    if isinstance(plan.step.loss, CrossEntropy) and plan.step.loss.shifts == "logits":
        raise NotBuildableError("a loss that shifts logits: the installed transformers shifts labels")
    dtype = DTYPES[plan.precision] if plan.master_weights else AUTOCAST[plan.precision]
    with torch.device(device), warnings.catch_warnings(), _bounded_modules():
        warnings.simplefilter("ignore")
        try:
            base = factory.from_config(config, dtype=dtype)
        except ImportError as error:
            raise NotBuildableError(f"attention {plan.step.attention!r}: its package is not installed") from error
        if plan.fp32_embeddings:
            _keep_in_fp32(base)
        if plan.quantization != "none":
            base = _quantised(base, plan)
        # peft gives adapters the base weight's type where that is a floating one.
        model = adapted(plan.method, base, family, dtype if plan.quantization == "none" else torch.float32)
    if plan.step.checkpoint_every:
        base.activation_checkpointing_enable(
            {"use_reentrant": False, "context_fn": recomputing}, every_n_layers=plan.step.checkpoint_every
        )
        if plan.step.use_reentrant:
            for module in base.modules():
                if hasattr(module, "_gradient_checkpointing_func"):
                    module._gradient_checkpointing_func = reentrant
    if plan.step.asks_input_gradients:
        base.enable_input_require_grads()
    else:
        base.disable_input_require_grads()
    return model.train(), family


@contextlib.contextmanager
def _bounded_modules() -> Iterator[None]:
    """NotBuildableError where more modules are made than any model has: numbers of config.json multiply each other."""
    made = itertools.count(1)

    def count(*_: object) -> None:
        if next(made) > MOST_MODULES:
            raise NotBuildableError(f"a model of more than {MOST_MODULES:,} modules, which no published one has")

    handle = nn.modules.module.register_module_module_registration_hook(count)
    try:
        yield
    finally:
        handle.remove()


def settings_of(plan: TrainingPlan, root: Path) -> tuple[Family, Any]:
    """The family of the plan's model, and its settings; of a model type that no family is written for, what
    transformers and peft say of it.
    """
    profile = find_model(plan.model, root)
    if profile.config.get("model_type") not in FAMILIES:
        return unwritten(plan, profile)
    return read_config(profile.config, profile.name, task=plan.task, num_labels=plan.num_labels)


def _keep_in_fp32(model: nn.Module) -> None:
    """Axolotl's ModelLoader._convert_embedding_modules_dtype, before training of the whole model."""
    for name, module in model.named_modules():
        if "norm" in name or "embed_tokens" in name or "lm_head" in name:
            module.to(torch.float32)


def quiet_libraries() -> None:
    """Silence remarks that mean nothing here, before the libraries are imported: those of transformers on fields that
    no training step reads, and of bitsandbytes on kernels for inference.
    """
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


def _attention_of(plan: TrainingPlan, model: type[Any]) -> str:
    """transformers' word for the plan's attention. What "sdpa" asks for where a model has no such code is eager."""
    attention = plan.step.attention
    if attention.startswith("sdpa") and not model._supports_sdpa:
        if attention != "sdpa":
            raise NotBuildableError(f"attention {attention!r}: {model.__name__} has eager attention alone")
        return "eager"
    return _ATTENTION.get(attention, "sdpa")


_ATTENTION = {"eager": "eager", "flash-attention-2": "flash_attention_2"}


def block_linears(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The linear layers inside the model's numbered blocks."""
    for name, module in model.named_modules():
        is_linear = isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"
        if is_linear and any(part.isdecimal() for part in name.split(".")):
            yield name, module


def _quantisable(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The linear layers but for the output projection (quantizers/base.py, get_keys_to_not_convert) and a new head,
    which is trained whole, and so has to be named in llm_int8_skip_modules where it has a bias.
    """
    left = model.get_output_embeddings()  # type: ignore[operator]
    for name, module in model.named_modules():
        is_linear = isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"
        if is_linear and module is not left and name.partition(".")[0] not in ("classifier", "score", "qa_outputs"):
            yield name, module


def _quantised(model: nn.Module, plan: TrainingPlan) -> nn.Module:
    """The model with its linear layers in bitsandbytes' formats; those on the meta device stay unquantised."""
    import bitsandbytes
    from peft import prepare_model_for_kbit_training

    compute = AUTOCAST.get(plan.precision, DTYPES[plan.precision])
    for name, linear in list(_quantisable(model)):
        if not isinstance(linear, nn.Linear):
            layers = type(linear).__name__
            raise NotBuildableError(f"quantization {plan.quantization!r} of {layers} layers: only nn.Linear has one")
        weight = linear.weight
        sizes: dict[str, Any] = {"bias": linear.bias is not None, "device": "meta"}
        quantised: Any
        if plan.quantization == "int8":
            quantised = bitsandbytes.nn.Linear8bitLt(
                linear.in_features, linear.out_features, has_fp16_weights=False, **sizes
            )
            quantised.weight = bitsandbytes.nn.Int8Params(weight.data, requires_grad=False, has_fp16_weights=False)
        else:
            quantised = bitsandbytes.nn.Linear4bit(
                linear.in_features,
                linear.out_features,
                compute_dtype=compute,
                compress_statistics=plan.quantization == "nf4-double",
                quant_type="nf4",
                **sizes,
            )
            quantised.weight = bitsandbytes.nn.Params4bit(
                weight.data,
                requires_grad=False,
                quant_type="nf4",
                compress_statistics=plan.quantization == "nf4-double",
                module=quantised,
            )
        if linear.bias is not None:
            quantised.bias = nn.Parameter(linear.bias.data, requires_grad=False)
        if weight.device.type != "meta":
            quantised.to(weight.device)
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, quantised)
    model.is_loaded_in_8bit = plan.quantization == "int8"  # type: ignore[assignment]
    model.is_loaded_in_4bit = plan.quantization != "int8"  # type: ignore[assignment]
    model.config._is_quantized = True  # type: ignore[union-attr]  # as transformers' quantizers leave it
    if plan.kbit_preparation == "all":
        prepared: nn.Module = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
        return prepared
    for name, param in model.named_parameters():
        param.requires_grad_(False)
        if plan.kbit_preparation == "norms" and "norm" in name:
            param.data = param.data.float()
    return model
