"""Builds what a plan says from transformers, peft, bitsandbytes, galore_torch and memplanner.gradnormlorp."""

import logging
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from memplanner.catalogue import find_model
from memplanner.components.architectures.registry import Family, read_config
from memplanner.components.methods.dora import Dora
from memplanner.components.methods.galore import Galore
from memplanner.components.methods.gradnormlorp import GradNormLorp
from memplanner.components.methods.lora import Lora
from memplanner.components.optimizers.adamw import AdamW
from memplanner.components.optimizers.adamw8bit import AdamW8bit
from memplanner.gradnormlorp import GradNormLoRPAdamW, apply_gradnormlorp, parameter_groups
from memplanner.gradnormlorp.moments import StateFormat
from memplanner.harness.errors import NotBuildableError
from memplanner.plan.training_plan import CrossEntropy, TrainingPlan

DTYPES = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "bf16-mixed": torch.float32,
    "fp16-mixed": torch.float32,
}
AUTOCAST = {"bf16-mixed": torch.bfloat16, "fp16-mixed": torch.float16}

LEARNING_RATE = 1e-4


def build(plan: TrainingPlan, root: Path = Path(), *, device: str = "meta") -> tuple[nn.Module, Family]:
    """The plan's model with random weights on the device, adapters and checkpointing included."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

    profile = find_model(plan.model, root)
    family, _ = read_config(profile.config, profile.name)
    fields = {k: v for k, v in profile.config.items() if k not in ("memplanner", "model_type", "architectures")}
    config = AutoConfig.for_model(profile.config["model_type"], **fields)
    config.use_cache = False
    config._attn_implementation = _ATTENTION.get(plan.step.attention, "sdpa")
    if plan.step.loss.kind != "cross-entropy":
        raise NotBuildableError(f"loss {plan.step.loss.kind!r}: transformers has no such loss of its own")
    factory: Any = AutoModelForSequenceClassification if family.classifier else AutoModelForCausalLM
    if isinstance(plan.step.loss, CrossEntropy) and plan.step.loss.shifts == "logits":
        raise NotBuildableError("a loss that shifts logits: this transformers shifts labels")
    dtype = DTYPES[plan.precision] if plan.master_weights else AUTOCAST[plan.precision]
    with torch.device(device), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        base = factory.from_config(config, dtype=dtype)
        if plan.quantization != "none":
            base = _quantised(base, plan)
        # peft gives adapters the base weight's type where that is a floating one.
        model = _adapted(base, plan.method, family, dtype if plan.quantization == "none" else torch.float32)
    if plan.step.checkpoint_every:
        base.activation_checkpointing_enable(
            {"use_reentrant": False, "context_fn": recomputing}, every_n_layers=plan.step.checkpoint_every
        )
    if plan.step.asks_input_gradients:
        base.enable_input_require_grads()
    else:
        base.disable_input_require_grads()
    return model.train(), family


def quiet_libraries() -> None:
    """Before they are imported: transformers remarks on fields that no training step reads, bitsandbytes on kernels for
    inference.
    """
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


_ATTENTION = {"eager": "eager", "flash-attention-2": "flash_attention_2"}


class _Notice:
    """Calls back around what happens inside backward."""

    def __init__(self) -> None:
        self.enter: Callable[[], None] = lambda: None
        self.leave: Callable[[], None] = lambda: None

    def __enter__(self) -> None:
        self.enter()

    def __exit__(self, *_: object) -> None:
        self.leave()


recompute_notice = _Notice()
"""Around every forward pass that checkpointing recomputes; whoever runs a step may hang callbacks on it."""


update_notice = _Notice()
"""Around every optimizer's step inside backward."""


def recomputing() -> tuple[Any, Any]:
    """torch.utils.checkpoint's context_fn: contexts of the first pass and of the recomputed one."""
    import contextlib

    return contextlib.nullcontext(), recompute_notice


def block_linears(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The linear layers inside the model's numbered blocks."""
    for name, module in model.named_modules():
        is_linear = isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"
        if is_linear and any(part.isdecimal() for part in name.split(".")):
            yield name, module


def _quantised(model: nn.Module, plan: TrainingPlan) -> nn.Module:
    """The blocks' linear layers in bitsandbytes' formats; on the meta device they wait to be quantised."""
    import bitsandbytes
    from peft import prepare_model_for_kbit_training

    compute = AUTOCAST.get(plan.precision, DTYPES[plan.precision])
    for name, linear in list(block_linears(model)):
        if not isinstance(linear, nn.Linear):
            raise NotBuildableError(f"quantization {plan.quantization!r} of {type(linear).__name__} layers")
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
    if plan.kbit_preparation == "all":
        prepared: nn.Module = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
        return prepared
    for name, param in model.named_parameters():
        param.requires_grad_(False)
        if plan.kbit_preparation == "norms" and "norm" in name:
            param.data = param.data.float()
    return model


def _adapted(model: nn.Module, method: Any, family: Family, dtype: torch.dtype) -> nn.Module:
    if isinstance(method, Lora):
        return _with_peft(model, method, family, dtype)
    if isinstance(method, GradNormLorp):
        if method.implementation == "dora-galore":
            fields = {"rank", "rank_pattern", "target_modules"}
            as_dora = Dora(**method.model_dump(include=fields), dropout=0.1, adapter_dtype="base")
            if not as_dora.target_modules:
                as_dora = as_dora.model_copy(update={"target_modules": ("all-linear",)})
            adapted = _with_peft(model, as_dora, family, dtype)
            if method.train_rest:
                for name, param in adapted.named_parameters():
                    param.requires_grad_(param.requires_grad or ".base_layer." not in name)
            return adapted
        if method.implementation != "reparameterised":
            raise NotBuildableError(f"implementation {method.implementation!r}: the authors' code is not a package")
        return apply_gradnormlorp(model, method)
    return model


def _with_peft(model: nn.Module, method: Lora, family: Family, dtype: torch.dtype) -> nn.Module:
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


def optimizers_for(plan: TrainingPlan, model: nn.Module) -> list[torch.optim.Optimizer]:
    """The optimizers that one call of step() each makes a step of; those of per-layer updates hang on hooks and step
    inside backward, as does what they do there: step, then free the gradient.
    """
    if plan.method.kind == "gradnormlorp" and plan.method.implementation == "reparameterised":
        made = _gradnormlorp_optimizer(plan, plan.method, model)
        if plan.step.per_layer_updates:
            made.update_in_backward()
        return [made]
    params = [p for p in model.parameters() if p.requires_grad]
    groups = _projected_groups(plan, model)
    if not plan.step.per_layer_updates:
        return [_optimizer(plan, groups or params)]
    projected = {id(p): group for group in groups for p in group["params"] if "rank" in group}
    made_each = []
    for param in params:
        group = projected.get(id(param))
        own = _optimizer(plan, [{**group, "params": [param]}] if group else [param])

        def update(param: torch.Tensor, own: torch.optim.Optimizer = own) -> None:
            with update_notice:
                own.step()
                own.zero_grad()

        param.register_post_accumulate_grad_hook(update)
        made_each.append(own)
    return made_each


def optimizer_for(plan: TrainingPlan, params: list[nn.Parameter]) -> torch.optim.Optimizer:
    """The plan's optimizer over these parameters, of a method that projects nothing."""
    if plan.method.kind in ("galore", "gradnormlorp"):
        raise NotBuildableError(f"the optimizer of method {plan.method.kind!r} wants the model")
    return _optimizer(plan, params)


def _gradnormlorp_optimizer(plan: TrainingPlan, method: GradNormLorp, model: nn.Module) -> GradNormLoRPAdamW:
    settings = plan.optimizer
    state: StateFormat
    if isinstance(settings, AdamW):
        state = settings.state_dtype
    elif isinstance(settings, AdamW8bit) and settings.format == "bitsandbytes":
        state = "8-bit"
    else:
        raise NotBuildableError(f"optimizer {_name(settings)} under GradNormLoRP: it has AdamW's moments only")
    return GradNormLoRPAdamW(parameter_groups(model, method), lr=LEARNING_RATE, state=state)


def _projected_groups(plan: TrainingPlan, model: nn.Module) -> list[dict[str, Any]]:
    """galore_torch's parameter groups, as its README makes them; none for methods that project nothing."""
    method = plan.method
    rank_of: Callable[[str], int]
    if isinstance(method, Galore):
        targets = {n: m.weight for n, m in block_linears(model) if method.is_target(n)}
        rank_of = method.rank_at
    elif isinstance(method, GradNormLorp):
        targets = {n: p for n, p in model.named_parameters() if ".lora_A." in n or ".lora_B." in n}
        rank_of = dict.fromkeys(targets, method.projection_rank).__getitem__
    else:
        return []
    known = {id(p) for p in targets.values()}
    rest = [p for p in model.parameters() if p.requires_grad and id(p) not in known]
    extra = {"update_proj_gap": method.refresh_interval, "scale": 0.25, "proj_type": "std"}
    by_rank: dict[int, list[Any]] = {}
    for name, weight in targets.items():
        by_rank.setdefault(rank_of(name), []).append(weight)
    return [{"params": rest}] * bool(rest) + [{"params": p, "rank": r, **extra} for r, p in by_rank.items()]


def _optimizer(plan: TrainingPlan, params: list[Any]) -> torch.optim.Optimizer:
    settings = plan.optimizer
    if plan.method.kind in ("galore", "gradnormlorp"):
        return _galore(plan, params)
    if isinstance(settings, AdamW):
        if settings.state_dtype != "param":
            raise NotBuildableError(f"torch.optim.AdamW with {settings.state_dtype} moments")
        way = settings.implementation
        return torch.optim.AdamW(params, lr=LEARNING_RATE, foreach=way == "foreach", fused=way == "fused")
    if settings.kind == "sgd":
        return torch.optim.SGD(params, lr=LEARNING_RATE, momentum=settings.momentum, foreach=True)
    if settings.kind == "adafactor":
        from transformers import Adafactor

        return Adafactor(  # type: ignore[no-any-return]
            params,
            lr=LEARNING_RATE,
            relative_step=False,
            scale_parameter=False,
            beta1=0.9 if settings.beta1 else None,
        )
    if settings.format == "bitsandbytes":
        import bitsandbytes

        return bitsandbytes.optim.AdamW8bit(params, lr=LEARNING_RATE)  # type: ignore[no-any-return]
    raise NotBuildableError(f"optimizer {_name(settings)}: torchao is not used by this harness")


def _galore(plan: TrainingPlan, params: list[Any]) -> torch.optim.Optimizer:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import galore_torch
    settings = plan.optimizer
    if isinstance(settings, AdamW) and settings.state_dtype == "param":
        return galore_torch.GaLoreAdamW(params, lr=LEARNING_RATE, no_deprecation_warning=True)  # type: ignore[no-any-return]
    if isinstance(settings, AdamW8bit) and settings.format == "bitsandbytes":
        if plan.step.keep_gradients:
            raise NotBuildableError(
                "keep_gradients with galore's 8-bit AdamW: galore_torch puts the projected gradient in place of the "
                "gradient, and the next backward pass cannot add to it"
            )
        return galore_torch.GaLoreAdamW8bit(params, lr=LEARNING_RATE)  # type: ignore[no-any-return]
    raise NotBuildableError(f"optimizer {_name(settings)} under GaLore: galore_torch has AdamW and AdamW8bit")


def _name(settings: Any) -> str:
    return " ".join(str(value) for value in settings.model_dump().values())
