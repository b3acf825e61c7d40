"""Losses and kernels of other packages, held against their own code on fake tensors, whose Triton kernels do not run.

What these packages allocate, they allocate in Python; a kernel only fills what it is handed. So a trace without its
launches has every tensor. Skipped where the packages are missing, which no other test needs and which need no GPU:
`pip install --no-deps liger-kernel triton axolotl` and `cut-cross-entropy` from Apple's or Axolotl's repository.
"""

import contextlib
import importlib
import logging
import sys
import types
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
from tests.models import MODELS, plan_of

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
    for phase in estimate.live_phases:
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


LORA_KERNELS = ("mlp", "o", "qkv")


class Switches(dict[str, Any]):
    """Axolotl's config, in which what is not set is None."""

    def __getattr__(self, name: str) -> Any:
        return self.get(name)


def lora_kernels(monkeypatch: pytest.MonkeyPatch) -> Any:
    """axolotl.monkeypatch.lora_kernels without what it imports for other purposes, on fake tensors of the CPU."""
    pytest.importorskip("axolotl")
    stubs: dict[str, dict[str, Any]] = {
        "axolotl.utils.dict": {"DictDefault": Switches},
        "axolotl.utils.callbacks": {},
        "axolotl.utils.callbacks.models": {
            "get_causal_lm_model_cls_prefix": lambda model_type: (model_type.capitalize(), "")
        },
    }
    for name, names in stubs.items():
        module = types.ModuleType(name)
        vars(module).update(names)
        monkeypatch.setitem(sys.modules, name, module)
    utils = importlib.import_module("axolotl.kernels.utils")
    monkeypatch.setattr(utils, "torch_amp_custom_fwd", torch.amp.custom_fwd(device_type="cpu"))
    monkeypatch.setattr(utils, "torch_amp_custom_bwd", torch.amp.custom_bwd(device_type="cpu"))
    quantize = importlib.import_module("axolotl.kernels.quantize")
    monkeypatch.setattr(quantize, "get_ptr", lambda tensor: None)
    monkeypatch.setattr(quantize, "CUDA_STREAM", {torch.device("cpu"): object()})
    monkeypatch.setattr(quantize, "cdequantize_blockwise_fp32", lambda *args: None)
    for dtype in quantize._NF4_DEQUANT_KERNELS:
        monkeypatch.setitem(quantize._NF4_DEQUANT_KERNELS, dtype, lambda *args: None)
    return importlib.import_module("axolotl.monkeypatch.lora_kernels")


HALF = {"precision": "bf16-mixed", "master_weights": False}
DOUBLE = {"quantization": "nf4-double", "kbit_preparation": "none"}
DROPPED = {"dropout": 0.1}
TARGETS = {
    "mlp": ["gate_proj", "up_proj", "down_proj"],
    "qkv": ["q_proj", "k_proj", "v_proj"],
    "o": ["o_proj"],
}


@pytest.mark.parametrize(
    ("model", "kernels", "fields"),
    [
        *(("llama", (kernel,), HALF) for kernel in LORA_KERNELS),
        *(
            ("llama", (kernel,), {**HALF, "method": {"dropout": 0.1, "target_modules": targets}})
            for kernel, targets in TARGETS.items()
        ),
        *(("llama", (kernel,), {**HALF, **DOUBLE}) for kernel in LORA_KERNELS),
        *((model, LORA_KERNELS, HALF) for model in ("llama", "mistral", "qwen2", "qwen3")),
        *((model, LORA_KERNELS, {**HALF, **DOUBLE}) for model in ("llama", "mistral", "qwen2", "qwen3")),
        ("llama", LORA_KERNELS, {"precision": "fp32"}),
        ("llama", LORA_KERNELS, {"precision": "bf16", "method": {"adapter_dtype": "base"}}),
        ("llama", LORA_KERNELS, {**HALF, **DOUBLE, "quantization": "nf4", "precision": "fp16-mixed"}),
        ("llama", LORA_KERNELS, {**HALF, "method": DROPPED, "step": {"checkpointing": "full"}}),
        ("qwen3", LORA_KERNELS, {**HALF, **DOUBLE, "method": DROPPED, "step": {"checkpointing": "every-2"}}),
        ("llama", LORA_KERNELS, {**HALF, **DOUBLE, "step": {"checkpointing": "full", "use_reentrant": True}}),
        ("qwen2", LORA_KERNELS, {**HALF, "step": {"input_gradients": True, "grad_accumulation": 2}}),
        ("llama", LORA_KERNELS, {**HALF, "method": {"target_modules": ["q_proj", "v_proj", "o_proj"]}}),
        ("llama", LORA_KERNELS, {**HALF, **DOUBLE, "step": {"seq_len": 8}}),
        ("qwen3", LORA_KERNELS, {**HALF, "method": {"modules_to_save": ["1.mlp"]}}),
        ("llama", LORA_KERNELS, {**HALF, "method": {"rank_pattern": {"down_proj": 64, "k_proj": 4}}}),
    ],
    ids=str,
)
@pytest.mark.parametrize("vocab_size", [4000, 64])
def test_axolotls_kernels_for_lora(
    model: str,
    kernels: tuple[str, ...],
    fields: dict[str, Any],
    vocab_size: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With a vocabulary of 64 words backward's peak is in a block and not in the head."""
    patches = lora_kernels(monkeypatch)
    monkeypatch.setitem(MODELS, model, MODELS[model] | {"vocab_size": vocab_size})
    method = {**LORA, **fields.get("method", {}), "kernels": kernels}
    plan = liger_plan(model, (), {**fields, "method": method}, tmp_path)
    modeling = importlib.import_module(f"transformers.models.{model}.modeling_{model}")
    attention = getattr(modeling, f"{model.capitalize()}Attention")
    monkeypatch.setattr(attention, "forward", attention.forward)
    switches = Switches(base_model=plan.model, **{f"lora_{kernel}_kernel": True for kernel in kernels})
    build = builders.build
    if kernels != ("mlp",):
        patches.patch_self_attn_lora(switches)
        del attention._original_forward  # by which a second patch is refused

    def patched(plan: TrainingPlan, *args: Any, **kwargs: Any) -> Any:
        stock = TrainingPlan.model_validate(
            {**plan.model_dump(), "method": {**plan.method.model_dump(), "kernels": ()}}
        )
        built, family = build(stock, *args, **kwargs)
        patches.apply_lora_kernel_patches(built, switches)
        return built, family

    monkeypatch.setattr(job, "build", patched)
    with without_launches():
        agree(
            plan, trace(plan), within=6 * BLOCK
        )  # what checkpointing keeps of positions, and the gradient of the loss
