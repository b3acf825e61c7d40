"""Applies GradNormLoRP to a model in place, and removes it again."""

import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from memplanner.components.methods.gradnormlorp import GradNormLorp
from memplanner.components.methods.patterns import Work
from memplanner.components.methods.targets import ends_in, is_matched
from memplanner.gradnormlorp.layer import GradNormLoRPLinear
from memplanner.gradnormlorp.optimizer import GradNormLoRPAdamW


def layers(model: nn.Module) -> Iterator[tuple[str, GradNormLoRPLinear]]:
    """The model's GradNormLoRP layers by name."""
    for name, module in model.named_modules():
        if isinstance(module, GradNormLoRPLinear):
            yield name, module


def apply_gradnormlorp(model: nn.Module, settings: GradNormLorp | None = None, *, scale: float = 1.0) -> nn.Module:
    """Put the model's targeted linear layers under GradNormLoRP, in place, and return it.

    settings: ranks, targets, norm and types, by default rank 8 on every linear layer of the model's blocks.
    `target_modules` and `rank_pattern` are read as peft reads them: "all-linear", the ends of module names, or as one
    text a regular expression for whole names; and regular expressions for the ends of names, with other ranks. With
    `train_rest` everything that is not targeted stays as trainable as it is; without it, everything else is frozen
    except a sequence classifier's head.
    scale: s, the factor of I·J.
    ValueError where nothing matches, or the model is under GradNormLoRP already.
    """
    settings = settings or GradNormLorp()
    if settings.implementation != "reparameterised":
        raise ValueError(
            f"implementation {settings.implementation!r} is other code; apply_gradnormlorp makes 'reparameterised'"
        )
    if any(layers(model)):
        raise ValueError("the model already has GradNormLoRP layers")
    targets = dict(_targets(model, settings.target_modules))
    if not targets:
        names = sorted({name.rsplit(".", 1)[-1] for name, _ in _linears(model)})
        raise ValueError(f"target_modules {settings.target_modules} match no linear layer; there are: {names}")
    for target in () if isinstance(settings.target_modules, str) else settings.target_modules:
        if target != "all-linear" and not any(ends_in(name, target) for name in targets):
            warnings.warn(f"target_modules {target!r} matches no linear layer; ignored", stacklevel=2)
    if not settings.train_rest:
        head = _classifier(model)
        for name, param in model.named_parameters():
            param.requires_grad_(head is not None and name.startswith(f"{head}."))
    for name, base in targets.items():
        layer = GradNormLoRPLinear(
            base,
            rank=settings.rank_at(name),
            scale=scale,
            norm=settings.norm,
            dtype=torch.float32 if settings.adapter_dtype == "fp32" else None,
        )
        _replace(model, name, layer)
    return model


def parameter_groups(model: nn.Module, settings: GradNormLorp) -> list[dict[str, Any]]:
    """Two groups for GradNormLoRPAdamW: the factors, with the settings' projection, and whatever else is trained."""
    factors = [p for _, layer in layers(model) for p in (layer.factor_i, layer.factor_j) if p.requires_grad]
    factor_ids = {id(p) for p in factors}
    rest = [p for p in model.parameters() if p.requires_grad and id(p) not in factor_ids]
    projected = {
        "params": factors,
        "projection_rank": settings.projection_rank,
        "projection": settings.projection,
        "refresh_interval": settings.refresh_interval,
    }
    return [projected, {"params": rest}] if rest else [projected]


def merge_and_unload(model: nn.Module) -> nn.Module:
    """Turn the model back into a plain one, in place, with the learned change in its weights."""
    for name, layer in list(layers(model)):
        _replace(model, name, layer.merge())
    return model


def fold(model: nn.Module, optimizer: GradNormLoRPAdamW | None = None) -> None:
    """Add every s·I·J to its W0 and begin new factors, whose moments and projectors the optimizer then drops.

    Without folding the learned change never exceeds rank k, which is too little for pre-training.
    """
    for _, layer in layers(model):
        layer.fold()
        if optimizer is not None:
            optimizer.restart((layer.factor_i, layer.factor_j))


def fold_every(steps: int, model: nn.Module, optimizer: GradNormLoRPAdamW) -> RemovableHandle:
    """Fold after each `steps`-th call of optimizer.step(), until the handle is removed."""
    if steps < 1:
        raise ValueError(f"steps {steps} is not positive")
    count = 0

    def after_step(*_: Any) -> None:
        nonlocal count
        count += 1
        if count % steps == 0:
            fold(model, optimizer)

    return optimizer.register_step_post_hook(after_step)


def _linears(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Every linear layer except the output embedding; GPT-2's Conv1D is one."""
    getter: Any = getattr(model, "get_output_embeddings", None)
    output = getter() if getter is not None else None
    for name, module in model.named_modules():
        is_linear = isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"
        if is_linear and module is not output:
            yield name, module


def _targets(model: nn.Module, targets: tuple[str, ...] | str) -> Iterator[tuple[str, nn.Module]]:
    """The linear layers that `targets` names. Without names, and for "all-linear", these are the layers inside numbered
    blocks, or every layer of a model that has no such blocks.
    """
    linears = dict(_linears(model))
    in_blocks = {name: m for name, m in linears.items() if any(part.isdecimal() for part in name.split("."))}
    work = Work()
    every = not isinstance(targets, str) and ("all-linear" in targets or not targets)
    named = targets if isinstance(targets, str) else tuple(name for name in targets if name != "all-linear")
    for name, module in linears.items():
        if (every and name in (in_blocks or linears)) or is_matched(named, name, work):
            yield name, module


def _classifier(model: nn.Module) -> str | None:
    """The name of a new head for classification or question answering, as transformers calls it."""
    return next(
        (name for name in ("classifier", "score", "qa_outputs") if isinstance(getattr(model, name, None), nn.Module)),
        None,
    )


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)
