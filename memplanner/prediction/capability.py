"""What NVIDIA's cards cannot run, or run only slowly, by their compute capability.

Nothing is said of a device given by its size alone, whose capability nobody knows, nor of AMD's cards: those that are
bundled have all of this. flash-attention's setup.py has their architectures among its `allowed_archs` (MI200, MI300 and
RDNA 3, its README.md says), bitsandbytes' README.md in its table, and torch.cuda.is_bf16_supported is true under ROCm.
"""

from collections.abc import Callable
from typing import Final, NamedTuple

from memplanner.catalogue import GpuProfile, capability_of
from memplanner.components.optimizers.adamw8bit import AdamW8bit
from memplanner.errors import Problem, UserError
from memplanner.notes import EmulatedBf16, Note
from memplanner.plan.training_plan import TrainingPlan
from memplanner.program.shapes import BF16
from memplanner.step.assemble import PRECISIONS, numerics_of


class Requirement(NamedTuple):
    """What a setting needs of a card. key, value: the setting. applies: whether a plan has it. instead: what runs on
    older cards as well.
    """

    key: str
    value: str
    applies: Callable[[TrainingPlan], bool]
    capability: float
    instead: str


def _attends_in_bf16(plan: TrainingPlan) -> bool:
    numerics = numerics_of(plan)
    return (numerics.autocast or numerics.weights) is BF16


def _has_bitsandbytes_moments(plan: TrainingPlan) -> bool:
    return isinstance(plan.optimizer, AdamW8bit) and plan.optimizer.format == "bitsandbytes"


REQUIREMENTS: Final = (
    # flash-attention, csrc/flash_attn/flash_api.cpp: "FlashAttention only supports Ampere GPUs or newer."
    Requirement(
        key="step.attention",
        value="'flash-attention-2'",
        applies=lambda plan: plan.step.attention == "flash-attention-2",
        capability=8.0,
        instead="sdpa",
    ),
    # PyTorch, sdp_utils.cpp, can_use_mem_efficient_attention: less_than_sm80_mem_efficient_dtypes are half and float.
    Requirement(
        key="step.attention",
        value="'sdpa-efficient' in bf16",
        applies=lambda plan: plan.step.attention == "sdpa-efficient" and _attends_in_bf16(plan),
        capability=8.0,
        instead="sdpa",
    ),
    # cut_cross_entropy/cce.py: "Cut Cross Entropy requires an ampere GPU or newer."
    Requirement(
        key="step.loss",
        value="'cut-cross-entropy'",
        applies=lambda plan: plan.step.loss.kind == "cut-cross-entropy",
        capability=8.0,
        instead="cross-entropy",
    ),
    # bitsandbytes, docs/source/installation.mdx, "CC Required": LLM.int8() 7.5+, NF4 and 8-bit optimizers 6.0+.
    Requirement(
        key="quantization",
        value="'int8'",
        applies=lambda plan: plan.quantization == "int8",
        capability=7.5,
        instead="nf4",
    ),
    Requirement(
        key="quantization",
        value="'nf4'",
        applies=lambda plan: plan.quantization in ("nf4", "nf4-double"),
        capability=6.0,
        instead="none",
    ),
    Requirement(
        key="optimizer",
        value="'adamw-8bit'",
        applies=_has_bitsandbytes_moments,
        capability=6.0,
        instead="adamw",
    ),
)
"""The compute capabilities that the libraries ask for."""

NATIVE_BF16: Final = 8.0
"""Below it bf16 is emulated, not refused: torch/cuda/__init__.py, is_bf16_supported(including_emulation=True), which is
what autocast (torch/amp/autocast_mode.py) and TrainingArguments(bf16=True) (transformers' is_torch_bf16_gpu_available)
ask; and PyTorch tests matrix products in bf16 from compute capability 5.3 on (common_methods_invocations.py).
"""


def refuse_beyond(plan: TrainingPlan, gpu: GpuProfile | None) -> None:
    """UserError with everything in the plan that this card cannot run."""
    capability = capability_of(gpu)
    problems = [
        Problem(
            where="plan",
            key=need.key,
            message=f"{need.value} needs compute capability {need.capability}; {gpu.name} has {gpu.compute_capability}",
            hint=f"{need.instead} runs there",
        )
        for need in REQUIREMENTS
        if gpu is not None and capability < need.capability and need.applies(plan)
    ]
    if problems:
        raise UserError(*problems)


def remarks_on(plan: TrainingPlan, gpu: GpuProfile | None) -> tuple[Note, ...]:
    """What this card runs, but not as its newer kin do."""
    is_emulated = BF16 in PRECISIONS[plan.precision] and capability_of(gpu) < NATIVE_BF16
    return (EmulatedBf16(),) if is_emulated else ()
