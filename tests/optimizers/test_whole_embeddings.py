"""bitsandbytes' 8-bit AdamW as transformers' Trainer uses it: the moments of embeddings are in fp32."""

from pathlib import Path
from typing import Any

import pytest

from memplanner.errors import UserError
from memplanner.plan.merge import merge
from memplanner.prediction import predict
from memplanner.program.shapes import Shape
from tests.models import MODELS, plan_of

WHOLE = {"kind": "adamw-8bit", "whole_embeddings": True}
KEPT = ("parameters", "adapters", "gradients", "optimizer state")
COPIES = {"kind": "lora", "rank": 8, "modules_to_save": ["embed_tokens", "lm_head"]}


def states(model: str, folder: Path, **fields: Any) -> int:
    return predict(plan_of(model, {"precision": "bf16", **fields}, folder)).persistent["optimizer_state"]


def more(numel: int) -> int:
    """What whole moments of a table take more than quantised ones: 8 bytes an element, not 2, and no absmax."""
    return 6 * numel - 2 * 4 * Shape(blocks=-(-numel // 256)).numel


@pytest.mark.parametrize("model", ["llama", "qwen2"])
@pytest.mark.parametrize("method", ["full", COPIES], ids=["full", "copies"])
def test_the_table_alone_is_whole(model: str, method: Any, tmp_path: Path) -> None:
    """Of llama the head is a matrix of its own, and stays in 8 bits; of qwen2 it is the table. Copies are two."""
    config = MODELS[model]
    table = config["vocab_size"] * config["hidden_size"]
    quantised = states(model, tmp_path, method=method, optimizer="adamw-8bit")
    assert states(model, tmp_path, method=method, optimizer=WHOLE) - quantised == more(table)


def test_every_table_of_bert(tmp_path: Path) -> None:
    config = MODELS["bert"]
    rows = config["vocab_size"], config["max_position_embeddings"]
    quantised = states("bert", tmp_path, method="full", optimizer="adamw-8bit")
    whole = states("bert", tmp_path, method="full", optimizer=WHOLE)
    assert whole - quantised == sum(more(n * config["hidden_size"]) for n in rows), "two token types are whole anyway"


def test_a_frozen_table_has_no_moments(tmp_path: Path) -> None:
    lora = {"kind": "lora", "rank": 8}
    assert states("llama", tmp_path, method=lora, optimizer=WHOLE) == states(
        "llama", tmp_path, method=lora, optimizer="adamw-8bit"
    )


@pytest.mark.parametrize(
    ("model", "fields"),
    [
        ("llama", {"method": "full", "precision": "bf16"}),
        ("qwen2", {"method": "full", "precision": "bf16-mixed", "optimizer": {**WHOLE, "is_paged": True}}),
        ("llama", {"method": COPIES, "precision": "bf16"}),
        ("gpt2", {"method": "full", "precision": "bf16", "step": {"per_layer_updates": True}}),
        ("bert", {"method": "full", "precision": "fp32"}),
    ],
    ids=["llama", "qwen2-paged", "copies", "gpt2-per-layer", "bert"],
)
def test_as_bitsandbytes_has_them_when_told_like_the_trainer_does(
    model: str, fields: dict[str, Any], tmp_path: Path
) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from memplanner.validation.traces import validate_traces

    plan = plan_of(model, {"optimizer": WHOLE, **fields}, tmp_path)
    validation = validate_traces([("traced", plan, tmp_path)])
    assert not validation.skipped
    rows = [row for row in validation.rows if row.metric in KEPT]
    assert {row.metric for row in rows} >= {"parameters", "optimizer state"}
    assert [row for row in rows if row.predicted_bytes != row.measured_bytes] == []
    assert max(abs(row.error) for row in validation.rows) <= 0.002


@pytest.mark.parametrize("method", ["galore", "gradnormlorp"])
def test_no_other_library_has_it(method: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no library trains .* whole_embeddings"):
        predict(plan_of("llama", {"method": method, "optimizer": WHOLE}, tmp_path))


def test_torchao_has_not(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="whole_embeddings is for format 'bitsandbytes'"):
        merge({"optimizer": {**WHOLE, "format": "torchao"}}, {}, where="plan.toml")
