"""The record of a run, measured or traced: the memory and time that a plan's step took, by phase and category.

Records are JSON, and this file reads and writes them without torch, so that `validate` and the terminal interface work
where no training library is installed.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import Field, ValidationError

from memplanner.errors import Problem, UserError
from memplanner.files.parse import file_error, parse_json, read_text
from memplanner.files.write import write_text
from memplanner.plan.training_plan import TrainingPlan
from memplanner.settings.base import Settings
from memplanner.settings.errors import problems_of
from memplanner.timeline import Category, Phase
from memplanner.units import MAX_BYTES, MIB, format_bytes

SCHEMA: Final = "memplanner/measurement/1"

MOST_BYTES: Final = 4 * MIB
"""Of a record's file."""
MOST_WORDS: Final = 4000
"""Bytes of a message in a record."""

Backend = Literal["cuda", "cpu", "fake"]
Witness = Literal["measured", "traced"]
Status = Literal["completed", "out-of-memory", "cannot-be-built", "failed"]
Bytes = Annotated[int, Field(ge=0, le=MAX_BYTES)]
Count = Annotated[int, Field(ge=0, le=MAX_BYTES)]
Seconds = Annotated[float, Field(ge=0)]


class PhaseRecord(Settings):
    """The memory of one phase of a step: the most in use within it (peak) and what is left at its end (end)."""

    name: Phase
    peak_bytes: Bytes
    """Bytes of live tensors, each rounded up to the caching allocator's blocks of 512 bytes."""
    end_bytes: Bytes
    """The same at the end of the phase."""
    at_peak: dict[Category, Bytes] = {}
    """What is alive at the peak, by category; the values add up to peak_bytes."""
    at_end: dict[Category, Bytes] = {}
    """What is alive at the end of the phase, by category; the values add up to end_bytes."""
    reserved_bytes: Bytes | None = None
    """The most memory that the caching allocator had from the device within the phase; None except on cuda."""
    device_bytes: Bytes | None = None
    """Device memory in use at the end of the phase, by all processes and with the CUDA context; None except on cuda."""
    seconds: Seconds | None = None
    """Duration of the phase; None on fake tensors, which take no time."""


class Outcome(Settings):
    """How the run ended. Running out of memory is an outcome and no error: predicted verdicts are compared with it."""

    status: Status
    phase: Phase | None = None
    """The phase in which a run ended that did not complete."""
    message: str = ""
    """Why the run did not complete, or could not measure all that was asked for."""


class Environment(Settings):
    """The machine, device and software that a run was made with."""

    memplanner: str
    commit: str = ""
    """Commit of memplanner's sources, with "+" where files differ from it; "" where it is installed from a package."""
    python: str
    platform: str
    libraries: dict[str, str] = {}
    """Library (torch, transformers, peft, bitsandbytes …) → its version."""
    gpu: str | None = None
    driver: str | None = None
    cuda: str | None = None
    compute_capability: str | None = None
    gpu_total_bytes: Bytes | None = None
    """The device memory that the driver reports in total."""
    memory_fraction: Annotated[float, Field(gt=0, le=1)] | None = None
    """The share of the device's memory that the process was limited to (torch.cuda.set_per_process_memory_fraction)."""
    allocator: str = ""
    """The options of the caching allocator, as the variable PYTORCH_ALLOC_CONF sets them."""


class WeightEvidence(Settings):
    """How much of the gradient of one weight, a matrix (out, in), its best approximations of low rank hold."""

    name: str
    shape: tuple[int, int]
    energy: dict[str, Annotated[float, Field(ge=0, le=1)]]
    """Rank r → share of the squared Frobenius norm in the r leading singular directions, the mean over the steps."""


class Measurement(Settings):
    """The record of one run, of a plan or of a user's own entry point, which has no plan.

    Fields that a backend cannot measure are None or empty. Nothing is predicted for an entry point.
    """

    schema_: Literal["memplanner/measurement/1"] = Field(default=SCHEMA, alias="schema")
    id: Annotated[str, Field(min_length=1, max_length=200)]
    backend: Backend
    date: str
    """The time at which the run ended, in UTC (ISO 8601)."""
    plan: TrainingPlan | None
    """None for an entry point, whose memory no plan describes."""
    entry: str = ""
    """package.module:function of an entry point; "" where a plan was run."""
    config: dict[str, Any] | None = None
    """The model's config.json, so that the record can be compared wherever the plan's own model file is missing."""
    environment: Environment
    outcome: Outcome
    phases: tuple[PhaseRecord, ...] = ()
    """In the order of a step. "refresh" is the phase that updates, the update or with per-layer updates the backward
    pass, of a step that recomputed the subspaces."""
    persistent: dict[Category, Bytes] = {}
    """Exact bytes, without rounding to blocks, of the tensors that outlive a step, by category; gradients as they are
    at the end of backward."""
    num_parameters: Count = 0
    """Parameters of the model, adapters included; packed weights count as the elements that they stand for."""
    num_trainable: Count = 0
    context_bytes: Bytes | None = None
    """Device memory outside the caching allocator, of the CUDA context and loaded kernels; None except on cuda."""
    workspace_bytes: Bytes | None = None
    """cuBLAS workspaces, which the caching allocator holds; None except on cuda."""
    warmup_steps: Count = 0
    measured_steps: Count = 0
    """Steps that were timed."""
    step_seconds: Seconds | None = None
    """Median duration of the timed steps, during which no phase is read."""
    refresh_seconds: Seconds | None = None
    """Duration of a step that recomputed the subspaces."""
    tokens_per_second: Seconds | None = None
    losses: tuple[float | None, ...] = ()
    """The loss of every step, warm-up included; None where it was not finite, which the outcome's message says. Empty
    on fake tensors, which have no values."""
    rank_evidence: tuple[WeightEvidence, ...] = ()

    @property
    def witness(self) -> Witness:
        """What the figures are: of a run on fake tensors, which nothing measured, they are traced."""
        return "traced" if self.backend == "fake" else "measured"

    @property
    def peak(self) -> PhaseRecord | None:
        """The phase with the highest peak; the earliest of equals."""
        return max(self.phases, key=lambda p: p.peak_bytes, default=None)

    def dump(self) -> str:
        """The record as JSON text that `load_measurement` reads."""
        return self.model_dump_json(by_alias=True, indent=1, exclude_defaults=False) + "\n"


def load_measurement(path: Path) -> Measurement:
    """Read the record in a file. UserError where there is none, or where the file holds anything else."""
    return parse_measurement(read_text(path, most=MOST_BYTES), path)


def is_other_file(path: Path) -> bool:
    """Whether a file is whole and no record of a run: something that somebody else keeps there."""
    if path.stat().st_size > MOST_BYTES:
        return True
    try:
        return parse_json(read_text(path, most=MOST_BYTES), path).get("schema") != SCHEMA
    except UserError:
        return False


def parse_measurement(text: str, where: object) -> Measurement:
    """The record that a text holds. UserError, with the place that it is from, where it holds anything else."""
    table = parse_json(text, where)
    if table.get("schema") != SCHEMA:
        raise file_error(
            where, f"is not a record of a run: its schema is {json.dumps(table.get('schema'))}, not {SCHEMA!r}"
        )
    try:
        return Measurement.model_validate_json(text)
    except ValidationError as error:
        raise UserError(*problems_of(error, Measurement, lambda key: (str(where), ".".join(key)))) from None


def bounded(record: Measurement) -> Measurement:
    """The record, or as much of it as a file may hold that can be read again; its outcome says what was left out.

    What is left out first is rank evidence, of which every second weight, every fourth … is kept, so that all depths
    of the model stay; then the model's config.
    """
    return next(filter(_readable, _smaller(record)), record)


def _smaller(record: Measurement) -> Iterator[Measurement]:
    weights = record.rank_evidence
    for whole in (record, _without(record, "the model's config could not be kept", config=None)):
        yield whole
        for step in (2**n for n in range(1, len(weights).bit_length() + 1)):
            kept = weights[::step] if step <= len(weights) else ()
            yield _without(whole, f"rank evidence of {len(kept)} of {len(weights)} weights is kept", rank_evidence=kept)


def _without(record: Measurement, remark: str, **changes: Any) -> Measurement:
    outcome = record.outcome.model_copy(update={"message": sentences(record.outcome.message, remark)})
    return record.model_copy(update={**changes, "outcome": outcome})


def sentences(*texts: str) -> str:
    """What there is to say of a run's outcome in one message, no longer than records have them."""
    message = "; ".join(filter(None, texts)).encode("utf-8", "replace")
    if len(message) > MOST_WORDS:
        message = message[: MOST_WORDS - 4].decode("utf-8", "ignore").encode() + " …".encode()
    return message.decode()


def _readable(record: Measurement) -> bool:
    text = record.dump()
    if len(text.encode()) > MOST_BYTES:
        return False
    try:
        parse_measurement(text, "")
    except UserError:
        return False
    return True


class UnsavedError(UserError):
    """A record that could not be written. record: it, for whoever can still show it."""

    def __init__(self, record: Measurement, *problems: Problem) -> None:
        super().__init__(*problems)
        self.record = record


def save_measurement(record: Measurement, path: Path) -> None:
    """Write the record's file; UnsavedError, which has the record, where that cannot be done."""
    text = record.dump()
    if len(text.encode()) > MOST_BYTES:
        raise UnsavedError(
            record,
            Problem(
                where=str(path), key="", message=f"the record is larger than {format_bytes(MOST_BYTES, decimals=0)}"
            ),
        )
    try:
        write_text(path, text)
    except UserError as error:
        raise UnsavedError(record, *error.problems) from None
