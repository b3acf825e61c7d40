"""Whether the record of an earlier run still answers a case: whether all that decides a measurement is as it was."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic_core import from_json, to_json

from memplanner.catalogue import find_model
from memplanner.errors import UserError
from memplanner.measurement import Backend, Environment, Measurement
from memplanner.plan.training_plan import GpuDevice
from memplanner.settings.errors import show
from memplanner.suite.definition import Case

_MOST_SHOWN = 3
"""Of the settings that differ."""
_WARMUP_ON_CUDA = 2
"""Steps before the timed ones that the harness makes on CUDA at least (memplanner.harness.record)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stale:
    """Why a record is not the answer to a case any more.

    asked: the run would be another one: its plan, model or what is recorded of it. around: the same run, in software or
    on a machine that is another one now.
    """

    asked: tuple[str, ...] = ()
    around: tuple[str, ...] = ()

    def __str__(self) -> str:
        return ", ".join((*self.asked, *self.around))


def ended(record: Measurement) -> bool:
    """Whether another run would end alike."""
    return record.outcome.status in ("completed", "out-of-memory", "cannot-be-built")


def staleness(record: Measurement, case: Case, backend: Backend, here: Environment) -> Stale:
    """All that has changed since the record was made; here: what the case would run in now."""
    return Stale(asked=tuple(_asked(record, case, backend)), around=tuple(_around(record.environment, here, backend)))


def _asked(record: Measurement, case: Case, backend: Backend) -> Iterator[str]:
    if record.backend != backend:
        yield f"device {record.backend} → {backend}"
    if record.plan != case.plan:
        before = {} if record.plan is None else record.plan.model_dump(mode="json")
        yield from _few(_differences(before, case.plan.model_dump(mode="json")), "plan")
    try:
        config = from_json(to_json(find_model(case.plan.model, case.root).config))
    except UserError:
        config = record.config
    if record.config is not None and record.config != config:
        yield from _few(_differences(record.config, config), "model")
    if backend == "fake":
        return
    if record.outcome.status == "completed":
        warmup = max(_WARMUP_ON_CUDA, case.warmup) if backend == "cuda" else case.warmup
        for name, made, wanted in (
            ("steps before the timed", record.warmup_steps, warmup),
            ("timed steps", record.measured_steps, case.steps),
        ):
            if made != wanted:
                yield f"{name} {made} → {wanted}"
        if case.rank_evidence and not record.rank_evidence and "rank evidence" not in record.outcome.message:
            yield "rank evidence asked for"
    capped = backend == "cuda" and case.cap_memory and isinstance(case.plan.device, GpuDevice)
    if capped != (record.environment.memory_fraction is not None) and record.outcome.status != "cannot-be-built":
        yield "memory capped" if capped else "memory not capped any more"


def _around(before: Environment, here: Environment, backend: Backend) -> Iterator[str]:
    if before.memplanner != here.memplanner:
        yield f"memplanner {before.memplanner} → {here.memplanner}"
    for library in dict.fromkeys((*here.libraries, *before.libraries)):
        versions = before.libraries.get(library, "none"), here.libraries.get(library, "none")
        if versions[0] != versions[1]:
            yield f"{library} {versions[0]} → {versions[1]}"
    if backend != "cuda":
        return
    for name, was, now in (
        ("GPU", before.gpu, here.gpu),
        ("GPU memory", before.gpu_total_bytes, here.gpu_total_bytes),
        ("driver", before.driver, here.driver),
        ("CUDA", before.cuda, here.cuda),
        ("PYTORCH_ALLOC_CONF", before.allocator, here.allocator),
    ):
        if was != now:
            yield f"{name} {was or 'none'} → {now or 'none'}"


def _few(differences: Iterator[str], what: str) -> Iterator[str]:
    shown = list(differences)
    yield from (f"{what}'s {each}" for each in shown[:_MOST_SHOWN])
    if len(shown) > _MOST_SHOWN:
        yield f"{len(shown) - _MOST_SHOWN} more of the {what}'s settings"


def _differences(before: Mapping[str, Any], now: Mapping[str, Any], above: str = "") -> Iterator[str]:
    """Settings that differ, by dotted name."""
    for key in dict.fromkeys((*before, *now)):
        was, is_now = before.get(key), now.get(key)
        if isinstance(was, Mapping) and isinstance(is_now, Mapping):
            yield from _differences(was, is_now, f"{above}{key}.")
        elif was != is_now:
            yield f"{above}{key} {show(was)} → {show(is_now)}"
