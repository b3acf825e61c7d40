"""Losses and kernels of other packages, held against their own code on fake tensors, whose Triton kernels do not run.

What these packages allocate, they allocate in Python; a kernel only fills what it is handed. So a trace without its
launches has every tensor. Skipped where the packages are missing, which no other test needs and which need no GPU:
`pip install --no-deps liger-kernel triton` and `cut-cross-entropy` from Apple's or Axolotl's repository.
"""

import contextlib
import importlib
import logging
import unittest.mock
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")
pytest.importorskip("transformers")

from torch._subclasses.fake_tensor import FakeTensor

import memplanner.harness.builders.models as builders
import memplanner.harness.cpu as harness
import memplanner.harness.job as job
from memplanner.harness.fake import Trace, trace
from memplanner.plan.training_plan import TrainingPlan
from memplanner.prediction import predict
from tests.models import plan_of

BLOCK = 512


@contextlib.contextmanager
def without_launches() -> Iterator[None]:
    """Triton's kernels do nothing."""
    jit = importlib.import_module("triton.runtime.jit")

    def chosen(kernel: Any, grid: Any) -> Callable[..., None]:
        return lambda *args, **kwargs: None

    with unittest.mock.patch.object(jit.KernelInterface, "__getitem__", chosen):
        yield


@contextlib.contextmanager
def marked_loss(module: Any, name: str) -> Iterator[None]:
    """The phase "loss" begins where this function is called; and transformers builds such a plan's model."""
    function: Any = getattr(module, name)
    marking: Any = vars(harness)["marking"]
    begins: list[Callable[[], None]] = []

    def marked(*args: Any, **kwargs: Any) -> Any:
        begins[-1]()
        return function(*args, **kwargs)

    def noting(at_loss: Callable[[], None], *around: Any) -> Any:
        begins.append(at_loss)
        return marking(at_loss, *around)

    patch = unittest.mock.patch.object
    with patch(module, name, marked), patch(harness, "marking", noting):
        yield


def built_with(loss: str) -> Any:
    """The harness's model of a plan, which has transformers' loss, for a plan with another one."""
    build = builders.build

    def of_stock_loss(plan: TrainingPlan, *args: Any, **kwargs: Any) -> Any:
        assert plan.step.loss.kind == loss
        stock = TrainingPlan.model_validate(
            {**plan.model_dump(), "step": {**plan.step.model_dump(), "loss": "cross-entropy"}}
        )
        return build(stock, *args, **kwargs)

    return of_stock_loss


def agree(plan: TrainingPlan, traced: Trace, *, within: int) -> None:
    """Every phase's peak and end, to some bytes."""
    estimate = predict(plan)
    of_trace = {p.name: p for p in traced.phases}
    differences = {}
    for phase in estimate.phases:
        extra = 0 if phase.name == "load" else estimate.workspace_bytes
        peak, end = phase.peak_bytes - extra, phase.end_bytes - extra
        differences[phase.name] = peak - of_trace[phase.name].peak_bytes, end - of_trace[phase.name].end_bytes
    assert all(abs(number) <= within for pair in differences.values() for number in pair), str(differences)


@pytest.mark.parametrize("precision", ["bf16", "bf16-mixed"])
@pytest.mark.parametrize("method", ["full", {"kind": "lora", "rank": 16}], ids=["full", "lora"])
@pytest.mark.parametrize("model", ["llama", "qwen2"])
def test_cut_cross_entropy(
    model: str, method: Any, precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("cut_cross_entropy")
    cce = importlib.import_module("cut_cross_entropy.cce")
    utils = importlib.import_module("cut_cross_entropy.transformers.utils")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    monkeypatch.setattr(FakeTensor, "data_ptr", lambda self: 0, raising=False)
    monkeypatch.setattr(
        torch.Tensor, "nonzero", lambda self: self.new_empty((self.numel(), self.dim()), dtype=torch.int64)
    )
    monkeypatch.setattr(cce, "sort_logit_avg", lambda average: torch.argsort(average).to(torch.int32))
    fields: dict[str, Any] = {"method": method, "precision": precision}
    fields |= {"step": {"batch_size": 4, "seq_len": 256, "loss": "cut-cross-entropy"}}
    fields |= {"master_weights": False} if precision.endswith("-mixed") else {}
    plan = plan_of(model, fields, tmp_path)
    modeling = importlib.import_module(f"transformers.models.{model}.modeling_{model}")
    owner = getattr(modeling, {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM"}[model])
    monkeypatch.setattr(owner, "forward", owner.forward)
    importlib.import_module("cut_cross_entropy.transformers").cce_patch(model)
    monkeypatch.setattr(job, "build", built_with("cut-cross-entropy"))
    with without_launches(), marked_loss(utils, "linear_cross_entropy"):
        agree(plan, trace(plan), within=BLOCK)


KERNELS = {"liger-rms-norm": "rms_norm", "liger-rope": "rope", "liger-swiglu": "swiglu"}
"""The plan's words and Liger's own."""


def liger_plan(model: str, kernels: tuple[str, ...], fields: dict[str, Any], folder: Path) -> TrainingPlan:
    step = {"batch_size": 4, "seq_len": 256, "kernels": kernels, **fields.get("step", {})}
    return plan_of(model, {**fields, "step": step}, folder)


LORA = {"kind": "lora", "rank": 16, "target_modules": ["all-linear"]}


@pytest.mark.parametrize(
    ("model", "kernels", "fields"),
    [
        ("llama", ("liger-rms-norm",), {}),
        ("llama", ("liger-rope",), {}),
        ("llama", ("liger-swiglu",), {}),
        ("llama", (*KERNELS,), {}),
        ("llama", (*KERNELS,), {"step": {"loss": "fused"}}),
        ("llama", (*KERNELS,), {"precision": "bf16-mixed", "step": {"loss": "fused"}}),
        ("llama", (*KERNELS,), {"precision": "bf16-mixed", "master_weights": False, "step": {"loss": "fused"}}),
        ("llama", (*KERNELS,), {"method": LORA, "step": {"loss": "fused"}}),
        ("llama", (*KERNELS,), {"method": LORA, "precision": "bf16-mixed", "master_weights": False}),
        ("llama", (*KERNELS,), {"method": LORA, "step": {"checkpointing": "full", "loss": "fused"}}),
        ("llama", (*KERNELS,), {"step": {"attention": "eager"}}),
        ("llama", (*KERNELS,), {"step": {"attention": "sdpa-efficient"}}),
        ("llama", (*KERNELS,), {"step": {"checkpointing": "every-2"}, "optimizer": "adamw-8bit"}),
        ("llama", (*KERNELS,), {"method": LORA, "quantization": "nf4"}),
        (
            "llama",
            (*KERNELS,),
            {
                "method": LORA,
                "quantization": "nf4-double",
                "kbit_preparation": "none",
                "step": {"checkpointing": "full", "loss": "fused"},
            },
        ),
        ("qwen3", (*KERNELS,), {"step": {"loss": "fused"}}),
        ("qwen3", (*KERNELS,), {"method": LORA, "step": {"checkpointing": "full"}}),
        ("qwen2", (*KERNELS,), {"step": {"loss": "fused"}}),
        ("mistral", ("liger-rms-norm", "liger-swiglu"), {"method": {**LORA, "dropout": 0.1}}),
    ],
    ids=str,
)
def test_liger(
    model: str, kernels: tuple[str, ...], fields: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("liger_kernel")
    liger = importlib.import_module("liger_kernel.transformers")
    causal = importlib.import_module("liger_kernel.transformers.model." + model)
    plan = liger_plan(model, kernels, fields, tmp_path)
    modeling = importlib.import_module(f"transformers.models.{model}.modeling_{model}")
    prefix = model.capitalize()
    for name in (f"{prefix}RMSNorm", f"{prefix}MLP", "apply_rotary_pos_emb"):
        monkeypatch.setattr(modeling, name, getattr(modeling, name))
    owner = getattr(modeling, f"{prefix}ForCausalLM")
    monkeypatch.setattr(owner, "forward", owner.forward)
    fused = plan.step.loss.kind == "fused"
    switches = {word: name in kernels for name, word in KERNELS.items()}
    getattr(liger, f"apply_liger_kernel_to_{model}")(**switches, fused_linear_cross_entropy=fused)
    monkeypatch.setattr(FakeTensor, "item", lambda self: 1, raising=False)
    monkeypatch.setattr(torch, "equal", lambda *tensors: True)
    logging.getLogger("liger_kernel").setLevel(logging.CRITICAL)  # a record of a failed import would hold tensors
    with contextlib.ExitStack() as patches:
        patches.enter_context(without_launches())
        if fused:
            monkeypatch.setattr(job, "build", built_with("fused"))
            patches.enter_context(marked_loss(causal, "LigerForCausalLMLoss"))
        traced = trace(plan)
    agree(plan, traced, within=6 * BLOCK)  # what transformers makes of positions, and the gradient of the loss
