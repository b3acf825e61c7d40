"""A plan's trace: one call that runs its step on fake tensors, for comparison with predictions."""

from dataclasses import dataclass
from pathlib import Path

from memplanner.harness.builders.models import quiet_libraries
from memplanner.harness.cpu import run_fake
from memplanner.harness.job import count_parameters
from memplanner.plan.training_plan import TrainingPlan
from memplanner.timeline import Category, Phase, PhasePeak


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """A traced step, in bytes.

    phases: each phase's peak and end. at_peak: by phase and category. persistent: exact bytes of what outlives a step.
    log: by phase, (bytes, description) of every birth and death; empty unless it was asked for.
    """

    phases: tuple[PhasePeak, ...]
    at_peak: dict[Phase, dict[Category, int]]
    persistent: dict[Category, int]
    num_parameters: int
    num_trainable: int
    log: dict[Phase, list[tuple[int, str]]]

    def peak(self, name: Phase) -> int:
        """The peak of one phase, in bytes."""
        return next(p.peak_bytes for p in self.phases if p.name == name)


def trace(plan: TrainingPlan, *, root: Path = Path(), log: bool = False) -> Trace:
    """Traces a step of the plan's real modules and optimizer on fake tensors, with optimizer states made beforehand."""
    quiet_libraries()
    job, run = run_fake(plan, root, names=log)
    total, trained = count_parameters(job.model)
    order: tuple[Phase, ...] = ("load", "forward", "loss", "backward", "update", "refresh", "steady")
    readings = [run.readings[name] for name in order if name in run.readings]
    return Trace(
        phases=tuple(
            PhasePeak(
                name=r.phase, peak_bytes=r.end_bytes if r.phase == "steady" else r.peak_bytes, end_bytes=r.end_bytes
            )
            for r in readings
        ),
        at_peak={r.phase: r.at_peak for r in readings},
        persistent=run.persistent,
        num_parameters=total,
        num_trainable=trained,
        log=run.log,
    )
