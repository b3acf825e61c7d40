"""What a backend measured of a job, before it becomes a record."""

from dataclasses import dataclass, field

from memplanner.harness.history import Reading
from memplanner.measurement import Outcome
from memplanner.timeline import Category, Phase


@dataclass(kw_only=True)
class RunResult:
    """Readings by phase, in bytes and seconds. A run that ended early has those of the phases that it completed."""

    readings: dict[Phase, Reading] = field(default_factory=dict)
    reserved: dict[Phase, int] = field(default_factory=dict)
    device: dict[Phase, int] = field(default_factory=dict)
    seconds: dict[Phase, float] = field(default_factory=dict)
    persistent: dict[Category, int] = field(default_factory=dict)
    context_bytes: int | None = None
    workspace_bytes: int | None = None
    step_seconds: float | None = None
    refresh_seconds: float | None = None
    losses: list[float] = field(default_factory=list)
    warmup_steps: int = 0
    measured_steps: int = 0
    outcome: Outcome = field(default_factory=lambda: Outcome(status="completed"))
    log: dict[Phase, list[tuple[int, str]]] = field(default_factory=dict)
    """Where names were asked for: (bytes, description) of every birth and (0, "free") of every death."""

    def note(self, loss: float | None) -> None:
        """Append a step's loss; fake tensors have none."""
        if loss is not None:
            self.losses.append(loss)
