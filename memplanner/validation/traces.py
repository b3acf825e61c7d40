"""Compares predictions with traces that are made for the purpose, of plans that records or published rows describe."""

import json
from collections.abc import Iterable
from pathlib import Path

from memplanner.errors import UserError
from memplanner.files.sandbox import scratch_folder
from memplanner.files.write import write_text
from memplanner.measurement import load_measurement
from memplanner.plan.training_plan import TrainingPlan
from memplanner.validation.published import InexpressibleError, load_published, plan_of
from memplanner.validation.records import compare_record
from memplanner.validation.rows import Skipped, Validation


def validate_traces(plans: Iterable[tuple[str, TrainingPlan, Path]]) -> Validation:
    """Trace every plan on fake tensors and compare. plans: (name, plan, directory that the model's path is in)."""
    from memplanner.harness.record import measure

    validation = Validation()
    with scratch_folder() as scratch:
        for name, plan, root in plans:
            compare_record(validation, measure(plan, "fake", name=name, root=root), scratch)
    return validation


def validate_against_traces(records: Iterable[Path], published: Iterable[Path]) -> Validation:
    """Trace the plans of records and of published rows and compare. ModuleNotFoundError where torch or another library
    of the harness is not installed.
    """
    plans: list[tuple[str, TrainingPlan, Path]] = []
    skipped: list[Skipped] = []
    with scratch_folder() as folder:
        for number, path in enumerate(records):
            record = load_measurement(path)
            if record.plan is None or record.config is None:
                skipped.append(Skipped(id=record.id, reason="has no plan, or no model's config, to trace"))
                continue
            config = folder / f"{number}.json"
            write_text(config, json.dumps(record.config))
            plans.append((record.id, record.plan.model_copy(update={"model": str(config)}), folder))
        for path in published:
            for row in load_published(path):
                try:
                    plans.append((row.id, plan_of(row, folder)[0], folder))
                except InexpressibleError as error:
                    skipped.append(Skipped(id=row.id, reason=str(error)))
                except UserError as error:
                    skipped.append(Skipped(id=row.id, reason="; ".join(str(p) for p in error.problems)))
        validation = validate_traces(plans)
    validation.skipped += skipped
    return validation
