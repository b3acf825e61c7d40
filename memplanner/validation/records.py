"""Compares the harness's own records with predictions."""

import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path

from memplanner.catalogue import bundled_model
from memplanner.errors import UserError
from memplanner.files.parse import file_error
from memplanner.files.sandbox import scratch_folder
from memplanner.files.write import write_text
from memplanner.measurement import Measurement, load_measurement
from memplanner.plan.training_plan import TrainingPlan
from memplanner.prediction import Estimate, predict
from memplanner.timeline import CATEGORIES, passes
from memplanner.validation.rows import Remark, Row, Skipped, Validation

_NAMES = {category: category.replace("_", " ") for category in CATEGORIES}


def records_in(words: Iterable[str], root: Path) -> list[Path]:
    """The files named, and every .json below the directories named. UserError for a word that is neither, or a
    directory without records.
    """
    paths: list[Path] = []
    for word in words:
        path = root / word
        if os.path.isdir(path):
            inside = sorted(p for p in path.rglob("*.json") if not p.name.startswith("."))
            if not inside:
                raise file_error(path, "holds no records (*.json)")
            paths += inside
        elif os.path.isfile(path):
            paths.append(path)
        else:
            raise file_error(path, "no such file or directory")
    return paths


def validate_records(paths: Iterable[Path]) -> Validation:
    """Predict the plan of every record and compare it with what was measured or traced."""
    validation = Validation()
    with scratch_folder() as scratch:
        for path in paths:
            record = load_measurement(path)
            compare_record(validation, record, scratch)
    return validation


def compare_record(validation: Validation, record: Measurement, scratch: Path) -> None:
    """Predict the record's plan and add the comparison to `validation`, or the reason why there is none.

    Verdicts are compared only on CUDA, and only where the process was limited to the card's memory or ran out of it:
    elsewhere a run that completes shows nothing about the plan's card.
    """
    plan = record.plan
    if plan is None:
        validation.skipped.append(Skipped(id=record.id, reason=f"entry point {record.entry}: no plan describes it"))
        return
    if record.outcome.status not in ("completed", "out-of-memory"):
        validation.skipped.append(Skipped(id=record.id, reason=f"{record.outcome.status}: {record.outcome.message}"))
        return
    try:
        estimate = predict(_standing_alone(record, plan, scratch))
    except UserError as error:
        validation.skipped.append(Skipped(id=record.id, reason="; ".join(str(p) for p in error.problems)))
        return
    ran_out = record.outcome.status == "out-of-memory"
    if not (ran_out or record.phases):
        validation.skipped.append(Skipped(id=record.id, reason="has no phases: nothing was measured"))
        return
    if record.backend == "cuda" and (ran_out or record.environment.memory_fraction is not None):
        validation.note_verdict(record.id, fits=passes(estimate.verdict), ran_out=ran_out)
    if ran_out:
        validation.skipped.append(Skipped(id=record.id, reason="ran out of memory: only its verdict is compared"))
        return
    if record.outcome.message:
        validation.remarks.append(Remark(id=record.id, text=record.outcome.message))
    validation.rows += record_rows(record, estimate)


def _standing_alone(record: Measurement, plan: TrainingPlan, scratch: Path) -> TrainingPlan:
    """The plan with its model read from the config in the record. Bundled models keep their names."""
    if record.config is None or bundled_model(plan.model) is not None:
        return plan
    path = scratch / "config.json"
    write_text(path, json.dumps(record.config))
    return plan.model_copy(update={"model": str(path)})


def record_rows(record: Measurement, estimate: Estimate) -> list[Row]:
    """Compare all figures that the record and the estimate both have: the allocated peak, phases, categories, reserved
    and device memory. Categories at the peak only where both have their peak in the same phase.
    """
    assert record.plan is not None
    on_cuda = record.backend == "cuda"
    predicted = estimate.phase_peaks(on_cuda=on_cuda)
    figures: list[tuple[str, int, int | None]] = []
    peak = record.peak
    assert peak is not None
    figures.append(("allocated", max(predicted.values()), peak.peak_bytes))
    figures += [(p.name, predicted[p.name], p.peak_bytes) for p in record.phases if p.name in predicted]
    if peak.at_peak and estimate.peak_phase == peak.name:
        figures += [
            (f"{_NAMES[c]} at peak", estimate.at_peak[c], peak.at_peak.get(c, 0))
            for c in CATEGORIES
            if (on_cuda or c != "workspaces") and (estimate.at_peak[c] or peak.at_peak.get(c))
        ]
    figures += [
        (_NAMES[c], size, record.persistent.get(c, 0))  # type: ignore[index,call-overload]
        for c, size in estimate.persistent.items()
        if size or record.persistent.get(c)  # type: ignore[call-overload]
    ]
    reserved = [p.reserved_bytes for p in record.phases if p.reserved_bytes is not None]
    device = [p.device_bytes for p in record.phases if p.device_bytes is not None]
    if reserved:
        figures.append(("reserved", estimate.reserved_bytes, max(reserved)))
    if device:
        figures.append(("device", estimate.device_bytes, max(device)))
    source = sys.intern(f"memplanner profile, {record.backend}")  # of rows there may be very many
    return [
        Row(
            id=record.id,
            source=source,
            gpu=record.environment.gpu or record.backend,
            method=record.plan.method.kind,
            metric=sys.intern(metric),
            predicted_bytes=ours,
            measured_bytes=theirs,
            witness=record.witness,
        )
        for metric, ours, theirs in figures
        if theirs is not None
    ]
