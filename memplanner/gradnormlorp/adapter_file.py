"""Saves what GradNormLoRP has learned as one safetensors file, and loads it onto an untouched base model."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from memplanner.components.methods.gradnormlorp import GradNormLorp
from memplanner.gradnormlorp.model import apply_gradnormlorp, layers

SCHEMA = "memplanner/gradnormlorp/1"


def save_adapter(model: nn.Module, path: Path | str) -> None:
    """Write every trained tensor and the settings that `load_adapter` needs. Folding has changed W0: it is written too.

    ValueError where the model has no GradNormLoRP layer.
    """
    from safetensors.torch import save_file

    adapted = dict(layers(model))
    if not adapted:
        raise ValueError("the model has no GradNormLoRP layer")
    description = {
        "schema": SCHEMA,
        "layers": {
            name: {"rank": layer.rank, "scale": layer.scale, "norm": layer.norm, "num_folds": layer.num_folds}
            for name, layer in adapted.items()
        },
    }
    save_file(_tensors(model), path, metadata={"memplanner": json.dumps(description)})


def load_adapter(model: nn.Module, path: Path | str) -> nn.Module:
    """Load what `save_adapter` wrote onto its base model, in place; a plain model is put under GradNormLoRP first.

    ValueError where `save_adapter` did not write the file, or its tensors do not belong to this model, which then stays
    unchanged.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:  # type: ignore[no-untyped-call]
            text = (file.metadata() or {}).get("memplanner", "")
            saved = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} is not a safetensors file: {error}") from error
    description = _description(path, text)
    _check(model, description, saved, path)
    if not any(layers(model)):
        _apply(model, description, saved)
    parameters = dict(model.named_parameters(remove_duplicate=False))
    with torch.no_grad():
        for name, tensor in saved.items():
            parameters[name].copy_(tensor)
    for name, layer in layers(model):
        layer.num_folds = description[name]["num_folds"]
        if layer.num_folds:
            layer.refresh_row_squares()
    return model


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    folded = {id(layer.base.weight) for _, layer in layers(model) if layer.num_folds}
    return {
        name: param.detach().contiguous()
        for name, param in model.named_parameters()
        if param.requires_grad or id(param) in folded
    }


def _description(path: Path | str, text: str) -> dict[str, Any]:
    try:
        table = json.loads(text)
        if table["schema"] == SCHEMA:
            return dict(table["layers"])
    except (ValueError, KeyError, TypeError):
        pass
    raise ValueError(f"{path} was not written by save_adapter ({SCHEMA})")


def _check(model: nn.Module, description: dict[str, Any], saved: dict[str, Tensor], path: Path | str) -> None:
    """ValueError unless every tensor of the file matches a parameter that the model has, or gets with the layers."""
    present = dict(layers(model))
    shapes = {name: p.shape for name, p in model.named_parameters(remove_duplicate=False)}
    for layer, about in description.items():
        if present:
            if layer not in present or present[layer].rank != about["rank"]:
                raise ValueError(f"{path}: the model has no GradNormLoRP layer {layer} of rank {about['rank']}")
            continue
        weight = shapes.pop(f"{layer}.weight", None)
        if weight is None:
            raise ValueError(f"{path}: the model has no layer {layer}")
        shapes[f"{layer}.base.weight"] = weight
        if f"{layer}.bias" in shapes:
            shapes[f"{layer}.base.bias"] = shapes.pop(f"{layer}.bias")
        m, n = weight if isinstance(model.get_submodule(layer), nn.Linear) else weight[::-1]
        shapes[f"{layer}.factor_i"] = torch.Size((m, about["rank"]))
        shapes[f"{layer}.factor_j"] = torch.Size((about["rank"], n))
        shapes[f"{layer}.magnitude"] = torch.Size((m,))
    for name, tensor in saved.items():
        if name not in shapes:
            raise ValueError(f"{path}: the model has no parameter {name}")
        if shapes[name] != tensor.shape:
            raise ValueError(f"{path}: {name} is {tuple(tensor.shape)}, the model's is {tuple(shapes[name])}")


def _apply(model: nn.Module, description: dict[str, Any], saved: dict[str, Tensor]) -> None:
    first = next(iter(description.values()))
    factor = saved[f"{next(iter(description))}.factor_i"]
    apply_gradnormlorp(
        model,
        GradNormLorp(
            rank=first["rank"],
            rank_pattern={name: about["rank"] for name, about in description.items()},
            target_modules=tuple(description),
            norm=first["norm"],
            adapter_dtype="fp32" if factor.dtype == torch.float32 else "base",
            train_rest=any(".factor_" not in n and not n.endswith(".magnitude") for n in saved),
        ),
        scale=first["scale"],
    )
