"""Parameter counts and bytes held against transformers' and peft's modules on the meta device."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("transformers")
pytest.importorskip("peft")

from memplanner.catalogue import all_models
from memplanner.harness.builders.models import build
from memplanner.plan.training_plan import TrainingPlan
from memplanner.prediction import predict
from tests.harness.test_against_trace import MODELS

NAMES = {"torch.float32": "fp32", "torch.bfloat16": "bf16", "torch.float16": "fp16"}

Sizes = Counter[tuple[str, bool]]
"""Bytes by (dtype, trained)."""


def predicted_sizes(plan: TrainingPlan) -> Sizes:
    sizes: Sizes = Counter()
    for param in predict(plan).program.persistent:
        if param.role == "weight":
            sizes[param.dtype.name, param.trainable] += param.num_bytes
    return sizes


def real_sizes(plan: TrainingPlan) -> Sizes:
    sizes: Sizes = Counter()
    for param in {id(p): p for p in build(plan)[0].parameters()}.values():
        sizes[NAMES[str(param.dtype)], param.requires_grad] += param.numel() * param.element_size()
    return sizes


@pytest.mark.parametrize("name", [m.id for m in all_models()])
def test_every_bundled_model(name: str) -> None:
    plan = TrainingPlan.model_validate({"model": name, "device": "24GiB"})
    estimate = predict(plan)
    assert estimate.model.parameters == estimate.num_parameters == estimate.num_trainable
    assert predicted_sizes(plan) == real_sizes(plan)


ADAPTERS: list[dict[str, Any]] = [
    {"kind": "lora", "rank": 8},
    {"kind": "lora", "rank": 3, "target_modules": ["all-linear"]},
    {"kind": "lora", "rank": 8, "adapter_dtype": "base"},
    {"kind": "lora", "rank": 8, "target_modules": ["all-linear"], "rank_pattern": {"q_proj": 2, "c_fc": 5, "query": 1}},
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
    assert predicted_sizes(plan) == real_sizes(plan)
