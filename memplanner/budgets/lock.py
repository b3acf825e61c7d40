"""memplanner.lock.json: the bytes that every named plan needed when the lock was written, and the plan itself."""

import json
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import Field, ValidationError, model_validator

from memplanner.errors import UserError
from memplanner.files.parse import file_error, parse_json, read_text
from memplanner.plan.named import NAME
from memplanner.prediction import Estimate
from memplanner.settings.base import Settings
from memplanner.settings.errors import problems_of, show
from memplanner.timeline import CATEGORIES, Category, Phase, Verdict
from memplanner.units import MAX_BYTES

LOCK_FILE: Final = "memplanner.lock.json"
SCHEMA: Final = "memplanner/lock/1"

Bytes = Annotated[int, Field(ge=0, le=MAX_BYTES)]


class Snapshot(Settings):
    """What a plan needs, in numbers alone. at_peak: what is alive at the peak; persistent: what a step leaves."""

    verdict: Verdict
    device_bytes: Annotated[int, Field(ge=1, le=MAX_BYTES)]
    reserved_bytes: Bytes
    allocated_bytes: Bytes
    context_bytes: Bytes
    limit_bytes: Bytes
    peak_phase: Phase
    phases: dict[Phase, Bytes]
    at_peak: dict[Category, Bytes]
    persistent: dict[str, Bytes]
    plan: dict[str, Any]
    """The whole plan, as TrainingPlan's model_dump writes it; of another version, it may have other settings."""

    @model_validator(mode="after")
    def _figures_agree(self) -> "Snapshot":
        """A figure that was changed by hand, or by a merge, agrees with the others no longer."""
        live, peak = sum(self.at_peak.values()), max(self.phases.values(), default=0)
        for holds, what in (
            (self.device_bytes == self.reserved_bytes + self.context_bytes, "device_bytes is reserved + context"),
            (self.reserved_bytes >= self.allocated_bytes, "reserved_bytes is at least allocated_bytes"),
            (self.allocated_bytes == peak, "allocated_bytes is the highest of phases"),
            (self.allocated_bytes >= live, "allocated_bytes is at least the sum of at_peak"),
            (self.peak_phase in self.phases, "peak_phase is one of phases"),
        ):
            if not holds:
                raise ValueError(f"the figures do not agree ({what}): they were changed by hand")
        return self

    @property
    def parts(self) -> dict[str, int]:
        """What device_bytes is the sum of: each category at the peak, unsplit blocks, fragmentation, the context."""
        parts = {category.replace("_", " "): self.at_peak.get(category, 0) for category in CATEGORIES}
        parts["unsplit blocks"] = self.allocated_bytes - sum(parts.values())
        return {**parts, "fragmentation": self.reserved_bytes - self.allocated_bytes, "context": self.context_bytes}


class Lock(Settings):
    """The file."""

    schema_: Literal["memplanner/lock/1"] = Field(alias="schema")
    memplanner: str
    """The version that worked it out."""
    plans: dict[Annotated[str, Field(pattern=NAME.pattern)], Snapshot]


def snapshot(estimate: Estimate) -> Snapshot:
    """The numbers of an estimate that a lock keeps."""
    return Snapshot(
        verdict=estimate.verdict,
        device_bytes=estimate.device_bytes,
        reserved_bytes=estimate.reserved_bytes,
        allocated_bytes=estimate.allocated_bytes,
        context_bytes=estimate.context_bytes,
        limit_bytes=estimate.limit_bytes,
        peak_phase=estimate.peak_phase,
        phases={phase.name: phase.peak_bytes for phase in estimate.phases},
        at_peak=estimate.at_peak,
        persistent=dict(estimate.persistent),
        plan=estimate.plan.model_dump(mode="json"),
    )


def lock_of(estimates: dict[str, Estimate]) -> Lock:
    """A lock of these plans, in the order of their names."""
    plans = {name: snapshot(estimates[name]) for name in sorted(estimates)}
    return Lock(schema=SCHEMA, memplanner=version("memplanner"), plans=plans)


def lock_text(lock: Lock) -> str:
    """The file's text: equal for equal plans, with one number per line so that a version control's diff is readable."""
    return json.dumps(lock.model_dump(mode="json", by_alias=True), indent=2, ensure_ascii=True) + "\n"


def read_lock(path: Path) -> Lock:
    """The lock in a file; UserError where the file is no lock."""
    return lock_from(read_text(path), path)


def lock_from(text: str, where: object) -> Lock:
    """The lock in a text; UserError, placed at `where`, if it is no lock."""
    table = parse_json(text, where)
    schema = table.get("schema")
    if schema != SCHEMA:
        raise file_error(where, f"its schema is {show(schema)}, not {SCHEMA!r}", "`memplanner lock` writes it anew")
    try:
        return Lock.model_validate(table)
    except ValidationError as error:
        raise UserError(*problems_of(error, Lock, lambda keys: (str(where), ".".join(keys)))) from None
