"""Parameter counts and bytes held against transformers' and peft's modules on the meta device."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

transformers = pytest.importorskip("transformers")
pytest.importorskip("peft")

import torch

from memplanner.catalogue import all_models, find_model
from memplanner.components.architectures.registry import FAMILIES
from memplanner.harness.builders.models import build
from memplanner.harness.builders.unwritten import config_of
from memplanner.plan.training_plan import TrainingPlan
from memplanner.prediction import predict
from tests.models import MODELS

WIDTHS = {"fp32": 4, "bf16": 2}
MODEL_FILES = sorted(Path(__file__).parents[2].glob("profiles/models/*.json"))
WRITTEN = [path for path in MODEL_FILES if json.loads(path.read_text())["model_type"] in FAMILIES]
TRACED = [path for path in MODEL_FILES if path not in WRITTEN]
NAMES = {"torch.float32": "fp32", "torch.bfloat16": "bf16", "torch.float16": "fp16"}

Sizes = Counter[tuple[str, bool]]
"""Bytes by (dtype, trained)."""


def predicted_sizes(plan: TrainingPlan) -> Sizes:
    sizes: Sizes = Counter()
    for param in predict(plan).program.persistent:
        if param.role == "weight":
            sizes[param.dtype.name, param.trainable] += param.num_bytes
    return sizes


def real_sizes(module: Any) -> Sizes:
    sizes: Sizes = Counter()
    for param in {id(p): p for p in module.parameters()}.values():
        sizes[NAMES[str(param.dtype)], param.requires_grad] += param.numel() * param.element_size()
    return sizes


def test_there_are_models() -> None:
    assert {path.stem for path in MODEL_FILES} == {m.id for m in all_models()}
    assert len(MODEL_FILES) >= 160
    assert len({json.loads(path.read_text())["model_type"] for path in TRACED}) >= 45


@pytest.mark.parametrize("path", TRACED, ids=lambda p: p.stem)
def test_the_count_of_models_that_are_traced(path: Path) -> None:
    """The file's published count is that of the module of the class it names, whole, on the meta device."""
    profile = find_model(path.stem)
    names = profile.config["architectures"]
    model_class = getattr(transformers, names[0])
    with torch.device("meta"):
        module = model_class._from_config(config_of(profile), dtype=torch.bfloat16)
    assert sum(p.numel() for p in {id(p): p for p in module.parameters()}.values()) == profile.parameters


@pytest.mark.parametrize("path", WRITTEN, ids=lambda p: p.stem)
def test_every_bundled_model(path: Path) -> None:
    """The file's published count, the prediction's and that of the module's unique parameters; bytes by dtype, of the
    buffers, and in fp32 and bf16. The module is built once: for the largest models that takes seconds.
    """
    published = json.loads(path.read_text())["memplanner"]["parameters"]
    plan = TrainingPlan.model_validate({"model": path.stem, "device": "24GiB"})
    estimate = predict(plan)
    module, _ = build(plan)
    real = sum(p.numel() for p in {id(p): p for p in module.parameters()}.values())
    assert estimate.num_parameters == estimate.num_trainable == estimate.model.parameters == real == published
    assert predicted_sizes(plan) == real_sizes(module)
    buffers = [p for p in estimate.program.persistent if p.role == "buffer"]
    assert sum(p.num_bytes for p in buffers) == sum(b.numel() * b.element_size() for b in module.buffers())
    for precision, width in WIDTHS.items():
        predicted = predict(TrainingPlan.model_validate({"model": path.stem, "precision": precision}))
        weights = [p for p in predicted.program.persistent if p.role == "weight"]
        buffers = [p for p in predicted.program.persistent if p.role == "buffer"]
        assert sum(p.num_bytes for p in weights) == real * width
        assert predicted.persistent["gradients"] == real * width
        assert predicted.persistent["optimizer_state"] == 2 * real * width
        assert predicted.persistent["parameters"] == real * width + sum(p.num_bytes for p in buffers)


ADAPTERS: list[dict[str, Any]] = [
    {"kind": "lora", "rank": 8},
    {"kind": "lora", "rank": 3, "target_modules": ["all-linear"]},
    {"kind": "lora", "rank": 8, "adapter_dtype": "base"},
    {"kind": "lora", "rank": 8, "target_modules": ["all-linear"], "rank_pattern": {"(q_proj|c_fc|query)": 2}},
    {"kind": "dora", "rank": 8},
    {"kind": "dora", "rank": 4, "target_modules": ["all-linear"]},
]


@pytest.mark.parametrize("method", ADAPTERS, ids=lambda m: "-".join(map(str, m.values())))
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("family", MODELS)
def test_adapters_of_every_family(family: str, precision: str, method: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(MODELS[family]))
    plan = TrainingPlan.model_validate(
        {"model": str(path), "method": method, "precision": precision, "device": "24GiB"}
    )
    assert predicted_sizes(plan) == real_sizes(build(plan)[0])
