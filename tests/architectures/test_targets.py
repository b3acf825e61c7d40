"""target_modules and rank_pattern held against peft's own matching, and modules against transformers'."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("transformers")
pytest.importorskip("peft")

import peft
import torch
import transformers
from torch import nn

from memplanner.components.architectures.registry import read_config
from memplanner.components.methods.lora import Lora
from memplanner.errors import UserError
from memplanner.prediction import predict
from tests.models import MODELS, plan_of

Fields = dict[str, Any]


def model_of(family: str) -> nn.Module:
    """transformers' model on the meta device."""
    config = transformers.AutoConfig.for_model(**MODELS[family])
    is_classifier = family in ("bert", "roberta")
    factory: Any = (
        transformers.AutoModelForSequenceClassification if is_classifier else transformers.AutoModelForCausalLM
    )
    with torch.device("meta"):
        model: nn.Module = factory.from_config(config)
    return model


def ranks_in_peft(family: str, fields: Fields) -> dict[str, int]:
    """The adapted modules' ranks, by their paths."""
    task = "SEQ_CLS" if family in ("bert", "roberta") else "CAUSAL_LM"
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on ranks for modules that are no targets
        model = peft.get_peft_model(model_of(family), peft.LoraConfig(r=8, task_type=task, **fields))  # type: ignore[arg-type]
    return {
        name.removeprefix("base_model.model."): module.r["default"]
        for name, module in model.named_modules()
        if isinstance(module, peft.tuners.lora.LoraLayer)
    }


def ranks_here(family: str, fields: Fields) -> Mapping[str, int]:
    description, config = read_config(MODELS[family], "config.json")
    return Lora(rank=8, **fields).ranks(description, config)


@pytest.mark.parametrize("family", MODELS)
def test_a_family_has_transformers_modules(family: str) -> None:
    description, config = read_config(MODELS[family], "config.json")
    modules = description.modules(config)
    real = {name: m for name, m in model_of(family).named_modules() if name}
    assert sorted(modules.all) == sorted(real)
    linear = {name for name, m in real.items() if isinstance(m, nn.Linear) or type(m).__name__ == "Conv1D"}
    assert {*modules.linear, *modules.head} == linear - {*modules.classifier}
    assert {*modules.embeddings} == {name for name, m in real.items() if isinstance(m, nn.Embedding)}
    assert {modules.stack} == {name for name, m in real.items() if isinstance(m, nn.ModuleList)}


@pytest.mark.parametrize("family", MODELS)
def test_defaults_are_pefts(family: str) -> None:
    assert ranks_here(family, {}) == ranks_in_peft(family, {})
    assert ranks_here(family, {"target_modules": "all-linear"}) == ranks_in_peft(
        family, {"target_modules": "all-linear"}
    )


TARGETS: list[Any] = [
    ["q_proj"],
    ["q_proj", "v_proj", "down_proj"],
    ["self_attn.q_proj"],
    ["model.layers.1.self_attn.q_proj", "layers.2.mlp.up_proj"],
    ["1.self_attn.k_proj"],
    r".*\.(q|v)_proj",
    r".*(q|v)_proj",
    r"model\.layers\.\d+\.(mlp|self_attn)\.(up|q|o)_proj",
    r"model.layers.[02].mlp.down_proj",
    r"^(?!.*mlp).*_proj$",
    r"(?:.*?(?:self_attn|attention).*?(?:q_proj|k_proj).*?)|(?:\bmodel\.layers\.[\d]{1,}\.(?:mlp)\.(?:(?:up_proj)))",
    "model.layers.0.self_attn.q_proj",
    "ALL-linear",
]
PATTERNS: list[dict[str, int]] = [
    {},
    {"q_proj": 4},
    {"layers.1.self_attn.q_proj": 64, "q_proj": 2},
    {r"model\.layers\.[12]\.mlp\..*": 5, ".*q_proj": 16},
    {"^model.layers.0.self_attn.q_proj": 6, "self_attn.(q|k)_proj": 7},
    {"up_proj|q_proj": 9, r"layers\.\d\.self_attn\.v_proj": 11},
    {r"\d.mlp.down.proj": 12, "down_proj": 13},
]


@pytest.mark.parametrize("targets", TARGETS, ids=str)
def test_targets_are_those_of_peft(targets: Any) -> None:
    for pattern in PATTERNS:
        fields = {"target_modules": targets, "rank_pattern": pattern}
        assert ranks_here("llama", fields) == ranks_in_peft("llama", fields)


@pytest.mark.parametrize(
    ("family", "targets"),
    [
        ("gpt2", ["c_proj"]),
        ("gpt2", r".*\.h\.1\..*c_(fc|proj)"),
        ("bert", ["dense"]),
        ("bert", ["output.dense"]),
        ("bert", r".*(query|pooler\.dense)"),
        ("roberta", ["dense"]),
        ("roberta", r"roberta\.encoder\.layer\.\d\.attention\.self\.(key|value)"),
    ],
)
def test_targets_of_other_families(family: str, targets: Any) -> None:
    fields = {"target_modules": targets}
    assert ranks_here(family, fields) == ranks_in_peft(family, fields)


SAVED = [
    ("llama", ["embed_tokens", "lm_head"], "all-linear"),
    ("llama", ["norm"], ["q_proj"]),
    ("llama", ["mlp", "1.self_attn.o_proj"], ["q_proj", "up_proj"]),
    ("qwen3", ["lm_head"], ["lm_head", "q_proj", "embed_tokens"]),
    ("gpt2", ["wte", "mlp"], ["c_attn", "c_fc", "wpe", "lm_head"]),
    ("bert", ["pooler"], ["dense", "classifier"]),
    ("roberta", ["roberta.embeddings"], ["query", "word_embeddings"]),
]


@pytest.mark.parametrize(("family", "names", "targets"), SAVED, ids=str)
def test_copies_are_those_of_peft(family: str, names: list[str], targets: Any) -> None:
    task = "SEQ_CLS" if family in ("bert", "roberta") else "CAUSAL_LM"
    lora = peft.LoraConfig(r=8, task_type=task, target_modules=targets, modules_to_save=list(names))  # type: ignore[arg-type]
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on weights that are tied
        model: nn.Module = peft.get_peft_model(model_of(family), lora)  # type: ignore[arg-type]
    end, root = ".modules_to_save.default", "base_model.model."
    copied = {n.removeprefix(root).replace(end, "") for n, _ in model.named_modules() if f"{n}.".find(f"{end}.") > 0}
    adapted = {
        name.removeprefix(root) for name, m in model.named_modules() if isinstance(m, peft.tuners.lora.LoraLayer)
    }
    description, config = read_config(MODELS[family], "config.json")
    method = Lora(rank=8, target_modules=targets, modules_to_save=tuple(names))
    assert method.copied(description, config) == copied
    assert method.ranks(description, config).keys() == adapted


@pytest.mark.parametrize("name", ["layers", "proj", "dropout"])
def test_copies_that_peft_refuses_are_refused(name: str) -> None:
    family, targets = ("bert", ["query"]) if name == "dropout" else ("llama", ["q_proj"])
    lora = peft.LoraConfig(r=8, task_type="CAUSAL_LM", target_modules=targets, modules_to_save=[name])
    with (
        torch.device("meta"),
        pytest.raises((TypeError, ValueError), match=r"cannot be applied|No modules were targeted"),
    ):
        peft.get_peft_model(model_of(family), lora)  # type: ignore[arg-type]
    description, config = read_config(MODELS[family], "config.json")
    with pytest.raises(UserError, match="modules_to_save"):
        Lora(rank=8, target_modules=targets, modules_to_save=[name]).ranks(description, config)  # type: ignore[arg-type]


@pytest.mark.parametrize("targets", [["self_attn"], r".*layers\.0\..*", "q_proj", "all", ["Q_PROJ"], ["model.q_proj"]])
def test_what_peft_refuses_is_refused(targets: Any) -> None:
    with pytest.raises(ValueError, match=r"not supported|not found in the base model"):
        ranks_in_peft("llama", {"target_modules": targets})
    with pytest.raises(UserError, match=r"target_modules"):
        ranks_here("llama", {"target_modules": targets})


@pytest.mark.parametrize("checkpointing", ["none", "full", "every-2"])
@pytest.mark.parametrize(
    "fields",
    [
        {"target_modules": ["layers.1.self_attn.q_proj"]},
        {"target_modules": r".*layers\.[12]\.mlp\.(up|down)_proj", "rank_pattern": {"layers.2.mlp.up_proj": 5}},
    ],
)
def test_a_plan_trains_what_peft_trains(fields: Fields, checkpointing: str, tmp_path: Path) -> None:
    with torch.device("meta"):
        model = peft.get_peft_model(model_of("llama"), peft.LoraConfig(r=8, task_type="CAUSAL_LM", **fields))  # type: ignore[arg-type]
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    plan = plan_of("llama", {"method": {"kind": "lora", **fields}, "step": {"checkpointing": checkpointing}}, tmp_path)
    assert predict(plan).num_trainable == trained
