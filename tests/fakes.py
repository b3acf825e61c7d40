"""A stand-in for predict's Estimate: made-up figures with the real shape, so that reports can be tested alone."""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from memplanner.catalogue import GpuProfile, find_gpu, find_model
from memplanner.notes import Note, OtherKernel, RankAboveMatrix
from memplanner.plan.training_plan import SizeDevice, TrainingPlan
from memplanner.prediction.margin import Margin
from memplanner.timeline import Category, Phase, PhasePeak, TensorRow, Verdict
from memplanner.units import GIB, MIB, parse_size

ROWS = (
    TensorRow(
        name="layers.*.mlp.down_proj.weight",
        category="parameters",
        shape=(4096, 11008),
        dtype="bf16",
        count=32,
        bytes=12 * GIB,
        born="load",
        dies="",
        why="32 × 4096 out × 11008 in × 2 B (bf16)",
    ),
    TensorRow(
        name="logits",
        category="activations",
        shape=(1, 256, 32000),
        dtype="fp32",
        count=1,
        bytes=3 * GIB,
        born="forward",
        dies="backward",
        why="1 batch × 256 seq × 32000 vocab × 4 B (fp32)",
    ),
    TensorRow(
        name="exp_avg",
        category="optimizer_state",
        shape=(),
        dtype="fp32",
        count=1,
        bytes=1 * GIB,
        born="update",
        dies="",
        why="a moment",
    ),
)

MARGIN = Margin(kind="such plans", share=0.01, runs=3, sources=2)


class FakeTimeline:
    def points(self, columns: int | None = None) -> tuple[tuple[Phase, int, int], ...]:
        """The moments are the bytes themselves."""
        rising: list[tuple[Phase, int]] = [("forward", 12 * GIB + i * (GIB // 8)) for i in range(25)]
        falling: list[tuple[Phase, int]] = [("backward", 16 * GIB - i * (GIB // 8)) for i in range(25)]
        points: list[tuple[Phase, int]] = [("load", 12 * GIB), *rising, *falling, ("update", 13 * GIB)]
        return tuple((phase, size, size) for phase, size in points)

    def by_category(self, moment: int) -> dict[Category, int]:
        return {"parameters": 12 * GIB, "activations": moment - 12 * GIB}


@dataclass(frozen=True, kw_only=True)
class FakeEstimate:
    plan: TrainingPlan
    gpu: GpuProfile | None
    total_bytes: int
    limit_bytes: int
    device_bytes: int = 18 * GIB
    live_bytes: int = 16 * GIB
    allocated_bytes: int = 16 * GIB
    unsplit_bytes: int = 0
    reserved_bytes: int = 17 * GIB
    wanted_bytes: int = 17 * GIB
    verdict: Verdict = "fits"
    implementation: str = "transformers + peft"
    notes: tuple[Note, ...] = (
        RankAboveMatrix(rank=1024, smaller_side=512, is_capped=True),
        OtherKernel(kernel="[red]not markup[/red] \x1b[31m"),
    )
    peak_phase: Phase = "backward"
    fragmentation_bytes: int = 1 * GIB
    expandable_saving_bytes: int = 0
    is_squeezed: bool = False
    is_traced: bool = False
    error_margin_bytes: int = 100 * MIB
    margin: Margin = MARGIN
    context_bytes: int = 700 * MIB
    is_context_assumed: bool = False
    num_parameters: int = 6_738_415_616
    num_trainable: int = 1_000_000
    rows: tuple[TensorRow, ...] = ROWS
    live_phases: tuple[PhasePeak, ...] = (
        PhasePeak(name="load", peak_bytes=12 * GIB, end_bytes=12 * GIB),
        PhasePeak(name="forward", peak_bytes=15 * GIB, end_bytes=15 * GIB),
        PhasePeak(name="backward", peak_bytes=16 * GIB, end_bytes=13 * GIB),
    )
    at_peak: dict[Category, int] = field(
        default_factory=lambda: {"parameters": 12 * GIB, "activations": 3 * GIB, "optimizer_state": 1 * GIB}
    )
    persistent: dict[str, int] = field(
        default_factory=lambda: {
            "parameters": 12 * GIB,
            "adapters": MIB,
            "gradients": MIB,
            "optimizer_state": GIB,
            "projectors": 0,
        }
    )

    @property
    def phases(self) -> tuple[PhasePeak, ...]:
        return self.live_phases

    @property
    def is_hopeless(self) -> bool:
        return self.live_bytes + self.context_bytes > self.limit_bytes

    @property
    def margin_bytes(self) -> int:
        return self.limit_bytes - self.device_bytes

    @property
    def tensor_room_bytes(self) -> int:
        return self.limit_bytes - (self.device_bytes - self.live_bytes)

    timeline: FakeTimeline = field(default_factory=FakeTimeline)


def fake_predict(plan: TrainingPlan, *, root: Path = Path()) -> FakeEstimate:
    """18 GiB, less whatever obvious savings the plan names; enough for verdicts to move with the plan."""
    find_model(plan.model, root)
    saved = 2 * GIB * (plan.step.checkpointing == "full") + 3 * GIB * (plan.optimizer.kind == "adamw-8bit")
    saved += 1 * GIB * (plan.method.kind == "lora")
    if isinstance(plan.device, SizeDevice):
        gpu, total = None, parse_size(plan.device.memory)
    else:
        gpu = find_gpu(plan.device.name)
        total = gpu.total.bytes
    limit = min(total, parse_size(plan.budget)) if plan.budget and "%" not in plan.budget else total
    device = 18 * GIB - saved
    return FakeEstimate(
        plan=plan,
        gpu=gpu,
        total_bytes=total,
        limit_bytes=limit,
        device_bytes=device,
        live_bytes=device - 2 * GIB,
        allocated_bytes=device - 2 * GIB,
        verdict="fits" if device + 100 * MIB <= limit else "tight" if device <= limit else "does-not-fit",
    )


def install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every `from memplanner.prediction import predict` find the fake."""
    fake: Any = SimpleNamespace(predict=fake_predict)
    monkeypatch.setitem(sys.modules, "memplanner.prediction", fake)
