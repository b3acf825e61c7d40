"""The record of a run: what a step of a plan took, by phase and category. JSON, readable without torch."""

import json
import os
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import Field, ValidationError

from memplanner.errors import UserError
from memplanner.files.parse import file_error, parse_json, read_text
from memplanner.plan.training_plan import TrainingPlan
from memplanner.settings.base import Settings
from memplanner.settings.errors import problems_of
from memplanner.timeline import Category, Phase

SCHEMA: Final = "memplanner/measurement/1"

Backend = Literal["cuda", "cpu", "fake"]
Status = Literal["completed", "out-of-memory", "cannot-be-built", "failed"]
Bytes = Annotated[int, Field(ge=0)]
Seconds = Annotated[float, Field(ge=0)]


class PhaseRecord(Settings):
    """One phase of a step. Peaks are the most within the phase, ends what is left at its end."""

    name: Phase
    peak_bytes: Bytes
    """Allocated: live tensors, each rounded up to the caching allocator's blocks of 512 bytes."""
    end_bytes: Bytes
    at_peak: dict[Category, Bytes] = {}
    """What is alive at the peak, by category; sums to peak_bytes."""
    at_end: dict[Category, Bytes] = {}
    reserved_bytes: Bytes | None = None
    """The most that the caching allocator held (cuda)."""
    device_bytes: Bytes | None = None
    """What the device gave out at the phase's end, context included, in bytes (cuda)."""
    seconds: Seconds | None = None
    """Duration (cuda and cpu)."""


class Outcome(Settings):
    """How the run ended; running out of memory is a result."""

    status: Status
    phase: Phase | None = None
    """Where it ended, unless completed."""
    message: str = ""


class Environment(Settings):
    """Where the run ran."""

    memplanner: str
    commit: str = ""
    """Commit of memplanner's sources; "" where it is installed from a package."""
    python: str
    platform: str
    libraries: dict[str, str] = {}
    """Versions of torch, transformers, peft, bitsandbytes …"""
    gpu: str | None = None
    driver: str | None = None
    cuda: str | None = None
    compute_capability: str | None = None
    gpu_total_bytes: Bytes | None = None
    """What the driver says a process can get."""
    memory_fraction: Annotated[float, Field(gt=0, le=1)] | None = None
    """The share of the device that the process was held to (set_per_process_memory_fraction)."""
    allocator: str = ""
    """PYTORCH_ALLOC_CONF."""


class WeightEvidence(Settings):
    """How much of one weight's gradient a low rank holds."""

    name: str
    shape: tuple[int, int]
    energy: dict[str, Annotated[float, Field(ge=0, le=1)]]
    """Rank → share of the squared Frobenius norm in the leading singular directions, the mean over the steps."""


class Measurement(Settings):
    """A run of a plan, or of a user's own entry point."""

    schema_: Literal["memplanner/measurement/1"] = Field(default=SCHEMA, alias="schema")
    id: Annotated[str, Field(min_length=1, max_length=200)]
    backend: Backend
    date: str
    """UTC, ISO 8601."""
    plan: TrainingPlan | None
    """None for an entry point, whose memory no plan describes."""
    entry: str = ""
    """package.module:function of an entry point."""
    config: dict[str, Any] | None = None
    """The model's config.json, so that the record stands by itself."""
    environment: Environment
    outcome: Outcome
    phases: tuple[PhaseRecord, ...] = ()
    """In the order of a step; "refresh" is the update (or, with per-layer updates, the backward pass) of a step that
    recomputed the subspaces."""
    persistent: dict[Category, Bytes] = {}
    """Exact bytes of the tensors that a step leaves, by category; gradients as they are at the end of backward."""
    num_parameters: Annotated[int, Field(ge=0)] = 0
    num_trainable: Annotated[int, Field(ge=0)] = 0
    context_bytes: Bytes | None = None
    """Device memory outside the caching allocator: the CUDA context, loaded kernels (cuda)."""
    workspace_bytes: Bytes | None = None
    """cuBLAS workspaces inside the allocator (cuda)."""
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    measured_steps: Annotated[int, Field(ge=0)] = 0
    step_seconds: Seconds | None = None
    """Median duration of a measured step, without the bookkeeping of phases."""
    refresh_seconds: Seconds | None = None
    """Duration of a step that recomputed the subspaces."""
    tokens_per_second: Seconds | None = None
    losses: tuple[float, ...] = ()
    """The loss of every step (cuda and cpu)."""
    rank_evidence: tuple[WeightEvidence, ...] = ()

    @property
    def peak(self) -> PhaseRecord | None:
        """The phase with the highest peak; the earliest of equals."""
        return max(self.phases, key=lambda p: p.peak_bytes, default=None)

    def dump(self) -> str:
        """As JSON."""
        return self.model_dump_json(by_alias=True, indent=1, exclude_defaults=False) + "\n"


def load_measurement(path: Path) -> Measurement:
    """The record in a file; UserError naming what is wrong with it."""
    text = read_text(path)
    table = parse_json(text, path)
    if table.get("schema") != SCHEMA:
        raise file_error(
            path, f"is not a record of a run: its schema is {json.dumps(table.get('schema'))}, not {SCHEMA!r}"
        )
    try:
        return Measurement.model_validate_json(text)
    except ValidationError as error:
        raise UserError(*problems_of(error, Measurement, lambda key: (str(path), ".".join(key)))) from None


def save_measurement(record: Measurement, path: Path) -> None:
    """Write the record whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        draft.write_text(record.dump(), encoding="utf-8")
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
