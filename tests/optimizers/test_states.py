"""Optimizer states, gradients and projectors, byte for byte against the real objects after two steps on a CPU."""

import json
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from memplanner.components.optimizers.adamw8bit import AdamW8bit
from memplanner.harness.builders.models import build
from memplanner.harness.builders.optimizers import optimizer_of
from memplanner.plan.training_plan import TrainingPlan
from memplanner.prediction import predict
from memplanner.program.shapes import BF16, FP32, Shape
from memplanner.tape.engine import Param

CONFIG = {
    "model_type": "llama",
    "hidden_size": 72,
    "intermediate_size": 200,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 18,
    "vocab_size": 301,
}


def plan_of(folder: Path, **fields: Any) -> TrainingPlan:
    path = folder / "config.json"
    path.write_text(json.dumps(CONFIG))
    step = {"batch_size": 2, "seq_len": 32, "attention": "eager"}
    return TrainingPlan.model_validate({"model": str(path), "device": "24GiB", "step": step, **fields})


def real_model(plan: TrainingPlan) -> Any:
    """The plan's model with real, small random weights."""
    model, _ = build(plan)
    model = model.to_empty(device="cpu")
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point():
                tensor.normal_(std=0.02)
    return model


def train(model: Any, optimizer: Any) -> None:
    tokens = torch.randint(0, CONFIG["vocab_size"], (2, 32))
    for _ in range(2):
        optimizer.zero_grad()
        model(input_ids=tokens, labels=tokens, use_cache=False).loss.backward()
        optimizer.step()


def storages(values: Any) -> dict[int, int]:
    """Unique storages of all tensors in a nested state: address → bytes."""
    if isinstance(values, torch.Tensor):
        storage = values.untyped_storage()
        return {storage.data_ptr(): storage.nbytes()}
    if isinstance(values, dict):
        values = values.values()
    if isinstance(values, (list, tuple)) or not isinstance(values, (str, int, float, type(None))):
        try:
            children = list(values)
        except TypeError:
            children = list(vars(values).values())
        return {k: v for child in children for k, v in storages(child).items()}
    return {}


def state_bytes(optimizer: Any, *, host_step: bool) -> int:
    """Bytes of the optimizer's state; torch keeps its step counts on the host unless fused."""
    states = [{k: v for k, v in state.items() if not (host_step and k == "step")} for state in optimizer.state.values()]
    return sum(storages(states).values())


TORCH: list[tuple[Any, bool]] = [
    ("adamw", True),
    ({"kind": "adamw", "implementation": "for-loop"}, True),
    ("adamw-fused", False),
    ("sgd", True),
    ({"kind": "sgd", "momentum": 0.9}, True),
    ("adafactor", True),
    ({"kind": "adafactor", "beta1": True}, True),
]


@pytest.mark.parametrize("method", ["full", {"kind": "lora", "rank": 4}, {"kind": "dora", "rank": 4}], ids=str)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(("optimizer", "host_step"), TORCH, ids=str)
def test_torch_and_transformers(optimizer: Any, host_step: bool, precision: str, method: Any, tmp_path: Path) -> None:
    plan = plan_of(tmp_path, optimizer=optimizer, precision=precision, method=method)
    model = real_model(plan)
    params = [p for p in model.parameters() if p.requires_grad]
    real = optimizer_of(plan.optimizer, [{"params": params}])
    train(model, real)
    persistent = predict(plan).persistent
    assert persistent["optimizer_state"] == state_bytes(real, host_step=host_step)
    assert persistent["gradients"] == sum(p.grad.numel() * p.grad.element_size() for p in params)
    trained_adapters = sum(p.numel() * p.element_size() for n, p in model.named_parameters() if "lora_" in n)
    assert persistent["adapters"] == trained_adapters


@pytest.mark.parametrize("method", ["full", {"kind": "lora", "rank": 60}], ids=str)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_bitsandbytes_8bit(precision: str, method: Any, tmp_path: Path) -> None:
    """Tensors below 4096 elements stay whole, odd sizes end in a part block, code books are shared."""
    pytest.importorskip("bitsandbytes")
    plan = plan_of(tmp_path, optimizer="adamw-8bit", precision=precision, method=method)
    model = real_model(plan)
    params = [p for p in model.parameters() if p.requires_grad]
    assert any(p.numel() < 4096 for p in params) or method != "full"
    assert any(p.numel() > 4096 and p.numel() % 256 for p in params)
    real = optimizer_of(plan.optimizer, [{"params": params}])
    train(model, real)
    assert predict(plan).persistent["optimizer_state"] == state_bytes(real, host_step=True)


@pytest.mark.parametrize("numel", [1, 255, 4095, 4096, 4097, 4352, 10_000])
def test_torchao_8bit_rule(numel: int) -> None:
    """Only tensors of at least 4096 elements in whole blocks are quantised (torchao/optim/adam.py, _new_buffer)."""
    param = Param("weight", Shape(n=numel), FP32, count=1, trainable=True)
    state = AdamW8bit(format="torchao").state(param)
    total = sum(t.shape.numel * t.dtype.size for t in state if t.name != "step")
    quantised = numel >= 4096 and numel % 256 == 0
    assert total == (2 * (numel + numel // 256 * 4 + 1024) if quantised else 2 * numel * 4)


def galore_groups(model: Any, rank: int) -> list[dict[str, Any]]:
    """Parameter groups as galore_torch's README makes them."""
    targets = [
        module.weight
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and ("self_attn" in name or "mlp" in name)
    ]
    ids = {id(p) for p in targets}
    rest = [p for p in model.parameters() if id(p) not in ids]
    projected = {"params": targets, "rank": rank, "update_proj_gap": 200, "scale": 0.25, "proj_type": "std"}
    return [{"params": rest}, projected]


@pytest.mark.parametrize("rank", [4, 30, 64, 500])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_galore(precision: str, rank: int, tmp_path: Path) -> None:
    """In fp32 the projector is a slice that pins a whole singular-vector matrix; in bf16 the cast copies it."""
    galore_torch = pytest.importorskip("galore_torch")
    plan = plan_of(tmp_path, method={"kind": "galore", "rank": rank}, precision=precision)
    full = plan.model_copy(update={"method": TrainingPlan(method="full").method})  # type: ignore[arg-type]
    model = real_model(full)
    real = galore_torch.GaLoreAdamW(galore_groups(model, rank), lr=1e-3)
    train(model, real)
    moments = [{k: v for k, v in s.items() if k in ("exp_avg", "exp_avg_sq")} for s in real.state.values()]
    projectors = [s["projector"].ortho_matrix for s in real.state.values() if "projector" in s]
    persistent = predict(plan).persistent
    assert persistent["optimizer_state"] == sum(storages(moments).values())
    assert persistent["projectors"] == sum(storages(projectors).values())


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("shape", [(4, 72, 200), (2, 3, 5, 7), (8, 16, 31)], ids=str)
@pytest.mark.parametrize(
    ("optimizer", "host_step"), [*TORCH, ({"kind": "adamw-8bit", "update_norms": False}, True)], ids=str
)
def test_stacks_of_matrices(optimizer: Any, host_step: bool, shape: tuple[int, ...], dtype: str) -> None:
    """Weights of more than two dimensions, such as (experts, out, in)."""
    settings = TrainingPlan.model_validate({"optimizer": optimizer}).optimizer
    if settings.kind == "adamw-8bit":
        pytest.importorskip("bitsandbytes")
    weight = torch.nn.Parameter(torch.randn(shape).to({"fp32": torch.float32, "bf16": torch.bfloat16}[dtype]))
    real = optimizer_of(settings, [{"params": [weight]}])
    weight.grad = torch.randn_like(weight)
    real.step()
    labels = dict(zip("abcd", shape, strict=False))
    param = Param("experts", Shape(**labels), {"fp32": FP32, "bf16": BF16}[dtype], count=1, trainable=True)
    kept = (*settings.state(param), *(tensor for tensor, _ in settings.shared([param], per_layer=False)))
    assert sum(t.shape.numel * t.dtype.size for t in kept) == state_bytes(real, host_step=host_step)
