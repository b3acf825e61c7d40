"""GaLore's 8-bit optimizer and two-step states of further families, byte for byte against the real objects."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from memplanner.harness.builders.models import build
from memplanner.harness.builders.optimizers import optimizer_of
from memplanner.plan.training_plan import TrainingPlan
from memplanner.prediction import predict
from tests.optimizers.test_states import CONFIG, galore_groups, plan_of, real_model, state_bytes, storages, train


def whole_model(plan: TrainingPlan) -> Any:
    """As real_model, with what leaving the meta device undoes: tied weights and integer buffers."""
    model = real_model(plan)
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    base.tie_weights()
    for name, buffer in base.named_buffers():
        if not buffer.is_floating_point():
            buffer.copy_(
                torch.arange(buffer.numel()).view_as(buffer)
                if name.endswith("position_ids")
                else torch.zeros_like(buffer)
            )
    return model


@pytest.fixture
def galore_8bit(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """galore_torch's GaLoreAdamW8bit; it waits for a GPU after each update, and there is none. One thread is faster for
    matrices as small as these.
    """
    galore_torch = pytest.importorskip("galore_torch")
    pytest.importorskip("bitsandbytes")
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device=None: None)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield galore_torch.GaLoreAdamW8bit
    torch.set_num_threads(threads)


def galore_8bit_after_training(optimizer: Any, precision: str, rank: int, folder: Path) -> tuple[TrainingPlan, Any]:
    plan = plan_of(folder, method={"kind": "galore", "rank": rank}, optimizer="adamw-8bit", precision=precision)
    model = real_model(TrainingPlan.model_validate({**plan.model_dump(), "method": "full"}))
    weights = {p: p.data.untyped_storage().nbytes() for p in model.parameters()}
    real = optimizer(galore_groups(model, rank), lr=1e-3)
    train(model, real)
    assert {p: p.data.untyped_storage().nbytes() for p in model.parameters()} == weights
    return plan, real


@pytest.mark.parametrize("rank", [4, 30, 64, 72, 500])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_galore_8bit(precision: str, rank: int, galore_8bit: Any, tmp_path: Path) -> None:
    """The threshold of 4096 elements is the projected gradient's: at rank 4 all of them stay whole."""
    plan, real = galore_8bit_after_training(galore_8bit, precision, rank, tmp_path)
    # galore_torch passes percentile_clipping=100 by position, where bitsandbytes 0.50 expects max_unorm: every
    # parameter keeps a vector of one fp32 (unorm_vec).
    states = [{k: v for k, v in s.items() if k != "projector"} for s in real.state.values()]
    projectors = [s["projector"].ortho_matrix for s in real.state.values() if "projector" in s]
    quantised = {s["state1"].dtype for s in real.state.values() if "projector" in s}
    assert quantised == {torch.float32} if rank == 4 else torch.uint8 in quantised
    persistent = predict(plan).persistent
    assert persistent["optimizer_state"] == sum(storages(states).values())
    assert persistent["projectors"] == sum(storages(projectors).values())


def test_the_code_books_are_shared(tmp_path: Path) -> None:
    """One signed and one unsigned map of 256 fp32, however many states point at them."""
    pytest.importorskip("bitsandbytes")
    plan = plan_of(tmp_path, optimizer="adamw-8bit")
    model = real_model(plan)
    real = optimizer_of(plan.optimizer, [{"params": list(model.parameters())}])
    train(model, real)
    maps = [state[name] for state in real.state.values() for name in ("qmap1", "qmap2") if name in state]
    assert len(maps) > 2
    assert sorted(storages(maps).values()) == [1024, 1024]


def test_no_code_books_where_every_state_is_whole(tmp_path: Path) -> None:
    """bitsandbytes puts its maps on the device with the first tensor that it quantises (init_state)."""
    pytest.importorskip("bitsandbytes")
    plan = plan_of(tmp_path, optimizer="adamw-8bit", method={"kind": "lora", "rank": 4})
    model = real_model(plan)
    params = [p for p in model.parameters() if p.requires_grad]
    assert max(p.numel() for p in params) < 4096
    real = optimizer_of(plan.optimizer, [{"params": params}])
    train(model, real)
    assert predict(plan).persistent["optimizer_state"] == state_bytes(real, host_step=True)


HEADS: dict[str, dict[str, Any]] = {
    "gpt2": {"model_type": "gpt2", "n_embd": 72, "n_layer": 2, "n_head": 4, "vocab_size": 301, "n_positions": 64},
    "roberta": {
        "model_type": "roberta",
        "hidden_size": 72,
        "intermediate_size": 200,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "vocab_size": 301,
        "max_position_embeddings": 66,
        "type_vocab_size": 1,
        "pad_token_id": 1,
    },
    "qwen3": {**CONFIG, "model_type": "qwen3", "tie_word_embeddings": True},
}


@pytest.mark.parametrize(
    "method",
    ["full", {"kind": "lora", "rank": 61, "target_modules": ["all-linear"]}, {"kind": "dora", "rank": 60}],
    ids=["full", "lora-all-linear", "dora"],
)
@pytest.mark.parametrize("optimizer", ["adamw", "adamw-8bit", "adafactor"])
@pytest.mark.parametrize("family", HEADS)
def test_families(family: str, optimizer: str, method: Any, tmp_path: Path) -> None:
    """Conv1D's stored shape, biases, a tied head, and a classification head that peft copies; in bf16."""
    if optimizer == "adamw-8bit":
        pytest.importorskip("bitsandbytes")
    path = tmp_path / "config.json"
    path.write_text(json.dumps(HEADS[family]))
    step = {"batch_size": 2, "seq_len": 32, "attention": "eager"}
    plan = TrainingPlan.model_validate(
        {"model": str(path), "device": "24GiB", "step": step, "method": method, "optimizer": optimizer}
    )
    model = whole_model(plan)
    classifier = build(plan)[1].tasks[0] == "sequence-classification"
    params = [p for p in model.parameters() if p.requires_grad]
    real = optimizer_of(plan.optimizer, [{"params": params}])
    tokens = torch.randint(2, 301, (2, 32))
    labels = torch.tensor([0, 1]) if classifier else tokens
    for _ in range(2):
        real.zero_grad()
        model(input_ids=tokens, labels=labels).loss.backward()
        real.step()
    persistent = predict(plan).persistent
    assert persistent["optimizer_state"] == state_bytes(real, host_step=True)
    assert persistent["gradients"] == sum(p.grad.numel() * p.grad.element_size() for p in params)
    adapters = sum(p.numel() * p.element_size() for n, p in model.named_parameters() if "lora_" in n)
    assert persistent["adapters"] == adapters
    assert persistent["projectors"] == 0
